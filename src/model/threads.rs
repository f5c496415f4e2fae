//! What thread dumps and the progress of threads tell.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Moment;

/// What one thread dump said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ThreadReport {
    /// Java threads by `java.lang.Thread.State`, lower case: `runnable`, `blocked` ...
    pub by_state: BTreeMap<String, u64>,
    pub deadlocks: Vec<Deadlock>,
    /// The longest queues for one lock that no deadlock explains.
    pub convoys: Vec<LockQueue>,
    /// None until two dumps of the process lie far enough apart.
    pub stalls: Option<PoolFindings<Stall>>,
    /// None until two dumps of the process lie far enough apart, and while the broker shuts down.
    pub missing: Option<PoolFindings<MissingThread>>,
    /// From the request to the last byte.
    pub duration: Duration,
    pub bytes: u64,
}

/// What was found in the pools that could be judged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolFindings<T> {
    pub found: Vec<T>,
    /// The labels of the pools that could be judged.
    pub pools: BTreeSet<String>,
}

/// Threads of one pool that stand at one place and do nothing, over several dumps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stall {
    pub pool: String,
    pub threads: Vec<String>,
    /// The first dump that showed one of them there.
    pub since: Moment,
    /// Class of what they wait for: `java.util.concurrent.locks.ReentrantReadWriteLock$NonfairSync`.
    pub lock_class: Option<String>,
    /// Who holds it; empty where no dump told it.
    #[serde(default)]
    pub holders: BTreeSet<String>,
    /// A thread for which they may be waiting in the end and that goes on by itself: it runs, sleeps, or waits for a
    /// disk or ZooKeeper. None where only a restart is known to help.
    #[serde(default)]
    pub goes_on_with: Option<String>,
    /// The topmost frame of Kafka's own, `Class.method`.
    pub frame: Option<String>,
    /// The stack of one of them, topmost frame first.
    pub frames: Vec<String>,
    /// What is known of it; empty is unknown.
    pub known_issues: Vec<NamedIssue>,
}

/// Threads of one name that were there, have gone, and cannot have ended because their work had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingThread {
    pub pool: String,
    pub thread: String,
    /// How many of this name are missing: the reapers of 0.10 share one.
    pub count: usize,
    /// The first dump that lacked it.
    pub since: Moment,
}

/// Threads that wait for one lock, whose holder waits for no lock itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockQueue {
    pub lock_class: String,
    pub waiters: Vec<String>,
    /// None where the dump does not tell: a `java.util.concurrent` lock.
    pub owner: Option<String>,
    /// What the owner does: its topmost frames.
    pub owner_frames: Vec<String>,
}

/// Which threads move, told without attaching. A suspicion is no verdict: a thread dump decides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressReport {
    pub suspects: Vec<Suspect>,
    /// How many threads were looked at.
    pub threads: u64,
}

/// A thread that does not move as its kind must.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// The kernel's id.
    pub thread_id: u32,
    pub thread: String,
    pub pool: String,
}

/// One cycle of threads that wait for each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadlock {
    /// The true members, in the order of waiting: each wants what the next one holds.
    pub cycle: Vec<DeadlockedThread>,
    /// Threads that are in no cycle and wait for one of its members, directly or through others.
    pub waiting: Vec<DeadlockedThread>,
    /// Whether the JVM's own report tells of it; else it was found by the wait-for graph alone.
    #[serde(default)]
    pub reported: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadlockedThread {
    pub thread: String,
    /// Class of the lock it wants, e.g. `kafka.coordinator.GroupMetadata`.
    pub wants: String,
    /// Who holds that lock.
    pub held_by: String,
    /// Where it waits: its topmost frames, `Class.method(File:line)`.
    pub frames: Vec<String>,
}

/// A deadlock with the time at which it was first seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StandingDeadlock {
    pub since: Moment,
    pub confirmed: Moment,
    pub deadlocks: Vec<Deadlock>,
    /// What is known of it; empty is unknown.
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
    /// First releases with the fix; empty is unknown.
    pub fixed_in: Vec<String>,
    /// What to move to, where that is more than the first fix.
    pub advise: Option<String>,
    /// Reports of the same fault, and faults that look the same.
    pub relatives: Vec<String>,
}

/// How much of a known issue is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MatchQuality {
    /// Threads, locks and frames.
    Exact,
    /// Threads and locks; the frames are unknown, or some of them are not the same.
    #[serde(rename = "likeness")]
    Similar,
}

impl NamedIssue {
    pub fn is_exact(&self) -> bool {
        self.by == MatchQuality::Exact
    }
}
