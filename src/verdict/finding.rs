//! What can be found about a broker: plain data, from the rules to pages, metrics and evidence.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::forecast::Forecast;
use crate::model::EvidenceStatus;
use crate::model::ProcessKey;
pub use crate::model::Severity;
use crate::model::named::named;
use crate::model::{Moment, NamedIssue, duration_text};

/// What is the same for every finding of a kind.
#[derive(Debug)]
pub struct Kind {
    /// As labels and the API spell it.
    pub name: &'static str,
    pub severity: Severity,
    /// The heading, here and of the runbook.
    pub title: &'static str,
    pub meaning: &'static str,
    pub what_to_do: &'static str,
}

macro_rules! findings {
    ($($id:ident = $name:literal, $severity:ident, $title:literal, $meaning:literal, $what_to_do:literal;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum FindingId { $(#[serde(rename = $name)] $id),* }

        impl FindingId {
            /// From cause to symptom.
            pub const ALL: &'static [FindingId] = &[$(FindingId::$id),*];

            pub fn kind(self) -> &'static Kind {
                match self {
                    $(FindingId::$id => &Kind {
                        name: $name, severity: Severity::$severity, title: $title, meaning: $meaning,
                        what_to_do: $what_to_do,
                    }),*
                }
            }
        }
    };
}

findings! {
    JvmDeadlock = "jvm_deadlock", Critical, "Deadlocked broker",
        "Threads of the broker wait for each other and never continue. Whatever needs their locks hangs with them, while ping, TCP and ZooKeeper report no problem.",
        "Save the evidence, then restart this broker: SIGTERM will hang, so SIGKILL after a bounded wait. Upgrade to a release with the fix.";
    LockCycle = "lock_cycle", Critical, "Deadlock that the JVM does not report",
        "The wait-for graph of the thread dump has a cycle. The JVM's own report does not show it, because it covers fewer kinds of locks.",
        "Save the evidence, then restart this broker: SIGTERM will hang, so SIGKILL after a bounded wait.";
    StalledPool = "stalled_pool", Critical, "Stalled threads",
        "Over several thread dumps threads of a pool stayed at the same place, used no CPU and were not idle, or all of them stand at one place and an answer is owed: a deadlock that no report shows, a lock held while waiting, or a disk that does not answer.",
        "Check the lock or frame that they share. If it is a lock, save the evidence and restart this broker; if it is a disk or network call, repair that first.";
    ProcessStopped = "process_stopped", Critical, "Stopped process",
        "The process was stopped (SIGSTOP, a debugger): it accepts connections and answers nothing.",
        "Find out what stopped it. `kill -CONT PID` continues it; nothing was lost but time.";
    DiskHung = "disk_hung", Critical, "A disk does not answer",
        "Threads of the broker have been in one call for a file for more than 5 s, and the kernel does not wake them: the disk, the file system or the storage behind it hangs. Whatever writes there or reads from there waits, with the locks that it holds.",
        "Check the disk of the log dir: `dmesg`, `iostat -x 1`, the storage behind it. The threads continue when it answers; a restart does not help, and the process cannot even end before.";
    JvmPaused = "jvm_paused", Critical, "The JVM pauses most of the time",
        "All threads of the broker stand at safepoints for more than half of the time, most often for garbage collection of a full heap: whatever it answers comes late, and above 80 % clients give up.",
        "Check what fills the heap, and -Xmx. A restart empties it; save the evidence first, with a heap dump if the cause is unknown.";
    ApiUnresponsive = "api_unresponsive", Critical, "Accepts connections, answers nothing",
        "The broker's port accepts connections and its API does not answer: clients hang without an error.",
        "See the thread findings for the cause. Without one, check garbage collection, CPU and disk of the host, and whether the container is paused.";
    ListenerUnresponsive = "listener_unresponsive", Critical, "One listener answers nothing",
        "A listener of the broker accepts connections and answers nothing, while another one answers: the network threads or the acceptor of that listener hang. Its clients hang without an error.",
        "Take a thread dump and look for the network threads and the acceptor of that listener. Only a restart brings ended or hanging ones back.";
    BrokerFenced = "broker_fenced", Critical, "Fenced by the controller",
        "The process of the broker runs, and the controller has fenced the broker: it leads no partition, is in no ISR and serves no client. Its heartbeats do not reach the controller.",
        "Find out why: threads that hang, a long pause of the JVM, the network to the controllers; the broker's log has the failed heartbeats. A restart mends no network.";
    MetadataStalled = "metadata_stalled", Critical, "Metadata log stands still",
        "This node's replica of the cluster's metadata log gets no records: the node does not learn of new leaders, ISRs, brokers and topics, and acts on an old state.",
        "If the replicas of all nodes stand still, check the controllers: they have no quorum. If only this one does, check its connection to them and its log.";
    StaleView = "stale_view", Critical, "Acts on an old state of its cluster",
        "The broker answers, and another broker of the cluster no longer lists it, or has seen leaders change of which this one does not know. For the cluster it is down or has other partitions, so writes of the clients that still use it fail or are lost.",
        "Find out what keeps it from the controller or ZooKeeper: the network, an expired session, threads that hang. If the network works, save the evidence and restart this broker.";
    ZooKeeperUnreachable = "zookeeper_unreachable", Critical, "ZooKeeper cannot be reached",
        "From this host no ZooKeeper server answers the exporter, after some did. The broker most likely does not reach them either: its session ends, the controller gives its partitions to others, and if all brokers have lost ZooKeeper, nothing in the cluster can change any more.",
        "If other hosts reach ZooKeeper, repair the network of this one. If none does, check the ensemble: it has no quorum. Do not restart brokers for it: they would not start.";
    CutOff = "cut_off", Critical, "Cut off from other brokers",
        "Packets to more than half of the live brokers that this one asks, and to two at least, are not acknowledged: its host has lost the network, and not they. It leaves their ISRs, and clients that reach it may write what no other broker gets.",
        "Repair the network of this host: interface, switch, routes, firewall. Do not restart brokers for it.";
    NotRegistered = "not_registered", Critical, "Serves without being registered",
        "The broker answers, but ZooKeeper does not list its id: for the controller it is down, so it leads nothing, while its process looks well.",
        "If ZooKeeper lists other brokers, save the evidence and restart this one; if it lists none, check ZooKeeper first.";
    FileHandleExhaustion = "file_handle_exhaustion", Critical, "File handles run out",
        "At their present growth the file handles reach the limit of the process soon. Then the broker can accept no connection, open no segment, and may exit.",
        "Find what grows (file handles by kind, CLOSE_WAIT). A higher limit buys time; a leak ends with a restart.";
    MemoryMapsExhaustion = "memory_maps_exhaustion", Critical, "Memory maps run out",
        "At their present growth the memory mappings reach vm.max_map_count soon. Each index of a segment takes one; then the broker fails with an out-of-memory error.",
        "Raise vm.max_map_count (262144 or more), or have fewer segments.";
    LogDirExhaustion = "log_dir_exhaustion", Critical, "A log disk runs full",
        "A disk of the log dirs is 95 % full, or half full and full within 4 hours at its present growth. A failed write takes the log dir offline, or the broker down.",
        "Free space: shorten the retention of the largest topics, or move partitions away.";
    LogDirFailed = "log_dir_failed", Critical, "A log dir has failed",
        "The broker has given up one of its log dirs after an error of its disk, and goes on without it: it serves none of the partitions there, and is in no ISR of them, while everything else works.",
        "Repair or replace the disk (the broker's log has the error, `df` its space), then restart the broker: only a restart takes the log dir in again.";
    OfflinePartitions = "offline_partitions", Critical, "Offline partitions",
        "Partitions of the cluster have no leader: no client can read or write them.",
        "Bring the brokers that hold their replicas back. Do not allow an unclean election before you know what would be lost.";
    UnderMinIsr = "under_min_isr", Critical, "Fewer in-sync replicas than min.insync.replicas",
        "Partitions that this broker leads have fewer replicas in the ISR than min.insync.replicas: producers with acks=all get an error.",
        "Bring the missing replicas back; if they are live, suspect this broker. Do not lower min.insync.replicas before you know what could be lost.";
    IsrLeaderAlone = "isr_leader_alone", Critical, "Leader alone in the ISR",
        "Only the leader of these partitions holds all data. If the followers are live, suspect the leader: a stuck leader removes healthy followers from the ISR.",
        "If this broker is gray (alive, not working), restart it, not its followers. If followers are down, bring them back.";
    PartialStall = "partial_stall", Warning, "Some threads are stalled",
        "Over several thread dumps threads of a pool stayed at the same place, used no CPU and were not idle, while most of the pool works; or they wait for the answer of another broker, whose failure this is.",
        "If another broker is named, check that one first: this one needs no restart. Otherwise see what the threads wait for, and act before more of the pool stands.";
    FollowersLost = "followers_lost", Critical, "Healthy followers left its ISRs",
        "This broker is alone in the ISR of partitions that it leads, while the live followers that it lacks, two at least, are in sync with other leaders: they work, and this leader serves them too late. Producers with acks=all wait or fail.",
        "Suspect this broker, not its followers: its request handlers, its disk, garbage collection, its network. Move the leadership away (kafka-leader-election), or restart it once the followers are in its ISRs again.";
    LikelyDeadlock = "likely_deadlock", Warning, "Likely deadlock",
        "Dumps show a thread that waits for another one to end, to finish a task or to make room, and holds a lock that others want meanwhile. If one of these is the one that it waits for, none of them continues. No dump shows for which thread it waits, so this is no proof.",
        "Compare the stacks of both sides. If the first can only continue when the other does, save the evidence and restart this broker; that something is shut down right now is the usual occasion.";
    EndlessLoop = "endless_loop", Warning, "A thread does not come out of one method",
        "Several dumps show a thread of the broker that uses a core and stays in one method, as known faults of its version make it. What it should do, such as the loading of a coordinator's partition, is never done.",
        "Save the evidence. A restart, or another leader for the partition that it loads, may start the same loop again: upgrade to a release with the fix.";
    MissingThread = "missing_thread", Warning, "Threads have ended",
        "Threads of this broker process have ended although there is still work for them: fetching, cleaning, expiring, accepting. That work is not done now.",
        "Look in server.log for an uncaught exception of that thread. Only a restart brings it back.";
    ReplicaBehind = "replica_behind", Warning, "Misses in the ISRs of several leaders",
        "Two leaders at least lack this broker in the ISR of their partitions and no other live replica: it does not replicate, or too slowly, though it serves clients. The leaders work.",
        "Look in its log for partitions that its fetchers have marked as failed, and for the end of a fetcher; check its disk. A restart of this broker starts its fetchers again.";
    RegisteredButDead = "registered_but_dead", Warning, "Registered in ZooKeeper and silent",
        "The broker answers nothing while ZooKeeper goes on listing it: for the controller it is well, so it stays the leader of its partitions until its process ends.",
        "ZooKeeper will not end this. Follow the runbook of the finding that explains the silence, which most often ends with a restart.";
    FileHandleLeak = "file_handle_leak", Warning, "File handles grow without end",
        "The number of open file handles has grown steadily and does not come down.",
        "Find the kind that grows: sockets point to clients that reconnect or a broker that does not close; files to segments that are not deleted.";
    DeadSocketPileup = "dead_socket_pileup", Warning, "Orphaned sockets",
        "The process holds sockets that no socket table of the kernel lists: connections that were reset, or whose peer died, and that the broker never closed.",
        "The threads that should close them hang, or the broker leaks them. See the thread findings; only a restart frees the file handles.";
    CloseWaitPileup = "close_wait_pileup", Warning, "CLOSE_WAIT piles up",
        "Clients have closed these connections and the broker has not noticed; unread bytes are requests that no thread reads.",
        "The threads that should read them hang: see the thread findings and the probes.";
    AcceptQueueFull = "accept_queue_full", Warning, "Accept queue full",
        "The kernel has completed connections that the broker does not accept. Further ones are dropped and clients see time-outs.",
        "The acceptor hangs or is too slow: see the thread findings and the number of new connections.";
    UnderReplicated = "under_replicated", Warning, "Under-replicated partitions",
        "Partitions that this broker leads have fewer replicas in the ISR than assigned.",
        "If this broker is gray (alive, not working), repair it first. Otherwise check the missing followers: down, slow, or cut off.";
    ViewsDiverge = "views_diverge", Warning, "Two views of the cluster differ",
        "What Metadata says of the cluster has differed for 30 s from the node's own metadata log, or from a peer's Metadata, although both agreed before: the broker, or the peer, acts on an old state.",
        "Compare with `kafka-topics --describe` at another broker. If this broker's Metadata is the old one, check its threads and its log.";
    PathCut = "path_cut", Warning, "The path to another broker is cut",
        "Packets to another broker are not acknowledged by its kernel, and a new connection is not made: they are lost on the way there or back, or its host is down. Its process has no part in this: the kernel of a broker that hangs acknowledges.",
        "Check the network between the two hosts in the direction that the facts name: firewall, routes, MTU. Do not restart brokers for it.";
    PeerUnreachable = "peer_unreachable", Warning, "A peer does not answer",
        "Another broker refuses connections from this host, or accepts them and does not answer, while its kernel acknowledges what is sent: it is down, or it hangs. Where no connection to it was ever made from here, the network or its name may be the cause as well.",
        "Compare with what the exporters of other brokers report about the same peer, then check there.";
    CertificateExpiry = "certificate_expiry", Warning, "A certificate expires",
        "The certificate of a listener ends within 14 days, or has ended. From then on clients and other brokers that verify it cannot connect.",
        "Renew it in the broker's keystore. Brokers since 1.1 take a new keystore without a restart, by kafka-configs.";
    StuckGroup = "stuck_group", Warning, "A consumer group does not come out of a rebalance",
        "Every answer of the coordinator for more than 90 s has found the group in a rebalance: its members wait for one that does not join again, or they join and leave all the time. None of them gets a record meanwhile.",
        "Find the member that does not come back: `kafka-consumer-groups --describe --members --group GROUP`, and its client's log. A rebalance waits for max.poll.interval.ms at most. If no member is at fault, see the coordinator's log and known faults.";
    KnownIssueExposed = "known_issue_exposed", Info, "This version has known faults",
        "The broker's version has faults that can hang a broker, end its threads or fill its memory, and the broker is configured so that they can strike. Later releases have fixed them.",
        "Plan the upgrade before it happens.";
}

impl FindingId {
    /// Name of its runbook, below `/runbooks/`.
    pub fn runbook(self) -> &'static str {
        self.kind().name
    }
}

/// One active finding of one broker.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    pub id: FindingId,
    pub since: Moment,
    /// When it was last seen, where it is gone and has not been for long enough to be over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Moment>,
    /// What it rests on, a sentence each.
    pub facts: Vec<String>,
}

impl Finding {
    /// ` (clearing, last seen 4 s ago)`; empty while it is seen.
    pub fn clearing(&self, now: Moment) -> String {
        let text = |at| {
            format!(
                " (clearing, last seen {} ago)",
                duration_text(now.since(at))
            )
        };
        self.last_seen.map(text).unwrap_or_default()
    }

    /// With the id of the broker's process, where that belongs to a command.
    pub fn what_to_do(&self, process: ProcessKey) -> String {
        let pid = format!(" {}`", process.pid);
        self.id.kind().what_to_do.replace(" PID`", &pid)
    }
}

named! {
    /// The verdict on one broker.
    #[derive(Default, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum BrokerState {
        Healthy = "healthy",
        /// Something indicates a problem and nothing has confirmed it yet.
        Suspect = "suspect",
        /// Alive but not working.
        Gray = "gray",
        /// Its process runs and has not served yet.
        Starting = "starting",
        /// Its process runs and listens no longer: it shuts down, or has lost its listener.
        Closed = "closed",
        /// Its process has ended.
        Ended = "ended",
        /// The readings that decide are unknown.
        #[default]
        Unknown = "unknown",
    }
}

impl BrokerState {
    /// For a person, where the name would stand alone.
    pub fn text(self) -> &'static str {
        match self {
            BrokerState::Gray => "gray (alive, not working)",
            BrokerState::Closed => "down (it listens no longer)",
            BrokerState::Ended => "down (its process has ended)",
            other => other.name(),
        }
    }
}

/// Everything that the evaluation says about one broker process.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct BrokerDiagnosis {
    pub label: String,
    pub process: ProcessKey,
    pub state: BrokerState,
    pub since: Moment,
    /// `Broker 219 is alive but deadlocked since 10:14:02 UTC by KAFKA-4399, fixed in 0.10.1.1.`
    pub sentence: String,
    /// `Restart it.`; empty where nothing is to be done.
    pub remedy: String,
    /// What a healthy verdict does not cover.
    pub unseen: Vec<&'static str>,
    /// Active ones, the worst first.
    pub findings: Vec<Finding>,
    /// Those whose readings are known, active or not.
    pub evaluated: Vec<FindingId>,
    pub known_issues: Vec<NamedIssue>,
    /// What will run out, as far as it is known.
    pub forecasts: Forecasts,
    pub restart_required: Option<RestartRequired>,
    /// Other brokers of its cluster that are or were down.
    pub unavailable: Vec<UnavailableBroker>,
    /// Whether it was the only broker of its cluster when the members were last known.
    pub only_broker: bool,
    pub recovery: Option<Recovery>,
}

/// Time left until each resource runs out.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Forecasts {
    pub file_handles: Forecast,
    pub memory_maps: Forecast,
    /// By log dir, as the broker names it.
    pub log_dirs: Vec<(String, Forecast)>,
}

/// Two successful dumps show the same deadlock or stall: nothing but a restart cures it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RestartRequired {
    /// `kafka-request-handler-3 and group-metadata-manager-0 wait for each other`
    pub what: String,
    /// The first and the newest dump that shows it.
    pub first: Moment,
    pub last: Moment,
}

impl RestartRequired {
    /// The time between the dumps.
    pub fn seen_for(&self) -> Duration {
        self.last.since(self.first)
    }
}

/// How a broker came back after it was gray or had ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recovery {
    /// What it was before: `gray` or `ended`.
    pub from: BrokerState,
    /// When the new process started, or the old one continued.
    pub back: Moment,
    /// When it was healthy and in every ISR again.
    pub in_every_isr: Option<Moment>,
}

/// One entry of the timeline.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    pub at: Moment,
    pub broker: String,
    #[serde(flatten)]
    pub change: Change,
}

/// What happened to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Change {
    FindingStarted {
        finding: FindingId,
    },
    FindingEnded {
        finding: FindingId,
    },
    StateChanged {
        state: BrokerState,
    },
    /// Another process serves under the same label.
    Restarted {
        pid: u32,
    },
    /// It is healthy and in every ISR again.
    Recovered,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Change::FindingStarted { finding } => f.write_str(finding.kind().title),
            Change::FindingEnded { finding } => write!(f, "{}: over", finding.kind().title),
            Change::StateChanged { state } => write!(f, "is {}", state.text()),
            Change::Restarted { pid } => write!(f, "restarted as process {pid}"),
            Change::Recovered => f.write_str("recovered: it is in every ISR again"),
        }
    }
}

/// The verdicts on every broker of this host at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Diagnosis {
    pub at: Moment,
    /// In the order of the snapshot's brokers.
    pub brokers: Vec<BrokerDiagnosis>,
    /// The oldest first; bounded.
    pub timeline: Vec<Arc<Event>>,
}

/// Another broker of the cluster that is or was down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct UnavailableBroker {
    pub id: i32,
    pub since: Moment,
    /// None while it is down.
    pub until: Option<Moment>,
}

impl BrokerDiagnosis {
    /// The path of the evidence of this verdict, or why there is none. None: no evidence is due, or it is being saved.
    pub fn evidence<'a>(&self, status: &'a EvidenceStatus) -> Option<Result<String, &'a str>> {
        if let Some(newest) = status.newest_since(self.process, self.since) {
            return Some(Ok(newest.path.display().to_string()));
        }
        let why = status.failure(self.process)?;
        (self.state == BrokerState::Gray).then_some(Err(why))
    }

    /// When the cause of the verdict was first seen: older evidence says nothing about it.
    pub fn first_seen(&self) -> Moment {
        self.restart_required
            .as_ref()
            .map_or(self.since, |cause| cause.first)
    }
}

impl Diagnosis {
    pub fn of(&self, process: ProcessKey) -> Option<&BrokerDiagnosis> {
        self.brokers.iter().find(|broker| broker.process == process)
    }
}
