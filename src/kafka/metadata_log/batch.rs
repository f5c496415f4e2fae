//! Record batches of format 2, as they lie one after the other in segments and snapshots.

use super::super::reader::{Problem, Reader, WireError};
use super::{LogError, LogProblem};

/// Base offset and length, which the length does not count.
const PREFIX: usize = 12;
/// From the first byte to the first record.
pub const HEADER: usize = 61;
/// From the first byte to the attributes, where the checksum starts.
const CHECKED: usize = 21;
/// Kafka's own limit is 8 MiB (`MAX_BATCH_SIZE_BYTES` of the Raft client).
pub const MOST_BYTES: usize = 16 << 20;

const COMPRESSION: i16 = 0x07;
const CONTROL: i16 = 0x20;

/// One batch whose checksum is right.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    pub base_offset: i64,
    pub last_offset: i64,
    /// The leader's epoch. The checksum does not cover it.
    pub epoch: i32,
    /// It holds no metadata, but what Raft notes for itself.
    pub control: bool,
    /// When its last record was written, in milliseconds since 1970.
    pub written: i64,
    /// Its bytes in the file.
    pub size: usize,
    count: i32,
    records: &'a [u8],
}

/// What lies at the beginning of some bytes.
#[derive(Debug, Clone, Copy)]
pub enum Parsed<'a> {
    Whole(Batch<'a>),
    /// At least so many bytes are needed.
    Incomplete(usize),
}

/// Reads the batch at the beginning of `bytes`, which is to start with offset `expected`.
///
/// # Errors
/// The bytes are no batch, or another one.
pub fn parse(bytes: &[u8], expected: i64) -> Result<Parsed<'_>, LogError> {
    // A file may be longer than what was written to it: the kernel then shows zeros.
    let header = bytes.get(..HEADER.min(bytes.len())).unwrap_or_default();
    if header.len() < PREFIX || header.iter().all(|byte| *byte == 0) {
        return Ok(Parsed::Incomplete(HEADER));
    }
    let mut reader = Reader::new(bytes);
    let wire = |error: WireError| LogProblem::Wire(error).at(expected);
    let base_offset = reader.int64("base offset").map_err(wire)?;
    let length = reader.int32("batch length").map_err(wire)?;
    let size = usize::try_from(length).ok().map(|length| PREFIX + length);
    let size = size.filter(|size| (HEADER..=MOST_BYTES).contains(size));
    let size = size.ok_or_else(|| LogProblem::Length(length).at(expected))?;
    if base_offset != expected {
        return Err(LogProblem::Order(expected).at(base_offset));
    }
    let Some(whole) = bytes.get(..size) else {
        return Ok(Parsed::Incomplete(size));
    };
    let epoch = reader.int32("leader epoch").map_err(wire)?;
    let magic = reader.int8("magic").map_err(wire)?;
    if magic != 2 {
        return Err(LogProblem::Magic(magic).at(expected));
    }
    let checksum = reader.int32("checksum").map_err(wire)?.cast_unsigned();
    if crc32c::crc32c(whole.get(CHECKED..).unwrap_or_default()) != checksum {
        return Err(LogProblem::Checksum.at(expected));
    }
    let attributes = reader.int16("attributes").map_err(wire)?;
    if attributes & COMPRESSION != 0 {
        return Err(LogProblem::Compressed.at(expected));
    }
    let last_delta = reader.int32("last offset delta").map_err(wire)?;
    let _first_written = reader.int64("first timestamp").map_err(wire)?;
    let written = reader.int64("last timestamp").map_err(wire)?;
    reader.take(8 + 2 + 4, "producer").map_err(wire)?;
    let count = reader.int32("number of records").map_err(wire)?;
    // Nothing is ever removed from this log one by one.
    if count < 1 || last_delta != count - 1 {
        let problem = Problem::NoSuchValue(count.into());
        return Err(wire(reader.error("number of records", problem)));
    }
    let last_offset = base_offset.checked_add(last_delta.into());
    Ok(Parsed::Whole(Batch {
        base_offset,
        last_offset: last_offset.ok_or_else(|| LogProblem::Order(expected).at(base_offset))?,
        epoch,
        control: attributes & CONTROL != 0,
        written,
        size,
        count,
        records: whole.get(HEADER..).unwrap_or_default(),
    }))
}

/// A record as it lies in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawRecord<'a> {
    pub offset: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
}

impl<'a> Batch<'a> {
    /// Shows each record to `look`, in order.
    ///
    /// # Errors
    /// That of `look`; the records are malformed, or not as many as announced.
    pub fn each(
        &self,
        mut look: impl FnMut(RawRecord<'a>) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let mut reader = Reader::new(self.records);
        for index in 0..self.count {
            let offset = self.base_offset + i64::from(index);
            let record = record(&mut reader, index, offset);
            look(record.map_err(|error| LogProblem::Wire(error).at(offset))?)?;
        }
        let end = reader.end("records");
        end.map_err(|error| LogProblem::Wire(error).at(self.last_offset))
    }
}

fn record<'a>(
    reader: &mut Reader<'a>,
    index: i32,
    offset: i64,
) -> Result<RawRecord<'a>, WireError> {
    let start = reader.clone();
    let body = reader.varint_sized("record")?;
    let body = body.ok_or_else(|| start.error("record", Problem::Null))?;
    let mut body = Reader::new(body);
    body.byte("record attributes")?;
    body.varlong("timestamp delta")?;
    let delta = body.varint("offset delta")?;
    if delta != index {
        return Err(body.error("offset delta", Problem::NoSuchValue(delta.into())));
    }
    let (key, value) = (body.varint_sized("key")?, body.varint_sized("value")?);
    for _ in 0..body.varint("headers")? {
        body.varint_sized("header")?;
        body.varint_sized("header")?;
    }
    body.end("record")?;
    Ok(RawRecord { offset, key, value })
}
