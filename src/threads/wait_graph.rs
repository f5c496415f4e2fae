//! Which threads of one dump wait for which: deadlocks with their true members, and convoys.
//!
//! A thread waits for at most one lock, so the graph has at most one edge out of each thread and a cycle is found by
//! walking. The JVM's own report adds the owners of `java.util.concurrent` locks, which a stack does not show. Its
//! members of a cycle are not used, because it also lists threads that are only blocked behind one.
//!
//! Owners of such locks from a dump with `-l` also apply to later dumps, as long as waiter and owner both stay at the
//! same place ([`Owners`]).
//!
//! One dump cannot show these, because no text names the holder: read locks, `StampedLock`, `Semaphore`, a pool that waits
//! for itself, a nested `wait`, class initialisation before JDK 17. Of latches and the like, [`super::likely`] has those
//! with a lock held.
//!
//! Where a part of the dump was not read, an edge may be missing: [`WaitGraph::not_understood`].

mod read;
mod understood;

use std::collections::{BTreeSet, HashMap, HashSet};

use super::stack::stack_hash;
use crate::model::text::cut;
use crate::model::{Deadlock, DeadlockedThread, LockQueue, MoreDeadlocks};
use crate::parse::thread_dump::{Thread, ThreadDump, Unread};

/// Frames kept for a member of a cycle: enough to recognise the bug.
const CYCLE_FRAMES: usize = 64;
/// Frames kept for a thread that is blocked behind a cycle: there may be hundreds of them.
const WAITING_FRAMES: usize = 16;
/// What of a dump's deadlocks is kept; the rest is counted. The sums are over all deadlocks of the dump, but two members are
/// kept of each.
const KEPT_DEADLOCKS: usize = 16;
const KEPT_MEMBERS: usize = 256;
const KEPT_WAITING: usize = 256;
/// Bytes of frames: 64 frames of a member have some 5 KB. A host has dozens of brokers, and each page shows all of it.
const KEPT_FRAME_BYTES: usize = 32 << 10;
/// Longer class names and frames are cut.
const MAX_TEXT: usize = 512;
/// Waiters kept of a convoy.
const KEPT_WAITERS: usize = 256;
/// Owners that are remembered for later dumps.
const KEPT_OWNERS: usize = 4096;
/// Fewer waiters than this are normal contention.
const CONVOY_WAITERS: usize = 2;

/// The wait-for graph of one dump. Its nodes are the dump's threads, followed by those that only the report names. Every
/// index is a position in `edges`, from which nothing is removed; it distinguishes threads with the same name.
pub struct WaitGraph<'d, 'a> {
    threads: &'d [Thread<'a>],
    /// Threads that only the report names.
    only_reported: Vec<&'a str>,
    /// The stacks that the report repeats.
    reported: HashMap<usize, Thread<'a>>,
    /// Threads that the report calls deadlocked, including those blocked behind a cycle.
    in_report: BTreeSet<usize>,
    edges: Vec<Edge<'a>>,
    /// The members of each cycle, each waiting for the next, the last for the first.
    cycles: Vec<Vec<usize>>,
    /// The cycle that a thread belongs to or is blocked behind.
    leads_to: Vec<Option<usize>>,
    /// The last thread that each one waits for through locks; itself where no holder is known, and in or behind a cycle.
    last: Vec<usize>,
    /// The first thread of each deadlock of the JVM's report.
    first_reported: Vec<usize>,
    unread: Unread,
    truncated: bool,
    /// Lines of locks that were not read, and the first one.
    unread_lines: usize,
    unread_line: Option<&'a str>,
}

#[derive(Clone, Copy, Default)]
struct Edge<'a> {
    wants: Option<Want<'a>>,
    holder: Option<usize>,
}

#[derive(Clone, Copy)]
struct Want<'a> {
    lock: Lock<'a>,
    class: &'a str,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Lock<'a> {
    Monitor(u64),
    /// A `java.util.concurrent` object. Its owner is not the holder of its monitor.
    Synchronizer(u64),
    /// The initialisation of a class.
    Class(&'a str),
    /// A lock from the report, which names the holder but no address.
    Reported,
}

impl Lock<'_> {
    /// One of 64 bits, or all of them: a lock is not among others where none of these has its bit.
    fn bit(self) -> u64 {
        match self {
            Lock::Monitor(address) | Lock::Synchronizer(address) => {
                1 << (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58)
            }
            Lock::Class(_) | Lock::Reported => u64::MAX,
        }
    }
}

/// A thread at one place: its name, its number in Java, and the hash of its stack.
type ThreadAtPlace = (String, Option<u64>, u64);

/// The owners of the `java.util.concurrent` locks that threads wait for, from a dump with `-l`, by the waiting thread.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners(HashMap<ThreadAtPlace, ThreadAtPlace>);

impl<'d, 'a> WaitGraph<'d, 'a> {
    pub fn of(dump: &'d ThreadDump<'a>) -> WaitGraph<'d, 'a> {
        Self::with_owners(dump, &Owners::default())
    }

    /// The graph with the owners from an earlier dump of the process.
    pub fn with_owners(dump: &'d ThreadDump<'a>, owners: &Owners) -> WaitGraph<'d, 'a> {
        let mut graph = WaitGraph {
            threads: &dump.threads,
            only_reported: Vec::new(),
            reported: HashMap::new(),
            in_report: BTreeSet::new(),
            edges: Vec::with_capacity(dump.threads.len()),
            cycles: Vec::new(),
            leads_to: Vec::new(),
            last: Vec::new(),
            first_reported: Vec::new(),
            unread: dump.unread,
            truncated: dump.truncated,
            unread_lines: 0,
            unread_line: None,
        };
        graph.read_stacks();
        graph.read_named_holders();
        graph.read_report(dump);
        graph.apply(owners);
        graph.find_cycles();
        graph
    }

    /// Every deadlock, in the order in which their first members stand in the dump.
    pub fn deadlocks(&self) -> Vec<Deadlock> {
        let mut kept = Kept::default();
        let listed = self.in_order().into_iter().take(KEPT_DEADLOCKS);
        let mut deadlocks: Vec<(usize, Deadlock)> = listed
            .map(|at| {
                let members = &self.cycles[at];
                let keep = (KEPT_MEMBERS - kept.members).max(2).min(members.len());
                kept.members = (kept.members + keep).min(KEPT_MEMBERS);
                let cycle = members.iter().take(keep);
                let deadlock = Deadlock {
                    cycle: cycle
                        .map(|&member| self.deadlocked(member, CYCLE_FRAMES, &mut kept))
                        .collect(),
                    cycle_left_out: members.len() - keep,
                    reported: members.iter().any(|member| self.in_report.contains(member)),
                    ..Deadlock::default()
                };
                (at, deadlock)
            })
            .collect();
        let mut is_member = vec![false; self.edges.len()];
        for &member in self.cycles.iter().flatten() {
            is_member[member] = true;
        }
        for (index, cycle) in self.leads_to.iter().enumerate() {
            let Some(cycle) = cycle.filter(|_| !is_member[index]) else {
                continue;
            };
            let Some((_, deadlock)) = deadlocks.iter_mut().find(|(at, _)| *at == cycle) else {
                continue;
            };
            if kept.waiting == KEPT_WAITING {
                deadlock.waiting_left_out += 1;
            } else {
                kept.waiting += 1;
                let waiting = self.deadlocked(index, WAITING_FRAMES, &mut kept);
                deadlock.waiting.push(waiting);
            }
        }
        deadlocks
            .into_iter()
            .map(|(_, deadlock)| deadlock)
            .collect()
    }

    /// What [`WaitGraph::deadlocks`] leaves out.
    pub fn more_deadlocks(&self) -> MoreDeadlocks {
        let more = self.in_order().into_iter().skip(KEPT_DEADLOCKS);
        let members: Vec<usize> = more.map(|at| self.cycles[at].len()).collect();
        MoreDeadlocks {
            deadlocks: members.len(),
            threads: members.iter().sum(),
        }
    }

    /// The cycles in the order in which their first members stand in the dump.
    fn in_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.cycles.len()).collect();
        order.sort_unstable_by_key(|&at| self.cycles[at].first().copied());
        order
    }

    /// Locks that several threads wait for outside deadlocks, the longest queue first.
    pub fn convoys(&self) -> Vec<LockQueue> {
        self.queues_of(|queue, _| queue.len() >= CONVOY_WAITERS)
    }

    /// The same, and single threads that wait for a lock whose holder is known.
    pub fn queues(&self) -> Vec<LockQueue> {
        self.queues_of(|queue, holder| queue.len() >= CONVOY_WAITERS || holder.is_some())
    }

    fn queues_of(&self, counts: impl Fn(&[usize], Option<usize>) -> bool) -> Vec<LockQueue> {
        let mut queues: HashMap<(Lock<'a>, Option<usize>), Vec<usize>> = HashMap::new();
        for (index, edge) in self.edges.iter().enumerate() {
            let Some(want) = edge.wants.filter(|_| self.leads_to[index].is_none()) else {
                continue;
            };
            // Without a holder, only the class distinguishes a lock from what idle threads park on.
            if edge.holder.is_some() || is_exclusive_lock(want.class) {
                // Without an address, the holder identifies the lock.
                let holder = edge.holder.filter(|_| want.lock == Lock::Reported);
                queues.entry((want.lock, holder)).or_default().push(index);
            }
        }
        let holder = |queue: &[usize]| self.edges[*queue.first()?].holder;
        let mut queues: Vec<Vec<usize>> = queues
            .into_values()
            .filter(|queue| counts(queue, holder(queue)))
            .collect();
        queues
            .sort_unstable_by_key(|queue| (std::cmp::Reverse(queue.len()), queue.first().copied()));
        queues
            .iter()
            .filter_map(|queue| self.convoy(queue))
            .collect()
    }

    /// The owners, for later dumps that do not name them.
    pub fn owners(&self) -> Owners {
        let owner = |edge: &Edge<'a>| {
            matches!(edge.wants?.lock, Lock::Synchronizer(_)).then_some(edge.holder?)
        };
        let edges = self.edges.iter().zip(self.threads);
        let known = edges.filter_map(|(edge, waiter)| {
            let owner = self.threads.get(owner(edge)?)?;
            Some((at_place(waiter), at_place(owner)))
        });
        Owners(known.take(KEPT_OWNERS).collect())
    }

    /// The names of the threads that hold what `waiters` wait for, as far as they are known.
    pub fn holders_of(&self, waiters: &[usize]) -> BTreeSet<String> {
        let edges = waiters.iter().filter_map(|waiter| self.edges.get(*waiter));
        edges
            .filter_map(|edge| Some(self.name(edge.holder?).to_owned()))
            .collect()
    }

    /// The thread that holds what the one at `index` waits for, if the dump has it.
    pub fn holder(&self, index: usize) -> Option<&'d Thread<'a>> {
        self.threads.get(self.edges.get(index)?.holder?)
    }

    /// The last holders that `waiters` wait for through others: these wait for no known holder themselves.
    pub fn last_holders_of(&self, waiters: &[usize]) -> Vec<&'d Thread<'a>> {
        let waiting = waiters
            .iter()
            .filter(|index| self.leads_to[**index].is_none());
        let held = waiting.filter(|index| self.edges[**index].holder.is_some());
        let last: BTreeSet<usize> = held.map(|index| self.last_holder(*index)).collect();
        last.into_iter()
            .filter_map(|index| self.threads.get(index))
            .collect()
    }

    /// The last thread that the one at `index` waits for through locks; itself where no holder is known, and in a deadlock.
    pub fn last_holder(&self, index: usize) -> usize {
        self.last.get(index).copied().unwrap_or(index)
    }

    fn apply(&mut self, owners: &Owners) {
        if owners.0.is_empty() {
            return;
        }
        let pairs = owners.0.iter();
        let names: HashSet<&str> = pairs
            .flat_map(|(waiter, owner)| [waiter.0.as_str(), owner.0.as_str()])
            .collect();
        let places: HashMap<ThreadAtPlace, usize> = self
            .threads
            .iter()
            .enumerate()
            .filter(|(_, thread)| names.contains(thread.name))
            .take(KEPT_OWNERS * 2)
            .map(|(index, thread)| (at_place(thread), index))
            .collect();
        for (waiter, owner) in &owners.0 {
            if let (Some(&waiter), Some(&owner)) = (places.get(waiter), places.get(owner)) {
                self.edges[waiter].holder.get_or_insert(owner);
            }
        }
    }

    /// None if the holder waits for a lock itself.
    fn convoy(&self, queue: &[usize]) -> Option<LockQueue> {
        let Edge { wants, holder } = self.edges[*queue.first()?];
        if holder.is_some_and(|holder| self.edges[holder].holder.is_some()) {
            return None;
        }
        Some(LockQueue {
            lock_class: class_name(wants?.class),
            waiters: queue
                .iter()
                .take(KEPT_WAITERS)
                .map(|&waiter| self.name(waiter).to_owned())
                .collect(),
            waiters_left_out: queue.len().saturating_sub(KEPT_WAITERS),
            owner: holder.map(|holder| self.name(holder).to_owned()),
            owner_frames: holder
                .map(|holder| self.frames(holder, WAITING_FRAMES, &mut Kept::default()))
                .unwrap_or_default(),
        })
    }

    fn deadlocked(&self, index: usize, keep: usize, kept: &mut Kept) -> DeadlockedThread {
        let Edge { wants, holder } = self.edges[index];
        DeadlockedThread {
            thread: self.name(index).to_owned(),
            wants: wants.map(|want| class_name(want.class)).unwrap_or_default(),
            held_by: holder
                .map(|holder| self.name(holder).to_owned())
                .unwrap_or_default(),
            frames: self.frames(index, keep, kept),
        }
    }

    fn name(&self, index: usize) -> &'a str {
        let reported = || self.only_reported.get(index - self.threads.len()).copied();
        self.threads
            .get(index)
            .map(|thread| thread.name)
            .or_else(reported)
            .unwrap_or_default()
    }

    fn frames(&self, index: usize, keep: usize, kept: &mut Kept) -> Vec<String> {
        let thread = self
            .threads
            .get(index)
            .or_else(|| self.reported.get(&index));
        thread
            .map(|thread| {
                thread
                    .frames()
                    .take(keep)
                    .map(|frame| cut(frame.text(), MAX_TEXT))
                    .take_while(|frame| kept.has_room(frame))
                    .collect()
            })
            .unwrap_or_default()
    }

    fn find_cycles(&mut self) {
        const UNSEEN: usize = usize::MAX;
        let mut walk_of = vec![UNSEEN; self.edges.len()];
        self.leads_to = vec![None; self.edges.len()];
        self.last = (0..self.edges.len()).collect();
        let mut path = Vec::new();
        for start in 0..self.edges.len() {
            path.clear();
            let mut at = Some(start);
            while let Some(index) = at.filter(|&index| walk_of[index] == UNSEEN) {
                walk_of[index] = start;
                path.push(index);
                at = self.edges[index].holder;
            }
            let end = at.map_or(path.last().copied(), |index| Some(self.last[index]));
            let cycle = match at {
                None => None,
                Some(index) if walk_of[index] == start => {
                    // The walk has reached its own path. The first member in the dump comes first.
                    let from = path.iter().position(|&member| member == index).unwrap_or(0);
                    let mut members = path[from..].to_vec();
                    let first = (0..members.len())
                        .min_by_key(|&member| members[member])
                        .unwrap_or(0);
                    members.rotate_left(first);
                    self.cycles.push(members);
                    Some(self.cycles.len() - 1)
                }
                Some(index) => self.leads_to[index],
            };
            for &index in &path {
                self.leads_to[index] = cycle;
                if let (None, Some(end)) = (cycle, end) {
                    self.last[index] = end;
                }
            }
        }
    }
}

fn at_place(thread: &Thread<'_>) -> ThreadAtPlace {
    (
        thread.name.to_owned(),
        thread.header().number,
        stack_hash(thread),
    )
}

/// Whether threads parked on it wait for a holder, unlike with conditions, queues, latches and futures.
pub fn is_exclusive_lock(class: &str) -> bool {
    ["ReentrantLock$", "ReentrantReadWriteLock$"]
        .iter()
        .any(|lock| class.contains(lock))
}

/// How much of the deadlocks is kept already.
#[derive(Default)]
struct Kept {
    members: usize,
    waiting: usize,
    frame_bytes: usize,
}

impl Kept {
    fn has_room(&mut self, frame: &str) -> bool {
        self.frame_bytes += frame.len();
        self.frame_bytes <= KEPT_FRAME_BYTES
    }
}

/// `jhsdb` prints `java/lang/Object`.
fn class_name(class: &str) -> String {
    cut(class.replace('/', "."), MAX_TEXT)
}
