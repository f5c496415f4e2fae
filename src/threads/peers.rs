//! For which other broker a thread waits: it is in a network call to that broker, or waits for the end of a thread that is.
//!
//! Up to 1.0 a request handler that takes a leader away from its fetcher waits for the end of that fetcher, and the fetcher
//! for an answer of the old leader, 30 s at most. A leader that stands still so makes threads of healthy brokers wait.

use super::likely::waits_for_end;
use super::missing::leader;
use super::stack::top_of_jdk;
use crate::parse::thread_dump::{State, Thread};

/// The most threads that speak with other brokers.
const MOST: usize = 1024;

/// A thread that speaks with one other broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// `ReplicaFetcherThread-0-218`
    Fetcher,
    /// `Controller-217-to-broker-218-send-thread`
    Controller,
}

impl Link {
    /// What a thread speaks with, and the id of the broker.
    fn of(thread: &str) -> Option<(Link, i32)> {
        if let Some(leader) = leader(thread) {
            return Some((Link::Fetcher, leader));
        }
        let rest = thread.strip_prefix("Controller-")?;
        let (_, rest) = rest.split_once("-to-broker-")?;
        let broker = rest.strip_suffix("-send-thread")?;
        Some((Link::Controller, broker.parse().ok()?))
    }

    /// Whether a thread with this frame among those that end another one ends one of this kind.
    fn is_ended_in(self, frame: &str) -> bool {
        let parts: &[&str] = match self {
            Link::Fetcher => &["FetcherManager", "FetcherThread."],
            Link::Controller => &["ControllerChannelManager", "RequestSendThread."],
        };
        parts.iter().any(|part| frame.contains(part))
    }
}

/// The threads of a dump that wait for an answer of one other broker.
#[derive(Debug, Default)]
pub(super) struct Links<'a> {
    waiting: Vec<(usize, &'a str, Link, i32)>,
    /// Those that speak with another broker and wait for something else.
    elsewhere: Vec<(usize, Link)>,
}

impl<'a> Links<'a> {
    /// The first ones of the dump: a broker has some for each other broker of its cluster. `is_idle` says whether one that
    /// waits has nothing to do.
    pub(super) fn of(threads: &[Thread<'a>], is_idle: impl Fn(&Thread<'_>) -> bool) -> Links<'a> {
        let mut links = Links::default();
        let all = threads.iter().enumerate();
        let of_links =
            all.filter_map(|(index, thread)| Some((index, thread, Link::of(thread.name)?)));
        for (index, thread, (link, broker)) in of_links.take(MOST) {
            if waits_for_network(thread) {
                links.waiting.push((index, thread.name, link, broker));
            } else if matches!(thread.state(), Some(State::Blocked | State::Waiting))
                && !is_idle(thread)
            {
                links.elsewhere.push((index, link));
            }
        }
        links
    }

    /// The indexes in the dump of all that wait.
    pub(super) fn indexes(&self) -> impl Iterator<Item = usize> {
        let elsewhere = self.elsewhere.iter().map(|(index, _)| *index);
        self.waiting
            .iter()
            .map(|(index, ..)| *index)
            .chain(elsewhere)
    }

    /// Those for which the thread at `index` waits, each with its broker: itself, or those that it ends. None where it waits
    /// for something else.
    pub(super) fn awaited(
        &self,
        threads: &[Thread<'a>],
        index: usize,
        still: &impl Fn(usize) -> Still,
    ) -> Vec<(&'a str, i32)> {
        let own = self.waiting.iter().find(|(at, ..)| *at == index);
        if let Some((_, name, _, broker)) = own {
            return vec![(*name, *broker)];
        }
        let Some(thread) = threads.get(index).filter(|thread| waits_for_end(thread)) else {
            return Vec::new();
        };
        let ended: Vec<Link> = [Link::Fetcher, Link::Controller]
            .into_iter()
            .filter(|link| {
                let mut frames = thread.frames();
                frames.any(|frame| link.is_ended_in(frame.class_method))
            })
            .collect();
        let mut elsewhere = self.elsewhere.iter();
        let another = elsewhere.any(|(at, link)| ended.contains(link) && still(*at) != Still::No);
        // One that gets answers wakes all the time, so it would have ended.
        let awaited = self.waiting.iter().filter(|(at, _, link, _)| {
            let is_awaited = match still(*at) {
                Still::Yes => true,
                Still::Perhaps => !another,
                Still::No => false,
            };
            is_awaited && ended.contains(link)
        });
        awaited
            .map(|(_, name, _, broker)| (*name, *broker))
            .collect()
    }
}

/// Whether a thread is where the dump before had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Still {
    /// And used no CPU.
    Yes,
    /// The JVM prints no CPU time (JDK 8), and a thread that gets answers is mostly at one place as well. So it is not the one
    /// that is awaited if another one of its kind stands elsewhere, such as at a lock of the one that awaits it.
    Perhaps,
    No,
}

/// Whether it waits in a selector, or for bytes of a socket.
fn waits_for_network(thread: &Thread<'_>) -> bool {
    if thread.state() != Some(State::Runnable) {
        return false;
    }
    let calls = [
        "sun.nio.ch.SelectorImpl.",
        "SocketInputStream.",
        "SocketChannelImpl.",
        "SocketDispatcher.",
    ];
    top_of_jdk(thread).any(|method| calls.iter().any(|call| method.contains(call)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_speak_with_one_broker_name_it() {
        let table = [
            ("ReplicaFetcherThread-0-218", Some((Link::Fetcher, 218))),
            ("ReplicaFetcherThread-11-3", Some((Link::Fetcher, 3))),
            (
                "Controller-217-to-broker-219-send-thread",
                Some((Link::Controller, 219)),
            ),
            ("ReplicaFetcherThread-0", None),
            ("ReplicaAlterLogDirsThread-0", None),
            ("Controller-217-to-broker-x-send-thread", None),
            ("kafka-request-handler-218", None),
        ];
        for (name, expected) in table {
            assert_eq!(Link::of(name), expected, "{name}");
        }
    }
}
