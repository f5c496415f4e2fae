#![allow(clippy::unwrap_used)]
use super::*;
use crate::analyze::formats::server_log::{KEPT_ALIKE, Log};

fn shortened(text: &str, step: usize) -> String {
    let mut log = LongLog::default();
    text.as_bytes()
        .chunks(step)
        .for_each(|bytes| log.push(bytes));
    String::from_utf8(log.finish()).unwrap()
}

fn broker_log(lines: usize) -> String {
    let mut text = String::new();
    for n in 0..lines {
        let time = format!("[2024-01-02 03:{:02}:{:02},678]", n / 60 % 60, n % 60);
        text += &format!(
            "{time} INFO [GroupCoordinator 1]: Stabilized group g{n} (kafka.coordinator.group.GroupCoordinator)\n"
        );
        if n % 100 == 50 {
            text += &format!(
                "{time} WARN [ReplicaFetcher replicaId=1, leaderId=3, fetcherId=0] Error (kafka.server.ReplicaFetcherThread)\n"
            );
            text += "java.io.IOException: Connection to 3 was disconnected before the response was read\n\tat a.B.c(D.java:7)\n";
        }
        if n % 100 == 70 {
            text += &format!(
                "{time} ERROR x (kafka.server.KafkaApis)\njava.lang.IllegalStateException: x\n\tat a.B.c(D.java:7)\n"
            );
        }
    }
    text
}

fn learned(text: &str) -> Log<'_> {
    Log {
        lines: 0,
        ..server_log::parse(text).unwrap()
    }
}

#[test]
fn a_log_loses_nothing_that_counts() {
    let text = broker_log(5_000);
    for step in [7, 1000, 1 << 20] {
        let short = shortened(&text, step);
        assert!(
            short.len() < BEGINNING * 2,
            "{} of {}",
            short.len(),
            text.len()
        );
        assert_eq!(learned(&short), learned(&text));
    }
    let wrapped: String = text
        .lines()
        .map(|line| format!("kafka-1  | {line}\n"))
        .collect();
    let short = shortened(&wrapped, 4096);
    assert!(short.len() < BEGINNING * 2);
    let [plain] = crate::analyze::formats::wrapped::unwrap(&short)
        .try_into()
        .unwrap();
    assert_eq!(learned(&plain.text), learned(&text));
}

/// The log of an incident may consist of them; of each partition the last one counts.
#[test]
fn changes_of_isrs_do_not_grow() {
    let mut text = String::new();
    for n in 0..20_000 {
        let (from, to) = if n % 7 < 4 {
            ("1,2,3", "1")
        } else {
            ("1", "1,2,3")
        };
        let time = format!(
            "[2024-01-02 {:02}:{:02}:{:02},678]",
            n / 3600,
            n / 60 % 60,
            n % 60
        );
        text += &format!(
            "{time} INFO [Partition t-{} broker=1] Shrinking ISR from {from} to {to} (kafka.cluster.Partition)\n",
            n % 50
        );
        if n % 1000 == 0 {
            text += "java.io.IOException: Connection to 3 was disconnected before the response was read\n";
        }
    }
    let last = text.trim_end();
    for text in [text.as_str(), last] {
        let short = shortened(text, 4096);
        assert!(short.len() < BEGINNING * 2, "{}", short.len());
        assert_eq!(learned(&short), learned(text));
    }
    let text = text
        .replace(" to 1 ", " to 2 ")
        .replace("t-", "topic-with-a-name-");
    let short = shortened(&text[..BEGINNING + 20_000], 4096);
    assert!(short.len() <= BEGINNING + 20_000);
}

/// What the collector writes among the lines does not count, in any JVM's form.
#[test]
fn lines_of_the_garbage_collector_are_left_out() {
    let text = broker_log(5_000);
    let collector = [
        "[2024-01-02T03:04:05.678+0000][info][gc          ] GC(7) Pause Young (Normal) (G1 Evacuation Pause) 100M->20M(256M) 4.001ms\n",
        "[12.345s][info][gc,heap] GC(7) Eden regions: 20->0(20)\n",
        "[12.345s][info][safepoint] Safepoint \"G1CollectForAllocation\", Time since last: 1 ns\n",
        "2018-01-02T03:04:05.678+0000: 12.345: [GC (Allocation Failure) [PSYoungGen: 1K->1K(2K)] 1K->1K(2K), 0.001 secs]\n",
        "12.345: [Full GC (Ergonomics)  1K->1K(2K), 0.001 secs]\n",
        "2018-01-02T03:04:05.678+0000: 12.345: Total time for which application threads were stopped: 0.001 seconds, Stopping threads took: 0.0001 seconds\n",
    ];
    let mut mixed = text[..BEGINNING + 1000].to_owned();
    for (line, of_collector) in text[mixed.len()..]
        .split_inclusive('\n')
        .zip(collector.into_iter().cycle())
    {
        mixed += line;
        mixed += of_collector;
    }
    let (short, plain) = (shortened(&mixed, 4096), shortened(&text, 4096));
    assert!(short.len() < plain.len() + 1000, "{}", short.len());
    assert_eq!(learned(&short), learned(&text));
}

/// The first ones, and the last one: the middle of an endless row says no more.
#[test]
fn critical_lines_are_kept() {
    let refused = |n: usize| {
        format!(
            "[2024-01-02 03:{:02}:{:02},678] INFO [Partition t-{n} broker=1] Cached zkVersion [{n}] not equal to that in zookeeper, skip updating ISR (kafka.cluster.Partition)\n",
            n / 60 % 60,
            n % 60
        )
    };
    let log = broker_log(2_000);
    let died = "[2024-01-02 03:59:59,678] ERROR Uncaught exception in thread 'kafka-request-handler-3': (org.apache.kafka.common.utils.KafkaThread)\n";
    let failed = "[2024-01-02 03:59:59,679] ERROR x (kafka.server.KafkaApis)\njava.lang.IllegalStateException: x\n\tat a.B.c(D.java:7)\nCaused by: java.lang.OutOfMemoryError: Java heap space\n";
    let rows: String = (0..3_000).map(refused).collect();
    let text = format!("{log}{died}{rows}{failed}{log}");
    let short = shortened(&text, 4096);
    assert!(short.len() < BEGINNING + 400_000, "{}", short.len());
    assert!(short.contains(died));
    assert!(short.contains("679] ERROR x (kafka.server.KafkaApis)\n"));
    assert!(short.contains("\nCaused by: java.lang.OutOfMemoryError: Java heap space\n"));
    let kept = short.matches("Cached zkVersion").count() as u64;
    assert_eq!(kept, KEPT_OF_CRITICAL);
    assert!(short.contains(&refused(0)) && short.contains(&refused(2_999)));
    assert!(!short.contains(&refused(1_500)));
}

/// They count as in the whole log: one for each line that they are below, whatever their number is.
#[test]
fn critical_lines_below_others_are_counted_as_before() {
    let counted = |text: &str| {
        let (matcher, mut times) = (known_signatures().unwrap(), BTreeMap::new());
        let mut found = |line: Found| *times.entry(line.signature).or_insert(0) += 1;
        LogReader::default().read(text.as_bytes(), matcher, &mut found);
        let is_critical =
            |signature: &usize| matcher.signature(*signature).unwrap().1 == Severity::Critical;
        times.retain(|signature, _| is_critical(signature));
        times.into_values().collect::<Vec<u64>>()
    };
    let failed = "[2024-01-02 03:59:59,679] ERROR x (kafka.server.KafkaApis)\njava.lang.OutOfMemoryError: Java heap space\n\tat a.B.c(D.java:7)\nCaused by: java.lang.OutOfMemoryError: Java heap space\n";
    let log = broker_log(1_000);
    for times in [7, 600, 3_000] {
        let text = format!("{log}{}{log}", failed.repeat(times));
        let kept = KEPT_OF_CRITICAL.min(times as u64);
        assert_eq!(counted(&text), [times as u64]);
        assert_eq!(counted(&shortened(&text, 4096)), [kept]);
    }
}

/// A log may consist of them as well. Each broker and partition stays, and when it was the last time.
#[test]
fn lines_that_are_alike_do_not_grow() {
    let time = |n: usize| {
        let (minutes, seconds) = (n / 60 % 60, n % 60);
        format!("[2024-01-02 {:02}:{minutes:02}:{seconds:02},678]", n / 3600)
    };
    let failed = |n: usize, partition: usize| {
        format!(
            "{} WARN [Producer clientId=p] Got error produce response with correlation id {n} on topic-partition t-{partition}, retrying (2 attempts left). Error: NETWORK_EXCEPTION (org.apache.kafka.clients.producer.internals.Sender)\n",
            time(n)
        )
    };
    let lost = |n: usize, broker: usize| {
        let connection =
            format!("Connection to {broker} was disconnected before the response was read");
        let (time, fetcher) = (
            time(n),
            "[ReplicaFetcher replicaId=1, leaderId=3, fetcherId=0]",
        );
        match n % 2 {
            0 => format!(
                "{time} WARN {fetcher} Error (kafka.server.ReplicaFetcherThread)\njava.io.IOException: {connection}\n\tat a.B.c(D.java:7)\n"
            ),
            _ => format!(
                "{time} INFO {fetcher} Error: java.io.IOException: {connection}. (org.apache.kafka.clients.FetchSessionHandler)\n"
            ),
        }
    };
    let text: String = (0..12_000)
        .map(|n| failed(n, n % 7 * (n / 11_000)))
        .collect();
    let short = shortened(&text, 4096);
    assert!(short.len() < text.len() / 10 * 9);
    let (log, whole) = (learned(&short), learned(&text));
    let partitions = |log: &Log<'_>| log.produce_errors.keys().count();
    assert_eq!((partitions(&log), partitions(&whole)), (7, 7));
    // Six partitions that are new later, two lines above these, and the last line.
    assert_eq!((log.alike(), log.last), (KEPT_ALIKE + 9, whole.last));
    for last in [11_998, 11_999] {
        let mut text: String = (0..last).map(|n| lost(n, 3)).collect();
        text += &lost(last, 2);
        let short = shortened(&text, 4096);
        assert!(short.len() < text.len() / 10 * 9);
        let (log, whole) = (learned(&short), learned(&text));
        let ends = |log: &Log<'_>| {
            let disconnects = log.disconnects.iter();
            let ends =
                disconnects.map(|(id, times)| (*id, times.first.to_owned(), times.last.to_owned()));
            ends.collect::<Vec<_>>()
        };
        assert_eq!(ends(&log), ends(&whole));
        assert_eq!((log.alike(), log.last), (KEPT_ALIKE + 2, whole.last));
    }
}

#[test]
fn dumps_and_other_texts_stay_whole() {
    let dump = include_str!("../../../tests/fixtures/thread_dumps/incident/jstack/219.txt");
    let log = broker_log(3_000);
    let short = shortened(&format!("{log}{dump}{log}"), 4096);
    assert!(short.contains(dump));
    let table = "tcp 1 0 1.2.3.4:9092 1.2.3.5:7 CLOSE_WAIT 81068/java\n".repeat(5_000);
    assert_eq!(shortened(&table, 4096), table);
    let tool = "Error: Executing consumer group command failed due to x\n";
    assert!(shortened(&format!("{log}{tool}{log}"), 4096).contains(tool));
    let line = "x".repeat(3 << 20);
    assert_eq!(shortened(&line, 1000), line);
    assert_eq!(shortened("", 1), "");
}
