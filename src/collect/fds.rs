//! The collector `fds`: open fds by what they lead to. In its pass runs [`connections`], which needs the inodes of the
//! sockets among them.

pub mod connections;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use self::connections::Connections;
use super::context::BrokerContext;
use super::frame::{BlockingCollector, Collector, Description, RunsOn, Stamp};
use super::process::{failure, same_process};
use crate::model::{Broker, BrokerSnapshot, CollectorName, Failure, FdKinds, Reason};
use crate::sys::proc::{self, Deadline, ProcRoot};

/// Walks over the fds of one process.
#[derive(Debug)]
pub struct Fds {
    proc: ProcRoot,
    broker: Arc<Broker>,
    /// None where the collector is switched off.
    connections: Option<Connections>,
}

/// What one pass reads.
#[derive(Debug)]
pub struct Pass {
    pub kinds: Result<FdKinds, Failure>,
    /// Those that the broker has given up.
    pub offline_log_dirs: Result<Vec<PathBuf>, Failure>,
    /// None where the collector is switched off.
    pub connections: Option<Result<connections::Owned, Failure>>,
}

impl Collector for Fds {
    const DESCRIPTION: Description = Description {
        name: CollectorName::Fds,
        ceiling: 0.002,
        deadline: Duration::from_secs(20),
    };
    type Value = Pass;

    fn store(broker: &mut BrokerSnapshot, result: Result<Pass, Failure>, stamp: Stamp) {
        let pass = result.unwrap_or_else(|failure| {
            // Where they were never read, they may be switched off.
            let are_on = broker.collectors.contains_key(&CollectorName::Connections);
            Pass {
                kinds: Err(failure.clone()),
                offline_log_dirs: Err(failure.clone()),
                connections: are_on.then_some(Err(failure)),
            }
        });
        stamp.put(&mut broker.offline_log_dirs, pass.offline_log_dirs);
        let failure = stamp.put(&mut broker.fd_kinds, pass.kinds);
        stamp.finish(broker, CollectorName::Fds, failure.as_ref());
        if let Some(connections) = pass.connections {
            connections::store(broker, connections, stamp);
        }
    }
}

impl BlockingCollector for Fds {
    const RUNS_ON: RunsOn = RunsOn::OwnThread;
    const WAITS_FOR_DUMP: bool = true;
    const CEILING_WHILE_SUSPECT: Option<f64> = Some(0.001);

    fn new(context: &BrokerContext) -> Fds {
        let is_on = context.config.collectors.is_on(CollectorName::Connections);
        Fds {
            proc: context.proc.clone(),
            broker: Arc::clone(&context.broker),
            connections: is_on.then(|| Connections::new(context, Self::DESCRIPTION.deadline)),
        }
    }

    fn collect(&mut self) -> Result<Pass, Failure> {
        let walk = || read(&self.proc, &self.broker, Self::DESCRIPTION.deadline / 2);
        let walked = walk();
        let mut again = || walk().map(|walked| walked.inodes);
        let connections = self.connections.as_mut();
        let connections = connections.map(|owned| {
            let walked = walked.as_ref().map_err(Failure::clone)?;
            owned.collect(&self.broker, &walked.inodes, &mut again)
        });
        let known = walked.as_ref().map_err(Failure::clone);
        Ok(Pass {
            offline_log_dirs: known.and_then(|walked| walked.offline_log_dirs(&self.broker)),
            kinds: walked.map(|walked| walked.kinds),
            connections,
        })
    }
}

/// What the fds of a process lead to.
#[derive(Debug, Default, PartialEq)]
pub struct Walked {
    pub kinds: FdKinds,
    /// Of the sockets.
    pub inodes: HashSet<u64>,
    /// The first folders whose file `.lock` is open.
    locks: Vec<PathBuf>,
}

impl Walked {
    /// The log dirs that the broker has given up.
    ///
    /// # Errors
    /// If its log dirs are uncertain, or its locks have other names than they.
    pub fn offline_log_dirs(&self, broker: &Broker) -> Result<Vec<PathBuf>, Failure> {
        let failure = |why: &str| Failure::new(Reason::Absent, format!("{}: {why}", broker.name()));
        if broker.log_dirs_uncertain {
            return Err(failure(
                "which log dirs it started with is uncertain: its server.properties was not read, or was changed since",
            ));
        }
        without_lock(&self.locks, broker)
            .ok_or_else(|| failure("its locks of log dirs have other names than the log dirs"))
    }
}

/// Kafka has one for each log dir.
const MOST_LOCKS: usize = 256;

/// Walks over the open fds. Blocking; what takes longer than `budget` is a failure.
pub fn read(proc: &ProcRoot, broker: &Broker, budget: Duration) -> Result<Walked, Failure> {
    let pid = broker.process.pid;
    let mut walked = Walked::default();
    let visited = proc.visit_fd_links(pid, Deadline::after(budget), |_, link| {
        *count_of(&mut walked.kinds, link) += 1;
        walked.inodes.extend(proc::socket_inode(link));
        walked
            .locks
            .extend(locked_dir(link).filter(|_| walked.locks.len() < MOST_LOCKS));
        ControlFlow::Continue(())
    });
    same_process(proc, broker.process)
        .and(visited)
        .map_err(|error| failure(broker, &error))?;
    Ok(walked)
}

/// The folder whose `.lock` is open. The broker keeps the lock of a file that somebody has deleted.
fn locked_dir(link: &[u8]) -> Option<PathBuf> {
    let file = proc::file_path(link).as_os_str().as_bytes();
    let dir = file.strip_suffix(b"/.lock")?;
    Some(OsStr::from_bytes(dir).into())
}

/// The log dirs that a broker has given up: Kafka locks each, and unlocks it only when it has failed, or at the end. None
/// where a lock is of no known log dir, whose name may have gone through a symbolic link.
fn without_lock(locks: &[PathBuf], broker: &Broker) -> Option<Vec<PathBuf>> {
    // It locks only the dir of its metadata log.
    if broker.is_dedicated_controller() {
        return Some(Vec::new());
    }
    let is_known = |lock: &PathBuf| {
        broker.log_dirs.contains(lock) || broker.metadata_log_dir.as_ref() == Some(lock)
    };
    let (mut dirs, locked): (Vec<PathBuf>, Vec<PathBuf>) = broker
        .log_dirs
        .iter()
        .cloned()
        .partition(|dir| !locks.contains(dir));
    // Before it locks the first one it is starting.
    if locked.is_empty() {
        dirs.clear();
    }
    locks.iter().all(is_known).then_some(dirs)
}

/// Where an fd with this link is counted.
pub(crate) fn count_of<'a>(kinds: &'a mut FdKinds, link: &[u8]) -> &'a mut u64 {
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

#[cfg(test)]
mod tests;
