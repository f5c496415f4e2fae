//! Likely deadlocks: a thread that waits for another one to do something, while it holds what others wait for.
//!
//! Such a wait is for the end of a thread, a latch, the result of a task, or room in a queue. No text says whose turn it is,
//! so the thread that is waited for is a guess and the deadlock is never proven: a wait-for graph with such edges would
//! find cycles that do not exist. What is sure is that a lock is held across the wait and that others want it; if one of
//! them is the thread that is waited for, none of them ever continues. A shutdown hook counts in the same way: the
//! thread that called `exit` waits for its end.
//!
//! Timed waits end by themselves. A thread that takes from a queue or waits for a condition while it holds a lock is not
//! counted: pools hand their tasks out so, and idle ones look the same.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::stack::{TOP, place_hash, top_of_jdk};
use super::wait_graph::WaitGraph;
use crate::model::text::{cut, first_of};
use crate::model::{LikelyDeadlock, Moment};
use crate::parse::thread_dump::{LockKind, State, Thread};

/// A likely deadlock that dumps so far apart show at the same place does not come from a slow disk or peer.
pub const STANDS: Duration = Duration::from_secs(10);

/// The most of one dump that are kept, and of their waiters.
const KEPT: usize = 4;
const KEPT_BLOCKED: usize = 16;
/// Frames kept of either side.
const FRAMES: usize = 16;
const MAX_TEXT: usize = 512;

/// What a thread waits for that is no lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    End,
    Latch,
    Result,
    Room,
}

/// The methods that wait without a limit of time.
const WAITS: [(&str, Event); 10] = [
    ("java.lang.Thread.join", Event::End),
    ("java.util.concurrent.CountDownLatch.await", Event::Latch),
    ("java.util.concurrent.FutureTask.get", Event::Result),
    ("java.util.concurrent.ForkJoinTask.get", Event::Result),
    ("java.util.concurrent.ForkJoinTask.join", Event::Result),
    ("java.util.concurrent.CompletableFuture.get", Event::Result),
    ("java.util.concurrent.CompletableFuture.join", Event::Result),
    ("java.util.concurrent.ArrayBlockingQueue.put", Event::Room),
    ("java.util.concurrent.LinkedBlockingQueue.put", Event::Room),
    ("java.util.concurrent.LinkedBlockingDeque.put", Event::Room),
];

/// A thread that waits for an event.
#[derive(Clone, Copy)]
struct Wait<'a> {
    event: Event,
    /// The method that waits, or the first one of Kafka's that ends a thread: `kafka.utils.ShutdownableThread.awaitShutdown`.
    method: &'a str,
    /// The class of the thread whose end it waits for, where printed.
    class: &'a str,
}

impl<'a> Wait<'a> {
    fn of(thread: &Thread<'a>) -> Option<Wait<'a>> {
        if thread.state() != Some(State::Waiting) {
            return None;
        }
        let (method, event) = top_of_jdk(thread).find_map(|method| {
            let known = WAITS.iter().find(|(name, _)| *name == method);
            known.map(|(_, event)| (method, *event))
        })?;
        let ends_a_thread = |method: &&str| {
            [
                "ShutdownableThread.shutdown",
                "ShutdownableThread.awaitShutdown",
            ]
            .iter()
            .any(|end| method.ends_with(end))
        };
        let ending = thread
            .frames()
            .map(|frame| frame.class_method)
            .take(TOP)
            .find(ends_a_thread);
        let mut locks = thread.locks();
        let waited_on = locks.find(|lock| lock.kind == LockKind::WaitingOn);
        Some(Wait {
            event: ending.map_or(event, |_| Event::End),
            method: ending.unwrap_or(method),
            class: waited_on.map_or("", |lock| lock.class),
        })
    }

    /// Whether the thread seems to be one that it waits for, by the methods that it runs.
    fn may_be_for(&self, thread: &Thread<'_>) -> bool {
        let runs = |part: &str| {
            thread
                .frames()
                .any(|frame| frame.class_method.contains(part))
        };
        match self.event {
            Event::End => {
                let known = !["", "java.lang.Thread"].contains(&self.class);
                runs("ShutdownableThread.run") || (known && runs(&format!("{}.", self.class)))
            }
            Event::Result => [
                "FutureTask.run",
                "ThreadPoolExecutor.runWorker",
                "ForkJoinPool.",
            ]
            .iter()
            .any(|part| runs(part)),
            Event::Latch | Event::Room => false,
        }
    }
}

/// Whether the thread waits for the end of another one.
pub(super) fn waits_for_end(thread: &Thread<'_>) -> bool {
    Wait::of(thread).is_some_and(|wait| wait.event == Event::End)
}

/// The likely deadlocks of one dump, in the order in which those that wait for an event stand in it.
pub fn likely_deadlocks(graph: &WaitGraph<'_, '_>, now: Moment) -> Vec<LikelyDeadlock> {
    let found = places(graph);
    found
        .into_iter()
        .map(|place| place.described(graph, now))
        .collect()
}

/// Which likely deadlocks the last dump had, and since when.
#[derive(Debug, Default)]
pub struct LikelyDetector(HashMap<(u64, u64), Moment>);

impl LikelyDetector {
    /// The likely deadlocks of the next dump, each since the first one of the dumps in a row that show it at the same place.
    pub fn observe(&mut self, graph: &WaitGraph<'_, '_>, now: Moment) -> Vec<LikelyDeadlock> {
        let before = std::mem::take(&mut self.0);
        let found = places(graph).into_iter();
        found
            .map(|place| {
                let key = place.key(graph);
                let since = before.get(&key).copied().unwrap_or(now);
                self.0.insert(key, since);
                place.described(graph, since)
            })
            .collect()
    }
}

/// Where a likely deadlock is in the graph.
struct Place<'a> {
    thread: usize,
    wait: Wait<'a>,
    /// Those that are blocked behind it, or that wait for its end.
    blocked: Vec<usize>,
    /// The one of them that it seems to wait for.
    may_await: Option<usize>,
    /// Whether they wait for its end, not for a lock.
    by_exit: bool,
}

fn places<'a>(graph: &WaitGraph<'_, 'a>) -> Vec<Place<'a>> {
    let threads = graph.threads();
    let mut found: BTreeMap<usize, Place<'a>> = BTreeMap::new();
    for (index, blocked) in graph.blocked_behind() {
        let Some(wait) = threads.get(index).and_then(Wait::of) else {
            continue;
        };
        let may_be = |other: &usize| {
            threads
                .get(*other)
                .is_some_and(|other| wait.may_be_for(other))
        };
        let may_await = blocked
            .iter()
            .copied()
            .find(may_be)
            .or(blocked.first().copied().filter(|_| blocked.len() == 1));
        let place = Place {
            thread: index,
            wait,
            blocked,
            may_await,
            by_exit: false,
        };
        found.insert(index, place);
    }
    if let Some(place) = exit(threads) {
        found.entry(place.thread).or_insert(place);
    }
    found.into_values().take(KEPT).collect()
}

/// A thread that called `exit` and waits for a shutdown hook, which waits for the end of threads like it.
fn exit<'a>(threads: &[Thread<'a>]) -> Option<Place<'a>> {
    let runs_hooks = |thread: &Thread<'a>| {
        let mut frames = thread.frames().map(|frame| frame.class_method);
        frames.any(|method| method == "java.lang.ApplicationShutdownHooks.runHooks")
    };
    let ending: Vec<(usize, &Thread<'a>, Wait<'a>)> = threads
        .iter()
        .enumerate()
        .filter_map(|(index, thread)| Some((index, thread, Wait::of(thread)?)))
        .filter(|(_, _, wait)| wait.event == Event::End)
        .collect();
    let (exiting, caller, _) = ending.iter().find(|(_, thread, _)| runs_hooks(thread))?;
    let (hook, _, wait) = ending
        .iter()
        .find(|(_, thread, wait)| !runs_hooks(thread) && wait.may_be_for(caller))?;
    Some(Place {
        thread: *hook,
        wait: *wait,
        blocked: vec![*exiting],
        may_await: Some(*exiting),
        by_exit: true,
    })
}

impl Place<'_> {
    /// Equal for the same threads at the same place.
    fn key(&self, graph: &WaitGraph<'_, '_>) -> (u64, u64) {
        let hash = |index: Option<usize>| {
            let thread = index.and_then(|index| graph.threads().get(index));
            thread.map_or(0, place_hash)
        };
        (hash(Some(self.thread)), hash(self.may_await))
    }

    fn described(&self, graph: &WaitGraph<'_, '_>, since: Moment) -> LikelyDeadlock {
        let threads = graph.threads();
        let name = |index: usize| {
            let thread = threads.get(index);
            thread.map_or_else(String::new, |thread| thread.name.to_owned())
        };
        let frames = |index: usize| {
            let frames = threads.get(index).into_iter().flat_map(Thread::frames);
            let frames = frames.take(FRAMES);
            frames.map(|frame| cut(frame.text(), MAX_TEXT)).collect()
        };
        let wanted = self.blocked.iter().find_map(|waiter| {
            let (class, holder) = graph.wanted(*waiter)?;
            (holder == self.thread).then_some(class)
        });
        LikelyDeadlock {
            thread: name(self.thread),
            waits_in: cut(self.wait.method.to_owned(), MAX_TEXT),
            frames: frames(self.thread),
            holds: wanted.filter(|_| !self.by_exit),
            blocked: self
                .blocked
                .iter()
                .take(KEPT_BLOCKED)
                .map(|&index| name(index))
                .collect(),
            blocked_left_out: self.blocked.len().saturating_sub(KEPT_BLOCKED),
            may_await: self.may_await.map(name),
            may_await_frames: self.may_await.map(frames).unwrap_or_default(),
            since,
        }
    }
}

/// `closer waits in java.lang.Thread.join and holds x.L, which a, b want: if it waits for a, neither continues`
pub fn likely_text(likely: &LikelyDeadlock) -> String {
    let LikelyDeadlock {
        thread, waits_in, ..
    } = likely;
    let all = likely.blocked.len() + likely.blocked_left_out;
    let others = first_of(&likely.blocked, all);
    let meanwhile = match likely.holds.as_deref() {
        Some(lock) => {
            let lock = if lock.is_empty() { "a lock" } else { lock };
            let want = if all == 1 { "wants" } else { "want" };
            format!("and holds {lock}, which {others} {want}")
        }
        None => format!("while {others} called exit and waits for its end"),
    };
    let of = match &likely.may_await {
        Some(other) => format!("if it waits for {other}"),
        None => "if it waits for one of these".to_owned(),
    };
    format!("{thread} waits in {waits_in} {meanwhile}: {of}, neither continues")
}
