//! `kafka-vitals check`: one page for a terminal, with the first line and the exit code of a monitoring plugin.

use crate::diagnose::View;
use crate::diagnose::finding::Severity;
use crate::diagnose::verdict::clock;
use crate::snapshot::Moment;

use super::overview::{Level, overview, worst_first};
use super::vitals::{cut, unknown, vitals};

const COLUMNS: usize = 110;
const FACTS: usize = 6;
const UNKNOWN: usize = 6;
const TEXT: usize = 300;

/// As monitoring plugins end: 0 is well, 1 a warning, 2 critical, 3 unknown.
pub fn exit_code(view: &View) -> u8 {
    match overview(view, &|_| None).level {
        Level::Ok => 0,
        Level::Warning => 1,
        Level::Critical => 2,
        Level::Unknown => 3,
    }
}

/// The page; `colour` only where a terminal shows it.
pub fn text(view: &View, now: Moment, colour: bool) -> String {
    let mut page = Page { out: String::new(), colour };
    let overview = overview(view, &|_| None);
    let first = overview.sentences.first().map(String::as_str).unwrap_or_default();
    page.line(Some(overview.level), &format!("{}: {first}", overview.level.name()));
    overview.sentences.iter().skip(1).for_each(|sentence| page.line(None, sentence));
    for doubt in view.snapshot.doubts.iter().take(UNKNOWN) {
        page.line(None, &format!("note: {}", cut(doubt, TEXT)));
    }
    for (broker, diagnosis) in worst_first(view) {
        page.out.push('\n');
        let level = Level::of(diagnosis);
        page.line(Some(level), &format!("Broker {}: {}", broker.label, diagnosis.state.name()));
        let mut words = Vec::new();
        if broker.ended.is_none() {
            for vital in vitals(&view.snapshot, broker, diagnosis, now) {
                let notes =
                    if vital.notes.is_empty() { String::new() } else { format!(" ({})", vital.notes.join(", ")) };
                words.push(format!("{} {}{notes}", vital.name, vital.value));
            }
        }
        page.flow(&words);
        for found in &diagnosis.findings {
            let kind = found.id.kind();
            let since = clock(found.since);
            if kind.severity == Severity::Info {
                page.line(None, &format!("  {}: {}. {}", kind.severity.name(), kind.title, kind.what_to_do));
                continue;
            }
            let level = if kind.severity == Severity::Critical { Level::Critical } else { Level::Warning };
            page.line(Some(level), &format!("  {}: {}, since {since}", kind.severity.name(), kind.title));
            found.facts.iter().take(FACTS).for_each(|fact| page.line(None, &format!("    {}", cut(fact, TEXT))));
            if found.facts.len() > FACTS {
                page.line(None, &format!("    and {} more", found.facts.len() - FACTS));
            }
            page.line(None, &format!("    What to do: {}", kind.what_to_do));
        }
        for known in diagnosis.known_issues.iter().take(FACTS) {
            let likely = if known.exact { "" } else { " (by likeness)" };
            let fixed = if known.fixed_in.is_empty() {
                "no release with a fix is known".to_owned()
            } else {
                format!("fixed in {}", known.fixed_in.join(", "))
            };
            page.line(None, &format!("  {}{likely}: {}; {fixed}", known.issue, known.title));
        }
        let unknown = unknown(broker, now);
        for (what, why) in unknown.iter().take(UNKNOWN) {
            page.line(None, &format!("  unknown: {what}: {}", cut(why, TEXT)));
        }
        if unknown.len() > UNKNOWN {
            page.line(None, &format!("  and {} more unknown", unknown.len() - UNKNOWN));
        }
    }
    page.out
}

struct Page {
    out: String,
    colour: bool,
}

impl Page {
    /// Names of threads are the broker's to choose: none of them is to steer the terminal.
    fn line(&mut self, level: Option<Level>, text: &str) {
        let colour = level.filter(|_| self.colour).map(|level| match level {
            Level::Ok => "\x1b[1;32m",
            Level::Unknown => "\x1b[1;36m",
            Level::Warning => "\x1b[1;33m",
            Level::Critical => "\x1b[1;31m",
        });
        self.out.push_str(colour.unwrap_or_default());
        self.out.extend(text.chars().map(|c| if c.is_control() { ' ' } else { c }));
        self.out.push_str(if colour.is_some() { "\x1b[0m\n" } else { "\n" });
    }

    /// One after the other, as many in a line as fit.
    fn flow(&mut self, words: &[String]) {
        let mut line = String::new();
        for word in words {
            if !line.is_empty() && line.chars().count() + word.chars().count() + 2 > COLUMNS {
                self.line(None, &line);
                line.clear();
            }
            line.push_str(if line.is_empty() { "  " } else { "; " });
            line.push_str(word);
        }
        if !line.is_empty() {
            self.line(None, &line);
        }
    }
}
