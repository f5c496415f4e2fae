//! The process to attach to, as `/proc` tells it.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use memchr::memmem;
use rustix::fs::{Dir, Mode, OFlags, openat};
use rustix::io::Errno;

use super::AttachError;
use crate::sys::perf_data::PerfFile;
use crate::sys::proc::{Stat, Status, parse_stat, parse_status, read_in};
use crate::sys::rooted::{Rooted, RootedError};

/// One process, pinned: after its end every read fails, also when its pid is given out again.
#[derive(Debug)]
pub struct Target {
    pub pid: u32,
    /// Its pid in its own, innermost pid namespace.
    pub ns_pid: u32,
    /// Effective ids.
    pub uid: u32,
    pub gid: u32,
    pub start_ticks: u64,
    /// Where its `/proc` folder was opened, for messages and for kernels without pidfd.
    pub(super) proc_root: PathBuf,
    /// Its `/proc` folder: no O_PATH descriptor, because it also serves as a pidfd.
    pub(super) folder: OwnedFd,
    pub(super) root: Rooted,
    pub(super) working_folder: Option<OwnedFd>,
    /// Opened before ids are switched, read only when a signal may have to be sent.
    maps: Option<OwnedFd>,
    /// The thread that served the socket when it was last looked for.
    pub(super) listener_id: Cell<Option<u32>>,
}

/// Whether a thread of the JVM serves the attach socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listener {
    Alive,
    Dead,
    /// The kernel knows no names of its threads, as with early builds of JDK 8.
    Unknown,
}

impl Target {
    /// Opens `proc_root`/`pid`; with `start_ticks` only if the process started then (field 22 of its `stat`).
    ///
    /// # Errors
    /// `Gone`, `Stopped`, `Denied`, or what reading failed with.
    pub fn open(
        proc_root: &Path,
        pid: u32,
        start_ticks: Option<u64>,
    ) -> Result<Target, AttachError> {
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
        Ok(Target {
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

    /// `Denied`, with both sides' ids and the remedy.
    pub(super) fn denied(&self, what: impl Into<String>) -> AttachError {
        denied(what.into(), self.uid, self.gid)
    }

    /// Its `/tmp`, a bare reference. The process may be hostile: links in it lead nowhere outside its root.
    pub(in crate::sys) fn tmp(&self) -> Result<OwnedFd, RootedError> {
        self.root.folder(Path::new("tmp"))
    }

    /// Whether the process is still the one that was opened, and not stopped.
    pub(super) fn check_running(&self) -> Result<(), AttachError> {
        runs(&read_stat(&self.folder)?)
    }

    pub(super) fn status(&self) -> Result<Status, AttachError> {
        read(&self.folder, "status", parse_status)
    }

    /// SIGQUIT prints a dump or opens the attach socket where HotSpot catches it, and kills everywhere else.
    pub(super) fn check_signal_is_safe(&self) -> Result<(), AttachError> {
        let maps = self
            .maps
            .as_ref()
            .ok_or_else(|| self.denied("cannot read the process's memory map"))?;
        match find_jvm(maps).map_err(|source| AttachError::Io {
            what: "reading its memory map".into(),
            source,
        })? {
            Some(Jvm::HotSpot) => {}
            Some(Jvm::OpenJ9) => return Err(AttachError::OpenJ9),
            None => return Err(AttachError::NotJvm),
        }
        if self.attach_disabled() {
            return Err(AttachError::Disabled);
        }
        self.check_running()?;
        let status = self.status()?;
        if status.catches_sigquit {
            Ok(())
        } else {
            Err(AttachError::NoSignalHandler)
        }
    }

    /// By the command line, and by what the JVM itself tells of its options (at most 1,024 bytes), which holds those
    /// from variables and from option files as well.
    fn attach_disabled(&self) -> bool {
        let told = PerfFile::open(self).and_then(|file| file.read()).ok();
        let told = |name| {
            told.as_ref()
                .and_then(|data| data.text(name))
                .unwrap_or_default()
        };
        let cmdline = read_in(&self.folder, "cmdline", 1 << 20).unwrap_or_default();
        disables_attach(cmdline.split(|byte| *byte == 0))
            || disables_attach(told("java.rt.vmArgs").split(u8::is_ascii_whitespace))
            || disables_attach(told("java.rt.vmFlags").split(u8::is_ascii_whitespace))
    }

    /// Looks for the thread that serves the socket, by name: first where it was last.
    pub(super) fn listener(&self) -> Listener {
        const NAME: &[u8] = b"Attach Listener\n";
        let known = self.listener_id.take();
        if known.is_some_and(|id| matches!(self.thread_name(id, &mut [0; 32]), Ok(NAME))) {
            self.listener_id.set(known);
            return Listener::Alive;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(Ok(tasks)) = openat(&self.folder, "task", flags, Mode::empty()).map(Dir::new) else {
            return Listener::Unknown;
        };
        let mut named = false;
        for task in tasks.filter_map(Result::ok) {
            let Some(id) = task
                .file_name()
                .to_str()
                .ok()
                .and_then(|id| id.parse().ok())
            else {
                continue;
            };
            match self.thread_name(id, &mut [0; 32]) {
                Ok(NAME) => {
                    self.listener_id.set(Some(id));
                    return Listener::Alive;
                }
                Ok(b"VM Thread\n") => named = true,
                Ok(_) | Err(Errno::NOENT | Errno::SRCH) => {}
                // What could not be read may have been the thread that is looked for.
                Err(_) => return Listener::Unknown,
            }
        }
        if named {
            Listener::Dead
        } else {
            Listener::Unknown
        }
    }

    /// With a line break. One short read: there may be thousands of threads.
    fn thread_name<'b>(&self, id: u32, buffer: &'b mut [u8; 32]) -> Result<&'b [u8], Errno> {
        let comm = openat(
            &self.folder,
            format!("task/{id}/comm"),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let length = rustix::io::read(comm, &mut *buffer)?;
        Ok(buffer.get(..length).unwrap_or_default())
    }
}

enum Jvm {
    HotSpot,
    OpenJ9,
}

/// Line by line: a broker may have hundreds of thousands of mappings.
fn find_jvm(maps: &OwnedFd) -> io::Result<Option<Jvm>> {
    const MAX_BYTES: u64 = 256 << 20;
    let mut file = File::from(maps.try_clone()?);
    file.rewind()?;
    let mut found = None;
    for line in BufReader::new(file.take(MAX_BYTES)).split(b'\n') {
        let line = line?;
        // It ships a libjvm.so as well, so the whole map has to be seen.
        if memmem::find(&line, b"/libj9vm").is_some() {
            return Ok(Some(Jvm::OpenJ9));
        }
        if memmem::find(&line, b"/libjvm.so").is_some() {
            found = Some(Jvm::HotSpot);
        }
    }
    Ok(found)
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
    parse(&bytes)
        .ok_or_else(|| AttachError::Protocol(format!("/proc/PID/{name} is not as Linux writes it")))
}

pub(super) fn denied(what: String, uid: u32, gid: u32) -> AttachError {
    let own = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let remedy = if own == (uid, gid) {
        "the ids are the same, but the JVM has capabilities that this process lacks, or may not be traced: give the \
         exporter CAP_SYS_PTRACE"
            .into()
    } else {
        format!(
            "this process runs as uid {} gid {}, the JVM as uid {uid} gid {gid}: run the exporter as the JVM's user \
             and group, or as root (CAP_SETUID, CAP_SETGID and CAP_SYS_PTRACE)",
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

/// The last word on it counts.
pub(super) fn disables_attach<'a>(options: impl Iterator<Item = &'a [u8]>) -> bool {
    options.fold(false, |disabled, option| match option {
        b"-XX:+DisableAttachMechanism" => true,
        b"-XX:-DisableAttachMechanism" => false,
        _ => disabled,
    })
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
