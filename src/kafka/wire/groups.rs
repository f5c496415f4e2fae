//! Requests about consumer groups and their offsets, and a Fetch that takes a partition's lock and reads nothing.
//!
//! Each is asked in one version that the brokers share which have it at all: 4.x has dropped older ones, and only the newer
//! ListGroups says the state of a group, of the protocol of KIP-848 as well.

use std::sync::Arc;

use super::{
    DESCRIBE_GROUPS, FETCH, LIST_GROUPS, LIST_OFFSETS, MAX_TOPIC_BYTES, OFFSET_FETCH, Reader,
    WireError, frame,
};

/// From 0.11.0 to 4.x.
pub const FETCH_VERSION: i16 = 4;
/// Before.
pub const FETCH_OF_0_10: i16 = 2;
/// From 0.10.1 to 4.x. Version 0 may answer with the start of a segment.
pub const LIST_OFFSETS_VERSION: i16 = 1;
/// From 0.10.2 to 4.x: the first that can be asked for all partitions of a group.
pub const OFFSET_FETCH_ALL: i16 = 2;
/// Before, partitions are asked for by name.
pub const OFFSET_FETCH_NAMED: i16 = 1;
pub const DESCRIBE_GROUPS_VERSION: i16 = 0;
pub const LIST_GROUPS_VERSION: i16 = 0;
/// From 2.6: with the state of each group.
pub const LIST_GROUPS_WITH_STATES: i16 = 4;

/// Who asks ListOffsets: any client, whom leaders answer alone.
pub const CLIENT: i32 = -1;
/// Somebody who debugs, whom followers answer as well.
pub const DEBUGGING: i32 = -2;

/// Kafka's error codes.
pub const OFFSET_OUT_OF_RANGE: i16 = 1;
pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
pub const NOT_LEADER: i16 = 6;
pub const COORDINATOR_LOADING: i16 = 14;
pub const NOT_COORDINATOR: i16 = 16;
pub const TOPIC_AUTHORIZATION: i16 = 29;
pub const GROUP_AUTHORIZATION: i16 = 30;
pub const CLUSTER_AUTHORIZATION: i16 = 31;

/// The offset after the last record.
const LATEST: i64 = -1;
/// No partition has it, so the broker takes the partition's lock, finds it out of range, and reads no record.
const BEYOND: i64 = i64::MAX;
const MIB: usize = 1 << 20;

/// A topic and the index of a partition of it.
pub type TopicPartition = (Arc<str>, i32);

/// One request, without its correlation id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub name: &'static str,
    api: i16,
    version: i16,
    body: Vec<u8>,
    /// A longer answer is an error.
    pub cap: usize,
}

impl Request {
    /// Asks for the groups that the broker coordinates.
    pub fn list_groups(version: i16) -> Request {
        let body = match version {
            // The header's tagged fields, no filter of states, tagged fields.
            LIST_GROUPS_WITH_STATES => vec![0, 1, 0],
            _ => Vec::new(),
        };
        Request {
            name: "ListGroups",
            api: LIST_GROUPS,
            version,
            body,
            cap: 8 * MIB,
        }
    }

    pub fn describe_groups(groups: &[Arc<str>]) -> Request {
        let mut body = count(groups.len());
        for group in groups {
            string(&mut body, group);
        }
        Request {
            name: "DescribeGroups",
            api: DESCRIBE_GROUPS,
            version: DESCRIBE_GROUPS_VERSION,
            body,
            cap: 8 * MIB,
        }
    }

    /// Asks for the committed offsets of a group: of all partitions, or of these, which are sorted.
    pub fn offset_fetch(group: &str, partitions: Option<&[TopicPartition]>) -> Request {
        let mut body = Vec::new();
        string(&mut body, group);
        let version = match partitions {
            None => {
                body.extend((-1_i32).to_be_bytes());
                OFFSET_FETCH_ALL
            }
            Some(partitions) => {
                by_topic(&mut body, partitions, &[]);
                OFFSET_FETCH_NAMED
            }
        };
        Request {
            name: "OffsetFetch",
            api: OFFSET_FETCH,
            version,
            body,
            cap: 8 * MIB,
        }
    }

    /// Asks for the end offsets of these partitions, which are sorted. `who` is [`CLIENT`] or [`DEBUGGING`].
    pub fn list_offsets(who: i32, partitions: &[TopicPartition]) -> Request {
        let mut body = who.to_be_bytes().to_vec();
        by_topic(&mut body, partitions, &LATEST.to_be_bytes());
        Request {
            name: "ListOffsets",
            api: LIST_OFFSETS,
            version: LIST_OFFSETS_VERSION,
            body,
            cap: 2 * MIB,
        }
    }

    /// Asks for one byte of a partition at an offset that it does not have, without waiting.
    pub fn fetch(version: i16, partition: TopicPartition) -> Request {
        let mut body = CLIENT.to_be_bytes().to_vec();
        // At most so long, at least so many bytes.
        body.extend([0; 8]);
        if version == FETCH_VERSION {
            // Bytes in all, and any isolation.
            body.extend(1_i32.to_be_bytes());
            body.push(0);
        }
        let at = [&BEYOND.to_be_bytes()[..], &1_i32.to_be_bytes()].concat();
        by_topic(&mut body, &[partition], &at);
        Request {
            name: "Fetch",
            api: FETCH,
            version,
            body,
            cap: MIB,
        }
    }

    pub fn frame(&self, correlation: i32) -> Vec<u8> {
        frame(self.api, self.version, correlation, &self.body)
    }
}

fn count(elements: usize) -> Vec<u8> {
    // Callers ask for some thousands at most.
    (elements as i32).to_be_bytes().to_vec()
}

fn string(body: &mut Vec<u8>, text: &str) {
    body.extend((text.len() as i16).to_be_bytes());
    body.extend(text.as_bytes());
}

/// Writes the partitions by topic, with this after the index of each.
fn by_topic(body: &mut Vec<u8>, partitions: &[TopicPartition], after: &[u8]) {
    let topics = || partitions.chunk_by(|(one, _), (other, _)| one == other);
    body.extend(count(topics().count()));
    for of_topic in topics() {
        if let Some((topic, _)) = of_topic.first() {
            string(body, topic);
        }
        body.extend(count(of_topic.len()));
        for (_, index) in of_topic {
            body.extend(index.to_be_bytes());
            body.extend(after);
        }
    }
}

/// A group of a ListGroups response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed<'a> {
    pub group: &'a str,
    pub protocol: &'a str,
    /// In Kafka's words; None where the version does not say it.
    pub state: Option<&'a str>,
}

/// Shows each group of a ListGroups response to `each`, and returns Kafka's error code.
pub fn list_groups<'a>(
    body: &'a [u8],
    version: i16,
    mut each: impl FnMut(Listed<'a>),
) -> Result<i16, WireError> {
    let mut reader = Reader::new(body);
    if version != LIST_GROUPS_WITH_STATES {
        let error = reader.int16("error code")?;
        for _ in 0..reader.count(4, "groups")? {
            each(Listed {
                group: reader.string(usize::MAX, "group")?,
                protocol: reader.string(usize::MAX, "protocol type")?,
                state: None,
            });
        }
        reader.end("groups")?;
        return Ok(error);
    }
    reader.tagged(|_, _| Ok(()))?;
    reader.int32("throttle time")?;
    let error = reader.int16("error code")?;
    for _ in 0..reader.compact_count(4, "groups")?.unwrap_or(0) {
        each(Listed {
            group: reader.text(usize::MAX, "group")?,
            protocol: reader.text(usize::MAX, "protocol type")?,
            state: Some(reader.text(usize::MAX, "group state")?),
        });
        reader.tagged(|_, _| Ok(()))?;
    }
    reader.tagged(|_, _| Ok(()))?;
    reader.end("groups")?;
    Ok(error)
}

/// A part of a DescribeGroups response: each group comes before what its members have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Described<'a> {
    Group {
        error: i16,
        group: &'a str,
        state: &'a str,
    },
    /// A partition that a member has.
    Assigned { topic: &'a str, partition: i32 },
    /// What a member has is not encoded as consumers do it.
    Unreadable,
}

pub fn describe_groups<'a>(
    body: &'a [u8],
    mut each: impl FnMut(Described<'a>),
) -> Result<(), WireError> {
    let mut reader = Reader::new(body);
    for _ in 0..reader.count(14, "groups")? {
        each(Described::Group {
            error: reader.int16("error code")?,
            group: reader.string(usize::MAX, "group")?,
            state: reader.string(usize::MAX, "group state")?,
        });
        reader.string(usize::MAX, "protocol type")?;
        reader.string(usize::MAX, "protocol")?;
        for _ in 0..reader.count(14, "members")? {
            for field in ["member", "client id", "client host"] {
                reader.string(usize::MAX, field)?;
            }
            reader.bytes("member metadata")?;
            let assignment = reader.bytes("assignment")?;
            if !assignment.is_empty() && assigned(assignment, &mut each).is_err() {
                each(Described::Unreadable);
            }
        }
    }
    reader.end("groups")
}

/// Reads what the leader of a group of consumers has assigned to a member.
fn assigned<'a>(
    assignment: &'a [u8],
    each: &mut impl FnMut(Described<'a>),
) -> Result<(), WireError> {
    let mut reader = Reader::new(assignment);
    reader.int16("version of the assignment")?;
    for _ in 0..reader.count(6, "assigned topics")? {
        let topic = reader.string(MAX_TOPIC_BYTES, "assigned topic")?;
        for partition in reader.ids("assigned partitions")?.iter() {
            each(Described::Assigned { topic, partition });
        }
    }
    Ok(())
}

/// A partition with an offset, in an answer to OffsetFetch or ListOffsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offset<'a> {
    pub topic: &'a str,
    pub partition: i32,
    /// Kafka's error code; 0 is none.
    pub error: i16,
    /// -1 is none.
    pub offset: i64,
}

/// Shows each partition of an OffsetFetch response, and returns Kafka's error code for the whole group.
pub fn offset_fetch<'a>(
    body: &'a [u8],
    version: i16,
    mut each: impl FnMut(Offset<'a>),
) -> Result<i16, WireError> {
    let mut reader = Reader::new(body);
    for _ in 0..reader.count(6, "topics")? {
        let topic = reader.string(MAX_TOPIC_BYTES, "topic")?;
        for _ in 0..reader.count(16, "partitions")? {
            let (partition, offset) = (reader.int32("partition")?, reader.int64("offset")?);
            reader.nullable_string("metadata")?;
            let error = reader.int16("partition error code")?;
            each(Offset {
                topic,
                partition,
                error,
                offset,
            });
        }
    }
    let error = match version {
        OFFSET_FETCH_NAMED => 0,
        _ => reader.int16("error code")?,
    };
    reader.end("offsets")?;
    Ok(error)
}

/// Shows each partition of a ListOffsets response.
pub fn list_offsets<'a>(body: &'a [u8], mut each: impl FnMut(Offset<'a>)) -> Result<(), WireError> {
    let mut reader = Reader::new(body);
    for _ in 0..reader.count(6, "topics")? {
        let topic = reader.string(MAX_TOPIC_BYTES, "topic")?;
        for _ in 0..reader.count(22, "partitions")? {
            let partition = reader.int32("partition")?;
            let error = reader.int16("partition error code")?;
            reader.int64("timestamp")?;
            let offset = reader.int64("offset")?;
            each(Offset {
                topic,
                partition,
                error,
                offset,
            });
        }
    }
    reader.end("offsets")
}

/// Returns Kafka's error code for the first partition of a Fetch response; None if it has none.
pub fn fetch(body: &[u8]) -> Result<Option<i16>, WireError> {
    let mut reader = Reader::new(body);
    reader.int32("throttle time")?;
    if reader.count(6, "topics")? == 0 {
        return Ok(None);
    }
    reader.string(MAX_TOPIC_BYTES, "topic")?;
    if reader.count(18, "partitions")? == 0 {
        return Ok(None);
    }
    reader.int32("partition")?;
    reader.int16("partition error code").map(Some)
}

impl<'a> Reader<'a> {
    /// Bytes that may not be null.
    fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], WireError> {
        let length = self.count(1, field)?;
        self.take(length, field)
    }
}

#[cfg(test)]
mod tests;
