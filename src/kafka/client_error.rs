//! Why a client has no answer, with what to do about it.

use std::time::Duration;

use super::conn_error::ConnError;
use super::login::LoginError;
use super::wire::{self, WireError};
use crate::model::Reason;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Conn(#[from] ConnError),
    #[error(
        "{address} answers {request} too late: the last answer took {} ms, and the next one did not come within {} ms either; the broker works but is slow, so check its load, its disks and its garbage collections",
        took.as_millis(), within.as_millis()
    )]
    Slow {
        address: String,
        request: &'static str,
        took: Duration,
        within: Duration,
    },
    #[error(
        "{address} answers nothing but ApiVersions before a login, and none is configured: name one as `sasl` in the config"
    )]
    NeedsLogin { address: String },
    #[error("{address} {source} ({login})")]
    Login {
        address: String,
        /// Whose login it is, how, and where it stands.
        login: String,
        source: Box<LoginError>,
    },
    #[error("{address} is not asked: {problem}")]
    Settings { address: String, problem: String },
    #[error("{last} (next connection in {} s)", wait.as_secs_f64().ceil())]
    Waiting {
        last: String,
        reason: Reason,
        wait: Duration,
    },
    #[error(
        "{address} answered {request} with bytes that are no such answer: {source}; the port is no Kafka listener, or this Kafka is newer than the exporter"
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
    /// Returns the reason as labels have it.
    pub fn reason(&self) -> Reason {
        match self {
            ClientError::Conn(error) => error.reason(),
            ClientError::NeedsLogin { .. } => Reason::NeedsCredentials,
            ClientError::Login { source, .. } => source.reason(),
            ClientError::Settings { .. } => Reason::Config,
            ClientError::Slow { .. } => Reason::Slow,
            ClientError::Waiting { reason, .. } => *reason,
            ClientError::Wire { .. } => Reason::Protocol,
            ClientError::Refusal { .. } | ClientError::Version { .. } => Reason::Unsupported,
        }
    }
}
