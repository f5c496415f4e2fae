//! `kafka-vitals check`: one page for a terminal, with the first line and the exit code of a monitoring plugin. The
//! exporter serves the same at `/check`.

use std::fmt::Write as _;

use super::overview::{Level, overview, worst_first};
use super::vitals::{Vital, cut, unknown, vitals};
use crate::model::EvidenceStatus;
use crate::model::Moment;
use crate::model::clock_text;
use crate::verdict::View;
use crate::verdict::finding::Severity;

const COLUMNS: usize = 120;
/// Brokers told in full, the worst first.
const BROKERS: usize = 8;
const FACTS: usize = 6;
const UNKNOWN: usize = 6;
const TEXT: usize = 300;

/// Plain text that begins with `OK: `, `WARNING: `, `CRITICAL: ` or `UNKNOWN: `.
pub fn text(view: &View, saved: &EvidenceStatus, now: Moment) -> String {
    let overview = overview(view, saved);
    let mut out = String::new();
    let mut line = |text: &str| {
        // Names of threads are the broker's to choose: none of them is to steer the terminal.
        out.extend(text.chars().map(|c| if c.is_control() { ' ' } else { c }));
        out.push('\n');
    };
    for (index, sentence) in overview.sentences.iter().enumerate() {
        let level = if index == 0 {
            format!("{}: ", overview.level.name())
        } else {
            String::new()
        };
        line(&format!("{level}{sentence}"));
    }
    for doubt in view.snapshot.discovery_warnings.iter().take(UNKNOWN) {
        line(&format!("note: {}", cut(doubt, TEXT)));
    }
    let brokers = worst_first(view);
    for (broker, diagnosis) in brokers.iter().take(BROKERS) {
        let mut vitals = match broker.ended {
            None => vitals(&view.snapshot, broker, diagnosis, now),
            Some(_) => Vec::new(),
        };
        let mut head = format!("Broker {}: {}", broker.label, diagnosis.state.name());
        vitals
            .pop()
            .iter()
            .for_each(|kafka| head.extend(["; ", &words(kafka)]));
        for found in diagnosis
            .findings
            .iter()
            .filter(|found| found.id.kind().severity == Severity::Info)
        {
            head.extend(["; ", found.id.kind().title]);
        }
        line("");
        line(&head);
        flow(vitals.iter().map(words))
            .iter()
            .for_each(|words| line(&format!("  {words}")));
        match diagnosis.evidence(saved) {
            Some(Ok(path)) => line(&format!("  evidence: {path}")),
            Some(Err(why)) => line(&format!("  no evidence is saved: {}", cut(why, TEXT))),
            None => {}
        }
        for found in diagnosis
            .findings
            .iter()
            .filter(|found| found.id.kind().severity > Severity::Info)
        {
            let kind = found.id.kind();
            line(&format!(
                "  {}: {}, since {}",
                kind.severity.name(),
                kind.title,
                clock_text(found.since)
            ));
            found
                .facts
                .iter()
                .take(FACTS)
                .for_each(|fact| line(&format!("    {}", cut(fact, TEXT))));
            if found.facts.len() > FACTS {
                line(&format!("    and {} more", found.facts.len() - FACTS));
            }
            line(&format!("    What to do: {}", kind.what_to_do));
        }
        let unknown = unknown(broker, now);
        for (what, why) in unknown.iter().take(UNKNOWN) {
            line(&format!("  unknown: {what}: {}", cut(why, TEXT)));
        }
        if unknown.len() > UNKNOWN {
            line(&format!("  and {} more unknown", unknown.len() - UNKNOWN));
        }
    }
    if brokers.len() > BROKERS {
        line(&format!("and {} more brokers", brokers.len() - BROKERS));
    }
    out
}

/// As monitoring plugins end, by the first word: 0 is well, 1 a warning, 2 critical, 3 unknown. None for other text.
pub fn exit_code(text: &str) -> Option<u8> {
    let levels = [Level::Ok, Level::Warning, Level::Critical, Level::Unknown];
    let (word, _) = text.split_once(": ")?;
    u8::try_from(levels.iter().position(|level| level.name() == word)?).ok()
}

/// The text with the colours of a terminal.
pub fn coloured(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split([':', ';']).map(str::trim).collect();
        let colour = match words.as_slice() {
            ["CRITICAL" | "critical", ..] | [_, "gray" | "down", ..] => "\x1b[1;31m",
            ["WARNING" | "warning", ..] | [_, "suspect", ..] => "\x1b[1;33m",
            ["OK", ..] | [_, "healthy", ..] => "\x1b[1;32m",
            ["UNKNOWN", ..] | [_, "unknown", ..] => "\x1b[1;36m",
            _ => "",
        };
        let end = if colour.is_empty() { "" } else { "\x1b[0m" };
        let _ = writeln!(out, "{colour}{line}{end}");
    }
    out
}

fn words(vital: &Vital) -> String {
    let notes = if vital.notes.is_empty() {
        String::new()
    } else {
        format!(" ({})", vital.notes.join(", "))
    };
    format!("{} {}{notes}", vital.name, vital.value)
}

/// One after the other, as many in a line as fit.
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
