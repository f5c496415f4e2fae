//! What was found about one broker.

use std::collections::BTreeSet;

use super::explanation::Fact;
use super::names::Name;
use crate::model::NamedIssue;

/// What was gathered of one broker.
#[derive(Default)]
pub struct Signals {
    pub facts: Vec<Signal>,
    /// Indexes into [`Analysis::deadlocks`].
    pub deadlocks: Vec<usize>,
    /// Of stalls, and those that an exporter named.
    pub known_issues: Vec<NamedIssue>,
    /// A dump with a deadlock, or with a stall, is this broker's by more than its file's name.
    pub surely_its_dump: bool,
    /// It was gray when its bundle was saved.
    pub judged_gray: bool,
    pub version: Option<String>,
}

pub struct Signal {
    pub fact: Fact,
    /// Brokers that suffer by it, where any are known.
    pub sufferers: BTreeSet<Name>,
}
