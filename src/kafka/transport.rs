//! The bytes of a connection, plain or through TLS. The handshake runs with the first request, within its deadline, and
//! continues where the last call stopped.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{ResolvesClientCert, Resumption};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio_rustls::{Connect, TlsConnector};

use super::certificate;
use super::security::{Tls, provider};
use super::tls_error::TlsProblem;
use crate::model::Moment;

/// Bytes that TLS may take beyond those of an answer: the certificates, and an eighth of the answer for its records.
const OVERHEAD: usize = 128 * 1024;

pub(super) enum Transport {
    Plain(TcpStream),
    Handshake(Box<Handshake>),
    Tls(Box<TlsStream<Metered>>, Arc<Seen>),
    /// The handshake failed, as every later call must.
    Failed(TlsProblem, Arc<Seen>),
}

pub(super) struct Handshake {
    connect: Connect<Metered>,
    seen: Arc<Seen>,
}

/// What the broker showed in the handshake, also in one that failed.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// When the certificate ends.
    end: OnceLock<Moment>,
    asked_for_certificate: AtomicBool,
    /// Whether it has sent anything.
    spoke: AtomicBool,
    has_identity: bool,
    stops_when_asked: bool,
}

impl Seen {
    fn may_not_go_on(&self) -> bool {
        self.stops_when_asked && self.demands_certificate()
    }

    fn demands_certificate(&self) -> bool {
        self.asked_for_certificate.load(Ordering::Relaxed) && !self.has_identity
    }
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Transport::Plain(_) => "plain",
            Transport::Handshake(_) => "TLS handshake",
            Transport::Tls(..) => "TLS",
            Transport::Failed(..) => "failed TLS handshake",
        })
    }
}

impl Transport {
    /// Begins TLS with `host`, which the connection leads to.
    pub(super) fn begin(&mut self, tls: &Tls, host: &str) {
        let seen = Arc::new(Seen {
            has_identity: tls.identity.is_some(),
            stops_when_asked: tls.stops_when_asked,
            ..Seen::default()
        });
        let failed = Transport::Failed(TlsProblem::Closed, Arc::clone(&seen));
        let Transport::Plain(stream) = std::mem::replace(self, failed) else {
            return;
        };
        let ip = || {
            let peer = stream.peer_addr().ok()?;
            Some(ServerName::from(peer.ip().to_canonical()))
        };
        let name = tls
            .server_name
            .clone()
            .or_else(|| ServerName::try_from(host.to_owned()).ok())
            // Kafka takes names that DNS does not, and then only a certificate that is not verified can be right.
            .or_else(ip);
        match config(tls, &seen) {
            Ok(config) => {
                let Some(name) = name else { return };
                let metered = Metered {
                    stream,
                    left: OVERHEAD,
                    seen: Arc::clone(&seen),
                };
                let connect = TlsConnector::from(Arc::new(config)).connect(name, metered);
                *self = Transport::Handshake(Box::new(Handshake { connect, seen }));
            }
            Err(error) => *self = Transport::Failed(TlsProblem::of(&error), seen),
        }
    }

    /// Finishes the handshake, if there is one to finish. It may be dropped at any await and called again.
    pub(super) async fn ready(&mut self) -> Result<(), TlsProblem> {
        let (result, seen) = match self {
            Transport::Plain(_) | Transport::Tls(..) => return Ok(()),
            Transport::Failed(problem, _) => return Err(problem.clone()),
            Transport::Handshake(handshake) => {
                ((&mut handshake.connect).await, Arc::clone(&handshake.seen))
            }
        };
        match result {
            Ok(stream) => {
                *self = Transport::Tls(Box::new(stream), seen);
                Ok(())
            }
            Err(error) => {
                let problem = of_handshake(&error, &seen);
                *self = Transport::Failed(problem.clone(), seen);
                Err(problem)
            }
        }
    }

    pub(super) fn is_shaking_hands(&self) -> bool {
        matches!(self, Transport::Handshake(_))
    }

    /// How many bytes may come until the next call: an answer of `cap` bytes and what TLS adds.
    pub(super) fn allow(&mut self, cap: usize) {
        let allowed = cap + cap / 8 + OVERHEAD;
        match self {
            Transport::Handshake(handshake) => {
                if let Some(metered) = handshake.connect.get_mut() {
                    metered.left = allowed;
                }
            }
            Transport::Tls(stream, _) => stream.get_mut().0.left = allowed,
            // What is read here is counted by the frame.
            Transport::Plain(_) | Transport::Failed(..) => {}
        }
    }

    /// What an error of this stream means. `answered` is whether the connection has carried an answer.
    pub(super) fn failing(&self, answered: bool) -> Failing {
        let demands = match self {
            Transport::Tls(_, seen) => !answered && seen.demands_certificate(),
            _ => false,
        };
        Failing { demands }
    }

    /// When the broker's certificate ends, once it was shown.
    pub(super) fn certificate_end(&self) -> Option<Moment> {
        let seen = match self {
            Transport::Plain(_) => return None,
            Transport::Handshake(handshake) => &handshake.seen,
            Transport::Tls(_, seen) | Transport::Failed(_, seen) => seen,
        };
        seen.end.get().copied()
    }

    /// The socket; None before the end of the handshake.
    pub(super) fn socket(&self) -> Option<&TcpStream> {
        match self {
            Transport::Plain(stream) => Some(stream),
            Transport::Tls(stream, _) => Some(&stream.get_ref().0.stream),
            Transport::Handshake(_) | Transport::Failed(..) => None,
        }
    }

    #[cfg(test)]
    pub(super) fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
        let none = io::ErrorKind::NotConnected;
        self.socket().ok_or(none)?.local_addr()
    }
}

/// What a failed read or write of a stream means.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failing {
    /// In TLS 1.3 a broker that demands a certificate says so after the handshake, and may close before that is read.
    demands: bool,
}

impl Failing {
    /// What is wrong with TLS; None where it is not to blame.
    pub(super) fn problem(self, error: &io::Error) -> Option<TlsProblem> {
        match TlsProblem::of_io(error) {
            // Kafka 2.8 says so with the keys of the handshake, which it should use no longer.
            Some(TlsProblem::Alert(_) | TlsProblem::Undecryptable) | None if self.demands => {
                Some(TlsProblem::CertificateDemanded)
            }
            other => other,
        }
    }
}

fn of_handshake(error: &io::Error, seen: &Seen) -> TlsProblem {
    let problem = TlsProblem::of_io(error);
    match problem {
        Some(TlsProblem::Alert(_)) | None if seen.demands_certificate() => {
            TlsProblem::CertificateDemanded
        }
        Some(problem) => problem,
        None if seen.spoke.load(Ordering::Relaxed) => TlsProblem::Closed,
        None => TlsProblem::ClosedAtOnce,
    }
}

fn config(tls: &Tls, seen: &Arc<Seen>) -> Result<ClientConfig, Error> {
    let verifier = Arc::new(Watching {
        verifier: Arc::clone(&tls.verifier),
        seen: Arc::clone(seen),
    });
    let resolver = Arc::new(Identity {
        key: tls.identity.clone(),
        seen: Arc::clone(seen),
    });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(resolver);
    // Connections are kept, and tickets would be kept as well.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Notes when the broker's certificate ends, and leaves the rest to the other verifier.
#[derive(Debug)]
struct Watching {
    verifier: Arc<dyn ServerCertVerifier>,
    seen: Arc<Seen>,
}

impl ServerCertVerifier for Watching {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(end) = certificate::end(leaf) {
            // A handshake shows one certificate.
            let _ = self.seen.end.set(end);
        }
        self.verifier
            .verify_server_cert(leaf, others, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier
            .verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier
            .verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// The exporter's own certificate, if one is configured, and whether the broker asked for it.
#[derive(Debug)]
struct Identity {
    key: Option<Arc<CertifiedKey>>,
    seen: Arc<Seen>,
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.seen
            .asked_for_certificate
            .store(true, Ordering::Relaxed);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        self.key.is_some()
    }
}

/// Counts what comes, because TLS passes over bytes that no request asked for, and sends nothing after it has been asked
/// for a certificate that it lacks.
pub(super) struct Metered {
    stream: TcpStream,
    left: usize,
    seen: Arc<Seen>,
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::other(TlsProblem::Flood)));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        self.left = self.left.saturating_sub(read);
        if read > 0 {
            self.seen.spoke.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.seen.may_not_go_on() {
            return Poll::Ready(Err(io::Error::other(TlsProblem::CertificateDemanded)));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream, _) => Pin::new(stream).poll_read(cx, buf),
            Transport::Handshake(_) | Transport::Failed(..) => not_ready(),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tls(stream, _) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Handshake(_) | Transport::Failed(..) => not_ready(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream, _) => Pin::new(stream).poll_flush(cx),
            Transport::Handshake(_) | Transport::Failed(..) => not_ready(),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Transport::Handshake(_) | Transport::Failed(..) => not_ready(),
        }
    }
}

/// [`Transport::ready`] comes first.
fn not_ready<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_no_key_decrypts_is_a_demand_where_a_certificate_was_asked_for_in_vain() {
        let error = io::Error::other(Error::DecryptError);
        for (demands, expected) in [
            (true, "demands a client certificate"),
            (false, "sent what its keys of TLS do not decrypt"),
        ] {
            let problem = Failing { demands }.problem(&error).unwrap();
            assert!(problem.to_string().contains(expected), "{problem}");
        }
    }
}
