//! Follows one file of a log as it grows, through every kind of rotation: renamed and started again, cut off where it is
//! (copytruncate), deleted. Each byte is read once.

use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::find::FileId;
use crate::sys::plain::{FileError, read_at};
use crate::sys::rooted::Rooted;
use crate::threads::log_signatures::{Found, LogMatcher, LogReader};

/// At a time.
const READ: usize = 64 << 10;
/// So much of what was read last is compared: a file that was cut off may have grown beyond that place since.
const TAIL: usize = 64;
/// A file that has more than this unread is not read to its end: this much of its end is.
const MOST_BEHIND: u64 = 64 << 20;
const KEPT_OF_IT: u64 = 1 << 20;
/// Files of one log that are waiting to be read. Log4j keeps 10 or so.
pub(super) const MOST_WAITING: usize = 64;
/// Entries of the log's folder.
const MOST_ENTRIES: usize = 10_000;
/// So often the folder is listed again because it has changed meanwhile.
const LISTINGS: usize = 8;

/// One file of a broker's log, by its path.
#[derive(Debug)]
pub(super) struct LogFile {
    pub path: PathBuf,
    /// In the order in which they are or were written; the last one is the present one.
    files: VecDeque<Open>,
    reader: LogReader,
    /// Those that are over, the newest first. Their numbers may become those of others.
    done: VecDeque<State>,
    /// Whether to check the path although nothing has changed.
    check: bool,
    /// Whether the broker did not write to it when its files were found last.
    idle: bool,
    /// Bytes that were not read.
    pub skipped: u64,
}

/// What became of a file's path.
#[derive(Debug, PartialEq, Eq)]
enum PathState {
    Same,
    /// Another file is there, which is followed now.
    Other,
    /// None is there now, or it cannot be opened.
    None,
}

/// What the reads of one run share.
pub(super) struct Run<'a, F> {
    pub root: &'a Rooted,
    pub matcher: &'a LogMatcher,
    pub found: &'a mut F,
    /// Bytes that may still be read.
    pub budget: usize,
    /// Whether the broker still writes to a file.
    pub is_written: &'a mut dyn FnMut(FileId) -> bool,
}

/// A file and its content, as far as its metadata shows it.
#[derive(Debug, PartialEq, Eq)]
struct State {
    id: FileId,
    modified: (i64, i64),
    size: u64,
}

impl State {
    fn of(metadata: &Metadata) -> State {
        State {
            id: FileId::of(metadata),
            modified: modified(metadata),
            size: metadata.len(),
        }
    }
}

#[derive(Debug)]
struct Open {
    file: File,
    id: FileId,
    at: u64,
    tail: Vec<u8>,
    /// Its last change as of the last read, which a rename is as well.
    changed: (i64, i64),
}

impl LogFile {
    /// Follows a file from its end on, or from its beginning.
    pub(super) fn new(path: PathBuf, file: File, from_end: bool) -> io::Result<LogFile> {
        let (mut open, mut reader) = (Open::new(file)?, LogReader::default());
        if from_end {
            let metadata = open.file.metadata()?;
            (open.at, open.changed) = (metadata.len(), changed(&metadata));
            let mut tail = vec![0; TAIL.min(usize::try_from(open.at).unwrap_or(TAIL))];
            let start = open.at - tail.len() as u64;
            let count = read_at(&open.file, &mut tail, start)?;
            tail.truncate(count);
            if tail.last().is_some_and(|last| *last != b'\n') {
                reader.skip_line();
            }
            open.at = start + tail.len() as u64;
            open.tail = tail;
        }
        Ok(LogFile {
            path,
            files: [open].into(),
            reader,
            done: VecDeque::new(),
            check: false,
            idle: false,
            skipped: 0,
        })
    }

    /// How many files it holds open.
    pub(super) fn open_files(&self) -> usize {
        self.files.len()
    }

    /// Whether it is followed on, by whether the broker writes to it: one that it did not write to twice is over.
    pub(super) fn stays(&mut self, is_written: bool) -> bool {
        let was_idle = std::mem::replace(&mut self.idle, !is_written);
        is_written || !was_idle
    }

    /// Whether this one is among them.
    pub(super) fn has(&self, id: FileId) -> bool {
        self.files.iter().any(|open| open.id == id)
    }

    /// Whether something has changed since the last read: one system call.
    pub(super) fn has_news(&self) -> io::Result<bool> {
        match self.files.back() {
            Some(open) if self.files.len() == 1 && !self.check => {
                let metadata = open.file.metadata()?;
                Ok(open.changed != changed(&metadata) || open.at != metadata.len())
            }
            _ => Ok(true),
        }
    }

    /// Reads what is new.
    pub(super) fn read<F: FnMut(Found)>(&mut self, run: &mut Run<'_, F>) -> io::Result<()> {
        if let Some(current) = self.files.back_mut() {
            current.changed = changed(&current.file.metadata()?);
        }
        // Another rotation may take place meanwhile.
        for _ in 0..LISTINGS {
            if !self.read_open(run)? {
                return Ok(());
            }
            match self.look_at_path(run) {
                PathState::Other => {}
                state => {
                    self.check = state == PathState::None;
                    return Ok(());
                }
            }
        }
        self.check = true;
        Ok(())
    }

    /// Reads the open files, and closes those that are over. Returns whether all is read.
    fn read_open<F: FnMut(Found)>(&mut self, run: &mut Run<'_, F>) -> io::Result<bool> {
        while let Some(open) = self.files.front_mut() {
            if !open.read(run, &mut self.reader, &mut self.skipped)? {
                self.check = true;
                return Ok(false);
            }
            if self.files.len() == 1 {
                break;
            }
            // The next one begins with a new line.
            self.reader.drop_line();
            let over = self.files.pop_front();
            let state = over.and_then(|open| open.file.metadata().ok());
            if let Some(of) = state {
                self.done.truncate(MOST_WAITING - 1);
                self.done.push_front(State::of(&of));
            }
        }
        Ok(true)
    }

    /// Checks which file the path leads to, and opens those that came after the last one.
    fn look_at_path<F>(&mut self, run: &mut Run<'_, F>) -> PathState {
        let Some(last) = self.files.back() else {
            return PathState::Same;
        };
        let Ok(there) = open_at(run.root, &self.path) else {
            return PathState::None;
        };
        if there.id == last.id {
            return PathState::Same;
        }
        // Renamed by another program, while log4j goes on writing to it.
        if (run.is_written)(last.id) {
            return PathState::None;
        }
        let Ok(since) = last.file.metadata().map(|of| modified(&of)) else {
            return PathState::None;
        };
        let mut there = there;
        // Where its folder cannot be listed, only the present one is known.
        let between = self.between(run.root, &mut there, since);
        let (files, lost) = between.unwrap_or_default();
        self.files.extend(files);
        self.skipped += lost;
        self.files.push_back(there);
        PathState::Other
    }

    /// The files that were started and ended since the last one was written to, in their order, and the size of those that
    /// are compressed already; `there` is the present one. Log4j may have rotated several times, and may be doing so.
    fn between(
        &self,
        root: &Rooted,
        there: &mut Open,
        since: (i64, i64),
    ) -> Result<(Vec<Open>, u64), FileError> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let folder = root.below(folder)?;
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let (mut files, mut lost) = (Vec::new(), 0);
        for _ in 0..LISTINGS {
            let before = folder.changed()?;
            let mut found: Vec<(State, Open)> = Vec::new();
            let mut compressed: Vec<((i64, i64), u64)> = Vec::new();
            for entry in folder.list(Path::new(""), MOST_ENTRIES)? {
                let Some(form) = Rotated::of(&name, &entry.to_string_lossy()) else {
                    continue;
                };
                // It may be gone or renamed by now.
                let Ok(open) = open_at(&folder, Path::new(&entry)) else {
                    continue;
                };
                let Ok(state) = open.file.metadata().map(|of| State::of(&of)) else {
                    continue;
                };
                if form == Rotated::Compressed {
                    if state.modified >= since && !self.done.contains(&state) {
                        compressed.push((state.modified, state.size));
                    }
                    continue;
                }
                let is_known = self.has(open.id)
                    || self.done.contains(&state)
                    || found.iter().any(|(_, other)| other.id == open.id);
                if !is_known && state.modified >= since && found.len() < MOST_WAITING {
                    found.push((state, open));
                }
            }
            let now = open_at(root, &self.path);
            let is_same = now.as_ref().is_ok_and(|now| now.id == there.id);
            found.sort_by_key(|(state, _)| state.modified);
            files = found.into_iter().map(|(_, open)| open).collect();
            // The oldest one is the last one that was followed, which is still open here.
            compressed.sort_unstable();
            lost = compressed.iter().skip(1).map(|(_, size)| size).sum();
            if is_same && folder.changed()? == before {
                break;
            }
            if let Ok(now) = now {
                *there = now;
            }
        }
        files.retain(|open: &Open| open.id != there.id);
        Ok((files, lost))
    }
}

impl Open {
    fn new(file: File) -> io::Result<Open> {
        let metadata = file.metadata()?;
        Ok(Open {
            id: FileId::of(&metadata),
            file,
            at: 0,
            tail: Vec::new(),
            changed: (0, 0),
        })
    }

    /// Reads on. Returns whether all is read.
    fn read<F: FnMut(Found)>(
        &mut self,
        run: &mut Run<'_, F>,
        reader: &mut LogReader,
        skipped: &mut u64,
    ) -> io::Result<bool> {
        let size = self.file.metadata()?.len();
        if size < self.at {
            self.begin_again(reader);
        }
        if size - self.at > MOST_BEHIND {
            let at = size - KEPT_OF_IT;
            *skipped += at - self.at;
            (self.at, self.tail) = (at, Vec::new());
            reader.skip_line();
        }
        if size == self.at && self.tail.is_empty() {
            return Ok(true);
        }
        let mut buffer = vec![0; READ];
        loop {
            let tail = self.tail.len();
            let count = read_at(&self.file, &mut buffer, self.at - tail as u64)?;
            let read = buffer.get(..count).unwrap_or_default();
            let Some(new) = read.strip_prefix(self.tail.as_slice()) else {
                self.begin_again(reader);
                continue;
            };
            if new.is_empty() {
                return Ok(true);
            }
            reader.read(new, run.matcher, &mut *run.found);
            self.at += new.len() as u64;
            run.budget = run.budget.saturating_sub(new.len());
            let end = read.len().saturating_sub(TAIL);
            self.tail = read.get(end..).unwrap_or_default().to_vec();
            if run.budget == 0 {
                return Ok(false);
            }
        }
    }

    fn begin_again(&mut self, reader: &mut LogReader) {
        (self.at, self.tail) = (0, Vec::new());
        reader.drop_line();
    }
}

fn open_at(root: &Rooted, path: &Path) -> Result<Open, FileError> {
    let file = root.file(path)?;
    Open::new(file).map_err(|cause| FileError::Io {
        path: path.to_path_buf(),
        cause,
    })
}

/// A file that `name` may have been before: `server.log.1`, `server.log.2026-11-30-12`, `server-7.log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rotated {
    Plain,
    /// It is not read.
    Compressed,
}

impl Rotated {
    fn of(name: &str, other: &str) -> Option<Rotated> {
        const COMPRESSED: [&str; 5] = [".gz", ".zip", ".bz2", ".xz", ".zst"];
        if other == name {
            return None;
        }
        let stem = name.split('.').next().unwrap_or(name);
        let rest = other
            .strip_prefix(name)
            .or_else(|| other.strip_prefix(stem))?;
        let is_one =
            rest.starts_with(['.', '-', '_']) && rest.contains(|c: char| c.is_ascii_digit());
        let is_compressed = COMPRESSED.iter().any(|end| other.ends_with(end));
        is_one.then_some(match is_compressed {
            true => Rotated::Compressed,
            false => Rotated::Plain,
        })
    }
}

fn changed(metadata: &Metadata) -> (i64, i64) {
    (metadata.ctime(), metadata.ctime_nsec())
}

fn modified(metadata: &Metadata) -> (i64, i64) {
    (metadata.mtime(), metadata.mtime_nsec())
}

#[cfg(test)]
mod tests;
