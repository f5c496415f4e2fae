//! Real brokers of the incident's version: what other tools say, and what the exporter says.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use lab::{Cluster, Form};
use support::tools::{Readings, connections_by_ss, handles_by_folder, isr_by_kafka_topics};
use support::{Exporter, trouble, wait_for};

/// Tool, exporter, tool: wherever both readings of the tool agree, the exporter's must equal them. The exporter's
/// reading is taken once its age says that it was read between the two. Ends when every series was compared.
#[track_caller]
fn agree(exporter: &Exporter, reading: &str, brokers: &[i32], tool: impl Fn() -> Readings) {
    let begun = Instant::now();
    let mut open: Option<Vec<String>> = None;
    while open.as_ref().is_none_or(|open| !open.is_empty()) {
        assert!(begun.elapsed() < Duration::from_secs(90), "not compared within 90 s: {open:?}");
        let before_begun = Instant::now();
        let before = tool();
        let read_since = Instant::now();
        let mut metrics = exporter.metrics();
        wait_for(&format!("new readings of {reading}"), Duration::from_secs(60), || {
            metrics = exporter.metrics();
            let since = read_since.elapsed().as_secs_f64();
            let age = |id: &i32| metrics.get(&format!("reading_age_seconds{{broker=\"{id}\",reading=\"{reading}\"}}"));
            brokers.iter().all(|id| age(id).is_some_and(|age| age < since))
        });
        let after = tool();
        let open = open.get_or_insert_with(|| before.keys().cloned().collect());
        let stable = |series: &String| before.get(series) == after.get(series);
        for series in before.keys().filter(|series| stable(series)) {
            let ours = metrics.get(series);
            assert_eq!(ours, Some(before[series] as f64), "{series}, compared over {:?}", before_begun.elapsed());
        }
        open.retain(|series| !stable(series));
    }
}

/// All that the tools tell, for the brokers that run.
fn agree_on_everything(cluster: &Cluster, exporter: &Exporter) {
    let running: Vec<i32> = cluster.brokers().filter(|b| b.pid().is_ok()).map(|b| b.id()).collect();
    agree(exporter, "handles", &running, || handles_by_folder(cluster));
    let every_pulse = |series: &str| series.contains("\"server\"") && !series.contains("\"established\"");
    for (reading, pulse) in [("sockets", true), ("connections", false)] {
        agree(exporter, reading, &running, || {
            let all = connections_by_ss(cluster, exporter);
            all.into_iter().filter(|(series, _)| every_pulse(series) == pulse).collect()
        });
    }
    agree(exporter, "cluster", &running, || isr_by_kafka_topics(cluster));
}

#[test]
fn other_tools_agree_and_the_deadlock_is_seen() {
    let mut cluster = trouble::cluster();
    let exporter = Exporter::start(cluster.cell());
    trouble::all_well(&exporter);
    let info = exporter.scrape();
    let info =
        info.lines().find(|line| line.starts_with("kafka_vitals_broker_info{broker=\"217\"")).unwrap().to_owned();
    assert!(info.contains("kafka_version=\"0.10.1.0\"") && info.contains("mode=\"zookeeper\""), "{info}");
    assert!(info.contains("roles=\"broker\"") && !info.contains("java_version=\"\""), "{info}");
    agree_on_everything(&cluster, &exporter);

    cluster.stop(218).unwrap();
    wait_for("the stopped broker to be told", Duration::from_secs(15), || {
        let metrics = exporter.metrics();
        metrics.get("collector_success{broker=\"218\",collector=\"process\"}") == Some(0.0)
            && metrics.of("open_file_handles", 218).is_none()
            && metrics.of("deadlock_detected", 218).is_none()
    });
    agree_on_everything(&cluster, &exporter);
    cluster.start_again(218).unwrap();
    cluster.wait_whole(Duration::from_secs(60)).unwrap();

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
    let ended = exporter.process.wait_timeout(Duration::from_secs(5)).unwrap().expect("SIGTERM ends it");
    assert!(ended.success() && begun.elapsed() < Duration::from_secs(1), "{ended}, {:?}", begun.elapsed());
}

#[test]
fn promtool_finds_nothing_wrong() {
    use std::io::Write as _;
    let cluster = trouble::cluster();
    let exporter = Exporter::start(cluster.cell());
    wait_for("all collectors", Duration::from_secs(15), || {
        let metrics = exporter.metrics();
        ["process", "handles", "sockets", "connections", "cluster", "threads"].iter().all(|collector| {
            metrics.get(&format!("collector_success{{broker=\"219\",collector=\"{collector}\"}}")) == Some(1.0)
        })
    });
    let mut promtool = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("promtool is on the PATH: run through `make test`, which fetches it");
    promtool.stdin.take().unwrap().write_all(exporter.scrape().as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}
