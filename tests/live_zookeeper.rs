//! What the exporter reads from ZooKeeper beside real brokers, against ZooKeeper's own shell.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use lab::cli_tools::described_partitions;
use lab::client::Partition;
use lab::{Cluster, ClusterOptions, Signal};
use support::versions::fast_exporter;
use support::{Exporter, Metrics, wait_for};

const ROOT: &str = "/lab/kafka";
const BROKERS: [i32; 3] = [217, 218, 219];

/// The ids that `ls` prints: `[217, 218, 219]`.
fn listed(cluster: &Cluster) -> Vec<i32> {
    let printed = cluster
        .zookeeper_shell(&["ls", &format!("{ROOT}/brokers/ids")])
        .unwrap();
    let list = printed
        .lines()
        .rev()
        .find(|line| line.starts_with('['))
        .unwrap();
    let ids = list.trim_matches(['[', ']']).split(',').map(str::trim);
    let mut ids: Vec<i32> = ids
        .filter(|id| !id.is_empty())
        .map(|id| id.parse().unwrap())
        .collect();
    ids.sort_unstable();
    ids
}

/// The id in what `get` prints: `{"version":1,"brokerid":217,"timestamp":"1480495800000"}`.
fn controller(cluster: &Cluster) -> i32 {
    let printed = cluster
        .zookeeper_shell(&["get", &format!("{ROOT}/controller")])
        .unwrap();
    let json = printed.lines().find(|line| line.starts_with('{')).unwrap();
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    i32::try_from(json["brokerid"].as_i64().unwrap()).unwrap()
}

fn series(metrics: &Metrics, name: &str) -> [Option<f64>; 3] {
    BROKERS.map(|id| metrics.of(name, id))
}

/// Connections to ZooKeeper that belong to the exporter, by `ss`.
fn sessions(cluster: &Cluster, exporter: &Exporter) -> usize {
    let (_, port) = cluster.zookeeper().unwrap();
    let mut ss = std::process::Command::new("ss");
    ss.args([
        "--no-header",
        "--tcp",
        "--numeric",
        "--processes",
        "state",
        "established",
    ])
    .args(["dport", "=", &format!(":{port}")]);
    let output = cluster
        .cell()
        .run_tool(ss, Duration::from_secs(10))
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let pid = format!("pid={},", exporter.process.cell_pid().unwrap());
    text.lines().filter(|line| line.contains(&pid)).count()
}

#[test]
fn registrations_equal_those_that_the_shell_lists() {
    let mut cluster = Cluster::start(ClusterOptions {
        zookeeper_root: ROOT.into(),
        // Longer than the silence of a broker takes to be found.
        properties: vec![("zookeeper.session.timeout.ms".into(), "30000".into())],
        ..ClusterOptions::incident()
    })
    .unwrap();
    cluster.create_topic("orders", 6, 3).unwrap();
    let strict = ["min.insync.replicas=3"];
    cluster.create_topic_with("strict", 6, 3, &strict).unwrap();
    let exporter = fast_exporter(cluster.cell());
    let well = |metrics: &Metrics| series(metrics, "registered") == [Some(1.0); 3];
    wait_for(
        "all brokers to be registered",
        Duration::from_secs(30),
        || {
            let metrics = exporter.metrics();
            well(&metrics)
                && BROKERS
                    .iter()
                    .all(|id| metrics.state(*id, "healthy") == Some(1.0))
        },
    );
    assert_eq!(
        series(&exporter.metrics(), "under_min_isr_partitions"),
        [Some(0.0); 3]
    );
    assert_eq!(listed(&cluster), BROKERS);
    let active = controller(&cluster);
    let expected = BROKERS.map(|id| Some(f64::from(id == active)));
    assert_eq!(series(&exporter.metrics(), "controller"), expected);
    assert_eq!(
        sessions(&cluster, &exporter),
        1,
        "the brokers of a host share one"
    );

    a_silent_broker_stays_registered(&cluster, &exporter);
    a_deleted_registration_is_found(&mut cluster, &exporter);
    a_silent_zookeeper_makes_no_broker_gray(&cluster, &exporter);
}

/// Until its session ends, a stopped broker is one that ZooKeeper lists and that answers nothing.
fn a_silent_broker_stays_registered(cluster: &Cluster, exporter: &Exporter) {
    let id = 219;
    let found = || {
        exporter
            .metrics()
            .finding(id, "registered_but_dead", "warning")
    };
    assert_eq!(found(), Some(0.0));
    cluster.pause(id).unwrap();
    wait_for("the silent broker", Duration::from_secs(20), || {
        found() == Some(1.0)
    });
    assert_eq!(exporter.metrics().of("registered", id), Some(1.0));
    assert_eq!(listed(cluster), BROKERS);
    cluster.resume(id).unwrap();
    wait_for(
        "the broker to answer again",
        Duration::from_secs(60),
        || found() == Some(0.0) && exporter.metrics().state(id, "healthy") == Some(1.0),
    );
}

/// Without its node a broker is down for the controller, and does not notice. Not that of the controller, which would be
/// without one until the session of the killed process ends.
fn a_deleted_registration_is_found(cluster: &mut Cluster, exporter: &Exporter) {
    let active = controller(cluster);
    let id = BROKERS.into_iter().find(|id| *id != active).unwrap();
    let others: Vec<i32> = BROKERS.into_iter().filter(|other| *other != id).collect();
    cluster
        .zookeeper_shell(&["delete", &format!("{ROOT}/brokers/ids/{id}")])
        .unwrap();
    assert_eq!(listed(cluster), others);
    wait_for(
        "the registration to be missed",
        Duration::from_secs(10),
        || {
            let expected = BROKERS.map(|broker| Some(f64::from(broker != id)));
            series(&exporter.metrics(), "registered") == expected
        },
    );
    wait_for("the finding", Duration::from_secs(90), || {
        exporter.metrics().finding(id, "not_registered", "critical") == Some(1.0)
    });
    let metrics = exporter.metrics();
    for other in BROKERS {
        let wrong = f64::from(other == id);
        let found = metrics.finding(other, "not_registered", "critical");
        assert_eq!(found, Some(wrong), "{other}");
        assert_eq!(metrics.state(other, "gray"), Some(wrong), "{other}");
        assert_eq!(
            metrics.finding(other, "registered_but_dead", "warning"),
            Some(0.0)
        );
    }
    let page = exporter.page();
    let sentence = format!("Broker {id} answers, but has not been registered in ZooKeeper since ");
    assert!(page.contains(&sentence), "{page}");
    cluster.kill(id).unwrap();
    wait_for(
        "equal counts of strict partitions",
        Duration::from_secs(60),
        || {
            // `strict` demands all three replicas, `orders` one.
            let described = described_partitions(&cluster.topics_describe().unwrap());
            let short = |one: &&Partition| one.topic == "strict" && one.isr.len() < 3;
            let of = |id| {
                described
                    .iter()
                    .filter(short)
                    .filter(|one| one.leader == Some(id))
                    .count()
            };
            let metrics = exporter.metrics();
            let equal =
                |id: &i32| metrics.of("under_min_isr_partitions", *id) == Some(of(*id) as f64);
            others.iter().map(|id| of(*id)).sum::<usize>() == 6 && others.iter().all(equal)
        },
    );
    cluster.start_again(id).unwrap();
    assert_eq!(listed(cluster), BROKERS);
    // With all replicas in: what a broker of 0.10.1 writes to ZooKeeper while that is silent may be lost for good.
    wait_for(
        "the broker to be registered and in every ISR again",
        Duration::from_secs(60),
        || {
            let metrics = exporter.metrics();
            series(&metrics, "registered") == [Some(1.0); 3]
                && series(&metrics, "under_replicated_partitions") == [Some(0.0); 3]
                && BROKERS
                    .iter()
                    .all(|id| metrics.state(*id, "healthy") == Some(1.0))
        },
    );
}

fn a_silent_zookeeper_makes_no_broker_gray(cluster: &Cluster, exporter: &Exporter) {
    let (zookeeper, _) = cluster.zookeeper().unwrap();
    zookeeper.signal(Signal::STOP).unwrap();
    wait_for(
        "the registrations to be unknown",
        Duration::from_secs(30),
        || {
            let metrics = exporter.metrics();
            series(&metrics, "registered") == [None; 3]
                && BROKERS
                    .iter()
                    .all(|id| metrics.success(*id, "zookeeper") == Some(false))
        },
    );
    wait_for("ZooKeeper to be named", Duration::from_secs(30), || {
        let findings = exporter.metrics().active_findings();
        findings.contains("zookeeper_unreachable")
    });
    let metrics = exporter.metrics();
    for id in BROKERS {
        assert_eq!(metrics.state(id, "gray"), Some(0.0), "{id}");
    }
    // A server that is silent is left, and another one is not there.
    assert!(sessions(cluster, exporter) <= 1);
    zookeeper.signal(Signal::CONT).unwrap();
    wait_for(
        "the registrations to be known again",
        Duration::from_secs(60),
        || {
            let metrics = exporter.metrics();
            let healthy = BROKERS.map(|id| metrics.state(id, "healthy"));
            series(&metrics, "registered") == [Some(1.0); 3] && healthy == [Some(1.0); 3]
        },
    );
}
