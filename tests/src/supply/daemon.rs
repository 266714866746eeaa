//! A child process that serves until it is dropped, with its output in a file.
//! It never restarts anything: a part that dies is a failed run.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// The rig's parts start in seconds; a minute means two busy cores, more means broken.
const START_DEADLINE: Duration = Duration::from_secs(60);

pub struct Daemon {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `program` in `dir` with nothing of our environment but a home in `dir`.
    pub fn start(name: &'static str, program: &Path, args: &[&str], dir: &Path) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let output = std::fs::File::create(&log).with_context(|| format!("log of {name}"))?;
        let child = Command::new(program)
            .args(args)
            .current_dir(dir)
            .env_clear()
            .env("HOME", dir)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {name} ({})", program.display()))?;
        Ok(Self { name, child, log })
    }

    /// Returns once `address` takes connections; fails with the log's end when the process ends before.
    pub async fn listening(&mut self, address: &str) -> Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        while TcpStream::connect(address).await.is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}: {}", self.name, self.log_end());
            }
            if Instant::now() > deadline {
                bail!("{} does not listen on {address}: {}", self.name, self.log_end());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Holds the process: connections are taken by the kernel and never answered.
    pub async fn freeze(&self) -> Result<()> {
        self.signal("-STOP").await
    }

    pub async fn thaw(&self) -> Result<()> {
        self.signal("-CONT").await
    }

    async fn signal(&self, signal: &str) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} has ended", self.name))?;
        let status = Command::new("kill").arg(signal).arg(pid.to_string()).status().await?;
        anyhow::ensure!(status.success(), "kill {signal} {pid}: {status}");
        Ok(())
    }

    fn log_end(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(8).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}
