//! Which process may speak for which broker. Anybody may start a process that looks like broker 1, so a process touches
//! only what belongs to brokers of its own user: their labels, their answers to liveness probes, the order of their
//! restarts, their share of what is watched and saved.
//!
//! Where users compete, the exporter's own user comes first, then who had a broker here before the others. Users that the
//! settings name trust each other. Pure: time is an argument.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::{Broker, Label, ProcessKey};

/// A broker that restarts finds its label again for so long, however old a stranger's process is.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// Of a host where brokers come and go under ever new ids.
const MOST_REMEMBERED: usize = 256;

/// The users with brokers on this host, and the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// The exporter's own user, unless that is root.
    own: Option<u32>,
    /// Whether the settings name the users whose processes count.
    trusted: bool,
    /// In the order in which they were first seen.
    seen: Vec<Seen>,
}

#[derive(Debug)]
struct Seen {
    owner: u32,
    id: Option<i32>,
    last: Instant,
}

impl Standing {
    pub(super) fn new(own: Option<u32>, trusted: bool) -> Standing {
        Standing {
            own,
            trusted,
            seen: Vec::new(),
        }
    }

    /// Takes in the brokers that run now. Of those that are seen for the first time together the older ones come first.
    pub(super) fn update(&mut self, brokers: &[Arc<Broker>], now: Instant) {
        let mut by_age: Vec<&Arc<Broker>> = brokers.iter().collect();
        by_age.sort_by_key(|broker| (broker.process.start_ticks, broker.process.pid));
        for broker in by_age {
            let Some(owner) = broker.owner else { continue };
            let mut seen = self.seen.iter_mut();
            match seen.find(|seen| seen.owner == owner && seen.id == broker.id) {
                Some(seen) => seen.last = now,
                None => self.seen.push(Seen {
                    owner,
                    id: broker.id,
                    last: now,
                }),
            }
        }
        let remembered = if self.trusted {
            Duration::ZERO
        } else {
            REMEMBERED
        };
        self.seen
            .retain(|seen| now.duration_since(seen.last) <= remembered);
        // The newest of those that have ended go first.
        while self.seen.len() > MOST_REMEMBERED
            && let Some(at) = self.seen.iter().rposition(|seen| seen.last != now)
        {
            self.seen.remove(at);
        }
    }

    /// The place of a user in the order of users: the exporter's own, then as they came, then unknown ones.
    fn place(&self, owner: Option<u32>) -> usize {
        match owner {
            None => usize::MAX,
            Some(_) if owner == self.own => 0,
            Some(owner) => self
                .seen
                .iter()
                .position(|seen| seen.owner == owner)
                .map_or(usize::MAX - 1, |at| at + 1),
        }
    }

    /// Whether another user comes first.
    fn is_outranked(&self, owner: Option<u32>) -> bool {
        let first = self.seen.iter().map(|seen| self.place(Some(seen.owner)));
        !self.trusted && first.min().is_some_and(|first| self.place(owner) > first)
    }

    /// Of users that trust each other: whose brokers with this id have the bare id as label.
    fn holder(&self, id: i32) -> Option<u32> {
        let mut holders = self.seen.iter().filter(|seen| seen.id == Some(id));
        holders
            .clone()
            .map(|seen| seen.owner)
            .find(|owner| Some(*owner) == self.own)
            .or_else(|| holders.next().map(|seen| seen.owner))
    }

    /// The label of each broker: its id, or `pid-N` while that is unknown or another of its user has the same id and port;
    /// `@<user>` after that where another user comes first, or another that the settings name has that id; `@<port>` after
    /// that where brokers of one user share an id.
    pub(super) fn labels(
        &self,
        brokers: &[Arc<Broker>],
        user: impl Fn(u32) -> String,
    ) -> Vec<Label> {
        let port = |broker: &Broker| {
            let mut listeners = broker.listeners.iter();
            let served = listeners.clone().find(|listener| !listener.controller);
            served.or(listeners.next()).map(|listener| listener.port)
        };
        let named = |broker: &Broker, outranked: bool| {
            let id = broker.id?;
            let holder = self.holder(id);
            if outranked || (self.trusted && broker.owner.is_some() && holder != broker.owner) {
                return Some(format!("{id}@{}", user(broker.owner?)));
            }
            Some(id.to_string()).filter(|_| holder.is_none() || broker.owner.is_some())
        };
        let names: Vec<_> = brokers
            .iter()
            .map(|broker| {
                let outranked = self.is_outranked(broker.owner);
                (named(broker, outranked), port(broker), outranked)
            })
            .collect();
        let text = |(name, port, _): &(Option<String>, Option<u16>, bool)| {
            let same = || names.iter().filter(|(other, ..)| other == name);
            let text = name.as_ref()?;
            if same().count() == 1 {
                return Some(text.clone());
            }
            let alone = same().filter(|(_, other, _)| other == port).count() == 1;
            Some(format!("{text}@{}", port.filter(|_| alone)?))
        };
        let unnamed = |broker: &Broker, outranked| {
            let user = match (outranked, broker.owner) {
                (false, _) => String::new(),
                (true, Some(owner)) => format!("@{}", user(owner)),
                (true, None) => "@unknown".to_owned(),
            };
            format!("pid-{}{user}", broker.process.pid)
        };
        std::iter::zip(brokers, &names)
            .map(|(broker, name)| Label {
                text: text(name).unwrap_or_else(|| unnamed(broker, name.2)),
                outranked: name.2,
            })
            .collect()
    }

    /// Returns in which order to serve processes of which not all may be served: the oldest of each user, then the second
    /// of each, and so on. So no number of processes of one user displaces the first of another.
    pub(super) fn in_turn(&self, processes: &[(Option<u32>, ProcessKey)]) -> Vec<usize> {
        let age = |at: &usize| {
            processes
                .get(*at)
                .map(|(_, process)| (process.start_ticks, process.pid))
        };
        let mut by_age: Vec<usize> = (0..processes.len()).collect();
        by_age.sort_by_key(age);
        let mut turns: HashMap<Option<u32>, usize> = HashMap::new();
        let mut order: Vec<_> = by_age
            .into_iter()
            .filter_map(|at| {
                let (owner, _) = processes.get(at)?;
                let turn = turns.entry(*owner).or_default();
                *turn += 1;
                Some(((*turn, self.place(*owner)), at))
            })
            .collect();
        // It is stable, so the older ones stay first.
        order.sort_by_key(|(key, _)| *key);
        order.into_iter().map(|(_, at)| at).collect()
    }
}

#[cfg(test)]
mod tests;
