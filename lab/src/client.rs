//! A client for the few Kafka requests that the lab's scenarios need, in versions that brokers of 0.10.1 speak.
//!
//! The crate kafka-protocol encodes and decodes the messages; this file has connections, bounds and the scenarios' steps.
//! Connections are made in the calling thread's network: see [`crate::Cell::in_network`].

mod records;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_protocol::error::{ParseResponseErrorCode as _, ResponseError};
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    BrokerId, ConsumerProtocolAssignment, ConsumerProtocolSubscription, FetchRequest,
    FindCoordinatorRequest, JoinGroupRequest, LeaveGroupRequest, MetadataRequest, MetadataResponse,
    OffsetCommitRequest, OffsetFetchRequest, RequestHeader, SaslAuthenticateRequest,
    SaslHandshakeRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// Far larger than any answer to the lab's requests.
const FRAME_MAX: usize = 16 << 20;

// Fetch and JoinGroup have the versions that callers choose.
const METADATA: i16 = 1;
const OFFSET_COMMIT: i16 = 2;
const OFFSET_FETCH: i16 = 1;
const FIND_COORDINATOR: i16 = 0;
const LEAVE_GROUP: i16 = 0;
const SYNC_GROUP: i16 = 0;
/// The version of the headers of all requests above.
const HEADER: i16 = 1;
/// The version of the subscription and the assignment, which come after it.
const CONSUMER_PROTOCOL: i16 = 0;

/// How to get into a listener: without anything by default.
#[derive(Clone, Default)]
pub struct Access {
    pub tls: Option<Arc<ClientConfig>>,
    /// A user and the password, by PLAIN.
    pub login: Option<(&'static str, &'static str)>,
    /// The tokens of a login have no headers, as before Kafka 1.0.
    pub old: bool,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(into),
            Stream::Tls(stream) => stream.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

/// One connection to a broker.
pub struct Connection {
    stream: Stream,
    time: Duration,
    correlation: i32,
}

/// A member of a consumer group after its join and sync.
#[derive(Clone, Debug)]
pub struct Member {
    pub group: String,
    pub generation: i32,
    pub id: String,
}

impl Member {
    /// Returns a client that commits offsets without having joined the group.
    pub fn simple(group: &str) -> Member {
        Member {
            group: group.into(),
            generation: -1,
            id: String::new(),
        }
    }
}

/// The controller, the brokers (id and port) and partitions of a Metadata response.
#[derive(Debug, Default)]
pub struct Metadata {
    pub controller: Option<i32>,
    pub brokers: Vec<(i32, u16)>,
    pub partitions: Vec<Partition>,
}

/// One partition, by Metadata or by `kafka-topics --describe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub topic: String,
    pub partition: i32,
    /// None when the partition is offline.
    pub leader: Option<i32>,
    pub replicas: Vec<i32>,
    pub isr: Vec<i32>,
}

impl Partition {
    /// Whether the partition has a leader and all its replicas are in sync.
    pub fn is_fully_replicated(&self) -> bool {
        self.leader.is_some() && self.isr.len() == self.replicas.len()
    }
}

impl Connection {
    /// Connects to a loopback port; `time` bounds the connect and, by default, each answer.
    pub fn open(port: u16, time: Duration) -> io::Result<Connection> {
        Connection::open_at((Ipv4Addr::LOCALHOST, port).into(), time)
    }

    /// As [`Connection::open`], at any address.
    pub fn open_at(address: SocketAddr, time: Duration) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, time)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(time))?;
        Ok(Connection {
            stream: Stream::Plain(stream),
            time,
            correlation: 0,
        })
    }

    /// As [`Connection::open_at`], with the encryption and the login of `access`.
    pub fn open_with(
        address: SocketAddr,
        time: Duration,
        access: &Access,
    ) -> io::Result<Connection> {
        let mut connection = Connection::open_at(address, time)?;
        if let (Some(tls), Stream::Plain(stream)) = (&access.tls, &connection.stream) {
            let stream = stream.try_clone()?;
            // The handshake runs with the first bytes.
            stream.set_read_timeout(Some(time))?;
            let host = address.ip().into();
            let client = ClientConnection::new(Arc::clone(tls), host).map_err(invalid)?;
            connection.stream = Stream::Tls(Box::new(StreamOwned::new(client, stream)));
        }
        if let Some(login) = access.login {
            connection.log_in(login, access.old)?;
        }
        Ok(connection)
    }

    /// Changes the time for each answer.
    pub fn set_time(&mut self, time: Duration) {
        self.time = time;
    }

    fn log_in(&mut self, (user, password): (&str, &str), old: bool) -> io::Result<()> {
        let handshake = SaslHandshakeRequest::default().with_mechanism(name("PLAIN"));
        let answer = self.call(i16::from(!old), &handshake)?;
        check("SaslHandshake", user, answer.error_code)?;
        let token = format!("\0{user}\0{password}").into_bytes();
        if old {
            let length = (token.len() as i32).to_be_bytes();
            self.stream.write_all(&[&length, &token[..]].concat())?;
            // The broker answers with no bytes, or closes the connection.
            let mut length = [0; 4];
            return self.read(&mut length, Instant::now() + self.time);
        }
        let token = SaslAuthenticateRequest::default().with_auth_bytes(token.into());
        let answer = self.call(0, &token)?;
        check("SaslAuthenticate", user, answer.error_code)
    }

    fn send<R: Request>(&mut self, version: i16, request: &R) -> io::Result<()> {
        self.send_encoded(R::KEY, version, &encoded(request, version)?)
    }

    fn send_encoded(&mut self, key: i16, version: i16, request: &[u8]) -> io::Result<()> {
        self.correlation += 1;
        let header = RequestHeader::default()
            .with_request_api_key(key)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(name("lab")));
        let header = encoded(&header, HEADER)?;
        let length = (header.len() + request.len()) as i32;
        self.stream
            .write_all(&[&length.to_be_bytes(), &header[..], request].concat())
    }

    /// Returns the body of the next answer; the error `TimedOut` if it is not complete at `deadline`.
    pub fn receive(&mut self, deadline: Instant) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.read(&mut length, deadline)?;
        let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if !(4..=FRAME_MAX).contains(&length) {
            return Err(invalid(format!("an answer of {length} bytes")));
        }
        let mut correlation = [0; 4];
        self.read(&mut correlation, deadline)?;
        let mut body = vec![0; length - 4];
        self.read(&mut body, deadline)?;
        Ok(body)
    }

    fn read(&mut self, mut into: &mut [u8], deadline: Instant) -> io::Result<()> {
        while !into.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.tcp().set_read_timeout(Some(left))?;
            match self.stream.read(into) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => into = &mut into[count..],
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn body(&mut self) -> io::Result<Vec<u8>> {
        self.receive(Instant::now() + self.time)
    }

    fn answer<R: Request>(&mut self, version: i16) -> io::Result<R::Response> {
        let body = self.body()?;
        R::Response::decode(&mut body.as_slice(), version).map_err(invalid)
    }

    fn call<R: Request>(&mut self, version: i16, request: &R) -> io::Result<R::Response> {
        self.send(version, request)?;
        self.answer::<R>(version)
    }

    /// Asks for Metadata (version 1) of all topics and does not wait for the answer.
    pub fn send_metadata(&mut self) -> io::Result<()> {
        self.send(METADATA, &MetadataRequest::default().with_topics(None))
    }

    /// Returns the body of a Metadata response (version 1) about all topics, as the broker sent it.
    pub fn metadata_body(&mut self) -> io::Result<Vec<u8>> {
        self.send_metadata()?;
        self.body()
    }

    /// Returns all topics and brokers that this broker knows.
    pub fn metadata(&mut self) -> io::Result<Metadata> {
        let body = self.metadata_body()?;
        let response = MetadataResponse::decode(&mut body.as_slice(), METADATA).map_err(invalid)?;
        let ids = |nodes: Vec<BrokerId>| nodes.into_iter().map(|id| id.0).collect();
        let mut metadata = Metadata {
            controller: Some(response.controller_id.0).filter(|id| *id >= 0),
            ..Metadata::default()
        };
        for broker in response.brokers {
            let port = u16::try_from(broker.port).map_err(invalid)?;
            metadata.brokers.push((broker.node_id.0, port));
        }
        for topic in response.topics {
            let name = topic.name.unwrap_or_default();
            for partition in topic.partitions {
                metadata.partitions.push(Partition {
                    topic: name.to_string(),
                    partition: partition.partition_index,
                    leader: Some(partition.leader_id.0).filter(|id| *id >= 0),
                    replicas: ids(partition.replica_nodes),
                    isr: ids(partition.isr_nodes),
                });
            }
        }
        Ok(metadata)
    }

    /// Asks to join a group, in version 0 or 2 of the request, and does not wait for the answer.
    pub fn send_join(
        &mut self,
        version: i16,
        group: &str,
        topic: &str,
        session: Duration,
    ) -> io::Result<()> {
        let session = session.as_millis() as i32;
        let subscription = ConsumerProtocolSubscription::default().with_topics(vec![name(topic)]);
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(name("range"))
            .with_metadata(versioned(&subscription)?.into());
        let request = JoinGroupRequest::default()
            .with_group_id(name(group))
            .with_session_timeout_ms(session)
            .with_rebalance_timeout_ms(session)
            .with_protocol_type(name("consumer"))
            .with_protocols(vec![protocol]);
        self.send(version, &request)
    }

    /// Receives the answer to [`Connection::send_join`].
    pub fn receive_join(&mut self, version: i16, group: &str) -> io::Result<Member> {
        let joined = self.answer::<JoinGroupRequest>(version)?;
        check("JoinGroup", group, joined.error_code)?;
        Ok(Member {
            group: group.into(),
            generation: joined.generation_id,
            id: joined.member_id.to_string(),
        })
    }

    /// Assigns the topic's partition 0 to the group's only member and does not wait for the answer.
    pub fn send_sync(&mut self, member: &Member, topic: &str) -> io::Result<()> {
        let partition = TopicPartition::default()
            .with_topic(name(topic))
            .with_partitions(vec![0]);
        let assignment =
            ConsumerProtocolAssignment::default().with_assigned_partitions(vec![partition]);
        let assignment = SyncGroupRequestAssignment::default()
            .with_member_id(name(&member.id))
            .with_assignment(versioned(&assignment)?.into());
        let request = SyncGroupRequest::default()
            .with_group_id(name(&member.group))
            .with_generation_id(member.generation)
            .with_member_id(name(&member.id))
            .with_assignments(vec![assignment]);
        self.send(SYNC_GROUP, &request)
    }

    /// Receives the answer to [`Connection::send_sync`].
    pub fn receive_sync(&mut self, member: &Member) -> io::Result<()> {
        let synced = self.answer::<SyncGroupRequest>(SYNC_GROUP)?;
        check("SyncGroup", &member.group, synced.error_code)
    }

    /// Sends an offset commit of the topic's first `partitions` partitions and does not wait for the answer.
    pub fn send_commit(&mut self, member: &Member, topic: &str, partitions: i32) -> io::Result<()> {
        let partition = |index| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(index)
                .with_committed_offset(5)
        };
        let topic = OffsetCommitRequestTopic::default()
            .with_name(name(topic))
            .with_partitions((0..partitions).map(partition).collect());
        let request = OffsetCommitRequest::default()
            .with_group_id(name(&member.group))
            .with_generation_id_or_member_epoch(member.generation)
            .with_member_id(name(&member.id))
            .with_topics(vec![topic]);
        self.send(OFFSET_COMMIT, &request)
    }

    /// Sends the member's leave and does not wait for the answer.
    pub fn send_leave(&mut self, member: &Member) -> io::Result<()> {
        let request = LeaveGroupRequest::default()
            .with_group_id(name(&member.group))
            .with_member_id(name(&member.id));
        self.send(LEAVE_GROUP, &request)
    }

    /// Joins a group, commits an offset and leaves: two rebalances, and more where others do so at the same time.
    pub fn rebalance(&mut self, version: i16, group: &str, topic: &str) -> io::Result<()> {
        self.send_join(version, group, topic, Duration::from_secs(6))?;
        let member = self.receive_join(version, group)?;
        self.send_sync(&member, topic)?;
        // The broker refuses the sync if another member has joined meanwhile.
        let _ = self.receive_sync(&member);
        self.commit(&member, topic)?;
        self.send_leave(&member)?;
        self.body().map(drop)
    }

    /// Commits one offset and waits for the answer.
    pub fn commit(&mut self, member: &Member, topic: &str) -> io::Result<()> {
        self.send_commit(member, topic, 1)?;
        self.body().map(drop)
    }

    /// Fetches at most 1,000 bytes of a partition from offset 0, waiting at most 100 ms.
    pub fn fetch(&mut self, version: i16, topic: &str, partition: i32) -> io::Result<()> {
        self.send_fetch(version, topic, &[partition], Duration::from_millis(100), 1)?;
        self.body().map(drop)
    }

    /// Fetches partitions from offset 0, in version 3 or 4 of the request. The broker answers when they have `least`
    /// bytes or at the end of `wait`.
    pub fn send_fetch(
        &mut self,
        version: i16,
        topic: &str,
        partitions: &[i32],
        wait: Duration,
        least: i32,
    ) -> io::Result<()> {
        let request = fetch_request(version, topic, partitions, 0, wait, least)?;
        self.send_encoded(FetchRequest::KEY, version, &request)
    }

    /// Reads a group's offset of the topic's partition 0.
    pub fn fetch_offset(&mut self, group: &str, topic: &str) -> io::Result<()> {
        let topic = OffsetFetchRequestTopic::default()
            .with_name(name(topic))
            .with_partition_indexes(vec![0]);
        let request = OffsetFetchRequest::default()
            .with_group_id(name(group))
            .with_topics(Some(vec![topic]));
        self.call(OFFSET_FETCH, &request).map(drop)
    }

    /// Returns the id of the group's coordinator; an error while there is none.
    pub fn coordinator(&mut self, group: &str) -> io::Result<i32> {
        let request = FindCoordinatorRequest::default().with_key(name(group));
        let found = self.call(FIND_COORDINATOR, &request)?;
        check("FindCoordinator", group, found.error_code)?;
        Ok(found.node_id.0)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.tcp().as_fd()
    }
}

/// `of` is the group or the user. The error is `NotFound` where the coordinator does not have the member, because its session has ended.
fn check(request: &str, of: &str, error: i16) -> io::Result<()> {
    error.err().map_or(Ok(()), |error| {
        let kind = match error {
            ResponseError::UnknownMemberId => io::ErrorKind::NotFound,
            _ => io::ErrorKind::Other,
        };
        let message = format!("{request} of {of}: {error:?}");
        Err(io::Error::new(kind, message))
    })
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn name<T: From<StrBytes>>(name: &str) -> T {
    StrBytes::from_string(name.into()).into()
}

fn encoded(message: &impl Encodable, version: i16) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes, version).map_err(invalid)?;
    Ok(bytes)
}

/// Encodes a subscription or an assignment, which have their version in front.
fn versioned(message: &impl Encodable) -> io::Result<Vec<u8>> {
    let message = encoded(message, CONSUMER_PROTOCOL)?;
    Ok([&CONSUMER_PROTOCOL.to_be_bytes(), &message[..]].concat())
}

/// Encodes a Fetch. Brokers of 0.10.1 know none after version 3 and kafka-protocol none before 4: version 3 is version 4
/// without the isolation level.
fn fetch_request(
    version: i16,
    topic: &str,
    partitions: &[i32],
    offset: i64,
    wait: Duration,
    least: i32,
) -> io::Result<Vec<u8>> {
    const ISOLATION_LEVEL_AT: usize = 16;
    let partition = |index: &i32| {
        FetchPartition::default()
            .with_partition(*index)
            .with_fetch_offset(offset)
            .with_partition_max_bytes(1000)
    };
    let topic = FetchTopic::default()
        .with_topic(name(topic))
        .with_partitions(partitions.iter().map(partition).collect());
    let request = FetchRequest::default()
        .with_max_wait_ms(wait.as_millis() as i32)
        .with_min_bytes(least)
        .with_topics(vec![topic]);
    let mut bytes = encoded(&request, version.max(4))?;
    if version == 3 {
        bytes.remove(ISOLATION_LEVEL_AT);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn fetch_3_is_fetch_4_without_the_isolation_level() {
        let fetch = |version| fetch_request(version, "t", &[7], 0, Duration::from_millis(100), 1);
        // Replica, longest wait, least and most bytes, isolation level, topics, partitions: index, offset, most bytes.
        let parts: [&[u8]; 10] = [
            &[0xff; 4],
            &[0, 0, 0, 100],
            &[0, 0, 0, 1],
            &[0x7f, 0xff, 0xff, 0xff],
            &[0],
            &[0, 0, 0, 1, 0, 1, b't'],
            &[0, 0, 0, 1],
            &[0, 0, 0, 7],
            &[0; 8],
            &[0, 0, 0x03, 0xe8],
        ];
        assert_eq!(fetch(4).unwrap(), parts.concat());
        assert_eq!(
            fetch(3).unwrap(),
            [&parts[..4], &parts[5..]].concat().concat()
        );
    }
}
