//! What a broker answers, and what it, its metadata log and ZooKeeper say of the cluster.

use super::families::Families;
use crate::expose::metrics::*;
use crate::model::{BrokerSnapshot, Moment, Probe, Snapshot};

/// The most series of [`PARTITION_ISR`] that one exporter exports.
const MAX_PARTITION_SERIES: usize = 200;
/// Likewise of [`GROUP_LAG`].
const MAX_LAG_SERIES: usize = 1000;
/// Likewise of [`CLUSTER_BROKER_STATE`].
const MAX_BROKER_SERIES: usize = 64;

pub(super) fn cluster(f: &mut Families, broker: &BrokerSnapshot, now: Moment) {
    let label = broker.label.as_str();
    if let Some(log) = broker.metadata_log.fresh(now) {
        f.add(&METADATA_LOG_OFFSET, &[label], log.end_offset as f64);
        let age = now.since(log.arrived).as_secs_f64();
        f.add(&METADATA_LOG_AGE, &[label], age);
    }
    if let Some(members) = broker.member_counts(now) {
        for (state, count) in [
            ("registered", members.registered),
            ("fenced", members.fenced),
            ("unregistered", members.unregistered),
        ] {
            f.add(&CLUSTER_BROKERS, &[label, state], count as f64);
        }
    }
    let Some(counts) = broker.own_partitions(now) else {
        return;
    };
    f.add(&LEADER, &[label], counts.leader as f64);
    f.add(&UNDER_REPLICATED, &[label], counts.under_replicated as f64);
    f.add(&LEADER_ALONE, &[label], counts.isr_leader_alone as f64);
    f.add(&NOT_IN_ISR, &[label], counts.not_in_isr as f64);
    for (metric, count) in [
        (&UNDER_MIN_ISR, counts.under_min_isr),
        (&AT_MIN_ISR, counts.at_min_isr),
        (&REASSIGNING, counts.reassigning),
    ] {
        f.add(metric, &[label], count.map(|count| count as f64));
    }
}

pub(super) fn zookeeper(f: &mut Families, broker: &BrokerSnapshot, now: Moment) {
    let Some(report) = broker.zookeeper.fresh(now) else {
        return;
    };
    let label = broker.label.as_str();
    f.add(&REGISTERED, &[label], f64::from(report.is_registered()));
    let is_controller = broker
        .broker
        .id
        .is_some_and(|id| report.controller == Some(id));
    f.add(&CONTROLLER, &[label], f64::from(is_controller));
}

pub(super) fn probes(f: &mut Families, broker: &BrokerSnapshot, now: Moment) {
    let label = broker.label.as_str();
    let success = |probe: Option<&Probe>| probe.map(|probe| f64::from(probe.success()));
    let report = broker.probes.fresh(now);
    for (path, probe) in [
        ("api", report.and_then(|report| report.api.as_ref())),
        ("network", report.and_then(|report| report.network.as_ref())),
        (
            "metadata",
            report.and_then(|report| report.metadata.as_ref()),
        ),
        ("fetch", broker.fetch.fresh(now)),
    ] {
        f.add(&PROBE_SUCCESS, &[label, path], success(probe));
        f.add(
            &PROBE_DURATION,
            &[label, path],
            probe.map(|probe| probe.duration.as_secs_f64()),
        );
    }
    let Some(report) = report else {
        return;
    };
    for one in &report.listeners {
        let labels = [label, &one.listener];
        if report.listeners.len() > 1 {
            f.add(&LISTENER_PROBE_SUCCESS, &labels, success(Some(&one.probe)));
            let duration = one.probe.duration.as_secs_f64();
            f.add(&LISTENER_PROBE_DURATION, &labels, duration);
        }
        let end = one.certificate_end.map(Moment::seconds);
        f.add(&CERTIFICATE_END, &labels, end);
    }
    for of in &report.peers {
        let peer = of.peer.id.to_string();
        f.add(
            &PEER_PROBE_SUCCESS,
            &[label, &peer, "connect"],
            success(Some(&of.connect)),
        );
        f.add(
            &PEER_PROBE_SUCCESS,
            &[label, &peer, "api"],
            success(of.api.as_ref()),
        );
    }
}

pub(super) fn partitions(f: &mut Families, snapshot: &Snapshot, now: Moment) {
    let known: Vec<_> = snapshot
        .brokers
        .iter()
        .filter_map(|broker| Some((broker, broker.partitions(now)?)))
        .collect();
    if known.is_empty() {
        return;
    }
    let under_replicated_partitions = || {
        known.iter().flat_map(|(broker, counts)| {
            counts
                .under_replicated_partitions
                .iter()
                .map(move |one| (broker, one))
        })
    };
    for (broker, one) in under_replicated_partitions().take(MAX_PARTITION_SERIES) {
        let labels = [&broker.label, &one.topic, &one.partition.to_string()];
        f.add(
            &PARTITION_ISR,
            &labels.map(String::as_str),
            f64::from(one.isr),
        );
    }
    let left_out: u64 = known
        .iter()
        .map(|(_, counts)| counts.under_replicated_left_out)
        .sum();
    let left_out = left_out
        + under_replicated_partitions()
            .skip(MAX_PARTITION_SERIES)
            .count() as u64;
    f.add(&LEFT_OUT, &["partition_isr_replicas"], left_out as f64);
}

pub(super) fn groups(f: &mut Families, snapshot: &Snapshot, now: Moment) {
    let running = snapshot.brokers.iter().filter(|b| b.ended.is_none());
    let known: Vec<_> = running
        .filter_map(|broker| Some((&*broker.label, broker.groups.fresh(now)?)))
        .filter(|(_, report)| report.silence.is_none())
        .collect();
    if known.is_empty() {
        return;
    }
    for (label, report) in &known {
        for (state, count) in &report.states {
            f.add(&GROUPS, &[*label, state.name()], *count as f64);
        }
    }
    let all: usize = known.iter().map(|(_, report)| report.lags.len()).sum();
    let lags = known
        .iter()
        .flat_map(|(label, report)| report.lags.iter().map(move |lag| (*label, lag)));
    for (label, lag) in lags.take(MAX_LAG_SERIES) {
        f.add(
            &GROUP_LAG,
            &[label, &lag.group, &lag.topic],
            lag.records as f64,
        );
    }
    let left_out: u64 = known.iter().map(|(_, report)| report.lags_left_out).sum();
    let left_out = left_out + all.saturating_sub(MAX_LAG_SERIES) as u64;
    f.add(&LEFT_OUT, &["consumer_group_lag"], left_out as f64);
}

pub(super) fn members_not_well(f: &mut Families, snapshot: &Snapshot, now: Moment) {
    let running = snapshot.brokers.iter().filter(|b| b.ended.is_none());
    let known: Vec<_> = running
        .filter_map(|broker| Some((&broker.label, broker.members_not_well(now)?)))
        .collect();
    if known.is_empty() {
        return;
    }
    let mut added = 0;
    for (label, members) in &known {
        for (id, state) in members.iter().take(MAX_BROKER_SERIES - added) {
            let labels = [label, &*id.to_string(), state.name()];
            f.add(&CLUSTER_BROKER_STATE, &labels, 1.0);
            added += 1;
        }
    }
    let all: usize = known.iter().map(|(_, members)| members.len()).sum();
    let left_out = (all - added) as f64;
    f.add(&LEFT_OUT, &["cluster_broker_state"], left_out);
}
