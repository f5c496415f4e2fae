#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};

use super::parse::*;
use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

fn real() -> ProcRoot {
    ProcRoot::new("/proc")
}

/// Runs another tool on this process and returns its output.
fn shell(script: &str) -> String {
    let script = script.replace("PID", &std::process::id().to_string());
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{script}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A process that does nothing and is killed at the end of the test.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Sleeper {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Once it answers, it has opened all that it ever opens.
        child.stdin.as_mut().unwrap().write_all(b"!").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Sleeper(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn agrees_with_ps_and_prlimit() {
    let sleeper = Sleeper::start();
    let pid = sleeper.pid();
    let ps = |field: &str| shell(&format!("ps -o {field}= -p {pid}"));
    let proc = real();
    let stat = proc.stat(pid).unwrap();
    assert_eq!(stat.parent.to_string(), ps("ppid"));
    assert!(!stat.kernel_thread && !stat.ended);
    let status = proc.status(pid).unwrap();
    assert_eq!(status.uid.to_string(), ps("euid"));
    assert_eq!(status.gid.to_string(), ps("egid"));
    assert_eq!(
        (status.resident_bytes.unwrap() / 1024).to_string(),
        ps("rss")
    );
    assert_eq!(status.namespace_pid, Some(pid));
    assert!(!status.catches_sigquit);
    let limit = |column: &str| {
        let text = shell(&format!(
            "prlimit --nofile --raw --noheadings -o {column} -p {pid}"
        ));
        if text == "unlimited" {
            None
        } else {
            Some(text.parse::<u64>().unwrap())
        }
    };
    let limits = proc.open_file_limits(pid).unwrap();
    assert_eq!((limits.soft, limits.hard), (limit("SOFT"), limit("HARD")));
    let started = proc.started(stat.start_ticks).unwrap().as_secs();
    let expected: u64 = shell(&format!("date +%s -d \"$(ps -o lstart= -p {pid})\""))
        .parse()
        .unwrap();
    assert!(started.abs_diff(expected) <= 1, "{started} {expected}");
    assert_eq!(
        proc.memory_map_limit().unwrap().to_string(),
        shell("cat /proc/sys/vm/max_map_count")
    );
}

#[test]
fn counts_fds_and_maps_as_ls_and_wc_do() {
    let sleeper = Sleeper::start();
    let pid = sleeper.pid();
    let proc = real();
    let expected = || {
        (
            shell(&format!("ls /proc/{pid}/fd | wc -l")),
            shell(&format!("wc -l < /proc/{pid}/maps")),
        )
    };
    let old_kernel = ProcRoot::with_kernel("/proc", (5, 4));
    let ours = |proc: &ProcRoot| {
        let maps = proc.memory_maps(pid, Deadline::after(PATIENCE)).unwrap();
        (
            proc.open_fd_count(pid).unwrap().to_string(),
            maps.to_string(),
        )
    };
    let (new, old) = (ours(&proc), ours(&old_kernel));
    assert_eq!((new, old), (expected(), expected()));
}

#[test]
fn a_counter_sees_each_change_of_the_number() {
    let mut counter = FdCounter::default();
    let sleeper = Sleeper::start();
    let pid = sleeper.pid();
    let (old, new) = (ProcRoot::with_kernel("/proc", (5, 4)), real());
    let settled = old.open_fd_count(pid).unwrap();
    assert_eq!(counter.count(&new, pid).unwrap(), settled);
    // While the size stays the same, the earlier list counts.
    let (size, _, at) = counter.listed.unwrap();
    counter.listed = Some((size, 7, at));
    assert_eq!(counter.count(&new, pid).unwrap(), 7);
    counter.listed = Some((size + 1, 7, at));
    assert_eq!(counter.count(&new, pid).unwrap(), settled);
    counter.listed = Some((size, 7, at.checked_sub(LISTED_FOR).unwrap()));
    assert_eq!(counter.count(&new, pid).unwrap(), settled);
}

#[test]
fn five_thousand_fds_are_counted_both_ways_and_visited() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let proc = real();
    let clones: Vec<_> = (0..5000).map(|_| socket.try_clone().unwrap()).collect();
    let me = std::process::id();
    let mut inodes = Vec::new();
    proc.visit_fd_links(me, Deadline::after(PATIENCE), |_, link| {
        inodes.extend(socket_inode(link));
        ControlFlow::Continue(())
    })
    .unwrap();
    let expected = shell(&format!(
        "readlink /proc/PID/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&socket)
    ));
    let ours = inodes
        .iter()
        .filter(|inode| format!("socket:[{inode}]") == expected)
        .count();
    assert_eq!(ours, clones.len() + 1);
    for proc in [proc, ProcRoot::with_kernel("/proc", (6, 1))] {
        // Other tests of this process open and close hundreds at the same time.
        assert!((5001..10_000).contains(&proc.open_fd_count(me).unwrap()));
    }
}

#[test]
fn a_spent_deadline_stops_long_reads() {
    let proc = real();
    let me = std::process::id();
    let spent = Deadline {
        start: Instant::now() - PATIENCE,
        budget: Duration::from_millis(30),
    };
    let maps = proc.memory_maps(me, spent).unwrap_err().to_string();
    assert_eq!(
        maps,
        format!("reading /proc/{me}/maps took longer than 30 ms and was stopped")
    );
    let fds = proc
        .visit_fd_links(me, spent, |_, _| ControlFlow::Continue(()))
        .unwrap_err();
    assert!(matches!(fds, ProcError::Timeout { .. }));
}

#[test]
fn a_process_that_ended_is_gone_and_never_counted_as_zero() {
    let proc = real();
    let mut sleeper = Sleeper::start();
    let pid = sleeper.pid();
    sleeper.0.kill().unwrap();
    let until = Instant::now() + PATIENCE;
    while !proc.stat(pid).unwrap().ended {
        assert!(Instant::now() < until);
    }
    sleeper.0.wait().unwrap();
    let gone = |error: ProcError| assert!(matches!(error, ProcError::Gone { .. }), "{error}");
    gone(proc.stat(pid).unwrap_err());
    gone(proc.status(pid).unwrap_err());
    gone(proc.open_file_limits(pid).unwrap_err());
    gone(proc.command_line(pid).unwrap_err());
    gone(proc.link(pid, "exe").unwrap_err());
    gone(proc.open_fd_count(pid).unwrap_err());
    gone(
        ProcRoot::with_kernel("/proc", (4, 18))
            .open_fd_count(pid)
            .unwrap_err(),
    );
    gone(
        proc.memory_maps(pid, Deadline::after(PATIENCE))
            .unwrap_err(),
    );
}

#[test]
fn a_folder_without_procfs_is_not_a_host_without_processes() {
    let error = ProcRoot::new("/nowhere").pids().unwrap_err().to_string();
    assert_eq!(error, "/nowhere: No such file or directory (os error 2)");
    assert!(matches!(
        ProcRoot::new("/nowhere").memory_map_limit(),
        Err(ProcError::Io { .. })
    ));
}

#[test]
fn stat_accepts_any_name() {
    let line = |name: &[u8]| {
        [
            b"77 (",
            name,
            b") S 1 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 4 0 93598 2635186176 5\n",
        ]
        .concat()
    };
    for name in [
        b"java".as_slice(),
        b"a) R (b",
        b"tab\tline\nend",
        b"\xff\xfe",
        b"",
    ] {
        let stat = parse_stat(&line(name)).unwrap();
        assert_eq!(
            (stat.state, stat.parent, stat.start_ticks, stat.ended),
            ('S', 1, 93598, false)
        );
        assert_eq!(stat.comm, String::from_utf8_lossy(name));
    }
    let whole = line(b"java");
    for end in 0..whole.len() - 16 {
        assert_eq!(parse_stat(&whole[..end]), None, "{end}");
    }
    // Recorded: a kernel thread, and a process whose memory is freed while its entry still exists.
    let thread =
        parse_stat(b"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 9 0 0 20 0 1 0 2 0 0 18446744073709551615 0\n")
            .unwrap();
    assert!(thread.kernel_thread && !thread.ended);
    assert!(
        parse_stat(b"9 (java) R 1 9 9 0 -1 4194316 1 0 0 0 1 1 0 0 20 0 1 0 50 0 0 1844 0\n")
            .unwrap()
            .ended
    );
}

#[test]
fn status_and_limits_without_a_needed_field_are_refused() {
    assert_eq!(parse_status(b""), None);
    assert_eq!(parse_status(b"Name:\tx\nUid:\t1\t2\t3\t4\n"), None);
    assert_eq!(parse_status(b"Uid:\t1\nGid:\t1\t1\n"), None);
    // JVMs handle SIGQUIT (3) among other signals, but not when started with -Xrs.
    let text = "Name:\tUid:\t9\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nNSpid:\t310\t1\nVmRSS:\t  12 kB\nVmSwap:\t       3 kB\nSigCgt:\t0000000101005ccd\n";
    let status = parse_status(text.as_bytes()).unwrap();
    assert_eq!(
        (status.uid, status.gid, status.namespace_pid),
        (2, 6, Some(1))
    );
    assert_eq!(
        (
            status.catches_sigquit,
            status.resident_bytes,
            status.swapped_bytes
        ),
        (true, Some(12288), Some(3072))
    );
    let other = |from, to| parse_status(text.replace(from, to).as_bytes()).unwrap();
    assert!(!other("5ccd", "5cc9").catches_sigquit && !other("SigCgt", "Other").catches_sigquit);
    assert_eq!(other("NSpid", "Other").namespace_pid, None);
    assert!(parse_status(b"Name:\t\xff\nUid:\t1\t2\nGid:\t5\t6\n").is_some());
    let limits = |line: &str| parse_open_file_limits(line.as_bytes());
    assert_eq!(
        limits("Max open files 1024 unlimited files"),
        Some(OpenFileLimits {
            soft: Some(1024),
            hard: None
        })
    );
    assert_eq!(limits("Max open files            "), None);
    assert_eq!(limits("Max open files x y files"), None);
    assert_eq!(limits("Max processes 5 5 processes"), None);
}

#[test]
fn command_lines_are_bounded_and_say_when_they_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    let write = |pid: u32, bytes: &[u8]| {
        fs::create_dir_all(folder.path().join(pid.to_string())).unwrap();
        fs::write(folder.path().join(format!("{pid}/cmdline")), bytes).unwrap();
    };
    write(1, b"java\0-cp\0\0kafka.Kafka\0");
    write(2, &b"java\0"[..]);
    write(3, b"");
    write(4, &[b'a'; 4096]);
    write(5, &vec![b'a'; 3 << 20]);
    write(6, b"java\0\xff\0");
    let read = |kernel, pid| {
        ProcRoot::with_kernel(folder.path(), kernel)
            .command_line(pid)
            .unwrap()
    };
    assert_eq!(
        read((6, 1), 1).arguments,
        ["java", "-cp", "", "kafka.Kafka"]
    );
    assert_eq!(read((6, 1), 2).arguments, ["java"]);
    assert_eq!(read((6, 1), 3), CommandLine::default());
    assert_eq!(
        [
            read((4, 2), 4).cut,
            read((3, 10), 4).cut,
            read((3, 10), 1).cut
        ],
        [None, Some(Cut::Kernel), None]
    );
    let huge = read((6, 1), 5);
    assert_eq!(
        (huge.cut, huge.arguments[0].len()),
        (Some(Cut::Length), 1 << 20)
    );
    assert_eq!(read((6, 1), 6).arguments, ["java", "\u{fffd}"]);
}

#[test]
fn kernel_releases_are_read() {
    let releases = [
        "6.18.44-fc-v657",
        "3.10.0-1160.el7.x86_64",
        "5.15.167.4-microsoft-standard-WSL2",
        "6.2",
        "odd",
    ];
    assert_eq!(
        releases.map(parse_kernel_release),
        [(6, 18), (3, 10), (5, 15), (6, 2), (0, 0)]
    );
}

#[test]
fn links_of_fds_are_read() {
    assert_eq!(socket_inode(b"socket:[4711]"), Some(4711));
    assert_eq!(
        [
            socket_inode(b"pipe:[4711]"),
            socket_inode(b"socket:["),
            socket_inode(b"/socket:[1]")
        ],
        [None; 3]
    );
    assert_eq!(file_name(b"/a/b.log (deleted)"), b"b.log");
    assert_eq!(file_name(b"/"), b"");
}

#[test]
fn dangling_links_count_as_fds() {
    let folder = tempfile::tempdir().unwrap();
    let fd = folder.path().join("5/fd");
    fs::create_dir_all(&fd).unwrap();
    for (number, target) in ["socket:[1]", "pipe:[2]", "/gone (deleted)"]
        .iter()
        .enumerate()
    {
        symlink(target, fd.join(number.to_string())).unwrap();
    }
    assert_eq!(
        ProcRoot::with_kernel(folder.path(), (4, 18))
            .open_fd_count(5)
            .unwrap(),
        3
    );
}
