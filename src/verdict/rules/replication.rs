//! Rules about the broker's place in its cluster: partitions, the replica of the metadata log, registration.

use std::sync::Arc;
use std::time::Duration;

use super::super::finding::FindingId;
use super::super::finding_state::RuleResult::{self, Absent, Present, Unknown};
use super::super::memory::{DECIDING, is_closed};
use super::super::views::Views;
use super::case::Case;
use super::requests::api_unresponsive;
use crate::model::text::first_of;
use crate::model::{
    BrokerSnapshot, ClusterCounts, ClusterSource, OwnRegistration, brief_text, clock_text,
    duration_text,
};

pub(super) fn offline_partitions(case: &Case<'_>) -> RuleResult {
    let Some(counts) = case.broker.partitions(case.now) else {
        return Unknown;
    };
    match counts.offline {
        0 => Absent,
        n => Present(vec![format!(
            "{n} of {} partitions of the cluster are offline",
            counts.partitions
        )]),
    }
}

/// Partitions that this broker leads and whose ISR lacks followers.
pub(super) fn followers_missing(
    case: &Case<'_>,
    count: fn(&ClusterCounts) -> Option<u64>,
) -> RuleResult {
    let Some(counts) = case.broker.own_partitions(case.now) else {
        return Unknown;
    };
    match count(counts) {
        None => Unknown,
        Some(0) => Absent,
        Some(n) => Present(vec![
            format!("{n} of the {} partitions that it leads", counts.leader),
            cause(case, counts),
        ]),
    }
}

/// Which brokers to check: a stuck leader removes healthy followers from the ISR, so the missing replicas mislead.
fn cause(case: &Case<'_>, counts: &ClusterCounts) -> String {
    let source = match counts.source {
        ClusterSource::Peer(peer) => Some(format!("reported by broker {peer}")),
        ClusterSource::ZooKeeper => Some("read from ZooKeeper".to_owned()),
        ClusterSource::Own | ClusterSource::Log => None,
    };
    if let Some(source) = source {
        return format!(
            "{source} because this one is silent or suspect: check this one, not its followers"
        );
    }
    if DECIDING.into_iter().any(|id| case.memory.is_active(id)) {
        return "this broker is gray: check this one, not its followers".into();
    }
    let down: Vec<String> = case
        .memory
        .unavailable
        .down(case.now)
        .iter()
        .map(i32::to_string)
        .collect();
    match down.is_empty() {
        true => "every broker of the cluster is live".into(),
        false => format!("down: broker {}", down.join(", ")),
    }
}

pub(super) fn broker_fenced(case: &Case<'_>) -> RuleResult {
    let Some(own) = case.broker.own_registration(case.now) else {
        return Unknown;
    };
    let queues = case.broker.accept_queues.fresh(case.now);
    let listens =
        queues.is_none_or(|queues| !queues.is_empty()) && !is_closed(case.broker, case.now);
    // A broker that starts or shuts down is fenced.
    let expected = case.memory.shuts_down(case.now)
        || case.memory.may_be_fenced(case.broker, case.now)
        || !listens;
    if !own.fenced || expected {
        return Absent;
    }
    let all = case.broker.registrations(case.now).into_iter().flatten();
    let fenced = all.filter(|(_, of)| of.fenced).count() as u64;
    let others = match fenced - 1 {
        0 => "no other broker is fenced".to_owned(),
        n => format!("{n} other brokers of the cluster are fenced too"),
    };
    Present(vec!["the metadata log says so".into(), others])
}

/// A node that has just started does not follow the log yet.
const FOLLOWS_AFTER: Duration = Duration::from_secs(60);

pub(super) fn metadata_stalled(case: &Case<'_>) -> RuleResult {
    let (broker, now) = (case.broker, case.now);
    let Some(log) = broker.metadata_log.fresh(now) else {
        return Unknown;
    };
    let started = broker.broker.started;
    if started.is_some_and(|at| now.since(at) < FOLLOWS_AFTER) || is_closed(broker, now) {
        return Absent;
    }
    if !log.is_silent(now) {
        return Absent;
    }
    // Of the same cluster: any process may claim to be a node of it.
    let is_sibling = |other: &&Arc<BrokerSnapshot>| {
        let (own, other) = (&broker.broker, &other.broker);
        other.is_of_same_cluster(own) && other.is_of_same_user(own)
    };
    let siblings = case.snapshot.brokers.iter().filter(is_sibling);
    let logs = siblings.filter_map(|other| Some((&other.label, other.metadata_log.fresh(now)?)));
    let ahead = logs.filter(|(_, of)| of.end_offset > log.end_offset);
    let ahead = ahead.max_by_key(|(_, of)| of.end_offset);
    let got = format!(
        "no record for {} after offset {}",
        duration_text(now.since(log.arrived)),
        log.end_offset
    );
    match (ahead, log.pulse) {
        (Some((label, of)), _) => Present(vec![format!(
            "{got}, while the replica of node {label} has reached {}",
            of.end_offset
        )]),
        (None, Some(pulse)) if !log.is_current(now) => Present(vec![format!(
            "{got}, while one is due every {}",
            brief_text(pulse)
        )]),
        (None, Some(_)) => Absent,
        // Where no record is due, silence says nothing.
        (None, None) => Unknown,
    }
}

pub(super) fn views_diverge(case: &Case<'_>) -> RuleResult {
    let Some(views) = Views::of(case.broker, case.now) else {
        return Unknown;
    };
    match (views.differences(), case.memory.views_agreed) {
        (differences, _) if differences.is_empty() => Absent,
        // Access rights may hide topics from Metadata.
        (_, false) => Unknown,
        (differences, true) if case.memory.is_settled(&views) => Present(differences),
        // Metadata may be older than the newest change.
        (_, true) => Unknown,
    }
}

/// After the rule of the silence, on which this one rests.
pub(super) fn registered_but_dead(case: &Case<'_>) -> RuleResult {
    let Some(report) = case.broker.zookeeper.fresh(case.now) else {
        return Unknown;
    };
    let silent = case.memory.is_active(FindingId::ApiUnresponsive);
    match &report.registration {
        OwnRegistration::Registered { since, endpoint } if silent => Present(vec![format!(
            "ZooKeeper ({}) lists it with {endpoint} since {}",
            report.server,
            clock_text(*since)
        )]),
        // Nothing was asked, so that it answers is not known.
        OwnRegistration::Registered { .. } if api_unresponsive(case) == Unknown => Unknown,
        _ => Absent,
    }
}

pub(super) fn not_registered(case: &Case<'_>) -> RuleResult {
    let (Some(report), Some(id)) = (case.broker.zookeeper.fresh(case.now), case.broker.broker.id)
    else {
        return Unknown;
    };
    let Some(probes) = case.broker.probes.fresh(case.now) else {
        return Unknown;
    };
    // One that is silent, or ends, has other findings.
    let answer = probes.first().filter(|probe| probe.success());
    let (OwnRegistration::Missing, Some(answer)) = (&report.registration, answer) else {
        return Absent;
    };
    let others = match report.brokers.len() {
        0 => "no broker at all: check ZooKeeper first".to_owned(),
        all => format!("broker {}", first_of(&*report.brokers, all)),
    };
    Present(vec![
        format!(
            "it answers in {} ms, and ZooKeeper ({}) does not list {id}",
            answer.duration.as_millis(),
            report.server
        ),
        format!("ZooKeeper lists {others}"),
    ])
}
