//! `tls`, `sasl` and `credentials` of the config file: how brokers are asked that demand more than a connection. No secret
//! is kept here, only where each stands.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::model::{Mechanism, text};

/// How one broker is asked, and its peers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    pub tls: Option<TlsSettings>,
    pub login: Option<LoginSettings>,
}

/// Where the login comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginSettings {
    Sasl(SaslSettings),
    /// From the broker's own `server.properties`, with the certificates there.
    InterBroker,
}

/// `tls:`
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// Certificates that the brokers' ones come from.
    pub ca_file: Option<PathBuf>,
    /// The exporter's own certificate, for brokers that demand one, and its key.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// The name in the broker's certificate, where it is not that of its address.
    pub server_name: Option<String>,
    pub insecure_skip_verify: bool,
}

/// `sasl:`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaslSettings {
    #[serde(deserialize_with = "mechanism")]
    pub mechanism: Mechanism,
    pub username: String,
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    #[serde(default)]
    pub password_env: Option<String>,
}

/// `credentials: inter_broker`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialsOf {
    InterBroker,
}

/// The three keys together, of the whole file or of one broker.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub tls: Option<&'a TlsSettings>,
    pub sasl: Option<&'a SaslSettings>,
    pub credentials: Option<CredentialsOf>,
}

impl Keys<'_> {
    /// What holds where these are given and, for what they leave open, `default`.
    pub(super) fn or(self, default: &Access) -> Access {
        let login = match (self.sasl, self.credentials) {
            (Some(sasl), _) => Some(LoginSettings::Sasl(sasl.clone())),
            (None, Some(CredentialsOf::InterBroker)) => Some(LoginSettings::InterBroker),
            (None, None) => default.login.clone(),
        };
        Access {
            tls: self.tls.or(default.tls.as_ref()).cloned(),
            login,
        }
    }

    /// `place` stands before the keys in messages: `brokers[0].`.
    pub(super) fn check(self, place: &str) -> Result<(), String> {
        if let Some(tls) = self.tls {
            tls.check().map_err(|why| format!("{place}tls{why}"))?;
        }
        if let Some(sasl) = self.sasl {
            sasl.check().map_err(|why| format!("{place}sasl{why}"))?;
            if self.credentials.is_some() {
                return Err(format!(
                    "{place}sasl: credentials: inter_broker is given as well; keep one of the two"
                ));
            }
        }
        Ok(())
    }
}

impl TlsSettings {
    fn check(&self) -> Result<(), String> {
        let files = [
            ("ca_file", &self.ca_file),
            ("cert_file", &self.cert_file),
            ("key_file", &self.key_file),
        ];
        for (key, file) in files {
            if let Some(file) = file {
                check_path(key, file)?;
            }
        }
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => {
                return Err(".key_file: missing, name the key of cert_file".to_owned());
            }
            (None, Some(_)) => {
                return Err(".cert_file: missing, name the certificate of key_file".to_owned());
            }
            _ => {}
        }
        if self.insecure_skip_verify && self.ca_file.is_some() {
            return Err(
                ".insecure_skip_verify: with it nothing is verified, but ca_file is given; keep one of the two"
                    .to_owned(),
            );
        } else if self.cert_file.is_some() && self.ca_file.is_none() && !self.insecure_skip_verify {
            return Err(
                ".ca_file: missing, name the certificates that the brokers' ones come from, so that the exporter logs in at \
                 no other server"
                    .to_owned(),
            );
        }
        match &self.server_name {
            Some(name) if name.is_empty() || name.len() > 253 || !name.chars().all(of_a_name) => {
                let shown = text::beginning(name, 60);
                Err(format!(
                    ".server_name: {shown:?} is no name of a host, write e.g. broker-1.example, without a port"
                ))
            }
            _ => Ok(()),
        }
    }
}

/// Of a host or an IP address.
fn of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':')
}

impl SaslSettings {
    fn check(&self) -> Result<(), String> {
        if self.username.is_empty() || self.username.chars().any(char::is_control) {
            return Err(".username: must be the name of a user".to_owned());
        }
        match (&self.password_file, &self.password_env) {
            (Some(file), None) => check_path("password_file", file),
            (None, Some(name)) => {
                let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
                if name.is_empty() || !name.chars().all(plain) {
                    // It may be the password itself.
                    return Err(
                        ".password_env: is no name of an environment variable, write e.g. KAFKA_PASSWORD"
                            .to_owned(),
                    );
                }
                Ok(())
            }
            (Some(_), Some(_)) => {
                Err(": password_file and password_env are given, keep one of them".to_owned())
            }
            (None, None) => Err(": missing one of password_file or password_env".to_owned()),
        }
    }
}

/// A relative path would depend on where the exporter is started: systemd does so in `/`.
fn check_path(key: &str, path: &Path) -> Result<(), String> {
    if path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&0) {
        return Ok(());
    }
    Err(format!(
        ".{key}: no absolute path of a file; write it from the / on"
    ))
}

fn mechanism<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Mechanism, D::Error> {
    let name = String::deserialize(deserializer)?;
    Mechanism::of_name(&name).ok_or_else(|| {
        let shown = text::beginning(&name, 60);
        let known = Mechanism::ALL.map(Mechanism::name).join(", ");
        D::Error::custom(format!(
            "mechanism {shown:?} is not spoken here, only {known}"
        ))
    })
}
