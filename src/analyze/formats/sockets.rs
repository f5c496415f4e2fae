//! TCP sockets as `netstat -an` and `-antp`, `ss -tan` and `-anp` print them, one a line, among any other lines.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::LazyLock;

use super::Pattern;
use crate::model::TcpState;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    pub state: TcpState,
    /// As printed: bytes, with 1 for the peer's FIN; for a listener, connections not accepted yet.
    pub receive_queue: u64,
    /// As printed: bytes; for a listener, `ss` prints the limit of its accept queue.
    pub send_queue: u64,
    /// An IPv4 address that was printed as mapped into IPv6 is IPv4 here.
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// Known only where the command had the right to see it.
    pub pid: Option<u32>,
}

/// The sockets in a text. Other lines are skipped, also those whose addresses were printed as names.
pub fn sockets(text: &str) -> impl Iterator<Item = Socket> {
    text.lines().filter_map(socket)
}

/// `tcp 0 0 LOCAL PEER ESTABLISHED 81068/java`
static NETSTAT: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"^\s* tcp6? \s+ (?<receive>\d+) \s+ (?<send>\d+) \s+ (?<local>\S+) \s+ (?<peer>\S+)
          \s+ (?<state>[A-Z_0-9]+) (?: \s+ (?<pid>\d+)/ )?",
    )
});

/// `ESTAB 0 0 LOCAL PEER users:(("java",pid=81068,fd=37))`, with or without the protocol before the state.
static SS: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"^\s* (?: tcp \s+ )? (?<state>[A-Z-]+[12]?) \s+ (?<receive>\d+) \s+ (?<send>\d+)
          \s+ (?<local>\S+) \s+ (?<peer>\S+) (?: \s+ \S*? pid=(?<pid>\d+) )?",
    )
});

fn socket(line: &str) -> Option<Socket> {
    let netstat = || {
        let [receive, send, local, peer, state, pid] = NETSTAT.groups(line)?;
        Some([state, receive, send, local, peer, pid])
    };
    let [state, receive, send, local, peer, pid] = SS.groups(line).or_else(netstat)?;
    Some(Socket {
        state: self::state(state)?,
        receive_queue: receive.parse().ok()?,
        send_queue: send.parse().ok()?,
        local: address(local)?,
        peer: address(peer)?,
        pid: pid.parse().ok(),
    })
}

fn state(word: &str) -> Option<TcpState> {
    Some(match word {
        "ESTABLISHED" | "ESTAB" => TcpState::Established,
        "SYN_SENT" | "SYN-SENT" => TcpState::SynSent,
        "SYN_RECV" | "SYN-RECV" => TcpState::SynRecv,
        "FIN_WAIT1" | "FIN-WAIT-1" => TcpState::FinWait1,
        "FIN_WAIT2" | "FIN-WAIT-2" => TcpState::FinWait2,
        "TIME_WAIT" | "TIME-WAIT" => TcpState::TimeWait,
        "CLOSE" | "UNCONN" => TcpState::Close,
        "CLOSE_WAIT" | "CLOSE-WAIT" => TcpState::CloseWait,
        "LAST_ACK" | "LAST-ACK" => TcpState::LastAck,
        "LISTEN" => TcpState::Listen,
        "CLOSING" => TcpState::Closing,
        _ => return None,
    })
}

/// `1.2.3.4:9092`, `::ffff:1.2.3.4:9092`, `[::1]:9092`, `127.0.0.1%lo:53`; `*` is any address or any port, `[::]` and 0.
pub fn address(word: &str) -> Option<SocketAddr> {
    let (host, port) = word.rsplit_once(':')?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let host = host.split('%').next().unwrap_or(host);
    let ip = match host {
        "*" | "" => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => host.parse::<IpAddr>().ok()?.to_canonical(),
    };
    Some(SocketAddr::new(
        ip,
        if port == "*" { 0 } else { port.parse().ok()? },
    ))
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
                socket(line),
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
            assert_eq!(socket(line), None, "{line}");
        }
    }
}
