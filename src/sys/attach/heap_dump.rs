//! `dumpheap`: the JVM writes its heap into a file, by itself, as its own user, where it sees that path.

use std::path::Path;
use std::time::{Duration, Instant};

use super::ask::Limits;
use super::error::{AttachDeadline, AttachError};
use super::trigger::find_or_open_socket;
use crate::sys::perf_data::PerfFile;
use crate::sys::process::PinnedProcess;
use crate::sys::rooted::RootedError;

/// Has the whole heap written, what is unreachable included: no collection goes before it. Returns the bytes of the file
/// and the time from the request to the answer; the JVM stands still for all of it, one of 22 and later for the first
/// part.
///
/// # Errors
/// See [`AttachError`]. After `Timeout` the JVM writes on.
pub(super) fn heap_dump(
    target: &PinnedProcess,
    file: &Path,
    min_free: u64,
    limits: Limits,
    signalled: &mut bool,
) -> Result<(u64, Duration), AttachError> {
    let deadline = AttachDeadline {
        start: Instant::now(),
        limit: limits.deadline,
    };
    let request = request(file)?;
    let failed = |error| match error {
        RootedError::Denied { .. } => target.denied(error.to_string()),
        error => AttachError::Refused(format!(
            "{error}; make that folder for the broker's user (uid {}), or name another in evidence.heap_dump",
            target.uid
        )),
    };
    let folder = file.parent().unwrap_or(Path::new("/"));
    let (free, _) = target.root.space(folder).map_err(failed)?;
    match target.root.size(file) {
        Err(RootedError::Missing { .. }) => {}
        Ok(bytes) => {
            return Err(AttachError::Refused(format!(
                "{} is there already ({bytes} bytes) and is not overwritten: take it away for another one",
                file.display()
            )));
        }
        Err(error) => return Err(failed(error)),
    }
    let status = target.status()?;
    let memory = status
        .resident_bytes
        .ok_or(AttachError::Gone)?
        .saturating_add(status.swapped_bytes.unwrap_or(0));
    if let Some(why) = no_room(memory, times(java_version(target)), free, min_free) {
        return Err(AttachError::Refused(format!("{}: {why}", folder.display())));
    }
    let socket = find_or_open_socket(target, limits.may_signal, deadline, signalled)?;
    let start = Instant::now();
    let reply = socket.request(target, &request, limits.max_bytes, deadline)?;
    let duration = start.elapsed();
    // The code is 0 whatever became of the file.
    if reply.code != 0 || !String::from_utf8_lossy(reply.body()).contains("Heap dump file created")
    {
        target.check_running()?;
        let (words, uid) = (reply.words(), target.uid);
        return Err(AttachError::Refused(format!(
            "the JVM answered to `dumpheap`: {words}; look whether its user (uid {uid}) may write there"
        )));
    }
    Ok((target.root.size(file).map_err(failed)?, duration))
}

/// Without `-all` the JVM collects first.
fn request(file: &Path) -> Result<Vec<u8>, AttachError> {
    let path = file
        .to_str()
        .filter(|path| path.starts_with('/') && !path.contains('\0'));
    let path = path
        .ok_or_else(|| AttachError::Refused(format!("{} is no absolute path", file.display())))?;
    Ok(format!("1\0dumpheap\0{path}\0-all\0\0").into_bytes())
}

/// As the JVM's performance data tell it: 17, or 1 for JDK 8.
fn java_version(target: &PinnedProcess) -> Option<u32> {
    let data = PerfFile::open(target).and_then(|file| file.read()).ok()?;
    let text = data.text("java.property.java.vm.specification.version")?;
    std::str::from_utf8(text)
        .ok()?
        .split('.')
        .next()?
        .parse()
        .ok()
}

/// How many times its memory a JVM may write. A reference of 4 bytes in the heap has 8 in the file. JDK 22 and later
/// write all that beside the file and copy it from there, so that for a while it is there twice.
fn times(java_version: Option<u32>) -> u64 {
    match java_version {
        Some(..22) => 2,
        _ => 4,
    }
}

/// Why the heap of a process with so much memory is not written where so much is free. How much of the memory is heap
/// is not known.
fn no_room(memory: u64, times: u64, free: u64, min_free: u64) -> Option<String> {
    let needed = memory.saturating_mul(times).saturating_add(min_free);
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    (free < needed).then(|| {
        format!(
            "{} MiB are free, and {} MiB are needed: {times} times the memory of the process ({} MiB), and \
             evidence.min_free ({} MiB); make space there, or name another folder in evidence.heap_dump",
            free >> 20,
            mib(needed),
            mib(memory),
            mib(min_free)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_jvm_may_write_and_the_floor_have_to_be_free() {
        const GIB: u64 = 1 << 30;
        let table = [
            (0, Some(17), 0, 0, true),
            (6 * GIB, Some(17), 12 * GIB, 0, true),
            (6 * GIB, Some(1), 12 * GIB - 1, 0, false),
            (6 * GIB, Some(21), 13 * GIB, GIB, true),
            (6 * GIB, Some(21), 13 * GIB - 1, GIB, false),
            (6 * GIB, Some(22), 25 * GIB, GIB, true),
            (6 * GIB, Some(25), 25 * GIB - 1, GIB, false),
            (6 * GIB, None, 25 * GIB - 1, GIB, false),
            (1, Some(17), u64::MAX - 1, u64::MAX, false),
            (u64::MAX, Some(17), u64::MAX - 1, 0, false),
        ];
        for (memory, version, free, min_free, wanted) in table {
            let why = no_room(memory, times(version), free, min_free);
            assert_eq!(
                why.is_none(),
                wanted,
                "{memory} {version:?} {free} {min_free}"
            );
        }
        let why = no_room(6 * GIB, 2, GIB, GIB).unwrap_or_default();
        assert!(
            why.contains("1024 MiB are free, and 13312 MiB are needed: 2 times"),
            "{why}"
        );
    }

    #[test]
    fn a_path_that_would_say_something_else_is_not_sent() {
        for path in ["dumps/a.hprof", "", "/a\0-live"] {
            assert!(request(Path::new(path)).is_err(), "{path:?}");
        }
    }
}
