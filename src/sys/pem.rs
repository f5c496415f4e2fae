//! Certificates and keys in PEM form. Messages begin with the place where the text stands.

use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// All certificates that a text holds.
///
/// # Errors
/// It holds none, or one that is cut off.
pub fn certificates(place: &str, text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let why = match all {
        Ok(all) if !all.is_empty() => return Ok(all),
        Ok(_) => "holds no certificate".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(format!(
        "{place}: {why}; lines BEGIN CERTIFICATE and END CERTIFICATE are expected"
    ))
}

/// The first private key that a text holds.
///
/// # Errors
/// It holds none that can be used.
pub fn private_key(place: &str, text: &str) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| {
        format!(
            "{place}: holds no private key in PEM form (PKCS#8, PKCS#1 or SEC1, without a password)"
        )
    })
}
