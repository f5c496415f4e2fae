//! The catalogue of metrics, and the newest snapshot in Prometheus' text format.
//!
//! `docs/metrics.md` is generated from [`CATALOGUE`]; a test holds the two equal.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use prometheus::proto::{Counter, Gauge, LabelPair, Metric as Series, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

use crate::diagnose::finding::{BrokerDiagnosis, BrokerState};
use crate::diagnose::forecast::Forecast;
use crate::diagnose::{View, known_issues};
use crate::discover::Mode;
use crate::evidence::Saved;
use crate::evidence::store::time;
use crate::snapshot::{BrokerSnapshot, Moment, PoolFindings, Probe, Reading, Snapshot, StateCounts, TcpState};

/// One metric family: names and labels are an API.
#[derive(Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Gauge,
    Counter,
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help }
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help }
}

macro_rules! catalogue {
    ($($id:ident = $kind:ident($name:literal, [$($label:literal),*], $help:expr);)*) => {
        $(static $id: Metric = $kind($name, &[$($label),*], $help);)*
        /// Every metric that the exporter can have.
        pub static CATALOGUE: &[&Metric] = &[$(&$id),*];
    };
}

catalogue! {
    BUILD_INFO = gauge("kafka_vitals_build_info", ["version"], "1; the version of this exporter.");
    BROKER_INFO = gauge("kafka_vitals_broker_info", ["broker", "kafka_version", "java_version", "mode", "roles", "pid"],
        "1 for each broker process found on this host, with what its command line, properties and jars say; a label is empty where that is unknown.");
    BROKER_STATE = gauge("kafka_vitals_broker_state", ["broker", "state"],
        "1 for the state that the broker is judged to be in, 0 for the others. state is healthy, suspect (something speaks against it and is being looked at), gray (alive but not working), down (ended, or not serving yet) or unknown.");
    FINDING = gauge("kafka_vitals_finding_active", ["broker", "finding", "severity"],
        "1 if the finding holds of the broker, 0 if not; absent while it cannot be judged. The severity of a finding is fixed.");
    START_TIME = gauge("kafka_vitals_start_time_seconds", ["broker"],
        "When the broker process started, in seconds since 1970.");
    OPEN_HANDLES = gauge("kafka_vitals_open_file_handles", ["broker"],
        "Open file handles of the broker process, read every pulse. Above 1,024, and where the folder may not be listed, it is the size of /proc/PID/fd, which counts one more for each thread that waits in accept.");
    HANDLE_LIMIT = gauge("kafka_vitals_file_handle_limit", ["broker", "bound"],
        "Most file handles that the broker process may open (RLIMIT_NOFILE), +Inf if unlimited. bound is soft, where opening fails, or hard.");
    HANDLE_EXHAUSTION = gauge("kafka_vitals_file_handle_exhaustion_seconds", ["broker"],
        "Time until the soft limit of file handles is reached if they grow as they do, +Inf if that is not ahead; absent while unknown.");
    HANDLE_KINDS = gauge("kafka_vitals_file_handles", ["broker", "kind"],
        "Open file handles by what they lead to; read on the slow round. Needs the broker's user, or CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.");
    UNTRACKED = gauge("kafka_vitals_untracked_sockets", ["broker"],
        "Socket handles of the broker that are in no socket table of the kernel: reset or dead connections that it never closed. Read on the slow round.");
    MEMORY_MAPS = gauge("kafka_vitals_memory_maps", ["broker"],
        "Memory mappings of the broker process, which maps every index; read on the slow round.");
    MEMORY_MAP_LIMIT = gauge("kafka_vitals_memory_map_limit", [],
        "Most memory mappings that a process of this host may have (vm.max_map_count).");
    MAP_EXHAUSTION = gauge("kafka_vitals_memory_map_exhaustion_seconds", ["broker"],
        "Time until memory_map_limit is reached if the mappings grow as they do, +Inf if that is not ahead; absent while unknown.");
    LOG_DIR_EXHAUSTION = gauge("kafka_vitals_log_dir_exhaustion_seconds", ["broker", "dir"],
        "Time until the file system of the log dir is full if it fills as it does, +Inf if that is not ahead; absent while unknown.");
    RESIDENT = gauge("kafka_vitals_resident_memory_bytes", ["broker"],
        "Resident memory of the broker process.");
    CONNECTIONS = gauge("kafka_vitals_connections", ["broker", "role", "state"],
        "TCP sockets by state, the exporter's own left out. role server: at the broker's listeners; client: the broker's own connections to other brokers and ZooKeeper. State established and the role client are read on the slow round, the rest every pulse.");
    UNREAD_CLOSE_WAIT = gauge("kafka_vitals_unread_close_wait_connections", ["broker", "role"],
        "CLOSE_WAIT connections with bytes that the broker has not read: requests of clients that gave up.");
    RECEIVE_QUEUE = gauge("kafka_vitals_receive_queue_bytes", ["broker", "role", "state"],
        "Bytes received and not read by the broker (Recv-Q, less the peer's FIN in close_wait).");
    SEND_QUEUE = gauge("kafka_vitals_send_queue_bytes", ["broker", "role", "state"],
        "Bytes sent by the broker and not acknowledged by the peer (Send-Q).");
    ACCEPT_LENGTH = gauge("kafka_vitals_accept_queue_length", ["broker", "listener"],
        "Connections that the kernel completed and the broker has not accepted.");
    ACCEPT_LIMIT = gauge("kafka_vitals_accept_queue_limit", ["broker", "listener"],
        "Length at which the accept queue drops further connections; absent where only /proc/PID/net could be read.");
    DEADLOCK = gauge("kafka_vitals_deadlock_detected", ["broker"],
        "1 from the first thread dump that shows a deadlock until a later one is clean or the process is another; 0 if the newest dump is clean; absent while unknown.");
    DEADLOCKED_THREADS = gauge("kafka_vitals_deadlocked_threads", ["broker"],
        "Threads that are members of a deadlock; threads that merely wait for one of them are not counted.");
    KNOWN_DETECTED = gauge("kafka_vitals_known_issue_detected", ["broker", "issue", "fixed_in"],
        "1 for each known issue of Kafka that the standing deadlock or a stall is, by threads, locks and frames; the page / tells whether exactly or by likeness. fixed_in lists the first releases with the fix, empty if unknown.");
    KNOWN_EXPOSED = gauge("kafka_vitals_known_issue_exposed", ["broker", "issue", "fixed_in"],
        "1 for each known issue whose fault was seen in the source of this broker's version; a version or issue of which that is unknown is not told.");
    THREADS = gauge("kafka_vitals_threads", ["broker", "state"],
        "Java threads of the newest thread dump by java.lang.Thread.State.");
    STALLED = gauge("kafka_vitals_stalled_threads", ["broker", "pool"],
        "Threads of the pool that stood at one place over several thread dumps without using CPU, and not at their idle point; 0 for each pool of the newest dump without one. Absent until two dumps lie 10 s apart.");
    MISSING = gauge("kafka_vitals_missing_threads", ["broker", "pool"],
        "Threads of the pool that earlier dumps of this process showed, that two have lacked, and that cannot have ended rightly. A pool that was made smaller lacks none. Absent until two dumps lie 5 s apart, and while the broker shuts down.");
    LOCK_WAITERS = gauge("kafka_vitals_lock_waiters", ["broker", "lock_class"],
        "Threads that wait for locks of this class for which two or more wait, deadlocks left out; of the 8 longest queues of the newest thread dump.");
    JVM_PAUSES = counter("kafka_vitals_jvm_pause_seconds_total", ["broker"],
        "Time that the JVM has spent at safepoints since it started (sun.rt.safepointTime of its performance data): garbage collection, thread dumps and others.");
    DUMP_DURATION = gauge("kafka_vitals_thread_dump_duration_seconds", ["broker"],
        "Time that the newest thread dump took, from the request to the last byte; the JVM's pause is a part of it.");
    DUMP_AGE = gauge("kafka_vitals_thread_dump_age_seconds", ["broker"],
        "Age of the newest successful thread dump, however old.");
    DUMP_FAILURES = counter("kafka_vitals_thread_dump_failures_total", ["broker", "reason"],
        "Failed thread dumps of this broker process since the exporter started.");
    LEADER = gauge("kafka_vitals_leader_partitions", ["broker"],
        "Partitions that the broker leads, by the newest Metadata response; see reading_age_seconds{reading=\"cluster\"}.");
    UNDER_REPLICATED = gauge("kafka_vitals_under_replicated_partitions", ["broker"],
        "Partitions led by the broker with fewer replicas in the ISR than assigned.");
    LEADER_ALONE = gauge("kafka_vitals_isr_leader_alone_partitions", ["broker"],
        "Partitions led by the broker whose ISR has shrunk to it alone, though more replicas are assigned.");
    NOT_IN_ISR = gauge("kafka_vitals_not_in_isr_partitions", ["broker"],
        "Partitions of which the broker is a replica and in whose ISR it is missing. A stuck leader throws out healthy followers: look at the leader first.");
    OFFLINE = gauge("kafka_vitals_offline_partitions", [],
        "Partitions of the whole cluster without a leader; aggregate over exporters with max.");
    PARTITION_ISR = gauge("kafka_vitals_partition_isr_replicas", ["broker", "topic", "partition"],
        "Replicas in the ISR, only of partitions that are not whole. broker leads the partition; of one without a leader it is the lowest live id of the cluster. Bounded, see series_left_out.");
    LEFT_OUT = gauge("kafka_vitals_series_left_out", ["what"],
        "Series that were not exported because their number is bounded.");
    PROBE_SUCCESS = gauge("kafka_vitals_probe_success", ["broker", "path"],
        "1 if the broker answered the newest request to its own listener within 2 s, 0 if not. path api is ApiVersions; metadata is Metadata, which is absent while api is not answered. Nothing is sent while an answer is owed: then api is 0.");
    PROBE_DURATION = gauge("kafka_vitals_probe_duration_seconds", ["broker", "path"],
        "Time until that answer, or until the failure; while an answer is owed, how long it has been; of a broker that answers after the 2 s, how long its last answer took.");
    PEER_PROBE_SUCCESS = gauge("kafka_vitals_peer_probe_success", ["broker", "peer", "stage"],
        "1 if the next brokers by id, 8 at most, were reached from the host of the broker: stage connect is a TCP connection, which is kept; api is ApiVersions, absent where there is no connection.");
    LOG_DIR_FREE = gauge("kafka_vitals_log_dir_free_bytes", ["broker", "dir"],
        "Bytes that the broker may still write to the file system of this log dir; read on the slow round.");
    BUNDLES = counter("kafka_vitals_evidence_bundles_total", ["broker"],
        "Bundles of evidence saved of this broker since the exporter started; absent for a broker that was never gray.");
    COLLECTOR_SUCCESS = gauge("kafka_vitals_collector_success", ["broker", "collector"],
        "1 if the collector's last run read everything, 0 if something is unknown: its series are absent, the page / tells the reason.");
    COLLECTOR_DURATION = gauge("kafka_vitals_collector_duration_seconds", ["broker", "collector"],
        "Time that the collector's last run took.");
    ROUND_INTERVAL = gauge("kafka_vitals_round_interval_seconds", ["broker", "round"],
        "Interval at which the round now runs: longer than configured where its cost ceiling stretched it.");
    READING_AGE = gauge("kafka_vitals_reading_age_seconds", ["broker", "reading"],
        "Age of the newest known value, however old. A reading older than three intervals of its round is absent elsewhere.");
    OWN_CPU = counter("process_cpu_seconds_total", [], "Total user and system CPU time spent in seconds, of this exporter.");
    OWN_HANDLES = gauge("process_open_fds", [], "Number of open file descriptors of this exporter.");
    OWN_HANDLE_LIMIT = gauge("process_max_fds", [], "Maximum number of open file descriptors of this exporter.");
    OWN_RESIDENT = gauge("process_resident_memory_bytes", [], "Resident memory size in bytes, of this exporter.");
    OWN_VIRTUAL = gauge("process_virtual_memory_bytes", [], "Virtual memory size in bytes, of this exporter.");
    OWN_START = gauge("process_start_time_seconds", [], "Start time of this exporter since unix epoch in seconds.");
    OWN_THREADS = gauge("process_threads", [], "Number of OS threads of this exporter.");
}

/// The content type of [`render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Most series of [`PARTITION_ISR`] that one exporter tells.
const MAX_PARTITION_SERIES: usize = 200;

/// Families by name, each with the series added so far.
#[derive(Default)]
struct Families(BTreeMap<&'static str, (&'static Metric, Vec<Series>)>);

impl Families {
    fn add(&mut self, metric: &'static Metric, labels: &[&str], value: f64) {
        debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
        let pairs = metric.labels.iter().zip(labels).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut series = Series::from_label(pairs.collect());
        match metric.kind {
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                series.set_gauge(gauge);
            }
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                series.set_counter(counter);
            }
        }
        self.0.entry(metric.name).or_insert((metric, Vec::new())).1.push(series);
    }

    fn encode(self) -> String {
        let families: Vec<MetricFamily> = self
            .0
            .into_values()
            .map(|(metric, series)| {
                let mut family = MetricFamily::default();
                family.set_name(metric.name.to_owned());
                family.set_help(metric.help.to_owned());
                family.set_field_type(match metric.kind {
                    Kind::Gauge => MetricType::GAUGE,
                    Kind::Counter => MetricType::COUNTER,
                });
                family.set_metric(series);
                family
            })
            .collect();
        let mut out = Vec::with_capacity(16 * 1024);
        match TextEncoder::new().encode(&families, &mut out) {
            Ok(()) => String::from_utf8_lossy(&out).into_owned(),
            // Only a family without a name or without a series is refused, and `add` makes neither.
            Err(error) => format!("# {error}\n"),
        }
    }
}

/// The readings and their diagnosis in the text format, as they stand at `now`.
pub fn render(view: &View, saved: &Saved, now: Moment) -> String {
    let snapshot = &*view.snapshot;
    let mut families = Families::default();
    let f = &mut families;
    f.add(&BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
    if let Some(limit) = snapshot.memory_map_limit.fresh(now) {
        f.add(&MEMORY_MAP_LIMIT, &[], *limit as f64);
    }
    exporter(f, snapshot, now);
    if let Some(success) = snapshot.discovery.success {
        f.add(&COLLECTOR_SUCCESS, &["", "discovery"], f64::from(u8::from(success)));
        f.add(&COLLECTOR_DURATION, &["", "discovery"], snapshot.discovery.duration.as_secs_f64());
    }
    for broker in &snapshot.brokers {
        if broker.ended.is_none() {
            info(f, broker);
            process(f, broker, now);
            sockets(f, broker, now);
            threads(f, broker, now);
            cluster(f, broker, now);
            probes(f, broker, now);
        }
        exporter_rounds(f, broker, now);
    }
    let cluster = snapshot.brokers.iter().filter_map(|b| b.partitions(now));
    if let Some(most) = cluster.map(|c| c.leaderless).max() {
        f.add(&OFFLINE, &[], most as f64);
    }
    partitions(f, snapshot, now);
    view.diagnosis.brokers.iter().for_each(|broker| diagnosis(f, broker));
    for (label, saved) in &saved.brokers {
        f.add(&BUNDLES, &[label], saved.total as f64);
    }
    let text = families.encode();
    // A comment: for people, as no metric could keep a server from taking these for now.
    if view.replayed { format!("# Replay of {}, not now.\n{text}", time(view.diagnosis.at)) } else { text }
}

fn exporter(f: &mut Families, snapshot: &Snapshot, now: Moment) {
    let Some(own) = snapshot.exporter.fresh(now) else { return };
    f.add(&OWN_CPU, &[], own.cpu_seconds);
    f.add(&OWN_HANDLES, &[], own.open_handles as f64);
    f.add(&OWN_HANDLE_LIMIT, &[], limit(own.handle_limit));
    f.add(&OWN_RESIDENT, &[], own.resident_bytes as f64);
    f.add(&OWN_VIRTUAL, &[], own.virtual_bytes as f64);
    f.add(&OWN_START, &[], own.started.seconds());
    f.add(&OWN_THREADS, &[], own.threads as f64);
}

/// `None` is unlimited.
fn limit(value: Option<u64>) -> f64 {
    value.map_or(f64::INFINITY, |value| value as f64)
}

fn info(f: &mut Families, snapshot: &BrokerSnapshot) {
    let broker = &snapshot.broker;
    let mode = match broker.mode {
        Some(Mode::ZooKeeper) => "zookeeper",
        Some(Mode::KRaft) => "kraft",
        None => "",
    };
    let roles: Vec<&str> = broker.roles.iter().map(|role| role.name()).collect();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let pid = broker.process.pid.to_string();
    let labels =
        [&snapshot.label, &text(&broker.kafka_version), &text(&broker.java_version), mode, &roles.join(","), &pid];
    f.add(&BROKER_INFO, &labels, 1.0);
    for known in broker.kafka_version.iter().flat_map(|version| known_issues::exposed(version)) {
        f.add(&KNOWN_EXPOSED, &[&snapshot.label, &known.key, &known.fixed_in.join(",")], 1.0);
    }
    if let Some(started) = broker.started {
        f.add(&START_TIME, &[&snapshot.label], started.seconds());
    }
}

fn process(f: &mut Families, broker: &BrokerSnapshot, now: Moment) {
    let label = broker.label.as_str();
    if let Some(count) = broker.handles.fresh(now) {
        f.add(&OPEN_HANDLES, &[label], *count as f64);
    }
    if let Some(vitals) = broker.process.fresh(now) {
        f.add(&HANDLE_LIMIT, &[label, "soft"], limit(vitals.handle_limit_soft));
        f.add(&HANDLE_LIMIT, &[label, "hard"], limit(vitals.handle_limit_hard));
        f.add(&RESIDENT, &[label], vitals.resident_bytes as f64);
    }
    if let Some(kinds) = broker.handle_kinds.fresh(now) {
        for (kind, count) in kinds.named() {
            f.add(&HANDLE_KINDS, &[label, kind], count as f64);
        }
    }
    if let Some(count) = broker.untracked_sockets.fresh(now) {
        f.add(&UNTRACKED, &[label], *count as f64);
    }
    if let Some(count) = broker.memory_maps.fresh(now) {
        f.add(&MEMORY_MAPS, &[label], *count as f64);
    }
}

fn sockets(f: &mut Families, broker: &BrokerSnapshot, now: Moment) {
    let label = broker.label.as_str();
    if let Some(pulse) = broker.sockets.fresh(now) {
        states(f, label, "server", &pulse.server, |state| state != TcpState::Established);
        f.add(&UNREAD_CLOSE_WAIT, &[label, "server"], pulse.unread_close_wait as f64);
        for queue in &pulse.accept_queues {
            f.add(&ACCEPT_LENGTH, &[label, &queue.listener], f64::from(queue.length));
            if let Some(limit) = queue.limit {
                f.add(&ACCEPT_LIMIT, &[label, &queue.listener], f64::from(limit));
            }
        }
    }
    if let Some(owners) = broker.connections.fresh(now) {
        let mut established = StateCounts::default();
        *established.get_mut(TcpState::Established) = owners.server_established;
        states(f, label, "server", &established, |state| state == TcpState::Established);
        states(f, label, "client", &owners.client, |_| true);
        f.add(&UNREAD_CLOSE_WAIT, &[label, "client"], owners.client_unread_close_wait as f64);
    }
}

fn states(f: &mut Families, broker: &str, role: &str, counts: &StateCounts, told: impl Fn(TcpState) -> bool) {
    for state in TcpState::ALL.into_iter().filter(|state| told(*state)) {
        let count = counts.get(state);
        let labels = [broker, role, state.name()];
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
    if let Some(standing) = &broker.deadlock {
        let members: usize = standing.deadlocks.iter().map(|deadlock| deadlock.cycle.len()).sum();
        f.add(&DEADLOCK, &[label], 1.0);
        f.add(&DEADLOCKED_THREADS, &[label], members as f64);
    } else if report.is_some() {
        f.add(&DEADLOCK, &[label], 0.0);
        f.add(&DEADLOCKED_THREADS, &[label], 0.0);
    }
    if let Some(report) = report {
        for (state, count) in &report.by_state {
            f.add(&THREADS, &[label, state], *count as f64);
        }
        if let Some(stalls) = &report.stalls {
            by_pool(f, &STALLED, label, stalls, |stall| (&stall.pool, stall.threads.len()));
        }
        if let Some(missing) = &report.missing {
            by_pool(f, &MISSING, label, missing, |thread| (&thread.pool, thread.count));
        }
        let mut waiters: BTreeMap<&str, usize> = BTreeMap::new();
        for queue in &report.convoys {
            *waiters.entry(&queue.lock_class).or_default() += queue.waiters.len();
        }
        for (class, count) in waiters {
            f.add(&LOCK_WAITERS, &[label, class], count as f64);
        }
        f.add(&DUMP_DURATION, &[label], report.duration.as_secs_f64());
    }
    if let Some(pauses) = broker.jvm_pauses.fresh(now) {
        f.add(&JVM_PAUSES, &[label], pauses.as_secs_f64());
    }
    if let Some((_, at)) = broker.threads.last() {
        f.add(&DUMP_AGE, &[label], now.since(at).as_secs_f64());
    }
    for (reason, count) in &broker.dump_failures {
        f.add(&DUMP_FAILURES, &[label, reason], *count as f64);
    }
}

/// One series for each pool that could be judged.
fn by_pool<T>(
    f: &mut Families,
    metric: &'static Metric,
    broker: &str,
    findings: &PoolFindings<T>,
    count: impl Fn(&T) -> (&str, usize),
) {
    let mut counts: BTreeMap<&str, usize> = findings.pools.iter().map(|pool| (pool.as_str(), 0)).collect();
    for (pool, threads) in findings.found.iter().map(count) {
        *counts.entry(pool).or_default() += threads;
    }
    for (pool, threads) in counts {
        f.add(metric, &[broker, pool], threads as f64);
    }
}

fn cluster(f: &mut Families, broker: &BrokerSnapshot, now: Moment) {
    let Some(counts) = broker.partitions(now) else { return };
    let label = broker.label.as_str();
    f.add(&LEADER, &[label], counts.leader as f64);
    f.add(&UNDER_REPLICATED, &[label], counts.under_replicated as f64);
    f.add(&LEADER_ALONE, &[label], counts.isr_leader_alone as f64);
    f.add(&NOT_IN_ISR, &[label], counts.not_in_isr as f64);
}

fn probes(f: &mut Families, broker: &BrokerSnapshot, now: Moment) {
    let label = broker.label.as_str();
    let success = |probe: &Probe| f64::from(u8::from(probe.success()));
    if let Some(report) = broker.probes.fresh(now) {
        for (path, probe) in [("api", Some(&report.api)), ("metadata", report.metadata.as_ref())] {
            if let Some(probe) = probe {
                f.add(&PROBE_SUCCESS, &[label, path], success(probe));
                f.add(&PROBE_DURATION, &[label, path], probe.duration.as_secs_f64());
            }
        }
        for of in &report.peers {
            let peer = of.peer.id.to_string();
            for (stage, probe) in [("connect", Some(&of.connect)), ("api", of.api.as_ref())] {
                if let Some(probe) = probe {
                    f.add(&PEER_PROBE_SUCCESS, &[label, &peer, stage], success(probe));
                }
            }
        }
    }
    for space in broker.log_dirs.fresh(now).iter().flat_map(|spaces| spaces.iter()) {
        f.add(&LOG_DIR_FREE, &[label, &space.dir.display().to_string()], space.free_bytes as f64);
    }
}

fn partitions(f: &mut Families, snapshot: &Snapshot, now: Moment) {
    let mut told = 0;
    let mut left_out = 0;
    let mut known = false;
    for (broker, counts) in snapshot.brokers.iter().filter_map(|b| Some((b, b.partitions(now)?))) {
        known = true;
        left_out += counts.not_whole_left_out;
        for state in &counts.not_whole {
            if told == MAX_PARTITION_SERIES {
                left_out += 1;
                continue;
            }
            told += 1;
            let labels = [&broker.label, &state.topic, &state.partition.to_string()];
            f.add(&PARTITION_ISR, &labels.map(String::as_str), f64::from(state.isr));
        }
    }
    if known {
        f.add(&LEFT_OUT, &["partition_isr_replicas"], left_out as f64);
    }
}

fn diagnosis(f: &mut Families, broker: &BrokerDiagnosis) {
    let label = broker.label.as_str();
    for state in BrokerState::ALL {
        f.add(&BROKER_STATE, &[label, state.name()], f64::from(u8::from(state == broker.state)));
    }
    for id in &broker.judged {
        let active = broker.findings.iter().any(|finding| finding.id == *id);
        f.add(&FINDING, &[label, id.kind().name, id.kind().severity.name()], f64::from(u8::from(active)));
    }
    for known in &broker.known_issues {
        f.add(&KNOWN_DETECTED, &[label, &known.issue, &known.fixed_in.join(",")], 1.0);
    }
    let forecasts = &broker.forecasts;
    if let Some(left) = seconds_left(&forecasts.file_handles) {
        f.add(&HANDLE_EXHAUSTION, &[label], left);
    }
    if let Some(left) = seconds_left(&forecasts.memory_maps) {
        f.add(&MAP_EXHAUSTION, &[label], left);
    }
    for (dir, forecast) in &forecasts.log_dirs {
        if let Some(left) = seconds_left(forecast) {
            f.add(&LOG_DIR_EXHAUSTION, &[label, dir], left);
        }
    }
}

fn seconds_left(forecast: &Forecast) -> Option<f64> {
    match forecast {
        Forecast::NoneAhead => Some(f64::INFINITY),
        Forecast::SecondsLeft(left) => Some(*left),
        Forecast::Unknown => None,
    }
}

fn exporter_rounds(f: &mut Families, broker: &BrokerSnapshot, now: Moment) {
    let label = broker.label.as_str();
    for (collector, status) in &broker.collectors {
        if let Some(success) = status.success {
            f.add(&COLLECTOR_SUCCESS, &[label, collector], f64::from(u8::from(success)));
            f.add(&COLLECTOR_DURATION, &[label, collector], status.duration.as_secs_f64());
        }
    }
    if broker.ended.is_some() {
        return;
    }
    for (round, interval) in &broker.rounds {
        f.add(&ROUND_INTERVAL, &[label, round], interval.as_secs_f64());
    }
    fn at<T>(reading: &Reading<T>) -> Option<Moment> {
        reading.last().map(|(_, at)| at)
    }
    let ages = [
        ("process", at(&broker.process)),
        ("handles", at(&broker.handles)),
        ("handle_kinds", at(&broker.handle_kinds)),
        ("memory_maps", at(&broker.memory_maps)),
        ("sockets", at(&broker.sockets)),
        ("connections", at(&broker.connections)),
        ("untracked_sockets", at(&broker.untracked_sockets)),
        ("threads", at(&broker.threads)),
        ("progress", at(&broker.progress)),
        ("jvm_pauses", at(&broker.jvm_pauses)),
        ("cluster", at(&broker.cluster)),
        ("probes", at(&broker.probes)),
        ("log_dirs", at(&broker.log_dirs)),
    ];
    for (reading, at) in ages {
        if let Some(at) = at {
            f.add(&READING_AGE, &[label, reading], now.since(at).as_secs_f64());
        }
    }
}

/// `docs/metrics.md`.
pub fn reference() -> String {
    let mut out = String::from(
        "# Metrics\n\nGenerated from the catalogue in `src/expose/metrics.rs` by `make docs`; do not edit.\n\n\
         Values are read by rounds and served from memory: a scrape never touches a broker. A value that could not be \
         read is absent, never 0. `broker` is the node id; `<id>@<port>` for brokers that share an id on one host; \
         `pid-N` until the id is known.\n\n| metric | kind | labels | meaning |\n|---|---|---|---|\n",
    );
    for metric in CATALOGUE {
        let kind = match metric.kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        let help = metric.help.replace('|', "\\|");
        // Writing to a String cannot fail.
        let _ = writeln!(out, "| `{}` | {kind} | {} | {help} |", metric.name, metric.labels.join(", "));
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::discover::{Broker, ProcessKey};
    use crate::snapshot::{ClusterCounts, PartitionState};

    #[test]
    fn names_follow_the_manners() {
        let mut names = BTreeSet::new();
        for metric in CATALOGUE {
            assert!(names.insert(metric.name), "{} twice", metric.name);
            assert!(metric.name.starts_with("kafka_vitals_") || metric.name.starts_with("process_"));
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
            let bad = ["type", "cluster", "job", "instance"];
            assert!(metric.labels.iter().all(|label| !bad.contains(label)), "{}", metric.name);
        }
    }

    /// `make docs` writes the file anew.
    #[test]
    fn golden_reference_is_the_catalogue() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        if std::env::var_os("KAFKA_VITALS_REFRESH").is_some() {
            std::fs::write(path, reference()).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap();
        assert!(written == reference(), "docs/metrics.md is not what the catalogue says: make docs");
    }

    /// Two clusters on one host may have partitions of one name.
    #[test]
    fn every_broker_tells_its_partitions() {
        let led_by = |id: i32, isr: u32| {
            let key = ProcessKey { pid: id as u32, start_ticks: 1 };
            let mut broker = BrokerSnapshot::new(Arc::new(Broker::unknown(key)), id.to_string());
            let state = PartitionState { topic: "t".into(), partition: 0, leader: Some(id), replicas: 3, isr };
            let value = ClusterCounts { partitions: 1, not_whole: vec![state], ..ClusterCounts::default() };
            broker.cluster = Reading::Known { value, at: Moment(0), valid_for: Duration::from_secs(15) };
            Arc::new(broker)
        };
        let snapshot = Snapshot { brokers: vec![led_by(1, 1), led_by(9, 2)], ..Snapshot::default() };
        let view = View { snapshot: Arc::new(snapshot), ..View::default() };
        let text = render(&view, &Saved::default(), Moment(1000));
        for told in ["{broker=\"1\",topic=\"t\",partition=\"0\"} 1", "{broker=\"9\",topic=\"t\",partition=\"0\"} 2"] {
            assert!(text.contains(&format!("kafka_vitals_partition_isr_replicas{told}\n")), "{told}: {text}");
        }
    }

    #[test]
    fn an_empty_snapshot_counts_nothing() {
        let text = render(&View::default(), &Saved::default(), Moment(1000));
        let families: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(families, [format!("kafka_vitals_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"))]);
    }
}
