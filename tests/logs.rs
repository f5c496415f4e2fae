//! Logs of real brokers: a thread that an error ends is reported at once, and no line of a log that is rotated is lost.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lab::{Cluster, ClusterOptions};
use support::{Exporter, Metrics, byteman_on_demand, wait_for};

/// From the death of a thread until it is named, at the default intervals.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Counters of the severest signatures, of all brokers.
fn critical(metrics: &Metrics) -> Vec<(String, f64)> {
    let of = metrics.0.iter().filter(|(name, _)| {
        name.starts_with("log_signatures_total{") && name.contains("severity=\"critical\"")
    });
    of.map(|(name, count)| (name.clone(), *count)).collect()
}

/// Starts three brokers in which an error ends a thread as soon as a file is in the folder that is returned.
fn mortal(version: &str) -> (Cluster, PathBuf) {
    let (jvm_options, folder) = byteman_on_demand("thread-death.btm", &format!("harm-{version}"));
    let cluster = Cluster::start(ClusterOptions {
        jvm_options,
        ..ClusterOptions::new(version)
    })
    .unwrap();
    cluster.create_topic("t", 6, 3).unwrap();
    cluster
        .wait_fully_replicated(Duration::from_secs(30))
        .unwrap();
    (cluster, folder)
}

/// Ends a thread, and returns the broker and the thread's name as its log has them, and when that stood there.
fn end_one(cluster: &Cluster, folder: &Path, file: &str, line: &str) -> (i32, String, Instant) {
    fs::write(folder.join(file), "").unwrap();
    let mut found = None;
    wait_for("a thread to end", Duration::from_secs(10), || {
        found = cluster.brokers().find_map(|broker| {
            let log = broker.log().unwrap();
            let line = log.lines().find(|of| of.contains(line))?.to_owned();
            Some((broker.id(), line))
        });
        found.is_some()
    });
    let (id, line) = found.unwrap();
    (id, line, Instant::now())
}

fn a_death_is_reported(version: &str, names: impl Fn(&str, &str) -> String) {
    let (cluster, folder) = mortal(version);
    let exporter = Exporter::start(cluster.cell());
    // Both dumps of the start, after which threads may be missing.
    let known = |metrics: &Metrics, pool: &str| {
        cluster.brokers().all(|broker| {
            let id = broker.id();
            let series = format!("missing_threads{{broker=\"{id}\",pool=\"{pool}\"}}");
            metrics.get(&series) == Some(0.0)
        })
    };
    wait_for("all brokers to be known", Duration::from_secs(60), || {
        let metrics = exporter.metrics();
        known(&metrics, "request_handler") && critical(&metrics).len() > 3
    });
    let before = critical(&exporter.metrics());
    assert!(before.iter().all(|(_, count)| *count == 0.0), "{before:?}");
    let table = [
        (
            "handler",
            "Uncaught exception in ",
            "uncaught_exception",
            "request_handler",
        ),
        ("fetcher", "Error due to", "thread_died", "replica_fetcher"),
    ];
    for (file, line, signature, pool) in table {
        let dumps = cluster.brokers().map(|broker| broker.id());
        let before: BTreeMap<i32, String> =
            dumps.map(|id| (id, cluster.jstack(id).unwrap())).collect();
        // Two dumps are 2 s apart at least.
        wait_for("dumps to be over", Duration::from_secs(40), || {
            let metrics = exporter.metrics();
            let age = |id| metrics.of("thread_dump_age_seconds", id);
            cluster
                .brokers()
                .all(|broker| age(broker.id()).is_some_and(|age| age > 2.0))
        });
        let (id, line, since) = end_one(&cluster, &folder, file, line);
        let counted = format!(
            "log_signatures_total{{broker=\"{id}\",signature=\"{signature}\",severity=\"critical\"}}"
        );
        let missing = format!("missing_threads{{broker=\"{id}\",pool=\"{pool}\"}}");
        let mut metrics = exporter.metrics();
        wait_for("the line and the thread", AT_ONCE, || {
            metrics = exporter.metrics();
            metrics.get(&counted) == Some(1.0)
                && metrics.get(&missing) == Some(1.0)
                && metrics.finding(id, "missing_thread", "warning") == Some(1.0)
        });
        println!(
            "{version}: {signature} of broker {id} after {:?}",
            since.elapsed()
        );
        // The log names it, and a dump does not show it.
        let name = names(pool, &line);
        assert!(
            exporter
                .page()
                .contains(&format!("<strong>{name}</strong>")),
            "{name}"
        );
        // A node that is broker and controller has two pools of handlers.
        let count = |dump: &str| dump.matches(&format!("\n\"{name}\"")).count();
        let dump = cluster.jstack(id).unwrap();
        assert_eq!(count(&dump) + 1, count(&before[&id]), "{name}: {dump}");
    }
    // Nothing else is critical.
    let after = critical(&exporter.metrics());
    let counts: f64 = after.iter().map(|(_, count)| count).sum();
    assert_eq!(counts, 2.0, "{after:?}");
    drop(cluster);
    fs::remove_dir_all(folder).unwrap();
}

/// What stands between the two.
fn between<'a>(line: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = line.split_once(before).unwrap();
    rest.split_once(after).unwrap().0
}

#[test]
fn a_thread_that_an_error_ends_is_reported_at_once() {
    a_death_is_reported("3.9.1", |pool, line| match pool {
        "request_handler" => between(line, "thread '", "'").to_owned(),
        _ => {
            let fetcher = between(line, "[ReplicaFetcherThread-", "]");
            format!("ReplicaFetcherThread-{fetcher}")
        }
    });
}

/// Files of 10 KiB, while a few hundred partitions are made.
#[test]
fn no_line_is_lost_while_the_log_is_rotated() {
    let log4j = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/log4j-rolling.properties"
    );
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let cluster = Cluster::start(ClusterOptions {
        brokers: vec![1],
        jvm_options: vec![
            format!("-Dlog4j.configuration=file:{log4j}"),
            format!("-Dkafka.logs.dir={}", folder.path().display()),
        ],
        ..ClusterOptions::new("3.9.1")
    })
    .unwrap();
    let config = "log_signatures: [{name: marked, pattern: 'marked-[0-9]', severity: info}]\n";
    let exporter = Exporter::start_with(cluster.cell(), config, |_| {});
    let series = "log_signatures_total{broker=\"1\",signature=\"marked\",severity=\"info\"}";
    wait_for("the log to be followed", Duration::from_secs(30), || {
        exporter.metrics().get(series) == Some(0.0)
    });
    for topic in 0..4 {
        cluster
            .create_topic(&format!("marked-{topic}"), 100, 1)
            .unwrap();
    }
    let names = || {
        let entries = fs::read_dir(folder.path()).unwrap();
        entries
            .map(|entry| entry.unwrap().path())
            .collect::<Vec<_>>()
    };
    // Lines below one with the marker are of the same event.
    let grep = || {
        let mut command = Command::new("grep");
        command
            .args(["-h", "-E", "^\\[.*marked-[0-9]"])
            .args(names());
        let lines = command.output().unwrap().stdout;
        lines.iter().filter(|byte| **byte == b'\n').count() as f64
    };
    wait_for("all partitions to be made", Duration::from_secs(60), || {
        let log = names()
            .into_iter()
            .map(|path| fs::read_to_string(path).unwrap_or_default());
        log.map(|text| text.matches("Created log for partition marked-").count())
            .sum::<usize>()
            == 400
    });
    let mut counts = (0.0, 0.0);
    wait_for("every line to be counted", Duration::from_secs(10), || {
        counts = (exporter.metrics().get(series).unwrap(), grep());
        counts.0 == counts.1
    });
    let files = names().len();
    println!("{} lines in {files} files", counts.0);
    assert!(
        files > 10 && counts.0 > 800.0,
        "{counts:?} in {files} files"
    );
    let skipped = exporter.metrics().of("log_skipped_bytes_total", 1);
    assert_eq!(skipped, Some(0.0));
}
