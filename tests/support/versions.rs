//! Starts a cluster of each version and mode, and checks what the exporter reports about it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lab::versions::Mode;
use lab::{Cell, Cluster, ClusterOptions};

use super::{Exporter, wait_for};

/// A version in a mode on a JDK.
pub struct Case {
    pub version: &'static str,
    pub mode: Mode,
    /// The default JDK when None.
    pub java: Option<PathBuf>,
}

impl Case {
    pub fn new(version: &'static str, mode: Mode) -> Case {
        Case {
            version,
            mode,
            java: None,
        }
    }

    /// Starts brokers with a topic that all of them replicate, and the exporter beside them.
    pub fn start(&self, brokers: &[i32]) -> (Cluster, Exporter) {
        let start = Instant::now();
        let options = ClusterOptions {
            mode: Some(self.mode),
            brokers: brokers.to_vec(),
            java: self.java.clone(),
            ..ClusterOptions::new(self.version)
        };
        let cluster = Cluster::start(options).unwrap();
        let started = start.elapsed();
        cluster.create_topic("orders", 6, brokers.len()).unwrap();
        let exporter = fast_exporter(cluster.cell());
        self.is_reported(&cluster, &exporter);
        println!(
            "{} {:?}: started in {started:.1?}, reported {:.1?} after",
            self.version,
            self.mode,
            start.elapsed() - started
        );
        (cluster, exporter)
    }

    /// Checks ids, versions, mode and roles. Every collector must succeed, and a dedicated controller has no collector of the
    /// cluster.
    fn is_reported(&self, cluster: &Cluster, exporter: &Exporter) {
        let ids: Vec<(i32, bool)> = cluster
            .nodes()
            .iter()
            .map(|node| (node.id(), node.is_broker()))
            .collect();
        let mut metrics = exporter.metrics();
        wait_for("all collectors to succeed", Duration::from_secs(40), || {
            metrics = exporter.metrics();
            ids.iter().all(|(id, is_broker)| {
                let reported = collectors(&metrics.0, *id);
                let all = ["connections", "fds", "process", "sockets", "threads"];
                all.into_iter().all(|name| reported.contains_key(name))
                    && reported.contains_key("cluster") == *is_broker
                    && reported.values().all(|success| *success == 1.0)
            })
        });
        let java = java_version(self.java.as_deref().unwrap_or(Path::new("java")));
        for node in cluster.nodes() {
            let (mode, roles) = match self.mode {
                Mode::ZooKeeper => ("zookeeper", "broker"),
                Mode::KraftCombined => ("kraft", "broker,controller"),
                Mode::KraftDedicated => (
                    "kraft",
                    if node.is_broker() {
                        "broker"
                    } else {
                        "controller"
                    },
                ),
            };
            let (id, pid, version) = (node.id(), node.cell_pid().unwrap(), self.version);
            let info = format!(
                "broker_info{{broker=\"{id}\",kafka_version=\"{version}\",java_version=\"{java}\",mode=\"{mode}\",roles=\"{roles}\",pid=\"{pid}\","
            );
            assert!(
                metrics.0.keys().any(|series| series.starts_with(&info)),
                "{info} in\n{}",
                exporter.scrape()
            );
            assert_eq!(metrics.of("deadlock_detected", id), Some(0.0), "{id}");
            let isr = [
                "leader_partitions",
                "under_replicated_partitions",
                "not_in_isr_partitions",
            ];
            for series in isr {
                assert_eq!(
                    metrics.of(series, id).is_some(),
                    node.is_broker(),
                    "{series} of {id}"
                );
            }
        }
    }
}

/// Makes a test with `$check` for each version and mode on the default JDK; the incident's version has tests of its own.
#[allow(unused_macros)] // each test binary uses a part
macro_rules! test_each_version {
    ($check:ident) => {
        test_each_version! { $check:
            kafka_0_10_1_1 = "0.10.1.1", ZooKeeper;
            kafka_2_1_0 = "2.1.0", ZooKeeper;
            kafka_2_8_2 = "2.8.2", ZooKeeper;
            kafka_3_9_1_with_zookeeper = "3.9.1", ZooKeeper;
            kafka_3_9_1_combined = "3.9.1", KraftCombined;
            kafka_3_9_1_with_a_dedicated_controller = "3.9.1", KraftDedicated;
            kafka_4_3_0_combined = "4.3.0", KraftCombined;
            kafka_4_3_0_with_a_dedicated_controller = "4.3.0", KraftDedicated;
        }
    };
    ($check:ident: $($name:ident = $version:literal, $mode:ident;)*) => {
        $(#[test]
        fn $name() {
            $check(&Case::new($version, Mode::$mode));
        })*
    };
}
#[allow(unused_imports)] // as above
pub(crate) use test_each_version;

/// Starts an exporter with short intervals.
pub fn fast_exporter(cell: &Cell) -> Exporter {
    Exporter::start_with(cell, FAST_INTERVALS, |_| {})
}

/// The config file of [`fast_exporter`].
pub const FAST_INTERVALS: &str = include_str!("../fixtures/fast-intervals.yml");

/// Returns the collectors that have reported about a broker, with their success.
pub fn collectors(
    metrics: &BTreeMap<String, f64>,
    id: impl std::fmt::Display,
) -> BTreeMap<String, f64> {
    let of_broker = format!("collector_success{{broker=\"{id}\",collector=\"");
    let reported = metrics.iter().filter_map(|(series, success)| {
        let name = series.strip_prefix(&of_broker)?.strip_suffix("\"}")?;
        Some((name.to_owned(), *success))
    });
    reported.collect()
}

/// Returns the version that the JVM itself prints: `openjdk version "17.0.15" 2025-04-15`.
pub fn java_version(java: &Path) -> String {
    let output = Command::new(java).arg("-version").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let version = text
        .lines()
        .find_map(|line| line.split_once("version \"")?.1.split('"').next());
    version
        .expect("a version in the first lines of java -version")
        .to_owned()
}
