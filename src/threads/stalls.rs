//! Pool threads that do not move: the same stack in dump after dump, not at their idle point, no CPU used in between.
//!
//! Finds what no wait-for graph shows because no text names the holder: read locks, `StampedLock`, `Semaphore`, a lock
//! held across an awaited event, a pool that waits for itself, a join, a nested `wait`, class initialisation.
//!
//! Idle is a thread that waits in a selector, for a task of its executor, or in the loop of its own for an element of
//! a queue or for a condition. What waits deeper than that works on something. A timed wait ends by itself, so it counts
//! only for threads that have nothing else to wait for than their queue: those that must move.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::known_issues;
use super::pools::Pool;
use super::progress::must_move;
use super::stack::{place_hash, stack_hash};
use super::wait_graph::WaitGraph;
use crate::model::{Moment, PoolFindings, Stall};
use crate::parse::thread_dump::{Frame, LockKind, State, Thread, ThreadDump};

/// A thread that waits for so long, while the JVM runs, is stalled. Everyday waits for locks, for ZooKeeper, for a peer,
/// for one who writes to a slow disk are shorter.
const WAITING_SPAN: Duration = Duration::from_secs(10);
/// Of one that is in the kernel: a slow disk may keep it for some seconds.
const RUNNABLE_SPAN: Duration = Duration::from_secs(20);
/// Dumps that must agree, and how many where the JVM prints no CPU time (JDK 8): a thread that works may be met at the
/// same line twice.
const DUMPS: u32 = 2;
const DUMPS_WITHOUT_CPU: u32 = 4;
/// CPU that a thread which stands still may use between two dumps, in milliseconds. Parked ones used 0.00 in 40 s.
const STILL_CPU_MS: f64 = 0.05;
/// Of one that is BLOCKED, in milliseconds a second: on JDK 11 and 17 the first in the queue for a monitor wakes once a
/// second, for 0.03 to 0.06 ms.
const BLOCKED_CPU_MS_PER_S: f64 = 0.2;
/// CPU that the expiration reapers, which poll, use at least while the JVM runs, in milliseconds: 0.3 each a second. In a
/// long garbage collection, or a process that was stopped, nobody moves.
const RUNNING_CPU_MS: f64 = 0.1;
/// Frames between the one that waits in the thread's own loop and `Thread.run`, itself included.
const LOOP_FRAMES: usize = 3;
/// Frames kept of a stalled thread: enough to know the bug by them.
const KEPT_FRAMES: usize = 64;
/// Topmost frames in which a disk or ZooKeeper shows.
const OUTSIDE_FRAMES: usize = 16;
/// What waits there goes on when that does.
const OUTSIDE: [&str; 8] = [
    "zookeeper",
    "zkclient",
    "FileChannel",
    "FileDispatcher",
    "FileDescriptor.sync",
    "MappedByteBuffer.force",
    "MappedMemoryUtils.force",
    "UnixNativeDispatcher",
];
/// Most threads that are followed.
const MAX_THREADS: usize = 10_000;

/// What is remembered of the last dump of a process.
#[derive(Debug, Default)]
pub struct StallDetector {
    still: HashMap<Key, Still>,
    first_dump: Option<Moment>,
    last: Option<Clock>,
}

/// What tells for how long the JVM ran between two dumps.
#[derive(Debug, Clone, Copy)]
struct Clock {
    at: Moment,
    /// At safepoints, since the JVM started.
    paused: Option<Duration>,
    /// Of all expiration reapers; None where the JVM prints no CPU times or has no reaper.
    reapers_cpu_ms: Option<f64>,
}

/// Java's thread number tells threads of one name apart.
type Key = (Pool, String, Option<u64>);

/// Since when a thread that is not idle has stood at one place.
#[derive(Debug, Clone, Copy)]
struct Still {
    stack: u64,
    since: Moment,
    /// While the JVM ran.
    time: Duration,
    dumps: u32,
    cpu_ms: Option<f64>,
    /// Of the owner of the monitor at which it is blocked.
    owner_cpu_ms: Option<f64>,
}

impl StallDetector {
    /// Takes in the next dump and its graph, and says what the dumps until now say. `paused` is the JVM's time at
    /// safepoints since it started, where known. None until two dumps lie far enough apart.
    pub fn observe(
        &mut self,
        dump: &ThreadDump<'_>,
        graph: &WaitGraph<'_, '_>,
        paused: Option<Duration>,
        now: Moment,
    ) -> Option<PoolFindings<Stall>> {
        let clock = Clock {
            at: now,
            paused,
            reapers_cpu_ms: reapers_cpu_ms(dump),
        };
        let between = self.last.map_or(Duration::ZERO, |last| now.since(last.at));
        let ran = self
            .last
            .map_or(Duration::ZERO, |last| clock.ran_since(&last));
        let mut still = HashMap::new();
        let mut pools = BTreeSet::new();
        let mut stalled = Vec::new();
        let mut standing = Vec::new();
        for (index, thread) in dump.threads.iter().enumerate() {
            let Some(pool) = Pool::of(thread.name) else {
                continue;
            };
            pools.insert(pool);
            let state = thread.state();
            if still.len() >= MAX_THREADS || !may_stall(pool, state, thread) {
                continue;
            }
            let header = thread.header();
            let key = (pool, thread.name.to_owned(), header.number);
            // Those who take turns at a monitor wait at one place as well.
            let owner = graph
                .holder(index)
                .filter(|_| state == Some(State::Blocked));
            let here = Still {
                stack: owner.map_or(0, place_hash) ^ stack_hash(thread),
                since: now,
                time: Duration::ZERO,
                dumps: 1,
                cpu_ms: header.cpu_ms,
                owner_cpu_ms: owner.and_then(|owner| owner.header().cpu_ms),
            };
            let stands = |before: &&Still| {
                let owner_state = owner.and_then(Thread::state);
                before.stack == here.stack
                    && stood_still(before.cpu_ms, here.cpu_ms, state, between)
                    && stood_still(before.owner_cpu_ms, here.owner_cpu_ms, owner_state, between)
            };
            let here = match self.still.get(&key).filter(stands) {
                Some(before) if ran.is_zero() => *before,
                Some(before) => Still {
                    since: before.since,
                    time: before.time + ran,
                    dumps: before.dumps + 1,
                    ..here
                },
                None => here,
            };
            if here.dumps >= DUMPS {
                standing.push(thread);
            }
            if is_stalled(&here, state) {
                stalled.push((pool, *thread, here.since));
            }
            still.insert(key, here);
        }
        self.still = still;
        self.last = Some(clock);
        let first = *self.first_dump.get_or_insert(now);
        let mut stalls = group(&stalled);
        let at_a_disk = || {
            standing
                .iter()
                .find(|thread| is_outside(thread))
                .map(|thread| thread.name)
        };
        let outside = if stalls.is_empty() { None } else { at_a_disk() };
        for stall in &mut stalls {
            stall.holders = graph.holders_of(&stall.threads);
            let ends = graph
                .ends_of(&stall.threads)
                .into_iter()
                .find(|end| goes_on(end))
                .map(|end| end.name);
            stall.goes_on_with = ends.or(outside).map(str::to_owned);
        }
        (now.since(first) >= WAITING_SPAN).then(|| Pool::findings(stalls, pools))
    }
}

/// `2 threads of request_handler stand still in kafka.A.b, waiting for java.util.X, held by holder`
pub fn stand_still(stall: &Stall) -> String {
    let place = stall
        .frame
        .as_deref()
        .map(|frame| format!(" in {frame}"))
        .unwrap_or_default();
    let lock = stall
        .lock_class
        .as_deref()
        .map(|class| format!(", waiting for {class}"))
        .unwrap_or_default();
    let mut told = match stall.threads.len() {
        1 => format!("1 thread of {} stands still{place}{lock}", stall.pool),
        threads => format!(
            "{threads} threads of {} stand still{place}{lock}",
            stall.pool
        ),
    };
    stall
        .holders
        .iter()
        .for_each(|holder| told += &format!(", held by {holder}"));
    told
}

/// Whether a thread that others wait for is at work, sleeps, or waits for a disk or ZooKeeper.
fn goes_on(thread: &Thread<'_>) -> bool {
    let runs = matches!(thread.state(), Some(State::Runnable | State::TimedWaiting));
    runs || is_outside(thread)
}

fn is_outside(thread: &Thread<'_>) -> bool {
    let mut top = thread.frames().take(OUTSIDE_FRAMES);
    top.any(|frame| OUTSIDE.iter().any(|part| frame.class_method.contains(part)))
}

impl Clock {
    fn ran_since(&self, last: &Clock) -> Duration {
        if let (Some(before), Some(now)) = (last.reapers_cpu_ms, self.reapers_cpu_ms)
            && now - before < RUNNING_CPU_MS
        {
            return Duration::ZERO;
        }
        let paused = self.paused.and_then(|now| now.checked_sub(last.paused?));
        self.at
            .since(last.at)
            .saturating_sub(paused.unwrap_or_default())
    }
}

fn reapers_cpu_ms(dump: &ThreadDump<'_>) -> Option<f64> {
    let reapers = dump
        .threads
        .iter()
        .filter(|thread| Pool::of(thread.name) == Some(Pool::ExpirationReaper));
    reapers
        .filter_map(|thread| thread.header().cpu_ms)
        .reduce(|sum, cpu| sum + cpu)
}

fn is_stalled(still: &Still, state: Option<State>) -> bool {
    let dumps = if still.cpu_ms.is_some() {
        DUMPS
    } else {
        DUMPS_WITHOUT_CPU
    };
    let span = if state == Some(State::Runnable) {
        RUNNABLE_SPAN
    } else {
        WAITING_SPAN
    };
    still.dumps >= dumps && still.time >= span
}

/// Whether the thread used no CPU to speak of. Where the JVM does not tell, the number of dumps must do.
fn stood_still(
    before: Option<f64>,
    now: Option<f64>,
    state: Option<State>,
    between: Duration,
) -> bool {
    let (Some(before), Some(now)) = (before, now) else {
        return before.is_none() && now.is_none();
    };
    let ticks = if state == Some(State::Blocked) {
        BLOCKED_CPU_MS_PER_S * between.as_secs_f64()
    } else {
        0.0
    };
    now - before <= STILL_CPU_MS + ticks
}

fn may_stall(pool: Pool, state: Option<State>, thread: &Thread<'_>) -> bool {
    match state {
        Some(State::Runnable) => thread.frames().next().is_some() && !selects(thread),
        Some(State::Blocked) => true,
        Some(State::Waiting) => !is_idle_wait(thread),
        Some(State::TimedWaiting) => must_move(pool) && !is_idle_wait(thread),
        Some(State::New | State::Terminated) | None => false,
    }
}

/// In the selector, whoever called it: waits for peers.
fn selects(thread: &Thread<'_>) -> bool {
    let mut in_nio = thread
        .frames()
        .take_while(|frame| frame.class_method.starts_with("sun.nio.ch."));
    in_nio.any(|frame| frame.class_method.starts_with("sun.nio.ch.SelectorImpl."))
}

/// Waits for the next task of its executor, or in its own loop for an element of a queue or for a condition.
fn is_idle_wait(thread: &Thread<'_>) -> bool {
    let frames: Vec<Frame<'_>> = thread.frames().collect();
    let is_condition =
        |frame: &Frame<'_>| of_synchronizer(frame, "Synchronizer$ConditionObject.await");
    let Some(condition) = frames.iter().position(is_condition) else {
        // An executor without a queue of its own hands tasks over.
        return frames.iter().any(is_get_task);
    };
    let (above, below) = frames.split_at(condition);
    // Once signalled it queues for the condition's lock.
    if above
        .iter()
        .any(|frame| of_synchronizer(frame, "Synchronizer.acquire"))
    {
        return false;
    }
    let mut in_loop = 0;
    for frame in below.iter().filter(|frame| !is_condition(frame)) {
        if is_get_task(frame) {
            return true;
        }
        if let Some(queue) = frame.class_method.strip_prefix("java.util.concurrent.") {
            let method = queue.rsplit('.').next().unwrap_or("");
            if !method.starts_with("take") && !method.starts_with("poll") {
                return false;
            }
        } else if !frame.class_method.starts_with("java.lang.Thread.") {
            in_loop += 1;
        }
    }
    in_loop <= LOOP_FRAMES
}

/// `AbstractQueuedSynchronizer` or its form of 64 bits. The beginning is looked at first: most frames lack it.
fn of_synchronizer(frame: &Frame<'_>, method: &str) -> bool {
    let class = frame
        .class_method
        .strip_prefix("java.util.concurrent.locks.AbstractQueued");
    class.is_some_and(|class| class.contains(method))
}

fn is_get_task(frame: &Frame<'_>) -> bool {
    frame.class_method == "java.util.concurrent.ThreadPoolExecutor.getTask"
}

/// Stalled threads of one pool at one place make one stall.
fn group(stalled: &[(Pool, Thread<'_>, Moment)]) -> Vec<Stall> {
    let mut stalls: BTreeMap<(Pool, Option<&str>, Option<String>), Stall> = BTreeMap::new();
    for (pool, thread, since) in stalled {
        let frames: Vec<Frame<'_>> = thread.frames().collect();
        let (frame, lock_class) = (shared_frame(&frames), wanted_class(thread));
        let stall = stalls
            .entry((*pool, frame, lock_class.clone()))
            .or_insert_with(|| Stall {
                pool: pool.name().to_owned(),
                threads: Vec::new(),
                since: *since,
                lock_class,
                holders: BTreeSet::new(),
                goes_on_with: None,
                frame: frame.map(str::to_owned),
                frames: frames.iter().take(KEPT_FRAMES).map(Frame::text).collect(),
                known_issues: Vec::new(),
            });
        stall.threads.push(thread.name.to_owned());
        stall.since = stall.since.min(*since);
    }
    let mut stalls: Vec<Stall> = stalls.into_values().collect();
    for stall in &mut stalls {
        stall.known_issues = known_issues::matching_stall(stall);
    }
    stalls
}

/// The topmost frame of Kafka's own, else the topmost one outside the JDK: `Class.method`.
fn shared_frame<'a>(frames: &[Frame<'a>]) -> Option<&'a str> {
    let mut methods = frames.iter().map(|frame| frame.class_method);
    // Helpers that take a lock for their caller tell nothing.
    let is_helper = |method: &str| {
        ["kafka.utils.", "org.apache.kafka.common.utils."]
            .iter()
            .any(|p| method.starts_with(p))
    };
    let is_kafka = |method: &&str| {
        ["kafka.", "org.apache.kafka."]
            .iter()
            .any(|p| method.starts_with(p))
            && !is_helper(method)
    };
    let is_library = |method: &&str| {
        ["java.", "javax.", "jdk.", "sun.", "scala."]
            .iter()
            .any(|p| method.starts_with(p))
    };
    methods
        .clone()
        .find(is_kafka)
        .or_else(|| methods.find(|method| !is_library(method)))
}

/// Class of what the thread waits for.
fn wanted_class(thread: &Thread<'_>) -> Option<String> {
    let wants = |kind| {
        !matches!(
            kind,
            LockKind::Locked | LockKind::Eliminated | LockKind::OwnedSynchronizer
        )
    };
    let lock = thread.locks().find(|lock| wants(lock.kind))?;
    (!lock.class.is_empty()).then(|| lock.class.replace('/', "."))
}

#[cfg(test)]
mod tests;
