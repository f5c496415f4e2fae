//! Asks a broker over one kept connection, and does as little harm as possible to a broker that hangs.
//!
//! At most one request is unanswered, and no other is sent before its answer. A new connection is made only after the
//! broker reset the old one, or did not answer on it for ten minutes, or the path to it was cut. Failed connections become
//! rarer, down to one a minute.

mod connect;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use super::client_error::ClientError;
use super::conn::{Body, Conn, ConnError, Dialer, Late};
use super::question::{API_VERSIONS, METADATA, METADATA_WITH_LISTENERS, Question, offered};
use super::security::{Login, Security, SecuritySource, Tls, Trust};
use super::thread::on_thread;
pub use super::timing::Timing;
use super::tls_error::TlsProblem;
use super::wire::groups::Request;
use super::wire::{self, ApiVersions, GroupVersions, Metadata, WireError};
use crate::model::{Moment, Reason};

/// An answer of so many bytes is read within some 10 us, which is less than handing it to another thread takes.
const SMALL_ANSWER: usize = 4 << 10;
/// A longer answer about groups ends the connection.
const PASSED_OVER: usize = 64 << 20;

/// The result of one question, or of the last one while no connection is made after a failure.
#[derive(Debug)]
pub struct Asked<T> {
    /// How long connecting took; None if there is no connection.
    pub connected_in: Option<Duration>,
    /// From the question to the answer or the failure. While an answer is owed, how long it has been owed; for a slow
    /// broker, how long its last answer took.
    pub duration: Duration,
    pub answer: Result<T, ClientError>,
}

#[derive(Debug)]
struct Kept {
    conn: Conn,
    connected_in: Duration,
    since: Instant,
    /// Whether the login, if it needs one, is complete.
    ready: bool,
}

#[derive(Debug)]
struct Failed {
    message: String,
    reason: Reason,
    connected_in: Option<Duration>,
    duration: Duration,
    in_a_row: u32,
    until: Instant,
    /// Whether other settings would help, so that the wait ends when they change.
    of_settings: bool,
}

#[derive(Debug, Default)]
struct TlsSeen {
    certificate_end: Option<Moment>,
    /// When the last handshake was finished with a broker that demands a certificate which nobody configured.
    demanded: Option<Instant>,
}

/// One broker at one address.
#[derive(Debug)]
pub struct Client {
    address: String,
    dialer: Dialer,
    /// Whether an address of the exporter's own loopback may be the broker's.
    loopback: bool,
    security: Arc<Security>,
    /// Reads `security` again for each connection.
    source: Option<SecuritySource>,
    /// What the newest handshakes of TLS showed.
    tls: TlsSeen,
    timing: Timing,
    kept: Option<Kept>,
    failed: Option<Failed>,
    /// The newest answer that came too late, until an answer to the same request comes in time.
    late: Option<Late>,
    /// What the broker offers; None until it has answered.
    offered: Option<ApiVersions>,
    /// How long an answer was owed on a connection that has ended.
    abandoned: Option<Duration>,
    path: Path,
}

/// What is known of the path to the broker.
#[derive(Debug, Clone, Copy, Default)]
struct Path {
    /// The last connection ended because its packets were not acknowledged, and none was made since.
    is_cut: bool,
    /// Where the newest connection led.
    remote: Option<IpAddr>,
}

impl Client {
    /// Makes a client that connects at the first question.
    pub fn new(address: String, dialer: impl Into<Dialer>, timing: Timing) -> Client {
        Client {
            address,
            dialer: dialer.into(),
            loopback: true,
            security: Arc::default(),
            source: None,
            tls: TlsSeen::default(),
            timing,
            kept: None,
            failed: None,
            late: None,
            offered: None,
            abandoned: None,
            path: Path::default(),
        }
    }

    /// Sets how the listener is spoken to; without this it is PLAINTEXT.
    pub fn with_security(self, security: Security) -> Client {
        let security = Arc::new(security);
        Client { security, ..self }
    }

    /// The same, from files that may change. Until the first connection it is as [`Client::with_security`] says.
    pub fn with_source(self, source: SecuritySource) -> Client {
        let source = Some(source);
        Client { source, ..self }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// When the broker's certificate ends, once it was shown.
    pub fn certificate_end(&self) -> Option<Moment> {
        self.tls.certificate_end
    }

    /// Whether and how the broker's certificate is verified; None without TLS.
    pub fn trust(&self) -> Option<Trust> {
        self.security.tls.as_ref().map(|tls| tls.trust())
    }

    /// Whether it shows neither a certificate nor a login.
    pub fn is_anonymous(&self) -> bool {
        let tls = self.security.tls.as_ref();
        matches!(self.security.login, Login::NotNeeded) && !tls.is_some_and(Tls::has_identity)
    }

    /// Whether the answer to ApiVersions comes from a request handler. Before a login, or in a TLS handshake that goes no
    /// further, it comes from the network thread and says nothing of the handlers.
    pub fn is_answered_by_handler(&self) -> bool {
        let is_logged_in = !matches!(self.security.login, Login::Missing);
        is_logged_in && self.tls.demanded.is_none()
    }

    /// Sets whether the next connection may lead to the exporter's own loopback.
    pub fn allow_loopback(&mut self, allowed: bool) {
        self.loopback = allowed;
    }

    /// Makes the kernel watch the path on later connections, so that a cut is found within 2 s and is never taken for a
    /// broker that hangs.
    pub fn watch_path(&mut self) {
        self.dialer.watches_path = true;
    }

    /// Whether the path is cut, or was when it was last tried.
    pub fn is_path_cut(&self) -> bool {
        let ended = self.kept.as_ref().is_some_and(|kept| kept.conn.is_lost());
        ended || self.path.is_cut
    }

    /// The address that the newest connection led to.
    pub fn remote(&self) -> Option<IpAddr> {
        self.path.remote
    }

    /// Whether the broker has not answered the newest request on the kept connection.
    pub fn is_owed(&self) -> bool {
        let kept = self.kept.as_ref();
        kept.is_some_and(|kept| kept.conn.unanswered_since().is_some())
    }

    /// Reads a late answer if one came, and returns whether the broker still owes one. For a broker that is not asked any
    /// more.
    pub async fn owes_answer(&mut self) -> bool {
        self.forget_silent();
        match &mut self.kept {
            Some(kept) => matches!(
                kept.conn.settle(Instant::now()).await,
                Err(ConnError::Timeout { .. })
            ),
            None => false,
        }
    }

    fn forget_silent(&mut self) {
        let silence = self.timing.silence;
        let silent = |kept: &mut Kept| {
            kept.conn
                .unanswered_since()
                .is_some_and(|since| since.elapsed() >= silence)
        };
        let kept = self.kept.take_if(silent);
        self.end(kept);
    }

    /// Closes a connection, and remembers what it owed.
    fn end(&mut self, kept: Option<Kept>) {
        let owed = kept.and_then(|kept| kept.conn.unanswered_since());
        self.abandoned = owed.map(|since| since.elapsed()).max(self.abandoned);
    }

    /// How long an answer was owed on a connection that has ended since this was asked. The broker may still work on it.
    pub fn abandoned(&mut self) -> Option<Duration> {
        self.abandoned.take()
    }

    fn forget_old_tls(&mut self) {
        if self.security.tls.is_some() {
            let renew = self.timing.renew_tls;
            let old = |kept: &mut Kept| {
                kept.conn.unanswered_since().is_none() && kept.since.elapsed() >= renew
            };
            drop(self.kept.take_if(old));
        }
    }

    /// Waits for an owed answer until then, because only this shows how long it took.
    pub async fn read_late(&mut self, until: Instant) {
        if let Some(kept) = &mut self.kept {
            kept.conn.read_late(until).await;
        }
    }

    /// As [`Client::read_late`], and returns at once whether the path is cut.
    pub async fn rest(&mut self, until: Instant) -> bool {
        match &mut self.kept {
            Some(kept) => kept.conn.rest(until).await,
            None => false,
        }
    }

    /// Asks ApiVersions: whether the broker answers at all, and whether it can be asked for Metadata.
    pub async fn api(&mut self) -> Asked<()> {
        let Asked {
            connected_in,
            duration,
            answer,
        } = self.ask(API_VERSIONS, offered).await;
        let answer = answer.map(|offered| self.offered = Some(offered));
        if answer.is_ok() && matches!(self.security.login, Login::Missing) {
            // A second ApiVersions before the login is an error for the broker, which logs it.
            self.kept = None;
        }
        Asked {
            connected_in,
            duration,
            answer,
        }
    }

    /// Asks for the Metadata of all topics and applies `read` to the response. For a broker that has just answered
    /// [`Client::api`].
    pub async fn metadata<T: Send + 'static>(
        &mut self,
        read: impl FnOnce(Metadata<'_>) -> Result<T, WireError> + Send + 'static,
    ) -> Asked<T> {
        let newest = self.offered.and_then(|offered| offered.metadata);
        let (question, version) = match newest {
            Some((_, newest)) if newest >= wire::METADATA_WITH_LISTENERS => {
                (METADATA_WITH_LISTENERS, wire::METADATA_WITH_LISTENERS)
            }
            _ => (METADATA, wire::METADATA_VERSION),
        };
        let read = move |body: &[u8]| read(Metadata::new(body, version));
        self.ask_after_login(question, read).await
    }

    /// The versions of requests about groups that the broker offers.
    pub fn group_versions(&self) -> GroupVersions {
        self.offered
            .map_or_else(GroupVersions::default, |offered| offered.groups)
    }

    /// Sends a request about groups and applies `read` to the response. For a broker that has just answered
    /// [`Client::api`].
    pub async fn request<T: Send + 'static>(
        &mut self,
        request: &Request,
        read: impl FnOnce(&[u8]) -> Result<T, WireError> + Send + 'static,
    ) -> Asked<T> {
        let question = Question {
            name: request.name,
            frame: &|correlation| request.frame(correlation),
            cap: request.cap,
            passed: PASSED_OVER,
            after_pause: false,
        };
        self.ask_after_login(question, read).await
    }

    async fn ask_after_login<T: Send + 'static>(
        &mut self,
        question: Question<'_>,
        read: impl FnOnce(&[u8]) -> Result<T, WireError> + Send + 'static,
    ) -> Asked<T> {
        if matches!(self.security.login, Login::Missing) {
            let address = self.address.clone();
            return Asked {
                connected_in: None,
                duration: Duration::ZERO,
                answer: Err(ClientError::NeedsLogin { address }),
            };
        }
        let request = question.name;
        let read = move |address: &str, body: &[u8]| {
            let wire = |source| ClientError::Wire {
                address: address.to_owned(),
                request,
                source,
            };
            read(body).map_err(wire)
        };
        self.ask(question, read).await
    }

    async fn ask<T: Send + 'static>(
        &mut self,
        question: Question<'_>,
        read: impl FnOnce(&str, &[u8]) -> Result<T, ClientError> + Send + 'static,
    ) -> Asked<T> {
        let mut started = Instant::now();
        let deadline = started + self.timing.deadline;
        self.forget_silent();
        if question.after_pause {
            self.forget_old_tls();
        }
        let idle = question.after_pause && self.kept.is_some();
        let mut answer = self.attempt(question, deadline, &mut started).await;
        if idle && matches!(answer, Err(ClientError::Conn(ConnError::Closed { .. }))) {
            // Dropping it resets the connection, which frees the broker's fd.
            let kept = self.kept.take();
            self.end(kept);
            answer = self.attempt(question, deadline, &mut started).await;
        }
        if let Err(ClientError::Conn(ConnError::Unacknowledged { .. })) = &answer
            && self.dialer.watches_path
        {
            // A new connection shows whether the path is still cut, and costs a broker that is out of reach nothing.
            self.path.is_cut = true;
            let kept = self.kept.take();
            self.end(kept);
            answer = self.attempt(question, deadline, &mut started).await;
        }
        let spoke_tls = self.tls.certificate_end.is_some();
        answer = answer.map_err(|error| match error {
            ClientError::Conn(ConnError::OfTls {
                address,
                problem: TlsProblem::ClosedAtOnce,
            }) if spoke_tls => {
                let request = question.name;
                ConnError::Closed { address, request }.into()
            }
            ClientError::Conn(ConnError::ConnectTimeout { address, .. }) if self.path.is_cut => {
                ConnError::Unacknowledged { address }.into()
            }
            other => other,
        });
        let kept = self.kept.as_ref();
        let end = kept.and_then(|kept| kept.conn.certificate_end());
        self.tls.certificate_end = end.or(self.tls.certificate_end);
        let mut duration = started.elapsed();
        let answer = match answer {
            Ok(body) => self.read(question.name, body, read).await,
            Err(error) => Err(error),
        };
        let mut connected_in = self.kept.as_ref().map(|kept| kept.connected_in);
        match &answer {
            Ok(_) => {
                self.tls.demanded = None;
                self.late = self.late.filter(|late| late.request != question.name);
                // A connection that lasts longer than a round has recovered.
                drop(self.failed.take_if(|_| idle));
            }
            // The connection and the question remain.
            Err(ClientError::Conn(
                ConnError::Timeout { waited, .. } | ConnError::NoRoom { waited, .. },
            )) => duration = *waited,
            Err(ClientError::Conn(ConnError::TooLong { .. })) => {}
            Err(ClientError::Slow { took, .. }) => duration = *took,
            Err(ClientError::Waiting { .. }) => {
                (connected_in, duration) =
                    self.failed.as_ref().map_or((None, duration), |failed| {
                        (failed.connected_in, failed.duration)
                    });
            }
            // The next attempt ends where the broker asks for the certificate, which is no failure to the broker.
            Err(ClientError::Conn(ConnError::OfTls {
                problem: TlsProblem::CertificateDemanded,
                ..
            })) => {
                (self.kept, self.late, self.failed) = (None, None, None);
                self.tls.demanded.get_or_insert_with(Instant::now);
            }
            Err(error) => self.give_up(error, connected_in, duration),
        }
        if let Err(ClientError::Conn(ConnError::TooLong { .. })) = answer {
            self.read_late(deadline).await;
        }
        Asked {
            connected_in,
            duration,
            answer,
        }
    }

    /// Reads a big answer in another thread, so that no scrape waits for it.
    async fn read<T: Send + 'static>(
        &self,
        request: &'static str,
        body: Body,
        read: impl FnOnce(&str, &[u8]) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, ClientError> {
        if body.len() <= SMALL_ANSWER {
            return read(&self.address, &body);
        }
        let address = self.address.clone();
        let failed = |source| ConnError::Io {
            address: self.address.clone(),
            request,
            source,
        };
        let answer = on_thread("metadata", move || read(&address, &body)).await;
        answer.map_err(failed)?
    }

    fn give_up(&mut self, error: &ClientError, connected_in: Option<Duration>, duration: Duration) {
        let kept = self.kept.take();
        self.end(kept);
        self.late = None;
        let in_a_row = self
            .failed
            .as_ref()
            .map_or(0, |failed| failed.in_a_row)
            .saturating_add(1);
        // Refusing costs the broker nothing, because the kernel does it, and a broker that starts is then found soon. So is
        // one whose path is mended.
        let wait = match error {
            ClientError::Conn(ConnError::Refused { .. }) => self.timing.retry_first,
            ClientError::Conn(_) if self.path.is_cut => self.timing.retry_first,
            ClientError::Conn(ConnError::OfTls { problem, .. })
                if !matches!(problem, TlsProblem::ClosedAtOnce | TlsProblem::Closed) =>
            {
                self.timing.retry_tls
            }
            ClientError::Login { source, .. } if source.is_refusal() => self.timing.retry_login,
            _ => self.timing.retry_after(in_a_row),
        };
        let of_settings = matches!(
            error,
            ClientError::Login { .. }
                | ClientError::Settings { .. }
                | ClientError::Conn(ConnError::OfTls { .. } | ConnError::Unverified { .. })
        );
        let (message, reason, until) = (error.to_string(), error.reason(), Instant::now() + wait);
        self.failed = Some(Failed {
            message,
            reason,
            connected_in,
            duration,
            in_a_row,
            until,
            of_settings,
        });
    }
}

#[cfg(test)]
mod tests;
