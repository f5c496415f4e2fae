#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::parse::thread_dump::parse;

const LOADS: &str = "kafka.coordinator.transaction.TransactionStateManager.loadTransactionMetadata(TransactionStateManager.scala:440)";
const READS: &str = "org.apache.kafka.common.record.FileRecords.readInto(FileRecords.java:141)";
const TASK: &str =
    "java.util.concurrent.ThreadPoolExecutor.runWorker(ThreadPoolExecutor.java:1136)";

fn dump(name: &str, cpu_ms: f64, frames: &[&str]) -> String {
    let frames: String = frames.iter().map(|at| format!("\tat {at}\n")).collect();
    format!(
        "2026-11-22 10:00:00\nFull thread dump OpenJDK 64-Bit Server VM (17.0.15+6 mixed mode):\n\n\
         \"{name}\" #61 daemon prio=5 os_prio=0 cpu={cpu_ms:.2}ms elapsed=900.00s tid=0x1 nid=0x2 runnable [0x0]\n   \
         java.lang.Thread.State: RUNNABLE\n{frames}\n\
         JNI global refs: 1, weak refs: 0\n"
    )
}

/// The keys of what dumps at these seconds, with this CPU time, show in the end.
fn issues(name: &str, frames: &[&str], times: &[(u64, f64)]) -> Vec<String> {
    let mut detector = LoopDetector::default();
    let mut found = Vec::new();
    for (second, cpu_ms) in times {
        let text = dump(name, *cpu_ms, frames);
        found = detector.observe(&parse(&text).unwrap()[0], Moment(second * 1000));
    }
    let issues = found.into_iter().flat_map(|one| one.known_issues);
    issues.map(|known| known.issue).collect()
}

/// A core used all the time, over 65 s.
const BUSY: [(u64, f64); 3] = [(0, 5_000.0), (30, 34_900.0), (65, 69_800.0)];

#[test]
fn a_load_that_never_ends_is_a_known_issue() {
    let manager = "transaction-log-manager-0";
    // KAFKA-17941, and KAFKA-9065 of older versions, which looks the same.
    let keys = ["KAFKA-9065", "KAFKA-17941"];
    assert_eq!(issues(manager, &[READS, LOADS, TASK], &BUSY), keys);
    assert_eq!(issues(manager, &[LOADS, TASK], &BUSY), keys);
    let groups = "kafka.coordinator.group.GroupMetadataManager.doLoadGroupsAndOffsets(GroupMetadataManager.scala:600)";
    assert_eq!(
        issues("group-metadata-manager-0", &[groups, TASK], &BUSY),
        ["KAFKA-9065"]
    );
}

#[test]
fn work_that_moves_on_is_none() {
    let manager = "transaction-log-manager-0";
    let none: [&str; 0] = [];
    let frames = [READS, LOADS, TASK];
    // Too short; waits for a disk; idle in between.
    assert_eq!(issues(manager, &frames, &BUSY[..2]), none);
    assert_eq!(
        issues(
            manager,
            &frames,
            &[(0, 5_000.0), (30, 12_000.0), (65, 20_000.0)]
        ),
        none
    );
    assert_eq!(
        issues(
            manager,
            &frames,
            &[(0, 5_000.0), (30, 5_000.0), (65, 39_900.0)]
        ),
        none
    );
    // Another method; another thread.
    let other = "kafka.coordinator.transaction.TransactionStateManager.removeExpired(T.scala:1)";
    assert_eq!(issues(manager, &[other, TASK], &BUSY), none);
    assert_eq!(issues("kafka-scheduler-1", &frames, &BUSY), none);
}
