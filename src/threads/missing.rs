//! Threads that have ended while there is work for them: most errors end a thread of Kafka, and the broker continues.
//!
//! A thread is missing when earlier dumps of the process show it, two later ones do not, and it cannot have ended
//! regularly. One later dump is enough where the kernel and the broker's log agree ([`Deaths`]). Pools are resized at run time, listeners come and go, leaders move. So a configured or observed number
//! proves nothing, and only this counts:
//!
//! - request handlers, network threads and event processors: one with a higher number, which started before this one
//!   ended, is present (pools shrink from the top), or no handler is left;
//! - acceptors: their listener's network threads are present, and the other way round;
//! - pools that live as long as the broker: no thread of that name, or of that pool, is left;
//! - replica fetchers: the broker is missing in the ISR of partitions of that leader; or it follows that leader, which is
//!   live, by Metadata that were read well after the first dump without the fetcher.
//!
//! While the broker shuts down no thread is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::pools::Pool;
use crate::model::{MissingThread, Moment, PoolFindings};
use crate::parse::thread_dump::ThreadDump;

/// For so long a death is a reason to believe a single dump, and the reason of a fetcher that left no ISR yet.
const FRESH: Duration = Duration::from_secs(60);
/// The most deaths that are known.
const MOST_DEATHS: usize = 256;
/// How many dumps must lack a thread, and how far apart: a pool that is replaced is empty for a moment.
const DUMPS: u32 = 2;
const SPAN: Duration = Duration::from_secs(5);
/// The most names that are remembered.
const MAX_NAMES: usize = 4096;
/// A thread with one of these names runs while the broker shuts down.
const SHUTDOWN: [&str; 4] = [
    "SIGTERM handler",
    "SIGINT handler",
    "SIGHUP handler",
    "kafka-shutdown-hook",
];

/// Which threads have ended lately, by their names in a dump, and when that was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deaths {
    /// They are gone from `/proc/PID/task`.
    gone: BTreeMap<String, Moment>,
    /// A line of the log says that an error has ended them.
    logged: BTreeMap<String, Moment>,
}

impl Deaths {
    pub fn add_gone(&mut self, thread: String, now: Moment) {
        add(&mut self.gone, thread, now);
    }

    pub fn add_logged(&mut self, thread: String, now: Moment) {
        add(&mut self.logged, thread, now);
    }

    /// Whether the log says so, which is a reason for every pool.
    fn is_logged(&self, thread: &str, now: Moment) -> bool {
        let at = self.logged.get(thread);
        at.is_some_and(|at| now.since(*at) < FRESH)
    }

    fn is_gone(&self, thread: &str, now: Moment) -> bool {
        let at = self.gone.get(thread);
        at.is_some_and(|at| now.since(*at) < FRESH)
    }
}

fn add(to: &mut BTreeMap<String, Moment>, thread: String, now: Moment) {
    to.retain(|_, at| now.since(*at) < FRESH);
    if to.len() < MOST_DEATHS {
        to.insert(thread, now);
    }
}

/// Whom the broker follows.
#[derive(Debug, Clone, Default)]
pub struct Follows {
    /// How many partitions of each live leader.
    pub by_leader: Arc<BTreeMap<i32, u64>>,
    pub read: Moment,
}

/// Metadata that were read so long after a fetcher had ended know of the new leaders for which it ended.
const KNOWS_LEADERS: Duration = Duration::from_secs(2);

/// The threads that the dumps of one process have shown.
#[derive(Debug, Default)]
pub struct ThreadInventory {
    seen: BTreeMap<String, Seen>,
    dumps: u32,
    first_dump: Option<Moment>,
    lacks_some: bool,
}

#[derive(Debug)]
struct Seen {
    pool: Pool,
    /// The most threads with this name in one dump.
    most: usize,
    /// The first and the last dump with that many.
    first: u32,
    last: u32,
    /// How many consecutive dumps until now lacked one, and the time of the first of them.
    lacked: u32,
    since: Moment,
    /// The log said that an error had ended it, and no dump has shown it since.
    died: bool,
}

/// Whether a thread that a dump lacks can have ended regularly.
enum RegularEnd {
    Possible,
    /// Its pool may be replaced by another, as network threads are with their listener, and cleaners with their settings, so
    /// that it is empty for a moment.
    ForAMoment,
    /// One dump is enough, if the kernel lacks the thread too.
    Impossible,
}

impl ThreadInventory {
    /// Takes in the next dump and returns the missing threads. `behind` has, for each leader, the number of its partitions
    /// whose ISR lacks this broker; without it and `follows` fetchers are checked only where `deaths` has one. None until two dumps are
    /// far enough apart, and during a shutdown.
    pub fn observe(
        &mut self,
        dump: &ThreadDump<'_>,
        behind: Option<&BTreeMap<i32, u64>>,
        follows: Option<&Follows>,
        deaths: &Deaths,
        now: Moment,
    ) -> Option<PoolFindings<MissingThread>> {
        self.lacks_some = false;
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
                Pool::of(thread.name).filter(|pool| can_be_checked(*pool, thread.name))
            {
                present.entry(thread.name).or_insert((pool, 0)).1 += 1;
            }
        }
        self.remember(&present, now);
        let pools = self.seen.values().map(|seen| seen.pool);
        let mut checked: BTreeSet<Pool> = pools
            .filter(|pool| *pool != Pool::ReplicaFetcher || behind.is_some())
            .collect();
        let mut missing = Vec::new();
        let mut lacked = BTreeMap::new();
        for (name, seen) in self.seen.iter().filter(|(_, seen)| seen.last != self.dumps) {
            // A fetcher that nothing needs any more must not stay missing: later the ISR decides.
            let died = seen.died && seen.pool != Pool::ReplicaFetcher;
            let sure = if died || deaths.is_logged(name, now) {
                true
            } else {
                match self.regular_end(name, seen, &present, behind, follows) {
                    RegularEnd::Possible => continue,
                    RegularEnd::ForAMoment => false,
                    RegularEnd::Impossible => deaths.is_gone(name, now),
                }
            };
            lacked.insert(name.clone(), sure);
        }
        for (name, seen) in &mut self.seen {
            let Some(sure) = lacked.get(name) else {
                seen.lacked = 0;
                continue;
            };
            if seen.lacked == 0 {
                seen.since = now;
            }
            seen.lacked += 1;
            seen.died |= deaths.is_logged(name, now);
            let is_known = seen.pool != Pool::ReplicaFetcher
                || is_behind(name, behind)
                || follows.is_some_and(|follows| follows.read >= seen.since.plus(KNOWS_LEADERS));
            let lasts = seen.lacked >= DUMPS && now.since(seen.since) >= SPAN && is_known;
            self.lacks_some |= !(*sure || lasts);
            if *sure || lasts {
                checked.insert(seen.pool);
                let pool = seen.pool.name().to_owned();
                let left = present.get(name.as_str()).map_or(0, |(_, count)| *count);
                let count = seen.most - left;
                missing.push(MissingThread {
                    pool,
                    thread: name.clone(),
                    count,
                    since: seen.since,
                });
            }
        }
        (now.since(first) >= SPAN).then(|| Pool::findings(missing, checked))
    }

    /// Whether the last dump lacks threads that count as missing once another dump lacks them too.
    pub fn lacks_some(&self) -> bool {
        self.lacks_some
    }

    fn remember(&mut self, present: &BTreeMap<&str, (Pool, usize)>, now: Moment) {
        let mut free = MAX_NAMES.saturating_sub(self.seen.len());
        for (name, &(pool, count)) in present {
            match self.seen.get_mut(*name) {
                Some(seen) if count > seen.most => {
                    *seen = Seen {
                        most: count,
                        last: self.dumps,
                        died: false,
                        ..*seen
                    }
                }
                Some(seen) if count == seen.most => {
                    (seen.last, seen.died) = (self.dumps, false);
                }
                Some(_) => {}
                None if free > 0 => {
                    free -= 1;
                    let seen = Seen {
                        pool,
                        most: count,
                        first: self.dumps,
                        last: self.dumps,
                        lacked: 0,
                        since: now,
                        died: false,
                    };
                    self.seen.insert((*name).to_owned(), seen);
                }
                None => {}
            }
        }
    }

    /// Whether a thread with a higher number is present that started before this one ended.
    fn higher_stays(
        &self,
        name: &str,
        seen: &Seen,
        present: &BTreeMap<&str, (Pool, usize)>,
    ) -> bool {
        let Some((stem, number)) = numbered(name) else {
            return false;
        };
        let mut others = present
            .iter()
            .filter(|(_, (pool, _))| *pool == seen.pool)
            .map(|(other, _)| *other);
        others.any(|other| {
            // A node that is broker and controller has two pools with these names.
            let is_complete = |other: &&Seen| other.last == self.dumps && other.first <= seen.last;
            let stays = self.seen.get(other).filter(is_complete).is_some();
            stays && numbered(other).is_some_and(|(same, n)| same == stem && n > number)
        })
    }

    fn regular_end(
        &self,
        name: &str,
        seen: &Seen,
        present: &BTreeMap<&str, (Pool, usize)>,
        behind: Option<&BTreeMap<i32, u64>>,
        follows: Option<&Follows>,
    ) -> RegularEnd {
        let in_pool = |pool: Pool| {
            present
                .iter()
                .filter(move |(_, (other, _))| *other == pool)
                .map(|(name, _)| *name)
        };
        let higher_stays = || self.higher_stays(name, seen, present);
        let none_is_left = || in_pool(seen.pool).next().is_none();
        let is_needed = match seen.pool {
            Pool::RequestHandler | Pool::EventProcessor if higher_stays() => {
                return RegularEnd::Impossible;
            }
            Pool::RequestHandler | Pool::EventProcessor => none_is_left(),
            Pool::LogCleaner => higher_stays() || none_is_left(),
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
            // Executors replace a thread that dies, and remove any thread when they shrink.
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
            | Pool::ThrottledReaper => return RegularEnd::Impossible,
            Pool::ReplicaFetcher => {
                let Some(leader) = leader(name) else {
                    return RegularEnd::Possible;
                };
                let followed = follows.and_then(|follows| follows.by_leader.get(&leader));
                let is_needed = is_behind(name, behind) || followed > Some(&0);
                // If other fetchers of that leader are left, this one may just have no partition.
                is_needed
                    && !in_pool(Pool::ReplicaFetcher)
                        .any(|other| self::leader(other) == Some(leader))
            }
            Pool::LogDirFetcher => false,
        };
        match is_needed {
            true => RegularEnd::ForAMoment,
            false => RegularEnd::Possible,
        }
    }
}

/// Whether threads of this name live as long as the broker. Senders of the ZooKeeper controller come and go with brokers,
/// fetchers between log dirs with their moves, reapers of later features perhaps with those.
fn can_be_checked(pool: Pool, name: &str) -> bool {
    match pool {
        Pool::LogDirFetcher => false,
        Pool::Controller => !name.starts_with("Controller-") && !name.starts_with("ZkClient-"),
        Pool::ExpirationReaper => {
            name.starts_with("ExpirationReaper-") || name == "group-coordinator-reaper"
        }
        _ => true,
    }
}

/// The part before the number, and the number: `kafka-request-handler` and 3.
fn numbered(name: &str) -> Option<(&str, u64)> {
    let (stem, number) = name.rsplit_once('-')?;
    Some((stem, number.parse().ok()?))
}

/// 218 of `ReplicaFetcherThread-0-218`.
pub(super) fn leader(name: &str) -> Option<i32> {
    name.strip_prefix("ReplicaFetcherThread-")?
        .split_once('-')?
        .1
        .parse()
        .ok()
}

/// Whether the ISR of partitions of the fetcher's leader lacks the broker.
fn is_behind(fetcher: &str, behind: Option<&BTreeMap<i32, u64>>) -> bool {
    let partitions = leader(fetcher).and_then(|leader| behind?.get(&leader));
    partitions > Some(&0)
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
