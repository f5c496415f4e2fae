//! The brokers of a cluster, as one broker's readings name them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::named::named;
use super::{BrokerSnapshot, Moment, Registration};

/// How many of the brokers that hold replicas and are not live are listed.
pub const ABSENT_LISTED: usize = 64;

named! {
    /// Why a broker of the cluster is not well.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum MemberState {
        /// The controller has fenced it: it is down, starting or cut off.
        Fenced = "fenced",
        /// As fenced, and it holds no replicas: nothing misses it. Most often it was removed without being unregistered.
        FencedUnused = "fenced_unused",
        /// It has asked for leave to end, and still serves.
        ControlledShutdown = "controlled_shutdown",
        /// It holds replicas, and is neither registered nor live.
        Missing = "missing",
    }
}

/// How many brokers the metadata log names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberCounts {
    /// Registered and not fenced.
    pub registered: u64,
    pub fenced: u64,
    /// Those that hold replicas and are not registered.
    pub unregistered: u64,
}

impl BrokerSnapshot {
    /// Every registered broker by the node's metadata log, as long as the log has the truth: during a migration from
    /// ZooKeeper it has not, nor while it stands still and Metadata is known.
    pub fn registrations(&self, now: Moment) -> Option<&BTreeMap<i32, Registration>> {
        let log = self.metadata_log.fresh(now)?;
        let is_best = log.is_current(now) || self.cluster.fresh(now).is_none();
        let has_truth = is_best && log.counts.is_some();
        has_truth.then_some(&*log.brokers)
    }

    /// What the controller has decided about this broker, if it is registered.
    pub fn own_registration(&self, now: Moment) -> Option<Registration> {
        self.registrations(now)?.get(&self.broker.id?).copied()
    }

    /// Known where the log is.
    pub fn member_counts(&self, now: Moment) -> Option<MemberCounts> {
        let registrations = self.registrations(now)?;
        let fenced = registrations.values().filter(|of| of.fenced).count();
        Some(MemberCounts {
            registered: (registrations.len() - fenced) as u64,
            fenced: fenced as u64,
            unregistered: self.unregistered(now).count() as u64,
        })
    }

    /// The brokers of the cluster that are not well, by id; None while the cluster is unknown.
    pub fn members_not_well(&self, now: Moment) -> Option<BTreeMap<i32, MemberState>> {
        let absent = self.absent(now)?;
        // Beyond the bound, those that hold replicas are not all known.
        let is_unused = |id| absent.len() < ABSENT_LISTED && !absent.contains(id);
        let registered = self.registrations(now).into_iter().flatten();
        // One that has ended in this way stays fenced and in controlled shutdown until it registers again.
        let not_well = registered.filter_map(|(id, of)| {
            let state = match (of.fenced, of.in_controlled_shutdown) {
                (true, _) if is_unused(id) => MemberState::FencedUnused,
                (true, _) => MemberState::Fenced,
                (false, true) => MemberState::ControlledShutdown,
                (false, false) => return None,
            };
            Some((*id, state))
        });
        let missing = self.unregistered(now).map(|id| (id, MemberState::Missing));
        Some(not_well.chain(missing).collect())
    }

    /// Those that hold replicas and are not live, by the source that [`BrokerSnapshot::partitions`] prefers.
    pub fn absent(&self, now: Moment) -> Option<&BTreeSet<i32>> {
        let counts = self.of_log_or(self.cluster.fresh(now), now)?;
        Some(&counts.absent)
    }

    fn unregistered(&self, now: Moment) -> impl Iterator<Item = i32> {
        let registrations = self.registrations(now);
        let is_registered = move |id: &i32| registrations.is_some_and(|all| all.contains_key(id));
        let absent = self.absent(now).into_iter().flatten().copied();
        absent.filter(move |id| !is_registered(id))
    }
}
