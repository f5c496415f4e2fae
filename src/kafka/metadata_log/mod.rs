//! What the log `__cluster_metadata-0` of KRaft holds: record batches, the records in them, and the state of the cluster that
//! follows from all of them. Pure: the files are read elsewhere.
//!
//! ```text
//! bytes -> batch::Batch (length, order, CRC) -> record::Record (kind, version, fields) -> replay::Replay -> image::Image
//! ```
//!
//! A number from the log never decides an allocation before the bytes for it are there. What is not understood is an
//! error, because a count that leaves it out would be wrong.

pub mod batch;
mod encoding;
pub mod image;
pub mod record;
pub mod replay;

use super::reader::WireError;
use super::wire::MAX_BROKERS;

/// Why the log cannot be read on from a record or a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("offset {offset}: {problem}")]
pub struct LogError {
    pub offset: i64,
    pub problem: LogProblem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogProblem {
    #[error("the batch has {0} bytes after its length, which no batch has")]
    Length(i32),
    #[error("the batch has the format {0}, only 2 is known")]
    Magic(i8),
    #[error("the checksum of the batch is wrong")]
    Checksum,
    #[error("the batch is compressed, which is not supported")]
    Compressed,
    #[error("offset {0} expected: the log has a gap or goes back")]
    Order(i64),
    #[error("leader epoch {0} after a later one")]
    Epoch(i32),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("a record in frame version {0}; this version of kafka-vitals knows 0 and 1")]
    Frame(u32),
    #[error(
        "a record of kind {0}, which this version of kafka-vitals does not know: a newer one may"
    )]
    Kind(u32),
    #[error(
        "a record {name} of version {version}; this version of kafka-vitals knows those up to {newest}: a newer one may know more"
    )]
    Version {
        name: &'static str,
        version: u32,
        newest: u32,
    },
    #[error("a record about {0}, which no record before has created")]
    Unknown(&'static str),
    #[error("{0} appears twice in the replicas of a partition")]
    TwiceReplica(i32),
    #[error("the ISR names broker {0}, which is no replica")]
    NoReplica(i32),
    #[error("partition {0}: no topic has so many")]
    PartitionId(i32),
    #[error("min.insync.replicas is not a number")]
    MinIsr,
    #[error("a transaction starts within another, or ends without a start")]
    Transaction,
    #[error("more than {0} transactions were aborted")]
    Aborted(usize),
    #[error("no room is left for the state of the cluster, which needs {0} bytes and more")]
    NoRoom(usize),
    #[error("more than {MAX_BROKERS} brokers")]
    Brokers,
}

impl LogProblem {
    pub fn at(self, offset: i64) -> LogError {
        LogError {
            offset,
            problem: self,
        }
    }
}

#[cfg(test)]
mod tests;
