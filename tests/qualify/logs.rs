//! What the log of a real broker says of a lost session and of a refused change of an ISR: `make qualify`.

use std::time::Duration;

use lab::{Cluster, ClusterOptions};

use crate::support::verdict::followed;
use crate::support::{Exporter, wait_for};

/// From the line until it is counted.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A leader is stopped for longer than its session lasts. When it continues, others lead its partitions, and it tries to
/// shrink their ISRs, as its followers have not fetched from it.
fn a_lost_session_is_counted(version: &str) {
    let properties = [
        ("zookeeper.session.timeout.ms", "4000"),
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
    cluster
        .wait_fully_replicated(Duration::from_secs(60))
        .unwrap();
    let exporter = Exporter::start(cluster.cell());
    followed(&cluster, &exporter);
    let id = cluster.brokers().next().unwrap().id();
    cluster.pause(id).unwrap();
    std::thread::sleep(Duration::from_secs(15));
    cluster.resume(id).unwrap();
    let log = || cluster.broker(id).unwrap().log().unwrap();
    let lines = |text: &str| log().lines().filter(|line| line.contains(text)).count() as f64;
    let expired = || lines("state changed (Expired)") + lines("Session expired");
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

tests! { a_lost_session_is_counted:
    a_lost_session_of_the_incident_s_version_is_counted("0.10.1.1");
    a_lost_session_of_2_1_is_counted("2.1.0");
}
