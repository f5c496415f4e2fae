//! What the log of a real broker says of a lost session, of a refused change of an ISR and of a full disk: `make qualify`.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use lab::client::{Connection, Member};
use lab::hosts::run;
use lab::{Cell, Cluster, ClusterOptions, deadlock};

use crate::support::verdict::followed;
use crate::support::{Exporter, wait_for};

/// From the line until it is counted.
const AT_ONCE: Duration = Duration::from_secs(3);
/// A group whose client only commits.
const GROUP: &str = "g";

/// A leader is stopped for longer than its session lasts, with a record in its receive buffer that no follower can have:
/// since 2.0 a follower that has the leader's last record is in sync, however long ago it fetched. When the leader
/// continues, others lead its partitions. It registers with a new session at once, but only the controller can tell it who
/// leads, and that one is stopped now. So it leads on, and wants to shrink the ISR with the state of before.
fn a_lost_session_is_counted(version: &str) {
    let properties = [
        ("zookeeper.session.timeout.ms", "15000"),
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
    let id = deadlock::coordinator(&cluster, GROUP).unwrap();
    let address = cluster.broker(id).unwrap().address();
    let open = || Connection::open_at(address, Duration::from_secs(5));
    let mut connection = cluster.cell().in_network(open).unwrap().unwrap();
    connection.commit(&Member::simple(GROUP), "t").unwrap();
    cluster
        .wait_fully_replicated(Duration::from_secs(60))
        .unwrap();
    let exporter = Exporter::start(cluster.cell());
    followed(&cluster, &exporter);
    let log = || cluster.broker(id).unwrap().log().unwrap();
    let lines = |text: &str| log().lines().filter(|line| line.contains(text)).count() as f64;
    cluster.pause(id).unwrap();
    connection
        .send_commit(&Member::simple(GROUP), "t", 1)
        .unwrap();
    let others = cluster.brokers().filter(|broker| broker.id() != id);
    let others: Vec<i32> = others.map(|broker| broker.id()).collect();
    let mut controller = None;
    wait_for("others to lead", Duration::from_secs(60), || {
        let mut metadata = others.iter().map(|other| cluster.metadata(*other).unwrap());
        metadata.all(|of| {
            controller = of.controller.filter(|of| *of != id);
            let mut partitions = of.partitions.iter();
            // None has a leader before the new controller has chosen one, and the state is still the old one.
            let by_others = |leader: Option<i32>| leader.is_some_and(|leader| leader != id);
            controller.is_some() && partitions.all(|partition| by_others(partition.leader))
        })
    });
    let controller = controller.unwrap();
    cluster.pause(controller).unwrap();
    cluster.resume(id).unwrap();
    // A request that was under way fails with the same words, which is no line of the client's own.
    let expired = || lines("state changed (Expired)") + lines("] Session expired");
    let refused = || lines("not equal to that in zookeeper");
    wait_for("the session to end", Duration::from_secs(30), || {
        expired() > 0.0
    });
    let count = |signature: &str, severity: &str| {
        let labels = format!("broker=\"{id}\",signature=\"{signature}\",severity=\"{severity}\"");
        let series = format!("log_signatures_total{{{labels}}}");
        exporter.metrics().get(&series).unwrap_or_default()
    };
    wait_for("its line to be counted", AT_ONCE, || {
        count("zookeeper_session_expired", "warning") == expired()
    });
    wait_for("refused changes", Duration::from_secs(30), || {
        refused() > 0.0
    });
    // It tries again each second.
    let change = || count("isr_change_refused", "critical");
    let first = refused();
    wait_for("their lines to be counted", AT_ONCE, || change() >= first);
    assert!(exporter.page().contains("isr_change_refused"));
    cluster.resume(controller).unwrap();
    wait_for("it to learn who leads", Duration::from_secs(60), || {
        let metadata = cluster.metadata(id).unwrap();
        metadata.partitions.iter().all(|of| of.leader != Some(id))
    });
    wait_for("each line to be counted once", AT_ONCE, || {
        change() == refused()
    });
    println!("{version}: {} refused changes", refused());
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
