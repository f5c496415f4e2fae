//! The process to attach to, as `/proc` tells it.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use memchr::memmem;
use rustix::fs::{Dir, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use super::AttachError;
use crate::sys::perf_data::PerfFile;

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
    pub(in crate::sys) root: OwnedFd,
    pub(super) working_folder: Option<OwnedFd>,
    /// Opened before ids are switched, read only when a signal may have to be sent.
    maps: Option<OwnedFd>,
}

/// The lines of `/proc/PID/status` that matter here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub state: char,
    pub uid: u32,
    pub gid: u32,
    /// None on kernels before 4.1.
    pub ns_pid: Option<u32>,
    pub catches_sigquit: bool,
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
    pub fn open(proc_root: &Path, pid: u32, start_ticks: Option<u64>) -> Result<Target, AttachError> {
        let path = proc_root.join(pid.to_string());
        let folder = rustix::fs::open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| gone_or(errno, || format!("cannot open {}", path.display())))?;
        let status = read_status(&folder)?;
        let started = read_start_ticks(&folder)?;
        if start_ticks.is_some_and(|expected| expected != started) {
            return Err(AttachError::Gone);
        }
        runs(status.state)?;
        let open = |name: &str, flags| openat(&folder, name, flags | OFlags::CLOEXEC, Mode::empty());
        let root = open("root", OFlags::PATH | OFlags::DIRECTORY).map_err(|errno| match errno {
            Errno::ACCESS | Errno::PERM => {
                denied(format!("cannot open {}/root", path.display()), status.uid, status.gid)
            }
            errno => gone_or(errno, || format!("cannot open {}/root", path.display())),
        })?;
        let working_folder = open("cwd", OFlags::PATH | OFlags::DIRECTORY).ok();
        let maps = open("maps", OFlags::RDONLY).ok();
        let ns_pid = status.ns_pid.unwrap_or(pid);
        let (uid, gid, proc_root) = (status.uid, status.gid, proc_root.to_path_buf());
        Ok(Target { pid, ns_pid, uid, gid, start_ticks: started, proc_root, folder, root, working_folder, maps })
    }

    /// `Denied`, with both sides' ids and the remedy.
    pub(super) fn denied(&self, what: impl Into<String>) -> AttachError {
        denied(what.into(), self.uid, self.gid)
    }

    pub(super) fn status(&self) -> Result<Status, AttachError> {
        read_status(&self.folder)
    }

    /// Whether the process is still the one that was opened, and not stopped.
    pub(super) fn check_running(&self) -> Result<(), AttachError> {
        runs(self.status()?.state)
    }

    /// SIGQUIT prints a dump or opens the attach socket where HotSpot catches it, and kills everywhere else.
    pub(super) fn check_signal_is_safe(&self) -> Result<(), AttachError> {
        let maps = self.maps.as_ref().ok_or_else(|| self.denied("cannot read the process's memory map"))?;
        match find_jvm(maps).map_err(|source| AttachError::Io { what: "reading its memory map".into(), source })? {
            Some(Jvm::HotSpot) => {}
            Some(Jvm::OpenJ9) => return Err(AttachError::OpenJ9),
            None => return Err(AttachError::NotJvm),
        }
        if self.attach_disabled() {
            return Err(AttachError::Disabled);
        }
        let status = self.status()?;
        runs(status.state)?;
        if status.catches_sigquit { Ok(()) } else { Err(AttachError::NoSignalHandler) }
    }

    /// By the command line, and by what the JVM itself tells of its options (at most 1,024 bytes), which holds those
    /// from variables and from option files as well.
    fn attach_disabled(&self) -> bool {
        let told = PerfFile::open(self).and_then(|file| file.read()).ok();
        let told = |name| told.as_ref().and_then(|data| data.text(name)).unwrap_or_default();
        let cmdline = read_bounded(&self.folder, "cmdline", 1 << 20).unwrap_or_default();
        disables_attach(cmdline.split(|byte| *byte == 0))
            || disables_attach(told("java.rt.vmArgs").split(u8::is_ascii_whitespace))
            || disables_attach(told("java.rt.vmFlags").split(u8::is_ascii_whitespace))
    }

    /// Looks for the thread that serves the socket, by name.
    pub(super) fn listener(&self) -> Listener {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(Ok(tasks)) = openat(&self.folder, "task", flags, Mode::empty()).map(Dir::new) else {
            return Listener::Unknown;
        };
        let mut named = false;
        for task in tasks.filter_map(Result::ok) {
            let Ok(id) = task.file_name().to_str() else { continue };
            if !id.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            // One short read each: there may be thousands of threads.
            let mut name = [0; 32];
            let comm = openat(&self.folder, format!("task/{id}/comm"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            match comm.and_then(|comm| rustix::io::read(comm, &mut name)).map(|length| name.get(..length)) {
                Ok(Some(b"Attach Listener\n")) => return Listener::Alive,
                Ok(Some(b"VM Thread\n")) => named = true,
                Ok(_) | Err(Errno::NOENT | Errno::SRCH) => {}
                // What could not be read may have been the thread that is looked for.
                Err(_) => return Listener::Unknown,
            }
        }
        if named { Listener::Dead } else { Listener::Unknown }
    }
}

enum Jvm {
    HotSpot,
    OpenJ9,
}

fn find_jvm(maps: &OwnedFd) -> io::Result<Option<Jvm>> {
    /// Bounds the work on a process with an absurd number of mappings (a line has about 100 bytes).
    const MAX_BYTES: usize = 256 << 20;
    let mut file = File::from(maps.try_clone()?);
    file.rewind()?;
    let mut block = vec![0; 64 << 10];
    let (mut kept, mut total) = (0, 0);
    // The longest needle less one byte: what a needle over the border of two blocks leaves in the first.
    let overlap = b"/libj9vm".len().max(b"/libjvm.so".len()) - 1;
    let mut hotspot = false;
    while total < MAX_BYTES {
        let read = file.read(block.get_mut(kept..).unwrap_or_default())?;
        if read == 0 {
            break;
        }
        let filled = block.get(..kept + read).unwrap_or_default();
        if memmem::find(filled, b"/libj9vm").is_some() {
            return Ok(Some(Jvm::OpenJ9));
        }
        hotspot |= memmem::find(filled, b"/libjvm.so").is_some();
        let end = filled.len();
        let start = end.saturating_sub(overlap);
        block.copy_within(start..end, 0);
        kept = end - start;
        total += read;
    }
    // OpenJ9 ships a libjvm.so as well, so the whole map had to be seen.
    Ok(hotspot.then_some(Jvm::HotSpot))
}

fn runs(state: char) -> Result<(), AttachError> {
    match state {
        'T' | 't' => Err(AttachError::Stopped(state)),
        'Z' | 'X' | 'x' => Err(AttachError::Gone),
        _ => Ok(()),
    }
}

fn read_status(folder: &OwnedFd) -> Result<Status, AttachError> {
    let text = read_bounded(folder, "status", 64 << 10).map_err(|error| gone_or_io(error, "status"))?;
    parse_status(&String::from_utf8_lossy(&text))
        .ok_or_else(|| AttachError::Protocol("/proc/PID/status lacks State, Uid, Gid or SigCgt".into()))
}

pub(super) fn parse_status(text: &str) -> Option<Status> {
    // The name of a process may hold anything but a line break, so fields are taken from the starts of lines.
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let effective = |name| field(name)?.split_ascii_whitespace().nth(1)?.parse().ok();
    let caught = u64::from_str_radix(field("SigCgt")?, 16).ok()?;
    Some(Status {
        state: field("State")?.chars().next()?,
        uid: effective("Uid")?,
        gid: effective("Gid")?,
        ns_pid: field("NSpid").and_then(|pids| pids.split_ascii_whitespace().last()?.parse().ok()),
        catches_sigquit: caught & 0x4 != 0,
    })
}

pub(super) fn read_start_ticks(folder: &OwnedFd) -> Result<u64, AttachError> {
    let text = read_bounded(folder, "stat", 4096).map_err(|error| gone_or_io(error, "stat"))?;
    let text = String::from_utf8_lossy(&text);
    // The name, in parentheses, may hold blanks and parentheses itself; field 22 is the 20th after it.
    let ticks = text.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(19)?.parse().ok());
    ticks.ok_or_else(|| AttachError::Protocol("/proc/PID/stat has no start time".into()))
}

/// At most `limit` bytes of `name` in `folder`, which is no symbolic link.
fn read_bounded(folder: impl AsFd, name: &str, limit: u64) -> io::Result<Vec<u8>> {
    let file = openat(folder, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::new();
    File::from(file).take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `/tmp` below the root of a process whose files may be hostile: links in it lead nowhere outside that root.
pub(crate) fn open_tmp(root: &OwnedFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, "tmp", flags, Mode::empty(), within) {
        // Before 5.6, or forbidden by a container's filter: then no links at all.
        Err(Errno::NOSYS | Errno::PERM) => openat(root, "tmp", flags | OFlags::NOFOLLOW, Mode::empty()),
        opened => opened,
    }
}

pub(super) fn denied(what: String, uid: u32, gid: u32) -> AttachError {
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
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
    AttachError::Denied { what, remedy, uid, gid }
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
        errno => AttachError::Io { what: what(), source: errno.into() },
    }
}

fn gone_or_io(error: io::Error, name: &str) -> AttachError {
    match Errno::from_io_error(&error) {
        Some(errno) => gone_or(errno, || format!("reading /proc/PID/{name}")),
        None => AttachError::Io { what: format!("reading /proc/PID/{name}"), source: error },
    }
}
