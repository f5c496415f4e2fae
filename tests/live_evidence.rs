//! Real brokers: what stands in a bundle, by the tools that it stands in for.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lab::{Cluster, ClusterOptions, Form, cli_tools, deadlock};
use support::evidence::{bundle_command, folder, run, verified, whole, why_missing};
use support::verdict::followed;
use support::{Exporter, wait_for};

const SECRET: &str = "s3cret-of-the-test";

#[track_caller]
fn take(
    cluster: &Cluster,
    broker: i32,
    dir: &Path,
    config: &Path,
) -> (std::path::PathBuf, serde_json::Value) {
    let mut command = bundle_command(broker, dir);
    command.arg("--config.file").arg(config);
    let (code, stdout, stderr) = run(cluster.cell(), command);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    let path = std::path::PathBuf::from(stdout.trim_end());
    assert!(
        path.starts_with(dir)
            && path
                .to_str()
                .unwrap()
                .ends_with(&format!("Z-broker-{broker}")),
        "{stdout}"
    );
    let manifest = verified(&path);
    (path, manifest)
}

#[test]
fn a_deadlocked_and_a_hung_broker_leave_their_evidence() {
    let options = ClusterOptions {
        properties: vec![("ssl.keystore.password".into(), SECRET.into())],
        jvm_options: vec![format!("-Djavax.net.ssl.trustStorePassword={SECRET}")],
        ..ClusterOptions::incident()
    };
    let cluster = Cluster::start(options).unwrap();
    cluster.create_topic(deadlock::TOPIC, 32, 3).unwrap();
    let (home, dir, own, heaps) = (folder(), folder(), folder(), folder());
    // However full the disk is.
    let config = |name: &str, heap_dump: Option<&Path>| {
        let path = home.path().join(name);
        let heap_dump = heap_dump
            .map(|folder| format!(", heap_dump: {}", folder.display()))
            .unwrap_or_default();
        fs::write(&path, format!("evidence: {{min_free: 0{heap_dump}}}\n")).unwrap();
        path
    };
    let without = config("config.yml", None);
    let with_heap_dump = config("heap-dump.yml", Some(heaps.path()));
    // Nothing is ever free there.
    let no_room = config("no-room.yml", Some(Path::new("/proc")));
    let start = || {
        Exporter::start_with(cluster.cell(), "", |command| {
            command
                .arg("--evidence.dir")
                .arg(own.path())
                .arg("--config.file")
                .arg(&with_heap_dump);
        })
    };
    let exporter = start();
    followed(&cluster, &exporter);
    let deadlock = deadlock::make(&cluster, Form::Leave).unwrap();
    let broker = cluster.broker(deadlock.broker).unwrap();

    // The exporter saves it by itself, and not again after its own restart.
    let total = |exporter: &Exporter| exporter.metrics().of("evidence_bundles_total", broker.id());
    wait_for("the exporter's own bundle", Duration::from_secs(60), || {
        total(&exporter) == Some(1.0)
    });
    println!(
        "saved {:.1} s after the last follower's SIGCONT",
        deadlock.followers_continued.elapsed().as_secs_f64()
    );
    drop(exporter);
    let exporter = start();
    wait_for(
        "the deadlock to be told again",
        Duration::from_secs(30),
        || exporter.metrics().of("deadlock_detected", broker.id()) == Some(1.0),
    );
    wait_for(
        "the bundle to be remembered",
        Duration::from_secs(10),
        || total(&exporter) == Some(0.0),
    );
    // A follower whose SIGSTOP lasted longer than the lab meant was gray as well, and has a bundle of its own.
    let mut bundles = whole(own.path());
    bundles.retain(|path| {
        path.to_str()
            .unwrap()
            .ends_with(&format!("Z-broker-{}", broker.id()))
    });
    let [bundle] = &bundles[..] else {
        panic!("{:?}", whole(own.path()))
    };
    let manifest = verified(bundle);
    assert_eq!(manifest["missing"], serde_json::json!([]));
    drop(exporter);

    // Its heap, and that of no broker that works.
    let files: Vec<_> = fs::read_dir(heaps.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let file = heaps
        .path()
        .join(format!("kafka-vitals-broker-{}.hprof", broker.id()));
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
    let (_, manifest) = take(&cluster, broker.id(), dir.path(), &no_room);
    let why = why_missing(&manifest, "heap dump").unwrap();
    assert!(
        why.contains("/proc: 0 MiB are free") && manifest["heap_dump"].is_null(),
        "{manifest:#}"
    );
    let well = cluster
        .brokers()
        .map(|broker| broker.id())
        .find(|id| *id != broker.id())
        .unwrap();
    let (_, manifest) = take(&cluster, well, dir.path(), &with_heap_dump);
    assert!(
        why_missing(&manifest, "heap dump")
            .unwrap()
            .contains("is not stopped for one"),
        "{manifest:#}"
    );
    assert_eq!(fs::read_dir(heaps.path()).unwrap().count(), 1);

    let (path, manifest) = take(&cluster, broker.id(), dir.path(), &without);
    let read = |name: &str| fs::read_to_string(path.join(name)).unwrap();
    assert_eq!(manifest["missing"], serde_json::json!([]), "{manifest:#}");
    assert!(manifest.get("heap_dump").is_none());
    let verdict = manifest["verdict"].as_str().unwrap();
    assert!(
        verdict.contains("alive but deadlocked") && verdict.contains("KAFKA-3994"),
        "{verdict}"
    );

    // The cycle of jstack's report, in every dump's.
    let quoted = |report: &str| {
        let members = report
            .lines()
            .filter_map(|line| line.strip_prefix('"')?.split_once("\":"));
        members
            .map(|(name, _)| name.to_owned())
            .collect::<std::collections::BTreeSet<_>>()
    };
    for name in [
        "thread-dump-1.txt",
        "thread-dump-2.txt",
        "thread-dump-3.txt",
    ] {
        let dump = read(name);
        assert!(
            dump.lines()
                .nth(1)
                .unwrap()
                .starts_with("Full thread dump "),
            "{name}"
        );
        let report = cli_tools::reported_deadlock(&dump).unwrap();
        // Who merely waits for a member changes; the cycle does not.
        let common = quoted(report)
            .intersection(&quoted(&deadlock.report))
            .count();
        assert!(common >= 2, "{name}: {report}\n{}", deadlock.report);
    }
    // So far apart that `analyze` can tell a stall from them.
    let printed =
        |name: &str| humantime::parse_rfc3339_weak(read(name).lines().next().unwrap()).unwrap();
    let span = printed("thread-dump-3.txt")
        .duration_since(printed("thread-dump-1.txt"))
        .unwrap();
    assert!((10..15).contains(&span.as_secs()), "{span:?}");
    let analysis = Command::new(env!("CARGO_BIN_EXE_kafka-vitals"))
        .arg("analyze")
        .arg(&path)
        .output()
        .unwrap();
    let analysis = String::from_utf8(analysis.stdout).unwrap();
    assert!(
        analysis.contains("KAFKA-3994") && analysis.contains("deadlock"),
        "{analysis}"
    );
    // All but the manifest itself.
    let files = fs::read_dir(&path).unwrap().count() - 1;
    assert!(
        analysis.contains(&format!(
            " {files} of its {files} files are here as they were saved ["
        )),
        "{analysis}"
    );
    // It does not accept, connect or close anything by itself: what the tools tell now is what they told then.
    let established = |text: &str, port: u16| {
        let lines = text
            .lines()
            .filter(|line| line.starts_with("ESTAB") && line.contains(&format!(":{port} ")));
        lines.count()
    };
    let mut ss = Command::new("ss");
    ss.args(["--tcp", "--all", "--numeric"]);
    let by_ss = String::from_utf8(
        cluster
            .cell()
            .run_tool(ss, Duration::from_secs(10))
            .unwrap()
            .stdout,
    )
    .unwrap();
    assert!(established(&by_ss, broker.port()) > 0, "{by_ss}");
    assert_eq!(
        established(&read("sockets.txt"), broker.port()),
        established(&by_ss, broker.port()),
        "{by_ss}"
    );
    let jars = |text: &str| {
        text.lines()
            .filter(|line| line.contains(" -> ") && line.ends_with(".jar"))
            .count()
    };
    let ls = Command::new("ls")
        .arg("-l")
        .arg(format!("/proc/{}/fd", broker.pid().unwrap()))
        .output()
        .unwrap();
    let by_ls = String::from_utf8(ls.stdout).unwrap();
    assert_eq!(jars(&read("handles.txt")), jars(&by_ls), "{by_ls}");
    assert_eq!(
        read("limits.txt"),
        fs::read_to_string(format!("/proc/{}/limits", broker.pid().unwrap())).unwrap()
    );
    assert!(
        broker
            .log()
            .unwrap()
            .contains(&read("server.log").lines().last().unwrap().to_owned())
    );
    assert!(read("hsperfdata.txt").contains("sun.rt.safepointTime="));
    assert!(read("server.properties").contains(&format!("\nbroker.id={}\n", broker.id())));
    let snapshot: kafka_vitals::model::Snapshot =
        serde_json::from_str(read("snapshots.jsonl").lines().next().unwrap()).unwrap();
    assert_eq!(snapshot.brokers.len(), 3);
    let grep = Command::new("grep")
        .args(["-r", "--text", "-l", SECRET])
        .arg(&path)
        .output()
        .unwrap();
    assert_eq!(
        (grep.status.code(), grep.stdout),
        (Some(1), vec![]),
        "the secret is in the evidence"
    );
    let hidden = Command::new("grep")
        .args(["-r", "-l", "--fixed-strings", "[hidden]"])
        .arg(&path)
        .output()
        .unwrap();
    let hidden = String::from_utf8(hidden.stdout).unwrap();
    for name in ["command-line.txt", "server.properties", "hsperfdata.txt"] {
        assert!(hidden.contains(name), "{hidden}");
    }

    // Another one hangs: it cannot be attached to, and everything else is there.
    let hung = cluster
        .brokers()
        .map(|broker| broker.id())
        .find(|id| *id != broker.id())
        .unwrap();
    cluster.pause(hung).unwrap();
    let (_, manifest) = take(&cluster, hung, dir.path(), &without);
    assert!(
        manifest["verdict"]
            .as_str()
            .unwrap()
            .contains("stopped by a signal"),
        "{manifest:#}"
    );
    assert!(
        why_missing(&manifest, "thread-dump-1.txt")
            .unwrap()
            .contains("stopped"),
        "{manifest:#}"
    );
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
