//! Tests what other tests rely on, with one cluster in a cell.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::client::Partition;
use lab::{Cluster, ClusterOptions, cli_tools};

#[test]
fn brokers_can_be_stopped_killed_paused_and_started_again() {
    let mut cluster = Cluster::start(ClusterOptions::incident()).unwrap();
    let cell = cluster.cell().clone();

    let pid = cluster.broker(218).unwrap().pid().unwrap();
    let port = cluster.broker(218).unwrap().port();
    let command_line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(
        command_line.contains("kafka.Kafka")
            && command_line.contains("broker-218/server.properties")
    );
    if cell.isolated() {
        let mut ps = Command::new("sh");
        ps.args(["-c", "cat /proc/[0-9]*/comm"]);
        let programs =
            String::from_utf8(cell.run_tool(ps, Duration::from_secs(10)).unwrap().stdout).unwrap();
        assert_eq!(
            programs
                .lines()
                .filter(|program| *program == "java")
                .count(),
            4,
            "{programs}"
        );
        assert!(cluster.broker(218).unwrap().cell_pid().unwrap() < 100);
        assert!(
            std::net::TcpStream::connect(("127.0.0.1", port)).is_err(),
            "the host reaches the cell's port"
        );
        assert!(
            cell.host_path(Path::new("/tmp"))
                .join(format!("hsperfdata_{}", user()))
                .is_dir()
        );
    }
    assert!(cli_tools::sockets(&cell, "established", port).unwrap() > 0);
    assert!(cli_tools::open_handles(pid).unwrap() > 20);
    assert!(
        cluster
            .jstack(218)
            .unwrap()
            .contains("kafka-request-handler-7")
    );

    cluster.create_topic("orders", 6, 3).unwrap();
    // Either view can be behind the other.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let described = cli_tools::described_partitions(&cluster.topics_describe().unwrap());
        let answered = cluster.metadata(217).unwrap().partitions;
        assert_eq!(described.len(), 6);
        let (described, answered) = (sorted(described), sorted(answered));
        if described == answered {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "kafka-topics: {described:#?}\nMetadata: {answered:#?}"
        );
    }

    cluster.stop(219).unwrap();
    assert!(cluster.broker(219).unwrap().pid().is_err());
    let described = cluster
        .wait_until_excluded(219, Duration::from_secs(60))
        .unwrap();
    assert_eq!(described.len(), 6);
    assert!(!described.iter().any(Partition::is_fully_replicated));

    cluster.kill(218).unwrap();
    cluster.start_again(218).unwrap();
    cluster.start_again(219).unwrap();
    cluster
        .wait_fully_replicated(Duration::from_secs(60))
        .unwrap();
    assert_ne!(cluster.broker(218).unwrap().pid().unwrap(), pid);

    cluster.pause(217).unwrap();
    assert!(
        cell.connect(cluster.broker(217).unwrap().port()).is_ok(),
        "the kernel still accepts for a stopped process"
    );
    assert!(cluster.metadata(217).is_err());
    cluster.resume(217).unwrap();
    assert!(cluster.metadata(217).is_ok());

    let pids: Vec<_> = cluster.brokers().map(|node| node.pid().unwrap()).collect();
    drop(cluster);
    for pid in pids {
        assert!(
            !Path::new("/proc").join(pid.to_string()).exists(),
            "{pid} is left"
        );
    }
}

/// Sorts partitions and replicas, because Metadata of 0.10 keeps the order of neither.
fn sorted(mut partitions: Vec<Partition>) -> Vec<Partition> {
    for partition in &mut partitions {
        partition.replicas.sort_unstable();
        partition.isr.sort_unstable();
    }
    partitions.sort_by_key(|partition| partition.partition);
    partitions
}

/// Returns the user's name, for `hsperfdata_NAME`.
fn user() -> String {
    String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout)
        .unwrap()
        .trim()
        .into()
}
