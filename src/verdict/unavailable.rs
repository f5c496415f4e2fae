//! Which other brokers of its cluster are down, according to one broker's readings.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::finding::UnavailableBroker;
use crate::model::{BrokerSnapshot, Moment, Reason, Registration};

/// A broker counts as down after so long: a single reading may show a moment of change.
const DOWN_AFTER: Duration = Duration::from_secs(8);
/// A broker that no reading names any more is forgotten after so long.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// Every other broker of the cluster that was live or named, by id.
#[derive(Debug, Default)]
pub struct UnavailableBrokers {
    others: BTreeMap<i32, UnavailableBroker>,
    /// Whether the members of the cluster were ever known.
    is_known: bool,
}

impl UnavailableBrokers {
    /// Takes in the brokers by the metadata log, else by the newest Metadata, and the connections to the peers.
    pub fn update(&mut self, broker: &BrokerSnapshot, now: Moment) {
        let Some(absent) = broker.absent(now) else {
            return;
        };
        self.is_known = true;
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
        let live: BTreeSet<i32> = live_brokers(broker, now)
            .into_iter()
            .filter(|id| is_other(id) && !refused.contains(id))
            .collect();
        let down: BTreeSet<i32> = refused
            .iter()
            .chain(absent)
            .copied()
            .filter(is_other)
            .collect();
        for other in self.others.values_mut() {
            match live.contains(&other.id) {
                true if other.until.is_none() => other.until = Some(now),
                false if other.until.is_some() => {
                    *other = UnavailableBroker {
                        id: other.id,
                        since: now,
                        until: None,
                    }
                }
                _ => {}
            }
        }
        for &id in &live {
            // A broker that was never down gets the oldest possible return.
            self.others.entry(id).or_insert(UnavailableBroker {
                id,
                since: Moment(0),
                until: Some(Moment(0)),
            });
        }
        for &id in &down {
            self.others.entry(id).or_insert(UnavailableBroker {
                id,
                since: now,
                until: None,
            });
        }
        self.others.retain(|id, other| {
            live.contains(id) || down.contains(id) || now.since(other.since) < REMEMBERED
        });
    }

    /// The brokers that are down, and not only for a moment.
    pub fn down(&self, now: Moment) -> Vec<i32> {
        let down = self.others.values().filter(|other| other.until.is_none());
        down.filter(|other| now.since(other.since) >= DOWN_AFTER)
            .map(|other| other.id)
            .collect()
    }

    /// Whether the broker was the only one of its cluster when the members were last known.
    pub fn is_only_broker(&self) -> bool {
        self.is_known && self.others.is_empty()
    }

    pub fn list(&self) -> Vec<UnavailableBroker> {
        self.others.values().copied().collect()
    }
}

/// Those that serve, and do not want to end.
fn live_brokers(broker: &BrokerSnapshot, now: Moment) -> Vec<i32> {
    if let Some(registrations) = broker.registrations(now) {
        let serves = |of: &Registration| !of.fenced && !of.in_controlled_shutdown;
        let serving = registrations.iter().filter(|(_, of)| serves(of));
        return serving.map(|(id, _)| *id).collect();
    }
    let counts = broker.cluster.fresh(now).into_iter();
    let listed = counts.flat_map(|counts| counts.live_brokers.iter());
    listed.map(|peer| peer.id).collect()
}
