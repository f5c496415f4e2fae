//! Reads how often each thread of a process got a CPU from `/proc/PID/task/TID/schedstat`, without attaching.
//!
//! The fds are kept open: reading costs a fifth of opening each time, and a new thread with the id of an ended one is not
//! mistaken for it. They count against the exporter's own limit, so an [`Allowance`] bounds them, and files beyond it
//! are opened for each reading.

mod call;

pub use call::KernelCall;

use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, RawDir, openat};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::proc::{ProcError, ProcRoot, failed, lines, number, parse_stat, read_open_file, words};

/// At most so many threads of one process are known.
const MAX_THREADS: usize = 20_000;

/// How many fds may be kept open. Clones share one allowance.
#[derive(Debug, Clone)]
pub struct Allowance {
    /// Each kept fd holds a clone.
    kept: Arc<()>,
    most: usize,
}

impl Allowance {
    pub fn new(most: usize) -> Allowance {
        Allowance {
            kept: Arc::new(()),
            most,
        }
    }

    /// Allows a quarter of the fds that this process may open.
    pub fn of_own_limit() -> Allowance {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Allowance::new(
            usize::try_from(limit / 4)
                .unwrap_or(usize::MAX)
                .min(MAX_THREADS),
        )
    }

    fn take(&self) -> Option<Arc<()>> {
        (Arc::strong_count(&self.kept) <= self.most).then(|| Arc::clone(&self.kept))
    }
}

/// What the scheduler has counted for one thread since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Nanoseconds on a CPU.
    pub cpu: u64,
    /// Nanoseconds waiting for a CPU.
    pub run_queue: u64,
    /// How often it got a CPU.
    pub switches: u64,
}

/// One thread.
#[derive(Debug)]
pub struct Task {
    /// The id in the innermost pid namespace of the thread, which HotSpot prints as `nid`. Kernels before 4.1 do not show
    /// it; then this is the id in the exporter's namespace.
    pub inner_id: u32,
    /// At most 15 bytes.
    pub name: String,
    kept: Option<(OwnedFd, Arc<()>)>,
}

/// The threads of one process. After its end every reading fails, even if another process has its pid.
#[derive(Debug)]
pub struct Tasks {
    pid: u32,
    path: PathBuf,
    folder: OwnedFd,
    tasks: BTreeMap<u32, Task>,
    allowance: Allowance,
    /// The number of links of the folder at the last listing, and how many scans since then found the same number.
    links: u64,
    unchanged: u32,
}

/// So many scans in a row rely on the number of threads. It stays the same if one thread starts when another ends.
const TRUSTED_SCANS: u32 = 4;

impl Tasks {
    /// Opens the process that started at `start_ticks`. No thread is known before the first [`Tasks::scan`].
    ///
    /// # Errors
    /// `Gone`, `Denied`, `Io`, and `Malformed` if the kernel does not count.
    pub fn open(
        proc: &ProcRoot,
        pid: u32,
        start_ticks: u64,
        allowance: Allowance,
    ) -> Result<Tasks, ProcError> {
        let path = proc.file(pid, "task");
        let folder = rustix::fs::open(
            &path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| failed(pid, &path, errno))?;
        let stat = proc.stat(pid)?;
        if stat.start_ticks != start_ticks || stat.ended {
            return Err(ProcError::Gone { pid });
        }
        let tasks = Tasks {
            pid,
            path,
            folder,
            tasks: BTreeMap::new(),
            allowance,
            links: 0,
            unchanged: 0,
        };
        // A thread that exists has run, so zeros, or no file, mean that the kernel does not count.
        if tasks.read(pid)?.unwrap_or_default().switches == 0 {
            let what = "this kernel counts nothing there: one with CONFIG_SCHED_INFO is needed";
            return Err(ProcError::Malformed {
                path: tasks.path.join(format!("{pid}/schedstat")),
                what,
            });
        }
        Ok(tasks)
    }

    /// Returns every known thread with its id in the exporter's pid namespace.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Task)> {
        self.tasks.iter().map(|(id, task)| (*id, task))
    }

    pub fn get(&self, id: u32) -> Option<&Task> {
        self.tasks.get(&id)
    }

    /// Calls [`Tasks::scan`] if the number of threads has changed. Returns whether it did.
    ///
    /// # Errors
    /// `Gone`, `Denied`, `Io`.
    pub fn scan_changed(&mut self) -> Result<bool, ProcError> {
        if self.unchanged >= TRUSTED_SCANS {
            self.links = 0;
        }
        let changed = self.scan_other_number()?;
        self.unchanged = if changed { 0 } else { self.unchanged + 1 };
        Ok(changed)
    }

    /// As [`Tasks::scan_changed`], and relies on the number: one system call where it is the same.
    ///
    /// # Errors
    /// `Gone`, `Denied`, `Io`.
    pub fn scan_other_number(&mut self) -> Result<bool, ProcError> {
        // The number of links includes the number of threads.
        let stat = rustix::fs::fstat(&self.folder);
        let links = stat.map_err(|errno| failed(self.pid, &self.path, errno))?;
        #[allow(clippy::useless_conversion)] // its width differs between architectures
        let links = u64::from(links.st_nlink);
        if links == self.links {
            return Ok(false);
        }
        self.scan()?;
        self.links = links;
        Ok(true)
    }

    /// Finds threads that started or ended. Opens two files for each new one.
    ///
    /// # Errors
    /// `Gone`, `Denied`, `Io`.
    pub fn scan(&mut self) -> Result<(), ProcError> {
        let fail = |errno| failed(self.pid, &self.path, errno);
        rustix::fs::seek(&self.folder, rustix::fs::SeekFrom::Start(0)).map_err(fail)?;
        let mut buffer = [MaybeUninit::uninit(); 8 << 10];
        let mut entries = RawDir::new(&self.folder, &mut buffer);
        let mut found = BTreeSet::new();
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(fail)?;
            found
                .extend(number(entry.file_name().to_bytes()).and_then(|id| u32::try_from(id).ok()));
            if found.len() >= MAX_THREADS {
                break;
            }
        }
        if found.is_empty() {
            return Err(ProcError::Gone { pid: self.pid });
        }
        self.tasks.retain(|id, _| found.contains(id));
        for id in found {
            if !self.tasks.contains_key(&id)
                && let Some(task) = self.learn(id)?
            {
                self.tasks.insert(id, task);
            }
        }
        Ok(())
    }

    /// Calls `each` with the counts of these threads and the value beside each id. The ids must ascend. A thread that has
    /// ended is left out and forgotten.
    ///
    /// # Errors
    /// `Denied`, `Io`, `Malformed`.
    pub fn counts<T>(
        &mut self,
        threads: impl IntoIterator<Item = (u32, T)>,
        mut each: impl FnMut(u32, T, Counts),
    ) -> Result<(), ProcError> {
        let Tasks {
            pid,
            path,
            folder,
            tasks,
            allowance,
            ..
        } = self;
        let mut ended = Vec::new();
        // Both ascend, so they are walked together: a search for each id took a tenth of the time.
        let mut known = tasks.iter_mut().peekable();
        for (id, beside) in threads {
            while known.next_if(|(known, _)| **known < id).is_some() {}
            let Some((_, task)) = known.next_if(|(known, _)| **known == id) else {
                continue;
            };
            let counts = match &task.kept {
                Some((file, _)) => read_counts(file),
                None => match allowance.take() {
                    Some(permit) => open_file(folder, id, "schedstat").and_then(|file| {
                        let counts = read_counts(&file);
                        task.kept = Some((file, permit));
                        counts
                    }),
                    None => open_file(folder, id, "schedstat").and_then(|file| read_counts(&file)),
                },
            };
            match unless_ended(*pid, path, id, counts)? {
                Some(counts) => each(id, beside, counts),
                None => ended.push(id),
            }
        }
        ended.iter().for_each(|id| drop(tasks.remove(id)));
        Ok(())
    }

    /// Closes the fds of threads that are not wanted any more.
    pub fn keep_only(&mut self, wanted: impl Fn(u32) -> bool) {
        for (id, task) in &mut self.tasks {
            if !wanted(*id) {
                task.kept = None;
            }
        }
    }

    /// Returns the state (`S`, `R`, `D`, `T` ...) of one thread, None after its end.
    ///
    /// # Errors
    /// `Denied`, `Io`, `Malformed`.
    pub fn state(&self, id: u32) -> Result<Option<char>, ProcError> {
        let mut buffer = [0; 1024];
        let read = open_file(&self.folder, id, "stat")
            .and_then(|file| rustix::io::read(&file, &mut buffer));
        let stat = read.map(|length| {
            parse_stat(buffer.get(..length).unwrap_or_default()).map(|stat| stat.state)
        });
        unless_ended(self.pid, &self.path, id, stat)
    }

    /// Reads the counts of one thread through an fd that is not kept.
    fn read(&self, id: u32) -> Result<Option<Counts>, ProcError> {
        unless_ended(
            self.pid,
            &self.path,
            id,
            open_file(&self.folder, id, "schedstat").and_then(|file| read_counts(&file)),
        )
    }

    fn learn(&self, id: u32) -> Result<Option<Task>, ProcError> {
        let status =
            open_file(&self.folder, id, "status").and_then(|file| read_open_file(&file, 8 << 10));
        let Some(status) = unless_ended(self.pid, &self.path, id, status.map(Some))? else {
            return Ok(None);
        };
        let field = |name: &[u8]| lines(&status).find_map(|line| line.strip_prefix(name));
        let inner = words(field(b"NSpid:").unwrap_or_default())
            .last()
            .and_then(number);
        let name = field(b"Name:").unwrap_or_default().trim_ascii_start();
        Ok(Some(Task {
            inner_id: inner
                .and_then(|inner| u32::try_from(inner).ok())
                .unwrap_or(id),
            name: String::from_utf8_lossy(name).into_owned(),
            kept: None,
        }))
    }
}

/// Turns the end of a thread into None, and text of another form into an error.
fn unless_ended<T>(
    pid: u32,
    path: &Path,
    id: u32,
    read: Result<Option<T>, Errno>,
) -> Result<Option<T>, ProcError> {
    match read {
        Ok(Some(value)) => Ok(Some(value)),
        Ok(None) => {
            let what = "no counts of the scheduler or no state";
            Err(ProcError::Malformed {
                path: path.join(id.to_string()),
                what,
            })
        }
        Err(Errno::SRCH | Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed(pid, &path.join(id.to_string()), errno)),
    }
}

fn open_file(folder: &OwnedFd, id: u32, name: &str) -> Result<OwnedFd, Errno> {
    openat(
        folder,
        format!("{id}/{name}"),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

fn read_counts(file: impl AsFd) -> Result<Option<Counts>, Errno> {
    let mut buffer = [0; 80];
    let length = rustix::io::pread(file, &mut buffer, 0)?;
    Ok(parse_counts(buffer.get(..length).unwrap_or_default()))
}

/// Parses `31415926 271828 42`: time on a CPU, time waiting for one, and how often it got one.
fn parse_counts(text: &[u8]) -> Option<Counts> {
    let (cpu, rest) = decimal(text)?;
    let (run_queue, rest) = decimal(rest)?;
    let (switches, _) = decimal(rest)?;
    Some(Counts {
        cpu,
        run_queue,
        switches,
    })
}

/// Parses a number of at most 19 digits (317 years in nanoseconds) and returns the rest behind the byte after it. This is
/// done four times a second for each thread, and costs half as much as splitting into words first.
fn decimal(text: &[u8]) -> Option<(u64, &[u8])> {
    let mut rest = text;
    let mut value: u64 = 0;
    while let [digit @ b'0'..=b'9', after @ ..] = rest {
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        rest = after;
    }
    let digits = text.len() - rest.len();
    (1..=19)
        .contains(&digits)
        .then(|| (value, rest.get(1..).unwrap_or_default()))
}

#[cfg(test)]
mod tests;
