//! What thread dumps and the progress of threads show.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Moment;

/// The content of one thread dump.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ThreadReport {
    /// Java threads by `java.lang.Thread.State`, lower case: `runnable`, `blocked` ...
    pub by_state: BTreeMap<String, u64>,
    /// Shared with the [`StandingDeadlock`] of them.
    pub deadlocks: Arc<[Deadlock]>,
    /// What of them is only counted.
    #[serde(default, skip_serializing_if = "MoreDeadlocks::is_none")]
    pub more_deadlocks: MoreDeadlocks,
    /// What of the dump was not understood, a phrase each: no deadlock is then known, not none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_understood: Vec<String>,
    /// Not proven, see [`LikelyDeadlock`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub likely_deadlocks: Vec<LikelyDeadlock>,
    /// The longest queues for one lock outside deadlocks.
    pub convoys: Vec<LockQueue>,
    /// None until two dumps of the process are far enough apart.
    pub stalls: Option<PoolFindings<Stall>>,
    /// Pools all of whose threads this one dump shows at one place, or behind one holder of a lock, and not idle.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub standing: Vec<Stall>,
    /// None until two dumps of the process are far enough apart, and while the broker shuts down.
    pub missing: Option<PoolFindings<MissingThread>>,
    /// Whether threads are absent that count as missing once another dump lacks them too.
    #[serde(default)]
    pub lacks_some: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loops: Vec<Loop>,
    /// Threads of pools that are in a call of the operating system for a file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub file_calls: Vec<FileCall>,
    /// From the request to the last byte.
    pub duration: Duration,
    pub bytes: u64,
}

/// What was found in the pools that could be checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolFindings<T> {
    pub found: Vec<T>,
    /// The labels of the pools that could be checked.
    pub pools: BTreeSet<String>,
}

/// Threads of one pool that stay at one place and use no CPU over several dumps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stall {
    pub pool: String,
    pub threads: Vec<String>,
    /// How many threads of the pool the dump shows; 0 where the recording is older than this field.
    #[serde(default)]
    pub of: usize,
    /// The first dump that showed one of them there.
    pub since: Moment,
    /// The class of what they wait for: `java.util.concurrent.locks.ReentrantReadWriteLock$NonfairSync`.
    pub lock_class: Option<String>,
    /// The threads that hold it; empty if no dump shows them.
    #[serde(default)]
    pub holders: BTreeSet<String>,
    /// A thread that may end the stall without a restart: they may wait for it in the end, and it runs, sleeps, or waits
    /// for a disk or ZooKeeper.
    #[serde(default)]
    pub unblocked_by: Option<String>,
    /// The other brokers, by id, for whose answer all of them wait in the end.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub awaits_brokers: BTreeSet<i32>,
    /// The topmost frame in Kafka's code, `Class.method`.
    pub frame: Option<String>,
    /// The stack of one of them, topmost frame first.
    pub frames: Vec<String>,
    /// The known faults that it is; empty means unknown.
    pub known_issues: Vec<NamedIssue>,
}

/// A thread that stays in one method over several dumps, and uses a core all the time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loop {
    pub thread: String,
    /// The first dump that showed it there.
    pub since: Moment,
    /// Its stack in the newest one, topmost frame first.
    pub frames: Vec<String>,
    /// The known faults that it may be, at least one.
    pub known_issues: Vec<NamedIssue>,
}

/// A thread in a call of the operating system for a file, as one dump shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCall {
    pub thread: String,
    /// `sun.nio.ch.FileDispatcherImpl.write0`
    pub method: String,
}

/// Threads of one name that have ended while there is work for them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingThread {
    pub pool: String,
    pub thread: String,
    /// How many with this name are missing: the reapers of 0.10 share one.
    pub count: usize,
    /// The first dump that lacked it.
    pub since: Moment,
}

/// A thread that waits for another one to do something, while it holds what others wait for. If one of them is the thread
/// that it waits for, none of them continues; no dump shows for which thread it waits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LikelyDeadlock {
    pub thread: String,
    /// The method in which it waits: `java.lang.Thread.join`.
    pub waits_in: String,
    /// Its stack, topmost frame first.
    pub frames: Vec<String>,
    /// The class of the lock that it holds. None: the others wait for its end.
    pub holds: Option<String>,
    /// The threads that are blocked behind it, directly or through others.
    pub blocked: Vec<String>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub blocked_left_out: usize,
    /// The one of them that it seems to wait for: a guess by what that one runs.
    pub may_await: Option<String>,
    pub may_await_frames: Vec<String>,
    /// The first of the dumps in a row that show it.
    pub since: Moment,
}

/// Threads that wait for one lock, whose holder waits for no lock itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockQueue {
    pub lock_class: String,
    pub waiters: Vec<String>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub waiters_left_out: usize,
    /// None if the dump does not show it, as for a `java.util.concurrent` lock.
    pub owner: Option<String>,
    /// The owner's topmost frames.
    pub owner_frames: Vec<String>,
}

impl LockQueue {
    /// How many threads wait.
    pub fn blocked(&self) -> usize {
        self.waiters.len() + self.waiters_left_out
    }
}

/// Which threads make progress, known without attaching. A suspicion is no verdict: a thread dump decides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressReport {
    pub suspects: Vec<Suspect>,
    /// How many threads were checked.
    pub threads: u64,
}

/// A thread that makes less progress than its pool must.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// The kernel's id.
    pub thread_id: u32,
    pub thread: String,
    pub pool: String,
    /// Where the kernel, not a lock of the JVM, keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_wait: Option<DiskWait>,
}

/// A thread that the kernel does not wake (state `D`): it waits for a disk, or for a file system over the network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskWait {
    pub since: Moment,
    /// The system call that it is in, as `fsync`; `page fault` where it touched a mapped file. None where the exporter may
    /// not read it.
    pub call: Option<String>,
    /// Whether such calls wait for a disk.
    pub is_file_call: bool,
    /// The file of the call, as the broker sees it, where it has one.
    pub file: Option<PathBuf>,
}

/// Deadlocks beyond those that a report lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoreDeadlocks {
    pub deadlocks: usize,
    /// The members of these.
    pub threads: usize,
}

impl MoreDeadlocks {
    fn is_none(&self) -> bool {
        self.deadlocks == 0
    }
}

/// One cycle of threads that wait for each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadlock {
    /// The true members, each of which wants what the next one holds. The first ones, where there are more than 256.
    pub cycle: Vec<DeadlockedThread>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cycle_left_out: usize,
    /// Threads that are blocked behind the cycle: they wait for a member, directly or through others. The first ones, where
    /// there are more than 256.
    pub waiting: Vec<DeadlockedThread>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub waiting_left_out: usize,
    /// Whether the JVM's own report has it; otherwise only the wait-for graph shows it.
    #[serde(default)]
    pub reported: bool,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Deadlock {
    /// How many threads are in the cycle.
    pub fn members(&self) -> usize {
        self.cycle.len() + self.cycle_left_out
    }

    /// How many threads are blocked behind it.
    pub fn blocked(&self) -> usize {
        self.waiting.len() + self.waiting_left_out
    }

    /// The class of the lock that this member holds and the one before it wants; None where that one is left out.
    pub fn held(&self, member: usize) -> Option<&str> {
        let before = match member.checked_sub(1) {
            Some(before) => self.cycle.get(before),
            None => self.cycle.last().filter(|_| self.cycle_left_out == 0),
        };
        before.map(|before| before.wants.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadlockedThread {
    pub thread: String,
    /// The class of the lock that it wants, e.g. `kafka.coordinator.GroupMetadata`.
    pub wants: String,
    /// The thread that holds that lock.
    pub held_by: String,
    /// Its topmost frames, `Class.method(File:line)`.
    pub frames: Vec<String>,
}

/// A deadlock with the time at which it was first seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StandingDeadlock {
    pub since: Moment,
    pub confirmed: Moment,
    pub deadlocks: Arc<[Deadlock]>,
    /// What of them is only counted.
    #[serde(default, skip_serializing_if = "MoreDeadlocks::is_none")]
    pub more: MoreDeadlocks,
    /// The known faults that it is; empty means unknown.
    pub known_issues: Vec<NamedIssue>,
}

/// A fault of Kafka that is known by its key in Kafka's JIRA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedIssue {
    /// `KAFKA-3994`
    pub issue: String,
    #[serde(rename = "match")]
    pub by: MatchQuality,
    pub title: String,
    /// The first releases with the fix; empty means unknown.
    pub fixed_in: Vec<String>,
    /// The release to move to, if the first fix is not enough.
    pub advise: Option<String>,
    /// Reports of the same fault, and faults that look the same.
    pub relatives: Vec<String>,
}

/// How much of a known issue matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MatchQuality {
    /// Threads, locks and frames.
    Exact,
    /// Threads and locks; the frames are unknown, or some of them differ.
    Similar,
}

impl NamedIssue {
    pub fn is_exact(&self) -> bool {
        self.by == MatchQuality::Exact
    }
}
