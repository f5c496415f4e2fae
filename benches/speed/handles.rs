//! Counting the open handles of processes: 100,000, over as many processes as the limit of one asks for.

use std::process::Command;

use anyhow::{Result, ensure};
use lab::{Cell, Process};

use crate::contest::{self, Bench, contest, contestant, cost_of, milliseconds, row};
use crate::report::{Bar, Row};
use crate::{load, worker};

/// Files that one process of the load holds; 20,000 is the lowest usual hard limit of containers.
const PER_PROCESS: usize = 19_900;

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let wanted = bench.count(100_000, 2_000);
    let cell = Cell::new()?;
    let files = tempfile::tempdir_in(contest::folder())?;
    load::make_files(files.path())?;
    let mut left = wanted;
    let mut holders: Vec<Process> = Vec::new();
    while left > 0 {
        let count = left.min(PER_PROCESS);
        let folder = files.path().display().to_string();
        holders.push(load::start(&cell, &["hold-files", &count.to_string(), &folder])?);
        left -= count;
    }
    let pids: Vec<String> = holders.iter().map(|one| Ok(one.cell_pid()?.to_string())).collect::<Result<_>>()?;
    let floor = contest::floor("handles")?;
    let (rounds, each) = (bench.count(15, 3), bench.count(4000, 200));

    // Every way must count what the folders hold: the files, and what the processes were started with.
    let held: Vec<usize> = holders.iter().map(|one| lab::hand::open_handles(one.pid())).collect::<Result<_, _>>()?;
    let expected = held.iter().sum::<usize>().to_string();
    ensure!(held.iter().sum::<usize>() >= wanted, "{expected} handles, not {wanted}");
    let counted = |printed: String| -> Result<()> {
        ensure!(printed.trim() == expected, "counted {}, not {expected}", printed.trim());
        Ok(())
    };
    let per_count = |command: Command, times: usize| -> Result<f64> {
        let (cpu, printed) = cost_of(&cell, command)?;
        counted(printed)?;
        Ok(milliseconds(cpu) / times as f64)
    };
    let ours = || per_count(worker::command(["count-handles", &each.to_string()], &pids), each);
    let bare = |mode: &str, times: usize| {
        let mut command = Command::new(&floor);
        command.args([mode, &times.to_string()]).args(&pids);
        per_count(command, times)
    };
    let lists = each / 200;
    let mut all = vec![
        contestant("ours", ours),
        contestant("bare stat", || bare("stat", each)),
        contestant("getdents of the folders", || bare("list", lists)),
    ];
    if bench.has("lsof") {
        all.push(contestant("lsof", || {
            let mut command = Command::new("lsof");
            command.args(["-n", "-P", "-w", "-a", "-d", "0-999999", "-p", &pids.join(",")]);
            let (cpu, printed) = cost_of(&cell, command)?;
            counted((printed.lines().count() - 1).to_string())?;
            Ok(milliseconds(cpu))
        }));
    }
    contest(rounds, &mut all)?;
    let subject = format!("open handles counted: {wanted} in {} processes", pids.len());
    Ok(vec![row(subject, "ms", "bare stat", Bar::Ratio(2.0), &all)])
}
