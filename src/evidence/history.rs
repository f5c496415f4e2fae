//! The snapshots of the last hour, kept for a bundle.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::model::Snapshot;
use crate::verdict::View;

/// How often a snapshot is kept, how many, and how many bytes of them.
const KEEP_EVERY: Duration = Duration::from_secs(10);
const KEPT: usize = 360;
const KEPT_BYTES: usize = 16 << 20;
/// A snapshot with a longer line is not kept.
const LINE: usize = KEPT_BYTES / 4;
/// Lines are compressed together once they are so long: each differs little from those before it.
const BLOCK: usize = 128 << 10;

/// Shared by the task that adds snapshots and the one that writes bundles.
#[derive(Debug, Default)]
pub struct History(Mutex<Ring>);

impl History {
    /// Adds the newest snapshot every ten seconds, until the sender of the views ends.
    pub async fn follow(&self, mut views: watch::Receiver<Arc<View>>) {
        while views.changed().await.is_ok() {
            let view = Arc::clone(&views.borrow_and_update());
            self.push(&view.snapshot);
            sleep(KEEP_EVERY).await;
        }
    }

    pub fn push(&self, snapshot: &Snapshot) {
        self.ring().push(snapshot);
    }

    /// How long all lines are together.
    pub fn bytes(&self) -> usize {
        self.ring().bytes()
    }

    /// All lines, the oldest first.
    ///
    /// # Errors
    /// Those of decompressing.
    pub fn lines(&self) -> io::Result<Vec<u8>> {
        self.ring().lines()
    }

    fn ring(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Snapshots of the last hour, a line of JSON each.
#[derive(Debug, Default)]
struct Ring {
    blocks: VecDeque<Block>,
    /// The newest lines, which are not compressed yet.
    newest: Vec<u8>,
    newest_lines: usize,
}

#[derive(Debug)]
struct Block {
    packed: Box<[u8]>,
    lines: usize,
    bytes: usize,
}

impl Ring {
    fn push(&mut self, snapshot: &Snapshot) {
        let before = self.newest.len();
        let line = AtMost {
            left: LINE,
            to: &mut self.newest,
        };
        // Serialising plain data fails only where the line is too long.
        if serde_json::to_writer(line, snapshot).is_err() {
            self.newest.truncate(before);
            return;
        }
        self.newest.push(b'\n');
        self.newest_lines += 1;
        if self.newest.len() >= BLOCK {
            self.pack();
        }
        while self.lines_kept() > KEPT || self.bytes() > KEPT_BYTES {
            if self.blocks.pop_front().is_none() {
                return;
            }
        }
    }

    fn pack(&mut self) {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        // Writing to memory does not fail.
        if encoder.write_all(&self.newest).is_ok()
            && let Ok(packed) = encoder.finish()
        {
            self.blocks.push_back(Block {
                packed: packed.into_boxed_slice(),
                lines: self.newest_lines,
                bytes: self.newest.len(),
            });
        }
        // A long line leaves no buffer of its length behind.
        (self.newest, self.newest_lines) = (Vec::new(), 0);
    }

    fn lines_kept(&self) -> usize {
        self.newest_lines + self.blocks.iter().map(|block| block.lines).sum::<usize>()
    }

    fn bytes(&self) -> usize {
        self.newest.len() + self.blocks.iter().map(|block| block.bytes).sum::<usize>()
    }

    fn lines(&self) -> io::Result<Vec<u8>> {
        let mut lines = Vec::with_capacity(self.bytes());
        for block in &self.blocks {
            DeflateDecoder::new(&*block.packed).read_to_end(&mut lines)?;
        }
        lines.extend_from_slice(&self.newest);
        Ok(lines)
    }
}

/// Refuses what is longer.
struct AtMost<'a> {
    left: usize,
    to: &'a mut Vec<u8>,
}

impl Write for AtMost<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self
            .left
            .checked_sub(bytes.len())
            .ok_or(io::ErrorKind::FileTooLarge)?;
        self.to.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Moment;

    fn snapshot(at: u64, note: &str) -> Snapshot {
        Snapshot {
            at: Moment(at),
            discovery_warnings: vec![note.to_owned()],
            ..Snapshot::default()
        }
    }

    #[test]
    fn an_hour_of_real_readings_takes_a_tenth_of_its_lines() {
        let packed = include_bytes!("../../tests/fixtures/recordings/incident.jsonl.gz");
        let mut text = String::new();
        flate2::read::GzDecoder::new(&packed[..])
            .read_to_string(&mut text)
            .unwrap();
        let lines = text.lines().map(serde_json::from_str::<Snapshot>);
        let recorded: Vec<Snapshot> = lines.filter_map(Result::ok).collect();
        assert!(recorded.len() > 30, "{}", recorded.len());
        let ring = History::default();
        for snapshot in recorded.iter().cycle().take(KEPT) {
            ring.push(snapshot);
        }
        let bytes = ring.bytes();
        let ring = ring.ring();
        let kept = ring.newest.capacity()
            + ring
                .blocks
                .iter()
                .map(|block| block.packed.len())
                .sum::<usize>();
        println!("{bytes} bytes of lines take {kept}");
        assert!(kept * 10 <= bytes, "{bytes} bytes of lines take {kept}");
    }

    #[test]
    fn the_newest_lines_come_back_in_order() {
        let ring = History::default();
        let note = "n".repeat(10_000);
        for at in 0..1000 {
            ring.push(&snapshot(at, &note));
        }
        let lines = ring.lines().unwrap();
        assert_eq!(lines.len(), ring.bytes());
        let times: Vec<u64> = lines
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice::<Snapshot>(line).unwrap().at.0)
            .collect();
        // A block is dropped as a whole.
        assert!((KEPT - 14..=KEPT).contains(&times.len()), "{}", times.len());
        let first = 1000 - times.len() as u64;
        assert!(times.iter().copied().eq(first..1000));
        // Too long for one line: the others stay.
        ring.push(&snapshot(1000, &"n".repeat(LINE)));
        assert_eq!(ring.lines().unwrap(), lines);
    }
}
