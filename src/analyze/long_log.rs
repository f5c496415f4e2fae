//! A long log, shortened as it is read to the lines of which [`explain`](super::explain) makes something, so that memory
//! does not grow with it.
//!
//! Left out are lines with a time and a level that say nothing, the stacks below them, and those of the garbage
//! collector. Everything else stays, with what wraps it: a long text that is no log stays whole.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::LazyLock;

use memchr::memmem;

use super::formats::server_log::{self, Alike, Known, Saying};
use super::formats::wrapped::Wrapping;
use crate::model::Severity;
use crate::threads::log_signatures::{Found, LogMatcher, LogReader, log_signatures};

/// The first lines stay as they are: by them the file is recognised.
const BEGINNING: usize = 64 << 10;
/// Partitions of one container whose last change of the ISR is kept apart.
const MOST_PARTITIONS: usize = 100_000;
/// Containers in one file that are known apart.
const MOST_CONTAINERS: usize = 64;
/// Lines of one signature that are kept, by its severity; then only the last one.
const KEPT_OF_CRITICAL: u64 = 1_000;
const KEPT_OF_WARNING: u64 = 100;
/// A longer line is not examined.
const MOST_OF_LINE: usize = 1 << 20;

/// What was read of a file so far.
#[derive(Debug, Default)]
pub struct LongLog {
    kept: Vec<u8>,
    /// A line whose end is still to come.
    partial: Vec<u8>,
    /// Decided by the beginning.
    wrapping: Option<Wrapping>,
    containers: BTreeMap<String, Container>,
}

/// Where the log of one container is.
#[derive(Debug, Default)]
struct Container {
    known: Known,
    /// The last line with a time, unless it was kept: what follows it may need it, and the last one shows where a log ends.
    pending: Vec<u8>,
    /// Where that line is about an ISR, the partition; else empty.
    pending_partition: String,
    /// Where that line is one of `disconnects`, the broker.
    pending_disconnect: Option<i32>,
    /// Where the last line with a time is that was kept.
    end: Option<usize>,
    /// By partition the last line about its ISR. A log of an incident may consist of them.
    isr_changes: HashMap<String, Vec<u8>>,
    /// Finds the lines that count: of those below one line, the first of each signature.
    reader: LogReader,
    /// By signature how many lines were kept, and the last one of those that were not, with the one that it is
    /// below.
    signatures: BTreeMap<usize, (u64, Vec<u8>)>,
    /// By broker the last line about a lost connection of those that were not kept, with the one that it is below.
    disconnects: BTreeMap<i32, Vec<u8>>,
    /// The next lines may be the stack of an exception.
    is_below_log_line: bool,
}

/// The signatures that mean the same in every log.
pub(super) fn known_signatures() -> Option<&'static LogMatcher> {
    static MATCHER: LazyLock<Option<LogMatcher>> = LazyLock::new(|| LogMatcher::new(&[]).ok());
    MATCHER.as_ref()
}

/// How many lines of a signature are kept. None where its lines say nothing by it.
pub(super) fn kept_of(signature: usize) -> Option<u64> {
    let of = log_signatures().get(signature)?;
    match of.severity {
        Severity::Critical => Some(KEPT_OF_CRITICAL),
        // The broker that it lost is a fact of its own.
        Severity::Warning if of.name != "peer_disconnected" => Some(KEPT_OF_WARNING),
        Severity::Warning | Severity::Info => None,
    }
}

impl Container {
    /// Keeps the last line about the ISR of a partition. Returns false where there are too many.
    fn keep_change(&mut self, partition: &str, line: &str) -> bool {
        let is_full = self.isr_changes.len() >= MOST_PARTITIONS;
        if let Some(last) = self.isr_changes.get_mut(partition) {
            replace(last, b"", line);
        } else if is_full {
            return false;
        } else {
            let line = line.as_bytes().to_owned();
            self.isr_changes.insert(partition.to_owned(), line);
        }
        true
    }

    /// Keeps the last line about a lost connection to a broker, with the one that it is below.
    fn keep_disconnect(&mut self, alike: Alike, line: &str) {
        let Some(id) = alike.disconnect else { return };
        let above: &[u8] = match alike.is_below {
            true => &self.pending,
            false => b"",
        };
        replace(self.disconnects.entry(id).or_default(), above, line);
    }

    /// The pending line is kept, and not a second time as the last one of its kind.
    fn forget_pending(&mut self) {
        self.isr_changes.remove(&self.pending_partition);
        self.pending_partition.clear();
        if let Some(id) = self.pending_disconnect.take() {
            self.disconnects.remove(&id);
        }
    }

    /// Whether a line is kept because of its signature. `line` is that of the file, and `text` without what wraps it.
    fn keeps_signature(&mut self, line: &str, text: &str, says: Saying<'_>) -> bool {
        let Some(matcher) = known_signatures() else {
            return false;
        };
        let mut signed = Vec::new();
        let mut found = |Found { signature, .. }: Found| {
            signed.extend(kept_of(signature).map(|most| (signature, most)));
        };
        let text = text.trim_end_matches('\n').as_bytes();
        self.reader.line(text, matcher, &mut found);
        let mut is_kept = false;
        for (signature, most) in &signed {
            let (kept, _) = self.signatures.entry(*signature).or_default();
            if *kept + 1 < *most {
                *kept += 1;
                is_kept = true;
            }
        }
        let first = signed.first().filter(|_| !is_kept);
        if let Some((_, last)) = first.and_then(|(first, _)| self.signatures.get_mut(first)) {
            let above: &[u8] = match says {
                Saying::OtherLine => &self.pending,
                _ => b"",
            };
            replace(last, above, line);
        }
        is_kept
    }
}

/// Puts a line in place of another one, below what stands above it.
fn replace(last: &mut Vec<u8>, above: &[u8], line: &str) {
    last.clear();
    last.extend_from_slice(above);
    last.extend_from_slice(line.as_bytes());
}

/// Adds lines to others, the last of which may have no end.
fn add(text: &mut Vec<u8>, lines: &[u8]) {
    if text.last().is_some_and(|last| *last != b'\n') && !lines.is_empty() {
        text.push(b'\n');
    }
    text.extend_from_slice(lines);
}

impl LongLog {
    /// Takes the next bytes of the file.
    fn push(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        if self.wrapping.is_none() {
            let left = BEGINNING.saturating_sub(self.kept.len());
            let end = bytes.iter().skip(left).position(|byte| *byte == b'\n');
            let Some((beginning, rest)) =
                end.and_then(|end| bytes.split_at_checked(left + end + 1))
            else {
                self.kept.extend(bytes);
                return;
            };
            self.kept.extend(beginning);
            self.begin();
            bytes = rest;
        }
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let is_whole = line.ends_with(b"\n");
            if self.partial.is_empty() && is_whole {
                self.line(line);
            } else {
                self.partial.extend(line);
                if is_whole || self.partial.len() > MOST_OF_LINE {
                    let line = std::mem::take(&mut self.partial);
                    self.line(&line);
                }
            }
        }
    }

    /// What is kept.
    pub fn finish(mut self) -> Vec<u8> {
        let last = std::mem::take(&mut self.partial);
        if !last.is_empty() {
            self.line(&last);
        }
        // The line with a time with which a container's log ends comes after its others.
        let ends = self.containers.values().filter(|of| of.pending.is_empty());
        let end = ends.filter_map(|container| container.end).min();
        let end = self.kept.split_off(end.unwrap_or(self.kept.len()));
        let mut pending = Vec::new();
        for mut container in self.containers.into_values() {
            container.forget_pending();
            let signatures = container.signatures.into_values().map(|(_, last)| last);
            let apart = signatures.chain(container.disconnects.into_values());
            for lines in apart.chain(container.isr_changes.into_values()) {
                add(&mut self.kept, &lines);
            }
            pending.push(container.pending);
        }
        for lines in [end].iter().chain(&pending) {
            add(&mut self.kept, lines);
        }
        self.kept
    }

    /// Learns from the beginning what the lines after it need not say again.
    fn begin(&mut self) {
        let beginning = std::mem::take(&mut self.kept);
        let text = String::from_utf8_lossy(&beginning);
        self.wrapping = Some(Wrapping::of(&text));
        for line in text.lines() {
            self.keeps(line);
        }
        for container in self.containers.values_mut() {
            container.pending.clear();
            container.forget_pending();
            container.isr_changes.clear();
            container.signatures.clear();
            container.disconnects.clear();
            container.end = None;
        }
        drop(text);
        self.kept = beginning;
    }

    fn line(&mut self, line: &[u8]) {
        let keeps = match std::str::from_utf8(line) {
            Ok(text) if line.len() <= MOST_OF_LINE => self.keeps(text),
            _ => true,
        };
        if keeps {
            self.kept.extend(line);
        }
    }

    /// Whether a line is to be kept. The line before it, where it is needed, is kept by this.
    fn keeps(&mut self, line: &str) -> bool {
        let mut scratch = String::new();
        let no_wrapping = Wrapping::default();
        let stripped = self
            .wrapping
            .as_ref()
            .unwrap_or(&no_wrapping)
            .strip(line, &mut scratch);
        let name = stripped.container.unwrap_or_default();
        if !self.containers.contains_key(name) {
            if self.containers.len() == MOST_CONTAINERS {
                return true;
            }
            self.containers
                .insert(name.to_owned(), Container::default());
        }
        let Some(container) = self.containers.get_mut(name) else {
            return true;
        };
        let says = server_log::says(stripped.text, &mut container.known);
        let is_signed = container.keeps_signature(line, stripped.text, says);
        let is_kept_apart = match says {
            Saying::Nothing => !is_signed,
            Saying::IsrChange(partition) => container.keep_change(partition, line),
            Saying::Alike(alike) if !is_signed => {
                container.keep_disconnect(alike, line);
                if alike.is_below {
                    return false;
                }
                true
            }
            Saying::Alike(_) | Saying::Something | Saying::OtherLine => false,
        };
        if is_kept_apart {
            replace(&mut container.pending, b"", line);
            container.pending_partition.clear();
            container.pending_disconnect = None;
            match says {
                Saying::IsrChange(partition) => container.pending_partition.push_str(partition),
                Saying::Alike(alike) => container.pending_disconnect = alike.disconnect,
                _ => {}
            }
            container.is_below_log_line = true;
            return false;
        }
        if says == Saying::OtherLine {
            let is_below = container.is_below_log_line && is_of_exception(stripped.text);
            if (is_below && !is_signed) || is_of_collector(stripped.text) {
                return false;
            }
        }
        if is_of_dump(stripped.text) {
            container.is_below_log_line = false;
        }
        container.forget_pending();
        if says != Saying::OtherLine || !container.pending.is_empty() {
            container.end = Some(self.kept.len());
        }
        self.kept.append(&mut container.pending);
        true
    }
}

impl io::Write for LongLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines that Java prints of an exception.
fn is_of_exception(line: &str) -> bool {
    let text = line.trim_start();
    let first = text
        .strip_prefix("Caused by: ")
        .unwrap_or(text)
        .split([' ', ':'])
        .next();
    let is_frame = text.len() < line.len() && (text.starts_with("at ") || text.starts_with("... "));
    // `Error: ...` is what a tool prints.
    let is_class = |class: &str| {
        class.contains('.') && (class.ends_with("Exception") || class.ends_with("Error"))
    };
    is_frame || first.is_some_and(is_class)
}

/// A line of the garbage collector, which a JVM may write among those of the log: `[2024-01-02T..][info][gc] GC(7) Pause ..`,
/// up to JDK 8 `2018-01-02T..: 12.345: [GC (Allocation Failure) ..]`.
fn is_of_collector(line: &str) -> bool {
    let start = line.as_bytes();
    let start = start.get(..START_OF_COLLECTOR).unwrap_or(start);
    let has = |words: &[u8]| memmem::find(start, words).is_some();
    match start.first() {
        Some(b'[') => has(b"][gc") || has(b"][safepoint"),
        Some(b'0'..=b'9') => {
            has(b": [GC ")
                || has(b": [Full GC ")
                || has(b": [CMS-concurrent-")
                || has(b": Total time for which application threads were stopped: ")
        }
        _ => false,
    }
}

/// What comes before the words is shorter.
const START_OF_COLLECTOR: usize = 160;

/// A thread's name in quotes, or the JVM's banner: the frames below are those of a dump.
fn is_of_dump(line: &str) -> bool {
    let text = line.trim_start();
    ["\"", "Full thread dump", "Found one Java-level"]
        .iter()
        .any(|start| text.starts_with(start))
}

#[cfg(test)]
mod tests;
