//! The collector `metadata_log`: follows a KRaft node's own replica of the log `__cluster_metadata-0`. It needs no request, no
//! login and no listener, and it works while the node's request handlers hang.

pub mod count;
mod follow;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::context::BrokerContext;
use super::dump_service::Jvm;
use super::frame::{self, BlockingCollector, Collector, Description, RunsOn, Stamp};
use super::process::{failure, same_process};
use crate::kafka::metadata_log::LogProblem;
use crate::kafka::metadata_log::image::Image;
use crate::kafka::metadata_log::replay::Watch;
use crate::model::{
    Broker, BrokerSnapshot, Clock, ClusterCounts, CollectorName, Failure, MetadataLog, Mode,
    Moment, Reading, Reason, Registration,
};
use crate::sys::plain::FileError;
use crate::sys::proc::ProcRoot;
use crate::sys::rooted::Rooted;
use count::{count, registrations};
use follow::{FollowError, Follower, Progress};

/// The folder of the log below `metadata.log.dir`.
const FOLDER: &str = "__cluster_metadata-0";
/// After so long without a record it is asked whether the process is still there.
const SILENT: Duration = Duration::from_secs(2);
/// After a failure to find or open a file, and after one that a long read may have come before, in milliseconds.
const PAUSE: u64 = 5_000;
const LONG_PAUSE: u64 = 60_000;

/// Follows the log of one node.
#[derive(Debug)]
pub struct MetadataLogs {
    proc: ProcRoot,
    broker: Arc<Broker>,
    clock: Clock,
    /// Says whether another user's nodes come first.
    jvm: Option<Arc<Jvm>>,
    following: Option<Following>,
    /// Whether the log was read to its end once.
    started: bool,
    /// What failed last, and when.
    failed: Option<(Failure, Moment)>,
}

#[derive(Debug)]
struct Following {
    follower: Follower,
    memory: Memory,
    known: Known,
}

/// What the newest state was counted to.
#[derive(Debug, Default)]
struct Known {
    /// Of the image that was counted.
    changes: Option<u64>,
    counts: Option<ClusterCounts>,
    brokers: Arc<BTreeMap<i32, Registration>>,
    end_offset: i64,
    arrived: Moment,
}

/// One run.
#[derive(Debug)]
pub struct Run {
    pub update: Update,
    /// Whether it was one of the first, which read all that there is, once.
    at_start: bool,
}

impl From<Update> for Run {
    fn from(update: Update) -> Run {
        Run {
            update,
            at_start: false,
        }
    }
}

/// What a run comes to.
#[derive(Debug)]
pub enum Update {
    Read(Box<MetadataLog>),
    /// The log is not read to its end yet.
    CatchingUp,
    /// The node has no such log, for this reason. That is no failure.
    None(&'static str),
}

impl Collector for MetadataLogs {
    const DESCRIPTION: Description = Description {
        name: CollectorName::MetadataLog,
        ceiling: 0.01,
        deadline: Duration::from_secs(5),
    };
    type Value = Run;

    fn store(broker: &mut BrokerSnapshot, result: Result<Run, Failure>, stamp: Stamp) {
        let failure = match result.map(|run| run.update) {
            Ok(Update::None(reason)) => {
                broker.metadata_log = Reading::unknown(reason);
                return;
            }
            Ok(Update::CatchingUp) => None,
            Ok(Update::Read(log)) => stamp.put(&mut broker.metadata_log, Ok(*log)),
            Err(failure) => stamp.put(&mut broker.metadata_log, Err(failure)),
        };
        stamp.finish(broker, CollectorName::MetadataLog, failure.as_ref());
    }
}

/// Returns why a node has no such log.
pub fn none(broker: &Broker) -> Option<&'static str> {
    match broker.mode {
        Some(Mode::KRaft) => None,
        Some(Mode::ZooKeeper) => Some("the broker keeps its metadata in ZooKeeper"),
        None => Some("it is not known whether the broker runs with KRaft, see its problems"),
    }
}

/// Runs for ever, unless the node has no such log.
pub(super) async fn run(context: BrokerContext) {
    let Some(reason) = none(&context.broker) else {
        return frame::run::<MetadataLogs>(context).await;
    };
    let interval = context.config.intervals.of(CollectorName::MetadataLog);
    let run = Ok(Run::from(Update::None(reason)));
    frame::publish::<MetadataLogs>(&context, run, interval, Duration::ZERO).await;
}

impl BlockingCollector for MetadataLogs {
    // A sick disk must not keep other readings from being taken.
    const RUNS_ON: RunsOn = RunsOn::OwnThread;

    fn new(context: &BrokerContext) -> MetadataLogs {
        MetadataLogs {
            jvm: Some(Arc::clone(&context.jvm)),
            ..MetadataLogs::of(&context.proc, &context.broker, context.clock)
        }
    }

    fn cost(run: &Run, measured: Duration) -> Duration {
        match run.at_start {
            true => Duration::ZERO,
            false => measured,
        }
    }

    fn collect(&mut self) -> Result<Run, Failure> {
        let now = self.clock.now();
        if let Some((failure, at)) = &self.failed {
            let pause = match failure.reason {
                Reason::Protocol => LONG_PAUSE,
                _ => PAUSE,
            };
            if now.0 < at.0 + pause {
                return Err(failure.clone());
            }
        }
        let update = self.read(now);
        self.failed = None;
        if let Err(failure) = &update {
            self.following = None;
            self.failed = Some((failure.clone(), now));
        }
        let update = update?;
        let at_start = !self.started;
        self.started |= matches!(update, Update::Read(_));
        Ok(Run { update, at_start })
    }
}

impl MetadataLogs {
    /// Follows the log of a node of the first user.
    pub fn of(proc: &ProcRoot, broker: &Arc<Broker>, clock: Clock) -> MetadataLogs {
        MetadataLogs {
            proc: proc.clone(),
            broker: Arc::clone(broker),
            clock,
            jvm: None,
            following: None,
            started: false,
            failed: None,
        }
    }

    fn read(&mut self, now: Moment) -> Result<Update, Failure> {
        let following = match &mut self.following {
            Some(following) => following,
            none => none.insert(open(&self.proc, &self.broker)?),
        };
        let of_others = self.jvm.as_ref().is_some_and(|jvm| jvm.is_outranked());
        let update = following.run(&self.broker, now, of_others)?;
        // A node that has ended writes nothing, and its files must not stay open. While it runs, something comes twice a
        // second.
        if now.since(following.known.arrived) > SILENT {
            let same = same_process(&self.proc, self.broker.process);
            same.map_err(|error| failure(&self.broker, &error))?;
        }
        Ok(update)
    }
}

fn open(proc: &ProcRoot, broker: &Broker) -> Result<Following, Failure> {
    let name = broker.name();
    let Some(folder) = &broker.metadata_log_dir else {
        let problems = broker.problems.join("; ");
        let message = format!("{name}: the folder of its metadata log is unknown: {problems}");
        return Err(Failure::new(Reason::Io, message));
    };
    let root = Rooted::of_process(proc, broker.process.pid);
    let folder = root.and_then(|root| root.below(&folder.join(FOLDER)));
    same_process(proc, broker.process).map_err(|error| failure(broker, &error))?;
    let folder = folder.map_err(|error| unreadable(broker, &error))?;
    Ok(Following {
        follower: Follower::new(folder),
        memory: Memory::default(),
        known: Known::default(),
    })
}

impl Following {
    fn run(&mut self, broker: &Broker, now: Moment, of_others: bool) -> Result<Update, Failure> {
        let Following {
            follower,
            memory,
            known,
        } = self;
        let mut watch = Watcher {
            broker,
            known,
            memory,
            of_others,
        };
        let progress = follower.run(now, &mut watch);
        let progress = progress.map_err(|error| match &error {
            FollowError::File(error) => unreadable(broker, error),
            other => {
                let reason = match other {
                    FollowError::Log { cause, .. } => match cause.problem {
                        LogProblem::NoRoom(_) => Reason::NoRoom,
                        _ => Reason::Protocol,
                    },
                    FollowError::CutSnapshot { .. } => Reason::Protocol,
                    _ => Reason::Io,
                };
                let most = match reason {
                    Reason::NoRoom => {
                        ": the metadata logs of all nodes on this host may need 40 MiB, and half of that those of other \
                         users than the first one's"
                    }
                    _ => "",
                };
                Failure::new(reason, format!("{}: {error}{most}", broker.name()))
            }
        })?;
        let replay = follower.replay();
        // What a large batch needed is given back.
        memory.hold(replay.image().bytes(), of_others);
        if progress == Progress::More {
            return Ok(Update::CatchingUp);
        }
        if !replay.in_transaction() {
            known.count(broker, replay.image());
        }
        if known.end_offset != replay.next_offset() {
            (known.end_offset, known.arrived) = (replay.next_offset(), now);
        }
        Ok(Update::Read(Box::new(MetadataLog {
            counts: known.counts.clone(),
            brokers: Arc::clone(&known.brokers),
            end_offset: known.end_offset,
            arrived: known.arrived,
            written: Moment(u64::try_from(replay.written()).unwrap_or(0)),
            pulse: replay.pulse(),
        })))
    }
}

/// Keeps what is known while the log is read, and the memory for it.
struct Watcher<'a> {
    broker: &'a Broker,
    known: &'a mut Known,
    memory: &'a mut Memory,
    of_others: bool,
}

impl Watch for Watcher<'_> {
    fn before_transaction(&mut self, image: &Image) {
        self.known.count(self.broker, image);
    }

    fn may_need(&mut self, bytes: usize) -> bool {
        // A little at a time would be a lock for each record.
        let step = bytes.next_multiple_of(MEMORY_STEP);
        bytes <= self.memory.bytes || self.memory.hold(step, self.of_others)
    }
}

impl Known {
    /// Counts what has changed.
    fn count(&mut self, broker: &Broker, image: &Image) {
        if self.changes.replace(image.changes()) == Some(image.changes()) {
            return;
        }
        // A controller of its own leads nothing.
        let id = broker.id.unwrap_or(-1);
        let counts = || count(image, id, broker.min_insync_replicas, broker.caps_min_isr());
        self.counts = (!image.is_migrating()).then(counts);
        self.brokers = Arc::new(registrations(image));
    }
}

fn unreadable(broker: &Broker, error: &FileError) -> Failure {
    let (reason, remedy) = match error {
        FileError::Denied { uid, .. } if Some(*uid) != broker.uid => {
            (Reason::Denied, ": run kafka-vitals as the broker's user")
        }
        FileError::Denied { .. } | FileError::NoRights { .. } => (Reason::Denied, ""),
        _ => (Reason::Io, ""),
    };
    Failure::new(reason, format!("{}: {error}{remedy}", broker.name()))
}

/// What the states of all nodes on this host may need together, and those of other users' nodes than the first one's.
const MOST_MEMORY: usize = 40 << 20;
const MOST_MEMORY_OF_OTHERS: usize = MOST_MEMORY / 2;
/// Taken at a time.
const MEMORY_STEP: usize = 256 << 10;
/// Of the first user, of the others.
static TAKEN: Mutex<[usize; 2]> = Mutex::new([0; 2]);

/// A part of [`MOST_MEMORY`], given back when dropped.
#[derive(Debug, Default)]
struct Memory {
    bytes: usize,
    of_others: bool,
}

impl Memory {
    /// Holds so many bytes from now on. Returns whether that is not too much; if it is, the caller drops what needs them.
    fn hold(&mut self, bytes: usize, of_others: bool) -> bool {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        taken[usize::from(self.of_others)] -= self.bytes;
        (self.bytes, self.of_others) = (bytes, of_others);
        taken[usize::from(of_others)] += bytes;
        let [own, others] = *taken;
        own + others <= MOST_MEMORY && (!of_others || others <= MOST_MEMORY_OF_OTHERS)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.hold(0, self.of_others);
    }
}

#[cfg(test)]
mod tests;
