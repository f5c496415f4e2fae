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
    /// `lsof` prints a socket again for each thread of its process.
    pub of_thread: bool,
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

/// With [`STATES`] and [`USERS`] where the pattern has their names.
fn pattern(pattern: &str) -> Pattern {
    Pattern::new(&pattern.replace("STATES", STATES).replace("USERS", USERS))
}

static STATE: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(r"ESTAB | [_-]WAIT | SYN[_-] | CLOSE | LAST[_-]ACK | LISTEN | CLOSING | UNCONN")
});

/// `tcp 0 0 LOCAL PEER ESTABLISHED 81068/java`; with `-e` the user and the inode stand before the process, and a long
/// address may touch the state. Several may be on one line where line breaks are lost.
static NETSTAT: LazyLock<Pattern> = LazyLock::new(|| {
    pattern(
        r"(?: ^ \s* (?: (?<times>\d+) \s+ )? | [\s:] ) (?: tcp(?:4|46|6)? ) \s+ (?<receive>\d+) \s+ (?<send>\d+)
          \s+ (?<local>\S+) \s+ (?<peer>\S+?) \s* (?<state> STATES)
          (?: \s+ (?: \S+ \s+ ){0,2}? (?<pid>\d+)/(?<program>[^\s:]+) )?",
    )
});

/// `ESTAB 0 0 LOCAL PEER users:(("java",pid=81068,fd=37))`, with or without the protocol before the state.
static SS: LazyLock<Pattern> = LazyLock::new(|| {
    pattern(
        r"(?: ^ \s* (?: (?<times>\d+) \s+ )? (?: tcp \s+ )? | \s tcp \s+ | \)\) \s+ ) (?<state> STATES)
          \s+ (?<receive>\d+) \s+ (?<send>\d+) \s+ (?<local>\S+) \s+ (?<peer>\S+) USERS",
    )
});

const USERS: &str =
    r#"(?: \s+ (?: timer:\S+ \s+ )? users:\(\(" (?<program>[^"]*) ", (?: pid= )? (?<pid>\d+) )?"#;

/// As `SS`, of `ss state close-wait`, which prints no state.
static SS_WITHOUT_STATE: LazyLock<Pattern> = LazyLock::new(|| {
    pattern(
        r"^ \s* (?: tcp \s+ )? (?<receive>\d+) \s+ (?<send>\d+) \s+ (?<local>\S+[:.]\S+) \s+ (?<peer>\S+[:.]\S+)
          USERS",
    )
});

/// `java 81068 root 123u IPv6 4711 0t0 TCP LOCAL->PEER (CLOSE_WAIT)`
static LSOF: LazyLock<Pattern> = LazyLock::new(|| {
    pattern(
        r"^ \s* (?<program>\S+) \s+ (?<pid>\d+) \s+ (?<thread> \d+ \s+ (?: \S+ \s+ ){1,4}? \d+[rwu-]\S? \s )? .*?
          \s TCP \s+ (?<local>\S+?) (?: -> (?<peer>\S+?) )? \s* \( (?<state> STATES) \)",
    )
});

/// `TCP LOCAL PEER ESTABLISHED 4711`
static WINDOWS: LazyLock<Pattern> = LazyLock::new(|| {
    pattern(
        r"^ \s* TCP \s+ (?<local>\S+) \s+ (?<peer>\S+) \s+ (?<state> STATES) (?: \s+ (?<pid>\d+) )? \s* $",
    )
});

/// Some end of what is a socket all the same.
static UNREADABLE: LazyLock<Pattern> =
    LazyLock::new(|| pattern(r"^ \s* tcp(?:4|46|6)? \s .*? (?<state> STATES) (?: \s | $ )"));

/// `312 CLOSE_WAIT`, `312 192.168.1.219:9092 CLOSE_WAIT`
static COUNTED: LazyLock<Pattern> = LazyLock::new(|| {
    pattern(
        r"^ \s* (?<number>\d+) \s+ (?: (?<place>\S*[:.]\S+) \s+ )? \(? (?<state> STATES) \)? \s* $",
    )
});

/// `CLOSE_WAIT 312`
static COUNTED_BY_AWK: LazyLock<Pattern> =
    LazyLock::new(|| pattern(r"^ \s* (?<state> STATES) [\s:=]+ (?<number>\d+) \s* $"));

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
        // The next command of a record may print states again, and no header.
        if !self.has_no_state || STATE.is_match(line) {
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
        let [program, pid, thread, local, peer, state] = LSOF.groups(line)?;
        let row = row(["", state, "", "", local, peer, pid, program])?;
        Some(Row {
            of_thread: !thread.is_empty(),
            ..row
        })
    };
    let windows = || {
        let [local, peer, state, pid] = WINDOWS.groups(line)?;
        row(["", state, "", "", local, peer, pid, ""])
    };
    let unreadable = || {
        let [state] = UNREADABLE.groups(line)?;
        row(["", state, "", "", "", "", "", ""])
    };
    let other = lsof().or_else(windows).or_else(unreadable);
    other.into_iter().collect()
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
        of_thread: false,
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
mod tests;
