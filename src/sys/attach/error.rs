//! Why a dump failed, and the deadline of an attach.

use std::io;
use std::time::{Duration, Instant};

use crate::model::Reason;

/// Why a dump failed. The text lacks the pid, which the caller adds.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("the process ended, or its pid now belongs to another process")]
    Gone,
    #[error(
        "the process is stopped (state {0}) and cannot answer until it gets SIGCONT; nothing was sent to it"
    )]
    Stopped(char),
    #[error(
        "the process is not a HotSpot JVM, because it maps no libjvm.so; nothing was sent to it"
    )]
    NotJvm,
    #[error(
        "the JVM is OpenJ9, which does not speak HotSpot's attach protocol; nothing was sent to it"
    )]
    OpenJ9,
    #[error(
        "the JVM was started with -XX:+DisableAttachMechanism: start it without, or take dumps by hand with `kill -QUIT`"
    )]
    Disabled,
    #[error(
        "the JVM has no attach socket and does not catch SIGQUIT, which would kill it; nothing was sent to it. If it is \
         not just starting, start it without -Xrs / -XX:+ReduceSignalUsage"
    )]
    NoSignalHandler,
    #[error(
        "the JVM's attach listener is dead: its socket exists but no thread `Attach Listener` serves it, as happens \
         after file handles ran out; it may come back once file handles are free, or after a restart"
    )]
    ListenerDead,
    #[error(
        "the JVM did not open its attach socket after an earlier SIGQUIT; no other signal is sent for now, because each \
         one may print a dump to its standard output"
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
    #[error("the JVM did not answer in {} ms while {stage}: it is in a long pause, lacks CPU or hangs", waited.as_millis())]
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
    /// Returns the reason as labels have it.
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

/// When an attach has to end. Every wait asks it how long it may last.
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
