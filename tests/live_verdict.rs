//! A real deadlock from the verdict to the recovery: state, page, API and liveness probe agree at every step.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use lab::{Form, deadlock};
use serde_json::Value;
use support::verdict::{load, start};
use support::{Exporter, wait_for};

fn api(exporter: &Exporter) -> Value {
    serde_json::from_str(&exporter.get("/api/v1/brokers").1).unwrap()
}

fn broker(api: &Value, id: i32) -> &Value {
    api["brokers"].as_array().unwrap().iter().find(|broker| broker["id"] == id).unwrap()
}

fn state(exporter: &Exporter, id: i32) -> String {
    broker(&api(exporter), id)["state"].as_str().unwrap().to_owned()
}

#[test]
fn from_the_deadlock_to_the_recovery() {
    let (mut cluster, exporter) = start();
    let ids: Vec<i32> = cluster.brokers().map(|broker| broker.id()).collect();
    let live = |id: i32| exporter.get(&format!("/brokers/{id}/live"));
    for id in &ids {
        wait_for("healthy brokers", Duration::from_secs(20), || state(&exporter, *id) == "healthy");
        assert_eq!(live(*id).0, 200);
    }

    let made = deadlock::make(&cluster, Form::Expire).unwrap();
    let sick = made.broker;
    wait_for("the verdict", Duration::from_secs(10), || state(&exporter, sick) == "gray");
    let answer = api(&exporter);
    let verdict = broker(&answer, sick)["verdict"].as_str().unwrap();
    let begin = format!("Broker {sick} is alive but deadlocked since ");
    assert!(verdict.starts_with(&begin) && verdict.contains("KAFKA-3994, fixed in 0.10.1.1"), "{verdict}");
    if std::env::var_os("SKIP_PAGE").is_none() {
        assert!(exporter.page().contains(verdict), "the page says something else than {verdict}");
    }
    let others: Vec<i32> = ids.iter().copied().filter(|id| *id != sick).collect();

    // A second dump that shows the same, the evidence, then the probe fails, for this broker alone.
    wait_for("the probe to fail", Duration::from_secs(45), || live(sick).0 == 503);
    println!("503 {:.1} s after the followers went on, {}", made.followers_continued.elapsed().as_secs_f64(), load());
    let (_, reason) = live(sick);
    assert!(reason.contains("Only a restart cures it") && reason.contains("wait for each other"), "{reason}");
    for id in &others {
        assert_eq!(live(*id).0, 200);
        assert_ne!(state(&exporter, *id), "gray", "a healthy broker is accused");
    }

    // What a kubelet does. SIGTERM would hang.
    cluster.kill(sick).unwrap();
    wait_for("the end to be told", Duration::from_secs(15), || state(&exporter, sick) == "down");
    let restarted = Instant::now();
    cluster.start_again(sick).unwrap();
    wait_for("the recovery", Duration::from_secs(90), || {
        broker(&api(&exporter), sick)["recovery"]["whole"].is_string()
    });
    println!("recovered {:.1} s after the restart, {}", restarted.elapsed().as_secs_f64(), load());
    let answer = api(&exporter);
    let recovered = broker(&answer, sick);
    assert_eq!((recovered["state"].as_str(), recovered["recovery"]["from"].as_str()), (Some("healthy"), Some("gray")));
    // Grown back by that broker's own tools as well.
    cluster.wait_whole(Duration::from_secs(30)).unwrap();
    let events = answer["timeline"].as_array().unwrap().iter().filter(|event| event["broker"] == sick.to_string());
    let events: Vec<&str> = events.map(|event| event["what"].as_str().unwrap()).collect();
    let mut expected =
        ["is gray", "is down", "is healthy", "recovered: it is in every ISR again"].into_iter().peekable();
    events.iter().for_each(|event| drop(expected.next_if_eq(event)));
    assert_eq!(expected.next(), None, "missing in the timeline {events:?}");
    assert_eq!(live(sick).0, 200);
}
