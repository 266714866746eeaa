//! What a person sees while the demo runs: events as they happen and, at a terminal, the fleet's state in place below.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tidegate_pipelines::api::{Rollout, RolloutReason};
use tidegate_tests::acts::Outcome;
use tidegate_tests::rig;
use tidegate_tests::stage::Stage;
use tidegate_tests::stage::manifests::APP;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::layout::{Row, cut};
use crate::program::Place;

/// Where there is no terminal, a rollout's evidence alone makes a line no more often than this.
const EVIDENCE_EVERY: Duration = Duration::from_secs(5);
/// Columns and lines of a terminal that does not tell them.
const UNTOLD: (usize, usize) = (100, 30);

#[derive(Clone)]
pub struct Screen {
    plain: bool,
    started: Instant,
    /// Lines of the picture that is on the screen now.
    drawn: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
    acts: Arc<watch::Sender<Vec<Begun>>>,
}

/// An act that was begun.
#[derive(Clone, Copy)]
struct Begun {
    place: Place,
    at: Timestamp,
    over: bool,
}

impl Screen {
    /// `plain`: lines only, as also where there is no terminal.
    #[allow(clippy::disallowed_methods, reason = "the rig measures the real world")]
    pub fn new(plain: bool) -> Self {
        Self {
            plain: plain || !std::io::stdout().is_terminal(),
            started: Instant::now(),
            drawn: Arc::default(),
            stopped: Arc::default(),
            acts: Arc::new(watch::Sender::new(Vec::new())),
        }
    }

    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    pub fn say(&self, line: &str) {
        // Held over both, or a picture comes between.
        let mut out = std::io::stdout().lock();
        self.erase(&mut out);
        let _ = writeln!(out, "{:>4} s  {line}", self.started.elapsed().as_secs());
    }

    pub fn begin(&self, place: Place, expected: &str) {
        self.acts.send_modify(|acts| acts.push(Begun { place, at: rig::now(), over: false }));
        self.say(&format!("{place}: expected: {expected}"));
    }

    pub fn end(&self, place: Place, outcome: &Outcome) {
        self.acts.send_modify(|acts| acts.iter_mut().filter(|act| act.place == place).for_each(|act| act.over = true));
        let word = if outcome.ok { "ok" } else { "NOT OK" };
        self.say(&format!("{place}: {word} after {:.0} s: {}", outcome.seconds, outcome.outcome));
    }

    /// Draws the fleet twice a second, or says one line per change where there is no terminal.
    pub fn show(&self, stage: Arc<Stage>) {
        let screen = self.clone();
        rig::spawn(async move {
            let mut told = BTreeMap::new();
            let (mut size, mut drawn) = (UNTOLD, 0_usize);
            while !screen.stopped.load(Ordering::Relaxed) {
                let rows = screen.rows(&stage).await;
                if screen.plain {
                    screen.tell(&rows, &mut told);
                } else {
                    if drawn.is_multiple_of(4) {
                        size = terminal_size().await.unwrap_or(size);
                    }
                    screen.draw(&screen.picture(&rows, size));
                }
                drawn += 1;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
    }

    pub async fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(600)).await;
        self.erase(&mut std::io::stdout().lock());
    }

    /// The newest rollout of each environment.
    async fn rows(&self, stage: &Stage) -> Vec<Row> {
        let mut rows = Vec::new();
        for environment in &stage.fleet.environments {
            let api: kube::Api<Rollout> = kube::Api::namespaced(environment.cluster.admin.clone(), APP);
            let mut all = api.list(&Default::default()).await.map(|list| list.items).unwrap_or_default();
            all.sort_by_key(|rollout| rollout.metadata.creation_timestamp.clone());
            rows.push(self.row(environment.name(), all.pop()));
        }
        rows
    }

    fn row(&self, environment: &str, rollout: Option<Rollout>) -> Row {
        let environment = environment.to_owned();
        let Some(rollout) = rollout else {
            let message = "no rollout yet".to_owned();
            return Row { environment, act: String::new(), release: String::new(), phase: None, weight: 0, message };
        };
        let act = rollout.metadata.creation_timestamp.and_then(|at| self.act_at(at.0));
        let status = rollout.status.unwrap_or_default();
        let back = if rollout.spec.reason == RolloutReason::Rollback { ", taken back" } else { "" };
        Row {
            environment,
            act: act.map_or(String::new(), |place| format!("{place}{back}")),
            release: rollout.spec.release,
            phase: status.phase,
            weight: status.weight,
            message: status.message.unwrap_or_default(),
        }
    }

    /// The shipping act that was on when an object was made, whose time has whole seconds.
    fn act_at(&self, at: Timestamp) -> Option<Place> {
        let acts = self.acts.borrow();
        let shipping = acts.iter().rev().filter(|begun| !begun.place.act.is_gate());
        shipping.into_iter().find(|begun| begun.at <= at + SignedDuration::from_secs(1)).map(|begun| begun.place)
    }

    /// The acts that are on, then the rows.
    fn picture(&self, rows: &[Row], (columns, lines): (usize, usize)) -> Vec<String> {
        // The margin takes two, and the last column stays free.
        let width = columns.saturating_sub(3);
        let on: Vec<String> =
            self.acts.borrow().iter().filter(|act| !act.over).map(|act| act.place.to_string()).collect();
        let mut picture = vec![cut(&format!("{} s  {}", self.started.elapsed().as_secs(), on.join(", ")), width)];
        picture.extend(rows.iter().flat_map(|row| row.lines(width)));
        // What has scrolled away cannot be drawn over.
        picture.truncate(lines.saturating_sub(2));
        picture
    }

    fn tell(&self, rows: &[Row], told: &mut BTreeMap<String, (String, String, Instant)>) {
        let now = self.started + self.started.elapsed();
        for row in rows {
            let (head, message) = (row.head(), row.message.clone());
            let fresh = match told.get(&row.environment) {
                None => true,
                Some((last, _, _)) if *last != head => true,
                Some((_, last, at)) => *last != message && now.duration_since(*at) >= EVIDENCE_EVERY,
            };
            if fresh {
                let line = if row.release.is_empty() { head.clone() } else { format!("{head}  {message}") };
                self.say(&line);
                told.insert(row.environment.clone(), (head, message, now));
            }
        }
    }

    fn draw(&self, lines: &[String]) {
        // No line is as wide as the screen, but a window may shrink under the picture: a line that wrapped would be two
        // when the next picture goes up over this one.
        let mut text = String::from("\x1b[?7l");
        for line in lines {
            let _ = writeln!(text, "\x1b[2m|\x1b[0m {line}");
        }
        text.push_str("\x1b[?7h");
        let mut out = std::io::stdout().lock();
        self.erase(&mut out);
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
        self.drawn.store(lines.len(), Ordering::Relaxed);
    }

    fn erase(&self, out: &mut impl std::io::Write) {
        let drawn = self.drawn.swap(0, Ordering::Relaxed);
        if drawn > 0 {
            let _ = write!(out, "\x1b[{drawn}A\x1b[J");
        }
    }
}

/// Columns and lines.
async fn terminal_size() -> Option<(usize, usize)> {
    let mut stty = tokio::process::Command::new("stty");
    let output = stty.args(["-F", "/dev/tty", "size"]).stderr(Stdio::null()).output().await.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
    let (lines, columns) = (numbers.next()?, numbers.next()?);
    (columns > 0 && lines > 0).then_some((columns, lines))
}
