//! Runs contestants in turn, in one run, so that other load on the machine affects all of them.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Cell, usage};
use procfs::process::Process;

use crate::report::{Bar, Floor, Row};

/// The exporter, optimised as it is shipped.
pub const KAFKA_VITALS: &str = env!("CARGO_BIN_EXE_kafka-vitals");
/// A tool that takes longer hangs.
const TOOL_TIME: Duration = Duration::from_secs(120);

/// How thorough this run is, and what it left out.
pub struct Bench {
    pub quick: bool,
    skipped: RefCell<Vec<String>>,
}

impl Bench {
    pub fn new(quick: bool) -> Result<Bench> {
        Ok(Bench {
            quick,
            skipped: RefCell::default(),
        })
    }

    /// Returns `full`, or `quick` in a run that only tries the benches.
    pub fn count(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// Reports what is not measured, at once and below the table.
    pub fn skip(&self, what: &str, why: &str) {
        let line = format!("{what}: {why}");
        eprintln!("SKIPPED: {line}");
        self.skipped.borrow_mut().push(line);
    }

    pub fn skipped(&self) -> Vec<String> {
        self.skipped.borrow().clone()
    }

    /// Whether the tool is on the PATH; notes the skip if not.
    pub fn has(&self, tool: &str) -> bool {
        let found = lab::jars::on_path(tool).is_some();
        if !found {
            self.skip(tool, "not on the PATH");
        }
        found
    }
}

/// The folder for what the benches make.
pub fn folder() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// Compiles one of `benches/floors`.
pub fn floor(name: &str) -> Result<PathBuf> {
    let program = folder().join(format!("floor-{name}"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("benches/floors/{name}.c"));
    let compiled = Command::new("cc")
        .args(["-O2", "-o"])
        .args([&program, &source])
        .status()
        .context("start `cc`")?;
    ensure!(
        compiled.success(),
        "cc could not compile {}",
        source.display()
    );
    Ok(program)
}

/// Runs a command in the cell to its end. Returns its CPU time with that of its children, and its output.
pub fn cost_of(cell: &Cell, command: Command) -> Result<(Duration, String)> {
    let name = format!("{command:?}");
    let before = usage::children_cpu()?;
    let output = cell
        .run_tool(command, TOOL_TIME)
        .with_context(|| name.clone())?;
    let spent = usage::children_cpu()? - before;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{name}: {} {text} {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok((spent, text))
}

/// A contestant: a function that returns what a run costs.
pub struct Contestant<'a> {
    name: String,
    run: Box<dyn FnMut() -> Result<f64> + 'a>,
    costs: Vec<f64>,
}

pub fn contestant<'a>(
    name: impl Into<String>,
    run: impl FnMut() -> Result<f64> + 'a,
) -> Contestant<'a> {
    Contestant {
        name: name.into(),
        run: Box::new(run),
        costs: Vec::new(),
    }
}

/// A contestant within this process: it makes so many calls that their CPU time can be measured.
pub fn call<'a>(bench: &Bench, name: &str, mut run: impl FnMut() + 'a) -> Contestant<'a> {
    let (least, mut calls) = (Duration::from_millis(bench.count(200, 20) as u64), 1_u32);
    contestant(name, move || {
        loop {
            let before = usage::own_cpu()?;
            (0..calls).for_each(|_| run());
            let spent = usage::own_cpu()? - before;
            if spent >= least {
                return Ok(milliseconds(spent) / f64::from(calls));
            }
            calls *= 2;
        }
    })
}

/// Runs all in turn, `rounds` times, every other round in reverse order, after one run that does not count.
pub fn contest(rounds: usize, contestants: &mut [Contestant<'_>]) -> Result<()> {
    for round in 0..=rounds {
        for at in 0..contestants.len() {
            let at = if round % 2 == 0 {
                at
            } else {
                contestants.len() - 1 - at
            };
            let one = &mut contestants[at];
            let cost = (one.run)().with_context(|| one.name.clone())?;
            if round > 0 {
                one.costs.push(cost);
            }
        }
    }
    Ok(())
}

impl Contestant<'_> {
    pub fn median(&self) -> f64 {
        median(self.costs.clone())
    }

    /// Returns this contestant as the floor of `ours` in the same contest.
    pub fn as_floor_of(&self, ours: &Contestant<'_>, name: &'static str) -> Floor {
        let ratios = ours
            .costs
            .iter()
            .zip(&self.costs)
            .map(|(ours, floor)| ours / floor)
            .collect();
        Floor {
            name,
            value: self.median(),
            ratio: median(ratios),
        }
    }

    pub fn beside(&self) -> (String, f64) {
        (self.name.clone(), self.median())
    }
}

/// Makes the row of a contest whose contestants are ours, the floor, and tools.
pub fn row(
    subject: impl Into<String>,
    unit: &'static str,
    floor_name: &'static str,
    bar: Bar,
    all: &[Contestant<'_>],
) -> Row {
    let [ours, floor, tools @ ..] = all else {
        unreachable!("a contest has ours and a floor")
    };
    Row {
        subject: subject.into(),
        unit,
        ours: ours.median(),
        floor: Some(floor.as_floor_of(ours, floor_name)),
        bar,
        beside: tools.iter().map(Contestant::beside).collect(),
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

pub fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

/// Reads a field of `/proc/PID/status` in MB (10^6 bytes).
pub fn status_megabytes(pid: &str, field: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path)?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    Ok(kibibytes.with_context(|| format!("{path} has no {field}"))? * 1024.0 / 1e6)
}

/// Returns the CPU time of a running process and of its children that were waited for, in steps of 10 ms.
pub fn process_cpu(pid: u32) -> Result<Duration> {
    let stat = Process::new(i32::try_from(pid)?)?.stat()?;
    let ticks = stat.utime + stat.stime + u64::try_from(stat.cutime + stat.cstime)?;
    Ok(Duration::from_secs_f64(
        ticks as f64 / procfs::ticks_per_second() as f64,
    ))
}
