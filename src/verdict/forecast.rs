//! Time left until something runs out.
//!
//! Levels of a broker are no straight lines: segments roll and are deleted, fleets of clients come and go, counts jitter.
//! So the growth is the [Theil-Sen slope][ts] (the median of the slopes of all pairs: up to 29 % of the points may be
//! anything) over the medians of sixteen parts of a window. The data choose the window: the longest whose growth agrees
//! with that of all shorter ones. A long window averages teeth; a short one is all that is left after a step, or when a
//! leak has just started. If the second half of the window grows clearly faster than the first, the difference continues.
//!
//! How closely windows must agree, and what is growth at all, is measured against the *swing*: how far the level
//! repeatedly strays from its own line within a sixteenth of the history. The second largest of the sixteen counts, so
//! that a single step is no swing and a tooth that fell twice is one: a rise that is not larger than earlier falls is no
//! growth. The peaks, not the middle of the teeth, reach the limit.
//!
//! [ts]: https://en.wikipedia.org/wiki/Theil%E2%80%93Sen_estimator

use std::sync::OnceLock;
use std::time::Duration;

use serde::Serialize;

use crate::model::Moment;

/// When a level reaches its limit.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Forecast {
    /// Nothing grows towards the limit.
    NoneAhead,
    /// Seconds until the limit is reached if the growth continues.
    SecondsLeft(f64),
    #[default]
    Unknown,
}

/// One level over time, thinned to what a forecast needs: about 200 samples over 2.5 hours, the younger the finer.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// The oldest first.
    samples: Vec<Bucket>,
    /// The number of samples at which they are thinned again.
    full: usize,
    /// The trend of these samples, computed on demand.
    trend: OnceLock<Option<Trend>>,
}

/// The level over a short time.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// In seconds since 1970.
    from: f64,
    to: f64,
    count: f64,
    mean: f64,
    low: f64,
    high: f64,
}

/// Where the level goes.
#[derive(Debug, Clone, Copy)]
struct Trend {
    /// Where its peaks are now.
    level: f64,
    growth: Option<Growth>,
    /// For how long it has grown so, if that is a leak.
    leak: Option<Duration>,
}

/// Units per second now, and how much that grows per second.
#[derive(Debug, Clone, Copy)]
struct Growth {
    speed: f64,
    acceleration: f64,
}

const HISTORY: f64 = 9000.0;
const MAX_SAMPLES: usize = 300;
/// Neighbours are merged if they span no more than this share of their age.
const THINNING: f64 = 1.0 / 24.0;
const SHORTEST_WINDOW: f64 = 30.0;
const PARTS: usize = 16;
const CHUNKS: usize = 16;
/// A shorter history gives no forecast.
const MIN_SPAN: f64 = 60.0;
const MIN_LEAK: f64 = 600.0;
/// How many swings a rise must exceed to count; twice as many for a leak, which is reported far from any limit.
const SWINGS: f64 = 1.5;
/// By how many swings the halves of a window must differ to show that growth changes.
const BEND: f64 = 1.5;
/// How much less certain the speed is where growth accelerates.
const ACCELERATION_TOLERANCE: f64 = 4.0;
/// The share of the samples that lies below the peaks.
const PEAK: f64 = 0.9;
/// A leak adds at least this share to the level: segments of a topic that fills up for days add less.
const LEAK_SHARE: f64 = 0.05;

impl Series {
    /// Takes in a sample, unless it is older than the newest.
    pub fn push(&mut self, at: Moment, level: f64) {
        let at = at.seconds();
        if !level.is_finite() || self.samples.last().is_some_and(|last| last.to >= at) {
            return;
        }
        self.samples.push(Bucket {
            from: at,
            to: at,
            count: 1.0,
            mean: level,
            low: level,
            high: level,
        });
        if self.samples.len() >= self.full {
            self.thin(at);
            self.full = self.samples.len() + MAX_SAMPLES / 16;
        }
        self.trend = OnceLock::new();
    }

    fn trend(&self) -> Option<&Trend> {
        self.trend.get_or_init(|| trend(&self.samples)).as_ref()
    }

    fn thin(&mut self, now: f64) {
        let mut thinned: Vec<Bucket> = Vec::with_capacity(self.samples.len());
        for sample in self
            .samples
            .iter()
            .filter(|sample| now - sample.to <= HISTORY)
        {
            match thinned.last_mut() {
                Some(last) if sample.to - last.from <= (now - sample.to) * THINNING => {
                    last.merge(sample)
                }
                _ => thinned.push(*sample),
            }
        }
        let surplus = thinned.len().saturating_sub(MAX_SAMPLES - MAX_SAMPLES / 16);
        thinned.drain(..surplus);
        self.samples = thinned;
    }

    /// When the level reaches `limit`.
    pub fn forecast(&self, limit: f64) -> Forecast {
        let Some(trend) = self.trend() else {
            return Forecast::Unknown;
        };
        let Some(Growth {
            speed,
            acceleration,
        }) = trend.growth
        else {
            return Forecast::NoneAhead;
        };
        // Solves `speed * t + acceleration * t² / 2 = left`, also without acceleration.
        let left = (limit - trend.level).max(0.0);
        let seconds = 2.0 * left / (speed + (speed * speed + 2.0 * acceleration * left).sqrt());
        if seconds.is_finite() {
            Forecast::SecondsLeft(seconds)
        } else {
            Forecast::NoneAhead
        }
    }

    /// For how long the level has grown without coming down; None if that is no leak.
    pub fn leak(&self) -> Option<Duration> {
        self.trend()?.leak
    }
}

impl Bucket {
    fn merge(&mut self, later: &Bucket) {
        let count = self.count + later.count;
        self.mean += (later.mean - self.mean) * later.count / count;
        self.count = count;
        self.to = later.to;
        self.low = self.low.min(later.low);
        self.high = self.high.max(later.high);
    }

    fn at(&self) -> f64 {
        (self.from + self.to) / 2.0
    }

    /// How far its highest and lowest lie above the line through the origin with this slope.
    fn above(&self, slope: f64) -> (f64, f64) {
        let (a, b) = (slope * self.from, slope * self.to);
        (self.high - a.max(b), self.low - a.min(b))
    }
}

/// One part of a window: its time, the median of the means.
type Point = (f64, f64);

/// The medians of the parts of `from..=to`.
fn points(samples: &[Bucket], from: f64, to: f64, parts: usize) -> Vec<Point> {
    let part = |sample: &Bucket| {
        (((sample.at() - from) / (to - from) * parts as f64) as usize).min(parts - 1)
    };
    let begin = samples.partition_point(|sample| sample.at() < from);
    let end = samples.partition_point(|sample| sample.at() <= to);
    let within = samples.get(begin..end).unwrap_or_default();
    let of_part = |group: &[Bucket]| {
        let median = |of: fn(&Bucket) -> f64| quantile(group.iter().map(of).collect(), 0.5);
        (median(Bucket::at), median(|sample| sample.mean))
    };
    within
        .chunk_by(|a, b| part(a) == part(b))
        .map(of_part)
        .collect()
}

fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    let index = ((values.len() as f64 - 1.0) * share).round() as usize;
    if values.is_empty() {
        0.0
    } else {
        *values.select_nth_unstable_by(index, f64::total_cmp).1
    }
}

/// The Theil-Sen slope.
fn slope(points: &[Point]) -> f64 {
    let pairs = points
        .iter()
        .enumerate()
        .flat_map(|(i, a)| points.iter().skip(i + 1).map(move |b| (a, b)));
    quantile(pairs.map(|(a, b)| (b.1 - a.1) / (b.0 - a.0)).collect(), 0.5)
}

/// How far the level repeatedly strays from its own line.
fn swing(samples: &[Bucket], from: f64, now: f64) -> f64 {
    let length = (now - from) / CHUNKS as f64;
    let mut swings: Vec<f64> = (0..CHUNKS)
        .map(|i| from + i as f64 * length)
        .map(|begin| {
            let slope = slope(&points(samples, begin, begin + length, PARTS / 2));
            let within = samples
                .iter()
                .filter(|sample| (begin..=begin + length).contains(&sample.at()));
            let (high, low) = within
                .map(|sample| sample.above(slope))
                .fold((f64::NEG_INFINITY, f64::INFINITY), |(high, low), (h, l)| {
                    (high.max(h), low.min(l))
                });
            high - low
        })
        .collect();
    swings.sort_by(f64::total_cmp);
    // Counts are whole numbers.
    swings
        .iter()
        .rev()
        .nth(1)
        .map_or(1.0, |second| second.max(1.0))
}

fn trend(samples: &[Bucket]) -> Option<Trend> {
    let (from, now) = (samples.first()?.from, samples.last()?.to);
    if now - from < MIN_SPAN {
        return None;
    }
    let swing = SWINGS * swing(samples, from, now);
    let mut chosen = None;
    let mut agreed = (f64::NEG_INFINITY, f64::INFINITY);
    let mut window = SHORTEST_WINDOW;
    while window <= (now - from) * 1.25 {
        let points = points(samples, now - window, now, PARTS);
        if points.len() >= PARTS / 2 {
            let growth = growth(&points, window, swing);
            let parts = if growth.acceleration > 0.0 {
                ACCELERATION_TOLERANCE
            } else {
                1.0
            };
            let tolerance = parts * swing / window;
            agreed = (
                agreed.0.max(growth.speed - tolerance),
                agreed.1.min(growth.speed + tolerance),
            );
            if agreed.0 > agreed.1 {
                break;
            }
            chosen = Some((window, slope(&points), growth));
        }
        window *= 2.0;
    }
    let (window, slope, growth) = chosen?;
    let is_growth = growth.speed > 0.0 && slope * window > swing;
    let recent = samples.iter().filter(|sample| sample.at() >= now - window);
    let peaks = recent.map(|sample| sample.above(slope).0).collect();
    Some(Trend {
        level: quantile(peaks, PEAK) + slope * now,
        growth: is_growth.then_some(growth),
        leak: grown(samples, now, swing).filter(|_| is_growth),
    })
}

/// The growth at the end of the window.
fn growth(points: &[Point], window: f64, swing: f64) -> Growth {
    let half = window / 2.0;
    let (early, late) = points.split_at(points.len() / 2);
    let late_speed = slope(late);
    let change = late_speed - slope(early);
    let (speed, acceleration) = if change * half > BEND * swing {
        (late_speed + change / 2.0, change / half)
    } else if change * half < -BEND * swing {
        // Growth that slows down counts only if the second half is growth by itself.
        let is_growth = late_speed * half > swing;
        (if is_growth { late_speed } else { 0.0 }, 0.0)
    } else {
        (slope(points), 0.0)
    };
    Growth {
        speed,
        acceleration,
    }
}

/// For how long the level has risen without coming down, if that is long and much.
fn grown(samples: &[Bucket], now: f64, swing: f64) -> Option<Duration> {
    let newest = samples.last()?.mean;
    let mut base = newest;
    let mut since = now;
    for sample in samples.iter().rev() {
        if sample.mean - base > swing {
            break;
        } else if sample.mean < base {
            (base, since) = (sample.mean, sample.from);
        }
    }
    let long = now - since >= MIN_LEAK;
    let much = newest - base >= (2.0 * swing).max(LEAK_SHARE * base);
    (long && much).then(|| Duration::from_secs_f64(now - since))
}

#[cfg(test)]
mod tests;
