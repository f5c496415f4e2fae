//! Time left until something runs out.
//!
//! Levels of a broker are no straight lines: segments roll and are deleted, clients come and go in fleets, counts
//! jitter. So the slope is [Theil and Sen's][ts] (the median of the slopes of all pairs: up to 29 % of the points may
//! be anything) over the medians of sixteen parts of a window, and the window is chosen by the data, as Lepski does:
//! the longest whose slope agrees with those of all the shorter ones. A long one averages teeth away; a short one is
//! all that is left after a step, or when a leak has just begun.
//!
//! How closely slopes must agree, and what is growth at all, is measured against the *swing*: how far the level
//! repeatedly strays from its own line within an eighth of the history. The second largest of the eight counts, so
//! that a single step is no swing, and a tooth that came down twice is one: a rise which is not larger than what came
//! down before is no growth. The limit is met by the peaks: they, and not the middle of the teeth, are led to it.
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
    /// Seconds until the limit is reached if growth goes on as it is.
    SecondsLeft(f64),
    #[default]
    Unknown,
}

/// One level over time, thinned to what a forecast needs: the finer the younger, some 200 samples over 2.5 hours.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// The oldest first.
    samples: Vec<Sample>,
    /// How many samples lead to the next thinning.
    full: usize,
    /// Of these samples; empty until somebody asks.
    trend: OnceLock<Option<Trend>>,
}

/// What the level did over a short time.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// Seconds since 1970.
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
    course: Course,
    /// For how long it has grown so, where that is a leak.
    leak: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Course {
    Flat,
    /// It has risen, but not steadily: a step, or the begin of growth.
    Unclear,
    /// Units a second.
    Steady(f64),
    /// Units a second now, and by how much its root grows a second.
    Faster(f64, f64),
    /// Units a second now, and the share that it loses a second.
    Slower(f64, f64),
}

const HISTORY: f64 = 9000.0;
const MAX_SAMPLES: usize = 300;
/// Neighbours become one sample where they span no more than this share of their age.
const THINNING: f64 = 1.0 / 24.0;
const SHORTEST_WINDOW: f64 = 30.0;
const PARTS: usize = 16;
const CHUNKS: usize = 16;
/// Below this span nothing is said.
const MIN_SPAN: f64 = 60.0;
const MIN_LEAK: f64 = 600.0;
/// Rises count from so many swings on; for a leak, which nobody asks about near a limit, from twice as many.
const SWINGS: f64 = 1.5;
/// A leak adds at least this share to the level: segments of a topic that fills up for days add less.
const LEAK_SHARE: f64 = 0.05;

impl Series {
    /// Takes in a sample. An older one than the newest is left out.
    pub fn push(&mut self, at: Moment, level: f64) {
        let at = at.seconds();
        if !level.is_finite() || self.samples.last().is_some_and(|last| last.to >= at) {
            return;
        }
        self.samples.push(Sample {
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
        let mut thinned: Vec<Sample> = Vec::with_capacity(self.samples.len());
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
        let room = (limit - trend.level).max(0.0);
        let seconds = match trend.course {
            Course::Flat => f64::INFINITY,
            Course::Unclear => return Forecast::Unknown,
            Course::Steady(speed) => room / speed,
            // The root of the speed grows evenly: between a speed that grows evenly and one that grows by shares.
            Course::Faster(speed, gain) => {
                ((speed.powf(1.5) + 3.0 * gain * room).cbrt() - speed.sqrt()) / gain
            }
            Course::Slower(speed, loss) if loss * room < speed => {
                -(1.0 - loss * room / speed).ln() / loss
            }
            Course::Slower(..) => f64::INFINITY,
        };
        if seconds.is_finite() {
            Forecast::SecondsLeft(seconds)
        } else {
            Forecast::NoneAhead
        }
    }

    /// For how long the level has grown without coming down; None where it does not leak.
    pub fn leak(&self) -> Option<Duration> {
        self.trend()?.leak
    }
}

impl Sample {
    fn merge(&mut self, later: &Sample) {
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

    /// How far its highest and lowest lie above the line through the origin, which may rise within it.
    fn above(&self, slope: f64) -> (f64, f64) {
        let (a, b) = (slope * self.from, slope * self.to);
        (self.high - a.max(b), self.low - a.min(b))
    }
}

/// One part of a window: its time, the median of the means.
type Point = (f64, f64);

/// The medians of the parts of `from..=to`.
fn points(samples: &[Sample], from: f64, to: f64, parts: usize) -> Vec<Point> {
    let part = |sample: &Sample| {
        (((sample.at() - from) / (to - from) * parts as f64) as usize).min(parts - 1)
    };
    let begin = samples.partition_point(|sample| sample.at() < from);
    let end = samples.partition_point(|sample| sample.at() <= to);
    let within = samples.get(begin..end).unwrap_or_default();
    let of_part = |group: &[Sample]| {
        let median = |of: fn(&Sample) -> f64| quantile(group.iter().map(of).collect(), 0.5);
        (median(Sample::at), median(|sample| sample.mean))
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

/// Theil and Sen's.
fn slope(points: &[Point]) -> f64 {
    let pairs = points
        .iter()
        .enumerate()
        .flat_map(|(i, a)| points.iter().skip(i + 1).map(move |b| (a, b)));
    quantile(pairs.map(|(a, b)| (b.1 - a.1) / (b.0 - a.0)).collect(), 0.5)
}

/// How far the level repeatedly strays from its own line.
fn swing(samples: &[Sample], from: f64, now: f64) -> f64 {
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
    // Counts are whole.
    swings
        .iter()
        .rev()
        .nth(1)
        .map_or(1.0, |second| second.max(1.0))
}

fn trend(samples: &[Sample]) -> Option<Trend> {
    let (from, now) = (samples.first()?.from, samples.last()?.to);
    if now - from < MIN_SPAN {
        return None;
    }
    let swing = SWINGS * swing(samples, from, now);
    let mut chosen: Option<(f64, Vec<Point>, f64)> = None;
    let mut bent = None;
    let mut agreed = (f64::NEG_INFINITY, f64::INFINITY);
    let mut agrees = true;
    let mut window = SHORTEST_WINDOW;
    while window <= (now - from) * 1.25 {
        let points = points(samples, now - window, now, PARTS);
        if points.len() >= PARTS / 2 {
            bent = bend(&points, window, swing)
                .map(|course| (window, course))
                .or(bent);
            let slope = slope(&points);
            agreed = (
                agreed.0.max(slope - swing / window),
                agreed.1.min(slope + swing / window),
            );
            agrees &= agreed.0 <= agreed.1;
            if agrees {
                chosen = Some((window, points, slope));
            }
        }
        window *= 2.0;
    }
    let (window, points, slope) = chosen?;
    let rise = slope * window;
    let later = points.get(points.len() / 2..).unwrap_or_default();
    let course = match bent {
        // A long straight line that teeth bend for a while is no bend.
        Some((bend, course)) if bend >= window => course,
        _ if rise <= swing => Course::Flat,
        _ if self::slope(later) * window / 2.0 < rise / 4.0 - swing => Course::Unclear,
        _ => Course::Steady(slope),
    };
    let middle = quantile(
        points
            .iter()
            .map(|point| point.1 - slope * point.0)
            .collect(),
        0.5,
    );
    let peaks = samples.iter().filter(|sample| sample.at() >= now - window);
    let peaks: Vec<Sample> = peaks.copied().collect();
    let part = |sample: &Sample| ((now - sample.at()) / window * PARTS as f64) as usize;
    let highest = |group: &[Sample]| {
        group
            .iter()
            .map(|sample| sample.above(slope).0)
            .fold(f64::NEG_INFINITY, f64::max)
    };
    let peak = quantile(
        peaks
            .chunk_by(|a, b| part(a) == part(b))
            .map(highest)
            .collect(),
        0.8,
    );
    let leak = matches!(course, Course::Steady(_) | Course::Faster(..))
        .then(|| grown(samples, now, swing))
        .flatten();
    // What lies higher is of another time: the line went through a step.
    let peak = peak.min(middle + swing);
    Some(Trend {
        level: peak + slope * now,
        course,
        leak,
    })
}

/// Since when the level has risen without coming down, where that is long and much.
fn grown(samples: &[Sample], now: f64, swing: f64) -> Option<Duration> {
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

/// Growth that becomes faster or slower from quarter to quarter of the window.
fn bend(points: &[Point], window: f64, swing: f64) -> Option<Course> {
    if points.len() < PARTS - 2 {
        return None;
    }
    let quarter = window / 4.0;
    let mut quarters = points.chunks(points.len().div_ceil(4)).map(slope);
    let [a, b, c, d] = [
        quarters.next()?,
        quarters.next()?,
        quarters.next()?,
        quarters.next()?,
    ];
    let steps = [b - a, c - b, d - c];
    let least = steps
        .iter()
        .copied()
        .fold(f64::INFINITY, |least, step| least.min(step.abs()));
    let most = steps
        .iter()
        .copied()
        .fold(0.0, |most: f64, step| most.max(step.abs()));
    let one_way = steps.iter().all(|step| *step > 0.0) || steps.iter().all(|step| *step < 0.0);
    let significant = (d - a).abs() * quarter > swing && least * 8.0 >= most;
    if !one_way || !significant || c <= 0.0 || d <= 0.0 {
        return None;
    }
    if d < c {
        let loss = (c / d).ln() / quarter;
        return Some(Course::Slower(d * (-loss * quarter / 2.0).exp(), loss));
    }
    let gain = (d.sqrt() - c.sqrt()) / quarter;
    Some(Course::Faster(
        (d.sqrt() + gain * quarter / 2.0).powi(2),
        gain,
    ))
}

#[cfg(test)]
mod tests;
