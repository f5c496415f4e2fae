//! The settings of TLS, with the certificates that they name, as rustls takes them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    CertificateError, CipherSuite, Error, InconsistentKeys, ProtocolVersion, ServerConfig,
    SupportedProtocolVersion,
};

use super::client_auth::ClientVerifier;
use super::parse::{ClientAuth, Curve, Pem, PemFrom, TlsSettings, Version};
use crate::sys::{pem, settings_file};

pub(crate) const H2: &[u8] = b"h2";

impl Pem {
    pub(super) fn file(&self) -> Option<&Path> {
        match &self.from {
            PemFrom::File(path) => Some(path),
            PemFrom::Text(_) => None,
        }
    }

    /// `tls_server_config.cert_file /etc/server.crt`
    fn place(&self) -> String {
        match &self.from {
            PemFrom::File(path) => format!("tls_server_config.{} {}", self.key, path.display()),
            PemFrom::Text(_) => format!("tls_server_config.{}", self.key),
        }
    }

    fn text(&self) -> Result<String, String> {
        match &self.from {
            PemFrom::File(path) => settings_file::read(path, "file in PEM form")
                .map_err(|error| format!("{}: {error}", self.place())),
            PemFrom::Text(text) => Ok(text.clone()),
        }
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        pem::certificates(&self.place(), &self.text()?)
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, String> {
        pem::private_key(&self.place(), &self.text()?)
    }
}

impl TlsSettings {
    /// The files that it reads.
    pub(super) fn files(&self) -> impl Iterator<Item = PathBuf> {
        let pems = [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()];
        pems.into_iter()
            .flatten()
            .filter_map(|pem| Some(pem.file()?.to_owned()))
    }

    /// Reads the certificates.
    ///
    /// # Errors
    /// A file cannot be read or used; the message names it and its key.
    pub(super) fn load(&self) -> Result<ServerConfig, String> {
        let provider = Arc::new(self.provider());
        let certificates = self.cert.certificates()?;
        let private_key = self.key.private_key()?;
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&self.protocols())
            .map_err(|error| format!("tls_server_config: {error}"))?;
        let config = match self.client_auth {
            ClientAuth::None => config.with_no_client_auth(),
            auth => {
                let trusted = match &self.client_ca {
                    None => Vec::new(),
                    Some(pem) => pem.certificates()?,
                };
                let place = self.client_ca.as_ref().map(Pem::place).unwrap_or_default();
                let verifier = ClientVerifier::new(
                    auth,
                    trusted,
                    self.allowed_sans.clone(),
                    provider.signature_verification_algorithms,
                )
                .map_err(|error| format!("{place}: {error}"))?;
                config.with_client_cert_verifier(Arc::new(verifier))
            }
        };
        let mut config = config
            .with_single_cert(certificates, private_key)
            .map_err(|error| self.explain(&error))?;
        config.ignore_client_order = self.prefer_server_order;
        let http2 = self.http2.then(|| H2.to_vec());
        config.alpn_protocols = http2.into_iter().chain([b"http/1.1".to_vec()]).collect();
        Ok(config)
    }

    fn explain(&self, error: &Error) -> String {
        let (cert, key) = (self.cert.place(), self.key.place());
        match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                format!("{key}: is not the private key of {cert}")
            }
            Error::InvalidCertificate(CertificateError::BadEncoding) => {
                format!("{cert}: is no certificate of X.509")
            }
            error => format!("{key}: cannot be used with {cert}: {error}"),
        }
    }

    fn protocols(&self) -> Vec<&'static SupportedProtocolVersion> {
        match self.versions {
            (Version::Tls12, Version::Tls12) => vec![&TLS12],
            (Version::Tls12, Version::Tls13) => vec![&TLS13, &TLS12],
            (Version::Tls13, _) => vec![&TLS13],
        }
    }

    /// What is offered, in the order of the settings.
    fn provider(&self) -> CryptoProvider {
        let mut provider = ring::default_provider();
        if !self.cipher_suites.is_empty() {
            let of_tls13 = |suite: &tokio_rustls::rustls::SupportedCipherSuite| {
                suite.version().version == ProtocolVersion::TLSv1_3
            };
            let all = provider.cipher_suites;
            let named = self.cipher_suites.iter().filter_map(|name| {
                all.iter()
                    .find(|known| !of_tls13(known) && name_in_go(known.suite()) == *name)
            });
            provider.cipher_suites = all
                .iter()
                .filter(|suite| of_tls13(suite))
                .chain(named)
                .copied()
                .collect();
        }
        if !self.curves.is_empty() {
            provider.kx_groups = self
                .curves
                .iter()
                .map(|curve| match curve {
                    Curve::X25519 => ring::kx_group::X25519,
                    Curve::P256 => ring::kx_group::SECP256R1,
                    Curve::P384 => ring::kx_group::SECP384R1,
                })
                .collect();
        }
        provider
    }
}

/// rustls names the suites of TLS 1.2 as Go does.
fn name_in_go(suite: CipherSuite) -> String {
    format!("{suite:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_of_the_settings_is_one_of_rustls() {
        let known: Vec<String> = ring::default_provider()
            .cipher_suites
            .iter()
            .map(|suite| name_in_go(suite.suite()))
            .collect();
        for name in super::super::parse::SUITES {
            assert!(known.contains(&name.to_owned()), "{name}: {known:?}");
        }
    }
}
