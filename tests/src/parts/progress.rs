//! Runs the steps that make missing parts and tells a waiting person what is going on, how long it usually takes and
//! what is left. It decides nothing about the steps.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::Instant;

type Work = Box<dyn FnOnce(&mut Runner<'_>) -> Result<()>>;

/// One part to make.
pub struct Step {
    what: &'static str,
    /// Seconds on two cores with nothing cached.
    usual: u64,
    work: Work,
}

impl Step {
    pub fn new(what: &'static str, usual: u64, work: impl FnOnce(&mut Runner<'_>) -> Result<()> + 'static) -> Self {
        Self { what, usual, work: Box::new(work) }
    }
}

pub struct Progress;

impl Progress {
    pub fn run(steps: Vec<Step>, log: &Path) -> Result<()> {
        let count = steps.len();
        if count == 0 {
            return Ok(());
        }
        let total: u64 = steps.iter().map(|step| step.usual).sum();
        let plain = super::plain_lines();
        let mut left = total;
        eprintln!("{count} part(s) of the rig to make once, usually {} in all:", words(total));
        for (index, step) in steps.into_iter().enumerate() {
            left -= step.usual;
            let head = format!("[{}/{count}] {}", index + 1, step.what);
            let tail = if left == 0 { String::new() } else { format!("; then {} more", words(left)) };
            eprintln!("{head} (usually {}{tail})", words(step.usual));
            let started = Instant::now();
            let mut runner = Runner { head: &head, tail: &tail, usual: step.usual, started, plain, log };
            let outcome = (step.work)(&mut runner);
            if !plain {
                eprint!("\r\x1b[2K");
            }
            outcome.with_context(|| format!("{}: failed (whole log: {})", step.what, log.display()))?;
            eprintln!("{head}: done in {}", words(started.elapsed().as_secs()));
        }
        Ok(())
    }
}

/// Runs a step's commands under the progress line.
pub struct Runner<'a> {
    head: &'a str,
    tail: &'a str,
    usual: u64,
    started: Instant,
    plain: bool,
    log: &'a Path,
}

impl Runner<'_> {
    /// Runs `command` to its end; output goes to the log, the last lines of it into the error.
    pub fn run(&mut self, command: &mut Command) -> Result<()> {
        let mut log = OpenOptions::new().create(true).append(true).open(self.log)?;
        writeln!(log, "+ {command:?}")?;
        let from = log.metadata()?.len();
        let mut child = spawn(command.stdout(log.try_clone()?).stderr(log))?;
        let every = if self.plain { 30 } else { 1 };
        let mut next = every;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            std::thread::sleep(Duration::from_millis(100));
            let spent = self.started.elapsed().as_secs();
            if spent >= next {
                next = spent + every;
                let line = format!("{}: {} of usually {}{}", self.head, words(spent), words(self.usual), self.tail);
                if self.plain { eprintln!("{line}") } else { eprint!("\r\x1b[2K{line}") }
            }
        };
        if !status.success() {
            let whole = std::fs::read(self.log).unwrap_or_default();
            let text =
                String::from_utf8_lossy(&whole[usize::try_from(from).unwrap_or(0).min(whole.len())..]).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            bail!(
                "{} ended with {status}:\n{}",
                command.get_program().display(),
                lines[lines.len().saturating_sub(20)..].join("\n")
            );
        }
        Ok(())
    }

    /// Runs `command` and returns what it printed.
    pub fn output(&mut self, command: &mut Command) -> Result<Vec<u8>> {
        let log = OpenOptions::new().create(true).append(true).open(self.log)?;
        let child = spawn(command.stdout(Stdio::piped()).stderr(File::try_clone(&log)?))?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{command:?} ended with {}", output.status);
        }
        Ok(output.stdout)
    }
}

fn spawn(command: &mut Command) -> Result<Child> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot run `{program}`: is it installed?"))
}

fn words(seconds: u64) -> String {
    match seconds {
        0..=99 => format!("{seconds} s"),
        _ => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}
