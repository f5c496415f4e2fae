//! Which other brokers of its cluster are away, as one broker's readings tell it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::finding::UnavailableBroker;
use crate::model::{BrokerSnapshot, Moment, Reason};

/// One look may be of a moment of change.
const AWAY_AFTER: Duration = Duration::from_secs(8);
/// A broker that nobody names any more is forgotten after so long.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// By id: every other broker of the cluster that was seen or named.
#[derive(Debug, Default)]
pub struct UnavailableBrokers {
    others: BTreeMap<i32, UnavailableBroker>,
    /// Whether anybody has told yet who there is.
    told: bool,
}

impl UnavailableBrokers {
    /// Takes in the newest Metadata and the connections to the peers.
    pub fn take(&mut self, broker: &BrokerSnapshot, now: Moment) {
        let Some(counts) = broker.cluster.fresh(now) else {
            return;
        };
        self.told = true;
        let peers = broker
            .probes
            .fresh(now)
            .map_or(&[][..], |probes| &probes.peers);
        let refused = peers.iter().filter(|peer| {
            peer.connect
                .error
                .as_ref()
                .is_some_and(|e| e.reason == Reason::Refused)
        });
        let refused: BTreeSet<i32> = refused.map(|peer| peer.peer.id).collect();
        let is_other = |id: &i32| Some(*id) != broker.broker.id;
        let listed = counts.live_brokers.iter().map(|peer| peer.id);
        let live: BTreeSet<i32> = listed
            .filter(|id| is_other(id) && !refused.contains(id))
            .collect();
        let gone: BTreeSet<i32> = refused
            .iter()
            .chain(&counts.absent)
            .copied()
            .filter(is_other)
            .collect();
        for absence in self.others.values_mut() {
            match live.contains(&absence.id) {
                true if absence.until.is_none() => absence.until = Some(now),
                false if absence.until.is_some() => {
                    *absence = UnavailableBroker {
                        id: absence.id,
                        since: now,
                        until: None,
                    }
                }
                _ => {}
            }
        }
        for &id in &live {
            // A broker that was never away is there since ever.
            self.others.entry(id).or_insert(UnavailableBroker {
                id,
                since: Moment(0),
                until: Some(Moment(0)),
            });
        }
        for &id in &gone {
            self.others.entry(id).or_insert(UnavailableBroker {
                id,
                since: now,
                until: None,
            });
        }
        self.others.retain(|id, absence| {
            live.contains(id) || gone.contains(id) || now.since(absence.since) < REMEMBERED
        });
    }

    /// Those that are away, and not only for a moment.
    pub fn away(&self, now: Moment) -> Vec<i32> {
        let away = self
            .others
            .values()
            .filter(|absence| absence.until.is_none());
        away.filter(|absence| now.since(absence.since) >= AWAY_AFTER)
            .map(|absence| absence.id)
            .collect()
    }

    /// Whether it was the only broker of its cluster when that was last told.
    pub fn is_alone(&self) -> bool {
        self.told && self.others.is_empty()
    }

    pub fn list(&self) -> Vec<UnavailableBroker> {
        self.others.values().copied().collect()
    }
}
