//! Pools all of whose threads one dump shows at one place: a sign that counts where the broker owes an answer as well.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ends_of, is_idle_wait, is_outside, may_stall, selects, shared_frame, wait_for_brokers,
    wanted_class,
};
use crate::model::text::beginning;
use crate::model::{Moment, Stall};
use crate::parse::thread_dump::{Frame, State, Thread};
use crate::threads::peers::{Links, Still};
use crate::threads::pools::Pool;
use crate::threads::progress::must_move;
use crate::threads::stack::{is_of_kafka, top_frames};
use crate::threads::wait_graph::{WaitGraph, is_exclusive_lock};

/// A pool with more threads is not searched.
const MOST: usize = 1024;
/// Pools that are listed.
const MOST_POOLS: usize = 16;

/// The pools that serve requests and all of whose threads wait at one place that is not idle, or through locks for one
/// thread, or each for some lock or with a lock that others of them want. Where that place or that thread runs, or waits for
/// a disk or ZooKeeper, `unblocked_by` has one: it may be at work.
pub fn standing(graph: &WaitGraph<'_, '_>, now: Moment) -> Vec<Stall> {
    let mut pools: BTreeMap<(Pool, &str), Vec<usize>> = BTreeMap::new();
    for (index, thread) in graph.threads().iter().enumerate() {
        if let Some(pool) = Pool::of(thread.name).filter(|pool| must_move(*pool)) {
            pools
                .entry((pool, stem(thread.name)))
                .or_default()
                .push(index);
        }
    }
    let links = Links::of(graph.threads(), is_idle_wait);
    let found = pools
        .into_iter()
        .filter_map(|((pool, _), members)| stands(pool, &members, graph, &links, now));
    found.take(MOST_POOLS).collect()
}

/// `kafka-network-thread-1-PLAINTEXT` of `kafka-network-thread-1-PLAINTEXT-2`: each listener has its own.
fn stem(thread: &str) -> &str {
    thread.rsplit_once('-').map_or(thread, |(stem, _)| stem)
}

fn stands<'a>(
    pool: Pool,
    members: &[usize],
    graph: &WaitGraph<'_, 'a>,
    links: &Links<'a>,
    now: Moment,
) -> Option<Stall> {
    if members.len() > MOST {
        return None;
    }
    let dumped = graph.threads();
    let is_idle = |thread: &Thread<'_>| !may_stall(pool, thread.state(), thread);
    let (idle, members): (Vec<usize>, Vec<usize>) = members.iter().copied().partition(|index| {
        let thread = dumped.get(*index);
        thread.is_none_or(is_idle)
    });
    let members = &members[..];
    // A node that is broker and controller has two pools with these names, of which one stands.
    let names = |of: &[usize]| -> BTreeSet<&str> {
        let threads = of.iter().filter_map(|index| dumped.get(*index));
        threads.map(|thread| thread.name).collect()
    };
    if !names(&idle).is_subset(&names(members)) {
        return None;
    }
    let threads = || members.iter().filter_map(|index| dumped.get(*index));
    let ends = ends_of(members, graph);
    let behind_one = ends.len() == 1;
    // Not the holder, where that is one of them.
    let waiter = members.iter().find(|index| !ends.contains(index));
    let first = dumped.get(*waiter.or(members.first())?)?;
    let same_place = || {
        let here = place(first);
        threads().all(|thread| place(thread) == here)
    };
    // Nobody knows who holds a read lock, so behind one lock with readers a convoy has several ends.
    let queued = !(behind_one || same_place());
    if queued && !all_queue(members, graph) {
        return None;
    }
    let frames: Vec<Frame<'_>> = first.frames().collect();
    let frame = shared_frame(&frames).filter(|frame| {
        let mut others = threads();
        waiter.is_some() && !queued
            || others.all(|thread| {
                let frames: Vec<Frame<'_>> = thread.frames().collect();
                shared_frame(&frames) == Some(frame)
            })
    });
    let mut last = ends.iter().filter_map(|end| dumped.get(*end));
    let works =
        |thread: &&Thread<'_>| thread.state() == Some(State::Runnable) || is_outside(thread);
    // Any thread in Kafka's code that works may hold the lock whose holder is unknown.
    let may_hold = |thread: &&Thread<'_>| {
        let idle = || selects(thread) || is_idle_wait(thread);
        let mut frames = thread.frames();
        works(thread) && !idle() && frames.any(|frame| is_of_kafka(frame.class_method))
    };
    let holder = || dumped.iter().filter(|_| queued).find(may_hold);
    let mut stall = Stall {
        pool: pool.name().to_owned(),
        threads: threads().map(|thread| thread.name.to_owned()).collect(),
        of: members.len(),
        since: now,
        lock_class: wanted_class(first),
        holders: graph.holders_of(members),
        unblocked_by: last
            .find(works)
            .or_else(holder)
            .map(|thread| thread.name.to_owned()),
        awaits_brokers: BTreeSet::new(),
        frame: frame.map(|frame| beginning(frame, super::MAX_TEXT).to_owned()),
        frames: top_frames(first),
        // Nobody shows those of one dump.
        known_issues: Vec::new(),
    };
    // In one dump nothing shows which of the links stands still, so all that may be it count.
    wait_for_brokers(&mut stall, &ends, links, graph, |_| Still::Yes);
    Some(stall)
}

/// Whether each waits for a lock, or has one for which another of them waits.
fn all_queue(members: &[usize], graph: &WaitGraph<'_, '_>) -> bool {
    let wanted = graph.holders_of(members);
    members.iter().all(|index| {
        let thread = graph.threads().get(*index);
        thread.is_some_and(|thread| wants_lock(thread) || wanted.contains(thread.name))
    })
}

fn wants_lock(thread: &Thread<'_>) -> bool {
    match thread.state() {
        Some(State::Blocked) => true,
        Some(State::Waiting) => wanted_class(thread).is_some_and(|class| is_exclusive_lock(&class)),
        _ => false,
    }
}

/// Where a thread waits: its topmost method, and the class of what it waits for.
fn place<'a>(thread: &Thread<'a>) -> (Option<&'a str>, Option<String>) {
    let top = thread.frames().next();
    (top.map(|frame| frame.class_method), wanted_class(thread))
}
