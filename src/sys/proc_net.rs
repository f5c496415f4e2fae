//! Reads sockets from `/proc/PID/net`: for a process in another network namespace, and where sock_diag is refused.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use memchr::memchr;

use super::proc::{number, words};
use super::sock_diag::{Ports, States, TcpSocket};
use crate::model::TcpState;

/// Why `/proc/PID/net` could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProcNetError {
    /// The process has ended.
    #[error("{0} is gone")]
    Gone(PathBuf),
    #[error("{0} may not be read")]
    Denied(PathBuf),
    #[error("{0} was not read to its end before the deadline")]
    TimedOut(PathBuf),
    #[error("{path}: {count} lines are not sockets, the first of them is: {first}")]
    Garbage {
        path: PathBuf,
        count: u64,
        first: String,
    },
    #[error("{path}: {source}")]
    Failed { path: PathBuf, source: io::Error },
}

impl ProcNetError {
    fn of(path: PathBuf, source: io::Error) -> Self {
        match source.kind() {
            // ESRCH: the process ended after the file was opened.
            _ if source.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                ProcNetError::Gone(path)
            }
            ErrorKind::NotFound => ProcNetError::Gone(path),
            ErrorKind::PermissionDenied => ProcNetError::Denied(path),
            ErrorKind::TimedOut => ProcNetError::TimedOut(path),
            _ => ProcNetError::Failed { path, source },
        }
    }
}

/// Far longer than any line of these files.
const BUFFER_BYTES: usize = 64 * 1024;

/// Calls `each` with every TCP socket of the process' network namespace that is in one of `states` and, if `ports` are
/// given, has one of them as its local port. The limit of an accept queue is not in these files: `send_queue` of a
/// LISTEN socket is 0.
///
/// # Errors
/// If a line is not a socket, after the other lines, because the sockets were then not all counted.
pub fn tcp_sockets(
    proc_root: &Path,
    pid: u32,
    states: States,
    ports: Option<&Ports>,
    buffer: &mut Vec<u8>,
    deadline: Instant,
    mut each: impl FnMut(&TcpSocket),
) -> Result<(), ProcNetError> {
    for name in ["tcp", "tcp6"] {
        let path = net_file(proc_root, pid, name);
        let file = match File::open(&path) {
            Ok(file) => file,
            // A kernel without IPv6 has only the first table.
            Err(error) if name == "tcp6" && error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(ProcNetError::of(path, error)),
        };
        let (mut garbage, mut first) = (0, String::new());
        let lines = each_line(file, buffer, deadline, |line| {
            match line.and_then(socket_of) {
                Some(socket) => {
                    if states.contains(socket.state)
                        && ports.is_none_or(|ports| ports.contains(socket.local.port()))
                    {
                        each(&socket);
                    }
                }
                None if line.is_some_and(|line| line.trim_ascii_start().starts_with(b"sl ")) => {}
                None => {
                    if garbage == 0 {
                        let shown =
                            line.map_or(&b"(too long)"[..], |line| line.get(..80).unwrap_or(line));
                        first = shown.escape_ascii().to_string();
                    }
                    garbage += 1;
                }
            }
        });
        lines.map_err(|error| ProcNetError::of(path.clone(), error))?;
        if garbage > 0 {
            return Err(ProcNetError::Garbage {
                path,
                count: garbage,
                first,
            });
        }
    }
    Ok(())
}

/// Calls `each` with the inode of every socket of the process' network namespace that is not TCP. A process' socket that
/// is in neither list is orphaned. Lines without an inode are skipped, because the name of a unix socket may hold
/// anything.
pub fn other_socket_inodes(
    proc_root: &Path,
    pid: u32,
    buffer: &mut Vec<u8>,
    deadline: Instant,
    mut each: impl FnMut(u64),
) -> Result<(), ProcNetError> {
    // The column that holds the inode, counted from 0.
    let tables = [
        ("unix", 6),
        ("packet", 8),
        ("netlink", 9),
        ("udp", 9),
        ("udp6", 9),
        ("udplite", 9),
    ];
    let rare = [
        ("udplite6", 9),
        ("raw", 9),
        ("raw6", 9),
        ("icmp", 9),
        ("icmp6", 9),
    ];
    for (name, column) in tables.into_iter().chain(rare) {
        let path = net_file(proc_root, pid, name);
        let lines = match File::open(&path) {
            Ok(file) => each_line(file, buffer, deadline, |line| {
                let word = line.and_then(|line| words(line).nth(column));
                word.and_then(number).into_iter().for_each(&mut each);
            }),
            // Which of these files exist depends on the kernel's configuration.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        lines.map_err(|error| ProcNetError::of(path, error))?;
    }
    Ok(())
}

/// Returns what distinguishes network namespaces: the inode of the TCP table, which is unique across namespaces.
pub fn network_namespace(proc_root: &Path, pid: u32) -> Result<u64, ProcNetError> {
    let path = net_file(proc_root, pid, "tcp");
    match std::fs::metadata(&path) {
        Ok(metadata) => Ok(metadata.ino()),
        Err(error) => Err(ProcNetError::of(path, error)),
    }
}

/// Whether the process shares the network namespace of the calling thread. Always false for a `proc_root` that is not
/// procfs (a recorded one).
pub fn same_network_namespace(proc_root: &Path, pid: u32) -> Result<bool, ProcNetError> {
    let theirs = net_file(proc_root, pid, "tcp");
    let statistics = rustix::fs::statfs(proc_root);
    let statistics =
        statistics.map_err(|errno| ProcNetError::of(proc_root.to_path_buf(), errno.into()))?;
    if statistics.f_type != rustix::fs::PROC_SUPER_MAGIC {
        return Ok(false);
    }
    // Kernels before 3.17 have no thread-self.
    let own = ["/proc/thread-self", "/proc/self"]
        .map(Path::new)
        .into_iter()
        .find(|path| path.exists());
    let own = own.ok_or_else(|| ProcNetError::Gone(PathBuf::from("/proc/self")))?;
    // Reading the link needs the right to trace the process. The files below `net` need no right, and each network
    // namespace has its own, whose inode numbers are unique across namespaces and mounts.
    if let Ok(their_link) = std::fs::read_link(proc_root.join(pid.to_string()).join("ns/net"))
        && let Ok(own_link) = std::fs::read_link(own.join("ns/net"))
    {
        return Ok(their_link == own_link);
    }
    let inode = |path: PathBuf| match std::fs::metadata(&path) {
        Ok(metadata) => Ok(metadata.ino()),
        Err(error) => Err(ProcNetError::of(path, error)),
    };
    Ok(inode(theirs)? == inode(own.join("net/tcp"))?)
}

fn net_file(proc_root: &Path, pid: u32, name: &str) -> PathBuf {
    proc_root.join(pid.to_string()).join("net").join(name)
}

/// Calls `each` with every line of `source` without its end, and with None for a line that is longer than the buffer.
fn each_line(
    mut source: impl Read,
    buffer: &mut Vec<u8>,
    deadline: Instant,
    mut each: impl FnMut(Option<&[u8]>),
) -> io::Result<()> {
    buffer.resize(BUFFER_BYTES, 0);
    let (mut filled, mut inside_long_line) = (0, false);
    loop {
        if Instant::now() >= deadline {
            return Err(ErrorKind::TimedOut.into());
        }
        let read = match source.read(&mut buffer[filled..]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        };
        filled += read;
        let mut rest = &buffer[..filled];
        while let Some((line, behind)) =
            memchr(b'\n', rest).map(|end| (&rest[..end], &rest[end + 1..]))
        {
            if !std::mem::take(&mut inside_long_line) {
                each(Some(line));
            }
            rest = behind;
        }
        if read == 0 {
            if !rest.is_empty() && !inside_long_line {
                each(Some(rest));
            }
            return Ok(());
        }
        let kept = rest.len();
        if kept == buffer.len() || inside_long_line {
            if !std::mem::replace(&mut inside_long_line, true) {
                each(None);
            }
            filled = 0;
        } else {
            buffer.copy_within(filled - kept..filled, 0);
            filled = kept;
        }
    }
}

/// Parses `sl: local remote state tx:rx tr:when retransmits uid timeout inode ...`.
fn socket_of(line: &[u8]) -> Option<TcpSocket> {
    let mut words = words(line);
    words.next().filter(|word| word.ends_with(b":"))?;
    let local = address(words.next()?)?;
    let remote = address(words.next()?)?;
    let state = TcpState::from_number(u8::try_from(hexanumber(words.next()?)?).ok()?)?;
    let (send_queue, receive_queue) = pair(words.next()?)?;
    let uid = u32::try_from(number(words.nth(2)?)?).ok()?;
    let inode = number(words.nth(1)?)?;
    Some(TcpSocket {
        state,
        local,
        remote,
        receive_queue: hexanumber(receive_queue)?,
        send_queue: hexanumber(send_queue)?,
        inode,
        uid,
        segments_in: None,
    })
}

/// Parses `0100007F:2384`: each group of 8 digits is 4 bytes of the address, printed as one number in the machine's byte
/// order.
fn address(word: &[u8]) -> Option<SocketAddr> {
    let (digits, port) = pair(word)?;
    let port = u16::try_from(hexanumber(port)?).ok()?;
    let mut bytes = [0; 16];
    for (group, place) in digits.chunks(8).zip(bytes.chunks_exact_mut(4)) {
        place.copy_from_slice(&hexanumber(group)?.to_ne_bytes());
    }
    let [a, b, c, d, ..] = bytes;
    let ip = match digits.len() {
        8 => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        32 => Ipv6Addr::from(bytes).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn pair(word: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr(b':', word)?;
    Some((word.get(..colon)?, word.get(colon + 1..)?))
}

fn hexanumber(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    digits.iter().try_fold(0, |value, digit| {
        Some(value << 4 | char::from(*digit).to_digit(16)?)
    })
}

#[cfg(test)]
mod tests;
