//! `kafka-vitals analyze` of what people save: logs of 100 MB of several kinds, and a dump of 5,000 threads.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lab::Cell;

use crate::contest::{self, Bench, contest, contestant, cost_of, milliseconds};
use crate::report::{Bar, Row};
use crate::worker;

const THREADS: usize = 5_000;
const MOST_OF_LOG: Bar = Bar::Most(2_000.0);
const MOST_OF_DUMP: Bar = Bar::Most(250.0);
/// 64 MiB.
const MOST_MEMORY: Bar = Bar::Most(67.1);

/// The line with this number of a saved text, or several lines.
type Lines = fn(usize) -> String;

/// A log, and what the answer has of it.
const LOGS: [(&str, Lines, &str); 4] = [
    ("broker log", broker_log, "lost its connection to it"),
    (
        "broker log with the lines of the garbage collector",
        with_collector,
        "lost its connection to it",
    ),
    (
        "broker log of changes of ISRs alone",
        isr_changes,
        "ISRs to itself alone",
    ),
    (
        "producer's log of errors alone",
        produce_errors,
        "met NETWORK_EXCEPTION",
    ),
];

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir_in(contest::folder())?;
    let bytes = bench.count(100_000_000, 10_000_000);
    let mut rows = Vec::new();
    for (what, lines, expected) in LOGS {
        let path = folder.path().join("saved.log");
        write(&path, |written, number| {
            (written < bytes).then(|| lines(number))
        })?;
        let subject = format!("analyze of {} MB: {what}", bytes / 1_000_000);
        rows.extend(measured(bench, subject, &path, expected, MOST_OF_LOG)?);
    }
    let path = folder.path().join("jstack.txt");
    write(&path, |_, number| {
        (number <= THREADS).then(|| thread(number))
    })?;
    let subject = format!("analyze of a dump of {THREADS} threads");
    rows.extend(measured(bench, subject, &path, "worker-7 ", MOST_OF_DUMP)?);
    Ok(rows)
}

/// Writes what `lines` returns for 0, 1 ..., with the bytes that are written.
fn write(path: &Path, lines: impl Fn(usize, usize) -> Option<String>) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let (mut written, mut number) = (0, 0);
    while let Some(text) = lines(written, number) {
        file.write_all(text.as_bytes())?;
        (written, number) = (written + text.len(), number + 1);
    }
    Ok(file.flush()?)
}

/// Two rows: the CPU time, and the peak of resident memory.
fn measured(
    bench: &Bench,
    subject: String,
    path: &Path,
    expected: &str,
    most: Bar,
) -> Result<[Row; 2]> {
    let cell = Cell::outside()?;
    let path = path.display().to_string();
    let mut peak = 0.0;
    let mut all = [contestant("ours", || {
        let (spent, printed) = cost_of(&cell, worker::command(["analyze", &path], &[]))?;
        let (bytes, answer) = printed.split_once('\n').context("no answer")?;
        ensure!(answer.contains(expected), "{expected:?} is not in {answer}");
        peak = f64::max(peak, bytes.parse::<f64>()? / 1e6);
        Ok(milliseconds(spent))
    })];
    contest(bench.count(5, 1), &mut all)?;
    let [ours] = &all;
    let cost = Row::milliseconds(subject.clone(), ours.median(), most);
    drop(all);
    let memory = Row {
        unit: "MB",
        ..Row::milliseconds(format!("{subject}: peak memory"), peak, MOST_MEMORY)
    };
    Ok([cost, memory])
}

fn time(number: usize) -> String {
    let seconds = number / 20;
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!(
        "[2024-01-02 {hours:02}:{minutes:02}:{:02},{:03}]",
        seconds % 60,
        number % 1000
    )
}

/// Of ten lines five say nothing, and each of the others something else.
fn broker_log(number: usize) -> String {
    let time = time(number);
    match number % 10 {
        0 => format!(
            "{time} WARN [ReplicaFetcher replicaId=1, leaderId=3, fetcherId=0] Error in response for fetch request (kafka.server.ReplicaFetcherThread)\n\
             java.io.IOException: Connection to 3 was disconnected before the response was read\n\
             \tat org.apache.kafka.clients.NetworkClientUtils.sendAndReceive(NetworkClientUtils.java:97)\n\
             \tat kafka.utils.ShutdownableThread.run(ShutdownableThread.scala:82)\n"
        ),
        1 => isr_changes(number),
        2 => format!(
            "{time} ERROR [KafkaApi-1] Error when handling request clientId=x (kafka.server.KafkaApis)\n\
             java.lang.IllegalStateException: x\n\tat a.B.c(D.java:7)\n"
        ),
        3 => format!(
            "{time} INFO [SocketServer brokerId=1] Failed authentication with /10.0.0.7 (SSL handshake failed) (org.apache.kafka.common.network.Selector)\n"
        ),
        4 => format!(
            "{time} INFO [GroupCoordinator 1]: Stabilized group g{number} generation 7 (__consumer_offsets-3) (kafka.coordinator.group.GroupCoordinator)\n"
        ),
        _ => format!(
            "{time} INFO [Log partition=t-{}, dir=/data/kafka] Rolled new log segment at offset {number} in 3 ms. (kafka.log.Log)\n",
            number % 300
        ),
    }
}

fn with_collector(number: usize) -> String {
    format!(
        "{}[2024-01-02T03:04:05.678+0000][info][gc          ] GC({number}) Pause Young (Normal) (G1 Evacuation Pause) 100M->20M(256M) 4.001ms\n\
         2024-01-02T03:04:05.678+0000: 12.345: Total time for which application threads were stopped: 0.001 seconds, Stopping threads took: 0.0001 seconds\n",
        broker_log(number)
    )
}

fn isr_changes(number: usize) -> String {
    let (what, from, to) = match number % 3 {
        0 => ("Expanding", "1", "1,2,3"),
        _ => ("Shrinking", "1,2,3", "1"),
    };
    format!(
        "{} INFO [Partition t-{} broker=1] {what} ISR from {from} to {to}. Leader: (highWatermark: {number}, endOffset: {number}). (kafka.cluster.Partition)\n",
        time(number),
        number % 2_999
    )
}

fn produce_errors(number: usize) -> String {
    format!(
        "{} WARN [Producer clientId=p] Got error produce response with correlation id {number} on topic-partition t-{}, retrying (2 attempts left). Error: NETWORK_EXCEPTION (org.apache.kafka.clients.producer.internals.Sender)\n",
        time(number),
        number % 299
    )
}

/// A queue for a lock whose holder waits as well, 20 frames deep.
fn thread(number: usize) -> String {
    if number == 0 {
        return "2024-01-02 03:04:05\nFull thread dump OpenJDK 64-Bit Server VM (17.0.15+6 mixed mode):\n\n".to_owned();
    }
    let lock = match number {
        1 => "locked",
        _ => "waiting to lock",
    };
    let (state, header) = match number {
        1 => ("RUNNABLE", "runnable"),
        _ => ("BLOCKED (on object monitor)", "waiting for monitor entry"),
    };
    let frames = "\tat org.example.kafka.Client.poll(Client.java:71)\n".repeat(20);
    format!(
        "\"worker-{number} \" #{number} prio=5 os_prio=0 cpu=1.00ms elapsed=7.00s tid=0x{number:016x} nid=0x{number:x} {header} [0x{number:016x}]\n   \
         java.lang.Thread.State: {state}\n\tat org.example.Lock.take(Lock.java:7)\n\
         \t- {lock} <0x0000000700000010> (a java.lang.Object)\n{frames}\n"
    )
}
