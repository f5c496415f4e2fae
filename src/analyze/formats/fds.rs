//! Open file descriptors as `lsof` and `ls -l /proc/PID/fd` print them, one a line.

use std::net::SocketAddr;
use std::sync::LazyLock;

use super::{Pattern, sockets};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fd<'a> {
    /// Only `lsof` prints it.
    pub pid: Option<u32>,
    /// `lsof` prints the fds of a process again for each thread of it.
    pub of_thread: bool,
    pub socket: bool,
    /// A TCP socket that is in no table of the kernel any more; only `lsof` shows it.
    pub untracked: bool,
    /// The own end of a TCP socket; only `lsof -nP` prints it.
    pub local: Option<SocketAddr>,
    /// The path of a file.
    pub path: Option<&'a str>,
}

/// `lrwx------ 1 root root 64 Nov 22 14:33 92 -> socket:[4711]`
static LINK: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::new(r"^ \s* l .*? \  \d+ \ ->\  (?<target>.+)"));

/// `java 81068 root 123u IPv6 4711 0t0 TCP 192.168.1.219:9092->192.168.1.217:58837 (CLOSE_WAIT)`. The thread's id and name
/// may stand before the user; the fd is a number, its mode, a lock: `123u`, `4w`, `5uW`.
static LSOF: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"^\s* \S+ \s+ (?<pid>\d+) \s+ (?: (?<thread>\d+) \s+ (?: \S+ \s+ ){1,4}? | (?: \S+ \s+ ){1,3}? ) \d+[rwu-]\S? \s+
          (?<kind> REG|DIR|CHR|BLK|FIFO|IPv4|IPv6|sock|unix|a_inode ) (?<rest> \s.* )",
    )
});

/// The fds in a text. Other lines are skipped, also those of `lsof` for mapped files and folders, which are no fds.
pub fn fds(text: &str) -> impl Iterator<Item = Fd<'_>> {
    text.lines()
        .filter_map(|line| link(line).or_else(|| lsof(line)))
}

fn link(line: &str) -> Option<Fd<'_>> {
    let [target] = LINK.groups(line)?;
    Some(Fd {
        socket: target.starts_with("socket:["),
        path: target.starts_with('/').then_some(target),
        ..Fd::default()
    })
}

fn lsof(line: &str) -> Option<Fd<'_>> {
    let [pid, thread, kind, rest] = LSOF.groups(line)?;
    let is_ip = matches!(kind, "IPv4" | "IPv6");
    // `sock ... protocol: TCP`, from older versions `can't identify protocol`: in no table of the kernel.
    let untracked =
        kind == "sock" && (rest.contains("protocol: TCP") || rest.contains("identify protocol"));
    let tcp = rest.split_once(" TCP ").filter(|_| is_ip);
    let local = tcp.and_then(|(_, name)| name.split([' ', '-']).next());
    let path = rest.find(" /").filter(|_| kind == "REG");
    Some(Fd {
        pid: Some(pid.parse().ok()?),
        of_thread: !thread.is_empty(),
        socket: is_ip || matches!(kind, "sock" | "unix"),
        untracked,
        local: local.and_then(sockets::address),
        path: path.and_then(|blank| rest.get(blank + 1..)),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Lines that lsof 4.95 and ls printed of the same process.
    #[test]
    fn every_form() {
        let of = |line| fds(line).next();
        let lsof = |socket, untracked, local: Option<&str>, path| {
            let local = local.map(|local| local.parse().unwrap());
            Some(Fd {
                pid: Some(29493),
                of_thread: false,
                socket,
                untracked,
                local,
                path,
            })
        };
        let table = [
            (
                "python3 29493 root    0r  FIFO    0,15      0t0  6070184 pipe",
                lsof(false, false, None, None),
            ),
            (
                "python3 29493 root    4w   REG   254,0        0  9977931 /tmp/an/lsof.txt",
                lsof(false, false, None, Some("/tmp/an/lsof.txt")),
            ),
            (
                "python3 29493 root    5u  sock     0,9      0t0  6070699 protocol: TCP",
                lsof(true, true, None, None),
            ),
            (
                "java    29493 root  9u  sock                0,6       0t0 3133 can't identify protocol",
                lsof(true, true, None, None),
            ),
            (
                "python3 29493 root    3u  IPv4 6070697      0t0      TCP 127.0.0.1:42781 (LISTEN)",
                lsof(true, false, Some("127.0.0.1:42781"), None),
            ),
            (
                "python3 29493 root    6u  IPv4 6070701      0t0      TCP 127.0.0.1:42781->127.0.0.1:59022 (CLOSE_WAIT)",
                lsof(true, false, Some("127.0.0.1:42781"), None),
            ),
            (
                "python3 29493 29494 worker root    6u  IPv4 6070701      0t0      TCP localhost:1->localhost:2 (CLOSE_WAIT)",
                lsof(true, false, None, None).map(|fd| Fd {
                    of_thread: true,
                    ..fd
                }),
            ),
            (
                "python3 29493 root  mem    REG   254,0    17584    18500 /usr/bin/python3.11",
                None,
            ),
            (
                "COMMAND   PID USER   FD   TYPE  DEVICE SIZE/OFF     NODE NAME",
                None,
            ),
            (
                "lrwx------ 1 root root 64 Nov 22 19:39 3 -> socket:[6070697]",
                Some(Fd {
                    socket: true,
                    ..Fd::default()
                }),
            ),
            (
                "l-wx------ 1 root root 64 Nov 22 19:39 4 -> /tmp/ls.txt",
                Some(Fd {
                    path: Some("/tmp/ls.txt"),
                    ..Fd::default()
                }),
            ),
            (
                "lrwxrwxrwx 1 root root 9 Nov 22 19:39 python -> python3",
                None,
            ),
            ("total 0", None),
        ];
        for (line, expected) in table {
            assert_eq!(of(line), expected, "{line}");
        }
    }
}
