//! Time left until something runs out.

use serde::Serialize;

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

use std::time::Duration;

use crate::snapshot::Moment;

/// One level over time, thinned to what a forecast needs.
#[derive(Debug, Clone, Default)]
pub struct Series {
    samples: Vec<(Moment, f64)>,
}

impl Series {
    /// Takes in a sample. An older one than the newest is left out.
    pub fn push(&mut self, at: Moment, level: f64) {
        if self.samples.last().is_none_or(|(last, _)| *last < at) {
            self.samples.push((at, level));
        }
    }

    /// When the level reaches `limit`.
    pub fn forecast(&self, _limit: f64) -> Forecast {
        Forecast::Unknown
    }

    /// For how long the level has grown without coming down; None where it does not leak.
    pub fn leak(&self) -> Option<Duration> {
        None
    }
}
