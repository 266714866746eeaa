//! How a rollout's row looks: what fits into a width, where a long line breaks, and where it is cut. Pure text.

use tidegate_pipelines::api::RolloutPhase;

/// What a row tells.
pub struct Row {
    pub environment: String,
    /// `act 3 of 7: dead`; empty for what no act made.
    pub act: String,
    pub release: String,
    pub phase: Option<RolloutPhase>,
    pub weight: u8,
    /// The rollout's own line, with each witness' evidence.
    pub message: String,
}

/// More than these tell nobody anything at a glance.
const EVIDENCE_LINES: usize = 4;
const BAR: usize = 20;

impl Row {
    /// One line: where it stands.
    pub fn head(&self) -> String {
        use RolloutPhase::{Baking, Promoted, Promoting};
        // The canary's weight goes back to 0 while stable takes the version over: all requests stay with it.
        let taken_over = matches!(self.phase, Some(Promoting | Baking | Promoted));
        let share = if taken_over { 100 } else { usize::from(self.weight.min(100)) };
        let bar: String = (0..BAR).map(|i| if i < share * BAR / 100 { '#' } else { '.' }).collect();
        let phase = match self.phase {
            None if self.release.is_empty() => {
                return format!("{:<9} [{bar}]       {}", self.environment, self.message);
            }
            None => "-".to_owned(),
            Some(Promoted) => "promoted".to_owned(),
            Some(phase) => format!("{phase:?}"),
        };
        let share = if self.phase == Some(Promoted) { String::new() } else { format!("{share} %") };
        let row = format!("{:<9} [{bar}] {share:>5} {phase:<11} {:<15} {}", self.environment, self.release, self.act);
        row.trim_end().to_owned()
    }

    /// For a screen: the head, and below it the message, indented; nothing wider than `width`.
    pub fn lines(&self, width: usize) -> Vec<String> {
        let mut lines = vec![cut(&self.head(), width)];
        if self.release.is_empty() {
            return lines;
        }
        let mut evidence = broken(&self.message, width.saturating_sub(4));
        if evidence.len() > EVIDENCE_LINES {
            evidence.truncate(EVIDENCE_LINES);
            if let Some(last) = evidence.last_mut() {
                *last = cut(&format!("{last}; ..{}", " ".repeat(width)), width.saturating_sub(4));
            }
        }
        lines.extend(evidence.into_iter().map(|line| format!("    {line}")));
        lines
    }
}

/// At most `width` characters; what was cut is seen by its ellipsis.
pub fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    let kept: String = line.chars().take(width.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// Broken where the message itself has a stop (`; `); each witness begins a line of its own.
fn broken(message: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in message.split("; ").filter(|part| !part.is_empty()) {
        let witness = part.contains(": E=");
        match lines.last_mut() {
            Some(line) if !witness && line.chars().count() + 2 + part.chars().count() <= width => {
                line.push_str("; ");
                line.push_str(part);
            }
            _ => lines.push(part.to_owned()),
        }
    }
    lines.iter().map(|line| cut(line, width)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &str = "not decided yet: availability: E=0.3 of 140; E'=1.2 of 20.0; phi 1.50; 3 canary errors in 100 \
                           requests (stable 21 in 600); 40 requests of young pods masked; gateway: E=0.1 of 140; E'=0.9 of \
                           20.0; phi 1.50; 4 canary errors in 140 requests (stable 25 in 700)";

    fn row(phase: RolloutPhase, weight: u8, message: &str) -> Row {
        Row {
            environment: "prod-east".into(),
            act: "act 2 of 7: regression".into(),
            release: "portal-0a1b2c3d".into(),
            phase: Some(phase),
            weight,
            message: message.into(),
        }
    }

    #[test]
    fn both_witnesses_are_read_whole_at_a_hundred_columns() {
        let lines = row(RolloutPhase::Canary, 25, MESSAGE).lines(97);
        assert!(lines.iter().all(|line| line.chars().count() <= 97), "{lines:#?}");
        assert!(
            lines[0].contains("25 % Canary") && lines[0].ends_with("portal-0a1b2c3d act 2 of 7: regression"),
            "{lines:#?}"
        );
        let evidence = lines[1..].join(" ");
        for said in
            ["availability: E=0.3 of 140", "phi 1.50", "3 canary errors in 100", "gateway: E=0.1", "(stable 25 in 700)"]
        {
            assert!(evidence.contains(said), "{said}: {lines:#?}");
        }
        assert!(lines.iter().any(|line| line.trim_start().starts_with("gateway: E=")), "{lines:#?}");
        assert!(!evidence.contains('…'), "{lines:#?}");
    }

    #[test]
    fn what_does_not_fit_ends_in_an_ellipsis() {
        let long = "a line without any stop in it, ".repeat(8);
        for width in [20, 60, 97] {
            let lines = row(RolloutPhase::Canary, 25, &long).lines(width);
            assert!(lines.iter().all(|line| line.chars().count() <= width), "{lines:#?}");
            assert!(lines[1].ends_with('…'), "{lines:#?}");
        }
        let many = "nothing here; ".repeat(100);
        let lines = row(RolloutPhase::Canary, 25, &many).lines(60);
        assert_eq!(lines.len(), 1 + EVIDENCE_LINES);
        assert!(lines[EVIDENCE_LINES].ends_with('…') && lines[EVIDENCE_LINES].chars().count() <= 60, "{lines:#?}");
    }

    #[test]
    fn a_promoted_environment_has_a_full_bar() {
        let full = format!("[{}]", "#".repeat(BAR));
        for phase in [RolloutPhase::Promoting, RolloutPhase::Baking, RolloutPhase::Promoted] {
            assert!(row(phase, 0, "").head().contains(&full), "{phase:?}");
        }
        assert!(row(RolloutPhase::Promoted, 0, "").head().contains("promoted"));
        assert!(!row(RolloutPhase::Promoted, 0, "").head().contains('%'));
        assert!(!row(RolloutPhase::RolledBack, 0, "").head().contains('#'));
    }
}
