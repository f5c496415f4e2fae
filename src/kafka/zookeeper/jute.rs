//! ZooKeeper's messages (jute), as far as a reader needs them: the connection, the children and the data of a node.
//! There is no message here that changes anything.
//!
//! A request is a frame of xid, kind and fields. Its answer is a frame of the same xid, the server's zxid and an error
//! code. The connection comes first and has no xid: its answer begins with a protocol version, which is 0. So both are
//! answers of a [`super::super::conn::Conn`] whose first request has the number 0. Nothing is decoded by a length that
//! the bytes which are there do not have.

use std::time::Duration;

use super::super::reader::{Problem, Reader, WireError};
use super::super::wire::bare;

const GET_DATA: i32 = 4;
const GET_CHILDREN: i32 = 8;

/// ZooKeeper's error codes that mean something to a reader.
pub const NO_NODE: i32 = -101;
pub const NO_AUTH: i32 = -102;
pub const AUTH_FAILED: i32 = -115;
/// The server requires SASL; newer ones say so.
pub const SASL_REQUIRED: i32 = -124;

/// No cluster has so many brokers.
const MAX_CHILDREN: usize = 10_000;
const MAX_NAME: usize = 255;
/// What a broker writes about itself has some hundred bytes.
const MAX_DATA: usize = 64 << 10;
const PASSWORD: usize = 16;
/// The fields of a node after its data, in bytes.
const STAT: usize = 68;

/// What makes a session go on over another connection. No `Debug`: a client that knows it can take the session over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionId {
    pub id: i64,
    pub password: [u8; PASSWORD],
}

/// The answer to [`connect_request`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Connected {
    pub session: SessionId,
    /// What the server grants; zero if the session has expired.
    pub timeout: Duration,
}

/// Asks for a session, or to go on with one. No read-only session: a server without a quorum may have old data.
pub fn connect_request(session: Option<SessionId>, timeout: Duration) -> Vec<u8> {
    let none = SessionId {
        id: 0,
        password: [0; PASSWORD],
    };
    let SessionId { id, password } = session.unwrap_or(none);
    let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let mut fields = 0_i32.to_be_bytes().to_vec();
    // The newest zxid that was seen: a server that is behind may answer too.
    fields.extend(0_i64.to_be_bytes());
    fields.extend(timeout.to_be_bytes());
    fields.extend(id.to_be_bytes());
    fields.extend((PASSWORD as i32).to_be_bytes());
    fields.extend(password);
    // Whether it may be read-only.
    fields.push(0);
    bare(&fields)
}

/// Asks for the names of a node's children, without a watch.
pub fn children_request(xid: i32, path: &str) -> Vec<u8> {
    request(xid, GET_CHILDREN, path)
}

/// Asks for the data of a node, without a watch.
pub fn data_request(xid: i32, path: &str) -> Vec<u8> {
    request(xid, GET_DATA, path)
}

fn request(xid: i32, kind: i32, path: &str) -> Vec<u8> {
    let mut fields = xid.to_be_bytes().to_vec();
    fields.extend(kind.to_be_bytes());
    // The path comes from a file of at most 1 MiB.
    fields.extend((path.len() as i32).to_be_bytes());
    fields.extend(path.as_bytes());
    fields.push(0);
    bare(&fields)
}

/// Reads the answer to [`connect_request`] after the protocol version.
pub fn connected(body: &[u8]) -> Result<Connected, WireError> {
    let mut reader = Reader::new(body);
    let timeout = reader.int32("session timeout")?;
    let id = reader.int64("session id")?;
    let start = reader.clone();
    let length = reader.int32("length of the session password")?;
    if length != PASSWORD as i32 {
        let (count, limit) = (usize::try_from(length).unwrap_or_default(), PASSWORD);
        return Err(start.error("session password", Problem::TooMany { count, limit }));
    }
    let password = reader.array("session password")?;
    // Servers before 3.4 do not say whether they are read-only.
    if reader.end("connection").is_err() {
        reader.byte("read-only")?;
        reader.end("connection")?;
    }
    Ok(Connected {
        session: SessionId { id, password },
        timeout: Duration::from_millis(u64::try_from(timeout).unwrap_or_default()),
    })
}

/// What an answer has after its xid, or ZooKeeper's error code.
pub type Answer<T> = Result<Result<T, i32>, WireError>;

/// Reads the names of children.
pub fn children(body: &[u8]) -> Answer<Vec<&str>> {
    let mut reader = Reader::new(body);
    if let Some(code) = error_of(&mut reader)? {
        return Ok(Err(code));
    }
    let count = reader.count_up_to(MAX_CHILDREN, 4, "children")?;
    let names: Result<Vec<&str>, WireError> =
        (0..count).map(|_| text(&mut reader, "child")).collect();
    let names = names?;
    reader.end("children")?;
    Ok(Ok(names))
}

/// Reads the data of a node.
pub fn data(body: &[u8]) -> Answer<&[u8]> {
    let mut reader = Reader::new(body);
    if let Some(code) = error_of(&mut reader)? {
        return Ok(Err(code));
    }
    let data = buffer(&mut reader, MAX_DATA, "data")?;
    reader.take(STAT, "stat")?;
    reader.end("node")?;
    Ok(Ok(data))
}

/// Reads the rest of an answer's header. After an error nothing else is of interest.
fn error_of(reader: &mut Reader<'_>) -> Result<Option<i32>, WireError> {
    reader.int64("zxid")?;
    let code = reader.int32("error code")?;
    Ok((code != 0).then_some(code))
}

/// A length of -1 means none.
fn buffer<'a>(
    reader: &mut Reader<'a>,
    limit: usize,
    field: &'static str,
) -> Result<&'a [u8], WireError> {
    let start = reader.clone();
    let length = reader.int32(field)?;
    let bytes = reader.sized(&start, length, limit, field)?;
    Ok(bytes.unwrap_or_default())
}

fn text<'a>(reader: &mut Reader<'a>, field: &'static str) -> Result<&'a str, WireError> {
    let start = reader.clone();
    let bytes = buffer(reader, MAX_NAME, field)?;
    start.utf8(bytes, field)
}

#[cfg(test)]
mod tests;
