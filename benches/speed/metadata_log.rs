//! The metadata log of a cluster with 200,000 partitions: read from its snapshot at the start, and followed then.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use kafka_protocol::records::RecordBatchDecoder;
use kafka_vitals::collect::frame::BlockingCollector as _;
use kafka_vitals::collect::metadata_log::{MetadataLogs, Update};
use kafka_vitals::model::{Broker, Clock, MetadataLog};
use kafka_vitals::sys::proc::ProcRoot;
use lab::metadata_log as log;
use lab::{Cell, usage};

use crate::contest::{Bench, call, contest, cost_of, milliseconds, row, status_megabytes};
use crate::report::{Bar, Row};
use crate::worker;

const BROKERS: i32 = 30;
const PER_TOPIC: usize = 100;
const WRITTEN: i64 = 1_700_000_000_000;
/// Decodes the batches, and no metadata in them.
const FLOOR: &str = "read, its batches decoded by kafka-protocol";

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let partitions = bench.count(200_000, 10_000);
    let holder = tempfile::tempdir_in(crate::contest::folder())?;
    let written = write(holder.path(), partitions)?;
    let snapshot = holder.path().join(FOLDER).join(&written);
    let megabytes = fs::metadata(&snapshot)?.len() as f64 / 1e6;
    let counted = read(&mut follow(holder.path())?)?;
    let counts = counted.counts.as_ref().context("no counts")?;
    ensure!(counts.partitions == partitions as u64, "{counts:?}");
    let mut reading = [
        call(bench, "ours", || {
            black_box(
                follow(holder.path())
                    .and_then(|mut logs| read(&mut logs))
                    .ok(),
            );
        }),
        call(bench, FLOOR, || {
            let bytes = fs::read(&snapshot).unwrap_or_default();
            let decoded = RecordBatchDecoder::decode_all(&mut bytes.as_slice());
            black_box(decoded.map(|batches| batches.len()).ok());
        }),
    ];
    contest(bench.count(9, 1), &mut reading)?;
    let subject = format!(
        "metadata log of {partitions} partitions ({megabytes:.1} MB): read and counted at the start"
    );
    let start = row(&subject, "ms", FLOOR, Bar::Ratio(2.0), &reading);

    let cell = Cell::outside()?;
    let folder = holder.path().display().to_string();
    let rounds = bench.count(300, 10).to_string();
    let (_, printed) = cost_of(
        &cell,
        worker::command(["metadata-log", &rounds, &folder], &[]),
    )?;
    let figures: Vec<f64> = printed
        .split_whitespace()
        .map(|figure| Ok(figure.parse()?))
        .collect::<Result<_>>()?;
    let [wall, memory, idle, pulse, change] = figures[..] else {
        bail!("five figures expected: {printed}")
    };
    let plain = |what: &str, unit, ours, bar| Row {
        subject: format!("the same: {what}"),
        unit,
        ours,
        floor: None,
        bar,
        beside: vec![],
    };
    Ok(vec![
        start,
        plain(
            "wall time until the first reading",
            "ms",
            wall,
            Bar::Most(1000.0),
        ),
        plain(
            "peak memory above what there was before",
            "MB",
            memory,
            Bar::Most(40.0),
        ),
        plain("a run with nothing new: CPU", "ms", idle, Bar::Most(0.1)),
        plain(
            "a run with two records that change nothing, as at rest: CPU",
            "ms",
            pulse,
            Bar::Most(1.0),
        ),
        plain(
            "a run with a change of an ISR, counted again: CPU",
            "ms",
            change,
            Bar::None,
        ),
    ])
}

const FOLDER: &str = "__cluster_metadata-0";

fn follow(folder: &Path) -> Result<MetadataLogs> {
    let broker = Broker {
        id: Some(1),
        metadata_log_dir: Some(folder.to_path_buf()),
        min_insync_replicas: Some(1),
        ..worker::broker_of(std::process::id())?
    };
    Ok(MetadataLogs::of(
        &ProcRoot::new("/proc"),
        &Arc::new(broker),
        Clock::start(),
    ))
}

fn read(logs: &mut MetadataLogs) -> Result<MetadataLog> {
    loop {
        if let Update::Read(log) = logs.collect()?.update {
            return Ok(*log);
        }
    }
}

fn topic_of(partition: usize) -> log::Uuid {
    let mut id = [7; 16];
    // Ids are random.
    let number = (partition / PER_TOPIC) as u64 + 1;
    id[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    id
}

fn replicas(partition: usize) -> Vec<i32> {
    let id = |offset: usize| (partition * 7 + offset * 3) as i32 % BROKERS + 1;
    (0..3).map(id).collect()
}

/// Writes a snapshot and an empty segment, and returns the snapshot's name.
fn write(folder: &Path, partitions: usize) -> Result<String> {
    let folder = folder.join(FOLDER);
    fs::create_dir(&folder)?;
    let mut values: Vec<Vec<u8>> = (1..=BROKERS)
        .map(|id| log::register_broker(3, id, 9092, false, false))
        .collect();
    for partition in 0..partitions {
        let topic = topic_of(partition);
        if partition.is_multiple_of(PER_TOPIC) {
            let name = format!("orders.v{}.events-by-customer", partition / PER_TOPIC);
            values.push(log::topic(&name, topic));
        }
        let replicas = replicas(partition);
        let of = log::Partition {
            topic,
            index: (partition % PER_TOPIC) as i32,
            isr: Some(replicas.clone()),
            leader: replicas.first().copied(),
            replicas: Some(replicas),
            ..log::Partition::default()
        };
        values.push(log::partition(2, &of));
    }
    let end = values.len();
    let name = format!("{end:020}-{:010}.checkpoint", 1);
    fs::write(
        folder.join(&name),
        log::snapshot(1, WRITTEN, &values, 10_000)?,
    )?;
    File::create(folder.join(format!("{end:020}.log")))?;
    Ok(name)
}

/// Prints wall time and memory of the start, and the CPU of the three kinds of runs.
pub fn work(rounds: usize, folder: &Path) -> Result<()> {
    let memory = status_megabytes("self", "VmRSS")?;
    let started = Instant::now();
    let mut logs = follow(folder)?;
    let mut next = read(&mut logs)?.end_offset;
    let wall = started.elapsed().as_secs_f64() * 1e3;
    let memory = status_megabytes("self", "VmHWM")? - memory;
    let segment = folder.join(FOLDER).join(format!("{next:020}.log"));
    let mut segment = File::options().append(true).open(segment)?;
    let mut run = |values: &dyn Fn(usize) -> Vec<Vec<u8>>| -> Result<f64> {
        let mut spent = std::time::Duration::ZERO;
        for round in 0..rounds {
            for value in values(round) {
                segment.write_all(&log::batch(next, 1, WRITTEN, &[value])?)?;
                next += 1;
            }
            let before = usage::own_cpu()?;
            let end = read(&mut logs)?.end_offset;
            spent += usage::own_cpu()? - before;
            ensure!(end == next, "read to {end}, not to {next}");
        }
        Ok(milliseconds(spent) / rounds as f64)
    };
    let idle = run(&|_| vec![])?;
    let pulse = run(&|_| vec![log::no_op(), log::no_op()])?;
    let shrink = |round: usize| {
        vec![log::partition_change(&log::Partition {
            topic: topic_of(0),
            isr: Some(replicas(0)[..2 + round % 2].to_vec()),
            ..log::Partition::default()
        })]
    };
    let change = run(&shrink)?;
    println!("{wall} {memory} {idle} {pulse} {change}");
    Ok(())
}
