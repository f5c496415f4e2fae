//! Judges each snapshot as it comes, and once a second without one: readings grow old.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::diagnose::View;
use crate::diagnose::finding::{BrokerState, Diagnosis};
use crate::diagnose::live::{self, Evidence, Liveness};
use crate::diagnose::verdict::Judge;
use crate::snapshot::{Clock, Snapshot};

const AT_LEAST_EVERY: Duration = Duration::from_secs(1);
/// Rounds of several brokers end together: their snapshots are judged as one.
const AT_MOST_EVERY: Duration = Duration::from_millis(50);

/// Ends when nobody publishes snapshots any more.
pub async fn run(
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    publish: watch::Sender<Arc<View>>,
    live: live::Settings,
    clock: Clock,
) {
    let mut judge = Judge::default();
    let mut liveness = Liveness::new(live);
    loop {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        let now = clock.now();
        let mut view = View::of(&mut judge, snapshot, now);
        let evidence = |_| Evidence::None;
        view.live = liveness.judge(&view.snapshot, &view.diagnosis, evidence, now).into();
        log_changes(&publish.borrow().diagnosis, &view.diagnosis);
        publish.send_replace(Arc::new(view));
        tokio::time::sleep(AT_MOST_EVERY).await;
        if let Ok(Err(_)) = tokio::time::timeout(AT_LEAST_EVERY, snapshots.changed()).await {
            return;
        }
    }
}

fn log_changes(before: &Diagnosis, now: &Diagnosis) {
    for broker in &now.brokers {
        let known = before.of(broker.process);
        if known.is_some_and(|known| known.state == broker.state) {
            continue;
        }
        let (state, label) = (broker.state.name(), &broker.label);
        match broker.state {
            BrokerState::Gray => tracing::error!(broker = label, state, "{} {}", broker.sentence, broker.remedy),
            BrokerState::Suspect | BrokerState::Down => tracing::warn!(broker = label, state, "{}", broker.sentence),
            BrokerState::Unknown if known.is_none() => {}
            BrokerState::Healthy | BrokerState::Unknown => {
                tracing::info!(broker = label, state, "{}", broker.sentence);
            }
        }
    }
}
