//! `/metrics` and the page for three brokers of which everything is known.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use kafka_vitals::collect::keeper::{RoundEnd, Told, Update, apply};
use kafka_vitals::diagnose::View;
use kafka_vitals::diagnose::finding::{Event, FindingId};
use kafka_vitals::diagnose::verdict::Judge;
use kafka_vitals::discover::{Broker, Mode, ProcessKey, Role};
use kafka_vitals::evidence::Saved;
use kafka_vitals::expose::{metrics, page};
use kafka_vitals::snapshot::{
    AcceptQueue, ClusterCounts, ClusterSource, Deadlock, DeadlockedThread, ExporterVitals, HandleKinds, Moment,
    PartitionState, ProcessVitals, Snapshot, SocketOwners, SocketPulse, StandingDeadlock, StateCounts, TcpState,
    ThreadReport,
};

use crate::contest::Bench;
use crate::report::{Bar, Row};
use crate::within::within;

const NOW: Moment = Moment(1_700_000_000_000);

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let view = View::of(&mut Judge::default(), Arc::new(snapshot()), NOW);
    let page = metrics::render(&view, &Saved::default(), NOW);
    let series = page.lines().filter(|line| !line.starts_with('#')).count();
    ensure!(series > 300, "only {series} series: something is unknown\n{page}");
    let all = within(
        bench,
        "metrics",
        &mut [("ours", &mut || {
            black_box(metrics::render(black_box(&view), &Saved::default(), NOW));
        })],
    )?;
    let view = deadlocked(&view);
    let render = || page::render(black_box(&view), &Saved::default(), NOW, "/metrics").into_string();
    let html = render();
    ensure!(html.contains(">200 more merely wait for them<"), "{html}");
    let of_page = within(bench, "page", &mut [("ours", &mut || drop(black_box(render())))])?;
    let row =
        |subject, ours, most| Row { subject, unit: "ms", ours, floor: None, bar: Bar::Most(most), beside: Vec::new() };
    let metrics = format!("`/metrics` for 3 brokers: {series} series, {} KB", page.len() / 1000);
    let page = format!("the page for 3 deadlocked brokers, 200 threads waiting in each: {} KB", html.len() / 1000);
    Ok(vec![row(metrics, all[0].median(), 2.0), row(page, of_page[0].median(), 10.0)])
}

/// The same with all that makes the page long.
fn deadlocked(view: &View) -> View {
    let thread = |thread: String, held_by: &str| DeadlockedThread {
        thread,
        wants: "kafka.coordinator.GroupMetadata".into(),
        held_by: held_by.into(),
        frames: vec!["kafka.coordinator.GroupMetadataManager.doneExpiring(GroupMetadataManager.scala:123)".into(); 40],
    };
    let deadlock = Deadlock {
        cycle: vec![thread("a".into(), "b"), thread("b".into(), "a")],
        waiting: (0..200).map(|n| thread(format!("kafka-request-handler-{n}"), "a")).collect(),
        reported: true,
    };
    let mut snapshot = Snapshot::clone(&view.snapshot);
    for broker in &mut snapshot.brokers {
        let deadlocks = vec![deadlock.clone()];
        let standing = StandingDeadlock { since: NOW, confirmed: NOW, deadlocks, known_issues: Vec::new() };
        Arc::make_mut(broker).deadlock = Some(standing);
    }
    let mut view = View::of(&mut Judge::default(), Arc::new(snapshot), NOW);
    let event = Event { at: NOW, broker: "1".into(), what: "is gray".into(), finding: Some(FindingId::JvmDeadlock) };
    Arc::make_mut(&mut view.diagnosis).timeline = (0..200).map(|_| Arc::new(event.clone())).collect();
    view
}

fn snapshot() -> Snapshot {
    let brokers: Vec<(Arc<Broker>, String)> = (1..=3).map(|id| (broker(id), id.to_string())).collect();
    let mut snapshot = Snapshot::default();
    let (took, interval) = (Duration::from_millis(3), Duration::from_secs(5));
    let update = Update::Discovered {
        found: Ok(brokers.clone()),
        doubts: Vec::new(),
        memory_map_limit: Ok(65_530),
        exporter: Ok(ExporterVitals { cpu_seconds: 12.5, resident_bytes: 12 << 20, ..ExporterVitals::default() }),
        took,
        interval,
    };
    apply(&mut snapshot, update, NOW);
    for (broker, _) in &brokers {
        for (round, told) in told(broker.id.unwrap_or_default()) {
            let end = RoundEnd { process: broker.process, round, interval, took, told };
            apply(&mut snapshot, Update::Round(Box::new(end)), NOW);
        }
    }
    snapshot
}

fn broker(id: i32) -> Arc<Broker> {
    Arc::new(Broker {
        id: Some(id),
        started: Some(NOW),
        kafka_version: Some("3.9.1".into()),
        java_version: Some("17.0.15".into()),
        mode: Some(Mode::KRaft),
        roles: [Role::Broker, Role::Controller].into(),
        ..Broker::unknown(ProcessKey { pid: 4000 + id as u32, start_ticks: 7 })
    })
}

/// One reading of every kind.
fn told(id: i32) -> Vec<(&'static str, Told)> {
    let mut states = StateCounts::default();
    for state in TcpState::ALL {
        let count = states.get_mut(state);
        (count.connections, count.receive_bytes, count.send_bytes) = (1234, 56_789, 987);
    }
    let vitals = ProcessVitals {
        state: 'S',
        resident_bytes: 6 << 30,
        handle_limit_soft: Some(100_000),
        handle_limit_hard: Some(100_000),
    };
    let kinds = HandleKinds { socket: 4000, log_segment: 20_000, index: 40_000, ..HandleKinds::default() };
    let queue = |listener: &str| AcceptQueue { listener: listener.into(), length: 3, limit: Some(50) };
    let accept_queues = vec![queue("PLAINTEXT"), queue("SASL_SSL")];
    let pulse = SocketPulse { server: states, unread_close_wait: 17, accept_queues };
    let owners = SocketOwners { server_established: *states.get(TcpState::Established), ..SocketOwners::default() };
    let not_whole = (0..100).map(|partition| PartitionState {
        topic: format!("orders.v{id}.events-by-customer"),
        partition,
        leader: Some(id),
        replicas: 3,
        isr: 1,
    });
    let cluster = ClusterCounts {
        source: ClusterSource::Own,
        own_silence: None,
        live_brokers: Vec::new(),
        leader: 1600,
        under_replicated: 130,
        isr_leader_alone: 100,
        not_in_isr: 12,
        not_in_isr_by_leader: std::collections::BTreeMap::from([(2, 12)]),
        leaderless: 2,
        partitions: 5000,
        not_whole: not_whole.collect(),
        not_whole_left_out: 30,
        absent: Default::default(),
    };
    let by_state: BTreeMap<String, u64> =
        ["runnable", "blocked", "waiting", "timed_waiting"].iter().map(|state| ((*state).to_owned(), 40)).collect();
    vec![
        ("pulse", Told::Process { handles: Ok(64_321), vitals: Ok(vitals) }),
        ("pulse", Told::Sockets(Ok(pulse))),
        ("slow", Told::Handles { kinds: Ok(kinds), memory_maps: Ok(41_000) }),
        ("slow", Told::Connections(Ok((owners, 12)))),
        ("probe", Told::Cluster(Ok(cluster))),
        ("thread_dump", Told::Threads(Ok(ThreadReport { by_state, bytes: 200_000, ..ThreadReport::default() }))),
    ]
}
