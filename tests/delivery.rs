//! What is delivered beside the program: the manifests of `kubernetes/`, and the links of the documents.
//! `scripts/check-delivery.sh` checks scripts and unit, `make package-test` the packages.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser as _;
use kafka_vitals::cli::{Cli, ServeArgs};
use kafka_vitals::model::routes;
use pulldown_cmark::{Event, Options, Tag, TagEnd};
use serde_json::Value;

const RULES: &str = "alerts/kafka-vitals.rules.yml";
const RULE_OBJECT: &str = "kubernetes/monitoring/prometheusrule.yaml";
const UNIT: &str = "packaging/kafka-vitals.service";

fn read(file: impl AsRef<Path>) -> String {
    let file = file.as_ref();
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn yaml(file: &str) -> Value {
    serde_saphyr::from_str(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn list(value: &Value) -> &[Value] {
    value
        .as_array()
        .unwrap_or_else(|| panic!("no list: {value}"))
}

fn words(value: &Value) -> Vec<&str> {
    let words = list(value).iter().map(|word| word.as_str().unwrap());
    words.collect()
}

/// The rules as the Prometheus operator takes them: the same text, one level deeper.
fn rule_object() -> String {
    let rules = read(RULES);
    let (_, groups) = rules.split_once("\ngroups:\n").unwrap();
    let mut object = "\
# Made from alerts/kafka-vitals.rules.yml by `make docs`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: kafka-vitals
  labels: {app.kubernetes.io/name: kafka-vitals}
spec:
  groups:
"
    .to_owned();
    for line in groups.lines() {
        if !line.is_empty() {
            object.push_str("  ");
        }
        object.push_str(line);
        object.push('\n');
    }
    object
}

#[test]
fn golden_prometheus_rule() {
    if std::env::var_os("KAFKA_VITALS_REFRESH").is_some() {
        fs::write(RULE_OBJECT, rule_object()).unwrap();
    }
    assert!(
        read(RULE_OBJECT) == rule_object(),
        "{RULE_OBJECT} is not made from {RULES}: make docs"
    );
    assert_eq!(yaml(RULE_OBJECT)["spec"]["groups"], yaml(RULES)["groups"]);
}

fn daemon() -> (Value, Value) {
    let pod = yaml("kubernetes/base/daemonset.yaml")["spec"]["template"]["spec"].take();
    let [container] = list(&pod["containers"]) else {
        panic!("one container: {pod}")
    };
    (pod.clone(), container.clone())
}

fn flags_of(container: &Value) -> ServeArgs {
    let arguments = words(&container["args"]);
    let words = ["kafka-vitals"].into_iter().chain(arguments);
    Cli::try_parse_from(words).unwrap().serve
}

/// The rights are those that docs/rights.md shows to suffice, and no more.
#[test]
fn the_daemon_set_has_four_capabilities_and_nothing_of_the_host_but_its_processes() {
    let (pod, container) = daemon();
    let rights = &container["securityContext"];
    assert_eq!(words(&rights["capabilities"]["drop"]), ["ALL"]);
    let added: BTreeSet<&str> = words(&rights["capabilities"]["add"]).into_iter().collect();
    let needed = BTreeSet::from(["DAC_READ_SEARCH", "SETGID", "SETUID", "SYS_PTRACE"]);
    assert_eq!(added, needed);
    assert_eq!(rights["allowPrivilegeEscalation"], false);
    assert_eq!(rights["readOnlyRootFilesystem"], true);
    assert_eq!(
        pod["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["hostPID"], true);
    let text = pod.to_string();
    for never in [
        "hostNetwork",
        "hostIPC",
        "hostPort",
        "hostPath",
        "privileged",
    ] {
        assert!(!text.contains(never), "{never}: {text}");
    }
}

#[test]
fn the_daemon_set_fits_the_exporter() {
    let (pod, container) = daemon();
    let flags = flags_of(&container);
    let [port] = list(&container["ports"]) else {
        panic!("one port: {container}")
    };
    assert_eq!(port["containerPort"], flags.listen[0].port());
    for (probe, path) in [
        ("livenessProbe", routes::HEALTHY),
        ("readinessProbe", routes::READY),
    ] {
        let asked = &container[probe]["httpGet"];
        assert_eq!(
            (&asked["path"], &asked["port"]),
            (&path.into(), &port["name"])
        );
    }
    // The exporter refuses a folder that others may write to, as an emptyDir is: it takes one inside of it.
    let evidence = flags.evidence_dir.unwrap();
    let [mount] = list(&container["volumeMounts"]) else {
        panic!("one mount: {container}")
    };
    assert_eq!(
        evidence.parent().unwrap().to_str(),
        mount["mountPath"].as_str()
    );
    assert_eq!(pod["volumes"][0]["name"], mount["name"]);

    let unit = read(UNIT);
    let bound = unit
        .lines()
        .find_map(|line| line.strip_prefix("MemoryMax="));
    let limit = container["resources"]["limits"]["memory"].as_str().unwrap();
    assert_eq!(limit.strip_suffix('i'), bound, "{UNIT}");
    assert_eq!(container["resources"]["limits"].get("cpu"), None);
}

#[test]
fn the_pods_are_scraped_under_the_job_that_the_rules_name() {
    let (_, container) = daemon();
    let monitor = yaml("kubernetes/monitoring/podmonitor.yaml");
    let [endpoint] = list(&monitor["spec"]["podMetricsEndpoints"]) else {
        panic!("one endpoint: {monitor}")
    };
    assert_eq!(endpoint["port"], container["ports"][0]["name"]);
    let prometheus = yaml("alerts/prometheus-kubernetes.yml");
    let job = &prometheus["scrape_configs"][0];
    let relabelings = list(&endpoint["relabelings"]);
    let replaced = |label: &str| relabelings.iter().find(|rule| rule["targetLabel"] == label);
    assert_eq!(replaced("job").unwrap()["replacement"], job["job_name"]);
    let mut rules = list(&job["relabel_configs"]).iter();
    let cluster = rules
        .find(|rule| rule["target_label"] == "cluster")
        .unwrap();
    assert_eq!(
        replaced("cluster").unwrap()["sourceLabels"],
        cluster["source_labels"]
    );
}

#[test]
fn each_dashboard_has_a_config_map_that_kubectl_can_apply() {
    let maps = yaml("dashboards/kustomization.yaml");
    assert_eq!(maps["generatorOptions"]["labels"]["grafana_dashboard"], "1");
    let given: BTreeSet<String> = list(&maps["configMapGenerator"])
        .iter()
        .map(|map| {
            let [file] = words(&map["files"])[..] else {
                panic!("one file: {map}")
            };
            file.split_once('=').unwrap().1.to_owned()
        })
        .collect();
    let files = fs::read_dir("dashboards").unwrap();
    let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let dashboards: BTreeSet<String> = files.filter(|name| name.ends_with(".json")).collect();
    assert_eq!(given, dashboards);
    for name in dashboards {
        // As a string in the annotation's JSON, which is a string of JSON itself.
        let once = Value::String(read(format!("dashboards/{name}"))).to_string();
        let size = Value::String(once).to_string().len();
        assert!(
            size < 240 << 10,
            "{name}: {size} bytes, server-side apply alone would take it"
        );
    }
}

/// docs/liveness.md shows the pod, `kubernetes/sidecar` makes it of a StatefulSet.
#[test]
fn the_sidecar_is_the_pod_of_the_document() {
    let document = read("docs/liveness.md");
    let (_, block) = document.split_once("```yaml\n").unwrap();
    let shown: Value = serde_saphyr::from_str(block.split("```").next().unwrap()).unwrap();
    let patch = yaml("kubernetes/sidecar/patch.yaml");
    assert_eq!(patch["spec"]["template"]["spec"], shown["spec"]);
}

/// Runs the script with programs that record their calls; `live` ends with `status` for broker 1, whose pod is the second.
fn roll_deadlocked(status: i32, asked: &str, exporter: &str) -> (bool, String) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = |name: &str, body: String| {
        let file = folder.path().join(name);
        let text = format!("#!/bin/sh\necho \"{name} $*\" >>\"$CALLS\"\n{body}\n");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let pods = format!("printf '%s\\n' 'main-pool-0 node-a ' 'main-pool-1 node-b {asked}'");
    program(
        "kubectl",
        format!(
            "case \"$*\" in *broker-role*) {pods} ;; *nodeName=node-a*) printf 10.0.0.1 ;; *nodeName=node-b*) printf '{exporter}' ;; esac"
        ),
    );
    program(
        "kafka-vitals",
        format!("case \"$*\" in *' --broker 1') exit {status} ;; esac"),
    );
    let calls = folder.path().join("calls");
    let output = Command::new("kubernetes/strimzi/roll-deadlocked.sh")
        .arg("kafka")
        .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
        .env("CALLS", &calls)
        .output()
        .unwrap();
    (output.status.success(), read(calls))
}

#[test]
fn strimzi_rolls_the_pod_of_the_verdict_and_no_other() {
    let annotates =
        "kubectl annotate pod -n kafka main-pool-1 strimzi.io/manual-rolling-update=true\n";
    let (success, calls) = roll_deadlocked(1, "", "fd00::2 10.0.0.2");
    assert!(success, "{calls}");
    for asks in [
        "10.0.0.1:10052 --broker 0\n",
        "[fd00::2]:10052 --broker 1\n",
    ] {
        let asks = format!("kafka-vitals live --address {asks}");
        assert!(calls.contains(&asks), "{calls}");
    }
    assert!(calls.ends_with(annotates), "{calls}");
    assert_eq!(calls.matches("annotate").count(), 1, "{calls}");
    let table = [
        ("healthy", 0, "", "10.0.0.2"),
        ("a wrong flag", 2, "", "10.0.0.2"),
        ("killed", 137, "", "10.0.0.2"),
        ("the operator knows", 1, "true", "10.0.0.2"),
        ("no exporter", 1, "", ""),
    ];
    for (case, status, asked, exporter) in table {
        let (success, calls) = roll_deadlocked(status, asked, exporter);
        assert!(success && !calls.contains("annotate"), "{case}: {calls}");
        assert!(calls.contains("--broker 0"), "{case}: {calls}");
    }
}

#[test]
fn the_program_installs_itself() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = env!("CARGO_BIN_EXE_kafka-vitals");
    let install = |folder: &Path| {
        let output = Command::new(program).arg("install").arg(folder).output();
        let output = output.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    };
    // A link that somebody has put there is not followed.
    let other = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    symlink(other.path(), folder.path().join(".kafka-vitals.new")).unwrap();
    // The second time it takes the place of the first.
    for _ in 0..2 {
        assert_eq!(install(folder.path()), (Some(0), String::new()));
        let names = fs::read_dir(folder.path()).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["kafka-vitals"]);
    }
    assert_eq!(other.as_file().metadata().unwrap().len(), 0);
    let copy = folder.path().join("kafka-vitals");
    assert!(fs::read(&copy).unwrap() == fs::read(program).unwrap());
    let mode = fs::metadata(&copy).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);

    let nowhere = folder.path().join("missing");
    let (code, said) = install(&nowhere);
    assert_eq!(code, Some(2));
    assert!(
        said.contains(nowhere.join("kafka-vitals").to_str().unwrap()),
        "{said}"
    );
}

/// Markdown files that people read, by path.
fn documents() -> BTreeMap<PathBuf, String> {
    let mut folders = vec![PathBuf::new()];
    let mut found = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        let top = folder.as_os_str().is_empty();
        let listed = if top { Path::new(".") } else { &folder };
        for entry in fs::read_dir(listed).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            if path.is_dir() && (!top || ["docs", "lab"].iter().any(|name| path == Path::new(name)))
            {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.insert(path.clone(), read(&path));
            }
        }
    }
    found
}

/// The links of a document, and the anchors of its headings as GitHub makes them.
fn links_and_anchors(text: &str) -> (Vec<String>, BTreeSet<String>) {
    let (mut links, mut anchors) = (Vec::new(), BTreeSet::new());
    let mut seen = BTreeMap::<String, u32>::new();
    let mut heading: Option<String> = None;
    for event in pulldown_cmark::Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                links.push(dest_url.into_string());
            }
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::Text(text) | Event::Code(text) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&text);
                }
            }
            Event::End(TagEnd::Heading(_)) => {
                let kept = heading.take().unwrap_or_default().to_lowercase();
                let kept = kept
                    .chars()
                    .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
                let slug: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
                let times = seen.entry(slug.clone()).or_default();
                anchors.insert(match times {
                    0 => slug,
                    _ => format!("{slug}-{times}"),
                });
                *times += 1;
            }
            _ => {}
        }
    }
    (links, anchors)
}

/// `docs/a/../b.md` as `docs/b.md`.
fn resolved(document: &Path, target: &str) -> PathBuf {
    let mut path = document.parent().unwrap().to_owned();
    for part in target.split('/') {
        match part {
            ".." => assert!(path.pop(), "{}: {target}", document.display()),
            "." | "" => {}
            part => path.push(part),
        }
    }
    path
}

#[test]
fn links_of_the_documents_lead_somewhere() {
    let documents = documents();
    let anchors: BTreeMap<&PathBuf, BTreeSet<String>> = documents
        .iter()
        .map(|(path, text)| (path, links_and_anchors(text).1))
        .collect();
    let (mut followed, mut broken) = (0, Vec::new());
    for (document, text) in &documents {
        for link in links_and_anchors(text).0 {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            followed += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() {
                document.clone()
            } else {
                resolved(document, file)
            };
            let leads = target.exists()
                && (anchor.is_empty()
                    || anchors
                        .get(&target)
                        .is_some_and(|known| known.contains(anchor)));
            if !leads {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(followed > 50, "{followed} links");
    assert!(broken.is_empty(), "{broken:#?}");
}
