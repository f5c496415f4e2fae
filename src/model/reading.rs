//! Readings: a value with the time at which it was read, or the reason why it is unknown.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::named::named;
use super::{Moment, text};

pub(super) const NOT_READ_YET: &str = "not read yet";

/// A value with its time, or the reason why it is unknown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reading<T> {
    Known {
        value: T,
        at: Moment,
        /// Three intervals of the round that read it. A value older than this is not used.
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

    /// Forgets the value, for this reason.
    pub(super) fn forget(&mut self, reason: &Arc<str>) {
        *self = Reading::unknown(Arc::clone(reason));
    }

    /// Returns the value, if it is known and not too old at `now`.
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

    /// Returns the last known value with its time, even if it is old.
    pub fn last(&self) -> Option<(&T, Moment)> {
        match self {
            Reading::Known { value, at, .. } => Some((value, *at)),
            Reading::Unknown { .. } => None,
        }
    }

    /// Explains to a person why [`Reading::fresh`] returns None.
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
            reason: Arc::from(NOT_READ_YET),
        }
    }
}

/// A reading of any type.
pub trait AnyReading {
    /// When the last known value was read.
    fn taken(&self) -> Option<Moment>;
    /// See [`Reading::reason`].
    fn why_unknown(&self, now: Moment) -> Option<String>;
    /// Whether it was never tried to read it.
    fn is_pending(&self) -> bool;
}

impl<T> AnyReading for Reading<T> {
    fn taken(&self) -> Option<Moment> {
        self.last().map(|(_, at)| at)
    }

    fn why_unknown(&self, now: Moment) -> Option<String> {
        self.reason(now)
    }

    fn is_pending(&self) -> bool {
        matches!(self, Reading::Unknown { reason } if **reason == *NOT_READ_YET)
    }
}

named! {
    /// Why a reading or a probe failed, as labels spell it.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Reason {
        /// No answer within the deadline.
        Timeout = "timeout",
        /// The answer comes, but after the deadline.
        Slow = "slow",
        /// No process listens, or the JVM refuses.
        Refused = "refused",
        /// The connection was closed without an answer.
        Closed = "closed",
        /// TCP got no answer.
        Unreachable = "unreachable",
        /// The answer is not what the protocol allows.
        Protocol = "protocol",
        /// The other side, or the kernel, does not support it.
        Unsupported = "unsupported",
        /// The listener demands a login or a client certificate, and nobody configured one.
        NeedsCredentials = "needs_credentials",
        /// The certificate of the other side is not trusted.
        Certificate = "certificate",
        /// The exporter lacks the right.
        Denied = "denied",
        /// Attaching is switched off in the JVM.
        Disabled = "disabled",
        /// The process is stopped by a signal.
        Stopped = "stopped",
        /// The process has ended, or was restarted.
        Gone = "gone",
        /// The JVM's attach listener is dead.
        ListenerDead = "listener_dead",
        /// The process is not a HotSpot JVM.
        NotHotspot = "not_hotspot",
        /// The JVM does not catch SIGQUIT.
        NoSignalHandler = "no_signal_handler",
        /// All room for answers in flight is taken.
        NoRoom = "no_room",
        /// The kernel reported another error.
        Io = "io",
        /// The collector panicked.
        Internal = "internal",
        /// The settings do not match the broker.
        Config = "config",
        /// The node is a dedicated controller.
        Controller = "controller",
        /// The broker id is unknown.
        NoId = "no_id",
        /// No listener can be asked.
        NoListener = "no_listener",
        /// No topic is visible.
        NoTopic = "no_topic",
        /// The broker runs in a network that the exporter cannot reach.
        OtherNetwork = "other_network",
        /// The broker has just started and does not serve yet.
        Starting = "starting",
        /// /proc cannot be read.
        Unreadable = "unreadable",
        /// No thread can be assigned to a pool.
        Unnamed = "unnamed",
        /// The JVM does not publish it.
        Absent = "absent",
    }
}

impl Reason {
    /// Whether a broker has answered as far as it lets the exporter come, or the exporter trusts it.
    pub fn is_of_access(self) -> bool {
        matches!(
            self,
            Reason::NeedsCredentials | Reason::Certificate | Reason::Denied
        )
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a collector failed. It becomes an unknown reading, never a zero.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub reason: Reason,
    /// For a person: which broker, which file or address, and what to do.
    pub message: String,
}

impl Failure {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Failure {
            reason,
            message: text::message(message),
        }
    }
}
