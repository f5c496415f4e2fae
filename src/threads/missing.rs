//! Threads that ended though their work had not: Kafka's threads end on most errors, and the broker lives on.
//!
//! A thread is missing when earlier dumps of the process had it, two have not, and it cannot have ended rightly. Pools
//! are resized at run time, listeners come and go, leaders move; so a number configured or seen tells nothing, and what
//! could be one of these is not told:
//!
//! - request handlers, network threads and event processors: one with a higher number, started earlier than it ended,
//!   is there still (pools shrink from the top), or no handler is left;
//! - acceptors: their listener's network threads are there still, and the other way round;
//! - pools that live as long as the broker: no thread of that name, or of that pool, is left;
//! - replica fetchers: the broker is missing in the ISR of partitions of that leader.
//!
//! While the broker shuts down nothing is told.

use std::collections::BTreeMap;
use std::time::Duration;

use super::pools::Pool;
use crate::model::{MissingThread, Moment, PoolFindings};
use crate::parse::thread_dump::ThreadDump;

/// Dumps that must lack a thread, and how far apart: a pool that is made anew is empty for a moment.
const DUMPS: u32 = 2;
const SPAN: Duration = Duration::from_secs(5);
/// Most names that are remembered.
const MAX_NAMES: usize = 10_000;
/// A thread of one of these names runs while the broker shuts down.
const SHUTDOWN: [&str; 4] = [
    "SIGTERM handler",
    "SIGINT handler",
    "SIGHUP handler",
    "kafka-shutdown-hook",
];

/// The threads that the dumps of one process have shown.
#[derive(Debug, Default)]
pub struct ThreadInventory {
    seen: BTreeMap<String, Seen>,
    dumps: u32,
    first_dump: Option<Moment>,
}

#[derive(Debug)]
struct Seen {
    pool: Pool,
    /// Most threads of this name at once.
    most: usize,
    /// The first and the last dump that had as many.
    first: u32,
    last: u32,
    /// Successive dumps up to now in which one was missing, and the first of them.
    lacked: u32,
    since: Moment,
}

impl ThreadInventory {
    /// Takes in the next dump, and says what the dumps until now say. `behind` tells for each leader in how many of its partitions' ISRs this broker is missing;
    /// without it fetchers are not judged. None until two dumps lie far enough apart, and in a shutdown.
    pub fn observe(
        &mut self,
        dump: &ThreadDump<'_>,
        behind: Option<&BTreeMap<i32, u64>>,
        now: Moment,
    ) -> Option<PoolFindings<MissingThread>> {
        if dump.truncated
            || dump
                .threads
                .iter()
                .any(|thread| SHUTDOWN.contains(&thread.name))
        {
            return None;
        }
        self.dumps += 1;
        let first = *self.first_dump.get_or_insert(now);
        let mut present: BTreeMap<&str, (Pool, usize)> = BTreeMap::new();
        for thread in &dump.threads {
            if let Some(pool) =
                Pool::of(thread.name).filter(|pool| can_be_judged(*pool, thread.name))
            {
                present.entry(thread.name).or_insert((pool, 0)).1 += 1;
            }
        }
        self.remember(&present, now);
        let pools = self.seen.values().map(|seen| seen.pool);
        let judged = pools
            .filter(|pool| *pool != Pool::ReplicaFetcher || behind.is_some())
            .collect();
        let mut missing = Vec::new();
        let mut lacked = Vec::new();
        for (name, seen) in self.seen.iter().filter(|(_, seen)| seen.last != self.dumps) {
            if self.cannot_have_ended(name, seen, &present, behind) {
                lacked.push(name.clone());
            }
        }
        for (name, seen) in &mut self.seen {
            if lacked.binary_search(name).is_err() {
                seen.lacked = 0;
                continue;
            }
            if seen.lacked == 0 {
                seen.since = now;
            }
            seen.lacked += 1;
            if seen.lacked >= DUMPS && now.since(seen.since) >= SPAN {
                let pool = seen.pool.name().to_owned();
                let there = present.get(name.as_str()).map_or(0, |(_, count)| *count);
                let count = seen.most - there;
                missing.push(MissingThread {
                    pool,
                    thread: name.clone(),
                    count,
                    since: seen.since,
                });
            }
        }
        (now.since(first) >= SPAN).then(|| Pool::findings(missing, judged))
    }

    fn remember(&mut self, present: &BTreeMap<&str, (Pool, usize)>, now: Moment) {
        let mut room = MAX_NAMES.saturating_sub(self.seen.len());
        for (name, &(pool, count)) in present {
            match self.seen.get_mut(*name) {
                Some(seen) if count > seen.most => {
                    *seen = Seen {
                        most: count,
                        last: self.dumps,
                        ..*seen
                    }
                }
                Some(seen) if count == seen.most => seen.last = self.dumps,
                Some(_) => {}
                None if room > 0 => {
                    room -= 1;
                    let seen = Seen {
                        pool,
                        most: count,
                        first: self.dumps,
                        last: self.dumps,
                        lacked: 0,
                        since: now,
                    };
                    self.seen.insert((*name).to_owned(), seen);
                }
                None => {}
            }
        }
    }

    fn cannot_have_ended(
        &self,
        name: &str,
        seen: &Seen,
        present: &BTreeMap<&str, (Pool, usize)>,
        behind: Option<&BTreeMap<i32, u64>>,
    ) -> bool {
        let in_pool = |pool: Pool| {
            present
                .iter()
                .filter(move |(_, (of, _))| *of == pool)
                .map(|(name, _)| *name)
        };
        let higher_stays = || {
            let Some((stem, number)) = numbered(name) else {
                return false;
            };
            in_pool(seen.pool).any(|other| {
                // A node that is broker and controller has two pools of these names.
                let whole = |other: &&Seen| other.last == self.dumps && other.first <= seen.last;
                let stays = self.seen.get(other).filter(whole).is_some();
                stays && numbered(other).is_some_and(|(of, n)| of == stem && n > number)
            })
        };
        let none_is_left = || in_pool(seen.pool).next().is_none();
        match seen.pool {
            Pool::RequestHandler | Pool::EventProcessor | Pool::LogCleaner => {
                higher_stays() || none_is_left()
            }
            Pool::Network => {
                let of_listener = |other: &str| network_listener(other) == network_listener(name);
                let accepts = || {
                    in_pool(Pool::Acceptor)
                        .any(|other| acceptor_listener(other) == network_listener(name))
                };
                higher_stays() || (!in_pool(Pool::Network).any(of_listener) && accepts())
            }
            Pool::Acceptor => in_pool(Pool::Network)
                .any(|other| network_listener(other) == acceptor_listener(name)),
            // Executors replace a thread that dies, and shrink anywhere.
            Pool::Scheduler | Pool::GroupMetadataManager | Pool::TransactionLogManager => {
                none_is_left()
            }
            Pool::ExpirationReaper
            | Pool::Heartbeat
            | Pool::Executor
            | Pool::Controller
            | Pool::RaftIo
            | Pool::RaftOutbound
            | Pool::MetadataLoader
            | Pool::LifecycleManager
            | Pool::ThrottledReaper => true,
            Pool::ReplicaFetcher => {
                let Some(leader) = leader(name) else {
                    return false;
                };
                let is_behind = behind
                    .and_then(|behind| behind.get(&leader))
                    .is_some_and(|partitions| *partitions > 0);
                // With other fetchers of that leader left, this one may only have had no partition.
                is_behind
                    && !in_pool(Pool::ReplicaFetcher)
                        .any(|other| self::leader(other) == Some(leader))
            }
            Pool::LogDirFetcher => false,
        }
    }
}

/// Senders of the ZooKeeper controller come and go with brokers, fetchers between log dirs with their moves, reapers of
/// later features perhaps with these.
fn can_be_judged(pool: Pool, name: &str) -> bool {
    match pool {
        Pool::LogDirFetcher => false,
        Pool::Controller => !name.starts_with("Controller-"),
        Pool::ExpirationReaper => {
            name.starts_with("ExpirationReaper-") || name == "group-coordinator-reaper"
        }
        _ => true,
    }
}

/// `kafka-request-handler-3`: what stands before the number, and the number.
fn numbered(name: &str) -> Option<(&str, u64)> {
    let (stem, number) = name.rsplit_once('-')?;
    Some((stem, number.parse().ok()?))
}

/// 218 of `ReplicaFetcherThread-0-218`.
fn leader(name: &str) -> Option<i32> {
    name.strip_prefix("ReplicaFetcherThread-")?
        .split_once('-')?
        .1
        .parse()
        .ok()
}

/// `PLAINTEXT` of `kafka-socket-acceptor-PLAINTEXT-9092`, with the plane before it.
fn acceptor_listener(name: &str) -> Option<(&str, &str)> {
    let (plane, rest) = name.split_once("kafka-socket-acceptor-")?;
    Some((plane, numbered(rest)?.0))
}

/// `PLAINTEXT` of `kafka-network-thread-1-PLAINTEXT-0`.
fn network_listener(name: &str) -> Option<(&str, &str)> {
    let (plane, rest) = name.split_once("kafka-network-thread-")?;
    Some((plane, numbered(rest.split_once('-')?.1)?.0))
}

#[cfg(test)]
mod tests;
