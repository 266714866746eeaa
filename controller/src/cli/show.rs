//! `get`, `describe`, `status` and `watch`: what the fleet does, for people and CI.
//! Reads only; what it shows are the planner's and the judge's own reasons.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use kube::{Api, ResourceExt};
use tidegate_pipelines::api::{Pipeline, Release, ReleasePhase, Rollout, names};

use super::choose;
use super::hub::{CliError, Hub, Seen};
use crate::clock::SharedClock;

#[derive(clap::Args, Clone, Debug)]
pub struct StatusArgs {
    /// A release, or a pipeline (its release under way, else the one that began last). CI passes what `release` printed.
    pub name: String,
    /// Wait this long for an end; `0s` asks once.
    #[arg(long, default_value = "0s")]
    pub timeout: tidegate_pipelines::api::Span,
}

#[derive(clap::Args, Clone, Debug)]
pub struct GetArgs {
    /// In all namespaces, not in one.
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    pub all_namespaces: bool,
}

/// Pipelines and their releases as a table.
pub async fn get(hub: &Hub, args: &GetArgs, now: Timestamp) -> Result<String, CliError> {
    let all = args.all_namespaces;
    let (of_pipelines, of_releases) = match all {
        true => (Api::all(hub.client.clone()), Api::all(hub.client.clone())),
        false => (hub.pipelines(), hub.releases()),
    };
    let (mut pipelines, releases) = (hub.list(&of_pipelines).await?, hub.list(&of_releases).await?);
    if pipelines.is_empty() {
        let place = if all { "any namespace".to_owned() } else { format!("namespace '{}'", hub.namespace) };
        return Ok(format!("no pipelines in {place}\n"));
    }
    pipelines.sort_by_key(ResourceExt::namespace);
    Ok(overview(&pipelines, &releases, all, now))
}

fn overview(pipelines: &[Pipeline], releases: &[Release], all: bool, now: Timestamp) -> String {
    let mut rows =
        vec![["PIPELINE", "RELEASE", "PHASE", "VERDICT", "STAGE", "AGE", "MESSAGE"].map(str::to_owned).to_vec()];
    let mut places = vec!["NAMESPACE".to_owned()];
    for pipeline in pipelines {
        let (name, namespace) = (pipeline.name_any(), pipeline.namespace());
        let mine = |release: &&Release| release.spec.pipeline == name && release.namespace() == namespace;
        let own: Vec<&Release> = releases.iter().filter(mine).collect();
        places.extend(std::iter::repeat_n(namespace.clone().unwrap_or_default(), own.len().max(1)));
        if own.is_empty() {
            let message = pipeline.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
            rows.push(vec![name.clone(), "-".into(), "-".into(), "-".into(), "-".into(), "-".into(), message]);
        }
        for release in own.into_iter().rev() {
            let status = release.status.clone().unwrap_or_default();
            rows.push(vec![
                name.clone(),
                release.name_any(),
                choose::phase(release).map_or("-".into(), |phase| format!("{phase:?}")),
                status.verdict.unwrap_or_else(|| "-".into()),
                status.stage.unwrap_or_else(|| "-".into()),
                age(release.metadata.creation_timestamp.as_ref().map(|time| time.0), now),
                whole_words(&status.message.unwrap_or_default(), 100),
            ]);
        }
    }
    if all {
        rows.iter_mut().zip(places).for_each(|(row, place)| row.insert(0, place));
    }
    table(&rows)
}

/// Everything about one release: verdicts, steps, evidence, reasons.
pub async fn describe(hub: &Hub, name: &str) -> Result<String, CliError> {
    let release = hub.release(name).await?;
    let seen = hub.seen(&release).await?;
    Ok(description(&release, &seen))
}

fn description(release: &Release, seen: &Seen) -> String {
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
    line("Phase:", &choose::phase(release).map_or("-".into(), |phase| format!("{phase:?}")));
    line("Verdict:", status.verdict.as_deref().unwrap_or("-"));
    line("Message:", status.message.as_deref().unwrap_or("-"));
    for progress in &status.environments {
        let verdict = progress.verdict.as_deref().unwrap_or("-");
        let phase = progress.phase.map_or("-".into(), |phase| format!("{phase:?}"));
        let _ = writeln!(text, "\n{}: {verdict}, {phase}", progress.environment);
        for reason in &progress.reasons {
            let _ = writeln!(text, "  - {reason}");
        }
        for rollout in seen.rollouts.iter().filter(|rollout| rollout.spec.environment == progress.environment) {
            describe_rollout(&mut text, rollout);
        }
    }
    for (environment, why) in &seen.unseen {
        let _ = writeln!(text, "\n{}: not readable by you: {why}", names::environment_namespace(environment));
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
    // Of a pipeline one release is followed to its end, whatever begins meanwhile.
    let mut release = hub.release(&args.name).await?;
    let mut last = String::new();
    loop {
        let now = summary(&release);
        if now != last {
            tell(&format!("{now}\n"));
            last = now;
        }
        let over = tokio::time::Instant::now() >= deadline;
        match choose::phase(&release).and_then(end) {
            Some(code) => return Ok(ExitCode::from(code)),
            None if over && args.timeout.as_duration().is_zero() => return Ok(ExitCode::from(2)),
            None if over => {
                tell(&format!("not in time: still {}\n", choose::word(&release)));
                return Ok(ExitCode::from(2));
            }
            None => tokio::time::sleep(Duration::from_millis(500)).await,
        }
        release = match again(hub, &release).await {
            Err(error) if error.is_unanswered() && tokio::time::Instant::now() < deadline => release,
            found => found?,
        };
    }
}

/// The very release, as it is now.
async fn again(hub: &Hub, release: &Release) -> Result<Release, CliError> {
    let name = release.name_any();
    let gone = || CliError::NotFound { name: name.clone(), namespace: hub.namespace.clone() };
    hub.exactly(&name).await?.ok_or_else(gone)
}

/// The exit code of an end; `None` while it is under way.
fn end(phase: ReleasePhase) -> Option<u8> {
    match phase {
        ReleasePhase::Promoted => Some(0),
        other => other.is_terminal().then_some(1),
    }
}

fn summary(release: &Release) -> String {
    let status = release.status.as_ref();
    // What a status tells of an end that holds no more is not the reason of what comes now.
    let current = status.and_then(|status| status.phase) == choose::phase(release);
    let message = status.and_then(|status| status.message.clone()).filter(|_| current).unwrap_or_default();
    format!("{}: {} {message}", release.name_any(), choose::word(release)).trim_end().to_owned()
}

/// A live view in place until the release ends or Ctrl-C. The end is the Release's own, which the hub tells once every
/// environment has reported; no environment that may not be read is taken for anything.
pub async fn watch(
    hub: &Hub,
    name: &str,
    clock: SharedClock,
    mut draw: impl FnMut(&str),
) -> Result<ExitCode, CliError> {
    let mut drawn = 0;
    let mut release = hub.release(name).await?;
    loop {
        let frame = frame(&release, &hub.seen(&release).await?, clock.now());
        let up = if drawn > 0 { format!("\x1b[{drawn}A\x1b[J") } else { String::new() };
        draw(&in_place(&up, &frame));
        drawn = frame.lines().count();
        if let Some(code) = choose::phase(&release).and_then(end) {
            return Ok(ExitCode::from(code));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        release = again(hub, &release).await?;
    }
}

/// The terminal cuts long lines meanwhile: one that wrapped would be two when the next frame goes up over this one.
fn in_place(up: &str, frame: &str) -> String {
    format!("{up}\x1b[?7l{frame}\x1b[?7h")
}

/// One picture of a release: a line per environment with its weight and what it does.
fn frame(release: &Release, seen: &Seen, now: Timestamp) -> String {
    let mut text = format!("{}\n", one_line(&summary(release), 150));
    for stage in &release.spec.snapshot.stages {
        for environment in &stage.environments {
            if seen.unseen.contains_key(environment) {
                let (place, word) = (names::environment_namespace(environment), hubs_word(release, environment));
                let _ = writeln!(text, "  {environment:<12} {place}: not readable by you; the hub says: {word}");
                continue;
            }
            let newest = seen.rollouts.iter().rfind(|rollout| &rollout.spec.environment == environment);
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

/// What the Release itself tells of an environment.
fn hubs_word(release: &Release, environment: &str) -> String {
    let told = release.status.iter().flat_map(|status| &status.environments);
    let phase = told.filter(|progress| progress.environment == environment).find_map(|progress| progress.phase);
    phase.map_or_else(|| "not begun".to_owned(), |phase| format!("{phase:?}"))
}

fn one_line(text: &str, width: usize) -> String {
    let flat: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if flat.chars().count() <= width { flat } else { flat.chars().take(width - 3).chain("...".chars()).collect() }
}

/// At most about `width` characters, and no word (a release's name) cut in two.
fn whole_words(text: &str, width: usize) -> String {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if line.chars().count() >= width {
            return format!("{line} ...");
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
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
mod tests;
