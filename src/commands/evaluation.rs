//! Evaluates each new snapshot, and the last one again after a second without a new one, because readings expire.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::collect;
use crate::collect::dump_service::DumpService;
use crate::config::{Config, InUse};
use crate::model::EvidenceStatus;
use crate::model::{AnyReading, BrokerSnapshot, Clock, CollectorName, SettingsStatus, Snapshot};
use crate::verdict::View;
use crate::verdict::evaluate::Evaluator;
use crate::verdict::finding::{BrokerDiagnosis, BrokerState, Diagnosis};
use crate::verdict::liveness::Liveness;

/// A little more than a second: by then the next snapshot has usually come.
const AT_LEAST_EVERY: Duration = Duration::from_millis(1250);
/// Rounds of several brokers end together: their snapshots are evaluated as one.
const AT_MOST_EVERY: Duration = Duration::from_millis(50);

/// Runs until the publisher of the snapshots ends.
pub async fn run(
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    publish: watch::Sender<Arc<View>>,
    saved: watch::Receiver<Arc<EvidenceStatus>>,
    settings: watch::Receiver<InUse>,
    clock: Clock,
) {
    let mut evaluator = Evaluator::default();
    let mut liveness = Liveness::default();
    loop {
        liveness.set(settings.borrow().config.live);
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        let now = clock.now();
        let mut view = View::of(&mut evaluator, snapshot, now);
        let saved = Arc::clone(&saved.borrow());
        let evidence =
            |broker: &BrokerDiagnosis| saved.progress(broker.process, broker.first_seen());
        view.live = liveness
            .answers(&view.snapshot, &view.diagnosis, evidence, now)
            .into();
        log_changes(&publish.borrow().diagnosis, &view.diagnosis);
        publish.send_replace(Arc::new(view));
        let earliest = tokio::time::Instant::now() + AT_MOST_EVERY;
        if let Ok(Err(_)) = tokio::time::timeout(AT_LEAST_EVERY, snapshots.changed()).await {
            return;
        }
        // Not a timer for each snapshot: usually the next one comes long after that.
        if tokio::time::Instant::now() < earliest {
            tokio::time::sleep_until(earliest).await;
        }
    }
}

/// The progress of threads is measured over 2 s.
const RUN_AT_LEAST: Duration = Duration::from_secs(4);
/// Readings that are still missing then are unknown.
const RUN_AT_MOST: Duration = Duration::from_secs(10);
/// The two dumps that confirm a stall are 10 s apart.
const CONFIRM_AT_MOST: Duration = Duration::from_secs(30);
/// A single run waits no longer for what must last a minute in a running exporter.
const MAX_HOLD: Duration = Duration::from_secs(15);

/// Evaluates every broker of this host once, without a running exporter: the collectors run until each has
/// reported and every suspicion is confirmed or refuted.
pub async fn once(config: Arc<Config>, dumps: DumpService, clock: Clock) -> View {
    let started = Instant::now();
    let mut evaluator = Evaluator::with_max_hold(MAX_HOLD);
    let (publish, mut snapshots) = watch::channel(Arc::default());
    let in_use = InUse {
        config: Arc::clone(&config),
        status: SettingsStatus::started(clock.now()),
    };
    let (_, settings) = watch::channel(in_use);
    let run = async {
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            let view = View::of(&mut evaluator, snapshot, clock.now());
            let spent = started.elapsed();
            let complete = view.snapshot.discovery.success.is_some()
                && view
                    .snapshot
                    .brokers
                    .iter()
                    .all(|broker| has_reported(&config, broker));
            let decided = !view
                .diagnosis
                .brokers
                .iter()
                .any(|broker| broker.state == BrokerState::Suspect)
                && !evaluator.is_undecided()
                || view
                    .diagnosis
                    .brokers
                    .iter()
                    .any(|broker| broker.state == BrokerState::Gray);
            let no_broker = view.snapshot.brokers.is_empty();
            if complete && (no_broker || decided && spent >= RUN_AT_LEAST)
                || spent >= CONFIRM_AT_MOST
                || !complete && spent >= RUN_AT_MOST
            {
                return view;
            }
            tokio::time::sleep(AT_MOST_EVERY).await;
            // Time passes without a new snapshot as well.
            let _ = tokio::time::timeout(AT_MOST_EVERY * 4, snapshots.changed()).await;
        }
    };
    tokio::select! {
        view = run => view,
        // It never ends.
        () = collect::run(settings, publish, dumps, clock) => View::default(),
    }
}

/// Whether each of the broker's collectors has run at least once, or the reason is known why it reads nothing.
fn has_reported(config: &Config, broker: &BrokerSnapshot) -> bool {
    let is_missing = |(name, _, reading): (CollectorName, &str, &dyn AnyReading)| {
        let has_run = broker.collectors.contains_key(&name);
        config.collectors.is_on(name) && !has_run && reading.is_pending()
    };
    broker.ended.is_some() || !broker.readings().any(is_missing)
}

fn log_changes(before: &Diagnosis, now: &Diagnosis) {
    for broker in &now.brokers {
        let known = before.of(broker.process);
        if known.is_some_and(|known| known.state == broker.state) {
            continue;
        }
        let (state, label) = (broker.state.name(), &broker.label);
        match broker.state {
            BrokerState::Gray => tracing::error!(
                broker = label,
                state,
                "{} {}",
                broker.sentence,
                broker.remedy
            ),
            BrokerState::Suspect
            | BrokerState::Starting
            | BrokerState::Closed
            | BrokerState::Ended => {
                tracing::warn!(broker = label, state, "{}", broker.sentence)
            }
            BrokerState::Unknown if known.is_none() => {}
            BrokerState::Healthy | BrokerState::Unknown => {
                tracing::info!(broker = label, state, "{}", broker.sentence);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::model::{CollectorStatus, Reading};

    #[test]
    fn a_single_run_waits_for_each_collector_that_is_on_and_reads_something() {
        let mut config = Config::load(Default::default()).unwrap();
        let mut broker = BrokerSnapshot {
            zookeeper: Reading::unknown("the cluster keeps its metadata in KRaft"),
            ..BrokerSnapshot::default()
        };
        let names = CollectorName::ALL.into_iter();
        let runs = |name: &CollectorName| name.is_per_broker() && *name != CollectorName::ZooKeeper;
        for name in names.filter(runs) {
            assert!(!has_reported(&config, &broker), "{}", name.name());
            broker.collectors.insert(name, CollectorStatus::default());
        }
        assert!(has_reported(&config, &broker));
        broker.zookeeper = Reading::default();
        assert!(!has_reported(&config, &broker));
        config.collectors = serde_json::from_str(r#"{"zookeeper": false}"#).unwrap();
        assert!(has_reported(&config, &broker));
    }
}
