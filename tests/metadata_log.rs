//! The metadata log of real KRaft nodes, read without a request, says what `kafka-topics` says at the same moment.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_vitals::collect::frame::BlockingCollector as _;
use kafka_vitals::collect::metadata_log::{MetadataLogs, Update};
use kafka_vitals::discover::Discovery;
use kafka_vitals::model::{Broker, Clock, ClusterCounts, MetadataLog};
use kafka_vitals::sys::proc::ProcRoot;
use lab::cli_tools::described_partitions;
use lab::{Cluster, ClusterOptions};

/// What the tools may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The logs of a cluster's nodes.
struct Logs {
    of: BTreeMap<i32, MetadataLogs>,
}

impl Logs {
    fn follow(cluster: &Cluster) -> Logs {
        let proc = ProcRoot::new("/proc");
        let found = Discovery::new(proc.clone(), Vec::new()).scan().unwrap();
        let running = cluster.nodes().iter().filter_map(|node| node.pid().ok());
        let of = running.map(|pid| {
            let mut brokers = found.iter();
            let broker: &Arc<Broker> = brokers.find(|broker| broker.process.pid == pid).unwrap();
            let logs = MetadataLogs::of(&proc, broker, Clock::start());
            (broker.id.unwrap(), logs)
        });
        Logs { of: of.collect() }
    }

    /// Reads the log of each node to its end.
    fn read(&mut self) -> BTreeMap<i32, MetadataLog> {
        let read = |(id, logs): (&i32, &mut MetadataLogs)| match logs.collect().unwrap() {
            Update::Read(log) => Some((*id, *log)),
            Update::CatchingUp => None,
            Update::None(reason) => panic!("{reason}"),
        };
        self.of.iter_mut().filter_map(read).collect()
    }
}

/// What is compared. Each broker counts the partitions that it leads, so the sum is that of the cluster.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Counts {
    partitions: usize,
    leaders: BTreeMap<i32, usize>,
    /// Topic, partition.
    under_replicated: Vec<(String, i32)>,
    unavailable: usize,
    under_min_isr: usize,
    at_min_isr: usize,
    reassigning: usize,
}

fn counted(logs: &BTreeMap<i32, MetadataLog>) -> Option<Counts> {
    let counts: BTreeMap<i32, &ClusterCounts> = logs
        .iter()
        .filter_map(|(id, log)| Some((*id, log.counts.as_ref()?)))
        .collect();
    let first = counts.values().next()?;
    let sum = |of: fn(&ClusterCounts) -> u64| counts.values().map(|c| of(c)).sum::<u64>() as usize;
    let leaders = counts.iter().filter(|(_, counts)| counts.leader > 0);
    let listed = counts
        .values()
        .flat_map(|c| c.under_replicated_partitions.iter());
    let mut under_replicated: Vec<_> = listed
        .map(|state| (state.topic.clone(), state.partition))
        .collect();
    under_replicated.sort();
    let agreed = counts
        .values()
        .all(|c| (c.partitions, c.offline) == (first.partitions, first.offline));
    let offline = first.offline as usize;
    agreed.then(|| Counts {
        partitions: first.partitions as usize,
        leaders: leaders.map(|(id, c)| (*id, c.leader as usize)).collect(),
        under_replicated,
        unavailable: offline,
        under_min_isr: sum(|c| c.under_min_isr.unwrap()) + offline,
        at_min_isr: sum(|c| c.at_min_isr.unwrap()),
        reassigning: sum(|c| c.reassigning.unwrap()),
    })
}

fn by_the_tool(cluster: &Cluster) -> Counts {
    let describe = cluster.topics_describe().unwrap();
    let partitions = described_partitions(&describe);
    let mut leaders = BTreeMap::new();
    for partition in &partitions {
        if let Some(leader) = partition.leader {
            *leaders.entry(leader).or_default() += 1;
        }
    }
    let listed = |flag| {
        let output = cluster.topics(&["--describe", flag]).unwrap();
        described_partitions(&output)
    };
    let mut under_replicated: Vec<_> = listed("--under-replicated-partitions")
        .into_iter()
        .map(|partition| (partition.topic, partition.partition))
        .collect();
    under_replicated.sort();
    Counts {
        partitions: partitions.len(),
        leaders,
        under_replicated,
        unavailable: listed("--unavailable-partitions").len(),
        under_min_isr: listed("--under-min-isr-partitions").len(),
        at_min_isr: listed("--at-min-isr-partitions").len(),
        reassigning: describe.matches("Adding Replicas:").count(),
    }
}

/// Compares while nothing changes: the logs say the same before and after the tool ran.
#[track_caller]
fn agree(when: &str, cluster: &Cluster, logs: &mut Logs) -> Counts {
    let started = Instant::now();
    loop {
        let before = counted(&logs.read());
        let tool = by_the_tool(cluster);
        let after = counted(&logs.read());
        if let (Some(before), true) = (&before, before == after) {
            assert_eq!(*before, tool, "{when}");
            println!("{when}: {tool:?}");
            return tool;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "{when}: {before:?}, {after:?}"
        );
    }
}

fn healthy_and_with_a_broker_killed(version: &str) {
    let mut cluster = Cluster::start(ClusterOptions::new(version)).unwrap();
    cluster.create_topic("orders", 6, 3).unwrap();
    cluster.create_topic("single", 3, 1).unwrap();
    let mut logs = Logs::follow(&cluster);
    let healthy = agree("healthy", &cluster, &mut logs);
    assert_eq!(healthy.under_replicated, []);
    cluster.kill(3).unwrap();
    logs.of.remove(&3);
    support::wait_for("broker 3 to be fenced", PATIENCE, || {
        let read = logs.read();
        read.values().all(|log| log.brokers[&3].fenced)
    });
    let killed = agree("a broker killed", &cluster, &mut logs);
    assert!(killed.under_replicated.len() >= 6, "{killed:?}");
    assert!(killed.unavailable >= 1, "{killed:?}");
}

#[test]
fn kafka_3_9_1() {
    healthy_and_with_a_broker_killed("3.9.1");
}

#[test]
fn kafka_4_3_0() {
    healthy_and_with_a_broker_killed("4.3.0");
}
