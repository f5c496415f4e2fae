//! The newest snapshot in Prometheus' text format.

mod cluster;
mod families;

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::model::{
    BrokerSnapshot, CollectorName, Deadlock, EvidenceStatus, Mode, Moment, PoolFindings, Reading,
    Release, Severity, Snapshot, StateCounts, TcpState, rfc3339,
};
use crate::threads::known_issues::exposure::exposures;
use crate::threads::log_signatures::log_signatures;
use crate::verdict::View;
use crate::verdict::finding::{BrokerDiagnosis, BrokerState};
use crate::verdict::forecast::Forecast;
use cluster::{cluster, groups, members_not_well, partitions, probes, zookeeper};
use families::Families;

/// The content type of [`render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The readings and their diagnosis at `now` in the text format.
pub fn render(view: &View, saved: &EvidenceStatus, now: Moment) -> String {
    let snapshot = &*view.snapshot;
    let mut families = Families::default();
    let f = &mut families;
    f.add(
        &BUILD_INFO,
        &[env!("CARGO_PKG_VERSION"), env!("KAFKA_VITALS_REVISION")],
        1.0,
    );
    f.add(
        &MEMORY_MAP_LIMIT,
        &[],
        count(&snapshot.memory_map_limit, now),
    );
    exporter(f, snapshot, now);
    if let Some(success) = snapshot.discovery.success {
        f.add(&COLLECTOR_SUCCESS, &["", "discovery"], f64::from(success));
        f.add(
            &COLLECTOR_DURATION,
            &["", "discovery"],
            snapshot.discovery.duration.as_secs_f64(),
        );
    }
    if snapshot.discovery.success == Some(true) {
        let brokers = snapshot.brokers_left_out as f64;
        f.add(&LEFT_OUT, &["brokers"], brokers);
    }
    for broker in &snapshot.brokers {
        if broker.ended.is_none() {
            info(f, broker);
            process(f, broker, now);
            sockets(f, broker, now);
            threads(f, broker, now);
            log(f, broker, now);
            cluster(f, broker, now);
            zookeeper(f, broker, now);
            probes(f, broker, now);
            collectors(f, broker, now);
        }
        shutdown(f, broker, now);
    }
    let offline = snapshot
        .brokers
        .iter()
        .filter_map(|broker| Some(broker.partitions(now)?.offline));
    f.add(&OFFLINE, &[], offline.max().map(|most| most as f64));
    partitions(f, snapshot, now);
    members_not_well(f, snapshot, now);
    groups(f, snapshot, now);
    view.diagnosis
        .brokers
        .iter()
        .for_each(|broker| diagnosis(f, broker));
    for (label, saved) in &saved.brokers {
        f.add(&BUNDLES, &[label], saved.total as f64);
    }
    let text = families.encode();
    // A comment for people: no metric would keep a server from taking these values for current ones.
    if view.replayed {
        format!(
            "# Replay of {}, not now.\n{text}",
            rfc3339(view.diagnosis.at)
        )
    } else {
        text
    }
}

/// A reading that is a number.
fn count(reading: &Reading<u64>, now: Moment) -> Option<f64> {
    reading.fresh(now).map(|count| *count as f64)
}

/// `None` is unlimited.
fn limit(value: Option<u64>) -> f64 {
    value.map_or(f64::INFINITY, |value| value as f64)
}

fn exporter(f: &mut Families, snapshot: &Snapshot, now: Moment) {
    if let Some(settings) = snapshot.settings {
        let successful = settings.config_file_ok && settings.web_config_file_ok;
        f.add(&RELOAD_SUCCESSFUL, &[], f64::from(successful));
        f.add(&RELOAD_TIME, &[], settings.taken.seconds());
        f.add(&WEB_TLS, &[], f64::from(settings.web_tls));
    }
    let Some(own) = snapshot.exporter.fresh(now) else {
        return;
    };
    f.add(&OWN_CPU, &[], own.cpu_seconds);
    f.add(&OWN_HANDLES, &[], own.open_fds as f64);
    f.add(&OWN_HANDLE_LIMIT, &[], limit(own.handle_limit));
    f.add(&OWN_RESIDENT, &[], own.resident_bytes as f64);
    f.add(&OWN_VIRTUAL, &[], own.virtual_bytes as f64);
    f.add(&OWN_START, &[], own.started.seconds());
    f.add(&OWN_THREADS, &[], own.threads as f64);
}

fn info(f: &mut Families, snapshot: &BrokerSnapshot) {
    let (label, broker) = (snapshot.label.as_str(), &snapshot.broker);
    let mode = match broker.mode {
        Some(Mode::ZooKeeper) => "zookeeper",
        Some(Mode::KRaft) => "kraft",
        None => "",
    };
    let roles: Vec<&str> = broker.roles.iter().map(|role| role.name()).collect();
    let [kafka, java] = [&broker.kafka_version, &broker.java_version]
        .map(|version| version.as_deref().unwrap_or(""));
    let pid = broker.process.pid.to_string();
    let cluster_id = broker.cluster_id.as_deref().unwrap_or_default();
    let roles = roles.join(",");
    let pod = broker.pod.as_ref();
    let [name, namespace] = [
        pod.and_then(|pod| pod.name.as_deref()),
        pod.and_then(|pod| pod.namespace.as_deref()),
    ]
    .map(Option::unwrap_or_default);
    f.add(
        &BROKER_INFO,
        &[
            label, kafka, java, mode, &roles, &pid, cluster_id, name, namespace,
        ],
        1.0,
    );
    let exposures = exposures(broker).ok();
    for known in exposures.iter().flat_map(|known| &known.exposed) {
        let fixed_in: Vec<String> = known.fixed_in.iter().map(Release::to_string).collect();
        f.add(
            &KNOWN_EXPOSED,
            &[label, &known.key, &fixed_in.join(",")],
            1.0,
        );
    }
    f.add(&START_TIME, &[label], broker.started.map(Moment::seconds));
}

fn process(f: &mut Families, broker: &BrokerSnapshot, now: Moment) {
    let label = broker.label.as_str();
    f.add(&OPEN_HANDLES, &[label], count(&broker.open_fds, now));
    if let Some(vitals) = broker.process.fresh(now) {
        f.add(&HANDLE_LIMIT, &[label, "soft"], limit(vitals.fd_limit_soft));
        f.add(&HANDLE_LIMIT, &[label, "hard"], limit(vitals.fd_limit_hard));
        f.add(&RESIDENT, &[label], vitals.resident_bytes as f64);
    }
    for (kind, count) in broker
        .fd_kinds
        .fresh(now)
        .into_iter()
        .flat_map(|kinds| kinds.named())
    {
        f.add(&HANDLE_KINDS, &[label, kind], count as f64);
    }
    f.add(&UNTRACKED, &[label], count(&broker.untracked_sockets, now));
    f.add(&MEMORY_MAPS, &[label], count(&broker.memory_maps, now));
    for space in broker.log_dirs.fresh(now).into_iter().flatten() {
        let labels = [label, &space.dir.display().to_string()];
        f.add(&LOG_DIR_FREE, &labels, space.free_bytes as f64);
        // Some file systems report no size.
        let size = Some(space.total_bytes as f64).filter(|size| *size > 0.0);
        f.add(&LOG_DIR_SIZE, &labels, size);
    }
    let offline = broker.offline_log_dirs.fresh(now);
    f.add(
        &LOG_DIRS_OFFLINE,
        &[label],
        offline.map(|dirs| dirs.len() as f64),
    );
}

fn sockets(f: &mut Families, broker: &BrokerSnapshot, now: Moment) {
    let label = broker.label.as_str();
    if let Some(pulse) = broker.sockets.fresh(now) {
        states(f, label, "in", &pulse.server, |state| {
            state != TcpState::Established
        });
        f.add(
            &UNREAD_CLOSE_WAIT,
            &[label, "in"],
            pulse.unread_close_wait as f64,
        );
    }
    for queue in broker.accept_queues.fresh(now).into_iter().flatten() {
        f.add(
            &ACCEPT_LENGTH,
            &[label, &queue.listener],
            f64::from(queue.length),
        );
        f.add(
            &ACCEPT_LIMIT,
            &[label, &queue.listener],
            queue.limit.map(f64::from),
        );
    }
    if let Some(owners) = broker.connections.fresh(now) {
        let mut established = StateCounts::default();
        *established.get_mut(TcpState::Established) = owners.server_established;
        states(f, label, "in", &established, |state| {
            state == TcpState::Established
        });
        states(f, label, "out", &owners.client, |_| true);
        f.add(
            &UNREAD_CLOSE_WAIT,
            &[label, "out"],
            owners.client_unread_close_wait as f64,
        );
    }
}

fn states(
    f: &mut Families,
    broker: &str,
    direction: &str,
    counts: &StateCounts,
    includes: impl Fn(TcpState) -> bool,
) {
    for state in TcpState::ALL.into_iter().filter(|state| includes(*state)) {
        let count = counts.get(state);
        let labels = [broker, direction, state.name()];
        f.add(&CONNECTIONS, &labels, count.connections as f64);
        // The queues of a listening socket are connections, not bytes.
        if state != TcpState::Listen {
            f.add(&RECEIVE_QUEUE, &labels, count.receive_bytes as f64);
            f.add(&SEND_QUEUE, &labels, count.send_bytes as f64);
        }
    }
}

fn threads(f: &mut Families, broker: &BrokerSnapshot, now: Moment) {
    let label = broker.label.as_str();
    let report = broker.threads.fresh(now);
    if let Some(present) = &broker.deadlock {
        let members = present.deadlocks.iter().map(Deadlock::members);
        let members = members.sum::<usize>() + present.more.threads;
        f.add(&DEADLOCK, &[label], 1.0);
        f.add(&DEADLOCKED_THREADS, &[label], members as f64);
    } else if report.is_some_and(|report| report.not_understood.is_empty()) {
        f.add(&DEADLOCK, &[label], 0.0);
        f.add(&DEADLOCKED_THREADS, &[label], 0.0);
    }
    if let Some(report) = report {
        for (state, count) in &report.by_state {
            f.add(&THREADS, &[label, state], *count as f64);
        }
        if let Some(stalls) = &report.stalls {
            by_pool(f, &STALLED, label, stalls, |stall| {
                (&stall.pool, stall.threads.len())
            });
        }
        if let Some(missing) = &report.missing {
            by_pool(f, &MISSING, label, missing, |thread| {
                (&thread.pool, thread.count)
            });
        }
        let mut waiters: BTreeMap<&str, usize> = BTreeMap::new();
        for queue in &report.convoys {
            *waiters.entry(&queue.lock_class).or_default() += queue.blocked();
        }
        for (class, count) in waiters {
            f.add(&LOCK_WAITERS, &[label, class], count as f64);
        }
        f.add(&DUMP_DURATION, &[label], report.duration.as_secs_f64());
    }
    f.add(
        &JVM_PAUSES,
        &[label],
        broker.jvm_pauses.fresh(now).map(Duration::as_secs_f64),
    );
    for (pool, time) in broker
        .pools
        .fresh(now)
        .into_iter()
        .flat_map(|pools| &**pools)
    {
        f.add(&POOL_CPU, &[label, pool], time.cpu.as_secs_f64());
        f.add(
            &POOL_RUN_QUEUE,
            &[label, pool],
            time.run_queue.as_secs_f64(),
        );
    }
    f.add(&DUMP_AGE, &[label], age(&broker.threads, now));
    for (reason, count) in &broker.dump_failures {
        f.add(&DUMP_FAILURES, &[label, reason.name()], *count as f64);
    }
}

/// A signature that was not seen is 0, so that its first line is an increase.
fn log(f: &mut Families, broker: &BrokerSnapshot, now: Moment) {
    let label = broker.label.as_str();
    let Some(log) = broker.log.fresh(now) else {
        return;
    };
    let known = log_signatures().iter();
    let mut counts: BTreeMap<&str, (Severity, u64)> = known
        .map(|of| (of.name.as_str(), (of.severity, 0)))
        .collect();
    for (name, seen) in &log.signatures {
        counts.insert(name, (seen.severity, seen.count));
    }
    for (name, (severity, count)) in counts {
        f.add(
            &LOG_SIGNATURES,
            &[label, name, severity.name()],
            count as f64,
        );
    }
    f.add(&LOG_SKIPPED, &[label], log.skipped_bytes as f64);
}

fn shutdown(f: &mut Families, broker: &BrokerSnapshot, now: Moment) {
    let log = broker.log.fresh(now);
    let announced = match &broker.last {
        Some(last) => last.announced,
        None => log.map(|log| log.announces_shutdown()),
    };
    f.add(
        &SHUTDOWN_ANNOUNCED,
        &[&broker.label],
        announced.map(f64::from),
    );
}

/// One series for each pool that could be checked.
fn by_pool<T>(
    f: &mut Families,
    metric: &'static Metric,
    broker: &str,
    findings: &PoolFindings<T>,
    count: impl Fn(&T) -> (&str, usize),
) {
    let mut counts: BTreeMap<&str, usize> = findings
        .pools
        .iter()
        .map(|pool| (pool.as_str(), 0))
        .collect();
    for (pool, threads) in findings.found.iter().map(count) {
        *counts.entry(pool).or_default() += threads;
    }
    for (pool, threads) in counts {
        f.add(metric, &[broker, pool], threads as f64);
    }
}

fn diagnosis(f: &mut Families, broker: &BrokerDiagnosis) {
    let label = broker.label.as_str();
    for state in BrokerState::ALL {
        f.add(
            &BROKER_STATE,
            &[label, state.name()],
            f64::from(state == broker.state),
        );
    }
    for id in &broker.evaluated {
        let active = broker.findings.iter().any(|finding| finding.id == *id);
        f.add(
            &FINDING,
            &[label, id.kind().name, id.kind().severity.name()],
            f64::from(active),
        );
    }
    for known in &broker.known_issues {
        f.add(
            &KNOWN_DETECTED,
            &[label, &known.issue, &known.fixed_in.join(",")],
            1.0,
        );
    }
    let forecasts = &broker.forecasts;
    f.add(
        &HANDLE_EXHAUSTION,
        &[label],
        seconds_left(&forecasts.file_handles),
    );
    f.add(
        &MAP_EXHAUSTION,
        &[label],
        seconds_left(&forecasts.memory_maps),
    );
    for (dir, forecast) in &forecasts.log_dirs {
        f.add(&LOG_DIR_EXHAUSTION, &[label, dir], seconds_left(forecast));
    }
}

fn seconds_left(forecast: &Forecast) -> Option<f64> {
    match forecast {
        Forecast::NoneAhead => Some(f64::INFINITY),
        Forecast::SecondsLeft(left) => Some(*left),
        Forecast::Unknown => None,
    }
}

/// The state of the collectors.
fn collectors(f: &mut Families, broker: &BrokerSnapshot, now: Moment) {
    let label = broker.label.as_str();
    for (collector, status) in &broker.collectors {
        let labels = [label, collector.name()];
        f.add(&COLLECTOR_SUCCESS, &labels, status.success.map(f64::from));
        let duration = status.success.map(|_| status.duration.as_secs_f64());
        f.add(&COLLECTOR_DURATION, &labels, duration);
    }
    for (collector, count) in &broker.panics {
        f.add(&COLLECTOR_PANICS, &[label, collector.name()], *count as f64);
    }
    for (collector, status) in &broker.collectors {
        let labels = [label, collector.name()];
        f.add(&ROUND_INTERVAL, &labels, status.interval.as_secs_f64());
    }
    // The oldest of several readings.
    let mut taken: BTreeMap<CollectorName, Moment> = BTreeMap::new();
    for (collector, _, reading) in broker.readings() {
        if let Some(at) = reading.taken() {
            let oldest = taken.entry(collector).or_insert(at);
            *oldest = at.min(*oldest);
        }
    }
    for (collector, at) in taken {
        let age = now.since(at).as_secs_f64();
        f.add(&READING_AGE, &[label, collector.name()], age);
    }
}

/// The age of a value, however old, in seconds.
fn age<T>(reading: &Reading<T>, now: Moment) -> Option<f64> {
    reading.last().map(|(_, at)| now.since(at).as_secs_f64())
}

#[cfg(test)]
mod tests;
