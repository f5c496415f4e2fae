//! The plain data that every other part uses. It depends on no other part.

mod broker;
mod cluster;
mod collector;
mod credentials;
mod evidence;
mod groups;
mod log;
mod members;
mod metadata_log;
pub mod named;
mod probes;
mod reading;
pub mod room;
pub mod routes;
mod severity;
pub mod shares;
mod snapshot;
mod tcp;
pub mod text;
mod threads;
mod time;
mod version;
mod visible;
mod zookeeper;

pub use broker::{
    Broker, Features, Label, Listener, Mode, Pod, ProcessKey, Role, SecurityProtocol,
};
pub use cluster::{ClusterCounts, ClusterSource, Elsewhere, LostFollower, PartitionState, Peer};
pub use collector::{CollectorName, Schedule};
pub use credentials::{Credentials, Mechanism, Secret};
pub use evidence::{BrokerEvidence, EvidenceProgress, EvidenceStatus, SavedBundle};
pub use groups::{GROUPS_NAMED, GroupLag, GroupState, GroupsReport, Rebalance};
pub use log::{LogLine, LogReport, LogSignatureCount, SHUTDOWN};
pub use members::{ABSENT_LISTED, MemberCounts, MemberState};
pub use metadata_log::{MetadataLog, Registration};
pub use probes::{CutPath, ListenerProbe, PeerProbe, Probe, ProbeError, ProbeReport};
pub use reading::{AnyReading, Failure, Reading, Reason};
pub use severity::Severity;
pub use snapshot::*;
pub use tcp::{AcceptQueue, SocketOwners, SocketPulse, StateCount, StateCounts, TcpState};
pub use threads::{
    Deadlock, DeadlockedThread, DiskWait, FileCall, LikelyDeadlock, LockQueue, Loop, MatchQuality,
    MissingThread, MoreDeadlocks, NamedIssue, PoolFindings, ProgressReport, Stall,
    StandingDeadlock, Suspect, ThreadReport,
};
pub use time::{
    Clock, Moment, brief_text, clock_text, deserialize_duration, duration_text, rfc3339,
    rfc3339_millis, seconds_text,
};
pub use version::{Build, KafkaVersion, NoVersion, Release};
pub use visible::{is_unseen, visible};
pub use zookeeper::{OwnRegistration, ZooKeeperReport};
