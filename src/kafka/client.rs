//! What a probe asks a broker, over one kept connection, with as little harm as a hanging broker allows.
//!
//! At most one request of ours is unanswered, and nothing is sent until it is answered. A new connection is made only
//! after the old one was reset or silent for ten minutes, and failed connections become rarer, down to one a minute.

use std::time::Duration;

use tokio::time::Instant;

use super::conn::{Conn, ConnError, OwnConnections};
use super::wire::{self, WireError};

/// Of an ApiVersions answer; the longest known one has less than 1 KiB.
const API_VERSIONS_CAP: usize = 1024 * 1024;
/// Of a Metadata answer: more than a million partitions.
const METADATA_CAP: usize = 64 * 1024 * 1024;

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// For one question, connecting included.
    pub deadline: Duration,
    /// For the late answer to an earlier question: it is in the kernel's buffer already, or not there.
    pub late: Duration,
    /// A connection that was silent for so long is given up.
    pub silence: Duration,
    /// Until the next connection after the first failed one; doubles with each further one.
    pub retry_first: Duration,
    pub retry_last: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            deadline: Duration::from_secs(2),
            late: Duration::from_millis(100),
            silence: Duration::from_secs(600),
            // Less than the round of 5 s, so that the next one does not come just too early.
            retry_first: Duration::from_secs(4),
            retry_last: Duration::from_secs(60),
        }
    }
}

impl Timing {
    /// How long to leave a broker alone after so many connections that failed in a row.
    fn retry_after(&self, failures: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        self.retry_first.saturating_mul(doubled).min(self.retry_last)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Conn(#[from] ConnError),
    #[error("{last} (next connection in {} s)", wait.as_secs_f64().ceil())]
    Waiting { last: String, reason: &'static str, wait: Duration },
    #[error(
        "{address} answered {request} with what is no such answer: {source}; the port is no Kafka listener, or this Kafka is newer than the exporter"
    )]
    Wire { address: String, request: &'static str, source: WireError },
    #[error("{address} answered ApiVersions with error {code}: Kafka 0.10.0 or later is needed")]
    Refusal { address: String, code: i16 },
    #[error(
        "{address} speaks no Metadata version {} (it offers {offered}): Kafka 0.10.0 or later is needed",
        wire::METADATA_VERSION
    )]
    Version { address: String, offered: String },
}

impl ClientError {
    /// One word, fit for a label.
    pub fn reason(&self) -> &'static str {
        match self {
            ClientError::Conn(error) => match error {
                ConnError::Refused { .. } => "refused",
                ConnError::ConnectTimeout { .. } | ConnError::Timeout { .. } => "timeout",
                ConnError::Connect { .. } | ConnError::Io { .. } => "unreachable",
                ConnError::Closed { .. } => "closed",
                ConnError::Tls { .. } => "unsupported",
                ConnError::Http { .. } | ConnError::FrameLength { .. } | ConnError::Correlation { .. } => "protocol",
            },
            ClientError::Waiting { reason, .. } => reason,
            ClientError::Wire { .. } => "protocol",
            ClientError::Refusal { .. } | ClientError::Version { .. } => "unsupported",
        }
    }
}

#[derive(Debug)]
struct Kept {
    conn: Conn,
    /// The broker said that it speaks what we speak.
    negotiated: bool,
}

#[derive(Debug)]
struct Failed {
    message: String,
    reason: &'static str,
    in_a_row: u32,
    until: Instant,
}

/// One broker at one address.
#[derive(Debug)]
pub struct Client {
    address: String,
    own: OwnConnections,
    timing: Timing,
    kept: Option<Kept>,
    failed: Option<Failed>,
}

impl Client {
    /// Connects at the first question.
    pub fn new(address: String, own: OwnConnections, timing: Timing) -> Client {
        Client { address, own, timing, kept: None, failed: None }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether the broker still owes an answer, after a look for a late one. For a broker that is asked no more.
    pub async fn owes_answer(&mut self) -> bool {
        self.forget_silent();
        let Some(kept) = &mut self.kept else { return false };
        match kept.conn.settle(Instant::now()).await {
            Ok(()) => false,
            Err(ConnError::Timeout { .. }) => true,
            Err(error) => {
                self.give_up(&error.into());
                false
            }
        }
    }

    fn forget_silent(&mut self) {
        let silence = self.timing.silence;
        let silent = |kept: &mut Kept| kept.conn.unanswered_since().is_some_and(|since| since.elapsed() >= silence);
        drop(self.kept.take_if(silent));
    }

    /// The body of a Metadata response about all topics, version [`wire::METADATA_VERSION`].
    pub async fn metadata(&mut self) -> Result<Vec<u8>, ClientError> {
        let deadline = Instant::now() + self.timing.deadline;
        let reused = self.kept.is_some();
        let mut answer = self.attempt(deadline).await;
        if reused && matches!(answer, Err(ClientError::Conn(ConnError::Closed { .. }))) {
            // Brokers close idle connections, and a reset frees what the old one held.
            self.kept = None;
            answer = self.attempt(deadline).await;
        }
        match &answer {
            Ok(_) => self.failed = None,
            // Still connected, and the question still stands.
            Err(ClientError::Conn(ConnError::Timeout { .. }) | ClientError::Waiting { .. }) => {}
            Err(error) => self.give_up(error),
        }
        answer
    }

    fn give_up(&mut self, error: &ClientError) {
        self.kept = None;
        let in_a_row = self.failed.as_ref().map_or(0, |failed| failed.in_a_row).saturating_add(1);
        // The kernel alone refuses: that costs the broker nothing, and one that starts is to be seen soon.
        let wait = match error {
            ClientError::Conn(ConnError::Refused { .. }) => self.timing.retry_first,
            _ => self.timing.retry_after(in_a_row),
        };
        self.failed =
            Some(Failed { message: error.to_string(), reason: error.reason(), in_a_row, until: Instant::now() + wait });
    }

    async fn attempt(&mut self, deadline: Instant) -> Result<Vec<u8>, ClientError> {
        self.forget_silent();
        let kept = match &mut self.kept {
            Some(kept) => {
                kept.conn.settle(deadline.min(Instant::now() + self.timing.late)).await?;
                kept
            }
            none => {
                let now = Instant::now();
                if let Some(failed) = self.failed.as_ref().filter(|failed| now < failed.until) {
                    let (last, wait) = (failed.message.clone(), failed.until - now);
                    return Err(ClientError::Waiting { last, reason: failed.reason, wait });
                }
                let conn = Conn::connect(&self.address, deadline - now, &self.own).await?;
                none.insert(Kept { conn, negotiated: false })
            }
        };
        if !kept.negotiated {
            let answer = kept.conn.ask("ApiVersions", wire::api_versions_request, API_VERSIONS_CAP, deadline).await?;
            understood(&self.address, &answer)?;
            kept.negotiated = true;
        }
        Ok(kept.conn.ask("Metadata", wire::metadata_request, METADATA_CAP, deadline).await?)
    }
}

/// Whether a broker that answered ApiVersions so can be asked.
fn understood(address: &str, answer: &[u8]) -> Result<(), ClientError> {
    let address = address.to_owned();
    let versions = match wire::api_versions(answer) {
        Ok(versions) => versions,
        Err(source) => return Err(ClientError::Wire { address, request: "ApiVersions", source }),
    };
    if versions.error != 0 {
        return Err(ClientError::Refusal { address, code: versions.error });
    }
    match versions.metadata {
        Some((oldest, newest)) if (oldest..=newest).contains(&wire::METADATA_VERSION) => Ok(()),
        Some((oldest, newest)) => Err(ClientError::Version { address, offered: format!("{oldest} to {newest}") }),
        None => Err(ClientError::Version { address, offered: "none: a dedicated controller, or no broker".into() }),
    }
}

#[cfg(test)]
mod tests;
