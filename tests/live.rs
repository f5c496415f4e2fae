//! Real brokers of the incident's version: what other tools say, and what the exporter says.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use lab::{Cluster, Form};
use support::agree::agree_on_everything;
use support::{Exporter, trouble, wait_for};

#[test]
fn other_tools_agree_and_the_deadlock_is_seen() {
    let mut cluster = trouble::cluster();
    let exporter = Exporter::start(cluster.cell());
    trouble::all_well(&exporter);
    let info = exporter.scrape();
    let info = info
        .lines()
        .find(|line| line.starts_with("kafka_vitals_broker_info{broker=\"217\""))
        .unwrap()
        .to_owned();
    assert!(
        info.contains("kafka_version=\"0.10.1.0\"") && info.contains("mode=\"zookeeper\""),
        "{info}"
    );
    assert!(
        info.contains("roles=\"broker\"") && !info.contains("java_version=\"\""),
        "{info}"
    );
    agree_on_everything(&cluster, &exporter);

    cluster.stop(218).unwrap();
    // ZooKeeper, which kafka-topics reads, and Metadata, which the exporter reads, can differ for a while.
    cluster
        .wait_until_excluded(218, Duration::from_secs(60))
        .unwrap();
    wait_for(
        "the stopped broker to be told",
        Duration::from_secs(15),
        || {
            let metrics = exporter.metrics();
            metrics.success(218, "process") == Some(false)
                && metrics.of("open_file_handles", 218).is_none()
                && metrics.of("deadlock_detected", 218).is_none()
        },
    );
    agree_on_everything(&cluster, &exporter);
    cluster.start_again(218).unwrap();
    cluster
        .wait_fully_replicated(Duration::from_secs(60))
        .unwrap();
    // Its new process is known before the deadlock's making stops it for a while.
    trouble::all_well(&exporter);

    trouble::make_deadlock(&cluster, &exporter, Form::Leave);
}

#[test]
fn scrapes_are_answered_whatever_the_brokers_do() {
    let mut cluster = trouble::cluster();
    let mut exporter = Exporter::start(cluster.cell());
    trouble::all_well(&exporter);
    trouble::scraped(
        &exporter,
        |_| {},
        || {
            trouble::pause_and_resume(&cluster, &exporter, 217);
            trouble::kill_and_start_again(&mut cluster, &exporter, 218);
            trouble::make_deadlock(&cluster, &exporter, Form::Expire);
        },
    );
    let begun = Instant::now();
    exporter.process.signal(lab::Signal::TERM).unwrap();
    let ended = exporter
        .process
        .wait_timeout(Duration::from_secs(5))
        .unwrap()
        .expect("SIGTERM ends it");
    assert!(
        ended.success() && begun.elapsed() < Duration::from_secs(1),
        "{ended}, {:?}",
        begun.elapsed()
    );
}

/// One of three healthy brokers seems silent, as the exporter asks a listener that nobody serves: it alone is looked at.
fn silence_calls_for_a_dump(cluster: &Cluster) {
    let silent = cluster
        .cell()
        .in_network(|| TcpListener::bind("127.0.0.1:0").unwrap())
        .unwrap();
    let address = silent.local_addr().unwrap();
    let config = format!(
        "rounds: {{thread_dump: 10m}}\nbrokers:\n  - {{match: {{id: 217}}, bootstrap: \"{address}\"}}\n"
    );
    let exporter = Exporter::start_with(cluster.cell(), &config, |_| {});
    wait_for(
        "a dump of the silent broker alone",
        Duration::from_secs(30),
        || {
            let metrics = exporter.metrics();
            let [silent, others @ ..] =
                trouble::BROKERS.map(|id| metrics.of("thread_dump_age_seconds", id));
            others.iter().all(|other| {
                silent
                    .zip(*other)
                    .is_some_and(|(silent, other)| silent + 3.0 < other)
            })
        },
    );
    assert_eq!(
        exporter
            .metrics()
            .get("probe_success{broker=\"217\",path=\"api\"}"),
        Some(0.0)
    );
}

#[test]
fn promtool_finds_nothing_wrong_and_silence_calls_for_a_dump() {
    use std::io::Write as _;
    let cluster = trouble::cluster();
    silence_calls_for_a_dump(&cluster);
    let exporter = Exporter::start(cluster.cell());
    wait_for("all collectors", Duration::from_secs(15), || {
        let metrics = exporter.metrics();
        let all = [
            "process",
            "handles",
            "sockets",
            "connections",
            "cluster",
            "probes",
            "log_dirs",
            "threads",
        ];
        all.iter()
            .all(|collector| metrics.success(219, collector) == Some(true))
    });
    let mut promtool = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("promtool is on the PATH: run through `make test`, which fetches it");
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(exporter.scrape().as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}
