//! The socket of a JVM's attach listener, and one request with its reply.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::error::{AttachDeadline, AttachError};
use crate::sys::plain::{self, FileError};
use crate::sys::process::PinnedProcess;

/// The file `/tmp/.java_pid<NSpid>`, pinned and checked, because others may write to that folder.
#[derive(Debug)]
pub(super) struct AttachSocket {
    file: OwnedFd,
    /// No other file gets this number while this one is pinned.
    pub inode: u64,
}

/// A reply whose first line was parsed.
#[derive(Debug)]
pub(super) struct Reply {
    pub code: i32,
    bytes: Vec<u8>,
    body: usize,
}

impl Reply {
    pub(super) fn body(&self) -> &[u8] {
        self.bytes.get(self.body..).unwrap_or_default()
    }

    /// Returns the beginning of the text, for a message.
    pub(super) fn words(&self) -> String {
        String::from_utf8_lossy(self.body())
            .trim()
            .replace('\n', " ")
            .chars()
            .take(200)
            .collect()
    }

    pub(super) fn into_body(mut self) -> Vec<u8> {
        self.bytes.drain(..self.body);
        self.bytes
    }
}

impl AttachSocket {
    /// Finds the socket; None if the JVM has not opened it yet.
    pub(super) fn find(target: &PinnedProcess) -> Result<Option<AttachSocket>, AttachError> {
        let io = |errno: Errno| AttachError::Io {
            what: "opening the JVM's /tmp".into(),
            source: errno.into(),
        };
        let tmp = target.tmp().map_err(|error| match error {
            FileError::Denied { .. } => target.denied("cannot open the JVM's /tmp"),
            error => AttachError::Protocol(error.to_string()),
        })?;
        let name = format!(".java_pid{}", target.ns_pid);
        let file = match plain::refer_in(&tmp, &name) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(io(errno)),
        };
        let stat = fstat(&file).map_err(io)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket || stat.st_uid != target.uid {
            return Err(AttachError::Refused(format!(
                "/tmp/{name} in the JVM's file system is not a socket of the JVM's user (uid {}, mode {:o}): another \
                 user made it, so remove it",
                stat.st_uid, stat.st_mode
            )));
        }
        Ok(Some(AttachSocket {
            file,
            inode: stat.st_ino,
        }))
    }

    /// Sends one request over a new connection and reads the whole reply.
    pub(super) fn request(
        &self,
        target: &PinnedProcess,
        request: &[u8],
        max: usize,
        at: AttachDeadline,
    ) -> Result<Reply, AttachError> {
        let mut stream = self.connect(target, at)?;
        send(&mut stream, request, at)
            .map_err(|error| explain(target, error, "sending the request", at))?;
        let bytes = receive(&mut stream, max, at)
            .map_err(|error| explain(target, error, "reading the reply", at))?;
        parse_reply(target, bytes)
    }

    fn connect(
        &self,
        target: &PinnedProcess,
        deadline: AttachDeadline,
    ) -> Result<UnixStream, AttachError> {
        let failure = |errno: Errno| {
            match errno {
            Errno::ACCESS | Errno::PERM => target.denied("cannot connect to the JVM's attach socket"),
            Errno::CONNREFUSED => AttachError::Refused(
                "no process listens at the attach socket /tmp/.java_pid<pid>: an earlier process left it behind, so remove it"
                    .into(),
            ),
            errno => AttachError::Io { what: "connecting to the JVM's attach socket".into(), source: errno.into() },
        }
        };
        // Through the pinned fd, so that the checked file is the one that is connected to.
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let address = SocketAddrUnix::new(path).map_err(failure)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failure)?;
        let mut pause = Duration::from_millis(1);
        loop {
            match connect(&socket, &address) {
                Ok(()) => break,
                // The queue is full, because the JVM serves one client at a time or none.
                Err(Errno::AGAIN | Errno::INTR) => {
                    sleep(pause.min(
                        deadline.left(
                            "waiting for a place in the queue of the JVM's attach listener",
                        )?,
                    ));
                    pause = (pause * 2).min(Duration::from_millis(100));
                }
                Err(errno) => return Err(failure(errno)),
            }
        }
        let listener = listener_pid(&socket).map_err(|source| AttachError::Io {
            what: "reading SO_PEERCRED of the attach socket".into(),
            source,
        })?;
        if u32::try_from(listener) != Ok(target.pid) {
            return Err(AttachError::Refused(format!(
                "the attach socket is served by pid {listener}, not by this JVM (do two containers share a /tmp?); \
                 nothing was sent to it"
            )));
        }
        let stream = UnixStream::from(socket);
        let blocking = stream.set_nonblocking(false);
        blocking.map_err(|source| AttachError::Io {
            what: "preparing the connection".into(),
            source,
        })?;
        Ok(stream)
    }
}

/// Returns the process that called `listen` on the other end, 0 if it is outside the exporter's pid namespace.
fn listener_pid(socket: &OwnedFd) -> io::Result<i32> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the fd is open during the call; `peer` and `length` are valid for writes, and `length` holds the size of
    // `peer`, all of whose bit patterns are valid.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(peer.pid)
    } else {
        Err(io::Error::last_os_error())
    }
}

fn send(stream: &mut UnixStream, request: &[u8], deadline: AttachDeadline) -> io::Result<()> {
    let left = deadline.left("").map_err(|_| io::ErrorKind::TimedOut)?;
    stream.set_write_timeout(Some(left))?;
    stream.write_all(request)
}

/// Only reads, as fast as the reply comes, because the JVM may be paused until the last byte is read.
fn receive(stream: &mut UnixStream, max: usize, deadline: AttachDeadline) -> io::Result<Vec<u8>> {
    let mut reply = Vec::with_capacity(max.min(256 << 10));
    loop {
        let left = deadline.left("").map_err(|_| io::ErrorKind::TimedOut)?;
        stream.set_read_timeout(Some(left))?;
        match rustix::io::read(&mut *stream, spare_capacity(&mut reply)) {
            Ok(0) => return Ok(reply),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if reply.len() >= max {
            let message = format!("the reply is longer than {max} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        if reply.len() == reply.capacity() {
            reply.reserve_exact(reply.len().min(max - reply.len()));
        }
    }
}

fn explain(
    target: &PinnedProcess,
    error: io::Error,
    stage: &'static str,
    deadline: AttachDeadline,
) -> AttachError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => match target.check_running() {
            Ok(()) => AttachError::Timeout {
                stage,
                waited: deadline.start.elapsed(),
            },
            Err(stopped) => stopped,
        },
        io::ErrorKind::FileTooLarge => AttachError::Protocol(error.to_string()),
        // The JVM closes the connection without a reply if it refuses the client's ids, or if it dies.
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => closed(target),
        _ => AttachError::Io {
            what: stage.into(),
            source: error,
        },
    }
}

fn closed(target: &PinnedProcess) -> AttachError {
    match target.check_running() {
        Ok(()) => target.denied("the JVM closed the connection without a reply"),
        Err(gone) => gone,
    }
}

fn parse_reply(target: &PinnedProcess, bytes: Vec<u8>) -> Result<Reply, AttachError> {
    if bytes.is_empty() {
        return Err(closed(target));
    }
    match split_code(&bytes) {
        Some((code, body)) => Ok(Reply { code, bytes, body }),
        None => Err(AttachError::Protocol(format!(
            "the JVM's reply does not start with a code: {:?}",
            String::from_utf8_lossy(bytes.get(..bytes.len().min(40)).unwrap_or_default())
        ))),
    }
}

/// Returns the number in the first line, and where the second line starts.
pub(super) fn split_code(bytes: &[u8]) -> Option<(i32, usize)> {
    let line_end = memchr::memchr(b'\n', bytes.get(..bytes.len().min(16))?)?;
    let code = std::str::from_utf8(bytes.get(..line_end)?)
        .ok()?
        .parse()
        .ok()?;
    Some((code, line_end + 1))
}

/// Whether the reply to `getversion options`, such as `2 streaming`, offers version 2 with that option.
pub(super) fn offers_unstreamed(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    let mut words = text.split([' ', ',', '\n']).filter(|word| !word.is_empty());
    words
        .next()
        .and_then(|version| version.parse::<u32>().ok())
        .is_some_and(|version| version >= 2)
        && words.any(|option| option == "streaming")
}
