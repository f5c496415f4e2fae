//! The child process that attaches: this same binary, started once for each request.
//!
//! `kafka-vitals attach-child` takes one argument: a [`Request`] and the exporter's pid, as JSON. It writes one line of
//! JSON ([`Header`]) to standard output, and then exactly `bytes` bytes of thread dump.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::process::{
    Resource, Rlimit, Signal, getegid, geteuid, set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde::{Deserialize, Serialize};

use super::ask::{Ask, Limits};
use super::error::AttachError;
use super::heap_dump::heap_dump;
use super::thread_dump::{Dump, thread_dump};
use crate::model::Reason;
use crate::sys::perf_data::PerfFile;
use crate::sys::process::{PinnedProcess, denied};

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "attach-child";

/// The longest header line. A reader must refuse a longer one.
pub const MAX_HEADER_BYTES: usize = 16 << 10;

/// What the child is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Where procfs is mounted.
    pub proc_root: PathBuf,
    /// The JVM.
    pub pid: u32,
    /// When the JVM started: field 22 of its `stat`.
    pub start_ticks: u64,
    /// Time for the whole request.
    pub deadline: Duration,
    /// A longer reply is an error.
    pub max_bytes: usize,
    /// Whether SIGQUIT may be sent to open the attach socket.
    pub may_signal: bool,
    /// The thread that served the last dump, from its outcome: saves reading the names of all threads.
    pub listener: Option<u32>,
    pub ask: Ask,
}

/// The first line of the child's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub outcome: Outcome,
    /// Whether SIGQUIT was sent.
    pub signalled: bool,
    /// Bytes of thread dump after the line.
    pub bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ok {
        /// From the request to the last byte.
        duration: Duration,
        /// How long the JVM was at safepoints meanwhile, without garbage collection. None if it publishes no performance
        /// data.
        pause: Option<Duration>,
        /// How long the JVM was at safepoints since it started.
        paused: Option<Duration>,
        /// Version of the attach protocol.
        protocol: u8,
        /// The thread that serves the attach socket.
        listener: Option<u32>,
    },
    /// The JVM has written its heap.
    Heap {
        /// Size of the file.
        bytes: u64,
        /// From the request to the answer.
        duration: Duration,
    },
    Error {
        /// [`AttachError::reason`].
        reason: Reason,
        message: String,
        /// As in `Ok`, because the JVM may have paused for a dump that failed.
        pause: Option<Duration>,
    },
}

/// Why the dump failed, and how long the JVM was at safepoints for it.
type Failed = (AttachError, Option<Duration>);

impl Request {
    /// Returns the arguments after the program's name.
    pub fn arguments(&self) -> [String; 2] {
        // Fails only for a path that is not UTF-8. The child then reports that it got no request.
        [
            SUBCOMMAND.to_owned(),
            serde_json::to_string(&(self, std::process::id())).unwrap_or_default(),
        ]
    }
}

/// Runs the child. Call it first in `main`, with the arguments behind [`SUBCOMMAND`], before any thread is started: user
/// ids are switched only for the calling thread.
///
/// The exit status is 0 even if the attach failed, which the header reports; it is 2 for wrong arguments and 1 if nothing
/// could be written.
pub fn child_main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let order = arguments
        .next()
        .and_then(|order| serde_json::from_str(order.to_str()?).ok());
    let Some((request, parent)): Option<(Request, u32)> = order else {
        eprintln!(
            "kafka-vitals {SUBCOMMAND} is started by kafka-vitals itself; for a dump: kafka-vitals threads PID"
        );
        return ExitCode::from(2);
    };
    close_inherited();
    if die_with(parent).is_err() || limit_resources(&request).is_err() {
        return ExitCode::FAILURE;
    }
    let mut signalled = false;
    let result = attach(&request, parent, &mut signalled);
    match write_result(result, signalled) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Returns the outcome and the text of a thread dump.
fn attach(
    request: &Request,
    parent: u32,
    signalled: &mut bool,
) -> Result<(Outcome, Vec<u8>), Failed> {
    let target = reach(request, parent).map_err(|error| (error, None))?;
    target.listener_id.set(request.listener);
    let Request {
        deadline,
        max_bytes,
        may_signal,
        ..
    } = *request;
    let limits = Limits {
        deadline,
        max_bytes,
        may_signal,
    };
    match &request.ask {
        Ask::ThreadDump { with_locks } => {
            let perf_file = PerfFile::open(&target).ok();
            // The JVM's time at safepoints, and for garbage collection, since it started.
            let paused = || {
                let data = perf_file.as_ref()?.read().ok()?;
                Some((data.safepoint_time()?, data.collection_time()?))
            };
            let before = paused();
            let dump = thread_dump(&target, *with_locks, limits, signalled);
            let after = paused();
            let pause =
                before
                    .zip(after)
                    .and_then(|((before, collected_before), (after, collected))| {
                        Some(
                            after
                                .checked_sub(before)?
                                .saturating_sub(collected.checked_sub(collected_before)?),
                        )
                    });
            let dump = dump.map_err(|error| (error, pause))?;
            let Dump {
                text,
                duration,
                protocol,
            } = dump;
            let (paused, listener) = (after.map(|(paused, _)| paused), target.listener_id.get());
            Ok((
                Outcome::Ok {
                    duration,
                    pause,
                    paused,
                    protocol,
                    listener,
                },
                text,
            ))
        }
        Ask::HeapDump { file, min_free } => {
            let written = heap_dump(&target, file, *min_free, limits, signalled);
            let (bytes, duration) = written.map_err(|error| (error, None))?;
            Ok((Outcome::Heap { bytes, duration }, Vec::new()))
        }
    }
}

/// Opens the process and becomes its user.
fn reach(request: &Request, parent: u32) -> Result<PinnedProcess, AttachError> {
    let open = || PinnedProcess::open(&request.proc_root, request.pid, Some(request.start_ticks));
    let target = match open() {
        // Root without CAP_SYS_PTRACE, as in many containers, may read less of the JVM than the JVM's user.
        Err(AttachError::Denied { uid, gid, .. }) if geteuid() != Uid::from_raw(uid) => {
            become_user(uid, gid).map_err(|errno| {
                denied(format!("cannot become the JVM's user ({errno})"), uid, gid)
            })?;
            end_with(parent)?;
            open()?
        }
        opened => opened?,
    };
    match become_user(target.uid, target.gid) {
        Ok(()) => {}
        // Newer JVMs serve root as well, so root without CAP_SETUID goes on.
        Err(Errno::PERM) if geteuid().is_root() => {}
        Err(errno) => return Err(target.denied(format!("cannot become the JVM's user ({errno})"))),
    }
    end_with(parent)?;
    Ok(target)
}

/// Repeats [`die_with`], because the kernel forgets it whenever ids change.
fn end_with(parent: u32) -> Result<(), AttachError> {
    die_with(parent).map_err(|source| AttachError::Io {
        what: "asking the kernel to end this process with its parent".into(),
        source,
    })
}

fn write_result(result: Result<(Outcome, Vec<u8>), Failed>, signalled: bool) -> io::Result<()> {
    let (outcome, text) = result.unwrap_or_else(|(error, pause)| {
        let message = error.to_string().chars().take(2000).collect();
        let reason = error.reason();
        (
            Outcome::Error {
                reason,
                message,
                pause,
            },
            Vec::new(),
        )
    });
    let mut header = serde_json::to_vec(&Header {
        outcome,
        signalled,
        bytes: text.len(),
    })?;
    header.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&header)?;
    out.write_all(&text)?;
    out.flush()
}

/// JDK 8 serves only its own user and group, and a JVM's files should not be touched with more rights than it has.
fn become_user(uid: u32, gid: u32) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    if (geteuid(), getegid()) == (uid, gid) {
        return Ok(());
    }
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

fn die_with(parent: u32) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have ended before that call. Pid 0 means that it is outside this pid namespace.
    let now = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs());
    if now == parent {
        Ok(())
    } else {
        Err(io::ErrorKind::NotConnected.into())
    }
}

fn limit_resources(request: &Request) -> io::Result<()> {
    let bound = |bytes: u64| Rlimit {
        current: Some(bytes),
        maximum: Some(bytes),
    };
    // Room for the reply while its buffer grows, the binary and its libraries.
    let memory = u64::try_from(request.max_bytes)
        .unwrap_or(u64::MAX)
        .saturating_mul(4)
        .saturating_add(256 << 20);
    setrlimit(Resource::As, bound(memory))?;
    setrlimit(Resource::Core, bound(0))?;
    Ok(())
}

/// Closes fds that the exporter itself was started with: they must not reach a process of another user.
fn close_inherited() {
    let Ok(entries) = std::fs::read_dir(Path::new("/proc/self/fd")) else {
        return;
    };
    let open: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        // SAFETY: the process has just started, so no object of this program owns an fd yet. The fd of the listing is
        // closed already, and `close` then only fails.
        let _ = unsafe { libc::close(descriptor) };
    }
}
