//! Healthy brokers of every version under what hurts, watched for long: no stall, no missing thread, no deadlock:
//! `make qualify`. `KAFKA_VITALS_QUALIFY_MINUTES` is the time for each version and mode, 10 by default.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::versions::{self, Mode};
use lab::{Cell, Cluster, ClusterOptions, Load, LoadOptions, Process};
use support::Exporter;
use support::stalls::{CONFIG, POOLS, judged, nothing_found};

/// Writes a second of all brokers on the slow disk: an append, which here waits for its fsync, takes a tenth of a second
/// and more.
const SLOW_WRITES: &str = "30";

fn healthy_in_every_mode(version: &str) {
    let minutes = std::env::var("KAFKA_VITALS_QUALIFY_MINUTES").map_or(10.0, |minutes| minutes.parse().unwrap());
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
    cluster.wait_whole(Duration::from_secs(60)).unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (config, log) = (folder.path().join("config"), folder.path().join("log"));
    std::fs::write(&config, CONFIG).unwrap();
    let to = std::fs::File::create(&log).unwrap();
    let exporter = Exporter::start_with(&cell, |command| {
        command.arg("--log.level=debug").arg("--config.file").arg(&config).stderr(to);
    });
    judged(&cluster, &exporter, &POOLS);
    // On 0.10.1.0 rebalances may truly deadlock.
    let rebalancers = if version == "0.10.1.0" { 0 } else { 4 };
    let options = LoadOptions { rebalancers, ..LoadOptions::incident("t32") };
    let clients = Load::start(&cluster, &options).unwrap();
    let span = time / 4;
    let told = |what: &str, begun: Instant, readings: usize| {
        let log = std::fs::read_to_string(&log).unwrap();
        let suspicions = log.lines().filter(|line| line.contains("hardly move") && !line.contains("suspects=[]"));
        let (answered, failed, rebalanced) = (clients.answered(), clients.failed(), clients.rebalanced());
        println!(
            "{version} {mode:?} {what}: {readings} readings in {:.0?}; until now {answered} rounds answered, {failed} \
             failed, {rebalanced} rebalances, suspicions: {:#?}",
            begun.elapsed(),
            suspicions.map(|line| line.split_once("broker=").unwrap().1).collect::<Vec<_>>()
        );
    };
    let begun = Instant::now();
    told("under load", begun, nothing_found(&exporter, || begun.elapsed() > span));
    let begun = Instant::now();
    told("in rolling restarts", begun, rolling_restarts(&mut cluster, &exporter, span));
    judged(&cluster, &exporter, &POOLS);
    let begun = Instant::now();
    let busy: Vec<Process> = (0..std::thread::available_parallelism().unwrap().get()).map(|_| spin(&cell)).collect();
    told("beside busy processes", begun, nothing_found(&exporter, || begun.elapsed() > span));
    drop(busy);
    if let Some(disk) = &disk {
        let begun = Instant::now();
        disk.limit(SLOW_WRITES, &cluster);
        told("on a slow disk", begun, nothing_found(&exporter, || begun.elapsed() > span));
        disk.limit("max", &cluster);
    }
    judged(&cluster, &exporter, &POOLS);
    assert!(clients.answered() > 100 && (rebalancers == 0 || clients.rebalanced() > 50));
}

/// One broker after the other, again and again.
fn rolling_restarts(cluster: &mut Cluster, exporter: &Exporter, time: Duration) -> usize {
    let over = AtomicBool::new(false);
    let ids: Vec<i32> = cluster.brokers().map(|broker| broker.id()).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let begun = Instant::now();
            while begun.elapsed() < time {
                for id in &ids {
                    cluster.restart(*id).unwrap();
                    cluster.wait_whole(Duration::from_secs(90)).unwrap();
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        nothing_found(exporter, || over.load(Ordering::Relaxed))
    })
}

fn spin(cell: &Cell) -> Process {
    let mut command = Command::new("sh");
    command.args(["-c", "while :; do :; done"]);
    cell.spawn(command).unwrap()
}

/// A file system whose writes a control group holds up.
struct SlowDisk {
    cell: Cell,
    folder: PathBuf,
    group: String,
}

impl SlowDisk {
    /// None, told, where mounting is not allowed.
    fn new(cell: &Cell) -> Option<SlowDisk> {
        let group = format!("kafka-vitals-lab-{}", std::process::id());
        let disk = SlowDisk { cell: cell.clone(), folder: "/tmp/disk".into(), group };
        let image = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.img", disk.group));
        let made = disk.run(&["make", image.to_str()?, "/tmp/disk"]);
        made.map_err(|why| println!("no slow disk: {why}")).ok().map(|()| disk)
    }

    fn limit(&self, writes: &str, cluster: &Cluster) {
        let pids: Vec<String> = cluster.brokers().map(|broker| broker.cell_pid().unwrap().to_string()).collect();
        let mut arguments = vec!["limit", "/tmp/disk", &self.group, writes];
        arguments.extend(pids.iter().map(String::as_str));
        self.run(&arguments).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Result<(), String> {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/slow-disk.sh"));
        command.args(arguments);
        let output = self.cell.run_tool(command, Duration::from_secs(60)).map_err(|error| error.to_string())?;
        let failed = || String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then_some(()).ok_or_else(failed)
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        // Held-up writes would hold up their processes' end.
        let _ = self.run(&["limit", "/tmp/disk", &self.group, "max"]);
        let _ = self.run(&["remove", &self.group]);
    }
}

#[test]
fn healthy_brokers_of_0_10_1_0_neither_stall_nor_lack_threads() {
    healthy_in_every_mode("0.10.1.0");
}

#[test]
fn healthy_brokers_of_0_10_1_1_neither_stall_nor_lack_threads() {
    healthy_in_every_mode("0.10.1.1");
}

#[test]
fn healthy_brokers_of_2_1_neither_stall_nor_lack_threads() {
    healthy_in_every_mode("2.1.0");
}

#[test]
fn healthy_brokers_of_2_8_neither_stall_nor_lack_threads() {
    healthy_in_every_mode("2.8.2");
}

#[test]
fn healthy_brokers_of_3_9_neither_stall_nor_lack_threads() {
    healthy_in_every_mode("3.9.1");
}

#[test]
fn healthy_brokers_of_4_3_neither_stall_nor_lack_threads() {
    healthy_in_every_mode("4.3.0");
}
