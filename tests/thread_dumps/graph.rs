//! The wait-for graph: the recorded dumps, whose deadlocks were read by eye or made on purpose, and random graphs
//! against a naive oracle.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use kafka_vitals::model::DeadlockedThread;
use kafka_vitals::parse::thread_dump::{decode, parse};
use kafka_vitals::threads::wait_graph::{Owners, WaitGraph};
use proptest::prelude::*;

use super::{deadlocks_of, fixture};

fn names(threads: &[DeadlockedThread]) -> Vec<&str> {
    threads
        .iter()
        .map(|thread| thread.thread.as_str())
        .collect()
}

/// `a wants C of b`, for each thread.
fn waits(threads: &[DeadlockedThread]) -> Vec<String> {
    threads
        .iter()
        .map(|t| format!("{} wants {} of {}", t.thread, t.wants, t.held_by))
        .collect()
}

#[test]
fn the_incident_has_two_members_and_one_blocked_behind_them() {
    let deadlocks = deadlocks_of(&fixture("incident/jstack/219.txt"));
    assert_eq!(deadlocks.len(), 1);
    assert_eq!(
        waits(&deadlocks[0].cycle),
        [
            "group-metadata-manager-0 wants java.util.LinkedList of kafka-request-handler-3",
            "kafka-request-handler-3 wants kafka.coordinator.GroupMetadata of group-metadata-manager-0",
        ]
    );
    assert_eq!(
        waits(&deadlocks[0].waiting),
        ["executor-Heartbeat wants kafka.coordinator.GroupMetadata of group-metadata-manager-0"]
    );
    assert_eq!(
        deadlocks[0].cycle[0].frames[0],
        "kafka.server.DelayedOperationPurgatory$Watchers.tryCompleteWatched(DelayedOperation.scala:308)"
    );
}

#[test]
fn the_head_of_a_report_is_enough() {
    let bytes = fixture("incident/jstack/after-upgrade.txt");
    assert!(parse(&decode(&bytes)).unwrap()[0].truncated);
    let deadlocks = deadlocks_of(&bytes);
    assert_eq!(deadlocks.len(), 1);
    assert_eq!(
        waits(&deadlocks[0].cycle),
        [
            "executor-Heartbeat wants kafka.server.DelayedProduce of kafka-scheduler-5",
            "kafka-scheduler-5 wants kafka.coordinator.GroupMetadata of executor-Heartbeat",
        ]
    );
    assert!(deadlocks[0].waiting.is_empty());
}

#[test]
fn real_brokers_of_the_incidents_version() {
    let deadlocks = deadlocks_of(&fixture("recordings/incident-0.10.1.0/jstack-first.txt"));
    assert_eq!(deadlocks.len(), 1);
    assert_eq!(
        names(&deadlocks[0].cycle),
        ["kafka-request-handler-4", "executor-Heartbeat"]
    );
    assert_eq!(
        names(&deadlocks[0].waiting),
        ["group-metadata-manager-0", "kafka-request-handler-7"]
    );
    let deadlocks = deadlocks_of(&fixture("recordings/deadlock-handlers-0.10.1.0/jstack.txt"));
    assert_eq!(deadlocks.len(), 1);
    assert_eq!(
        names(&deadlocks[0].cycle),
        ["kafka-request-handler-2", "kafka-request-handler-3"]
    );
}

/// What the programs behind the dumps do (`Load.java`): `mon`, `juc` and `mix` deadlock on monitors, ReentrantLocks and
/// one of each, `cls` on class initialisation, `virt` are virtual threads. The others have no holder in the text.
#[test]
fn one_dump_of_the_zoo_shows_what_it_can() {
    let (mon, juc, mix, cls, virt) = (
        ["mon-1", "mon-2"],
        ["juc-1", "juc-2"],
        ["mix-1", "mix-2"],
        ["cls-1", "cls-2"],
        ["virt-1", "virt-2"],
    );
    let cases: [(&str, &[[&str; 2]]); 12] = [
        // JDK 11 does not say which class is waited for.
        ("zoo-jdk11.txt", &[mon, juc, mix]),
        ("zoo-jdk11-l.txt", &[mon, juc, mix]),
        ("zoo-jdk17.txt", &[mon, juc, mix, cls]),
        ("zoo-jdk17-e.txt", &[mon, juc, mix, cls]),
        ("zoo-jdk17-l.txt", &[mon, juc, mix, cls]),
        ("zoo-jdk21-l.txt", &[mon, juc, mix, cls]),
        ("zoo-jdk25.txt", &[mon, juc, mix, cls]),
        ("sigquit-stdout-jdk11.txt", &[mon, juc, mix]),
        ("jhsdb-jdk17.txt", &[mon, juc]),
        ("jhsdb-jdk25.txt", &[mon, juc]),
        ("dump_to_file-jdk25.txt", &[mon, virt]),
        ("dump_to_file-jdk25.json", &[mon, virt]),
    ];
    for (file, expected) in cases {
        let deadlocks = deadlocks_of(&fixture(&format!("thread-dumps/own/{file}")));
        let found: Vec<Vec<&str>> = deadlocks
            .iter()
            .map(|deadlock| names(&deadlock.cycle))
            .collect();
        assert_eq!(found, expected, "{file}");
        assert!(
            deadlocks.iter().all(|deadlock| deadlock.waiting.is_empty()),
            "{file}"
        );
    }
}

#[test]
fn ownable_synchronizers_listed_with_l_need_no_report() {
    let bytes = fixture("thread-dumps/own/zoo-jdk17-l.txt");
    let text = decode(&bytes);
    let without_report = text.split("Found one Java-level deadlock").next().unwrap();
    let found: Vec<_> = deadlocks_of(without_report.as_bytes())
        .iter()
        .map(|d| d.cycle[0].thread.clone())
        .collect();
    assert_eq!(found, ["mon-1", "juc-1", "mix-1", "cls-1"]);
}

/// Later dumps have neither report nor lists, and other addresses. Once `juc-2` has moved, its locks are unknown, also
/// when it is back at its place.
#[test]
fn owners_shown_once_are_known_as_long_as_no_thread_moves() {
    let bytes = fixture("thread-dumps/own/zoo-jdk17-l.txt");
    let text = decode(&bytes);
    let with_locks = text.split("Found one Java-level deadlock").next().unwrap();
    let is_listed =
        |line: &str| line.starts_with("\t- <0x") || line.starts_with("   Locked ownable");
    let later: String = with_locks
        .lines()
        .filter(|line| !is_listed(line))
        .map(|line| format!("{line}\n"))
        .collect();
    let later = later.replace("<0x00000000ff", "<0x00000000ee");
    let moved = later.replace("Load.lambda$main$5(", "Load.lambda$main$5_(");
    assert_ne!(moved, later);
    let mut owners = Owners::default();
    let mut evaluate = |text: &str| {
        let dumps = parse(text).unwrap();
        let graph = WaitGraph::with_owners(&dumps[0], &owners);
        let found: Vec<_> = graph
            .deadlocks()
            .iter()
            .map(|deadlock| deadlock.cycle[0].thread.clone())
            .collect();
        owners = graph.owners();
        found
    };
    let (known, unknown) = (
        ["mon-1", "juc-1", "mix-1", "cls-1"],
        ["mon-1", "mix-1", "cls-1"],
    );
    assert_eq!(evaluate(with_locks), known);
    assert_eq!(evaluate(&later), known);
    assert_eq!(evaluate(&moved), unknown);
    assert_eq!(evaluate(&later), unknown);
}

/// A pool's threads may all have one name: the lock shows which of them the last one waits for.
#[test]
fn a_tail_of_the_same_name_is_no_member() {
    let entry = |name: &str, lock: u64, holder: &str| {
        format!(
            "\"{name}\":\n  waiting for ownable synchronizer 0x{lock:016x}, (a L),\n  which is held by \"{holder}\"\n\n"
        )
    };
    let stacks = "Java stack information for the threads listed above:\n====\n\"t\":\n\tat a.T0.run(T.java:1)\n\"t\":\n\tat a.T1.run(T.java:1)\n\
        \"u\":\n\tat a.T2.run(T.java:1)\n\nFound 1 deadlock.\n";
    let report = "Found one Java-level deadlock:\n====\n".to_owned()
        + &entry("t", 7, "t")
        + &entry("t", 8, "u")
        + &entry("u", 7, "t")
        + stacks;
    let deadlocks = deadlocks_of(report.as_bytes());
    let numbers = |threads: &[DeadlockedThread]| threads.iter().map(number).collect::<Vec<_>>();
    assert_eq!(
        (
            deadlocks.len(),
            numbers(&deadlocks[0].cycle),
            numbers(&deadlocks[0].waiting)
        ),
        (1, vec![1, 2], vec![0])
    );
}

#[test]
fn a_convoy_is_shown_with_its_holders_frames() {
    let text = "Full thread dump OpenJDK 64-Bit Server VM (17 mixed mode):\n\n\
        \"owner\" #1 prio=5 tid=0x1 nid=0x1 runnable [0x1]\n   java.lang.Thread.State: RUNNABLE\n\
        \tat sun.nio.ch.FileDispatcherImpl.force0(java.base@17.0.1/Native Method)\n\
        \tat kafka.log.Log.flush(Log.scala:7)\n\t- locked <0x00000000000000aa> (a kafka.log.Log)\n\n\
        \"a\" #2 prio=5 tid=0x2 nid=0x2 waiting for monitor entry [0x1]\n   java.lang.Thread.State: BLOCKED (on object monitor)\n\
        \tat kafka.log.Log.append(Log.scala:1)\n\t- waiting to lock <0x00000000000000aa> (a kafka.log.Log)\n\n\
        \"b\" #3 prio=5 tid=0x3 nid=0x3 waiting for monitor entry [0x1]\n   java.lang.Thread.State: BLOCKED (on object monitor)\n\
        \tat kafka.log.Log.append(Log.scala:1)\n\t- waiting to lock <0x00000000000000aa> (a kafka.log.Log)\n\n";
    let dumps = parse(text).unwrap();
    let graph = WaitGraph::of(&dumps[0]);
    assert!(graph.deadlocks().is_empty());
    let convoys = graph.convoys();
    let [queue] = &convoys[..] else {
        panic!("{convoys:?}")
    };
    assert_eq!(
        (queue.lock_class.as_str(), queue.owner.as_deref()),
        ("kafka.log.Log", Some("owner"))
    );
    assert_eq!(queue.waiters, ["a", "b"]);
    assert_eq!(
        queue.owner_frames,
        [
            "sun.nio.ch.FileDispatcherImpl.force0(Native Method)",
            "kafka.log.Log.flush(Log.scala:7)"
        ]
    );
}

/// A random world: thread i waits for lock `wants[i]`; lock l is held by `holders[l]`.
#[derive(Debug, Clone)]
struct World {
    wants: Vec<Option<usize>>,
    holders: Vec<Option<usize>>,
    /// Of each lock: a monitor, or a ReentrantLock, whose holder only the `-l` list names.
    monitor: Vec<bool>,
    /// Of each thread: it stands in Object.wait() on an own object, whose monitor another thread has taken.
    in_wait: Vec<bool>,
    /// Several threads share a name.
    names: usize,
}

fn world() -> impl Strategy<Value = World> {
    (1usize..24, 1usize..24).prop_flat_map(|(threads, locks)| {
        (
            prop::collection::vec(prop::option::weighted(0.8, 0..locks), threads),
            prop::collection::vec(prop::option::weighted(0.9, 0..threads), locks),
            prop::collection::vec(any::<bool>(), locks),
            prop::collection::vec(prop::bool::weighted(0.2), threads),
            1usize..24,
        )
            .prop_map(|(wants, holders, monitor, in_wait, names)| World {
                wants,
                holders,
                monitor,
                in_wait,
                names,
            })
    })
}

impl World {
    /// Who thread `i` waits for. A thread in Object.wait() waits for a notification, not for a lock.
    fn holder(&self, i: usize) -> Option<usize> {
        let lock = self.wants[i].filter(|_| !self.in_wait[i])?;
        self.holders[lock].filter(|&holder| holder != i)
    }

    /// Every thread that can be reached from `i` in one step or more.
    fn reachable(&self, i: usize) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut at = self.holder(i);
        while let Some(next) = at.filter(|&next| reached.insert(next)) {
            at = self.holder(next);
        }
        reached
    }

    /// The report as the JVM makes it: it walks from each thread not yet walked from, and prints the complete walk, tail
    /// included, where that ends in itself.
    fn report(&self) -> String {
        let (mut text, mut walked, mut count) = (String::new(), BTreeSet::new(), 0);
        for start in 0..self.wants.len() {
            let mut path = Vec::new();
            let mut at = Some(start);
            while let Some(next) = at.filter(|&next| walked.insert(next)) {
                path.push(next);
                at = self.holder(next);
            }
            if !at.is_some_and(|at| path.contains(&at)) {
                continue;
            }
            count += 1;
            text.push_str("\nFound one Java-level deadlock:\n=============================\n");
            for &i in &path {
                let lock = self.wants[i].unwrap();
                let what = match self.monitor[lock] {
                    true => format!(
                        "to lock monitor 0x1 (object 0x{:016x}, a L{lock}),",
                        0x1000 + lock
                    ),
                    false => format!(
                        "for ownable synchronizer 0x{:016x}, (a L{lock}),",
                        0x1000 + lock
                    ),
                };
                let holder = self.name(self.holder(i).unwrap());
                write!(
                    text,
                    "\"{}\":\n  waiting {what}\n  which is held by \"{holder}\"\n\n",
                    self.name(i)
                )
                .unwrap();
            }
            text.push_str("Java stack information for the threads listed above:\n===================================================\n");
            for &i in &path {
                write!(text, "\"{}\":\n\tat a.T{i}.run(T.java:1)\n", self.name(i)).unwrap();
            }
        }
        if count > 0 {
            write!(text, "\nFound {count} deadlocks.\n\n").unwrap();
        }
        text
    }

    fn name(&self, i: usize) -> String {
        format!("thread \"{}\" #x", i % self.names)
    }

    fn render(&self) -> String {
        let mut text =
            "2026-11-22 14:33:28\nFull thread dump OpenJDK 64-Bit Server VM (17.0.15 mixed mode):\n\n".to_owned();
        for i in 0..self.wants.len() {
            let state = match (
                self.in_wait[i],
                self.wants[i].map(|lock| self.monitor[lock]),
            ) {
                (true, _) => "WAITING (on object monitor)",
                (_, Some(true)) => "BLOCKED (on object monitor)",
                (_, Some(false)) => "WAITING (parking)",
                _ => "RUNNABLE",
            };
            let tid = i + 1;
            write!(
                text,
                "\"{}\" #{tid} prio=5 os_prio=0 tid=0x{tid:016x} nid=0x{tid:x} runnable  [0x0]\n   \
                 java.lang.Thread.State: {state}\n\tat a.T{i}.run(T.java:1)\n",
                self.name(i)
            )
            .unwrap();
            if self.in_wait[i] {
                // The lock that it names as wanted in the world is one that it gave up here.
                let given_up = self.wants[i].map_or(0xffff, |lock| 0x1000 + lock);
                write!(text, "\t- waiting on <0x{given_up:016x}> (a L)\n\tat a.B.c(B.java:2)\n\t- locked <0x{given_up:016x}> (a L)\n")
                    .unwrap();
            } else if let Some(lock) = self.wants[i] {
                let what = if self.monitor[lock] {
                    "waiting to lock"
                } else {
                    "parking to wait for "
                };
                writeln!(text, "\t- {what} <0x{:016x}> (a L{lock})", 0x1000 + lock).unwrap();
            }
            let holds = |kind: bool| {
                (0..self.holders.len())
                    .filter(move |&l| self.holders[l] == Some(i) && self.monitor[l] == kind)
            };
            for lock in holds(true) {
                // A thread that waits on a monitor does not hold it, so the world where it does is not rendered.
                if !(self.in_wait[i] && self.wants[i] == Some(lock)) {
                    write!(
                        text,
                        "\tat a.B.c(B.java:2)\n\t- locked <0x{:016x}> (a L{lock})\n",
                        0x1000 + lock
                    )
                    .unwrap();
                }
            }
            text.push_str("\n   Locked ownable synchronizers:\n");
            for lock in holds(false) {
                writeln!(text, "\t- <0x{:016x}> (a L{lock})", 0x1000 + lock).unwrap();
            }
            text.push('\n');
        }
        text.push_str("JNI global refs: 4, weak refs: 0\n\n");
        text
    }
}

/// Without what `-l` adds, in which the holders of ReentrantLocks stand.
fn without_lists(dump: &str) -> String {
    dump.lines()
        .filter(|line| !line.starts_with("\t- <") && !line.contains("ownable"))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// A node's number, from its topmost frame: names are not unique.
fn number(thread: &DeadlockedThread) -> usize {
    thread.frames[0]
        .strip_prefix("a.T")
        .and_then(|frame| frame.split('.').next())
        .unwrap()
        .parse()
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn members_are_those_that_reach_themselves(mut world in world()) {
        // A lock that its waiter in Object.wait() would hold is held by nobody.
        for i in 0..world.wants.len() {
            if let Some(lock) = world.wants[i].filter(|&lock| world.in_wait[i] && world.holders[lock] == Some(i)) {
                world.holders[lock] = None;
            }
        }
        let text = world.render();
        let dumps = parse(&text).unwrap();
        prop_assert_eq!(dumps.len(), 1);
        prop_assert_eq!(dumps[0].threads.len(), world.wants.len());
        prop_assert!(!dumps[0].truncated);
        let deadlocks = WaitGraph::of(&dumps[0]).deadlocks();

        let members: BTreeSet<usize> = (0..world.wants.len()).filter(|&i| world.reachable(i).contains(&i)).collect();
        let mut seen = BTreeSet::new();
        for deadlock in &deadlocks {
            let cycle: Vec<usize> = deadlock.cycle.iter().map(number).collect();
            for (at, &member) in cycle.iter().enumerate() {
                prop_assert_eq!(world.holder(member), Some(cycle[(at + 1) % cycle.len()]));
                prop_assert!(seen.insert(member));
                prop_assert_eq!(&deadlock.cycle[at].wants, &format!("L{}", world.wants[member].unwrap()));
                prop_assert_eq!(&deadlock.cycle[at].held_by, &world.name(world.holder(member).unwrap()));
            }
            prop_assert_eq!(cycle.iter().min(), cycle.first());
            let waiting: Vec<usize> = deadlock.waiting.iter().map(number).collect();
            let expected: Vec<usize> =
                (0..world.wants.len()).filter(|i| !cycle.contains(i) && world.reachable(*i).contains(&cycle[0])).collect();
            prop_assert_eq!(waiting, expected);
        }
        prop_assert_eq!(seen, members);
        let firsts: Vec<usize> = deadlocks.iter().map(|deadlock| number(&deadlock.cycle[0])).collect();
        prop_assert!(firsts.is_sorted());
    }

    /// Without `-l` the JVM's report is all that names the holders of ReentrantLocks; and the report alone is enough.
    #[test]
    fn the_report_gives_the_same_members(mut world in world(), alone in any::<bool>()) {
        world.names = 24;
        world.in_wait.fill(false);
        let text = match alone {
            true => world.report(),
            false => without_lists(&world.render()) + &world.report(),
        };
        let deadlocks = if text.is_empty() { Vec::new() } else { deadlocks_of(text.as_bytes()) };
        let members: BTreeSet<usize> = (0..world.wants.len()).filter(|&i| world.reachable(i).contains(&i)).collect();
        let found: Vec<usize> = deadlocks.iter().flat_map(|deadlock| &deadlock.cycle).map(number).collect();
        prop_assert_eq!(found.len(), members.len());
        prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), members);
        for deadlock in &deadlocks {
            let cycle: Vec<usize> = deadlock.cycle.iter().map(number).collect();
            for (at, &member) in cycle.iter().enumerate() {
                prop_assert_eq!(world.holder(member), Some(cycle[(at + 1) % cycle.len()]));
            }
            for waiting in deadlock.waiting.iter().map(number) {
                prop_assert!(world.reachable(waiting).contains(&cycle[0]) && !cycle.contains(&waiting));
            }
        }
    }
}
