//! The collector `log_dirs`: free space of the log dirs' file systems.

use std::sync::Arc;
use std::time::Duration;

use super::context::BrokerContext;
use super::frame::{BlockingCollector, Collector, Description, RunsOn, Stamp};
use super::process::{failure, same_process, unreadable};
use crate::model::{Broker, BrokerSnapshot, CollectorName, Failure, LogDirSpace, Reason};
use crate::sys::plain::FileError;
use crate::sys::proc::ProcRoot;
use crate::sys::rooted::Rooted;

/// Reads the file systems of one broker's log dirs.
#[derive(Debug)]
pub struct LogDirs {
    proc: ProcRoot,
    broker: Arc<Broker>,
}

/// The log dirs that could be read, and why another could not.
pub type Spaces = (Vec<LogDirSpace>, Option<Failure>);

impl Collector for LogDirs {
    const DESCRIPTION: Description = Description {
        name: CollectorName::LogDirs,
        ceiling: 0.0005,
        deadline: Duration::from_secs(2),
    };
    type Value = Spaces;

    fn store(broker: &mut BrokerSnapshot, result: Result<Spaces, Failure>, stamp: Stamp) {
        let (spaces, unknown) = result.unwrap_or_else(|failure| (Vec::new(), Some(failure)));
        let known = match &unknown {
            Some(failure) if spaces.is_empty() => Err(failure.clone()),
            _ => Ok(spaces),
        };
        stamp.put(&mut broker.log_dirs, known);
        stamp.finish(broker, CollectorName::LogDirs, unknown.as_ref());
    }
}

impl BlockingCollector for LogDirs {
    // A sick disk must not keep other readings from being taken.
    const RUNS_ON: RunsOn = RunsOn::OwnThread;

    fn new(context: &BrokerContext) -> LogDirs {
        LogDirs {
            proc: context.proc.clone(),
            broker: Arc::clone(&context.broker),
        }
    }

    fn collect(&mut self) -> Result<Spaces, Failure> {
        read(&self.proc, &self.broker)
    }
}

/// Reads once. Can block for as long as a sick disk does.
pub fn read(proc: &ProcRoot, broker: &Broker) -> Result<Spaces, Failure> {
    let (spaces, unknown) = match Rooted::of_process(proc, broker.process.pid) {
        Ok(root) => spaces(&root, broker),
        Err(error) => (Vec::new(), Some(error)),
    };
    same_process(proc, broker.process).map_err(|error| failure(broker, &error))?;
    let unknown = unknown.map(|error| unreadable(broker, &error));
    let none = || {
        let (name, problems) = (broker.name(), broker.problems.join("; "));
        let message = format!("{name}: its log dirs are unknown: {problems}");
        Failure::new(Reason::Io, message)
    };
    let unknown = unknown.or_else(|| broker.log_dirs.is_empty().then(none));
    Ok((spaces, unknown))
}

/// The log dirs below the root of the broker's process, and the first error.
pub(super) fn spaces(root: &Rooted, broker: &Broker) -> (Vec<LogDirSpace>, Option<FileError>) {
    let (mut spaces, mut unknown) = (Vec::new(), None);
    for dir in &broker.log_dirs {
        match root.space(dir) {
            Ok((free_bytes, total_bytes)) => spaces.push(LogDirSpace {
                dir: dir.clone(),
                free_bytes,
                total_bytes,
            }),
            Err(error) => drop(unknown.get_or_insert(error)),
        }
    }
    (spaces, unknown)
}

#[cfg(test)]
mod tests;
