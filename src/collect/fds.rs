//! The collector `fds`: open fds by what they lead to. In its pass runs [`connections`], which needs the inodes of the
//! sockets among them.

pub mod connections;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use self::connections::Connections;
use super::context::BrokerContext;
use super::frame::{BlockingCollector, Collector, Description, RunsOn, Stamp};
use super::process::{failure, same_process};
use crate::model::{Broker, BrokerSnapshot, CollectorName, Failure, FdKinds};
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
                connections: are_on.then_some(Err(failure)),
            }
        });
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
        let (kinds, inodes) = match walk() {
            Ok((kinds, inodes)) => (Ok(kinds), Ok(inodes)),
            Err(failure) => (Err(failure.clone()), Err(failure)),
        };
        let mut again = || walk().map(|(_, inodes)| inodes);
        let connections = self.connections.as_mut();
        let connections =
            connections.map(|owned| owned.collect(&self.broker, &inodes?, &mut again));
        Ok(Pass { kinds, connections })
    }
}

/// Counts the open fds by kind, and returns the inodes of the sockets among them. Blocking; what takes longer than
/// `budget` is a failure.
pub fn read(
    proc: &ProcRoot,
    broker: &Broker,
    budget: Duration,
) -> Result<(FdKinds, HashSet<u64>), Failure> {
    let pid = broker.process.pid;
    let mut kinds = FdKinds::default();
    let mut inodes = HashSet::new();
    let visited = proc.visit_fd_links(pid, Deadline::after(budget), |_, link| {
        *count_of(&mut kinds, link) += 1;
        inodes.extend(proc::socket_inode(link));
        ControlFlow::Continue(())
    });
    same_process(proc, broker.process)
        .and(visited)
        .map_err(|error| failure(broker, &error))?;
    Ok((kinds, inodes))
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
