//! Why a connection gives no answer, with what to do about it.

use std::io;
use std::time::Duration;

use super::tls_error::TlsProblem;
use crate::model::Reason;
use crate::model::room::BUDGET;

/// Why there is no answer. Every error except [`ConnError::Timeout`], [`ConnError::NoRoom`] and
/// [`ConnError::TooLong`] ends the connection.
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
    #[error(
        "packets to {address} are not acknowledged: the path to it or back is cut, or its host is down"
    )]
    Unacknowledged { address: String },
    #[error("{address} accepted no connection within {} ms: its accept queue is full, or packets to it are dropped", within.as_millis())]
    ConnectTimeout { address: String, within: Duration },
    #[error("{address} accepted the connection and has not answered {request} for {} ms: the broker hangs or is slower than the deadline, or this is no Kafka listener", waited.as_millis())]
    Timeout {
        address: String,
        request: &'static str,
        waited: Duration,
    },
    #[error(
        "no room for the answer of {address} to {request}: answers of {} MiB are in flight, which is all that the exporter keeps at a time, or half of that of brokers of other users than the first; if this lasts, a broker, or a process that looks like one, sends far more than usual",
        BUDGET >> 20
    )]
    NoRoom {
        address: String,
        request: &'static str,
        waited: Duration,
    },
    #[error(
        "{address} closed the connection before it answered {request}: the broker is stopping, or the listener requires TLS or SASL (then name it as `probe_listener` in the config instead of its address as `bootstrap`)"
    )]
    Closed {
        address: String,
        request: &'static str,
    },
    #[error(
        "{address} speaks TLS, but is asked without: `bootstrap` in the config leads to another listener than the broker's files say, so name the listener as `probe_listener` instead"
    )]
    Tls { address: String },
    #[error("{address} {problem}")]
    OfTls {
        address: String,
        problem: TlsProblem,
    },
    #[error(
        "{address}: a login is sent over TLS only where the certificate is verified: name the authority as `tls.ca_file` in the config, or vouch for the other side with `tls.insecure_skip_verify`"
    )]
    Unverified { address: String },
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
        "{address} answered {request} with {length} bytes, of which no more than {cap} are read"
    )]
    TooLong {
        address: String,
        request: &'static str,
        length: usize,
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

impl ConnError {
    /// Returns the reason as labels have it.
    pub fn reason(&self) -> Reason {
        match self {
            ConnError::Refused { .. } => Reason::Refused,
            ConnError::NameTimeout { .. }
            | ConnError::ConnectTimeout { .. }
            | ConnError::Timeout { .. } => Reason::Timeout,
            ConnError::NoRoom { .. } => Reason::NoRoom,
            ConnError::Connect { .. } | ConnError::Unacknowledged { .. } | ConnError::Io { .. } => {
                Reason::Unreachable
            }
            ConnError::Loopback { .. } => Reason::OtherNetwork,
            ConnError::Closed { .. } => Reason::Closed,
            ConnError::Tls { .. } => Reason::Unsupported,
            ConnError::Unverified { .. } => Reason::Certificate,
            ConnError::OfTls { problem, .. } => match problem {
                TlsProblem::CertificateDemanded => Reason::NeedsCredentials,
                TlsProblem::Certificate(_) => Reason::Certificate,
                TlsProblem::Alert(_) | TlsProblem::Incompatible(_) => Reason::Unsupported,
                TlsProblem::Closed => Reason::Closed,
                TlsProblem::NotTls
                | TlsProblem::ClosedAtOnce
                | TlsProblem::Flood
                | TlsProblem::Undecryptable
                | TlsProblem::Broken(_) => Reason::Protocol,
            },
            ConnError::Http { .. }
            | ConnError::FrameLength { .. }
            | ConnError::TooLong { .. }
            | ConnError::Correlation { .. } => Reason::Protocol,
        }
    }
}
