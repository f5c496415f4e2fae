//! What a probe asks a broker, over one kept connection, with as little harm as a hanging broker allows.
//!
//! At most one request of ours is unanswered, and nothing is sent until it is answered. A new connection is made only
//! after the old one was reset or silent for ten minutes, and failed connections become rarer, down to one a minute.

use std::time::Duration;

use tokio::time::Instant;

use super::conn::{Conn, ConnError, Late, OwnConnections};
use super::wire::{self, Metadata, WireError};
use crate::model::Reason;

/// An answer of so many bytes is read within some 10 us: less than it takes to hand it to another thread.
const SMALL_ANSWER: usize = 4 << 10;

#[derive(Debug, Clone, Copy)]
struct Question {
    name: &'static str,
    frame: fn(i32) -> Vec<u8>,
    /// Most bytes of the answer.
    cap: usize,
    /// Asked after a pause, in which the broker may have closed the idle connection.
    after_pause: bool,
}

const API_VERSIONS: Question = Question {
    name: "ApiVersions",
    frame: wire::api_versions_request,
    // The longest known answer has less than 1 KiB.
    cap: 1024 * 1024,
    after_pause: true,
};
const METADATA: Question = Question {
    name: "Metadata",
    frame: wire::metadata_request,
    // More than a million partitions of three replicas. What is made of such an answer fits into 64 MB together with it.
    cap: 48 * 1024 * 1024,
    after_pause: false,
};
const METADATA_WITH_LISTENERS: Question = Question {
    frame: wire::metadata_with_listeners_request,
    ..METADATA
};

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
        self.retry_first
            .saturating_mul(doubled)
            .min(self.retry_last)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Conn(#[from] ConnError),
    #[error(
        "{address} answers {request} too late: the last answer took {} ms, and the next was not there after {} ms either; the broker works and is slow, so look at its load, its disks and its garbage collections",
        took.as_millis(), within.as_millis()
    )]
    Slow {
        address: String,
        request: &'static str,
        took: Duration,
        within: Duration,
    },
    #[error("{last} (next connection in {} s)", wait.as_secs_f64().ceil())]
    Waiting {
        last: String,
        reason: Reason,
        wait: Duration,
    },
    #[error(
        "{address} answered {request} with what is no such answer: {source}; the port is no Kafka listener, or this Kafka is newer than the exporter"
    )]
    Wire {
        address: String,
        request: &'static str,
        source: WireError,
    },
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
    pub fn reason(&self) -> Reason {
        match self {
            ClientError::Conn(error) => match error {
                ConnError::Refused { .. } => Reason::Refused,
                ConnError::NameTimeout { .. }
                | ConnError::ConnectTimeout { .. }
                | ConnError::Timeout { .. } => Reason::Timeout,
                ConnError::Connect { .. } | ConnError::Io { .. } => Reason::Unreachable,
                ConnError::Closed { .. } => Reason::Closed,
                ConnError::Tls { .. } => Reason::Unsupported,
                ConnError::Http { .. }
                | ConnError::FrameLength { .. }
                | ConnError::Correlation { .. } => Reason::Protocol,
            },
            ClientError::Slow { .. } => Reason::Slow,
            ClientError::Waiting { reason, .. } => *reason,
            ClientError::Wire { .. } => Reason::Protocol,
            ClientError::Refusal { .. } | ClientError::Version { .. } => Reason::Unsupported,
        }
    }
}

/// How one question went; while a broker that failed is left alone, how the last one did.
#[derive(Debug)]
pub struct Asked<T> {
    /// How long the connection took when it was made; None where there is none.
    pub connected_in: Option<Duration>,
    /// From the question to the answer, or to the failure; how long an answer has been owed where one is; of a broker
    /// that is slow, how long its last answer took.
    pub duration: Duration,
    pub answer: Result<T, ClientError>,
}

#[derive(Debug)]
struct Kept {
    conn: Conn,
    connected_in: Duration,
}

#[derive(Debug)]
struct Failed {
    message: String,
    reason: Reason,
    connected_in: Option<Duration>,
    duration: Duration,
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
    /// The newest answer that came too late, until one to the same request comes in time.
    late: Option<Late>,
    /// Whether the broker offers [`wire::METADATA_WITH_LISTENERS`].
    tells_listeners: bool,
}

impl Client {
    /// Connects at the first question.
    pub fn new(address: String, own: OwnConnections, timing: Timing) -> Client {
        Client {
            address,
            own,
            timing,
            kept: None,
            failed: None,
            late: None,
            tells_listeners: false,
        }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether the broker still owes an answer, after a look for a late one. For a broker that is asked no more.
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
        drop(self.kept.take_if(silent));
    }

    /// Reads an answer that is owed as it comes, until then: only so is it known how long it took.
    pub async fn read_late(&mut self, until: Instant) {
        if let Some(kept) = &mut self.kept {
            kept.conn.read_late(until).await;
        }
    }

    /// Asks ApiVersions: whether the broker answers at all, and whether it can be asked for Metadata.
    pub async fn api(&mut self) -> Asked<()> {
        let Asked {
            connected_in,
            duration,
            answer,
        } = self.ask(API_VERSIONS, understood).await;
        let answer = answer.map(|tells_listeners| self.tells_listeners = tells_listeners);
        Asked {
            connected_in,
            duration,
            answer,
        }
    }

    /// What `read` makes of a Metadata response about all topics. For a broker that has just answered [`Client::api`].
    pub async fn metadata<T: Send + 'static>(
        &mut self,
        read: impl FnOnce(Metadata<'_>) -> Result<T, WireError> + Send + 'static,
    ) -> Asked<T> {
        let (question, version) = match self.tells_listeners {
            true => (METADATA_WITH_LISTENERS, wire::METADATA_WITH_LISTENERS),
            false => (METADATA, wire::METADATA_VERSION),
        };
        let read = move |address: &str, body: &[u8]| {
            let wire = |source| ClientError::Wire {
                address: address.to_owned(),
                request: METADATA.name,
                source,
            };
            read(Metadata::new(body, version)).map_err(wire)
        };
        self.ask(question, read).await
    }

    async fn ask<T: Send + 'static>(
        &mut self,
        question: Question,
        read: impl FnOnce(&str, &[u8]) -> Result<T, ClientError> + Send + 'static,
    ) -> Asked<T> {
        let mut begun = Instant::now();
        let deadline = begun + self.timing.deadline;
        self.forget_silent();
        let idle = question.after_pause && self.kept.is_some();
        let mut answer = self.attempt(question, deadline, &mut begun).await;
        if idle && matches!(answer, Err(ClientError::Conn(ConnError::Closed { .. }))) {
            // A reset frees what the old one held.
            self.kept = None;
            answer = self.attempt(question, deadline, &mut begun).await;
        }
        let mut duration = begun.elapsed();
        let answer = match answer {
            Ok(body) => self.read(question, body, read).await,
            Err(error) => Err(error),
        };
        let mut connected_in = self.kept.as_ref().map(|kept| kept.connected_in);
        match &answer {
            Ok(_) => {
                self.late = self.late.filter(|late| late.request != question.name);
                // A connection that outlives its round is a good one.
                drop(self.failed.take_if(|_| idle));
            }
            // Still connected, and the question still stands.
            Err(ClientError::Conn(ConnError::Timeout { waited, .. })) => duration = *waited,
            Err(ClientError::Slow { took, .. }) => duration = *took,
            Err(ClientError::Waiting { .. }) => {
                (connected_in, duration) =
                    self.failed.as_ref().map_or((None, duration), |failed| {
                        (failed.connected_in, failed.duration)
                    });
            }
            Err(error) => self.give_up(error, connected_in, duration),
        }
        Asked {
            connected_in,
            duration,
            answer,
        }
    }

    /// A big answer takes its time, and no scrape is to wait for it.
    async fn read<T: Send + 'static>(
        &self,
        question: Question,
        body: Vec<u8>,
        read: impl FnOnce(&str, &[u8]) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, ClientError> {
        if body.len() <= SMALL_ANSWER {
            return read(&self.address, &body);
        }
        let address = self.address.clone();
        tokio::task::spawn_blocking(move || read(&address, &body))
            .await
            .unwrap_or_else(|ended| {
                let (address, source) = (self.address.clone(), ended.into());
                Err(ConnError::Io {
                    address,
                    request: question.name,
                    source,
                }
                .into())
            })
    }

    fn give_up(&mut self, error: &ClientError, connected_in: Option<Duration>, duration: Duration) {
        (self.kept, self.late) = (None, None);
        let in_a_row = self
            .failed
            .as_ref()
            .map_or(0, |failed| failed.in_a_row)
            .saturating_add(1);
        // The kernel alone refuses: that costs the broker nothing, and one that starts is to be seen soon.
        let wait = match error {
            ClientError::Conn(ConnError::Refused { .. }) => self.timing.retry_first,
            _ => self.timing.retry_after(in_a_row),
        };
        let (message, reason, until) = (error.to_string(), error.reason(), Instant::now() + wait);
        self.failed = Some(Failed {
            message,
            reason,
            connected_in,
            duration,
            in_a_row,
            until,
        });
    }

    /// `begun` becomes the time of the question, where one could be sent.
    async fn attempt(
        &mut self,
        question: Question,
        deadline: Instant,
        begun: &mut Instant,
    ) -> Result<Vec<u8>, ClientError> {
        let kept = match &mut self.kept {
            Some(kept) => {
                // Unless it settles, the broker hangs, however well it did before.
                let late = self.late.take();
                self.late = kept
                    .conn
                    .settle(deadline.min(Instant::now() + self.timing.late))
                    .await?
                    .or(late);
                kept
            }
            none => {
                let now = Instant::now();
                if let Some(failed) = self.failed.as_ref().filter(|failed| now < failed.until) {
                    let (last, wait) = (failed.message.clone(), failed.until - now);
                    return Err(ClientError::Waiting {
                        last,
                        reason: failed.reason,
                        wait,
                    });
                }
                let conn = Conn::connect(&self.address, deadline - now, &self.own).await?;
                none.insert(Kept {
                    conn,
                    connected_in: now.elapsed(),
                })
            }
        };
        *begun = Instant::now();
        let asked = kept
            .conn
            .ask(question.name, question.frame, question.cap, deadline)
            .await;
        asked.map_err(|error| match (error, self.late) {
            (
                ConnError::Timeout {
                    address, request, ..
                },
                Some(late),
            ) if late.request == request => ClientError::Slow {
                address,
                request,
                took: late.took,
                within: self.timing.deadline,
            },
            (error, _) => error.into(),
        })
    }
}

/// Whether a broker that answered ApiVersions so can be asked; if so, whether in
/// [`wire::METADATA_WITH_LISTENERS`].
fn understood(address: &str, answer: &[u8]) -> Result<bool, ClientError> {
    let address = address.to_owned();
    let versions = match wire::api_versions(answer) {
        Ok(versions) => versions,
        Err(source) => {
            return Err(ClientError::Wire {
                address,
                request: API_VERSIONS.name,
                source,
            });
        }
    };
    if versions.error != 0 {
        return Err(ClientError::Refusal {
            address,
            code: versions.error,
        });
    }
    match versions.metadata {
        Some((oldest, newest)) if (oldest..=newest).contains(&wire::METADATA_VERSION) => {
            Ok(newest >= wire::METADATA_WITH_LISTENERS)
        }
        Some((oldest, newest)) => Err(ClientError::Version {
            address,
            offered: format!("{oldest} to {newest}"),
        }),
        None => Err(ClientError::Version {
            address,
            offered: "none: a dedicated controller, or no broker".into(),
        }),
    }
}

#[cfg(test)]
mod tests;
