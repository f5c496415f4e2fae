#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::discover::properties::Properties;
use crate::discover::settings::interpret;

fn issue(key: &str) -> &'static KnownIssue {
    let mut issues = known_issues().iter();
    issues.find(|issue| issue.key == key).expect(key)
}

fn release(text: &str) -> Release {
    text.parse().unwrap()
}

/// A broker of this version with this `server.properties`.
fn broker(version: &str, properties: &str) -> Broker {
    let mut broker = Broker {
        kafka_version: Some(version.to_owned()),
        ..Broker::default()
    };
    interpret(
        &Properties::parse(properties.as_bytes()).unwrap(),
        &mut broker,
    );
    broker
}

/// The numbers of what it is exposed to, and of what it may be exposed to.
fn keys(broker: &Broker) -> (String, String) {
    let known = exposures(broker).unwrap();
    let number = |issue: &&KnownIssue| issue.key.replace("KAFKA-", "");
    let exposed: Vec<String> = known.exposed.iter().map(number).collect();
    let perhaps: Vec<String> = known
        .perhaps
        .iter()
        .map(|(issue, _)| number(issue))
        .collect();
    (exposed.join(" "), perhaps.join(" "))
}

/// Of each row: releases that have the fault, releases that do not, and releases in which nobody searched it. Those between
/// two that have it, and the patch releases around the fix, come first. By hand from what was seen in Kafka's sources, not from the data.
#[test]
fn a_release_has_a_fault_or_its_fix_or_is_unknown() {
    let table = [
        (
            "KAFKA-3994",
            "0.10.0.1 0.10.1.0",
            "0.8.2.2 0.10.1.1 0.10.2.0 1.0.0",
            "0.9.0.0",
        ),
        (
            "KAFKA-5970",
            "0.10.1.1 0.10.2.0 0.10.2.1 0.11.0.0 0.11.0.1",
            "0.11.0.2 0.11.0.3 1.0.0",
            "0.10.1.0",
        ),
        ("KAFKA-6042", "", "0.11.0.2 1.0.0", "0.10.1.0 0.11.0.1"),
        (
            "KAFKA-6529",
            "0.10.2.2 0.11.0.1 1.0.0",
            "1.0.1 1.1.0 2.0.0",
            "0.10.2.1 0.11.0.3",
        ),
        ("KAFKA-6879", "1.1.0", "1.0.2 1.1.1 2.0.0", "1.0.1"),
        (
            "KAFKA-6917",
            "0.11.0.1 1.0.0 1.0.1 1.1.0",
            "1.0.2 1.1.1 2.0.0",
            "0.10.2.2 0.11.0.3",
        ),
        (
            "KAFKA-7464",
            "1.1.0 1.1.1 2.0.0",
            "2.0.1 2.1.0 2.2.0",
            "1.0.2",
        ),
        ("KAFKA-7576", "2.0.1 2.1.0", "2.1.1 2.2.0", "1.1.1 2.0.0"),
        (
            "KAFKA-7697",
            "2.1.0",
            "1.1.1 2.0.1 2.1.1 2.2.0",
            "1.1.0 2.0.0",
        ),
        (
            "KAFKA-8334",
            "0.11.0.2 1.0.2 2.1.1 2.3.0 2.6.1 2.6.3",
            "2.7.0",
            "0.11.0.1 0.11.0.3",
        ),
        (
            "KAFKA-9777",
            "0.11.0.0 1.1.0 2.2.1 2.5.1",
            "2.6.0",
            "0.10.2.2",
        ),
        (
            "KAFKA-13544",
            "2.7.0 2.7.1 2.8.1 3.0.0",
            "2.8.2 3.0.1 3.1.0",
            "2.6.3",
        ),
        (
            "KAFKA-14225",
            "2.7.1 2.8.2 3.0.1 3.1.2 3.2.3 3.3.1",
            "3.3.2 3.4.0",
            "2.6.3",
        ),
        ("KAFKA-14694", "3.0.0 3.2.1 3.4.0 3.5.2", "3.6.0", "2.8.2"),
        (
            "KAFKA-17766",
            "3.5.1 3.6.0 3.7.2 3.8.1 3.9.1 3.9.2",
            "4.0.0",
            "3.4.1",
        ),
        // Rows of several lines, with their patch releases.
        ("KAFKA-15046", "2.2.0 3.5.1 3.6.2", "3.7.0", "2.1.1 3.6.3"),
        ("KAFKA-20302", "2.8.2 4.1.2 4.2.0", "4.2.1 4.3.0", "2.1.0"),
        (
            "KAFKA-19561",
            "3.9.1 4.0.1 4.1.1",
            "3.9.2 4.0.2 4.1.2 4.2.0",
            "2.1.1",
        ),
        (
            "KAFKA-19390",
            "3.9.1 4.0.1 4.1.0",
            "3.9.2 4.0.2 4.1.1 4.2.0",
            "2.1.1",
        ),
        ("KAFKA-19407", "3.0.0 3.9.2 4.0.0", "4.0.1 4.1.0", "2.8.2"),
        ("KAFKA-20115", "4.0.1 4.1.0", "4.0.2 4.1.2 4.2.0", "4.0.0"),
        (
            "KAFKA-19990",
            "3.6.0 3.9.1 4.0.1",
            "3.5.2 3.9.2 4.0.2",
            "3.5.1",
        ),
        ("KAFKA-17190", "3.7.1 3.8.0", "3.7.2 3.8.1 3.9.0", "3.6.2"),
        ("KAFKA-14392", "3.3.0 3.3.1", "3.3.2 3.4.0", "3.2.3"),
        (
            "KAFKA-18063",
            "3.3.0 3.8.1 3.9.0",
            "3.9.1 3.9.2 4.0.0",
            "3.2.3",
        ),
        // 4.3.2 is not in the data: whether it has the fix is unknown, although 4.2.2 and 4.4.0 have it.
        (
            "KAFKA-20726",
            "3.8.0 4.1.2 4.2.1 4.3.0 4.3.1",
            "4.2.2 4.4.0",
            "3.7.2 4.3.2 4.5.0",
        ),
    ];
    for (key, present, absent, unknown) in table {
        let expected = [
            (Presence::Present, present),
            (Presence::Absent, absent),
            (Presence::Unknown, unknown),
        ];
        for (expected, versions) in expected {
            for version in versions.split_whitespace() {
                let known = presence(issue(key), release(version));
                assert_eq!(known, expected, "{key} {version}");
            }
        }
    }
    // It was never released.
    assert!(known_issues().iter().all(|issue| issue.key != "KAFKA-6517"));
}

/// What lies before the oldest release that was seen is unknown, unless somebody saw that it is not there.
#[test]
fn older_releases_are_unknown_and_not_free_of_it() {
    for issue in known_issues() {
        let Some(oldest) = issue.affected.iter().map(|range| range.first).min() else {
            continue;
        };
        for older in releases().iter().filter(|older| **older < oldest) {
            let seen_absent = issue.absent.iter().any(|range| range.contains(*older));
            let expected = match seen_absent {
                true => Presence::Absent,
                false => Presence::Unknown,
            };
            assert_eq!(presence(issue, *older), expected, "{} {older}", issue.key);
        }
    }
}

const ZOOKEEPER: &str = "zookeeper.connect=z:2181\nlog.dirs=/data";
const COMBINED: &str = "process.roles=broker,controller\nnode.id=1\nlog.dirs=/data";
const BROKER: &str = "process.roles=broker\nnode.id=1\nlog.dirs=/data";
const CONTROLLER: &str = "process.roles=controller\nnode.id=1\nlog.dirs=/data";
/// Everything that a row needs and a file can switch on.
const ALL_ON: &str = "\nqueued.max.request.bytes=10000000\nconnections.max.reauth.ms=3600000\n\
    log.dirs=/data,/more\nremote.log.storage.system.enable=true\n\
    group.coordinator.rebalance.protocols=classic,consumer,share";

/// Made by hand from what was seen in the sources: for each version the rows whose "Affected" has it, then their conditions.
#[test]
fn brokers_are_exposed_as_kafkas_sources_say() {
    let on = |file: &str| [file, ALL_ON].concat();
    // Transactions: whether clients use them is not read, so 9777, 16352 and 17941 are "perhaps" where they are affected.
    let table = [
        // 3994 with its reports 4478, 4562, 4477, and 4399. 5970 begins with 0.10.1.1; the rows for later versions do not reach back.
        ("0.10.1.0", ZOOKEEPER.into(), "3994 4399 4478 4562 4477", ""),
        // The settings concern later features.
        ("0.10.1.0", on(ZOOKEEPER), "3994 4399 4478 4562 4477", ""),
        ("0.10.1.1", ZOOKEEPER.into(), "5970", ""),
        // 7697 is of 2.1.0 alone, 8334 of 1.0.0 to 2.6.3, 7576 of 2.0.1 and 2.1.0, 9777 of 0.11.0.0 to 2.5.1. 7464 is fixed
        // in 2.1.0. Those from 2.2.0 on were not searched here, whatever is switched on.
        ("2.1.0", ZOOKEEPER.into(), "7697 8334 7576", "9777"),
        ("2.1.0", on(ZOOKEEPER), "7697 8334 7576", "9777"),
        // A node that is broker and controller. 19390 (maps) and 19407 (time index) need nothing; 19990 and 19294 (heartbeat)
        // are a KRaft broker's, 18345 (election), 17793 (event thread) and 20247 (registration) a controller's, 20726
        // (buffers) both. 18063 is fixed in 3.9.1, 15046 in 3.7.0, 13403 in 3.9.0, 17190 in 3.9.0, 15931 in 3.9.1.
        (
            "3.9.1",
            COMBINED.into(),
            "19390 19407 19990 18345 19294 17793 20247 20726",
            "17941",
        ),
        // With tiered storage 17766, 19425 and 18923, with the bounded memory 20302, with re-authentication 19561, with two
        // directories 19571. Share groups (20505) begin with 4.0.
        (
            "3.9.1",
            on(COMBINED),
            "17766 20302 19561 19571 19390 19407 19990 18345 19294 17793 20247 20726 19425 18923",
            "17941",
        ),
        (
            "3.9.1",
            BROKER.into(),
            "19390 19407 19990 19294 20726",
            "17941",
        ),
        (
            "3.9.1",
            CONTROLLER.into(),
            "19390 18345 17793 20247 20726",
            "",
        ),
        ("3.9.1", ZOOKEEPER.into(), "19390 19407", "17941"),
        // 20726 is the one row that 4.3.0 has; 20302, 20247 and 20505 are fixed in it.
        ("4.3.0", COMBINED.into(), "20726", ""),
        ("4.3.0", on(COMBINED), "20726", ""),
        // 4.2.0 has 20505, 20302, 20247 and 20726. From 4.1 on a feature of the cluster can switch share groups on as well.
        ("4.2.0", COMBINED.into(), "20247 20726", "20505"),
        ("4.2.0", on(COMBINED), "20505 20302 20247 20726", ""),
    ];
    for (version, properties, exposed, perhaps) in table {
        let of_broker = keys(&broker(version, &properties));
        let expected = (exposed.to_owned(), perhaps.to_owned());
        assert_eq!(of_broker, expected, "{version} with\n{properties}");
    }
}

/// A broker that is exposed to no fault is not said to be free of those that nobody searched in its release.
#[test]
fn what_is_unknown_of_a_release_without_known_faults_is_said() {
    let text = |version, properties: &str| {
        let known = exposures(&broker(version, properties)).unwrap();
        assert!(known.exposed.is_empty(), "{version}");
        known.unknown_text()
    };
    let old = text("0.8.2.2", ZOOKEEPER).unwrap();
    let (number, rest) = old.split_once(' ').unwrap();
    // All rows of 2.2 and later that need nothing which it lacks, and most of the older ones.
    assert!(number.parse::<usize>().unwrap() > 10, "{old}");
    assert_eq!(rest, "were not searched in 0.8.2.2");
    assert_eq!(text("4.4.0", COMBINED), None);
}

#[test]
fn each_condition_by_itself() {
    let base = |version: &str| match version {
        old if old.starts_with('2') => ZOOKEEPER,
        _ => COMBINED,
    };
    // The row, a version that has it, what switches it on, and what switches it off again.
    let table = [
        (
            "KAFKA-20302",
            "3.9.1",
            "queued.max.request.bytes=1",
            "queued.max.request.bytes=-1",
        ),
        (
            "KAFKA-19561",
            "3.9.1",
            "connections.max.reauth.ms=1",
            "connections.max.reauth.ms=0",
        ),
        ("KAFKA-19571", "3.9.1", "log.dirs=/a,/b", "log.dirs=/a"),
        (
            "KAFKA-15931",
            "3.6.0",
            "remote.log.storage.system.enable=true",
            "remote.log.storage.system.enable=false",
        ),
        (
            "KAFKA-19425",
            "3.6.0",
            "remote.log.storage.system.enable=true",
            "remote.log.storage.system.enable=true\nremote.log.metadata.manager.class.name=org.example.Own",
        ),
        (
            "KAFKA-20505",
            "4.0.0",
            "group.coordinator.rebalance.protocols=classic,share",
            "group.coordinator.rebalance.protocols=classic",
        ),
        (
            "KAFKA-20505",
            "4.0.0",
            "group.share.enable=true",
            "group.share.enable=false",
        ),
        (
            "KAFKA-13544",
            "2.8.1",
            "zookeeper.connect=z",
            "process.roles=broker",
        ),
        (
            "KAFKA-14644",
            "3.3.0",
            "process.roles=broker",
            "process.roles=",
        ),
        (
            "KAFKA-15489",
            "3.3.0",
            "process.roles=controller",
            "process.roles=broker",
        ),
        (
            "KAFKA-18063",
            "3.9.0",
            "process.roles=controller",
            "process.roles=broker",
        ),
        (
            "KAFKA-18063",
            "3.9.0",
            "process.roles=broker\ngroup.coordinator.new.enable=true",
            "process.roles=broker",
        ),
    ];
    for (key, version, on, off) in table {
        for (line, expected) in [(on, Exposure::Exposed), (off, Exposure::NotExposed)] {
            let zookeeper = if line == "process.roles=" {
                ZOOKEEPER
            } else {
                ""
            };
            let text = [base(version), "\n", line, "\n", zookeeper].concat();
            let broker = broker(version, &text);
            let known = exposure(issue(key), &broker, release(version));
            assert_eq!(known, expected, "{key} {version} {line}");
        }
    }
    // What is not read, and why.
    let unknown = |key, version, text: &str| {
        let broker = broker(version, text);
        match exposure(issue(key), &broker, release(version)) {
            Exposure::Unknown(Why::Condition(why)) => why,
            known => panic!("{key} {version}: {known:?}"),
        }
    };
    assert!(unknown("KAFKA-16352", "3.7.2", COMBINED).contains("transactions"));
    assert!(unknown("KAFKA-20505", "4.1.0", COMBINED).contains("share.version"));
    assert!(unknown("KAFKA-17190", "3.7.0", COMBINED).contains("metadata.version"));
    let provided = "process.roles=broker\nconnections.max.reauth.ms=${file:/f:a}";
    assert!(unknown("KAFKA-19561", "3.9.1", provided).contains("server.properties"));
    // Without the file the mode is unknown, except where the version has only one.
    let no_file = |version: &str| Broker {
        kafka_version: Some(version.to_owned()),
        ..Broker::default()
    };
    let of = |key, version| exposure(issue(key), &no_file(version), release(version));
    assert!(matches!(
        of("KAFKA-19294", "3.9.1"),
        Exposure::Unknown(Why::Condition(_))
    ));
    assert!(matches!(
        of("KAFKA-19064", "4.0.0"),
        Exposure::Unknown(Why::Condition(_))
    ));
    assert_eq!(of("KAFKA-7697", "2.1.0"), Exposure::Exposed);
    assert_eq!(of("KAFKA-20726", "4.3.0"), Exposure::Exposed);
}

#[test]
fn builds_that_are_no_releases_are_unknown_with_the_reason() {
    for (version, why) in [
        ("7.6.0-ccs", "Confluent's build of Kafka 3.6"),
        ("5.5.1-ce", "Confluent's build of Kafka 2.5"),
        ("3.9.1.redhat-00003", "a vendor's build"),
        ("0.10.2.1-cp2", "a vendor's build"),
        ("4.4.0-SNAPSHOT", "not a release"),
        (
            "4.5.0",
            "does not know Kafka 4.5.0; the newest release in it is 4.4.0",
        ),
        ("3.5.3", "does not know Kafka 3.5.3"),
        ("newest", "no version of Kafka"),
    ] {
        let unknown = exposures(&broker(version, COMBINED))
            .unwrap_err()
            .to_string();
        assert!(unknown.contains(why), "{version}: {unknown}");
    }
    let no_version = Broker::default();
    assert_eq!(exposures(&no_version).unwrap_err(), UnknownVersion::None);
}

#[test]
fn the_next_release_without_the_faults() {
    let remedy_of = |broker: &Broker| {
        let known = exposures(broker).unwrap();
        remedy(broker, known.release, &known.exposed)
    };
    // 0.10.1.1 has the fix of all five, and KAFKA-5970. Every later one up to 4.2.1 has a fault or was not searched.
    let incident = remedy_of(&broker("0.10.1.0", ZOOKEEPER));
    let expected = Remedy {
        fixes: Some(release("0.10.1.1")),
        then: vec!["KAFKA-5970"],
        free: Some(release("4.2.2")),
        ends_zookeeper: true,
    };
    assert_eq!(incident, expected);
    assert_eq!(
        incident.text(),
        "0.10.1.1 is the next release with none of these, but it has KAFKA-5970; 4.2.2 is the first with no fault that is \
         known here (4.0 and later run without ZooKeeper: the cluster must move to KRaft first)"
    );
    // 20726 keeps every release from 3.8.0 to 4.2.1, and 4.3.
    let kraft = remedy_of(&broker("3.9.1", COMBINED));
    assert_eq!(kraft.text(), "4.2.2 is the next release with none of these");
    // Of its own line nothing is fixed: the next line's.
    assert_eq!(
        remedy_of(&broker("4.3.0", COMBINED)).fixes,
        Some(release("4.4.0"))
    );
    // A single fault: the patch release of the same line.
    let broker = broker("3.9.1", ZOOKEEPER);
    let only = |key| remedy(&broker, release("3.9.1"), &[issue(key)]);
    assert_eq!(only("KAFKA-19390").fixes, Some(release("3.9.2")));
    assert_eq!(only("KAFKA-19407").fixes, Some(release("4.0.1")));
    // A fault without a fix in the data: nothing is promised.
    let unfixed = KnownIssue {
        fixed_in: Vec::new(),
        ..issue("KAFKA-19390").clone()
    };
    let unfixed: &'static KnownIssue = Box::leak(Box::new(unfixed));
    let none = remedy(&broker, release("3.9.1"), &[unfixed]);
    assert_eq!(none.fixes, None);
    assert!(
        none.text()
            .starts_with("no release up to 4.4.0 is known to be without all of these")
    );
}

#[test]
fn a_raft_thread_that_has_ended_is_a_known_fault_only_where_the_version_has_it() {
    let keys = |version: &str, thread: &str| -> Vec<String> {
        let broker = broker(version, COMBINED);
        let issues = may_have_ended(&broker, thread);
        issues.map(|issue| issue.key.clone()).collect()
    };
    assert_eq!(keys("3.3.2", "kafka-raft-io-thread"), ["KAFKA-14644"]);
    assert_eq!(keys("3.4.0", "kafka-1-raft-io-thread"), ["KAFKA-14644"]);
    // Fixed; or another thread.
    assert_eq!(keys("3.4.1", "kafka-1-raft-io-thread"), [""; 0]);
    assert_eq!(keys("3.3.2", "kafka-raft-outbound-request-thread"), [""; 0]);
    // Whether a vendor's build has it is unknown.
    assert_eq!(keys("7.3.0-ccs", "kafka-raft-io-thread"), ["KAFKA-14644"]);
}
