//! The edges of the graph, from the stacks of a dump and from the JVM's report.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{Edge, Lock, WaitGraph, Want};
use crate::parse::thread_dump::{LockKind, ReportedThread, State, Thread, ThreadDump};

/// How many threads with the same name are compared with an entry of the report.
const SAME_NAME: usize = 64;
/// How many held locks are collected in the first pass. A thread rarely holds more than three; where a dump has more, a
/// second pass keeps those that are waited for.
const HELD: usize = 1 << 18;
/// Classes whose initialisers are nested on one stack.
const MAX_CLASSES: usize = 16;

impl<'a> WaitGraph<'_, 'a> {
    /// Edges from the lock lines of the stacks and from the lists of owned synchronizers.
    pub(super) fn read_stacks(&mut self) {
        let mut held: Vec<(Lock<'a>, usize)> = Vec::with_capacity(self.threads.len() * 2);
        let (mut all, mut lists_synchronizers) = (true, false);
        for (index, thread) in self.threads.iter().enumerate() {
            let mut holds = |lock| {
                lists_synchronizers |= matches!(lock, Lock::Synchronizer(_));
                match held.len() < HELD {
                    true => held.push((lock, index)),
                    false => all = false,
                }
            };
            let mut unread = |line| {
                self.unread_lines += 1;
                self.unread_line.get_or_insert(line);
            };
            let wants = read_locks(thread, &mut holds, &mut unread);
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
                let classes = thread.initialising_classes();
                held.extend(
                    classes
                        .take(MAX_CLASSES)
                        .map(|class| (Lock::Class(class), index)),
                );
            }
        }
        // Many locks are held and few are waited for, so the table has those. Without a list of owned synchronizers no
        // holder of a synchronizer is known.
        let wanted = self
            .edges
            .iter()
            .filter_map(|edge| edge.wants)
            .map(|want| want.lock);
        let wanted =
            wanted.filter(|lock| lists_synchronizers || !matches!(lock, Lock::Synchronizer(_)));
        // Sorted, because each of the many held locks is searched among these few.
        let mut wanted: Vec<Lock<'a>> = wanted.collect();
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.is_empty() {
            return;
        }
        let mut owners: Vec<Option<usize>> = vec![None; wanted.len()];
        let bits = wanted.iter().fold(0, |bits, lock| bits | lock.bit());
        let mut holds = |lock: Lock<'a>, index| {
            if lock.bit() & bits == 0 {
                return;
            }
            if let Ok(at) = wanted.binary_search(&lock) {
                owners[at].get_or_insert(index);
            }
        };
        if !all {
            for (index, thread) in self.threads.iter().enumerate() {
                read_locks(thread, |lock| holds(lock, index), |_| {});
            }
        }
        held.into_iter()
            .for_each(|(lock, index)| holds(lock, index));
        for (index, edge) in self.edges.iter_mut().enumerate() {
            let at = edge
                .wants
                .and_then(|want| wanted.binary_search(&want.lock).ok());
            // A thread cannot wait for itself, because a monitor can be entered again: the text is inconsistent.
            edge.holder = at.and_then(|at| owners[at]).filter(|&owner| owner != index);
        }
    }

    /// Edges to the holders that stand beside a lock, as JMX, VisualVM and IntelliJ print them, for threads whose holder no
    /// stack shows.
    pub(super) fn read_named_holders(&mut self) {
        let threads = self.threads.iter().zip(&self.edges).enumerate();
        // A thread that waits for a notification wants no lock, though the monitor may have a holder.
        let named: Vec<_> = threads
            .filter(|(_, (thread, edge))| {
                let wants = || edge.wants.is_some() || thread.state() == Some(State::Blocked);
                edge.holder.is_none() && wants()
            })
            .filter_map(|(index, (thread, _))| Some((index, thread.holder()?)))
            .collect();
        if named.is_empty() {
            return;
        }
        let numbers: HashMap<u64, usize> = self
            .threads
            .iter()
            .enumerate()
            .filter_map(|(index, thread)| Some((thread.header().number?, index)))
            .collect();
        let mut names: HashMap<&str, usize> = self
            .threads
            .iter()
            .enumerate()
            .rev()
            .map(|(index, thread)| (thread.name, index))
            .collect();
        for (waiter, (name, number)) in named {
            let by_number = number.and_then(|number| numbers.get(&number).copied());
            let holder = by_number.unwrap_or_else(|| {
                *names.entry(name).or_insert_with(|| {
                    self.only_reported.push(name);
                    self.edges.push(Edge::default());
                    self.edges.len() - 1
                })
            });
            let edge = &mut self.edges[waiter];
            edge.holder = Some(holder).filter(|&holder| holder != waiter);
            edge.wants = edge.wants.or(Some(Want {
                lock: Lock::Reported,
                class: "",
            }));
        }
    }

    /// Edges from the JVM's report, for threads whose stacks name no holder. The JVM makes the report in a separate pause,
    /// so its addresses only choose between threads with the same name.
    pub(super) fn read_report(&mut self, dump: &ThreadDump<'a>) {
        if dump.reported.is_empty() {
            return;
        }
        let reported = dump.reported.iter().flatten();
        let names = reported
            .flat_map(|thread| [Some(thread.name), thread.held_by])
            .flatten();
        // The threads of each name that no entry has been assigned to yet.
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
            self.first_reported.extend(entries.first());
            let mut holder_of = HashMap::new();
            for (position, reported) in deadlock.iter().enumerate() {
                let Some(holder) = reported.held_by else {
                    continue;
                };
                let lock = reported.wants.and_then(|lock| lock.address);
                // The report walks along the cycle: the holder comes next, except for the last entry. That one may want
                // what an earlier one wants; otherwise only the name is left.
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

    /// The thread that an entry of the report describes; a new node if the dump has no such thread.
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
            self.only_reported.push(reported.name);
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
}

/// What the thread waits for; passes every lock that it holds to `holds`, and what is not read of lines of locks to
/// `unread`.
fn read_locks<'a>(
    thread: &Thread<'a>,
    mut holds: impl FnMut(Lock<'a>),
    mut unread: impl FnMut(&'a str),
) -> Option<Want<'a>> {
    let mut wants = None;
    // Object.wait() releases the monitor, although `- locked` is printed further down.
    let mut released: Option<u64> = None;
    let mut releases_next = false;
    for lock in thread.lock_lines() {
        let lock = match lock {
            Ok(lock) => lock,
            Err(line) => {
                unread(line);
                continue;
            }
        };
        let monitor = lock.address.map(Lock::Monitor);
        match lock.kind {
            // VisualVM prints so of a parked thread too.
            LockKind::WaitingToLock
                if lock.class.starts_with("java.util.concurrent.locks.")
                    && thread.state() != Some(State::Blocked) =>
            {
                wants = wants.or(lock
                    .address
                    .map(|address| (Lock::Synchronizer(address), lock.class)));
            }
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
                released = lock.address;
                releases_next = lock.address.is_none();
                // Once notified it wants the monitor back. Before that it is not BLOCKED, whatever is printed (JDK 11
                // prints `to re-lock` in both cases, JDK 8 `waiting on`).
                if thread.state() == Some(State::Blocked) {
                    wants = wants.or(monitor.map(|monitor| (monitor, lock.class)));
                }
            }
            LockKind::Locked if releases_next => {
                released = lock.address;
                releases_next = false;
                if thread.state() == Some(State::Blocked) {
                    wants = wants.or(monitor.map(|monitor| (monitor, lock.class)));
                }
            }
            LockKind::Locked if lock.address == released => {}
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
