//! The content of a bundle, compared with the tools that it replaces.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lab::{Cluster, Deadlock, cli_tools};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::evidence::{bundle_command, complete, folder, run, verified, why_missing};
use crate::support::{Exporter, wait_for};

pub const SECRET: &str = "s3cret-of-the-test";

/// Where the exporter and the command `bundle` save their evidence.
pub struct Folders {
    configs: TempDir,
    by_command: TempDir,
    by_exporter: TempDir,
    heaps: TempDir,
}

impl Folders {
    pub fn new() -> Folders {
        Folders {
            configs: folder(),
            by_command: folder(),
            by_exporter: folder(),
            heaps: folder(),
        }
    }

    /// Writes a config file. It accepts any disk, however full.
    fn config(&self, heap_dump: Option<&Path>) -> PathBuf {
        let heap_dump = heap_dump
            .map(|folder| format!(", heap_dump: {}", folder.display()))
            .unwrap_or_default();
        let path = self.configs.path().join("config.yml");
        fs::write(&path, format!("evidence: {{min_free: 0{heap_dump}}}\n")).unwrap();
        path
    }

    /// Starts an exporter that saves evidence and heap dumps.
    pub fn exporter(&self, cluster: &Cluster) -> Exporter {
        let config = self.config(Some(self.heaps.path()));
        Exporter::start_with(cluster.cell(), "", |command| {
            command
                .arg("--evidence.dir")
                .arg(self.by_exporter.path())
                .arg("--config.file")
                .arg(config);
        })
    }

    /// Runs the command `bundle`. Returns the bundle and its manifest.
    #[track_caller]
    fn take(&self, cluster: &Cluster, id: i32, heap_dump: Option<&Path>) -> (PathBuf, Value) {
        let dir = self.by_command.path();
        let mut command = bundle_command(id, dir);
        command.arg("--config.file").arg(self.config(heap_dump));
        let (code, stdout, stderr) = run(cluster.cell(), command);
        let path = PathBuf::from(stdout.trim_end());
        assert!(path.starts_with(dir) && is_of(&path, id), "{stdout}");
        let manifest = verified(&path);
        let is_whole = manifest["missing"] == json!([]);
        assert_eq!(code, Some(i32::from(!is_whole)), "{stderr}");
        assert_eq!(stderr.is_empty(), is_whole, "{stderr}");
        (path, manifest)
    }

    /// The exporter saves a bundle by itself, and no second one after its own restart. Returns the restarted exporter.
    pub fn one_bundle_in_spite_of_a_restart(
        &self,
        cluster: &Cluster,
        exporter: Exporter,
        made: &Deadlock,
    ) -> Exporter {
        let id = made.broker;
        let total = |exporter: &Exporter| exporter.metrics().of("evidence_bundles_total", id);
        wait_for("the exporter's own bundle", Duration::from_secs(60), || {
            total(&exporter) == Some(1.0)
        });
        println!(
            "saved {:.1} s after the last follower's SIGCONT",
            made.followers_continued.elapsed().as_secs_f64()
        );
        drop(exporter);
        let exporter = self.exporter(cluster);
        wait_for(
            "the deadlock to be reported again",
            Duration::from_secs(30),
            || exporter.metrics().of("deadlock_detected", id) == Some(1.0),
        );
        wait_for(
            "the bundle to be remembered",
            Duration::from_secs(10),
            || total(&exporter) == Some(0.0),
        );
        let manifest = verified(&self.bundle_by_exporter(id));
        assert_eq!(manifest["missing"], json!([]));
        exporter
    }

    /// Returns the only bundle of this broker. A follower whose SIGSTOP lasted longer than the lab intended was gray too, and
    /// has a bundle of its own.
    fn bundle_by_exporter(&self, id: i32) -> PathBuf {
        let all = complete(self.by_exporter.path());
        let of_broker: Vec<&PathBuf> = all.iter().filter(|path| is_of(path, id)).collect();
        let [bundle] = of_broker[..] else {
            panic!("{all:?}")
        };
        bundle.clone()
    }

    pub fn heap_of_the_deadlocked_broker(&self, cluster: &Cluster, made: &Deadlock) {
        let id = made.broker;
        let manifest = verified(&self.bundle_by_exporter(id));
        let files = fs::read_dir(self.heaps.path()).unwrap();
        let files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
        let name = format!("kafka-vitals-broker-{id}.hprof");
        let file = self.heaps.path().join(name);
        assert_eq!(files, std::slice::from_ref(&file));
        println!("{}", manifest["heap_dump"]);
        assert_eq!(manifest["heap_dump"]["path"], file.to_str().unwrap());
        assert_eq!(
            manifest["heap_dump"]["bytes"],
            fs::metadata(&file).unwrap().len()
        );
        let mut start_of_file = [0; 19];
        fs::File::open(&file)
            .unwrap()
            .read_exact(&mut start_of_file)
            .unwrap();
        assert_eq!(&start_of_file, b"JAVA PROFILE 1.0.2\0");

        // No heap is stored there. That free space is missing is tested in tests/attach.rs.
        let (_, manifest) = self.take(cluster, id, Some(Path::new("/proc")));
        let why = why_missing(&manifest, "heap dump").unwrap();
        assert!(
            why.contains("/proc is on procfs, where no files are stored")
                && manifest["heap_dump"].is_null(),
            "{manifest:#}"
        );
        let (_, manifest) = self.take(cluster, other(cluster, id), Some(self.heaps.path()));
        let why = why_missing(&manifest, "heap dump").unwrap();
        assert!(why.contains("is not stopped for one"), "{manifest:#}");
        assert_eq!(fs::read_dir(self.heaps.path()).unwrap().count(), 1);
    }

    pub fn bundle_agrees_with_other_tools(&self, cluster: &Cluster, made: &Deadlock) {
        let (path, manifest) = self.bundle_with_the_connections_of_ss(cluster, made.broker);
        assert_eq!(manifest["missing"], json!([]), "{manifest:#}");
        assert!(manifest.get("heap_dump").is_none());
        let verdict = manifest["verdict"].as_str().unwrap();
        assert!(
            verdict.contains("alive but deadlocked") && verdict.contains("KAFKA-3994"),
            "{verdict}"
        );
        dumps_have_the_cycle(&path, &made.report);
        analyze_explains(&path);
        files_agree_with_the_process(&path, cluster, made.broker);
        secret_is_hidden(&path);
    }

    /// The bundle must have every connection that `ss` lists both before and after it, and no other than those of one of the
    /// two: peers that time out connect again meanwhile.
    fn bundle_with_the_connections_of_ss(&self, cluster: &Cluster, id: i32) -> (PathBuf, Value) {
        let port = cluster.broker(id).unwrap().port();
        // Both addresses of each, IPv4 in IPv6 as IPv4.
        let established = |text: &str| -> BTreeSet<String> {
            let lines = text
                .lines()
                .filter(|line| line.starts_with("ESTAB") && line.contains(&format!(":{port} ")));
            let addresses = lines.map(|line| {
                let addresses: Vec<_> = line.split_whitespace().skip(3).take(2).collect();
                addresses.join(" ").replace("[::ffff:", "").replace(']', "")
            });
            addresses.collect()
        };
        let by_ss = || {
            let mut ss = Command::new("ss");
            ss.args(["--tcp", "--all", "--numeric"]);
            let output = cluster
                .cell()
                .run_tool(ss, Duration::from_secs(10))
                .unwrap();
            established(&String::from_utf8(output.stdout).unwrap())
        };
        let before = by_ss();
        let (path, manifest) = self.take(cluster, id, None);
        let after = by_ss();
        let saved = established(&read(&path, "sockets.txt"));
        let lasting: BTreeSet<_> = before.intersection(&after).cloned().collect();
        assert!(!lasting.is_empty(), "{before:#?}\n{after:#?}");
        let missing: Vec<_> = lasting.difference(&saved).collect();
        assert_eq!(missing, Vec::<&String>::new());
        let all: BTreeSet<_> = before.union(&after).cloned().collect();
        let others: Vec<_> = saved.difference(&all).collect();
        assert_eq!(others, Vec::<&String>::new());
        (path, manifest)
    }

    /// A hung broker cannot be attached to; everything else is in its bundle.
    pub fn bundle_of_a_hung_broker(&self, cluster: &Cluster, made: &Deadlock) {
        let hung = other(cluster, made.broker);
        cluster.pause(hung).unwrap();
        let (_, manifest) = self.take(cluster, hung, None);
        let verdict = manifest["verdict"].as_str().unwrap();
        assert!(verdict.contains("stopped by a signal"), "{manifest:#}");
        let why = why_missing(&manifest, "thread-dump-1.txt").unwrap();
        assert!(why.contains("stopped"), "{manifest:#}");
        assert!(why_missing(&manifest, "thread-dump-3.txt").is_some());
        let missing = manifest["missing"].as_array().unwrap().len();
        assert!(
            missing <= 4,
            "more than dumps and performance data are missing: {manifest:#}"
        );
        for name in [
            "sockets.txt",
            "handles.txt",
            "server.log",
            "server.properties",
            "findings.json",
        ] {
            assert_eq!(why_missing(&manifest, name), None);
        }
        cluster.resume(hung).unwrap();
    }
}

fn is_of(bundle: &Path, id: i32) -> bool {
    let name = bundle.to_str().unwrap();
    name.ends_with(&format!("Z-broker-{id}"))
}

fn other(cluster: &Cluster, id: i32) -> i32 {
    let mut ids = cluster.brokers().map(|broker| broker.id());
    ids.find(|other| *other != id).unwrap()
}

fn read(bundle: &Path, name: &str) -> String {
    fs::read_to_string(bundle.join(name)).unwrap()
}

/// Every dump has the cycle of `jstack`'s report, and the dumps are so far apart that `analyze` can find a stall in them.
fn dumps_have_the_cycle(bundle: &Path, report: &str) {
    let quoted = |report: &str| {
        let members = report
            .lines()
            .filter_map(|line| line.strip_prefix('"')?.split_once("\":"));
        members
            .map(|(name, _)| name.to_owned())
            .collect::<BTreeSet<_>>()
    };
    let names = [1, 2, 3].map(|number| format!("thread-dump-{number}.txt"));
    let dumps = names.each_ref().map(|name| read(bundle, name));
    for (name, dump) in names.iter().zip(&dumps) {
        assert!(
            dump.lines()
                .nth(1)
                .unwrap()
                .starts_with("Full thread dump "),
            "{name}"
        );
        let in_dump = cli_tools::reported_deadlock(dump).unwrap();
        // The threads blocked behind the cycle change; the cycle does not.
        let common = quoted(in_dump).intersection(&quoted(report)).count();
        assert!(common >= 2, "{name}: {in_dump}\n{report}");
    }
    let printed = |dump: &str| humantime::parse_rfc3339_weak(dump.lines().next().unwrap()).unwrap();
    let span = printed(&dumps[2])
        .duration_since(printed(&dumps[0]))
        .unwrap();
    assert!((10..15).contains(&span.as_secs()), "{span:?}");
}

fn analyze_explains(bundle: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_kafka-vitals"))
        .arg("analyze")
        .arg(bundle)
        .output()
        .unwrap();
    let analysis = String::from_utf8(output.stdout).unwrap();
    assert!(
        analysis.contains("KAFKA-3994") && analysis.contains("deadlock"),
        "{analysis}"
    );
    // All but the manifest itself.
    let files = fs::read_dir(bundle).unwrap().count() - 1;
    assert!(
        analysis.contains(&format!(
            " {files} of its {files} files are here as they were saved ["
        )),
        "{analysis}"
    );
}

/// A deadlocked broker opens and closes no file, so the tools still show what they showed then.
fn files_agree_with_the_process(bundle: &Path, cluster: &Cluster, id: i32) {
    let broker = cluster.broker(id).unwrap();
    let pid = broker.pid().unwrap();
    let jars = |text: &str| {
        text.lines()
            .filter(|line| line.contains(" -> ") && line.ends_with(".jar"))
            .count()
    };
    let ls = Command::new("ls")
        .arg("-l")
        .arg(format!("/proc/{pid}/fd"))
        .output()
        .unwrap();
    let by_ls = String::from_utf8(ls.stdout).unwrap();
    assert_eq!(jars(&read(bundle, "handles.txt")), jars(&by_ls), "{by_ls}");
    assert_eq!(
        read(bundle, "limits.txt"),
        fs::read_to_string(format!("/proc/{pid}/limits")).unwrap()
    );
    let log = read(bundle, "server.log");
    assert!(broker.log().unwrap().contains(log.lines().last().unwrap()));
    assert!(read(bundle, "hsperfdata.txt").contains("sun.rt.safepointTime="));
    assert!(read(bundle, "server.properties").contains(&format!("\nbroker.id={id}\n")));
    let snapshots = read(bundle, "snapshots.jsonl");
    let snapshot: kafka_vitals::model::Snapshot =
        serde_json::from_str(snapshots.lines().next().unwrap()).unwrap();
    assert_eq!(snapshot.brokers.len(), 3);
}

fn secret_is_hidden(bundle: &Path) {
    let grep = |arguments: &[&str], text: &str| {
        let mut grep = Command::new("grep");
        grep.args(["-r", "-l"])
            .args(arguments)
            .arg(text)
            .arg(bundle);
        grep.output().unwrap()
    };
    let found = grep(&["--text"], SECRET);
    assert_eq!(
        (found.status.code(), found.stdout),
        (Some(1), vec![]),
        "the secret is in the evidence"
    );
    let hidden = String::from_utf8(grep(&["--fixed-strings"], "[hidden]").stdout).unwrap();
    for name in ["command-line.txt", "server.properties", "hsperfdata.txt"] {
        assert!(hidden.contains(name), "{hidden}");
    }
}
