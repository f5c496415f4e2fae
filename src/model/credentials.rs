//! Logins at brokers. Nothing here is written anywhere: no type can be serialized, and secrets show nothing.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::named::named;

named! {
    /// How a user logs in, as Kafka spells it.
    pub enum Mechanism {
        Plain = "PLAIN",
        ScramSha256 = "SCRAM-SHA-256",
        ScramSha512 = "SCRAM-SHA-512",
    }
}

/// A password. Clones share the one copy, which is overwritten with the last of them.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    pub fn new(text: String) -> Secret {
        Secret(Arc::new(Zeroizing::new(text)))
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

/// A user's login at brokers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    pub mechanism: Mechanism,
    pub username: String,
    pub password: Secret,
    /// Where they stand, for messages.
    pub from: String,
}

/// `user "monitor" by PLAIN, from `sasl` of the config file`
impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, mechanism) = (&self.username, self.mechanism.name());
        write!(f, "user {user:?} by {mechanism}, from {}", self.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_shows() {
        let credentials = Credentials {
            mechanism: Mechanism::Plain,
            username: "monitor".into(),
            password: Secret::new("s3cret".into()),
            from: "`sasl` of the config file".into(),
        };
        let shown = format!("{credentials:?} {credentials:#?}");
        assert!(
            !shown.contains("s3cret") && shown.contains("[hidden]"),
            "{shown}"
        );
    }
}
