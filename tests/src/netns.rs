//! Puts the process into user, network and process namespaces of its own: pods get real addresses there, nothing is
//! reachable from outside, and nothing outlives the run. It never builds or downloads: there is no route out.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Set by the outer half for the inner one: the process id that the namespaces have outside.
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

/// Returns once the process is inside; until then it replaces itself by the same program in the namespaces.
///
/// Call it before a runtime or a thread exists. Inside the process is the first of its process namespace: when it
/// ends, however it ends, so does everything it started.
pub fn enter() -> Result<()> {
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
    let mut command = Command::new("unshare");
    command.args(FLAGS).arg(program).args(std::env::args_os().skip(1)).env(MARKER, std::process::id().to_string());
    for name in FORGET {
        command.env_remove(name);
    }
    // Only returns when it failed.
    Err(command.exec()).context("cannot run `unshare`")
}

/// A process of these namespaces by its id outside, for `nsenter`; `None` outside.
pub fn outer_pid() -> Option<u32> {
    // The process replaced itself by `unshare`, which keeps its id and lives as long as the namespaces.
    std::env::var_os(MARKER)?.to_str()?.parse().ok()
}

/// Writes a script that runs a command in these namespaces from another terminal: `enter kubectl get pods`.
pub fn write_enter_script(path: &Path, kubectl_dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let pid = outer_pid().context("not in a namespace of the rig")?;
    let path_setting = format!("PATH=\"$PATH:{}\"", kubectl_dir.display());
    let enter = format!("nsenter --user --preserve-credentials --net --target {pid}");
    std::fs::write(path, format!("#!/bin/sh\n{path_setting} exec {enter} -- \"$@\"\n"))?;
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
    crate::rig::spawn(async {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        let code = tokio::select! {
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
        };
        std::process::exit(code);
    });
}
