//! Listeners of a real broker that speak TLS or demand more, and an exporter that nobody gave a password.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lab::versions::Mode;
use lab::{Certificate, Cluster, ClusterOptions, Listener, Security};
use support::versions::{FAST_INTERVALS, fast_exporter};
use support::{Exporter, Metrics, byteman, wait_for, wait_until_none};

const TIME: Duration = Duration::from_secs(60);

fn start(mode: Mode, listeners: Vec<Listener>, jvm_options: Vec<String>) -> Cluster {
    let cluster = Cluster::start(ClusterOptions {
        brokers: vec![1],
        mode: Some(mode),
        listeners,
        jvm_options,
        ..ClusterOptions::new("3.9.1")
    });
    let cluster = cluster.unwrap();
    cluster.create_topic("orders", 6, 1).unwrap();
    cluster
}

fn probe(metrics: &Metrics, path: &str) -> Option<f64> {
    metrics.get(&format!("probe_success{{broker=\"1\",path=\"{path}\"}}"))
}

fn listener(metrics: &Metrics, name: &str) -> Option<f64> {
    metrics.get(&format!(
        "listener_probe_success{{broker=\"1\",listener=\"{name}\"}}"
    ))
}

/// Waits until so many rounds were made: each takes another time.
fn rounds(exporter: &Exporter, path: &str, count: usize) {
    let series = format!("probe_duration_seconds{{broker=\"1\",path=\"{path}\"}}");
    let mut seen = BTreeSet::new();
    wait_for("rounds", TIME, || {
        seen.extend(exporter.metrics().get(&series).map(f64::to_bits));
        seen.len() >= count
    });
}

/// What the broker logs of connections that it takes for failed logins or mistakes of its own.
fn complaints(cluster: &Cluster) -> Vec<String> {
    let log = cluster.broker(1).unwrap().log().unwrap();
    let complains =
        |line: &&str| line.contains("Failed authentication") || line.contains("Unexpected error");
    log.lines().filter(complains).map(str::to_owned).collect()
}

#[test]
fn each_listener_is_asked_for_as_much_as_it_answers_to_everybody() {
    let cluster = start(
        Mode::KraftCombined,
        vec![
            Listener::new(Security::Mtls).named("INTERNAL"),
            Listener::new(Security::Ssl)
                .named("CLIENTS")
                .showing(Certificate::Ends(10)),
            Listener::new(Security::SaslPlaintext),
            Listener::new(Security::SaslSsl),
        ],
        vec![byteman("hanging-listener.btm")],
    );
    let exporter = fast_exporter(cluster.cell());
    let names = ["INTERNAL", "CLIENTS", "SASL_PLAINTEXT", "SASL_SSL"];
    wait_until_none("every listener to answer", TIME, || {
        let metrics = exporter.metrics();
        let paths = ["api", "metadata"].map(|path| (path, probe(&metrics, path)));
        let listeners = names.map(|name| (name, listener(&metrics, name)));
        let all = paths.into_iter().chain(listeners);
        all.filter(|(_, success)| *success != Some(1.0)).collect()
    });
    rounds(&exporter, "api", 10);
    let metrics = exporter.metrics();
    // INTERNAL demands a certificate, so CLIENTS is asked for the rest.
    assert_eq!(probe(&metrics, "network"), None);
    assert_eq!(metrics.success(1, "cluster"), Some(true));
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    for (name, days) in [("INTERNAL", 30.0), ("CLIENTS", 10.0), ("SASL_SSL", 30.0)] {
        let series = "certificate_expiry_timestamp_seconds";
        let series = format!("{series}{{broker=\"1\",listener=\"{name}\"}}");
        let left = metrics.get(&series).unwrap() - seconds.as_secs_f64();
        assert!((left - days * 86400.0).abs() < 300.0, "{name}: {left}");
    }
    assert_eq!(
        metrics.active_findings(),
        ["certificate_expiry".to_owned()].into()
    );
    // The first handshake with INTERNAL showed that the certificate is required.
    let complaints = complaints(&cluster);
    assert_eq!(complaints.len(), 1, "{complaints:#?}");

    let hang = cluster.cell().host_path("/tmp/hang".as_ref());
    fs::write(&hang, "").unwrap();
    wait_for("the listener that hangs to be found", TIME, || {
        exporter
            .metrics()
            .active_findings()
            .contains("listener_unresponsive")
    });
    let metrics = exporter.metrics();
    let answers = names.map(|name| listener(&metrics, name));
    assert_eq!(answers, [Some(1.0), Some(1.0), Some(1.0), Some(0.0)]);
    assert!(
        !metrics.active_findings().contains("api_unresponsive"),
        "the others answer"
    );
    assert_eq!(metrics.state(1, "gray"), Some(0.0));
}

#[test]
fn a_broker_that_demands_credentials_is_known_as_far_as_it_lets_anybody_come() {
    let sasl = [Security::SaslPlaintext, Security::SaslSsl];
    without_credentials(Mode::KraftCombined, sasl, |metrics| {
        assert_eq!(metrics.of("leader_partitions", 1), Some(6.0));
        assert_eq!(metrics.of("under_min_isr_partitions", 1), Some(0.0));
    });
}

/// There is no metadata log, and ZooKeeper demands no login.
#[test]
fn with_zookeeper_the_counts_are_unknown_and_the_registration_is_known() {
    let sasl = [Security::SaslSsl, Security::SaslPlaintext];
    without_credentials(Mode::ZooKeeper, sasl, |metrics| {
        for counts in [
            "leader_partitions",
            "under_replicated_partitions",
            "under_min_isr_partitions",
        ] {
            assert_eq!(metrics.of(counts, 1), None, "{counts}");
        }
        assert_eq!(metrics.of("registered", 1), Some(1.0));
        assert_eq!(metrics.of("controller", 1), Some(1.0));
    });
}

/// With both listeners that demand a login, of which the first is that of the brokers, and with the one that demands a
/// certificate.
fn without_credentials(mode: Mode, sasl: [Security; 2], counts: impl Fn(&Metrics)) {
    for securities in [&sasl[..], &[Security::Mtls]] {
        let listeners = securities.iter().map(|one| Listener::new(*one));
        let cluster = start(mode, listeners.collect(), Vec::new());
        let log = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let stderr = log.reopen().unwrap();
        let exporter = Exporter::start_with(cluster.cell(), FAST_INTERVALS, |command| {
            command.stderr(stderr);
        });
        wait_for("the network thread to answer", TIME, || {
            probe(&exporter.metrics(), "network") == Some(1.0)
        });
        rounds(&exporter, "network", 10);
        let metrics = exporter.metrics();
        assert_eq!(probe(&metrics, "api"), None);
        assert_eq!(probe(&metrics, "metadata"), None);
        assert_eq!(metrics.success(1, "cluster"), None, "nobody configured it");
        assert_eq!(metrics.active_findings(), BTreeSet::new(), "{securities:?}");
        assert_eq!(metrics.state(1, "healthy"), Some(1.0));
        counts(&metrics);
        if securities == sasl {
            for name in ["SASL_PLAINTEXT", "SASL_SSL"] {
                assert_eq!(listener(&metrics, name), Some(1.0), "{name}");
            }
        }
        let page = exporter.page();
        assert!(page.contains("more needs credentials"), "{page}");
        assert!(page.contains("certificate not verified"), "{page}");
        let log = fs::read_to_string(log.path()).unwrap();
        let said = log
            .lines()
            .filter(|line| line.contains("needs_credentials"));
        assert_eq!(said.count(), 1, "{log}");
        let failed = complaints(&cluster).len();
        let expected = usize::from(securities == [Security::Mtls]);
        assert_eq!(failed, expected, "{securities:?}");
    }
}
