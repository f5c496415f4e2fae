//! Real brokers: a deadlock of idle threads and a JVM that pauses are reported, and a start or an end is no failure.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use lab::client::Connection;
use lab::{Cluster, ClusterOptions, deadlock};
use support::stalls::harm;
use support::verdict::{followed, load};
use support::{Exporter, byteman, wait_for};

/// Only two threads are in this deadlock, which sleep for minutes in a healthy broker. The API still answers.
#[test]
fn the_quiet_deadlock_is_reported_within_a_dump_round_and_named() {
    // The followers may pause until the ISR shrinks, and the commit waits for them meanwhile.
    let properties = [
        ("offsets.commit.timeout.ms", "60000"),
        ("replica.lag.time.max.ms", "2000"),
        ("zookeeper.session.timeout.ms", "60000"),
    ];
    let cluster = Cluster::start(ClusterOptions {
        jvm_options: vec![byteman("kafka-5970.btm")],
        properties: properties
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        ..ClusterOptions::new("0.10.1.1")
    })
    .unwrap();
    cluster.create_topic(deadlock::TOPIC, 1, 3).unwrap();
    let id = deadlock::coordinator(&cluster, "quiet").unwrap();
    cluster
        .wait_fully_replicated(Duration::from_secs(30))
        .unwrap();
    let exporter = Exporter::start(cluster.cell());
    followed(&cluster, &exporter);
    let broker = cluster.broker(id).unwrap();
    let followers: Vec<i32> = cluster
        .brokers()
        .map(|broker| broker.id())
        .filter(|other| *other != id)
        .collect();
    let commits = || -> std::io::Result<Connection> {
        let mut connection = Connection::open(broker.port(), Duration::from_secs(10))?;
        connection.send_join(0, "quiet", deadlock::TOPIC, Duration::from_secs(7))?;
        let member = connection.receive_join(0, "quiet")?;
        connection.send_sync(&member, deadlock::TOPIC)?;
        connection.receive_sync(&member)?;
        followers.iter().for_each(|id| cluster.pause(*id).unwrap());
        connection.send_commit(&member, deadlock::TOPIC, 1)?;
        Ok(connection)
    };
    let unanswered = cluster.cell().in_network(commits).unwrap().unwrap();
    // The session ends, which empties the group.
    let formed = || {
        broker
            .log()
            .unwrap()
            .contains("each holds what the other wants")
    };
    wait_for("the deadlock to form", Duration::from_secs(30), formed);
    let start = Instant::now();
    followers.iter().for_each(|id| cluster.resume(*id).unwrap());
    let mut metrics = exporter.metrics();
    wait_for(
        "the deadlock to be reported",
        Duration::from_secs(16),
        || {
            metrics = exporter.metrics();
            metrics.of("deadlock_detected", id) == Some(1.0)
        },
    );
    println!(
        "KAFKA-5970: reported {:.2?} after it formed, {}",
        start.elapsed(),
        load()
    );
    let named = format!(
        "known_issue_detected{{broker=\"{id}\",issue=\"KAFKA-5970\",fixed_in=\"0.11.0.2,1.0.0\"}}"
    );
    assert_eq!(metrics.get(&named), Some(1.0), "{:#?}", metrics.0);
    let report = cluster.jstack(id).unwrap();
    assert!(report.contains("Found one Java-level deadlock"), "{report}");
    assert!(cluster.metadata(id).is_ok(), "the API answers on");
    drop(unanswered);
}

/// Threads that do not exist yet, or no longer, are no failure: the log is for what needs attention.
#[test]
fn a_start_and_an_end_bring_no_warning_of_progress() {
    let mut cluster = Cluster::start(ClusterOptions {
        brokers: vec![1],
        ..ClusterOptions::new("4.3.0")
    })
    .unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let log = folder.path().join("log");
    // It finds the broker before that has its threads.
    let exporter = Exporter::start_with(
        cluster.cell(),
        "intervals: {discovery: 200ms}\n",
        |command| {
            command.stderr(std::fs::File::create(&log).unwrap());
        },
    );
    followed(&cluster, &exporter);
    cluster.stop(1).unwrap();
    wait_for("the end to be reported", Duration::from_secs(20), || {
        exporter
            .metrics()
            .get("broker_state{broker=\"1\",state=\"ended\"}")
            == Some(1.0)
    });
    cluster.start_again(1).unwrap();
    // Its first dump comes before its threads do, the next 15 s later.
    wait_for("progress again", Duration::from_secs(40), || {
        exporter.metrics().success(1, "progress") == Some(true)
    });
    let log = std::fs::read_to_string(log).unwrap();
    let unnamed: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("reason=\"unnamed\""))
        .collect();
    assert!(unnamed.is_empty(), "{unnamed:#?}");
    assert_eq!(log.matches("found a broker").count(), 2, "{log}");
}

/// One full garbage collection follows the other, as with a full heap: nothing hangs, and everything is late.
#[test]
fn a_jvm_that_pauses_most_of_the_time_is_gray() {
    let cluster = Cluster::start(ClusterOptions {
        brokers: vec![1],
        heap: "700m".into(),
        ..ClusterOptions::new("4.3.0")
    })
    .unwrap();
    let exporter = Exporter::start(cluster.cell());
    followed(&cluster, &exporter);
    harm(&cluster, 1, "fill:150");
    let mut metrics = exporter.metrics();
    wait_for("the pauses to be reported", Duration::from_secs(20), || {
        metrics = exporter.metrics();
        metrics.finding(1, "jvm_paused", "critical") == Some(1.0)
            && metrics.state(1, "gray") == Some(1.0)
    });
    let others: Vec<String> = metrics
        .active_findings()
        .into_iter()
        .filter(|name| !["jvm_paused", "api_unresponsive"].contains(&name.as_str()))
        .collect();
    assert!(others.is_empty(), "{others:?}");
    let page = exporter.page();
    assert!(
        page.contains("Broker 1 is alive but its JVM pauses most of the time since "),
        "{page}"
    );
    wait_for("the end", Duration::from_secs(60), || {
        exporter.metrics().state(1, "healthy") == Some(1.0)
    });
}
