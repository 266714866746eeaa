//! The end of a demo: a table for people, `outcome.json` for machines. All figures are of this run.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use tidegate_tests::acts::Outcome;
use tidegate_tests::rig;
use tidegate_tests::stage::Stage;

pub fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::from("\n");
    for (index, outcome) in outcomes.iter().enumerate() {
        let breach = outcome.breach_to_zero_ms.map_or(String::new(), |ms| format!(", breach to weight 0: {ms} ms"));
        let _ = writeln!(
            text,
            "{:<6} {} {:<11} {:>4.0} s  {} requests, {} failed{breach}",
            if outcome.ok { "ok" } else { "NOT OK" },
            index + 1,
            outcome.name,
            outcome.seconds,
            outcome.requests,
            outcome.failed_requests
        );
        let _ = writeln!(text, "         expected: {}", outcome.expected);
        let _ = writeln!(text, "         outcome:  {}", outcome.outcome);
    }
    if outcomes.len() > 1 {
        text.push_str("(numbered as the acts are listed; what must not get in was tried beside the first act)\n");
    }
    text
}

/// What an earlier run wrote is not taken for this one's, however this one ends.
pub fn forget(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The commit of the checkout that this was built from, if git tells it.
fn commit() -> Option<String> {
    let mut git = std::process::Command::new("git");
    git.args(["rev-parse", "HEAD"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = git.stderr(std::process::Stdio::null()).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

pub async fn write(path: &Path, stage: &Stage, outcomes: &[Outcome], seconds: f64) -> Result<()> {
    let mut roles: BTreeMap<&str, (f64, f64)> =
        ["hub", "spoke", "guard", "doors"].into_iter().map(|role| (role, (0.0, 0.0))).collect();
    for (process, usage) in stage.usage().await {
        let role = process.rsplit('-').next().unwrap_or_default();
        if let Some(cost) = roles.get_mut(role) {
            // Several environments have one each: memory of the largest, processor time of all.
            cost.0 = cost.0.max(usage.rss_mb);
            cost.1 += usage.cpu_seconds;
        }
    }
    let roles: BTreeMap<_, _> = roles
        .into_iter()
        .map(|(role, (rss, cpu))| (role, json!({"rss_mb": round(rss), "cpu_seconds": round(cpu)})))
        .collect();
    let ok = !outcomes.is_empty() && outcomes.iter().all(|outcome| outcome.ok);
    let mut report = json!({
        "ok": ok, "date": rig::now().to_string(), "seconds": round(seconds), "acts": outcomes, "roles": roles,
    });
    if let Some(commit) = commit() {
        report["commit"] = commit.into();
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(path, serde_json::to_string_pretty(&report)? + "\n")?;
    Ok(())
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_runs_outcome_is_removed_and_its_absence_is_no_fault() {
        let path = std::env::temp_dir().join(format!("tidegate-outcome-{}.json", std::process::id()));
        std::fs::write(&path, "{}").unwrap();
        forget(&path).unwrap();
        assert!(!path.exists());
        forget(&path).unwrap();
    }
}
