//! Which threads of a broker make no progress, from how often the kernel puts them on a CPU.
//!
//! Two signs, both measured on healthy and on deadlocked brokers of 0.10 to 4.3, idle and under load:
//!
//! - Request handlers, network threads and event processors poll, so each wakes at least 2.7 times a second even when
//!   idle. A thread that waits for a lock wakes at most once a second: not never, because on JDK 11 and 17 the first
//!   waiter on a contended monitor checks it once a second. A long pause of the JVM silences them too, but then the
//!   expiration reapers, which poll five times a second, are silent as well.
//! - That one check a second, in a thread that otherwise sleeps for minutes, shows a lock that no polling thread has
//!   needed yet.
//!
//! A third one needs no clock: a thread that writes to a log or sends from it and that the kernel keeps in state `D`,
//! without one switch, waits for a disk. A disk that is only slow wakes its threads again and again.
//!
//! A suspicion is not a verdict: it causes a thread dump.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::pools::Pool;
use crate::model::Moment;

/// The time over which a thread's rate is measured.
pub const WINDOW: Duration = Duration::from_secs(2);
/// A higher rate of switches per second is progress.
const MOST_SWITCHES: f64 = 1.5;
/// More CPU time per second is work.
const MOST_CPU: f64 = 0.005;
/// The least rate of the median reaper while the JVM runs.
const LEAST_CLOCK: f64 = 3.25;
/// How long a thread has a low rate before its state is read.
const CANDIDATE: Duration = Duration::from_secs(1);
/// How long every state read must be asleep.
const ASLEEP: Duration = Duration::from_millis(500);
/// How long the kernel keeps a thread without one switch before it is suspected. An fsync of a busy disk takes a second.
const IN_KERNEL: Duration = Duration::from_secs(3);
/// The most threads whose state is read in one pass: if more are stalled, these are enough for a suspicion.
const CANDIDATES: usize = 32;
/// How much earlier or later than planned a pass may run.
const TOLERANCE: Duration = Duration::from_millis(25);

/// The gap between two checks of a contended monitor, in seconds.
const GAP: (f64, f64) = (0.89, 1.11);
const GAPS: usize = 4;
/// The number of gaps needed if passes are so far apart that other wake-ups may fit the rhythm too.
const COARSE_GAPS: usize = 8;
const COARSE: Duration = Duration::from_millis(400);
/// The most switches and CPU time, in nanoseconds, of one check.
const CHECK_SWITCHES: u64 = 2;
const CHECK_CPU: u64 = 2_000_000;
/// How late a check may be, in seconds, because a woken thread may have to wait for a CPU.
const LATE: f64 = 0.05;
/// Passes that are further apart cannot distinguish one check from two.
const TOO_COARSE: Duration = Duration::from_millis(800);

/// One thread in one pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// An id that is unique while the thread lives.
    pub thread: u32,
    pub pool: Pool,
    /// Nanoseconds on a CPU since it started.
    pub cpu: u64,
    /// How often it was put on a CPU since it started.
    pub switches: u64,
}

/// Whether healthy threads of the pool wake regularly at any load.
pub fn must_move(pool: Pool) -> bool {
    matches!(
        pool,
        Pool::RequestHandler | Pool::Network | Pool::EventProcessor
    )
}

/// Whether healthy threads of the pool never wake once a second.
pub fn shows_rhythm(pool: Pool) -> bool {
    matches!(
        pool,
        Pool::RequestHandler | Pool::Scheduler | Pool::GroupMetadataManager | Pool::Heartbeat
    )
}

/// Whether threads of the pool write logs, or send from them, and are seldom silent for a second otherwise: reading their
/// states costs nothing at rest.
pub fn uses_disks(pool: Pool) -> bool {
    must_move(pool) || matches!(pool, Pool::ReplicaFetcher | Pool::RaftIo)
}

/// Whether the pool shows that the JVM runs.
pub fn is_clock(pool: Pool) -> bool {
    pool == Pool::ExpirationReaper
}

/// Follows the threads of one process from pass to pass.
#[derive(Debug, Default)]
pub struct ProgressDetector {
    now: Moment,
    threads: BTreeMap<u32, Track>,
}

#[derive(Debug)]
struct Track {
    pool: Pool,
    /// The passes of the last [`WINDOW`], and the one before.
    points: VecDeque<Point>,
    /// Since when every read of its state was S.
    asleep_since: Option<Moment>,
    /// Since when every read of its state was D, without a switch.
    in_kernel_since: Option<Moment>,
    /// The time between two passes of each single wake-up.
    checks: VecDeque<(Moment, Moment)>,
    candidate: bool,
    /// It is one only because it was not on a CPU lately.
    only_silent: bool,
}

#[derive(Debug, Clone, Copy)]
struct Point {
    at: Moment,
    cpu: u64,
    switches: u64,
}

/// What a thread did over a span.
#[derive(Debug, Clone, Copy)]
struct Gain {
    seconds: f64,
    cpu: u64,
    switches: u64,
}

impl Gain {
    fn rate(&self) -> f64 {
        self.switches as f64 / self.seconds
    }

    fn is_slow(&self) -> bool {
        self.is_below(MOST_SWITCHES * self.seconds)
    }

    /// Over a span so short that it may contain one check more.
    fn may_be_slow(&self) -> bool {
        self.is_below(MOST_SWITCHES * self.seconds + 1.0)
    }

    fn is_below(&self, switches: f64) -> bool {
        self.switches as f64 <= switches && self.cpu as f64 / 1e9 < MOST_CPU * self.seconds
    }
}

impl ProgressDetector {
    /// Takes in one pass and forgets threads that are not in it. Returns those whose state
    /// [`ProgressDetector::suspects`] needs.
    pub fn take(&mut self, now: Moment, samples: &[Sample]) -> Vec<u32> {
        self.now = now;
        for sample in samples {
            let track = self.threads.entry(sample.thread);
            let track = track.or_insert_with(|| Track::new(sample.pool));
            if !track.continues(sample, now) {
                *track = Track::new(sample.pool);
            }
            track.add(now, sample);
        }
        if self.threads.len() > samples.len() {
            let is_newest = |point: &Point| point.at == now;
            self.threads
                .retain(|_, track| track.points.back().is_some_and(is_newest));
        }
        // Fetchers of an idle cluster are silent, and must not take the places of those that make no progress.
        let [first, silent] = [false, true].map(|only_silent| {
            let asked = move |track: &Track| track.candidate && track.only_silent == only_silent;
            let threads = self.threads.iter();
            threads.filter(move |(_, track)| asked(track))
        });
        let candidates = first.chain(silent).map(|(thread, _)| *thread);
        let mut candidates: Vec<u32> = candidates.take(CANDIDATES).collect();
        candidates.sort_unstable();
        candidates
    }

    /// The suspected threads of the newest pass, with the states (`S`, `D` ...) of the threads that [`ProgressDetector::take`] named,
    /// in the same order.
    pub fn suspects(&mut self, states: &[(u32, char)]) -> Vec<(u32, Pool)> {
        let now = self.now;
        let runs = self.clock().is_some_and(|rate| rate >= LEAST_CLOCK);
        let mut suspected = Vec::new();
        for (thread, track) in &mut self.threads {
            let asleep = track.candidate && states.binary_search(&(*thread, 'S')).is_ok();
            track.asleep_since = asleep.then(|| track.asleep_since.unwrap_or(now));
            let in_kernel = track.candidate && states.binary_search(&(*thread, 'D')).is_ok();
            track.follow_kernel(in_kernel);
            let slow = runs && track.makes_no_progress(now);
            if slow || asleep && track.has_rhythm() || track.is_hung(now) {
                suspected.push((*thread, track.pool));
            }
        }
        suspected
    }

    /// Since when the kernel has kept a suspected thread.
    pub fn in_kernel_since(&self, thread: u32) -> Option<Moment> {
        let track = self.threads.get(&thread)?;
        track.in_kernel_since.filter(|_| track.is_hung(self.now))
    }

    /// Switches per second of the median expiration reaper over the window; None without a reaper.
    pub fn clock(&self) -> Option<f64> {
        let reapers = self.threads.values().filter(|track| is_clock(track.pool));
        let mut rates: Vec<f64> = reapers
            .filter_map(|track| Some(track.over(self.now, WINDOW)?.rate()))
            .collect();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len().checked_sub(1)? / 2).copied()
    }
}

impl Track {
    fn new(pool: Pool) -> Track {
        Track {
            pool,
            points: VecDeque::new(),
            asleep_since: None,
            in_kernel_since: None,
            checks: VecDeque::new(),
            candidate: false,
            only_silent: false,
        }
    }

    /// Whether it is the same thread: a thread id can be reused.
    fn continues(&self, sample: &Sample, now: Moment) -> bool {
        let last = self.points.back();
        self.pool == sample.pool
            && last.is_none_or(|last| {
                last.switches <= sample.switches && last.cpu <= sample.cpu && last.at < now
            })
    }

    fn add(&mut self, now: Moment, sample: &Sample) {
        let point = Point {
            at: now,
            cpu: sample.cpu,
            switches: sample.switches,
        };
        if shows_rhythm(self.pool)
            && let Some(last) = self.points.back().copied()
        {
            self.add_check(last, point);
        }
        self.points.push_back(point);
        // The second point may become the base of the window, so points before it are no longer needed.
        while self
            .points
            .get(1)
            .is_some_and(|second| now.since(second.at) + TOLERANCE >= WINDOW)
        {
            self.points.pop_front();
        }
        let gain = uses_disks(self.pool)
            .then(|| self.over(now, CANDIDATE))
            .flatten();
        let slow = must_move(self.pool) && gain.as_ref().is_some_and(Gain::may_be_slow);
        let silent = gain.is_some_and(|gain| gain.switches == 0);
        self.only_silent = !(slow || self.has_rhythm());
        self.candidate = silent || !self.only_silent;
    }

    /// Takes in whether the newest state was D. It cannot become that without a switch, which is counted when the thread
    /// gets a CPU again: so until it sleeps, the time on a CPU grows.
    fn follow_kernel(&mut self, in_kernel: bool) {
        let counts = |point: &Point| (point.switches, point.cpu);
        let mut newest = self.points.iter().rev();
        let now = newest.next().map(counts);
        let moved = newest.next().map(counts) != now;
        let before = self.in_kernel_since.filter(|_| !moved);
        let mut points = self.points.iter();
        let unmoved = points.find(|point| Some(counts(point)) == now);
        let since = before.or(unmoved.map(|point| point.at));
        self.in_kernel_since = since.filter(|_| in_kernel);
    }

    fn is_hung(&self, now: Moment) -> bool {
        self.in_kernel_since
            .is_some_and(|since| now.since(since) >= IN_KERNEL)
    }

    /// From the newest point at least `span` ago until now.
    fn over(&self, now: Moment, span: Duration) -> Option<Gain> {
        let base = self
            .points
            .iter()
            .rev()
            .find(|point| now.since(point.at) + TOLERANCE >= span)?;
        let last = self.points.back()?;
        let seconds = last.at.since(base.at).as_secs_f64();
        Some(Gain {
            seconds,
            cpu: last.cpu - base.cpu,
            switches: last.switches - base.switches,
        })
    }

    fn makes_no_progress(&self, now: Moment) -> bool {
        must_move(self.pool)
            && self
                .asleep_since
                .is_some_and(|since| now.since(since) >= ASLEEP)
            && self.over(now, WINDOW).is_some_and(|gain| gain.is_slow())
    }

    /// Takes in what happened between two passes.
    fn add_check(&mut self, last: Point, point: Point) {
        let switches = point.switches - last.switches;
        if point.at.since(last.at) > TOO_COARSE
            || switches > CHECK_SWITCHES
            || point.cpu - last.cpu >= CHECK_CPU
        {
            self.checks.clear();
        } else if switches > 0 {
            self.checks.push_back((last.at, point.at));
            while self.checks.len() > self.gaps_needed() + 1 || !evenly_spaced(&self.checks) {
                self.checks.pop_front();
            }
        } else if self
            .checks
            .back()
            .is_some_and(|(begin, _)| last.at.since(*begin).as_secs_f64() > GAP.1 + LATE)
        {
            self.checks.clear();
        }
    }

    fn has_rhythm(&self) -> bool {
        self.checks.len() > self.gaps_needed()
    }

    fn gaps_needed(&self) -> usize {
        let coarse = self
            .checks
            .iter()
            .any(|(begin, end)| end.since(*begin) > COARSE);
        if coarse { COARSE_GAPS } else { GAPS }
    }
}

/// Whether one gap within [`GAP`] can separate all checks, each of which happened within its span.
fn evenly_spaced(checks: &VecDeque<(Moment, Moment)>) -> bool {
    let (mut least, mut most) = GAP;
    for (i, (begin, end)) in checks.iter().enumerate() {
        for (j, (later_begin, later_end)) in checks.iter().enumerate().skip(i + 1) {
            let gaps = (j - i) as f64;
            least = least.max((later_begin.since(*end).as_secs_f64() - LATE) / gaps);
            most = most.min((later_end.since(*begin).as_secs_f64() + LATE) / gaps);
        }
    }
    least <= most
}

#[cfg(test)]
mod tests;
