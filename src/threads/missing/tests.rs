#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::parse::thread_dump::parse;

fn dump(names: &[&str]) -> String {
    let threads: String = names
        .iter()
        .map(|name| {
            format!(
                "\"{name}\" #7 prio=5 os_prio=0 tid=0x1 nid=0x2 runnable [0x0]\n   java.lang.Thread.State: RUNNABLE\n\n"
            )
        })
        .collect();
    let banner = "2026-11-22 10:00:00\nFull thread dump OpenJDK 64-Bit Server VM (17.0.15+6 mixed mode):\n\n";
    format!("{banner}{threads}JNI global refs: 1, weak refs: 0\n")
}

fn observe(
    inventory: &mut ThreadInventory,
    names: &[&str],
    behind: &[(i32, u64)],
    second: u64,
) -> Option<PoolFindings<MissingThread>> {
    observe_deaths(inventory, names, behind, &Deaths::default(), second)
}

fn observe_deaths(
    inventory: &mut ThreadInventory,
    names: &[&str],
    behind: &[(i32, u64)],
    deaths: &Deaths,
    second: u64,
) -> Option<PoolFindings<MissingThread>> {
    let text = dump(names);
    inventory.observe(
        &parse(&text).unwrap()[0],
        Some(&behind.iter().copied().collect()),
        None,
        deaths,
        Moment(second * 1000),
    )
}

/// After two dumps of `before`, what one dump of `after` 2 s after the death of the first of them shows, and what further
/// ones each 15 s show.
fn after_death(before: &[&str], after: &[&str], gone: bool, logged: bool) -> (bool, Vec<bool>) {
    let mut inventory = ThreadInventory::default();
    observe(&mut inventory, before, &[], 0);
    observe(&mut inventory, before, &[], 15);
    let mut deaths = Deaths::default();
    if gone {
        deaths.add_gone(before[0].to_owned(), Moment(20_000));
    }
    if logged {
        deaths.add_logged(before[0].to_owned(), Moment(20_000));
    }
    let mut is_missing = |second| {
        let findings = observe_deaths(&mut inventory, after, &[], &deaths, second).unwrap();
        let names: Vec<&str> = findings.found.iter().map(|of| of.thread.as_str()).collect();
        assert!(names.is_empty() || findings.pools.contains(&findings.found[0].pool));
        names == before[..1]
    };
    let first = is_missing(22);
    (first, [37, 52, 120].map(is_missing).to_vec())
}

#[test]
fn one_dump_is_enough_where_kernel_and_log_agree() {
    let reaper = ["ExpirationReaper-1-Produce", "main"];
    let cleaner = ["kafka-log-cleaner-thread-0", "main"];
    let fetcher = ["ReplicaFetcherThread-0-3", "ReplicaFetcherThread-1-3"];
    let top = ["kafka-request-handler-7", "kafka-request-handler-6"];
    type Row<'a> = (&'a [&'a str], bool, bool, bool, [bool; 3]);
    let table: [Row<'_>; 9] = [
        // The kernel alone, where the pool is never empty or replaced.
        (&HANDLERS, true, false, true, [true; 3]),
        (&reaper, true, false, true, [true; 3]),
        // A cleaner is replaced with its settings, a fetcher may have no partition, a pool is made smaller.
        (&cleaner, true, false, false, [true; 3]),
        (&fetcher, true, false, false, [false; 3]),
        (&top, true, false, false, [false; 3]),
        // The log knows. A fetcher counts for a minute, then the ISR decides.
        (&cleaner, true, true, true, [true; 3]),
        (&top, false, true, true, [true; 3]),
        (&fetcher, true, true, true, [true, true, false]),
        // Without either two dumps are needed.
        (&HANDLERS, false, false, false, [true; 3]),
    ];
    for (before, gone, logged, at_once, later) in table {
        let found = after_death(before, &before[1..], gone, logged);
        assert_eq!(
            found,
            (at_once, later.to_vec()),
            "{before:?} {gone} {logged}"
        );
    }
    // A thread of that name that runs again is not missing, and a death of long ago says nothing.
    let mut inventory = ThreadInventory::default();
    let mut deaths = Deaths::default();
    deaths.add_logged(top[0].to_owned(), Moment(20_000));
    let mut found = |names: &[&str], second| {
        let found = observe_deaths(&mut inventory, names, &[], &deaths, second);
        found.map_or(0, |of| of.found.len())
    };
    let steps: [(&[&str], u64); 5] = [
        (&top, 0),
        (&top, 15),
        (&top[1..], 22),
        (&top, 37),
        (&top[1..], 90),
    ];
    assert_eq!(
        steps.map(|(names, second)| found(names, second)),
        [0, 0, 1, 0, 0]
    );
}

#[test]
fn deaths_are_bounded() {
    let mut deaths = Deaths::default();
    for number in 0..1000 {
        deaths.add_gone(format!("thread-{number}"), Moment(number));
    }
    assert_eq!(deaths.gone.len(), MOST_DEATHS);
    deaths.add_gone("later".into(), Moment(100_000));
    assert_eq!(deaths.gone.len(), 1);
}

/// The names of the missing threads after two dumps of `before` and `times` dumps of `after`, each 15 s later.
fn missing(before: &[&str], after: &[&str], behind: &[(i32, u64)], times: u64) -> Vec<String> {
    let mut inventory = ThreadInventory::default();
    observe(&mut inventory, before, &[], 0);
    let first = observe(&mut inventory, before, &[], 15).unwrap();
    assert_eq!(first.found, []);
    let last = (0..times)
        .map(|time| observe(&mut inventory, after, behind, 30 + time * 15))
        .last()
        .unwrap();
    let missing = last.unwrap().found.into_iter();
    missing
        .flat_map(|thread| std::iter::repeat_n(thread.thread, thread.count))
        .collect()
}

const HANDLERS: [&str; 3] = [
    "kafka-request-handler-0",
    "kafka-request-handler-1",
    "kafka-request-handler-2",
];

#[test]
fn a_thread_that_cannot_have_ended_regularly_is_missing() {
    let network = [
        "data-plane-kafka-network-thread-1-ListenerName(A)-A-0",
        "data-plane-kafka-network-thread-1-ListenerName(A)-A-1",
    ];
    let acceptor = "data-plane-kafka-socket-acceptor-ListenerName(A)-A-9092";
    let other = "data-plane-kafka-network-thread-1-ListenerName(B)-B-0";
    type Row<'a> = (
        &'a [&'a str],
        &'a [&'a str],
        &'a [(i32, u64)],
        &'a [&'a str],
    );
    let table: &[Row<'_>] = &[
        // A gap; without the top one the pool may just be smaller; a pool never shrinks to nothing.
        (&HANDLERS, &[HANDLERS[0], HANDLERS[2]], &[], &[HANDLERS[1]]),
        (&HANDLERS, &HANDLERS[..1], &[], &[]),
        (&HANDLERS, &["main"], &[], &HANDLERS),
        (
            &[network[0], network[1], acceptor],
            &[network[1], acceptor],
            &[],
            &network[..1],
        ),
        (
            &[network[0], network[1], acceptor],
            &[network[0], acceptor],
            &[],
            &[],
        ),
        (
            &[network[0], acceptor, other],
            &[acceptor, other],
            &[],
            &network[..1],
        ),
        // A listener was removed.
        (&[network[0], acceptor, other], &[other], &[], &[]),
        (&[network[0], acceptor], &[network[0]], &[], &[acceptor]),
        // On 0.10 all reapers of the purgatories have the same name.
        (
            &["ExpirationReaper-2", "ExpirationReaper-2"],
            &["ExpirationReaper-2"],
            &[],
            &["ExpirationReaper-2"],
        ),
        (
            &["ExpirationReaper-2", "ExpirationReaper-2"],
            &["main"],
            &[],
            &["ExpirationReaper-2", "ExpirationReaper-2"],
        ),
        (
            &["kafka-log-cleaner-thread-0"],
            &["main"],
            &[],
            &["kafka-log-cleaner-thread-0"],
        ),
        // Executors replace threads, and remove any thread when they shrink.
        (
            &["kafka-scheduler-0", "kafka-scheduler-1"],
            &["kafka-scheduler-1"],
            &[],
            &[],
        ),
        (
            &["kafka-scheduler-0"],
            &["main"],
            &[],
            &["kafka-scheduler-0"],
        ),
        (
            &[
                "controller-event-thread",
                "Controller-1-to-broker-2-send-thread",
            ],
            &["controller-event-thread"],
            &[],
            &[],
        ),
        (
            &["kafka-3-raft-io-thread"],
            &["main"],
            &[],
            &["kafka-3-raft-io-thread"],
        ),
        // Leaders move; the missing ISR membership shows that there is work.
        (&["ReplicaFetcherThread-0-3"], &["main"], &[], &[]),
        (&["ReplicaFetcherThread-0-3"], &["main"], &[(2, 5)], &[]),
        (
            &["ReplicaFetcherThread-0-3"],
            &["main"],
            &[(3, 5)],
            &["ReplicaFetcherThread-0-3"],
        ),
        (
            &["ReplicaFetcherThread-0-3", "ReplicaFetcherThread-1-3"],
            &["ReplicaFetcherThread-1-3"],
            &[(3, 5)],
            &[],
        ),
        (&["ReplicaAlterLogDirsThread-0"], &["main"], &[(3, 5)], &[]),
    ];
    for (before, after, behind, expected) in table {
        assert_eq!(
            missing(before, after, behind, 1),
            [""; 0],
            "one dump is not enough: {before:?} {after:?}"
        );
        assert_eq!(
            missing(before, after, behind, 2),
            *expected,
            "{before:?} {after:?} {behind:?}"
        );
        assert_eq!(missing(before, before, behind, 3), [""; 0], "{before:?}");
    }
}

/// Numbers of network threads are used once: the third of three ends, and one with a higher number starts.
#[test]
fn a_later_thread_with_a_higher_number_proves_nothing() {
    let name = |number: u32| format!("kafka-network-thread-1-A-{number}");
    let names: Vec<String> = (0..4).map(name).collect();
    let [first, second, third, fourth] = &names[..] else {
        unreachable!()
    };
    let mut inventory = ThreadInventory::default();
    for (time, present) in [
        vec![first, second, third],
        vec![first, second],
        vec![first, second, fourth],
    ]
    .iter()
    .enumerate()
    {
        let present: Vec<&str> = present.iter().map(|name| name.as_str()).collect();
        for again in 0..3 {
            let findings = observe(
                &mut inventory,
                &present,
                &[],
                time as u64 * 100 + again * 15,
            );
            assert_eq!(findings.map_or(0, |findings| findings.found.len()), 0);
        }
    }
}

/// A combined node has two pools of handlers with the same names.
#[test]
fn one_of_two_pools_with_the_same_names_may_shrink() {
    let two = [HANDLERS, HANDLERS].concat();
    assert_eq!(
        missing(
            &two,
            &[HANDLERS[0], HANDLERS[0], HANDLERS[1], HANDLERS[2]],
            &[],
            3
        ),
        [""; 0]
    );
}

#[test]
fn a_broker_that_shuts_down_lacks_no_thread() {
    for shutdown in ["SIGTERM handler", "kafka-shutdown-hook"] {
        let mut inventory = ThreadInventory::default();
        observe(&mut inventory, &HANDLERS, &[], 0);
        assert!(observe(&mut inventory, &HANDLERS, &[], 15).is_some());
        for time in 2..6 {
            assert_eq!(
                observe(&mut inventory, &["main", shutdown], &[], time * 15),
                None
            );
        }
    }
}

#[test]
fn a_thread_that_returns_is_not_missing() {
    let mut inventory = ThreadInventory::default();
    let cleaner = "kafka-log-cleaner-thread-0";
    let counts: Vec<usize> = [true, true, false, true, false, false, true]
        .into_iter()
        .enumerate()
        .filter_map(|(time, there)| {
            let names = if there {
                vec!["main", cleaner]
            } else {
                vec!["main"]
            };
            observe(&mut inventory, &names, &[], time as u64 * 15)
                .map(|findings| findings.found.len())
        })
        .collect();
    assert_eq!(counts, [0, 0, 0, 0, 1, 0]);
}

/// Without the cluster's state fetchers cannot be checked.
#[test]
fn fetchers_are_unknown_without_the_cluster() {
    let text = dump(&["ReplicaFetcherThread-0-3", "kafka-request-handler-0"]);
    let mut inventory = ThreadInventory::default();
    let deaths = Deaths::default();
    inventory.observe(&parse(&text).unwrap()[0], None, None, &deaths, Moment(0));
    let findings = inventory
        .observe(
            &parse(&text).unwrap()[0],
            None,
            None,
            &deaths,
            Moment(15_000),
        )
        .unwrap();
    assert_eq!(findings.pools, ["request_handler".to_owned()].into());
}

/// Without the log's line, and before any ISR has shrunk.
#[test]
fn a_fetcher_of_a_leader_that_is_still_followed_is_missing_by_the_second_dump() {
    let fetcher = "ReplicaFetcherThread-0-3";
    // Of partitions of broker 3, by Metadata read in that second.
    let follows = |partitions: u64, read: u64| {
        Some(Follows {
            by_leader: Arc::new([(3, partitions)].into()),
            read: Moment(read * 1000),
        })
    };
    let nothing = BTreeMap::new();
    let found = |steps: &[(Option<Follows>, u64)]| -> Vec<(bool, bool)> {
        let mut inventory = ThreadInventory::default();
        let mut deaths = Deaths::default();
        let mut see = |names: &[&str], follows: Option<&Follows>, deaths: &Deaths, second: u64| {
            let text = dump(names);
            let dump = &parse(&text).unwrap()[0];
            let now = Moment(second * 1000);
            let found = inventory.observe(dump, Some(&nothing), follows, deaths, now);
            let is_missing = found.is_some_and(|found| found.found.len() == 1);
            (is_missing, inventory.lacks_some())
        };
        see(&[fetcher], None, &deaths, 0);
        see(&[fetcher], None, &deaths, 15);
        deaths.add_gone(fetcher.to_owned(), Moment(20_000));
        let steps = steps.iter();
        steps
            .map(|(follows, second)| see(&["main"], follows.as_ref(), &deaths, *second))
            .collect()
    };
    assert_eq!(
        found(&[(follows(5, 19), 20), (follows(5, 22), 25)]),
        [(false, true), (true, false)]
    );
    // Metadata of before do not know the new leaders yet; later ones do.
    assert_eq!(
        found(&[
            (follows(5, 19), 20),
            (follows(5, 21), 25),
            (follows(0, 26), 27)
        ]),
        [(false, true), (false, true), (false, false)]
    );
    // All partitions of that leader have moved.
    assert_eq!(
        found(&[(follows(0, 20), 20), (follows(0, 25), 26)]),
        [(false, false); 2]
    );
    assert_eq!(found(&[(None, 20), (None, 25)]), [(false, false); 2]);
}
