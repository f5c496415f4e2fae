//! The texts of /proc as data: pure, and any bytes are taken without a panic, since a thread name need not be UTF-8 and
//! the file of a process that ends may be cut.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The fields of `/proc/PID/stat` that are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Name of the main thread, at most 15 bytes for a process.
    pub comm: String,
    /// `R`, `S`, `D`, `T`, `Z` ...
    pub state: char,
    pub parent: u32,
    /// Clock ticks from boot to the start of the process.
    pub start_ticks: u64,
    pub kernel_thread: bool,
    /// A zombie, or a process that becomes one: its memory is freed before its files are closed, and their count is zero.
    pub ended: bool,
    pub resident_bytes: u64,
}

/// The fields of `/proc/PID/status` that are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Effective ids: a JVM answers only this user and group.
    pub uid: u32,
    pub gid: u32,
    /// Whose process it is: the user, where the real, the effective and the saved id are the same. Anybody may run a
    /// set-user-id program under a name of his choice.
    pub owner: Option<u32>,
    /// The pid in the innermost pid namespace of the process; None before Linux 4.1.
    pub namespace_pid: Option<u32>,
    /// Whether SIGQUIT runs a handler. Without one it kills the process.
    pub catches_sigquit: bool,
    /// None for a process without memory (ended, or a kernel thread).
    pub resident_bytes: Option<u64>,
    /// Also None before Linux 2.6.34.
    pub swapped_bytes: Option<u64>,
}

/// How many files a process may open. None is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFileLimits {
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

pub(in crate::sys) fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == b'\n')
}

pub(in crate::sys) fn words(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}

pub(in crate::sys) fn number(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

pub(super) fn parse_kernel_release(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

pub(in crate::sys) fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    // The name may hold parentheses, blanks and line ends, so it ends at the last parenthesis.
    let open = memchr::memchr(b'(', bytes)?;
    let close = memchr::memrchr(b')', bytes)?;
    let comm = String::from_utf8_lossy(bytes.get(open + 1..close)?).into_owned();
    let mut fields = words(bytes.get(close + 1..)?);
    let state = char::from(*fields.next()?.first()?);
    // State 3, parent 4, flags 9, start time 22, size of the memory 23, its resident pages 24.
    let parent = u32::try_from(number(fields.next()?)?).ok()?;
    let flags = number(fields.nth(4)?)?;
    let start_ticks = number(fields.nth(12)?)?;
    let memory = number(fields.next()?)?;
    let resident_pages = number(fields.next()?)?;
    const PF_KTHREAD: u64 = 0x0020_0000;
    let kernel_thread = flags & PF_KTHREAD != 0;
    let ended = matches!(state, 'Z' | 'X' | 'x') || (memory == 0 && !kernel_thread);
    Some(Stat {
        comm,
        state,
        parent,
        start_ticks,
        kernel_thread,
        ended,
        resident_bytes: resident_pages.saturating_mul(procfs::page_size()),
    })
}

pub(in crate::sys) fn parse_status(bytes: &[u8]) -> Option<Status> {
    // The name of a process may hold anything but a line end, so only the start of a line names a field.
    let field = |name: &[u8]| {
        lines(bytes)
            .find_map(|line| line.strip_prefix(name))
            .map(words)
    };
    let id = |word: &[u8]| number(word).and_then(|id| u32::try_from(id).ok());
    let caught = field(b"SigCgt:").and_then(|mut words| std::str::from_utf8(words.next()?).ok());
    let caught = caught.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let bytes = |name| Some(number(field(name)?.next()?)?.saturating_mul(1024));
    let uid = field(b"Uid:")?.nth(1).and_then(id)?;
    let mut same = field(b"Uid:")?.take(3).map(|word| id(word) == Some(uid));
    Some(Status {
        uid,
        owner: same.all(|same| same).then_some(uid),
        gid: field(b"Gid:")?.nth(1).and_then(id)?,
        namespace_pid: field(b"NSpid:").and_then(|words| words.last().and_then(id)),
        catches_sigquit: caught.is_some_and(|signals| signals & 1 << (libc::SIGQUIT - 1) != 0),
        resident_bytes: bytes(b"VmRSS:"),
        swapped_bytes: bytes(b"VmSwap:"),
    })
}

pub(super) fn parse_open_file_limits(bytes: &[u8]) -> Option<OpenFileLimits> {
    let limit = |word: &[u8]| match word {
        b"unlimited" => Some(None),
        word => number(word).map(Some),
    };
    let mut fields = words(lines(bytes).find_map(|line| line.strip_prefix(b"Max open files"))?);
    Some(OpenFileLimits {
        soft: limit(fields.next()?)?,
        hard: limit(fields.next()?)?,
    })
}

/// Returns the inode in the link of an fd, `socket:[INODE]`.
pub fn socket_inode(link: &[u8]) -> Option<u64> {
    number(link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?)
}

/// Returns the path in the link of an fd, without the kernel's ` (deleted)`.
pub fn file_path(link: &[u8]) -> &Path {
    let link = link.strip_suffix(b" (deleted)").unwrap_or(link);
    Path::new(OsStr::from_bytes(link))
}

/// Returns the file name in the link of an fd.
pub fn file_name(link: &[u8]) -> &[u8] {
    file_path(link)
        .file_name()
        .map_or(b"".as_slice(), |name| name.as_bytes())
}
