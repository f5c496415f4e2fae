//! From the deadlock of a real broker to the pager: exporter, Prometheus and Alertmanager as they are shipped.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::{Cell, Form, Load, Monitoring, deadlock};
use serde_json::Value;
use support::{Exporter, trouble, wait_for};

/// One alert of a notification.
struct Told {
    at: Instant,
    receiver: String,
    alert: Value,
}

impl Told {
    fn is(&self, name: &str, status: &str) -> bool {
        self.alert["labels"]["alertname"] == name && self.alert["status"] == status
    }
}

/// Waits for an alert among those that were told, and keeps all.
#[track_caller]
fn wait_told(
    told: &mut Vec<Told>,
    monitoring: &Monitoring,
    time: Duration,
    name: &str,
    status: &str,
) -> Instant {
    let deadline = Instant::now() + time;
    loop {
        if let Some(one) = told.iter().find(|one| one.is(name, status)) {
            return one.at;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let notification = monitoring.notifications.recv_timeout(left);
        let notification =
            notification.unwrap_or_else(|_| panic!("{name} {status} was not told within {time:?}"));
        let (at, path) = (notification.at, &notification.path);
        let alerts = notification.alerts().unwrap().into_iter();
        told.extend(alerts.map(|alert| Told {
            at,
            receiver: path.clone(),
            alert,
        }));
    }
}

fn query(cell: &Cell, monitoring: &Monitoring, expression: &str) -> Value {
    let mut promtool = Command::new("promtool");
    let address = format!("http://127.0.0.1:{}", monitoring.prometheus);
    promtool.args(["query", "instant", "-o", "json", &address, expression]);
    let output = cell.run_tool(promtool, Duration::from_secs(20)).unwrap();
    assert!(
        output.status.success(),
        "{expression}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_deadlock_reaches_the_pager_and_its_symptoms_do_not() {
    let mut cluster = trouble::cluster();
    let cell = cluster.cell().clone();
    let exporter = Exporter::start(&cell);
    trouble::all_well(&exporter);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let monitoring =
        Monitoring::start(&cell, Path::new("alerts"), folder.path(), exporter.port).unwrap();
    let mut told = Vec::new();
    wait_told(
        &mut told,
        &monitoring,
        Duration::from_secs(180),
        "KafkaVitalsWatchdog",
        "firing",
    );
    wait_for(
        "Prometheus to have all brokers",
        Duration::from_secs(60),
        || {
            query(
                &cell,
                &monitoring,
                "count(kafka_vitals_deadlock_detected == 0) == 3",
            ) != Value::Array(vec![])
        },
    );

    let load = Load::start(&cluster).unwrap();
    let made = deadlock::make(&cluster, Form::Expire).unwrap();
    let at = wait_told(
        &mut told,
        &monitoring,
        Duration::from_secs(90),
        "KafkaVitalsJvmDeadlock",
        "firing",
    );
    let after = at.saturating_duration_since(made.followers_continued);
    println!("the pager was told {after:.1?} after the deadlock");
    assert!(
        after <= Duration::from_secs(60),
        "told only after {after:.1?}"
    );
    let one = told
        .iter()
        .find(|one| one.is("KafkaVitalsJvmDeadlock", "firing"))
        .unwrap();
    assert_eq!(one.receiver, "/pager");
    let sick = made.broker.to_string();
    assert_eq!(one.alert["labels"]["broker"], sick.as_str());
    let description = one.alert["annotations"]["description"].as_str().unwrap();
    assert!(
        description.contains(&format!("Broker {sick} is alive but deadlocked")),
        "{description}"
    );
    assert!(
        description.contains("It is KAFKA-3994, fixed in 0.10.1.1,0.10.2.0."),
        "{description}"
    );
    let runbook = one.alert["annotations"]["runbook_url"].as_str().unwrap();
    let path = runbook
        .strip_prefix(&format!("http://127.0.0.1:{}", exporter.port))
        .expect(runbook);
    let (status, page) = cell
        .http_get(exporter.port, path, Duration::from_secs(5))
        .unwrap();
    assert!(
        status == 200 && page.contains("<h2>Mitigation</h2>"),
        "{status} {page}"
    );

    // A symptom fires in Prometheus, and Alertmanager holds it back for the deadlock.
    let alertmanager = format!(
        "--alertmanager.url=http://127.0.0.1:{}",
        monitoring.alertmanager
    );
    wait_for(
        "a symptom to be held back",
        Duration::from_secs(180),
        || {
            let mut amtool = Command::new("amtool");
            amtool.args([
                &alertmanager,
                "alert",
                "query",
                "--inhibited",
                "-o",
                "json",
                "layer=symptom",
            ]);
            let output = cell.run_tool(amtool, Duration::from_secs(20)).unwrap();
            let held: Value = serde_json::from_slice(&output.stdout).unwrap();
            held.as_array().unwrap().iter().any(|alert| {
                alert["labels"]["broker"] == sick.as_str()
                    && alert["status"]["inhibitedBy"] != Value::Array(vec![])
            })
        },
    );
    every_panel_has_data(&cell, &monitoring);

    drop(load);
    cluster.kill(made.broker).unwrap();
    let sick_id = made.broker;
    drop(made);
    cluster.start_again(sick_id).unwrap();
    let restarted = Instant::now();
    let at = wait_told(
        &mut told,
        &monitoring,
        Duration::from_secs(300),
        "KafkaVitalsJvmDeadlock",
        "resolved",
    );
    println!(
        "resolved {:.0?} after the restart",
        at.saturating_duration_since(restarted)
    );
    for one in &told {
        let (labels, text) = (&one.alert["labels"], one.alert["annotations"].to_string());
        assert!(
            labels["layer"] != "symptom" || labels["broker"] != sick.as_str(),
            "was told: {}",
            one.alert
        );
        assert!(
            !text.contains("error expanding") && !text.contains("<no value>"),
            "{text}"
        );
    }
}

/// What a panel says where it is right to be empty: its description, or a text in place of a value.
fn may_be_empty(panel: &Value) -> bool {
    let no_value = panel["fieldConfig"]["defaults"]["noValue"]
        .as_str()
        .unwrap_or("unknown");
    let description = panel["description"].as_str().unwrap();
    let told = ["Empty", "No line", "Unknown"]
        .iter()
        .any(|word| description.contains(word));
    told || !["unknown", ""].contains(&no_value)
}

fn every_panel_has_data(cell: &Cell, monitoring: &Monitoring) {
    let mut empty = Vec::new();
    for name in ["cluster", "broker"] {
        let file = std::fs::read_to_string(format!("dashboards/{name}.json")).unwrap();
        let dashboard: Value = serde_json::from_str(&file).unwrap();
        for panel in dashboard["panels"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|panel| panel["type"] != "row")
        {
            let told = panel["targets"].as_array().unwrap().iter().any(|target| {
                let mut expression = target["expr"].as_str().unwrap().to_owned();
                for variable in ["$job", "$cluster", "$instance", "$broker"] {
                    expression = expression.replace(variable, ".*");
                }
                let expression = expression
                    .replace("$__rate_interval", "1m")
                    .replace("$__range", "5m");
                query(cell, monitoring, &expression) != Value::Array(vec![])
            });
            if !told && !may_be_empty(panel) {
                empty.push(format!("{name}: {}", panel["title"]));
            }
        }
    }
    assert!(
        empty.is_empty(),
        "no data, and no word that this is right:\n{}",
        empty.join("\n")
    );
}
