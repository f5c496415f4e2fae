//! The newest readings of every broker on this host: plain data that a scrape, a page or a test reads.
//!
//! A [`Reading`] is a known value with its time, or unknown with the reason. There is no third state: a value that was
//! not counted is never zero.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::groups::LAGS_RECORDED;
use super::reading::NOT_READ_YET;
use super::{
    AcceptQueue, AnyReading, Broker, ClusterCounts, CollectorName, GroupsReport, Label, LogLine,
    LogReport, MetadataLog, Mode, Moment, Probe, ProbeReport, ProcessKey, ProgressReport, Reading,
    Reason, SocketOwners, SocketPulse, StandingDeadlock, ThreadReport, ZooKeeperReport,
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
    /// Whether the web config in use has the exporter speak TLS.
    #[serde(default)]
    pub web_tls: bool,
    /// When settings were taken last.
    pub taken: Moment,
}

impl SettingsStatus {
    /// At the start, which a wrong file prevents.
    pub fn started(now: Moment) -> SettingsStatus {
        SettingsStatus {
            config_file_ok: true,
            web_config_file_ok: true,
            web_tls: false,
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
    /// When discovery found the process gone. The broker stays listed, all unknown, until it is back; without an id for a
    /// minute, because it would return under another label.
    pub ended: Option<Moment>,
    /// What was known at the end, from the moment on at which the kernel reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastReadings>,
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
    /// A Fetch, which takes the lock of a partition that the broker leads.
    #[serde(default)]
    pub fetch: Reading<Probe>,
    #[serde(default, serialize_with = "largest_lags")]
    pub groups: Reading<GroupsReport>,
    /// Only KRaft nodes have it.
    #[serde(default)]
    pub metadata_log: Reading<MetadataLog>,
    /// Only brokers of older clusters have it.
    #[serde(default)]
    pub zookeeper: Reading<ZooKeeperReport>,
    /// Free space of each log dir's file system.
    pub log_dirs: Reading<Vec<LogDirSpace>>,
    /// Log dirs whose lock the process does not have, so that it has given them up.
    #[serde(default)]
    pub offline_log_dirs: Reading<Vec<PathBuf>>,
    #[serde(default)]
    pub log: Reading<Arc<LogReport>>,
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

/// A line a second is recorded, and a broker may have a thousand lags.
fn largest_lags<S: Serializer>(
    groups: &Reading<GroupsReport>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match groups {
        Reading::Known {
            value,
            at,
            valid_for,
        } if value.lags.len() > LAGS_RECORDED => {
            let (at, valid_for) = (*at, *valid_for);
            let value = value.with_largest_lags(LAGS_RECORDED);
            let recorded = Reading::Known {
                value,
                at,
                valid_for,
            };
            recorded.serialize(serializer)
        }
        _ => groups.serialize(serializer),
    }
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
    /// it is known whenever `connections` is; so is `fetch`, which is not sent to a broker that leads nothing, and what the
    /// cluster does not have, because it keeps its metadata elsewhere.
    pub fn readings(&self) -> impl Iterator<Item = (CollectorName, &'static str, &dyn AnyReading)> {
        use CollectorName as C;
        let all: [(CollectorName, &'static str, &dyn AnyReading); 18] = [
            (C::Process, "process", &self.process),
            (C::Process, "open file handles", &self.open_fds),
            (C::Fds, "file handles by kind", &self.fd_kinds),
            (C::MemoryMaps, "memory maps", &self.memory_maps),
            (C::LogDirs, "log dirs", &self.log_dirs),
            (C::Logs, "log", &self.log),
            (C::Sockets, "sockets", &self.sockets),
            (C::AcceptQueues, "accept queues", &self.accept_queues),
            (C::Connections, "connections by owner", &self.connections),
            (C::Cluster, "answers to requests", &self.probes),
            (C::Cluster, "cluster state", &self.cluster),
            (C::Groups, "consumer groups", &self.groups),
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

    /// Takes in which collectors run from now on: of the others nothing is known.
    pub fn set_switches(&mut self, is_on: impl Fn(CollectorName) -> bool) {
        let of_broker = CollectorName::ALL.into_iter();
        for name in of_broker.filter(|name| name.is_per_broker()) {
            if !is_on(name) {
                self.set_not_read(name, name.why_off());
            } else if !self.collectors.contains_key(&name) {
                self.set_not_read(name, NOT_READ_YET);
            }
        }
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
            C::Fds => {
                self.fd_kinds.forget(why);
                self.offline_log_dirs.forget(why);
            }
            C::Connections => {
                self.connections.forget(why);
                self.untracked_sockets.forget(why);
            }
            C::MemoryMaps => self.memory_maps.forget(why),
            C::LogDirs => self.log_dirs.forget(why),
            C::Logs => self.log.forget(why),
            C::Cluster => {
                self.cluster.forget(why);
                self.peer_view.forget(why);
                self.probes.forget(why);
            }
            C::Groups => {
                self.fetch.forget(why);
                self.groups.forget(why);
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
    /// None in recordings of earlier builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
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

/// The last readings of a process that has ended, which say why.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LastReadings {
    /// When the end was noticed.
    pub at: Moment,
    pub open_fds: Option<u64>,
    pub fd_limit: Option<u64>,
    pub log_dirs: Vec<LogDirSpace>,
    /// The last line of each critical signature that was read shortly before, by its name; the newest first.
    pub lines: Vec<(String, LogLine)>,
    /// Whether its log announced that it shuts down, and no critical line came shortly before; None where no log was read.
    #[serde(default)]
    pub announced: Option<bool>,
}

/// The file system of one log dir.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogDirSpace {
    /// As the broker names it.
    pub dir: PathBuf,
    /// The bytes that the broker's user may still write.
    pub free_bytes: u64,
    /// With what is written.
    pub total_bytes: u64,
}

impl LogDirSpace {
    pub fn used_bytes(&self) -> u64 {
        self.total_bytes.saturating_sub(self.free_bytes)
    }
}
