//! `kafka-vitals analyze` on the incident's own dumps: what people concluded (the incident's README) is what it says.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::{Command, Output};

use serde_json::{Value, json};

fn analyze(arguments: &[&str]) -> Output {
    let dumps = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/thread_dumps/incident/jstack");
    Command::new(env!("CARGO_BIN_EXE_kafka-vitals")).arg("analyze").args(arguments).current_dir(dumps).output().unwrap()
}

fn as_json(file: &str) -> Value {
    let output = analyze(&[file, "--output", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Thread, what it holds, what it wants.
fn members(deadlock: &Value) -> Vec<[&str; 3]> {
    let cycle = deadlock["cycle"].as_array().unwrap().iter();
    cycle.map(|member| ["thread", "holds", "wants"].map(|key| member[key].as_str().unwrap())).collect()
}

#[test]
fn the_incident_has_two_members_and_one_that_waits() {
    let answer = as_json("219.txt");
    let [deadlock] = answer["deadlocks"].as_array().unwrap().as_slice() else { panic!("{answer}") };
    let (group, list) = ("kafka.coordinator.GroupMetadata", "java.util.LinkedList");
    assert_eq!(
        members(deadlock),
        [["group-metadata-manager-0", group, list], ["kafka-request-handler-3", list, group]]
    );
    assert_eq!(deadlock["waiting"], json!(["executor-Heartbeat"]));
    let [known] = deadlock["known_issues"].as_array().unwrap().as_slice() else { panic!("{deadlock}") };
    assert_eq!((&known["issue"], &known["match"]), (&json!("KAFKA-4399"), &json!("exact")));
    assert_eq!(known["fixed_in"][0], "0.10.1.1");
    assert_eq!(known["relatives"], json!(["KAFKA-3994", "KAFKA-4478", "KAFKA-4562"]));
}

#[test]
fn after_the_upgrade_the_head_of_the_report_is_enough() {
    let answer = as_json("after-upgrade.txt");
    let deadlock = &answer["deadlocks"][0];
    let (group, produce) = ("kafka.coordinator.GroupMetadata", "kafka.server.DelayedProduce");
    assert_eq!(members(deadlock), [["executor-Heartbeat", group, produce], ["kafka-scheduler-5", produce, group]]);
    let known = &deadlock["known_issues"][0];
    assert_eq!((&known["issue"], &known["match"]), (&json!("KAFKA-5970"), &json!("likeness")));
    assert!(known["advise"].as_str().unwrap().starts_with("1.0.0 or later"));
}

#[test]
fn several_files_are_told_one_after_the_other() {
    let output = analyze(&["219.txt", "after-upgrade.txt"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let place = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} is not in {text}"));
    assert!(place("219.txt") < place("KAFKA-4399"));
    assert!(place("KAFKA-4399") < place("after-upgrade.txt"));
    assert!(place("after-upgrade.txt") < place("KAFKA-5970"));
    assert!(place("merely waiting for them: executor-Heartbeat") < place("after-upgrade.txt"));
}

#[test]
fn what_is_no_dump_is_told_with_its_name() {
    for file in ["no-such-file.txt", "../../../../../Cargo.toml"] {
        let output = analyze(&[file]);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8(output.stderr).unwrap().contains(file));
    }
}
