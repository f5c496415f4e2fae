//! One kept connection to a broker, with bounded frames, one request at a time and a deadline for each.
//!
//! A connection that is closed while its request is unanswered costs a hanging broker an fd. So a timeout does not close
//! it: the request stays outstanding, and its answer is passed over whenever it comes. Only how late it was is kept.

mod path;
mod trusted;

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Deref, RangeInclusive};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

pub use self::trusted::Trusted;
pub use super::conn_error::ConnError;
pub use super::dialer::{Dialer, OwnConnections};
use super::resolver::is_loopback;
use super::security::{Tls, Trust};
use super::transport::Transport;
use crate::model::Moment;
use crate::model::room::Room;

/// First size of the buffer for an answer. It grows as bytes arrive: the announced length alone allocates nothing.
const CHUNK: usize = 64 * 1024;
/// The most by which it grows at once. What does not fit into the first chunk needs [`Room`].
const GROWTH: usize = 1024 * 1024;
/// Length and correlation id: what is kept of an answer that comes too late.
const HEADER: usize = 8;

#[derive(Debug)]
struct Outstanding {
    request: &'static str,
    /// None for a token of a login, whose frame has no header.
    correlation: Option<i32>,
    cap: usize,
    since: Instant,
    /// How long the answer took; None until it is read.
    took: Option<Duration>,
    /// Nobody waits for it any more, so its body is passed over.
    late: bool,
    /// It came in time and is longer than `cap`.
    too_long: bool,
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
    stream: Transport,
    /// None without TLS.
    trust: Option<Trust>,
    address: String,
    /// The address that it leads to.
    remote: Option<IpAddr>,
    /// Whether the kernel has ended it because packets were not acknowledged.
    lost: bool,
    /// Whether it has carried an answer.
    answered: bool,
    correlation: i32,
    outstanding: Option<Outstanding>,
    unsent: Vec<u8>,
    /// The part of the answer that has arrived and is kept: length, correlation id, body.
    received: Vec<u8>,
    /// How many more bytes of a late answer have arrived.
    passed_over: usize,
    /// For what is beyond the first chunk of `received`.
    room: Room,
    waits_for_room: bool,
    /// An answer that is longer than its cap, and no longer than this, is passed over.
    passed: usize,
}

/// The body of an answer, with the room that it takes.
#[derive(Debug)]
pub struct Body {
    bytes: Vec<u8>,
    _room: Room,
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Conn {
    /// Connects to `address` (`host:port`) and registers the local address as the exporter's own. Without `loopback`,
    /// no address of the exporter's own loopback is connected to. The handshake of TLS belongs to the first request.
    pub async fn connect(
        address: &str,
        within: Duration,
        dialer: &Dialer,
        loopback: bool,
        tls: Option<&Tls>,
    ) -> Result<Conn, ConnError> {
        let resolved = dialer.resolver.resolve(address);
        let mut conn = Conn::connect_to(address, resolved, within, &dialer.own, loopback).await?;
        if dialer.watches_path {
            conn.watch_path()?;
        }
        if let Some(tls) = tls {
            conn.begin(tls);
        }
        if dialer.is_of_others() {
            conn.room = Room::of_others();
        }
        Ok(conn)
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
            remote: stream.peer_addr().ok().map(|to| to.ip().to_canonical()),
            stream: Transport::Plain(stream),
            trust: None,
            address,
            lost: false,
            answered: false,
            correlation: 0,
            outstanding: None,
            unsent: Vec::new(),
            received: Vec::new(),
            passed_over: 0,
            room: Room::default(),
            waits_for_room: false,
            passed: 0,
        })
    }

    pub(super) fn remote(&self) -> Option<IpAddr> {
        self.remote
    }

    fn begin(&mut self, tls: &Tls) {
        let host = self.address.rsplit_once(':').map_or("", |(host, _)| host);
        self.stream.begin(tls, host.trim_matches(['[', ']']));
        self.trust = Some(tls.trust());
    }

    /// The connection as one over which a secret may be sent.
    ///
    /// # Errors
    /// Anybody may answer, because TLS verifies nothing.
    pub fn trusted(&mut self) -> Result<Trusted<'_>, ConnError> {
        match self.trust {
            Some(Trust::Unverified) => Err(ConnError::Unverified {
                address: self.address.clone(),
            }),
            // A login for a listener without TLS was configured on purpose.
            None | Some(Trust::Verified | Trust::Vouched) => Ok(Trusted(self)),
        }
    }

    /// When the broker's certificate ends, once it was shown.
    pub fn certificate_end(&self) -> Option<Moment> {
        self.stream.certificate_end()
    }

    /// Numbers the requests from `first` on, and not from 1.
    pub(super) fn numbered_from(self, first: i32) -> Conn {
        let correlation = first.wrapping_sub(1);
        Conn {
            correlation,
            ..self
        }
    }

    /// Sets up to which length the next answers are passed over, and do not end the connection, where they are longer than
    /// their cap.
    pub(super) fn pass_over(&mut self, most: usize) {
        self.passed = most;
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
    ) -> Result<Body, ConnError> {
        self.settle(deadline).await?;
        self.correlation = self.correlation.wrapping_add(1);
        let frame = frame(self.correlation);
        self.send(request, frame, Some(self.correlation), cap, deadline)
            .await
    }

    async fn send(
        &mut self,
        request: &'static str,
        frame: Vec<u8>,
        correlation: Option<i32>,
        cap: usize,
        deadline: Instant,
    ) -> Result<Body, ConnError> {
        self.unsent = frame;
        self.stream.allow(cap.max(self.passed));
        self.outstanding = Some(Outstanding {
            request,
            correlation,
            cap,
            since: Instant::now(),
            took: None,
            late: false,
            too_long: false,
        });
        self.answer(deadline).await.map(|(body, _)| body)
    }

    /// Passes over the answer to an earlier request, and returns how late it was.
    pub async fn settle(&mut self, deadline: Instant) -> Result<Option<Late>, ConnError> {
        let Some(Outstanding {
            request, too_long, ..
        }) = self.outstanding
        else {
            return Ok(None);
        };
        self.give_up();
        let answer = self.answer(deadline).await;
        answer.map(|(_, took)| (!too_long).then_some(Late { request, took }))
    }

    /// Waits for an owed answer until then, so that the next [`Conn::settle`] knows how long it took.
    pub async fn read_late(&mut self, until: Instant) {
        self.give_up();
        // A failure ends the connection, so the next call fails in the same way.
        let _ = timeout_at(until, self.receive()).await;
    }

    /// Keeps nothing of the owed answer but its header.
    fn give_up(&mut self) {
        if let Some(outstanding) = &mut self.outstanding {
            outstanding.late = true;
        }
        self.passed_over += self.received.len().saturating_sub(HEADER);
        self.received.truncate(HEADER);
        self.received.shrink_to_fit();
        drop(self.room.take());
        self.waits_for_room = false;
    }

    async fn answer(&mut self, deadline: Instant) -> Result<(Body, Duration), ConnError> {
        if let Ok(received) = timeout_at(deadline, self.receive()).await {
            if let (Err(ConnError::TooLong { .. }), Some(one)) = (&received, &mut self.outstanding)
            {
                one.too_long = true;
                self.give_up();
            }
            return received.and_then(|took| Ok((self.take_answer()?, took)));
        }
        let address = self.address.clone();
        let (request, waited) = self
            .outstanding
            .as_ref()
            .map_or(("", Duration::ZERO), |outstanding| {
                (outstanding.request, outstanding.since.elapsed())
            });
        let request = match self.stream.is_shaking_hands() {
            true => "the TLS handshake",
            false => request,
        };
        let no_room = self.waits_for_room;
        self.give_up();
        Err(match no_room {
            true => ConnError::NoRoom {
                address,
                request,
                waited,
            },
            false => ConnError::Timeout {
                address,
                request,
                waited,
            },
        })
    }

    /// Continues to send and read where the last call stopped, until the whole answer has arrived, and returns how long
    /// that took. It may be dropped at any await and called again.
    async fn receive(&mut self) -> Result<Duration, ConnError> {
        if self.lost {
            let address = self.address.clone();
            return Err(ConnError::Unacknowledged { address });
        }
        let received = self.exchange().await;
        self.lost = matches!(received, Err(ConnError::Unacknowledged { .. }));
        received
    }

    async fn exchange(&mut self) -> Result<Duration, ConnError> {
        let Some(Outstanding {
            request,
            correlation,
            cap,
            since,
            took,
            late,
            ..
        }) = &mut self.outstanding
        else {
            return Ok(Duration::ZERO);
        };
        let (request, cap, late) = (*request, *cap, *late);
        // The correlation id at least.
        let least = if correlation.is_some() { 4 } else { 0 };
        let address = &self.address;
        let of_tls = |problem| ConnError::OfTls {
            address: address.clone(),
            problem,
        };
        self.stream.ready().await.map_err(of_tls)?;
        let failing = self.stream.failing(self.answered);
        let failed = |source: io::Error| match failing.problem(&source) {
            _ if is_unacknowledged(&source) => ConnError::Unacknowledged {
                address: address.clone(),
            },
            Some(problem) => of_tls(problem),
            None if is_end(&source) => ConnError::Closed {
                address: address.clone(),
                request,
            },
            None => ConnError::Io {
                address: address.clone(),
                request,
                source,
            },
        };
        while !self.unsent.is_empty() {
            let sent = self.stream.write(&self.unsent).await.map_err(failed)?;
            self.unsent.drain(..sent);
        }
        // TLS may keep the last record.
        self.stream.flush().await.map_err(failed)?;
        loop {
            let wanted = match self.received.first_chunk::<4>() {
                None => 4,
                Some(start) => {
                    let accepted = least..=cap.max(self.passed);
                    let length = frame_length(*start, accepted, address, request)?;
                    if length > cap && !late {
                        let address = address.clone();
                        return Err(ConnError::TooLong {
                            address,
                            request,
                            length,
                            cap,
                        });
                    }
                    4 + length
                }
            };
            let missing = wanted.saturating_sub(self.received.len() + self.passed_over);
            if missing == 0 {
                break;
            }
            let read = if late && self.received.len() == HEADER {
                let mut over = Vec::with_capacity(missing.min(CHUNK));
                let read = (&mut self.stream)
                    .take(missing as u64)
                    .read_buf(&mut over)
                    .await
                    .map_err(failed)?;
                self.passed_over += read;
                read
            } else {
                let missing = match late {
                    true => missing.min(HEADER - self.received.len()),
                    false => missing,
                };
                if self.received.len() == self.received.capacity() {
                    let growth = self.received.len().clamp(CHUNK, GROWTH).min(missing);
                    let wanted = self.received.len() + growth;
                    if wanted > CHUNK {
                        self.waits_for_room = true;
                        self.room.grow_to(wanted).await;
                        self.waits_for_room = false;
                    }
                    // Exact: a doubling would allocate up to twice the answer.
                    self.received.reserve_exact(growth);
                }
                (&mut self.stream)
                    .take(missing as u64)
                    .read_buf(&mut self.received)
                    .await
                    .map_err(failed)?
            };
            if read == 0 {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(*took.get_or_insert_with(|| since.elapsed()))
    }

    /// Returns the body of the received answer.
    fn take_answer(&mut self) -> Result<Body, ConnError> {
        let mut body = Body {
            bytes: std::mem::take(&mut self.received),
            _room: self.room.take(),
        };
        self.passed_over = 0;
        self.answered = true;
        let Some(Outstanding {
            request,
            correlation,
            ..
        }) = self.outstanding.take()
        else {
            return Ok(body);
        };
        let Some(expected) = correlation else {
            body.bytes.drain(..4);
            return Ok(body);
        };
        // frame_length() refuses an answer that is shorter than its correlation id.
        let found = body
            .bytes
            .get(4..8)
            .and_then(|id| id.first_chunk())
            .map_or(0, |id| i32::from_be_bytes(*id));
        if found != expected {
            let address = self.address.clone();
            return Err(ConnError::Correlation {
                address,
                request,
                expected,
                found,
            });
        }
        body.bytes.drain(..HEADER);
        Ok(body)
    }
}

/// Whether the other side has closed the connection.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind as E;
    matches!(
        error.kind(),
        E::ConnectionReset | E::BrokenPipe | E::UnexpectedEof
    )
}

/// Whether the kernel gave the connection up because packets were not acknowledged; routers may have said why.
fn is_unacknowledged(error: &io::Error) -> bool {
    use io::ErrorKind as E;
    matches!(
        error.kind(),
        E::TimedOut | E::HostUnreachable | E::NetworkUnreachable
    )
}

/// Returns the length of the frame that starts with these bytes, if it can be an answer of a broker.
fn frame_length(
    start: [u8; 4],
    accepted: RangeInclusive<usize>,
    address: &str,
    request: &'static str,
) -> Result<usize, ConnError> {
    let length = i32::from_be_bytes(start);
    match usize::try_from(length) {
        Ok(length) if accepted.contains(&length) => Ok(length),
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
                    cap: *accepted.end(),
                },
            })
        }
    }
}

#[cfg(test)]
mod tests;
