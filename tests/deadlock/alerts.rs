//! From the deadlock to the pager: exporter, Prometheus and Alertmanager with the shipped configuration.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::{Cell, Deadlock, Monitoring};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Exporter, wait_for, wait_until_none};

/// An alert of a notification.
struct Sent {
    at: Instant,
    receiver: String,
    alert: Value,
}

impl Sent {
    fn is(&self, name: &str, status: &str) -> bool {
        self.alert["labels"]["alertname"] == name && self.alert["status"] == status
    }
}

/// Prometheus and Alertmanager, with everything that Alertmanager has sent.
pub struct Pager {
    monitoring: Monitoring,
    cell: Cell,
    sent: Vec<Sent>,
    _folder: TempDir,
}

impl Pager {
    /// Starts both and waits until Prometheus has data of all brokers.
    pub fn start(cell: &Cell, exporter: &Exporter) -> Pager {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut pager = Pager {
            monitoring: Monitoring::start(cell, Path::new("alerts"), folder.path(), exporter.port)
                .unwrap(),
            cell: cell.clone(),
            sent: Vec::new(),
            _folder: folder,
        };
        pager.wait_sent(Duration::from_secs(180), "KafkaVitalsWatchdog", "firing");
        wait_for(
            "Prometheus to have all brokers",
            Duration::from_secs(60),
            || pager.has_data("count(kafka_vitals_deadlock_detected == 0) == 3"),
        );
        pager
    }

    /// Waits until Alertmanager has sent the alert, and returns the time of the notification.
    #[track_caller]
    fn wait_sent(&mut self, time: Duration, name: &str, status: &str) -> Instant {
        let deadline = Instant::now() + time;
        loop {
            if let Some(sent) = self.sent.iter().find(|sent| sent.is(name, status)) {
                return sent.at;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let notification = self
                .monitoring
                .notifications
                .recv_timeout(left)
                .unwrap_or_else(|_| panic!("{name} {status} was not sent within {time:?}"));
            let (at, path) = (notification.at, &notification.path);
            let alerts = notification.alerts().unwrap().into_iter();
            self.sent.extend(alerts.map(|alert| Sent {
                at,
                receiver: path.clone(),
                alert,
            }));
        }
    }

    fn has_data(&self, expression: &str) -> bool {
        let mut promtool = Command::new("promtool");
        let address = format!("http://127.0.0.1:{}", self.monitoring.prometheus);
        promtool.args(["query", "instant", "-o", "json", &address, expression]);
        let output = self
            .cell
            .run_tool(promtool, Duration::from_secs(20))
            .unwrap();
        assert!(
            output.status.success(),
            "{expression}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        result != Value::Array(vec![])
    }

    pub fn receives_the_deadlock(&mut self, exporter: &Exporter, made: &Deadlock) {
        const NAME: &str = "KafkaVitalsJvmDeadlock";
        let at = self.wait_sent(Duration::from_secs(90), NAME, "firing");
        let after = at.saturating_duration_since(made.followers_continued);
        println!("the pager received it {after:.1?} after the deadlock");
        assert!(
            after <= Duration::from_secs(60),
            "received only after {after:.1?}"
        );
        let sent = self
            .sent
            .iter()
            .find(|sent| sent.is(NAME, "firing"))
            .unwrap();
        assert_eq!(sent.receiver, "/pager");
        let sick = made.broker.to_string();
        assert_eq!(sent.alert["labels"]["broker"], sick.as_str());
        let annotation = |name: &str| sent.alert["annotations"][name].as_str().unwrap();
        let description = annotation("description");
        assert!(
            description.contains(&format!("Broker {sick} is alive but deadlocked")),
            "{description}"
        );
        assert!(
            description.contains("It is KAFKA-3994, fixed in 0.10.1.1,0.10.2.0."),
            "{description}"
        );
        let runbook = annotation("runbook_url");
        let path = runbook
            .strip_prefix(&format!("http://127.0.0.1:{}", exporter.port))
            .expect(runbook);
        let (status, page) = exporter.get(path);
        assert!(
            status == 200 && page.contains("<h2>Mitigation</h2>"),
            "{status} {page}"
        );
    }

    /// Waits until a symptom of the broker fires in Prometheus and Alertmanager inhibits it because of the deadlock.
    pub fn inhibits_a_symptom(&self, sick: i32) {
        let sick = sick.to_string();
        let alertmanager = format!(
            "--alertmanager.url=http://127.0.0.1:{}",
            self.monitoring.alertmanager
        );
        wait_for("an inhibited symptom", Duration::from_secs(180), || {
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
            let output = self.cell.run_tool(amtool, Duration::from_secs(20)).unwrap();
            let inhibited: Value = serde_json::from_slice(&output.stdout).unwrap();
            inhibited.as_array().unwrap().iter().any(|alert| {
                alert["labels"]["broker"] == sick.as_str()
                    && alert["status"]["inhibitedBy"] != Value::Array(vec![])
            })
        });
    }

    /// Waits until every panel of the dashboards has data. Rates need two scrapes.
    pub fn every_panel_has_data(&self) {
        let mut empty: Vec<(String, Vec<String>)> = Vec::new();
        for name in ["cluster", "broker"] {
            let file = std::fs::read_to_string(format!("dashboards/{name}.json")).unwrap();
            let dashboard: Value = serde_json::from_str(&file).unwrap();
            let list = |value: &Value| value["panels"].as_array().cloned().unwrap_or_default();
            let panels = list(&dashboard).into_iter();
            // Rows that are collapsed have theirs inside.
            let panels = panels.flat_map(|panel| [list(&panel), vec![panel]].concat());
            empty.extend(
                panels
                    .filter(|panel| panel["type"] != "row" && !may_be_empty(panel))
                    .map(|panel| (format!("{name}: {}", panel["title"]), expressions(&panel))),
            );
        }
        wait_until_none(
            "data, or a note that a panel may be empty",
            Duration::from_secs(90),
            || {
                empty.retain(|(_, expressions)| {
                    !expressions
                        .iter()
                        .any(|expression| self.has_data(expression))
                });
                empty.clone()
            },
        );
    }

    /// Waits until the alert is resolved. All that was sent is complete, and no symptom of the broker is among it.
    pub fn receives_the_end(&mut self, sick: i32) {
        let start = Instant::now();
        let at = self.wait_sent(
            Duration::from_secs(300),
            "KafkaVitalsJvmDeadlock",
            "resolved",
        );
        println!(
            "resolved {:.0?} after the recovery",
            at.saturating_duration_since(start)
        );
        let sick = sick.to_string();
        for sent in &self.sent {
            let (labels, text) = (&sent.alert["labels"], sent.alert["annotations"].to_string());
            assert!(
                labels["layer"] != "symptom" || labels["broker"] != sick.as_str(),
                "was sent: {}",
                sent.alert
            );
            assert!(
                !text.contains("error expanding") && !text.contains("<no value>"),
                "{text}"
            );
        }
    }
}

/// Whether a panel explains that it can be empty: in its description, or by a text in place of a value.
fn may_be_empty(panel: &Value) -> bool {
    let no_value = panel["fieldConfig"]["defaults"]["noValue"]
        .as_str()
        .unwrap_or("unknown");
    let description = panel["description"].as_str().unwrap();
    let explained = ["Empty", "No line", "Unknown"]
        .iter()
        .any(|word| description.contains(word));
    explained || !["unknown", ""].contains(&no_value)
}

fn expressions(panel: &Value) -> Vec<String> {
    let targets = panel["targets"].as_array().unwrap().iter();
    let expression = |target: &Value| {
        let mut expression = target["expr"].as_str().unwrap().to_owned();
        for variable in ["$job", "$cluster", "$instance", "$broker", "$shown"] {
            expression = expression.replace(variable, ".*");
        }
        expression
            .replace("$__rate_interval", "1m")
            .replace("$__range", "5m")
    };
    targets.map(expression).collect()
}
