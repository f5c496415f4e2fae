//! Checks the shipped rules, examples and runbooks with Prometheus' own tools and against the catalogue.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/promql.rs"]
mod promql;
#[path = "alerts/unconfigured.rs"]
mod unconfigured;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kafka_vitals::expose::runbooks::{self, RUNBOOKS};
use kafka_vitals::verdict::finding::FindingId;
use lab::Cell;
use promql::{labels_of, names_after};
use serde_json::Value;

const RULES: &str = "alerts/kafka-vitals.rules.yml";

fn yaml(file: &str) -> Value {
    serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn files(folder: &str, extension: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let names = entries.map(|name| name.into_string().unwrap());
    names
        .filter(|name| name.ends_with(extension))
        .map(|name| format!("{folder}/{name}"))
        .collect()
}

/// Runs a tool that must succeed, and returns its output.
#[track_caller]
fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output =
        output.unwrap_or_else(|error| panic!("{program}: {error}; `make test` fetches it"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{said}{complained}",
        output.status
    );
    said
}

#[test]
fn promtool_takes_the_rules_and_the_configurations() {
    tool(
        "promtool",
        &["check", "rules", "--lint=all", "--lint-fatal", RULES],
    );
    for config in ["alerts/prometheus.yml", "alerts/prometheus-file.yml"] {
        tool("promtool", &["check", "config", config]);
    }
    // Debian builds its Prometheus without Kubernetes: everything except these two lines is checked.
    let kubernetes = std::fs::read_to_string("alerts/prometheus-kubernetes.yml").unwrap();
    let discovery = "kubernetes_sd_configs:\n      - role: pod\n";
    assert!(kubernetes.contains(discovery));
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    std::fs::copy(RULES, folder.path().join("kafka-vitals.rules.yml")).unwrap();
    let file = folder.path().join("prometheus.yml");
    std::fs::write(
        &file,
        kubernetes.replace(discovery, "static_configs: [{targets: [a]}]\n"),
    )
    .unwrap();
    tool("promtool", &["check", "config", file.to_str().unwrap()]);
}

#[test]
fn promtool_tests_of_the_rules_pass() {
    let tests = files("alerts/tests", ".yml");
    let tests = ["test", "rules"]
        .into_iter()
        .chain(tests.iter().map(String::as_str));
    tool("promtool", &tests.collect::<Vec<_>>());
}

#[test]
fn amtool_routes_each_severity() {
    tool("amtool", &["check-config", "alerts/alertmanager.yml"]);
    let table: [(&[&str], &str); 5] = [
        (
            &["severity=critical", "alertname=KafkaVitalsJvmDeadlock"],
            "pager",
        ),
        (&["severity=warning"], "tickets"),
        (&["severity=info"], "digest"),
        (
            &["severity=none", "alertname=KafkaVitalsWatchdog"],
            "watchdog",
        ),
        (&["severity=of another rule"], "tickets"),
    ];
    for (labels, receiver) in table {
        let verify = format!("--verify.receivers={receiver}");
        let arguments = [
            "config",
            "routes",
            "test",
            "--config.file=alerts/alertmanager.yml",
            &verify,
        ];
        tool("amtool", &[&arguments, labels].concat());
    }
}

/// Asks Alertmanager with the shipped example which of these alerts it inhibits.
#[test]
fn alertmanager_inhibits_what_a_cause_explains() {
    let cell = Cell::new().unwrap();
    let port = cell.free_ports(1).unwrap()[0];
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut alertmanager = Command::new("alertmanager");
    alertmanager
        .args(["--cluster.listen-address=", "--log.level=error"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    alertmanager.arg("--config.file=alerts/alertmanager.yml");
    alertmanager.arg(format!("--storage.path={}", folder.path().display()));
    alertmanager.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let _running = cell.spawn(alertmanager).unwrap();
    let (time, start) = (Duration::from_secs(5), Instant::now());
    let patient = || {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "Alertmanager took 30 s"
        );
        std::thread::sleep(Duration::from_millis(50));
    };
    while !cell
        .http_get(port, "/-/ready", time)
        .is_ok_and(|(status, _)| status == 200)
    {
        patient();
    }
    let amtool = |arguments: &[String]| {
        let mut amtool = Command::new("amtool");
        amtool
            .arg(format!("--alertmanager.url=http://127.0.0.1:{port}"))
            .arg("alert")
            .args(arguments);
        let output = cell.run_tool(amtool, time).unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let rules = rules();
    // Alert, cluster, broker, whether it is inhibited.
    let table = [
        // With two replicas, a broker that is down leaves each other broker alone in the ISR.
        ("BrokerDown", "orders", "219", false),
        ("IsrLeaderAlone", "orders", "217", true),
        ("UnderReplicated", "orders", "217", true),
        ("OfflinePartitions", "orders", "", false),
        ("StalledPool", "orders", "218", false),
        ("ProcessStopped", "payments", "2", false),
        ("IsrLeaderAlone", "payments", "1", true),
        ("ApiUnresponsive", "payments", "2", true),
        ("NotRegistered", "search", "3", false),
        ("UnderReplicated", "search", "1", true),
        ("ApiUnresponsive", "search", "2", false),
        ("RegisteredButDead", "search", "2", true),
        ("RegisteredButDead", "search", "4", false),
        // No cause explains it.
        ("IsrLeaderAlone", "billing", "1", false),
        ("JvmDeadlock", "stock", "1", false),
        ("LockCycle", "stock", "1", true),
        ("LockCycle", "stock", "2", false),
        ("BrokerFenced", "returns", "2", false),
        ("UnderReplicated", "returns", "1", true),
        // Data cannot be written.
        ("UnderMinIsr", "returns", "1", false),
        ("UnderMinIsr", "billing", "2", false),
        ("IsrLeaderAlone", "billing", "2", true),
        ("BrokerMissing", "refunds", "3", false),
        ("IsrLeaderAlone", "refunds", "1", true),
    ];
    let mut expected = BTreeSet::new();
    for (alert, cluster, broker, inhibited) in table {
        let alert = format!("KafkaVitals{alert}");
        let labels = &rules.iter().find(|rule| name(rule) == alert).unwrap()["labels"];
        let severity_and_layer = ["severity", "layer"]
            .map(|label| format!("{label}={}", labels[label].as_str().unwrap()));
        let named = [
            format!("alertname={alert}"),
            format!("cluster={cluster}"),
            format!("broker={broker}"),
        ];
        amtool(
            &["add".to_owned()]
                .into_iter()
                .chain(named)
                .chain(severity_and_layer)
                .collect::<Vec<_>>(),
        );
        expected.insert([alert, cluster.into(), broker.into(), inhibited.to_string()]);
    }
    let reported = || -> BTreeSet<[String; 4]> {
        let query = [
            "query",
            "--active",
            "--inhibited",
            "--unprocessed",
            "--output=json",
        ]
        .map(str::to_owned);
        let alerts: Vec<Value> = serde_json::from_str(&amtool(&query)).unwrap();
        let of = |alert: &Value| {
            let inhibited = !alert["status"]["inhibitedBy"]
                .as_array()
                .unwrap()
                .is_empty();
            let label = |name: &str| {
                alert["labels"][name]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned()
            };
            [
                label("alertname"),
                label("cluster"),
                label("broker"),
                inhibited.to_string(),
            ]
        };
        alerts.iter().map(of).collect()
    };
    // Alertmanager inhibits an alert a moment after it has received it.
    while start.elapsed() < Duration::from_secs(25) && reported() != expected {
        patient();
    }
    assert_eq!(reported(), expected);
}

#[test]
fn yamllint_finds_nothing() {
    let said = tool(
        "yamllint",
        &["--strict", "-c", "alerts/.yamllint", "alerts"],
    );
    assert!(said.is_empty(), "{said}");
}

/// Every alerting rule.
fn rules() -> Vec<Value> {
    let file = yaml(RULES);
    let groups = file["groups"].as_array().unwrap();
    groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .filter(|rule| rule["record"].is_null())
        .collect()
}

/// What it costs a person.
fn cost(rule: &Value) -> &str {
    rule["annotations"]["cost"].as_str().unwrap()
}

fn name(rule: &Value) -> &str {
    rule["alert"].as_str().unwrap()
}

/// `KafkaVitalsJvmDeadlock` is `jvm_deadlock`.
fn runbook_of(alert: &str) -> String {
    let words = alert.strip_prefix("KafkaVitals").expect(alert);
    let parts = words.char_indices().map(|(at, c)| match c {
        _ if at > 0 && c.is_ascii_uppercase() => format!("_{}", c.to_ascii_lowercase()),
        _ => c.to_ascii_lowercase().to_string(),
    });
    parts.collect()
}

#[test]
fn every_rule_is_complete_and_names_only_what_exists() {
    for rule in rules() {
        let (alert, expression) = (name(&rule), rule["expr"].as_str().unwrap());
        let mut labels = labels_of(expression);
        labels.extend(rule["labels"].as_object().unwrap().keys().cloned());
        let severity = rule["labels"]["severity"].as_str().unwrap();
        let costs = [
            ("critical", "page"),
            ("warning", "ticket"),
            ("info", "note"),
            ("none", "none"),
        ];
        assert!(
            costs.contains(&(severity, cost(&rule))),
            "{alert}: {severity}"
        );
        let layer = rule["labels"]["layer"].as_str().unwrap();
        assert!(
            ["cause", "symptom", "outage", "resource", "plan", "watch"].contains(&layer),
            "{alert}: {layer}"
        );
        let annotations = rule["annotations"].as_object().unwrap();
        let keys: Vec<&str> = annotations.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "cost",
                "dashboard_url",
                "description",
                "page_url",
                "runbook_url",
                "summary"
            ],
            "{alert}"
        );
        assert!(
            !annotations["summary"].as_str().unwrap().contains("{{"),
            "{alert}: a summary is fixed"
        );
        check_links(alert, annotations);
        for text in annotations.values() {
            let text = text.as_str().unwrap();
            for used in names_after(text, "$labels.") {
                assert!(
                    labels.contains(used),
                    "{alert}: no label {used} in {labels:?}"
                );
            }
            for query in text.split("query (printf \"").skip(1) {
                let end = query.replace("\\\"", "''").find('"').unwrap();
                let query_labels =
                    labels_of(&query[..end].replace("%q", "\"\"").replace("\\\"", "\""));
                for used in names_after(text, ".Labels.") {
                    assert!(
                        query_labels.contains(used),
                        "{alert}: no label {used} in {query_labels:?}"
                    );
                }
            }
        }
    }
}

/// The address of an exporter is that of the series itself, or of one that a query finds: then there is text where it
/// finds none. https where that exporter speaks TLS.
#[track_caller]
fn check_links(alert: &str, annotations: &serde_json::Map<String, Value>) {
    let [runbook, page] =
        ["runbook_url", "page_url"].map(|link| annotations[link].as_str().unwrap());
    let name = runbook_of(alert);
    let tls = |instance: &str| {
        format!(
            "http{{{{ if query (printf \"kafka_vitals_web_tls{{instance=%q}} == 1\" {instance}) }}}}s{{{{ end }}}}\
             ://{{{{ {instance} }}}}/"
        )
    };
    let base = "{{ with $externalLabels.runbooks }}{{ . }}";
    let own = tls("$labels.instance");
    if runbook.contains("$labels.instance") {
        let expected = format!("{base}{{{{ else }}}}{own}runbooks{{{{ end }}}}/{name}");
        assert_eq!(
            (runbook, page),
            (expected.as_str(), own.as_str()),
            "{alert}"
        );
        return;
    }
    let found = tls("(first .).Labels.instance");
    let beginning = format!("{base}/{name}{{{{ else }}}} {{{{- with query ");
    let end = format!(
        "-}}}} {found}runbooks/{name}{{{{ else }}}}docs/runbooks/{name}.md{{{{ end }}}}{{{{ end }}}}"
    );
    assert!(runbook.starts_with(&beginning), "{alert}: {runbook}");
    assert!(runbook.ends_with(&end), "{alert}: {runbook}");
    let end = format!("-}}}} {found}{{{{ end }}}}");
    assert!(
        page.starts_with("{{ with query ") && page.ends_with(&end),
        "{alert}: {page}"
    );
}

/// The table of docs/prometheus.md. `make docs` writes its first four columns; those after them stay.
#[test]
fn golden_table_of_alerts() {
    const DOCS: &str = "docs/prometheus.md";
    const HEAD: &str = "| alert | cost | fires after | layer |";
    let text = std::fs::read_to_string(DOCS).unwrap();
    let (before, table) = text.split_once(HEAD).unwrap();
    let (table, after) = table.split_once("\n\n").unwrap_or((table, ""));
    let lines: Vec<&str> = table.lines().collect();
    let further = |start: &str| -> String {
        let line = lines.iter().find(|line| line.starts_with(start));
        let cells = line.map(|line| line.split('|').skip(5).collect::<Vec<_>>());
        cells.unwrap_or_default().join("|")
    };
    let mut made = format!("{HEAD}{}\n{}\n", lines[0], lines[1]);
    for rule in rules() {
        let after = rule["for"].as_str().unwrap_or("at once");
        let layer = rule["labels"]["layer"].as_str().unwrap();
        let start = format!("| {} | {} |", name(&rule), cost(&rule));
        made += &format!("{start} {after} | {layer} |{}\n", further(&start));
    }
    let made = format!("{before}{made}\n{after}");
    if std::env::var_os("KAFKA_VITALS_REFRESH").is_some() {
        std::fs::write(DOCS, &made).unwrap();
    }
    let written = std::fs::read_to_string(DOCS).unwrap();
    assert!(written == made, "{DOCS} is not as the rules: make docs");
}

#[test]
fn alerts_runbooks_and_findings_belong_together() {
    let alerts: BTreeSet<String> = rules().iter().map(|rule| runbook_of(name(rule))).collect();
    let served: BTreeSet<String> = RUNBOOKS
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    let stem = |file: String| {
        PathBuf::from(file)
            .file_stem()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    let written: BTreeSet<String> = files("docs/runbooks", ".md")
        .into_iter()
        .map(stem)
        .collect();
    assert_eq!(alerts, served);
    assert_eq!(served, written);
    for finding in FindingId::ALL {
        assert!(
            served.contains(finding.runbook()),
            "finding {} has no runbook",
            finding.kind().name
        );
        let of_finding = |rule: &&Value| runbook_of(name(rule)) == finding.runbook();
        let severities: Vec<Value> = rules()
            .iter()
            .filter(of_finding)
            .map(|rule| rule["labels"]["severity"].clone())
            .collect();
        assert!(
            severities.contains(&finding.kind().severity.name().into()),
            "{}: {severities:?}",
            finding.runbook()
        );
    }
    for (name, text) in RUNBOOKS {
        let parts: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .collect();
        let expected = [
            "Three commands",
            "Meaning",
            "Impact",
            "Diagnosis",
            "Mitigation",
            "Kubernetes",
        ];
        assert_eq!(parts, expected, "{name}");
        let commands = text.split("```").nth(1).unwrap();
        let commands = commands.strip_prefix("sh\n").unwrap_or_default();
        assert_eq!(commands.lines().count(), 3, "{name}: {commands}");
        assert!(text.contains("**Time to recover:** "), "{name}");
        let page = runbooks::page(name).unwrap().into_string();
        for link in page.split("href=\"/runbooks/").skip(1) {
            assert!(
                served.contains(link.split('"').next().unwrap()),
                "{name}: {link:.40}"
            );
        }
    }
}

/// Each alert fires in one of promtool's tests, and must not in another.
#[test]
fn every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_must_not() {
    let mut fires = BTreeMap::<String, [bool; 2]>::new();
    for file in files("alerts/tests", ".yml") {
        for case in yaml(&file)["tests"].as_array().unwrap() {
            let list = |key: &str| case[key].as_array().cloned().unwrap_or_default();
            for check in list("alert_rule_test") {
                let some = !check["exp_alerts"].as_array().unwrap().is_empty();
                fires
                    .entry(check["alertname"].as_str().unwrap().into())
                    .or_default()[usize::from(some)] = true;
            }
            for check in list("promql_expr_test") {
                let expression = check["expr"].as_str().unwrap();
                for alert in names_after(expression, "alertname=\"") {
                    let some = !check["exp_samples"].as_array().unwrap().is_empty();
                    fires.entry(alert.into()).or_default()[usize::from(some)] = true;
                }
            }
        }
    }
    for rule in rules() {
        // The watchdog always fires.
        let wanted = [name(&rule) != "KafkaVitalsWatchdog", true];
        assert_eq!(
            fires.get(name(&rule)),
            Some(&wanted),
            "{}: [must not, fires]",
            name(&rule)
        );
    }
}
