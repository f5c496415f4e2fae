//! A cluster of TLS listeners about which nobody gave the exporter anything: what it exports must cause no alert.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use kafka_vitals::collect::cluster::{Cluster, Update};
use kafka_vitals::collect::frame;
use kafka_vitals::collect::snapshot_store::apply;
use kafka_vitals::expose::check::CheckPage;
use kafka_vitals::expose::{metrics, page};
use kafka_vitals::model::{
    AcceptQueue, Broker, BrokerSnapshot, ClusterCounts, ClusterSource, CollectorName,
    CollectorStatus, EvidenceStatus, Failure, MetadataLog, Mode, Moment, Probe, ProbeReport,
    ProcessKey, ProcessVitals, ProgressReport, Reading, Reason, Registration, Role, Snapshot,
    SocketPulse, ThreadReport,
};
use kafka_vitals::verdict::View;
use kafka_vitals::verdict::evaluate::Evaluator;

use super::tool;

const NOW: Moment = Moment(1_700_000_000_000);
const INTERVAL: Duration = Duration::from_secs(5);

fn known<T>(value: T) -> Reading<T> {
    Reading::Known {
        value,
        at: NOW,
        valid_for: 3 * INTERVAL,
    }
}

/// A broker of three that is well. Its network thread has answered, its log knows the cluster, and a request for Metadata
/// failed in this way.
fn view(id: i32, failed: Failure) -> View {
    let broker = Broker {
        id: Some(id),
        started: Some(NOW.minus(Duration::from_secs(86_400))),
        kafka_version: Some("3.9.1".into()),
        java_version: Some("17.0.15".into()),
        mode: Some(Mode::KRaft),
        roles: [Role::Broker].into(),
        cluster_id: Some("4L6g3nShT-eMCtK--X86sw".into()),
        owner: Some(1001),
        ..Broker::unknown(ProcessKey {
            pid: 100,
            start_ticks: 1,
        })
    };
    let process = broker.process;
    let mut broker = BrokerSnapshot::new(Arc::new(broker), id.to_string().into());
    broker.process = known(ProcessVitals {
        state: 'S',
        resident_bytes: 1 << 30,
        fd_limit_soft: Some(100_000),
        fd_limit_hard: Some(100_000),
    });
    broker.open_fds = known(300);
    broker.memory_maps = known(900);
    broker.sockets = known(SocketPulse::default());
    broker.accept_queues = known(vec![AcceptQueue {
        listener: "SSL".into(),
        length: 0,
        limit: Some(50),
    }]);
    broker.threads = known(ThreadReport::default());
    broker.progress = known(ProgressReport::default());
    let counts = ClusterCounts {
        source: ClusterSource::Log,
        leader: 10,
        partitions: 30,
        under_min_isr: Some(0),
        at_min_isr: Some(0),
        reassigning: Some(0),
        ..ClusterCounts::default()
    };
    broker.metadata_log = known(MetadataLog {
        counts: Some(counts),
        brokers: Arc::new([1, 2, 3].map(|id| (id, Registration::default())).into()),
        end_offset: 4711,
        arrived: NOW,
        written: NOW,
        pulse: Some(Duration::from_millis(500)),
    });
    let status = CollectorStatus {
        success: Some(true),
        interval: INTERVAL,
        at: NOW,
        ..CollectorStatus::default()
    };
    for name in [
        CollectorName::Process,
        CollectorName::AcceptQueues,
        CollectorName::Sockets,
        CollectorName::MemoryMaps,
        CollectorName::MetadataLog,
        CollectorName::Threads,
        CollectorName::Progress,
    ] {
        broker.collectors.insert(name, status.clone());
    }
    let mut snapshot = Snapshot {
        at: NOW,
        brokers: vec![Arc::new(broker)],
        memory_map_limit: known(65_530),
        ..Snapshot::default()
    };
    snapshot.discovery = status;
    let report = ProbeReport {
        network: Some(Probe {
            duration: Duration::from_millis(3),
            error: None,
        }),
        ..ProbeReport::default()
    };
    for update in [
        Update::Probes(Box::new(report)),
        Update::Counts(Err(failed)),
    ] {
        let update = frame::update::<Cluster>(process, Ok(update), INTERVAL, Duration::ZERO);
        apply(&mut snapshot, update, NOW);
    }
    View::of(&mut Evaluator::default(), Arc::new(snapshot), NOW)
}

/// Promtool's test of an hour with the series of three such brokers, each with its exporter: no alert fires, or only that
/// one, but for the watchdog and for what is known of the version.
fn an_hour(reason: Reason, fires: Option<&str>) {
    let mut test = String::from(
        "rule_files: [kafka-vitals.rules.yml]\nevaluation_interval: 30s\ntests:\n  - interval: 30s\n    input_series:\n",
    );
    let mut add = |series: &str, value: &str| {
        let _ = writeln!(
            test,
            "      - series: '{series}'\n        values: '{value}x130'"
        );
    };
    for id in 1..=3 {
        let target = format!("job=\"kafka-vitals\",cluster=\"orders\",instance=\"k{id}:10052\"");
        add(&format!("up{{{target}}}"), "1");
        let text = metrics::render(&view(id, failed(reason)), &EvidenceStatus::default(), NOW);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let series = match series.split_once('{') {
                Some((name, labels)) => format!("{name}{{{target},{labels}"),
                None => format!("{series}{{{target}}}"),
            };
            add(&series, value);
        }
    }
    let expected = fires.map_or("[]".to_owned(), |name| {
        format!("[{{labels: '{{alertname=\"{name}\"}}', value: 3}}]")
    });
    let _ = writeln!(
        test,
        "    promql_expr_test:\n      - expr: count by (alertname) (max_over_time(ALERTS{{alertstate=\"firing\", \
         alertname!~\"KafkaVitals(Watchdog|KnownIssueExposed)\"}}[1h]))\n        eval_time: 1h\n        exp_samples: {expected}"
    );
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let rules = folder.path().join("kafka-vitals.rules.yml");
    std::fs::copy(super::RULES, rules).unwrap();
    let file = folder.path().join("test.yml");
    std::fs::write(&file, test).unwrap();
    tool("promtool", &["test", "rules", file.to_str().unwrap()]);
}

const WHY: &str = "listener SSL demands a client certificate";

fn failed(reason: Reason) -> Failure {
    Failure::new(reason, WHY)
}

#[test]
fn what_nobody_configured_fires_no_alert_for_an_hour() {
    an_hour(Reason::NeedsCredentials, None);
    // Any other failure does, on the same series.
    an_hour(Reason::Io, Some("KafkaVitalsReadingUnknown"));
}

#[test]
fn what_nobody_configured_is_said_once_and_is_no_doubt_about_the_broker() {
    let view = view(1, failed(Reason::NeedsCredentials));
    let check = CheckPage::of(&view, &EvidenceStatus::default(), NOW).text();
    assert!(check.starts_with("OK: Broker 1 is healthy."), "{check}");
    let line = format!("  not read: cluster state: {WHY}\n");
    assert!(check.contains(&line), "{check}");
    let page = page::render(&view, &EvidenceStatus::default(), NOW, "/metrics").into_string();
    for text in [check, page] {
        assert_eq!(text.matches(WHY).count(), 1, "{text}");
        assert!(text.contains("source: metadata log"), "{text}");
    }
}
