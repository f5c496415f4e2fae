//! SCRAM-SHA-256 and -512 (RFC 5802, RFC 7677), the client's side: what it sends, and what it takes from a server that
//! may be anybody. Pure but for the time that [`Keys::derive`] takes, which the server decides within bounds.
//!
//! As Kafka does, names and passwords are taken as they are, without SASLprep, and there is no channel binding.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};
use zeroize::Zeroizing;

/// RFC 7677 and Kafka allow no fewer.
const LEAST_ITERATIONS: u32 = 4096;
/// Some 1 s of a core. Kafka itself makes 16,384 at most.
const MOST_ITERATIONS: u32 = 1_000_000;
/// Kafka's salts and nonces have some 30 bytes.
const MOST_SALT: usize = 1024;
const MOST_NONCE: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Hash::Sha256 => &digest::SHA256,
            Hash::Sha512 => &digest::SHA512,
        }
    }

    fn hmac(self) -> hmac::Algorithm {
        match self {
            Hash::Sha256 => hmac::HMAC_SHA256,
            Hash::Sha512 => hmac::HMAC_SHA512,
        }
    }

    fn pbkdf2(self) -> pbkdf2::Algorithm {
        match self {
            Hash::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Hash::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        }
    }
}

/// What a server sent that ends a login.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    #[error("its message has no valid {0}")]
    Malformed(&'static str),
    #[error(
        "its nonce does not continue that of the exporter: it may be an answer of another login"
    )]
    Nonce,
    #[error(
        "it asks for {0} iterations, but {LEAST_ITERATIONS} to {MOST_ITERATIONS} are accepted; create the user again with as many, Kafka's default is 4096"
    )]
    Iterations(String),
    #[error("it refused the password: {0}")]
    Refused(String),
    #[error(
        "it does not know the password itself, because its signature is wrong: this is not the broker, or its user has another password"
    )]
    Signature,
}

/// Begins a login. `nonce` is new for each.
#[derive(Debug)]
pub struct Exchange<'a> {
    bare: String,
    nonce: &'a str,
}

impl<'a> Exchange<'a> {
    pub fn new(username: &str, nonce: &'a str) -> Exchange<'a> {
        let name = username.replace('=', "=3D").replace(',', "=2C");
        Exchange {
            bare: format!("n={name},r={nonce}"),
            nonce,
        }
    }

    /// The client's first message.
    pub fn first(&self) -> String {
        format!("n,,{}", self.bare)
    }

    /// Reads the server's first message.
    ///
    /// # Errors
    /// It cannot be the answer to [`Exchange::first`].
    pub fn challenge<'m>(&self, message: &'m [u8]) -> Result<Challenge<'m>, ScramError> {
        let text = text(message)?;
        let mut parts = text.split(',');
        let mut part = |name: &'static str, key: &str| {
            let value = parts.next().and_then(|part| part.strip_prefix(key));
            value.ok_or(ScramError::Malformed(name))
        };
        let nonce = part("nonce", "r=")?;
        let salt = part("salt", "s=")?;
        let iterations = part("number of iterations", "i=")?;
        if nonce.len() > MOST_NONCE || !nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ScramError::Malformed("nonce"));
        } else if nonce.len() <= self.nonce.len() || !nonce.starts_with(self.nonce) {
            return Err(ScramError::Nonce);
        }
        let salt = Some(salt).filter(|salt| salt.len() <= MOST_SALT);
        let salt = salt.and_then(|salt| STANDARD.decode(salt).ok());
        let salt = salt.ok_or(ScramError::Malformed("salt"))?;
        if iterations.is_empty() || !iterations.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ScramError::Malformed("number of iterations"));
        }
        let count = iterations.parse::<NonZeroU32>().ok();
        let count = count.filter(|n| (LEAST_ITERATIONS..=MOST_ITERATIONS).contains(&n.get()));
        let iterations =
            count.ok_or_else(|| ScramError::Iterations(iterations.chars().take(20).collect()))?;
        Ok(Challenge {
            message: text,
            nonce,
            salt,
            iterations,
        })
    }

    /// The client's last message, and what shows whether the server's one is right.
    pub fn prove<'k>(&self, challenge: &Challenge<'_>, keys: &'k Keys) -> (String, Expected<'k>) {
        let hash = keys.hash;
        let without_proof = format!("c=biws,r={}", challenge.nonce);
        let signed = format!("{},{},{without_proof}", self.bare, challenge.message);
        let stored = digest::digest(hash.digest(), &keys.client);
        let signature = sign(hash, stored.as_ref(), signed.as_bytes());
        let proof = std::iter::zip(keys.client.iter(), signature.as_ref()).map(|(a, b)| a ^ b);
        let proof = STANDARD.encode(proof.collect::<Vec<u8>>());
        (
            format!("{without_proof},p={proof}"),
            Expected { signed, keys },
        )
    }
}

/// What the server wants to be computed.
#[derive(Debug)]
pub struct Challenge<'m> {
    message: &'m str,
    nonce: &'m str,
    pub salt: Vec<u8>,
    pub iterations: NonZeroU32,
}

/// What a password becomes by a salt: enough to log in and to know the server, and not the password.
pub struct Keys {
    hash: Hash,
    client: Zeroizing<Vec<u8>>,
    server: Zeroizing<Vec<u8>>,
}

impl Keys {
    /// Takes up to some 1 s.
    pub fn derive(hash: Hash, password: &str, salt: &[u8], iterations: NonZeroU32) -> Keys {
        let mut salted = Zeroizing::new(vec![0; hash.digest().output_len()]);
        pbkdf2::derive(
            hash.pbkdf2(),
            iterations,
            salt,
            password.as_bytes(),
            &mut salted,
        );
        let key = |name: &[u8]| Zeroizing::new(sign(hash, &salted, name).as_ref().to_vec());
        Keys {
            hash,
            client: key(b"Client Key"),
            server: key(b"Server Key"),
        }
    }
}

/// The last message of a server that knows the password.
pub struct Expected<'k> {
    signed: String,
    keys: &'k Keys,
}

impl Expected<'_> {
    /// # Errors
    /// The server refuses, or does not know the password itself.
    pub fn check(&self, message: &[u8]) -> Result<(), ScramError> {
        let text = text(message)?;
        let first = text.split(',').next().unwrap_or_default();
        if let Some(error) = first.strip_prefix("e=") {
            let printable = |c: &char| c.is_ascii_graphic();
            return Err(ScramError::Refused(
                error.chars().filter(printable).take(60).collect(),
            ));
        }
        let signature = first.strip_prefix("v=");
        let signature = signature.and_then(|signature| STANDARD.decode(signature).ok());
        let signature = signature.ok_or(ScramError::Malformed("signature"))?;
        let key = hmac::Key::new(self.keys.hash.hmac(), &self.keys.server);
        hmac::verify(&key, self.signed.as_bytes(), &signature).map_err(|_| ScramError::Signature)
    }
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    std::str::from_utf8(message).map_err(|_| ScramError::Malformed("text"))
}

fn sign(hash: Hash, key: &[u8], message: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hash.hmac(), key), message)
}

#[cfg(test)]
mod tests;
