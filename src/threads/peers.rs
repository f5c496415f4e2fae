//! For which other broker a thread waits: it is in a network call to that broker, or waits for the end of a thread that is.
//!
//! Up to 1.0 a request handler that takes a leader away from its fetcher waits for the end of that fetcher, and the fetcher
//! for an answer of the old leader, 30 s at most. A leader that stands still so makes threads of healthy brokers wait.

use super::likely::waits_for_end;
use super::stack::is_of_jdk;
use crate::parse::thread_dump::{State, Thread};

/// The topmost frames that are searched for a network call.
const TOP: usize = 16;

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
        if let Some(rest) = thread.strip_prefix("ReplicaFetcherThread-") {
            let (_, broker) = rest.split_once('-')?;
            return Some((Link::Fetcher, broker.parse().ok()?));
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
pub(super) struct Links<'a>(Vec<(usize, &'a str, Link, i32)>);

impl<'a> Links<'a> {
    /// The first ones of the dump: a broker has some for each other broker of its cluster.
    pub(super) fn of(threads: &[Thread<'a>]) -> Links<'a> {
        let all = threads.iter().enumerate();
        let links = all.filter_map(|(index, thread)| {
            let (link, broker) = Link::of(thread.name)?;
            waits_for_network(thread).then_some((index, thread.name, link, broker))
        });
        Links(links.take(MOST).collect())
    }

    /// Their indexes in the dump.
    pub(super) fn indexes(&self) -> impl Iterator<Item = usize> {
        self.0.iter().map(|(index, ..)| *index)
    }

    /// Those for which the thread at `index` waits, each with its broker: itself, or those that it ends. None where it waits
    /// for something else. `still` says whether one is where the dump before had it, and used no CPU.
    pub(super) fn awaited(
        &self,
        threads: &[Thread<'a>],
        index: usize,
        still: impl Fn(usize) -> bool,
    ) -> Vec<(&'a str, i32)> {
        let own = self.0.iter().find(|(at, ..)| *at == index);
        if let Some((_, name, _, broker)) = own {
            return vec![(*name, *broker)];
        }
        let Some(thread) = threads.get(index).filter(|thread| waits_for_end(thread)) else {
            return Vec::new();
        };
        let ends = [Link::Fetcher, Link::Controller].map(|link| {
            thread
                .frames()
                .any(|frame| link.is_ended_in(frame.class_method))
        });
        // One that gets answers wakes all the time, so it would have ended.
        let awaited = self.0.iter().filter(|(at, _, link, _)| {
            let [fetcher, controller] = ends;
            let is_ended = match link {
                Link::Fetcher => fetcher,
                Link::Controller => controller,
            };
            is_ended && still(*at)
        });
        awaited
            .map(|(_, name, _, broker)| (*name, *broker))
            .collect()
    }
}

/// Whether it waits in a selector, or for bytes of a socket.
fn waits_for_network(thread: &Thread<'_>) -> bool {
    if thread.state() != Some(State::Runnable) {
        return false;
    }
    let mut in_jdk = thread
        .frames()
        .take(TOP)
        .take_while(|frame| is_of_jdk(frame.class_method));
    let calls = [
        "sun.nio.ch.SelectorImpl.",
        "SocketInputStream.",
        "SocketChannelImpl.",
        "SocketDispatcher.",
    ];
    in_jdk.any(|frame| calls.iter().any(|call| frame.class_method.contains(call)))
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
