//! How a listener is spoken to: plain or with TLS, with or without a login.

use std::fmt;
use std::sync::{Arc, LazyLock};

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::thread::on_thread;
use crate::model::shares::Shares;
use crate::model::{Credentials, SecurityProtocol};

/// How one listener is spoken to.
#[derive(Debug, Clone, Default)]
pub struct Security {
    /// None is plain TCP.
    pub tls: Option<Tls>,
    pub login: Login,
}

/// What a listener demands before it answers more than ApiVersions.
#[derive(Debug, Clone, Default)]
pub enum Login {
    /// It has no SASL.
    #[default]
    NotNeeded,
    /// It has SASL, and nobody configured credentials. The network thread alone answers ApiVersions, once for each
    /// connection.
    Missing,
    /// With these.
    With(Arc<Credentials>),
}

/// Reads how a listener is spoken to, as the files of its settings are now.
#[derive(Clone)]
pub struct SecuritySource {
    read: Arc<Read>,
    turn: Arc<Mutex<()>>,
}

/// The same settings come as the same `Arc`, so that a change shows. The error is for a person.
type Read = dyn Fn() -> Result<Arc<Security>, String> + Send + Sync;

impl fmt::Debug for SecuritySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecuritySource")
    }
}

impl SecuritySource {
    /// `read` may block.
    pub fn new(read: impl Fn() -> Result<Arc<Security>, String> + Send + Sync + 'static) -> Self {
        SecuritySource {
            read: Arc::new(read),
            turn: Arc::default(),
        }
    }

    /// Reads on a thread of its own: a file system that hangs costs one. `of_others` is whether another user's brokers come
    /// before the one that this is for.
    pub(super) async fn newest(
        &self,
        of_others: bool,
        deadline: Instant,
    ) -> Result<Arc<Security>, String> {
        /// Threads of all brokers and listeners together, and of those.
        static THREADS: Shares = Shares::new(16, 4);
        let reading = async {
            let turn = Arc::clone(&self.turn).lock_owned().await;
            let (read, share) = (Arc::clone(&self.read), THREADS.one(of_others).await);
            let work = move || {
                let newest = read();
                drop((turn, share));
                newest
            };
            let newest = on_thread("settings", work).await;
            newest.map_err(|error| error.to_string())?
        };
        let late = "the files of `tls` and `sasl` were not read in time: their file system hangs, or that of other brokers";
        timeout_at(deadline, reading).await.map_err(|_| late)?
    }
}

impl Security {
    /// Without any credentials, and without verification of the certificate.
    pub fn without_credentials(protocol: SecurityProtocol) -> Security {
        Security {
            tls: protocol.has_tls().then(Tls::unverified),
            login: match protocol.has_sasl() {
                true => Login::Missing,
                false => Login::NotNeeded,
            },
        }
    }
}

/// What TLS is configured with, read from its files.
#[derive(Debug, Default)]
pub struct TlsSettings {
    /// Whom the broker's certificate must come from. Without one the certificate is not verified.
    pub authorities: Vec<CertificateDer<'static>>,
    /// The certificate, with its chain, and the key that the exporter shows where a broker asks for one.
    pub identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// The name that the broker's certificate must have; that of its address where it is None.
    pub server_name: Option<String>,
    /// The user vouches for the other side, so secrets may be sent although nothing is verified.
    pub insecure_skip_verify: bool,
}

/// What of [`TlsSettings`] cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsSettingsError {
    #[error("holds what is no certificate of X.509 version 3: {0}")]
    Authorities(String),
    #[error("cannot be used with the certificate: {0}")]
    Key(Error),
    #[error("{0} is neither a host name nor an IP address")]
    ServerName(String),
}

/// The client's side of TLS.
#[derive(Debug, Clone)]
pub struct Tls {
    pub(super) verifier: Arc<dyn ServerCertVerifier>,
    pub(super) identity: Option<Arc<CertifiedKey>>,
    pub(super) server_name: Option<ServerName<'static>>,
    trust: Trust,
    /// Whether the connection ends where the broker asks for a certificate: without one it gets no further, and the
    /// broker then logs no failed login.
    pub(super) stops_when_asked: bool,
}

/// Why a secret may be sent over TLS, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The certificate is verified before anything is sent.
    Verified,
    /// The user vouches for the other side.
    Vouched,
    /// Anybody may answer.
    Unverified,
}

impl Tls {
    /// Takes any certificate. Nothing secret can be sent on such a connection.
    pub fn unverified() -> Tls {
        Tls {
            verifier: Arc::new(AnyCertificate),
            identity: None,
            server_name: None,
            trust: Trust::Unverified,
            stops_when_asked: false,
        }
    }

    /// # Errors
    /// Settings that cannot be used.
    pub fn new(settings: TlsSettings) -> Result<Tls, TlsSettingsError> {
        let mut tls = Tls::unverified();
        if settings.insecure_skip_verify {
            tls.trust = Trust::Vouched;
        } else if !settings.authorities.is_empty() {
            let mut roots = RootCertStore::empty();
            for authority in settings.authorities {
                let added = roots.add(authority);
                added.map_err(|error| TlsSettingsError::Authorities(error.to_string()))?;
            }
            tls.verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider())
                .build()
                .map_err(|error| TlsSettingsError::Authorities(error.to_string()))?;
            tls.trust = Trust::Verified;
        }
        if let Some((chain, key)) = settings.identity {
            let identity =
                CertifiedKey::from_der(chain, key, &provider()).map_err(TlsSettingsError::Key)?;
            tls.identity = Some(Arc::new(identity));
        }
        if let Some(name) = settings.server_name {
            let parsed = ServerName::try_from(name.clone());
            tls.server_name = Some(parsed.map_err(|_| TlsSettingsError::ServerName(name))?);
        }
        Ok(tls)
    }

    pub(super) fn has_identity(&self) -> bool {
        self.identity.is_some()
    }

    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// The same, for a broker that is known to demand a certificate which nobody configured.
    pub(super) fn stopping_when_asked(&self) -> Tls {
        Tls {
            stops_when_asked: true,
            ..self.clone()
        }
    }
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    static RING: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(ring::default_provider()));
    Arc::clone(&RING)
}

/// Takes every certificate and every signature: those of Java 8's keytool without names, of `openssl x509` in version 1,
/// with SHA-1. What comes from such a connection is as good as what comes from a PLAINTEXT one.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        use SignatureScheme as S;
        vec![
            S::ECDSA_NISTP256_SHA256,
            S::ECDSA_NISTP384_SHA384,
            S::ECDSA_NISTP521_SHA512,
            S::ED25519,
            S::ED448,
            S::RSA_PSS_SHA256,
            S::RSA_PSS_SHA384,
            S::RSA_PSS_SHA512,
            S::RSA_PKCS1_SHA256,
            S::RSA_PKCS1_SHA384,
            S::RSA_PKCS1_SHA512,
            S::ECDSA_SHA1_Legacy,
            S::RSA_PKCS1_SHA1,
        ]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::sync::{PoisonError, mpsc};
    use std::time::Duration;

    #[tokio::test]
    async fn files_of_others_that_hang_leave_threads_for_the_first_user_s_brokers() {
        let soon = || Instant::now() + Duration::from_millis(200);
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        let (began, mut begun) = tokio::sync::mpsc::unbounded_channel();
        let hanging: Vec<_> = (0..6)
            .map(|_| {
                let (held, began) = (Arc::clone(&held), began.clone());
                SecuritySource::new(move || {
                    began.send(()).unwrap();
                    // Until the other end is dropped.
                    let held = held.lock().unwrap_or_else(PoisonError::into_inner);
                    let _ = held.recv();
                    Ok(Arc::default())
                })
            })
            .collect();
        for source in &hanging {
            let error = source.newest(true, soon()).await.unwrap_err();
            assert!(error.contains("in time"), "{error}");
        }
        let mut threads = 0;
        while begun.try_recv().is_ok() {
            threads += 1;
        }
        assert_eq!(threads, 4);
        let own = SecuritySource::new(|| Ok(Arc::default()));
        assert!(own.newest(true, soon()).await.is_err());
        assert!(own.newest(false, soon()).await.is_ok());
        drop(release);
        let late = Instant::now() + Duration::from_secs(5);
        assert!(own.newest(true, late).await.is_ok());
    }
}
