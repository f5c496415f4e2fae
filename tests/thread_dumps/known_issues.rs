//! The known issues' data, and the deadlocks that it must and must not name.

use kafka_vitals::model::Deadlock;
use kafka_vitals::threads::known_issues::{exposed, known_issues, matching};

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
    let keys: Vec<&str> = known_issues()
        .iter()
        .map(|issue| issue.key.as_str())
        .collect();
    for issue in known_issues() {
        assert_eq!(
            keys.iter().filter(|key| **key == issue.key).count(),
            1,
            "{} is there twice",
            issue.key
        );
        let number = issue.key.strip_prefix("KAFKA-").unwrap();
        assert!(number.parse::<u32>().is_ok() && !issue.title.is_empty());
        for version in issue.affected.iter().chain(&issue.fixed_in) {
            assert!(
                version.split('.').all(|part| part.parse::<u32>().is_ok()),
                "{}: {version}",
                issue.key
            );
            assert!(
                !(issue.affected.contains(version) && issue.fixed_in.contains(version)),
                "{}: {version}",
                issue.key
            );
        }
        for relative in &issue.relatives {
            assert!(
                keys.contains(&relative.as_str()),
                "{} is related to {relative}, which is missing",
                issue.key
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

#[test]
fn versions_are_exposed_to_what_their_source_shows() {
    let keys = |version| -> Vec<&str> {
        exposed(version)
            .iter()
            .map(|issue| issue.key.as_str())
            .collect()
    };
    assert_eq!(
        keys("0.10.1.0"),
        [
            "KAFKA-3994",
            "KAFKA-4399",
            "KAFKA-4478",
            "KAFKA-4562",
            "KAFKA-4477"
        ]
    );
    assert_eq!(keys("0.10.1.1"), ["KAFKA-5970"]);
    assert_eq!(keys("2.1.0"), ["KAFKA-7697"]);
    assert!(keys("2.1.1").is_empty() && keys("4.0.0").is_empty() && keys("").is_empty());
}
