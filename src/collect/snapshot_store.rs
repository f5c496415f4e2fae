//! Keeps the newest readings: applies the updates that the collectors send, and publishes one immutable snapshot after
//! another.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::model::{BrokerSnapshot, Clock, Moment, ProcessKey, Snapshot};

type Change = dyn FnOnce(&mut Snapshot, Moment) + Send;

/// One change of the snapshot.
pub struct Update(Box<Change>);

impl Update {
    pub fn new(change: impl FnOnce(&mut Snapshot, Moment) + Send + 'static) -> Update {
        Update(Box::new(change))
    }

    /// A change of one broker. A run may end after discovery saw its process end: then it changes nothing.
    pub fn of_broker(
        process: ProcessKey,
        change: impl FnOnce(&mut BrokerSnapshot, Moment) + Send + 'static,
    ) -> Update {
        Update::new(move |snapshot, now| {
            let mut brokers = snapshot.brokers.iter_mut();
            let broker = brokers.find(|broker| broker.broker.process == process);
            if let Some(broker) = broker.filter(|broker| broker.ended.is_none()) {
                change(Arc::make_mut(broker), now);
            }
        })
    }
}

/// A collector whose answer is there needs to be polled twice before its updates are in the queue.
const YIELDS: usize = 3;

/// Applies updates until every sender is gone.
pub(super) async fn keep(
    mut updates: mpsc::Receiver<Update>,
    publish: watch::Sender<Arc<Snapshot>>,
    clock: Clock,
) {
    let mut snapshot = Snapshot::default();
    while let Some(update) = updates.recv().await {
        apply(&mut snapshot, update, clock.now());
        // Runs end together: one snapshot for all of them. The others that are ready run first.
        for _ in 0..YIELDS {
            tokio::task::yield_now().await;
        }
        while let Ok(update) = updates.try_recv() {
            apply(&mut snapshot, update, clock.now());
        }
        publish.send_replace(Arc::new(snapshot.clone()));
    }
}

/// Applies one update.
pub fn apply(snapshot: &mut Snapshot, update: Update, now: Moment) {
    snapshot.at = now;
    (update.0)(snapshot, now);
}
