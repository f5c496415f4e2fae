//! Certificates of clients, checked as Go's `crypto/tls` does for exporter-toolkit.

use std::sync::Arc;

use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage};

use super::parse::{ClientAuth, San};

#[derive(Debug)]
pub(super) struct ClientVerifier {
    auth: ClientAuth,
    /// The certificates of `client_ca`, and what of them is trusted.
    trusted: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    hints: Vec<DistinguishedName>,
    allowed: Vec<San>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientVerifier {
    pub(super) fn new(
        auth: ClientAuth,
        trusted: Vec<CertificateDer<'static>>,
        allowed: Vec<San>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<ClientVerifier, webpki::Error> {
        let anchor = |der| Ok(webpki::anchor_from_trusted_cert(der)?.to_owned());
        let anchors: Vec<_> = trusted.iter().map(anchor).collect::<Result<_, _>>()?;
        let hint = |anchor: &TrustAnchor| DistinguishedName::in_sequence(anchor.subject.as_ref());
        Ok(ClientVerifier {
            auth,
            hints: anchors.iter().map(hint).collect(),
            trusted,
            anchors,
            allowed,
            algorithms,
        })
    }

    fn verify_chain(
        &self,
        cert: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let verified = cert.verify_for_usage(
            self.algorithms.all,
            &self.anchors,
            intermediates,
            now,
            KeyUsage::client_auth(),
            None,
            None,
        );
        match verified {
            Ok(_) => Ok(()),
            // A self-signed certificate that the file itself holds, as Go accepts it. Its time was checked before this
            // error.
            Err(webpki::Error::CaUsedAsEndEntity) if self.trusted.contains(&cert.der()) => Ok(()),
            Err(webpki::Error::CaUsedAsEndEntity) => Err(webpki::Error::UnknownIssuer),
            Err(error) => Err(error),
        }
    }

    fn has_allowed_name(&self, cert: &EndEntityCert<'_>) -> bool {
        self.allowed.is_empty()
            || self.allowed.iter().any(|allowed| match allowed {
                San::Ip(address) => cert
                    .verify_is_valid_for_subject_name(&ServerName::IpAddress((*address).into()))
                    .is_ok(),
                San::Name(name) => {
                    let mut names = cert.valid_dns_names().chain(cert.valid_uri_names());
                    names.any(|known| known == name)
                }
            })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the client's certificate has no name of client_allowed_sans")]
struct NoAllowedName;

fn refused(error: webpki::Error) -> Error {
    let error = match error {
        webpki::Error::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::BadDer => CertificateError::BadEncoding,
        error => CertificateError::Other(OtherError(Arc::new(error))),
    };
    Error::InvalidCertificate(error)
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.auth.requires()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let cert = EndEntityCert::try_from(end_entity).map_err(refused)?;
        if self.auth.verifies() {
            self.verify_chain(&cert, intermediates, now)
                .map_err(refused)?;
        }
        if !self.has_allowed_name(&cert) {
            let error = CertificateError::Other(OtherError(Arc::new(NoAllowedName)));
            return Err(Error::InvalidCertificate(error));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
