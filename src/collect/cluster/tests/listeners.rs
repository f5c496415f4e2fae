//! The listeners of one broker.

use super::*;
use crate::collect::frame::Stamp;
use crate::model::Moment;

fn listener_of(name: &str, protocol: SecurityProtocol, broker: &FakeBroker) -> Listener {
    let (host, port) = broker.address.split_once(':').unwrap();
    Listener {
        name: name.into(),
        protocol: Some(protocol),
        host: Some(host.into()),
        port: port.parse().unwrap(),
        controller: false,
        advertised: None,
    }
}

fn asking(listeners: Vec<Listener>) -> ClusterClient {
    let broker = Broker {
        listeners,
        // The test's own user may listen at any port.
        owner: Some(rustix::process::geteuid().as_raw()),
        ..broker(Some(2), &[])
    };
    ClusterClient {
        timing: FAST,
        ..ClusterClient::new(Arc::new(broker), None, None, OwnConnections::default())
    }
}

async fn with_partitions() -> FakeBroker {
    let body = response(&peers(&[2]), &[partition(0, 2, "2", "2")]);
    FakeBroker::with_metadata(move |_| Answer::Body(body.clone())).await
}

fn successes(report: &ProbeReport) -> Vec<(&str, bool, bool)> {
    let of = report.listeners.iter();
    of.map(|one| (one.listener.as_str(), one.by_handler, one.probe.success()))
        .collect()
}

#[tokio::test]
async fn one_listener_that_hangs_is_seen_beside_those_that_answer_and_keeps_one_connection() {
    let own = with_partitions().await;
    let silent = FakeBroker::start(|_| Answer::Silence).await;
    let login = FakeBroker::with_metadata(|_| Answer::Close).await;
    let mut client = asking(vec![
        listener_of("CLIENTS", SecurityProtocol::Plaintext, &silent),
        listener_of("SASL", SecurityProtocol::SaslPlaintext, &login),
        listener_of("INTERNAL", SecurityProtocol::Plaintext, &own),
    ]);
    client.listener = Some("INTERNAL".into());
    for _ in 0..3 {
        let (report, counts) = client.probe().await.unwrap();
        assert_eq!(counts.unwrap().leader, 1);
        assert!(report.api.as_ref().unwrap().success() && report.network.is_none());
        let expected = [
            ("INTERNAL", true, true),
            ("CLIENTS", true, false),
            ("SASL", false, true),
        ];
        assert_eq!(successes(&report), expected);
    }
    assert_eq!(silent.asked().len(), 1, "one unanswered request");
    let connections = |broker: &FakeBroker| {
        let asked = broker.asked().into_iter();
        asked
            .map(|asked| (asked.connection, asked.api))
            .collect::<Vec<_>>()
    };
    assert_eq!(connections(&login), [(0, 18), (1, 18), (2, 18)]);
    assert!(own.asked().iter().all(|asked| asked.connection == 0));
}

#[tokio::test]
async fn a_single_plain_listener_is_asked_as_ever() {
    let own = with_partitions().await;
    let mut client = asking(vec![listener_of(
        "PLAINTEXT",
        SecurityProtocol::Plaintext,
        &own,
    )]);
    let (report, _) = client.probe().await.unwrap();
    assert_eq!(report.listeners, []);
    let apis: Vec<i16> = own.asked().iter().map(|asked| asked.api).collect();
    assert_eq!(apis, [18, 3]);
}

/// What nobody configured is unknown, and no failure of the collector.
#[tokio::test]
async fn a_login_that_nobody_configured_leaves_the_collector_without_a_result() {
    let login = FakeBroker::with_metadata(|_| Answer::Close).await;
    let mut client = asking(vec![listener_of(
        "SASL",
        SecurityProtocol::SaslPlaintext,
        &login,
    )]);
    let (report, counts) = client.probe().await.unwrap();
    let failure = counts.unwrap_err();
    assert_eq!(failure.reason, Reason::NeedsCredentials);
    assert!(report.api.is_none() && report.metadata.is_none());
    assert!(report.network.as_ref().unwrap().success());
    let mut snapshot = BrokerSnapshot::default();
    let stamp = Stamp {
        at: Moment(1),
        took: Duration::from_millis(5),
        interval: Duration::from_secs(5),
    };
    Cluster::store(&mut snapshot, Ok(Update::Probes(Box::new(report))), stamp);
    Cluster::store(&mut snapshot, Ok(Update::Counts(Err(failure))), stamp);
    let status = &snapshot.collectors[&CollectorName::Cluster];
    assert_eq!((status.success, status.interval), (None, stamp.interval));
    assert!(status.error.as_ref().unwrap().contains("`sasl`"));
    // A broker that is silent there is one that fails.
    let silent = Failure::new(Reason::Timeout, "silent");
    Cluster::store(&mut snapshot, Ok(Update::Counts(Err(silent))), stamp);
    assert_eq!(
        snapshot.collectors[&CollectorName::Cluster].success,
        Some(false)
    );
}
