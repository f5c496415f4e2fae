//! A real deadlock from the verdict to the recovery: state, page, API, `check` and liveness probe agree at every step.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use lab::{Cluster, Form, deadlock};
use serde_json::Value;
use support::verdict::{load, start};
use support::{Exporter, wait_for};

fn api(exporter: &Exporter) -> Value {
    serde_json::from_str(&exporter.get("/api/v1/brokers").1).unwrap()
}

fn broker(api: &Value, id: i32) -> &Value {
    api["brokers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|broker| broker["id"] == id)
        .unwrap()
}

fn state(exporter: &Exporter, id: i32) -> String {
    broker(&api(exporter), id)["state"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Runs `kafka-vitals check` in the cell: what it prints, and its exit code. Where `port` is of no exporter it looks itself.
fn check(cluster: &Cluster, port: u16, arguments: &[&str]) -> (String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kafka-vitals"));
    command
        .arg("check")
        .arg(format!("--address=127.0.0.1:{port}"))
        .args(arguments);
    let output = cluster
        .cell()
        .run_tool(command, Duration::from_secs(60))
        .unwrap();
    let wrong = output.status.code() == Some(3);
    assert!(
        wrong || output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    (
        String::from_utf8(output.stdout).unwrap(),
        output.status.code(),
    )
}

/// For `make pictures`.
fn keep(exporter: &Exporter, name: &str) {
    let page = exporter.page();
    assert!(page.len() < 100_000, "{} bytes", page.len());
    let folder = env!("CARGO_TARGET_TMPDIR");
    // As a service has it.
    std::fs::write(
        format!("{folder}/page-{name}.html"),
        page.replace(folder, "/var/lib"),
    )
    .unwrap();
}

#[test]
fn from_the_deadlock_to_the_recovery() {
    let (mut cluster, exporter) = start();
    let ids: Vec<i32> = cluster.brokers().map(|broker| broker.id()).collect();
    let live = |id: i32| exporter.get(&format!("/brokers/{id}/live"));
    for id in &ids {
        wait_for("healthy brokers", Duration::from_secs(20), || {
            state(&exporter, *id) == "healthy"
        });
        assert_eq!(live(*id).0, 200);
    }
    wait_for("every round", Duration::from_secs(20), || {
        !exporter.page().contains("not read yet")
    });
    keep(&exporter, "healthy");
    let closed = cluster.cell().free_ports(1).unwrap()[0];
    for port in [exporter.port, closed] {
        let (text, code) = check(&cluster, port, &[]);
        assert!(
            text.starts_with("OK: All 3 brokers of this host are healthy.\n") && code == Some(0),
            "{code:?} {text}"
        );
        assert!(text.lines().count() <= 24, "{text}");
    }
    assert_eq!(check(&cluster, closed, &["--no-such-flag"]).1, Some(3));

    let made = deadlock::make(&cluster, Form::Expire).unwrap();
    let sick = made.broker;
    wait_for("the verdict", Duration::from_secs(10), || {
        state(&exporter, sick) == "gray"
    });
    // The followers stood still for a moment, as the lab makes the deadlock.
    let others: Vec<i32> = ids.iter().copied().filter(|id| *id != sick).collect();
    wait_for("the others to be well", Duration::from_secs(20), || {
        others.iter().all(|id| state(&exporter, *id) == "healthy")
    });
    let answer = api(&exporter);
    let verdict = broker(&answer, sick)["verdict"].as_str().unwrap();
    let begin = format!("Broker {sick} is alive but deadlocked since ");
    assert!(
        verdict.starts_with(&begin) && verdict.contains("KAFKA-3994, fixed in 0.10.1.1"),
        "{verdict}"
    );
    // The verdict can change between two answers.
    wait_for("page and API to agree", Duration::from_secs(20), || {
        let page = exporter.page();
        let answer = api(&exporter);
        page.contains(broker(&answer, sick)["verdict"].as_str().unwrap())
    });
    for port in [exporter.port, closed] {
        let (text, code) = check(&cluster, port, &[]);
        let told = text.starts_with(&format!("CRITICAL: {begin}"))
            && text.contains("KAFKA-3994, fixed in 0.10.1.1");
        assert!(told && code == Some(2), "{code:?} {text}");
        let (json, code) = check(&cluster, port, &["--output=json"]);
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (broker(&json, sick)["state"].as_str(), code),
            (Some("gray"), Some(2))
        );
    }

    // A second dump that shows the same, the evidence, then the probe fails, for this broker alone.
    // A broker that knew less than the whole cluster at the first look has just come back: that takes a minute.
    let begun = Instant::now();
    while live(sick).0 != 503 {
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "the probe passes: {}",
            live(sick).1
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    println!(
        "503 {:.1} s after the followers went on, {}",
        made.followers_continued.elapsed().as_secs_f64(),
        load()
    );
    let (_, reason) = live(sick);
    assert!(
        reason.contains("Only a restart cures it") && reason.contains("wait for each other"),
        "{reason}"
    );
    keep(&exporter, "gray");
    for id in &others {
        assert_eq!(live(*id).0, 200);
        assert_ne!(state(&exporter, *id), "gray", "a healthy broker is accused");
    }

    // What a kubelet does. SIGTERM would hang.
    cluster.kill(sick).unwrap();
    wait_for("the end to be told", Duration::from_secs(15), || {
        state(&exporter, sick) == "down"
    });
    let restarted = Instant::now();
    cluster.start_again(sick).unwrap();
    wait_for("the recovery", Duration::from_secs(90), || {
        broker(&api(&exporter), sick)["recovery"]["in_every_isr"].is_string()
    });
    println!(
        "recovered {:.1} s after the restart, {}",
        restarted.elapsed().as_secs_f64(),
        load()
    );
    let answer = api(&exporter);
    let recovered = broker(&answer, sick);
    assert_eq!(
        (
            recovered["state"].as_str(),
            recovered["recovery"]["from"].as_str()
        ),
        (Some("healthy"), Some("gray"))
    );
    // Grown back by that broker's own tools as well.
    cluster
        .wait_fully_replicated(Duration::from_secs(30))
        .unwrap();
    let label = sick.to_string();
    let events = answer["timeline"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["broker"].as_str() == Some(&label));
    let events: Vec<&str> = events
        .map(|event| event["what"].as_str().unwrap())
        .collect();
    let mut expected = [
        "is gray",
        "is down",
        "is healthy",
        "recovered: it is in every ISR again",
    ]
    .into_iter()
    .peekable();
    for event in &events {
        let _ = expected.next_if_eq(event);
    }
    assert_eq!(expected.next(), None, "missing in the timeline {events:?}");
    assert_eq!(live(sick).0, 200);

    // Only stopped: what decides is read from outside.
    cluster.pause(others[0]).unwrap();
    let (text, code) = check(&cluster, closed, &[]);
    cluster.resume(others[0]).unwrap();
    let told = text.starts_with(&format!(
        "CRITICAL: Broker {} is stopped by a signal since ",
        others[0]
    ));
    assert!(told && code == Some(2), "{code:?} {text}");
}
