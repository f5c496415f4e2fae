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

use crate::model::{Deadlock, Reading, Snapshot};
use crate::verdict::View;

/// How often a snapshot is kept, how many, and how many bytes of them.
const KEEP_EVERY: Duration = Duration::from_secs(10);
const KEPT: usize = 360;
const KEPT_BYTES: usize = 16 << 20;
/// A longer line is kept without the details of threads, and not at all where that is still too long. The 64 brokers of a
/// host have some 900 KB together, which the runtime's only worker serialises and compresses in some 20 ms.
const LINE: usize = 1 << 20;
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

    /// How many snapshots since the start have no line.
    pub fn left_out(&self) -> u64 {
        self.ring().left_out
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
    left_out: u64,
}

#[derive(Debug)]
struct Block {
    packed: Box<[u8]>,
    lines: usize,
    bytes: usize,
}

impl Ring {
    fn push(&mut self, snapshot: &Snapshot) {
        if !self.add_line(snapshot) && !self.add_line(&without_threads(snapshot)) {
            self.left_out += 1;
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

    /// Serialising plain data fails only where the line is too long.
    fn add_line(&mut self, snapshot: &Snapshot) -> bool {
        let before = self.newest.len();
        let line = AtMost {
            left: LINE,
            to: &mut self.newest,
        };
        let fits = serde_json::to_writer(line, snapshot).is_ok();
        if !fits {
            self.newest.truncate(before);
        }
        fits
    }

    fn pack(&mut self) {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
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

/// The snapshot without what threads do. That a deadlock stands is kept, with the first two threads of the first one.
fn without_threads(snapshot: &Snapshot) -> Snapshot {
    let mut short = snapshot.clone();
    for broker in &mut short.brokers {
        let broker = Arc::make_mut(broker);
        broker.threads = Reading::unknown("left out: the line of all brokers would be too long");
        let Some(standing) = &mut broker.deadlock else {
            continue;
        };
        let Some((first, others)) = standing.deadlocks.split_first() else {
            continue;
        };
        standing.more.deadlocks += others.len();
        standing.more.threads += others.iter().map(Deadlock::members).sum::<usize>();
        let mut cycle: Vec<_> = first.cycle.iter().take(2).cloned().collect();
        for member in &mut cycle {
            member.frames.clear();
        }
        standing.deadlocks = Arc::new([Deadlock {
            cycle_left_out: first.members() - cycle.len(),
            cycle,
            waiting: Vec::new(),
            waiting_left_out: first.blocked(),
            reported: first.reported,
        }]);
    }
    short
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
    use crate::model::{
        Broker, BrokerSnapshot, DeadlockedThread, Moment, MoreDeadlocks, ProcessKey,
        StandingDeadlock,
    };

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
        assert_eq!(ring.left_out(), 0);
        // Too long for one line: the others stay.
        ring.push(&snapshot(1000, &"n".repeat(LINE)));
        assert_eq!(ring.lines().unwrap(), lines);
        assert_eq!(ring.left_out(), 1);
    }

    #[test]
    fn a_line_that_is_too_long_is_kept_without_the_details_of_threads() {
        let member = |thread: &str| DeadlockedThread {
            thread: thread.into(),
            wants: String::new(),
            held_by: String::new(),
            frames: vec!["f".repeat(LINE / 4)],
        };
        let deadlock = Deadlock {
            cycle: ["a", "b", "c"].map(member).into(),
            waiting: vec![member("d")],
            ..Deadlock::default()
        };
        let process = ProcessKey {
            pid: 1,
            start_ticks: 1,
        };
        let mut broker = BrokerSnapshot::new(Arc::new(Broker::unknown(process)), "1".into());
        broker.deadlock = Some(StandingDeadlock {
            since: Moment(1),
            confirmed: Moment(2),
            deadlocks: Arc::new([deadlock.clone(), deadlock]),
            more: MoreDeadlocks::default(),
            known_issues: Vec::new(),
        });
        let ring = History::default();
        ring.push(&Snapshot {
            brokers: vec![Arc::new(broker)],
            ..snapshot(3, "note")
        });
        assert_eq!(ring.left_out(), 0);
        let kept: Snapshot = serde_json::from_slice(&ring.lines().unwrap()).unwrap();
        assert_eq!(kept.discovery_warnings, ["note"]);
        let standing = kept.brokers[0].deadlock.as_ref().unwrap();
        let [first] = &*standing.deadlocks else {
            panic!("{standing:?}");
        };
        let names: Vec<&str> = first.cycle.iter().map(|t| t.thread.as_str()).collect();
        assert_eq!(
            (names, first.members(), first.blocked()),
            (vec!["a", "b"], 3, 1)
        );
        assert_eq!((standing.more.deadlocks, standing.more.threads), (1, 3));
        assert!(kept.brokers[0].threads.last().is_none());
    }
}
