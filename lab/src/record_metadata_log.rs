//! Records the metadata log of a real KRaft cluster with what `kafka-topics` said of it: a broker killed, a topic deleted,
//! settings of `min.insync.replicas`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Cluster, ClusterOptions};

const PATIENCE: Duration = Duration::from_secs(120);
const LOG: &str = "__cluster_metadata-0";
/// The flags of `kafka-topics --describe`, with the file that gets the output.
const LISTS: [(&str, &str); 5] = [
    ("", "describe.txt"),
    ("--under-replicated-partitions", "under-replicated.txt"),
    ("--under-min-isr-partitions", "under-min-isr.txt"),
    ("--at-min-isr-partitions", "at-min-isr.txt"),
    ("--unavailable-partitions", "unavailable.txt"),
];

/// Records into the new folder `to`.
pub fn record_metadata_log(version: &str, to: &Path) -> Result<()> {
    ensure!(!to.exists(), "{} exists: remove it first", to.display());
    let small = [
        ("metadata.log.max.record.bytes.between.snapshots", "6000"),
        ("metadata.log.segment.ms", "15000"),
    ];
    let small = small.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mut cluster = Cluster::start(ClusterOptions {
        properties: small.to_vec(),
        ..ClusterOptions::new(version)
    })?;
    let created = Instant::now();
    for (name, partitions, replicas) in [
        ("orders", 6, 3),
        ("single", 3, 1),
        ("pair", 4, 2),
        ("gone", 3, 3),
    ] {
        cluster.create_topic(name, partitions, replicas)?;
    }
    let address = format!("127.0.0.1:{}", cluster.broker(1)?.port());
    for (name, setting) in [
        ("pair", "min.insync.replicas=2"),
        ("single", "min.insync.replicas=3"),
    ] {
        let mut arguments = vec!["--bootstrap-server", &address, "--alter"];
        arguments.extend(["--entity-type", "topics", "--entity-name", name]);
        arguments.extend(["--add-config", setting]);
        cluster.tool("kafka.admin.ConfigCommand", &arguments)?;
    }
    cluster.topics(&["--delete", "--topic", "gone"])?;
    cluster.kill(3)?;
    cluster.wait_for("broker 3 to be fenced", PATIENCE, |metadata| {
        metadata.brokers.len() == 2
    })?;

    let log = cluster.broker(1)?.folder().join("data").join(LOG);
    let outside = cluster.cell().host_path(&log);
    let files = || -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&outside)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".log") || name.ends_with(".checkpoint") {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    };
    // One of the last state, and some records after it.
    let snapshots = || -> Result<usize> {
        let names = files()?.into_iter();
        Ok(names
            .filter(|name| {
                name.ends_with(".checkpoint") && !name.starts_with("00000000000000000000-")
            })
            .count())
    };
    let before = snapshots()?;
    while snapshots()? <= before {
        ensure!(created.elapsed() < PATIENCE * 3, "no snapshot was made");
        lab::sleep_between_polls()?;
    }
    let describe = || -> Result<Vec<String>> {
        let all = LISTS.iter().map(|(flag, _)| match *flag {
            "" => cluster.topics(&["--describe"]),
            flag => cluster.topics(&["--describe", flag]),
        });
        all.collect()
    };
    let texts = describe()?;
    let folder = to.join(LOG);
    fs::create_dir_all(&folder)?;
    for name in files()? {
        fs::copy(outside.join(&name), folder.join(&name)).context("copy a file of the log")?;
    }
    ensure!(
        texts == describe()?,
        "the cluster has changed meanwhile: record again"
    );
    for ((_, file), text) in LISTS.iter().zip(texts) {
        fs::write(to.join(file), text)?;
    }
    let copied = cluster.broker(1)?.folder().join("copied");
    fs::create_dir(cluster.cell().host_path(&copied))?;
    let mut names = Vec::new();
    for name in files()? {
        if folder.join(&name).is_file() {
            fs::copy(
                folder.join(&name),
                cluster.cell().host_path(&copied).join(&name),
            )?;
            names.push(copied.join(&name).display().to_string());
        }
    }
    let class = match version.starts_with('3') {
        true => "kafka.tools.DumpLogSegments",
        false => "org.apache.kafka.tools.DumpLogSegments",
    };
    let arguments = [
        "--cluster-metadata-decoder",
        "--skip-record-metadata",
        "--files",
    ];
    let dumped = cluster.tool(class, &[&arguments[..], &[&names.join(",")]].concat())?;
    let prefix = format!("{}/", copied.display());
    // Of each record its kind and version.
    let kept = dumped
        .lines()
        .filter(|line| line.starts_with("Dumping") || line.contains("payload:"));
    let kept = kept.map(|line| {
        line.replace(&prefix, "")
            .split(",\"data\"")
            .next()
            .unwrap_or_default()
            .to_owned()
    });
    let kept: Vec<String> = kept.collect();
    fs::write(to.join("dump-log.txt"), kept.join("\n") + "\n")?;
    Ok(())
}
