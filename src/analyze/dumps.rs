//! What saved or fresh thread dumps show: deadlocks with their true members, the known issue of each, convoys.

use serde::Serialize;

use crate::model::{Deadlock, LikelyDeadlock, LockQueue, Moment, NamedIssue};
use crate::parse::thread_dump::{self, ThreadDump};
use crate::threads::known_issues;
use crate::threads::likely::{likely_deadlocks, likely_text};
use crate::threads::pools;
use crate::threads::wait_graph::WaitGraph;

/// The shape of `--output json`, documented in `docs/analyze.md`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Analysis {
    pub dumps: Vec<DumpFacts>,
    pub deadlocks: Vec<DeadlockFacts>,
    pub likely_deadlocks: Vec<LikelyFacts>,
    pub convoys: Vec<ConvoyFacts>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DumpFacts {
    /// File name, or `pid N`.
    pub source: String,
    /// As the dump prints it, in the JVM's time zone.
    pub time: Option<String>,
    pub vm: Option<String>,
    pub threads: usize,
    pub truncated: bool,
    /// It has threads that only a Kafka node has: what is known of Kafka may be said of it.
    #[serde(skip)]
    pub of_node: bool,
    /// A phrase each. Where there is any, a deadlock may be in the dump though none was found.
    pub not_understood: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadlockFacts {
    /// Index into [`Analysis::dumps`].
    pub dump: usize,
    /// Each wants what the next one holds, the last what the first one holds.
    pub cycle: Vec<Member>,
    /// Threads that are blocked behind the cycle, directly or through others.
    pub waiting: Vec<String>,
    /// How many more threads are in the cycle, and blocked behind it.
    #[serde(skip_serializing_if = "is_zero")]
    pub cycle_left_out: usize,
    #[serde(skip_serializing_if = "is_zero")]
    pub waiting_left_out: usize,
    /// Empty where none is known.
    pub known_issues: Vec<NamedIssue>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Member {
    pub thread: String,
    /// Class of the lock that the member before it wants.
    pub holds: String,
    pub wants: String,
    pub frames: Vec<String>,
}

/// A deadlock that no dump proves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LikelyFacts {
    pub dump: usize,
    /// The whole of it in a sentence.
    pub text: String,
    /// Waits for an event in the method `waits_in`.
    pub thread: String,
    pub waits_in: String,
    pub frames: Vec<String>,
    /// The class of the lock that it holds; null: the others wait for its end.
    pub holds: Option<String>,
    /// Those that are blocked behind it.
    pub blocked: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub blocked_left_out: usize,
    /// The one of them that it seems to wait for, a guess, with its frames.
    pub may_await: Option<String>,
    pub may_await_frames: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConvoyFacts {
    pub dump: usize,
    pub lock: String,
    pub waiters: Vec<String>,
    /// How many more there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub waiters_left_out: usize,
    /// Null where the dump does not show it.
    pub owner: Option<String>,
    /// The owner's topmost frames: what it does.
    pub owner_frames: Vec<String>,
}

impl Analysis {
    /// The deadlocks of one dump, with their indexes.
    pub fn deadlocks_of(&self, dump: usize) -> impl Iterator<Item = (usize, &DeadlockFacts)> {
        // They are in the order of their dumps.
        let first = self
            .deadlocks
            .partition_point(|deadlock| deadlock.dump < dump);
        self.deadlocks
            .iter()
            .enumerate()
            .skip(first)
            .take_while(move |(_, deadlock)| deadlock.dump == dump)
    }

    /// The likely deadlocks of one dump.
    pub fn likely_of(&self, dump: usize) -> impl Iterator<Item = &LikelyFacts> {
        let first = self
            .likely_deadlocks
            .partition_point(|likely| likely.dump < dump);
        self.likely_deadlocks
            .iter()
            .skip(first)
            .take_while(move |likely| likely.dump == dump)
    }

    /// Adds a text that has parts of a dump, of which no thread was read.
    pub fn add_unread(&mut self, source: &str, unread: thread_dump::Unread) {
        self.dumps.push(DumpFacts {
            source: source.to_owned(),
            time: None,
            vm: None,
            threads: 0,
            truncated: false,
            of_node: false,
            not_understood: unread.texts().collect(),
        });
    }

    /// Adds one dump. `source` is the file or process that it came from.
    pub fn add(&mut self, source: &str, dump: &ThreadDump<'_>) {
        let index = self.dumps.len();
        let graph = WaitGraph::of(dump);
        let mut not_understood = graph.not_understood();
        // Some copied stacks look like a dump.
        if dump.vm.is_none() && !dump.threads.is_empty() {
            let what = "whether it has all threads: it does not begin as a whole dump does";
            not_understood.push(what.to_owned());
        }
        self.dumps.push(DumpFacts {
            source: source.to_owned(),
            time: dump.time.map(str::to_owned),
            vm: dump.vm.map(str::to_owned),
            threads: dump.threads.len(),
            truncated: dump.truncated,
            of_node: is_of_node(dump),
            not_understood,
        });
        self.deadlocks.extend(
            graph
                .deadlocks()
                .into_iter()
                .map(|deadlock| facts(index, deadlock)),
        );
        // A dump has no other moment than its own.
        let likely = likely_deadlocks(&graph, Moment::default()).into_iter();
        self.likely_deadlocks
            .extend(likely.map(|likely| likely_facts(index, likely)));
        self.convoys.extend(graph.queues().into_iter().map(|queue| {
            let LockQueue {
                lock_class: lock,
                waiters,
                waiters_left_out,
                owner,
                owner_frames,
            } = queue;
            ConvoyFacts {
                dump: index,
                lock,
                waiters,
                waiters_left_out,
                owner,
                owner_frames,
            }
        }));
    }
}

/// By the names of its threads, or of those that the JVM's report of a deadlock names.
fn is_of_node(dump: &ThreadDump<'_>) -> bool {
    let reported = dump.reported.iter().flatten();
    let names = dump.threads.iter().map(|thread| thread.name);
    let mut names = names.chain(reported.map(|thread| thread.name));
    names.any(pools::is_of_node)
}

fn likely_facts(dump: usize, likely: LikelyDeadlock) -> LikelyFacts {
    let text = likely_text(&likely);
    let LikelyDeadlock {
        thread,
        waits_in,
        frames,
        holds,
        blocked,
        blocked_left_out,
        may_await,
        may_await_frames,
        since: _,
    } = likely;
    LikelyFacts {
        dump,
        text,
        thread,
        waits_in,
        frames,
        holds,
        blocked,
        blocked_left_out,
        may_await,
        may_await_frames,
    }
}

fn facts(dump: usize, deadlock: Deadlock) -> DeadlockFacts {
    let known_issues = known_issues::matching(&deadlock);
    let held: Vec<String> = (0..deadlock.cycle.len())
        .map(|member| deadlock.held(member).unwrap_or("a lock").to_owned())
        .collect();
    let (cycle_left_out, waiting_left_out) = (deadlock.cycle_left_out, deadlock.waiting_left_out);
    let members = std::iter::zip(deadlock.cycle, held).map(|(member, holds)| Member {
        thread: member.thread,
        holds,
        wants: member.wants,
        frames: member.frames,
    });
    let waiting = deadlock
        .waiting
        .into_iter()
        .map(|thread| thread.thread)
        .collect();
    DeadlockFacts {
        dump,
        cycle: members.collect(),
        waiting,
        cycle_left_out,
        waiting_left_out,
        known_issues,
    }
}

impl DeadlockFacts {
    /// How many threads are in the cycle.
    pub(super) fn members(&self) -> usize {
        self.cycle.len() + self.cycle_left_out
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Reads any bytes as dumps, with headers, frames, locks, graph and known issues. For the fuzzer and its corpus.
pub fn read_all(bytes: &[u8]) -> Analysis {
    let mut analysis = Analysis::default();
    for dump in thread_dump::parse(&thread_dump::decode(bytes)).unwrap_or_default() {
        let reported = dump.reported.iter().flatten();
        for thread in dump
            .threads
            .iter()
            .chain(reported.filter_map(|thread| thread.stack.as_ref()))
        {
            let _ = (thread.header(), thread.state());
            let _ = (thread.frames().count(), thread.frame_lines().count());
            let _ = (
                thread.locks().count(),
                thread.holder(),
                thread.initialising_classes().count(),
            );
        }
        analysis.add("bytes", &dump);
    }
    analysis
}
