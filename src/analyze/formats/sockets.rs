//! TCP sockets as `netstat` (Linux, macOS, Windows), `ss` and `lsof` print them, among any other lines; and counts of them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::LazyLock;

use super::Pattern;
use crate::model::TcpState;

/// A socket whose addresses are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    pub state: TcpState,
    /// As printed: bytes, with 1 for the peer's FIN; for a listener, connections not accepted yet. 0 where the tool does
    /// not print it.
    pub receive_queue: u64,
    /// As printed: bytes; for a listener, `ss` prints the limit of its accept queue.
    pub send_queue: u64,
    /// An IPv4 address that was printed as mapped into IPv6 is IPv4 here.
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// Known only where the command had the right to see it.
    pub pid: Option<u32>,
}

/// A socket as it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Row<'a> {
    /// None: the table has no such column.
    pub state: Option<TcpState>,
    pub receive_queue: u64,
    pub send_queue: u64,
    pub local: End<'a>,
    pub peer: End<'a>,
    pub pid: Option<u32>,
    pub program: Option<&'a str>,
    /// How many such lines `uniq -c` counted.
    pub times: u64,
}

/// One end of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct End<'a> {
    /// None: a name, or an address that somebody made unreadable.
    pub address: Option<SocketAddr>,
    /// Its port, in digits where its service is known here. Empty: unreadable too.
    pub port: &'a str,
}

/// A line about sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    Row(Row<'a>),
    /// `312 CLOSE_WAIT`, of `sort | uniq -c`, perhaps with a port.
    Count {
        state: TcpState,
        number: u64,
        port: &'a str,
    },
    /// `TCP: 215 (estab 112, closed 53, ...)` of `ss -s`.
    Summary {
        all: u64,
        established: u64,
    },
}

impl Row<'_> {
    fn socket(&self) -> Option<Socket> {
        Some(Socket {
            state: self.state?,
            receive_queue: self.receive_queue,
            send_queue: self.send_queue,
            local: self.local.address?,
            peer: self.peer.address?,
            pid: self.pid,
        })
    }
}

/// The sockets in a text whose addresses and states are known. `source` is the file's name.
pub fn sockets<'a>(text: &'a str, source: &str) -> impl Iterator<Item = Socket> + use<'a> {
    lines(text, source).filter_map(|line| match line {
        Line::Row(row) => row.socket(),
        Line::Count { .. } | Line::Summary { .. } => None,
    })
}

/// All that a text says about sockets. The name of the file gives the state of those in `ss-close-wait.txt`, which are
/// printed without it.
pub fn lines<'a>(text: &'a str, source: &str) -> impl Iterator<Item = Line<'a>> + use<'a> {
    let file_name = source.rsplit('/').next().unwrap_or(source);
    let mut table = Table {
        state: STATE_IN_NAME
            .groups(file_name)
            .and_then(|[state]| state_in_words(state)),
        has_no_state: false,
    };
    text.lines().flat_map(move |line| table.lines(line))
}

/// What the lines before have said about the next ones.
struct Table {
    /// That of the command `ss state close-wait`.
    state: Option<TcpState>,
    has_no_state: bool,
}

const STATES: &str = r"(?: ESTABLISHED | ESTAB | SYN[_-]SENT | SYN[_-]REC[VD] | SYN_RCVD | FIN[_-]WAIT[_-]?[12]
    | TIME[_-]WAIT | CLOSE[_-]WAIT | CLOSED? | LAST[_-]ACK | LISTEN(?:ING)? | CLOSING | UNCONN )";

fn pattern(parts: &[&str]) -> Pattern {
    Pattern::new(&parts.concat())
}

static STATE: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(r"ESTAB | [_-]WAIT | SYN[_-] | CLOSE | LAST[_-]ACK | LISTEN | CLOSING | UNCONN")
});

/// `tcp 0 0 LOCAL PEER ESTABLISHED 81068/java`; with `-e` the user and the inode stand before the process, and a long
/// address may touch the state. Several may be on one line where line breaks are lost.
static NETSTAT: LazyLock<Pattern> = LazyLock::new(|| {
    pattern(&[
        r"(?: ^ \s* (?: (?<times>\d+) \s+ )? | [\s:] ) (?: tcp(?:4|46|6)? ) \s+ (?<receive>\d+) \s+ (?<send>\d+)
          \s+ (?<local>\S+) \s+ (?<peer>\S+?) \s* (?<state> ",
        STATES,
        r") (?: \s+ (?: \S+ \s+ ){0,2}? (?<pid>\d+)/(?<program>[^\s:]+) )?",
    ])
});

/// `ESTAB 0 0 LOCAL PEER users:(("java",pid=81068,fd=37))`, with or without the protocol before the state.
static SS: LazyLock<Pattern> = LazyLock::new(|| {
    pattern(&[
        r"(?: ^ \s* (?: (?<times>\d+) \s+ )? (?: tcp \s+ )? | \s tcp \s+ | \)\) \s+ ) (?<state> ",
        STATES,
        r") \s+ (?<receive>\d+) \s+ (?<send>\d+) \s+ (?<local>\S+) \s+ (?<peer>\S+)",
        USERS,
    ])
});

const USERS: &str =
    r#"(?: \s+ (?: timer:\S+ \s+ )? users:\(\(" (?<program>[^"]*) ", (?: pid= )? (?<pid>\d+) )?"#;

/// As `SS`, of `ss state close-wait`, which prints no state.
static SS_WITHOUT_STATE: LazyLock<Pattern> = LazyLock::new(|| {
    pattern(&[
        r"^ \s* (?: tcp \s+ )? (?<receive>\d+) \s+ (?<send>\d+) \s+ (?<local>\S+[:.]\S+) \s+ (?<peer>\S+[:.]\S+)",
        USERS,
    ])
});

/// `java 81068 root 123u IPv6 4711 0t0 TCP LOCAL->PEER (CLOSE_WAIT)`
static LSOF: LazyLock<Pattern> = LazyLock::new(|| {
    pattern(&[
        r"^ \s* (?<program>\S+) \s+ (?<pid>\d+) \s .*? \s TCP \s+ (?<local>\S+?) (?: -> (?<peer>\S+?) )? \s* \( (?<state> ",
        STATES,
        r") \)",
    ])
});

/// `TCP LOCAL PEER ESTABLISHED 4711`
static WINDOWS: LazyLock<Pattern> = LazyLock::new(|| {
    pattern(&[
        r"^ \s* TCP \s+ (?<local>\S+) \s+ (?<peer>\S+) \s+ (?<state> ",
        STATES,
        r") (?: \s+ (?<pid>\d+) )? \s* $",
    ])
});

/// Some end of what is a socket all the same.
static UNREADABLE: LazyLock<Pattern> = LazyLock::new(|| {
    pattern(&[
        r"^ \s* tcp(?:4|46|6)? \s .*? (?<state> ",
        STATES,
        r") (?: \s | $ )",
    ])
});

/// `312 CLOSE_WAIT`, `312 192.168.1.219:9092 CLOSE_WAIT`
static COUNTED: LazyLock<Pattern> = LazyLock::new(|| {
    pattern(&[
        r"^ \s* (?<number>\d+) \s+ (?: (?<place>\S*[:.]\S+) \s+ )? \(? (?<state> ",
        STATES,
        r") \)? \s* $",
    ])
});

/// `CLOSE_WAIT 312`
static COUNTED_BY_AWK: LazyLock<Pattern> = LazyLock::new(|| {
    pattern(&[
        r"^ \s* (?<state> ",
        STATES,
        r") [\s:=]+ (?<number>\d+) \s* $",
    ])
});

static SUMMARY: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(r"^ TCP: \s+ (?<all>\d+) \s+ \( estab \s+ (?<established>\d+) ,")
});

static COMMAND: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::new(r"\b ss \s .*? \b state \s+ (?<state>[a-z0-9-]+)"));

static STATE_IN_NAME: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"(?i) (?<state> close[_-]?wait | fin[_-]?wait[_-]?[12] | time[_-]?wait | established )",
    )
});

impl Table {
    fn lines<'a>(&mut self, line: &'a str) -> Vec<Line<'a>> {
        if let Some(row) = self.row_without_state(line) {
            return vec![Line::Row(row)];
        }
        if !STATE.is_match(line) {
            let summary = SUMMARY.groups(line).and_then(|[all, established]| {
                let (all, established) = (all.parse().ok()?, established.parse().ok()?);
                Some(Line::Summary { all, established })
            });
            return summary.into_iter().collect();
        }
        let rows: Vec<_> = rows(line).into_iter().map(Line::Row).collect();
        match rows.is_empty() {
            true => counted(line).into_iter().collect(),
            false => rows,
        }
    }

    fn row_without_state<'a>(&mut self, line: &'a str) -> Option<Row<'a>> {
        if line.contains("Recv-Q") && line.contains("Send-Q") {
            self.has_no_state = !line.to_ascii_lowercase().contains("state");
        } else if line.contains(" state ")
            && let Some([state]) = COMMAND.groups(line)
        {
            self.state = state_in_words(state);
        }
        if !self.has_no_state {
            return None;
        }
        let [receive, send, local, peer, program, pid] = SS_WITHOUT_STATE.groups(line)?;
        let row = row(["", "", receive, send, local, peer, pid, program])?;
        Some(Row {
            state: self.state,
            ..row
        })
    }
}

/// The sockets on one line.
fn rows(line: &str) -> Vec<Row<'_>> {
    let netstat =
        NETSTAT
            .all_groups(line)
            .map(|[times, receive, send, local, peer, state, pid, program]| {
                [times, state, receive, send, local, peer, pid, program]
            });
    let ss = SS
        .all_groups(line)
        .map(|[times, state, receive, send, local, peer, program, pid]| {
            [times, state, receive, send, local, peer, pid, program]
        });
    let found: Vec<_> = netstat.chain(ss).filter_map(row).collect();
    if !found.is_empty() {
        return found;
    }
    let lsof = || {
        let [program, pid, local, peer, state] = LSOF.groups(line)?;
        Some(["", state, "", "", local, peer, pid, program])
    };
    let windows = || {
        let [local, peer, state, pid] = WINDOWS.groups(line)?;
        Some(["", state, "", "", local, peer, pid, ""])
    };
    let unreadable = || {
        let [state] = UNREADABLE.groups(line)?;
        Some(["", state, "", "", "", "", "", ""])
    };
    let other = lsof().or_else(windows).or_else(unreadable);
    other.and_then(row).into_iter().collect()
}

/// An empty text is what was not printed.
fn row<'a>(
    [times, state, receive, send, local, peer, pid, program]: [&'a str; 8],
) -> Option<Row<'a>> {
    let number = |text: &str, absent| match text {
        "" => Some(absent),
        _ => text.parse().ok(),
    };
    Some(Row {
        state: match state {
            "" => None,
            _ => Some(self::state(state)?),
        },
        receive_queue: number(receive, 0)?,
        send_queue: number(send, 0)?,
        local: End::of(local),
        // A listener of lsof has none.
        peer: if peer.is_empty() && !local.is_empty() {
            End::of("*:*")
        } else {
            End::of(peer)
        },
        pid: pid.parse().ok(),
        program: Some(program).filter(|program| !program.is_empty()),
        times: number(times, 1)?,
    })
}

fn counted(line: &str) -> Option<Line<'_>> {
    let by_uniq = COUNTED.groups(line);
    let by_awk = || {
        COUNTED_BY_AWK
            .groups(line)
            .map(|[state, number]| [number, "", state])
    };
    let [number, place, state] = by_uniq.or_else(by_awk)?;
    Some(Line::Count {
        state: self::state(state)?,
        number: number.parse().ok()?,
        port: End::of(place).port,
    })
}

fn state(word: &str) -> Option<TcpState> {
    Some(match word {
        "ESTABLISHED" | "ESTAB" => TcpState::Established,
        "SYN_SENT" | "SYN-SENT" => TcpState::SynSent,
        "SYN_RECV" | "SYN-RECV" | "SYN_RCVD" | "SYN_RECD" => TcpState::SynRecv,
        "FIN_WAIT1" | "FIN-WAIT-1" | "FIN_WAIT_1" => TcpState::FinWait1,
        "FIN_WAIT2" | "FIN-WAIT-2" | "FIN_WAIT_2" => TcpState::FinWait2,
        "TIME_WAIT" | "TIME-WAIT" => TcpState::TimeWait,
        "CLOSE" | "CLOSED" | "UNCONN" => TcpState::Close,
        "CLOSE_WAIT" | "CLOSE-WAIT" => TcpState::CloseWait,
        "LAST_ACK" | "LAST-ACK" => TcpState::LastAck,
        "LISTEN" | "LISTENING" => TcpState::Listen,
        "CLOSING" => TcpState::Closing,
        _ => return None,
    })
}

/// `close-wait`, `CloseWait`, `fin_wait_1`
fn state_in_words(words: &str) -> Option<TcpState> {
    let plain = |text: &str| text.to_ascii_lowercase().replace(['_', '-'], "");
    TcpState::ALL
        .into_iter()
        .find(|state| plain(state.name()) == plain(words))
}

/// The ports of Kafka and ZooKeeper in the lists of services that other systems have.
const SERVICES: [(&str, &str); 3] = [
    ("xmlipcregsvc", "9092"),
    ("copycat", "9093"),
    ("eforward", "2181"),
];

impl End<'_> {
    fn of(word: &str) -> End<'_> {
        let after_colon = word.rsplit(':').next().unwrap_or(word);
        let name = after_colon.rsplit('.').next().unwrap_or(after_colon);
        let name = if word.contains([':', '.']) { name } else { "" };
        End {
            address: address(word),
            port: in_digits(name),
        }
    }
}

/// A port in digits where its service is known here.
fn in_digits(port: &str) -> &str {
    let is_it = |(service, _): &(&str, &str)| service.eq_ignore_ascii_case(port);
    SERVICES
        .into_iter()
        .find(is_it)
        .map_or(port, |(_, digits)| digits)
}

/// `1.2.3.4:9092`, `::ffff:1.2.3.4:9092`, `[::1]:9092`, `127.0.0.1%lo:53`, of macOS `1.2.3.4.9092`; `*` is any address or
/// any port, `[::]` and 0.
pub fn address(word: &str) -> Option<SocketAddr> {
    let split = |at| {
        let (host, port) = word.rsplit_once(at)?;
        let port = match in_digits(port) {
            "*" => 0,
            port => port.parse().ok()?,
        };
        Some((host, port))
    };
    let (host, port) = split(':').or_else(|| split('.'))?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let host = host.split('%').next().unwrap_or(host);
    let ip = match host {
        "*" | "" => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => host.parse::<IpAddr>().ok()?.to_canonical(),
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Lines that the tools printed, with their content.
    #[test]
    fn every_form() {
        let table = [
            // netstat -antp of net-tools 1.60 and 2.10, ss -tanp, ss -anp of iproute2 6.1
            (
                "tcp    14535      0 ::ffff:192.168.1.219:9092   ::ffff:192.168.1.218:49425  CLOSE_WAIT  81068/java",
                (
                    TcpState::CloseWait,
                    14535,
                    0,
                    "192.168.1.219:9092",
                    "192.168.1.218:49425",
                    Some(81068),
                ),
            ),
            (
                "tcp        0  53321 ::ffff:192.168.1.217:33408  ::ffff:192.168.1.219:9092   FIN_WAIT1   -   ",
                (
                    TcpState::FinWait1,
                    0,
                    53321,
                    "192.168.1.217:33408",
                    "192.168.1.219:9092",
                    None,
                ),
            ),
            (
                "tcp6       0      0 :::9092                 :::*                    LISTEN     ",
                (TcpState::Listen, 0, 0, "[::]:9092", "[::]:0", None),
            ),
            (
                "LISTEN     3      50     [::ffff:127.0.0.1]:59093                  *:*     users:((\"java\",pid=6278,fd=37))",
                (
                    TcpState::Listen,
                    3,
                    50,
                    "127.0.0.1:59093",
                    "[::]:0",
                    Some(6278),
                ),
            ),
            (
                "tcp   CLOSE-WAIT 101    0          127.0.0.1:42781    127.0.0.1:59022 users:((\"python3\",pid=29493,fd=6))",
                (
                    TcpState::CloseWait,
                    101,
                    0,
                    "127.0.0.1:42781",
                    "127.0.0.1:59022",
                    Some(29493),
                ),
            ),
            (
                "LISTEN 0 4096 127.0.0.53%lo:53 0.0.0.0:*",
                (
                    TcpState::Listen,
                    0,
                    4096,
                    "127.0.0.53:53",
                    "0.0.0.0:0",
                    None,
                ),
            ),
        ];
        for (line, (state, receive_queue, send_queue, local, peer, pid)) in table {
            let (local, peer) = (local.parse().unwrap(), peer.parse().unwrap());
            assert_eq!(
                sockets(line, "").next(),
                Some(Socket {
                    state,
                    receive_queue,
                    send_queue,
                    local,
                    peer,
                    pid
                }),
                "{line}"
            );
        }
        for line in [
            "",
            "tcp",
            "udp UNCONN 0 0 *:1 *:2",
            "tcp 1 2 a:b c:d LISTEN",
            "State Recv-Q Send-Q",
            "LISTEN x 1",
        ] {
            assert_eq!(sockets(line, "").next(), None, "{line}");
        }
    }
    fn row_of(text: &str) -> Row<'_> {
        let rows: Vec<_> = lines(text, "").collect();
        let [Line::Row(row)] = rows.as_slice() else {
            panic!("{text}: {rows:?}")
        };
        *row
    }

    /// What the tools print of connections at port 9092 whose other end has closed.
    #[test]
    fn every_table() {
        let closing = TcpState::CloseWait;
        let java = (Some(81068), Some("java"));
        let numeric = Some("192.168.1.219:9092");
        // The line, the bytes in the queue, the process and the own address; its port is 9092.
        let table = [
            (
                "java 81068 kafka 123u IPv6 4711 0t0 TCP 192.168.1.219:9092->192.168.1.217:58837 (CLOSE_WAIT)",
                0,
                java,
                numeric,
            ),
            (
                "java    81068 81070 executor kafka 123u IPv6 4711 0t0 TCP broker-219:9092->app-7:58837 (CLOSE_WAIT)",
                0,
                java,
                None,
            ),
            (
                "java 81068 kafka 123u IPv6 0x4711ab 0t0 TCP ip-10-0-0-1.ec2.internal:XmlIpcRegSvc->app:58837 (CLOSE_WAIT)",
                0,
                java,
                None,
            ),
            (
                "tcp   55  0 ::ffff:192.168.1.219:9092 ::ffff:192.168.1.217:58837 CLOSE_WAIT  1001  4711  81068/java",
                55,
                java,
                numeric,
            ),
            (
                "tcp   55  0 192.168.1.219:9092 192.168.1.217:58837 CLOSE_WAIT 81068/java off (0.00/0/0)",
                55,
                java,
                numeric,
            ),
            (
                "tcp6  55  0 192.168.1.219:9092 ip-192-168-1-217.ec2:58837CLOSE_WAIT",
                55,
                (None, None),
                numeric,
            ),
            (
                "tcp   55  0 broker-219:XmlIpcRegSvc app-7:58837 CLOSE_WAIT 81068/java",
                55,
                java,
                None,
            ),
            (
                "tcp   55  0 x.x.x.x:9092 x.x.x.x:58837 CLOSE_WAIT 81068/java",
                55,
                java,
                None,
            ),
            (
                "tcp4  55  0  192.168.1.219.9092  192.168.1.217.58837  CLOSE_WAIT",
                55,
                (None, None),
                numeric,
            ),
            (
                "tcp46 55  0  broker-219.9092  app-7.58837  CLOSE_WAIT",
                55,
                (None, None),
                None,
            ),
            (
                "  TCP    192.168.1.219:9092   192.168.1.217:58837   CLOSE_WAIT    81068",
                0,
                (Some(81068), None),
                numeric,
            ),
            (
                r#"CLOSE-WAIT 55 0 192.168.1.219:9092 192.168.1.217:58837 users:(("java",81068,123))"#,
                55,
                java,
                numeric,
            ),
            (
                r#"CLOSE-WAIT 55 0 broker-219:9092 app-7:58837 timer:(keepalive,1min,0) users:(("java",pid=81068,fd=123))"#,
                55,
                java,
                None,
            ),
        ];
        for (line, bytes, (pid, program), address) in table {
            let row = row_of(line);
            assert_eq!(
                (
                    row.state,
                    row.receive_queue,
                    row.pid,
                    row.program,
                    row.local.port,
                    row.times
                ),
                (Some(closing), bytes, pid, program, "9092", 1),
                "{line}"
            );
            let address = address.map(|address: &str| address.parse().unwrap());
            assert_eq!(
                (row.local.address, row.peer.port),
                (address, "58837"),
                "{line}"
            );
        }
        let listening = row_of("java 81068 kafka 99u IPv6 4711 0t0 TCP *:9092 (LISTEN)");
        assert_eq!(
            (listening.state, listening.local.address),
            (Some(TcpState::Listen), Some("[::]:9092".parse().unwrap()))
        );
        let mac = row_of("tcp6  0  0  fe80::1%lo0.9092  *.*  LISTEN");
        assert_eq!(mac.local.address, Some("[fe80::1]:9092".parse().unwrap()));
        let counted = row_of("     12 tcp 1 0 1.2.3.4:9092 1.2.3.5:7 CLOSE_WAIT 81068/java");
        assert_eq!((counted.times, counted.receive_queue), (12, 1));
        let unreadable = row_of("tcp 55 0 1.2.3.4:90921.2.3.5:58837 CLOSE_WAIT");
        assert_eq!(
            (unreadable.state, unreadable.local.address),
            (Some(closing), None)
        );
    }

    #[test]
    fn lost_line_breaks() {
        let text = "tcp 1 0 1.2.3.4:9092 1.2.3.5:7 CLOSE_WAIT 81068/java tcp 2 0 1.2.3.4:9092 1.2.3.5:8 CLOSE_WAIT - tcp 0 0 0.0.0.0:9092 0.0.0.0:* LISTEN";
        let queues: Vec<_> = sockets(text, "")
            .map(|socket| (socket.receive_queue, socket.state))
            .collect();
        let closing = TcpState::CloseWait;
        assert_eq!(queues, [(1, closing), (2, closing), (0, TcpState::Listen)]);
    }

    /// `ss state close-wait` prints no state: the command shows it, or the name of the file.
    #[test]
    fn tables_without_a_state() {
        let table = "Recv-Q Send-Q Local Address:Port Peer Address:Port\n\
                     55     0      1.2.3.4:9092       1.2.3.5:7\n\
                     1      0      1.2.3.4:9092       1.2.3.5:8 users:((\"java\",pid=81068,fd=6))\n";
        let states = |text: &str, source: &str| -> Vec<_> {
            let rows = lines(text, source).map(|line| match line {
                Line::Row(row) => (row.state, row.receive_queue),
                other => panic!("{other:?}"),
            });
            rows.collect()
        };
        let both = |state| vec![(state, 55), (state, 1)];
        let closing = Some(TcpState::CloseWait);
        let command = format!("$ ss -tnp state close-wait\n{table}");
        assert_eq!(states(&command, "a.txt"), both(closing));
        assert_eq!(states(table, "x/ss-close_wait.txt"), both(closing));
        assert_eq!(states(table, "established/a.txt"), both(None));
        assert_eq!(sockets(table, "a.txt").count(), 0);
        assert_eq!(
            states("Netid Recv-Q Send-Q Local\ntcp 5 0 a:1 b:2\n", ""),
            [(None, 5)]
        );
    }

    #[test]
    fn counts_without_addresses() {
        let count = |state, number, port| Line::Count {
            state,
            number,
            port,
        };
        let closing = TcpState::CloseWait;
        let table = [
            ("    312 CLOSE_WAIT", count(closing, 312, "")),
            ("CLOSE-WAIT 312", count(closing, 312, "")),
            ("ESTABLISHED: 17", count(TcpState::Established, 17, "")),
            (
                "    312 192.168.1.219:9092 CLOSE_WAIT",
                count(closing, 312, "9092"),
            ),
            ("    312 (CLOSE_WAIT)", count(closing, 312, "")),
            (
                "TCP:   4567 (estab 112, closed 4000, orphaned 0, synrecv 0, timewait 53/0), ports 0",
                Line::Summary {
                    all: 4567,
                    established: 112,
                },
            ),
        ];
        for (line, expected) in table {
            assert_eq!(lines(line, "").collect::<Vec<_>>(), [expected], "{line}");
        }
        for line in [
            "unix 2 [ ACC ] STREAM LISTENING 123 /x",
            "u_str ESTAB 0 0 * 1 * 2",
            "LISTEN x",
        ] {
            assert_eq!(lines(line, "").next(), None, "{line}");
        }
    }
}
