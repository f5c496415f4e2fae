#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::{Command, Stdio};
use std::time::Instant;

use super::*;
use crate::collect::{fds, memory_maps};

fn broker(pid: u32, start_ticks: u64) -> Broker {
    Broker {
        id: Some(3),
        ..Broker::unknown(ProcessKey { pid, start_ticks })
    }
}

const BUDGET: Duration = Duration::from_secs(5);

#[test]
fn a_pid_that_was_given_to_another_process_is_gone() {
    let proc = ProcRoot::new("/proc");
    let me = std::process::id();
    let start_ticks = proc.stat(me).unwrap().start_ticks;
    let mine = broker(me, start_ticks);
    let now = read(&proc, &mine);
    assert!(now.open_fds.unwrap() > 2 && now.vitals.unwrap().resident_bytes > 0);
    assert!(memory_maps::read(&proc, &mine, BUDGET).unwrap() > 2);
    assert!(fds::read(&proc, &mine, BUDGET).is_ok());

    let other = broker(me, start_ticks - 1);
    let gone = Failure::new(
        Reason::Gone,
        format!("broker 3 (pid {me}) has ended or was restarted"),
    );
    assert_eq!(read(&proc, &other), ProcessReadings::unknown(gone.clone()));
    assert_eq!(fds::read(&proc, &other, BUDGET), Err(gone.clone()));
    assert_eq!(memory_maps::read(&proc, &other, BUDGET), Err(gone));
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
        // Until it sleeps: its program has replaced our own, with our fds, and opens no more.
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
            let now = read(&proc, &broker);
            let kinds =
                fds::read(&proc, &broker, BUDGET).map(|fds::Walked { kinds: k, .. }| {
                    k.socket + k.log_segment + k.index + k.jar + k.pipe + k.anon + k.other
                });
            for fds in [now.open_fds.clone(), kinds] {
                match fds {
                    Ok(count) => assert_eq!(count, expected),
                    Err(failure) => assert_eq!(failure.reason, Reason::Gone),
                }
            }
            if now.open_fds.is_err() && now.vitals.is_err() {
                break;
            }
            assert!(Instant::now() < until);
        }
    }
}
