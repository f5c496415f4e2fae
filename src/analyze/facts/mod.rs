//! What each file says about each broker: one file here for each kind of artifact.

mod dumps;
mod exporter;
mod groups;
mod logs;
mod sockets;
mod topics;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::artifact::File;
use super::bundle::Bundle;
use super::dumps::Analysis;
use super::explanation::{Fact, FactKind};
use super::formats::zookeeper;
use super::names::{Name, Names, Owner};
use super::signals::{Signal, Signals};
use super::stalls;

/// A broker that works closes soon what its clients closed: this many that it did not close are no accident.
const MANY: u64 = 10;

/// Partitions listed in one sentence.
const LISTED: usize = 40;

struct Gathering<'a> {
    signals: BTreeMap<Name, Signals>,
    elsewhere: Vec<Fact>,
    names: &'a Names,
}

/// The signals of each broker, and the facts that are not about one broker.
pub(super) fn gather(
    files: &[File<'_>],
    owners: &[Owner],
    names: &Names,
    analysis: &Analysis,
    bundles: &[Bundle<'_>],
) -> (BTreeMap<Name, Signals>, Vec<Fact>) {
    let signals = names.all().into_iter();
    let mut all = Gathering {
        signals: signals.map(|name| (name, Signals::default())).collect(),
        elsewhere: Vec::new(),
        names,
    };
    for bundle in bundles {
        all.bundle(bundle);
    }
    let sizes = Gathering::topic_sizes(files);
    for (file, owner) in files.iter().zip(owners) {
        let name = owner.as_ref().map(|(name, _)| name);
        all.found(file, name);
        all.dumps(file, owner, analysis);
        all.topics(file);
        all.sockets(file);
        all.fds(file, name);
        all.zookeeper(file);
        all.groups(file, &sizes);
        if let Some(log) = &file.log {
            all.broker_log(file, log, name.filter(|_| log.broker));
            all.client_log(file, log);
        }
    }
    for stall in stalls::find(files, owners) {
        all.stall(stall, files, owners);
    }
    all.ends_of_logs(files, owners);
    (all.signals, all.elsewhere)
}

impl Gathering<'_> {
    fn of(&mut self, name: Option<&Name>) -> Option<&mut Signals> {
        self.signals.get_mut(name?)
    }

    /// Adds a signal of one broker, or a fact that is not about one. Of names beyond the bound of [`Names`] nothing is
    /// kept.
    fn add(&mut self, name: Option<&Name>, signal: Signal) {
        match name {
            None => self.elsewhere.push(signal.fact),
            Some(name) => {
                if let Some(signals) = self.signals.get_mut(name) {
                    signals.facts.push(signal);
                }
            }
        }
    }

    fn zookeeper(&mut self, file: &File<'_>) {
        let registered = zookeeper::registered(file.text).into_iter().flatten();
        for id in registered.collect::<BTreeSet<i32>>() {
            let text = "registered in ZooKeeper: its session is alive";
            let fact = fact(FactKind::Registered, file, text, &[]);
            self.add(Some(&Name::Id(id)), fact.alone());
        }
    }
}

fn fact(
    kind: FactKind,
    file: &File<'_>,
    text: impl Into<String>,
    figures: &[(&'static str, u64)],
) -> Fact {
    Fact {
        against: None,
        kind,
        source: file.source.to_owned(),
        text: text.into(),
        figures: figures.iter().copied().collect(),
        partitions: Vec::new(),
    }
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(", ")
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// `t 1, 7, 10; u 0`, at most [`LISTED`] partitions.
fn by_topic<'a>(partitions: impl Iterator<Item = (&'a str, u32)>) -> String {
    let mut by_topic: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    let mut left_out = 0;
    for (number, (topic, partition)) in partitions.enumerate() {
        if number < LISTED {
            by_topic.entry(topic).or_default().insert(partition);
        } else {
            left_out += 1;
        }
    }
    let by_topic: Vec<String> = by_topic
        .iter()
        .map(|(topic, numbers)| format!("{topic} {}", list(numbers)))
        .collect();
    let mut text = by_topic.join("; ");
    if left_out > 0 {
        let _ = write!(text, " and {left_out} more");
    }
    text
}
