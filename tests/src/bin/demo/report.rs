//! The end of a demo: a table for people, `outcome.json` for machines. All figures are of this run.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use serde_json::json;
use tidegate_tests::acts::Outcome;
use tidegate_tests::stage::Stage;

pub fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::from("\n");
    for outcome in outcomes {
        let breach = outcome.breach_to_zero_ms.map_or(String::new(), |ms| format!(", breach to weight 0: {ms} ms"));
        let _ = writeln!(
            text,
            "{:<6} {:<11} {:>4.0} s  {} requests, {} failed{breach}",
            if outcome.ok { "ok" } else { "NOT OK" },
            outcome.name,
            outcome.seconds,
            outcome.requests,
            outcome.failed_requests
        );
        let _ = writeln!(text, "         expected: {}", outcome.expected);
        let _ = writeln!(text, "         outcome:  {}", outcome.outcome);
    }
    text
}

pub async fn write(path: &Path, stage: &Stage, outcomes: &[Outcome]) -> Result<()> {
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
    let report = json!({"ok": ok, "acts": outcomes, "roles": roles});
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(path, serde_json::to_string_pretty(&report)? + "\n")?;
    Ok(())
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
