//! The newest readings of every broker on this host: plain data that a scrape, a page or a test reads.
//!
//! A [`Reading`] is a known value with its time, or unknown with the reason. There is no third state: a value that was
//! not counted is never zero.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::reading::NOT_READ_YET;
use super::{
    AcceptQueue, AnyReading, Broker, CollectorName, Label, Mode, Moment, ProcessKey,
    ProgressReport, Reading, Reason, SocketOwners, SocketPulse, StandingDeadlock, ThreadReport,
    ZooKeeperReport,
};

/// Everything known at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub at: Moment,
    /// One entry per broker process, sorted by label for a stable output.
    pub brokers: Vec<Arc<BrokerSnapshot>>,
    /// `vm.max_map_count` of this kernel: the most memory mappings of a process.
    pub memory_map_limit: Reading<u64>,
    /// The state of the discovery round, which belongs to no broker.
    pub discovery: CollectorStatus,
    /// Processes that look like brokers and are not watched, because there are too many.
    #[serde(default)]
    pub brokers_left_out: u64,
    /// Where discovery may have missed a broker, entries of the config file that match none, ids that are not unique.
    pub discovery_warnings: Vec<String>,
    /// The exporter's own process.
    pub exporter: Reading<ExporterVitals>,
    /// None in recordings of earlier builds, and before the first round.
    #[serde(default)]
    pub settings: Option<SettingsStatus>,
}

impl Snapshot {
    /// What is known of the broker process.
    pub fn of(&self, process: ProcessKey) -> Option<&Arc<BrokerSnapshot>> {
        self.brokers
            .iter()
            .find(|known| known.broker.process == process)
    }
}

/// What became of the newest attempts to take config file and web config file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsStatus {
    pub config_file_ok: bool,
    pub web_config_file_ok: bool,
    /// When settings were taken last.
    pub taken: Moment,
}

impl SettingsStatus {
    /// At the start, which a wrong file prevents.
    pub fn started(now: Moment) -> SettingsStatus {
        SettingsStatus {
            config_file_ok: true,
            web_config_file_ok: true,
            taken: now,
        }
    }
}

/// The exporter's own use of its host, as Prometheus' client libraries export it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ExporterVitals {
    pub cpu_seconds: f64,
    pub open_fds: u64,
    /// None is unlimited.
    pub handle_limit: Option<u64>,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub started: Moment,
    pub threads: u64,
}

/// All readings of one broker process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BrokerSnapshot {
    pub broker: Arc<Broker>,
    /// The `broker` label: the id, `<id>@<user>` where another user comes first, `<id>@<port>` where ids collide, `pid-N`
    /// while the id is unknown.
    pub label: String,
    /// See [`Label::outranked`].
    #[serde(default)]
    pub outranked: bool,
    /// Whether it has answered, listened or shown its threads. Another process that ends is forgotten at once.
    #[serde(default)]
    pub served: bool,
    /// When discovery found the process gone. The broker stays listed, all unknown, until it is back or an hour has passed;
    /// without an id for a minute, because it would return under another label.
    pub ended: Option<Moment>,
    pub process: Reading<ProcessVitals>,
    pub open_fds: Reading<u64>,
    pub fd_kinds: Reading<FdKinds>,
    pub untracked_sockets: Reading<u64>,
    pub memory_maps: Reading<u64>,
    pub sockets: Reading<SocketPulse>,
    pub accept_queues: Reading<Vec<AcceptQueue>>,
    pub connections: Reading<SocketOwners>,
    pub cluster: Reading<ClusterCounts>,
    /// What a peer counts by its Metadata, asked now and then to check what the broker itself says.
    #[serde(default)]
    pub peer_view: Reading<ClusterCounts>,
    pub probes: Reading<ProbeReport>,
    /// Only KRaft nodes have it.
    #[serde(default)]
    pub metadata_log: Reading<MetadataLog>,
    /// Only brokers of older clusters have it.
    #[serde(default)]
    pub zookeeper: Reading<ZooKeeperReport>,
    /// Free space of each log dir's file system.
    pub log_dirs: Reading<Vec<LogDirSpace>>,
    pub threads: Reading<ThreadReport>,
    pub progress: Reading<ProgressReport>,
    /// Time that the JVM has spent at safepoints since it started.
    pub jvm_pauses: Reading<Duration>,
    /// By the pool's name.
    #[serde(default)]
    pub pools: Reading<Arc<BTreeMap<String, PoolTime>>>,
    /// The newest deadlock of this process: stays until a later successful dump is clean.
    pub deadlock: Option<StandingDeadlock>,
    /// Failed thread dumps of this process since the exporter started, by reason.
    pub dump_failures: BTreeMap<Reason, u64>,
    /// Rounds of collectors that panicked since the exporter started.
    #[serde(default)]
    pub panics: BTreeMap<CollectorName, u64>,
    #[serde(deserialize_with = "known_collectors")]
    pub collectors: BTreeMap<CollectorName, CollectorStatus>,
}

/// Leaves out what this version does not know: recordings of other versions are replayed as well.
fn known_collectors<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<CollectorName, CollectorStatus>, D::Error> {
    let all = BTreeMap::<String, CollectorStatus>::deserialize(deserializer)?;
    let known = |(name, status): (String, _)| Some((CollectorName::of_name(&name)?, status));
    Ok(all.into_iter().filter_map(known).collect())
}

impl BrokerSnapshot {
    /// A broker without any reading yet.
    pub fn new(broker: Arc<Broker>, label: Label) -> Self {
        BrokerSnapshot {
            broker,
            label: label.text,
            outranked: label.outranked,
            ..BrokerSnapshot::default()
        }
    }

    /// The readings: the collector of each, its name for a person, and what is known. `untracked_sockets` is left out, as
    /// it is known whenever `connections` is; so is what the cluster does not have, because it keeps its metadata elsewhere.
    pub fn readings(&self) -> impl Iterator<Item = (CollectorName, &'static str, &dyn AnyReading)> {
        use CollectorName as C;
        let all: [(CollectorName, &'static str, &dyn AnyReading); 16] = [
            (C::Process, "process", &self.process),
            (C::Process, "open file handles", &self.open_fds),
            (C::Fds, "file handles by kind", &self.fd_kinds),
            (C::MemoryMaps, "memory maps", &self.memory_maps),
            (C::LogDirs, "log dirs", &self.log_dirs),
            (C::Sockets, "sockets", &self.sockets),
            (C::AcceptQueues, "accept queues", &self.accept_queues),
            (C::Connections, "connections by owner", &self.connections),
            (C::Cluster, "answers to requests", &self.probes),
            (C::Cluster, "cluster state", &self.cluster),
            (C::MetadataLog, "metadata log", &self.metadata_log),
            (C::ZooKeeper, "registration in ZooKeeper", &self.zookeeper),
            (C::Threads, "threads", &self.threads),
            (C::Progress, "progress of threads", &self.progress),
            (C::Progress, "pauses of the JVM", &self.jvm_pauses),
            (C::Pools, "CPU time of pools", &self.pools),
        ];
        let elsewhere = self.broker.mode.map(|mode| match mode {
            Mode::ZooKeeper => C::MetadataLog,
            Mode::KRaft => C::ZooKeeper,
        });
        let is_here = move |(collector, ..): &(CollectorName, _, _)| Some(*collector) != elsewhere;
        all.into_iter().filter(is_here)
    }

    /// Makes unknown what this collector has read, because it is off from now on.
    pub fn forget(&mut self, collector: CollectorName) {
        self.set_not_read(collector, NOT_READ_YET);
    }

    /// Makes unknown what this collector reads, for a reason that is no failure of it.
    pub fn set_not_read(&mut self, collector: CollectorName, why: impl Into<Arc<str>>) {
        use CollectorName as C;
        let why = &why.into();
        self.collectors.remove(&collector);
        match collector {
            // Always on.
            C::Discovery | C::Process => {}
            C::AcceptQueues => self.accept_queues.forget(why),
            C::Sockets => self.sockets.forget(why),
            C::Fds => self.fd_kinds.forget(why),
            C::Connections => {
                self.connections.forget(why);
                self.untracked_sockets.forget(why);
            }
            C::MemoryMaps => self.memory_maps.forget(why),
            C::LogDirs => self.log_dirs.forget(why),
            C::Cluster => {
                self.cluster.forget(why);
                self.peer_view.forget(why);
                self.probes.forget(why);
            }
            C::MetadataLog => self.metadata_log.forget(why),
            C::ZooKeeper => self.zookeeper.forget(why),
            C::Threads => {
                self.threads.forget(why);
                self.deadlock = None;
            }
            C::Progress => {
                self.progress.forget(why);
                self.jvm_pauses.forget(why);
            }
            C::Pools => self.pools.forget(why),
        }
    }

    /// The counts of partitions, from the metadata log where there is one that does not stand still. Unknown if Metadata shows no topic: `cluster`
    /// then only shows the live brokers.
    pub fn partitions(&self, now: Moment) -> Option<&ClusterCounts> {
        let visible = |counts: &&ClusterCounts| counts.partitions > 0;
        self.of_log_or(self.cluster.fresh(now).filter(visible), now)
    }

    /// The counts of the metadata log, or those of Metadata where the log has none or stands still.
    pub(super) fn of_log_or<'a>(
        &'a self,
        metadata: Option<&'a ClusterCounts>,
        now: Moment,
    ) -> Option<&'a ClusterCounts> {
        let log = self.metadata_log.fresh(now);
        let of_log = log.and_then(|log| log.counts.as_ref());
        match log.is_some_and(|log| log.is_current(now)) {
            true => of_log.or(metadata),
            false => metadata.or(of_log),
        }
    }

    /// As [`BrokerSnapshot::partitions`], for what is counted of this broker alone: unknown for a dedicated controller, and
    /// for a broker whose id is unknown.
    pub fn own_partitions(&self, now: Moment) -> Option<&ClusterCounts> {
        let counts = self.partitions(now);
        counts.filter(|_| self.broker.id.is_some() && !self.broker.is_dedicated_controller())
    }
}

/// The result of a collector's last run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CollectorStatus {
    /// None until the first run ended, and where it reads all that it can without credentials that nobody configured.
    pub success: Option<bool>,
    pub duration: Duration,
    /// Until its next run: longer than configured where the cost ceiling stretched it.
    #[serde(default)]
    pub interval: Duration,
    pub at: Moment,
    /// Why it failed: which broker, which file or address, what to do.
    pub error: Option<String>,
}

/// From `/proc/PID/stat`, `status` and `limits`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessVitals {
    /// The state of the main thread: `R`, `S`, `D`, `T` (stopped), `Z` ...
    pub state: char,
    pub resident_bytes: u64,
    /// None is unlimited.
    pub fd_limit_soft: Option<u64>,
    pub fd_limit_hard: Option<u64>,
}

/// What the scheduler has counted for the threads of one pool, with those that have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct PoolTime {
    /// Those that run now.
    pub threads: u64,
    pub cpu: Duration,
    /// How long they waited for a core.
    pub run_queue: Duration,
    /// Cores that they used on average over the last seconds; None at the first reading.
    pub cores: Option<f64>,
    /// How many of them waited for a core on average over the last seconds.
    pub waiting: Option<f64>,
}

/// Open file descriptors by what they refer to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdKinds {
    pub socket: u64,
    /// `*.log` segments of the log dirs.
    pub log_segment: u64,
    /// `*.index`, `*.timeindex`, `*.txnindex`.
    pub index: u64,
    pub jar: u64,
    pub pipe: u64,
    /// `anon_inode:*`: epoll, eventfd.
    pub anon: u64,
    pub other: u64,
}

impl FdKinds {
    /// Each kind with the label that names it.
    pub fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("socket", self.socket),
            ("log_segment", self.log_segment),
            ("index", self.index),
            ("jar", self.jar),
            ("pipe", self.pipe),
            ("anon", self.anon),
            ("other", self.other),
        ]
    }
}

/// Which broker reported the cluster's state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClusterSource {
    /// The broker itself.
    #[default]
    Own,
    /// Another broker of the cluster, by id, because this one is silent or suspect.
    Peer(i32),
    /// The node's own replica of the metadata log, without any request.
    Log,
}

/// Counts over one Metadata response or over the metadata log, from the point of view of one broker.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ClusterCounts {
    pub source: ClusterSource,
    /// Why the broker itself was not the source.
    pub own_silence: Option<String>,
    /// Brokers that the response lists. It is shared, like the other parts whose size the broker decides, so that
    /// publishing a snapshot copies none of them.
    pub live_brokers: Arc<[Peer]>,
    /// Brokers that hold replicas and are not live, the first few.
    #[serde(default)]
    pub absent: BTreeSet<i32>,
    /// Partitions that this broker leads.
    pub leader: u64,
    /// How many of those have fewer replicas in the ISR than assigned.
    pub under_replicated: u64,
    /// How many of those have only the leader in the ISR and more than one replica assigned.
    pub isr_leader_alone: u64,
    /// Partitions of the cluster that this broker is a replica of without being in the ISR.
    pub not_in_isr: u64,
    /// How many of those each live leader leads.
    pub not_in_isr_by_leader: Arc<BTreeMap<i32, u64>>,
    /// Partitions of the whole cluster that have no leader.
    pub offline: u64,
    /// How many of those that it leads have fewer replicas in the ISR than `min.insync.replicas`: writes with acks=all
    /// fail. None is unknown.
    #[serde(default)]
    pub under_min_isr: Option<u64>,
    /// How many of those that it leads would be so if one replica more were missing.
    #[serde(default)]
    pub at_min_isr: Option<u64>,
    /// How many of those that it leads are being moved to other brokers. None is unknown.
    #[serde(default)]
    pub reassigning: Option<u64>,
    /// Partitions of the whole cluster; with 0 no topic was visible, and no count above means anything.
    pub partitions: u64,
    /// Under-replicated partitions led by this broker (or offline, if it is the lowest live id), the first few.
    pub under_replicated_partitions: Arc<[PartitionState]>,
    /// How many more there are.
    pub under_replicated_left_out: u64,
}

impl ClusterCounts {
    /// What two views of the cluster must agree on: partitions, led ones, offline ones, under-replicated ones.
    pub fn view(&self) -> [u64; 4] {
        [
            self.partitions,
            self.leader,
            self.offline,
            self.under_replicated,
        ]
    }
}

/// What a KRaft node's own replica of `__cluster_metadata` says. The node's request handlers have no part in it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct MetadataLog {
    /// From the point of view of this node; a dedicated controller leads nothing. None while a migration from ZooKeeper
    /// is under way, because ZooKeeper then has the truth.
    pub counts: Option<ClusterCounts>,
    /// Every broker that is registered, by id.
    pub brokers: Arc<BTreeMap<i32, Registration>>,
    /// The offset after the last record that the replica has.
    pub end_offset: i64,
    /// When the exporter saw the newest record arrive.
    pub arrived: Moment,
    /// What the leader wrote into that record.
    pub written: Moment,
    /// The time between the newest two NoOp records, which the leader writes while nothing else changes. None where none
    /// was seen (`metadata.max.idle.interval.ms=0`, or a metadata version before 3.3): silence then says nothing.
    #[serde(default)]
    pub pulse: Option<Duration>,
}

/// A replica that gets nothing for so long stands still, if records are due: two a second by default.
const SILENCE: Duration = Duration::from_secs(10);
/// So many records must be missing.
const MISSED_PULSES: u32 = 4;

impl MetadataLog {
    /// Whether records arrive as they are due. Where none is ever due, silence says nothing.
    pub fn is_current(&self, now: Moment) -> bool {
        let longest = |pulse: Duration| SILENCE.max(pulse.saturating_mul(MISSED_PULSES));
        let silence = now.since(self.arrived);
        self.pulse.is_none_or(|pulse| silence < longest(pulse))
    }

    /// Whether nothing has arrived for so long that a replica that has more shows that this one stands still.
    pub fn is_silent(&self, now: Moment) -> bool {
        now.since(self.arrived) >= SILENCE
    }
}

/// What the controller has decided about a registered broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Registration {
    /// It serves nobody: it leads nothing and is in no ISR.
    pub fenced: bool,
    /// It has asked for leave to end.
    pub in_controlled_shutdown: bool,
}

/// A broker as Metadata names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub id: i32,
    /// At most 255 bytes: the decoder refuses a longer name. Empty for brokers that are too far on the ring to be asked.
    pub host: Arc<str>,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    pub topic: String,
    pub partition: i32,
    /// None is offline.
    pub leader: Option<i32>,
    pub replicas: u32,
    pub isr: u32,
}

/// The results of the last round of requests to the broker itself and to its peers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ProbeReport {
    /// ApiVersions, which a request handler answers; None where the listener demands credentials before that.
    pub api: Option<Probe>,
    /// What the network thread alone answers, where `api` is None: ApiVersions before a login, or a TLS handshake.
    #[serde(default)]
    pub network: Option<Probe>,
    /// Metadata; None while the broker owes the answer to `api`, because then it is not requested, and where the listener
    /// demands credentials.
    pub metadata: Option<Probe>,
    /// The listener of the probes above and then the others; empty for a single one without TLS.
    #[serde(default)]
    pub listeners: Vec<ListenerProbe>,
    /// The next brokers by id, each probed over one kept connection.
    pub peers: Vec<PeerProbe>,
}

impl ProbeReport {
    /// The first answer of the broker: of a request handler, or else of the network thread.
    pub fn first(&self) -> Option<&Probe> {
        self.api.as_ref().or(self.network.as_ref())
    }

    /// All that the broker itself was asked for at its first listener.
    pub fn own(&self) -> impl Iterator<Item = &Probe> {
        [&self.api, &self.network, &self.metadata]
            .into_iter()
            .flatten()
    }
}

/// ApiVersions at one listener of the broker, or as much of it as there is without credentials.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListenerProbe {
    /// As `listeners` names it; the address where that is unknown.
    pub listener: String,
    pub probe: Probe,
    /// Whether a request handler answers it, or the network thread alone.
    pub by_handler: bool,
    /// When its certificate ends, where it has one.
    pub certificate_end: Option<Moment>,
    /// Whether the certificate was verified; None without TLS.
    pub verified: Option<bool>,
    /// Whether it has TLS and the exporter shows nothing there by which the broker could know it: what its ACLs hide from
    /// the ANONYMOUS user is then hidden.
    #[serde(default)]
    pub anonymous: bool,
}

/// One request, or one attempt to connect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// The time until the answer or the failure; while an answer is owed, the time since the request; for a slow broker,
    /// the duration of its last answer.
    pub duration: Duration,
    /// None is success.
    pub error: Option<ProbeError>,
}

impl Probe {
    pub fn success(&self) -> bool {
        self.error.is_none()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeError {
    pub reason: Reason,
    /// Whether TCP accepted the connection: this distinguishes a silent broker from one that is down.
    pub accepted: bool,
    /// Which broker and address, what happened, what to do.
    pub message: String,
}

impl ProbeError {
    /// Whether TCP itself got no answer.
    pub fn is_unreachable(&self) -> bool {
        !self.accepted && matches!(self.reason, Reason::Timeout | Reason::Unreachable)
    }

    /// Whether clients get no answer either: TCP accepts, and the exporter's request is not the cause.
    pub fn is_silent(&self) -> bool {
        self.accepted && matches!(self.reason, Reason::Timeout | Reason::Closed)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerProbe {
    pub peer: Peer,
    pub connect: Probe,
    /// None if there is no connection.
    pub api: Option<Probe>,
}

/// The file system of one log dir.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogDirSpace {
    /// As the broker names it.
    pub dir: PathBuf,
    /// The bytes that the broker's user may still write.
    pub free_bytes: u64,
    pub total_bytes: u64,
}

impl LogDirSpace {
    pub fn used_bytes(&self) -> u64 {
        self.total_bytes.saturating_sub(self.free_bytes)
    }
}
