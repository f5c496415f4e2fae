//! `kafka-vitals analyze` on the incident's own files reaches the conclusions of people (the incident's README).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

use kafka_vitals::analyze;
use proptest::prelude::*;
use serde_json::{Value, json};

const SAVED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/saved");

fn analyze(arguments: &[&str]) -> Output {
    analyze_in(
        concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/thread_dumps/incident/jstack"
        )
        .as_ref(),
        arguments,
    )
}

fn analyze_in(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kafka-vitals"));
    command
        .arg("analyze")
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

fn json_of(output: Output) -> Value {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn as_json_in(folder: &Path, file: &str) -> Value {
    json_of(analyze_in(folder, &[file, "--output", "json"]))
}

fn broker<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let brokers = answer["brokers"].as_array().unwrap();
    brokers
        .iter()
        .find(|broker| broker["broker"] == name)
        .unwrap_or_else(|| panic!("no {name} in {answer}"))
}

/// The facts of one kind: the last part of the source, and the figures.
fn facts(facts: &Value, kind: &str) -> Vec<(String, Value)> {
    let facts = facts
        .as_array()
        .unwrap()
        .iter()
        .filter(|fact| fact["kind"] == kind);
    let name = |fact: &Value| {
        fact["source"]
            .as_str()
            .unwrap()
            .rsplit('/')
            .next()
            .unwrap()
            .to_owned()
    };
    facts
        .map(|fact| (name(fact), fact["figures"].clone()))
        .collect()
}

fn partitions(facts: &Value, kind: &str) -> Value {
    facts
        .as_array()
        .unwrap()
        .iter()
        .find(|fact| fact["kind"] == kind)
        .unwrap()["partitions"]
        .clone()
}

/// Each thread, what it holds, what it wants.
fn members(deadlock: &Value) -> Vec<[&str; 3]> {
    let cycle = deadlock["cycle"].as_array().unwrap().iter();
    cycle
        .map(|member| ["thread", "holds", "wants"].map(|key| member[key].as_str().unwrap()))
        .collect()
}

#[test]
fn dumps_alone_show_their_deadlocks_in_order() {
    let files = ["219.txt", "after-upgrade.txt"];
    let answer = json_of(analyze(&[&files[..], &["--output", "json"]].concat()));
    let [before, after] = answer["deadlocks"].as_array().unwrap().as_slice() else {
        panic!("{answer}")
    };
    let (group, list, produce) = (
        "kafka.coordinator.GroupMetadata",
        "java.util.LinkedList",
        "kafka.server.DelayedProduce",
    );
    assert_eq!(
        members(before),
        [
            ["group-metadata-manager-0", group, list],
            ["kafka-request-handler-3", list, group]
        ]
    );
    assert_eq!(before["waiting"], json!(["executor-Heartbeat"]));
    assert_eq!(
        members(after),
        [
            ["executor-Heartbeat", group, produce],
            ["kafka-scheduler-5", produce, group]
        ]
    );
    assert!(
        after["known_issues"][0]["advise"]
            .as_str()
            .unwrap()
            .starts_with("1.0.0 or later")
    );
    let text = String::from_utf8(analyze(&files).stdout).unwrap();
    let place = |what: &str| {
        text.find(what)
            .unwrap_or_else(|| panic!("{what} is not in {text}"))
    };
    let waiting = "blocked behind the deadlock: executor-Heartbeat";
    let places = [
        "219.txt",
        waiting,
        "KAFKA-4399",
        "after-upgrade.txt",
        "KAFKA-5970",
    ]
    .map(place);
    assert!(places.is_sorted(), "{places:?} in {text}");
}

#[test]
fn an_unknown_file_is_reported_with_its_name() {
    for file in ["no-such-file.txt", "../../../../../Cargo.toml"] {
        let output = analyze(&[file]);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8(output.stderr).unwrap().contains(file));
    }
}

/// The complete answers; `make docs` rewrites them. The next two tests check that they are right.
#[test]
fn golden_answers_for_the_incident_and_its_recording() {
    for folder in ["incident", "incident-0.10.1.0"] {
        for form in ["text", "json"] {
            let output = analyze_in(SAVED.as_ref(), &[folder, "--output", form]);
            assert!(output.status.success());
            let path = format!(
                "{}/tests/golden/analyze-{folder}.{form}",
                env!("CARGO_MANIFEST_DIR")
            );
            if std::env::var_os("KAFKA_VITALS_REFRESH").is_some() {
                std::fs::write(&path, &output.stdout).unwrap();
            }
            let golden = std::fs::read_to_string(&path).unwrap();
            let answer = String::from_utf8(output.stdout).unwrap();
            let differs =
                std::iter::zip(golden.lines(), answer.lines()).find(|(golden, now)| golden != now);
            assert!(
                golden == answer,
                "{path} differs, first in {differs:?}; if that is meant: make docs"
            );
        }
    }
}

/// What people found in a day (the incident's README), with counts made by the commands in the comments.
#[test]
fn the_incident_is_explained_as_people_found_it() {
    let answer = as_json_in(SAVED.as_ref(), "incident");
    let stuck = broker(&answer, "219");
    assert_eq!(
        (&answer["brokers"][0], &stuck["verdict"]),
        (stuck, &json!("gray"))
    );
    let [known] = stuck["known_issues"].as_array().unwrap().as_slice() else {
        panic!("{stuck}")
    };
    assert_eq!(
        (&known["issue"], &known["match"], &known["fixed_in"][0]),
        (&json!("KAFKA-4399"), &json!("exact"), &json!("0.10.1.1"))
    );
    assert_eq!(
        known["relatives"],
        json!(["KAFKA-3994", "KAFKA-4478", "KAFKA-4562"])
    );
    for follower in ["217", "218"] {
        let follower = broker(&answer, follower);
        assert_eq!(
            (&follower["verdict"], &follower["suffers_from"]),
            (&json!("no_finding"), &json!(["219"]))
        );
    }
    let of = |kind| facts(&stuck["facts"], kind);
    let sockets = |connections: u32, bytes: u32| json!({"connections": connections, "with_bytes": connections, "bytes": bytes});
    // awk '$6=="CLOSE_WAIT"{n++; s+=$2-1; if($2>1)u++} END{print n,u,s}' netstat-antp-219.txt: 10 10 45588
    assert_eq!(
        of("close_wait"),
        [("netstat-antp-219.txt".to_owned(), sockets(10, 45588))]
    );
    // awk '$6=="FIN_WAIT1" && /219:9092/{n++; s+=$3} END{print n,s}' netstat-antp-217.txt: 7 368983
    assert_eq!(
        of("fin_wait1_towards_it"),
        [("netstat-antp-217.txt".to_owned(), sockets(7, 368_983))]
    );
    // grep -c FIN_WAIT2 netstat-an-218-grep-219.txt: 5
    assert_eq!(of("fin_wait2_towards_it")[0].1["connections"], 5);
    // awk '/Partition:/ && $6==219{l++; if($10==219)a=a" "$4} END{print l, a}' kafka-topics-describe.txt: 11  1 7 10 25
    assert_eq!(
        of("leader_alone"),
        [(
            "kafka-topics-describe.txt".to_owned(),
            json!({"leads": 11, "alone": 4})
        )]
    );
    let alone = [1, 7, 10, 25].map(|partition| format!("st.topic.yery.test-{partition}"));
    assert_eq!(partitions(&stuck["facts"], "leader_alone"), json!(alone));
    // grep -c 'Connection to 219 was disconnected' 217-server.log 218-server.log: 1 1
    let once = json!({"times": 1});
    assert_eq!(
        of("disconnects"),
        [
            ("217-server.log".to_owned(), once.clone()),
            ("218-server.log".to_owned(), once)
        ]
    );
    // grep -c 'Error: NETWORK_EXCEPTION' and grep -c 'server disconnected' console-producer.log: 12 4
    let [(_, produced)] = facts(&answer["elsewhere"], "produce_errors")
        .try_into()
        .unwrap();
    assert_eq!(
        produced,
        json!({"times": 12, "partitions": 4, "unanswered": 4})
    );
    // After the upgrade: another deadlock, of a broker that no file names.
    let file = |name: &str| {
        let files = answer["files"].as_array().unwrap();
        files
            .iter()
            .find(|file| file["source"].as_str().unwrap().ends_with(name))
            .unwrap()
    };
    assert_eq!(file("after-upgrade.txt")["broker"], Value::Null);
    let after = &answer["deadlocks"][1]["known_issues"][0];
    assert_eq!(
        (&after["issue"], &after["match"]),
        (&json!("KAFKA-5970"), &json!("similar"))
    );
    assert_eq!(file("jstack/219.txt")["by"], "file_name");
    assert_eq!(
        (&file("217.txt")["broker"], &file("217.txt")["by"]),
        (&json!("217"), &json!("last_part_of_address"))
    );
    let left_out = answer["not_recognised"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["source"].as_str().unwrap());
    let left_out: Vec<&str> = left_out
        .map(|source| source.rsplit('/').next().unwrap())
        .collect();
    assert_eq!(
        left_out,
        [
            "README.md",
            "figures.tsv",
            "consumer-groups-list.txt",
            "ping.txt",
            "telnet-from-218.txt"
        ]
    );
}

/// `events.txt` of the recording says broker 2; the counts were made with the commands in the comments.
#[test]
fn the_recording_is_explained_as_it_was_made() {
    let answer = as_json_in(SAVED.as_ref(), "incident-0.10.1.0");
    let stuck = broker(&answer, "2");
    assert_eq!(
        (&stuck["verdict"], &stuck["version"], &stuck["deadlocks"]),
        (&json!("gray"), &json!("0.10.1.0"), &json!([0, 1, 2, 3]))
    );
    assert_eq!(
        (
            &stuck["known_issues"][0]["issue"],
            &stuck["known_issues"][0]["match"]
        ),
        (&json!("KAFKA-3994"), &json!("exact"))
    );
    for other in ["1", "3"] {
        assert_eq!(broker(&answer, other)["suffers_from"], json!(["2"]));
    }
    let of = |kind| facts(&stuck["facts"], kind);
    // awk '$1=="CLOSE-WAIT" && $4 ~ /:59093$/' ss-at-deadlock.txt | wc -l: 1, ss-end.txt: 154; with $2>1: 0
    assert_eq!(
        of("close_wait")
            .iter()
            .map(|(_, figures)| &figures["connections"])
            .collect::<Vec<_>>(),
        [154, 1]
    );
    // grep -c -- ' -> ' and ' -> socket' fd-at-deadlock.txt: 139 17, fd-end.txt: 293 171
    let handles = |handles: u32, sockets: u32| json!({"handles": handles, "sockets": sockets, "untracked": 0});
    assert_eq!(
        of("handles")
            .into_iter()
            .map(|(_, figures)| figures)
            .collect::<Vec<_>>(),
        [handles(139, 17), handles(293, 171)]
    );
    // grep -c 'Connection to 2 was disconnected' broker1.log broker3.log: 5 3
    assert_eq!(
        of("disconnects")
            .iter()
            .map(|(_, figures)| &figures["times"])
            .collect::<Vec<_>>(),
        [5, 3]
    );
    // awk '/Partition:/ && $6==2{l++; if($10==2)a=a" "$2"-"$4} END{print l, a}' topics-describe.txt: 27 and these four
    assert_eq!(of("leader_alone")[0].1, json!({"leads": 27, "alone": 4}));
    let alone = json!([
        "__consumer_offsets-14",
        "__consumer_offsets-32",
        "t32-15",
        "t32-21"
    ]);
    assert_eq!(partitions(&stuck["facts"], "leader_alone"), alone);
    // The log shows five; one of them expanded again.
    assert_eq!(partitions(&stuck["facts"], "shrank_to_itself"), alone);
    // The content of each file of one broker identifies the broker.
    let files = answer["files"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|file| file["broker"] != Value::Null);
    assert_eq!(
        files
            .map(|file| &file["by"])
            .filter(|by| **by == "content")
            .count(),
        9
    );
}

/// The same files under names without ids: the verdict stands, only the dump has lost its broker.
#[test]
fn names_of_files_are_not_needed() {
    let folder = tempfile::tempdir().unwrap();
    for part in ["cli", "config", "jstack", "logs", "sockets"] {
        for (number, entry) in std::fs::read_dir(format!("{SAVED}/incident/{part}"))
            .unwrap()
            .enumerate()
        {
            let name = char::from(b'a' + u8::try_from(number).unwrap());
            std::fs::copy(
                entry.unwrap().path(),
                folder.path().join(format!("{part}-{name}")),
            )
            .unwrap();
        }
    }
    let answer = as_json_in(folder.path(), ".");
    let verdicts =
        ["219", "217", "218"].map(|name| broker(&answer, name)["verdict"].as_str().unwrap());
    assert_eq!(verdicts, ["gray", "no_finding", "no_finding"]);
    assert_eq!(broker(&answer, "219")["deadlocks"], json!([]));
    assert_eq!(answer["deadlocks"].as_array().unwrap().len(), 2);
}

/// Neither the dump's content nor its name identifies the broker; `sha256sum` lists the files.
#[test]
fn a_bundle_is_verified_and_identifies_its_broker() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::copy(
        format!("{SAVED}/incident/jstack/219.txt"),
        at("thread-dump-1.txt"),
    )
    .unwrap();
    for name in ["limits.txt", "status.txt", "timeline.txt"] {
        std::fs::write(at(name), format!("of no form that is known: {name}")).unwrap();
    }
    let mut sha256sum = Command::new("sha256sum");
    sha256sum.args([
        "thread-dump-1.txt",
        "limits.txt",
        "status.txt",
        "timeline.txt",
    ]);
    let sums = sha256sum
        .current_dir(folder.path())
        .output()
        .unwrap()
        .stdout;
    let listed = |line: &str| {
        let (sum, name) = line.split_once("  ").unwrap();
        json!({"name": name, "bytes": std::fs::metadata(at(name)).unwrap().len(), "sha256": sum})
    };
    let manifest = json!({
        "made_by": "kafka-vitals 0.1.0",
        "broker": "219@9092",
        "kafka_version": "0.10.1.0",
        "process": {"pid": 81068, "start_ticks": 1},
        "started": null,
        // date --utc --date 2017-10-12T10:14:02Z +%s000
        "at": 1_507_803_242_000_u64,
        "verdict": "Broker 219 is alive but deadlocked.",
        "findings": ["jvm_deadlock"],
        "files": String::from_utf8(sums).unwrap().lines().map(listed).collect::<Vec<_>>(),
        "missing": [{"name": "server.log", "why": "the disk hangs"}],
    });
    std::fs::write(at("manifest.json"), manifest.to_string()).unwrap();
    let bundle = |answer: &Value| {
        facts(&broker(answer, "219")["facts"], "bundle")[0]
            .1
            .clone()
    };
    let answer = as_json_in(folder.path(), ".");
    let stuck = broker(&answer, "219");
    assert_eq!(
        (&stuck["verdict"], &stuck["version"]),
        (&json!("gray"), &json!("0.10.1.0"))
    );
    assert_eq!(
        bundle(&answer),
        json!({"files": 4, "changed": 0, "absent": 0, "missing": 1})
    );
    assert!(
        answer["files"]
            .as_array()
            .unwrap()
            .iter()
            .all(|file| file["by"] == "manifest"),
        "{answer}"
    );
    assert_eq!(answer["not_recognised"], json!([]));

    std::fs::write(at("status.txt"), "of no form that is known: Status.txt").unwrap();
    std::fs::remove_file(at("limits.txt")).unwrap();
    let answer = as_json_in(folder.path(), ".");
    assert_eq!(
        bundle(&answer),
        json!({"files": 4, "changed": 1, "absent": 1, "missing": 1})
    );
    let text = String::from_utf8(analyze_in(folder.path(), &["."]).stdout).unwrap();
    for expected in [
        "kafka-vitals 0.1.0 saved the evidence of broker 219@9092 at 2017-10-12T10:14:02Z: Broker 219 is alive but",
        "2 of its 4 files are here as they were saved; changed since: status.txt; not among the files given: limits.txt",
        "could not be saved: server.log (the disk hangs)",
    ] {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
}

fn copied(numbers: &[u32]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for number in numbers {
        let name = format!("thread-dump-{number}.txt");
        std::fs::copy(
            format!("{SAVED}/stall-7697/{name}"),
            folder.path().join(name),
        )
        .unwrap();
    }
    folder
}

/// None of them has a cycle: only that nothing moves from one to the next shows the stall.
#[test]
fn dumps_of_one_process_show_a_stall_when_they_span_10_s() {
    let answer = as_json_in(copied(&[1, 2, 3]).path(), ".");
    let stuck = broker(&answer, "1");
    assert_eq!(
        (&stuck["verdict"], &stuck["deadlocks"]),
        (&json!("gray"), &json!([]))
    );
    let [known] = stuck["known_issues"].as_array().unwrap().as_slice() else {
        panic!("{stuck:#}")
    };
    assert_eq!(
        (&known["issue"], &known["match"]),
        (&json!("KAFKA-7697"), &json!("similar"))
    );
    let stall = |threads: u32| ("thread-dump-3.txt".to_owned(), json!({"threads": threads}));
    assert_eq!(facts(&stuck["facts"], "stall"), [stall(2), stall(2)]);
    let text = String::from_utf8(analyze_in(copied(&[1, 3]).path(), &["."]).stdout).unwrap();
    for expected in [
        "Broker 1: alive but not working\n  KAFKA-7697 (probable match)",
        "2 threads of request_handler are stalled in kafka.cluster.Partition.fetchOffsetSnapshot, waiting for \
         java.util.concurrent.locks.ReentrantReadWriteLock$NonfairSync, 2026-11-22 23:58:00 to 2026-11-22 23:58:15",
    ] {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
    // 8 s apart, and 7 s; one dump twice; dumps of two processes at the same place.
    let copies = copied(&[1, 3]);
    let first = std::fs::read_to_string(copies.path().join("thread-dump-1.txt")).unwrap();
    std::fs::write(
        copies.path().join("thread-dump-1.txt"),
        first.replace(" nid=0x77", " nid=0x78"),
    )
    .unwrap();
    let twice = copied(&[1]);
    std::fs::copy(
        twice.path().join("thread-dump-1.txt"),
        twice.path().join("again.txt"),
    )
    .unwrap();
    for folder in [copied(&[1, 2]), copied(&[2, 3]), twice, copies] {
        let answer = as_json_in(folder.path(), ".");
        assert_eq!(broker(&answer, "1")["verdict"], "no_finding", "{answer:#}");
    }
}

/// What the exporter found stands, even where the files beside it do not show it.
#[test]
fn a_broker_that_its_bundle_calls_gray_is_not_acquitted() {
    use kafka_vitals::model::Moment;
    use kafka_vitals::verdict::finding::{BrokerDiagnosis, BrokerState, Finding, FindingId};

    let diagnosis = |state| BrokerDiagnosis {
        label: "1@9092".into(),
        state,
        sentence: "Broker 1@9092 accepts connections and answers nothing since 10:14:02 UTC."
            .into(),
        findings: vec![Finding {
            id: FindingId::ApiUnresponsive,
            last_seen: None,
            since: Moment(1),
            facts: vec!["api: no answer within 2 s".into()],
        }],
        ..BrokerDiagnosis::default()
    };
    let folder = copied(&[1]);
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
    for (state, verdict) in [
        (BrokerState::Gray, "gray"),
        (BrokerState::Suspect, "suspect"),
        (BrokerState::Healthy, "no_finding"),
    ] {
        write(
            "findings.json",
            serde_json::to_string_pretty(&diagnosis(state)).unwrap(),
        );
        let answer = as_json_in(folder.path(), ".");
        assert_eq!(
            (&broker(&answer, "1")["verdict"], &answer["not_recognised"]),
            (&json!(verdict), &json!([]))
        );
    }
    let text = String::from_utf8(analyze_in(folder.path(), &["."]).stdout).unwrap();
    let found = "accepts connections and answers nothing since 10:14:02 UTC. api_unresponsive: api: no answer within 2 s.";
    assert!(text.contains(found), "{text}");

    std::fs::remove_file(folder.path().join("findings.json")).unwrap();
    for (finding, verdict) in [
        ("api_unresponsive", "gray"),
        ("isr_leader_alone", "no_finding"),
    ] {
        let manifest = json!({
            "made_by": "kafka-vitals 0.1.0", "broker": "1@9092", "process": {"pid": 7, "start_ticks": 1},
            "started": null, "at": 1, "verdict": "", "findings": [finding], "files": [], "missing": [],
        });
        write("manifest.json", manifest.to_string());
        assert_eq!(
            broker(&as_json_in(folder.path(), "."), "1")["verdict"],
            verdict,
            "{finding}"
        );
    }
}

/// A stopped broker is missing under every leader: leaders that are alone in an ISR are not to blame.
#[test]
fn a_broker_that_is_down_is_not_confused_with_its_leaders() {
    let kafka = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/kafka");
    for file in [
        "0.10.1.0-one-stopped.describe.txt",
        "4.3.0-one-stopped.describe.txt",
    ] {
        let answer = as_json_in(kafka.as_ref(), file);
        let verdicts =
            ["1", "2", "3"].map(|name| broker(&answer, name)["verdict"].as_str().unwrap());
        assert_eq!(verdicts, ["no_finding", "suspect", "no_finding"], "{file}");
    }
    let healthy = as_json_in(kafka.as_ref(), "0.10.1.0-healthy.describe.txt");
    assert!(
        healthy["brokers"]
            .as_array()
            .unwrap()
            .iter()
            .all(|broker| broker["verdict"] == "no_finding")
    );
}

#[test]
fn a_hostile_folder_is_walked_within_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(at("1/2/3/4/5/6/7/8/9/10")).unwrap();
    std::fs::copy(
        format!("{SAVED}/incident/jstack/219.txt"),
        at("1/2/\u{1b}[31mdump"),
    )
    .unwrap();
    std::os::unix::fs::symlink(folder.path(), at("1/loop")).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(at("fifo"))
            .status()
            .unwrap()
            .success()
    );
    let _listener = UnixListener::bind(at("socket")).unwrap();
    std::fs::write(at("empty"), "").unwrap();
    std::fs::write(at("binary"), [0, 159, 146, 150]).unwrap();
    // Takes no place on the disk.
    std::fs::File::create(at("huge"))
        .unwrap()
        .set_len(257 << 20)
        .unwrap();
    let output = analyze_in(folder.path(), &[".", "no-such-file"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && text.contains("KAFKA-4399") && !text.contains('\u{1b}'),
        "{text}"
    );
    for (name, reason) in [
        ("no-such-file", "does not exist"),
        ("1/2/3/4/5/6/7/8/9", "folders deep"),
        ("1/loop", "a link, not followed"),
        ("fifo", "not opened"),
        ("socket", "not opened"),
        ("empty", "empty"),
        ("binary", "not text"),
        ("huge", "too big"),
    ] {
        let listed = text
            .lines()
            .any(|line| line.contains(&format!("{name}: ")) && line.contains(reason));
        assert!(listed, "{name}: {reason} is not in {text}");
    }
    let alone = analyze_in(folder.path(), &["huge"]);
    assert_eq!(alone.status.code(), Some(2));
    assert!(String::from_utf8(alone.stderr).unwrap().contains("huge"));
}

/// Above 8 MB only the lines that say something are kept: the counts and the end are those of the whole log.
#[test]
fn a_long_log_is_counted_whole() {
    let folder = tempfile::tempdir().unwrap();
    let filler =
        "Stabilized group g generation 7 with 3 members (kafka.coordinator.group.GroupCoordinator)";
    let mut text = String::new();
    for n in 0..90_000 {
        let time = format!(
            "[2024-01-02 {:02}:{:02}:{:02},678]",
            n / 3600,
            n / 60 % 60,
            n % 60
        );
        text += &format!("{time} INFO [GroupCoordinator 1]: {filler}\n");
        if n % 1000 == 500 {
            text += "java.io.IOException: Connection to 3 was disconnected before the response was read\n\tat a.B.c(D.java:7)\n";
        }
    }
    assert!(text.len() > 9 << 20);
    std::fs::write(folder.path().join("server.log"), text).unwrap();
    let answer = as_json_in(folder.path(), "server.log");
    let lost = &broker(&answer, "3")["facts"][0];
    assert_eq!(lost["figures"]["times"], 90);
    assert_eq!(
        lost["text"],
        "broker 1 lost its connection to it 90 times, 2024-01-02 00:08:20 to 2024-01-02 24:51:40"
    );
    assert_eq!(answer["files"][0]["broker"], "1");
}

fn pieces() -> Vec<Vec<u8>> {
    let files = [
        "sockets/netstat-antp-219.txt",
        "cli/kafka-topics-describe.txt",
        "logs/console-producer.log",
        "jstack/219.txt",
    ];
    let more = [
        "cli/zk-ls-brokers-ids.txt",
        "config/server-218.properties",
        "logs/217-server.log",
    ];
    files
        .into_iter()
        .chain(more)
        .map(|file| std::fs::read(format!("{SAVED}/incident/{file}")).unwrap())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Pieces of real files, cut anywhere, with any bytes between them.
    #[test]
    fn any_bytes_are_explained(cuts in prop::collection::vec((0..7_usize, any::<prop::sample::Index>(), any::<[u8; 6]>()), 1..6)) {
        let pieces = pieces();
        let mut bytes = Vec::new();
        for (piece, cut, noise) in cuts {
            let piece = &pieces[piece];
            bytes.extend(&piece[cut.index(piece.len())..]);
            bytes.extend(noise);
        }
        let explanation = analyze::explain(&[("219.txt".to_owned(), bytes.clone()), ("218.txt".to_owned(), bytes)]);
        prop_assert_eq!(explanation.files.len() + explanation.not_recognised.len(), 2);
    }
}

/// A likely deadlock alone makes no broker gray; a dump of which a part was not understood does not acquit it.
#[test]
fn a_likely_deadlock_and_what_was_not_understood() {
    let network = "\"kafka-network-thread-1-ListenerName(PLAINTEXT)-PLAINTEXT-0\" #5 prio=5 tid=0x0000000000000005 nid=0x5 runnable\n\
        \x20  java.lang.Thread.State: RUNNABLE\n\tat sun.nio.ch.EPoll.wait(Native Method)\n\n";
    let closer = "\"closer\" #6 prio=5 tid=0x0000000000000006 nid=0x6 in Object.wait()\n   java.lang.Thread.State: WAITING (on object monitor)\n\
        \tat java.lang.Object.wait(Native Method)\n\t- waiting on <0x0e> (a x.Worker)\n\tat java.lang.Thread.join(Thread.java:1)\n\
        \tat x.Closer.close(Closer.java:1)\n\t- locked <0x0f> (a x.Closer)\n\n";
    let worker = "\"worker\" #7 prio=5 tid=0x0000000000000007 nid=0x7 waiting for monitor entry\n   java.lang.Thread.State: BLOCKED (on object monitor)\n\
        \tat x.Worker.run(Worker.java:1)\n\t- waiting to lock <0x0f> (a x.Closer)\n\n";
    let explained = |threads: String| {
        let text = format!(
            "Full thread dump OpenJDK 64-Bit Server VM (17.0.15+6 mixed mode):\n\n{threads}JNI global refs: 4, weak refs: 0\n"
        );
        let files = [("1.txt".to_owned(), text.into_bytes())];
        serde_json::to_value(analyze::explain(&files)).unwrap()
    };
    let likely = explained(format!("{network}{closer}{worker}"));
    let of_1 = broker(&likely, "1");
    assert_eq!(of_1["verdict"], "suspect");
    assert_eq!(of_1["facts"][0]["kind"], "likely_deadlock");
    assert_eq!(of_1["facts"][0]["against"], "dump");
    assert_eq!(
        likely["likely_deadlocks"][0]["text"],
        "closer waits in java.lang.Thread.join and holds x.Closer, which worker wants: if it waits for worker, neither continues"
    );
    assert_eq!(likely["deadlocks"], json!([]));
    let without_lock = worker.replace("\t- waiting to lock <0x0f> (a x.Closer)\n", "");
    let not = explained(format!("{network}{closer}{without_lock}"));
    let of_1 = broker(&not, "1");
    assert_eq!(of_1["verdict"], "no_finding");
    assert_eq!(
        of_1["facts"][0]["text"],
        "not understood in its dump: the lock that worker waits for"
    );
    assert_eq!(
        not["dumps"][0]["not_understood"],
        json!(["the lock that worker waits for"])
    );
    // Parts of a dump are recognised as such.
    let parts = [("1.txt".to_owned(), worker.replace('"', "").into_bytes())];
    let parts = serde_json::to_value(analyze::explain(&parts)).unwrap();
    assert_eq!(parts["files"][0]["forms"], json!(["thread dump"]));
    assert_eq!(
        parts["dumps"][0]["not_understood"],
        json!(["1 BLOCKED thread"])
    );
}
