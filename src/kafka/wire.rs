//! Encodes requests and decodes responses, in versions that every broker from 0.10.0 to 4.x supports.
//!
//! Responses are read in place. No number from the wire decides an allocation, and a response that is cut off, too long
//! or malformed is an error that names the field and the byte.
//!
//! Metadata is asked in version 6 (Kafka 2.0) if the broker offers it, because in older versions a leader without the
//! asked listener looks like no leader. Otherwise it is asked in version 1, which every broker since 0.10.0 answers.
//! Version 0 would be wrong: there, brokers leave dead replicas out of the replica list, so that a partition with a dead
//! follower looks fully replicated.

pub mod groups;

use super::reader::Reader;
pub use super::reader::{Ids, Problem, WireError};

pub const API_VERSIONS: i16 = 18;
pub const METADATA: i16 = 3;
const FETCH: i16 = 1;
const LIST_OFFSETS: i16 = 2;
const OFFSET_FETCH: i16 = 9;
const DESCRIBE_GROUPS: i16 = 15;
const LIST_GROUPS: i16 = 16;
/// Every broker answers this version. It may answer a newer one with an error in an older encoding.
pub const API_VERSIONS_VERSION: i16 = 0;
pub const METADATA_VERSION: i16 = 1;
pub const METADATA_WITH_LISTENERS: i16 = 6;
const SASL_HANDSHAKE: i16 = 17;
const SASL_AUTHENTICATE: i16 = 36;
/// Version 1 adds how long the login lasts, after which the broker closes the connection in any version.
const SASL_AUTHENTICATE_VERSION: i16 = 0;

/// Error of a mechanism that the broker does not offer.
pub const UNSUPPORTED_SASL_MECHANISM: i16 = 33;

/// Error of a partition whose leader lives but has no listener with the asked name.
pub const LISTENER_NOT_FOUND: i16 = 72;

/// Bounds what a hostile broker can make the exporter keep. No cluster has so many brokers.
pub const MAX_BROKERS: usize = 10_000;
/// The longest DNS name has 253 bytes.
pub const MAX_HOST_BYTES: usize = 255;
/// Kafka itself accepts no longer topic name.
pub const MAX_TOPIC_BYTES: usize = 249;

const CLIENT_ID: &str = "kafka-vitals";

/// How Kafka's messages without variable lengths are encoded.
impl<'a> Reader<'a> {
    fn port(&mut self, field: &'static str) -> Result<u16, WireError> {
        let start = self.clone();
        let port = self.int32(field)?;
        u16::try_from(port).map_err(|_| start.error(field, Problem::NoPort(port)))
    }

    /// Reads a string of any length. Use it only for what is not kept.
    fn nullable_string(&mut self, field: &'static str) -> Result<Option<&'a str>, WireError> {
        self.string_up_to(usize::MAX, field)
    }

    fn string_up_to(
        &mut self,
        limit: usize,
        field: &'static str,
    ) -> Result<Option<&'a str>, WireError> {
        let start = self.clone();
        let length = self.int16(field)?;
        let bytes = self.sized(&start, length.into(), limit, field)?;
        bytes.map(|bytes| start.utf8(bytes, field)).transpose()
    }

    /// Reads a string that is kept, so its length has a limit.
    fn string(&mut self, limit: usize, field: &'static str) -> Result<&'a str, WireError> {
        let start = self.clone();
        self.string_up_to(limit, field)?
            .ok_or_else(|| start.error(field, Problem::Negative(-1)))
    }

    fn ids(&mut self, field: &'static str) -> Result<Ids<'a>, WireError> {
        let count = self.count(4, field)?;
        Ok(Ids::of(self.take(count * 4, field)?))
    }
}

/// Encodes a frame: length, header version 1, body.
fn frame(api: i16, version: i16, correlation: i32, body: &[u8]) -> Vec<u8> {
    let length = 2 + 2 + 4 + 2 + CLIENT_ID.len() + body.len();
    let mut frame = Vec::with_capacity(4 + length);
    frame.extend_from_slice(&(length as i32).to_be_bytes());
    frame.extend_from_slice(&api.to_be_bytes());
    frame.extend_from_slice(&version.to_be_bytes());
    frame.extend_from_slice(&correlation.to_be_bytes());
    frame.extend_from_slice(&(CLIENT_ID.len() as i16).to_be_bytes());
    frame.extend_from_slice(CLIENT_ID.as_bytes());
    frame.extend_from_slice(body);
    frame
}

/// Asks which version of each request the broker answers.
pub fn api_versions_request(correlation: i32) -> Vec<u8> {
    frame(API_VERSIONS, API_VERSIONS_VERSION, correlation, &[])
}

/// Asks for all topics with a null array, because naming a topic that does not exist could create it.
pub fn metadata_request(correlation: i32) -> Vec<u8> {
    frame(
        METADATA,
        METADATA_VERSION,
        correlation,
        &(-1_i32).to_be_bytes(),
    )
}

/// The same in version 6, which also says that no topic may be created.
pub fn metadata_with_listeners_request(correlation: i32) -> Vec<u8> {
    frame(
        METADATA,
        METADATA_WITH_LISTENERS,
        correlation,
        &[0xff, 0xff, 0xff, 0xff, 0],
    )
}

/// Says by which mechanism the login is. After version 0, tokens follow in frames of their own ([`bare`]); after version
/// 1, in SaslAuthenticate.
pub fn sasl_handshake_request(correlation: i32, version: i16, mechanism: &str) -> Vec<u8> {
    let length = (mechanism.len() as i16).to_be_bytes();
    let body = [&length, mechanism.as_bytes()].concat();
    frame(SASL_HANDSHAKE, version, correlation, &body)
}

/// Carries one token of a login.
pub fn sasl_authenticate_request(correlation: i32, token: &[u8]) -> Vec<u8> {
    let body = [&(token.len() as i32).to_be_bytes(), token].concat();
    frame(
        SASL_AUTHENTICATE,
        SASL_AUTHENTICATE_VERSION,
        correlation,
        &body,
    )
}

/// A frame without any header.
pub fn bare(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as i32).to_be_bytes(), bytes].concat()
}

/// Reads the body of a SaslHandshake response: Kafka's error code, and the mechanisms that the broker offers.
pub fn sasl_handshake(body: &[u8]) -> Result<(i16, Vec<&str>), WireError> {
    /// There are five.
    const MOST: usize = 20;
    let mut reader = Reader::new(body);
    let error = reader.int16("error code")?;
    let mut mechanisms = Vec::new();
    for _ in 0..reader.count(2, "mechanisms")? {
        let mechanism = reader.string(MAX_TOPIC_BYTES, "mechanism")?;
        if mechanisms.len() < MOST {
            mechanisms.push(mechanism);
        }
    }
    reader.end("sasl handshake")?;
    Ok((error, mechanisms))
}

/// A SaslAuthenticate response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaslAuthenticate<'a> {
    /// Kafka's error code; 0 is none.
    pub error: i16,
    pub message: Option<&'a str>,
    pub token: &'a [u8],
}

/// Reads the body of a SaslAuthenticate response.
pub fn sasl_authenticate(body: &[u8]) -> Result<SaslAuthenticate<'_>, WireError> {
    let mut reader = Reader::new(body);
    let error = reader.int16("error code")?;
    let message = reader.nullable_string("error message")?;
    let length = reader.count(1, "token")?;
    let token = reader.take(length, "token")?;
    reader.end("sasl authenticate")?;
    Ok(SaslAuthenticate {
        error,
        message,
        token,
    })
}

/// The part of an ApiVersions response that is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiVersions {
    /// Kafka's error code; 0 is none.
    pub error: i16,
    /// Oldest and newest version of Metadata; None if the broker does not know the request.
    pub metadata: Option<(i16, i16)>,
    /// Whether the broker knows SaslAuthenticate.
    pub sasl_authenticate: bool,
    pub groups: GroupVersions,
}

/// Oldest and newest version of the requests of [`groups`]; None if the broker does not know one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupVersions {
    pub fetch: Option<(i16, i16)>,
    pub list_offsets: Option<(i16, i16)>,
    pub offset_fetch: Option<(i16, i16)>,
    pub describe_groups: Option<(i16, i16)>,
    pub list_groups: Option<(i16, i16)>,
}

/// Reads the body of an ApiVersions response, version 0.
pub fn api_versions(body: &[u8]) -> Result<ApiVersions, WireError> {
    let mut reader = Reader::new(body);
    let mut answer = ApiVersions {
        error: reader.int16("error code")?,
        metadata: None,
        sasl_authenticate: false,
        groups: GroupVersions::default(),
    };
    for _ in 0..reader.count(6, "api keys")? {
        let key = reader.int16("api key")?;
        let range = (
            reader.int16("oldest version")?,
            reader.int16("newest version")?,
        );
        match key {
            METADATA => answer.metadata = Some(range),
            SASL_AUTHENTICATE => answer.sasl_authenticate = true,
            FETCH => answer.groups.fetch = Some(range),
            LIST_OFFSETS => answer.groups.list_offsets = Some(range),
            OFFSET_FETCH => answer.groups.offset_fetch = Some(range),
            DESCRIBE_GROUPS => answer.groups.describe_groups = Some(range),
            LIST_GROUPS => answer.groups.list_groups = Some(range),
            _ => {}
        }
    }
    reader.end("api versions")?;
    Ok(answer)
}

/// One part of a Metadata response. They come in the order of the message: brokers, controller, then each topic before
/// its partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    Broker {
        id: i32,
        host: &'a str,
        port: u16,
    },
    /// -1 while there is none.
    Controller(i32),
    Topic {
        error: i16,
        name: &'a str,
    },
    Partition(Partition<'a>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition<'a> {
    /// Kafka's error code: 5 no leader, 9 a replica is not available (from old brokers), [`LISTENER_NOT_FOUND`].
    pub error: i16,
    pub topic: &'a str,
    pub index: i32,
    /// -1 is none.
    pub leader: i32,
    pub replicas: Ids<'a>,
    /// Usually empty while there is no leader.
    pub isr: Ids<'a>,
}

/// Iterates over the body of a Metadata response without allocating. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Metadata<'a> {
    reader: Reader<'a>,
    with_listeners: bool,
    next: Next,
    topic: &'a str,
    topics: usize,
}

#[derive(Debug, Clone, Copy)]
enum Next {
    Start,
    Brokers { left: usize },
    Topic,
    Partitions { left: usize },
    Done,
}

impl<'a> Metadata<'a> {
    /// `version` is [`METADATA_VERSION`] or [`METADATA_WITH_LISTENERS`].
    pub fn new(body: &'a [u8], version: i16) -> Self {
        let with_listeners = version == METADATA_WITH_LISTENERS;
        Metadata {
            reader: Reader::new(body),
            with_listeners,
            next: Next::Start,
            topic: "",
            topics: 0,
        }
    }

    fn read(&mut self) -> Result<Option<Item<'a>>, WireError> {
        let reader = &mut self.reader;
        loop {
            match self.next {
                Next::Start => {
                    if self.with_listeners {
                        reader.int32("throttle time")?;
                    }
                    let left = reader.count_up_to(MAX_BROKERS, 12, "brokers")?;
                    self.next = Next::Brokers { left };
                }
                Next::Brokers { left: 0 } => {
                    if self.with_listeners {
                        reader.nullable_string("cluster id")?;
                    }
                    let controller = reader.int32("controller id")?;
                    self.topics = reader.count(9, "topics")?;
                    self.next = Next::Topic;
                    return Ok(Some(Item::Controller(controller)));
                }
                Next::Brokers { left } => {
                    self.next = Next::Brokers { left: left - 1 };
                    let id = reader.int32("broker id")?;
                    let host = reader.string(MAX_HOST_BYTES, "broker host")?;
                    let port = reader.port("broker port")?;
                    reader.nullable_string("broker rack")?;
                    return Ok(Some(Item::Broker { id, host, port }));
                }
                Next::Topic if self.topics == 0 => {
                    reader.end("metadata")?;
                    self.next = Next::Done;
                }
                Next::Topic => {
                    self.topics -= 1;
                    let error = reader.int16("topic error code")?;
                    let name = reader.string(MAX_TOPIC_BYTES, "topic name")?;
                    reader.array::<1>("topic is internal")?;
                    self.topic = name;
                    self.next = Next::Partitions {
                        left: reader.count(18, "partitions")?,
                    };
                    return Ok(Some(Item::Topic { error, name }));
                }
                Next::Partitions { left: 0 } => self.next = Next::Topic,
                Next::Partitions { left } => {
                    self.next = Next::Partitions { left: left - 1 };
                    let partition = Partition {
                        error: reader.int16("partition error code")?,
                        topic: self.topic,
                        index: reader.int32("partition")?,
                        leader: reader.int32("leader id")?,
                        replicas: reader.ids("replicas")?,
                        isr: reader.ids("isr")?,
                    };
                    if self.with_listeners {
                        reader.ids("offline replicas")?;
                    }
                    return Ok(Some(Item::Partition(partition)));
                }
                Next::Done => return Ok(None),
            }
        }
    }
}

impl<'a> Iterator for Metadata<'a> {
    type Item = Result<Item<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.read();
        if item.is_err() {
            self.next = Next::Done;
        }
        item.transpose()
    }
}

#[cfg(test)]
mod tests;
