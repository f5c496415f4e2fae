//! The known issues' data, and the deadlocks that it must and must not name.

use kafka_vitals::model::Deadlock;
use kafka_vitals::threads::known_issues::{known_issues, matching, releases};

use super::{deadlocks_of, fixture};

fn deadlocks(path: &str) -> Vec<Deadlock> {
    deadlocks_of(&fixture(path))
}

/// The key, and whether the match is exact.
fn named(deadlock: &Deadlock) -> Vec<(String, bool)> {
    matching(deadlock)
        .iter()
        .map(|known| (known.issue.clone(), known.is_exact()))
        .collect()
}

#[test]
fn the_data_is_complete() {
    let known = releases();
    assert!(known.is_sorted_by(|before, after| before < after));
    let keys: Vec<&str> = known_issues()
        .iter()
        .map(|issue| issue.key.as_str())
        .collect();
    for issue in known_issues() {
        let key = &issue.key;
        assert_eq!(
            keys.iter().filter(|other| *other == key).count(),
            1,
            "{key} is there twice"
        );
        let number = key.strip_prefix("KAFKA-").unwrap();
        assert!(number.parse::<u32>().is_ok());
        for text in [&issue.title, &issue.shows] {
            // It stands in a table and in one line of the page.
            assert!(
                !text.is_empty() && !text.contains(['|', '\n', '"']),
                "{key}: {text}"
            );
            let first_words = text.split([' ', ':', ',']);
            let bad = ["tells", "told", "tell", "anew", "amiss"];
            assert!(
                first_words.clone().all(|word| !bad.contains(&word)),
                "{key}: {text}"
            );
        }
        let ends = issue.affected.iter().chain(&issue.absent);
        for release in ends
            .flat_map(|range| [range.first, range.last])
            .chain(issue.fixed_in.iter().copied())
        {
            assert!(
                known.contains(&release),
                "{key}: {release} was never released"
            );
        }
        for range in issue.affected.iter().chain(&issue.absent) {
            assert!(range.first <= range.last, "{key}");
        }
        for release in known {
            let affected = issue
                .affected
                .iter()
                .filter(|range| range.contains(*release));
            let free = issue.absent.iter().any(|range| range.contains(*release));
            let is_affected = affected.clone().count();
            assert!(is_affected <= 1, "{key}: two ranges have {release}");
            let is_fixed = issue
                .fixed_in
                .iter()
                .any(|fixed| fixed.line() == release.line() && fixed <= release);
            assert!(is_affected == 0 || !(free || is_fixed), "{key}: {release}");
        }
        if let Some(searched_from) = issue.searched_from {
            let oldest = issue.affected.iter().map(|range| range.first).min();
            assert_eq!(oldest, Some(searched_from), "{key}");
        }
        for relative in &issue.relatives {
            assert!(
                keys.contains(&relative.as_str()),
                "{key} is related to {relative}, which is missing"
            );
        }
    }
    // Their data is from memory alone, so they are not in the table.
    assert!(!keys.contains(&"KAFKA-7802") && !keys.contains(&"KAFKA-8151"));
}

#[test]
fn recorded_deadlocks_get_their_names() {
    for (path, key, exact) in [
        ("incident/jstack/219.txt", "KAFKA-4399", true),
        ("incident/jstack/after-upgrade.txt", "KAFKA-5970", false),
        (
            "recordings/incident-0.10.1.0/jstack-first.txt",
            "KAFKA-3994",
            true,
        ),
        (
            "recordings/deadlock-handlers-0.10.1.0/jstack.txt",
            "KAFKA-3994",
            true,
        ),
    ] {
        assert_eq!(
            named(&deadlocks(path)[0]),
            [(key.to_owned(), exact)],
            "{path}"
        );
    }
}

#[test]
fn what_is_unknown_gets_no_name() {
    for deadlock in deadlocks("thread-dumps/own/zoo-jdk17-l.txt") {
        assert_eq!(named(&deadlock), []);
    }
    // The incident's locks and threads, reached through other code.
    let mut elsewhere = deadlocks("incident/jstack/219.txt").remove(0);
    for member in &mut elsewhere.cycle {
        member.frames = vec!["kafka.server.Other.method(Other.scala:1)".to_owned()];
    }
    assert_eq!(named(&elsewhere), []);
    // Another thread in the place of one of the members; a third member.
    let mut other_thread = deadlocks("incident/jstack/219.txt").remove(0);
    other_thread.cycle[0].thread = "my-plugin-thread".to_owned();
    assert_eq!(named(&other_thread), []);
    let mut third = deadlocks("incident/jstack/219.txt").remove(0);
    third.cycle.push(third.waiting[0].clone());
    assert_eq!(named(&third), []);
    // Members in another order are the same circle.
    let mut turned = deadlocks("incident/jstack/219.txt").remove(0);
    turned.cycle.rotate_left(1);
    assert_eq!(named(&turned), [("KAFKA-4399".to_owned(), true)]);
}

/// KAFKA-20505: its frames are known from the code, and this dump is made of them.
#[test]
fn the_deadlock_of_share_groups_gets_its_name() {
    let lock = |class: &str| format!("java.util.concurrent.locks.{class}");
    let (reentrant, read_write) = (
        lock("ReentrantLock$NonfairSync"),
        lock("ReentrantReadWriteLock$NonfairSync"),
    );
    let dump = |persister: &str, completes: &str, fetches: &str| {
        format!(
            "2026-11-22 10:00:00\nFull thread dump OpenJDK 64-Bit Server VM (21.0.5+11 mixed mode):\n\n\
             \"{persister}\" #71 [81] daemon prio=5 os_prio=0 cpu=9.1ms elapsed=100.00s tid=0x1 nid=81 waiting on condition  [0x0]\n\
             \x20  java.lang.Thread.State: WAITING (parking)\n\
             \tat jdk.internal.misc.Unsafe.park(java.base@21.0.5/Native Method)\n\
             \t- parking to wait for  <0x00000000e0000001> (a {reentrant})\n\
             \tat java.util.concurrent.locks.ReentrantLock.lock(java.base@21.0.5/ReentrantLock.java:322)\n\
             \tat org.apache.kafka.server.purgatory.DelayedOperation.safeTryComplete(DelayedOperation.java:139)\n\
             \tat org.apache.kafka.server.purgatory.DelayedOperationPurgatory$Watchers.tryCompleteWatched(DelayedOperationPurgatory.java:396)\n\
             \tat org.apache.kafka.server.purgatory.DelayedOperationPurgatory.checkAndComplete(DelayedOperationPurgatory.java:165)\n\
             \tat kafka.server.ReplicaManager.completeDelayedShareFetchRequest(ReplicaManager.scala:444)\n\
             \tat kafka.server.share.SharePartitionManager.lambda$releaseSession$9(SharePartitionManager.java:400)\n\
             \tat java.util.concurrent.CompletableFuture.complete(java.base@21.0.5/CompletableFuture.java:2179)\n\
             \tat kafka.server.share.SharePartition.{completes}(SharePartition.java:2100)\n\n\
             \x20  Locked ownable synchronizers:\n\t- <0x00000000e0000002> (a {read_write})\n\n\
             \"data-plane-kafka-request-handler-3\" #45 [55] daemon prio=5 os_prio=0 cpu=80.0ms elapsed=100.00s tid=0x2 nid=55 waiting on condition  [0x0]\n\
             \x20  java.lang.Thread.State: WAITING (parking)\n\
             \tat jdk.internal.misc.Unsafe.park(java.base@21.0.5/Native Method)\n\
             \t- parking to wait for  <0x00000000e0000002> (a {read_write})\n\
             \tat java.util.concurrent.locks.ReentrantReadWriteLock$WriteLock.lock(java.base@21.0.5/ReentrantReadWriteLock.java:959)\n\
             \tat kafka.server.share.SharePartition.{fetches}(SharePartition.java:600)\n\
             \tat kafka.server.share.DelayedShareFetch.tryComplete(DelayedShareFetch.java:280)\n\
             \tat org.apache.kafka.server.purgatory.DelayedOperation.safeTryCompleteOrElse(DelayedOperation.java:160)\n\n\
             \x20  Locked ownable synchronizers:\n\t- <0x00000000e0000001> (a {reentrant})\n\n\
             JNI global refs: 1, weak refs: 0\n"
        )
    };
    let name = |text: &str| {
        let [deadlock] = &deadlocks_of(text.as_bytes())[..] else {
            panic!("one deadlock in\n{text}");
        };
        named(deadlock)
    };
    let (completes, fetches) = ("rollbackOrProcessStateUpdates", "nextFetchOffset");
    for persister in [
        "PersisterStateManager",
        "data-plane-kafka-request-handler-7",
    ] {
        assert_eq!(
            name(&dump(persister, completes, fetches)),
            [("KAFKA-20505".to_owned(), true)]
        );
    }
    // KAFKA-18129 has the same two locks at another place, and was never released.
    let other = dump("PersisterStateManager", completes, "maybeInitialize");
    assert_eq!(name(&other), []);
    assert_eq!(name(&dump("my-plugin-thread", completes, fetches)), []);
}
