//! Asks the kernel over `NETLINK_SOCK_DIAG` for the TCP sockets of the calling thread's network namespace.
//!
//! The kernel filters by state and, with bytecode that is written here, by source port. One request covers both
//! families: the older message `TCPDIAG_GETSOCK` (same module, kernel 2.6 and later) walks the connection table once,
//! while `SOCK_DIAG_BY_FAMILY` walks it once per family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendFlags, SocketFlags, SocketType,
    recvmsg, sendto, socket_with,
};

use crate::model::TcpState;

/// One TCP socket. Queues are the kernel's numbers: bytes, with 1 for an unread or unacknowledged FIN. For LISTEN they
/// are the length of the accept queue and (only from sock_diag) its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpSocket {
    pub state: TcpState,
    /// IPv4 also for an IPv6 socket with a mapped address.
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub receive_queue: u32,
    pub send_queue: u32,
    /// 0 if no process owns the socket: TIME_WAIT, closed by its process, or not accepted yet.
    pub inode: u64,
    pub uid: u32,
    /// Packets that have arrived; None where that was not asked for, or only `/proc` was read.
    pub segments_in: Option<u32>,
}

/// A set of TCP states in the kernel's form: bit `n` is state number `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct States(u32);

impl States {
    /// States 1 to 11.
    pub const ALL: States = States(0xffe);

    pub fn of(states: &[TcpState]) -> States {
        States(
            states
                .iter()
                .fold(0, |mask, state| mask | 1 << state.number()),
        )
    }

    pub fn without(self, state: TcpState) -> States {
        States(self.0 & !(1 << state.number()))
    }

    pub fn contains(self, state: TcpState) -> bool {
        self.0 & 1 << state.number() != 0
    }
}

/// A set of local ports, as sorted ranges that do not touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports(Vec<(u16, u16)>);

// The `inet_diag_bc_op` codes that every kernel knows (equality came with 4.16).
const BC_JMP: u8 = 1;
const BC_S_GE: u8 = 2;
const BC_S_LE: u8 = 3;
/// Two comparisons of 8 bytes and a jump of 4.
const RANGE_LENGTH: usize = 20;
/// Jump distances have 16 bits, and a jump to 4 behind the end means "no".
const MOST_RANGES: usize = (u16::MAX as usize - 4) / RANGE_LENGTH;

impl Ports {
    pub fn new(ports: impl IntoIterator<Item = u16>) -> Ports {
        let mut sorted: Vec<u16> = ports.into_iter().collect();
        sorted.sort_unstable();
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for port in sorted {
            match ranges.last_mut() {
                Some((_, high)) if port <= high.saturating_add(1) => *high = port,
                _ => ranges.push((port, port)),
            }
        }
        Ports(ranges)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, port: u16) -> bool {
        self.0
            .iter()
            .any(|(low, high)| (*low..=*high).contains(&port))
    }

    /// Writes the program "source port is one of these" for the kernel's `inet_diag_bc_run`: for each range,
    /// `port >= low and port <= high`, else the next range.
    ///
    /// The kernel's audit requires that every distance is a multiple of 4, that every "no" lands on an operation of the
    /// "yes" path or behind the end, and that the "yes" path ends exactly at the end. An operation is
    /// `{code: u8, yes: u8, no: u16}`. The port of a comparison is the `no` of a second operation behind it.
    fn bytecode(&self) -> Result<Vec<u8>, DiagError> {
        if self.0.is_empty() || self.0.len() > MOST_RANGES {
            return Err(DiagError::TooManyPorts(self.0.len()));
        }
        let end = self.0.len() * RANGE_LENGTH - 4;
        let mut code = Vec::with_capacity(end);
        let mut operation = |code_byte: u8, yes: u8, no: usize| {
            code.extend([code_byte, yes]);
            // Cannot be cut, because MOST_RANGES bounds every distance.
            code.extend((no as u16).to_ne_bytes());
        };
        for (index, (low, high)) in self.0.iter().enumerate() {
            let rest = end - index * RANGE_LENGTH;
            let last = index + 1 == self.0.len();
            // Ranges ascend, so a port below this range is below all later ones.
            operation(BC_S_GE, 8, rest + 4);
            operation(0, 0, usize::from(*low));
            operation(
                BC_S_LE,
                8,
                if last { rest - 8 + 4 } else { RANGE_LENGTH - 8 },
            );
            operation(0, 0, usize::from(*high));
            if !last {
                operation(BC_JMP, 4, rest - 16);
            }
        }
        Ok(code)
    }
}

/// Why a dump failed. The callback may have seen some of the sockets before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiagError {
    /// Refused before the first socket: no such module, a seccomp filter, an emulated kernel. `/proc` may still work.
    #[error("sock_diag is not available: {0}")]
    Unavailable(Errno),
    #[error("the kernel accepts no filter for {0} ranges of ports")]
    TooManyPorts(usize),
    #[error("the kernel did not finish its list of sockets before the deadline")]
    TimedOut,
    /// The table changed during the dump, or messages were dropped. Asking again may help.
    #[error("the kernel's list of sockets was interrupted")]
    Interrupted,
    #[error("the kernel's list of sockets failed: {0}")]
    Failed(Errno),
    #[error("the kernel's list of sockets is malformed: {0}")]
    Malformed(&'static str),
}

/// The kernel fills at most 32 KiB a message, kernels before 4.4 half of that.
const BUFFER_BYTES: usize = 64 * 1024;
const TCPDIAG_GETSOCK: u16 = 18;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
/// The attribute that holds a `struct tcp_info`, and where that counts the packets that have arrived (since 4.2).
const INET_DIAG_INFO: u16 = 2;
const SEGMENTS_IN: usize = 140;
const SEQUENCE: u32 = 1;
const HEADER: usize = 16;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Calls `each` with every TCP socket that is in one of `states` and, if `ports` are given, has one of them as its local
/// port. Nothing is allocated per socket, and the caller keeps `buffer` for the next call. `segments` says whether the
/// kernel is asked for [`TcpSocket::segments_in`] as well.
pub fn dump(
    states: States,
    ports: Option<&Ports>,
    segments: bool,
    buffer: &mut Vec<u8>,
    deadline: Instant,
    mut each: impl FnMut(&TcpSocket),
) -> Result<(), DiagError> {
    let request = request(states, ports, segments)?;
    buffer.resize(BUFFER_BYTES, 0);
    // A new socket for each dump: it belongs to the thread's namespace, and no abandoned dump can leave messages in it.
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )
    .map_err(DiagError::Unavailable)?;
    let wait = deadline
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1));
    set_socket_timeout(&socket, Timeout::Recv, Some(wait)).map_err(DiagError::Failed)?;
    sendto(
        &socket,
        &request,
        SendFlags::empty(),
        &SocketAddrNetlink::new(0, 0),
    )
    .map_err(DiagError::Unavailable)?;

    let mut dump = Dump::default();
    // Kernels before 4.4 keep FIN_WAIT2 among TIME_WAIT and return both when asked for one.
    let mut wanted = |socket: &TcpSocket| {
        if states.contains(socket.state) {
            each(socket);
        }
    };
    while !dump.done {
        if Instant::now() >= deadline {
            return Err(DiagError::TimedOut);
        }
        let message = recvmsg(
            &socket,
            &mut [std::io::IoSliceMut::new(buffer)],
            &mut RecvAncillaryBuffer::default(),
            RecvFlags::empty(),
        );
        let message = match message {
            Ok(message) => message,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => return Err(DiagError::TimedOut),
            Err(Errno::NOBUFS) => return Err(DiagError::Interrupted),
            Err(errno) => return Err(DiagError::Failed(errno)),
        };
        if message.flags.contains(ReturnFlags::TRUNC) {
            return Err(DiagError::Malformed("a message longer than the buffer"));
        }
        let from_kernel = message
            .address
            .and_then(|address| SocketAddrNetlink::try_from(address).ok())
            .is_some_and(|address| address.pid() == 0);
        if from_kernel {
            dump.take(buffer.get(..message.bytes).unwrap_or_default(), &mut wanted)?;
        }
    }
    if dump.interrupted {
        Err(DiagError::Interrupted)
    } else {
        Ok(())
    }
}

/// Reads one datagram of a dump, calls `each` with its sockets and returns whether it is the last one. [`dump`] does the
/// same with what the kernel sends; this one is for bytes from elsewhere.
pub fn read_datagram(bytes: &[u8], mut each: impl FnMut(&TcpSocket)) -> Result<bool, DiagError> {
    let mut dump = Dump::default();
    dump.take(bytes, &mut each)?;
    Ok(dump.done)
}

/// Writes `nlmsghdr`, `inet_diag_req` (60 bytes) and the filter as its only attribute.
fn request(states: States, ports: Option<&Ports>, segments: bool) -> Result<Vec<u8>, DiagError> {
    let mut request = vec![0; HEADER];
    request.push(AF_INET); // ignored: this message means both families
    request.extend([0, 0, u8::from(segments) << (INET_DIAG_INFO - 1)]);
    request.extend([0; 48]); // no certain socket
    request.extend(states.0.to_ne_bytes());
    request.extend([0; 4]);
    if let Some(ports) = ports {
        let code = ports.bytecode()?;
        // Cannot be cut, because the filter has a lower bound.
        request.extend((code.len() as u16 + 4).to_ne_bytes());
        request.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
        request.extend(code);
    }
    let mut header = Vec::with_capacity(HEADER);
    header.extend((request.len() as u32).to_ne_bytes());
    header.extend(TCPDIAG_GETSOCK.to_ne_bytes());
    header.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    header.extend(SEQUENCE.to_ne_bytes());
    header.extend([0; 4]);
    request.splice(..HEADER, header);
    Ok(request)
}

/// How much of the answer was read.
#[derive(Debug, Default)]
struct Dump {
    started: bool,
    done: bool,
    interrupted: bool,
}

impl Dump {
    /// Reads one datagram of netlink messages in place.
    fn take(
        &mut self,
        mut datagram: &[u8],
        each: &mut impl FnMut(&TcpSocket),
    ) -> Result<(), DiagError> {
        while !datagram.is_empty() && !self.done {
            let short = DiagError::Malformed("a message shorter than it says");
            let (header, _) = datagram.split_first_chunk::<HEADER>().ok_or(short)?;
            let [l0, l1, l2, l3, t0, t1, f0, f1, s0, s1, s2, s3, ..] = *header;
            let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
            let body = datagram.get(HEADER..length).ok_or(short)?;
            // Messages start at multiples of 4, and the last one may lack the padding.
            datagram = datagram
                .get(length.next_multiple_of(4)..)
                .unwrap_or_default();
            if u32::from_ne_bytes([s0, s1, s2, s3]) != SEQUENCE {
                continue;
            }
            self.interrupted |= u16::from_ne_bytes([f0, f1]) & NLM_F_DUMP_INTR != 0;
            match u16::from_ne_bytes([t0, t1]) {
                TCPDIAG_GETSOCK => {
                    self.started = true;
                    each(&socket_of(body)?);
                }
                // Both start with a negated errno. Some kernels send none in DONE, which means success like 0.
                kind @ (NLMSG_DONE | NLMSG_ERROR) => {
                    let errno = body
                        .first_chunk()
                        .map_or(0, |bytes| i32::from_ne_bytes(*bytes).wrapping_neg());
                    if errno > 0 || kind == NLMSG_ERROR {
                        let errno = Errno::from_raw_os_error(errno.clamp(1, 4095));
                        return Err(match self.started {
                            false => DiagError::Unavailable(errno),
                            true => DiagError::Failed(errno),
                        });
                    }
                    self.done = true;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Packets that have arrived, from the attributes behind a socket.
fn segments_in(mut attributes: &[u8]) -> Option<u32> {
    while let [l0, l1, k0, k1, ..] = *attributes {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([k0, k1]) == INET_DIAG_INFO {
            let count = value.get(SEGMENTS_IN..)?.first_chunk()?;
            return Some(u32::from_ne_bytes(*count));
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// Parses a `struct inet_diag_msg` of 72 bytes, and what may follow it.
fn socket_of(body: &[u8]) -> Result<TcpSocket, DiagError> {
    let message: &[u8; 72] = body
        .first_chunk()
        .ok_or(DiagError::Malformed("a socket of less than 72 bytes"))?;
    let u32_at = |at: usize| {
        u32::from_ne_bytes([
            message[at],
            message[at + 1],
            message[at + 2],
            message[at + 3],
        ])
    };
    let address = |port_at: usize, at: usize| {
        let port = u16::from_be_bytes([message[port_at], message[port_at + 1]]);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&message[at..at + 16]);
        let ip = match message[0] {
            AF_INET => IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])),
            AF_INET6 => Ipv6Addr::from(bytes).to_canonical(),
            _ => return Err(DiagError::Malformed("a socket of neither family")),
        };
        Ok(SocketAddr::new(ip, port))
    };
    Ok(TcpSocket {
        state: TcpState::from_number(message[1])
            .ok_or(DiagError::Malformed("a socket in no known state"))?,
        local: address(4, 8)?,
        remote: address(6, 24)?,
        receive_queue: u32_at(56),
        send_queue: u32_at(60),
        uid: u32_at(64),
        inode: u64::from(u32_at(68)),
        segments_in: segments_in(body.get(72..).unwrap_or_default()),
    })
}

#[cfg(test)]
mod tests;
