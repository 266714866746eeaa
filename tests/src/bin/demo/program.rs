//! Which acts a demo plays, in the order of the closing table, and how it plays them: the gates are tried beside the
//! first canaries, everything that ships plays one after another.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use tidegate_tests::acts::{Outcome, Seen, gate, play, ship, trouble};
use tidegate_tests::stage::Stage;
use tidegate_tests::supply::release::Published;

use crate::screen::Screen;

/// In the order in which they are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Act {
    Good,
    Regression,
    Dead,
    Unsigned,
    Sbom,
    Intruder,
    Crash,
    Island,
}

impl Act {
    pub const STANDARD: [Self; 7] =
        [Self::Good, Self::Regression, Self::Dead, Self::Unsigned, Self::Sbom, Self::Intruder, Self::Crash];

    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Regression => "regression",
            Self::Dead => "dead",
            Self::Unsigned => "unsigned",
            Self::Sbom => "sbom",
            Self::Intruder => "intruder",
            Self::Crash => "crash",
            Self::Island => "island",
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Good => ship::GOOD,
            Self::Regression => ship::REGRESSION,
            Self::Dead => ship::DEAD,
            Self::Unsigned => gate::UNSIGNED,
            Self::Sbom => gate::SBOM,
            Self::Intruder => gate::INTRUDER,
            Self::Crash => trouble::CRASH,
            Self::Island => trouble::ISLAND,
        }
    }

    /// Ships nothing: played beside the others.
    pub fn is_gate(self) -> bool {
        matches!(self, Self::Unsigned | Self::Sbom | Self::Intruder)
    }
}

/// An act's place: `act 3 of 7: dead`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub act: Act,
    pub number: usize,
    pub of: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "act {} of {}: {}", self.number, self.of, self.act.name())
    }
}

/// The acts that are wanted, each once, in their order.
pub struct Program(Vec<Act>);

impl Program {
    pub fn of(wanted: &[Act]) -> Self {
        let mut acts = wanted.to_vec();
        acts.sort_unstable();
        acts.dedup();
        Self(acts)
    }

    pub fn place(&self, act: Act) -> Option<Place> {
        let number = self.0.iter().position(|other| *other == act)? + 1;
        Some(Place { act, number, of: self.0.len() })
    }

    /// One outcome per act, in the program's order.
    pub async fn perform(&self, stage: &Stage, screen: &Screen) -> Vec<Outcome> {
        let ((good, running), gates) = tokio::join!(self.good(stage, screen), self.gates(stage, screen));
        let mut outcomes: Vec<Outcome> = good.into_iter().collect();
        outcomes.extend(self.act(stage, screen, Act::Regression, ship::regression(stage, "v2", &running)).await);
        outcomes.extend(self.act(stage, screen, Act::Dead, ship::dead(stage, "v3")).await);
        outcomes.extend(gates);
        outcomes.extend(self.act(stage, screen, Act::Crash, trouble::crash(stage, "v7")).await);
        outcomes.extend(self.act(stage, screen, Act::Island, trouble::island(stage, "v8")).await);
        outcomes
    }

    /// Its outcome and what runs everywhere after it.
    async fn good(&self, stage: &Stage, screen: &Screen) -> (Option<Outcome>, Published) {
        let mut shipped = None;
        let act = async {
            let (published, seen) = ship::good(stage, "v1").await?;
            shipped = Some(published);
            Ok(seen)
        };
        let outcome = self.act(stage, screen, Act::Good, act).await;
        (outcome, shipped.unwrap_or_else(|| stage.first.clone()))
    }

    async fn gates(&self, stage: &Stage, screen: &Screen) -> Vec<Outcome> {
        if self.place(Act::Good).is_some() {
            // Let the first canary begin: these are tried beside it.
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        let mut outcomes = Vec::new();
        outcomes.extend(self.act(stage, screen, Act::Unsigned, gate::unsigned(stage, "v4")).await);
        outcomes.extend(self.act(stage, screen, Act::Sbom, gate::sbom(stage, "v5")).await);
        outcomes.extend(self.act(stage, screen, Act::Intruder, gate::intruder(stage, "prod-west")).await);
        outcomes
    }

    /// Plays it if it is wanted; an act that is not polled does nothing.
    async fn act(
        &self,
        stage: &Stage,
        screen: &Screen,
        act: Act,
        doing: impl Future<Output = anyhow::Result<Seen>>,
    ) -> Option<Outcome> {
        let place = self.place(act)?;
        screen.begin(place, act.expected());
        let outcome = play(stage, act.name(), act.expected(), doing).await;
        screen.end(place, &outcome);
        Some(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acts_are_numbered_in_their_order_whatever_the_order_they_were_asked_in() {
        let program = Program::of(&[Act::Crash, Act::Good, Act::Good, Act::Sbom]);
        let told = |act| program.place(act).map(|place| place.to_string());
        assert_eq!(told(Act::Good).as_deref(), Some("act 1 of 3: good"));
        assert_eq!(told(Act::Crash).as_deref(), Some("act 3 of 3: crash"));
        assert_eq!(told(Act::Dead), None);
    }
}
