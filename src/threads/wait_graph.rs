//! Who waits for whom in one thread dump: deadlocks with their true members, and convoys.
//!
//! A thread waits for at most one lock, so the graph has at most one edge out of each thread and a cycle is found by
//! walking. The JVM's own report adds the owners of `java.util.concurrent` locks, which a stack does not show; its
//! word on who belongs to a cycle is not taken, because it lists threads that merely wait for one as well.
//!
//! Where a dump with `-l` has told the owners of such locks, they are known of later dumps too, as long as waiter and
//! owner both stand where they stood ([`Owners`]).
//!
//! Not to be seen in one dump, because no text names the holder: read locks, `StampedLock`, `Semaphore`, latches, a
//! pool that waits for itself, a nested `wait`, class initialisation before JDK 17.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::stack::stack_hash;
use crate::model::{Deadlock, DeadlockedThread, LockQueue};
use crate::parse::thread_dump::{LockKind, ReportedThread, State, Thread, ThreadDump};

/// Frames kept of a member of a cycle: enough to know the bug by them.
const CYCLE_FRAMES: usize = 64;
/// Frames kept of a thread that merely waits, of which there may be hundreds.
const WAITING_FRAMES: usize = 16;
/// How many threads of one name are looked at for the one that an entry of the report means.
const SAME_NAME: usize = 64;
/// Fewer waiters than this are everyday contention.
const CONVOY_WAITERS: usize = 2;

/// The wait-for graph of one dump. Its nodes are the dump's threads and after them those that only the report names;
/// an index tells threads of one name apart. Every index in it is a position in `edges`, and none is removed.
pub struct WaitGraph<'d, 'a> {
    threads: &'d [Thread<'a>],
    /// Threads that only the report names.
    strangers: Vec<&'a str>,
    /// The stacks that the report repeats.
    reported: HashMap<usize, Thread<'a>>,
    /// Threads that the report calls deadlocked, those that merely wait included.
    in_report: BTreeSet<usize>,
    edges: Vec<Edge<'a>>,
    /// For each cycle its members, each waiting for the next, the last for the first.
    cycles: Vec<Vec<usize>>,
    /// Which cycle a thread waits for in the end, or belongs to.
    leads_to: Vec<Option<usize>>,
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
    /// A `java.util.concurrent` object. Its holder is another matter than that of its monitor.
    Synchronizer(u64),
    /// The initialisation of a class.
    Class(&'a str),
    /// Wanted by the report's word, which names the holder but no address.
    Reported,
}

/// What tells a thread from others, and from itself at another place: its name, Java's number of it, its stack.
type Place = (String, Option<u64>, u64);

/// Who owns the `java.util.concurrent` lock that a thread waits for, as a dump with `-l` told it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners(HashMap<Place, Place>);

impl<'d, 'a> WaitGraph<'d, 'a> {
    pub fn of(dump: &'d ThreadDump<'a>) -> WaitGraph<'d, 'a> {
        Self::knowing(dump, &Owners::default())
    }

    /// With what an earlier dump of the process told of owners.
    pub fn knowing(dump: &'d ThreadDump<'a>, owners: &Owners) -> WaitGraph<'d, 'a> {
        let mut graph = WaitGraph {
            threads: &dump.threads,
            strangers: Vec::new(),
            reported: HashMap::new(),
            in_report: BTreeSet::new(),
            edges: Vec::with_capacity(dump.threads.len()),
            cycles: Vec::new(),
            leads_to: Vec::new(),
        };
        graph.read_stacks();
        graph.read_report(dump);
        graph.recall(owners);
        graph.find_cycles();
        graph
    }

    /// Every deadlock, in the order in which their first members stand in the dump.
    pub fn deadlocks(&self) -> Vec<Deadlock> {
        let mut waiting = vec![Vec::new(); self.cycles.len()];
        let mut is_member = vec![false; self.edges.len()];
        for &member in self.cycles.iter().flatten() {
            is_member[member] = true;
        }
        for (index, cycle) in self.leads_to.iter().enumerate() {
            if let Some(cycle) = cycle.filter(|_| !is_member[index]) {
                waiting[cycle].push(self.deadlocked(index, WAITING_FRAMES));
            }
        }
        let mut cycles: Vec<_> = self.cycles.iter().zip(waiting).collect();
        cycles.sort_unstable_by_key(|(members, _)| members.first().copied());
        cycles
            .into_iter()
            .map(|(members, waiting)| Deadlock {
                cycle: members
                    .iter()
                    .map(|&member| self.deadlocked(member, CYCLE_FRAMES))
                    .collect(),
                waiting,
                reported: members.iter().any(|member| self.in_report.contains(member)),
            })
            .collect()
    }

    /// Locks that several threads wait for and that no deadlock explains, the longest queue first.
    pub fn convoys(&self) -> Vec<LockQueue> {
        let mut queues: HashMap<(Lock<'a>, Option<usize>), Vec<usize>> = HashMap::new();
        for (index, edge) in self.edges.iter().enumerate() {
            let Some(want) = edge.wants.filter(|_| self.leads_to[index].is_none()) else {
                continue;
            };
            // Without a holder, only the class tells a lock from what idle threads park on.
            if edge.holder.is_some() || is_exclusive_lock(want.class) {
                // Without an address, a lock is told from others by its holder.
                let holder = edge.holder.filter(|_| want.lock == Lock::Reported);
                queues.entry((want.lock, holder)).or_default().push(index);
            }
        }
        let mut queues: Vec<Vec<usize>> = queues
            .into_values()
            .filter(|queue| queue.len() >= CONVOY_WAITERS)
            .collect();
        queues
            .sort_unstable_by_key(|queue| (std::cmp::Reverse(queue.len()), queue.first().copied()));
        queues
            .iter()
            .filter_map(|queue| self.convoy(queue))
            .collect()
    }

    /// For later dumps, which do not tell them.
    pub fn owners(&self) -> Owners {
        let of = |edge: &Edge<'a>| {
            matches!(edge.wants?.lock, Lock::Synchronizer(_)).then_some(edge.holder?)
        };
        let edges = self.edges.iter().zip(self.threads);
        let known = edges.filter_map(|(edge, waiter)| {
            let owner = self.threads.get(of(edge)?)?;
            Some((place(waiter), place(owner)))
        });
        Owners(known.collect())
    }

    /// Who holds what these threads wait for, all by their names; empty where nobody is known to.
    pub fn holders_of(&self, waiters: &[String]) -> BTreeSet<String> {
        let edges = self
            .threads
            .iter()
            .zip(&self.edges)
            .filter(|(thread, _)| waiters.iter().any(|w| w == thread.name));
        edges
            .filter_map(|(_, edge)| Some(self.name(edge.holder?).to_owned()))
            .collect()
    }

    /// The thread that holds what the one at `index` waits for, where it is in the dump.
    pub fn holder(&self, index: usize) -> Option<&'d Thread<'a>> {
        self.threads.get(self.edges.get(index)?.holder?)
    }

    /// For whom these threads, all by their names, wait in the end: holders that wait for no known holder themselves.
    pub fn ends_of(&self, waiters: &[String]) -> Vec<&'d Thread<'a>> {
        let is_meant = |index: &usize| {
            self.leads_to[*index].is_none() && waiters.iter().any(|w| w == self.name(*index))
        };
        let waiting = (0..self.threads.len()).filter(is_meant);
        let ends: BTreeSet<usize> = waiting
            .filter_map(|index| {
                std::iter::successors(self.edges[index].holder, |at| self.edges[*at].holder).last()
            })
            .collect();
        ends.into_iter()
            .filter_map(|end| self.threads.get(end))
            .collect()
    }

    fn recall(&mut self, owners: &Owners) {
        if owners.0.is_empty() {
            return;
        }
        let places: HashMap<Place, usize> = self
            .threads
            .iter()
            .enumerate()
            .map(|(index, thread)| (place(thread), index))
            .collect();
        for (waiter, owner) in &owners.0 {
            if let (Some(&waiter), Some(&owner)) = (places.get(waiter), places.get(owner)) {
                self.edges[waiter].holder.get_or_insert(owner);
            }
        }
    }

    /// None where the holder waits for a lock itself.
    fn convoy(&self, queue: &[usize]) -> Option<LockQueue> {
        let Edge { wants, holder } = self.edges[*queue.first()?];
        if holder.is_some_and(|holder| self.edges[holder].holder.is_some()) {
            return None;
        }
        Some(LockQueue {
            lock_class: class_name(wants?.class),
            waiters: queue
                .iter()
                .map(|&waiter| self.name(waiter).to_owned())
                .collect(),
            owner: holder.map(|holder| self.name(holder).to_owned()),
            owner_frames: holder
                .map(|holder| self.frames(holder, WAITING_FRAMES))
                .unwrap_or_default(),
        })
    }

    fn deadlocked(&self, index: usize, keep: usize) -> DeadlockedThread {
        let Edge { wants, holder } = self.edges[index];
        DeadlockedThread {
            thread: self.name(index).to_owned(),
            wants: wants.map(|want| class_name(want.class)).unwrap_or_default(),
            held_by: holder
                .map(|holder| self.name(holder).to_owned())
                .unwrap_or_default(),
            frames: self.frames(index, keep),
        }
    }

    fn name(&self, index: usize) -> &'a str {
        let stranger = || self.strangers.get(index - self.threads.len()).copied();
        self.threads
            .get(index)
            .map(|thread| thread.name)
            .or_else(stranger)
            .unwrap_or_default()
    }

    fn frames(&self, index: usize, keep: usize) -> Vec<String> {
        let thread = self
            .threads
            .get(index)
            .or_else(|| self.reported.get(&index));
        thread
            .map(|thread| {
                thread
                    .frames()
                    .take(keep)
                    .map(|frame| frame.text())
                    .collect()
            })
            .unwrap_or_default()
    }

    /// Edges from the lock lines of the stacks and from the lists of owned synchronizers.
    fn read_stacks(&mut self) {
        let mut held: Vec<(Lock<'a>, usize)> = Vec::with_capacity(self.threads.len() * 2);
        for (index, thread) in self.threads.iter().enumerate() {
            let wants = read_locks(thread, |lock| held.push((lock, index)));
            self.edges.push(Edge {
                wants,
                holder: None,
            });
        }
        let waits_for_class = |edge: &Edge<'a>| {
            matches!(
                edge.wants,
                Some(Want {
                    lock: Lock::Class(_),
                    ..
                })
            )
        };
        if self.edges.iter().any(waits_for_class) {
            for (index, thread) in self.threads.iter().enumerate() {
                held.extend(
                    thread
                        .initialising_classes()
                        .map(|class| (Lock::Class(class), index)),
                );
            }
        }
        // Many locks are held and few are waited for, so the table is of those. Nobody is known to hold a synchronizer
        // where no list of them was printed.
        let synchronizers_told = held
            .iter()
            .any(|(lock, _)| matches!(lock, Lock::Synchronizer(_)));
        let wanted = self
            .edges
            .iter()
            .filter_map(|edge| edge.wants)
            .map(|want| want.lock);
        let wanted =
            wanted.filter(|lock| synchronizers_told || !matches!(lock, Lock::Synchronizer(_)));
        // Sorted: mostly a handful, among which each of the many held ones is looked for.
        let mut wanted: Vec<Lock<'a>> = wanted.collect();
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.is_empty() {
            return;
        }
        let mut owners: Vec<Option<usize>> = vec![None; wanted.len()];
        for (lock, index) in held {
            if let Ok(at) = wanted.binary_search(&lock) {
                owners[at].get_or_insert(index);
            }
        }
        for (index, edge) in self.edges.iter_mut().enumerate() {
            let at = edge
                .wants
                .and_then(|want| wanted.binary_search(&want.lock).ok());
            // A thread that waits for itself is a slip of the text: a monitor can be entered again.
            edge.holder = at.and_then(|at| owners[at]).filter(|&owner| owner != index);
        }
    }

    /// Edges from the JVM's report, for threads of which the stacks name no holder. The report was made in a pause of
    /// its own, so its addresses only choose between threads of one name.
    fn read_report(&mut self, dump: &ThreadDump<'a>) {
        if dump.reported.is_empty() {
            return;
        }
        let reported = dump.reported.iter().flatten();
        let names = reported
            .flat_map(|thread| [Some(thread.name), thread.held_by])
            .flatten();
        // Of each name the threads that no entry has been found to mean yet.
        let mut by_name: BTreeMap<&str, VecDeque<usize>> =
            names.map(|name| (name, VecDeque::new())).collect();
        for (index, thread) in self.threads.iter().enumerate() {
            if let Some(same_name) = by_name.get_mut(thread.name) {
                same_name.push_back(index);
            }
        }
        for deadlock in &dump.reported {
            let mut first_of_name: HashMap<&str, usize> = HashMap::new();
            let mut entries = Vec::with_capacity(deadlock.len());
            for reported in deadlock {
                let index = self.node_of(reported, &mut by_name);
                first_of_name.entry(reported.name).or_insert(index);
                entries.push(index);
                self.in_report.insert(index);
            }
            let mut holder_of = HashMap::new();
            for (position, reported) in deadlock.iter().enumerate() {
                let Some(holder) = reported.held_by else {
                    continue;
                };
                let lock = reported.wants.and_then(|lock| lock.address);
                // The report walks along the cycle: the holder comes next, except for the last one's. That one may
                // want what an earlier one wants; else only the name is left.
                let holder = match deadlock
                    .get(position + 1)
                    .filter(|next| next.name == holder)
                {
                    Some(_) => entries.get(position + 1).copied(),
                    None => {
                        let known = lock
                            .and_then(|lock| holder_of.get(&lock))
                            .or_else(|| first_of_name.get(holder));
                        known.copied()
                    }
                };
                if let (Some(lock), Some(holder)) = (lock, holder) {
                    holder_of.insert(lock, holder);
                }
                let Some(&index) = entries.get(position) else {
                    continue;
                };
                let edge = &mut self.edges[index];
                if edge.holder.is_none() {
                    edge.holder = holder.filter(|&holder| holder != index);
                    let class = reported.wants.map_or("", |lock| lock.class);
                    edge.wants = edge.wants.or(Some(Want {
                        lock: Lock::Reported,
                        class,
                    }));
                }
            }
        }
    }

    /// The thread that an entry of the report speaks of; a new node where the dump has no such thread.
    fn node_of(
        &mut self,
        reported: &ReportedThread<'a>,
        by_name: &mut BTreeMap<&'a str, VecDeque<usize>>,
    ) -> usize {
        let address = reported.wants.and_then(|lock| {
            lock.address.map(match lock.kind {
                LockKind::ParkingToWaitFor => Lock::Synchronizer,
                _ => Lock::Monitor,
            })
        });
        let same_name = by_name.entry(reported.name).or_default();
        let wants_it = |&index: &usize| self.edges[index].wants.map(|want| want.lock) == address;
        let position = same_name
            .iter()
            .take(SAME_NAME)
            .position(wants_it)
            .unwrap_or(0);
        let index = same_name.remove(position).unwrap_or_else(|| {
            let wants = reported.wants.map(|lock| Want {
                lock: address.unwrap_or(Lock::Reported),
                class: lock.class,
            });
            self.strangers.push(reported.name);
            self.edges.push(Edge {
                wants,
                holder: None,
            });
            self.edges.len() - 1
        });
        if let Some(stack) = reported.stack {
            self.reported.insert(index, stack);
        }
        index
    }

    fn find_cycles(&mut self) {
        const UNSEEN: usize = usize::MAX;
        let mut walk_of = vec![UNSEEN; self.edges.len()];
        self.leads_to = vec![None; self.edges.len()];
        let mut path = Vec::new();
        for start in 0..self.edges.len() {
            path.clear();
            let mut at = Some(start);
            while let Some(index) = at.filter(|&index| walk_of[index] == UNSEEN) {
                walk_of[index] = start;
                path.push(index);
                at = self.edges[index].holder;
            }
            let cycle = match at {
                None => continue,
                Some(index) if walk_of[index] == start => {
                    // Walked into its own path. The member that stands first in the dump comes first.
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
            }
        }
    }
}

fn place(thread: &Thread<'_>) -> Place {
    (
        thread.name.to_owned(),
        thread.header().number,
        stack_hash(thread),
    )
}

/// What the thread waits for; tells `holds` every lock that it holds.
fn read_locks<'a>(thread: &Thread<'a>, mut holds: impl FnMut(Lock<'a>)) -> Option<Want<'a>> {
    let mut wants = None;
    // In Object.wait() the monitor is given up, though `- locked` is printed further down.
    let mut given_up: Option<u64> = None;
    let mut gives_up_next = false;
    for lock in thread.locks() {
        let monitor = lock.address.map(Lock::Monitor);
        match lock.kind {
            LockKind::WaitingToLock => {
                wants = wants.or(monitor.map(|monitor| (monitor, lock.class)))
            }
            LockKind::ParkingToWaitFor => {
                wants = wants.or(lock
                    .address
                    .map(|address| (Lock::Synchronizer(address), lock.class)));
            }
            LockKind::ClassInit => wants = wants.or(Some((Lock::Class(lock.class), lock.class))),
            LockKind::WaitingOn | LockKind::WaitingToRelock => {
                given_up = lock.address;
                gives_up_next = lock.address.is_none();
                // Once notified it wants the monitor back. Before that it is not BLOCKED, whichever words are printed
                // (JDK 11 prints `to re-lock` of both, JDK 8 `waiting on`).
                if thread.state() == Some(State::Blocked) {
                    wants = wants.or(monitor.map(|monitor| (monitor, lock.class)));
                }
            }
            LockKind::Locked if gives_up_next => {
                given_up = lock.address;
                gives_up_next = false;
            }
            LockKind::Locked if lock.address == given_up => {}
            LockKind::Locked => {
                if let Some(monitor) = monitor {
                    holds(monitor);
                }
            }
            LockKind::OwnedSynchronizer => {
                if let Some(address) = lock.address {
                    holds(Lock::Synchronizer(address));
                }
            }
            LockKind::Eliminated => {}
        }
    }
    wants.map(|(lock, class)| Want { lock, class })
}

/// Whether threads parked on it wait for a holder. Not so for conditions, queues, latches, futures.
pub fn is_exclusive_lock(class: &str) -> bool {
    ["ReentrantLock$", "ReentrantReadWriteLock$"]
        .iter()
        .any(|lock| class.contains(lock))
}

/// `jhsdb` prints `java/lang/Object`.
fn class_name(class: &str) -> String {
    class.replace('/', ".")
}
