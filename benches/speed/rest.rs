//! The exporter at rest beside one real broker, with the defaults that are shipped.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Cluster, ClusterOptions};

use crate::contest::{Bench, KAFKA_VITALS, cost_of, median, process_cpu, status_megabytes};
use crate::report::{Bar, Row};
use crate::worker;

const VERSION: &str = "0.10.1.0";
/// The rounds with their default intervals in seconds.
const ROUNDS: [(&str, f64); 6] = [
    ("progress", 0.25),
    ("discovery", 5.0),
    ("pulse", 1.0),
    ("slow", 30.0),
    ("probe", 5.0),
    ("thread_dump", 15.0),
];

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let cluster = Cluster::start(ClusterOptions {
        brokers: vec![1],
        ..ClusterOptions::new(VERSION)
    })?;
    cluster.create_topic("orders", 32, 1)?;
    let cell = cluster.cell();
    let port = cell.free_ports(1)?[0];
    let mut command = Command::new(KAFKA_VITALS);
    command
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let exporter = cell.spawn(command)?;
    let pid = exporter.pid();
    let scrape = || {
        cell.http_get(port, "/metrics", Duration::from_secs(5))
            .map(|(_, page)| page)
    };
    // Waits until everything was read once, including the dump.
    let deadline = Instant::now() + Duration::from_secs(60);
    while !scrape().is_ok_and(|page| {
        [
            "deadlock_detected",
            "leader_partitions",
            "untracked_sockets",
        ]
        .iter()
        .all(|name| page.contains(&format!("kafka_vitals_{name}{{broker=\"1\"}}")))
    }) {
        ensure!(
            Instant::now() < deadline,
            "the exporter did not read everything"
        );
        sleep(Duration::from_millis(100));
    }

    let span = Duration::from_secs(bench.count(60, 5) as u64);
    let (before, started) = (process_cpu(pid)?, Instant::now());
    let mut scrapes = Vec::new();
    // Prometheus scrapes every 15 s.
    while started.elapsed() < span {
        let asked = Instant::now();
        scrape()?;
        scrapes.push(asked.elapsed().as_secs_f64() * 1e3);
        sleep(Duration::from_secs(15).min(span.saturating_sub(started.elapsed())));
    }
    let share =
        (process_cpu(pid)? - before).as_secs_f64() / started.elapsed().as_secs_f64() * 100.0;
    let peak = status_megabytes(&pid.to_string(), "VmHWM")?;
    let of_memory =
        |field: &str| Ok((field.to_owned(), status_megabytes(&pid.to_string(), field)?));
    let seconds = span.as_secs();
    let row = |subject: String, unit, ours, bar, beside| Row {
        subject,
        unit,
        ours,
        floor: None,
        bar,
        beside,
    };
    let mut rows = vec![
        row(
            format!("at rest beside one broker {VERSION}: CPU over {seconds} s"),
            "% of a core",
            share,
            Bar::Most(1.0),
            vec![],
        ),
        row(
            "at rest: peak resident memory".into(),
            "MB",
            peak,
            Bar::Most(20.0),
            ["VmRSS", "RssAnon", "RssFile"]
                .into_iter()
                .map(of_memory)
                .collect::<Result<_>>()?,
        ),
        row(
            "at rest: a scrape over HTTP, wall time".into(),
            "ms",
            median(scrapes),
            Bar::None,
            vec![],
        ),
    ];
    drop(exporter);

    let rounds = bench.count(50, 5).to_string();
    let (_, printed) = cost_of(cell, worker::command(["rounds", &rounds], &[]))?;
    let costs: BTreeMap<&str, f64> = printed
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(round, cost)| Ok((round, cost.parse()?)))
        .collect::<Result<_>>()?;
    for (round, interval) in ROUNDS {
        let cost = *costs
            .get(round)
            .with_context(|| format!("no cost of {round} in {printed}"))?;
        let share = cost / 1e3 / interval * 100.0;
        let subject = format!(
            "one {round} round of that broker: CPU ({share:.3} % of a core, every {interval} s)"
        );
        rows.push(row(subject, "ms", cost, Bar::None, vec![]));
    }
    Ok(rows)
}
