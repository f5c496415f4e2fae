//! Likely deadlocks, with the frames of Kafka's own where a known issue has them, and what only looks like one.

use kafka_vitals::analyze::dumps::read_all;
use kafka_vitals::model::{LikelyDeadlock, Moment};
use kafka_vitals::parse::thread_dump::parse;
use kafka_vitals::threads::likely::{LikelyDetector, likely_deadlocks, likely_text};
use kafka_vitals::threads::wait_graph::WaitGraph;

/// A thread by its state, frames from the top down, and lines of locks among them.
fn thread(name: &str, state: &str, lines: &[&str]) -> String {
    let number = name.bytes().map(u64::from).sum::<u64>();
    let mut text = format!(
        "\"{name}\" #{number} prio=5 os_prio=0 tid=0x{number:016x} nid=0x{number:x} in Object.wait() [0x0]\n   java.lang.Thread.State: {state}\n"
    );
    for line in lines {
        match line.starts_with("- ") || line.is_empty() || line.starts_with("   ") {
            true => text += &format!("{}{line}\n", if line.starts_with("- ") { "\t" } else { "" }),
            false => text += &format!("\tat {line}(X.java:1)\n"),
        }
    }
    text + "\n"
}

fn found(text: &str) -> Vec<LikelyDeadlock> {
    let dumps = parse(text).unwrap();
    let graph = WaitGraph::of(&dumps[0]);
    assert!(graph.deadlocks().is_empty(), "never proven: {text}");
    likely_deadlocks(&graph, Moment::default())
}

const JOIN: [&str; 4] = [
    "java.lang.Object.wait",
    "- waiting on <0x00000000000000e1> (a org.apache.kafka.common.utils.KafkaThread)",
    "java.lang.Thread.join",
    "- locked <0x00000000000000e1> (a org.apache.kafka.common.utils.KafkaThread)",
];

const LATCH: [&str; 4] = [
    "sun.misc.Unsafe.park",
    "- parking to wait for  <0x00000000000000e2> (a java.util.concurrent.CountDownLatch$Sync)",
    "java.util.concurrent.locks.LockSupport.park",
    "java.util.concurrent.CountDownLatch.await",
];

const RRW: &str = "java.util.concurrent.locks.ReentrantReadWriteLock$NonfairSync";

fn parked_at_rrw(name: &str, frames: &[&str]) -> String {
    let park = format!("- parking to wait for  <0x00000000000000a1> (a {RRW})");
    let top = ["jdk.internal.misc.Unsafe.park", &park];
    thread(name, "WAITING (parking)", &[&top, frames].concat())
}

fn holds_rrw(name: &str, state: &str, frames: &[&str]) -> String {
    let lock = format!("- <0x00000000000000a1> (a {RRW})");
    let owned = ["", "   Locked ownable synchronizers:", &lock];
    thread(name, state, &[frames, &owned].concat())
}

/// KAFKA-6879: the expiry waits for the controller, which wants the lock that it holds.
#[test]
fn a_latch_under_a_lock() {
    let expiry = [
        &LATCH[..],
        &[
            "kafka.controller.KafkaController$Expire.waitUntilProcessed",
            "kafka.zookeeper.ZooKeeperClient.reinitialize",
        ],
    ]
    .concat();
    let text = holds_rrw("zk-session-expiry-handler0", "WAITING (parking)", &expiry)
        + &parked_at_rrw(
            "controller-event-thread",
            &[
                "java.util.concurrent.locks.ReentrantReadWriteLock$ReadLock.lock",
                "kafka.zookeeper.ZooKeeperClient.handleRequests",
                "kafka.utils.ShutdownableThread.run",
            ],
        );
    let likely = found(&text);
    let [one] = &likely[..] else {
        panic!("{likely:?}")
    };
    assert_eq!(
        likely_text(one),
        format!(
            "zk-session-expiry-handler0 waits in java.util.concurrent.CountDownLatch.await and holds {RRW}, which \
             controller-event-thread wants: if it waits for controller-event-thread, neither continues"
        )
    );
    assert_eq!(
        one.frames[3],
        "kafka.controller.KafkaController$Expire.waitUntilProcessed(X.java:1)"
    );
    assert_eq!(one.may_await_frames.len(), 4);
    // Without `-l` no dump shows who holds the lock.
    assert_eq!(found(&text.replace("- <0x00000000000000a1>", "- None")), []);
}

/// KAFKA-17766: close() joins the thread that wants the lock which close() holds.
#[test]
fn a_join_under_a_lock() {
    let close = [&JOIN[..], &[
        "org.apache.kafka.server.log.remote.metadata.storage.TopicBasedRemoteLogMetadataManager.close",
    ]]
    .concat();
    let text = holds_rrw("kafka-shutdown-hook", "WAITING (on object monitor)", &close)
        + &parked_at_rrw("RLMMInitializationThread", &[
            "java.util.concurrent.locks.ReentrantReadWriteLock$WriteLock.lock",
            "org.apache.kafka.server.log.remote.metadata.storage.TopicBasedRemoteLogMetadataManager.initializeResources",
        ])
        // Behind it: not the one that is waited for.
        + &parked_at_rrw("data-plane-kafka-request-handler-1", &["kafka.server.KafkaApis.handle"]);
    let likely = found(&text);
    let [one] = &likely[..] else {
        panic!("{likely:?}")
    };
    assert_eq!(one.waits_in, "java.lang.Thread.join");
    assert_eq!(
        one.blocked,
        [
            "RLMMInitializationThread",
            "data-plane-kafka-request-handler-1"
        ]
    );
    // Two want it, and nothing shows which of them is joined.
    assert_eq!(one.may_await, None);
    assert!(likely_text(one).ends_with("want: if it waits for one of these, neither continues"));
}

/// A monitor, held until a task is done that wants it; a third thread queues behind both.
#[test]
fn the_result_of_a_task_under_a_monitor() {
    let get = [
        "jdk.internal.misc.Unsafe.park",
        "- parking to wait for  <0x00000000000000e3> (a java.util.concurrent.FutureTask)",
        "java.util.concurrent.FutureTask.awaitDone",
        "java.util.concurrent.FutureTask.get",
        "kafka.log.LogCleaner.a",
        "- locked <0x00000000000000b1> (a kafka.log.LogCleaner)",
    ];
    let wants = [
        "kafka.log.Log.b",
        "- waiting to lock <0x00000000000000b1> (a kafka.log.LogCleaner)",
    ];
    let worker = [
        &wants[..],
        &[
            "java.util.concurrent.FutureTask.run",
            "java.util.concurrent.ThreadPoolExecutor.runWorker",
        ],
    ]
    .concat();
    let blocked = "BLOCKED (on object monitor)";
    let text = thread("kafka-log-cleaner-thread-0", "WAITING (parking)", &get)
        + &thread("kafka-request-handler-1", blocked, &wants)
        + &thread("executor-Heartbeat", blocked, &worker);
    let likely = found(&text);
    let [one] = &likely[..] else {
        panic!("{likely:?}")
    };
    assert_eq!(one.holds.as_deref(), Some("kafka.log.LogCleaner"));
    assert_eq!(
        one.blocked,
        ["kafka-request-handler-1", "executor-Heartbeat"]
    );
    assert_eq!(one.may_await.as_deref(), Some("executor-Heartbeat"));
    // One that ends by itself.
    let timed = text.replace("State: WAITING", "State: TIMED_WAITING");
    assert_eq!(found(&timed), []);
    // Nobody wants the monitor.
    assert_eq!(
        found(&thread(
            "kafka-log-cleaner-thread-0",
            "WAITING (parking)",
            &get
        )),
        []
    );
}

/// KAFKA-9796: the acceptor waits for room in the queue of a network thread.
#[test]
fn room_in_a_queue_under_a_monitor() {
    let put = [
        "sun.misc.Unsafe.park",
        "- parking to wait for  <0x00000000000000e4> (a java.util.concurrent.locks.AbstractQueuedSynchronizer$ConditionObject)",
        "java.util.concurrent.locks.AbstractQueuedSynchronizer$ConditionObject.await",
        "java.util.concurrent.ArrayBlockingQueue.put",
        "kafka.network.Processor.accept",
        "- locked <0x00000000000000b2> (a kafka.network.Acceptor)",
    ];
    let wants = [
        "kafka.network.Processor.c",
        "- waiting to lock <0x00000000000000b2> (a kafka.network.Acceptor)",
    ];
    let text = thread(
        "kafka-socket-acceptor-PLAINTEXT-9092",
        "WAITING (parking)",
        &put,
    ) + &thread(
        "kafka-network-thread-1-PLAINTEXT-0",
        "BLOCKED (on object monitor)",
        &wants,
    );
    assert_eq!(
        found(&text)[0].waits_in,
        "java.util.concurrent.ArrayBlockingQueue.put"
    );
    // A pool that hands its tasks out one by one: an idle one looks so.
    let take = text.replace("ArrayBlockingQueue.put", "ArrayBlockingQueue.take");
    assert_eq!(found(&take), []);
}

/// KAFKA-4039 and KAFKA-13544: `exit` is called by a thread that the shutdown hook waits for.
#[test]
fn exit_by_a_thread_that_the_hook_ends() {
    fn exit<'a>(last: &[&'a str]) -> Vec<&'a str> {
        let frames = [
            "java.lang.Object.wait",
            "- waiting on <0x00000000000000e5> (a java.lang.Thread)",
            "java.lang.Thread.join",
            "java.lang.ApplicationShutdownHooks.runHooks",
            "java.lang.Shutdown.exit",
            "- locked <0x00000000000000b3> (a java.lang.Class for java.lang.Shutdown)",
            "java.lang.Runtime.exit",
        ];
        [&frames[..], last].concat()
    }
    let fetcher = thread(
        "ReplicaFetcherThread-0-2",
        "WAITING (on object monitor)",
        &exit(&[
            "kafka.server.ReplicaFetcherThread.handleOffsetOutOfRange",
            "kafka.utils.ShutdownableThread.run",
        ]),
    );
    let awaits = [
        &LATCH[..],
        &[
            "kafka.utils.ShutdownableThread.awaitShutdown",
            "kafka.utils.ShutdownableThread.shutdown",
            "kafka.server.KafkaServer.shutdown",
        ],
    ]
    .concat();
    let hook = thread("Thread-2", "WAITING (parking)", &awaits);
    let likely = found(&format!("{fetcher}{hook}"));
    let [one] = &likely[..] else {
        panic!("{likely:?}")
    };
    assert_eq!(
        likely_text(one),
        "Thread-2 waits in kafka.utils.ShutdownableThread.awaitShutdown while ReplicaFetcherThread-0-2 called exit and \
         waits for its end: if it waits for ReplicaFetcherThread-0-2, neither continues"
    );
    let joins = [
        &JOIN[..],
        &["kafka.server.FinalizedFeatureChangeListener.close"],
    ]
    .concat();
    let hook = thread("Thread-2", "WAITING (on object monitor)", &joins);
    assert_eq!(found(&format!("{fetcher}{hook}")).len(), 1);
    // A shutdown by a signal, which may take its time.
    let by_signal = thread(
        "SIGTERM handler",
        "WAITING (on object monitor)",
        &exit(&["java.lang.Terminator$1.handle"]),
    );
    let awaiting = thread("kafka-shutdown-hook", "WAITING (parking)", &awaits);
    assert_eq!(found(&format!("{by_signal}{awaiting}")), []);
}

/// The time since when it stands is that of the first dump of those in a row that show it at the same place.
#[test]
fn how_long_it_stands() {
    let close = [&JOIN[..], &["kafka.Closer.close"]].concat();
    let holder = holds_rrw("closer", "WAITING (on object monitor)", &close);
    let text = format!("{holder}{}", parked_at_rrw("waiter", &["kafka.A.b"]));
    let moved = text.replace("kafka.A.b", "kafka.A.c");
    let mut detector = LikelyDetector::default();
    let mut since = |text: &str, at: u64| {
        let dumps = parse(text).unwrap();
        let found = detector.observe(&WaitGraph::of(&dumps[0]), Moment(at));
        found.first().map(|likely| likely.since.0)
    };
    assert_eq!(since(&text, 1), Some(1));
    assert_eq!(since(&text, 2), Some(1));
    assert_eq!(since(&moved, 3), Some(3));
    assert_eq!(since(&text, 4), Some(4));
    assert_eq!(since(&holder, 5), None);
    assert_eq!(since(&text, 6), Some(6));
}

/// No dump of the corpora, of healthy programs and of deadlocks, shows a likely deadlock; the shapes on real JVMs are in
/// `tests/shapes.rs`.
#[test]
fn no_other_dump_shows_one() {
    let table = include_str!("../fixtures/thread_dumps/expected_counts.tsv");
    let paths = table.lines().filter_map(|row| row.split('\t').next());
    let (mut tried, mut not_understood) = (0, Vec::new());
    for path in paths.filter(|path| !path.starts_with('#')) {
        let Some(file) = super::counts::find(path) else {
            continue;
        };
        let analysis = read_all(&std::fs::read(file).unwrap());
        assert_eq!(analysis.likely_deadlocks, [], "{path}");
        for dump in analysis
            .dumps
            .iter()
            .filter(|dump| !dump.not_understood.is_empty())
        {
            not_understood.push(format!("{path}: {}", dump.not_understood.join("; ")));
        }
        tried += 1;
    }
    assert!(tried >= 22, "{tried}");
    // Those without their end or their beginning, one whose lines are in reverse order, and the form that has no locks.
    let end = "the end, which is cut off";
    let beginning = "whether it has all threads: it does not begin as a whole dump does";
    let locks = "the locks: Thread.dump_to_file prints them from JDK 25 on";
    let tda = "thread-dumps/irockel-tda/tda/src/test/resources";
    let made_up = "thread-dumps/parttimenerd-jthreaddump/src/test/resources";
    let upside_down = format!("{made_up}/thread-dump-jstack.txt");
    let expected = [
        format!("incident/jstack/after-upgrade.txt: {end}"),
        format!("{tda}/carrier_stuck.log: {end}"),
        format!("{tda}/intellij_dump.json: {locks}"),
        format!("{tda}/jdk11_long_running.log: {end}"),
        format!("thread-dumps/own/dump_to_file-jdk21.json: {locks}"),
        format!("thread-dumps/own/dump_to_file-jdk21.txt: {locks}"),
        format!("{made_up}/thread-dump-deadlock.txt: {beginning}"),
        format!("{made_up}/thread-dump-jcmd.txt: {beginning}"),
        format!("{upside_down}: 1 BLOCKED thread; {beginning}"),
        format!("{upside_down}: {end}"),
    ];
    for not in &not_understood {
        assert!(expected.contains(not), "{not}");
    }
    let own = expected
        .iter()
        .filter(|line| line.contains("/own/dump_to_file-jdk21.txt"));
    assert!(own.clone().all(|line| not_understood.contains(line)) && own.count() == 1);
}
