//! Puts the process into user, network and process namespaces of its own: pods get real addresses there, nothing is
//! reachable from outside, and nothing outlives the run. It never builds or downloads: there is no route out.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

/// Set by the outer half for the inner one, to its process id.
const MARKER: &str = "TIDEGATE_RIG_NAMESPACE";
/// All of it is local inside: every pod, server and gateway has an address of its own.
pub const RANGE: &str = "10.244.0.0/16";
const FLAGS: [&str; 7] = ["--user", "--map-root-user", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"];
/// There is no proxy inside to talk to, and no cluster but the rig's own may be met by accident.
const FORGET: [&str; 9] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "KUBECONFIG",
];

/// What a program that Ctrl-C cuts short exits with, by convention.
pub const INTERRUPTED: i32 = 130;

/// Returns once the process is inside; until then it runs the same program there, and ends as that one ends.
///
/// Call it before a runtime or a thread exists. Inside the process is the first of its process namespace: when it
/// ends, however it ends, so does everything it started.
pub fn enter() -> Result<()> {
    enter_until(INTERRUPTED)
}

/// The same for a program that exits with `interrupted` after Ctrl-C.
pub fn enter_until(interrupted: i32) -> Result<()> {
    if std::env::var_os(MARKER).is_some() {
        return prepare();
    }
    let possible = Command::new("unshare")
        .args(FLAGS)
        .arg("true")
        .stdin(Stdio::null())
        .output()
        .context("`unshare` is missing: it is in the package util-linux")?;
    if !possible.status.success() {
        bail!(
            "user namespaces are switched off here ({}): allow them with `sudo sysctl kernel.unprivileged_userns_clone=1` \
             (Debian) or `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu)",
            String::from_utf8_lossy(&possible.stderr).trim()
        );
    }
    let program = std::env::current_exe()?;
    // If this process is killed, the kernel kills the child, and that its namespaces.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "unshare"]).args(FLAGS).arg(program).args(std::env::args_os().skip(1));
    command.env(MARKER, std::process::id().to_string());
    for name in FORGET {
        command.env_remove(name);
    }
    let code = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(outer_half(command, interrupted))?;
    std::process::exit(code)
}

/// Waits for the inner half. `unshare` blocks SIGTERM while it waits, so a signal to us is handed on as a kill.
async fn outer_half(command: Command, interrupted: i32) -> Result<i32> {
    use std::os::unix::process::ExitStatusExt;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut child =
        tokio::process::Command::from(command).spawn().context("cannot run `setpriv` (package util-linux)")?;
    let code = tokio::select! {
        status = child.wait() => {
            let status = status?;
            return Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()));
        }
        // From a terminal the inner half has it too, and may want to say something before it ends.
        _ = interrupt.recv() => interrupted,
        _ = terminate.recv() => 143,
        _ = hangup.recv() => 129,
    };
    if code != interrupted || tokio::time::timeout(Duration::from_secs(5), child.wait()).await.is_err() {
        child.kill().await?;
    }
    Ok(code)
}

/// The process whose end ends everything here, by the id that it has outside: inside every run has the same ones.
pub fn outer_pid() -> u32 {
    let outer = std::env::var_os(MARKER).and_then(|value| value.to_str()?.parse().ok());
    outer.unwrap_or_else(std::process::id)
}

/// Writes a script that runs a command in these namespaces from another terminal: `enter kubectl get pods`.
pub fn write_enter_script(path: &Path, kubectl_dir: &Path) -> Result<()> {
    let text = include_str!("netns/enter.sh").replace("@KUBECTL_DIR@", &kubectl_dir.display().to_string());
    let identity = std::fs::read_link("/proc/self/ns/net")?;
    std::fs::write(path, text.replace("@NAMESPACE@", &identity.display().to_string()))?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?)
}

fn prepare() -> Result<()> {
    for arguments in [&["link", "set", "lo", "up"][..], &["addr", "replace", RANGE, "dev", "lo"]] {
        let output = Command::new("ip")
            .args(arguments)
            .output()
            .context("`ip` is missing: `sudo apt-get install iproute2`, then run this again")?;
        if !output.status.success() {
            bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
    }
    Ok(())
}

/// Ends the process on Ctrl-C or SIGTERM. The first process of a namespace ignores signals without a handler.
pub fn end_on_signal() {
    end_on_signal_with(INTERRUPTED);
}

/// The same, exiting with `interrupted` after Ctrl-C.
pub fn end_on_signal_with(interrupted: i32) {
    crate::rig::spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        let code = tokio::select! {
            _ = interrupt.recv() => interrupted,
            _ = terminate.recv() => 143,
        };
        std::process::exit(code);
    });
}
