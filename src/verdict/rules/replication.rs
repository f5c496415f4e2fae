//! Rules about the broker's place in its cluster: partitions, the replica of the metadata log, registration.

use std::sync::Arc;
use std::time::Duration;

use super::super::finding::FindingId;
use super::super::finding_state::RuleResult::{self, Absent, Present, Unknown};
use super::super::memory::{DECIDING, is_closed};
use super::super::standing::Standing;
use super::super::views::Views;
use super::case::Case;
use super::requests::api_unresponsive;
use crate::model::text::first_of;
use crate::model::{
    BrokerSnapshot, ClusterCounts, ClusterSource, Elsewhere, LostFollower, OwnRegistration, Probe,
    brief_text, clock_text, duration_text,
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
    let down = case.memory.unavailable.down(case.now);
    if !down.is_empty() {
        return format!("down: broker {}", first_of(&down, down.len()));
    }
    let of = |elsewhere: Elsewhere| -> Vec<i32> {
        let lost = counts.lost_followers.iter();
        let lost = lost.filter(|(_, of)| of.elsewhere == elsewhere);
        lost.map(|(id, _)| *id).collect()
    };
    let (behind, in_sync) = (of(Elsewhere::Behind), of(Elsewhere::InSync));
    match (behind.as_slice(), in_sync.as_slice()) {
        ([], []) => "every broker of the cluster is live".into(),
        ([], [one]) => format!(
            "broker {one} is live and in sync with other leaders: check this broker and the network between the two"
        ),
        ([], all) => format!(
            "brokers {} are live and in sync with other leaders: check this broker, not them",
            first_of(all, all.len())
        ),
        (all, _) => format!(
            "broker {} is live and misses in the ISRs of other leaders too: check that one, not this",
            first_of(all, all.len())
        ),
    }
}

/// So many followers or leaders do not fail at once.
const SEVERAL: usize = 2;

/// A leader that serves its followers too late, by what they are to others.
pub(super) fn followers_lost(case: &Case<'_>) -> RuleResult {
    let Some(counts) = case.broker.own_partitions(case.now) else {
        return Unknown;
    };
    let lost = &counts.lost_followers;
    if counts.isr_leader_alone == 0 || lost.len() < SEVERAL {
        return Absent;
    }
    let others = case.memory.unavailable.list();
    // One that was down catches up with one leader after the other.
    let catches_up = |id: i32| {
        let mut known = others.iter().filter(|other| other.id == id);
        known.any(|other| case.memory.follower_catches_up(other.until, case.now))
    };
    let probes = case.broker.probes.fresh(case.now);
    let peers = probes.map_or(&[][..], |probes| &probes.peers);
    let is_cut = |id: i32| {
        let mut cut = peers.iter().filter(|peer| peer.cut.is_some());
        cut.any(|peer| peer.peer.id == id)
    };
    let is_healthy = |(id, of): (&i32, &LostFollower)| {
        of.elsewhere == Elsewhere::InSync && !catches_up(*id) && !is_cut(*id)
    };
    if !lost.iter().all(is_healthy) {
        return Absent;
    }
    Present(vec![
        format!(
            "it is alone in the ISR of {} of the {} partitions that it leads",
            counts.isr_leader_alone, counts.leader
        ),
        format!(
            "brokers {} are live and in sync with other leaders: check this broker, not them",
            first_of(lost.keys(), lost.len())
        ),
    ])
}

/// A follower that several leaders lack, and nobody else.
pub(super) fn replica_behind(case: &Case<'_>) -> RuleResult {
    let Some(counts) = case.broker.own_partitions(case.now) else {
        return Unknown;
    };
    let leaders = &counts.behind_alone;
    if leaders.len() < SEVERAL || case.memory.may_catch_up(case.broker, case.now) {
        return Absent;
    }
    let partitions: u64 = leaders.values().sum();
    Present(vec![format!(
        "brokers {} lead {partitions} partitions that lack this broker in the ISR, and no other live replica",
        first_of(leaders.keys(), leaders.len())
    )])
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
            "{got}, while one is due every {}: the controllers have no quorum, or it does not reach them",
            brief_text(pulse)
        )]),
        (None, Some(_)) => Absent,
        // Where no record is due, silence says nothing.
        (None, None) => Unknown,
    }
}

/// Records of the metadata log are due twice a second.
const CONTROLLER_SILENT: Duration = Duration::from_secs(3);

/// The broker answers as if it were a part of the cluster, and for another one it is not, or leads something else.
pub(super) fn stale_view(case: &Case<'_>) -> RuleResult {
    let (broker, memory, now) = (case.broker, case.memory, case.now);
    if broker.cluster.fresh(now).is_none() || broker.peer_view.last().is_none() {
        return Unknown;
    }
    let probes = broker.probes.fresh(now);
    let answers = probes
        .and_then(|probes| probes.first())
        .is_some_and(Probe::success);
    if !answers || memory.shuts_down(now) || is_closed(broker, now) {
        return Absent;
    }
    // What has been found stands until a peer that can be asked refutes it.
    if memory.is_active(FindingId::StaleView) && !Standing::is_compared(broker, now) {
        return Unknown;
    }
    let whose = |peer: &ClusterCounts| match peer.source {
        ClusterSource::Peer(id) => format!("broker {id}"),
        ClusterSource::Own | ClusterSource::Log | ClusterSource::ZooKeeper => {
            "another broker".to_owned()
        }
    };
    let outdated = || memory.standing.outdated_by(broker, now);
    let fact = if let Some(peer) = memory.standing.unlisted_by(broker, now) {
        let live = peer.live_brokers.iter().map(|one| one.id);
        format!(
            "it answers, and {} lists the live brokers {} without it",
            whose(peer),
            first_of(live, peer.live_brokers.len())
        )
    } else if let Some((led, peer)) = outdated() {
        format!(
            "it says that it leads {led} partitions, as it did before, while {} has seen that change to {}",
            whose(peer),
            peer.leader
        )
    } else {
        return Absent;
    };
    let log = broker.metadata_log.fresh(now);
    let silence = log
        .filter(|log| log.pulse.is_some())
        .map(|log| now.since(log.arrived));
    let silence = silence.filter(|silence| *silence >= CONTROLLER_SILENT);
    let silence = silence.map(|silence| {
        format!(
            "it has got no record of the controller for {}",
            duration_text(silence)
        )
    });
    let zookeeper = memory.standing.zookeeper_failure.clone().flatten();
    Present([fact].into_iter().chain(silence).chain(zookeeper).collect())
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
    if !case.memory.standing.is_unregistered(case.now) {
        return Absent;
    }
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
