//! One kept connection to a broker, with bounded frames, one request at a time and a deadline for each.
//!
//! A connection that is closed while its request is unanswered costs a hanging broker an fd. So a timeout does not close
//! it: the request stays outstanding, and its answer is read whenever it comes. Only how late it was is kept.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::resolver::{Resolver, is_loopback};

/// First size of the buffer for an answer. It doubles as bytes arrive: the announced length alone allocates nothing.
const CHUNK: usize = 64 * 1024;

/// Why there is no answer. Every error except [`ConnError::Timeout`] ends the connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnError {
    #[error(
        "nothing listens on {address}: the broker is starting or has ended, or `bootstrap` in the config should name another address"
    )]
    Refused { address: String },
    #[error("cannot connect to {address}: {source}")]
    Connect { address: String, source: io::Error },
    #[error(
        "the name of {address} was not resolved within {} ms, because the name service does not answer: name an IP address as `bootstrap` in the config, or let the broker advertise one",
        within.as_millis()
    )]
    NameTimeout { address: String, within: Duration },
    #[error(
        "{address} leads to a loopback address, which is not the broker's, because it runs in another network namespace (a container): name an address that reaches it from the exporter as `brokers[].bootstrap` in the config file"
    )]
    Loopback { address: String },
    #[error("{address} accepted no connection within {} ms: its accept queue is full, or packets to it are dropped", within.as_millis())]
    ConnectTimeout { address: String, within: Duration },
    #[error("{address} accepted the connection and has not answered {request} for {} ms: the broker hangs or is slower than the deadline, or this is no Kafka listener", waited.as_millis())]
    Timeout {
        address: String,
        request: &'static str,
        waited: Duration,
    },
    #[error(
        "{address} closed the connection before it answered {request}: the broker is stopping, or the listener requires TLS or SASL (then name a PLAINTEXT one as `probe_listener` in the config)"
    )]
    Closed {
        address: String,
        request: &'static str,
    },
    #[error(
        "{address} speaks TLS: name a PLAINTEXT listener of this broker as `probe_listener` in the config"
    )]
    Tls { address: String },
    #[error(
        "{address} is a web server, not a broker: name the broker's own address as `bootstrap` in the config"
    )]
    Http { address: String },
    #[error(
        "{address} answered {request} with a frame of {length} bytes, but 4 to {cap} are accepted: the port is no Kafka listener, or the cluster is too big"
    )]
    FrameLength {
        address: String,
        request: &'static str,
        length: i32,
        cap: usize,
    },
    #[error(
        "{address} answered request {found}, but {request} was request {expected}: the port is no Kafka listener, or something in between corrupts the connection"
    )]
    Correlation {
        address: String,
        request: &'static str,
        expected: i32,
        found: i32,
    },
    #[error("the connection to {address} failed while {request} was unanswered: {source}")]
    Io {
        address: String,
        request: &'static str,
        source: io::Error,
    },
}

/// Local addresses of the newest 256 connections that the exporter made itself, so that it does not count them as the
/// broker's clients. Closed ones stay in the list, because the kernel keeps them in TIME_WAIT.
#[derive(Debug, Clone, Default)]
pub struct OwnConnections(Arc<Mutex<VecDeque<SocketAddr>>>);

impl OwnConnections {
    const KEPT: usize = 256;

    pub fn register(&self, local: SocketAddr) {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let local = canonical(local);
        newest.retain(|known| *known != local);
        if newest.len() == Self::KEPT {
            newest.pop_front();
        }
        newest.push_back(local);
    }

    /// Whether the connection from `local` is, or recently was, the exporter's own. IPv4 addresses that are mapped into
    /// IPv6 count as IPv4.
    pub fn contains(&self, local: SocketAddr) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&canonical(local))
    }
}

/// What the connections to one broker and its peers share.
#[derive(Debug, Clone)]
pub struct Dialer {
    own: OwnConnections,
    resolver: Resolver,
}

impl From<OwnConnections> for Dialer {
    fn from(own: OwnConnections) -> Dialer {
        Dialer {
            own,
            resolver: Resolver::default(),
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[derive(Debug)]
struct Outstanding {
    request: &'static str,
    correlation: i32,
    cap: usize,
    since: Instant,
    /// How long the answer took; None until it is read.
    took: Option<Duration>,
}

/// An answer that came after its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Late {
    pub request: &'static str,
    /// Until it was read. It may have waited in the kernel's buffer before.
    pub took: Duration,
}

/// A connection to one broker with at most one unanswered request.
#[derive(Debug)]
pub struct Conn {
    stream: TcpStream,
    address: String,
    correlation: i32,
    outstanding: Option<Outstanding>,
    unsent: Vec<u8>,
    /// The part of the answer that has arrived: length, correlation id, body.
    received: Vec<u8>,
}

impl Conn {
    /// Connects to `address` (`host:port`) and registers the local address as the exporter's own. Without `loopback`,
    /// no address of the exporter's own loopback is connected to.
    pub async fn connect(
        address: &str,
        within: Duration,
        dialer: &Dialer,
        loopback: bool,
    ) -> Result<Conn, ConnError> {
        let resolved = dialer.resolver.resolve(address);
        Conn::connect_to(address, resolved, within, &dialer.own, loopback).await
    }

    async fn connect_to(
        address: &str,
        resolved: impl Future<Output = io::Result<Vec<SocketAddr>>>,
        within: Duration,
        own: &OwnConnections,
        loopback: bool,
    ) -> Result<Conn, ConnError> {
        let (deadline, address) = (Instant::now() + within, address.to_owned());
        let mut addresses = match timeout_at(deadline, resolved).await {
            Err(_) => return Err(ConnError::NameTimeout { address, within }),
            Ok(Err(source)) => return Err(ConnError::Connect { address, source }),
            Ok(Ok(addresses)) => addresses,
        };
        if !loopback {
            addresses.retain(|address| !is_loopback(address));
            if addresses.is_empty() {
                return Err(ConnError::Loopback { address });
            }
        }
        let stream = match timeout_at(deadline, TcpStream::connect(addresses.as_slice())).await {
            Err(_) => return Err(ConnError::ConnectTimeout { address, within }),
            Ok(Err(source)) if source.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(ConnError::Refused { address });
            }
            Ok(Err(source)) => return Err(ConnError::Connect { address, source }),
            Ok(Ok(stream)) => stream,
        };
        match stream
            .local_addr()
            .and_then(|local| stream.set_nodelay(true).map(|()| local))
        {
            Ok(local) => own.register(local),
            Err(source) => return Err(ConnError::Connect { address, source }),
        }
        Ok(Conn {
            stream,
            address,
            correlation: 0,
            outstanding: None,
            unsent: Vec::new(),
            received: Vec::new(),
        })
    }

    /// Returns since when a request has been unanswered.
    pub fn unanswered_since(&self) -> Option<Instant> {
        self.outstanding
            .as_ref()
            .map(|outstanding| outstanding.since)
    }

    /// Sends one request and returns the body of its answer, at most `cap` bytes long.
    ///
    /// While an earlier request is unanswered nothing is sent: the call first waits for that answer and drops it.
    pub async fn ask(
        &mut self,
        request: &'static str,
        frame: impl FnOnce(i32) -> Vec<u8>,
        cap: usize,
        deadline: Instant,
    ) -> Result<Vec<u8>, ConnError> {
        self.settle(deadline).await?;
        self.correlation = self.correlation.wrapping_add(1);
        self.unsent = frame(self.correlation);
        self.outstanding = Some(Outstanding {
            request,
            correlation: self.correlation,
            cap,
            since: Instant::now(),
            took: None,
        });
        self.answer(deadline).await.map(|(body, _)| body)
    }

    /// Reads the answer to an earlier request, drops it, and returns how late it was.
    pub async fn settle(&mut self, deadline: Instant) -> Result<Option<Late>, ConnError> {
        let Some(Outstanding { request, .. }) = self.outstanding else {
            return Ok(None);
        };
        self.answer(deadline)
            .await
            .map(|(_, took)| Some(Late { request, took }))
    }

    /// Waits for an owed answer until then, so that the next [`Conn::settle`] knows how long it took.
    pub async fn read_late(&mut self, until: Instant) {
        // A failure ends the connection, so the next call fails in the same way.
        let _ = timeout_at(until, self.receive()).await;
    }

    async fn answer(&mut self, deadline: Instant) -> Result<(Vec<u8>, Duration), ConnError> {
        match timeout_at(deadline, self.receive()).await {
            Ok(received) => received.and_then(|took| Ok((self.take_answer()?, took))),
            Err(_) => Err(ConnError::Timeout {
                address: self.address.clone(),
                request: self
                    .outstanding
                    .as_ref()
                    .map_or("", |outstanding| outstanding.request),
                waited: self
                    .outstanding
                    .as_ref()
                    .map_or(Duration::ZERO, |outstanding| outstanding.since.elapsed()),
            }),
        }
    }

    /// Continues to send and read where the last call stopped, until the whole answer has arrived, and returns how long
    /// that took. It may be dropped at any await and called again.
    async fn receive(&mut self) -> Result<Duration, ConnError> {
        let Some(Outstanding {
            request,
            cap,
            since,
            took,
            ..
        }) = &mut self.outstanding
        else {
            return Ok(Duration::ZERO);
        };
        let (request, cap) = (*request, *cap);
        let address = &self.address;
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => ConnError::Closed {
                address: address.clone(),
                request,
            },
            _ => ConnError::Io {
                address: address.clone(),
                request,
                source,
            },
        };
        while !self.unsent.is_empty() {
            let sent = self.stream.write(&self.unsent).await.map_err(failed)?;
            self.unsent.drain(..sent);
        }
        loop {
            let wanted = match self.received.first_chunk::<4>() {
                None => 4,
                Some(start) => 4 + frame_length(*start, cap, address, request)?,
            };
            let missing = wanted.saturating_sub(self.received.len());
            if missing == 0 {
                break;
            }
            if self.received.len() == self.received.capacity() {
                let growth = self.received.len().max(CHUNK).min(missing);
                // Exact: the last doubling would allocate up to twice the answer.
                self.received.reserve_exact(growth);
            }
            let read = (&mut self.stream)
                .take(missing as u64)
                .read_buf(&mut self.received)
                .await
                .map_err(failed)?;
            if read == 0 {
                return Err(ConnError::Closed {
                    address: address.clone(),
                    request,
                });
            }
        }
        Ok(*took.get_or_insert_with(|| since.elapsed()))
    }

    /// Returns the body of the received answer.
    fn take_answer(&mut self) -> Result<Vec<u8>, ConnError> {
        let mut answer = std::mem::take(&mut self.received);
        let Some(Outstanding {
            request,
            correlation,
            ..
        }) = self.outstanding.take()
        else {
            return Ok(answer);
        };
        // frame_length() refuses an answer that is shorter than its correlation id.
        let found = answer
            .get(4..8)
            .and_then(|id| id.first_chunk())
            .map_or(0, |id| i32::from_be_bytes(*id));
        if found != correlation {
            let address = self.address.clone();
            return Err(ConnError::Correlation {
                address,
                request,
                expected: correlation,
                found,
            });
        }
        answer.drain(..8);
        Ok(answer)
    }
}

/// Returns the length of the frame that starts with these bytes, if it can be an answer of a broker.
fn frame_length(
    start: [u8; 4],
    cap: usize,
    address: &str,
    request: &'static str,
) -> Result<usize, ConnError> {
    let length = i32::from_be_bytes(start);
    match usize::try_from(length) {
        Ok(length) if (4..=cap).contains(&length) => Ok(length),
        _ => {
            let address = address.to_owned();
            Err(match start {
                // A TLS alert or handshake record.
                [0x15 | 0x16, 0x03, ..] => ConnError::Tls { address },
                [b'H', b'T', b'T', b'P'] => ConnError::Http { address },
                _ => ConnError::FrameLength {
                    address,
                    request,
                    length,
                    cap,
                },
            })
        }
    }
}

#[cfg(test)]
mod tests;
