//! Reading the text of a dump of 1 MB, beside counting its lines.

use std::fmt::Write as _;
use std::hint::black_box;

use anyhow::{Context, Result, ensure};
use kafka_vitals::diagnose::wait_graph::WaitGraph;
use kafka_vitals::parse::thread_dump;

use crate::contest::Bench;
use crate::report::{Bar, Row};
use crate::within::{Within, within};

const SOURCE: &str = include_str!("../../tests/fixtures/thread_dumps/recordings/deadlock-handlers-0.10.1.0/jstack.txt");
const BYTES: usize = 1_000_000;

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let (dump, threads) = long_dump()?;
    let text = dump.as_bytes();
    let parsed = thread_dump::parse(&dump)?;
    ensure!(parsed.len() == 1 && parsed[0].threads.len() == threads, "not the {threads} threads that were written");
    ensure!(WaitGraph::of(&parsed[0]).deadlocks().len() == 1, "not the one deadlock of the recording");

    let all = within(
        bench,
        "text",
        &mut [
            ("ours", &mut || {
                let text = thread_dump::decode(black_box(text));
                black_box(thread_dump::parse(&text).map(|dumps| dumps.len()).ok());
            }),
            ("judged", &mut || {
                let text = thread_dump::decode(black_box(text));
                let dumps = thread_dump::parse(&text).unwrap_or_default();
                black_box(dumps.iter().map(|dump| WaitGraph::of(dump).deadlocks().len()).sum::<usize>());
            }),
            ("memchr", &mut || {
                black_box(memchr::memchr_iter(b'\n', black_box(text)).count());
            }),
            ("one by one", &mut || {
                let mut lines = 0;
                for at in memchr::memchr_iter(b'\n', black_box(text)) {
                    black_box(at);
                    lines += 1;
                }
                black_box(lines);
            }),
        ],
    )?;
    let megabytes = text.len() as f64 / 1e6;
    let row = |subject: String, at: usize, floor: usize, name, bar| Row {
        subject,
        unit: "ms",
        ours: all[at].median(),
        floor: Some(Within::floor(&all[at], &all[floor], name)),
        bar,
        beside: Vec::new(),
    };
    Ok(vec![
        row(format!("dump of {megabytes:.2} MB, {threads} threads: parsed"), 0, 2, "lines by memchr", Bar::Ratio(4.0)),
        row("the same, parsed and judged by the wait graph".into(), 1, 2, "lines by memchr", Bar::Ratio(8.0)),
        row("the same, beside each line's end found by memchr".into(), 1, 3, "line ends", Bar::None),
    ])
}

/// One dump as a broker of many threads prints it: those of the recording with their deadlock, then the same again and
/// again with other names, other locks and nobody waiting for one, then the JVM's report of the deadlock. With the
/// number of its threads.
fn long_dump() -> Result<(String, usize)> {
    let first = SOURCE.find("\n\"").context("a thread")? + 1;
    let end = SOURCE.find("\nJNI global ref").context("the end of the threads")? + 1;
    let (head, threads, tail) = (&SOURCE[..first], &SOURCE[first..end], &SOURCE[end..]);
    let each = threads.lines().filter(|line| line.starts_with('"')).count();
    let mut dump = format!("{head}{threads}");
    let mut copies = 1;
    while dump.len() + tail.len() < BYTES {
        for line in threads.lines().filter(|line| !line.contains("- waiting to lock")) {
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
