#![allow(clippy::unwrap_used)]

use std::process::Command;

use super::*;
use crate::model::ProcessKey;

/// As coreutils reports it: the bytes that any user may still write, and those with what is written.
fn space_by_stat(dir: &str) -> (u64, u64) {
    let output = Command::new("stat")
        .args(["-f", "-c", "%a %f %b %S", dir])
        .output()
        .unwrap();
    let words = String::from_utf8(output.stdout).unwrap();
    let [free, of_root, all, size] = words
        .split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect::<Vec<u64>>()[..]
    else {
        panic!("{words}")
    };
    (free * size, (all - of_root + free) * size)
}

#[test]
fn space_is_what_stat_reports_and_one_bad_dir_hides_no_other() {
    let proc = ProcRoot::new("/proc");
    let me = std::process::id();
    let dirs = ["/", "/dev/shm", "/no/such/dir"];
    let log_dirs_at = dirs.map(Into::into).to_vec();
    let start_ticks = proc.stat(me).unwrap().start_ticks;
    let process = ProcessKey {
        pid: me,
        start_ticks,
    };
    let mut broker = Broker {
        log_dirs: log_dirs_at,
        id: Some(3),
        ..Broker::unknown(process)
    };
    let before = [space_by_stat("/"), space_by_stat("/dev/shm")];
    let (spaces, failure) = read(&proc, &broker).unwrap();
    let after = [space_by_stat("/"), space_by_stat("/dev/shm")];
    assert_eq!(spaces.len(), 2);
    for (space, (before, after)) in spaces.iter().zip(before.into_iter().zip(after)) {
        // Others write and delete between two readings.
        let slack = 64 << 20;
        let free = before.0.min(after.0).saturating_sub(slack)..=before.0.max(after.0) + slack;
        assert!(
            free.contains(&space.free_bytes),
            "{} is not in {free:?}",
            space.free_bytes
        );
        let difference = space.total_bytes.abs_diff(before.1);
        assert!(difference < slack, "{difference} bytes of {}", before.1);
    }
    assert_eq!(spaces[1].dir.to_str(), Some("/dev/shm"));
    let message = format!("broker 3 (pid {me}): /proc/{me}/root/no/such/dir does not exist");
    assert_eq!(failure, Some(Failure::new(Reason::Io, message)));

    broker.process.start_ticks -= 1;
    assert_eq!(read(&proc, &broker).unwrap_err().reason, Reason::Gone);
}
