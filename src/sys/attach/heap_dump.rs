//! Takes a heap dump: with the command `dumpheap` the JVM itself writes its heap to a file, as its user and to a path in
//! its own file system.

use std::path::Path;
use std::time::{Duration, Instant};

use super::ask::Limits;
use super::error::{AttachDeadline, AttachError};
use super::trigger::find_or_open_socket;
use crate::sys::perf_data::PerfFile;
use crate::sys::plain::FileError;
use crate::sys::process::PinnedProcess;

/// Lets the JVM write the whole heap, with unreachable objects, because no collection runs before. Returns the size of
/// the file and the time from the request to the reply. The JVM pauses for all of that time, JDK 22 and later only for
/// its first part.
///
/// # Errors
/// See [`AttachError`]. After `Timeout` the JVM continues to write.
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
        FileError::Denied { .. } => target.denied(error.to_string()),
        error => AttachError::Refused(format!(
            "{error}; create that folder for the broker's user (uid {}), or name another one in evidence.heap_dump",
            target.uid
        )),
    };
    let folder = file.parent().unwrap_or(Path::new("/"));
    let (free, _) = target.root.space(folder).map_err(failed)?;
    match target.root.size(file) {
        Err(FileError::Missing { .. }) => {}
        Ok(bytes) => {
            return Err(AttachError::Refused(format!(
                "{} exists already ({bytes} bytes) and is not overwritten: move it away before the next dump",
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
    if let Some(why) = too_little_space(memory, times(java_version(target)), free, min_free) {
        return Err(AttachError::Refused(format!("{}: {why}", folder.display())));
    }
    let socket = find_or_open_socket(target, limits.may_signal, deadline, signalled)?;
    let start = Instant::now();
    let reply = socket.request(target, &request, limits.max_bytes, deadline)?;
    let duration = start.elapsed();
    // The code is 0 even if the file could not be written.
    if reply.code != 0 || !String::from_utf8_lossy(reply.body()).contains("Heap dump file created")
    {
        target.check_running()?;
        let (words, uid) = (reply.words(), target.uid);
        return Err(AttachError::Refused(format!(
            "the JVM answered `dumpheap` with: {words}; check that its user (uid {uid}) may write there"
        )));
    }
    Ok((target.root.size(file).map_err(failed)?, duration))
}

/// With `-all`, because without it the JVM collects garbage first.
fn request(file: &Path) -> Result<Vec<u8>, AttachError> {
    let path = file
        .to_str()
        .filter(|path| path.starts_with('/') && !path.contains('\0'));
    let path = path.ok_or_else(|| {
        AttachError::Refused(format!("{} is not an absolute path", file.display()))
    })?;
    Ok(format!("1\0dumpheap\0{path}\0-all\0\0").into_bytes())
}

/// Reads the version from the JVM's performance data: 17, or 1 for JDK 8.
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

/// Returns how many times its memory a JVM may write. A reference of 4 bytes in the heap has 8 in the file. JDK 22 and
/// later write to files beside it and copy those, so that for a while the data exists twice.
fn times(java_version: Option<u32>) -> u64 {
    match java_version {
        Some(..22) => 2,
        _ => 4,
    }
}

/// Explains why the disk has too little free space for the heap. All memory of the process counts, because it is unknown
/// how much of it is heap.
fn too_little_space(memory: u64, times: u64, free: u64, min_free: u64) -> Option<String> {
    let needed = memory.saturating_mul(times).saturating_add(min_free);
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    (free < needed).then(|| {
        format!(
            "{} MiB are free, and {} MiB are needed: {times} times the memory of the process ({} MiB), and \
             evidence.min_free ({} MiB); free some space, or name another folder in evidence.heap_dump",
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
    fn the_largest_dump_and_the_minimum_have_to_be_free() {
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
            let why = too_little_space(memory, times(version), free, min_free);
            assert_eq!(
                why.is_none(),
                wanted,
                "{memory} {version:?} {free} {min_free}"
            );
        }
        let why = too_little_space(6 * GIB, 2, GIB, GIB).unwrap_or_default();
        assert!(
            why.contains("1024 MiB are free, and 13312 MiB are needed: 2 times"),
            "{why}"
        );
    }

    #[test]
    fn a_path_that_would_change_the_request_is_not_sent() {
        for path in ["dumps/a.hprof", "", "/a\0-live"] {
            assert!(request(Path::new(path)).is_err(), "{path:?}");
        }
    }
}
