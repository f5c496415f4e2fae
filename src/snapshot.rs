//! The newest readings of every broker on this host: plain data that a scrape, a page or a test reads.
//!
//! A [`Reading`] is a known value with the time at which it was taken, or unknown with the reason. There is no
//! third state: what was not counted is never zero.

mod threads;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::discover::Broker;
use crate::named::named;
pub use threads::{
    Deadlock, DeadlockedThread, Likeness, LockQueue, MissingThread, NamedIssue, PoolFindings,
    ProgressReport, Stall, StandingDeadlock, Suspect, ThreadReport,
};

/// Milliseconds since 1970, from a clock that never goes back while the exporter runs (see [`Clock`]).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Moment(pub u64);

impl Moment {
    /// Time from `earlier` to `self`; zero if `earlier` is the later one.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    pub fn plus(self, span: Duration) -> Moment {
        Moment(
            self.0
                .saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// Seconds since 1970, as Prometheus tells time.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1000.0
    }
}

/// Wall time at start plus monotonic time since: a step of the system clock makes no reading young or old.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    wall: Duration,
    start: Instant,
    /// In a replay: the milliseconds at which it stands.
    replayed: Option<&'static AtomicU64>,
}

impl Clock {
    pub fn start() -> Clock {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Clock {
            wall,
            start: Instant::now(),
            replayed: None,
        }
    }

    /// One that stands, with all its copies, where [`Clock::set`] put it last. A process needs one at most.
    pub fn replayed() -> Clock {
        Clock {
            replayed: Some(Box::leak(Box::default())),
            ..Clock::start()
        }
    }

    /// Nothing on a clock that runs by itself.
    pub fn set(&self, now: Moment) {
        if let Some(at) = self.replayed {
            at.store(now.0, Ordering::Relaxed);
        }
    }

    pub fn now(&self) -> Moment {
        match self.replayed {
            Some(at) => Moment(at.load(Ordering::Relaxed)),
            None => Moment(0).plus(self.wall + self.start.elapsed()),
        }
    }
}

/// A known value with its time, or unknown with its reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reading<T> {
    Known {
        value: T,
        at: Moment,
        /// Three intervals of the round that took it; older than this it says nothing of now.
        valid_for: Duration,
    },
    Unknown {
        reason: Arc<str>,
    },
}

impl<T> Reading<T> {
    pub fn unknown(reason: impl Into<Arc<str>>) -> Self {
        Reading::Unknown {
            reason: reason.into(),
        }
    }

    /// The value, if it is known and young enough to speak of `now`.
    pub fn fresh(&self, now: Moment) -> Option<&T> {
        match self {
            Reading::Known {
                value,
                at,
                valid_for,
            } if now.since(*at) <= *valid_for => Some(value),
            _ => None,
        }
    }

    /// The last known value however old, with its time.
    pub fn last(&self) -> Option<(&T, Moment)> {
        match self {
            Reading::Known { value, at, .. } => Some((value, *at)),
            Reading::Unknown { .. } => None,
        }
    }

    /// Why [`Reading::fresh`] gives nothing, for a person.
    pub fn reason(&self, now: Moment) -> Option<String> {
        match self {
            Reading::Unknown { reason } => Some(reason.to_string()),
            Reading::Known { at, valid_for, .. } if now.since(*at) > *valid_for => {
                Some(format!("last read {} s ago", now.since(*at).as_secs()))
            }
            Reading::Known { .. } => None,
        }
    }
}

impl<T> Default for Reading<T> {
    fn default() -> Self {
        Reading::Unknown {
            reason: Arc::from("not read yet"),
        }
    }
}

/// Everything known at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub at: Moment,
    /// By `Broker::process`; sorted by label for a stable output.
    pub brokers: Vec<Arc<BrokerSnapshot>>,
    /// `vm.max_map_count` of this kernel, mappings a process may have.
    pub memory_map_limit: Reading<u64>,
    /// Of the discovery round, which belongs to no broker.
    pub discovery: CollectorStatus,
    /// Where discovery may have missed a broker, what of the config file matches none, ids that are not unique.
    pub doubts: Vec<String>,
    /// The exporter's own process.
    pub exporter: Reading<ExporterVitals>,
}

/// The exporter's own use of its host, as Prometheus' client libraries tell it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ExporterVitals {
    pub cpu_seconds: f64,
    pub open_handles: u64,
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
    /// The `broker` label: the id, `<id>@<port>` where ids collide on this host, `pid-N` while the id is unknown.
    pub label: String,
    /// When discovery found the process gone. It stays in sight, all unknown, until it is back or an hour has passed;
    /// without an id a minute, as it would come back under another label.
    pub ended: Option<Moment>,
    pub process: Reading<ProcessVitals>,
    pub handles: Reading<u64>,
    pub handle_kinds: Reading<HandleKinds>,
    pub untracked_sockets: Reading<u64>,
    pub memory_maps: Reading<u64>,
    pub sockets: Reading<SocketPulse>,
    pub connections: Reading<SocketOwners>,
    pub cluster: Reading<ClusterCounts>,
    pub probes: Reading<ProbeReport>,
    /// Free space of each log dir's file system.
    pub log_dirs: Reading<Vec<LogDirSpace>>,
    pub threads: Reading<ThreadReport>,
    pub progress: Reading<ProgressReport>,
    /// Time that the JVM has spent at safepoints since it started.
    pub jvm_pauses: Reading<Duration>,
    /// The newest deadlock of this process: stays until a later successful dump is clean.
    pub deadlock: Option<StandingDeadlock>,
    /// Failed thread dumps of this process since the exporter started, by reason.
    pub dump_failures: BTreeMap<String, u64>,
    pub collectors: BTreeMap<String, CollectorStatus>,
    /// The interval at which each round now runs: longer than configured where the cost ceiling stretched it.
    pub rounds: BTreeMap<String, Duration>,
}

impl BrokerSnapshot {
    /// A broker of which nothing has been read yet.
    pub fn new(broker: Arc<Broker>, label: String) -> Self {
        BrokerSnapshot {
            broker,
            label,
            ..BrokerSnapshot::default()
        }
    }

    /// The counts of partitions, unknown where no topic was visible: `cluster` then tells who lives, and no more.
    pub fn partitions(&self, now: Moment) -> Option<&ClusterCounts> {
        self.cluster
            .fresh(now)
            .filter(|counts| counts.partitions > 0)
    }
}

/// How the last run of one collector went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CollectorStatus {
    /// None until the first run ended.
    pub success: Option<bool>,
    pub duration: Duration,
    pub at: Moment,
    /// Why it failed: which broker, which file or address, what to do.
    pub error: Option<String>,
}

/// From `/proc/PID/stat`, `status` and `limits`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessVitals {
    /// `R`, `S`, `D`, `T` (stopped), `Z` ... of the main thread.
    pub state: char,
    pub resident_bytes: u64,
    /// None is unlimited.
    pub handle_limit_soft: Option<u64>,
    pub handle_limit_hard: Option<u64>,
}

/// Open handles by what they lead to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandleKinds {
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

impl HandleKinds {
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

named! {
    /// The kernel's TCP states, in the order of its numbers (1 is established). The twelfth, NEW_SYN_RECV, never leaves
    /// the kernel: sock_diag and `/proc/net/tcp` both tell it as SYN_RECV.
    #[derive(Serialize, Deserialize)]
    pub enum TcpState {
        Established = "established",
        SynSent = "syn_sent",
        SynRecv = "syn_recv",
        FinWait1 = "fin_wait1",
        FinWait2 = "fin_wait2",
        TimeWait = "time_wait",
        Close = "close",
        CloseWait = "close_wait",
        LastAck = "last_ack",
        Listen = "listen",
        Closing = "closing",
    }
}

impl TcpState {
    /// As `/proc/net/tcp` and sock_diag count them.
    pub fn number(self) -> u8 {
        self as u8 + 1
    }

    /// From its [`TcpState::number`].
    pub fn from_number(number: u8) -> Option<TcpState> {
        TcpState::ALL
            .get(usize::from(number).checked_sub(1)?)
            .copied()
    }
}

/// Sockets in one state. For LISTEN the queues are no bytes and stay 0 here; see [`AcceptQueue`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateCount {
    pub connections: u64,
    /// Bytes that the broker has not read: the peer's FIN, which counts 1 in `ss` until it is read, is left out.
    pub receive_bytes: u64,
    /// Bytes that the peer has not acknowledged, as `ss` tells them: an unacknowledged SYN or FIN counts 1.
    pub send_bytes: u64,
}

/// Counts by TCP state; index with [`StateCounts::get`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateCounts([StateCount; 11]);

impl StateCounts {
    pub fn get(&self, state: TcpState) -> &StateCount {
        &self.0[state as usize]
    }

    pub fn get_mut(&mut self, state: TcpState) -> &mut StateCount {
        &mut self.0[state as usize]
    }
}

/// Every second: the broker's listener ports, every state but ESTABLISHED (that slot stays 0).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SocketPulse {
    pub server: StateCounts,
    /// CLOSE_WAIT connections of the listeners with bytes that nobody reads.
    pub unread_close_wait: u64,
    pub accept_queues: Vec<AcceptQueue>,
}

/// A listener's connections that the kernel completed and the broker has not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptQueue {
    /// Name of the Kafka listener.
    pub listener: String,
    pub length: u32,
    /// Unknown where only `/proc/PID/net/tcp` could be read.
    pub limit: Option<u32>,
}

/// Every slow round: what only the owner of each socket tells.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SocketOwners {
    /// ESTABLISHED connections at the listener ports.
    pub server_established: StateCount,
    /// The broker's outgoing connections, to other brokers and ZooKeeper.
    pub client: StateCounts,
    pub client_unread_close_wait: u64,
}

/// Whom the cluster's state was asked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClusterSource {
    /// The broker itself.
    #[default]
    Own,
    /// Another broker of the cluster, by id, because this one is silent.
    Peer(i32),
}

/// Counts over one Metadata response, from the point of view of one broker.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ClusterCounts {
    pub source: ClusterSource,
    /// Why the broker itself was not the source.
    pub own_silence: Option<String>,
    /// Brokers that the response lists.
    pub live_brokers: Vec<Peer>,
    /// Brokers that hold replicas and are not among those, the first few.
    #[serde(default)]
    pub absent: BTreeSet<i32>,
    /// Partitions that this broker leads.
    pub leader: u64,
    /// Of those, with fewer replicas in the ISR than assigned.
    pub under_replicated: u64,
    /// Of those, with the leader alone in the ISR and more than one replica assigned.
    pub isr_leader_alone: u64,
    /// Partitions of the cluster whose replicas hold this broker and whose ISR does not.
    pub not_in_isr: u64,
    /// Of those, how many each leader leads that lives.
    pub not_in_isr_by_leader: BTreeMap<i32, u64>,
    /// Partitions of the whole cluster without a leader.
    pub leaderless: u64,
    /// Partitions of the whole cluster; with 0 no topic was visible, and no count above means anything.
    pub partitions: u64,
    /// Partitions led by this broker (or leaderless, if it is the lowest live id) that are not whole, the first few.
    pub not_whole: Vec<PartitionState>,
    /// How many more were not whole.
    pub not_whole_left_out: u64,
}

/// A broker as Metadata names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub id: i32,
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    pub topic: String,
    pub partition: i32,
    /// None is leaderless.
    pub leader: Option<i32>,
    pub replicas: u32,
    pub isr: u32,
}

/// How the last round of requests went: to the broker itself, and to its peers on the ring.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// ApiVersions.
    pub api: Probe,
    /// Metadata; None while the broker owes the answer to `api`, so that it was not asked.
    pub metadata: Option<Probe>,
    /// The next brokers by id, each asked over one kept connection.
    pub peers: Vec<PeerProbe>,
}

/// One request, or one attempt to connect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Until the answer, or until the probe was given up; of an answer that is still owed, how long it has been owed; of
    /// a broker that is slow, how long its last answer took.
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
    /// One word: `timeout`, `slow` (it answers after the deadline), `refused`, `closed`, `unreachable`, `protocol`, `unsupported` ...
    pub reason: String,
    /// Whether TCP accepted the connection: a silent broker differs from one that is not there.
    pub accepted: bool,
    /// Which broker and address, what happened, what to do.
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerProbe {
    pub peer: Peer,
    pub connect: Probe,
    /// None where no connection could be made.
    pub api: Option<Probe>,
}

/// The file system of one log dir.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogDirSpace {
    /// As the broker names it.
    pub dir: PathBuf,
    /// Bytes that the broker's user may still write.
    pub free_bytes: u64,
    pub total_bytes: u64,
}

impl LogDirSpace {
    pub fn used_bytes(&self) -> u64 {
        self.total_bytes.saturating_sub(self.free_bytes)
    }
}
