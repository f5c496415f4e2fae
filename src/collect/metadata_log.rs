//! The collector `metadata_log`: follows a KRaft node's own replica of the log `__cluster_metadata-0`. It needs no request, no
//! login and no listener, and it works while the node's request handlers hang.

pub mod count;
mod follow;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::context::{BrokerContext, Signals};
use super::dump_service::Jvm;
use super::frame::{self, BlockingCollector, Collector, Description, RunsOn, Stamp};
use super::process::{failure, same_process, unreadable};
use crate::kafka::metadata_log::LogProblem;
use crate::kafka::metadata_log::image::Image;
use crate::kafka::metadata_log::replay::Watch;
use crate::model::shares::{Share, Shares};
use crate::model::{
    Broker, BrokerSnapshot, Clock, ClusterCounts, CollectorName, Failure, MetadataLog, Mode,
    Moment, Reason, Registration,
};
use crate::sys::proc::ProcRoot;
use crate::sys::rooted::Rooted;
use count::{count, registrations};
use follow::{FollowError, Follower, Progress};

/// The folder of the log below `metadata.log.dir`.
const FOLDER: &str = "__cluster_metadata-0";
/// After so long without a record it is asked whether the process is still there.
const SILENT: Duration = Duration::from_secs(2);
/// After so long without a record that is due, a peer is asked whether the cluster has moved on.
const DOUBTED: Duration = Duration::from_secs(3);
/// After a failure to find or open a file, and after one that a long read may have come before, in milliseconds.
const PAUSE: u64 = 5_000;
const LONG_PAUSE: u64 = 60_000;

/// So many runs read a log to its end for the first time without regard to the ceiling: 4 GiB, where Kafka makes a snapshot
/// after some 20 MiB. A log without end is read within the ceiling.
const FREE_RUNS: u32 = 64;

/// Follows the log of one node.
#[derive(Debug)]
pub struct MetadataLogs {
    proc: ProcRoot,
    broker: Arc<Broker>,
    clock: Clock,
    /// Says whether another user's nodes come first.
    jvm: Option<Arc<Jvm>>,
    signals: Signals,
    following: Option<Following>,
    /// How many of the first runs are left that do not count against the ceiling.
    free_runs: u32,
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

/// What a run comes to.
#[derive(Debug)]
pub enum Update {
    Read(Box<MetadataLog>),
    /// The log is not read to its end yet.
    CatchingUp,
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
            Ok(Update::CatchingUp) => None,
            Ok(Update::Read(log)) => stamp.put(&mut broker.metadata_log, Ok(*log)),
            Err(failure) => stamp.put(&mut broker.metadata_log, Err(failure)),
        };
        stamp.finish(broker, CollectorName::MetadataLog, failure.as_ref());
    }
}

/// Returns why a node has no such log; None where it has one.
///
/// # Errors
/// It is not known whether it has one.
pub fn none(broker: &Broker) -> Result<Option<&'static str>, Failure> {
    match broker.mode {
        Some(Mode::KRaft) => Ok(None),
        Some(Mode::ZooKeeper) => Ok(Some("the broker keeps its metadata in ZooKeeper")),
        None => {
            let (name, problems) = (broker.name(), broker.problems.join("; "));
            let message = format!("{name}: it is unknown whether it runs with KRaft: {problems}");
            Err(Failure::new(broker.reason_or_denied(Reason::Io), message))
        }
    }
}

/// Runs for ever, unless the node has no such log.
pub(super) async fn run(context: BrokerContext) {
    match none(&context.broker) {
        Ok(None) => frame::run::<MetadataLogs>(context).await,
        Ok(Some(why)) => frame::publish_not_read::<MetadataLogs>(&context, why).await,
        Err(failure) => {
            let interval = context.config.intervals.of(CollectorName::MetadataLog);
            let (result, took) = (Err(failure), Duration::ZERO);
            frame::publish::<MetadataLogs>(&context, result, interval, took).await;
        }
    }
}

impl BlockingCollector for MetadataLogs {
    // A sick disk must not keep other readings from being taken.
    const RUNS_ON: RunsOn = RunsOn::OwnThread;

    fn new(context: &BrokerContext) -> MetadataLogs {
        MetadataLogs {
            jvm: Some(Arc::clone(&context.jvm)),
            signals: context.signals.clone(),
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
        let at_start = self.free_runs > 0;
        self.free_runs = match update {
            Update::CatchingUp => self.free_runs.saturating_sub(1),
            _ => 0,
        };
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
            signals: Signals::default(),
            following: None,
            free_runs: FREE_RUNS,
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
        let is_late = |log: &MetadataLog| log.pulse.is_some() && now.since(log.arrived) >= DOUBTED;
        let doubts = matches!(&update, Update::Read(log) if is_late(log));
        self.signals.set_doubt(CollectorName::MetadataLog, doubts);
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
        memory: Memory::of(&MEMORY),
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
        let progress = progress.map_err(|error| not_followed(broker, &error))?;
        let replay = follower.replay();
        // What a large batch needed is given back. A node that has become another user's may find no room for what it has.
        let bytes = replay.image().bytes();
        if !memory.hold(bytes, of_others) {
            return Err(no_room(broker, &LogProblem::NoRoom(bytes)));
        }
        if progress == Progress::More {
            return Ok(Update::CatchingUp);
        }
        if !replay.in_transaction() {
            known.count(broker, replay.image());
        }
        if known.end_offset != replay.next_offset() || known.arrived == Moment(0) {
            // Nobody has seen the first one arrive: it is as old as the file's last change.
            let is_first = known.arrived == Moment(0);
            let written = is_first.then(|| follower.written_at()).flatten();
            known.arrived = written.map_or(now, |at| at.min(now));
            known.end_offset = replay.next_offset();
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
        bytes <= self.memory.held() || self.memory.hold(step, self.of_others)
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

fn not_followed(broker: &Broker, error: &FollowError) -> Failure {
    let reason = match error {
        FollowError::File(error) => return unreadable(broker, error),
        FollowError::Log { cause, .. } => match cause.problem {
            LogProblem::NoRoom(_) => return no_room(broker, error),
            _ => Reason::Protocol,
        },
        FollowError::CutSnapshot { .. } => Reason::Protocol,
        _ => Reason::Io,
    };
    Failure::new(reason, format!("{}: {error}", broker.name()))
}

fn no_room(broker: &Broker, error: &dyn fmt::Display) -> Failure {
    let message = format!(
        "{}: {error}: the metadata logs of all nodes on this host may need 40 MiB, and half of that those of other users \
         than the first one's",
        broker.name()
    );
    Failure::new(Reason::NoRoom, message)
}

/// What the states of all nodes on this host may need together, and those of other users' nodes than the first one's.
const MOST_MEMORY: usize = 40 << 20;
const MOST_MEMORY_OF_OTHERS: usize = MOST_MEMORY / 2;
/// Counted in parts of so many bytes, which a small cluster's state needs.
const MEMORY_PART: usize = 16 << 10;
/// Taken at a time.
const MEMORY_STEP: usize = 256 << 10;
static MEMORY: Shares = memory();

const fn memory() -> Shares {
    Shares::new(
        MOST_MEMORY / MEMORY_PART,
        MOST_MEMORY_OF_OTHERS / MEMORY_PART,
    )
}

/// A part of the memory, given back when dropped.
#[derive(Debug)]
struct Memory(Share);

impl Memory {
    fn of(of: &'static Shares) -> Memory {
        Memory(of.none(false))
    }

    /// How many bytes it holds.
    fn held(&self) -> usize {
        self.0.held() * MEMORY_PART
    }

    /// Holds so many bytes from now on. Returns whether that is not too much; if it is, the caller drops what needs them.
    #[must_use]
    fn hold(&mut self, bytes: usize, of_others: bool) -> bool {
        self.0.set_of_others(of_others);
        self.0.try_hold(bytes.div_ceil(MEMORY_PART))
    }
}

#[cfg(test)]
mod tests;
