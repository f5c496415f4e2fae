//! Reads what /proc shows of a process, below a root that tests replace.
//!
//! `stat`, `status` and `limits` are parsed here, not by a library: they are read every second, any bytes must be taken
//! without a panic, and few fields are needed.
//!
//! A process may end between two reads, and /proc then shows an empty or a cut file instead of an error. So a caller that
//! reads a number must check afterwards, with [`ProcRoot::stat`], that the same process still runs.

use std::io;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, RawDir};
use rustix::io::Errno;

mod hidden;
mod parse;

use super::lacking;
pub use parse::{OpenFileLimits, Stat, Status, file_name, file_path, socket_inode};
pub(super) use parse::{lines, number, parse_stat, parse_status, words};
use parse::{parse_kernel_release, parse_open_file_limits};

/// The longest command line that is read, in bytes.
pub const COMMAND_LINE_CAP: usize = 1 << 20;
/// The longest of the other files that are read whole.
const SMALL_FILE_CAP: usize = 64 << 10;
/// Before Linux 4.2, `/proc/PID/cmdline` ends after one page.
const OLD_COMMAND_LINE_CAP: usize = 4096;

/// Why something could not be read from /proc.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    /// No process has that id, or not any more.
    #[error("process {pid} is gone")]
    Gone { pid: u32 },
    /// The file may not be read by this user.
    #[error(
        "{} may not be read by uid {}: {}",
        path.display(), rustix::process::geteuid().as_raw(), lacking::REMEDY
    )]
    Denied { pid: u32, path: PathBuf },
    /// Reading took longer than the caller allows.
    #[error("reading {} took longer than {} ms and was stopped", path.display(), budget.as_millis())]
    Timeout { path: PathBuf, budget: Duration },
    #[error("{}: {cause}", path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error("{} is not in the form that Linux writes ({what})", path.display())]
    Malformed { path: PathBuf, what: &'static str },
}

/// When a long read has to end.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    start: Instant,
    budget: Duration,
}

impl Deadline {
    pub fn after(budget: Duration) -> Deadline {
        Deadline {
            start: Instant::now(),
            budget,
        }
    }

    fn check(&self, path: &Path) -> Result<(), ProcError> {
        if self.start.elapsed() <= self.budget {
            return Ok(());
        }
        Err(ProcError::Timeout {
            path: path.to_path_buf(),
            budget: self.budget,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandLine {
    pub arguments: Vec<String>,
    /// Whether there was more.
    pub cut: Option<Cut>,
}

/// What cut a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The kernel, before 4.2.
    Kernel,
    /// [`COMMAND_LINE_CAP`].
    Length,
}

/// Counts the open fds of one process again and again, and lists them only if their number may have changed.
#[derive(Debug, Default)]
pub struct FdCounter {
    /// The size of the folder, the entries in it, and when they were counted.
    listed: Option<(u64, u64, Instant)>,
}

/// A list is used for so long while the size stays the same: a reserved number may have become an open fd while another
/// fd was closed.
const LISTED_FOR: Duration = Duration::from_secs(10);

impl FdCounter {
    /// See [`ProcRoot::open_fd_count`].
    pub fn count(&mut self, proc: &ProcRoot, pid: u32) -> Result<u64, ProcError> {
        if proc.kernel < (6, 2) {
            return proc.count_fds(pid);
        }
        let path = proc.file(pid, "fd");
        let stat = rustix::fs::stat(&path).map_err(|errno| failed(pid, &path, errno))?;
        let size = u64::try_from(stat.st_size).map_err(|_| ProcError::Malformed {
            path,
            what: "a negative size",
        })?;
        if size > FEW_FDS {
            return Ok(size);
        }
        if let Some((before, entries, at)) = self.listed
            && before == size
            && at.elapsed() < LISTED_FOR
        {
            return Ok(entries);
        }
        match proc.count_fds(pid) {
            Err(ProcError::Denied { .. }) => Ok(size),
            counted => {
                let entries = counted?;
                self.listed = Some((size, entries, Instant::now()));
                Ok(entries)
            }
        }
    }
}

/// The folder where procfs is mounted, usually `/proc`.
#[derive(Debug, Clone)]
pub struct ProcRoot {
    path: Arc<Path>,
    kernel: (u32, u32),
}

impl ProcRoot {
    /// Reads the kernel's version below `path`; if it is not there, takes that of the running kernel.
    pub fn new(path: impl AsRef<Path>) -> ProcRoot {
        let path = path.as_ref();
        let release =
            std::fs::read_to_string(path.join("sys/kernel/osrelease")).unwrap_or_else(|_| {
                rustix::system::uname()
                    .release()
                    .to_string_lossy()
                    .into_owned()
            });
        ProcRoot {
            path: Arc::from(path),
            kernel: parse_kernel_release(&release),
        }
    }

    /// For tests: behaves as on the kernel version `kernel` (major, minor).
    pub fn with_kernel(path: impl AsRef<Path>, kernel: (u32, u32)) -> ProcRoot {
        ProcRoot {
            path: Arc::from(path.as_ref()),
            kernel,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path `/proc/PID/NAME`.
    pub fn file(&self, pid: u32, name: &str) -> PathBuf {
        self.path.join(format!("{pid}/{name}"))
    }

    /// Returns all processes that /proc shows, in ascending order.
    pub fn pids(&self) -> Result<Vec<u32>, ProcError> {
        let fail = |cause| ProcError::Io {
            path: self.path.to_path_buf(),
            cause,
        };
        let mut pids = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            pids.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        pids.sort_unstable();
        Ok(pids)
    }

    pub fn stat(&self, pid: u32) -> Result<Stat, ProcError> {
        let path = self.file(pid, "stat");
        // One read suffices for the first 24 of at most 52 numbers.
        let mut buffer = [0; 2048];
        let read = (|| rustix::io::read(open(&path, OFlags::empty())?, &mut buffer))();
        let length = read.map_err(|errno| failed(pid, &path, errno))?;
        parse_stat(buffer.get(..length).unwrap_or_default()).ok_or(ProcError::Malformed {
            path,
            what: "no state or start time",
        })
    }

    pub fn status(&self, pid: u32) -> Result<Status, ProcError> {
        let (path, bytes) = self.small(pid, "status")?;
        parse_status(&bytes).ok_or(ProcError::Malformed {
            path,
            what: "no Uid or Gid",
        })
    }

    pub fn open_file_limits(&self, pid: u32) -> Result<OpenFileLimits, ProcError> {
        let (path, bytes) = self.small(pid, "limits")?;
        if bytes.is_empty() {
            return Err(ProcError::Gone { pid });
        }
        parse_open_file_limits(&bytes).ok_or(ProcError::Malformed {
            path,
            what: "no Max open files",
        })
    }

    /// May block for as long as a thread of that process holds its memory lock, for example while a hung disk does not
    /// deliver a page. Never call it where that would stop other work.
    pub fn command_line(&self, pid: u32) -> Result<CommandLine, ProcError> {
        let path = self.file(pid, "cmdline");
        let bytes =
            read_up_to(&path, COMMAND_LINE_CAP).map_err(|errno| failed(pid, &path, errno))?;
        let old = self.kernel < (4, 2)
            && (OLD_COMMAND_LINE_CAP - 1..=OLD_COMMAND_LINE_CAP).contains(&bytes.len());
        let cut = match bytes.len() >= COMMAND_LINE_CAP {
            true => Some(Cut::Length),
            false => old.then_some(Cut::Kernel),
        };
        let text = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
        if text.is_empty() {
            return Ok(CommandLine {
                arguments: Vec::new(),
                cut,
            });
        }
        let arguments = text
            .split(|byte| *byte == 0)
            .map(|a| String::from_utf8_lossy(a).into_owned())
            .collect();
        Ok(CommandLine { arguments, cut })
    }

    /// Returns one variable of the environment with which the process was started.
    pub fn environment_variable(&self, pid: u32, name: &str) -> Result<Option<String>, ProcError> {
        let path = self.file(pid, "environ");
        let bytes =
            read_up_to(&path, COMMAND_LINE_CAP).map_err(|errno| failed(pid, &path, errno))?;
        let value = bytes.split(|byte| *byte == 0).find_map(|entry| {
            entry
                .strip_prefix(name.as_bytes())
                .and_then(|rest| rest.strip_prefix(b"="))
        });
        Ok(value.map(|value| String::from_utf8_lossy(value).into_owned()))
    }

    /// Returns where `exe`, `cwd` or `root` of the process lead, as the kernel spells it.
    pub fn link(&self, pid: u32, name: &str) -> Result<PathBuf, ProcError> {
        let path = self.file(pid, name);
        std::fs::read_link(&path).map_err(|cause| failed_io(pid, &path, cause))
    }

    /// Returns the names of the first `most` threads. The kernel cuts them to 15 bytes.
    pub fn thread_names(&self, pid: u32, most: usize) -> Result<Vec<String>, ProcError> {
        let path = self.file(pid, "task");
        let fail = |cause| failed_io(pid, &path, cause);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(fail)?.take(most) {
            let comm = entry.map_err(fail)?.path().join("comm");
            // A thread may end at any time while the process lives on.
            if let Ok(bytes) = read_up_to(&comm, 64) {
                names.push(String::from_utf8_lossy(&bytes).trim_end().to_owned());
            }
        }
        Ok(names)
    }

    /// Turns start ticks into the time since 1970.
    pub fn started(&self, start_ticks: u64) -> Result<Duration, ProcError> {
        let path = self.path.join("stat");
        let bytes = read_up_to(&path, 16 << 20).map_err(|errno| failed(0, &path, errno))?;
        let boot = lines(&bytes).find_map(|line| number(line.strip_prefix(b"btime ")?));
        let boot = boot.ok_or(ProcError::Malformed {
            path,
            what: "no btime",
        })?;
        Ok(Duration::from_secs(boot) + ticks(start_ticks))
    }

    /// Returns the time since boot.
    pub fn uptime(&self) -> Result<Duration, ProcError> {
        let path = self.path.join("uptime");
        let bytes = read_up_to(&path, SMALL_FILE_CAP).map_err(|errno| failed(0, &path, errno))?;
        let seconds = String::from_utf8_lossy(&bytes)
            .split(' ')
            .next()
            .and_then(|text| text.parse::<f64>().ok());
        seconds
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .ok_or(ProcError::Malformed {
                path,
                what: "no seconds",
            })
    }

    /// Counts the lines of `/proc/PID/maps`: memory mappings, with `[vsyscall]` where the machine has it.
    pub fn memory_maps(&self, pid: u32, deadline: Deadline) -> Result<u64, ProcError> {
        let path = self.file(pid, "maps");
        let file = open(&path, OFlags::empty()).map_err(|errno| failed(pid, &path, errno))?;
        let mut buffer = [0; 16 << 10];
        let mut count = 0;
        loop {
            deadline.check(&path)?;
            match rustix::io::read(&file, &mut buffer).map_err(|errno| failed(pid, &path, errno))? {
                0 => return Ok(count),
                length => {
                    let part = buffer.get(..length).unwrap_or_default();
                    count += memchr::memchr_iter(b'\n', part).count() as u64;
                }
            }
        }
    }

    /// Returns `vm.max_map_count`: how many mappings a process may have.
    pub fn memory_map_limit(&self) -> Result<u64, ProcError> {
        let path = self.path.join("sys/vm/max_map_count");
        let bytes = read_up_to(&path, SMALL_FILE_CAP).map_err(|errno| failed(0, &path, errno))?;
        number(bytes.trim_ascii()).ok_or(ProcError::Malformed {
            path,
            what: "no number",
        })
    }

    /// Counts the open fds of a process. Since Linux 6.2 the size of the folder is their number, which needs no right and
    /// takes microseconds; before, the entries are counted, which needs the right to read the folder.
    ///
    /// The size also counts fds that are reserved but not open yet: one for each thread that waits in `accept`, as the
    /// JVM's attach and JMX listeners do. That matters where fds are few, so there the entries are counted if allowed.
    pub fn open_fd_count(&self, pid: u32) -> Result<u64, ProcError> {
        FdCounter::default().count(self, pid)
    }

    fn count_fds(&self, pid: u32) -> Result<u64, ProcError> {
        let mut count = 0;
        self.visit_fds(pid, None, |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }

    /// Calls `visit` with the number of each open fd and its link (`socket:[4711]`, `/opt/kafka/libs/x.jar`,
    /// `/a/b (deleted)`), in ascending order, until it breaks. An fd that is closed meanwhile is left out.
    pub fn visit_fd_links(
        &self,
        pid: u32,
        deadline: Deadline,
        mut visit: impl FnMut(&str, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), ProcError> {
        let path = self.file(pid, "fd");
        let mut target = [MaybeUninit::uninit(); 4096];
        let mut failure = None;
        self.visit_fds(
            pid,
            Some(deadline),
            |folder, name| match rustix::fs::readlinkat_raw(folder, name, &mut target) {
                Ok((link, _)) => visit(name.to_str().unwrap_or_default(), link),
                Err(Errno::NOENT) => ControlFlow::Continue(()),
                Err(errno) => {
                    failure = Some(failed(pid, &path, errno));
                    ControlFlow::Break(())
                }
            },
        )?;
        failure.map_or(Ok(()), Err)
    }

    fn visit_fds(
        &self,
        pid: u32,
        deadline: Option<Deadline>,
        mut visit: impl FnMut(&OwnedFd, &std::ffi::CStr) -> ControlFlow<()>,
    ) -> Result<(), ProcError> {
        let path = self.file(pid, "fd");
        let folder = open(&path, OFlags::DIRECTORY).map_err(|errno| failed(pid, &path, errno))?;
        let mut buffer = vec![MaybeUninit::uninit(); 32 << 10];
        let mut entries = RawDir::new(&folder, &mut buffer);
        let mut seen = 0_u32;
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|errno| failed(pid, &path, errno))?;
            if entry.file_name().to_bytes().starts_with(b".") {
                continue;
            }
            if let (Some(deadline), 0) = (deadline, seen % 256) {
                deadline.check(&path)?;
            }
            seen = seen.wrapping_add(1);
            if visit(&folder, entry.file_name()).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads a whole file of the process, up to 64 KiB: `status`, `limits`.
    pub fn small(&self, pid: u32, name: &str) -> Result<(PathBuf, Vec<u8>), ProcError> {
        let path = self.file(pid, name);
        let bytes = read_up_to(&path, SMALL_FILE_CAP).map_err(|errno| failed(pid, &path, errno))?;
        Ok((path, bytes))
    }
}

/// Counting so many fds takes about a millisecond.
const FEW_FDS: u64 = 1024;

/// Turns the clock ticks of /proc into time.
pub fn ticks(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second().max(1) as f64)
}

/// Separates a process that is gone, and a missing right, from other failures of a system call.
pub(super) fn failed(pid: u32, path: &Path, errno: Errno) -> ProcError {
    match errno {
        // ENOENT of a file that belongs to no process (pid 0) is what it says.
        Errno::SRCH => ProcError::Gone { pid },
        Errno::NOENT if pid != 0 => ProcError::Gone { pid },
        Errno::ACCESS | Errno::PERM => ProcError::Denied {
            pid,
            path: path.to_path_buf(),
        },
        errno => ProcError::Io {
            path: path.to_path_buf(),
            cause: errno.into(),
        },
    }
}

fn failed_io(pid: u32, path: &Path, cause: io::Error) -> ProcError {
    match Errno::from_io_error(&cause) {
        Some(errno) => failed(pid, path, errno),
        None => ProcError::Io {
            path: path.to_path_buf(),
            cause,
        },
    }
}

fn open(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(
        CWD,
        path,
        OFlags::RDONLY | OFlags::CLOEXEC | flags,
        Mode::empty(),
    )
}

pub(super) fn read_up_to(path: &Path, cap: usize) -> rustix::io::Result<Vec<u8>> {
    read_open_file(&open(path, OFlags::empty())?, cap)
}

/// Reads a file of an open folder, up to `cap` bytes.
pub(super) fn read_in(folder: &OwnedFd, name: &str, cap: usize) -> rustix::io::Result<Vec<u8>> {
    read_open_file(
        &rustix::fs::openat(
            folder,
            name,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?,
        cap,
    )
}

/// Reads to the end of the file or to `cap` bytes, in pieces, because files of /proc have size 0.
pub(crate) fn read_open_file(file: &OwnedFd, cap: usize) -> rustix::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut piece = [0; 8 << 10];
    while bytes.len() < cap {
        let wanted = piece.len().min(cap - bytes.len());
        match rustix::io::read(file, piece.get_mut(..wanted).unwrap_or_default()) {
            Ok(0) => break,
            Ok(length) => bytes.extend_from_slice(piece.get(..length).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
