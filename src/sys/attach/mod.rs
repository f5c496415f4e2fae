//! HotSpot's dynamic attach, spoken from outside: one `threaddump` or `dumpheap` of one JVM.
//!
//! The order is what keeps it harmless. A [`Target`] pins the process by a descriptor of its `/proc` folder, so a pid
//! that is given out again is never read, signalled or asked. A SIGQUIT, which opens the JVM's attach socket, is sent
//! only where it cannot kill: the process maps libjvm and catches the signal. Everything has one deadline.
//!
//! A sick process can hold a reader of its `/proc` files, and attaching may need another user's rights: so all this
//! runs in a child process of one request each ([`child`]), never in the exporter itself.

pub mod child;
mod heap_dump;
mod protocol;
mod target;
mod trigger;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use child::child_main;
pub use target::Target;

use heap_dump::heap_dump;
use protocol::Socket;
use serde::{Deserialize, Serialize};
use target::Listener;

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
    pub fn reason(&self) -> &'static str {
        match self {
            AttachError::Gone => "gone",
            AttachError::Stopped(_) => "stopped",
            AttachError::NotJvm | AttachError::OpenJ9 => "not_hotspot",
            AttachError::Disabled => "disabled",
            AttachError::NoSignalHandler => "no_signal_handler",
            AttachError::ListenerDead => "listener_dead",
            AttachError::Denied { .. } => "denied",
            AttachError::SignalHeldBack | AttachError::Refused(_) => "refused",
            AttachError::Timeout { .. } => "timeout",
            AttachError::Protocol(_) | AttachError::Io { .. } => "protocol",
        }
    }
}

/// The one clock of an attach: every wait asks it how long it may last.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    fn left(&self, stage: &'static str) -> Result<Duration, AttachError> {
        match self.limit.checked_sub(self.start.elapsed()) {
            Some(left) if !left.is_zero() => Ok(left),
            _ => Err(AttachError::Timeout {
                stage,
                waited: self.start.elapsed(),
            }),
        }
    }
}

/// What a JVM is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    ThreadDump {
        /// Whether to ask for the owners of `java.util.concurrent` locks (`-l`), for which the JVM walks its whole heap
        /// in a pause.
        with_locks: bool,
    },
    /// The JVM stands still while it writes its heap.
    HeapDump {
        /// As the JVM sees it.
        file: PathBuf,
        /// Bytes that remain free on the file's disk.
        min_free: u64,
    },
}

/// What one attach may do.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the call to the last byte.
    pub deadline: Duration,
    /// A longer reply is an error.
    pub max_bytes: usize,
    /// Whether SIGQUIT may be sent to open the socket.
    pub may_signal: bool,
}

/// One reply of the JVM.
#[derive(Debug)]
pub struct Dump {
    pub text: Vec<u8>,
    /// From the request to the last byte.
    pub duration: Duration,
    /// Of the attach protocol: 2 where the JVM buffers the dump before it sends it, else 1.
    pub protocol: u8,
}

/// Takes one thread dump.
///
/// `signalled` becomes true when SIGQUIT was sent, also if this fails afterwards.
///
/// # Errors
/// See [`AttachError`]. After any of them the connection is closed, and the trigger file gone: but after `Timeout` it
/// stays for a JVM that comes late, until the next call without `may_signal`.
pub fn thread_dump(
    target: &Target,
    with_locks: bool,
    limits: Limits,
    signalled: &mut bool,
) -> Result<Dump, AttachError> {
    let deadline = Deadline {
        start: Instant::now(),
        limit: limits.deadline,
    };
    let socket = open_socket(target, limits.may_signal, deadline, signalled)?;
    // JDK 24 and later stream a dump from inside the safepoint, where a slow reader lengthens the pause, unless asked
    // to buffer it. Older ones refuse this question.
    let version = socket.request(target, b"1\0getversion\0options\0\0\0", 4096, deadline)?;
    let buffers = version.code == 0 && protocol::offers_unstreamed(version.body());
    let request: &[u8] = match (buffers, with_locks) {
        (true, false) => b"2\x0023\0threaddump streaming=0\0",
        (true, true) => b"2\x0026\0threaddump streaming=0\0-l\0",
        (false, false) => b"1\0threaddump\0\0\0\0",
        (false, true) => b"1\0threaddump\0-l\0\0\0",
    };
    let start = Instant::now();
    let reply = socket.request(target, request, limits.max_bytes, deadline)?;
    if reply.code != 0 {
        let (code, text) = (reply.code, reply.words());
        return Err(AttachError::Refused(format!(
            "the JVM answered code {code} to `threaddump`: {text}"
        )));
    }
    // The end of the process ends the reply as well: then it is a piece.
    if let Err(AttachError::Gone) = target.check_running() {
        return Err(AttachError::Gone);
    }
    Ok(Dump {
        duration: start.elapsed(),
        text: reply.into_body(),
        protocol: if buffers { 2 } else { 1 },
    })
}

/// The JVM's socket, which it is made to open if it has none.
fn open_socket(
    target: &Target,
    may_signal: bool,
    deadline: Deadline,
    signalled: &mut bool,
) -> Result<Socket, AttachError> {
    let found = Socket::find(target)?;
    if !may_signal {
        trigger::clear(target);
    }
    match found {
        Some(socket) if target.listener() != Listener::Dead => Ok(socket),
        found => {
            target.check_signal_is_safe()?;
            if !may_signal {
                return Err(if found.is_some() {
                    AttachError::ListenerDead
                } else {
                    AttachError::SignalHeldBack
                });
            }
            trigger::open_socket(target, found.as_ref(), deadline, signalled)
        }
    }
}

#[cfg(test)]
mod tests;
