//! What of a dump the graph lacks because it was not read, and who is blocked behind whom outside deadlocks.

use std::collections::BTreeMap;

use super::{MAX_TEXT, WaitGraph, class_name};
use crate::model::text::{cut, first_of};
use crate::parse::thread_dump::{State, Thread};

/// A longer line that was not read is cut.
const MAX_LINE: usize = 80;

impl<'d, 'a> WaitGraph<'d, 'a> {
    /// What of the dump was not understood. If there is anything, that no deadlock was found does not say that there is none.
    pub fn not_understood(&self) -> Vec<String> {
        let mut texts: Vec<String> = self.unread.texts().collect();
        let blocked: Vec<&str> = self
            .threads
            .iter()
            .zip(&self.edges)
            .filter(|(thread, edge)| edge.wants.is_none() && thread.state() == Some(State::Blocked))
            .map(|(thread, _)| thread.name)
            .collect();
        match blocked[..] {
            [] => {}
            [one] => texts.push(format!("the lock that {one} waits for")),
            [..] => {
                let names = first_of(&blocked, blocked.len());
                texts.push(format!("the locks that {names} wait for"));
            }
        }
        if let Some(line) = self.unread_line {
            let (lines, line) = (self.unread_lines, cut(line.to_owned(), MAX_LINE));
            texts.push(match lines {
                1 => format!("the line `- {line}`"),
                _ => format!("{lines} lines of locks, as `- {line}`"),
            });
        }
        let of_file = |thread: &Thread<'_>| thread.is_of_file() && thread.state().is_none();
        if !self.threads.is_empty() && self.threads.iter().all(of_file) {
            texts.push("the locks: Thread.dump_to_file prints them from JDK 25 on".to_owned());
        }
        let mut without_cycle = self.first_reported.iter();
        if let Some(first) = without_cycle.find(|&&first| self.leads_to[first].is_none()) {
            let name = self.name(*first);
            texts.push(format!(
                "the deadlock of {name} that the JVM reports: no cycle is in the text"
            ));
        }
        if self.truncated {
            texts.push("the end, which is cut off".to_owned());
        }
        // `jstack -F` that could not attach, and that of JDK 8, which prints no names.
        if self.threads.is_empty() && self.cycles.is_empty() && texts.is_empty() {
            texts.push("the threads: none was read".to_owned());
        }
        texts.into_iter().map(|text| cut(text, MAX_TEXT)).collect()
    }

    /// The threads that hold what others wait for and wait for no known holder themselves, outside deadlocks, each with those
    /// that are blocked behind it, directly or through others.
    pub(in crate::threads) fn blocked_behind(&self) -> BTreeMap<usize, Vec<usize>> {
        // The last holder that a thread waits for; found once for each thread, however long the way.
        let mut last: Vec<Option<usize>> = vec![None; self.edges.len()];
        let mut behind: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut path = Vec::new();
        for start in 0..self.threads.len() {
            if self.leads_to[start].is_some() {
                continue;
            }
            path.clear();
            let mut at = start;
            let end = loop {
                match (last[at], self.edges[at].holder) {
                    (Some(known), _) => break known,
                    (None, None) => break at,
                    (None, Some(holder)) => path.push(std::mem::replace(&mut at, holder)),
                }
            };
            for &index in &path {
                last[index] = Some(end);
            }
            if end != start {
                behind.entry(end).or_default().push(start);
            }
        }
        behind
    }

    /// The class of the lock that this thread waits for, and the index of its holder.
    pub(in crate::threads) fn wanted(&self, index: usize) -> Option<(String, usize)> {
        let edge = self.edges.get(index)?;
        Some((class_name(edge.wants?.class), edge.holder?))
    }

    pub(in crate::threads) fn threads(&self) -> &'d [Thread<'a>] {
        self.threads
    }
}
