//! Which threads of a broker have stopped moving, told by how often the kernel puts them on a CPU.
//!
//! Two signs, both measured on healthy and on deadlocked brokers of 0.10 to 4.3, idle and under load:
//!
//! - Request handlers, network threads and event processors poll, so that each moves at least 2.7 times a second even
//!   when idle. One that waits for a lock moves at most once a second: not zero times, because on JDK 11 and 17 the
//!   first waiter on a contended monitor looks once a second whether it is free. A long pause of the JVM silences them
//!   too, but then the expiration reapers, which poll five times a second, stand still as well.
//! - That one look a second, in a thread that else sleeps for minutes, tells of a lock that polling threads have not
//!   met yet.
//!
//! A suspicion is not a verdict: it asks for a thread dump.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::pools::Pool;
use crate::model::Moment;

/// Over so long a thread's rate is judged.
pub const WINDOW: Duration = Duration::from_secs(2);
/// More switches a second are progress.
const MOST_SWITCHES: f64 = 1.5;
/// More CPU a second is work.
const MOST_CPU: f64 = 0.005;
/// The median reaper of a JVM that runs.
const LEAST_CLOCK: f64 = 3.25;
/// After so long at a low rate the thread's state is looked at.
const CANDIDATE: Duration = Duration::from_secs(1);
/// For so long it must be seen asleep, and nothing else.
const ASLEEP: Duration = Duration::from_millis(500);
/// Whose state is looked at in one pass: where more threads stand still, these few are enough to suspect.
const CANDIDATES: usize = 32;
/// Passes come a little early or late.
const TOLERANCE: Duration = Duration::from_millis(25);

/// Gaps between the looks at a contended monitor.
const GAP: (f64, f64) = (0.89, 1.11);
const GAPS: usize = 4;
/// Where passes are so far apart that a wake-up at another time may look the same.
const COARSE_GAPS: usize = 8;
const COARSE: Duration = Duration::from_millis(400);
/// Switches and CPU of one look.
const LOOK_SWITCHES: u64 = 2;
const LOOK_CPU: u64 = 2_000_000;
/// A woken thread may have to wait for a CPU, so that a look comes late.
const LATE: f64 = 0.05;
/// Passes further apart cannot tell one look from two.
const TOO_COARSE: Duration = Duration::from_millis(800);

/// One thread in one pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Any id that is the thread's own while it lives.
    pub thread: u32,
    pub pool: Pool,
    /// Nanoseconds on a CPU since it began.
    pub cpu: u64,
    /// How often it was put on a CPU since it began.
    pub switches: u64,
}

/// Whether threads of a pool move at a rate of their own, whatever the broker's load.
pub fn must_move(pool: Pool) -> bool {
    matches!(
        pool,
        Pool::RequestHandler | Pool::Network | Pool::EventProcessor
    )
}

/// Whether one wake-up a second is no habit of the pool's healthy threads.
pub fn shows_rhythm(pool: Pool) -> bool {
    matches!(
        pool,
        Pool::RequestHandler | Pool::Scheduler | Pool::GroupMetadataManager | Pool::Heartbeat
    )
}

/// Whether the pool tells that the JVM runs.
pub fn is_clock(pool: Pool) -> bool {
    pool == Pool::ExpirationReaper
}

/// Follows the threads of one process from pass to pass.
#[derive(Debug, Default)]
pub struct Watch {
    now: Moment,
    threads: BTreeMap<u32, Track>,
}

#[derive(Debug)]
struct Track {
    pool: Pool,
    /// The passes of the last [`WINDOW`], and one before.
    points: VecDeque<Point>,
    /// Since when its state was asked for and was S each time.
    asleep_since: Option<Moment>,
    /// Each single wake-up, between two passes.
    looks: VecDeque<(Moment, Moment)>,
    candidate: bool,
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

    fn hardly_moves(&self) -> bool {
        self.is_below(MOST_SWITCHES * self.seconds)
    }

    /// Over a span so short that looks once a second are two as often as one.
    fn may_hardly_move(&self) -> bool {
        self.is_below(MOST_SWITCHES * self.seconds + 1.0)
    }

    fn is_below(&self, switches: f64) -> bool {
        self.switches as f64 <= switches && self.cpu as f64 / 1e9 < MOST_CPU * self.seconds
    }
}

impl Watch {
    /// Takes one pass in; threads that are not in it are forgotten. Returns those whose state [`Watch::judge`] needs.
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
        let candidates = self
            .threads
            .iter()
            .filter(|(_, track)| track.candidate)
            .map(|(thread, _)| *thread);
        candidates.take(CANDIDATES).collect()
    }

    /// The suspected threads of the newest pass, with the states (`S`, `D` ...) of the threads that [`Watch::take`] named,
    /// in the same order.
    pub fn judge(&mut self, states: &[(u32, char)]) -> Vec<(u32, Pool)> {
        let now = self.now;
        let runs = self.clock().is_some_and(|rate| rate >= LEAST_CLOCK);
        let mut suspected = Vec::new();
        for (thread, track) in &mut self.threads {
            let asleep = track.candidate && states.binary_search(&(*thread, 'S')).is_ok();
            track.asleep_since = asleep.then(|| track.asleep_since.unwrap_or(now));
            if runs && track.hardly_moves(now) || asleep && track.has_rhythm() {
                suspected.push((*thread, track.pool));
            }
        }
        suspected
    }

    /// Switches a second of the median expiration reaper over the window; None while there is none to tell.
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
            looks: VecDeque::new(),
            candidate: false,
        }
    }

    /// Not so for another thread of the same id.
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
            self.look(last, point);
        }
        self.points.push_back(point);
        // The second point may become the base of the window: what is before it never will again.
        while self
            .points
            .get(1)
            .is_some_and(|second| now.since(second.at) + TOLERANCE >= WINDOW)
        {
            self.points.pop_front();
        }
        let slow = must_move(self.pool)
            && self
                .over(now, CANDIDATE)
                .is_some_and(|gain| gain.may_hardly_move());
        self.candidate = slow || self.has_rhythm();
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

    fn hardly_moves(&self, now: Moment) -> bool {
        must_move(self.pool)
            && self
                .asleep_since
                .is_some_and(|since| now.since(since) >= ASLEEP)
            && self
                .over(now, WINDOW)
                .is_some_and(|gain| gain.hardly_moves())
    }

    /// Takes in what happened between two passes.
    fn look(&mut self, last: Point, point: Point) {
        let switches = point.switches - last.switches;
        if point.at.since(last.at) > TOO_COARSE
            || switches > LOOK_SWITCHES
            || point.cpu - last.cpu >= LOOK_CPU
        {
            self.looks.clear();
        } else if switches > 0 {
            self.looks.push_back((last.at, point.at));
            while self.looks.len() > self.gaps_needed() + 1 || !evenly_spaced(&self.looks) {
                self.looks.pop_front();
            }
        } else if self
            .looks
            .back()
            .is_some_and(|(begin, _)| last.at.since(*begin).as_secs_f64() > GAP.1 + LATE)
        {
            self.looks.clear();
        }
    }

    fn has_rhythm(&self) -> bool {
        self.looks.len() > self.gaps_needed()
    }

    fn gaps_needed(&self) -> usize {
        let coarse = self
            .looks
            .iter()
            .any(|(begin, end)| end.since(*begin) > COARSE);
        if coarse { COARSE_GAPS } else { GAPS }
    }
}

/// Whether there can be one gap, within [`GAP`], that separates all looks, each of which happened within its span.
fn evenly_spaced(looks: &VecDeque<(Moment, Moment)>) -> bool {
    let (mut least, mut most) = GAP;
    for (i, (begin, end)) in looks.iter().enumerate() {
        for (j, (later_begin, later_end)) in looks.iter().enumerate().skip(i + 1) {
            let gaps = (j - i) as f64;
            least = least.max((later_begin.since(*end).as_secs_f64() - LATE) / gaps);
            most = most.min((later_end.since(*begin).as_secs_f64() + LATE) / gaps);
        }
    }
    least <= most
}

#[cfg(test)]
mod tests;
