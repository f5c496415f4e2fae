//! Small made-up files of every kind, with what they show.

mod cluster;
mod host;
mod logs;
mod metadata_log;
mod sockets;

use super::{Explanation, Fact, FactKind, Form, Verdict, explain, report};

fn explained(files: &[(&str, &str)]) -> Explanation {
    let files: Vec<_> = files
        .iter()
        .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
        .collect();
    explain(&files)
}

fn all(found: &Explanation) -> impl Iterator<Item = &Fact> {
    let of_brokers = found.brokers.iter().flat_map(|broker| &broker.facts);
    of_brokers.chain(&found.elsewhere)
}

/// The only fact of a kind.
fn one(found: &Explanation, kind: FactKind) -> &Fact {
    let facts: Vec<&Fact> = all(found).filter(|fact| fact.kind == kind).collect();
    let [fact] = facts.as_slice() else {
        panic!("{kind:?}: {}", report::explained(found))
    };
    fact
}

fn has(found: &Explanation, kind: FactKind) -> bool {
    all(found).any(|fact| fact.kind == kind)
}

fn figures(fact: &Fact) -> Vec<(&str, u64)> {
    fact.figures
        .iter()
        .map(|(name, figure)| (*name, *figure))
        .collect()
}

fn verdict(found: &Explanation, broker: &str) -> Option<Verdict> {
    let found = found.brokers.iter().find(|known| known.broker == broker);
    Some(found?.verdict)
}

/// Of a broker's facts those that speak against it.
fn against(found: &Explanation, broker: &str) -> Vec<FactKind> {
    let broker = found.brokers.iter().find(|known| known.broker == broker);
    let facts = broker.into_iter().flat_map(|broker| &broker.facts);
    facts
        .filter(|fact| fact.against.is_some())
        .map(|fact| fact.kind)
        .collect()
}

fn only_forms(found: &Explanation) -> &[Form] {
    let [file] = found.files.as_slice() else {
        panic!("{}", report::explained(found))
    };
    &file.forms
}

const STARTED: &str =
    "[2024-01-02 03:04:05,678] INFO [KafkaServer id=ID] started (kafka.server.KafkaServer)\n";

const LOST: &str = "[2024-01-02 03:04:06,678] WARN [ReplicaFetcher replicaId=ID, leaderId=2, fetcherId=0] Error in fetch (kafka.server.ReplicaFetcherThread)\n\
                    java.io.IOException: Connection to 2 was disconnected before the response was read\n";

fn lsof(own: &str, others: impl Iterator<Item = u32>) -> String {
    let line =
        |n| format!("java 81068 kafka {n}u IPv6 4711 0t0 TCP {own}->10.0.0.7:{n} (CLOSE_WAIT)\n");
    others.map(line).collect()
}
