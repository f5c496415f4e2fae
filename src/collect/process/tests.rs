#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::{Command, Stdio};
use std::time::Instant;

use super::*;

fn broker(pid: u32, start_ticks: u64) -> Broker {
    Broker {
        id: Some(3),
        ..Broker::unknown(ProcessKey { pid, start_ticks })
    }
}

const BUDGET: Duration = Duration::from_secs(5);

#[test]
fn kinds_of_handles() {
    let table = [
        ("socket:[12]", "socket"),
        ("pipe:[12]", "pipe"),
        ("anon_inode:[eventpoll]", "anon"),
        ("anon_inode:[eventfd]", "anon"),
        ("/opt/kafka/libs/kafka_2.11-0.10.1.0.jar", "jar"),
        ("/opt/kafka/libs/old.jar (deleted)", "jar"),
        ("/data/t-0/00000000000000000042.log", "log_segment"),
        (
            "/data/t-0.5e-delete/00000000000000000042.log.deleted (deleted)",
            "log_segment",
        ),
        ("/data/t-0/00000000000000000042.log.cleaned", "log_segment"),
        ("/data/t-0/00000000000000000042.index", "index"),
        ("/data/t-0/00000000000000000042.timeindex", "index"),
        ("/data/t-0/00000000000000000042.txnindex.deleted", "index"),
        ("/data/t-0/00000000000000000042.snapshot", "other"),
        ("/var/log/kafka/server.log", "other"),
        ("/var/log/kafka/42.log", "other"),
        ("/data/.lock", "other"),
        ("/dev/null", "other"),
        ("/", "other"),
        ("", "other"),
    ];
    for (link, expected) in table {
        let mut kinds = FdKinds::default();
        *slot(&mut kinds, link.as_bytes()) += 1;
        let json = serde_json::to_value(kinds).unwrap();
        let counted: Vec<_> = json
            .as_object()
            .unwrap()
            .iter()
            .filter(|(_, n)| *n == 1)
            .map(|(k, _)| k.clone())
            .collect();
        assert_eq!(counted, [expected], "{link}");
    }
}

#[test]
fn a_pid_that_was_given_to_another_process_is_gone() {
    let proc = ProcRoot::new("/proc");
    let me = std::process::id();
    let start_ticks = proc.stat(me).unwrap().start_ticks;
    let now = pulse(&proc, &broker(me, start_ticks));
    assert!(now.handles.unwrap() > 2 && now.vitals.unwrap().resident_bytes > 0);
    let mine = slow(&proc, &broker(me, start_ticks), BUDGET);
    assert!(mine.memory_maps.unwrap() > 2 && mine.kinds.is_ok());

    let other = broker(me, start_ticks - 1);
    let gone = Failure::new(
        Reason::Gone,
        format!("broker 3 (pid {me}) has ended or was restarted"),
    );
    assert_eq!(
        pulse(&proc, &other),
        Pulse {
            handles: Err(gone.clone()),
            vitals: Err(gone.clone())
        }
    );
    let expected = Slow {
        kinds: Err(gone.clone()),
        socket_inodes: Err(gone.clone()),
        memory_maps: Err(gone),
    };
    assert_eq!(slow(&proc, &other, BUDGET), expected);
}

/// As coreutils tells it: blocks that anybody may still use, all blocks, bytes of a block.
fn space_by_stat(dir: &str) -> (u64, u64) {
    let output = Command::new("stat")
        .args(["-f", "-c", "%a %b %S", dir])
        .output()
        .unwrap();
    let words = String::from_utf8(output.stdout).unwrap();
    let [free, all, size] = words
        .split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect::<Vec<u64>>()[..]
    else {
        panic!("{words}")
    };
    (free * size, all * size)
}

#[test]
fn space_is_what_stat_tells_and_one_bad_dir_hides_no_other() {
    let proc = ProcRoot::new("/proc");
    let me = std::process::id();
    let dirs = ["/", "/dev/shm", "/no/such/dir"];
    let log_dirs_at = dirs.map(Into::into).to_vec();
    let mut broker = Broker {
        log_dirs: log_dirs_at,
        ..broker(me, proc.stat(me).unwrap().start_ticks)
    };
    let before = [space_by_stat("/"), space_by_stat("/dev/shm")];
    let (spaces, failure) = log_dirs(&proc, &broker);
    let after = [space_by_stat("/"), space_by_stat("/dev/shm")];
    assert_eq!(spaces.len(), 2);
    for (space, (before, after)) in spaces.iter().zip(before.into_iter().zip(after)) {
        // Others write and delete between two looks.
        let slack = 64 << 20;
        let free = before.0.min(after.0).saturating_sub(slack)..=before.0.max(after.0) + slack;
        assert!(
            free.contains(&space.free_bytes),
            "{} is not in {free:?}",
            space.free_bytes
        );
        assert_eq!(space.total_bytes, before.1);
    }
    assert_eq!(spaces[1].dir.to_str(), Some("/dev/shm"));
    let message = format!("broker 3 (pid {me}): /proc/{me}/root/no/such/dir does not exist");
    assert_eq!(failure, Some(Failure::new(Reason::Io, message)));

    broker.process.start_ticks -= 1;
    let (spaces, failure) = log_dirs(&proc, &broker);
    assert_eq!((spaces.len(), failure.unwrap().reason), (0, Reason::Gone));
}

struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process is killed while it is read as fast as we can: each reading is its true one or `gone`, never less.
#[test]
fn a_process_that_ends_while_it_is_read_is_gone_and_never_zero() {
    let proc = ProcRoot::new("/proc");
    for _ in 0..30 {
        let mut sleep = Command::new("sleep");
        sleep
            .arg("600")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = Killed(sleep.spawn().unwrap());
        let pid = child.0.id();
        let broker = broker(pid, proc.stat(pid).unwrap().start_ticks);
        let until = Instant::now() + BUDGET;
        // Until it sleeps: its program has replaced our own, with our handles, and opens no more.
        while std::fs::read_to_string(format!("/proc/{pid}/wchan"))
            .is_ok_and(|wait| !wait.contains("nanosleep"))
        {
            assert!(Instant::now() < until);
        }
        let expected = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .count() as u64;
        assert!(expected >= 3);
        child.0.kill().unwrap();
        loop {
            let now = pulse(&proc, &broker);
            let inodes = slow(&proc, &broker, BUDGET);
            let kinds = inodes
                .kinds
                .map(|k| k.socket + k.log_segment + k.index + k.jar + k.pipe + k.anon + k.other);
            for handles in [now.handles.clone(), kinds] {
                match handles {
                    Ok(count) => assert_eq!(count, expected),
                    Err(failure) => assert_eq!(failure.reason, Reason::Gone),
                }
            }
            if now.handles.is_err() && now.vitals.is_err() {
                break;
            }
            assert!(Instant::now() < until);
        }
    }
}
