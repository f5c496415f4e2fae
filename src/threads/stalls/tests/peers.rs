//! Threads that wait for another broker, and pools that stand as a whole.

use super::*;

/// A thread as a dump prints it; `frames` has its locks as well.
fn thread(name: &str, cpu: f64, state: &str, frames: &[&str]) -> String {
    let frames: String = frames
        .iter()
        .map(|line| match line.starts_with('-') {
            true => format!("\t{line}\n"),
            false => format!("\tat {line}\n"),
        })
        .collect();
    format!(
        "\"{name}\" #41 prio=5 os_prio=0 cpu={cpu:.2}ms elapsed=20.00s tid=0x00007f1 nid=0x2 waiting [0x0]\n   \
         java.lang.Thread.State: {state}\n{frames}\n"
    )
}

fn dump_of(threads: &[String]) -> String {
    format!(
        "2026-11-22 10:00:00\nFull thread dump OpenJDK 64-Bit Server VM (17.0.15+6 mixed mode):\n\n{}JNI global refs: 1, weak \
         refs: 0\n",
        threads.concat()
    )
}

const WAITING: &str = "WAITING (parking)";
const BLOCKED: &str = "BLOCKED (on object monitor)";
const SELECTS: [&str; 4] = [
    "sun.nio.ch.EPoll.wait(Native Method)",
    "sun.nio.ch.EPollSelectorImpl.doSelect(EPollSelectorImpl.java:118)",
    "sun.nio.ch.SelectorImpl.select(SelectorImpl.java:141)",
    "kafka.utils.NetworkClientBlockingOps$.blockingSendAndReceive$extension(NetworkClientBlockingOps.scala:86)",
];
const ENDS_FETCHER: [&str; 9] = [
    "jdk.internal.misc.Unsafe.park(Native Method)",
    "- parking to wait for  <0x00000000d1> (a java.util.concurrent.CountDownLatch$Sync)",
    "java.util.concurrent.CountDownLatch.await(CountDownLatch.java:230)",
    "kafka.utils.ShutdownableThread.awaitShutdown(ShutdownableThread.scala:50)",
    "kafka.server.AbstractFetcherThread.shutdown(AbstractFetcherThread.scala:79)",
    "kafka.server.AbstractFetcherManager$$anonfun$shutdownIdleFetcherThreads$2.apply(AbstractFetcherManager.scala:101)",
    "- locked <0x00000000e1> (a java.lang.Object)",
    "kafka.server.ReplicaManager.becomeLeaderOrFollower(ReplicaManager.scala:755)",
    "- locked <0x00000000e2> (a java.lang.Object)",
];
const WANTS_LOCK: [&str; 3] = [
    "kafka.server.ReplicaManager.becomeLeaderOrFollower(ReplicaManager.scala:720)",
    "- waiting to lock <0x00000000e2> (a java.lang.Object)",
    "kafka.server.KafkaApis.handle(KafkaApis.scala:83)",
];

/// A healthy broker beside the stopped broker 218, `seconds` after the first dump: a handler ends the fetcher of that one
/// and others queue behind it; the fetcher of 219 gets answers.
fn beside_a_stopped_broker(seconds: f64, ends: &[&str]) -> String {
    dump_of(&[
        thread("kafka-request-handler-0", 7.0, WAITING, ends),
        thread("kafka-request-handler-1", 7.0, BLOCKED, &WANTS_LOCK),
        thread("kafka-request-handler-2", 9.0 + seconds, WAITING, &[LOOP]),
        thread("ReplicaFetcherThread-0-218", 5.0, "RUNNABLE", &SELECTS),
        thread(
            "ReplicaFetcherThread-0-219",
            5.0 + seconds,
            "RUNNABLE",
            &SELECTS,
        ),
    ])
}

/// SIGSTOP of a peer of 0.10.1.0 made healthy brokers gray.
#[test]
fn a_stall_that_waits_for_another_broker_names_it() {
    let mut detector = StallDetector::default();
    let first = beside_a_stopped_broker(0.0, &ENDS_FETCHER);
    assert_eq!(observe(&mut detector, &first, None, 0), None);
    let later = beside_a_stopped_broker(15.0, &ENDS_FETCHER);
    let found = observe(&mut detector, &later, None, 15).unwrap().found;
    assert_eq!(found.len(), 2, "{found:?}");
    for stall in &found {
        assert_eq!(stall.awaits_brokers, [218].into(), "{stall:?}");
        assert_eq!((stall.threads.len(), stall.of), (1, 3));
        let by = stall.unblocked_by.as_deref();
        assert_eq!(by, Some("ReplicaFetcherThread-0-218"));
        assert!(stall_text(stall).ends_with(", until broker 218 answers"));
    }
}

#[test]
fn a_wait_for_something_else_names_no_broker() {
    // No fetcher is ended there; nothing of a fetcher's is.
    let mut other_latch = ENDS_FETCHER;
    other_latch[3] = "kafka.zk.Latch.await(Latch.scala:1)";
    let mut other_thread = ENDS_FETCHER;
    (other_thread[4], other_thread[5]) = (DEEP, DEEP);
    for ends in [other_latch, other_thread] {
        let mut detector = StallDetector::default();
        observe(&mut detector, &beside_a_stopped_broker(0.0, &ends), None, 0);
        let later = beside_a_stopped_broker(15.0, &ends);
        let found = observe(&mut detector, &later, None, 15).unwrap().found;
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|stall| stall.awaits_brokers.is_empty()));
    }
    // The one fetcher that could be it gets answers, or has ended.
    let answered = |seconds: f64| {
        dump_of(&[
            thread("kafka-request-handler-0", 7.0, WAITING, &ENDS_FETCHER),
            thread(
                "ReplicaFetcherThread-0-219",
                5.0 + seconds,
                "RUNNABLE",
                &SELECTS,
            ),
        ])
    };
    let mut detector = StallDetector::default();
    observe(&mut detector, &answered(0.0), None, 0);
    let found = observe(&mut detector, &answered(15.0), None, 15).unwrap();
    assert!(found.found[0].awaits_brokers.is_empty());
}

/// JDK 8 prints no CPU time, so that a fetcher which gets answers looks like one that waits for a stopped broker.
#[test]
fn without_cpu_times_a_fetcher_that_stands_at_a_lock_is_awaited_rather_than_those_in_the_network() {
    let without_cpu = |text: String| {
        let lines = text.split_inclusive('\n').map(|line| {
            let Some((name, rest)) = line.split_once(" cpu=") else {
                return line.to_owned();
            };
            format!("{name} {}", rest.split_once("elapsed=20.00s ").unwrap().1)
        });
        lines.collect::<String>()
    };
    let last_of = |text: &str| {
        let mut detector = StallDetector::default();
        let all = (0..4).map(|n| observe(&mut detector, text, None, 5 * n));
        all.last().unwrap().unwrap().found
    };
    let stopped = without_cpu(beside_a_stopped_broker(0.0, &ENDS_FETCHER));
    let mut found = last_of(&stopped);
    // This one works, which no CPU time shows.
    found.retain(|stall| stall.threads != ["kafka-request-handler-2"]);
    assert_eq!(found.len(), 2, "{found:?}");
    for stall in &found {
        assert_eq!(stall.awaits_brokers, [218, 219].into(), "{stall:?}");
    }
    // The fetcher wants the lock of the handler that waits for its end.
    let deadlocked = without_cpu(dump_of(&[
        thread("kafka-request-handler-0", 7.0, WAITING, &ENDS_FETCHER),
        thread("kafka-request-handler-1", 7.0, BLOCKED, &WANTS_LOCK),
        thread("ReplicaFetcherThread-0-218", 5.0, BLOCKED, &WANTS_LOCK),
        thread("ReplicaFetcherThread-0-219", 5.0, "RUNNABLE", &SELECTS),
    ]));
    let found = last_of(&deadlocked);
    let handlers = found.iter().filter(|stall| stall.pool == "request_handler");
    let handlers: Vec<&Stall> = handlers.collect();
    assert_eq!(handlers.len(), 2, "{found:?}");
    for stall in handlers {
        assert!(stall.awaits_brokers.is_empty(), "{stall:?}");
        assert_eq!(stall.unblocked_by, None, "{stall:?}");
    }
}

/// As the exporter sees one dump.
fn standing_in(threads: &[String]) -> Vec<Stall> {
    let text = dump_of(threads);
    let dumps = parse(&text).unwrap();
    let dump = dumps.last().unwrap();
    standing(&WaitGraph::of(dump), Moment(1000))
}

const SLEEPS: [&str; 3] = ["java.lang.Thread.sleep(Native Method)", HANDLE, LOOP];
const IDLE: [&str; 4] = [PARK[0], AWAIT, TAKE, LOOP];

fn handlers(of: &[(&str, &[&str])]) -> Vec<String> {
    let all = of.iter().enumerate();
    all.map(|(n, (state, at))| thread(&format!("kafka-request-handler-{n}"), 1.0, state, at))
        .collect()
}

#[test]
fn a_pool_stands_where_all_of_it_is_at_one_place_that_is_not_idle() {
    let asleep = ("TIMED_WAITING (sleeping)", &SLEEPS[..]);
    let idle = ("TIMED_WAITING (parking)", &IDLE[..]);
    let elsewhere = (
        "TIMED_WAITING (sleeping)",
        &["x.Other.sleep(X.java:1)", HANDLE, LOOP][..],
    );
    let stands = standing_in(&handlers(&[asleep, asleep, asleep]));
    let [stall] = &stands[..] else {
        panic!("{stands:?}")
    };
    assert_eq!((stall.threads.len(), stall.of), (3, 3));
    assert_eq!(
        (stall.frame.as_deref(), stall.unblocked_by.as_deref()),
        (Some("kafka.server.KafkaApis.handle"), None)
    );
    assert_eq!(standing_in(&handlers(&[asleep, idle, asleep])), []);
    assert_eq!(standing_in(&handlers(&[asleep, elsewhere, asleep])), []);
    assert_eq!(standing_in(&handlers(&[idle, idle])), []);
    // The controller of a combined node has handlers of the same names.
    let combined = [handlers(&[asleep, asleep]), handlers(&[idle, idle])].concat();
    assert_eq!(standing_in(&combined)[0].of, 2);
    let one = [handlers(&[asleep, idle]), handlers(&[idle, idle])].concat();
    assert_eq!(standing_in(&one), []);
    // At work, perhaps: what the kernel counts has to agree.
    let writes = (
        "RUNNABLE",
        &[
            "sun.nio.ch.FileDispatcherImpl.write0(Native Method)",
            DEEP,
            LOOP,
        ][..],
    );
    let stands = standing_in(&handlers(&[writes, writes]));
    assert!(stands[0].unblocked_by.is_some(), "{stands:?}");
    // Network threads that wait for requests; each listener has threads of its own.
    let network = |listener: &str, n: u32, at: &[&str], state: &str| {
        thread(
            &format!("kafka-network-thread-1-{listener}-{n}"),
            1.0,
            state,
            at,
        )
    };
    let threads = [
        network("A", 0, &SELECTS, "RUNNABLE"),
        network("A", 1, &SELECTS, "RUNNABLE"),
        network("B", 0, &SLEEPS, "TIMED_WAITING (sleeping)"),
        network("B", 1, &SLEEPS, "TIMED_WAITING (sleeping)"),
    ];
    let stands = standing_in(&threads);
    assert_eq!(stands.len(), 1);
    assert_eq!(
        stands[0].threads,
        ["kafka-network-thread-1-B-0", "kafka-network-thread-1-B-1"]
    );
}

/// KAFKA-14694, KAFKA-7538: all wait for one lock, whose holder waits for something else.
#[test]
fn a_convoy_stands_and_names_the_holder() {
    let waits = (BLOCKED, &WANTS_LOCK[..]);
    let holds = [
        "java.lang.Object.wait(Native Method)",
        DEEP,
        "- locked <0x00000000e2> (a java.lang.Object)",
    ];
    let mut threads = handlers(&[waits, waits]);
    threads.push(thread(
        "kafka-scheduler-0",
        1.0,
        "WAITING (on object monitor)",
        &holds,
    ));
    let stands = standing_in(&threads);
    assert_eq!(stands.len(), 1);
    assert_eq!(stands[0].holders, ["kafka-scheduler-0".to_owned()].into());
    assert_eq!(stands[0].unblocked_by, None);
    // The holder is one of them, and runs.
    let writes = [
        "sun.nio.ch.FileDispatcherImpl.write0(Native Method)",
        DEEP,
        "- locked <0x00000000e2> (a java.lang.Object)",
    ];
    let stands = standing_in(&handlers(&[("RUNNABLE", &writes), waits, waits]));
    assert_eq!(
        stands[0].unblocked_by.as_deref(),
        Some("kafka-request-handler-0")
    );
    assert_eq!(stands[0].lock_class.as_deref(), Some("java.lang.Object"));
    // All behind the one that ends a fetcher: that broker is to be mended.
    let mut threads = handlers(&[(WAITING, &ENDS_FETCHER), waits, waits]);
    threads.push(thread(
        "ReplicaFetcherThread-0-218",
        5.0,
        "RUNNABLE",
        &SELECTS,
    ));
    assert_eq!(standing_in(&threads)[0].awaits_brokers, [218].into());
}

/// A handler sleeps with the lock of a log. Others want it and hold read locks, for which no dump names a holder, and behind
/// which the rest waits to write.
#[test]
fn a_convoy_with_readers_stands_unless_one_may_be_at_work() {
    let sleeps = [
        "java.lang.Thread.sleep(Native Method)",
        "kafka.log.LogSegment.append(LogSegment.scala:90)",
        "- locked <0x00000000e2> (a java.lang.Object)",
    ];
    let write = [
        PARK[0],
        "- parking to wait for  <0x00000000f3> (a java.util.concurrent.locks.ReentrantReadWriteLock$NonfairSync)",
        PARK[1],
        "kafka.cluster.Partition.maybeExpandIsr(Partition.scala:280)",
    ];
    let asleep = ("TIMED_WAITING (sleeping)", &sleeps[..]);
    let (reader, writer) = ((BLOCKED, &WANTS_LOCK[..]), (WAITING, &write[..]));
    let convoy = || handlers(&[asleep, reader, writer, reader, writer]);
    let stands = standing_in(&convoy());
    assert_eq!(stands.len(), 1);
    let stall = &stands[0];
    assert_eq!((stall.threads.len(), stall.of), (5, 5));
    let text = "5 threads of request_handler are stalled, waiting for java.lang.Object, held by kafka-request-handler-0";
    assert_eq!(
        (stall_text(stall).as_str(), &stall.unblocked_by),
        (text, &None)
    );
    // This one may have a read lock, and works.
    let flushes = ["sun.nio.ch.FileDispatcherImpl.force0(Native Method)", DEEP];
    let mut working = convoy();
    working.push(thread("kafka-scheduler-0", 1.0, "RUNNABLE", &flushes));
    let unblocked_by = standing_in(&working)[0].unblocked_by.clone();
    assert_eq!(unblocked_by.as_deref(), Some("kafka-scheduler-0"));
    // One of them waits for nothing that another one has.
    let latch = (WAITING, &[PARK[0], PARK[1], DEEP, LOOP][..]);
    let other = handlers(&[asleep, reader, writer, latch]);
    assert_eq!(standing_in(&other), []);
    // KAFKA-7697: a deadlock of read locks has no holder at all.
    let locked = handlers(&[writer, writer, reader]);
    assert_eq!(standing_in(&locked)[0].threads.len(), 3);
    let loads = ["kafka.log.LogSegment.recover(LogSegment.scala:1)", LOOP];
    let other = thread("plug-in-1", 1.0, "RUNNABLE", &loads);
    let working = [locked, vec![other]].concat();
    let unblocked_by = standing_in(&working)[0].unblocked_by.clone();
    assert_eq!(unblocked_by.as_deref(), Some("plug-in-1"));
}

#[test]
fn calls_for_files_are_not_those_for_sockets() {
    let write = "sun.nio.ch.FileDispatcherImpl.write0(Native Method)";
    let text = dump_of(&handlers(&[
        (
            "RUNNABLE",
            &[
                write,
                "sun.nio.ch.FileDispatcherImpl.write(F.java:1)",
                DEEP,
                LOOP,
            ],
        ),
        (
            "RUNNABLE",
            &[
                write,
                "sun.nio.ch.SocketDispatcher.write(S.java:1)",
                DEEP,
                LOOP,
            ],
        ),
        (
            "RUNNABLE",
            &[
                "sun.nio.ch.UnixFileDispatcherImpl.force0(Native Method)",
                DEEP,
                LOOP,
            ],
        ),
        ("RUNNABLE", &[DEEP, write, LOOP]),
    ]));
    let dumps = parse(&text).unwrap();
    let calls = file_calls(dumps.last().unwrap());
    let calls: Vec<_> = calls.iter().map(|call| call.thread.as_str()).collect();
    assert_eq!(
        calls,
        ["kafka-request-handler-0", "kafka-request-handler-2"]
    );
}
