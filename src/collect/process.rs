//! The collector `process`: the number of open fds, limits, state and memory of the broker's process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::context::BrokerContext;
use super::frame::{BlockingCollector, Collector, Description, RunsOn, Stamp};
use crate::model::{
    Broker, BrokerSnapshot, CollectorName, Failure, ProcessKey, ProcessVitals, Reason,
};
use crate::sys::lacking::REMEDY;
use crate::sys::plain::FileError;
use crate::sys::proc::{FdCounter, OpenFileLimits, ProcError, ProcRoot, Stat};

/// Reads one process.
pub struct Process {
    proc: ProcRoot,
    broker: Arc<Broker>,
    reader: ProcessReader,
    fds: watch::Sender<Option<u64>>,
}

/// What is read every second. One part may be known without the other.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessReadings {
    pub open_fds: Result<u64, Failure>,
    pub vitals: Result<ProcessVitals, Failure>,
}

impl Collector for Process {
    const DESCRIPTION: Description = Description {
        name: CollectorName::Process,
        ceiling: 0.005,
        deadline: Duration::from_secs(2),
    };
    type Value = ProcessReadings;

    fn store(broker: &mut BrokerSnapshot, result: Result<ProcessReadings, Failure>, stamp: Stamp) {
        let readings = result.unwrap_or_else(ProcessReadings::unknown);
        let fds = stamp.put(&mut broker.open_fds, readings.open_fds);
        let failure = stamp.put(&mut broker.process, readings.vitals).or(fds);
        stamp.finish(broker, CollectorName::Process, failure.as_ref());
    }
}

impl BlockingCollector for Process {
    const RUNS_ON: RunsOn = RunsOn::SharedThread;
    const WAITS_FOR_DUMP: bool = true;

    fn new(context: &BrokerContext) -> Process {
        Process {
            proc: context.proc.clone(),
            broker: Arc::clone(&context.broker),
            reader: ProcessReader::default(),
            fds: context.signals.fds.clone(),
        }
    }

    fn collect(&mut self) -> Result<ProcessReadings, Failure> {
        let readings = self.reader.read(&self.proc, &self.broker);
        self.fds
            .send_replace(readings.open_fds.as_ref().ok().copied());
        Ok(readings)
    }
}

impl ProcessReadings {
    fn unknown(failure: Failure) -> ProcessReadings {
        ProcessReadings {
            open_fds: Err(failure.clone()),
            vitals: Err(failure),
        }
    }
}

/// Reads one process every second.
#[derive(Debug, Default)]
pub struct ProcessReader {
    fds: FdCounter,
    /// With the time when they were read.
    limits: Option<(OpenFileLimits, Instant)>,
}

/// The limits of a running process change only if another process sets them.
const LIMITS_LAST: Duration = Duration::from_secs(10);

impl ProcessReader {
    /// Reads once. Blocking, but only as long as the kernel takes to answer.
    pub fn read(&mut self, proc: &ProcRoot, broker: &Broker) -> ProcessReadings {
        let pid = broker.process.pid;
        let (open_fds, limits) = (self.fds.count(proc, pid), self.limits(proc, pid));
        let unknown = |error| failure(broker, &error);
        let stat = match same_process(proc, broker.process) {
            Ok(stat) => stat,
            Err(error) => return ProcessReadings::unknown(unknown(error)),
        };
        let vitals = limits.map(|limits| ProcessVitals {
            state: stat.state,
            resident_bytes: stat.resident_bytes,
            fd_limit_soft: limits.soft,
            fd_limit_hard: limits.hard,
        });
        ProcessReadings {
            open_fds: open_fds.map_err(unknown),
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

/// Reads one process once.
pub fn read(proc: &ProcRoot, broker: &Broker) -> ProcessReadings {
    ProcessReader::default().read(proc, broker)
}

/// Returns the `stat` of the process, if it is still the one that was found and has not ended. To be called after each
/// reading: a process that ends meanwhile leaves shortened files behind, and its id may be given to another.
pub(super) fn same_process(proc: &ProcRoot, key: ProcessKey) -> Result<Stat, ProcError> {
    let stat = proc.stat(key.pid)?;
    if stat.start_ticks == key.start_ticks && !stat.ended {
        Ok(stat)
    } else {
        Err(ProcError::Gone { pid: key.pid })
    }
}

/// The failure for an error of `/proc` about this broker.
pub(super) fn failure(broker: &Broker, error: &ProcError) -> Failure {
    let name = broker.name();
    match error {
        ProcError::Gone { .. } => {
            Failure::new(Reason::Gone, format!("{name} has ended or was restarted"))
        }
        error => Failure::new(reason(error), format!("{name}: {error}")),
    }
}

/// The failure for a file or folder of this broker that was not read.
pub(super) fn unreadable(broker: &Broker, error: &FileError) -> Failure {
    let (reason, remedy) = match error {
        FileError::Denied { uid, .. } if Some(*uid) != broker.uid => {
            (Reason::Denied, format!(": {REMEDY}"))
        }
        FileError::Denied { .. } | FileError::NoRights { .. } => (Reason::Denied, String::new()),
        _ => (Reason::Io, String::new()),
    };
    Failure::new(reason, format!("{}: {error}{remedy}", broker.name()))
}

pub(super) fn reason(error: &ProcError) -> Reason {
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
