//! `/metrics` and the page of the recorded incident: three brokers whose readings are all known.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use kafka_vitals::expose::{metrics, page};
use kafka_vitals::model::EvidenceStatus;
use kafka_vitals::model::{Deadlock, DeadlockedThread, Snapshot, StandingDeadlock};
use kafka_vitals::recording::Recording;
use kafka_vitals::verdict::View;
use kafka_vitals::verdict::evaluate::Evaluator;
use kafka_vitals::verdict::finding::{Change, Event, FindingId};

use crate::contest::{Bench, call, contest};
use crate::report::{Bar, Row};

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let recording = Recording::open(&folder.join("tests/fixtures/recordings/incident.jsonl.gz"))?;
    let snapshot = recording.last().context("a recording without a line")?;
    let now = snapshot.at;
    let page_view = deadlocked(&snapshot);
    let view = View::of(&mut Evaluator::default(), Arc::new(snapshot), now);
    let render_metrics = || metrics::render(black_box(&view), &EvidenceStatus::default(), now);
    let render_page = || {
        page::render(
            black_box(&page_view),
            &EvidenceStatus::default(),
            now,
            "/metrics",
        )
        .into_string()
    };
    let (text, html) = (render_metrics(), render_page());
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    ensure!(
        series > 300,
        "only {series} series: something is unknown\n{text}"
    );
    ensure!(
        html.contains(">200 more are blocked behind the cycle<"),
        "{html}"
    );

    let mut all = [
        call(bench, "metrics", || drop(black_box(render_metrics()))),
        call(bench, "page", || drop(black_box(render_page()))),
    ];
    contest(bench.count(15, 1), &mut all)?;
    let row =
        |subject, at: usize, most| Row::milliseconds(subject, all[at].median(), Bar::Most(most));
    let metrics = format!(
        "`/metrics` for 3 brokers: {series} series, {} KB",
        text.len() / 1000
    );
    let page = format!(
        "the page for 3 deadlocked brokers, 200 threads waiting in each: {} KB",
        html.len() / 1000
    );
    Ok(vec![row(metrics, 0, 2.0), row(page, 1, 10.0)])
}

/// Returns the recorded brokers with large deadlocks and a long timeline, which make the page long.
fn deadlocked(snapshot: &Snapshot) -> View {
    let now = snapshot.at;
    let thread = |thread: String, held_by: &str| {
        DeadlockedThread {
        thread,
        wants: "kafka.coordinator.GroupMetadata".into(),
        held_by: held_by.into(),
        frames: vec!["kafka.coordinator.GroupMetadataManager.doneExpiring(GroupMetadataManager.scala:123)".into(); 40],
    }
    };
    let deadlock = Deadlock {
        cycle: vec![thread("a".into(), "b"), thread("b".into(), "a")],
        waiting: (0..200)
            .map(|n| thread(format!("kafka-request-handler-{n}"), "a"))
            .collect(),
        reported: true,
        ..Deadlock::default()
    };
    let mut snapshot = snapshot.clone();
    for broker in &mut snapshot.brokers {
        let deadlocks = vec![deadlock.clone()];
        let standing = StandingDeadlock {
            more: Default::default(),
            since: now,
            confirmed: now,
            deadlocks,
            known_issues: Vec::new(),
        };
        Arc::make_mut(broker).deadlock = Some(standing);
    }
    let mut view = View::of(&mut Evaluator::default(), Arc::new(snapshot), now);
    let event = Event {
        at: now,
        broker: "1".into(),
        change: Change::FindingStarted {
            finding: FindingId::JvmDeadlock,
        },
    };
    Arc::make_mut(&mut view.diagnosis).timeline =
        (0..200).map(|_| Arc::new(event.clone())).collect();
    view
}
