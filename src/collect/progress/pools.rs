//! The collector `pools`, in passes of `progress`: the CPU time of the threads of each pool, and how long they waited for
//! a core.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::collect::frame::Stamp;
use crate::model::{BrokerSnapshot, CollectorName, Failure, Moment, PoolTime};
use crate::sys::schedstat::Counts;
use crate::threads::pools::Pool;

/// Between two readings.
pub(super) const EVERY: Duration = Duration::from_secs(1);
/// Over so long the averages of [`PoolTime`] are taken.
const WINDOW: Duration = Duration::from_secs(10);

/// The time of each pool, by its name.
pub type PoolTimes = Arc<BTreeMap<String, PoolTime>>;

/// With the time of the pass, as a later one reports it.
pub type Reading = Result<(PoolTimes, Instant), Failure>;

/// One thread in one reading.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolSample {
    pub thread: u32,
    pub pool: Pool,
    pub counts: Counts,
}

/// Adds up what the threads of one process have used.
#[derive(Debug, Default)]
pub(super) struct Pools {
    /// The newest counts of each thread.
    threads: BTreeMap<u32, Counts>,
    /// With the threads that have ended.
    totals: Totals,
    /// The totals of the last [`WINDOW`], and one before.
    recent: VecDeque<(Moment, Totals)>,
}

type Totals = BTreeMap<Pool, Total>;

#[derive(Debug, Clone, Copy, Default)]
struct Total {
    cpu: u64,
    run_queue: u64,
}

impl Pools {
    /// Adds one reading. `is_alive` says whether a thread that is not among the samples still runs: it may be without a
    /// name for a while.
    pub(super) fn add(
        &mut self,
        now: Moment,
        samples: &[PoolSample],
        is_alive: impl Fn(u32) -> bool,
    ) -> PoolTimes {
        let mut before = std::mem::take(&mut self.threads);
        let mut threads: BTreeMap<Pool, u64> = BTreeMap::new();
        for PoolSample {
            thread,
            pool,
            counts,
        } in samples.iter().copied()
        {
            // Lower counts are those of another thread, which got the id of one that has ended.
            let known = before.remove(&thread).filter(|before| {
                before.cpu <= counts.cpu
                    && before.run_queue <= counts.run_queue
                    && before.switches <= counts.switches
            });
            let known = known.unwrap_or_default();
            let total = self.totals.entry(pool).or_default();
            total.cpu += counts.cpu - known.cpu;
            total.run_queue += counts.run_queue - known.run_queue;
            self.threads.insert(thread, counts);
            *threads.entry(pool).or_default() += 1;
        }
        self.threads
            .extend(before.into_iter().filter(|(thread, _)| is_alive(*thread)));
        self.recent.push_back((now, self.totals.clone()));
        // The second one may become the oldest that is needed.
        while self
            .recent
            .get(1)
            .is_some_and(|(at, _)| now.since(*at) >= WINDOW)
        {
            self.recent.pop_front();
        }
        let time = |(pool, total): (&Pool, &Total)| {
            let (cores, waiting) = self.averages(now, *pool, *total).unzip();
            let time = PoolTime {
                threads: threads.get(pool).copied().unwrap_or_default(),
                cpu: Duration::from_nanos(total.cpu),
                run_queue: Duration::from_nanos(total.run_queue),
                cores,
                waiting,
            };
            (pool.name().to_owned(), time)
        };
        Arc::new(self.totals.iter().map(time).collect())
    }

    /// Cores that the pool used, and threads of it that waited for one, on average.
    fn averages(&self, now: Moment, pool: Pool, total: Total) -> Option<(f64, f64)> {
        let (at, before) = self.recent.front()?;
        let (before, nanos) = (before.get(&pool)?, now.since(*at).as_nanos() as f64);
        let cpu = (total.cpu - before.cpu) as f64;
        let run_queue = (total.run_queue - before.run_queue) as f64;
        (nanos > 0.0).then_some((cpu / nanos, run_queue / nanos))
    }
}

pub(super) fn store(broker: &mut BrokerSnapshot, reading: Reading, stamp: Stamp) {
    let stamp = stamp.at_most_every(EVERY);
    let failure = stamp.put_read(&mut broker.pools, reading);
    stamp.finish(broker, CollectorName::Pools, failure.as_ref());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn sample(thread: u32, pool: Pool, cpu: u64, run_queue: u64) -> PoolSample {
        let switches = cpu;
        PoolSample {
            thread,
            pool,
            counts: Counts {
                cpu,
                run_queue,
                switches,
            },
        }
    }

    fn add(pools: &mut Pools, second: u64, samples: &[PoolSample]) -> (Duration, Duration) {
        let times = pools.add(Moment(second * 1000), samples, |_| false);
        let time = times["network"];
        (time.cpu, time.run_queue)
    }

    #[test]
    fn what_a_thread_used_is_kept_when_it_ends() {
        let nanos = |cpu, wait| (Duration::from_nanos(cpu), Duration::from_nanos(wait));
        let mut pools = Pools::default();
        let network = |thread, cpu, wait| sample(thread, Pool::Network, cpu, wait);
        // All that it used before the first reading counts.
        let first = add(&mut pools, 1, &[network(1, 500, 50), network(2, 1000, 100)]);
        assert_eq!(first, nanos(1500, 150));
        let grown = [network(1, 600, 50), network(2, 1000, 101)];
        assert_eq!(add(&mut pools, 2, &grown), nanos(1600, 151));
        // One ends, another one starts.
        let other = [network(1, 700, 50), network(3, 7, 0)];
        assert_eq!(add(&mut pools, 3, &other), nanos(1707, 151));
        // Its id is given out again.
        let reused = [network(1, 10, 5), network(3, 7, 0)];
        assert_eq!(add(&mut pools, 4, &reused), nanos(1717, 156));
        let rest = pools.add(Moment(5000), &[], |_| false);
        assert_eq!(
            (rest["network"].threads, rest["network"].cpu),
            (0, nanos(1717, 0).0)
        );
    }

    #[test]
    fn a_thread_without_a_name_for_a_while_is_not_counted_twice() {
        let mut pools = Pools::default();
        let handler = |cpu| [sample(1, Pool::RequestHandler, cpu, 0)];
        pools.add(Moment(1000), &handler(500), |_| true);
        pools.add(Moment(2000), &[], |thread| thread == 1);
        let times = pools.add(Moment(3000), &handler(800), |_| true);
        assert_eq!(times["request_handler"].cpu, Duration::from_nanos(800));
    }

    #[test]
    fn averages_are_those_of_the_last_seconds() {
        let mut pools = Pools::default();
        let second = 1_000_000_000;
        let mut newest = None;
        for at in 0..30_u64 {
            // Half a core; from the 10th second on a quarter of it, and as long in the queue.
            let busy = at.min(10) * second / 2 + at.saturating_sub(10) * second / 4;
            let queued = at.saturating_sub(10) * second / 4;
            let samples = [
                sample(1, Pool::Network, busy, queued),
                sample(2, Pool::Acceptor, 9, 9),
            ];
            let times = pools.add(Moment(at * 1000), &samples, |_| true);
            let time = times["network"];
            match at {
                0 => assert_eq!((time.cores, time.waiting), (None, None)),
                1..=10 => assert_eq!((time.cores, time.waiting), (Some(0.5), Some(0.0))),
                _ => {}
            }
            newest = Some(times);
        }
        let newest = newest.unwrap();
        let averages = |pool: &str| (newest[pool].cores, newest[pool].waiting);
        assert_eq!(averages("network"), (Some(0.25), Some(0.25)));
        assert_eq!(averages("acceptor"), (Some(0.0), Some(0.0)));
    }
}
