//! Makes a JVM open its attach socket, with a file that only its user or root can create, and SIGQUIT.

use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, statat, unlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, pidfd_send_signal};

use super::error::{AttachDeadline, AttachError};
use super::jvm::{AttachListener, attach_listener, check_signal_is_safe};
use super::protocol::AttachSocket;
use crate::sys::process::{PinnedProcess, gone_or, read_stat};

/// Makes the JVM open its socket, or replace one that no thread serves. The caller has checked that the signal is safe.
fn open_socket(
    target: &PinnedProcess,
    unserved: Option<&AttachSocket>,
    deadline: AttachDeadline,
    signalled: &mut bool,
) -> Result<AttachSocket, AttachError> {
    let mut trigger = TriggerFile::create(target)?;
    target.check_running()?;
    send_sigquit(target)?;
    *signalled = true;
    let mut pause = Duration::from_millis(2);
    loop {
        let left = deadline.left(STAGE).or_else(|timeout| {
            after_timeout(target)?;
            // A JVM that lacks CPU checks for the file after the deadline, and only once. Without the file it would
            // print a dump to its output and open no socket.
            trigger.stays = true;
            Err(timeout)
        })?;
        sleep(pause.min(left));
        pause = (pause * 3 / 2).min(Duration::from_millis(100));
        // The listener's thread starts before its socket replaces the old one.
        if let Some(socket) = AttachSocket::find(target)?
            && unserved.is_none_or(|unserved| unserved.inode != socket.inode)
            && attach_listener(target) != AttachListener::Dead
        {
            return Ok(socket);
        }
    }
}

/// Removes the file that an earlier attempt left for the JVM.
pub(super) fn clear(target: &PinnedProcess) {
    let name = file_name(target);
    for folder in folders(target).into_iter().flatten() {
        let stat = statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW);
        if stat.is_ok_and(|stat| is_usable(target, &stat)) {
            drop(TriggerFile {
                folder,
                name: name.clone(),
                stays: false,
            });
        }
    }
}

const STAGE: &str = "waiting for the JVM to open its attach socket";

/// Returns a better explanation than a timeout, if there is one.
fn after_timeout(target: &PinnedProcess) -> Result<(), AttachError> {
    target.check_running()?;
    // A JVM that has just opened its socket is late, not dead.
    let dead =
        AttachSocket::find(target)?.is_some() && attach_listener(target) == AttachListener::Dead;
    if dead {
        Err(AttachError::ListenerDead)
    } else {
        Ok(())
    }
}

/// The file `.attach_pid<NSpid>`. It is removed when dropped, unless it `stays`.
struct TriggerFile {
    folder: OwnedFd,
    name: String,
    stays: bool,
}

/// Returns the folders in which the JVM checks for the file, in this order: its working folder, its /tmp.
fn folders(target: &PinnedProcess) -> [Option<OwnedFd>; 2] {
    [
        target
            .working_folder
            .as_ref()
            .and_then(|folder| folder.try_clone().ok()),
        target.tmp().ok(),
    ]
}

fn file_name(target: &PinnedProcess) -> String {
    format!(".attach_pid{}", target.ns_pid)
}

impl TriggerFile {
    fn create(target: &PinnedProcess) -> Result<TriggerFile, AttachError> {
        let name = file_name(target);
        let mut failures = Vec::new();
        for (folder_name, folder) in
            std::iter::zip(["its working folder", "its /tmp"], folders(target))
        {
            match folder.map(|folder| create_in(target, folder, &name)) {
                Some(Ok(trigger)) => return Ok(trigger),
                Some(Err(cause)) => failures.push(format!("{folder_name}: {cause}")),
                None => failures.push(format!("{folder_name}: it cannot be opened")),
            }
        }
        Err(target.denied(format!(
            "the exporter cannot create the file {name} in {}",
            failures.join(", nor in ")
        )))
    }
}

#[derive(Debug, thiserror::Error)]
enum TriggerError {
    #[error(transparent)]
    Errno(#[from] Errno),
    #[error("a file of uid {uid}, or no file, is in its place")]
    Unusable { uid: u32 },
}

fn create_in(
    target: &PinnedProcess,
    folder: OwnedFd,
    name: &str,
) -> Result<TriggerFile, TriggerError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let stat = match openat(&folder, name, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => fstat(&file),
        // A killed client left it, or another client attaches now: one file serves both.
        Err(Errno::EXIST) => statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW),
        Err(errno) => Err(errno),
    };
    let stat = stat?;
    if is_usable(target, &stat) {
        Ok(TriggerFile {
            folder,
            name: name.to_owned(),
            stays: false,
        })
    } else {
        Err(TriggerError::Unusable { uid: stat.st_uid })
    }
}

/// The JVM accepts only a file that its own user or root created.
fn is_usable(target: &PinnedProcess, stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && (stat.st_uid == target.uid || stat.st_uid == 0)
}

impl Drop for TriggerFile {
    fn drop(&mut self) {
        if !self.stays {
            // If it cannot be removed, an empty file remains, which a later attach uses again.
            let _ = unlinkat(&self.folder, &self.name, AtFlags::empty());
        }
    }
}

fn send_sigquit(target: &PinnedProcess) -> Result<(), AttachError> {
    // This call accepts an fd of /proc/PID as a pidfd, so the signal reaches only the process that was checked.
    match pidfd_send_signal(&target.folder, Signal::QUIT) {
        Ok(()) => Ok(()),
        // Kernels before 5.1 and the seccomp filters of some containers refuse the call.
        Err(Errno::NOSYS | Errno::PERM) => send_by_number(target),
        Err(errno) => Err(signal_failure(target, errno)),
    }
}

fn send_by_number(target: &PinnedProcess) -> Result<(), AttachError> {
    let own = std::fs::read_link(target.proc_root.join("self")).ok();
    let own_namespace =
        own.and_then(|path| path.to_str()?.parse().ok()) == Some(std::process::id());
    let pid = i32::try_from(target.pid).ok().and_then(Pid::from_raw);
    let (true, Some(pid)) = (own_namespace, pid) else {
        let what = format!(
            "{} shows another pid namespace, so its processes cannot be signalled",
            target.proc_root.display()
        );
        return Err(AttachError::Refused(what));
    };
    if read_stat(&target.folder)?.start_ticks != target.start_ticks {
        return Err(AttachError::Gone);
    }
    kill_process(pid, Signal::QUIT).map_err(|errno| signal_failure(target, errno))
}

fn signal_failure(target: &PinnedProcess, errno: Errno) -> AttachError {
    match errno {
        Errno::PERM => target.denied("the exporter may not send SIGQUIT"),
        Errno::INVAL => AttachError::Refused(format!(
            "{} shows a pid namespace that is not below the exporter's own, so its processes cannot be signalled",
            target.proc_root.display()
        )),
        errno => gone_or(errno, || "sending SIGQUIT".into()),
    }
}

/// Finds the JVM's socket, and makes the JVM open one if it has none.
pub(super) fn find_or_open_socket(
    target: &PinnedProcess,
    may_signal: bool,
    deadline: AttachDeadline,
    signalled: &mut bool,
) -> Result<AttachSocket, AttachError> {
    let found = AttachSocket::find(target)?;
    if !may_signal {
        clear(target);
    }
    match found {
        Some(socket) if attach_listener(target) != AttachListener::Dead => Ok(socket),
        found => {
            check_signal_is_safe(target)?;
            if !may_signal {
                return Err(if found.is_some() {
                    AttachError::ListenerDead
                } else {
                    AttachError::SignalHeldBack
                });
            }
            open_socket(target, found.as_ref(), deadline, signalled)
        }
    }
}
