//! Kafka's flexible encoding: numbers of variable length, compact strings and arrays, tagged fields.

use super::super::reader::{Ids, Problem, Reader, WireError};

type Result<T> = std::result::Result<T, WireError>;

/// The id of a topic, or of something else.
pub type Uuid = [u8; 16];

/// More replicas than any partition has, which are three or four. A batch alone would leave room for millions, and small
/// records that keep a long list would each copy it.
const MOST_REPLICAS: usize = 256;

impl<'a> Reader<'a> {
    pub(in crate::kafka) fn boolean(&mut self, field: &'static str) -> Result<bool> {
        let start = self.clone();
        match self.byte(field)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(start.error(field, Problem::NoSuchValue(other.into()))),
        }
    }

    pub(in crate::kafka) fn unsigned_varint(&mut self, field: &'static str) -> Result<u32> {
        let start = self.clone();
        let number = self.groups_of_seven(field, 32)?;
        u32::try_from(number).map_err(|_| start.error(field, Problem::LongNumber(32)))
    }

    pub(in crate::kafka) fn varint(&mut self, field: &'static str) -> Result<i32> {
        let number = self.unsigned_varint(field)?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    pub(in crate::kafka) fn varlong(&mut self, field: &'static str) -> Result<i64> {
        let number = self.groups_of_seven(field, 64)?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    /// The lowest bits come first; the highest bit of each byte says whether another one follows.
    fn groups_of_seven(&mut self, field: &'static str, bits: u32) -> Result<u64> {
        let start = self.clone();
        let mut number = 0;
        for shift in (0..bits).step_by(7) {
            let byte = self.byte(field)?;
            let group = u64::from(byte & 0x7f);
            if group << shift >> shift != group {
                break;
            }
            number |= group << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(start.error(field, Problem::LongNumber(bits)))
    }

    /// Returns the bytes of a key or a value; None is null.
    pub(in crate::kafka) fn varint_sized(
        &mut self,
        field: &'static str,
    ) -> Result<Option<&'a [u8]>> {
        let start = self.clone();
        let length = self.varint(field)?;
        self.sized(&start, length, usize::MAX, field)
    }

    pub(in crate::kafka) fn compact_string(
        &mut self,
        limit: usize,
        field: &'static str,
    ) -> Result<Option<&'a str>> {
        let start = self.clone();
        let Some(length) = self.compact_length(field)? else {
            return Ok(None);
        };
        if length > limit {
            return Err(start.error(field, Problem::TooLong { length, limit }));
        }
        let bytes = self.take(length, field)?;
        start.utf8(bytes, field).map(Some)
    }

    /// A string that may not be null.
    pub(in crate::kafka) fn text(&mut self, limit: usize, field: &'static str) -> Result<&'a str> {
        let start = self.clone();
        let text = self.compact_string(limit, field)?;
        text.ok_or_else(|| start.error(field, Problem::Null))
    }

    /// Returns the number of elements that follow, which is never more than the remaining bytes can hold; None is null.
    pub(in crate::kafka) fn compact_count(
        &mut self,
        each: usize,
        field: &'static str,
    ) -> Result<Option<usize>> {
        let start = self.clone();
        let Some(count) = self.compact_length(field)? else {
            return Ok(None);
        };
        self.fitting(&start, count, each, field).map(Some)
    }

    /// A list of broker ids; None is null.
    pub(in crate::kafka) fn compact_ids(&mut self, field: &'static str) -> Result<Option<Ids<'a>>> {
        let start = self.clone();
        let Some(count) = self.compact_count(4, field)? else {
            return Ok(None);
        };
        let count = start.at_most(MOST_REPLICAS, count, field)?;
        Ok(Some(Ids::of(self.take(count * 4, field)?)))
    }

    /// A list of broker ids that may not be null.
    pub(in crate::kafka) fn broker_ids(&mut self, field: &'static str) -> Result<Ids<'a>> {
        let start = self.clone();
        let ids = self.compact_ids(field)?;
        ids.ok_or_else(|| start.error(field, Problem::Null))
    }

    pub(in crate::kafka) fn uuid(&mut self, field: &'static str) -> Result<Uuid> {
        self.array(field)
    }

    /// Shows each tagged field to `look`. They end the structure.
    pub(in crate::kafka) fn tagged(
        &mut self,
        mut look: impl FnMut(u32, &mut Reader<'a>) -> Result<()>,
    ) -> Result<()> {
        const FIELD: &str = "tagged fields";
        let start = self.clone();
        let mut before = None;
        for _ in 0..self.unsigned_varint(FIELD)? {
            let tag = self.unsigned_varint(FIELD)?;
            if before.replace(tag).is_some_and(|before| before >= tag) {
                return Err(start.error(FIELD, Problem::NoSuchValue(tag.into())));
            }
            let size = self.unsigned_varint(FIELD)? as usize;
            let mut field = Reader::new(self.take(size, FIELD)?);
            look(tag, &mut field)?;
        }
        Ok(())
    }

    /// A length is written as one more than it is.
    fn compact_length(&mut self, field: &'static str) -> Result<Option<usize>> {
        let length = self.unsigned_varint(field)?;
        Ok(length.checked_sub(1).map(|length| length as usize))
    }
}
