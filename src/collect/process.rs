//! The broker's process as the kernel sees it: open handles, limits, memory.
//!
//! Each reading is followed by a look whether the process is still the same: a process that ends meanwhile leaves
//! shortened files behind, and its id may be given to another.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::model::Failure;
use crate::model::{Broker, ProcessKey, Reason};
use crate::model::{FdKinds, LogDirSpace, ProcessVitals};
use crate::sys::proc::{self, Deadline, FdCounter, OpenFileLimits, ProcError, ProcRoot, Stat};
use crate::sys::rooted::{Rooted, RootedError};

/// What is read every second.
#[derive(Debug, Clone, PartialEq)]
pub struct Pulse {
    /// Open handles.
    pub handles: Result<u64, Failure>,
    pub vitals: Result<ProcessVitals, Failure>,
}

/// What takes longer and is read every slow round.
#[derive(Debug, Clone, PartialEq)]
pub struct Slow {
    pub kinds: Result<FdKinds, Failure>,
    /// Inodes of the broker's sockets: those in no socket table are untracked.
    pub socket_inodes: Result<HashSet<u64>, Failure>,
    pub memory_maps: Result<u64, Failure>,
}

impl Pulse {
    /// All of it, for one reason.
    pub fn unknown(failure: Failure) -> Pulse {
        Pulse {
            handles: Err(failure.clone()),
            vitals: Err(failure),
        }
    }
}

impl Slow {
    /// All of it, for one reason.
    pub fn unknown(failure: Failure) -> Slow {
        Slow {
            kinds: Err(failure.clone()),
            socket_inodes: Err(failure.clone()),
            memory_maps: Err(failure),
        }
    }
}

/// Reads one broker every second.
#[derive(Debug, Default)]
pub struct PulseReader {
    handles: FdCounter,
    /// When they were read.
    limits: Option<(OpenFileLimits, Instant)>,
}

/// Somebody would have to change the limits of a running process.
const LIMITS_LAST: Duration = Duration::from_secs(10);

impl PulseReader {
    /// Reads what is cheap. Blocking, but only as long as the kernel takes to answer.
    pub fn read(&mut self, proc: &ProcRoot, broker: &Broker) -> Pulse {
        let pid = broker.process.pid;
        let (handles, limits) = (self.handles.count(proc, pid), self.limits(proc, pid));
        let unknown = |error| failure(broker, &error);
        let stat = match same_process(proc, broker.process) {
            Ok(stat) => stat,
            Err(error) => return Pulse::unknown(unknown(error)),
        };
        let vitals = limits.map(|limits| ProcessVitals {
            state: stat.state,
            resident_bytes: stat.resident_bytes,
            fd_limit_soft: limits.soft,
            fd_limit_hard: limits.hard,
        });
        Pulse {
            handles: handles.map_err(unknown),
            vitals: vitals.map_err(unknown),
        }
    }

    fn limits(&mut self, proc: &ProcRoot, pid: u32) -> Result<OpenFileLimits, ProcError> {
        let known = self.limits.filter(|(_, at)| at.elapsed() < LIMITS_LAST);
        let (limits, _) = match known {
            Some(known) => known,
            None => *self
                .limits
                .insert((proc.open_file_limits(pid)?, Instant::now())),
        };
        Ok(limits)
    }
}

/// One pulse by itself.
pub fn pulse(proc: &ProcRoot, broker: &Broker) -> Pulse {
    PulseReader::default().read(proc, broker)
}

/// Reads handles by kind and memory maps, each for at most `budget`; what takes longer is unknown. Reading the maps
/// can block while the broker's memory lock is held: not for a thread that serves others.
pub fn slow(proc: &ProcRoot, broker: &Broker, budget: Duration) -> Slow {
    let pid = broker.process.pid;
    let handles = handles_by_kind(proc, pid, Deadline::after(budget));
    let maps = proc.memory_maps(pid, Deadline::after(budget));
    if let Err(error) = same_process(proc, broker.process) {
        return Slow::unknown(failure(broker, &error));
    }
    let (kinds, socket_inodes) = match handles {
        Ok((kinds, inodes)) => (Ok(kinds), Ok(inodes)),
        Err(error) => (Err(failure(broker, &error)), Err(failure(broker, &error))),
    };
    Slow {
        kinds,
        socket_inodes,
        memory_maps: maps.map_err(|error| failure(broker, &error)),
    }
}

/// The file systems of the log dirs, and why one of them is unknown. Can block for as long as a sick disk does.
pub fn log_dirs(proc: &ProcRoot, broker: &Broker) -> (Vec<LogDirSpace>, Option<Failure>) {
    let (pid, name) = (broker.process.pid, broker.name());
    let mut spaces = Vec::new();
    let mut unknown = None;
    match Rooted::open(&proc.file(pid, "root")) {
        Ok(root) => {
            for dir in &broker.log_dirs {
                match root.space(dir) {
                    Ok((free_bytes, total_bytes)) => {
                        spaces.push(LogDirSpace {
                            dir: dir.clone(),
                            free_bytes,
                            total_bytes,
                        });
                    }
                    Err(error) => drop(unknown.get_or_insert(error)),
                }
            }
        }
        Err(error) => unknown = Some(error),
    }
    if let Err(error) = same_process(proc, broker.process) {
        return (Vec::new(), Some(failure(broker, &error)));
    }
    let unknown = unknown.map(|error| match error {
        RootedError::Denied { .. } => Failure::new(
            Reason::Denied,
            format!("{name}: {error}: run kafka-vitals as the broker's user"),
        ),
        error => Failure::new(Reason::Io, format!("{name}: {error}")),
    });
    let none = || {
        Failure::new(
            Reason::Io,
            format!(
                "{name}: its log dirs are unknown: {}",
                broker.problems.join("; ")
            ),
        )
    };
    (
        spaces,
        unknown.or_else(|| broker.log_dirs.is_empty().then(none)),
    )
}

/// Memory mappings that a process of this kernel may have.
pub fn memory_map_limit(proc: &ProcRoot) -> Result<u64, Failure> {
    proc.memory_map_limit()
        .map_err(|error| Failure::new(reason(&error), error.to_string()))
}

/// The `stat` of the process, if it is still the one that was found and has not ended.
fn same_process(proc: &ProcRoot, key: ProcessKey) -> Result<Stat, ProcError> {
    let stat = proc.stat(key.pid)?;
    if stat.start_ticks == key.start_ticks && !stat.ended {
        Ok(stat)
    } else {
        Err(ProcError::Gone { pid: key.pid })
    }
}

fn handles_by_kind(
    proc: &ProcRoot,
    pid: u32,
    deadline: Deadline,
) -> Result<(FdKinds, HashSet<u64>), ProcError> {
    let mut kinds = FdKinds::default();
    let mut inodes = HashSet::new();
    proc.visit_fd_links(pid, deadline, |_, link| {
        *slot(&mut kinds, link) += 1;
        inodes.extend(proc::socket_inode(link));
        ControlFlow::Continue(())
    })?;
    Ok((kinds, inodes))
}

/// Where a handle's link is counted.
pub(crate) fn slot<'a>(kinds: &'a mut FdKinds, link: &[u8]) -> &'a mut u64 {
    if link.starts_with(b"socket:") {
        return &mut kinds.socket;
    } else if link.starts_with(b"pipe:") {
        return &mut kinds.pipe;
    } else if link.starts_with(b"anon_inode:") {
        return &mut kinds.anon;
    }
    let name = proc::file_name(link);
    if name.ends_with(b".jar") {
        return &mut kinds.jar;
    }
    // `00000000000000000042.log`, also as `.log.deleted`, `.log.cleaned`, `.log.swap`: a name of 20 digits, which no
    // application log has.
    let (digits, rest) =
        name.split_at(name.iter().take_while(|byte| byte.is_ascii_digit()).count());
    let extension = rest
        .strip_prefix(b".")
        .unwrap_or_default()
        .split(|byte| *byte == b'.')
        .next()
        .unwrap_or_default();
    match extension {
        b"log" if digits.len() == 20 => &mut kinds.log_segment,
        b"index" | b"timeindex" | b"txnindex" if digits.len() == 20 => &mut kinds.index,
        _ => &mut kinds.other,
    }
}

pub(super) fn failure(broker: &Broker, error: &ProcError) -> Failure {
    let name = broker.name();
    match error {
        ProcError::Gone { .. } => {
            Failure::new(Reason::Gone, format!("{name} has ended or was restarted"))
        }
        error => Failure::new(reason(error), format!("{name}: {error}")),
    }
}

fn reason(error: &ProcError) -> Reason {
    match error {
        ProcError::Gone { .. } => Reason::Gone,
        ProcError::Denied { .. } => Reason::Denied,
        ProcError::Timeout { .. } => Reason::Timeout,
        ProcError::Io { .. } => Reason::Io,
        ProcError::Malformed { .. } => Reason::Protocol,
    }
}

#[cfg(test)]
mod tests;
