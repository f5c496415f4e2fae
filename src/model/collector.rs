//! The one list of collectors: flags, config keys, labels, page and `check` take their names from it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::named::named;

named! {
    /// What reads from the host and its brokers.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum CollectorName {
        Discovery = "discovery",
        Process = "process",
        AcceptQueues = "accept_queues",
        Sockets = "sockets",
        Fds = "fds",
        Connections = "connections",
        MemoryMaps = "memory_maps",
        LogDirs = "log_dirs",
        Logs = "logs",
        Cluster = "cluster",
        Groups = "groups",
        MetadataLog = "metadata_log",
        ZooKeeper = "zookeeper",
        Threads = "threads",
        Progress = "progress",
        Pools = "pools",
    }
}

/// When a collector runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// At this interval, unless the config file names another.
    Every(Duration),
    /// In passes of that collector, with what it reads.
    InPassOf(CollectorName),
}

impl CollectorName {
    /// What it reads, in one line, and when.
    pub const fn about(self) -> (&'static str, Schedule) {
        const fn every(millis: u64) -> Schedule {
            Schedule::Every(Duration::from_millis(millis))
        }
        match self {
            Self::Discovery => ("which processes are brokers", every(5_000)),
            Self::Process => (
                "number of open fds, limits, state and memory of the process",
                every(1_000),
            ),
            Self::AcceptQueues => ("accept queues of the listeners", every(1_000)),
            // A fifth of them while nothing is suspected, or fewer.
            Self::Sockets => (
                "connections to the listeners by TCP state",
                Schedule::InPassOf(Self::AcceptQueues),
            ),
            Self::Fds => ("open fds by what they lead to", every(30_000)),
            Self::Connections => (
                "established connections, the broker's own connections, orphaned sockets",
                Schedule::InPassOf(Self::Fds),
            ),
            Self::MemoryMaps => ("number of memory mappings", every(30_000)),
            Self::LogDirs => ("free space of the log dirs' file systems", every(30_000)),
            Self::Logs => (
                "the broker's own log: lines that have a signature, such as the death of a thread",
                every(1_000),
            ),
            Self::Cluster => (
                "Kafka requests: answers of the broker and its peers, ISR and leaders",
                every(5_000),
            ),
            Self::Groups => (
                "Kafka requests that take locks: consumer groups, their lag, a fetch",
                every(30_000),
            ),
            Self::MetadataLog => (
                "the node's replica of KRaft's metadata log: ISR, leaders and brokers without a request",
                every(1_000),
            ),
            Self::ZooKeeper => (
                "ZooKeeper requests: registered brokers and the controller",
                every(5_000),
            ),
            Self::Threads => (
                "thread dumps by dynamic attach: deadlocks, stalled and missing threads",
                every(15_000),
            ),
            Self::Progress => (
                "how often the threads run that must, and the pauses of the JVM",
                every(250),
            ),
            Self::Pools => (
                "CPU time of the thread pools, and how long they waited for a core",
                Schedule::InPassOf(Self::Progress),
            ),
        }
    }

    /// The collector without which this one does not run.
    pub fn needs(self) -> Option<CollectorName> {
        match self.about() {
            (_, Schedule::InPassOf(leader)) => Some(leader),
            // The thread dumps name the threads.
            _ if self == Self::Progress => Some(Self::Threads),
            // It finds where the broker is asked, and whether it answers.
            _ if self == Self::Groups => Some(Self::Cluster),
            _ => None,
        }
    }

    /// Why it reads nothing where the settings have it off.
    pub fn why_off(self) -> String {
        format!("the collector `{}` is switched off", self.name())
    }

    /// Whether it belongs to a broker; else to the host.
    pub fn is_per_broker(self) -> bool {
        self != Self::Discovery
    }

    /// Whether the user may switch it off. Without the others nothing is known; they need no right and harm nothing.
    pub fn may_be_off(self) -> bool {
        !matches!(self, Self::Discovery | Self::Process)
    }
}
