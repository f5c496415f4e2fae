//! Disks, the limit of file handles and busy threads.

use super::{against, all, explained, figures, lsof, one, only_forms, verdict};
use crate::analyze::{FactKind, Form, Source, Verdict, report};

#[test]
fn directories_of_brokers() {
    let json = "{\"version\":1,\"brokers\":[{\"broker\":1,\"logDirs\":[{\"logDir\":\"/a\",\"error\":null,\"partitions\":[{\"partition\":\"t-0\",\"size\":7,\"offsetLag\":3,\"isFuture\":false},{\"partition\":\"t-1\",\"size\":5,\"offsetLag\":0,\"isFuture\":true}]}]},{\"broker\":2,\"logDirs\":[{\"logDir\":\"/b\",\"error\":\"KAFKA_STORAGE_ERROR\",\"partitions\":[]}]}]}";
    let found = explained(&[(
        "dirs.txt",
        &format!("Querying brokers for log directories information\n{json}\n"),
    )]);
    assert_eq!(only_forms(&found), [Form::LogDirs]);
    let texts: Vec<&str> = all(&found).map(|fact| &*fact.text).collect();
    assert_eq!(
        texts,
        [
            "its log directory /b is offline: KAFKA_STORAGE_ERROR",
            "1 log directory with 0 replicas, 0 bytes",
            "1 log directory with 2 replicas, 12 bytes; 1 behind (t-0 by 3 records); 1 moving to another directory",
        ]
    );
    assert_eq!(against(&found, "2"), [FactKind::LogDirOffline]);
}

/// It works with its other disk.
#[test]
fn a_disk_that_failed_does_not_make_a_broker_gray() {
    let dirs = "{\"brokers\":[{\"broker\":2,\"logDirs\":[{\"logDir\":\"/a\\nBroker 1: suspect\",\"error\":\"KAFKA_STORAGE_ERROR\",\"partitions\":[]},{\"logDir\":\"/b\",\"error\":null,\"partitions\":[]}]}]}";
    let topics = "\tTopic: t\tPartition: 0\tLeader: 1\tReplicas: 1,2\tIsr: 1\tOffline: 2\n\tTopic: t\tPartition: 1\tLeader: 3\tReplicas: 3,2\tIsr: 3\tOffline: 2\n";
    let found = explained(&[("dirs", dirs), ("topics", topics)]);
    assert_eq!(verdict(&found, "2"), Some(Verdict::Suspect));
    // What is in a file forges no line of the answer.
    assert!(!report::explained(&found).contains("\nBroker 1: suspect"));
}

#[test]
fn the_limit_of_file_handles_and_busy_threads() {
    let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                  Max open files            32                   4096                 files\n";
    let found = explained(&[
        ("limits", limits),
        ("lsof", &lsof("10.0.0.1:9092", 20_000..20_030)),
    ]);
    assert_eq!(figures(one(&found, FactKind::HandleLimit)), [("limit", 32)]);
    // The handles belong to the broker at that address, the limit to nobody.
    assert_eq!(one(&found, FactKind::Handles).against, None);
    let topics = "\tTopic: t\tPartition: 0\tLeader: 1\tReplicas: 1\tIsr: 1\n";
    let handles: String = (0..30)
        .map(|n| format!("lrwx------ 1 root root 64 Nov 22 14:33 {n} -> socket:[{n}]\n"))
        .collect();
    let found = explained(&[("1-limits", limits), ("1-fd", &handles), ("t", topics)]);
    assert_eq!(one(&found, FactKind::Handles).against, Some(Source::Own));

    let top = "Threads: 2 total\n  PID USER %CPU COMMAND\n 12345 kafka 99.9 kafka-request-h\n 12346 kafka 0.3 GC Thread#0\n";
    let dump = "\"kafka-request-handler-3\" #9 prio=5 os_prio=0 tid=0x1 nid=0x3039 runnable\n   java.lang.Thread.State: RUNNABLE\n\tat a.B.c(D.java:7)\n";
    let found = explained(&[("top", top), ("dump", dump)]);
    assert_eq!(
        one(&found, FactKind::BusyThreads).text,
        "at least half of a core is used by 1 of 2 threads: kafka-request-h (nid 0x3039, in a dump kafka-request-handler-3 at a.B.c(D.java:7)) 99.9 %"
    );
    let idle = explained(&[("top", &top.replace("99.9", "1.0"))]);
    assert!(
        one(&idle, FactKind::BusyThreads)
            .text
            .starts_with("none of 2 threads uses half of a core")
    );
}

/// Ids of threads are those of one host.
#[test]
fn a_busy_thread_is_found_in_a_dump_of_its_broker() {
    let top = "Threads: 1 total\n  PID USER %CPU COMMAND\n 12345 kafka 99.9 kafka-request-h\n";
    let dump = |id| {
        format!(
            "\"kafka-network-thread-{id}-PLAINTEXT-0\" #9 prio=5 os_prio=0 tid=0x1 nid=0x3039 runnable\n   java.lang.Thread.State: RUNNABLE\n\tat a.B.c(D.java:7)\n"
        )
    };
    let (one_dump, other_dump) = (dump(1), dump(2));
    let text = |files: &[(&str, &str)]| one(&explained(files), FactKind::BusyThreads).text.clone();
    let found = text(&[("1-top", top), ("a", &one_dump), ("b", &other_dump)]);
    assert!(
        found.contains("in a dump kafka-network-thread-1-"),
        "{found}"
    );
    let found = text(&[("top", top), ("a", &one_dump), ("b", &other_dump)]);
    assert!(!found.contains("in a dump"), "{found}");
}

/// Of two processes nothing shows which one has the handles.
#[test]
fn a_limit_of_nobody_is_the_only_one() {
    let limits = "Max open files            32                   4096                 files\n";
    let handles: String = (0..30)
        .map(|n| format!("lrwx------ 1 root root 64 Nov 22 14:33 {n} -> socket:[{n}]\n"))
        .collect();
    let found = explained(&[("limits", limits), ("fd", &handles)]);
    assert_eq!(one(&found, FactKind::Handles).against, Some(Source::Own));
    let found = explained(&[("x", limits), ("y", limits), ("fd", &handles)]);
    assert_eq!(one(&found, FactKind::Handles).against, None);
}
