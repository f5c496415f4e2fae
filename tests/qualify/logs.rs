//! What the log of a real broker says of a lost session, of a refused change of an ISR and of a full disk: `make qualify`.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use lab::client::{Connection, Member};
use lab::hosts::run;
use lab::{Cell, Cluster, ClusterOptions, Signal};

use crate::support::verdict::followed;
use crate::support::{Exporter, wait_for};

/// From the line until it is counted.
const AT_ONCE: Duration = Duration::from_secs(3);
/// A group of one client, which only commits.
const GROUP: &str = "g";

/// A leader is stopped for longer than its session lasts, with a record in its receive buffer that no follower can have.
/// When it continues, others lead its partitions. Until ZooKeeper is back, which stands still meanwhile, it does not learn
/// so, and it wants to shrink the ISR of the partition with that record: since 2.0 a follower that has the leader's last
/// record is in sync, however long ago it fetched.
fn a_lost_session_is_counted(version: &str) {
    let properties = [
        ("zookeeper.session.timeout.ms", "12000"),
        ("replica.lag.time.max.ms", "2000"),
    ];
    let cluster = Cluster::start(ClusterOptions {
        properties: properties
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        ..ClusterOptions::new(version)
    })
    .unwrap();
    cluster.create_topic("t", 30, 3).unwrap();
    let (id, mut coordinator) = coordinator(&cluster);
    cluster
        .wait_fully_replicated(Duration::from_secs(60))
        .unwrap();
    let exporter = Exporter::start(cluster.cell());
    followed(&cluster, &exporter);
    let log = || cluster.broker(id).unwrap().log().unwrap();
    let lines = |text: &str| log().lines().filter(|line| line.contains(text)).count() as f64;
    cluster.pause(id).unwrap();
    coordinator
        .send_commit(&Member::simple(GROUP), "t", 1)
        .unwrap();
    let others = cluster.brokers().filter(|broker| broker.id() != id);
    let others: Vec<i32> = others.map(|broker| broker.id()).collect();
    wait_for("others to lead", Duration::from_secs(60), || {
        let leads = |other: &i32| {
            let metadata = cluster.metadata(*other).unwrap();
            metadata.partitions.iter().any(|of| of.leader == Some(id))
        };
        !others.iter().any(leads)
    });
    let (zookeeper, _) = cluster.zookeeper().unwrap();
    let shrinks = lines("Shrinking ISR");
    zookeeper.signal(Signal::STOP).unwrap();
    cluster.resume(id).unwrap();
    // The sessions of the others last for longer.
    wait_for("the leader to shrink", Duration::from_secs(8), || {
        lines("Shrinking ISR") > shrinks
    });
    zookeeper.signal(Signal::CONT).unwrap();
    // A request that was under way fails with the same words, which is no line of the client's own.
    let expired = || lines("state changed (Expired)") + lines("] Session expired");
    let refused = || lines("not equal to that in zookeeper");
    wait_for("the session to end", Duration::from_secs(30), || {
        expired() > 0.0
    });
    let series = |signature: &str, severity: &str| {
        format!(
            "log_signatures_total{{broker=\"{id}\",signature=\"{signature}\",severity=\"{severity}\"}}"
        )
    };
    let session = series("zookeeper_session_expired", "warning");
    wait_for("its line to be counted", AT_ONCE, || {
        exporter.metrics().get(&session) == Some(expired())
    });
    let change = series("isr_change_refused", "critical");
    wait_for("refused changes", Duration::from_secs(30), || {
        refused() > 0.0
    });
    wait_for("their lines to be counted", AT_ONCE, || {
        exporter.metrics().get(&change) == Some(refused())
    });
    println!("{version}: {} refused changes", refused());
    assert!(exporter.page().contains("isr_change_refused"));
}

/// Returns the coordinator of [`GROUP`], which has committed an offset, and a connection to it.
fn coordinator(cluster: &Cluster) -> (i32, Connection) {
    let open = |port| {
        let network = cluster.cell();
        let connection = network.in_network(|| Connection::open(port, Duration::from_secs(5)));
        connection.unwrap().unwrap()
    };
    let first = cluster.brokers().next().unwrap();
    let mut any = open(first.port());
    let mut found = None;
    wait_for("a coordinator", Duration::from_secs(30), || {
        found = any.coordinator(GROUP).ok();
        found.is_some()
    });
    let id = found.unwrap();
    let mut connection = open(cluster.broker(id).unwrap().port());
    connection.commit(&Member::simple(GROUP), "t").unwrap();
    (id, connection)
}

tests! { a_lost_session_is_counted:
    a_lost_session_of_the_incident_s_version_is_counted("0.10.1.1");
    a_lost_session_of_2_1_is_counted("2.1.0");
}

/// A file system of 64 MiB in the cell, as a log dir.
const DISK: &str = "/tmp/small";

/// Starts one broker with these log dirs, of which [`DISK`] can be filled, and an exporter.
fn beside_a_disk(version: &str, log_dirs: &str) -> (Cluster, Exporter) {
    let cell = Cell::new().unwrap();
    assert!(cell.isolated());
    let mount = format!("mkdir {DISK} && mount -t tmpfs -o size=64m small {DISK}");
    run(&cell, &["sh", "-c", &mount]).unwrap();
    let cluster = Cluster::start(ClusterOptions {
        brokers: vec![1],
        cell: Some(cell),
        properties: vec![("log.dirs".into(), log_dirs.into())],
        ..ClusterOptions::new(version)
    })
    .unwrap();
    cluster.create_topic("t", 12, 1).unwrap();
    let exporter = Exporter::start(cluster.cell());
    followed(&cluster, &exporter);
    (cluster, exporter)
}

/// Fills the file system: the next checkpoint of the broker, 5 s later at most, does not fit.
fn fill(cluster: &Cluster) {
    let path = cluster.cell().host_path(&Path::new(DISK).join("fill"));
    let mut file = File::create(path).unwrap();
    let full = (0..10_000).find_map(|_| file.write_all(&[0; 64 << 10]).err());
    assert_eq!(full.unwrap().kind(), std::io::ErrorKind::StorageFull);
    // What is left is less than a block.
    while file.write_all(&[0; 512]).is_ok() {}
}

/// Waits for lines of the broker's log.
fn logged(cluster: &Cluster, text: &str) {
    let log = || cluster.broker(1).unwrap().log().unwrap();
    wait_for(text, Duration::from_secs(30), || log().contains(text));
}

/// The only log dir is full: the broker ends.
fn a_full_disk_ends_the_broker(version: &str) {
    let (cluster, exporter) = beside_a_disk(version, DISK);
    fill(&cluster);
    logged(&cluster, "No space left on device");
    let pid = cluster.broker(1).unwrap().pid().unwrap();
    wait_for("its end", Duration::from_secs(30), || {
        // A zombie has no memory map.
        std::fs::read(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps.is_empty())
    });
    let mut page = String::new();
    let said = [
        "Broker 1 is down: its process ended at ",
        " Its log dir /tmp/small has 0 of 64 MiB free. Its log has disk_full: ",
        "No space left on device",
        "Make room in /tmp/small, then start it.",
    ];
    wait_for("the reason", AT_ONCE, || {
        page = exporter.page();
        said.iter().all(|text| page.contains(text))
    });
}

tests! { a_full_disk_ends_the_broker:
    a_full_disk_ends_a_broker_of_the_incident_s_version("0.10.1.1");
    a_full_disk_ends_a_broker_of_2_1("2.1.0");
    a_full_disk_ends_a_broker_of_4_3("4.3.0");
}

/// One of two log dirs is full: the broker goes on without it.
#[test]
fn a_full_disk_takes_a_log_dir_offline() {
    let (cluster, exporter) = beside_a_disk("3.9.1", &format!("/tmp/other,{DISK}"));
    fill(&cluster);
    let offline = format!("Stopping serving replicas in dir {DISK}");
    logged(&cluster, &offline);
    let log = || cluster.broker(1).unwrap().log().unwrap();
    wait_for(
        "the lines to be counted and the dir to be named",
        AT_ONCE,
        || {
            let metrics = exporter.metrics();
            let count = |signature: &str| {
                let labels =
                    format!("broker=\"1\",signature=\"{signature}\",severity=\"critical\"");
                metrics.get(&format!("log_signatures_total{{{labels}}}"))
            };
            let lines = log().matches(&offline).count() as f64;
            count("log_dir_offline") == Some(lines)
                && count("disk_full").is_some_and(|count| count > 0.0)
                && exporter.page().contains(&offline)
        },
    );
}
