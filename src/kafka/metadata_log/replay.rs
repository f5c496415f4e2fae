//! Applies batches in order, and with them transactions: their records count only when they end.

use std::collections::BTreeSet;
use std::time::Duration;

use super::batch::{Batch, RawRecord};
use super::image::Image;
use super::record::{self, Record};
use super::{LogError, LogProblem};

/// The state after some batches.
#[derive(Debug, Default)]
pub struct Replay {
    image: Image,
    /// The offset after the last batch, and the least that counts: what is before it is in a snapshot.
    next: i64,
    from: i64,
    epoch: i32,
    written: i64,
    /// When the newest NoOp record was written, and how long after the one before it.
    no_op: Option<i64>,
    pulse: Option<Duration>,
    transaction: Transaction,
    /// Where transactions began that were aborted. What they did is left out.
    aborted: BTreeSet<i64>,
    /// Whether the snapshot that was read is complete.
    has_footer: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Transaction {
    #[default]
    None,
    /// Since this offset. The image has what it did so far.
    Open(i64),
    /// It was aborted later, as an earlier pass over the log has shown.
    LeftOut,
}

/// Who replays a log.
pub trait Watch {
    /// Sees the image at the start of each transaction, whose records do not count before its end.
    fn before_transaction(&mut self, image: &Image);
    /// Whether the image may need so many bytes.
    fn may_need(&mut self, bytes: usize) -> bool;
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Applied {
    Whole,
    /// A transaction was aborted that has changed the image: begin again with [`Replay::again`].
    Aborted,
}

impl Replay {
    /// Begins without any state, and leaves out the transactions that this one has seen aborted.
    pub fn again(&mut self) -> Replay {
        Replay {
            image: self.image.again(),
            aborted: std::mem::take(&mut self.aborted),
            ..Replay::default()
        }
    }

    /// What is known so far; with what an open transaction has done, see [`Replay::in_transaction`].
    pub fn image(&self) -> &Image {
        &self.image
    }

    pub fn in_transaction(&self) -> bool {
        self.transaction != Transaction::None
    }

    /// The offset with which the next batch begins.
    pub fn next_offset(&self) -> i64 {
        self.next
    }

    /// Whether a snapshot holds more than the log.
    pub fn is_behind_snapshot(&self) -> bool {
        self.next < self.from
    }

    /// When the newest record was written, in milliseconds since 1970.
    pub fn written(&self) -> i64 {
        self.written
    }

    /// The time between the newest two NoOp records. None where none is written any more: much younger records have come.
    pub fn pulse(&self) -> Option<Duration> {
        let since = self.written.saturating_sub(self.no_op?);
        let since = Duration::from_millis(u64::try_from(since).unwrap_or(0));
        let goes_on = |pulse: &Duration| since <= 4 * (*pulse).max(Duration::from_secs(1));
        self.pulse.filter(goes_on)
    }

    /// Whether a snapshot was read to its end.
    pub fn has_footer(&self) -> bool {
        self.has_footer
    }

    /// Goes on with a file whose first batch begins with `base`. Records before `from` are passed over, as a snapshot has
    /// their effect.
    pub fn go_on(&mut self, base: i64, from: i64) {
        (self.next, self.from, self.epoch) = (base, from, 0);
    }

    /// Applies a batch.
    ///
    /// # Errors
    /// A record is not understood, or does not fit those before it. The image is of no use then.
    pub fn apply(&mut self, batch: &Batch<'_>, watch: &mut dyn Watch) -> Result<Applied, LogError> {
        if batch.epoch < self.epoch {
            return Err(LogProblem::Epoch(batch.epoch).at(batch.base_offset));
        }
        let mut applied = Applied::Whole;
        if batch.control {
            batch.each(|record| {
                self.has_footer |= is_footer(&record);
                Ok(())
            })?;
        } else if batch.last_offset >= self.from {
            batch.each(|raw| {
                if raw.offset < self.from || applied == Applied::Aborted {
                    return Ok(());
                }
                let done = self.record(&raw, batch.written, watch);
                applied = done.map_err(|problem| problem.at(raw.offset))?;
                Ok(())
            })?;
        }
        let next = batch.last_offset.checked_add(1);
        self.next = next.ok_or_else(|| LogProblem::Order(self.next).at(batch.base_offset))?;
        (self.epoch, self.written) = (batch.epoch, batch.written);
        Ok(applied)
    }

    fn record(
        &mut self,
        raw: &RawRecord<'_>,
        written: i64,
        watch: &mut dyn Watch,
    ) -> Result<Applied, LogProblem> {
        let value = raw.value.ok_or(LogProblem::Unknown("nothing"))?;
        let record = record::read(value)?;
        match (record, self.transaction) {
            (Record::BeginTransaction, Transaction::None) => {
                self.transaction = match self.aborted.contains(&raw.offset) {
                    true => Transaction::LeftOut,
                    false => {
                        watch.before_transaction(&self.image);
                        Transaction::Open(raw.offset)
                    }
                };
            }
            (Record::EndTransaction, Transaction::Open(_))
            | (Record::AbortTransaction, Transaction::LeftOut) => {
                self.transaction = Transaction::None;
            }
            (Record::AbortTransaction, Transaction::Open(begin)) => {
                if self.aborted.len() == MOST_ABORTED {
                    return Err(LogProblem::Aborted(MOST_ABORTED));
                }
                self.aborted.insert(begin);
                return Ok(Applied::Aborted);
            }
            (Record::BeginTransaction | Record::EndTransaction | Record::AbortTransaction, _) => {
                return Err(LogProblem::Transaction);
            }
            (Record::NoOp, _) => {
                let before = self.no_op.replace(written);
                let apart = before.and_then(|before| written.checked_sub(before));
                let apart = apart.and_then(|apart| u64::try_from(apart).ok());
                self.pulse = apart.map(Duration::from_millis);
            }
            (_, Transaction::LeftOut) => {}
            (record, Transaction::None | Transaction::Open(_)) => {
                self.image
                    .apply(&record, &mut |bytes| watch.may_need(bytes))?;
            }
        }
        Ok(Applied::Whole)
    }
}

/// A transaction is aborted when its controller ends in the middle of it.
const MOST_ABORTED: usize = 1000;

/// A snapshot's last record. The key of a control record has its version and its type.
fn is_footer(record: &RawRecord<'_>) -> bool {
    record.key == Some(&[0, 0, 0, 4])
}
