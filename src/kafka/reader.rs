//! Reads the fields of a message one after the other, in place: of Kafka's responses, of its metadata log, and of
//! ZooKeeper's answers. No number from outside decides an allocation.

/// Which field could not be read, where and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} at byte {offset}: {problem}")]
pub struct WireError {
    pub field: &'static str,
    /// Position in the message body, which starts after the correlation id.
    pub offset: usize,
    pub problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("{needed} bytes expected, {left} left")]
    Short { needed: usize, left: usize },
    #[error("the length is {0}, but it may not be negative")]
    Negative(i32),
    #[error("{count} elements of {each} bytes or more expected, {left} bytes left")]
    Count {
        count: usize,
        each: usize,
        left: usize,
    },
    #[error("text expected, but these bytes are not UTF-8")]
    NotUtf8,
    #[error("end of the message expected, {0} bytes left")]
    Trailing(usize),
    #[error("{0} is not a port")]
    NoPort(i32),
    #[error("at most {limit} expected, {count} announced")]
    TooMany { count: usize, limit: usize },
    #[error("at most {limit} bytes expected, {length} announced")]
    TooLong { length: usize, limit: usize },
    #[error("a number of at most {0} bits expected, more follow")]
    LongNumber(u32),
    #[error("a value expected, but it is null")]
    Null,
    #[error("{0} is not a value that it may have")]
    NoSuchValue(i64),
}

/// Reads the fields of a message body one after the other.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Reader {
            rest: body,
            offset: 0,
        }
    }

    pub(super) fn error(&self, field: &'static str, problem: Problem) -> WireError {
        WireError {
            field,
            offset: self.offset,
            problem,
        }
    }

    pub(super) fn take(
        &mut self,
        length: usize,
        field: &'static str,
    ) -> Result<&'a [u8], WireError> {
        let Some((taken, rest)) = self.rest.split_at_checked(length) else {
            return Err(self.error(
                field,
                Problem::Short {
                    needed: length,
                    left: self.rest.len(),
                },
            ));
        };
        self.rest = rest;
        self.offset += length;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], WireError> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.error(
                field,
                Problem::Short {
                    needed: N,
                    left: self.rest.len(),
                },
            ));
        };
        self.rest = rest;
        self.offset += N;
        Ok(*taken)
    }

    pub(super) fn byte(&mut self, field: &'static str) -> Result<u8, WireError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(super) fn int8(&mut self, field: &'static str) -> Result<i8, WireError> {
        self.array(field).map(i8::from_be_bytes)
    }

    pub(super) fn int16(&mut self, field: &'static str) -> Result<i16, WireError> {
        self.array(field).map(i16::from_be_bytes)
    }

    pub(super) fn int32(&mut self, field: &'static str) -> Result<i32, WireError> {
        self.array(field).map(i32::from_be_bytes)
    }

    pub(super) fn int64(&mut self, field: &'static str) -> Result<i64, WireError> {
        self.array(field).map(i64::from_be_bytes)
    }

    /// Takes as many bytes as `length` says, which was read from `start` on; None for -1.
    pub(super) fn sized(
        &mut self,
        start: &Reader<'_>,
        length: i32,
        limit: usize,
        field: &'static str,
    ) -> Result<Option<&'a [u8]>, WireError> {
        if length == -1 {
            return Ok(None);
        }
        let length =
            usize::try_from(length).map_err(|_| start.error(field, Problem::Negative(length)))?;
        if length > limit {
            return Err(start.error(field, Problem::TooLong { length, limit }));
        }
        self.take(length, field).map(Some)
    }

    /// The bytes as text; `self` is where they, or their length, began.
    pub(super) fn utf8<'t>(
        &self,
        bytes: &'t [u8],
        field: &'static str,
    ) -> Result<&'t str, WireError> {
        std::str::from_utf8(bytes).map_err(|_| self.error(field, Problem::NotUtf8))
    }

    /// Reads the number of elements that follow, which is never more than the remaining bytes can hold.
    pub(super) fn count(&mut self, each: usize, field: &'static str) -> Result<usize, WireError> {
        let start = self.clone();
        let count = self.int32(field)?;
        let count =
            usize::try_from(count).map_err(|_| start.error(field, Problem::Negative(count)))?;
        self.fitting(&start, count, each, field)
    }

    /// The same where no more than so many are kept.
    pub(super) fn count_up_to(
        &mut self,
        limit: usize,
        each: usize,
        field: &'static str,
    ) -> Result<usize, WireError> {
        let start = self.clone();
        let count = self.count(each, field)?;
        start.at_most(limit, count, field)
    }

    /// The number itself, which was read from `start` on, if the remaining bytes can hold so many elements.
    pub(super) fn fitting(
        &self,
        start: &Reader<'_>,
        count: usize,
        each: usize,
        field: &'static str,
    ) -> Result<usize, WireError> {
        let left = self.rest.len();
        match count.checked_mul(each) {
            Some(bytes) if bytes <= left => Ok(count),
            _ => Err(start.error(field, Problem::Count { count, each, left })),
        }
    }

    /// The number itself, which began at `self`, if it is within the limit.
    pub(super) fn at_most(
        &self,
        limit: usize,
        count: usize,
        field: &'static str,
    ) -> Result<usize, WireError> {
        match count <= limit {
            true => Ok(count),
            false => Err(self.error(field, Problem::TooMany { count, limit })),
        }
    }

    pub(super) fn end(&self, field: &'static str) -> Result<(), WireError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(self.error(field, Problem::Trailing(left))),
        }
    }
}

/// A list of broker ids, still encoded in the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids<'a>(&'a [u8]);

impl<'a> Ids<'a> {
    /// The bytes are ids of four bytes each.
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Ids(bytes)
    }

    pub fn len(&self) -> usize {
        self.0.len() / 4
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, id: i32) -> bool {
        self.0.as_chunks::<4>().0.contains(&id.to_be_bytes())
    }

    pub fn iter(&self) -> impl Iterator<Item = i32> + use<'a> {
        self.0
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| i32::from_be_bytes(*bytes))
    }
}
