//! The few Kafka requests that make trouble, in the versions that 0.10.1 speaks. Connections are made in the calling
//! thread's network: see [`crate::Cell::in_network`].

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Far above any answer that the lab asks for.
const FRAME_MAX: usize = 16 << 20;

const FETCH: i16 = 1;
const METADATA: i16 = 3;
const OFFSET_COMMIT: i16 = 8;
const OFFSET_FETCH: i16 = 9;
const FIND_COORDINATOR: i16 = 10;
const JOIN_GROUP: i16 = 11;
const LEAVE_GROUP: i16 = 13;
const SYNC_GROUP: i16 = 14;

/// One connection to a broker.
pub struct Connection {
    stream: TcpStream,
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
    /// Somebody who commits offsets without having joined the group.
    pub fn simple(group: &str) -> Member {
        Member {
            group: group.into(),
            generation: -1,
            id: String::new(),
        }
    }
}

/// What Metadata v1 says.
#[derive(Debug)]
pub struct Metadata {
    pub brokers: Vec<(i32, u16)>,
    pub partitions: Vec<Partition>,
}

/// One partition, by Metadata or by `kafka-topics --describe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub topic: String,
    pub partition: i32,
    /// Nothing when the partition has no leader.
    pub leader: Option<i32>,
    pub replicas: Vec<i32>,
    pub isr: Vec<i32>,
}

impl Partition {
    pub fn is_fully_replicated(&self) -> bool {
        self.leader.is_some() && self.isr.len() == self.replicas.len()
    }
}

impl Connection {
    /// Connects to a loopback port; `time` bounds the connect and, by default, each answer.
    pub fn open(port: u16, time: Duration) -> io::Result<Connection> {
        let stream =
            TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), time)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(time))?;
        Ok(Connection {
            stream,
            time,
            correlation: 0,
        })
    }

    fn send(&mut self, key: i16, version: i16, body: Body) -> io::Result<()> {
        self.correlation += 1;
        let mut request = Body::default()
            .i16(key)
            .i16(version)
            .i32(self.correlation)
            .string("lab");
        request.0.extend(body.0);
        let mut frame = Body::default().i32(request.0.len() as i32);
        frame.0.extend(request.0);
        self.stream.write_all(&frame.0)
    }

    /// The next answer, without its correlation id; `TimedOut` when it does not come in time.
    pub fn receive(&mut self, deadline: Instant) -> io::Result<Reply> {
        let mut length = [0; 4];
        self.read(&mut length, deadline)?;
        let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if !(4..=FRAME_MAX).contains(&length) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("an answer of {length} bytes"),
            ));
        }
        let mut bytes = vec![0; length];
        self.read(&mut bytes, deadline)?;
        Ok(Reply { bytes, at: 4 })
    }

    fn read(&mut self, mut into: &mut [u8], deadline: Instant) -> io::Result<()> {
        while !into.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
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

    fn call(&mut self, key: i16, version: i16, body: Body) -> io::Result<Reply> {
        self.send(key, version, body)?;
        self.receive(Instant::now() + self.time)
    }

    /// The body of a Metadata response (version 1) about all topics, as the broker sent it.
    pub fn metadata_body(&mut self) -> io::Result<Vec<u8>> {
        let reply = self.call(METADATA, 1, Body::default().i32(-1))?;
        Ok(reply.bytes.get(reply.at..).unwrap_or_default().to_vec())
    }

    /// All topics and brokers that this broker knows.
    pub fn metadata(&mut self) -> io::Result<Metadata> {
        let mut reply = Reply {
            bytes: self.metadata_body()?,
            at: 0,
        };
        let brokers = reply.array(|reply| {
            let (id, _host, port, _rack) =
                (reply.i32()?, reply.string()?, reply.i32()?, reply.string()?);
            Ok((id, u16::try_from(port).map_err(io::Error::other)?))
        })?;
        let _controller = reply.i32()?;
        let topics = reply.array(|reply| {
            let (_error, topic, _internal) = (reply.i16()?, reply.string()?, reply.i8()?);
            reply.array(|reply| {
                let (_error, partition, leader) = (reply.i16()?, reply.i32()?, reply.i32()?);
                let (replicas, isr) = (reply.array(Reply::i32)?, reply.array(Reply::i32)?);
                Ok(Partition {
                    topic: topic.clone(),
                    partition,
                    leader: (leader >= 0).then_some(leader),
                    replicas,
                    isr,
                })
            })
        })?;
        Ok(Metadata {
            brokers,
            partitions: topics.into_iter().flatten().collect(),
        })
    }

    /// Asks to join a group, in version 0 or 2 of the request.
    pub fn send_join(
        &mut self,
        version: i16,
        group: &str,
        topic: &str,
        session: Duration,
    ) -> io::Result<()> {
        let subscription = Body::default().i16(0).i32(1).string(topic).i32(0);
        let session = session.as_millis() as i32;
        let body = Body::default().string(group).i32(session);
        let body = if version > 0 { body.i32(session) } else { body }
            .string("")
            .string("consumer");
        self.send(
            JOIN_GROUP,
            version,
            body.i32(1).string("range").bytes(&subscription),
        )
    }

    /// The answer to [`Connection::send_join`].
    pub fn receive_join(&mut self, version: i16, group: &str) -> io::Result<Member> {
        let mut reply = self.receive(Instant::now() + self.time)?;
        if version > 0 {
            let _throttled_ms = reply.i32()?;
        }
        check("JoinGroup", group, reply.i16()?)?;
        let generation = reply.i32()?;
        let (_protocol, _leader, id) = (reply.string()?, reply.string()?, reply.string()?);
        Ok(Member {
            group: group.into(),
            generation,
            id,
        })
    }

    /// Assigns the topic's partition 0 to the group's only member.
    pub fn send_sync(&mut self, member: &Member, topic: &str) -> io::Result<()> {
        let assignment = Body::default()
            .i16(0)
            .i32(1)
            .string(topic)
            .i32(1)
            .i32(0)
            .i32(0);
        let body = Body::default()
            .string(&member.group)
            .i32(member.generation)
            .string(&member.id);
        self.send(
            SYNC_GROUP,
            0,
            body.i32(1).string(&member.id).bytes(&assignment),
        )
    }

    /// The answer to [`Connection::send_sync`].
    pub fn receive_sync(&mut self, member: &Member) -> io::Result<()> {
        let error = self.receive(Instant::now() + self.time)?.i16()?;
        check("SyncGroup", &member.group, error)
    }

    /// Sends an offset commit of the topic's first `partitions` partitions and does not wait for its answer.
    pub fn send_commit(&mut self, member: &Member, topic: &str, partitions: i32) -> io::Result<()> {
        let body = Body::default()
            .string(&member.group)
            .i32(member.generation)
            .string(&member.id)
            .i64(-1);
        let body = body.i32(1).string(topic).i32(partitions);
        let body = (0..partitions).fold(body, |body, partition| {
            body.i32(partition).i64(5).string("")
        });
        self.send(OFFSET_COMMIT, 2, body)
    }

    /// Sends the member's leave and does not wait for its answer.
    pub fn send_leave(&mut self, member: &Member) -> io::Result<()> {
        self.send(
            LEAVE_GROUP,
            0,
            Body::default().string(&member.group).string(&member.id),
        )
    }

    /// Joins a group, commits an offset and leaves: two rebalances, and more where others do so at the same time.
    pub fn rebalance(&mut self, version: i16, group: &str, topic: &str) -> io::Result<()> {
        self.send_join(version, group, topic, Duration::from_secs(6))?;
        let member = self.receive_join(version, group)?;
        self.send_sync(&member, topic)?;
        // Refused where another member has joined meanwhile.
        let _ = self.receive_sync(&member);
        self.commit(&member, topic)?;
        self.send_leave(&member)?;
        self.receive(Instant::now() + self.time).map(drop)
    }

    /// Commits one offset and waits for the answer.
    pub fn commit(&mut self, member: &Member, topic: &str) -> io::Result<()> {
        self.send_commit(member, topic, 1)?;
        self.receive(Instant::now() + self.time).map(drop)
    }

    /// Fetches at most 1,000 bytes of a partition from offset 0, waiting at most 100 ms.
    pub fn fetch(&mut self, version: i16, topic: &str, partition: i32) -> io::Result<()> {
        self.send_fetch(version, topic, &[partition], Duration::from_millis(100), 1)?;
        self.receive(Instant::now() + self.time).map(drop)
    }

    /// Asks for partitions from offset 0, to be answered when they have `least` bytes or at the end of `wait`.
    pub fn send_fetch(
        &mut self,
        version: i16,
        topic: &str,
        partitions: &[i32],
        wait: Duration,
        least: i32,
    ) -> io::Result<()> {
        let body = Body::default()
            .i32(-1)
            .i32(wait.as_millis() as i32)
            .i32(least);
        let body = if version >= 4 {
            body.i32(1000).i8(0)
        } else {
            body
        };
        let body = body.i32(1).string(topic).i32(partitions.len() as i32);
        let body = partitions.iter().fold(body, |body, partition| {
            body.i32(*partition).i64(0).i32(1000)
        });
        self.send(FETCH, version, body)
    }

    /// Reads a group's offset of the topic's partition 0.
    pub fn fetch_offset(&mut self, group: &str, topic: &str) -> io::Result<()> {
        self.call(
            OFFSET_FETCH,
            1,
            Body::default()
                .string(group)
                .i32(1)
                .string(topic)
                .i32(1)
                .i32(0),
        )
        .map(drop)
    }

    /// The id of the group's coordinator; an error while there is none.
    pub fn coordinator(&mut self, group: &str) -> io::Result<i32> {
        let mut reply = self.call(FIND_COORDINATOR, 0, Body::default().string(group))?;
        check("FindCoordinator", group, reply.i16()?)?;
        reply.i32()
    }
}

fn check(request: &str, group: &str, error: i16) -> io::Result<()> {
    if error == 0 {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "{request} of group {group}: Kafka error {error}"
        )))
    }
}

#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn put(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
    fn i8(self, value: i8) -> Self {
        self.put(&value.to_be_bytes())
    }
    fn i16(self, value: i16) -> Self {
        self.put(&value.to_be_bytes())
    }
    fn i32(self, value: i32) -> Self {
        self.put(&value.to_be_bytes())
    }
    fn i64(self, value: i64) -> Self {
        self.put(&value.to_be_bytes())
    }
    fn string(self, value: &str) -> Self {
        self.i16(value.len() as i16).put(value.as_bytes())
    }
    fn bytes(self, value: &Body) -> Self {
        self.i32(value.0.len() as i32).put(&value.0)
    }
}

/// An answer, read from front to back.
pub struct Reply {
    bytes: Vec<u8>,
    at: usize,
}

impl Reply {
    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let bytes = self
            .bytes
            .get(self.at..)
            .and_then(|rest| rest.first_chunk::<N>())
            .copied();
        self.at += N;
        bytes.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
    fn i8(&mut self) -> io::Result<i8> {
        self.take().map(i8::from_be_bytes)
    }
    fn i16(&mut self) -> io::Result<i16> {
        self.take().map(i16::from_be_bytes)
    }
    fn i32(&mut self) -> io::Result<i32> {
        self.take().map(i32::from_be_bytes)
    }
    /// A null string is read as an empty one.
    fn string(&mut self) -> io::Result<String> {
        let length = usize::try_from(self.i16()?).unwrap_or(0);
        let bytes = self
            .bytes
            .get(self.at..self.at + length)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        self.at += length;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }
    fn array<T>(
        &mut self,
        mut item: impl FnMut(&mut Reply) -> io::Result<T>,
    ) -> io::Result<Vec<T>> {
        let mut items = Vec::new();
        for _ in 0..self.i32()? {
            items.push(item(self)?);
        }
        Ok(items)
    }
}
