#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::analyze::explain;

/// What a terminal shows of these files.
fn text_of(files: &[(&str, &str)]) -> String {
    let files: Vec<(String, Vec<u8>)> = files
        .iter()
        .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
        .collect();
    explained(&explain(&files))
}

fn dump(threads: &[String]) -> String {
    let banner = "2026-11-22 10:00:00\nFull thread dump OpenJDK 64-Bit Server VM (17.0.15+6 mixed mode):\n\n";
    [
        banner,
        &threads.concat(),
        "JNI global refs: 1, weak refs: 0\n",
    ]
    .concat()
}

/// A thread that is blocked at `wants` and holds `holds`.
fn blocked(name: &str, wants: u8, holds: Option<u8>, frames: &[&str]) -> String {
    let (top, below) = frames.split_first().unwrap();
    let below: String = below.iter().map(|at| format!("\tat {at}\n")).collect();
    let held = holds.map_or_else(String::new, |lock| {
        format!("\t- locked <0x00000000e00000{lock:02x}> (a java.lang.Object)\n")
    });
    format!(
        "\"{name}\" #7 prio=5 os_prio=0 cpu=1.00ms elapsed=9.00s tid=0x1 nid=0x2 waiting for monitor entry [0x0]\n   \
         java.lang.Thread.State: BLOCKED (on object monitor)\n\tat {top}\n\
         \t- waiting to lock <0x00000000e00000{wants:02x}> (a java.lang.Object)\n{below}{held}\n"
    )
}

fn runs(name: &str, holds: Option<u8>, frames: &[&str]) -> String {
    let frames: String = frames.iter().map(|at| format!("\tat {at}\n")).collect();
    let held = holds.map_or_else(String::new, |lock| {
        format!("\t- locked <0x00000000e00000{lock:02x}> (a java.lang.Object)\n")
    });
    format!(
        "\"{name}\" #8 prio=5 os_prio=0 cpu=1.00ms elapsed=9.00s tid=0x3 nid=0x4 runnable [0x0]\n   \
         java.lang.Thread.State: RUNNABLE\n{frames}{held}\n"
    )
}

const OWN: &str = "com.example.Orders.take(Orders.java:3)";

/// Two threads that wait for each other, and so many behind them.
fn deadlock(of: [&str; 2], behind: u8) -> Vec<String> {
    let mut threads = vec![
        blocked(
            of[0],
            1,
            Some(2),
            &[
                "java.util.Hashtable.get(Hashtable.java:1)",
                "java.util.Properties.get(P.java:2)",
                OWN,
            ],
        ),
        blocked(of[1], 2, Some(1), &[OWN]),
    ];
    threads.extend((0..behind).map(|n| blocked(&format!("behind-{n}"), 1, None, &[OWN])));
    threads
}

#[test]
fn a_single_waiter_is_named_with_its_holder() {
    let holder = runs(
        "writer",
        Some(1),
        &[
            "sun.nio.ch.FileDispatcherImpl.force0(java.base@17.0.15/Native Method)",
            "sun.nio.ch.FileChannelImpl.force(java.base@17.0.15/FileChannelImpl.java:466)",
            "com.example.Journal.sync(Journal.java:9)",
        ],
    );
    let text = text_of(&[(
        "app.txt",
        &dump(&[holder, blocked("reader", 1, None, &[OWN])]),
    )]);
    let shown = "reader waits for java.lang.Object, held by writer\n      \
        at sun.nio.ch.FileDispatcherImpl.force0(Native Method)\n      at com.example.Journal.sync(Journal.java:9)\n";
    assert!(text.contains(shown), "{text}");
    // Nobody is seen to hold it: nothing is said.
    let text = text_of(&[("app.txt", &dump(&[blocked("reader", 1, None, &[OWN])]))]);
    assert!(!text.contains("waits for"), "{text}");
}

#[test]
fn frames_of_the_jdk_are_not_shown_and_lists_are_cut_with_a_count() {
    let text = text_of(&[("app.txt", &dump(&deadlock(["one", "two"], 12)))]);
    assert!(
        text.contains(&format!("wants java.lang.Object\n      at {OWN}\n")),
        "{text}"
    );
    assert!(!text.contains("at java."), "{text}");
    let behind: Vec<String> = (0..8).map(|n| format!("behind-{n}")).collect();
    let listed = format!(
        "blocked behind the deadlock: {} and 4 more\n",
        behind.join(", ")
    );
    assert!(text.contains(&listed), "{text}");
    // Twelve locks, each with one that waits.
    let pairs = (0..12).flat_map(|lock| {
        let (holder, waiter) = (format!("holder-{lock}"), format!("waiter-{lock}"));
        [
            runs(&holder, Some(lock), &[OWN]),
            blocked(&waiter, lock, None, &[OWN]),
        ]
    });
    let text = text_of(&[("app.txt", &dump(&pairs.collect::<Vec<_>>()))]);
    assert_eq!(text.matches(" waits for ").count(), 8, "{text}");
    assert!(text.contains("and 4 more queues for locks\n"), "{text}");
}

#[test]
fn what_is_known_of_kafka_is_said_of_its_nodes_alone() {
    let of_application = dump(&deadlock(["http-nio-8080-exec-1", "scheduler-1"], 0));
    let of_broker = dump(&deadlock(
        ["kafka-request-handler-1", "kafka-scheduler-2"],
        0,
    ));
    let topics = "Topic: t\tPartition: 0\tLeader: 2\tReplicas: 2,1\tIsr: 2,1\n";
    let text = text_of(&[("topics.txt", topics), ("2-jstack.txt", &of_application)]);
    assert!(text.contains("Deadlock of 2 threads:\n"), "{text}");
    for said in ["only a restart", "known issue", "deadlocked"] {
        assert!(!text.contains(said), "{said} in\n{text}");
    }
    assert!(
        text.contains("2-jstack.txt: thread dump; nothing shows of which broker\n"),
        "{text}"
    );
    let text = text_of(&[("topics.txt", topics), ("2-jstack.txt", &of_broker)]);
    assert!(
        text.contains("Deadlock of 2 threads; only a restart frees them:\n"),
        "{text}"
    );
    assert!(text.contains("no known issue of Kafka matches\n"), "{text}");
    assert!(
        text.contains("2-jstack.txt: thread dump; broker 2, only by the file's name\n"),
        "{text}"
    );
}

/// 0.8: `kafka-network-thread-PORT-N`.
#[test]
fn a_port_in_the_name_of_a_thread_is_no_broker() {
    let threads = [
        runs(
            "kafka-network-thread-9092-2",
            None,
            &["sun.nio.ch.EPoll.wait(Native Method)"],
        ),
        runs(
            "kafka-request-handler-0",
            None,
            &["kafka.network.RequestChannel.receiveRequest(R.scala:1)"],
        ),
    ];
    let text = text_of(&[("jstack.txt", &dump(&threads))]);
    assert!(!text.contains("roker 9092"), "{text}");
    assert!(
        text.contains("jstack.txt: thread dump; nothing shows of which broker\n"),
        "{text}"
    );
}
