//! What the cluster says of one broker process, from snapshot to snapshot: whether it is registered and listed, and whether
//! it knows what it leads.

use std::time::Duration;

use super::views::TOGETHER;
use crate::model::{
    BrokerSnapshot, ClusterCounts, ClusterSource, CollectorName, Moment, OwnRegistration,
};

/// Two checks of a peer's view lie so far apart at least, and Metadata follows a change sooner.
const LASTS: Duration = Duration::from_secs(4);
/// As long as a process may take to register when it starts.
const REGISTERS: Duration = Duration::from_secs(54);
/// How long the process of the same id that was killed before may be listed.
const PREDECESSOR: Duration = Duration::from_secs(30);

/// What is remembered.
#[derive(Debug, Default)]
pub struct Standing {
    /// Whether ZooKeeper listed this process, or a peer listed the broker while it ran.
    was_registered: bool,
    was_listed: bool,
    /// Since when ZooKeeper has not listed it.
    missing_since: Option<Moment>,
    /// What it led when a peer last said the same.
    led: Option<u64>,
    /// Since when a peer has said something else, while the broker says the same as before.
    differs_since: Option<Moment>,
    /// When the peer was last asked.
    checked: Option<Moment>,
    /// Why ZooKeeper cannot be asked, after it answered; None before it did, or if nobody asks.
    pub zookeeper_failure: Option<Option<String>>,
}

impl Standing {
    pub(super) fn update(&mut self, broker: &BrokerSnapshot, now: Moment) {
        if let Some(report) = broker.zookeeper.fresh(now) {
            self.was_registered |= report.is_registered();
            let is_missing = report.registration == OwnRegistration::Missing;
            let since = self.missing_since.unwrap_or(now);
            self.missing_since = is_missing.then_some(since);
        }
        let status = broker.collectors.get(&CollectorName::ZooKeeper);
        self.zookeeper_failure = match status.map(|status| (status.success, &status.error)) {
            Some((Some(true), _)) => Some(None),
            Some((Some(false), error)) if self.zookeeper_failure.is_some() => Some(error.clone()),
            _ => None,
        };
        let Some((own, peer, at)) = views(broker, now).filter(|(.., at)| Some(*at) != self.checked)
        else {
            return;
        };
        self.checked = Some(at);
        let started = broker.broker.started;
        let is_new = started.is_some_and(|started| now.since(started) < PREDECESSOR);
        self.was_listed |= lists(peer, broker) && !is_new;
        if own.partitions == 0 || peer.partitions == 0 {
            return;
        }
        if own.leader == peer.leader {
            (self.led, self.differs_since) = (Some(own.leader), None);
        } else if self.led == Some(own.leader) {
            self.differs_since.get_or_insert(at);
        } else {
            // This broker's view has moved on, and perhaps the peer's has not.
            self.differs_since = None;
        }
    }

    /// Whether it has been missing in ZooKeeper for longer than a start takes, or after it was registered.
    pub fn is_unregistered(&self, now: Moment) -> bool {
        let is_long = |since: Moment| now.since(since) >= REGISTERS;
        self.missing_since
            .is_some_and(|since| self.was_registered || is_long(since))
    }

    /// Whether a peer's view can be compared with the broker's own.
    pub fn is_compared(broker: &BrokerSnapshot, now: Moment) -> bool {
        views(broker, now).is_some()
    }

    /// The peer that does not list the broker and did before.
    pub fn unlisted_by<'a>(
        &self,
        broker: &'a BrokerSnapshot,
        now: Moment,
    ) -> Option<&'a ClusterCounts> {
        let (_, peer, _) = views(broker, now)?;
        (self.was_listed && !lists(peer, broker)).then_some(peer)
    }

    /// What the broker says that it leads, and a peer that has seen that change.
    pub fn outdated_by<'a>(
        &self,
        broker: &'a BrokerSnapshot,
        now: Moment,
    ) -> Option<(u64, &'a ClusterCounts)> {
        let (own, peer, at) = views(broker, now)?;
        let since = self.differs_since?;
        (at.since(since) >= LASTS).then_some((own.leader, peer))
    }
}

/// What the broker itself counts and what a peer counts, both read now, and when the peer was asked.
fn views(broker: &BrokerSnapshot, now: Moment) -> Option<(&ClusterCounts, &ClusterCounts, Moment)> {
    let own = broker.cluster.fresh(now)?;
    let own = Some(own).filter(|own| own.source == ClusterSource::Own)?;
    let (peer, at) = broker.peer_view.last()?;
    (now.since(at) <= TOGETHER && !peer.live_brokers.is_empty()).then_some((own, peer, at))
}

fn lists(peer: &ClusterCounts, broker: &BrokerSnapshot) -> bool {
    let mut live = peer.live_brokers.iter();
    live.any(|one| Some(one.id) == broker.broker.id)
}
