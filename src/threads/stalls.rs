//! Stalled pool threads: the same stack in several dumps, not at their idle point, no CPU used in between.
//!
//! This finds what no wait-for graph shows because no text names the holder: read locks, `StampedLock`, `Semaphore`, a
//! lock held across an awaited event, a pool that waits for itself, a join, a nested `wait`, class initialisation.
//!
//! A thread is idle when it waits in a selector, for a task of its executor, or in its own loop for an element of a queue
//! or for a condition. A thread that waits deeper in the stack is at work. A timed wait ends by itself, so it counts only
//! for threads that wait for nothing but their queue: those that must move.
//!
//! [`standing`] needs one dump alone, and all threads of a pool.

mod standing;

pub use standing::standing;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::known_issues;
use super::peers::{Links, Still};
use super::pools::Pool;
use super::progress::must_move;
use super::stack::{is_of_jdk, is_of_kafka, place_hash, stack_hash, top_frames};
use super::wait_graph::WaitGraph;
use crate::model::text::{beginning, first_of};
use crate::model::{FileCall, Moment, PoolFindings, Stall};
use crate::parse::thread_dump::{Frame, LockKind, State, Thread, ThreadDump};

/// A thread that waits for so long, while the JVM runs, is stalled. Normal waits for locks, ZooKeeper, a peer, or a thread
/// that writes to a slow disk are shorter.
const WAITING_SPAN: Duration = Duration::from_secs(10);
/// The same for a thread in the kernel: a slow disk may take some seconds.
const RUNNABLE_SPAN: Duration = Duration::from_secs(20);
/// How many dumps must agree, and how many if the JVM prints no CPU time (JDK 8): a working thread may be seen at the same
/// line twice.
const DUMPS: u32 = 2;
const DUMPS_WITHOUT_CPU: u32 = 4;
/// The CPU time that a stalled thread may use between two dumps, in milliseconds. Parked ones used 0.00 in 40 s.
const STILL_CPU_MS: f64 = 0.05;
/// The same for a BLOCKED thread, in milliseconds per second: on JDK 11 and 17 the first in the queue for a monitor wakes
/// once a second, for 0.03 to 0.06 ms.
const BLOCKED_CPU_MS_PER_S: f64 = 0.2;
/// The CPU time that the expiration reapers, which poll, use at least while the JVM runs, in milliseconds: 0.3 each per
/// second. During a long garbage collection, or while the process is stopped, no thread runs.
const RUNNING_CPU_MS: f64 = 0.1;
/// The most frames from the one that waits in the thread's own loop to `Thread.run`.
const LOOP_FRAMES: usize = 3;
/// Threads that hold what a stall waits for, whose stacks are searched for a known bug.
const HOLDERS: usize = 4;
/// The topmost frames that are searched for a disk or ZooKeeper.
const OUTSIDE_FRAMES: usize = 16;
/// A thread that waits there continues when the disk or ZooKeeper answers.
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
/// The most threads that are followed.
const MAX_THREADS: usize = 4096;
/// Longer names of methods and classes are cut.
const MAX_TEXT: usize = 512;

/// What is remembered from the last dump of a process.
#[derive(Debug, Default)]
pub struct StallDetector {
    tracks: HashMap<Key, Track>,
    /// The threads that speak with one other broker.
    links: HashMap<(String, Option<u64>), LinkTrack>,
    first_dump: Option<Moment>,
    last: Option<Clock>,
}

/// What shows how long the JVM ran between two dumps.
#[derive(Debug, Clone, Copy)]
struct Clock {
    at: Moment,
    /// The time at safepoints since the JVM started.
    paused: Option<Duration>,
    /// The CPU time of all expiration reapers; None if the JVM prints none or has no reaper.
    reapers_cpu_ms: Option<f64>,
}

/// Java's thread number distinguishes threads with the same name.
type Key = (Pool, String, Option<u64>);

/// A thread that is not idle and stays at one place.
#[derive(Debug, Clone, Copy)]
struct Track {
    stack: u64,
    since: Moment,
    /// How long the JVM ran since then.
    time: Duration,
    dumps: u32,
    cpu_ms: Option<f64>,
    /// The CPU time of the owner of the monitor at which it is blocked.
    owner_cpu_ms: Option<f64>,
}

/// Where a thread was that speaks with one other broker.
#[derive(Debug, Clone, Copy)]
struct LinkTrack {
    stack: u64,
    cpu_ms: Option<f64>,
}

impl StallDetector {
    /// Takes in the next dump and its graph and returns the stalls. `paused` is the JVM's time at safepoints since it
    /// started, where known. None until two dumps are far enough apart.
    pub fn observe<'a>(
        &mut self,
        dump: &ThreadDump<'a>,
        graph: &WaitGraph<'_, 'a>,
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
        let mut tracks = HashMap::new();
        let mut sizes: BTreeMap<Pool, usize> = BTreeMap::new();
        let mut stalled = Vec::new();
        let mut unmoved = Vec::new();
        for (index, thread) in dump.threads.iter().enumerate() {
            let Some(pool) = Pool::of(thread.name) else {
                continue;
            };
            *sizes.entry(pool).or_default() += 1;
            let state = thread.state();
            if tracks.len() >= MAX_THREADS || !may_stall(pool, state, thread) {
                continue;
            }
            let header = thread.header();
            let key = (pool, thread.name.to_owned(), header.number);
            // Threads that take turns at a monitor wait at one place as well.
            let owner = graph
                .holder(index)
                .filter(|_| state == Some(State::Blocked));
            let here = Track {
                stack: owner.map_or(0, place_hash) ^ stack_hash(thread),
                since: now,
                time: Duration::ZERO,
                dumps: 1,
                cpu_ms: header.cpu_ms,
                owner_cpu_ms: owner.and_then(|owner| owner.header().cpu_ms),
            };
            let is_unmoved = |before: &&Track| {
                let owner_state = owner.and_then(Thread::state);
                before.stack == here.stack
                    && used_no_cpu(before.cpu_ms, here.cpu_ms, state, between)
                    && used_no_cpu(before.owner_cpu_ms, here.owner_cpu_ms, owner_state, between)
            };
            let here = match self.tracks.get(&key).filter(is_unmoved) {
                Some(before) if ran.is_zero() => *before,
                Some(before) => Track {
                    since: before.since,
                    time: before.time + ran,
                    dumps: before.dumps + 1,
                    ..here
                },
                None => here,
            };
            if here.dumps >= DUMPS {
                unmoved.push(thread);
            }
            if is_stalled(&here, state) {
                stalled.push((pool, index, *thread, here.since));
            }
            tracks.insert(key, here);
        }
        self.tracks = tracks;
        self.last = Some(clock);
        let links = Links::of(&dump.threads, is_idle_wait);
        let still_links = self.still_links(dump, &links, between);
        let first = *self.first_dump.get_or_insert(now);
        let mut stalls = group(&stalled, &sizes);
        let at_a_disk = || {
            unmoved
                .iter()
                .find(|thread| is_outside(thread))
                .map(|thread| thread.name)
        };
        let outside = if stalls.is_empty() { None } else { at_a_disk() };
        for (stall, members) in &mut stalls {
            stall.holders = graph.holders_of(members);
            let last = graph.last_holders_of(members);
            let holder = last.iter().find(|holder| can_continue(holder));
            let holder = holder.map(|holder| holder.name);
            let still = |index: usize| still_links.get(&index).copied().unwrap_or(Still::No);
            let ends = ends_of(members, graph);
            let link = wait_for_brokers(stall, &ends, &links, graph, still);
            stall.unblocked_by = link.or(holder).or(outside).map(str::to_owned);
            let stacks = || last.iter().take(HOLDERS).map(|at| top_frames(at)).collect();
            stall.known_issues = known_issues::matching_stall(stall, stacks);
        }
        let stalls = stalls.into_iter().map(|(stall, _)| stall).collect();
        let pools = sizes.into_keys().collect();
        (now.since(first) >= WAITING_SPAN).then(|| Pool::findings(stalls, pools))
    }

    /// The links that may not have moved since the dump before, by their indexes.
    fn still_links(
        &mut self,
        dump: &ThreadDump<'_>,
        links: &Links<'_>,
        between: Duration,
    ) -> BTreeMap<usize, Still> {
        let mut still = BTreeMap::new();
        let mut tracks = HashMap::new();
        for index in links.indexes() {
            let Some(thread) = dump.threads.get(index) else {
                continue;
            };
            let header = thread.header();
            let key = (thread.name.to_owned(), header.number);
            let here = LinkTrack {
                stack: stack_hash(thread),
                cpu_ms: header.cpu_ms,
            };
            let is_still = self.links.get(&key).is_some_and(|before| {
                before.stack == here.stack
                    && used_no_cpu(before.cpu_ms, here.cpu_ms, thread.state(), between)
            });
            if is_still {
                let known = here.cpu_ms.map_or(Still::Perhaps, |_| Still::Yes);
                still.insert(index, known);
            }
            tracks.insert(key, here);
        }
        self.links = tracks;
        still
    }
}

/// The last threads that the others wait for through locks.
fn ends_of(members: &[usize], graph: &WaitGraph<'_, '_>) -> BTreeSet<usize> {
    members.iter().map(|at| graph.last_holder(*at)).collect()
}

/// Sets the brokers for which all the threads at `ends` wait. Returns a thread that would get such an answer.
fn wait_for_brokers<'a>(
    stall: &mut Stall,
    ends: &BTreeSet<usize>,
    links: &Links<'a>,
    graph: &WaitGraph<'_, 'a>,
    still: impl Fn(usize) -> Still,
) -> Option<&'a str> {
    let mut link = None;
    for end in ends {
        let awaited = links.awaited(graph.threads(), *end, &still);
        let Some((thread, _)) = awaited.first() else {
            stall.awaits_brokers.clear();
            return None;
        };
        link = Some(*thread);
        let brokers = awaited.iter().map(|(_, broker)| *broker);
        stall.awaits_brokers.extend(brokers);
    }
    link
}

/// `2 threads of request_handler are stalled in kafka.A.b, waiting for java.util.X, held by holder`
pub fn stall_text(stall: &Stall) -> String {
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
    let mut text = match stall.threads.len() {
        1 => format!("1 thread of {} is stalled{place}{lock}", stall.pool),
        threads => format!(
            "{threads} threads of {} are stalled{place}{lock}",
            stall.pool
        ),
    };
    stall
        .holders
        .iter()
        .for_each(|holder| text += &format!(", held by {holder}"));
    if !stall.awaits_brokers.is_empty() {
        let brokers = first_of(&stall.awaits_brokers, stall.awaits_brokers.len());
        text += &format!(", until broker {brokers} answers");
    }
    text
}

/// Whether a thread that others wait for runs, sleeps, or waits for a disk or ZooKeeper.
fn can_continue(thread: &Thread<'_>) -> bool {
    let runs = matches!(thread.state(), Some(State::Runnable | State::TimedWaiting));
    runs || is_outside(thread)
}

/// Threads of one dump that are listed with a call for a file.
const MAX_FILE_CALLS: usize = 64;

/// The threads of pools that are in a call of the operating system for a file.
pub fn file_calls(dump: &ThreadDump<'_>) -> Vec<FileCall> {
    let running = dump.threads.iter().filter(|thread| {
        thread.state() == Some(State::Runnable) && Pool::of(thread.name).is_some()
    });
    let calls = running.filter_map(|thread| {
        let mut top = thread.frames().map(|frame| frame.class_method);
        let method = top.next()?;
        let is_of_file = |method: &str| {
            let known = [
                "sun.nio.ch.File",
                "sun.nio.ch.UnixFile",
                "sun.nio.fs.UnixNativeDispatcher.",
                "java.io.FileDescriptor.",
                "java.io.RandomAccessFile.",
                "java.io.FileOutputStream.",
                "java.nio.MappedByteBuffer.",
                "java.nio.MappedMemoryUtils.",
            ];
            known.iter().any(|part| method.starts_with(part))
        };
        // Sockets use the calls of files.
        let is_of_socket = top.take(2).any(|method| method.contains("Socket"));
        (is_of_file(method) && !is_of_socket).then(|| FileCall {
            thread: thread.name.to_owned(),
            method: beginning(method, MAX_TEXT).to_owned(),
        })
    });
    calls.take(MAX_FILE_CALLS).collect()
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

fn is_stalled(track: &Track, state: Option<State>) -> bool {
    let dumps = if track.cpu_ms.is_some() {
        DUMPS
    } else {
        DUMPS_WITHOUT_CPU
    };
    let span = if state == Some(State::Runnable) {
        RUNNABLE_SPAN
    } else {
        WAITING_SPAN
    };
    track.dumps >= dumps && track.time >= span
}

/// Whether the thread used almost no CPU. If the JVM prints none, the number of dumps must suffice.
fn used_no_cpu(
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

/// Whether it is in the selector, where it waits for peers.
fn selects(thread: &Thread<'_>) -> bool {
    let mut in_nio = thread
        .frames()
        .take_while(|frame| frame.class_method.starts_with("sun.nio.ch."));
    in_nio.any(|frame| frame.class_method.starts_with("sun.nio.ch.SelectorImpl."))
}

/// Whether it waits for the next task of its executor, or in its own loop for an element of a queue or a condition.
fn is_idle_wait(thread: &Thread<'_>) -> bool {
    let frames: Vec<Frame<'_>> = thread.frames().collect();
    let is_condition =
        |frame: &Frame<'_>| of_synchronizer(frame, "Synchronizer$ConditionObject.await");
    let Some(condition) = frames.iter().position(is_condition) else {
        // An executor without its own queue hands tasks over.
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

/// Whether it is a method of `AbstractQueuedSynchronizer` or its 64-bit form. Most frames already lack the prefix.
fn of_synchronizer(frame: &Frame<'_>, method: &str) -> bool {
    let class = frame
        .class_method
        .strip_prefix("java.util.concurrent.locks.AbstractQueued");
    class.is_some_and(|class| class.contains(method))
}

fn is_get_task(frame: &Frame<'_>) -> bool {
    frame.class_method == "java.util.concurrent.ThreadPoolExecutor.getTask"
}

/// Groups the stalled threads, each with its index: those of one pool at one place are one stall. `sizes` has the number of
/// threads of each pool.
fn group(
    stalled: &[(Pool, usize, Thread<'_>, Moment)],
    sizes: &BTreeMap<Pool, usize>,
) -> Vec<(Stall, Vec<usize>)> {
    type Place<'a> = (Pool, Option<&'a str>, Option<String>);
    let mut stalls: BTreeMap<Place<'_>, (Stall, Vec<usize>)> = BTreeMap::new();
    for (pool, index, thread, since) in stalled {
        let frames: Vec<Frame<'_>> = thread.frames().collect();
        let (frame, lock_class) = (shared_frame(&frames), wanted_class(thread));
        let place = (*pool, frame, lock_class.clone());
        let (stall, members) = stalls.entry(place).or_insert_with(|| {
            let stall = Stall {
                pool: pool.name().to_owned(),
                threads: Vec::new(),
                since: *since,
                lock_class,
                of: sizes.get(pool).copied().unwrap_or_default(),
                holders: BTreeSet::new(),
                unblocked_by: None,
                awaits_brokers: BTreeSet::new(),
                frame: frame.map(|frame| beginning(frame, MAX_TEXT).to_owned()),
                frames: top_frames(thread),
                known_issues: Vec::new(),
            };
            (stall, Vec::new())
        });
        members.push(*index);
        stall.threads.push(thread.name.to_owned());
        stall.since = stall.since.min(*since);
    }
    stalls.into_values().collect()
}

/// The topmost frame in Kafka's code, otherwise the topmost one outside the JDK: `Class.method`.
fn shared_frame<'a>(frames: &[Frame<'a>]) -> Option<&'a str> {
    let mut methods = frames.iter().map(|frame| frame.class_method);
    // Helpers that take a lock for their caller say nothing about the place.
    let is_helper = |method: &str| {
        ["kafka.utils.", "org.apache.kafka.common.utils."]
            .iter()
            .any(|p| method.starts_with(p))
    };
    let is_kafka = |method: &&str| is_of_kafka(method) && !is_helper(method);
    let is_library = |method: &&str| is_of_jdk(method) || method.starts_with("scala.");
    methods
        .clone()
        .find(is_kafka)
        .or_else(|| methods.find(|method| !is_library(method)))
}

/// The class of what the thread waits for.
fn wanted_class(thread: &Thread<'_>) -> Option<String> {
    let wants = |kind| {
        !matches!(
            kind,
            LockKind::Locked | LockKind::Eliminated | LockKind::OwnedSynchronizer
        )
    };
    let lock = thread.locks().find(|lock| wants(lock.kind))?;
    (!lock.class.is_empty()).then(|| beginning(lock.class, MAX_TEXT).replace('/', "."))
}

#[cfg(test)]
mod tests;
