//! The answer of `analyze`, as `--output json` prints it.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::dumps::Analysis;
use crate::model::NamedIssue;
use crate::model::named::named;

/// The shape of `--output json`, documented in `docs/analyze.md`.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// Those to blame first.
    pub brokers: Vec<BrokerFacts>,
    /// Facts that are not about one broker.
    pub elsewhere: Vec<Fact>,
    #[serde(flatten)]
    pub analysis: Analysis,
    pub files: Vec<FileFacts>,
    pub not_recognised: Vec<NotRecognised>,
}

#[derive(Debug, Serialize)]
pub struct BrokerFacts {
    /// Its id, or its address where no file has the id.
    pub broker: String,
    pub verdict: Verdict,
    pub addresses: Vec<Address>,
    pub version: Option<String>,
    /// Indexes into [`Analysis::deadlocks`].
    pub deadlocks: Vec<usize>,
    pub known_issues: Vec<NamedIssue>,
    /// Brokers to blame: it lost its connections to them, or is missing from their ISRs.
    pub suffers_from: Vec<String>,
    pub facts: Vec<Fact>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Alive, not working.
    Gray,
    /// Something speaks against it, which is not enough for a verdict.
    Suspect,
    NoFinding,
}

#[derive(Debug, Serialize)]
pub struct Address {
    pub address: String,
    pub by: By,
}

/// How a file or an address was assigned to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    Content,
    /// The manifest of its bundle.
    Manifest,
    /// The last part of the address is an id that has no other address: a guess.
    LastPartOfAddress,
    /// The container, pod or host that each line names: a guess.
    Container,
    /// A guess, and the weakest one.
    FileName,
}

impl By {
    /// Whether only a name that people gave shows it.
    pub fn is_only_a_name(self) -> bool {
        matches!(self, By::Container | By::FileName)
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Fact {
    pub kind: FactKind,
    pub source: String,
    /// Null: it explains, but speaks against no broker.
    pub against: Option<Source>,
    pub text: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<&'static str, u64>,
    /// `topic-partition`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<String>,
}

/// `docs/analyze.md` describes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FactKind {
    AcceptQueue,
    Bundle,
    BusyThreads,
    ClientLeak,
    CloseWait,
    CloseWaitAtPort,
    Controller,
    Deadlock,
    Disconnects,
    Fenced,
    FinWait1TowardsIt,
    FinWait2TowardsIt,
    Found,
    Group,
    GroupNotDescribed,
    GroupWithoutPartitions,
    HandleLimit,
    Handles,
    LastInIsr,
    LeaderAlone,
    LikelyDeadlock,
    LogDirOffline,
    LogDirs,
    LogEnds,
    Logged,
    Loop,
    MetadataLag,
    MetadataLog,
    MissingFromIsr,
    NoDeadlock,
    NoLeader,
    NotRegistered,
    NotUnderstood,
    NothingFound,
    OfflineReplicas,
    ProduceErrors,
    Quorum,
    Registered,
    ShrankToItself,
    ShutsDown,
    SocketCounts,
    SocketsOfNoBroker,
    SocketsWithoutAddress,
    SocketsWithoutState,
    Stall,
    Unanswered,
    Unread,
}

/// Where something that speaks against a broker was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    Dump,
    /// Its own sockets and file descriptors.
    Own,
    /// Logs and sockets of other brokers and of clients.
    Peers,
    Isr,
    /// ZooKeeper or the KRaft controller, as they register brokers.
    Registration,
    /// The exporter that saved the bundle.
    Exporter,
}

#[derive(Debug, Serialize)]
pub struct FileFacts {
    pub source: String,
    pub forms: Vec<Form>,
    /// Null: the file is not about one broker, or nothing shows which.
    pub broker: Option<String>,
    pub by: Option<By>,
}

named! {
    /// A form of text that a file can contain; a terminal's record may contain several.
    pub enum Form {
        Dump = "thread dump",
        Sockets = "sockets",
        Topics = "topics",
        Groups = "consumer groups",
        Fds = "open handles",
        ZooKeeper = "registered brokers",
        BrokerLog = "broker log",
        ClientLog = "client log",
        Settings = "broker settings",
        Quorum = "metadata quorum",
        MetadataLog = "metadata log",
        LogDirs = "log directories",
        Limits = "process limits",
        Top = "threads by CPU use",
        Findings = "findings of kafka-vitals",
        Evidence = "part of an evidence bundle",
    }
}

impl Serialize for Form {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[derive(Debug, Serialize)]
pub struct NotRecognised {
    pub source: String,
    pub reason: String,
}
