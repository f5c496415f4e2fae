//! Moments, the clock, and how times are written.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970, from a clock that never goes back while the exporter runs (see [`Clock`]).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Moment(pub u64);

impl Moment {
    /// Returns the time from `earlier` to `self`, zero if `earlier` is later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    pub fn minus(self, span: Duration) -> Moment {
        Moment(
            self.0
                .saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    pub fn plus(self, span: Duration) -> Moment {
        Moment(
            self.0
                .saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// Returns seconds since 1970, as Prometheus uses them.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1000.0
    }
}

/// The wall time at the start plus the monotonic time since then, so that a step of the system clock does not change the
/// age of a reading.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    wall: Duration,
    start: Instant,
    /// The time of a replay, in milliseconds.
    replayed: Option<&'static AtomicU64>,
}

impl Clock {
    pub fn start() -> Clock {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Clock {
            wall,
            start: Instant::now(),
            replayed: None,
        }
    }

    /// Makes a clock for a replay: it and all its copies show the time of the last [`Clock::set`]. Call it only once in a
    /// process, because it leaks its memory.
    pub fn replayed() -> Clock {
        Clock {
            replayed: Some(Box::leak(Box::default())),
            ..Clock::start()
        }
    }

    /// Sets the time of a replay. Has no effect on another clock.
    pub fn set(&self, now: Moment) {
        if let Some(at) = self.replayed {
            at.store(now.0, Ordering::Relaxed);
        }
    }

    pub fn now(&self) -> Moment {
        match self.replayed {
            Some(at) => Moment(at.load(Ordering::Relaxed)),
            None => Moment(0).plus(self.wall + self.start.elapsed()),
        }
    }
}

/// Formats the time of day for a person: `10:14:02 UTC`.
pub fn clock_text(at: Moment) -> String {
    let seconds = at.0 / 1000 % 86_400;
    format!(
        "{:02}:{:02}:{:02} UTC",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// Formats date and time by RFC 3339: `2026-11-22T10:14:02Z`.
pub fn rfc3339(at: Moment) -> String {
    humantime::format_rfc3339_seconds(system_time(at)).to_string()
}

/// [`rfc3339`] with milliseconds, for programs.
pub fn rfc3339_millis(at: Moment) -> String {
    humantime::format_rfc3339_millis(system_time(at)).to_string()
}

fn system_time(at: Moment) -> SystemTime {
    // RFC 3339 has four digits for the year.
    const LAST: u64 = 253_402_300_799_000;
    UNIX_EPOCH + Duration::from_millis(at.0.min(LAST))
}

/// Formats a duration for a person: `90 s`, `12 min`, `5 h`, `3 d`.
pub fn duration_text(duration: Duration) -> String {
    seconds_text(duration.as_secs() as f64)
}

/// Formats seconds like [`duration_text`]. They may be more than a [`Duration`] can hold.
pub fn seconds_text(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

/// A duration that is often shorter than a second, for a person: `3 ms`, `2.0 s`, `40 s`.
pub fn brief_text(span: Duration) -> String {
    match span.as_millis() {
        0 => "under 1 ms".into(),
        millis @ 1..1000 => format!("{millis} ms"),
        _ if span.as_secs() < 10 => format!("{:.1} s", span.as_secs_f64()),
        _ => duration_text(span),
    }
}

/// Reads a duration as config files have it: `250ms`, `1s`, `10m`.
pub fn deserialize_duration<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|_| {
        serde::de::Error::custom(format!(
            "`{text}` is not a duration, write e.g. 250ms, 15s or 10m"
        ))
    })
}
