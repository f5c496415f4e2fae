//! The table of Kafka versions that the lab can run, and their differences.

use anyhow::{Context, Result};

/// How a cluster of a version keeps its metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    #[value(name = "zookeeper")]
    ZooKeeper,
    /// Every node is a broker and a controller
    KraftCombined,
    /// An additional node is the only controller, and not a broker
    KraftDedicated,
}

/// One Kafka release.
#[derive(Debug)]
pub struct Version {
    /// The version as Maven names it: `0.10.1.0`.
    pub name: &'static str,
    /// The Scala version in the artifact's name: `kafka_2.11`.
    pub scala: &'static str,
    /// Maven coordinates (`group:artifact:version`) that the broker needs in addition to its own dependencies.
    pub extra: &'static [&'static str],
    /// The modes that the version can run in; the first is the default.
    pub modes: &'static [Mode],
    /// The main class of `kafka-topics`.
    pub topics_tool: &'static str,
    /// Whether `kafka-topics` asks the brokers (`--bootstrap-server`) instead of ZooKeeper.
    pub topics_asks_brokers: bool,
    /// The oldest Fetch, from version 3 on, that a broker of this version answers.
    pub fetch_version: i16,
}

/// JDK 11 removed Java's XML binding; brokers of 0.10 need it to start on that JDK or a later one.
const XML_BINDING: &str = "javax.xml.bind:jaxb-api:2.3.1";

const fn old(name: &'static str) -> Version {
    Version {
        name,
        scala: "2.11",
        extra: &[XML_BINDING],
        modes: &[Mode::ZooKeeper],
        topics_tool: "kafka.admin.TopicCommand",
        topics_asks_brokers: false,
        fetch_version: 3,
    }
}

/// All versions, oldest first.
pub const VERSIONS: &[Version] = &[
    old("0.10.1.0"),
    old("0.10.1.1"),
    Version {
        name: "2.1.0",
        scala: "2.12",
        // ZooKeeper 3.4.13, which comes with it, cannot resolve addresses on JDK 14 and later (ZOOKEEPER-3779).
        extra: &[
            "org.slf4j:slf4j-log4j12:1.7.30",
            "org.apache.zookeeper:zookeeper:3.5.9",
        ],
        modes: &[Mode::ZooKeeper],
        topics_tool: "kafka.admin.TopicCommand",
        topics_asks_brokers: false,
        fetch_version: 3,
    },
    Version {
        name: "2.8.2",
        scala: "2.13",
        extra: &["org.slf4j:slf4j-log4j12:1.7.30"],
        modes: &[Mode::ZooKeeper],
        topics_tool: "kafka.admin.TopicCommand",
        topics_asks_brokers: true,
        fetch_version: 3,
    },
    Version {
        name: "3.9.1",
        scala: "2.13",
        extra: &[
            "org.slf4j:slf4j-reload4j:1.7.36",
            "ch.qos.reload4j:reload4j:1.2.25",
            "org.apache.kafka:kafka-tools:3.9.1",
        ],
        modes: &[Mode::KraftCombined, Mode::KraftDedicated, Mode::ZooKeeper],
        topics_tool: "org.apache.kafka.tools.TopicCommand",
        topics_asks_brokers: true,
        fetch_version: 4,
    },
    Version {
        name: "4.3.0",
        scala: "2.13",
        extra: &[
            "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3",
            "org.apache.logging.log4j:log4j-core:2.24.3",
            "org.apache.logging.log4j:log4j-1.2-api:2.24.3",
            "org.apache.kafka:kafka-tools:4.3.0",
        ],
        modes: &[Mode::KraftCombined, Mode::KraftDedicated],
        topics_tool: "org.apache.kafka.tools.TopicCommand",
        topics_asks_brokers: true,
        fetch_version: 4,
    },
];

/// Returns the version of that name.
pub fn find(name: &str) -> Result<&'static Version> {
    VERSIONS
        .iter()
        .find(|version| version.name == name)
        .with_context(|| {
            let known: Vec<_> = VERSIONS.iter().map(|version| version.name).collect();
            format!(
                "Kafka {name} is not in the lab's table of versions, which has {}",
                known.join(", ")
            )
        })
}
