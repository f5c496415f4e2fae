//! One process, pinned by an fd of its `/proc` folder, so that a pid that is given to another process is noticed.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::attach::error::AttachError;
use super::lacking::REMEDY;
use super::plain::FileError;
use super::proc::{Stat, Status, parse_stat, parse_status, read_in};
use super::rooted::Rooted;

/// After the end of the process every read fails, even if another process has its pid.
#[derive(Debug)]
pub struct PinnedProcess {
    pub pid: u32,
    /// The pid in the innermost pid namespace of the process.
    pub ns_pid: u32,
    /// Effective ids.
    pub uid: u32,
    pub gid: u32,
    pub start_ticks: u64,
    /// Where procfs is mounted, for messages and for kernels without pidfd.
    pub(super) proc_root: PathBuf,
    /// The `/proc` folder. Not opened with O_PATH, because the fd also serves as a pidfd.
    pub(super) folder: OwnedFd,
    pub(super) root: Rooted,
    pub(super) working_folder: Option<OwnedFd>,
    /// Opened before ids are switched, and read only when a signal may have to be sent.
    pub(super) maps: Option<OwnedFd>,
    /// The thread that served the attach socket when it was last searched for.
    pub(super) listener_id: Cell<Option<u32>>,
}

impl PinnedProcess {
    /// Opens `proc_root`/`pid`. With `start_ticks`, only if the process started then (field 22 of its `stat`).
    ///
    /// # Errors
    /// `Gone`, `Stopped`, `Denied`, or the error of reading.
    pub fn open(
        proc_root: &Path,
        pid: u32,
        start_ticks: Option<u64>,
    ) -> Result<PinnedProcess, AttachError> {
        let path = proc_root.join(pid.to_string());
        let folder = rustix::fs::open(
            &path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| gone_or(errno, || format!("cannot open {}", path.display())))?;
        let stat = read_stat(&folder)?;
        if start_ticks.is_some_and(|expected| expected != stat.start_ticks) {
            return Err(AttachError::Gone);
        }
        runs(&stat)?;
        let status = read(&folder, "status", parse_status)?;
        let open =
            |name: &str, flags| openat(&folder, name, flags | OFlags::CLOEXEC, Mode::empty());
        let root = open("root", OFlags::PATH | OFlags::DIRECTORY).map_err(|errno| match errno {
            Errno::ACCESS | Errno::PERM => denied(
                format!("cannot open {}/root", path.display()),
                status.uid,
                status.gid,
            ),
            errno => gone_or(errno, || format!("cannot open {}/root", path.display())),
        })?;
        let working_folder = open("cwd", OFlags::PATH | OFlags::DIRECTORY).ok();
        let maps = open("maps", OFlags::RDONLY).ok();
        Ok(PinnedProcess {
            pid,
            ns_pid: status.namespace_pid.unwrap_or(pid),
            uid: status.uid,
            gid: status.gid,
            start_ticks: stat.start_ticks,
            proc_root: proc_root.to_path_buf(),
            folder,
            root: Rooted::of(root, path.join("root")),
            working_folder,
            maps,
            listener_id: Cell::new(None),
        })
    }

    /// Returns `Denied` with the ids of both sides and the remedy.
    pub(super) fn denied(&self, what: impl Into<String>) -> AttachError {
        denied(what.into(), self.uid, self.gid)
    }

    /// Opens its `/tmp` with O_PATH. The process may be hostile, so links lead nowhere outside its root.
    pub(super) fn tmp(&self) -> Result<OwnedFd, FileError> {
        self.root.folder(Path::new("tmp"))
    }

    /// Checks that the process still runs and is not stopped.
    pub(super) fn check_running(&self) -> Result<(), AttachError> {
        runs(&read_stat(&self.folder)?)
    }

    pub(super) fn status(&self) -> Result<Status, AttachError> {
        read(&self.folder, "status", parse_status)
    }
}

fn runs(stat: &Stat) -> Result<(), AttachError> {
    match stat.state {
        state @ ('T' | 't') => Err(AttachError::Stopped(state)),
        _ if stat.ended => Err(AttachError::Gone),
        _ => Ok(()),
    }
}

pub(super) fn read_stat(folder: &OwnedFd) -> Result<Stat, AttachError> {
    read(folder, "stat", parse_stat)
}

fn read<T>(
    folder: &OwnedFd,
    name: &str,
    parse: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<T, AttachError> {
    let bytes = read_in(folder, name, 64 << 10)
        .map_err(|errno| gone_or(errno, || format!("reading /proc/PID/{name}")))?;
    parse(&bytes).ok_or_else(|| {
        AttachError::Protocol(format!(
            "/proc/PID/{name} is not in the form that Linux writes"
        ))
    })
}

pub(super) fn denied(what: String, uid: u32, gid: u32) -> AttachError {
    let own = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let remedy = if own == (uid, gid) {
        "the ids are the same, but the JVM has capabilities that the exporter lacks, or may not be traced: give the \
         exporter CAP_SYS_PTRACE"
            .into()
    } else {
        format!(
            "the exporter runs as uid {} gid {}, the JVM as uid {uid} gid {gid}: {REMEDY}",
            own.0, own.1
        )
    };
    AttachError::Denied {
        what,
        remedy,
        uid,
        gid,
    }
}

pub(super) fn gone_or(errno: Errno, what: impl FnOnce() -> String) -> AttachError {
    match errno {
        Errno::NOENT | Errno::SRCH => AttachError::Gone,
        errno => AttachError::Io {
            what: what(),
            source: errno.into(),
        },
    }
}
