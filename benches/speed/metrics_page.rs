//! `/metrics` and the page of the recorded incident: three brokers whose readings are all known.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
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
use prometheus::{GaugeVec, Opts, Registry, TextEncoder};

use crate::contest::{Bench, call, contest, row};
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
        html.contains(">200 more are blocked behind the deadlock<"),
        "{html}"
    );

    let registry = registry_of(&text, series)?;
    let mut metrics = [
        call(bench, "ours", || drop(black_box(render_metrics()))),
        call(bench, "registry", || {
            drop(black_box(
                TextEncoder::new().encode_to_string(&registry.gather()),
            ));
        }),
    ];
    contest(bench.count(15, 1), &mut metrics)?;
    let mut page = [
        call(bench, "ours", || drop(black_box(render_page()))),
        call(bench, "escaped", || {
            drop(black_box(maud::html! { (black_box(&html)) }.into_string()));
        }),
    ];
    contest(bench.count(15, 1), &mut page)?;
    let metrics = row(
        format!(
            "`/metrics` for 3 brokers: {series} series, {} KB",
            text.len() / 1000
        ),
        "ms",
        "as many gauges of the crate `prometheus`",
        Bar::Ratio(2.0),
        &metrics,
    );
    let page = row(
        format!(
            "the page for 3 deadlocked brokers, 200 threads waiting in each: {} KB",
            html.len() / 1000
        ),
        "ms",
        "as many bytes escaped by `maud`",
        Bar::Ratio(4.0),
        &page,
    );
    Ok(vec![metrics, page])
}

/// Registers one gauge for each of the series of `text`, with its name and labels.
fn registry_of(text: &str, series: usize) -> Result<Registry> {
    let registry = Registry::new();
    let mut families: BTreeMap<&str, GaugeVec> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (one, value) = line.rsplit_once(' ').context("a series without a value")?;
        let (name, labels) = one.split_once('{').unwrap_or((one, "}"));
        let (names, values): (Vec<&str>, Vec<&str>) = labels
            .trim_end_matches('}')
            .split_terminator("\",")
            .filter_map(|label| label.split_once("=\""))
            .map(|(name, value)| (name, value.trim_end_matches('"')))
            .unzip();
        let family = match families.entry(name) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let gauges = GaugeVec::new(Opts::new(name, "A family of the contest."), &names)?;
                registry.register(Box::new(gauges.clone()))?;
                new.insert(gauges)
            }
        };
        family
            .get_metric_with_label_values(&values)?
            .set(value.parse()?);
    }
    let gathered: usize = registry
        .gather()
        .iter()
        .map(|family| family.get_metric().len())
        .sum();
    ensure!(gathered == series, "{gathered} gauges for {series} series");
    Ok(registry)
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
            deadlocks: deadlocks.into(),
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
