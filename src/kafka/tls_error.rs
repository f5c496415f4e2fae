//! What can go wrong in TLS, each with its remedy.

use std::io;
use std::time::Duration;

use tokio_rustls::rustls::{CertificateError, Error, InvalidMessage, PeerIncompatible};

use crate::model::{Moment, rfc3339};

/// Why TLS failed. The address stands before it in a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsProblem {
    #[error(
        "speaks no TLS: the listener is a PLAINTEXT or SASL_PLAINTEXT one, so name another as `probe_listener` in the config, or the protocol of this one in `listener.security.protocol.map`"
    )]
    NotTls,
    /// The broker closed the connection before it sent anything, as one without TLS does.
    #[error(
        "closed the connection when TLS began: the listener is a PLAINTEXT or SASL_PLAINTEXT one, so name another as `probe_listener` in the config, or the broker is stopping or at its limit of connections"
    )]
    ClosedAtOnce,
    #[error(
        "closed the connection in the TLS handshake: the broker is stopping, or its log says why it refuses"
    )]
    Closed,
    #[error(
        "demands a client certificate, and none is configured: name one as `tls.cert_file` and `tls.key_file` in the config"
    )]
    CertificateDemanded,
    #[error("has a certificate that {0}")]
    Certificate(CertificateProblem),
    #[error(
        "refused the TLS handshake with the alert {0}: the certificate that the exporter shows, if it is configured, or the ciphers and versions of the listener are the cause; TLS 1.3, or TLS 1.2 with ECDHE and AES-GCM or ChaCha20, is needed, and a key of RSA or EC in the broker's keystore"
    )]
    Alert(String),
    #[error(
        "offers no TLS that the exporter speaks ({0}): TLS 1.3, or TLS 1.2 with ECDHE and AES-GCM or ChaCha20, is needed"
    )]
    Incompatible(String),
    #[error(
        "sent far more bytes of TLS than an answer needs: the port is no Kafka listener, or something in between corrupts the connection"
    )]
    Flood,
    #[error(
        "sent what its keys of TLS do not decrypt: something in between corrupts the connection"
    )]
    Undecryptable,
    #[error(
        "broke the rules of TLS ({0}): the port is no Kafka listener, or something in between corrupts the connection"
    )]
    Broken(String),
}

/// Why the broker's certificate is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateProblem {
    #[error("expired at {}: renew it in the broker's keystore", rfc3339(*.0))]
    Expired(Moment),
    #[error(
        "is not valid yet: check the clock of this host, and the certificate in the broker's keystore"
    )]
    NotYet,
    #[error(
        "comes from no authority of `tls.ca_file` in the config: add the one that signed it, or the certificate itself where it signed itself"
    )]
    UnknownIssuer,
    #[error(
        "is not for {expected} but for {presented}: name one of its names as `tls.server_name` in the config"
    )]
    Name { expected: String, presented: String },
    #[error(
        "cannot be verified ({0}): a certificate of X.509 version 3 with a subjectAltName is needed, or `tls.insecure_skip_verify` in the config"
    )]
    Other(String),
}

impl TlsProblem {
    /// What TLS has to do with an error of a stream; None where it has nothing to do with it.
    pub(super) fn of_io(error: &io::Error) -> Option<TlsProblem> {
        let inner = error.get_ref()?;
        if let Some(problem) = inner.downcast_ref::<TlsProblem>() {
            return Some(problem.clone());
        }
        inner.downcast_ref::<Error>().map(TlsProblem::of)
    }

    pub(super) fn of(error: &Error) -> TlsProblem {
        match error {
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType
                | InvalidMessage::UnknownProtocolVersion
                | InvalidMessage::MessageTooLarge,
            ) => TlsProblem::NotTls,
            Error::InvalidCertificate(error) => {
                TlsProblem::Certificate(CertificateProblem::of(error))
            }
            Error::AlertReceived(alert) => TlsProblem::Alert(format!("{alert:?}")),
            Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13) => {
                TlsProblem::Incompatible("only TLS 1.1 or older".into())
            }
            Error::DecryptError => TlsProblem::Undecryptable,
            Error::PeerIncompatible(why) => TlsProblem::Incompatible(format!("{why:?}")),
            other => TlsProblem::Broken(other.to_string()),
        }
    }
}

/// `localhost` of `DnsName("localhost")`.
fn plain(name: &str) -> &str {
    let inside = name.split_once('(').map_or(name, |(_, inside)| inside);
    inside.trim_end_matches(')').trim_matches('"')
}

impl CertificateProblem {
    fn of(error: &CertificateError) -> CertificateProblem {
        match error {
            CertificateError::ExpiredContext { not_after, .. } => {
                let end = Duration::from_secs(not_after.as_secs());
                CertificateProblem::Expired(Moment::default().plus(end))
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                CertificateProblem::NotYet
            }
            // An authority of the same name, with another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                CertificateProblem::UnknownIssuer
            }
            CertificateError::NotValidForNameContext {
                expected,
                presented,
            } => CertificateProblem::Name {
                expected: expected.to_str().into_owned(),
                presented: match presented.is_empty() {
                    true => "no name".into(),
                    false => presented
                        .iter()
                        .map(|name| plain(name))
                        .collect::<Vec<_>>()
                        .join(", "),
                },
            },
            other => CertificateProblem::Other(other.to_string()),
        }
    }
}
