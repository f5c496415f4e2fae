//! Counts 100,000 open fds, spread over as many processes as the limit of one process requires.

use std::process::Command;

use anyhow::{Result, ensure};
use lab::{Cell, Process};

use crate::contest::{self, Bench, contest, contestant, cost_of, milliseconds, row};
use crate::report::{Bar, Row};
use crate::{load, worker};

/// Files that one process of the load holds; 20,000 is the lowest usual hard limit of containers.
const PER_PROCESS: usize = 19_900;
/// So few that the exporter lists each entry: the size of the folder can be off by one.
const FEW: usize = 500;

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let processes = bench.count(100_000, 4_000).div_ceil(PER_PROCESS);
    let each = bench.count(100_000, 4_000).div_ceil(processes);
    let wanted = each * processes;
    let cell = Cell::new()?;
    let files = tempfile::tempdir_in(contest::folder())?;
    load::make_files(files.path())?;
    let folder = files.path().display().to_string();
    let hold = |count: usize| load::start(&cell, &["hold-files", &count.to_string(), &folder]);
    let holders: Vec<Process> = (0..processes).map(|_| hold(each)).collect::<Result<_>>()?;
    let pids: Vec<String> = holders
        .iter()
        .map(|one| Ok(one.cell_pid()?.to_string()))
        .collect::<Result<_>>()?;
    let floor = contest::floor("handles")?;
    let rounds = bench.count(15, 3);

    // Every way must count the same as the folders: the files, and the fds that the processes started with.
    let held: Vec<usize> = holders
        .iter()
        .map(|one| lab::cli_tools::open_handles(one.pid()))
        .collect::<Result<_, _>>()?;
    let expected = held.iter().sum::<usize>().to_string();
    ensure!(
        held.iter().sum::<usize>() >= wanted,
        "{expected} handles, not {wanted}"
    );
    let counted = |printed: String| -> Result<()> {
        ensure!(
            printed.trim() == expected,
            "counted {}, not {expected}",
            printed.trim()
        );
        Ok(())
    };
    let per_count = |command: Command, times: usize| -> Result<(f64, String)> {
        let (cpu, printed) = cost_of(&cell, command)?;
        Ok((milliseconds(cpu) / times as f64, printed))
    };
    let ours = |pids: &[String], times: usize| {
        per_count(
            worker::command(["count-handles", &times.to_string()], pids),
            times,
        )
    };
    let bare = |mode: &str, pids: &[String], times: usize| {
        let mut command = Command::new(&floor);
        command.args([mode, &times.to_string()]).args(pids);
        per_count(command, times)
    };
    let checked = |(cost, printed): (f64, String)| -> Result<f64> {
        counted(printed)?;
        Ok(cost)
    };
    let times = bench.count(4000, 200);
    let (_, by_stat) = bare("stat", &pids, 1)?;
    if by_stat.trim() != expected {
        bench.skip(
            "open handles",
            "their floor is `stat` of a folder, which counts since Linux 6.2 only",
        );
        return Ok(Vec::new());
    }
    let mut all = vec![
        contestant("ours", || checked(ours(&pids, times)?)),
        contestant("bare stat", || checked(bare("stat", &pids, times)?)),
        contestant("getdents of the folders", || {
            checked(bare("list", &pids, bench.count(20, 2))?)
        }),
    ];
    if bench.has("lsof") {
        all.push(contestant("lsof", || {
            let mut command = Command::new("lsof");
            command.args([
                "-n",
                "-P",
                "-w",
                "-a",
                "-d",
                "0-999999",
                "-p",
                &pids.join(","),
            ]);
            let (cost, printed) = per_count(command, 1)?;
            counted((printed.lines().count() - 1).to_string())?;
            Ok(cost)
        }));
    }
    contest(rounds, &mut all)?;

    let small = hold(FEW)?;
    let pid = [small.cell_pid()?.to_string()];
    let mut few = vec![
        contestant("ours", || Ok(ours(&pid, times / 10)?.0)),
        contestant("getdents", || Ok(bare("list", &pid, times / 10)?.0)),
    ];
    contest(rounds, &mut few)?;
    Ok(vec![
        row(
            format!("{wanted} open handles of {processes} processes"),
            "ms",
            "bare stat",
            Bar::Ratio(2.0),
            &all,
        ),
        row(
            format!("{FEW} of one process, listed entry by entry"),
            "ms",
            "bare getdents",
            Bar::None,
            &few,
        ),
    ])
}
