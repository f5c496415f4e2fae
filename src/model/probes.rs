//! What came of the requests to a broker and its peers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::named::named;
use super::{Moment, Peer, Reason};

/// The results of the last round of requests to the broker itself and to its peers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ProbeReport {
    /// ApiVersions, which a request handler answers; None where the listener demands credentials before that.
    pub api: Option<Probe>,
    /// What the network thread alone answers, where `api` is None: ApiVersions before a login, or a TLS handshake.
    #[serde(default)]
    pub network: Option<Probe>,
    /// Metadata; None while the broker owes the answer to `api`, because then it is not requested, and where the listener
    /// demands credentials.
    pub metadata: Option<Probe>,
    /// The listener of the probes above and then the others; empty for a single one without TLS.
    #[serde(default)]
    pub listeners: Vec<ListenerProbe>,
    /// The next brokers by id, each probed over one kept connection.
    pub peers: Vec<PeerProbe>,
}

impl ProbeReport {
    /// The first answer of the broker: of a request handler, or else of the network thread.
    pub fn first(&self) -> Option<&Probe> {
        self.api.as_ref().or(self.network.as_ref())
    }

    /// All that the broker itself was asked for at its first listener.
    pub fn own(&self) -> impl Iterator<Item = &Probe> {
        [&self.api, &self.network, &self.metadata]
            .into_iter()
            .flatten()
    }
}

/// ApiVersions at one listener of the broker, or as much of it as there is without credentials.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListenerProbe {
    /// As `listeners` names it; the address where that is unknown.
    pub listener: String,
    pub probe: Probe,
    /// Whether a request handler answers it, or the network thread alone.
    pub by_handler: bool,
    /// When its certificate ends, where it has one.
    pub certificate_end: Option<Moment>,
    /// Whether the certificate was verified; None without TLS.
    pub verified: Option<bool>,
    /// Whether it has TLS and the exporter shows nothing there by which the broker could know it: what its ACLs hide from
    /// the ANONYMOUS user is then hidden.
    #[serde(default)]
    pub anonymous: bool,
}

/// One request, or one attempt to connect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// The time until the answer or the failure; while an answer is owed, the time since the request; for a slow broker,
    /// the duration of its last answer.
    pub duration: Duration,
    /// None is success.
    pub error: Option<ProbeError>,
}

impl Probe {
    pub fn success(&self) -> bool {
        self.error.is_none()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeError {
    pub reason: Reason,
    /// Whether TCP accepted the connection: this distinguishes a silent broker from one that is down.
    pub accepted: bool,
    /// Which broker and address, what happened, what to do.
    pub message: String,
}

impl ProbeError {
    /// Whether TCP itself got no answer.
    pub fn is_unreachable(&self) -> bool {
        !self.accepted && matches!(self.reason, Reason::Timeout | Reason::Unreachable)
    }

    /// Whether TCP accepted the connection, and no answer has come.
    pub fn owes_answer(&self) -> bool {
        self.accepted && self.reason == Reason::Timeout
    }

    /// Whether clients get no answer either: TCP accepts, and the exporter's request is not the cause.
    pub fn is_silent(&self) -> bool {
        self.accepted && matches!(self.reason, Reason::Timeout | Reason::Closed)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerProbe {
    pub peer: Peer,
    pub connect: Probe,
    /// None if there is no connection.
    pub api: Option<Probe>,
    /// Where packets are not acknowledged, so that the path is at fault, or the peer's host, and not its process.
    #[serde(default)]
    pub cut: Option<CutPath>,
}

named! {
    /// In which direction a path is cut, as seen from one end.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum CutPath {
        /// The peer's packets arrive here, and those to it are lost.
        To = "to",
        /// Nothing arrives from the peer: at least this direction is cut, or its host is down.
        From = "from",
        /// No connection shows it.
        Unknown = "unknown",
    }
}
