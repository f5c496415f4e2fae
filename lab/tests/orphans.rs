//! Tests that no process of the lab outlives it, even when it is killed.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn a_killed_lab_leaves_no_process() {
    // A lab that is killed outside a cell leaves its folder.
    let temporary = tempfile::tempdir().unwrap();
    for place in [&["--apart"][..], &[]] {
        let mut lab = Command::new(env!("CARGO_BIN_EXE_lab"))
            .args(["up", "--brokers", "1"])
            .args(place)
            .env("TMPDIR", temporary.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(lab.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap);
        let lines: Vec<_> = lines.take_while(|line| !line.contains("Ctrl-C")).collect();
        let processes: Vec<_> = lines
            .iter()
            .filter_map(|line| line.split_once(" pid ")?.1.parse::<u32>().ok())
            .map(|pid| (pid, start_time(pid).unwrap()))
            .collect();
        lab.kill().unwrap();
        lab.wait().unwrap();
        assert_eq!(processes.len(), 2, "ZooKeeper and a broker: {lines:?}");
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Some(left) = processes
            .iter()
            .find(|(pid, start)| start_time(*pid).as_ref() == Some(start))
        {
            assert!(
                Instant::now() < deadline,
                "{left:?} is still there ({place:?})"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Returns the start time of a running process, which differs from that of a later one with the same pid. None for a
/// zombie.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if fields[0] == "Z" {
        None
    } else {
        Some(fields[19].into())
    }
}
