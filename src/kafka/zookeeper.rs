//! Reads from a ZooKeeper ensemble over one kept session, and does as little harm as possible to one that hangs.
//!
//! At most one request is unanswered. A session costs the ensemble a write, so it goes on over the next connection where
//! it has not expired. A server that fails is left for the next one; when each has failed once, connections become rarer.
//! There are no watches, no credentials and no writes.

pub mod jute;

use std::time::Duration;

use tokio::time::Instant;

use self::jute::{Answer, Connected, SessionId};
use super::conn::{Body, Conn, ConnError, Dialer};
use super::reader::WireError;
use super::timing::Timing;
use crate::model::Reason;

/// What a session is asked to outlast without a request. Servers grant at most 20 of their ticks: 40 s by default.
const SESSION: Duration = Duration::from_secs(30);
/// A server that is silent for so long is left for the next one. It is less than a round: a single server that hangs, or whose
/// host is down, must not be taken for the whole ensemble.
const SILENCE: Duration = Duration::from_secs(3);
/// A server may grant a session that lasts less than a second; such a one ends rather than being kept by requests.
const LEAST_REST: Duration = Duration::from_secs(2);
/// A longer answer is an error: ZooKeeper itself keeps no larger node.
const CAP: usize = 1 << 20;

/// Why a node could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ZooKeeperError {
    #[error("{}", connection_text(.0))]
    Conn(#[from] ConnError),
    #[error("{last} (next connection in {} s)", wait.as_secs_f64().ceil())]
    Waiting {
        last: String,
        reason: Reason,
        wait: Duration,
    },
    #[error(
        "{address} answered {request} with bytes that are no such answer: {source}; its port is not for ZooKeeper's clients"
    )]
    Wire {
        address: String,
        request: &'static str,
        source: WireError,
    },
    #[error("{address} does not know the exporter's session any more, or granted one too late")]
    Expired { address: String },
    #[error(
        "{address} lets only clients with a login read {path}, which the exporter does not have"
    )]
    NoAuth { address: String, path: String },
    #[error("{address} serves only clients with a login, which the exporter does not have")]
    NeedsLogin { address: String },
    #[error("{address} answered {request} of {path} with ZooKeeper's error {code}")]
    Code {
        address: String,
        request: &'static str,
        path: String,
        code: i32,
    },
}

impl ZooKeeperError {
    /// Returns the reason as labels have it.
    pub fn reason(&self) -> Reason {
        match self {
            ZooKeeperError::Conn(error) => error.reason(),
            ZooKeeperError::Waiting { reason, .. } => *reason,
            ZooKeeperError::Wire { .. } | ZooKeeperError::Code { .. } => Reason::Protocol,
            ZooKeeperError::Expired { .. } => Reason::Closed,
            ZooKeeperError::NoAuth { .. } | ZooKeeperError::NeedsLogin { .. } => Reason::Denied,
        }
    }
}

/// The errors of a connection in words that suit ZooKeeper.
fn connection_text(error: &ConnError) -> String {
    match error {
        ConnError::Refused { address } => format!(
            "nothing listens on {address}: ZooKeeper is down there, or has moved since the broker read `zookeeper.connect`"
        ),
        ConnError::NameTimeout { address, within } => format!(
            "the name of {address} was not resolved within {} ms, because the name service does not answer",
            within.as_millis()
        ),
        ConnError::Loopback { address } => format!(
            "{address} leads to a loopback address, which is not that of the broker, because it runs in another network \
             namespace (a container)"
        ),
        ConnError::Timeout {
            address,
            request,
            waited,
        } => format!(
            "{address} accepted the connection and has not answered {request} for {} ms: ZooKeeper hangs, or its port is \
             not for clients",
            waited.as_millis()
        ),
        ConnError::Closed { address, request } => format!(
            "{address} closed the connection before it answered {request}: ZooKeeper has no quorum or as many connections \
             as it allows (maxClientCnxns), or the port requires TLS"
        ),
        ConnError::Tls { address } => {
            format!("{address} speaks TLS, which the exporter does not speak with ZooKeeper")
        }
        ConnError::Http { address } => format!("{address} is a web server, not ZooKeeper"),
        ConnError::FrameLength {
            address,
            request,
            length,
            cap,
        } => format!(
            "{address} answered {request} with a frame of {length} bytes, but 4 to {cap} are accepted: its port is not for \
             ZooKeeper's clients"
        ),
        ConnError::Correlation {
            address,
            request,
            expected,
            found,
        } => format!(
            "{address} answered request {found}, but {request} was request {expected}: its port is not for ZooKeeper's \
             clients, or something in between corrupts the connection"
        ),
        other => other.to_string(),
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Children,
    Data,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Children => "getChildren",
            Kind::Data => "getData",
        }
    }
}

struct Kept {
    conn: Conn,
    address: String,
    /// How long the server keeps the session; None until it has granted one.
    granted: Option<Duration>,
    /// Whether a question was answered on it.
    answered: bool,
}

struct Failed {
    last: String,
    reason: Reason,
    until: Instant,
}

/// One ensemble, asked through one of its servers at a time.
pub struct Session {
    servers: Vec<String>,
    /// The server of the next connection.
    next: usize,
    dialer: Dialer,
    /// Whether an address of the exporter's own loopback may be ZooKeeper's.
    loopback: bool,
    timing: Timing,
    kept: Option<Kept>,
    session: Option<SessionId>,
    /// Connections without an answer since the last answer.
    in_a_row: u32,
    failed: Option<Failed>,
}

impl Session {
    /// Connects at the first question, to the server with the number `first` (or what remains of it).
    pub fn new(
        servers: Vec<String>,
        first: usize,
        dialer: impl Into<Dialer>,
        loopback: bool,
    ) -> Session {
        Session {
            next: first,
            servers,
            dialer: dialer.into(),
            loopback,
            timing: Timing {
                silence: SILENCE,
                ..Timing::default()
            },
            kept: None,
            session: None,
            in_a_row: 0,
            failed: None,
        }
    }

    /// Sets whether another user's brokers come first.
    pub fn set_of_others(&self, of_others: bool) {
        self.dialer.set_of_others(of_others);
    }

    /// Returns the server that answered last, while it is connected.
    pub fn server(&self) -> Option<&str> {
        self.kept.as_ref().map(|kept| kept.address.as_str())
    }

    /// Returns within which time the next question should come, for the session to last.
    pub fn rest(&self) -> Option<Duration> {
        Some((self.kept.as_ref()?.granted? / 3).max(LEAST_REST))
    }

    /// Applies `read` to the names of the node's children; None if there is no such node.
    pub async fn children<T>(
        &mut self,
        path: &str,
        deadline: Instant,
        read: impl FnOnce(Vec<&str>) -> T,
    ) -> Result<Option<T>, ZooKeeperError> {
        let (address, body) = self.ask(Kind::Children, path, deadline).await?;
        self.finish(address, Kind::Children, path, jute::children(&body), read)
    }

    /// Applies `read` to the node's data; None if there is no such node.
    pub async fn data<T>(
        &mut self,
        path: &str,
        deadline: Instant,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, ZooKeeperError> {
        let (address, body) = self.ask(Kind::Data, path, deadline).await?;
        self.finish(address, Kind::Data, path, jute::data(&body), read)
    }

    fn finish<A, T>(
        &mut self,
        address: String,
        kind: Kind,
        path: &str,
        answer: Answer<A>,
        read: impl FnOnce(A) -> T,
    ) -> Result<Option<T>, ZooKeeperError> {
        let (request, path) = (kind.name(), path.to_owned());
        let result = match answer {
            Ok(Ok(value)) => Ok(Some(read(value))),
            Ok(Err(jute::NO_NODE)) => Ok(None),
            Ok(Err(jute::NO_AUTH)) => Err(ZooKeeperError::NoAuth { address, path }),
            Ok(Err(jute::AUTH_FAILED | jute::SASL_REQUIRED)) => {
                Err(ZooKeeperError::NeedsLogin { address })
            }
            Ok(Err(code)) => Err(ZooKeeperError::Code {
                address,
                request,
                path,
                code,
            }),
            Err(source) => Err(ZooKeeperError::Wire {
                address,
                request,
                source,
            }),
        };
        match (&result, &mut self.kept) {
            (Ok(_) | Err(ZooKeeperError::NoAuth { .. }), Some(kept)) => {
                kept.answered = true;
                (self.in_a_row, self.failed) = (0, None);
            }
            (Err(error), _) => self.give_up(error),
            (Ok(_), None) => {}
        }
        result
    }

    /// Returns the body of an answer with the address that sent it. It may be dropped at any time; a request that is then
    /// unanswered is not sent again on the same connection.
    async fn ask(
        &mut self,
        kind: Kind,
        path: &str,
        deadline: Instant,
    ) -> Result<(String, Body), ZooKeeperError> {
        self.forget_silent();
        // Each server once, after a connection that was closed while it was idle and a session that has expired.
        let mut left = self.servers.len() + 2;
        loop {
            let error = match self.attempt(kind, path, deadline).await {
                Ok(answer) => return Ok(answer),
                // The connection and the question remain, or there is no connection.
                Err(
                    error @ (ZooKeeperError::Conn(
                        ConnError::Timeout { .. } | ConnError::NoRoom { .. },
                    )
                    | ZooKeeperError::Waiting { .. }),
                ) => return Err(error),
                Err(error) => error,
            };
            self.give_up(&error);
            left -= 1;
            if left == 0 || self.is_waiting() || Instant::now() >= deadline {
                return Err(error);
            }
        }
    }

    fn is_waiting(&self) -> bool {
        let failed = self.failed.as_ref();
        self.kept.is_none() && failed.is_some_and(|failed| Instant::now() < failed.until)
    }

    /// Leaves a server that has been silent for long.
    fn forget_silent(&mut self) {
        let since = |kept: &Kept| kept.conn.unanswered_since();
        let waited = self.kept.as_ref().and_then(since).map(|at| at.elapsed());
        if let Some(waited) = waited.filter(|waited| *waited >= self.timing.silence)
            && let Some(kept) = self.kept.take()
        {
            let (address, request) = (kept.address, "a request");
            self.give_up(&ZooKeeperError::Conn(ConnError::Timeout {
                address,
                request,
                waited,
            }));
        }
    }

    /// Leaves this server for the next one. After each has failed in a row, there is a pause.
    fn give_up(&mut self, error: &ZooKeeperError) {
        let answered = self.kept.take().is_some_and(|kept| kept.answered);
        if matches!(error, ZooKeeperError::Expired { .. }) && self.session.take().is_some() {
            return;
        }
        // The server has ended the session.
        if matches!(error, ZooKeeperError::NeedsLogin { .. }) {
            self.session = None;
        }
        self.next = self.next.wrapping_add(1);
        // It may have been restarted, or closes what is idle.
        if answered {
            return;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        let servers = u32::try_from(self.servers.len()).unwrap_or(u32::MAX).max(1);
        if self.in_a_row.is_multiple_of(servers) {
            self.failed = Some(Failed {
                last: error.to_string(),
                reason: error.reason(),
                until: Instant::now() + self.timing.retry_after(self.in_a_row / servers),
            });
        }
    }

    async fn attempt(
        &mut self,
        kind: Kind,
        path: &str,
        deadline: Instant,
    ) -> Result<(String, Body), ZooKeeperError> {
        let kept = match &mut self.kept {
            Some(kept) => kept,
            None => {
                let made = self.connect(deadline).await?;
                self.kept.insert(made)
            }
        };
        let settled = deadline.min(Instant::now() + self.timing.late);
        let late = kept.conn.settle(settled).await?;
        if kept.granted.is_none() {
            let address = || kept.address.clone();
            // The answer with the session came too late and was passed over.
            if late.is_some() {
                return Err(ZooKeeperError::Expired { address: address() });
            }
            let session = self.session;
            let greeting = |_| jute::connect_request(session, SESSION);
            let body = kept.conn.ask("connect", greeting, CAP, deadline).await?;
            let wire = |source| ZooKeeperError::Wire {
                address: address(),
                request: "connect",
                source,
            };
            let Connected { session, timeout } = jute::connected(&body).map_err(wire)?;
            if timeout.is_zero() {
                return Err(ZooKeeperError::Expired { address: address() });
            }
            (self.session, kept.granted) = (Some(session), Some(timeout));
        }
        let frame = |xid| match kind {
            Kind::Children => jute::children_request(xid, path),
            Kind::Data => jute::data_request(xid, path),
        };
        let body = kept.conn.ask(kind.name(), frame, CAP, deadline).await?;
        Ok((kept.address.clone(), body))
    }

    async fn connect(&self, deadline: Instant) -> Result<Kept, ZooKeeperError> {
        let now = Instant::now();
        if let Some(failed) = self.failed.as_ref().filter(|failed| now < failed.until) {
            return Err(ZooKeeperError::Waiting {
                last: failed.last.clone(),
                reason: failed.reason,
                wait: failed.until - now,
            });
        }
        let at = self.next.checked_rem(self.servers.len());
        let Some(address) = at.and_then(|at| self.servers.get(at)) else {
            return Err(self.no_server());
        };
        // The next server has its turn where this one does not answer.
        let within = deadline.saturating_duration_since(now) / 2;
        let conn = Conn::connect(address, within, &self.dialer, self.loopback, None).await?;
        Ok(Kept {
            // The number of the first request is that of the protocol.
            conn: conn.numbered_from(0),
            address: address.clone(),
            granted: None,
            answered: false,
        })
    }

    fn no_server(&self) -> ZooKeeperError {
        ZooKeeperError::Waiting {
            last: "no server of ZooKeeper is known".into(),
            reason: Reason::Config,
            wait: self.timing.retry_last,
        }
    }
}

#[cfg(test)]
mod tests;
