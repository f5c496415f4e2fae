//! Logs in on a connection: SaslHandshake, then SaslAuthenticate (Kafka 1.0 and later) or tokens in frames of their own.
//!
//! The broker's network thread does all of it, before any request handler sees the connection.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use super::conn::{Body, ConnError, Dialer, Trusted};
use super::keys::Question;
use super::scram::{Exchange, Hash, ScramError};
use super::wire::{self, WireError};
use crate::model::{Credentials, Mechanism, Reason, text};

/// The longest answer of a login that is read. Usual ones have some 200 bytes.
const CAP: usize = 16 << 10;
/// The most of a broker's own words that a message repeats.
const MOST_WORDS: usize = 200;

/// Why a login failed. The caller adds the address and the user.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error(transparent)]
    Conn(#[from] ConnError),
    #[error("answered {request} with bytes that are no such answer: {source}")]
    Wire {
        request: &'static str,
        source: WireError,
    },
    #[error("offers no login by {wanted}, but by {offered}: correct the mechanism")]
    Mechanism {
        wanted: &'static str,
        offered: String,
    },
    #[error("takes no login (Kafka's error {0}): it is a listener without SASL")]
    NoSasl(i16),
    #[error("refused the login{words}: correct the user or the password, here or at the broker")]
    Refused { words: String },
    #[error("is not trusted: {0}")]
    Scram(ScramError),
    #[error("cannot compute what the login needs: {0}")]
    Own(String),
}

impl LoginError {
    /// Whether the broker knows what it refuses, so that asking again soon is of no use but one more failed authentication
    /// in its log.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.reason(), Reason::Denied | Reason::Config)
    }

    /// Returns the reason as labels have it.
    pub fn reason(&self) -> Reason {
        match self {
            LoginError::Conn(error) => error.reason(),
            LoginError::Refused { .. } | LoginError::Scram(ScramError::Refused(_)) => {
                Reason::Denied
            }
            LoginError::Mechanism { .. } | LoginError::NoSasl(_) => Reason::Config,
            LoginError::Wire { .. } | LoginError::Scram(_) => Reason::Protocol,
            LoginError::Own(_) => Reason::Io,
        }
    }
}

/// Logs in on a new connection.
///
/// # Errors
/// [`ConnError::Timeout`] leaves an answer unread, after which the connection can only be closed, once that has come.
pub(super) async fn log_in(
    mut conn: Trusted<'_>,
    credentials: &Arc<Credentials>,
    dialer: &Dialer,
    deadline: Instant,
) -> Result<(), LoginError> {
    let body = conn
        .ask("ApiVersions", wire::api_versions_request, CAP, deadline)
        .await?;
    let versions = read("ApiVersions", wire::api_versions(&body))?;
    let mechanism = credentials.mechanism;
    let with_headers = versions.sasl_authenticate;
    let handshake =
        |id| wire::sasl_handshake_request(id, i16::from(with_headers), mechanism.name());
    let body = conn.ask("SaslHandshake", handshake, CAP, deadline).await?;
    match read("SaslHandshake", wire::sasl_handshake(&body))? {
        (0, _) => {}
        (wire::UNSUPPORTED_SASL_MECHANISM, offered) => {
            return Err(LoginError::Mechanism {
                wanted: mechanism.name(),
                offered: words(&offered.join(", "), credentials),
            });
        }
        (error, _) => return Err(LoginError::NoSasl(error)),
    }
    let mut channel = Channel {
        conn,
        with_headers,
        credentials,
        deadline,
    };
    let hash = match mechanism {
        Mechanism::Plain => {
            let (name, password) = (&credentials.username, credentials.password.reveal());
            let token = Zeroizing::new(format!("\0{name}\0{password}"));
            return channel.answer(token.as_bytes()).await.map(drop);
        }
        Mechanism::ScramSha256 => Hash::Sha256,
        Mechanism::ScramSha512 => Hash::Sha512,
    };
    let mut random = [0; 24];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| LoginError::Own("the kernel gave no random bytes".to_owned()))?;
    let nonce = STANDARD_NO_PAD.encode(random);
    let exchange = Exchange::new(&credentials.username, &nonce);
    let message = channel.answer(exchange.first().as_bytes()).await?;
    let challenge = exchange.challenge(&message).map_err(LoginError::Scram)?;
    let question = Question {
        hash,
        credentials: Arc::clone(credentials),
        salt: challenge.salt.clone(),
        iterations: challenge.iterations,
    };
    let late = |_| "other logins take the time, and it comes later".to_owned();
    let keys = dialer.keys.get(question, dialer.is_of_others());
    let keys = timeout_at(deadline, keys).await.map_err(late);
    let keys = keys.and_then(|keys| keys).map_err(LoginError::Own)?;
    let (last, expected) = exchange.prove(&challenge, &keys);
    let message = channel.answer(last.as_bytes()).await?;
    expected.check(&message).map_err(LoginError::Scram)
}

struct Channel<'a> {
    conn: Trusted<'a>,
    /// Tokens go in SaslAuthenticate.
    with_headers: bool,
    credentials: &'a Credentials,
    deadline: Instant,
}

impl Channel<'_> {
    /// Sends a token and returns that of the broker.
    async fn answer(&mut self, token: &[u8]) -> Result<Vec<u8>, LoginError> {
        const REQUEST: &str = "SaslAuthenticate";
        let refused = |words| LoginError::Refused { words };
        if !self.with_headers {
            let body = self
                .conn
                .ask_bare(REQUEST, wire::bare(token), CAP, self.deadline);
            return match body.await {
                Ok(body) => Ok(body.to_vec()),
                // Nothing else says so before Kafka 1.0.
                Err(ConnError::Closed { .. }) => {
                    Err(refused(", because it closed the connection".to_owned()))
                }
                Err(error) => Err(error.into()),
            };
        }
        let frame = |id| wire::sasl_authenticate_request(id, token);
        let body: Body = self.conn.ask(REQUEST, frame, CAP, self.deadline).await?;
        let answer = read(REQUEST, wire::sasl_authenticate(&body))?;
        match answer.error {
            0 => Ok(answer.token.to_vec()),
            error => {
                let said = answer.message.unwrap_or_default();
                let said = words(said, self.credentials);
                Err(refused(format!(" (error {error}: {said})")))
            }
        }
    }
}

fn read<T>(request: &'static str, answer: Result<T, WireError>) -> Result<T, LoginError> {
    answer.map_err(|source| LoginError::Wire { request, source })
}

/// A broker's own words, for a message: in one line, not long, and without the password, which it may have received.
fn words(said: &str, credentials: &Credentials) -> String {
    let password = credentials.password.reveal();
    if !password.is_empty() && said.contains(password) {
        return "its words are not shown, because they contain the password".to_owned();
    }
    let one_line = said.chars().map(|c| if c.is_control() { ' ' } else { c });
    text::cut(one_line.collect(), MOST_WORDS)
}

#[cfg(test)]
mod tests;
