//! Reads the files of a metadata log as they grow: the newest snapshot, then the segments from its end on. Each byte is
//! read once, the last batch in each run. Where the replica was cut back, or replaced by a snapshot of the leader, it begins again.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::kafka::metadata_log::batch::{self, HEADER, Parsed};
use crate::kafka::metadata_log::image::Image;
use crate::kafka::metadata_log::replay::{Applied, Replay, Watch};
use crate::kafka::metadata_log::{LogError, LogProblem};
use crate::model::Moment;
use crate::sys::plain::{FileError, read_at};
use crate::sys::rooted::Rooted;

/// What one run may read and count at most, in bytes: more is left to the next run.
pub(super) const MOST_PER_RUN: usize = 64 << 20;
/// A usual read at rest has some hundred bytes.
const SMALL_READ: usize = 8 << 10;
const LARGE_READ: usize = 256 << 10;
/// Files in the folder: a few, and those that Kafka is about to delete.
const MOST_FILES: usize = 10_000;
/// A batch at the end of a file may be under way for so long, in milliseconds, before it counts as damaged.
const HALF_WRITTEN: u64 = 5_000;
/// A change of the folder so short before it was listed may hide another, in nanoseconds.
const CLOCK_TICK: i128 = 100_000_000;

/// Why the log is not followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum FollowError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{}: {cause}", path.display())]
    Read { path: PathBuf, cause: io::Error },
    #[error("{}: {cause}", path.display())]
    Log { path: PathBuf, cause: LogError },
    #[error("{} ends before the snapshot does: it is damaged", path.display())]
    CutSnapshot { path: PathBuf },
    #[error("{} has no segment with offset {offset}: the log has a gap", path.display())]
    Gap { path: PathBuf, offset: i64 },
    #[error("{} has no segment: the node has not written its metadata log yet", path.display())]
    Empty { path: PathBuf },
}

/// How far a run came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// All that is there was read.
    End,
    /// The next run goes on.
    More,
}

/// One replica of the log.
#[derive(Debug)]
pub(super) struct Follower {
    folder: Rooted,
    /// When the folder had changed last when it was listed; None lists it again.
    listed: Option<i128>,
    files: Files,
    place: Place,
    replay: Replay,
    half_written: Option<(u64, Moment)>,
}

#[derive(Debug, Default)]
struct Files {
    /// End offset and epoch.
    snapshot: Option<(i64, i32)>,
    /// Base offsets, sorted.
    segments: Vec<i64>,
}

#[derive(Debug)]
enum Place {
    Start,
    Snapshot(Open, i64),
    Segment(Open),
}

/// A file that is being read.
#[derive(Debug)]
struct Open {
    file: File,
    name: String,
    inode: u64,
    /// Of its first batch.
    base: i64,
    /// Where the next batch begins.
    at: u64,
    /// The header of the last batch, and where it lies: another one there means that the replica was cut back.
    last: Option<(u64, [u8; HEADER])>,
}

/// What a run may still do.
struct Budget(usize);

/// Notes what the counts before transactions cost.
struct Counted<'a> {
    watch: &'a mut dyn Watch,
    changes: u64,
    bytes: usize,
}

impl Watch for Counted<'_> {
    fn before_transaction(&mut self, image: &Image) {
        if self.changes != image.changes() {
            self.changes = image.changes();
            self.bytes += image.bytes();
        }
        self.watch.before_transaction(image);
    }

    fn may_need(&mut self, bytes: usize) -> bool {
        self.watch.may_need(bytes)
    }
}

impl Follower {
    /// Follows the log in that folder.
    pub(super) fn new(folder: Rooted) -> Follower {
        Follower {
            folder,
            listed: None,
            files: Files::default(),
            place: Place::Start,
            replay: Replay::default(),
            half_written: None,
        }
    }

    pub(super) fn replay(&self) -> &Replay {
        &self.replay
    }

    /// When the open file was written to last.
    pub(super) fn written_at(&self) -> Option<Moment> {
        let (Place::Snapshot(open, _) | Place::Segment(open)) = &self.place else {
            return None;
        };
        let written = open.file.metadata().and_then(|of| of.modified()).ok()?;
        let since_1970 = written.duration_since(std::time::UNIX_EPOCH).ok()?;
        u64::try_from(since_1970.as_millis()).ok().map(Moment)
    }

    /// Reads what is new, as much as a run may.
    ///
    /// # Errors
    /// A file cannot be read, or what it holds is not understood. Only a new follower goes on.
    pub(super) fn run(
        &mut self,
        now: Moment,
        watch: &mut dyn Watch,
    ) -> Result<Progress, FollowError> {
        let mut budget = Budget(MOST_PER_RUN);
        self.look_at_folder(now)?;
        loop {
            let progress = match &self.place {
                Place::Start => self.start()?,
                Place::Snapshot(..) | Place::Segment(_) => self.read(now, &mut budget, watch)?,
            };
            match progress {
                Step::Next => {}
                Step::End => return Ok(Progress::End),
                Step::More => return Ok(Progress::More),
            }
        }
    }

    /// Lists the folder if it has changed, and checks that the open segment is still part of the log.
    fn look_at_folder(&mut self, now: Moment) -> Result<(), FollowError> {
        let changed = self.folder.changed()?;
        if self.listed == Some(changed) {
            return Ok(());
        }
        self.files = Files::of(
            self.folder
                .list(Path::new(""), MOST_FILES)?
                .iter()
                .filter_map(|name| name.to_str()),
        );
        let settled = i128::from(now.0) * 1_000_000 - changed > CLOCK_TICK;
        self.listed = settled.then_some(changed);
        let Place::Segment(open) = &self.place else {
            return Ok(());
        };
        let belongs = match self.files.segment_of(self.replay.next_offset()) {
            // The next one, which `read` opens.
            Some(base) if base > open.base => base == self.replay.next_offset(),
            Some(base) if base == open.base => {
                let there = self.folder.file(Path::new(&open.name));
                there.is_ok_and(|file| inode(&file) == Some(open.inode))
            }
            _ => false,
        };
        if !belongs {
            self.again();
        }
        Ok(())
    }

    fn again(&mut self) {
        self.replay = self.replay.again();
        self.place = Place::Start;
        self.half_written = None;
        self.listed = None;
    }

    /// Opens the newest snapshot, or else the first segment.
    fn start(&mut self) -> Result<Step, FollowError> {
        self.place = match self.files.snapshot {
            Some((end, epoch)) => {
                self.replay.go_on(0, 0);
                let open = self.open(format!("{end:020}-{epoch:010}.checkpoint"), 0)?;
                Place::Snapshot(open, end)
            }
            None => return self.open_segment(0),
        };
        Ok(Step::Next)
    }

    /// Opens the segment that has that offset, and passes over what is before it.
    fn open_segment(&mut self, offset: i64) -> Result<Step, FollowError> {
        let Some(base) = self.files.segment_of(offset) else {
            return Err(match self.files.segments.is_empty() {
                true => FollowError::Empty {
                    path: self.folder.shown().to_path_buf(),
                },
                false => self.gap(offset),
            });
        };
        let open = self.open(segment_name(base), base)?;
        self.replay.go_on(base, offset);
        self.place = Place::Segment(open);
        Ok(Step::Next)
    }

    fn gap(&self, offset: i64) -> FollowError {
        FollowError::Gap {
            path: self.folder.shown().to_path_buf(),
            offset,
        }
    }

    fn open(&self, name: String, base: i64) -> Result<Open, FollowError> {
        let file = self.folder.file(Path::new(&name))?;
        Ok(Open {
            inode: inode(&file).unwrap_or(0),
            file,
            name,
            base,
            at: 0,
            last: None,
        })
    }

    /// Reads the open file on.
    fn read(
        &mut self,
        now: Moment,
        budget: &mut Budget,
        watch: &mut dyn Watch,
    ) -> Result<Step, FollowError> {
        let (open, is_snapshot) = match &mut self.place {
            Place::Snapshot(open, _) => (open, true),
            Place::Segment(open) => (open, false),
            Place::Start => return Ok(Step::Next),
        };
        let path = self.folder.shown().join(&open.name);
        let read_error = |cause| FollowError::Read {
            path: path.clone(),
            cause,
        };
        let mut want = SMALL_READ;
        loop {
            // From the last batch on, to see that it is still the same one.
            let last_size = match open.last {
                Some((at, _)) => usize::try_from(open.at - at).unwrap_or(usize::MAX),
                None => 0,
            };
            let again = if last_size <= SMALL_READ / 2 {
                last_size
            } else {
                0
            };
            if want > LARGE_READ && !watch.may_need(self.replay.image().bytes() + want) {
                let cause = LogProblem::NoRoom(want).at(self.replay.next_offset());
                return Err(FollowError::Log { path, cause });
            }
            let mut buffer = vec![0; want + again];
            let count =
                read_at(&open.file, &mut buffer, open.at - again as u64).map_err(read_error)?;
            let is_last = |bytes: &[u8]| {
                open.last
                    .is_none_or(|(_, header)| bytes.starts_with(&header))
            };
            let same = if again > 0 {
                count >= again && is_last(&buffer)
            } else if let Some((at, _)) = open.last {
                let mut header = [0; HEADER];
                read_at(&open.file, &mut header, at).map_err(read_error)?;
                is_last(&header)
            } else {
                true
            };
            if !same {
                self.again();
                return Ok(Step::More);
            }
            let full = count == buffer.len();
            let mut bytes = buffer.get(again..count).unwrap_or_default();
            let mut changes = self.replay.image().changes();
            let (needed, problem) = loop {
                let expected = self.replay.next_offset();
                let batch = match batch::parse(bytes, expected) {
                    Ok(Parsed::Whole(batch)) => batch,
                    Ok(Parsed::Incomplete(needed)) => break (needed, None),
                    // A batch that the end of the file cuts may be half written.
                    Err(error) if !full && may_be_half_written(&error, bytes) => {
                        break (0, Some(error));
                    }
                    Err(cause) => return Err(FollowError::Log { path, cause }),
                };
                let mut counted = Counted {
                    watch: &mut *watch,
                    changes,
                    bytes: 0,
                };
                let applied = self.replay.apply(&batch, &mut counted);
                changes = counted.changes;
                let counted = counted.bytes;
                let applied = applied.map_err(|cause| FollowError::Log {
                    path: path.clone(),
                    cause,
                })?;
                if applied == Applied::Aborted {
                    self.again();
                    return Ok(Step::More);
                }
                let header = bytes.first_chunk::<HEADER>();
                open.last = header.map(|header| (open.at, *header));
                open.at += batch.size as u64;
                bytes = bytes.get(batch.size..).unwrap_or_default();
                if !budget.spend(batch.size + counted) {
                    return Ok(Step::More);
                }
            };
            // Zeros are the end of what is written, however many there are.
            if full && needed > bytes.len() {
                want = LARGE_READ.max(needed);
                continue;
            }
            let rest = bytes.len();
            drop(buffer);
            if is_snapshot {
                return self.end_of_snapshot(path);
            }
            return self.end_of_segment(now, path, rest, problem);
        }
    }

    fn end_of_snapshot(&mut self, path: PathBuf) -> Result<Step, FollowError> {
        let Place::Snapshot(_, end) = self.place else {
            return Ok(Step::Next);
        };
        if !self.replay.has_footer() {
            return Err(FollowError::CutSnapshot { path });
        }
        self.open_segment(end)
    }

    /// `rest` are the bytes after the last whole batch.
    fn end_of_segment(
        &mut self,
        now: Moment,
        path: PathBuf,
        rest: usize,
        problem: Option<LogError>,
    ) -> Result<Step, FollowError> {
        let Place::Segment(open) = &self.place else {
            return Ok(Step::Next);
        };
        let next = self.replay.next_offset();
        if let Some(base) = self.files.segments.iter().find(|base| **base > open.base) {
            if *base != next {
                return Err(self.gap(next));
            }
            let open = self.open(segment_name(next), next)?;
            self.place = Place::Segment(open);
            self.half_written = None;
            return Ok(Step::Next);
        }
        if self.replay.is_behind_snapshot() {
            return Err(self.gap(next));
        }
        if rest == 0 {
            self.half_written = None;
            return Ok(Step::End);
        }
        match self.half_written {
            Some((at, since)) if at == open.at => {
                if let Some(cause) = problem.filter(|_| now.0 > since.0 + HALF_WRITTEN) {
                    return Err(FollowError::Log { path, cause });
                }
            }
            _ => self.half_written = Some((open.at, now)),
        }
        Ok(Step::End)
    }
}

enum Step {
    Next,
    End,
    More,
}

impl Budget {
    /// Returns whether something is left.
    fn spend(&mut self, bytes: usize) -> bool {
        self.0 = self.0.saturating_sub(bytes);
        self.0 > 0
    }
}

/// Whether the batch at the beginning of these bytes, the last of a file, may not be written to its end yet.
fn may_be_half_written(error: &LogError, bytes: &[u8]) -> bool {
    let length = bytes.get(8..12).and_then(|bytes| bytes.try_into().ok());
    let length = length.map_or(0, u32::from_be_bytes);
    error.problem == LogProblem::Checksum && length as usize + 12 == bytes.len()
}

fn inode(file: &File) -> Option<u64> {
    file.metadata().ok().map(|of| of.ino())
}

fn segment_name(base: i64) -> String {
    format!("{base:020}.log")
}

impl Files {
    fn of<'a>(names: impl Iterator<Item = &'a str>) -> Files {
        let mut files = Files::default();
        for name in names {
            if let Some(base) = name.strip_suffix(".log").and_then(|base| number(base, 20)) {
                files.segments.push(base);
            } else if let Some((end, epoch)) = name
                .strip_suffix(".checkpoint")
                .and_then(|name| name.split_once('-'))
                && let Some(end) = number(end, 20)
                && let Some(epoch) = number(epoch, 10)
            {
                files.snapshot = files.snapshot.max(Some((end, epoch)));
            }
        }
        files.segments.sort_unstable();
        files
    }

    /// The base offset of the segment that has this offset, if it is written already.
    fn segment_of(&self, offset: i64) -> Option<i64> {
        let after = self.segments.partition_point(|base| *base <= offset);
        let at = after.checked_sub(1)?;
        self.segments.get(at).copied()
    }
}

/// A number of exactly so many digits.
fn number<T: std::str::FromStr>(text: &str, digits: usize) -> Option<T> {
    let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}
