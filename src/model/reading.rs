//! What was read, with its age, or why it is unknown.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Moment;

/// A known value with its time, or unknown with its reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reading<T> {
    Known {
        value: T,
        at: Moment,
        /// Three intervals of the round that took it; older than this it says nothing of now.
        valid_for: Duration,
    },
    Unknown {
        reason: Arc<str>,
    },
}

impl<T> Reading<T> {
    pub fn unknown(reason: impl Into<Arc<str>>) -> Self {
        Reading::Unknown {
            reason: reason.into(),
        }
    }

    /// The value, if it is known and young enough to speak of `now`.
    pub fn fresh(&self, now: Moment) -> Option<&T> {
        match self {
            Reading::Known {
                value,
                at,
                valid_for,
            } if now.since(*at) <= *valid_for => Some(value),
            _ => None,
        }
    }

    /// The last known value however old, with its time.
    pub fn last(&self) -> Option<(&T, Moment)> {
        match self {
            Reading::Known { value, at, .. } => Some((value, *at)),
            Reading::Unknown { .. } => None,
        }
    }

    /// Why [`Reading::fresh`] gives nothing, for a person.
    pub fn reason(&self, now: Moment) -> Option<String> {
        match self {
            Reading::Unknown { reason } => Some(reason.to_string()),
            Reading::Known { at, valid_for, .. } if now.since(*at) > *valid_for => {
                Some(format!("last read {} s ago", now.since(*at).as_secs()))
            }
            Reading::Known { .. } => None,
        }
    }
}

impl<T> Default for Reading<T> {
    fn default() -> Self {
        Reading::Unknown {
            reason: Arc::from("not read yet"),
        }
    }
}

/// Why a collector has nothing to say. It becomes an unknown reading, never a zero.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// One of a few words, fit for a label: `timeout`, `denied`, `gone`, `refused`, `protocol`, `unsupported` ...
    pub reason: &'static str,
    /// For a person: which broker, which file or address, what to do about it.
    pub message: String,
}

impl Failure {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Failure {
            reason,
            message: message.into(),
        }
    }
}

/// The reason of a [`Failure`]: the process has ended, or was restarted.
pub const GONE: &str = "gone";
