//! Reads the counters that a HotSpot JVM publishes in `/tmp/hsperfdata_USER/PID`, without attaching to it.
//!
//! The format is 2.0 of `jdk.internal.perf`: a prologue of 32 bytes, then entries, each with a name and a value. The JVM
//! writes at the same time, so a value may be a moment old. The file is read and never mapped, because a file that
//! shrinks under a mapping kills the reader. The JVM's user may control the file system, so open the file only where
//! blocking stops no other work.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::fs::{Dir, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use super::plain;
use super::process::PinnedProcess;

/// A file is 32 KiB unless -XX:PerfDataMemorySize says otherwise.
const MAX_BYTES: usize = 1 << 20;
/// Entries of /tmp among which folders named `hsperfdata_*` are searched for.
const MAX_TMP_ENTRIES: usize = 20_000;

#[derive(Debug, thiserror::Error)]
pub enum PerfDataError {
    #[error(
        "pid {0} publishes no performance data in its /tmp/hsperfdata_*: it runs with -XX:-UsePerfData or \
         -XX:+PerfDisableSharedMem, or as another user"
    )]
    Absent(u32),
    #[error("the performance data are not HotSpot's format 2.0 in little endian: {0}")]
    Format(&'static str),
    #[error("the performance data cannot be read: {0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for PerfDataError {
    fn from(errno: Errno) -> Self {
        PerfDataError::Io(errno.into())
    }
}

/// The open file of one JVM. It stays valid while the JVM lives.
#[derive(Debug)]
pub struct PerfFile {
    file: File,
    /// Position of the time at safepoints, and its ticks per second. An entry never moves.
    safepoints: Option<(u64, i64)>,
}

impl PerfFile {
    /// Searches the JVM's own /tmp for a file that belongs to the JVM's user.
    ///
    /// # Errors
    /// `Absent`, or the error of opening.
    pub fn open(target: &PinnedProcess) -> Result<PerfFile, PerfDataError> {
        let tmp = target.tmp().map_err(io::Error::other)?;
        let of_user = |mode, uid, kind| FileType::from_raw_mode(mode) == kind && uid == target.uid;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // The folder has the user's name inside the JVM's container, which may be unknown outside.
        for entry in Dir::new(openat(&tmp, ".", flags | OFlags::DIRECTORY, Mode::empty())?)?
            .take(MAX_TMP_ENTRIES)
            .filter_map(Result::ok)
        {
            let name = entry.file_name();
            if !name.to_bytes().starts_with(b"hsperfdata_") {
                continue;
            }
            let Ok(folder) = openat(&tmp, name, flags | OFlags::DIRECTORY, Mode::empty()) else {
                continue;
            };
            let file = target.ns_pid.to_string();
            let Ok(file) = plain::refer_in(&folder, &file) else {
                continue;
            };
            let (outer, stat) = (fstat(&folder)?, fstat(&file)?);
            if of_user(outer.st_mode, outer.st_uid, FileType::Directory)
                && of_user(stat.st_mode, stat.st_uid, FileType::RegularFile)
            {
                let file = plain::reopen(&file, OFlags::empty())?;
                return Ok(PerfFile {
                    file: file.into(),
                    safepoints: None,
                });
            }
        }
        Err(PerfDataError::Absent(target.pid))
    }

    /// Reads all counters.
    ///
    /// # Errors
    /// `Format` or `Io`.
    pub fn read(&self) -> Result<PerfData, PerfDataError> {
        let mut bytes = vec![0; 32 << 10];
        let mut length = 0;
        loop {
            let read = self
                .file
                .read_at(bytes.get_mut(length..).unwrap_or_default(), length as u64)?;
            length += read;
            if read == 0 || length >= MAX_BYTES {
                break;
            }
            if length == bytes.len() {
                bytes.resize((length * 2).min(MAX_BYTES), 0);
            }
        }
        bytes.truncate(length);
        PerfData::parse(bytes)
    }

    /// Returns [`PerfData::safepoint_time`]. All calls except the first read only that counter.
    ///
    /// # Errors
    /// `Format` or `Io`.
    pub fn safepoint_time(&mut self) -> Result<Option<Duration>, PerfDataError> {
        if let Some((at, frequency)) = self.safepoints {
            let mut ticks = [0; 8];
            self.file.read_exact_at(&mut ticks, at)?;
            return Ok(time(i64::from_le_bytes(ticks), frequency));
        }
        let data = self.read()?;
        let known = data.position("sun.rt.safepointTime");
        self.safepoints = known.zip(data.long("sun.os.hrt.frequency"));
        Ok(data.safepoint_time())
    }
}

/// All counters at one moment.
#[derive(Debug)]
pub struct PerfData {
    bytes: Vec<u8>,
    first_entry: usize,
    entries: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    Long(i64),
    Text(&'a [u8]),
}

impl PerfData {
    /// # Errors
    /// `Format`.
    pub fn parse(bytes: Vec<u8>) -> Result<PerfData, PerfDataError> {
        if bytes.get(..4) != Some(&[0xca, 0xfe, 0xc0, 0xc0]) {
            return Err(PerfDataError::Format("wrong magic number"));
        }
        match bytes.get(4..8) {
            Some([1, 2, _, 1]) => {}
            Some([1, 2, _, _]) => {
                return Err(PerfDataError::Format("the JVM has not finished it yet"));
            }
            _ => return Err(PerfDataError::Format("another byte order or version")),
        }
        let (Some(first_entry), Some(entries)) = (size(&bytes, 24), size(&bytes, 28)) else {
            return Err(PerfDataError::Format("cut off in the prologue"));
        };
        Ok(PerfData {
            bytes,
            first_entry,
            entries,
        })
    }

    /// Returns name and value of each counter, up to the first malformed entry.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        self.entries().filter_map(|(_, bytes)| entry(bytes))
    }

    /// Returns the position of a number in the file.
    fn position(&self, name: &str) -> Option<u64> {
        self.entries().find_map(|(at, bytes)| match entry(bytes)? {
            (found, Value::Long(_)) if found == name => {
                u64::try_from(at.checked_add(size(bytes, 16)?)?).ok()
            }
            _ => None,
        })
    }

    /// Returns each entry with its position.
    fn entries(&self) -> impl Iterator<Item = (usize, &[u8])> {
        // Each entry has at least 20 bytes, so even a huge count ends with the file.
        let mut at = self.first_entry;
        (0..self.entries).map_while(move |_| {
            let length = size(&self.bytes, at)?;
            let entry = self
                .bytes
                .get(at..at.checked_add(length)?)
                .filter(|_| length >= 20)?;
            let start = at;
            at += length;
            Some((start, entry))
        })
    }

    /// Returns the value of a number.
    pub fn long(&self, name: &str) -> Option<i64> {
        self.iter().find_map(|(found, value)| match value {
            Value::Long(long) if found == name => Some(long),
            _ => None,
        })
    }

    /// Returns the value of a text up to its first NUL.
    pub fn text(&self, name: &str) -> Option<&[u8]> {
        self.iter().find_map(|(found, value)| match value {
            Value::Text(text) if found == name => Some(text),
            _ => None,
        })
    }

    /// Returns the JVM's time at safepoints (`sun.rt.safepointTime`) since it started.
    pub fn safepoint_time(&self) -> Option<Duration> {
        self.time(self.long("sun.rt.safepointTime")?)
    }

    /// Returns the JVM's pauses for garbage collection (`sun.gc.collector.*.time`) since it started.
    pub fn collection_time(&self) -> Option<Duration> {
        let is_time = |name: &str| name.starts_with("sun.gc.collector.") && name.ends_with(".time");
        let times = self.iter().filter_map(|(name, value)| match value {
            Value::Long(ticks) if is_time(name) => Some(ticks),
            _ => None,
        });
        self.time(times.fold(0, i64::saturating_add))
    }

    fn time(&self, ticks: i64) -> Option<Duration> {
        time(ticks, self.long("sun.os.hrt.frequency")?)
    }
}

/// Converts ticks. `frequency` is in ticks per second.
fn time(ticks: i64, frequency: i64) -> Option<Duration> {
    let ticks = u128::try_from(ticks).ok()?;
    let frequency = u128::try_from(frequency).ok().filter(|it| *it > 0)?;
    let nanoseconds = u64::try_from(ticks * 1_000_000_000 / frequency).ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

/// Reads a count or an offset: four bytes, never negative.
fn size(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    usize::try_from(i32::from_le_bytes(field.try_into().ok()?)).ok()
}

fn entry(bytes: &[u8]) -> Option<(&str, Value<'_>)> {
    let (name_offset, vector_length, data_offset) =
        (size(bytes, 4)?, size(bytes, 8)?, size(bytes, 16)?);
    let name = std::str::from_utf8(until_nul(bytes.get(name_offset..)?)).ok()?;
    let data = bytes.get(data_offset..)?;
    let value = match (bytes.get(12)?, vector_length) {
        (b'J', 0) => Value::Long(i64::from_le_bytes(data.get(..8)?.try_into().ok()?)),
        (b'B', 1..) => Value::Text(until_nul(data.get(..vector_length)?)),
        _ => return None,
    };
    Some((name, value))
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
