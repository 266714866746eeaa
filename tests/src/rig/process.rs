//! Child processes of a rig: started with a log each, stopped or killed by their id, started again with the same
//! arguments, and asked what they cost. It never restarts anything by itself: an outage lasts as long as a test says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

/// The kernel reports processor time in these, on every Linux this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// What to start.
#[derive(Debug, Clone)]
pub struct Spec {
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<String>,
    pub envs: Vec<(String, String)>,
}

impl Spec {
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), program: program.into(), args: Vec::new(), envs: Vec::new() }
    }

    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.envs.push((name.into(), value.into()));
        self
    }
}

/// What a process cost: memory now (0 when it is stopped), processor time over all its lives.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    pub rss_mb: f64,
    pub cpu_seconds: f64,
}

struct Entry {
    spec: Spec,
    child: Option<Child>,
    /// Of earlier lives.
    spent: f64,
}

/// All child processes of a rig, by name. Clones share them.
#[derive(Clone)]
pub struct Processes {
    logs: PathBuf,
    entries: Arc<Mutex<BTreeMap<String, Entry>>>,
}

impl Processes {
    /// Logs go to `<logs>/<name>.log`.
    pub fn new(logs: impl Into<PathBuf>) -> Result<Self> {
        let logs = logs.into();
        std::fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        Ok(Self { logs, entries: Arc::default() })
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// Starts `spec`; one of the same name that runs is an error, one that ended is replaced.
    pub async fn start(&self, spec: Spec) -> Result<()> {
        let mut entries = self.entries.lock().await;
        let mut spent = 0.0;
        if let Some(entry) = entries.get_mut(&spec.name) {
            if running(entry) {
                bail!("{} runs already", spec.name);
            }
            spent = entry.spent;
        }
        let child = launch(&spec, &self.log(&spec.name))?;
        entries.insert(spec.name.clone(), Entry { spec, child: Some(child), spent });
        Ok(())
    }

    /// Starts it again, as it was started before. Running already is no error.
    pub async fn start_again(&self, name: &str) -> Result<()> {
        let mut entries = self.entries.lock().await;
        let entry = entries.get_mut(name).ok_or_else(|| anyhow!("no process named {name}"))?;
        if !running(entry) {
            entry.child = Some(launch(&entry.spec, &self.log(name))?);
        }
        Ok(())
    }

    /// SIGTERM, then SIGKILL after 10 s. Returns when it is gone.
    pub async fn stop(&self, name: &str) -> Result<()> {
        let Some(mut child) = self.take(name).await? else { return Ok(()) };
        signal(&child, "TERM").await?;
        if timeout(Duration::from_secs(10), child.wait()).await.is_err() {
            child.kill().await?;
        }
        Ok(())
    }

    /// SIGKILL. Returns when it is gone.
    pub async fn kill(&self, name: &str) -> Result<()> {
        if let Some(mut child) = self.take(name).await? {
            child.kill().await?;
        }
        Ok(())
    }

    /// Any other signal by its short name: `STOP` makes a process hang, `CONT` lets it go on.
    pub async fn signal(&self, name: &str, short_name: &str) -> Result<()> {
        let entries = self.entries.lock().await;
        let entry = entries.get(name).ok_or_else(|| anyhow!("no process named {name}"))?;
        signal(entry.child.as_ref().ok_or_else(|| anyhow!("{name} does not run"))?, short_name).await
    }

    pub async fn is_running(&self, name: &str) -> bool {
        self.entries.lock().await.get_mut(name).is_some_and(running)
    }

    pub async fn pid(&self, name: &str) -> Option<u32> {
        self.entries.lock().await.get(name)?.child.as_ref()?.id()
    }

    pub async fn names(&self) -> Vec<String> {
        self.entries.lock().await.keys().cloned().collect()
    }

    pub async fn usage(&self, name: &str) -> Option<Usage> {
        let entries = self.entries.lock().await;
        let entry = entries.get(name)?;
        let mut usage = Usage { rss_mb: 0.0, cpu_seconds: entry.spent };
        if let Some(now) = entry.child.as_ref().and_then(Child::id).and_then(usage_of) {
            usage.rss_mb = now.rss_mb;
            usage.cpu_seconds += now.cpu_seconds;
        }
        Some(usage)
    }

    /// The last `lines` lines that it wrote.
    pub fn log_tail(&self, name: &str, lines: usize) -> String {
        let text = std::fs::read(self.log(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Waits until `probe` says true, asking 10 times a second. Ends early, with the log's last lines, when the
    /// process ended or `limit` passed.
    pub async fn await_ready<F, P>(&self, name: &str, limit: Duration, mut probe: P) -> Result<()>
    where
        P: FnMut() -> F,
        F: Future<Output = bool>,
    {
        let started = Instant::now();
        loop {
            if timeout(Duration::from_secs(2), probe()).await.unwrap_or(false) {
                return Ok(());
            }
            let ended = !self.is_running(name).await;
            if ended || started.elapsed() > limit {
                bail!(
                    "{name} {}; its log ({}) ends:\n{}",
                    if ended { "ended".to_owned() } else { format!("was not ready after {} s", limit.as_secs()) },
                    self.log(name).display(),
                    self.log_tail(name, 15)
                );
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn take(&self, name: &str) -> Result<Option<Child>> {
        let mut entries = self.entries.lock().await;
        let entry = entries.get_mut(name).ok_or_else(|| anyhow!("no process named {name}"))?;
        if let Some(usage) = entry.child.as_ref().and_then(Child::id).and_then(usage_of) {
            entry.spent += usage.cpu_seconds;
        }
        Ok(entry.child.take())
    }
}

fn launch(spec: &Spec, log: &Path) -> Result<Child> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
    Command::new(&spec.program)
        .args(&spec.args)
        .envs(spec.envs.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {} ({})", spec.name, spec.program.display()))
}

fn running(entry: &mut Entry) -> bool {
    entry.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
}

/// Through the shell's own `kill`: sending a signal is unsafe code in Rust, and procps may not be installed.
async fn signal(child: &Child, name: &str) -> Result<()> {
    let Some(pid) = child.id() else { return Ok(()) };
    let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}")).status().await?;
    if status.success() { Ok(()) } else { bail!("kill -{name} {pid}: {status}") }
}

/// From /proc (proc(5)): fields 14 and 15 of `stat` are ticks in user and kernel mode.
fn usage_of(pid: u32) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may hold spaces.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next())?;
    Some(Usage { rss_mb: kilobytes.parse::<f64>().ok()? / 1024.0, cpu_seconds: ticks / TICKS_PER_SECOND })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn early_end_is_told_with_the_logs_last_lines() {
        let dir = std::env::temp_dir().join(format!("tidegate-process-{}", std::process::id()));
        let processes = Processes::new(&dir).unwrap();
        processes.start(Spec::new("brief", "sh").args(["-c", "echo no such flag; exit 3"])).await.unwrap();
        let error =
            processes.await_ready("brief", Duration::from_secs(5), async || false).await.unwrap_err().to_string();
        assert!(error.contains("brief ended") && error.contains("no such flag"), "{error}");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn killed_process_starts_again_as_before() {
        let dir = std::env::temp_dir().join(format!("tidegate-again-{}", std::process::id()));
        let processes = Processes::new(&dir).unwrap();
        processes.start(Spec::new("sleeper", "sleep").arg("60")).await.unwrap();
        let first = processes.pid("sleeper").await.unwrap();
        processes.kill("sleeper").await.unwrap();
        assert!(!processes.is_running("sleeper").await);
        processes.start_again("sleeper").await.unwrap();
        assert!(processes.pid("sleeper").await.is_some_and(|second| second != first));
        processes.stop("sleeper").await.unwrap();
        std::fs::remove_dir_all(dir).unwrap();
    }
}
