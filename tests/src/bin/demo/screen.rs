//! What a person sees while the demo runs: events as they happen and, at a terminal, the fleet's state in place below.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tidegate_pipelines::api::Rollout;
use tidegate_tests::acts::Outcome;
use tidegate_tests::rig;
use tidegate_tests::stage::Stage;
use tidegate_tests::stage::manifests::APP;
use tokio::time::Instant;

#[derive(Clone)]
pub struct Screen {
    plain: bool,
    started: Instant,
    /// Lines of the picture that is on the screen now.
    drawn: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
}

impl Screen {
    #[allow(clippy::disallowed_methods, reason = "the rig measures the real world")]
    pub fn new(plain: bool) -> Self {
        Self { plain, started: Instant::now(), drawn: Arc::default(), stopped: Arc::default() }
    }

    pub fn say(&self, line: &str) {
        self.erase();
        println!("{:>4} s  {line}", self.started.elapsed().as_secs());
    }

    pub fn act(&self, name: &str, expected: &str) {
        self.say(&format!("act {name}: expected: {expected}"));
    }

    pub fn done(&self, outcome: &Outcome) {
        let word = if outcome.ok { "ok" } else { "NOT OK" };
        self.say(&format!("act {}: {word} after {:.0} s: {}", outcome.name, outcome.seconds, outcome.outcome));
    }

    /// Draws the fleet twice a second, or says one line per change where there is no terminal.
    pub fn show(&self, stage: Arc<Stage>) {
        let screen = self.clone();
        rig::spawn(async move {
            let mut last = Vec::new();
            while !screen.stopped.load(Ordering::Relaxed) {
                let lines = picture(&stage).await;
                if screen.plain {
                    for line in lines.iter().filter(|line| !last.contains(*line)) {
                        screen.say(line);
                    }
                    last = lines;
                } else {
                    screen.draw(&lines);
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
    }

    pub async fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(600)).await;
        self.erase();
    }

    fn draw(&self, lines: &[String]) {
        // Long lines are cut by the terminal: one that wrapped would be two when the next picture goes up over this one.
        let mut text = String::from("\x1b[?7l");
        for line in lines {
            let _ = writeln!(text, "\x1b[2m|\x1b[0m {line}");
        }
        text.push_str("\x1b[?7h");
        self.erase();
        print!("{text}");
        let _ = std::io::stdout().flush();
        self.drawn.store(lines.len(), Ordering::Relaxed);
    }

    fn erase(&self) {
        let drawn = self.drawn.swap(0, Ordering::Relaxed);
        if drawn > 0 {
            print!("\x1b[{drawn}A\x1b[J");
        }
    }
}

/// A line per environment: the newest rollout, its weight and its reason.
async fn picture(stage: &Stage) -> Vec<String> {
    let mut lines = Vec::new();
    for environment in &stage.fleet.environments {
        let api: kube::Api<Rollout> = kube::Api::namespaced(environment.cluster.admin.clone(), APP);
        let mut all = api.list(&Default::default()).await.map(|list| list.items).unwrap_or_default();
        all.sort_by_key(|rollout| rollout.metadata.creation_timestamp.clone());
        let Some(rollout) = all.pop() else {
            lines.push(format!("{:<10} no rollout", environment.name()));
            continue;
        };
        let status = rollout.status.unwrap_or_default();
        let filled = usize::from(status.weight) / 5;
        let bar: String = (0..20).map(|i| if i < filled { '#' } else { '.' }).collect();
        let phase = status.phase.map_or("-".into(), |phase| format!("{phase:?}"));
        let message: String = status.message.unwrap_or_default().chars().take(110).collect();
        lines.push(format!("{:<10} [{bar}] {:>3} %  {phase:<12} {message}", environment.name(), status.weight));
    }
    lines
}
