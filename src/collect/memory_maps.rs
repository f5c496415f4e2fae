//! The collector `memory_maps`: the number of memory mappings of the broker's process.

use std::sync::Arc;
use std::time::Duration;

use super::context::BrokerContext;
use super::frame::{BlockingCollector, Collector, Description, RunsOn, Stamp};
use super::process::{failure, reason, same_process};
use crate::model::{Broker, BrokerSnapshot, CollectorName, Failure};
use crate::sys::proc::{Deadline, ProcRoot};

/// Counts the mappings of one process.
#[derive(Debug)]
pub struct MemoryMaps {
    proc: ProcRoot,
    broker: Arc<Broker>,
}

impl Collector for MemoryMaps {
    const DESCRIPTION: Description = Description {
        name: CollectorName::MemoryMaps,
        ceiling: 0.001,
        deadline: Duration::from_secs(10),
    };
    type Value = u64;

    fn store(broker: &mut BrokerSnapshot, result: Result<u64, Failure>, stamp: Stamp) {
        let failure = stamp.put(&mut broker.memory_maps, result);
        stamp.finish(broker, CollectorName::MemoryMaps, failure.as_ref());
    }
}

impl BlockingCollector for MemoryMaps {
    const RUNS_ON: RunsOn = RunsOn::OwnThread;

    fn new(context: &BrokerContext) -> MemoryMaps {
        MemoryMaps {
            proc: context.proc.clone(),
            broker: Arc::clone(&context.broker),
        }
    }

    fn collect(&mut self) -> Result<u64, Failure> {
        read(&self.proc, &self.broker, Self::DESCRIPTION.deadline)
    }
}

/// Counts the mappings. Can block while the broker's memory lock is held: not for a thread that serves others.
pub fn read(proc: &ProcRoot, broker: &Broker, budget: Duration) -> Result<u64, Failure> {
    let maps = proc.memory_maps(broker.process.pid, Deadline::after(budget));
    same_process(proc, broker.process)
        .and(maps)
        .map_err(|error| failure(broker, &error))
}

/// Returns the number of mappings that a process of this kernel may have.
pub fn limit(proc: &ProcRoot) -> Result<u64, Failure> {
    proc.memory_map_limit()
        .map_err(|error| Failure::new(reason(&error), error.to_string()))
}
