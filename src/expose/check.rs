//! `kafka-vitals check`: one page for a terminal, with the first line and the exit code of a monitoring plugin. The
//! exporter serves the same at `/check`.

use std::fmt::Write as _;

use super::overview::{Level, overview, worst_first};
use super::vitals::{Vital, cut, not_read, unknown, vitals};
use crate::model::EvidenceStatus;
use crate::model::Moment;
use crate::model::clock_text;
use crate::model::is_unseen;
use crate::verdict::View;
use crate::verdict::finding::Severity;

const COLUMNS: usize = 120;
/// Brokers shown in full, the worst first.
const BROKERS: usize = 8;
const FACTS: usize = 6;
const UNKNOWN: usize = 6;
const TEXT: usize = 400;

/// The page, line by line.
#[derive(Debug)]
pub struct CheckPage {
    /// The worst level of the host.
    pub level: Level,
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    text: String,
    /// Gives the line its colour.
    level: Option<Level>,
}

impl CheckPage {
    pub fn of(view: &View, saved: &EvidenceStatus, now: Moment) -> CheckPage {
        let overview = overview(view, saved);
        let mut page = CheckPage {
            level: overview.level,
            lines: Vec::new(),
        };
        for (index, sentence) in overview.sentences.iter().enumerate() {
            match index {
                0 => page.add(
                    format!("{}: {sentence}", overview.level.name()),
                    Some(overview.level),
                ),
                _ => page.add(sentence.clone(), None),
            }
        }
        for warning in view.snapshot.discovery_warnings.iter().take(UNKNOWN) {
            page.add(format!("note: {}", cut(warning, TEXT)), None);
        }
        let brokers = worst_first(view);
        for (broker, diagnosis) in brokers.iter().take(BROKERS) {
            let mut vitals = match broker.ended {
                None => vitals(&view.snapshot, broker, diagnosis, now),
                Some(_) => Vec::new(),
            };
            let mut head = format!("Broker {}: {}", broker.label, diagnosis.state.text());
            if let Some(version) = vitals.pop() {
                head.extend(["; ", &words(&version)]);
            }
            // Of what is no problem yet, the words about the version say enough.
            let problems = diagnosis.findings.iter();
            let problems = problems.filter(|found| found.id.kind().severity > Severity::Info);
            page.add(String::new(), None);
            page.add(head, Some(Level::of_state(diagnosis.state)));
            for line in flow(vitals.iter().map(words)) {
                page.add(format!("  {line}"), None);
            }
            match diagnosis.evidence(saved) {
                Some(Ok(path)) => page.add(format!("  evidence: {path}"), None),
                Some(Err(why)) => {
                    page.add(format!("  no evidence is saved: {}", cut(why, TEXT)), None);
                }
                None => {}
            }
            for found in problems {
                let kind = found.id.kind();
                let since = clock_text(found.since);
                let clearing = found.clearing(now);
                page.add(
                    format!(
                        "  {}: {}, since {since}{clearing}",
                        kind.severity.name(),
                        kind.title
                    ),
                    Some(Level::of_severity(kind.severity)),
                );
                for fact in found.facts.iter().take(FACTS) {
                    page.add(format!("    {}", cut(fact, TEXT)), None);
                }
                if found.facts.len() > FACTS {
                    page.add(format!("    and {} more", found.facts.len() - FACTS), None);
                }
                page.add(
                    format!("    What to do: {}", found.what_to_do(diagnosis.process)),
                    None,
                );
            }
            let unknown = unknown(broker, now);
            for (what, why) in unknown.iter().take(UNKNOWN) {
                page.add(format!("  unknown: {what}: {}", cut(why, TEXT)), None);
            }
            if unknown.len() > UNKNOWN {
                page.add(
                    format!("  and {} more unknown", unknown.len() - UNKNOWN),
                    None,
                );
            }
            for (what, why) in not_read(broker, now) {
                page.add(format!("  not read: {what}: {}", cut(&why, TEXT)), None);
            }
        }
        if brokers.len() > BROKERS {
            page.add(
                format!("and {} more brokers", brokers.len() - BROKERS),
                None,
            );
        }
        page
    }

    fn add(&mut self, text: String, level: Option<Level>) {
        // A broker chooses the names of its threads: they must not control the terminal.
        let text = text.replace(|c| c == '\n' || is_unseen(c), " ");
        self.lines.push(Line { text, level });
    }

    /// Plain text that begins with `OK: `, `WARNING: `, `CRITICAL: ` or `UNKNOWN: `.
    pub fn text(&self) -> String {
        self.lines.iter().fold(String::new(), |mut out, line| {
            out.extend([&line.text, "\n"]);
            out
        })
    }

    /// The text with the colours of a terminal.
    pub fn coloured(&self) -> String {
        let mut out = String::new();
        for Line { text, level } in &self.lines {
            let colour = match level {
                Some(Level::Critical) => 31,
                Some(Level::Warning) => 33,
                Some(Level::Ok) => 32,
                Some(Level::Unknown) => 36,
                None => {
                    out.extend([text, "\n"]);
                    continue;
                }
            };
            // Writing to a string cannot fail.
            let _ = writeln!(out, "\x1b[1;{colour}m{text}\x1b[0m");
        }
        out
    }
}

fn words(vital: &Vital) -> String {
    let notes = if vital.notes.is_empty() {
        String::new()
    } else {
        format!(" ({})", vital.notes.join(", "))
    };
    format!("{} {}{notes}", vital.name, vital.value)
}

/// Joins the words into lines, as many in each as fit.
fn flow(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines
            .last_mut()
            .filter(|line| line.chars().count() + word.chars().count() + 2 <= COLUMNS)
        {
            Some(line) => {
                line.push_str("; ");
                line.push_str(&word);
            }
            None => lines.push(word),
        }
    }
    lines
}
