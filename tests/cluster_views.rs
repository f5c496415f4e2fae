//! What `/metrics` and the page say of a KRaft cluster by the metadata log: brokers that are missing, partitions that refuse
//! writes, a broker that runs and is fenced, and replicas of the log that stand still.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use lab::cli_tools::described_partitions;
use lab::versions::Mode;
use lab::{Cluster, ClusterOptions};
use support::{Exporter, step, wait_for};

const PATIENCE: Duration = Duration::from_secs(120);

fn finding(exporter: &Exporter, broker: i32, finding: &str) -> Option<f64> {
    exporter.metrics().finding(broker, finding, "critical")
}

fn waits_for(exporter: &Exporter, series: &str, value: f64) {
    wait_for(&format!("{series} {value}"), PATIENCE, || {
        exporter.metrics().get(series) == Some(value)
    });
}

#[test]
fn missing_brokers_refused_writes_and_a_log_that_stands_still() {
    let mut cluster = Cluster::start(ClusterOptions {
        mode: Some(Mode::KraftDedicated),
        ..ClusterOptions::new("3.9.1")
    })
    .unwrap();
    let exporter = Exporter::start(cluster.cell());
    let mut nodes = cluster.nodes().iter();
    let controller = nodes.find(|node| !node.is_broker()).unwrap().id();
    let min_isr = ["min.insync.replicas=2"];
    cluster.create_topic_with("orders", 6, 3, &min_isr).unwrap();
    step("all is well", || {
        for node in [1, 2, 3, controller] {
            let registered = format!("cluster_brokers{{broker=\"{node}\",state=\"registered\"}}");
            waits_for(&exporter, &registered, 3.0);
        }
        let metrics = exporter.metrics();
        assert_eq!(metrics.of("under_min_isr_partitions", 1), Some(0.0));
        assert_eq!(metrics.of("leader_partitions", controller), None);
        assert!(metrics.of("metadata_log_age_seconds", controller).unwrap() < 5.0);
        assert!(exporter.page().contains("source: metadata log"));
        let of_cluster = |id: i32| {
            let start = format!("broker_info{{broker=\"{id}\"");
            let info = metrics.0.keys().find(|series| series.starts_with(&start));
            let (_, id) = info.unwrap().split_once("cluster_id=\"").unwrap();
            id.split_once('"').unwrap().0.to_owned()
        };
        assert_eq!(of_cluster(1).len(), 22, "{}", of_cluster(1));
        assert_eq!(of_cluster(1), of_cluster(controller));
    });
    step("a broker is missing, as every other node sees it", || {
        cluster.kill(3).unwrap();
        for node in [1, 2, controller] {
            let series =
                format!("cluster_broker_state{{broker=\"{node}\",id=\"3\",state=\"fenced\"}}");
            waits_for(&exporter, &series, 1.0);
        }
        assert!(exporter.page().contains("fenced: 3"));
    });
    step(
        "partitions refuse writes, as many as kafka-topics says",
        || {
            cluster.kill(2).unwrap();
            waits_for(
                &exporter,
                "cluster_brokers{broker=\"1\",state=\"fenced\"}",
                2.0,
            );
            let list = ["--describe", "--under-min-isr-partitions"];
            let said = cluster.topics(&list).unwrap();
            let led = described_partitions(&said).into_iter();
            let led = led.filter(|of| of.leader == Some(1)).count();
            assert!(led >= 6, "{said}");
            waits_for(
                &exporter,
                "under_min_isr_partitions{broker=\"1\"}",
                led as f64,
            );
            wait_for("the finding", PATIENCE, || {
                finding(&exporter, 1, "under_min_isr") == Some(1.0)
            });
            assert_eq!(finding(&exporter, controller, "under_min_isr"), None);
        },
    );
    step("the log stands still while the controller does", || {
        assert_eq!(finding(&exporter, 1, "metadata_stalled"), Some(0.0));
        cluster.pause(controller).unwrap();
        wait_for("the finding", PATIENCE, || {
            finding(&exporter, 1, "metadata_stalled") == Some(1.0)
        });
        let page = exporter.page();
        assert!(page.contains("while one is due every 5"), "{page}");
        cluster.resume(controller).unwrap();
        wait_for("its end", PATIENCE, || {
            finding(&exporter, 1, "metadata_stalled") == Some(0.0)
        });
    });
}

/// Its heartbeats come less often than the controller expects them: it is fenced again and again, and runs.
#[test]
fn a_broker_that_runs_and_is_fenced() {
    let cluster = Cluster::start(ClusterOptions {
        mode: Some(Mode::KraftDedicated),
        brokers: vec![1],
        properties: vec![
            ("broker.heartbeat.interval.ms".into(), "40000".into()),
            ("broker.session.timeout.ms".into(), "9000".into()),
        ],
        ..ClusterOptions::new("3.9.1")
    })
    .unwrap();
    let exporter = Exporter::start(cluster.cell());
    wait_for("the broker to be gray", 2 * PATIENCE, || {
        exporter.metrics().state(1, "gray") == Some(1.0)
    });
    assert_eq!(finding(&exporter, 1, "broker_fenced"), Some(1.0));
    let (status, why) = exporter.get("/brokers/1/live");
    assert_eq!(status, 200, "{why}");
    assert!(why.contains("fenced by the controller"), "{why}");
    let metrics = exporter.metrics();
    let answers = "probe_success{broker=\"1\",path=\"api\"}";
    assert_eq!(metrics.get(answers), Some(1.0));
}
