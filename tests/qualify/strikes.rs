//! Partial failures of real brokers, made one by one: how soon each is found, and that nobody else is accused: `make qualify`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::hosts::run;
use lab::{Cell, Cluster, ClusterOptions, Load};

use crate::support::stalls::{POOLS, evaluated, harm};
use crate::support::{Exporter, Metrics, byteman_on_demand, wait_for};

/// What is to be seen, and when it is.
type Wanted<'a> = (&'a str, &'a dyn Fn(&Metrics) -> bool);

/// Polls the metrics until `over`, and returns when each of the states and findings that matter was first seen.
fn watch(exporter: &Exporter, wanted: &[Wanted<'_>], most: Duration) -> Vec<Option<Duration>> {
    let start = Instant::now();
    let mut first = vec![None; wanted.len()];
    while start.elapsed() < most && first.iter().any(Option::is_none) {
        let metrics = exporter.metrics();
        for (first, (_, holds)) in first.iter_mut().zip(wanted) {
            if first.is_none() && holds(&metrics) {
                *first = Some(start.elapsed());
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    for (first, (name, _)) in first.iter().zip(wanted) {
        println!("{name}: {first:.1?}");
    }
    first
}

/// Waits until every broker is healthy and its threads have been evaluated.
fn all_healthy(cluster: &Cluster, exporter: &Exporter) {
    evaluated(cluster, exporter, &POOLS);
    wait_for("all brokers to be healthy", Duration::from_secs(60), || {
        let metrics = exporter.metrics();
        let mut brokers = cluster.brokers();
        brokers.all(|broker| metrics.state(broker.id(), "healthy") == Some(1.0))
    });
}

/// On 0.10 a handler of each healthy broker waits for the fetcher of the stopped leader, which waits for an answer.
#[test]
fn a_stopped_peer_makes_no_healthy_broker_gray() {
    let cluster = Cluster::start(ClusterOptions::new("0.10.1.0")).unwrap();
    cluster.create_topic("t32", 32, 3).unwrap();
    cluster
        .wait_fully_replicated(Duration::from_secs(60))
        .unwrap();
    let exporter = Exporter::start(cluster.cell());
    all_healthy(&cluster, &exporter);
    let _clients = Load::start(&cluster).unwrap();
    let ids: Vec<i32> = cluster.brokers().map(|broker| broker.id()).collect();
    let (stopped, others) = ids.split_last().unwrap();
    cluster.pause(*stopped).unwrap();
    let start = Instant::now();
    let (mut gray, mut partial) = (Vec::new(), 0);
    while start.elapsed() < Duration::from_secs(75) {
        let metrics = exporter.metrics();
        for id in others {
            if metrics.state(*id, "gray") == Some(1.0) {
                gray.push((*id, start.elapsed(), exporter.page()));
            }
            if metrics.finding(*id, "partial_stall", "warning") == Some(1.0) {
                partial += 1;
                let named = format!("until broker {stopped} answers");
                let page = exporter.page();
                assert!(page.contains(&named), "{page}");
            }
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    cluster.resume(*stopped).unwrap();
    println!("{partial} readings with a stall that names broker {stopped}");
    assert!(gray.is_empty(), "{gray:?}");
}

/// Starts three brokers whose threads stand once there is a file in the folder that is returned.
fn with_rules(version: &str) -> (Cluster, std::path::PathBuf) {
    let (jvm_options, folder) =
        byteman_on_demand("standing-threads.btm", &format!("standing-{version}"));
    let cluster = Cluster::start(ClusterOptions {
        brokers: vec![1],
        jvm_options,
        ..ClusterOptions::new(version)
    })
    .unwrap();
    cluster.create_topic("t32", 32, 1).unwrap();
    (cluster, folder)
}

/// The network threads go on: the broker accepts connections, and reads what it does not answer.
fn gray_in_time(version: &str, most: Duration, strike: impl FnOnce(&Cluster, &Path)) {
    let (cluster, folder) = with_rules(version);
    let exporter = Exporter::start(cluster.cell());
    all_healthy(&cluster, &exporter);
    let clients = Load::start(&cluster).unwrap();
    wait_for("answers", Duration::from_secs(30), || {
        clients.answered() > 50
    });
    strike(&cluster, &folder);
    let gray = |metrics: &Metrics| metrics.state(1, "gray") == Some(1.0);
    let found = |metrics: &Metrics| metrics.finding(1, "stalled_pool", "critical") == Some(1.0);
    let silent =
        |metrics: &Metrics| metrics.finding(1, "api_unresponsive", "critical") == Some(1.0);
    let first = watch(
        &exporter,
        &[
            ("gray", &gray),
            ("stalled_pool", &found),
            ("api_unresponsive", &silent),
        ],
        Duration::from_secs(30),
    );
    let page = exporter.page();
    assert!(page.contains("is alive but stalled since"), "{page}");
    let in_time = first[0].is_some_and(|at| at <= most);
    assert!(in_time, "{first:?}");
}

fn sleeping_handlers_are_gray_in_time(version: &str) {
    gray_in_time(version, Duration::from_millis(5500), |_, folder| {
        fs::write(folder.join("sleep"), "").unwrap()
    });
}

tests! { sleeping_handlers_are_gray_in_time:
    sleeping_handlers_of_0_10_are_gray_in_time("0.10.1.0");
    sleeping_handlers_of_4_3_are_gray_in_time("4.3.0");
}

/// Handlers queue for the locks of a thread that sleeps, three of eight at first: the others answer for some 15 s, so a
/// stall at a lock decides, which takes 10 s.
#[test]
fn a_convoy_is_gray_in_time() {
    let most = Duration::from_secs(15);
    gray_in_time("0.10.1.0", most, |cluster, _| harm(cluster, 1, "hold"));
}

/// A frozen file system: writes wait in the kernel until it is thawed.
fn a_disk_that_hangs_is_named(version: &str) {
    let cell = Cell::new().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/slow-disk.sh");
    let image = format!("{}/hung-{version}.img", env!("CARGO_TARGET_TMPDIR"));
    let folder = "/tmp/hung";
    let mut make = Command::new(script);
    make.args(["make", &image, folder]);
    let made = cell.run_tool(make, Duration::from_secs(60)).unwrap();
    if !made.status.success() {
        let why = String::from_utf8_lossy(&made.stderr);
        return lab::skip("a disk that hangs", why.trim());
    }
    let cluster = Cluster::start(ClusterOptions {
        brokers: vec![1],
        folder: Some(folder.into()),
        cell: Some(cell.clone()),
        ..ClusterOptions::new(version)
    })
    .unwrap();
    cluster.create_topic("t32", 32, 1).unwrap();
    let exporter = Exporter::start(cluster.cell());
    all_healthy(&cluster, &exporter);
    std::thread::scope(|scope| {
        scope.spawn(|| produce(&cluster));
        named_while_frozen(&exporter, cluster.cell(), folder);
    });
}

/// Writes records until it fails, or for a minute.
fn produce(cluster: &Cluster) {
    let port = cluster.broker(1).unwrap().port();
    let server = format!("127.0.0.1:{port}");
    let (tool, arguments, to) = match cluster.version().name.starts_with("0.10") {
        true => (
            "kafka.tools.ProducerPerformance",
            "--new-producer --topics t32 --messages 100000000",
            "--broker-list",
        ),
        false => (
            "org.apache.kafka.tools.VerifiableProducer",
            "--throughput 1000 --topic t32",
            "--bootstrap-server",
        ),
    };
    let arguments: Vec<&str> = arguments.split(' ').chain([to, &server]).collect();
    // Its end is that of the test.
    let _ = cluster.tool(tool, &arguments);
}

fn named_while_frozen(exporter: &Exporter, cell: &Cell, folder: &str) {
    let records = "test -n \"$(find /tmp/hung -path '*/t32-*/*.log' -size +0)\"";
    wait_for("records on the disk", Duration::from_secs(30), || {
        run(cell, &["sh", "-c", records]).is_ok()
    });
    run(cell, &["fsfreeze", "--freeze", folder]).unwrap();
    let gray = |metrics: &Metrics| metrics.state(1, "gray") == Some(1.0);
    let hung = |metrics: &Metrics| metrics.finding(1, "disk_hung", "critical") == Some(1.0);
    let first = watch(
        exporter,
        &[("gray", &gray), ("disk_hung", &hung)],
        Duration::from_secs(30),
    );
    let page = exporter.page();
    // Before anything may fail: a process at a frozen disk cannot end.
    run(cell, &["fsfreeze", "--unfreeze", folder]).unwrap();
    assert!(page.contains("its disk does not answer since"), "{page}");
    assert!(page.contains(": log dir /tmp/hung"), "{page}");
    assert!(
        first[1].is_some_and(|at| at <= Duration::from_secs(7)),
        "{first:?}"
    );
    wait_for("it to be healthy again", Duration::from_secs(60), || {
        exporter.metrics().state(1, "healthy") == Some(1.0)
    });
}

tests! { a_disk_that_hangs_is_named:
    a_disk_of_0_10_that_hangs_is_named("0.10.1.0");
    a_disk_of_4_3_that_hangs_is_named("4.3.0");
}
