//! Replays recordings of real brokers; the lab and `jstack` recorded what was done to them, and when.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use kafka_vitals::model::{Broker, ProcessKey};
use kafka_vitals::model::{BrokerSnapshot, Snapshot};
use lab::Cell;
use serde_json::Value;
use support::{Metrics, wait_for};

fn command(file: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kafka-vitals"));
    let recordings = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/recordings");
    command
        .arg("replay")
        .arg(file)
        .args(arguments)
        .current_dir(recordings);
    command
}

fn replayed(file: &str) -> Value {
    let output: Output = command(file, &["--output", "json"]).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns the value of a line `key value` that the lab wrote.
fn lab_value(key: &str) -> f64 {
    let lines = include_str!("fixtures/recordings/incident.txt");
    lines
        .lines()
        .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
        .unwrap()
}

#[test]
fn the_incident_is_reported_in_time_and_for_the_right_broker() {
    let answer = replayed("incident.jsonl.gz");
    assert_eq!(
        (&answer["skipped"], &answer["broken"]),
        (&Value::from(0), &Value::Null)
    );
    let (sick, formed) = (
        lab_value("broker").to_string(),
        lab_value("followers_continued"),
    );
    let events = answer["timeline"].as_array().unwrap();
    // The timeline also has the short stop of the followers by the lab.
    let deadlocks: Vec<&Value> = events
        .iter()
        .filter(|event| event["finding"] == "jvm_deadlock")
        .collect();
    let [deadlock] = deadlocks.as_slice() else {
        panic!("{events:#?}")
    };
    assert_eq!(deadlock["broker"].as_str().unwrap(), sick);
    let after = deadlock["at"].as_f64().unwrap() / 1000.0 - formed;
    assert!(
        (0.0..lab_value("first_given_up_after")).contains(&after),
        "reported {after:.1} s after it can have formed"
    );
    for broker in answer["brokers"].as_array().unwrap() {
        let is_sick = broker["label"].as_str().unwrap() == sick;
        assert_eq!(broker["state"] == "gray", is_sick, "{broker:#}");
        let issues: Vec<&str> = broker["known_issues"]
            .as_array()
            .unwrap()
            .iter()
            .map(|known| known["issue"].as_str().unwrap())
            .collect();
        assert_eq!(issues, if is_sick { &["KAFKA-3994"][..] } else { &[] });
    }
    let text = command("incident.jsonl.gz", &["--output", "text"])
        .output()
        .unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.contains(&format!("Broker {sick} is alive but deadlocked since")),
        "{text}"
    );
}

#[test]
fn healthy_brokers_are_only_healthy() {
    let answer = replayed("healthy.jsonl.gz");
    let brokers = answer["brokers"].as_array().unwrap();
    assert_eq!(brokers.len(), 3);
    assert!(
        brokers.iter().all(|broker| broker["state"] == "healthy"),
        "{brokers:#?}"
    );
    let events = answer["timeline"].as_array().unwrap();
    assert_eq!(events.len(), 3, "{events:#?}");
    assert!(
        events
            .iter()
            .all(|event| event["event"] == "state_changed" && event["state"] == "healthy"),
        "{events:#?}"
    );
}

#[test]
fn a_replay_is_served_at_its_own_time() {
    let cell = Cell::new().unwrap();
    let port = cell.free_ports(1).unwrap()[0];
    let address = format!("127.0.0.1:{port}");
    let mut command = command(
        "incident.jsonl.gz",
        &["--speed", "200", "--web.listen-address", &address],
    );
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let _replay = cell.spawn(command).unwrap();
    let get = |path: &str| {
        cell.http_get(port, path, Duration::from_secs(5))
            .ok()
            .filter(|(status, _)| *status == 200)
    };
    let sick = lab_value("broker") as i32;
    let state = |name: &str| Metrics::parse(&get("/metrics")?.1).state(sick, name);
    wait_for("the verdict", Duration::from_secs(60), || {
        state("gray") == Some(1.0)
    });
    // By the clock of this machine the readings would be too old, and unknown.
    assert!(get("/").unwrap().1.contains("deadlocked"));
    assert!(
        Metrics::parse(&get("/metrics").unwrap().1)
            .of("open_file_handles", sick)
            .is_some()
    );
    // The day of the recording is in the page's title and headline, and first in the other answers, so that no reader
    // takes it for the present.
    let day = humantime::format_rfc3339_seconds(
        UNIX_EPOCH + Duration::from_secs_f64(lab_value("followers_continued")),
    );
    let said = format!("Replay of {}", &day.to_string()[..10]);
    for (path, begin) in [
        ("/", "<title>CRITICAL: "),
        ("/", "<h1>"),
        ("/check", "CRITICAL: "),
        ("/metrics", "# "),
    ] {
        let text = get(path).unwrap().1;
        assert!(text.contains(&format!("{begin}{said}")), "{path}: {text}");
    }
}

#[test]
fn the_content_of_a_recording_does_not_control_the_terminal() {
    let mut recording = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let unknown = Broker::unknown(ProcessKey {
        pid: 1,
        start_ticks: 1,
    });
    let broker = BrokerSnapshot::new(Arc::new(unknown), "\x1b[2J".into());
    let snapshot = Snapshot {
        brokers: vec![Arc::new(broker)],
        ..Snapshot::default()
    };
    serde_json::to_writer(&mut recording, &snapshot).unwrap();
    let output = command(recording.path().to_str().unwrap(), &["--output", "text"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("[2J") && !text.contains('\x1b'), "{text:?}");
}
