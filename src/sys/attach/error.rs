//! Why there is no dump, and the one deadline of an attach.

use std::io;
use std::time::{Duration, Instant};

use crate::model::Reason;

/// Why there is no dump. The text lacks the pid, which the caller knows.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("the process ended, or its pid now belongs to another")]
    Gone,
    #[error(
        "the process is stopped (state {0}) and answers nobody until it gets SIGCONT; nothing was sent to it"
    )]
    Stopped(char),
    #[error("the process is no HotSpot JVM: it maps no libjvm.so; nothing was sent to it")]
    NotJvm,
    #[error(
        "the JVM is OpenJ9, which does not speak HotSpot's attach protocol; nothing was sent to it"
    )]
    OpenJ9,
    #[error(
        "the JVM was started with -XX:+DisableAttachMechanism: start it without, or take `kill -QUIT` dumps by hand"
    )]
    Disabled,
    #[error(
        "the JVM has no attach socket and does not catch SIGQUIT, which would kill it (-Xrs, or it starts just now): \
         nothing was sent to it; start it without -Xrs / -XX:+ReduceSignalUsage"
    )]
    NoSignalHandler,
    #[error(
        "the JVM's attach listener is dead: its socket is there and no thread `Attach Listener` serves it, as happens \
         when file handles ran out; it can be had again once handles are free, or after a restart"
    )]
    ListenerDead,
    #[error(
        "the JVM did not open its attach socket after an earlier SIGQUIT; it is not asked again for now, because each \
         signal may print a dump to its standard output"
    )]
    SignalHeldBack,
    #[error("{what}: {remedy}")]
    Denied {
        what: String,
        remedy: String,
        uid: u32,
        gid: u32,
    },
    #[error("{0}")]
    Refused(String),
    #[error("no answer in {} ms while {stage}: the JVM is in a long pause, lacks CPU or hangs", waited.as_millis())]
    Timeout {
        stage: &'static str,
        waited: Duration,
    },
    #[error("{0}")]
    Protocol(String),
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
}

impl AttachError {
    /// One of a few words, fit for a label.
    pub fn reason(&self) -> Reason {
        match self {
            AttachError::Gone => Reason::Gone,
            AttachError::Stopped(_) => Reason::Stopped,
            AttachError::NotJvm | AttachError::OpenJ9 => Reason::NotHotspot,
            AttachError::Disabled => Reason::Disabled,
            AttachError::NoSignalHandler => Reason::NoSignalHandler,
            AttachError::ListenerDead => Reason::ListenerDead,
            AttachError::Denied { .. } => Reason::Denied,
            AttachError::SignalHeldBack | AttachError::Refused(_) => Reason::Refused,
            AttachError::Timeout { .. } => Reason::Timeout,
            AttachError::Protocol(_) | AttachError::Io { .. } => Reason::Protocol,
        }
    }
}

/// The one clock of an attach: every wait asks it how long it may last.
#[derive(Debug, Clone, Copy)]
pub struct AttachDeadline {
    pub start: Instant,
    pub limit: Duration,
}

impl AttachDeadline {
    pub fn left(&self, stage: &'static str) -> Result<Duration, AttachError> {
        match self.limit.checked_sub(self.start.elapsed()) {
            Some(left) if !left.is_zero() => Ok(left),
            _ => Err(AttachError::Timeout {
                stage,
                waited: self.start.elapsed(),
            }),
        }
    }
}
