//! Healthy brokers of every version under load, restarts, busy CPUs and a slow disk for a long time: no stall, no missing
//! thread, no deadlock: `make qualify`. `KAFKA_VITALS_QUALIFY_MINUTES` is the time for each version and mode, 10 by default.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::stalls::{CONFIG, POOLS, all_well, evaluated, harm, nothing_found};
use crate::support::{Exporter, byteman, wait_for};
use lab::client::{Connection, Member};
use lab::deadlock::offsets_partition;
use lab::hosts::run;
use lab::versions::{self, Mode};
use lab::{Cell, Cluster, ClusterOptions, Load, Process};

/// Writes a second of all brokers on the slow disk: an append, which here waits for its fsync, takes a tenth of a second
/// and more.
const SLOW_WRITES: &str = "30";

fn healthy_in_every_mode(version: &str) {
    let minutes = std::env::var("KAFKA_VITALS_QUALIFY_MINUTES")
        .map_or(10.0, |minutes| minutes.parse().unwrap());
    for mode in versions::find(version).unwrap().modes {
        healthy(version, *mode, Duration::from_secs_f64(minutes * 60.0));
    }
}

fn healthy(version: &str, mode: Mode, time: Duration) {
    let cell = Cell::new().unwrap();
    let disk = SlowDisk::new(&cell);
    let mut cluster = Cluster::start(ClusterOptions {
        mode: Some(mode),
        folder: disk.as_ref().map(|disk| disk.folder.clone()),
        cell: Some(cell.clone()),
        properties: vec![("log.flush.interval.messages".into(), "1".into())],
        ..ClusterOptions::new(version)
    })
    .unwrap();
    cluster.create_topic("t32", 32, 3).unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (exporter, log) = logging_exporter(&cluster, folder.path());
    // On 0.10.1.0 rebalances may truly deadlock.
    let rebalancers = if version == "0.10.1.0" { 0 } else { 4 };
    let clients = Load::start_rebalancing(&cluster, rebalancers).unwrap();
    let span = time / 4;
    let print = |what: &str, start: Instant, readings: usize| {
        let (answered, failed, rebalanced) =
            (clients.answered(), clients.failed(), clients.rebalanced());
        println!(
            "{version} {mode:?} {what}: {readings} readings in {:.0?}; until now {answered} rounds answered, {failed} \
             failed, {rebalanced} rebalances, suspicions: {:#?}",
            start.elapsed(),
            suspicions(&log)
        );
    };
    // Dropped before the cluster.
    let disk = disk;
    let start = Instant::now();
    print(
        "under load",
        start,
        all_well(&exporter, || start.elapsed() > span),
    );
    let start = Instant::now();
    print(
        "in rolling restarts",
        start,
        rolling_restarts(&mut cluster, &exporter, span),
    );
    evaluated(&cluster, &exporter, &POOLS);
    let start = Instant::now();
    let busy: Vec<Process> = (0..std::thread::available_parallelism().unwrap().get())
        .map(|_| spin(&cell))
        .collect();
    print(
        "beside busy processes",
        start,
        all_well(&exporter, || start.elapsed() > span),
    );
    drop(busy);
    if let Some(disk) = &disk {
        let start = Instant::now();
        disk.limit("iops", SLOW_WRITES, &cluster);
        print(
            "on a slow disk",
            start,
            all_well(&exporter, || start.elapsed() > span),
        );
        disk.limit("iops", "max", &cluster);
    }
    evaluated(&cluster, &exporter, &POOLS);
    assert!(clients.answered() > 100 && (rebalancers == 0 || clients.rebalanced() > 50));
}

/// Starts an exporter that takes dumps often and logs its suspicions. Returns it and its log.
fn logging_exporter(cluster: &Cluster, folder: &Path) -> (Exporter, PathBuf) {
    let log = folder.join("log");
    let exporter = Exporter::start_with(cluster.cell(), CONFIG, |command| {
        command
            .arg("--log.level=debug")
            .stderr(std::fs::File::create(&log).unwrap());
    });
    evaluated(cluster, &exporter, &POOLS);
    (exporter, log)
}

/// Returns the suspicions of threads without progress in the log, which has them at level debug.
pub fn suspicions(log: &Path) -> Vec<String> {
    let log = std::fs::read_to_string(log).unwrap();
    let lines = log
        .lines()
        .filter(|line| line.contains("suspects=[") && !line.contains("suspects=[]"));
    lines
        .map(|line| line.split_once("broker=").unwrap().1.to_owned())
        .collect()
}

/// Restarts one broker after the other, repeatedly.
fn rolling_restarts(cluster: &mut Cluster, exporter: &Exporter, time: Duration) -> usize {
    let ids: Vec<i32> = cluster.brokers().map(|broker| broker.id()).collect();
    std::thread::scope(|scope| {
        let restarts = scope.spawn(|| {
            let start = Instant::now();
            while start.elapsed() < time {
                for id in &ids {
                    cluster.restart(*id).unwrap();
                    cluster
                        .wait_fully_replicated(Duration::from_secs(90))
                        .unwrap();
                }
            }
        });
        all_well(exporter, || restarts.is_finished())
    })
}

fn spin(cell: &Cell) -> Process {
    let mut command = Command::new("sh");
    command.args(["-c", "while :; do :; done"]);
    cell.spawn(command).unwrap()
}

/// A file system whose writes a control group slows down.
struct SlowDisk {
    cell: Cell,
    folder: PathBuf,
    group: String,
}

impl SlowDisk {
    /// Returns None, and reports the skip, where mounting is not allowed.
    fn new(cell: &Cell) -> Option<SlowDisk> {
        let group = format!("kafka-vitals-lab-{}", std::process::id());
        let disk = SlowDisk {
            cell: cell.clone(),
            folder: "/tmp/disk".into(),
            group,
        };
        let image = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.img", disk.group));
        let made = disk.run(&["make", image.to_str()?, "/tmp/disk"]);
        made.map_err(|why| lab::skip("a slow disk", why.trim()))
            .ok()
            .map(|()| disk)
    }

    fn limit(&self, kind: &str, most: &str, cluster: &Cluster) {
        let pids: Vec<String> = cluster
            .brokers()
            .map(|broker| broker.cell_pid().unwrap().to_string())
            .collect();
        let mut arguments = vec!["limit", "/tmp/disk", &self.group, kind, most];
        arguments.extend(pids.iter().map(String::as_str));
        self.run(&arguments).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Result<(), String> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/slow-disk.sh");
        let output = run(&self.cell, &[&[script], arguments].concat());
        output.map(drop).map_err(|error| format!("{error:#}"))
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        for kind in ["iops", "bps"] {
            let _ = self.run(&["limit", "/tmp/disk", &self.group, kind, "max"]);
        }
        let _ = self.run(&["remove", &self.group]);
    }
}

/// Checks a broker in permanent full garbage collection, and then one that is stopped for a while.
fn pauses_are_no_stall(java: Option<PathBuf>, collector: &[&str]) {
    let cluster = Cluster::start(ClusterOptions {
        java,
        brokers: vec![1],
        heap: "1500m".into(),
        jvm_options: collector
            .iter()
            .map(|option| (*option).to_owned())
            .collect(),
        ..ClusterOptions::new("4.3.0")
    })
    .unwrap();
    cluster.create_topic("t32", 32, 1).unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (exporter, log) = logging_exporter(&cluster, folder.path());
    let _clients = Load::start(&cluster).unwrap();
    let paused = || exporter.metrics().of("jvm_pause_seconds_total", 1).unwrap();
    let before = paused();
    harm(&cluster, 1, "fill:600");
    let start = Instant::now();
    nothing_found(&exporter, || start.elapsed() > Duration::from_secs(30));
    println!(
        "{collector:?}: {:.1} s at safepoints in 30 s, suspicions: {:#?}",
        paused() - before,
        suspicions(&log)
    );
    cluster.pause(1).unwrap();
    let start = Instant::now();
    nothing_found(&exporter, || start.elapsed() > Duration::from_secs(25));
    cluster.resume(1).unwrap();
    nothing_found(&exporter, || start.elapsed() > Duration::from_secs(40));
    println!(
        "{collector:?}: stopped for 25 s, suspicions: {:#?}",
        suspicions(&log)
    );
    assert!(suspicions(&log).is_empty());
}

#[test]
fn garbage_collection_and_stops_are_no_stall() {
    pauses_are_no_stall(None, &[]);
    let Some(java) = lab::jars::java_of(24..) else {
        return lab::skip(
            "garbage_collection_and_stops_are_no_stall",
            "no JDK 24 or later",
        );
    };
    // The lab's default is the serial collector.
    pauses_are_no_stall(Some(java.clone()), &["-XX:-UseSerialGC", "-XX:+UseG1GC"]);
    pauses_are_no_stall(Some(java), &["-XX:-UseSerialGC", "-XX:+UseZGC"]);
}

/// No JVM reports this deadlock, because the owners of read locks are unknown. On this real broker, waiting writers close
/// the cycle.
#[test]
fn handlers_that_wait_for_each_others_read_locks_are_a_stall_with_a_name() {
    let cluster = Cluster::start(ClusterOptions {
        jvm_options: vec![byteman("kafka-7697.btm")],
        offsets_partitions: 2,
        ..ClusterOptions::new("2.1.0")
    })
    .unwrap();
    // One broker leads two partitions, and each has a follower of its own that causes a write lock.
    let assignment = [
        "--replica-assignment",
        "1:2,1:3",
        "--config",
        "cleanup.policy=compact",
    ];
    cluster
        .topics(
            &[
                &["--create", "--topic", "__consumer_offsets"],
                &assignment[..],
            ]
            .concat(),
        )
        .unwrap();
    cluster.create_topic("t32", 1, 3).unwrap();
    cluster
        .wait_fully_replicated(Duration::from_secs(60))
        .unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (exporter, log) = logging_exporter(&cluster, folder.path());
    let group = |partition| {
        (0..)
            .map(|n| format!("g{n}"))
            .find(|name| offsets_partition(name, 2) == partition)
            .unwrap()
    };
    let time = Duration::from_secs(10);
    let connect = || Connection::open(cluster.broker(1).unwrap().port(), time).unwrap();
    let requests = || {
        wait_for("the coordinator", time, || {
            (0..2).all(|n| connect().coordinator(&group(n)).is_ok())
        });
        let mut fetches = [connect(), connect()];
        for fetch in &mut fetches {
            fetch
                .send_fetch(
                    3,
                    "__consumer_offsets",
                    &[0, 1],
                    Duration::from_secs(100),
                    1 << 20,
                )
                .unwrap();
        }
        // The fetches wait in the purgatory.
        assert!(
            fetches[1]
                .receive(Instant::now() + Duration::from_secs(1))
                .is_err()
        );
        let commits = [0, 1].map(|partition| {
            let mut commit = connect();
            commit
                .send_commit(&Member::simple(&group(partition)), "t32", 1)
                .unwrap();
            commit
        });
        (fetches, commits)
    };
    let _unanswered = cluster.cell().in_network(requests).unwrap();
    let start = Instant::now();
    let handlers = "stalled_threads{broker=\"1\",pool=\"request_handler\"}";
    let named = "known_issue_detected{broker=\"1\",issue=\"KAFKA-7697\",fixed_in=\"2.1.1,2.2.0\"}";
    let reported = || {
        let metrics = exporter.metrics();
        metrics.get(handlers) >= Some(2.0) && metrics.get(named) == Some(1.0)
    };
    wait_for(
        "the stall to be reported",
        Duration::from_secs(60),
        reported,
    );
    println!(
        "reported {:.1?} after the commits, suspicions: {:#?}",
        start.elapsed(),
        suspicions(&log)
    );
    let dump = cluster.jstack(1).unwrap();
    assert!(!dump.contains("Java-level deadlock"));
    assert!(
        dump.matches("kafka.cluster.Partition.fetchOffsetSnapshot")
            .count()
            >= 2,
        "{dump}"
    );
    assert_eq!(exporter.metrics().of("deadlock_detected", 1), Some(0.0));
}

/// The disk accepts no more bytes.
#[test]
fn threads_that_wait_for_a_dead_disk_are_a_stall() {
    let cell = Cell::new().unwrap();
    let Some(disk) = SlowDisk::new(&cell) else {
        return;
    };
    let cluster = Cluster::start(ClusterOptions {
        brokers: vec![1],
        folder: Some(disk.folder.clone()),
        cell: Some(cell.clone()),
        properties: vec![("log.flush.interval.messages".into(), "1".into())],
        ..ClusterOptions::new("4.3.0")
    })
    .unwrap();
    cluster.create_topic("t32", 32, 1).unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (exporter, log) = logging_exporter(&cluster, folder.path());
    // Dropped before the cluster: a process cannot end while its writes wait.
    let disk = disk;
    let clients = Load::start(&cluster).unwrap();
    wait_for(
        "the group's offsets to be committed",
        Duration::from_secs(30),
        || clients.answered() > 50,
    );
    disk.limit("bps", "1", &cluster);
    let start = Instant::now();
    // The log of the node's metadata stalls first; its partitions stall later, if at all.
    let stalled = || {
        exporter
            .metrics()
            .get("stalled_threads{broker=\"1\",pool=\"raft_io\"}")
            > Some(0.0)
    };
    wait_for("the stall to be reported", Duration::from_secs(60), stalled);
    println!(
        "reported {:.1?} after the disk stopped, suspicions: {:#?}",
        start.elapsed(),
        suspicions(&log)
    );
    let page = exporter.page();
    assert!(
        page.contains("sun.nio.ch.FileDispatcherImpl.force0"),
        "{page}"
    );
    disk.limit("bps", "max", &cluster);
}

tests! { healthy_in_every_mode:
    healthy_brokers_of_0_10_1_0_neither_stall_nor_lack_threads("0.10.1.0");
    healthy_brokers_of_0_10_1_1_neither_stall_nor_lack_threads("0.10.1.1");
    healthy_brokers_of_2_1_neither_stall_nor_lack_threads("2.1.0");
    healthy_brokers_of_2_8_neither_stall_nor_lack_threads("2.8.2");
    healthy_brokers_of_3_9_neither_stall_nor_lack_threads("3.9.1");
    healthy_brokers_of_4_3_neither_stall_nor_lack_threads("4.3.0");
}
