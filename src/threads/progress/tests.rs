#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

/// Threads that wake by a rule, sampled about every 250 ms.
struct Simulation {
    detector: ProgressDetector,
    now: u64,
    threads: Vec<Thread>,
}

struct Thread {
    pool: Pool,
    state: char,
    /// At which milliseconds it is put on a CPU, and for how many nanoseconds.
    wakes: Box<dyn Fn(u64) -> bool>,
    cost: u64,
    cpu: u64,
    switches: u64,
}

fn thread(pool: Pool, wakes: impl Fn(u64) -> bool + 'static) -> Thread {
    Thread {
        pool,
        state: 'S',
        wakes: Box::new(wakes),
        cost: 50_000,
        cpu: 0,
        switches: 1,
    }
}

fn every(period: u64) -> impl Fn(u64) -> bool {
    move |ms| ms % period == 0
}

/// `before` up to `at`, `after` from then on.
fn then(
    at: u64,
    before: impl Fn(u64) -> bool,
    after: impl Fn(u64) -> bool,
) -> impl Fn(u64) -> bool {
    move |ms| if ms < at { before(ms) } else { after(ms) }
}

fn never(_: u64) -> bool {
    false
}

impl Simulation {
    fn new(threads: Vec<Thread>) -> Simulation {
        Simulation {
            detector: ProgressDetector::default(),
            now: 0,
            threads,
        }
    }

    fn pass(&mut self, gap: u64) -> Vec<usize> {
        for ms in self.now..self.now + gap {
            for thread in self.threads.iter_mut().filter(|thread| (thread.wakes)(ms)) {
                thread.switches += 1;
                thread.cpu += thread.cost;
            }
        }
        self.now += gap;
        let samples: Vec<Sample> = self
            .threads
            .iter()
            .enumerate()
            .map(|(i, t)| Sample {
                thread: i as u32,
                pool: t.pool,
                cpu: t.cpu,
                switches: t.switches,
            })
            .collect();
        let asked = self.detector.take(Moment(self.now), &samples);
        let states: Vec<_> = asked
            .iter()
            .map(|i| (*i, self.threads[*i as usize].state))
            .collect();
        self.detector
            .suspects(&states)
            .into_iter()
            .map(|(thread, _)| thread as usize)
            .collect()
    }

    /// When each suspected thread was first suspected, in milliseconds, until `end`.
    fn run(&mut self, end: u64, gap: u64) -> Vec<(usize, u64)> {
        let mut first: BTreeMap<usize, u64> = BTreeMap::new();
        let mut count = 0;
        while self.now < end {
            count += 1;
            for thread in self.pass(gap + count % 4) {
                first.entry(thread).or_insert(self.now);
            }
        }
        first.into_iter().collect()
    }
}

fn reapers() -> Vec<Thread> {
    (0..3)
        .map(|i| thread(Pool::ExpirationReaper, move |ms| (ms + 70 * i) % 200 == 0))
        .collect()
}

fn with_reapers(thread: Thread) -> Simulation {
    let mut threads = vec![thread];
    threads.extend(reapers());
    Simulation::new(threads)
}

#[test]
fn a_handler_that_stops_is_suspected_after_two_seconds() {
    for pool in [Pool::RequestHandler, Pool::Network, Pool::EventProcessor] {
        // From busy and from idle; silent, and waking once a second as the first waiter of JDK 17 does.
        for (before, after) in [(7, 0), (300, 0), (7, 1000), (300, 1000)] {
            let after = move |ms: u64| after > 0 && ms % after == 137;
            let mut simulation = with_reapers(thread(pool, then(10_000, every(before), after)));
            let found = simulation.run(20_000, 250);
            let &[(0, at)] = found.as_slice() else {
                panic!("{before}: {found:?}")
            };
            assert!(
                (11_000..=12_300).contains(&at),
                "{pool:?} {before}: suspected at {at}"
            );
        }
    }
}

#[test]
fn threads_at_their_measured_worst_are_not_suspected() {
    let table: Vec<(&str, Thread)> = vec![
        (
            "2.7 a second, the slowest handler seen",
            thread(Pool::RequestHandler, every(370)),
        ),
        (
            "gaps of 1.0 s, in a cgroup with 2 % of a CPU",
            thread(Pool::RequestHandler, |ms| {
                [1000, 1300, 1600, 1900, 2200].contains(&(ms % 2201))
            }),
        ),
        (
            "a fetcher of a stuck leader",
            thread(Pool::ReplicaFetcher, never),
        ),
        ("an idle scheduler", thread(Pool::Scheduler, never)),
        (
            "an idle group-metadata-manager",
            thread(Pool::GroupMetadataManager, every(20_000)),
        ),
        (
            "a reaper of one second",
            thread(Pool::ThrottledReaper, every(1000)),
        ),
        ("another executor", thread(Pool::Executor, every(1000))),
        (
            "a scheduler with a task every 2.5 s",
            thread(Pool::Scheduler, every(2500)),
        ),
        (
            "a scheduler with a task twice a second",
            thread(Pool::Scheduler, every(500)),
        ),
        (
            "a scheduler that works once a second",
            Thread {
                cost: 3_000_000,
                ..thread(Pool::Scheduler, every(1000))
            },
        ),
        (
            "a handler that computes",
            Thread {
                cost: 400_000_000,
                ..thread(Pool::RequestHandler, every(1000))
            },
        ),
        (
            "a handler in one fsync of 2.5 s after the other",
            Thread {
                state: 'D',
                ..thread(Pool::RequestHandler, every(2500))
            },
        ),
        (
            "a handler that lacks a CPU",
            Thread {
                state: 'R',
                ..thread(Pool::RequestHandler, never)
            },
        ),
    ];
    for (what, thread) in table {
        let found = with_reapers(thread).run(60_000, 250);
        assert!(found.is_empty(), "{what}: {found:?}");
    }
}

#[test]
fn no_thread_is_suspected_while_the_jvm_is_paused() {
    // A full collection of 6.4 s, and a SIGSTOP of 30 s: everything stops and continues together.
    for pause in [6_400, 30_000] {
        let paused = move |ms: u64| (10_000..10_000 + pause).contains(&ms);
        let mut threads = vec![
            thread(Pool::RequestHandler, move |ms| ms % 300 == 0 && !paused(ms)),
            thread(Pool::Network, move |ms| ms % 300 == 11 && !paused(ms)),
        ];
        threads.extend((0..3).map(|_| {
            thread(Pool::ExpirationReaper, move |ms| {
                ms % 200 == 0 && !paused(ms)
            })
        }));
        let found = Simulation::new(threads).run(60_000, 250);
        assert!(found.is_empty(), "{pause} ms: {found:?}");
    }
    // Without a reaper it is unknown whether the JVM runs.
    let found = Simulation::new(vec![thread(Pool::RequestHandler, never)]).run(60_000, 250);
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn one_reaper_that_hangs_as_well_does_not_stop_the_clock() {
    let mut threads = vec![thread(
        Pool::RequestHandler,
        then(10_000, every(300), never),
    )];
    threads.push(thread(
        Pool::ExpirationReaper,
        then(10_000, every(200), never),
    ));
    threads.extend(reapers());
    assert_eq!(Simulation::new(threads).run(20_000, 250).len(), 1);
}

#[test]
fn the_rhythm_of_a_contended_monitor_is_seen_in_sleeping_threads() {
    for pool in [Pool::Scheduler, Pool::Heartbeat, Pool::GroupMetadataManager] {
        // Each check follows the last after a second or a little more, at any phase of the passes.
        for (period, phase) in [(1000, 0), (1001, 120), (1004, 249), (1030, 77)] {
            let checks = move |ms: u64| (ms + phase).is_multiple_of(period);
            for (gap, least, most) in [(250, 24_000, 28_000), (650, 28_000, 33_000)] {
                let mut simulation = with_reapers(thread(pool, then(20_000, every(7_777), checks)));
                let found = simulation.run(40_000, gap);
                let &[(0, at)] = found.as_slice() else {
                    panic!("{period}: {found:?}")
                };
                assert!(
                    (least..=most).contains(&at),
                    "{pool:?} {period} {phase} {gap}: suspected at {at}"
                );
            }
        }
    }
}

#[test]
fn a_reused_thread_id_starts_over() {
    let mut simulation = with_reapers(thread(Pool::RequestHandler, then(10_000, every(7), never)));
    simulation.run(11_500, 250);
    simulation.threads[0].switches = 1;
    simulation.threads[0].cpu = 0;
    let found = simulation.run(20_000, 250);
    let &[(0, at)] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert!((13_400..14_200).contains(&at), "{at}");
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

        /// At any interval of the passes no thread that polls as healthy ones do is ever suspected, and one that stops
        /// is, soon after the window.
        #[test]
        fn polling_threads_are_never_suspected_and_stopped_ones_always(
            period in 20_u64..370, phase in 0_u64..1000, gap in 230_u64..420, look in prop::option::of(0_u64..1000),
            stop in 5_000_u64..9_000,
        ) {
            let polls = move |ms: u64| (ms + phase).is_multiple_of(period);
            let found = with_reapers(thread(Pool::RequestHandler, polls)).run(20_000, gap);
            prop_assert!(found.is_empty(), "{:?}", found);
            let after = move |ms: u64| look.is_some_and(|look| ms % 1000 == look);
            let found = with_reapers(thread(Pool::RequestHandler, then(stop, polls, after))).run(20_000, gap);
            let at = found.first().map(|(_, at)| *at);
            prop_assert!(at.is_some_and(|at| at > stop && at <= stop + 2_000 + 3 * gap), "{:?}", found);
        }

        /// Any numbers at any times: no panic, and no more suspicions than threads.
        #[test]
        fn any_series_is_accepted(passes in prop::collection::vec(
            (0_u64..5_000, prop::collection::vec((0_u32..4, 0_usize..19, any::<u64>(), any::<u64>()), 0..6)), 0..60)
        ) {
            let mut detector = ProgressDetector::default();
            let mut now = Moment(0);
            for (gap, samples) in passes {
                now = now.plus(Duration::from_millis(gap));
                let samples: Vec<Sample> = samples.into_iter()
                    .map(|(thread, pool, cpu, switches)| Sample { thread, pool: Pool::ALL[pool], cpu, switches })
                    .collect();
                let asked = detector.take(now, &samples);
                let states: Vec<_> = asked.iter().map(|thread| (*thread, 'S')).collect();
                prop_assert!(detector.suspects(&states).len() <= samples.len());
            }
        }
    }
}

/// As with a frozen file system: the thread is in one call, and the JVM may or may not run.
#[test]
fn a_thread_that_the_kernel_keeps_is_suspected_after_three_seconds() {
    for pool in [Pool::RequestHandler, Pool::Network, Pool::ReplicaFetcher] {
        for jvm_runs in [true, false] {
            let mut stuck = thread(pool, then(10_000, every(100), never));
            stuck.state = 'D';
            let mut threads = vec![stuck];
            if jvm_runs {
                threads.extend(reapers());
            }
            let mut simulation = Simulation::new(threads);
            let suspected = simulation.run(20_000, 250);
            let [(0, at)] = suspected[..] else {
                panic!("{pool:?} {jvm_runs}: {suspected:?}")
            };
            assert!((12_900..=13_600).contains(&at), "{pool:?}: {at}");
            let since = simulation.detector.in_kernel_since(0).unwrap();
            assert!((9_600..=10_400).contains(&since.0), "{since:?}");
        }
    }
}

/// A slow disk wakes its threads between two blocks, and one that sleeps waits for no disk.
#[test]
fn threads_at_a_slow_disk_are_not_suspected() {
    for (state, gap) in [('D', 200), ('D', 1_000), ('D', 2_500), ('S', u64::MAX)] {
        let mut slow = thread(Pool::ReplicaFetcher, then(10_000, every(100), every(gap)));
        slow.state = state;
        let mut simulation = with_reapers(slow);
        assert_eq!(simulation.run(60_000, 250), [], "{state} {gap}");
        assert_eq!(simulation.detector.in_kernel_since(0), None);
    }
}

/// The kernel counts a switch when a thread gets a CPU, so one that computes and then writes has no newer one.
#[test]
fn the_time_in_the_kernel_starts_when_the_thread_stops_computing() {
    let mut detector = ProgressDetector::default();
    let mut suspected = Vec::new();
    for ms in (250..=10_000_u64).step_by(250) {
        let sample = Sample {
            thread: 1,
            pool: Pool::ReplicaFetcher,
            cpu: ms.min(6_000) * 1_000_000,
            switches: 7,
        };
        let asked = detector.take(Moment(ms), &[sample]);
        let state = if ms < 6_000 { 'R' } else { 'D' };
        let states: Vec<_> = asked.iter().map(|thread| (*thread, state)).collect();
        if !detector.suspects(&states).is_empty() {
            suspected.push(ms);
        }
    }
    assert_eq!(suspected.first(), Some(&9_000));
    assert_eq!(detector.in_kernel_since(1), Some(Moment(6_000)));
}

#[test]
fn idle_fetchers_do_not_hide_a_handler_that_stops() {
    let idle = |_| thread(Pool::ReplicaFetcher, never);
    let mut threads: Vec<Thread> = (0..40).map(idle).collect();
    threads.push(thread(
        Pool::RequestHandler,
        then(10_000, every(100), never),
    ));
    threads.extend(reapers());
    let suspected = Simulation::new(threads).run(20_000, 250);
    let [(40, at)] = suspected[..] else {
        panic!("{suspected:?}")
    };
    assert!((11_000..=12_300).contains(&at), "{at}");
}
