//! One `threaddump` of one JVM.

use std::time::{Duration, Instant};

use super::ask::Limits;
use super::error::{AttachDeadline, AttachError};
use super::protocol;
use super::trigger::find_or_open_socket;
use crate::sys::process::PinnedProcess;

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
    target: &PinnedProcess,
    with_locks: bool,
    limits: Limits,
    signalled: &mut bool,
) -> Result<Dump, AttachError> {
    let deadline = AttachDeadline {
        start: Instant::now(),
        limit: limits.deadline,
    };
    let socket = find_or_open_socket(target, limits.may_signal, deadline, signalled)?;
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
