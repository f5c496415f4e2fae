//! The catalogue of metrics. [`render`] fills it with the newest snapshot.
//!
//! `docs/metrics.md` is generated from [`CATALOGUE`]; a test holds the two equal.

mod render;

use std::fmt::Write as _;

pub use render::{CONTENT_TYPE, render};

/// One metric family: names and labels are an API.
#[derive(Debug)]
pub struct Metric {
    pub name: &'static str,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

impl Metric {
    /// Whether it only grows, which its name shows; otherwise it is a gauge.
    pub fn is_counter(&self) -> bool {
        self.name.ends_with("_total")
    }
}

macro_rules! catalogue {
    ($($id:ident = ($name:literal, [$($label:literal),*], $help:literal);)*) => {
        $(static $id: Metric = Metric { name: $name, labels: &[$($label),*], help: $help };)*
        /// Every metric that the exporter can have.
        pub static CATALOGUE: &[&Metric] = &[$(&$id),*];
    };
}

catalogue! {
    BUILD_INFO = ("kafka_vitals_build_info", ["version", "revision"], "1, with the version of this exporter and the commit that it was built from; revision is unknown in builds for tests.");
    RELOAD_SUCCESSFUL = ("kafka_vitals_config_last_reload_successful", [],
        "1 if the newest config file and web config file, with its certificates, are in use; 0 if one of them could not be taken, and the one of before is.");
    RELOAD_TIME = ("kafka_vitals_config_last_reload_success_timestamp_seconds", [],
        "When settings were taken last, in seconds since 1970.");
    WEB_TLS = ("kafka_vitals_web_tls", [],
        "1 if this exporter speaks TLS at its address, 0 if not; the links of the alerts begin with https or http accordingly.");
    BROKER_INFO = ("kafka_vitals_broker_info", ["broker", "kafka_version", "java_version", "mode", "roles", "pid", "cluster_id", "pod", "namespace"],
        "1 for each broker process found on this host, with the data of its command line, properties, jars and meta.properties, and the pod of Kubernetes that it runs in; a label is empty where it is unknown.");
    BROKER_STATE = ("kafka_vitals_broker_state", ["broker", "state"],
        "1 for the state of the broker, 0 for the others. state is healthy (as far as it is read: without collector_success 1 of threads, no deadlock would be found), suspect (something indicates a problem and is being checked), gray (alive, not working), starting (its process runs and has not served yet), closed (its process runs and listens no longer: it shuts down, or has lost its listener), ended or unknown. A broker that has ended stays until it is back or the exporter is restarted; one without an id, for a minute.");
    FINDING = ("kafka_vitals_finding_active", ["broker", "finding", "severity"],
        "1 if the finding holds for the broker, 0 if not; absent while that is unknown. The severity of a finding is fixed.");
    START_TIME = ("kafka_vitals_start_time_seconds", ["broker"],
        "When the broker process started, in seconds since 1970.");
    OPEN_HANDLES = ("kafka_vitals_open_file_handles", ["broker"],
        "Open file handles (file descriptors) of the broker process. Above 1,024, and where the folder may not be listed, it is the size of /proc/PID/fd, which counts one more for each thread that waits in accept.");
    HANDLE_LIMIT = ("kafka_vitals_file_handle_limit", ["broker", "bound"],
        "The most file handles (file descriptors) that the broker process may open (RLIMIT_NOFILE), +Inf if unlimited. bound is soft, where opening fails, or hard.");
    HANDLE_EXHAUSTION = ("kafka_vitals_file_handle_exhaustion_seconds", ["broker"],
        "Time until the soft limit of file handles (file descriptors) is reached at their present growth, +Inf if that is not ahead; absent while unknown.");
    HANDLE_KINDS = ("kafka_vitals_file_handles", ["broker", "kind"],
        "Open file handles (file descriptors) by what they refer to. Needs the broker's user, or CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.");
    UNTRACKED = ("kafka_vitals_untracked_sockets", ["broker"],
        "Orphaned sockets, which the broker holds while no socket table of the kernel lists them: reset or dead connections that it never closed.");
    MEMORY_MAPS = ("kafka_vitals_memory_maps", ["broker"],
        "Memory mappings of the broker process, which maps every index.");
    MEMORY_MAP_LIMIT = ("kafka_vitals_memory_map_limit", [],
        "The most memory mappings that a process of this host may have (vm.max_map_count).");
    MAP_EXHAUSTION = ("kafka_vitals_memory_map_exhaustion_seconds", ["broker"],
        "Time until memory_map_limit is reached at the present growth of the mappings, +Inf if that is not ahead; absent while unknown.");
    LOG_DIR_EXHAUSTION = ("kafka_vitals_log_dir_exhaustion_seconds", ["broker", "dir"],
        "Time until the file system of the log dir is full at its present growth, +Inf if that is not ahead; absent while unknown.");
    RESIDENT = ("kafka_vitals_resident_memory_bytes", ["broker"],
        "Resident memory of the broker process.");
    CONNECTIONS = ("kafka_vitals_connections", ["broker", "direction", "state"],
        "TCP sockets by state, the exporter's own left out. direction in: at the broker's listeners; out: the broker's own connections to other brokers and ZooKeeper. State established and the direction out come from the collector connections; the rest from sockets, every fifth second, and every second while something is suspected.");
    UNREAD_CLOSE_WAIT = ("kafka_vitals_unread_close_wait_connections", ["broker", "direction"],
        "CLOSE_WAIT connections with bytes that the broker has not read: requests of clients that gave up.");
    RECEIVE_QUEUE = ("kafka_vitals_receive_queue_bytes", ["broker", "direction", "state"],
        "Bytes received and not read by the broker (Recv-Q, less the peer's FIN in close_wait).");
    SEND_QUEUE = ("kafka_vitals_send_queue_bytes", ["broker", "direction", "state"],
        "Bytes sent by the broker and not acknowledged by the peer (Send-Q).");
    ACCEPT_LENGTH = ("kafka_vitals_accept_queue_length", ["broker", "listener"],
        "Connections that the kernel completed and the broker has not accepted.");
    ACCEPT_LIMIT = ("kafka_vitals_accept_queue_limit", ["broker", "listener"],
        "Length at which the accept queue drops further connections; absent where only /proc/PID/net could be read.");
    DEADLOCK = ("kafka_vitals_deadlock_detected", ["broker"],
        "1 from the first thread dump that shows a deadlock until a later one is clean or the process is another; 0 if the newest dump is clean; absent while unknown, also where a part of the newest dump was not understood.");
    DEADLOCKED_THREADS = ("kafka_vitals_deadlocked_threads", ["broker"],
        "Threads that are members of a deadlock; threads that are blocked behind the deadlock are not counted.");
    KNOWN_DETECTED = ("kafka_vitals_known_issue_detected", ["broker", "issue", "fixed_in"],
        "1 for each known issue of Kafka that the present deadlock or a stall is, by threads, locks and frames, or that may have ended a thread or keeps it in a loop; the page / shows whether that is exact or a probable match. fixed_in lists the first releases with the fix, empty if unknown.");
    KNOWN_EXPOSED = ("kafka_vitals_known_issue_exposed", ["broker", "issue", "fixed_in"],
        "1 for each known issue to which this broker is exposed: its fault was seen in the source of the broker's version, and server.properties and the mode have what it needs (docs/known-issues.md). Where either is unknown it is not exported: no series is no proof that a fault is absent.");
    THREADS = ("kafka_vitals_threads", ["broker", "state"],
        "Java threads of the newest thread dump by java.lang.Thread.State.");
    STALLED = ("kafka_vitals_stalled_threads", ["broker", "pool"],
        "Threads of the pool that stayed at one place over several thread dumps without using CPU, and not at their idle point; 0 for each other pool of the newest dump. Absent until two dumps are 10 s apart.");
    MISSING = ("kafka_vitals_missing_threads", ["broker", "pool"],
        "Threads of the pool that earlier dumps of this process show, two later ones do not, and that cannot have ended regularly; one later dump is enough where the kernel or the broker's log confirms it. A pool that was made smaller lacks none. Absent until two dumps are 5 s apart, and while the broker shuts down.");
    LOCK_WAITERS = ("kafka_vitals_lock_waiters", ["broker", "lock_class"],
        "Threads that wait for locks of this class in the 8 longest queues of the newest thread dump; queues have two or more threads, and deadlocks are left out.");
    JVM_PAUSES = ("kafka_vitals_jvm_pause_seconds_total", ["broker"],
        "Time that the JVM has spent at safepoints since it started (sun.rt.safepointTime of its performance data): garbage collection, thread dumps and others.");
    POOL_CPU = ("kafka_vitals_pool_cpu_seconds_total", ["broker", "pool"],
        "CPU time of the pool's threads since they started, with those that have ended since the exporter started. A thread counts once a thread dump, or its short name, shows its pool.");
    POOL_RUN_QUEUE = ("kafka_vitals_pool_run_queue_seconds_total", ["broker", "pool"],
        "Time for which the pool's threads waited for a core, counted likewise.");
    DUMP_DURATION = ("kafka_vitals_thread_dump_duration_seconds", ["broker"],
        "Time that the newest thread dump took, from the request to the last byte; the JVM's pause is a part of it.");
    DUMP_AGE = ("kafka_vitals_thread_dump_age_seconds", ["broker"],
        "Age of the newest successful thread dump, however old.");
    DUMP_FAILURES = ("kafka_vitals_thread_dump_failures_total", ["broker", "reason"],
        "Failed thread dumps of this broker process since the exporter started.");
    LEADER = ("kafka_vitals_leader_partitions", ["broker"],
        "Partitions that the broker leads. This and the other counts of partitions come from the node's replica of the metadata log (KRaft), else from the newest Metadata response; see reading_age_seconds{collector=~\"metadata_log|cluster\"}. Absent for a dedicated controller, which leads none.");
    UNDER_REPLICATED = ("kafka_vitals_under_replicated_partitions", ["broker"],
        "Partitions led by the broker with fewer replicas in the ISR than assigned. Replicas that a reassignment adds are not missed; by Metadata, if it began after the exporter saw the partition complete.");
    LEADER_ALONE = ("kafka_vitals_isr_leader_alone_partitions", ["broker"],
        "Partitions led by the broker whose ISR has shrunk to the broker alone although more replicas are assigned.");
    NOT_IN_ISR = ("kafka_vitals_not_in_isr_partitions", ["broker"],
        "Partitions that the broker is a replica of without being in the ISR. A stuck leader removes healthy followers: check the leader first.");
    UNDER_MIN_ISR = ("kafka_vitals_under_min_isr_partitions", ["broker"],
        "Partitions led by the broker with fewer replicas in the ISR than min.insync.replicas: producers with acks=all get an error. kafka-topics counts offline partitions as well, which offline_partitions has. A topic with fewer replicas than the minimum needs all of them, as Kafka demands since 3.7.0 (kafka-topics always lists it). With ZooKeeper, only under-replicated partitions count; overrides of topics and of the cluster are read there and kept for 2 minutes. Absent while unknown.");
    AT_MIN_ISR = ("kafka_vitals_at_min_isr_partitions", ["broker"],
        "Partitions led by the broker with exactly min.insync.replicas replicas in the ISR: one less, and producers with acks=all get an error. Absent while unknown, and with ZooKeeper.");
    REASSIGNING = ("kafka_vitals_reassigning_partitions", ["broker"],
        "Partitions led by the broker that are being moved to other brokers. Absent while unknown.");
    OFFLINE = ("kafka_vitals_offline_partitions", [],
        "Offline partitions of the whole cluster, which have no leader; aggregate over exporters with max.");
    PARTITION_ISR = ("kafka_vitals_partition_isr_replicas", ["broker", "topic", "partition"],
        "Replicas in the ISR of under-replicated partitions. broker leads the partition; for an offline one it is the lowest live id of the cluster. Bounded, see series_left_out.");
    CLUSTER_BROKERS = ("kafka_vitals_cluster_brokers", ["broker", "state"],
        "Brokers of the whole cluster, by the metadata log of the node that broker names: registered and not fenced; fenced by the controller; unregistered, which hold replicas all the same (64 at most). Every node of a KRaft cluster has them: aggregate with max.");
    CLUSTER_BROKER_STATE = ("kafka_vitals_cluster_broker_state", ["broker", "id", "state"],
        "1 for each broker (id) of the cluster that is fenced, fenced_unused (fenced, and it holds no replicas), in controlled_shutdown, or missing, which is to hold replicas and to be neither registered nor live, as broker sees it by its metadata log or by Metadata. Absent for those that are well; aggregate over broker with max. Bounded, see series_left_out.");
    METADATA_LOG_OFFSET = ("kafka_vitals_metadata_log_offset", ["broker"],
        "Offset after the last record that the node's replica of KRaft's metadata log has.");
    METADATA_LOG_AGE = ("kafka_vitals_metadata_log_age_seconds", ["broker"],
        "How long ago the exporter saw the replica of the metadata log get its last record. By default about two records arrive each second, also at rest (metadata.max.idle.interval.ms).");
    LEFT_OUT = ("kafka_vitals_series_left_out", ["what"],
        "What was not exported because its number is bounded: series of partition_isr_replicas, of cluster_broker_state and of consumer_group_lag, with groups that were not asked for; brokers, which are processes that look like one beyond max_brokers.");
    REGISTERED = ("kafka_vitals_registered", ["broker"],
        "1 if ZooKeeper lists the broker and this process has registered it, 0 if not; see reading_age_seconds{collector=\"zookeeper\"}. Absent for clusters that keep their metadata in KRaft, and while unknown.");
    CONTROLLER = ("kafka_vitals_controller", ["broker"],
        "1 if the broker is the active controller by ZooKeeper, 0 if not. A cluster has one: the sum over its brokers is 1, and 0 during an election. Absent as registered is.");
    GROUPS = ("kafka_vitals_consumer_groups", ["broker", "state"],
        "Consumer groups that the broker coordinates, by state in Kafka's words; unknown where a broker before 2.6 did not describe one. Other brokers coordinate the others: the sum over brokers is the cluster's. Absent while the broker is suspect or does not answer, and where no group is visible: none exists, or the ACLs hide them.");
    GROUP_LAG = ("kafka_vitals_consumer_group_lag", ["broker", "group", "topic"],
        "Records of the topic that the group has not committed, in all partitions for which it has committed an offset, as the group's coordinator counts them. Absent while a part is unknown: the coordinator is suspect or silent (the page names its groups), or another broker leads a partition of which the coordinator has no replica in sync. groups in the config file includes and excludes groups. Bounded, see series_left_out.");
    PROBE_SUCCESS = ("kafka_vitals_probe_success", ["broker", "path"],
        "1 if the broker answered the newest request to its own listener within 2 s, 0 if not. path api is ApiVersions, which a request handler answers; network is what the network thread alone answers, in place of api where the listener demands credentials that are not configured: ApiVersions before a login, or a TLS handshake; metadata is Metadata, which is absent while api is not answered; fetch is a Fetch of no record of a partition that the broker leads, which takes the partition's lock, by the collector groups: absent while the broker is suspect, unless the answer is owed. Nothing is sent while an answer is owed: then api, network or fetch is 0.");
    PROBE_DURATION = ("kafka_vitals_probe_duration_seconds", ["broker", "path"],
        "Time until that answer, or until the failure; while an answer is owed, the time since the request; for a broker that answers after the 2 s, the duration of its last answer.");
    LISTENER_PROBE_SUCCESS = ("kafka_vitals_listener_probe_success", ["broker", "listener"],
        "1 if the listener answered the newest request within 2 s, 0 if not, where the broker has several: the first 8 that can be reached; by ApiVersions, or by what the network thread alone answers. Absent for a single listener.");
    LISTENER_PROBE_DURATION = ("kafka_vitals_listener_probe_duration_seconds", ["broker", "listener"],
        "As kafka_vitals_probe_duration_seconds, for each listener of kafka_vitals_listener_probe_success.");
    CERTIFICATE_END = ("kafka_vitals_certificate_expiry_timestamp_seconds", ["broker", "listener"],
        "When the certificate ends that the listener showed in the newest TLS handshake, since unix epoch in seconds. Absent for a listener without TLS. A kept connection is renewed each hour.");
    PEER_PROBE_SUCCESS = ("kafka_vitals_peer_probe_success", ["broker", "peer", "stage"],
        "1 if the next brokers by id, 8 at most, were reached from the host of the broker: stage connect is a TCP connection, which is kept; api is ApiVersions, absent where there is no connection.");
    LOG_DIR_FREE = ("kafka_vitals_log_dir_free_bytes", ["broker", "dir"],
        "Bytes that the broker may still write to the file system of this log dir.");
    LOG_DIR_SIZE = ("kafka_vitals_log_dir_size_bytes", ["broker", "dir"],
        "Bytes of the file system of this log dir that are written, or that the broker may still write: as df has it, without what is kept for root.");
    LOG_DIRS_OFFLINE = ("kafka_vitals_log_dirs_offline", ["broker"],
        "Log dirs that the broker has given up after an error: it has released their locks. Needs the same rights as kafka_vitals_file_handles.");
    LOG_SIGNATURES = ("kafka_vitals_log_signatures_total", ["broker", "signature", "severity"],
        "Lines of the broker's own log that have the signature, since the exporter follows it; docs/log-signatures.md says what each means. A line and the exception below it count once. Absent while the log is not followed.");
    LOG_SKIPPED = ("kafka_vitals_log_skipped_bytes_total", ["broker"],
        "Bytes of the broker's log that were not read, because it grew by more than 64 MiB beyond what was read, or of which a rotated file was compressed before it was read (its compressed size).");
    SHUTDOWN_ANNOUNCED = ("kafka_vitals_shutdown_announced", ["broker"],
        "1 if the log of the broker has announced that it shuts down, as it does when it is asked to, and for a broker that has ended no critical line came shortly before its end; 0 if not; absent while no log is read.");
    BUNDLES = ("kafka_vitals_evidence_bundles_total", ["broker"],
        "Bundles of evidence saved for this broker since the exporter started; absent for a broker that was never gray (alive, not working).");
    COLLECTOR_SUCCESS = ("kafka_vitals_collector_success", ["broker", "collector"],
        "1 if the collector's last run read everything, 0 if something is unknown: its series are absent, and the page / shows the reason. Absent where nothing has failed: before the first run, and where the broker does not have it or nobody configured what it needs.");
    COLLECTOR_DURATION = ("kafka_vitals_collector_duration_seconds", ["broker", "collector"],
        "Time that the collector's last run took.");
    COLLECTOR_PANICS = ("kafka_vitals_collector_panics_total", ["broker", "collector"],
        "Rounds of the collector that panicked since the exporter started; the collector is started again, and the log has the place. Absent before the first.");
    ROUND_INTERVAL = ("kafka_vitals_round_interval_seconds", ["broker", "collector"],
        "Interval at which the collector now runs: longer than configured where its cost ceiling stretched it.");
    READING_AGE = ("kafka_vitals_reading_age_seconds", ["broker", "collector"],
        "Age of the newest known values of the collector, however old; the oldest of several readings. A reading older than three intervals is absent elsewhere.");
    OWN_CPU = ("process_cpu_seconds_total", [], "Total user and system CPU time spent in seconds, of this exporter.");
    OWN_HANDLES = ("process_open_fds", [], "Number of open file descriptors of this exporter.");
    OWN_HANDLE_LIMIT = ("process_max_fds", [], "Maximum number of open file descriptors of this exporter.");
    OWN_RESIDENT = ("process_resident_memory_bytes", [], "Resident memory size in bytes, of this exporter.");
    OWN_VIRTUAL = ("process_virtual_memory_bytes", [], "Virtual memory size in bytes, of this exporter.");
    OWN_START = ("process_start_time_seconds", [], "Start time of this exporter since unix epoch in seconds.");
    OWN_THREADS = ("process_threads", [], "Number of OS threads of this exporter.");
}

/// `docs/metrics.md`.
pub fn reference() -> String {
    let mut out = String::from(
        "# Metrics\n\nGenerated from the catalogue in `src/expose/metrics.rs` by `make docs`; do not edit.\n\n\
         Collectors read the values, each at its interval, and they are served from memory: a scrape never touches a broker. A value that could not be \
         read is absent, never 0. `broker` is the node id; `<id>@<port>` for brokers that share an id on one host; \
         `pid-N` until the id is known.\n\n| metric | kind | labels | meaning |\n|---|---|---|---|\n",
    );
    for metric in CATALOGUE {
        let kind = if metric.is_counter() {
            "counter"
        } else {
            "gauge"
        };
        let help = metric.help.replace('|', "\\|");
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "| `{}` | {kind} | {} | {help} |",
            metric.name,
            metric.labels.join(", ")
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        let mut names = BTreeSet::new();
        for metric in CATALOGUE {
            assert!(names.insert(metric.name), "{} twice", metric.name);
            assert!(
                metric.name.starts_with("kafka_vitals_") || metric.name.starts_with("process_")
            );
            assert!(metric.help.ends_with('.'), "{}", metric.name);
            let bad = ["type", "cluster", "job", "instance"];
            assert!(
                metric.labels.iter().all(|label| !bad.contains(label)),
                "{}",
                metric.name
            );
        }
    }

    /// `make docs` rewrites the file.
    #[test]
    fn golden_reference_is_the_catalogue() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        if std::env::var_os("KAFKA_VITALS_REFRESH").is_some() {
            std::fs::write(path, reference()).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap();
        assert!(
            written == reference(),
            "docs/metrics.md is not what the catalogue says: make docs"
        );
    }
}
