//! Where the facts of all kinds of artifacts are gathered, and how their sentences list things.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::analyze::artifact::File;
use crate::analyze::explanation::{Fact, FactKind};
use crate::analyze::names::{Name, Names};
use crate::analyze::signals::{Signal, Signals};

/// A broker that works closes soon what its clients closed: this many that it did not close are no accident.
pub(super) const MANY: u64 = 10;

/// Partitions listed in one sentence.
const LISTED: usize = 40;

/// The signals that were found so far.
pub(super) struct Gathering<'a> {
    pub(super) signals: BTreeMap<Name, Signals>,
    pub(super) elsewhere: Vec<Fact>,
    pub(super) names: &'a Names,
}

impl Gathering<'_> {
    pub(super) fn of(&mut self, name: Option<&Name>) -> Option<&mut Signals> {
        self.signals.get_mut(name?)
    }

    /// Adds a signal of one broker, or a fact that is not about one. Of names beyond the bound of [`Names`] nothing is
    /// kept.
    pub(super) fn add(&mut self, name: Option<&Name>, signal: Signal) {
        match name {
            None => self.elsewhere.push(signal.fact),
            Some(name) => {
                if let Some(signals) = self.signals.get_mut(name) {
                    signals.facts.push(signal);
                }
            }
        }
    }
}

/// A line break in `text`, as JSON may contain, would forge a line of the answer.
pub(super) fn fact(
    kind: FactKind,
    file: &File<'_>,
    text: impl Into<String>,
    figures: &[(&'static str, u64)],
) -> Fact {
    Fact {
        against: None,
        kind,
        source: file.source.to_owned(),
        text: text.into().replace(['\n', '\r'], " "),
        figures: figures.iter().copied().collect(),
        partitions: Vec::new(),
    }
}

pub(super) fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(", ")
}

pub(super) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// `t 1, 7, 10; u 0`, at most [`LISTED`] partitions.
pub(super) fn by_topic<'a>(partitions: impl Iterator<Item = (&'a str, u32)>) -> String {
    let mut topics: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    let mut left_out = 0;
    for (number, (topic, partition)) in partitions.enumerate() {
        if number < LISTED {
            topics.entry(topic).or_default().insert(partition);
        } else {
            left_out += 1;
        }
    }
    let topics = topics.iter();
    let topics: Vec<String> = topics
        .map(|(topic, numbers)| format!("{topic} {}", list(numbers)))
        .collect();
    let mut text = topics.join("; ");
    if left_out > 0 {
        let _ = write!(text, " and {left_out} more");
    }
    text
}
