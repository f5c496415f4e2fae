//! The verdict: state, page, API, `check` and liveness probe agree at every step.

use std::process::Command;
use std::time::{Duration, Instant};

use lab::{Cluster, Deadlock};
use serde_json::Value;

use crate::support::verdict::load;
use crate::support::{Exporter, fakes, skip, wait_for};

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

fn live(exporter: &Exporter, id: i32) -> (u16, String) {
    exporter.get(&format!("/brokers/{id}/live"))
}

fn ids_without(cluster: &Cluster, sick: i32) -> Vec<i32> {
    let ids = cluster.brokers().map(|broker| broker.id());
    ids.filter(|id| *id != sick).collect()
}

/// Runs `kafka-vitals check` in the cell and returns its output and exit code. If no exporter listens on `port`, it
/// examines the brokers itself.
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

/// Saves the page for `make pictures`.
fn save_page(exporter: &Exporter, name: &str) {
    let page = exporter.page();
    assert!(page.len() < 100_000, "{} bytes", page.len());
    let folder = env!("CARGO_TARGET_TMPDIR");
    // The pictures show the folder of a service.
    std::fs::write(
        format!("{folder}/page-{name}.html"),
        page.replace(folder, "/var/lib"),
    )
    .unwrap();
}

pub fn healthy(cluster: &Cluster, exporter: &Exporter, closed_port: u16) {
    for id in cluster.brokers().map(|broker| broker.id()) {
        wait_for("healthy brokers", Duration::from_secs(20), || {
            state(exporter, id) == "healthy"
        });
        assert_eq!(live(exporter, id).0, 200);
    }
    wait_for("every round", Duration::from_secs(20), || {
        !exporter.page().contains("not read yet")
    });
    save_page(exporter, "healthy");
    for port in [exporter.port, closed_port] {
        let (text, code) = check(cluster, port, &[]);
        assert!(
            text.starts_with("OK: All 3 brokers of this host are healthy.\n") && code == Some(0),
            "{code:?} {text}"
        );
        assert!(text.lines().count() <= 24, "{text}");
    }
    assert_eq!(check(cluster, closed_port, &["--no-such-flag"]).1, Some(3));
}

pub fn gray(cluster: &Cluster, exporter: &Exporter, closed_port: u16, made: &Deadlock) {
    let sick = made.broker;
    let others = ids_without(cluster, sick);
    wait_for("the verdict", Duration::from_secs(10), || {
        state(exporter, sick) == "gray"
    });
    let mut answer = Value::Null;
    // The lab stopped the others for a moment.
    wait_for("the others to be healthy", Duration::from_secs(20), || {
        answer = api(exporter);
        broker(&answer, sick)["state"] == "gray"
            && others
                .iter()
                .all(|id| broker(&answer, *id)["state"] == "healthy")
    });
    let verdict = broker(&answer, sick)["verdict"].as_str().unwrap();
    let begin = format!("Broker {sick} is alive but deadlocked since ");
    assert!(
        verdict.starts_with(&begin) && verdict.contains("KAFKA-3994, fixed in 0.10.1.1"),
        "{verdict}"
    );
    // The verdict can change between two answers.
    wait_for("page and API to agree", Duration::from_secs(20), || {
        let page = exporter.page();
        let answer = api(exporter);
        page.contains(broker(&answer, sick)["verdict"].as_str().unwrap())
    });
    for port in [exporter.port, closed_port] {
        let (text, code) = check(cluster, port, &[]);
        let complete = text.starts_with(&format!("CRITICAL: {begin}"))
            && text.contains("KAFKA-3994, fixed in 0.10.1.1");
        assert!(complete && code == Some(2), "{code:?} {text}");
        let (json, code) = check(cluster, port, &["--output=json"]);
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (broker(&json, sick)["state"].as_str(), code),
            (Some("gray"), Some(2))
        );
    }
}

/// The probe fails after a second dump with the same deadlock, and after the evidence is saved. A broker that did not know
/// all brokers at the first reading counts as restarted, which takes a minute more.
pub fn probe_fails(cluster: &Cluster, exporter: &Exporter, made: &Deadlock) {
    let mut answer = live(exporter, made.broker);
    let start = Instant::now();
    while answer.0 != 503 {
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "the probe passes: {}",
            answer.1
        );
        std::thread::sleep(Duration::from_millis(200));
        answer = live(exporter, made.broker);
    }
    println!(
        "503 {:.1} s after the followers went on, {}",
        made.followers_continued.elapsed().as_secs_f64(),
        load()
    );
    let reason = answer.1;
    assert!(
        reason.contains("Only a restart cures it") && reason.contains("wait for each other"),
        "{reason}"
    );
    save_page(exporter, "gray");
    strangers_change_no_answer(cluster, exporter, made.broker);
    for id in ids_without(cluster, made.broker) {
        assert_eq!(live(exporter, id).0, 200);
        assert_ne!(state(exporter, id), "gray", "a healthy broker is accused");
    }
}

/// The thread that keeps the session with ZooKeeper takes no part in the deadlock.
pub fn registered_but_dead(cluster: &Cluster, exporter: &Exporter, sick: i32) {
    let finding = |id| {
        let series = format!(
            "finding_active{{broker=\"{id}\",finding=\"registered_but_dead\",severity=\"warning\"}}"
        );
        exporter.metrics().get(&series)
    };
    // With clients that commit, the API is silent 35 s after the deadlock.
    wait_for("the silence", Duration::from_secs(120), || {
        finding(sick) == Some(1.0)
    });
    assert_eq!(exporter.metrics().of("registered", sick), Some(1.0));
    for id in ids_without(cluster, sick) {
        assert_eq!(finding(id), Some(0.0), "{id}");
    }
    let listed = cluster.zookeeper_shell(&["ls", "/brokers/ids"]).unwrap();
    assert!(listed.contains(&sick.to_string()), "{listed}");
}

/// Processes of another user claim to be each broker of the host.
fn strangers_change_no_answer(cluster: &Cluster, exporter: &Exporter, sick: i32) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let ids = [217, 218, 219];
    let fakes = ids.map(|id| fakes::stranger(cluster.cell(), folder.path(), id, None));
    if fakes.iter().any(Option::is_none) {
        return skip("strangers_change_no_answer", "needs root and all users");
    }
    wait_for("the strangers to be seen", Duration::from_secs(20), || {
        let metrics = exporter.metrics();
        let seen = |id: i32, stranger: &str| {
            let of_id = format!("open_file_handles{{broker=\"{id}{stranger}\"}}");
            metrics.get(&of_id).is_some()
        };
        ids.iter().all(|id| seen(*id, "") && seen(*id, "@nobody"))
    });
    let (status, reason) = live(exporter, sick);
    assert_eq!(status, 503, "{reason}");
}

/// Restarts the broker as a kubelet does. SIGTERM would hang.
pub fn recovers(cluster: &mut Cluster, exporter: &Exporter, made: Deadlock) {
    let sick = made.broker;
    cluster.kill(sick).unwrap();
    drop(made);
    wait_for("the end to be reported", Duration::from_secs(15), || {
        state(exporter, sick) == "ended"
    });
    let restarted = Instant::now();
    cluster.start_again(sick).unwrap();
    let mut answer = Value::Null;
    wait_for("the recovery", Duration::from_secs(90), || {
        answer = api(exporter);
        let recovered = broker(&answer, sick);
        recovered["recovery"]["in_every_isr"].is_string() && recovered["state"] == "healthy"
    });
    println!(
        "recovered {:.1} s after the restart, {}",
        restarted.elapsed().as_secs_f64(),
        load()
    );
    assert_eq!(broker(&answer, sick)["recovery"]["from"], "gray");
    // The brokers' own tools agree.
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
        "is gray (alive, not working)",
        "is down (its process has ended)",
        "is healthy",
        "recovered: it is in every ISR again",
    ]
    .into_iter()
    .peekable();
    for event in &events {
        let _ = expected.next_if_eq(event);
    }
    assert_eq!(expected.next(), None, "missing in the timeline {events:?}");
    assert_eq!(live(exporter, sick).0, 200);
}

/// A broker stopped by a signal does not answer; `check` reads the reason from outside.
pub fn paused(cluster: &Cluster, closed_port: u16, recovered: i32) {
    let id = ids_without(cluster, recovered)[0];
    cluster.pause(id).unwrap();
    let (text, code) = check(cluster, closed_port, &[]);
    cluster.resume(id).unwrap();
    let reported = text.starts_with(&format!(
        "CRITICAL: Broker {id} is stopped by a signal since "
    ));
    assert!(reported && code == Some(2), "{code:?} {text}");
}
