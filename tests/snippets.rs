//! Runs what the documents offer for installation: the lines that act on `kafka-vitals live`, and the Kubernetes manifest.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use clap::Parser as _;
use kafka_vitals::cli::Cli;
use serde_json::Value;

fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap()
}

/// Returns what systemd passes to the shell from the line of `file` with this beginning.
fn in_unit(file: &str, begin: &str) -> String {
    let text = read(file);
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix(begin)?.strip_prefix("/bin/sh -c '"));
    let script = lines
        .next()
        .and_then(|line| line.strip_suffix('\''))
        .unwrap()
        .replace("$$", "$");
    assert_eq!(lines.next(), None, "{file}");
    script
}

fn manifest() -> Value {
    let text = read("docs/liveness.md");
    let (_, block) = text.split_once("```yaml\n").unwrap();
    serde_saphyr::from_str(block.split("```").next().unwrap()).unwrap()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key]
        .as_array()
        .unwrap_or_else(|| panic!("no list {key} in {value}"))
}

fn container(manifest: &Value, name: &str) -> Value {
    let mut found = list(&manifest["spec"], "containers")
        .iter()
        .filter(|container| container["name"] == name);
    found.next().unwrap().clone()
}

/// Writes a program for the PATH that records its calls.
fn stub(folder: &Path, name: &str, then: &str) {
    let file = folder.join(name);
    fs::write(
        &file,
        format!("#!/bin/sh\necho \"{name} $*\" >>\"$CALLS\"\n{then}\n"),
    )
    .unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn only_exit_code_1_of_the_probe_has_an_effect() {
    let probe = container(&manifest(), "kafka")["livenessProbe"]["exec"]["command"].clone();
    assert_eq!((&probe[0], &probe[1]), (&"/bin/sh".into(), &"-c".into()));
    let scripts = [
        (
            in_unit("docs/liveness.md", "ExecStart="),
            Some("systemctl restart kafka.service"),
        ),
        (
            in_unit("docs/runbooks/jvm_deadlock.md", "ExecStop=-"),
            Some("kafka-vitals bundle "),
        ),
        // The kubelet acts on the exit code.
        (probe[2].as_str().unwrap().to_owned(), None),
    ];
    let runbooks = fs::read_dir("docs/runbooks").unwrap();
    let runbooks = runbooks.map(|file| {
        format!(
            "docs/runbooks/{}",
            file.unwrap().file_name().to_str().unwrap()
        )
    });
    let all = runbooks
        .chain(["docs/liveness.md".into(), "README.md".into()])
        .map(|file| read(&file));
    let acting: usize = all
        .map(|text| text.matches("/kafka-vitals live").count())
        .sum();
    assert_eq!(
        acting,
        scripts.len(),
        "a line that acts on the probe and is not tried here"
    );

    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let calls = folder.path().join("calls");
    let [with, without] = ["with", "without"].map(|name| folder.path().join(name));
    for folder in [&with, &without] {
        fs::create_dir(folder).unwrap();
        stub(folder, "systemctl", "");
    }
    stub(
        &with,
        "kafka-vitals",
        "[ \"$1\" = live ] || exit 0\neval \"$ENDS\"",
    );
    for (script, effect) in &scripts {
        let table = [
            ("well", &with, "exit 0", false),
            ("the verdict", &with, "exit 1", true),
            ("a wrong flag", &with, "exit 2", false),
            ("a panic", &with, "exit 101", false),
            ("out of memory", &with, "kill -KILL $$", false),
            ("no binary", &without, "", false),
        ];
        for (case, path, ends, acts) in table {
            fs::write(&calls, "").unwrap();
            let here = path.join("kafka-vitals");
            let local = script.replace("/usr/bin/kafka-vitals", "/vitals/kafka-vitals");
            let local = local.replace("/vitals/kafka-vitals", here.to_str().unwrap());
            let mut shell = Command::new("/bin/sh");
            shell
                .arg("-c")
                .arg(&local)
                .env("PATH", format!("{}:/usr/bin:/bin", path.display()));
            let output = shell
                .env("CALLS", &calls)
                .env("ENDS", ends)
                .output()
                .unwrap();
            let called = fs::read_to_string(&calls).unwrap();
            assert_eq!(
                called.contains("kafka-vitals live"),
                path == &with,
                "{case}: {script}: {called}"
            );
            let acted = match effect {
                Some(call) => called.contains(call),
                None => !output.status.success(),
            };
            assert_eq!(acted, acts, "{case}: {script}: {} {called}", output.status);
            assert!(
                output.status.success() || acts,
                "{case}: {script}: {}",
                output.status
            );
        }
    }
}

#[test]
fn the_manifest_is_scraped_and_keeps_the_evidence() {
    let manifest = manifest();
    let exporter = container(&manifest, "kafka-vitals");
    let prometheus: Value =
        serde_saphyr::from_str(&read("alerts/prometheus-kubernetes.yml")).unwrap();
    let relabel = list(&prometheus["scrape_configs"][0], "relabel_configs");
    let kept = relabel
        .iter()
        .find(|rule| rule["action"] == "keep")
        .unwrap();
    assert_eq!(
        kept["source_labels"][0],
        "__meta_kubernetes_pod_container_port_name"
    );
    assert_eq!(exporter["ports"][0]["name"], kept["regex"]);

    let command: Vec<&str> = list(&exporter, "command")
        .iter()
        .map(|word| word.as_str().unwrap())
        .collect();
    let flags = Cli::try_parse_from(&command).unwrap().serve;
    let port = u64::from(flags.listen[0].port());
    assert_eq!(exporter["ports"][0]["containerPort"], port);
    let evidence = flags.evidence_dir.unwrap();
    let mounts = list(&exporter, "volumeMounts");
    assert!(
        mounts
            .iter()
            .any(|mount| evidence.parent() == Some(Path::new(mount["mountPath"].as_str().unwrap()))),
        "{evidence:?}"
    );

    let spec = &manifest["spec"];
    let copies = &spec["initContainers"][0];
    let broker = container(&manifest, "kafka");
    for mount in [copies, &exporter, &broker]
        .map(|container| list(container, "volumeMounts"))
        .concat()
    {
        let volumes = list(spec, "volumes");
        assert!(
            volumes.iter().any(|volume| volume["name"] == mount["name"]),
            "no volume {}",
            mount["name"]
        );
    }
    // It is installed at the same path everywhere.
    let unit = read("packaging/kafka-vitals.service");
    let installed = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart=")?.split(' ').next())
        .unwrap();
    let [program, "install", folder] = list(copies, "command")
        .iter()
        .map(|word| word.as_str().unwrap())
        .collect::<Vec<_>>()[..]
    else {
        panic!("{copies}")
    };
    assert_eq!((command[0], program), (installed, installed));
    let path = format!("{folder}/kafka-vitals");
    let probe = broker["livenessProbe"]["exec"]["command"][2]
        .as_str()
        .unwrap();
    assert!(probe.starts_with(&format!("{path} live ")), "{probe}");
}
