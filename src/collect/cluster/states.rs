//! The states of partitions in ZooKeeper. A change of an ISR comes to a peer many seconds late, because the leader writes it
//! there and announces it rarely. So while a broker is silent or suspect, the states of its partitions are read where the
//! leaders write them.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::{Duration, Instant};

use super::count::{Kept, Pass, Seen};
use super::whole::Whole;
use crate::collect::context::BrokerContext;
use crate::collect::zookeeper::ensembles::{Ensemble, PartitionState};
use crate::collect::zookeeper::plan::Plan;
use crate::model::{ClusterCounts, ClusterSource};

/// Partitions whose states are read in a round, one request after the other.
pub(super) const MOST_STATES: usize = 2_000;
/// For all of them.
const STATES_WITHIN: Duration = Duration::from_secs(1);

/// Where the leaders of a cluster write the states of its partitions.
pub struct States {
    pub(super) ensemble: Arc<Ensemble>,
    pub(super) root: String,
}

impl States {
    /// None where the cluster has no ZooKeeper that may be asked. `here` is that of [`Plan::ensemble`].
    pub(super) fn of(context: &BrokerContext, here: bool) -> Option<States> {
        let plan = Plan::of(context).ok()?;
        Some(States {
            ensemble: plan.ensemble(context, here),
            root: context.broker.zookeeper_root.clone(),
        })
    }

    /// Puts the newest states of the partitions in place of those that Metadata has; all of them, or none with the reason.
    async fn put(&self, kept: &mut Kept, id: i32) -> Result<(), String> {
        let named = kept.iter().map(|(topic, seen)| (&**topic, seen.index));
        let partitions: Vec<_> = named.collect();
        // A topic that has been deleted since remains as it is.
        let mut newest: Vec<Seen> = kept.iter().map(|(_, seen)| *seen).collect();
        let put = |at: usize, state: PartitionState| {
            if let Some(seen) = newest.get_mut(at) {
                seen.leader = state.leader;
                seen.is_hidden = false;
                seen.in_sync = state.isr.len();
                seen.is_in_sync = state.isr.contains(&id);
            }
        };
        let deadline = Instant::now() + STATES_WITHIN;
        let read = self.ensemble.states(&self.root, &partitions, deadline, put);
        read.await.map_err(|why| why.message)?;
        for ((_, seen), newest) in std::iter::zip(kept, newest) {
            *seen = newest;
        }
        Ok(())
    }
}

/// Counts what `pass` lacks. Without states the source is the peer, and `silence` also says why they were not read.
pub(super) async fn counts(
    mut pass: Pass,
    mut kept: Option<Kept>,
    peer: ClusterSource,
    mut silence: String,
    states: Option<States>,
    whole: &Mutex<Whole>,
) -> ClusterCounts {
    let too_many = || {
        format!(
            "it has more than {MOST_STATES} replicas, so their states in ZooKeeper are not read"
        )
    };
    let mut source = peer;
    if let Some(states) = states {
        let put = match &mut kept {
            Some(kept) => states.put(kept, pass.id).await,
            None => Err(too_many()),
        };
        match put {
            Ok(()) => source = ClusterSource::ZooKeeper,
            Err(why) => silence = format!("{silence}; {why}"),
        }
    }
    let mut whole = whole.lock().unwrap_or_else(PoisonError::into_inner);
    for (topic, seen) in kept.into_iter().flatten() {
        pass.partition(&topic, seen, &mut whole);
    }
    pass.end(&mut whole);
    drop(whole);
    pass.counts(source, Some(silence))
}
