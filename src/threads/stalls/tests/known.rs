//! Stalls that are known faults of Kafka, in made-up dumps with their frames.

use super::*;

/// A request handler that waits for `lock` at `waiter`, and the thread that holds it at `holder`.
fn waiter_and_holder(lock: &str, waiter: &[&str], holder: &[&str]) -> String {
    let lines = |frames: &[&str]| -> String {
        frames
            .iter()
            .map(|frame| format!("\tat {frame}\n"))
            .collect()
    };
    let (top, below) = (lines(&waiter[..1]), lines(&waiter[1..]));
    let holder = lines(holder);
    format!(
        "2026-11-22 10:00:00\nFull thread dump OpenJDK 64-Bit Server VM (17.0.15+6 mixed mode):\n\n\
         \"data-plane-kafka-request-handler-0\" #41 daemon prio=5 os_prio=0 cpu=5.00ms elapsed=90.00s tid=0x1 nid=0x2 waiting for monitor entry [0x0]\n\
         \x20  java.lang.Thread.State: BLOCKED (on object monitor)\n\
         {top}\t- waiting to lock <0x00000000e0000001> (a {lock})\n{below}\n\
         \"data-plane-kafka-request-handler-1\" #42 daemon prio=5 os_prio=0 cpu=6.00ms elapsed=90.00s tid=0x3 nid=0x4 runnable [0x0]\n\
         \x20  java.lang.Thread.State: RUNNABLE\n\
         {holder}\t- locked <0x00000000e0000001> (a {lock})\n\n\
         JNI global refs: 1, weak refs: 0\n"
    )
}

/// The known issues of what is stalled in two dumps 15 s apart.
fn known(text: &str) -> Vec<String> {
    let mut detector = StallDetector::default();
    assert_eq!(observe(&mut detector, text, None, 0), None);
    let found = observe(&mut detector, text, None, 15).unwrap().found;
    assert!(!found.is_empty());
    let issues = found.iter().flat_map(|stall| &stall.known_issues);
    issues
        .map(|issue| {
            assert!(!issue.is_exact());
            issue.issue.clone()
        })
        .collect()
}

/// KAFKA-15046: a log is synced under its lock, which all appends to it want.
#[test]
fn appends_that_wait_for_a_sync_are_a_known_issue() {
    let object = "java.lang.Object";
    let sync = [
        "sun.nio.ch.FileDispatcherImpl.force0(java.base@17.0.15/Native Method)",
        "sun.nio.ch.FileDispatcherImpl.force(java.base@17.0.15/FileDispatcherImpl.java:82)",
        "sun.nio.ch.FileChannelImpl.force(java.base@17.0.15/FileChannelImpl.java:466)",
        "kafka.log.ProducerStateManager$.kafka$log$ProducerStateManager$$writeSnapshot(ProducerStateManager.scala:451)",
        "kafka.log.ProducerStateManager.takeSnapshot(ProducerStateManager.scala:754)",
        "kafka.log.UnifiedLog.$anonfun$roll$2(UnifiedLog.scala:1521)",
        "kafka.log.UnifiedLog.append(UnifiedLog.scala:919)",
    ];
    let append = [
        "kafka.log.UnifiedLog.append(UnifiedLog.scala:766)",
        "kafka.log.UnifiedLog.appendAsLeader(UnifiedLog.scala:718)",
        "kafka.cluster.Partition.$anonfun$appendRecordsToLeader$1(Partition.scala:1120)",
        LOOP,
    ];
    assert_eq!(
        known(&waiter_and_holder(object, &append, &sync)),
        ["KAFKA-15046"]
    );
    // 2.x: `kafka.log.Log`, and a follower's epochs.
    let old_append = ["kafka.log.Log.$anonfun$append$2(Log.scala:953)", LOOP];
    let epochs = [
        "java.io.FileDescriptor.sync(Native Method)",
        "sun.nio.ch.FileChannelImpl.force(FileChannelImpl.java:388)",
        "kafka.server.checkpoints.CheckpointFile.write(CheckpointFile.scala:95)",
        "kafka.server.epoch.LeaderEpochFileCache.truncateFromEnd(LeaderEpochFileCache.scala:199)",
    ];
    assert_eq!(
        known(&waiter_and_holder(object, &old_append, &epochs)),
        ["KAFKA-15046"]
    );
    // The holder writes, and does not sync: a slow disk, but not this fault.
    let write = [
        "sun.nio.ch.FileDispatcherImpl.write0(Native Method)",
        "sun.nio.ch.FileChannelImpl.write(FileChannelImpl.java:280)",
        "kafka.log.UnifiedLog.append(UnifiedLog.scala:919)",
    ];
    assert_eq!(known(&waiter_and_holder(object, &append, &write)), [""; 0]);
    // A sync elsewhere; a wait elsewhere; another lock.
    let elsewhere = [
        sync[0],
        sync[2],
        "kafka.server.BrokerMetadataCheckpoint.write(B.scala:1)",
    ];
    assert_eq!(
        known(&waiter_and_holder(object, &append, &elsewhere)),
        [""; 0]
    );
    assert_eq!(
        known(&waiter_and_holder(object, &[DEEP, HANDLE, LOOP], &sync)),
        [""; 0]
    );
    assert_eq!(
        known(&waiter_and_holder("kafka.log.Other", &append, &sync)),
        [""; 0]
    );
}

/// KAFKA-14694: the block of producer ids is awaited under a monitor that every InitProducerId wants.
#[test]
fn handlers_that_wait_for_producer_ids_are_a_known_issue() {
    let monitor = "kafka.coordinator.transaction.RPCProducerIdManager";
    let wait = [
        "kafka.coordinator.transaction.RPCProducerIdManager.generateProducerId(ProducerIdManager.scala:139)",
        "kafka.coordinator.transaction.TransactionCoordinator.handleInitProducerId(TransactionCoordinator.scala:117)",
        LOOP,
    ];
    let poll = [
        "java.util.concurrent.ArrayBlockingQueue.poll(ArrayBlockingQueue.java:435)",
        "kafka.coordinator.transaction.RPCProducerIdManager.generateProducerId(ProducerIdManager.scala:143)",
        LOOP,
    ];
    assert_eq!(
        known(&waiter_and_holder(monitor, &wait, &poll)),
        ["KAFKA-14694"]
    );
    assert_eq!(
        known(&waiter_and_holder(monitor, &[DEEP, LOOP], &poll)),
        [""; 0]
    );
}
