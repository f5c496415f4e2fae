//! One broker process, as discovery describes it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::version::KafkaVersion;
use super::{Moment, Reason};

/// Identifies a process for its whole life. A pid alone does not, because another process may get it later.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct ProcessKey {
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: clock ticks after boot.
    pub start_ticks: u64,
}

/// How the cluster keeps its metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    ZooKeeper,
    KRaft,
}

/// What a Kafka process does in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Broker,
    Controller,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Broker => "broker",
            Role::Controller => "controller",
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SecurityProtocol {
    #[default]
    Plaintext,
    Ssl,
    SaslPlaintext,
    SaslSsl,
}

impl SecurityProtocol {
    pub fn has_tls(self) -> bool {
        matches!(self, SecurityProtocol::Ssl | SecurityProtocol::SaslSsl)
    }

    pub fn has_sasl(self) -> bool {
        matches!(
            self,
            SecurityProtocol::SaslPlaintext | SecurityProtocol::SaslSsl
        )
    }
}

/// One entry of `listeners`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// `PLAINTEXT` in `PLAINTEXT://127.0.0.1:9092`.
    pub name: String,
    /// From `listener.security.protocol.map`, else from the name itself. Unknown if neither names a protocol.
    pub protocol: Option<SecurityProtocol>,
    /// None if the broker binds to every address (`PLAINTEXT://:9092`).
    pub host: Option<String>,
    pub port: u16,
    /// Whether `controller.listener.names` has it. Such a listener speaks Raft and answers no Metadata.
    pub controller: bool,
    /// The host that clients get, which its certificate should name.
    #[serde(default)]
    pub advertised: Option<String>,
}

/// What `server.properties` and Kafka's defaults say of features that not every broker uses. None while that is unknown.
/// Kafka changes none of these keys at run time, so no dynamic configuration says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// `queued.max.request.bytes`: requests share a bounded memory.
    pub request_memory_bounded: Option<bool>,
    /// `connections.max.reauth.ms`, for any listener: SASL logins expire.
    pub reauthentication: Option<bool>,
    /// `log.dirs` names two or more.
    pub several_log_dirs: Option<bool>,
    /// `remote.log.storage.system.enable`
    pub tiered_storage: Option<bool>,
    /// `remote.log.metadata.manager.class.name` is Kafka's own, which keeps the metadata in a topic.
    pub remote_metadata_in_topic: Option<bool>,
    /// `group.coordinator.new.enable` or `group.coordinator.rebalance.protocols`, which matter up to 3.9.
    pub new_group_coordinator: Option<bool>,
    /// `group.share.enable` or `group.coordinator.rebalance.protocols`: from 4.1 on a feature of the cluster decides.
    pub share_groups: Option<bool>,
}

/// A pod of Kubernetes. What nothing names is None.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    pub name: Option<String>,
    pub namespace: Option<String>,
}

/// What discovery knows about one broker process. `None` is unknown, and `problems` says why.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Broker {
    pub process: ProcessKey,
    /// When the process started.
    pub started: Option<Moment>,
    /// `broker.id` or `node.id`, or the id in `meta.properties`.
    pub id: Option<i32>,
    /// Kafka's version, from the names of its jars.
    pub kafka_version: Option<String>,
    /// Java's version, from the `release` file beside the JVM, e.g. `17.0.15`.
    pub java_version: Option<String>,
    pub mode: Option<Mode>,
    pub roles: BTreeSet<Role>,
    pub listeners: Vec<Listener>,
    /// The name of the listener of the brokers among themselves.
    #[serde(default)]
    pub inter_broker_listener: Option<String>,
    /// Paths as the broker sees them. For the exporter they lie below `/proc/PID/root`.
    pub log_dirs: Vec<PathBuf>,
    /// `metadata.log.dir`, as `log_dirs`: where a KRaft node keeps its replica of the metadata log.
    #[serde(default)]
    pub metadata_log_dir: Option<PathBuf>,
    /// `min.insync.replicas` of its file or Kafka's default, for topics without their own. None while the file is unknown.
    #[serde(default)]
    pub min_insync_replicas: Option<u32>,
    #[serde(default)]
    pub features: Features,
    /// Whether it may have started with other log dirs: the file was not read, or had been changed before it was read first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub log_dirs_uncertain: bool,
    /// From `meta.properties`.
    #[serde(default)]
    pub cluster_id: Option<String>,
    /// None outside of Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// `host:port` entries of `zookeeper.connect`, without the chroot.
    pub zookeeper: Vec<String>,
    /// The chroot of `zookeeper.connect`, below which all nodes of the cluster are; empty without one.
    #[serde(default)]
    pub zookeeper_root: String,
    /// Whether the broker speaks TLS with ZooKeeper.
    #[serde(default)]
    pub zookeeper_tls: bool,
    /// Effective ids, which an attach must take on.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// The user whose process it is, by the kernel: `uid`, unless others cannot be distinguished from that one here.
    #[serde(default)]
    pub owner: Option<u32>,
    /// The capabilities that the exporter lacks to read all of this process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacking: Vec<String>,
    /// Why something above is unknown, with the file, the cause and the remedy. Secrets never appear here.
    pub problems: Vec<String>,
}

impl Broker {
    /// Returns the name for messages: `broker 3 (pid 12)`.
    pub fn name(&self) -> String {
        let pid = self.process.pid;
        self.id.map_or_else(
            || format!("the broker with pid {pid}"),
            |id| format!("broker {id} (pid {pid})"),
        )
    }

    /// The reason of a failure that follows from what is unknown of the process: for lack of rights, or this one.
    pub fn reason_or_denied(&self, other: Reason) -> Reason {
        match self.lacking.is_empty() {
            true => other,
            false => Reason::Denied,
        }
    }

    /// None where it is unknown, or no number that a version of Kafka can have.
    pub fn version(&self) -> Option<KafkaVersion> {
        KafkaVersion::parse(self.kafka_version.as_deref()?)
    }

    /// Kafka's major and minor version, also where Confluent numbers its own releases.
    pub fn release(&self) -> Option<(u32, u32)> {
        self.version().map(KafkaVersion::major_minor)
    }

    /// Whether a leader demands no more replicas in the ISR than the partition has, whatever `min.insync.replicas` says:
    /// since 3.7.0 (KAFKA-15583). A KRaft node of unknown version is taken for a new one.
    pub fn caps_min_isr(&self) -> bool {
        self.release().is_none_or(|release| release >= (3, 7))
    }

    /// Whether it only votes in KRaft's quorum: it leads no partition, is in no ISR and answers no client.
    pub fn is_dedicated_controller(&self) -> bool {
        !self.roles.is_empty() && !self.roles.contains(&Role::Broker)
    }

    /// Whether the two may speak for each other: a process that another user started may claim to be any broker.
    pub fn is_of_same_user(&self, other: &Broker) -> bool {
        self.owner.is_some() && self.owner == other.owner
    }

    /// Whether the files of both name the same cluster.
    pub fn is_of_same_cluster(&self, other: &Broker) -> bool {
        self.cluster_id.is_some() && self.cluster_id == other.cluster_id
    }

    /// Describes a broker process about which nothing else is known.
    pub fn unknown(process: ProcessKey) -> Broker {
        Broker {
            process,
            ..Broker::default()
        }
    }
}

/// How a broker process is named on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Label {
    /// The `broker` label of its metrics.
    pub text: String,
    /// Whether another user's brokers come first on this host: it answers only for its label.
    pub outranked: bool,
}

impl<T: Into<String>> From<T> for Label {
    fn from(text: T) -> Label {
        Label {
            text: text.into(),
            outranked: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_replicas_than_there_are_are_demanded_since_3_7() {
        let table = [
            (None, true),
            (Some("3.6.2"), false),
            (Some("3.7.0"), true),
            (Some("3.10.1"), true),
            (Some("4.0.0"), true),
            (Some("7.6.0-ccs"), false),
            (Some("7.7.1-ce"), true),
            (Some("8.0.0-ccs"), true),
        ];
        for (version, caps) in table {
            let broker = Broker {
                kafka_version: version.map(str::to_owned),
                ..Broker::default()
            };
            assert_eq!(broker.caps_min_isr(), caps, "{version:?}");
        }
    }
}
