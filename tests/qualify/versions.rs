//! Three real brokers of every version and mode, all well, one stopped, one killed, one under SIGSTOP: the exporter and
//! other tools agree each time. `make qualify`.

use std::time::{Duration, Instant};

use crate::support::agree::agree_on_everything;
use crate::support::trouble::is_reported_by_others;
use crate::support::versions::{Case, test_each_version};
use crate::support::{Exporter, wait_for};
use lab::Cluster;
use lab::jars::java_of;
use lab::versions::Mode;

const SICK: i32 = 2;

fn tools_agree_in_trouble(case: &Case) {
    let start = Instant::now();
    let (mut cluster, exporter) = case.start(&[1, SICK, 3]);
    agree_on_everything(&cluster, &exporter);
    let step = |name: &str| {
        println!(
            "{} {:?} {name}: agreed after {:.1?}",
            case.version,
            case.mode,
            start.elapsed()
        )
    };
    step("healthy");

    cluster.stop(SICK).unwrap();
    it_is_reported_as_down(&cluster, &exporter);
    step("one stopped");
    come_back(&mut cluster, &exporter);

    cluster.kill(SICK).unwrap();
    it_is_reported_as_down(&cluster, &exporter);
    step("one killed");
    come_back(&mut cluster, &exporter);

    cluster.pause(SICK).unwrap();
    wait_without(&cluster);
    wait_for(
        "the paused broker to be reported",
        Duration::from_secs(60),
        || {
            let success = |collector| exporter.metrics().success(SICK, collector);
            exporter.page().contains("is stopped by a signal")
                && is_reported_by_others(&exporter)
                && success("threads") == Some(false)
                && success("cluster") == Some(true)
        },
    );
    agree_on_everything(&cluster, &exporter);
    step("one paused");
    cluster.resume(SICK).unwrap();
    cluster
        .wait_fully_replicated(Duration::from_secs(120))
        .unwrap();
    all_well(&exporter);
    agree_on_everything(&cluster, &exporter);
    step("all well again");
}

/// Waits until the brokers that answer and `kafka-topics` have excluded the sick one: a shrunken ISR can be reported up to
/// a minute late.
fn wait_without(cluster: &Cluster) {
    cluster
        .wait_until_excluded(SICK, Duration::from_secs(120))
        .unwrap();
}

fn it_is_reported_as_down(cluster: &Cluster, exporter: &Exporter) {
    wait_without(cluster);
    wait_for("its end to be reported", Duration::from_secs(15), || {
        let metrics = exporter.metrics();
        metrics.state(SICK, "ended") == Some(1.0)
            && [
                "open_file_handles",
                "deadlock_detected",
                "leader_partitions",
            ]
            .iter()
            .all(|series| metrics.of(series, SICK).is_none())
    });
    agree_on_everything(cluster, exporter);
    wait_for(
        "under-replicated partitions",
        Duration::from_secs(30),
        || {
            let metrics = exporter.metrics();
            cluster
                .brokers()
                .filter_map(|broker| metrics.of("under_replicated_partitions", broker.id()))
                .sum::<f64>()
                > 0.0
        },
    );
}

fn come_back(cluster: &mut Cluster, exporter: &Exporter) {
    cluster.start_again(SICK).unwrap();
    cluster
        .wait_fully_replicated(Duration::from_secs(120))
        .unwrap();
    all_well(exporter);
}

fn all_well(exporter: &Exporter) {
    wait_for("all collectors to succeed", Duration::from_secs(60), || {
        let metrics = exporter.metrics();
        let mut successes = metrics
            .0
            .iter()
            .filter(|(series, _)| series.starts_with("collector_success"));
        successes.all(|(_, success)| *success == 1.0)
            && metrics.of("deadlock_detected", SICK) == Some(0.0)
    });
}

test_each_version!(tools_agree_in_trouble);

#[test]
fn kafka_0_10_1_0_on_jdk_8_as_in_the_incident() {
    // JDK 8 reports its version as 1.8.0.
    let Some(java) = java_of(1..2) else {
        return lab::skip("kafka_0_10_1_0_on_jdk_8", "no JDK 8 found");
    };
    tools_agree_in_trouble(&Case {
        java: Some(java),
        ..Case::new("0.10.1.0", Mode::ZooKeeper)
    });
}

#[test]
fn kafka_0_10_1_0_on_jdk_11() {
    let java = java_of(11..12).expect("a JDK 11: run through `make qualify`, which fetches it");
    tools_agree_in_trouble(&Case {
        java: Some(java),
        ..Case::new("0.10.1.0", Mode::ZooKeeper)
    });
}

#[test]
fn kafka_4_3_0_on_a_newer_jdk() {
    let java =
        java_of(24..).expect("a JDK 24 or later: run through `make qualify`, which fetches it");
    tools_agree_in_trouble(&Case {
        java: Some(java),
        ..Case::new("4.3.0", Mode::KraftCombined)
    });
}
