//! `get`, `describe`, `status` and `watch`: what the fleet does, for people and CI.
//! Reads only; what it shows are the planner's and the judge's own reasons.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use tidegate_pipelines::api::{Pipeline, Release, ReleasePhase, Rollout};

use super::hub::{CliError, Hub};
use crate::clock::SharedClock;

#[derive(clap::Args, Clone, Debug)]
pub struct StatusArgs {
    /// A release, or a pipeline (its newest release).
    pub name: String,
    /// Wait this long for an end; `0s` asks once.
    #[arg(long, default_value = "0s")]
    pub timeout: tidegate_pipelines::api::Span,
}

/// Pipelines and their releases as a table.
pub async fn get(hub: &Hub, now: Timestamp) -> Result<String, CliError> {
    let pipelines: Vec<Pipeline> = hub.list(&hub.pipelines()).await?;
    let releases = hub.list(&hub.releases()).await?;
    let mut rows =
        vec![["PIPELINE", "RELEASE", "PHASE", "VERDICT", "STAGE", "AGE", "MESSAGE"].map(str::to_owned).to_vec()];
    for pipeline in &pipelines {
        let name = pipeline.name_any();
        let own: Vec<&Release> = releases.iter().filter(|release| release.spec.pipeline == name).collect();
        if own.is_empty() {
            let message = pipeline.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
            rows.push(vec![name.clone(), "-".into(), "-".into(), "-".into(), "-".into(), "-".into(), message]);
        }
        for release in own.into_iter().rev() {
            let status = release.status.clone().unwrap_or_default();
            rows.push(vec![
                name.clone(),
                release.name_any(),
                status.phase.map_or("-".into(), |phase| format!("{phase:?}")),
                status.verdict.unwrap_or_else(|| "-".into()),
                status.stage.unwrap_or_else(|| "-".into()),
                age(release.metadata.creation_timestamp.as_ref().map(|time| time.0), now),
                one_line(&status.message.unwrap_or_default(), 100),
            ]);
        }
    }
    if rows.len() == 1 {
        return Ok(format!("no pipelines in namespace '{}'\n", hub.namespace));
    }
    Ok(table(&rows))
}

/// Everything about one release: verdicts, steps, evidence, reasons.
pub async fn describe(hub: &Hub, name: &str) -> Result<String, CliError> {
    let release = hub.release(name).await?;
    let rollouts = hub.rollouts_of(&release).await?;
    Ok(description(&release, &rollouts))
}

fn description(release: &Release, rollouts: &[Rollout]) -> String {
    let status = release.status.clone().unwrap_or_default();
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(text, "{label:<14}{value}");
    };
    line("Release:", &release.name_any());
    line("Pipeline:", &release.spec.pipeline);
    for image in &release.spec.images {
        line("Image:", &format!("{} = {}", image.container, image.reference()));
    }
    if let Some(revision) = &release.spec.revision {
        line("Revision:", revision);
    }
    line("Phase:", &status.phase.map_or("-".into(), |phase| format!("{phase:?}")));
    line("Verdict:", status.verdict.as_deref().unwrap_or("-"));
    line("Message:", status.message.as_deref().unwrap_or("-"));
    for progress in &status.environments {
        let verdict = progress.verdict.as_deref().unwrap_or("-");
        let phase = progress.phase.map_or("-".into(), |phase| format!("{phase:?}"));
        let _ = writeln!(text, "\n{}: {verdict}, {phase}", progress.environment);
        for reason in &progress.reasons {
            let _ = writeln!(text, "  - {reason}");
        }
        for rollout in rollouts.iter().filter(|rollout| rollout.spec.environment == progress.environment) {
            describe_rollout(&mut text, rollout);
        }
    }
    text
}

fn describe_rollout(text: &mut String, rollout: &Rollout) {
    let status = rollout.status.clone().unwrap_or_default();
    let _ = writeln!(
        text,
        "  rollout {} ({:?}): {} at weight {}",
        rollout.name_any(),
        rollout.spec.reason,
        status.phase.map_or("-".into(), |phase| format!("{phase:?}")),
        status.weight
    );
    if let Some(step) = &status.step_text {
        let _ = writeln!(text, "    step     {step}");
    }
    if let Some(expected) = status.judge.as_ref().and_then(|judge| judge.expected.as_ref()) {
        let _ = writeln!(text, "    expects  {expected}");
    }
    if let Some(message) = &status.message {
        let _ = writeln!(text, "    now      {message}");
    }
    for condition in &status.conditions {
        let _ = writeln!(
            text,
            "    {:<12} {:<8} {}: {}",
            condition.type_, condition.status, condition.reason, condition.message
        );
    }
    if let Some(breach) = &status.breach {
        let _ = writeln!(text, "    breach   {:?} at {}: {}", breach.kind, breach.decided_at.0, breach.message);
    }
    for entry in &status.history {
        let _ = writeln!(
            text,
            "    {}  {:>3} %  {}: {}",
            entry.at.0.strftime("%H:%M:%S"),
            entry.weight,
            entry.reason,
            entry.message
        );
    }
}

/// Waits for an end. Exit code 0: promoted; 1: another end; 2: not ended in time.
pub async fn status(hub: &Hub, args: &StatusArgs, mut tell: impl FnMut(&str)) -> Result<ExitCode, CliError> {
    let deadline = tokio::time::Instant::now() + args.timeout.as_duration();
    let mut last = String::new();
    loop {
        let release = hub.release(&args.name).await?;
        let now = summary(&release);
        if now != last {
            tell(&format!("{now}\n"));
            last = now;
        }
        match release.status.as_ref().and_then(|status| status.phase).map(end) {
            Some(Some(code)) => return Ok(ExitCode::from(code)),
            _ if tokio::time::Instant::now() >= deadline => return Ok(ExitCode::from(2)),
            _ => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

/// The exit code of an end; `None` while it is under way.
fn end(phase: ReleasePhase) -> Option<u8> {
    match phase {
        ReleasePhase::Promoted => Some(0),
        other => other.is_terminal().then_some(1),
    }
}

fn summary(release: &Release) -> String {
    let status = release.status.clone().unwrap_or_default();
    let phase = status.phase.map_or("not seen by the hub yet".into(), |phase| format!("{phase:?}"));
    let message = status.message.unwrap_or_default();
    format!("{}: {phase} {message}", release.name_any()).trim_end().to_owned()
}

/// A live view in place until the release ends or Ctrl-C.
pub async fn watch(
    hub: &Hub,
    name: &str,
    clock: SharedClock,
    mut draw: impl FnMut(&str),
) -> Result<ExitCode, CliError> {
    let mut drawn = 0;
    loop {
        let release = hub.release(name).await?;
        let rollouts = hub.rollouts_of(&release).await?;
        let frame = frame(&release, &rollouts, clock.now());
        let up = if drawn > 0 { format!("\x1b[{drawn}A\x1b[J") } else { String::new() };
        draw(&in_place(&up, &frame));
        drawn = frame.lines().count();
        if let Some(Some(code)) = release.status.as_ref().and_then(|status| status.phase).map(end) {
            return Ok(ExitCode::from(code));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The terminal cuts long lines meanwhile: one that wrapped would be two when the next frame goes up over this one.
fn in_place(up: &str, frame: &str) -> String {
    format!("{up}\x1b[?7l{frame}\x1b[?7h")
}

/// One picture of a release: a line per environment with its weight and what it does.
pub fn frame(release: &Release, rollouts: &[Rollout], now: Timestamp) -> String {
    let mut text = format!("{}\n", one_line(&summary(release), 150));
    for stage in &release.spec.snapshot.stages {
        for environment in &stage.environments {
            let newest = rollouts.iter().rfind(|rollout| &rollout.spec.environment == environment);
            let status = newest.and_then(|rollout| rollout.status.clone()).unwrap_or_default();
            let filled = usize::from(status.weight) / 5;
            let bar: String = (0..20).map(|i| if i < filled { '#' } else { '.' }).collect();
            let phase = status.phase.map_or("-".into(), |phase| format!("{phase:?}"));
            let since = age(status.phase_since.map(|time| time.0), now);
            let message = one_line(&status.message.unwrap_or_default(), 90);
            let _ =
                writeln!(text, "  {environment:<12} [{bar}] {:>3} %  {phase:<13} {since:>5}  {message}", status.weight);
        }
    }
    text
}

fn one_line(text: &str, width: usize) -> String {
    let flat: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if flat.chars().count() <= width { flat } else { flat.chars().take(width - 3).chain("...".chars()).collect() }
}

fn age(since: Option<Timestamp>, now: Timestamp) -> String {
    let Some(since) = since else { return "-".into() };
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        s if s < 120 => format!("{s}s"),
        s if s < 7200 => format!("{}m", s / 60),
        s if s < 172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect::<Vec<_>>();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_have_exit_codes_and_the_rest_has_none() {
        assert_eq!(end(ReleasePhase::Promoted), Some(0));
        assert_eq!(end(ReleasePhase::Denied), Some(1));
        assert_eq!(end(ReleasePhase::RolledBack), Some(1));
        assert_eq!(end(ReleasePhase::Shipping), None);
    }

    #[test]
    fn a_frame_never_wraps_and_leaves_the_terminal_as_it_was() {
        let drawn = in_place("", "a line\n");
        assert!(drawn.starts_with("\x1b[?7l") && drawn.ends_with("\n\x1b[?7h"), "{drawn:?}");
    }

    #[test]
    fn long_messages_are_cut_to_one_line() {
        assert_eq!(one_line("a\n  b", 10), "a b");
        assert_eq!(one_line("abcdefghij", 8), "abcde...");
    }

    #[test]
    fn columns_line_up() {
        let rows = [["A", "B"], ["long", "x"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "A     B\nlong  x\n");
    }
}
