//! Who waits for whom in one thread dump: deadlocks with their true members, and convoys.
//!
//! A thread waits for at most one lock, so the graph has at most one edge out of each thread and a cycle is found by
//! walking. The JVM's own report adds the owners of `java.util.concurrent` locks, which a stack does not show; its
//! word on who belongs to a cycle is not taken, because it lists threads that merely wait for one as well.
//!
//! Not to be seen in one dump, because no text names the holder: read locks, `StampedLock`, `Semaphore`, latches, a
//! pool that waits for itself, a nested `wait`, class initialisation before JDK 17.

use std::collections::HashMap;

use crate::parse::thread_dump::{LockKind, ReportedThread, State, Thread, ThreadDump};
use crate::snapshot::{Deadlock, DeadlockedThread};

/// Frames kept of a member of a cycle: enough to know the bug by them.
const CYCLE_FRAMES: usize = 64;
/// Frames kept of a thread that merely waits, of which there may be hundreds.
const WAITING_FRAMES: usize = 16;
/// Fewer waiters than this are everyday contention.
const CONVOY_WAITERS: usize = 2;

/// Threads that queue for one lock whose holder waits for no lock itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Convoy {
    pub lock_class: String,
    /// Their names, in the order of the dump.
    pub waiters: Vec<String>,
    /// None where the dump does not tell: a `java.util.concurrent` lock in a dump without `-l`.
    pub owner: Option<ConvoyOwner>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvoyOwner {
    pub thread: String,
    pub state: Option<State>,
    /// What it does: its topmost frames, `Class.method(File:line)`.
    pub frames: Vec<String>,
}

/// The wait-for graph of one dump. Every index in it is a position in `nodes`, and none is removed.
pub struct WaitGraph<'a> {
    /// The dump's threads, then those that only the report names. An index tells threads of one name apart.
    nodes: Vec<Node<'a>>,
    /// For each cycle its members, each waiting for the next, the last for the first.
    cycles: Vec<Vec<usize>>,
    /// Which cycle a thread waits for in the end, or belongs to.
    leads_to: Vec<Option<usize>>,
}

struct Node<'a> {
    name: &'a str,
    thread: Option<Thread<'a>>,
    reported: Option<Thread<'a>>,
    wants: Option<Want<'a>>,
    holder: Option<usize>,
}

#[derive(Clone, Copy)]
struct Want<'a> {
    lock: Lock<'a>,
    class: &'a str,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Lock<'a> {
    Object(u64),
    /// The initialisation of a class.
    Class(&'a str),
    /// Wanted by the report's word, which names the holder but no address.
    Reported,
}

impl<'a> WaitGraph<'a> {
    pub fn of(dump: &ThreadDump<'a>) -> WaitGraph<'a> {
        let mut graph =
            WaitGraph { nodes: Vec::with_capacity(dump.threads.len()), cycles: Vec::new(), leads_to: Vec::new() };
        graph.read_stacks(&dump.threads);
        graph.read_report(dump);
        graph.find_cycles();
        graph
    }

    /// Every deadlock, in the order in which their first members stand in the dump.
    pub fn deadlocks(&self) -> Vec<Deadlock> {
        let mut waiting = vec![Vec::new(); self.cycles.len()];
        let mut is_member = vec![false; self.nodes.len()];
        for &member in self.cycles.iter().flatten() {
            is_member[member] = true;
        }
        for (index, cycle) in self.leads_to.iter().enumerate() {
            if let Some(cycle) = cycle.filter(|_| !is_member[index]) {
                waiting[cycle].push(self.deadlocked(index, WAITING_FRAMES));
            }
        }
        let cycles = self.cycles.iter().zip(waiting);
        cycles
            .map(|(members, waiting)| Deadlock {
                cycle: members.iter().map(|&member| self.deadlocked(member, CYCLE_FRAMES)).collect(),
                waiting,
            })
            .collect()
    }

    /// Locks that several threads wait for and that no deadlock explains, the longest queue first.
    pub fn convoys(&self) -> Vec<Convoy> {
        let mut queues: HashMap<Lock<'a>, Vec<usize>> = HashMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let Some(want) = node.wants.filter(|_| self.leads_to[index].is_none()) else { continue };
            // Without a holder, only the class tells a lock from what idle threads park on.
            if node.holder.is_some() || is_exclusive_lock(want.class) {
                queues.entry(want.lock).or_default().push(index);
            }
        }
        let mut queues: Vec<Vec<usize>> = queues.into_values().filter(|queue| queue.len() >= CONVOY_WAITERS).collect();
        queues.sort_unstable_by_key(|queue| (std::cmp::Reverse(queue.len()), queue.first().copied()));
        queues.iter().filter_map(|queue| self.convoy(queue)).collect()
    }

    fn convoy(&self, queue: &[usize]) -> Option<Convoy> {
        let first = &self.nodes[*queue.first()?];
        let owner = match first.holder.map(|holder| &self.nodes[holder]) {
            Some(owner) if owner.holder.is_some() => return None,
            Some(owner) => Some(ConvoyOwner {
                thread: owner.name.to_owned(),
                state: owner.thread.and_then(|thread| thread.state()),
                frames: frames(owner, WAITING_FRAMES),
            }),
            None => None,
        };
        Some(Convoy {
            lock_class: first.wants.map(|want| class_name(want.class))?,
            waiters: queue.iter().map(|&waiter| self.nodes[waiter].name.to_owned()).collect(),
            owner,
        })
    }

    fn deadlocked(&self, index: usize, keep: usize) -> DeadlockedThread {
        let node = &self.nodes[index];
        DeadlockedThread {
            thread: node.name.to_owned(),
            wants: node.wants.map(|want| class_name(want.class)).unwrap_or_default(),
            held_by: node.holder.map(|holder| self.nodes[holder].name.to_owned()).unwrap_or_default(),
            frames: frames(node, keep),
        }
    }

    /// Nodes and edges from the lock lines of the stacks and from the lists of owned synchronizers.
    fn read_stacks(&mut self, threads: &[Thread<'a>]) {
        let mut held: Vec<(u64, usize)> = Vec::with_capacity(threads.len());
        let mut owners: HashMap<Lock<'a>, Option<usize>> = HashMap::with_capacity(threads.len());
        let mut waits_for_class = false;
        for (index, thread) in threads.iter().enumerate() {
            let wants = read_locks(thread, |address| held.push((address, index)));
            if let Some(want) = wants {
                waits_for_class |= matches!(want.lock, Lock::Class(_));
                owners.insert(want.lock, None);
            }
            self.nodes.push(Node { name: thread.name, thread: Some(*thread), reported: None, wants, holder: None });
        }
        for (address, index) in held {
            if let Some(owner) = owners.get_mut(&Lock::Object(address)) {
                owner.get_or_insert(index);
            }
        }
        if waits_for_class {
            for (index, thread) in threads.iter().enumerate() {
                let initialising = thread.frames().filter_map(|frame| frame.class_method.strip_suffix(".<clinit>"));
                for class in initialising {
                    if let Some(owner) = owners.get_mut(&Lock::Class(class)) {
                        owner.get_or_insert(index);
                    }
                }
            }
        }
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let owner = node.wants.and_then(|want| owners.get(&want.lock).copied().flatten());
            // A read lock upgraded by its only reader would be its own holder; the text never shows that.
            node.holder = owner.filter(|&owner| owner != index);
        }
    }

    /// Edges from the JVM's report, for threads of which the stacks name no holder. The report was made in a pause of
    /// its own, so its addresses only choose between threads of one name.
    fn read_report(&mut self, dump: &ThreadDump<'a>) {
        if dump.reported.is_empty() {
            return;
        }
        let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            by_name.entry(node.name).or_default().push(index);
        }
        for deadlock in &dump.reported {
            let mut first_of_name: HashMap<&str, usize> = HashMap::new();
            let mut entries = Vec::with_capacity(deadlock.threads.len());
            for reported in &deadlock.threads {
                let index = self.node_of(reported, &mut by_name);
                first_of_name.entry(reported.name).or_insert(index);
                entries.push(index);
            }
            for (position, reported) in deadlock.threads.iter().enumerate() {
                let Some(holder) = reported.held_by else { continue };
                // The report walks along the cycle: the holder comes next, except for the last one's.
                let next = deadlock.threads.get(position + 1).filter(|next| next.name == holder);
                let holder = match next {
                    Some(_) => entries.get(position + 1).copied(),
                    None => first_of_name.get(holder).copied().or_else(|| self.only_node(holder, &mut by_name)),
                };
                let Some(&index) = entries.get(position) else { continue };
                let node = &mut self.nodes[index];
                if node.holder.is_none() {
                    node.holder = holder.filter(|&holder| holder != index);
                    let class = reported.wants.map_or("", |lock| lock.class);
                    node.wants = node.wants.or(Some(Want { lock: Lock::Reported, class }));
                }
            }
        }
    }

    /// The thread that an entry of the report speaks of; a new node where the dump has no such thread.
    fn node_of(&mut self, reported: &ReportedThread<'a>, by_name: &mut HashMap<&'a str, Vec<usize>>) -> usize {
        let address = reported.wants.and_then(|lock| lock.address).map(Lock::Object);
        let same_name = by_name.entry(reported.name).or_default();
        let unclaimed = |&index: &usize| self.nodes[index].reported.is_none();
        let wants_it = |&index: &usize| self.nodes[index].wants.map(|want| want.lock) == address;
        let found = same_name.iter().copied().find(|index| unclaimed(index) && wants_it(index));
        let index = found.or_else(|| same_name.iter().copied().find(unclaimed)).unwrap_or_else(|| {
            same_name.push(self.nodes.len());
            let wants = reported.wants.map(|lock| Want { lock: address.unwrap_or(Lock::Reported), class: lock.class });
            self.nodes.push(Node { name: reported.name, thread: None, reported: None, wants, holder: None });
            self.nodes.len() - 1
        });
        self.nodes[index].reported = Some(reported.stack.unwrap_or(Thread::of_report(reported.name)));
        index
    }

    /// A holder that the report names without listing it.
    fn only_node(&mut self, name: &'a str, by_name: &mut HashMap<&'a str, Vec<usize>>) -> Option<usize> {
        match by_name.entry(name).or_default().as_slice() {
            [only] => Some(*only),
            _ => None,
        }
    }

    fn find_cycles(&mut self) {
        const UNSEEN: usize = usize::MAX;
        let mut walk_of = vec![UNSEEN; self.nodes.len()];
        self.leads_to = vec![None; self.nodes.len()];
        for start in 0..self.nodes.len() {
            let mut path = Vec::new();
            let mut at = Some(start);
            while let Some(index) = at.filter(|&index| walk_of[index] == UNSEEN) {
                walk_of[index] = start;
                path.push(index);
                at = self.nodes[index].holder;
            }
            let cycle = match at {
                None => continue,
                Some(index) if walk_of[index] == start => {
                    // Walked into its own path. The member that stands first in the dump comes first.
                    let from = path.iter().position(|&member| member == index).unwrap_or(0);
                    let mut members = path[from..].to_vec();
                    let first = (0..members.len()).min_by_key(|&member| members[member]).unwrap_or(0);
                    members.rotate_left(first);
                    self.cycles.push(members);
                    Some(self.cycles.len() - 1)
                }
                Some(index) => self.leads_to[index],
            };
            for index in path {
                self.leads_to[index] = cycle;
            }
        }
        self.order_cycles();
    }

    fn order_cycles(&mut self) {
        let mut order: Vec<usize> = (0..self.cycles.len()).collect();
        order.sort_unstable_by_key(|&cycle| self.cycles[cycle].first().copied());
        let mut position = vec![0; order.len()];
        for (new, &old) in order.iter().enumerate() {
            position[old] = new;
        }
        for cycle in self.leads_to.iter_mut().flatten() {
            *cycle = position[*cycle];
        }
        self.cycles.sort_unstable_by_key(|members| members.first().copied());
    }
}

/// What the thread waits for; tells `holds` the address of every lock that it holds.
fn read_locks<'a>(thread: &Thread<'a>, mut holds: impl FnMut(u64)) -> Option<Want<'a>> {
    let mut wants = None;
    // In Object.wait() the monitor is given up, though `- locked` is printed further down.
    let mut given_up: Option<u64> = None;
    let mut gives_up_next = false;
    for lock in thread.locks() {
        let object = lock.address.map(Lock::Object);
        match lock.kind {
            LockKind::WaitingToLock | LockKind::ParkingToWaitFor => {
                wants = wants.or(object.map(|object| (object, lock.class)))
            }
            LockKind::ClassInit => wants = wants.or(Some((Lock::Class(lock.class), lock.class))),
            LockKind::WaitingOn | LockKind::WaitingToRelock => {
                given_up = lock.address;
                gives_up_next = lock.address.is_none();
                // Once notified it wants the monitor back. Before that it is not BLOCKED, whichever words are printed
                // (JDK 11 prints `to re-lock` of both, JDK 8 `waiting on`).
                if thread.state() == Some(State::Blocked) {
                    wants = wants.or(object.map(|object| (object, lock.class)));
                }
            }
            LockKind::Locked if gives_up_next => {
                given_up = lock.address;
                gives_up_next = false;
            }
            LockKind::Locked | LockKind::OwnedSynchronizer => {
                if let Some(address) = lock.address.filter(|_| lock.address != given_up) {
                    holds(address);
                }
            }
            LockKind::Eliminated => {}
        }
    }
    wants.map(|(lock, class)| Want { lock, class })
}

/// Whether threads parked on it wait for a holder. Not so for conditions, queues, latches, futures.
fn is_exclusive_lock(class: &str) -> bool {
    ["ReentrantLock$", "ReentrantReadWriteLock$"].iter().any(|lock| class.contains(lock))
}

/// `jhsdb` prints `java/lang/Object`.
fn class_name(class: &str) -> String {
    class.replace('/', ".")
}

fn frames(node: &Node<'_>, keep: usize) -> Vec<String> {
    let of =
        |thread: &Thread<'_>| -> Vec<String> { thread.frames().take(keep).map(|frame| frame.to_string()).collect() };
    let own = node.thread.as_ref().map(of).unwrap_or_default();
    match &node.reported {
        Some(reported) if own.is_empty() => of(reported),
        _ => own,
    }
}
