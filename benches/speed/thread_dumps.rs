//! A thread dump of 500 threads, 60 frames deep: taken, parsed and evaluated, compared with jstack, which only prints it.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use kafka_vitals::sys::perf_data::PerfFile;
use kafka_vitals::sys::process::PinnedProcess;
use lab::{Cell, Process, jars};

use crate::contest::{
    self, Bench, Contestant, KAFKA_VITALS, contest, contestant, cost_of, median, milliseconds, row,
};
use crate::report::{Bar, Floor, Row};
use crate::{load, worker};

const DEPTH: usize = 60;

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    if !["javac", "jstack"].iter().all(|tool| bench.has(tool)) {
        return Ok(Vec::new());
    }
    let threads = bench.count(500, 50);
    let cell = Cell::new()?;
    let jvm = start_jvm(&cell, threads)?;
    let pid = jvm.cell_pid()?.to_string();
    let target = PinnedProcess::open(Path::new("/proc"), jvm.pid(), None)?;
    let counters = PerfFile::open(&target)?;
    let paused = || -> Result<f64> {
        Ok(milliseconds(
            counters
                .read()?
                .safepoint_time()
                .context("no sun.rt.safepointTime")?,
        ))
    };

    let each = bench.count(10, 2);
    let counted = |printed: &str| -> Result<()> {
        for line in printed.lines() {
            ensure!(
                line.parse::<usize>()? >= threads,
                "a dump of {line} threads, not {threads}"
            );
        }
        ensure!(
            printed.lines().count() == each,
            "{} dumps, not {each}",
            printed.lines().count()
        );
        Ok(())
    };
    // The CPU time of ours (or of the tool) and the pause of the JVM, for one dump.
    let of_worker = |what: &str| -> Result<(f64, f64)> {
        let before = paused()?;
        let (cpu, printed) = cost_of(&cell, worker::command([what, &each.to_string(), &pid], &[]))?;
        counted(&printed)?;
        Ok((
            milliseconds(cpu) / each as f64,
            (paused()? - before) / each as f64,
        ))
    };
    let of_tool = |program: &str, arguments: &[&str]| -> Result<(f64, f64)> {
        let before = paused()?;
        let mut command = Command::new(program);
        command.args(arguments).arg(&pid);
        let (cpu, printed) = cost_of(&cell, command)?;
        let shown = printed.matches("java.lang.Thread.State:").count();
        ensure!(
            shown >= threads,
            "{program}: a dump of {shown} threads, not {threads}"
        );
        Ok((milliseconds(cpu), paused()? - before))
    };

    let mut cpu: Vec<Contestant<'_>> = vec![
        contestant("ours", || Ok(of_worker("dump")?.0)),
        contestant("jstack", || Ok(of_tool("jstack", &[])?.0)),
        contestant("the bare request", || Ok(of_worker("bare-dump")?.0)),
        contestant("`kafka-vitals threads`", || {
            Ok(of_tool(KAFKA_VITALS, &["threads"])?.0)
        }),
    ];
    contest(bench.count(15, 3), &mut cpu)?;
    let mut pause: Vec<Contestant<'_>> = vec![
        contestant("ours", || Ok(of_worker("dump")?.1)),
        contestant("the bare request", || {
            // One process for each dump, as ours: a process that starts between two dumps evicts the JVM's caches.
            let before = paused()?;
            for _ in 0..each {
                cost_of(&cell, worker::command(["bare-dump", "1", &pid], &[]))?;
            }
            Ok((paused()? - before) / each as f64)
        }),
        contestant("jstack", || Ok(of_tool("jstack", &[])?.1)),
        contestant("`jstack -l`", || Ok(of_tool("jstack", &["-l"])?.1)),
    ];
    contest(bench.count(25, 3), &mut pause)?;
    let (mut floors, mut ratios, mut passes) = (Vec::new(), Vec::new(), Vec::new());
    let mut progress = vec![contestant("ours", || {
        let (_, printed) = cost_of(
            &cell,
            worker::command(["progress", &bench.count(40, 8).to_string(), &pid], &[]),
        )?;
        let figures: Vec<f64> = printed
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let [sampled, once, bare, pass] = figures[..] else {
            bail!("four figures expected, not {printed}")
        };
        ensure!(
            sampled >= threads as f64,
            "{sampled} threads sampled, not {threads}"
        );
        floors.push(bare);
        ratios.push(once / bare);
        passes.push(pass);
        Ok(once)
    })];
    contest(bench.count(5, 1), &mut progress)?;
    let sampled = progress[0].median();
    drop(progress);
    let subject = format!("dump of {threads} threads x {DEPTH} frames: taken, parsed, evaluated");
    Ok(vec![
        row(subject, "ms", "jstack", Bar::Ratio(1.0 / 25.0), &cpu),
        // The exporter must add nothing to the pause; two runs of the same request differ by as much as this bar.
        row(
            "the same: pause of the JVM",
            "ms",
            "bare request",
            Bar::Ratio(1.15),
            &pause,
        ),
        Row {
            floor: Some(Floor {
                name: "bare `pread`s",
                value: median(floors),
                ratio: median(ratios),
            }),
            ..Row::milliseconds(
                format!("progress of {threads} threads sampled repeatedly"),
                sampled,
                // A ratio: on a slower machine the bare reads alone exceed every absolute bar.
                Bar::Ratio(1.25),
            )
        },
        Row::milliseconds(
            "the same, a full pass with its evaluation, 4 per second: cold caches".into(),
            median(passes),
            Bar::None,
        ),
    ])
}

fn start_jvm(cell: &Cell, threads: usize) -> Result<Process> {
    let classes = contest::folder().join("java");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/java/DeepStacks.java");
    let compiled = Command::new("javac")
        .arg("-d")
        .args([&classes, &source])
        .status()?;
    ensure!(
        compiled.success(),
        "javac could not compile {}",
        source.display()
    );
    let mut command = Command::new(jars::java()?);
    command
        .args(["-Xmx256m", "-XX:+UseSerialGC", "-cp"])
        .arg(&classes);
    command.args(["DeepStacks", &threads.to_string(), &DEPTH.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut jvm = cell.spawn(command)?;
    load::wait_ready(&mut jvm)?;
    Ok(jvm)
}
