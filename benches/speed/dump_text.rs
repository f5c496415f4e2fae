//! Parsing a dump of 1 MB, compared with counting its lines.

use std::fmt::Write as _;
use std::hint::black_box;

use anyhow::{Context, Result, ensure};
use kafka_vitals::parse::thread_dump;
use kafka_vitals::threads::wait_graph::WaitGraph;

use crate::contest::{Bench, call, contest};
use crate::report::{Bar, Row};

const SOURCE: &str = include_str!(
    "../../tests/fixtures/thread_dumps/recordings/deadlock-handlers-0.10.1.0/jstack.txt"
);
const BYTES: usize = 1_000_000;

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let (with_synchronizers, threads) = long_dump(SOURCE)?;
    let (plain, _) = long_dump(&without_synchronizers(SOURCE))?;
    for dump in [&plain, &with_synchronizers] {
        let text = thread_dump::decode(dump.as_bytes());
        let dumps = thread_dump::parse(&text)?;
        ensure!(
            dumps.len() == 1 && dumps[0].threads.len() >= threads,
            "fewer than the {threads} threads that were written"
        );
        ensure!(deadlocks(dump) == 1, "the recording has one deadlock");
    }
    let bytes = plain.as_bytes();
    let lines =
        |dump: &str| _ = black_box(memchr::memchr_iter(b'\n', black_box(dump.as_bytes())).count());
    let mut all = [
        call(bench, "parsed", || {
            let text = thread_dump::decode(black_box(bytes));
            black_box(thread_dump::parse(&text).map(|dumps| dumps.len()).ok());
        }),
        call(bench, "wait graph", || {
            _ = black_box(deadlocks(black_box(&plain)))
        }),
        call(bench, "lines", || lines(&plain)),
        call(bench, "each line's end by memchr", || {
            memchr::memchr_iter(b'\n', black_box(bytes)).for_each(|end| _ = black_box(end));
        }),
        call(bench, "with synchronizers", || {
            _ = black_box(deadlocks(black_box(&with_synchronizers)))
        }),
        call(bench, "their lines", || lines(&with_synchronizers)),
    ];
    contest(bench.count(15, 1), &mut all)?;
    let megabytes = bytes.len() as f64 / 1e6;
    let row = |subject: String, at: usize, floor: usize, bar, beside| Row {
        subject,
        unit: "ms",
        ours: all[at].median(),
        floor: Some(all[floor].as_floor_of(&all[at], "lines by memchr")),
        bar,
        beside,
    };
    Ok(vec![
        row(
            format!("dump of {megabytes:.2} MB, {threads} threads: parsed"),
            0,
            2,
            Bar::Ratio(4.0),
            vec![all[3].beside()],
        ),
        row(
            "the same, parsed, deadlocks found by the wait graph".into(),
            1,
            2,
            Bar::Ratio(8.0),
            vec![],
        ),
        row(
            "the same as `-l` prints it, with its lists of synchronizers".into(),
            4,
            5,
            Bar::None,
            vec![],
        ),
    ])
}

/// Removes what only `-l` prints: the recording was taken with it, the exporter takes dumps without.
fn without_synchronizers(dump: &str) -> String {
    let mut plain = String::new();
    let mut in_list = false;
    for line in dump.lines() {
        in_list =
            line.contains("Locked ownable synchronizers:") || (in_list && line.starts_with("\t- "));
        if !in_list {
            plain.extend([line, "\n"]);
        }
    }
    plain
}

/// Makes the dump of a broker with many threads: those of the recording with their deadlock, copies of them with other
/// names and locks where no thread waits for a lock, then the JVM's report of the deadlock. Returns it and the number
/// of its threads.
fn long_dump(source: &str) -> Result<(String, usize)> {
    let first = source.find("\n\"").context("a thread")? + 1;
    let end = source
        .find("\nJNI global ref")
        .context("the end of the threads")?
        + 1;
    let (head, threads, tail) = (&source[..first], &source[first..end], &source[end..]);
    let each = threads.lines().filter(|line| line.starts_with('"')).count();
    let mut dump = format!("{head}{threads}");
    let mut copies = 1;
    while dump.len() + tail.len() < BYTES {
        for line in threads
            .lines()
            .filter(|line| !line.contains("- waiting to lock"))
        {
            let line = line.replace("<0x00000000", &format!("<0x{copies:08x}"));
            match line.strip_prefix('"') {
                Some(name) => writeln!(dump, "\"{copies}-{name}")?,
                None => writeln!(dump, "{line}")?,
            }
        }
        copies += 1;
    }
    Ok((dump + tail, each * copies))
}

/// Decodes and parses a dump and counts the deadlocks of its wait graph.
fn deadlocks(dump: &str) -> usize {
    let text = thread_dump::decode(dump.as_bytes());
    let dumps = thread_dump::parse(&text).unwrap_or_default();
    dumps
        .iter()
        .map(|dump| WaitGraph::of(dump).deadlocks().len())
        .sum()
}
