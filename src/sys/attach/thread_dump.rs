//! Takes a thread dump: the command `threaddump`.

use std::time::{Duration, Instant};

use super::ask::Limits;
use super::error::{AttachDeadline, AttachError};
use super::protocol;
use super::trigger::find_or_open_socket;
use crate::sys::process::PinnedProcess;

/// A dump as the JVM printed it.
#[derive(Debug)]
pub(super) struct Dump {
    pub text: Vec<u8>,
    /// From the request to the last byte.
    pub duration: Duration,
    /// Version of the attach protocol: 2 if the JVM buffers the dump before it sends it, else 1.
    pub protocol: u8,
}

/// Takes one thread dump.
///
/// `signalled` becomes true when SIGQUIT was sent, even if the dump fails afterwards.
///
/// # Errors
/// See [`AttachError`]. The connection is then closed and the trigger file removed. Only after `Timeout` the file stays,
/// for a JVM that is late, until the next call without `may_signal`.
pub(super) fn thread_dump(
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
    // Unless they are asked to buffer the dump, JDK 24 and later stream it inside the safepoint, so that a slow reader
    // lengthens the pause. Older JVMs refuse this question.
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
    // If the process ended, the reply may be cut.
    if let Err(AttachError::Gone) = target.check_running() {
        return Err(AttachError::Gone);
    }
    Ok(Dump {
        duration: start.elapsed(),
        text: reply.into_body(),
        protocol: if buffers { 2 } else { 1 },
    })
}
