//! Finds out which JVM a process is, and whether attaching to it can do harm.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::os::fd::OwnedFd;

use memchr::memmem;
use rustix::fs::{Dir, Mode, OFlags, openat};
use rustix::io::Errno;

use super::error::AttachError;
use crate::sys::perf_data::PerfFile;
use crate::sys::proc::read_in;
use crate::sys::process::PinnedProcess;

/// Whether a thread of the JVM serves the attach socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttachListener {
    Alive,
    Dead,
    /// The threads have no names for the kernel, as in early builds of JDK 8.
    Unknown,
}

/// Checks that SIGQUIT cannot kill the process: where HotSpot catches it, it prints a dump or opens the attach socket.
pub(super) fn check_signal_is_safe(process: &PinnedProcess) -> Result<(), AttachError> {
    let maps = process
        .maps
        .as_ref()
        .ok_or_else(|| process.denied("the exporter cannot read the process's memory map"))?;
    match find_jvm(maps).map_err(|source| AttachError::Io {
        what: "reading its memory map".into(),
        source,
    })? {
        Some(Jvm::HotSpot) => {}
        Some(Jvm::OpenJ9) => return Err(AttachError::OpenJ9),
        None => return Err(AttachError::NotJvm),
    }
    if attach_disabled(process) {
        return Err(AttachError::Disabled);
    }
    process.check_running()?;
    let status = process.status()?;
    if status.catches_sigquit {
        Ok(())
    } else {
        Err(AttachError::NoSignalHandler)
    }
}

/// Reads the command line, and the options that the JVM publishes (at most 1,024 bytes), which include those from
/// variables and option files.
fn attach_disabled(process: &PinnedProcess) -> bool {
    let published = PerfFile::open(process).and_then(|file| file.read()).ok();
    let published = |name| {
        published
            .as_ref()
            .and_then(|data| data.text(name))
            .unwrap_or_default()
    };
    let cmdline = read_in(&process.folder, "cmdline", 1 << 20).unwrap_or_default();
    disables_attach(cmdline.split(|byte| *byte == 0))
        || disables_attach(published("java.rt.vmArgs").split(u8::is_ascii_whitespace))
        || disables_attach(published("java.rt.vmFlags").split(u8::is_ascii_whitespace))
}

/// Searches by name for the thread that serves the socket, starting with the one that served it last.
pub(super) fn attach_listener(process: &PinnedProcess) -> AttachListener {
    const NAME: &[u8] = b"Attach Listener\n";
    let known = process.listener_id.take();
    if known.is_some_and(|id| matches!(thread_name(process, id, &mut [0; 32]), Ok(NAME))) {
        process.listener_id.set(known);
        return AttachListener::Alive;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(Ok(tasks)) = openat(&process.folder, "task", flags, Mode::empty()).map(Dir::new) else {
        return AttachListener::Unknown;
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
        match thread_name(process, id, &mut [0; 32]) {
            Ok(NAME) => {
                process.listener_id.set(Some(id));
                return AttachListener::Alive;
            }
            Ok(b"VM Thread\n") => named = true,
            Ok(_) | Err(Errno::NOENT | Errno::SRCH) => {}
            // The thread that could not be read may be the listener.
            Err(_) => return AttachListener::Unknown,
        }
    }
    if named {
        AttachListener::Dead
    } else {
        AttachListener::Unknown
    }
}

/// Returns the name with its line break. One short read, because there may be thousands of threads.
fn thread_name<'b>(
    process: &PinnedProcess,
    id: u32,
    buffer: &'b mut [u8; 32],
) -> Result<&'b [u8], Errno> {
    let comm = openat(
        &process.folder,
        format!("task/{id}/comm"),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let length = rustix::io::read(comm, &mut *buffer)?;
    Ok(buffer.get(..length).unwrap_or_default())
}

enum Jvm {
    HotSpot,
    OpenJ9,
}

/// Reads line by line, because a broker may have hundreds of thousands of mappings.
fn find_jvm(maps: &OwnedFd) -> io::Result<Option<Jvm>> {
    const MAX_BYTES: u64 = 256 << 20;
    let mut file = File::from(maps.try_clone()?);
    file.rewind()?;
    let mut found = None;
    for line in BufReader::new(file.take(MAX_BYTES)).split(b'\n') {
        let line = line?;
        // OpenJ9 has a libjvm.so as well, so the search goes on after that name.
        if memmem::find(&line, b"/libj9vm").is_some() {
            return Ok(Some(Jvm::OpenJ9));
        }
        if memmem::find(&line, b"/libjvm.so").is_some() {
            found = Some(Jvm::HotSpot);
        }
    }
    Ok(found)
}

/// Whether the options disable attaching. The last one counts.
pub(super) fn disables_attach<'a>(options: impl Iterator<Item = &'a [u8]>) -> bool {
    options.fold(false, |disabled, option| match option {
        b"-XX:+DisableAttachMechanism" => true,
        b"-XX:-DisableAttachMechanism" => false,
        _ => disabled,
    })
}
