//! What stands in the text of a dump and was not read. The words that only a blocked thread and the JVM's report have are
//! counted for that, less those that were read.

use std::fmt;
use std::ops::Range;

use memchr::memmem;

use super::{State, ThreadDump};

/// What is in the text of a dump and was not read, by the words that stand there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unread {
    /// States `BLOCKED`.
    pub blocked: usize,
    /// Lines `which is held by` of the JVM's report.
    pub holders: usize,
    /// Deadlocks of the JVM's report.
    pub reports: usize,
    /// Parts that an evidence bundle has left out of a long dump.
    pub left_out: usize,
}

impl Unread {
    /// Each kind in words.
    pub fn texts(&self) -> impl Iterator<Item = String> + use<> {
        let Unread {
            blocked,
            holders,
            reports,
            left_out,
        } = *self;
        let kinds = [
            (blocked, "BLOCKED thread", ""),
            (
                holders,
                "line",
                " `which is held by` of the JVM's deadlock report",
            ),
            (reports, "deadlock", " that the JVM reports"),
            (left_out, "part", " that the bundle leaves out"),
        ];
        let kinds = kinds.into_iter().filter(|(number, ..)| *number > 0);
        kinds.map(|(number, what, of)| {
            let plural = if number == 1 { "" } else { "s" };
            format!("{number} {what}{plural}{of}")
        })
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts().collect::<Vec<_>>().join(", "))
    }
}

/// Where a dump begins, and what its text says of itself.
#[derive(Default, Clone, Copy)]
pub(super) struct Start {
    pub(super) at: usize,
    /// How many deadlocks the last line of its report says.
    pub(super) said: usize,
    /// Parts that are left out.
    pub(super) left_out: usize,
}

const BLOCKED: &[u8] = b"Thread.State: BLOCKED";

/// What stands before the holder in the JVM's report.
pub(super) const HELD: &str = "which is held by";

/// Counts the words in a text without a dump.
pub(super) fn anywhere(bytes: &[u8]) -> Unread {
    let count = |words: &[u8]| memmem::find_iter(bytes, words).count();
    Unread {
        blocked: count(BLOCKED),
        holders: count(b"which is held by \""),
        reports: count(b"Java-level deadlock"),
        left_out: 0,
    }
}

/// The parts of a text that have [`BLOCKED`]: few of them do.
pub(super) struct Blocked {
    finder: memmem::Finder<'static>,
    parts: Vec<Range<usize>>,
    /// Up to where the text was searched.
    searched: usize,
}

impl Default for Blocked {
    fn default() -> Blocked {
        Blocked {
            finder: memmem::Finder::new(BLOCKED),
            parts: Vec::new(),
            searched: 0,
        }
    }
}

impl Blocked {
    /// Searches on up to `end`, if that is at least so many bytes.
    pub(super) fn search(&mut self, bytes: &[u8], end: usize, least: usize) {
        let part = self.searched..end;
        if part.len() < least {
            return;
        }
        self.searched = end;
        if self.places_in(bytes, &part).next().is_some() {
            self.parts.push(part);
        }
    }

    /// Every place where it begins.
    pub(super) fn places(&self, bytes: &[u8]) -> impl Iterator<Item = usize> {
        self.parts
            .iter()
            .flat_map(|part| self.places_in(bytes, part))
    }

    fn places_in(&self, bytes: &[u8], part: &Range<usize>) -> impl Iterator<Item = usize> {
        let start = part.start;
        // One that begins in the part may end beyond it.
        let end = (part.end + BLOCKED.len() - 1).min(bytes.len());
        let bytes = bytes.get(start..end).unwrap_or_default();
        self.finder.find_iter(bytes).map(move |at| start + at)
    }
}

/// Counts what was not read of each dump. The places are those of [`BLOCKED`] and [`HELD`].
pub(super) fn count(
    blocked_at: impl Iterator<Item = usize>,
    held_at: &[usize],
    dumps: &mut [ThreadDump<'_>],
    starts: &[Start],
) {
    // What is before the first dump belongs to it.
    let dump_at = |at: usize| {
        let started = starts.partition_point(|start| start.at <= at);
        started.saturating_sub(1)
    };
    for at in blocked_at {
        if let Some(dump) = dumps.get_mut(dump_at(at)) {
            dump.unread.blocked += 1;
        }
    }
    for &at in held_at {
        if let Some(dump) = dumps.get_mut(dump_at(at)) {
            dump.unread.holders += 1;
        }
    }
    for (dump, start) in dumps.iter_mut().zip(starts) {
        let unread = &mut dump.unread;
        if unread.blocked > 0 {
            let threads = dump.threads.iter();
            let read = threads.filter(|thread| thread.state() == Some(State::Blocked));
            unread.blocked = unread.blocked.saturating_sub(read.count());
        }
        let reported = dump.reported.iter().flatten();
        let held = reported.filter(|thread| thread.held_by.is_some()).count();
        unread.holders = unread.holders.saturating_sub(held);
        let reports = dump.reported.iter().filter(|report| !report.is_empty());
        // A paste may have the report's last line alone, with their number.
        let said = start.said.max(dump.reported.len());
        unread.reports = said.saturating_sub(reports.count());
        unread.left_out = start.left_out;
    }
}
