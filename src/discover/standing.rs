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

    /// The user who comes first of those with such a broker.
    fn first(&self, such: impl Fn(&Seen) -> bool) -> Option<u32> {
        let mut owners = self
            .seen
            .iter()
            .filter(|seen| such(seen))
            .map(|seen| seen.owner);
        let own = owners.clone().find(|owner| Some(*owner) == self.own);
        own.or_else(|| owners.next())
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
        let first = self.first(|_| true).filter(|_| !self.trusted);
        let named = |broker: &Broker, outranked: bool| {
            let id = broker.id?;
            // Of users that trust each other: whose brokers with this id have the bare id as label.
            let holder = self.first(|seen| seen.id == Some(id));
            if outranked || (self.trusted && broker.owner.is_some() && holder != broker.owner) {
                return Some(format!("{id}@{}", user(broker.owner?)));
            }
            Some(id.to_string()).filter(|_| holder.is_none() || broker.owner.is_some())
        };
        let names: Vec<_> = brokers
            .iter()
            .map(|broker| {
                let outranked = first.is_some() && broker.owner != first;
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

    /// Returns processes of which not all may be served in the order in which to serve them: the oldest of each user, then
    /// the second of each, and so on. So no number of processes of one user displaces the first of another.
    pub(super) fn in_turn<T>(
        &self,
        mut items: Vec<T>,
        process: impl Fn(&T) -> (Option<u32>, ProcessKey),
    ) -> Vec<T> {
        items.sort_by_key(|item| {
            let (_, process) = process(item);
            (process.start_ticks, process.pid)
        });
        let mut turns: HashMap<Option<u32>, (usize, usize)> = HashMap::new();
        let mut in_turn: Vec<_> = items
            .into_iter()
            .map(|item| {
                let (owner, _) = process(&item);
                let next = turns.entry(owner).or_insert_with(|| (0, self.place(owner)));
                next.0 += 1;
                (*next, item)
            })
            .collect();
        // It is stable, so the older ones stay first.
        in_turn.sort_by_key(|(turn, _)| *turn);
        in_turn.into_iter().map(|(_, item)| item).collect()
    }
}

#[cfg(test)]
mod tests;
