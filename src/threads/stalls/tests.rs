#![allow(clippy::unwrap_used, clippy::expect_used)]

mod known;
mod peers;

use super::*;
use crate::parse::thread_dump::parse;

fn observe(
    detector: &mut StallDetector,
    text: &str,
    paused: Option<Duration>,
    seconds: u64,
) -> Option<PoolFindings<Stall>> {
    let dumps = parse(text).unwrap();
    let dump = dumps.last().unwrap();
    detector.observe(dump, &WaitGraph::of(dump), paused, Moment(seconds * 1000))
}

/// Stalled threads, by name.
fn stalled(detector: &mut StallDetector, text: &str, seconds: u64) -> Option<Vec<String>> {
    let findings = observe(detector, text, None, seconds)?;
    Some(
        findings
            .found
            .into_iter()
            .flat_map(|stall| stall.threads)
            .collect(),
    )
}

/// The same dump so many seconds later if only the reapers used CPU.
fn later(text: &str, seconds: u64) -> String {
    let mut later = String::new();
    for line in text.split_inclusive('\n') {
        let cpu = line
            .starts_with("\"ExpirationReaper-")
            .then(|| line.split_once(" cpu=")?.1.split_once("ms "))
            .flatten();
        match cpu {
            None => later.push_str(line),
            Some((cpu, rest)) => {
                let (name, _) = line.split_once(" cpu=").unwrap();
                let cpu = cpu.parse::<f64>().unwrap() + 0.3 * seconds as f64;
                later.push_str(&format!("{name} cpu={cpu:.2}ms {rest}"));
            }
        }
    }
    later
}

/// A dump of one thread with the frames `at`, topmost first.
fn dump(name: &str, cpu: &str, state: &str, at: &[&str]) -> String {
    let frames: String = at.iter().map(|frame| format!("\tat {frame}\n")).collect();
    format!(
        "2026-11-22 10:00:00\nFull thread dump OpenJDK 64-Bit Server VM (17.0.15+6 mixed mode):\n\n\
         \"{name}\" #41 prio=5 os_prio=0 {cpu} tid=0x00007f1 nid=0x2 waiting [0x0]\n   java.lang.Thread.State: {state}\n{frames}\n\
         JNI global refs: 1, weak refs: 0\n"
    )
}

const PARK: [&str; 2] = [
    "jdk.internal.misc.Unsafe.park(Native Method)",
    "java.util.concurrent.locks.LockSupport.park(LockSupport.java:211)",
];
const AWAIT: &str = "java.util.concurrent.locks.AbstractQueuedSynchronizer$ConditionObject.await(AbstractQueuedSynchronizer.java:1625)";
const ACQUIRE: &str = "java.util.concurrent.locks.AbstractQueuedSynchronizer.acquire(AbstractQueuedSynchronizer.java:715)";
const LOCK: &str = "java.util.concurrent.locks.ReentrantLock.lock(ReentrantLock.java:322)";
const TAKE: &str = "java.util.concurrent.LinkedBlockingQueue.take(LinkedBlockingQueue.java:435)";
const PUT: &str = "java.util.concurrent.ArrayBlockingQueue.put(ArrayBlockingQueue.java:370)";
const GET_TASK: &str =
    "java.util.concurrent.ThreadPoolExecutor.getTask(ThreadPoolExecutor.java:1062)";
const LOOP: &str = "kafka.server.KafkaRequestHandler.run(KafkaRequestHandler.scala:75)";
const HANDLE: &str = "kafka.server.KafkaApis.handle(KafkaApis.scala:100)";
const DEEP: &str = "kafka.server.ReplicaManager.appendRecords(ReplicaManager.scala:500)";

fn frames<'a>(parts: &[&[&'a str]]) -> Vec<&'a str> {
    parts.concat()
}

/// One dump of a broker at rest, repeated: none of its threads moves, and all are idle.
#[test]
fn no_idle_thread_of_any_version_is_stalled() {
    let dumps = [
        include_str!("../../../tests/fixtures/thread_dumps/at_rest/0.10.1.0.txt"),
        include_str!("../../../tests/fixtures/thread_dumps/at_rest/2.8.2.txt"),
        include_str!("../../../tests/fixtures/thread_dumps/at_rest/3.9.1-zookeeper.txt"),
        include_str!("../../../tests/fixtures/thread_dumps/at_rest/3.9.1-broker.txt"),
        include_str!("../../../tests/fixtures/thread_dumps/at_rest/3.9.1-controller.txt"),
        include_str!("../../../tests/fixtures/thread_dumps/at_rest/4.3.0.txt"),
        include_str!("../../../tests/fixtures/thread_dumps/at_rest/4.3.0-jdk25.txt"),
    ];
    for text in dumps {
        let handlers = text
            .lines()
            .filter(|line| line.contains("request-handler-"))
            .count();
        assert!(handlers >= 4, "{handlers}");
        let without_cpu: Vec<&str> = text
            .split(' ')
            .filter(|word| !word.starts_with("cpu="))
            .collect();
        for text in [text.to_owned(), without_cpu.join(" ")] {
            let mut detector = StallDetector::default();
            for time in 0..6 {
                let found = stalled(&mut detector, &later(&text, time * 30), time * 30);
                assert_eq!(
                    found,
                    (time > 0).then(Vec::new),
                    "{}",
                    text.lines().nth(1).unwrap()
                );
            }
        }
    }
}

#[test]
fn every_blocked_thread_of_the_recorded_deadlock_is_stalled() {
    let text = include_str!(
        "../../../tests/fixtures/thread_dumps/recordings/incident-0.10.1.0/jstack-first.txt"
    );
    let (threads, _) = text.split_once("Found one Java-level deadlock").unwrap();
    let blocked = threads
        .split("\n\"")
        .filter(|thread| thread.contains("State: BLOCKED"));
    let mut blocked: Vec<&str> = blocked
        .map(|thread| thread.split('"').next().unwrap())
        .collect();
    blocked.sort_unstable();
    assert_eq!(blocked.len(), 4);
    let mut detector = StallDetector::default();
    assert_eq!(stalled(&mut detector, text, 0), None);
    assert_eq!(stalled(&mut detector, &later(text, 9), 9), None, "too soon");
    let mut found = stalled(&mut detector, &later(text, 18), 18).unwrap();
    found.sort_unstable();
    assert_eq!(found, blocked);
}

/// Where a thread waits, and whether two dumps 15 s apart make it a stall.
#[test]
fn the_place_where_a_thread_waits_decides() {
    let handler = "kafka-request-handler-0";
    let acquires = frames(&[&PARK, &[ACQUIRE, LOCK]]);
    let awaits = frames(&[&PARK, &[AWAIT]]);
    let selects = [
        "sun.nio.ch.EPoll.wait(Native Method)",
        "sun.nio.ch.EPollSelectorImpl.doSelect(E.java:1)",
        "sun.nio.ch.SelectorImpl.select(S.java:1)",
    ];
    let deep = [DEEP, DEEP, HANDLE, LOOP];
    let table: &[(&str, &str, Vec<&str>, bool)] = &[
        (
            handler,
            "WAITING (parking)",
            frames(&[&acquires, &deep]),
            true,
        ),
        (
            handler,
            "WAITING (parking)",
            frames(&[&acquires, &[LOOP]]),
            true,
        ),
        (
            handler,
            "WAITING (parking)",
            frames(&[&awaits, &[TAKE, LOOP]]),
            false,
        ),
        (
            handler,
            "WAITING (parking)",
            frames(&[&awaits, &[LOOP]]),
            false,
        ),
        (
            handler,
            "WAITING (parking)",
            frames(&[&awaits, &[TAKE], &deep]),
            true,
        ),
        (
            handler,
            "WAITING (parking)",
            frames(&[&awaits, &deep]),
            true,
        ),
        // KAFKA-702: the queue is full.
        (
            handler,
            "WAITING (parking)",
            frames(&[&awaits, &[PUT, LOOP]]),
            true,
        ),
        // It was signalled and now waits for the condition's lock.
        (
            handler,
            "WAITING (parking)",
            frames(&[&PARK, &[ACQUIRE, AWAIT, TAKE, LOOP]]),
            true,
        ),
        (
            "kafka-scheduler-1",
            "WAITING (parking)",
            frames(&[&awaits, &[TAKE, GET_TASK]]),
            false,
        ),
        (
            "kafka-scheduler-1",
            "WAITING (parking)",
            frames(&[
                &PARK,
                &[
                    "java.util.concurrent.SynchronousQueue.take(S.java:1)",
                    GET_TASK,
                ],
            ]),
            false,
        ),
        (
            "kafka-scheduler-1",
            "WAITING (parking)",
            frames(&[
                &PARK,
                &["java.util.concurrent.FutureTask.get(F.java:1)", DEEP],
            ]),
            true,
        ),
        (
            handler,
            "WAITING (on object monitor)",
            vec![
                "java.lang.Object.wait(Native Method)",
                "java.lang.Thread.join(Thread.java:1)",
                LOOP,
            ],
            true,
        ),
        (
            handler,
            "BLOCKED (on object monitor)",
            frames(&[&deep]),
            true,
        ),
        (
            handler,
            "TIMED_WAITING (parking)",
            frames(&[
                &PARK,
                &["java.util.concurrent.FutureTask.get(F.java:1)"],
                &deep,
            ]),
            true,
        ),
        // A retry after a pause ends by itself.
        (
            "ReplicaFetcherThread-0-1",
            "TIMED_WAITING (sleeping)",
            vec!["java.lang.Thread.sleep(Native Method)", DEEP],
            false,
        ),
        (
            "ReplicaFetcherThread-0-1",
            "RUNNABLE",
            frames(&[&selects, &deep]),
            false,
        ),
        // The selector's own monitor is held by another thread.
        (
            "kafka-network-thread-0-PLAINTEXT-0",
            "BLOCKED (on object monitor)",
            frames(&[&selects[2..], &deep]),
            true,
        ),
        // Threads of libraries belong to no pool.
        (
            "main",
            "WAITING (parking)",
            frames(&[&acquires, &deep]),
            false,
        ),
    ];
    for (name, state, at, expected) in table {
        let text = dump(name, "cpu=7.01ms elapsed=20.00s", state, at);
        let mut detector = StallDetector::default();
        assert_eq!(stalled(&mut detector, &text, 0), None);
        let found = stalled(&mut detector, &text, 15).unwrap();
        assert_eq!(!found.is_empty(), *expected, "{name} {state} {at:?}");
    }
}

/// CPU at the first dump and at the second, 20 s later.
#[test]
fn a_thread_that_used_cpu_has_moved() {
    let table = [
        ("WAITING (parking)", "cpu=7.00ms", "cpu=7.00ms", true),
        ("WAITING (parking)", "cpu=7.00ms", "cpu=7.40ms", false),
        // Ticks for a contended monitor, as recorded over 20 s of a deadlock: 0.75 ms.
        (
            "BLOCKED (on object monitor)",
            "cpu=7.00ms",
            "cpu=7.75ms",
            true,
        ),
        (
            "BLOCKED (on object monitor)",
            "cpu=7.00ms",
            "cpu=27.00ms",
            false,
        ),
        ("WAITING (parking)", "cpu=7,00ms", "cpu=7,00ms", true),
        // Printed only once, so not comparable.
        ("WAITING (parking)", "cpu=7.00ms", "", false),
    ];
    for (state, before, after, expected) in table {
        let at = frames(&[&PARK, &[ACQUIRE, LOCK, DEEP, HANDLE, LOOP]]);
        let mut detector = StallDetector::default();
        stalled(
            &mut detector,
            &dump("kafka-request-handler-0", before, state, &at),
            0,
        );
        let found = stalled(
            &mut detector,
            &dump("kafka-request-handler-0", after, state, &at),
            20,
        )
        .unwrap();
        assert_eq!(!found.is_empty(), expected, "{state} {before} {after}");
    }
}

#[test]
fn without_cpu_times_more_dumps_must_agree() {
    let text = dump(
        "kafka-request-handler-0",
        "",
        "BLOCKED (on object monitor)",
        &[DEEP, HANDLE, LOOP],
    );
    let mut detector = StallDetector::default();
    let found: Vec<_> = (0..5)
        .map(|time| stalled(&mut detector, &text, time * 15).map(|found| found.len()))
        .collect();
    assert_eq!(found, [None, Some(0), Some(0), Some(1), Some(1)]);
}

#[test]
fn a_slow_disk_is_given_more_time() {
    let force = [
        "sun.nio.ch.UnixFileDispatcherImpl.force0(Native Method)",
        DEEP,
        HANDLE,
        LOOP,
    ];
    let text = dump("kafka-scheduler-3", "cpu=1.00ms", "RUNNABLE", &force);
    let mut detector = StallDetector::default();
    let found: Vec<_> = [0, 10, 19, 20]
        .map(|time| stalled(&mut detector, &text, time).map(|found| found.len()))
        .into();
    assert_eq!(found, [None, Some(0), Some(0), Some(1)]);
}

#[test]
fn a_stall_shows_what_its_threads_share() {
    let of = |thread: u32, address: &str| {
        format!(
            "\"data-plane-kafka-request-handler-{thread}\" #{thread} daemon prio=5 os_prio=0 cpu=3.00ms elapsed=9.00s tid=0x{thread} nid=0x1 waiting on condition  [0x0]\n   \
             java.lang.Thread.State: WAITING (parking)\n\tat jdk.internal.misc.Unsafe.park(java.base@17/Native Method)\n\
             \t- parking to wait for  <{address}> (a java.util.concurrent.locks.ReentrantReadWriteLock$NonfairSync)\n\
             \tat java.util.concurrent.locks.ReentrantReadWriteLock$ReadLock.lock(java.base@17/ReentrantReadWriteLock.java:738)\n\
             \tat kafka.utils.CoreUtils$.inLock(CoreUtils.scala:249)\n\
             \tat kafka.cluster.Partition.fetchOffsetSnapshot(Partition.scala:798)\n\n"
        )
    };
    let banner = "2026-11-22 10:00:00\nFull thread dump OpenJDK 64-Bit Server VM (17.0.15+6 mixed mode):\n\n";
    let text = |address: &str| {
        format!(
            "{banner}{}{}JNI global refs: 1, weak refs: 0\n",
            of(0, address),
            of(1, address)
        )
    };
    let mut detector = StallDetector::default();
    observe(&mut detector, &text("0x00000000e1"), None, 1);
    // Garbage collection has moved the lock meanwhile.
    let found = observe(&mut detector, &text("0x00000000f2"), None, 16).unwrap();
    let [stall] = &found.found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(
        stall.threads,
        [
            "data-plane-kafka-request-handler-0",
            "data-plane-kafka-request-handler-1"
        ]
    );
    assert_eq!(
        stall.frame.as_deref(),
        Some("kafka.cluster.Partition.fetchOffsetSnapshot")
    );
    assert_eq!(
        stall.lock_class.as_deref(),
        Some("java.util.concurrent.locks.ReentrantReadWriteLock$NonfairSync")
    );
    assert_eq!(
        (stall.pool.as_str(), stall.since),
        ("request_handler", Moment(1_000))
    );
    assert_eq!(found.pools, BTreeSet::from(["request_handler".to_owned()]));
}

/// The first two dumps are at both ends of a garbage collection, or of a time for which the process was stopped; the third
/// comes after the JVM ran again.
#[test]
fn no_thread_is_stalled_while_the_jvm_is_paused() {
    let text = include_str!(
        "../../../tests/fixtures/thread_dumps/recordings/incident-0.10.1.0/jstack-first.txt"
    );
    let seconds = Duration::from_secs;
    // The pauses until each dump, and for how many seconds the reapers ran.
    let collected = [
        (Some(seconds(1)), 0),
        (Some(seconds(15)), 1),
        (Some(seconds(15)), 15),
    ];
    let stopped = [(None, 0), (None, 0), (Some(seconds(1)), 15)];
    for clocks in [collected, stopped] {
        let mut detector = StallDetector::default();
        let found = std::iter::zip([0, 15, 30], clocks).map(|(at, (paused, moved))| {
            let text = later(text, moved);
            let found = observe(&mut detector, &text, paused, at);
            found.map(|found| {
                found
                    .found
                    .iter()
                    .map(|stall| stall.threads.len())
                    .sum::<usize>()
            })
        });
        assert_eq!(
            found.collect::<Vec<_>>(),
            [None, Some(0), Some(4)],
            "{clocks:?}"
        );
    }
}

/// Handlers at one monitor, and its owner in an fsync; CPU in milliseconds.
fn convoy(owner: (&str, &str), waiter_cpu: f64) -> String {
    let (name, cpu) = owner;
    let fsync = "\tat sun.nio.ch.FileDispatcherImpl.force0(Native Method)\n\tat kafka.log.Log.append(Log.scala:9)\n";
    format!(
        "2026-11-22 10:00:00\nFull thread dump OpenJDK 64-Bit Server VM (17.0.15+6 mixed mode):\n\n\
         \"kafka-request-handler-7\" #47 prio=5 os_prio=0 cpu={waiter_cpu:.2}ms tid=0x00007f7 nid=0x7 waiting [0x0]\n   \
         java.lang.Thread.State: BLOCKED (on object monitor)\n\tat kafka.log.Log.append(Log.scala:7)\n\
         \t- waiting to lock <0x00000000e1> (a java.lang.Object)\n\n\
         \"{name}\" #41 prio=5 os_prio=0 cpu={cpu}ms tid=0x00007f1 nid=0x2 runnable [0x0]\n   \
         java.lang.Thread.State: RUNNABLE\n{fsync}\t- locked <0x00000000e1> (a java.lang.Object)\n\n\
         JNI global refs: 1, weak refs: 0\n"
    )
}

#[test]
fn threads_that_take_turns_at_a_monitor_do_not_stall_and_those_behind_a_dead_disk_do() {
    let mut turns = StallDetector::default();
    for time in 0..6 {
        // Another owner each time.
        let owner = [
            ("kafka-request-handler-0", "5.00"),
            ("kafka-request-handler-1", "5.00"),
        ][time % 2];
        let found = stalled(
            &mut turns,
            &convoy(owner, 9.0 + time as f64),
            time as u64 * 15,
        );
        assert!(found.is_none_or(|found| found.is_empty()), "{time}");
    }
    let mut same = StallDetector::default();
    for (time, cpu) in [(0, "5.00"), (15, "6.20"), (30, "7.40")] {
        let found = stalled(
            &mut same,
            &convoy(("kafka-request-handler-0", cpu), 9.0 + time as f64 / 10.0),
            time,
        );
        assert!(found.is_none_or(|found| found.is_empty()), "{time}");
    }
    let mut dead = StallDetector::default();
    observe(
        &mut dead,
        &convoy(("kafka-request-handler-0", "5.00"), 9.0),
        None,
        0,
    );
    let found = observe(
        &mut dead,
        &convoy(("kafka-request-handler-0", "5.00"), 9.8),
        None,
        15,
    )
    .unwrap();
    assert_eq!(found.found.len(), 1);
    assert_eq!(found.found[0].threads, ["kafka-request-handler-7"]);
    // A restart would not help.
    assert_eq!(
        found.found[0].unblocked_by.as_deref(),
        Some("kafka-request-handler-0")
    );
}
