//! The text of a web config file, checked. Pure: the files that it names are read by `tls`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use serde::Deserialize;

use super::auth::Users;
use crate::sys::settings_file;

/// What a web config file says.
#[derive(Debug, Default, PartialEq)]
pub struct Settings {
    /// None: connections are not encrypted.
    pub tls: Option<TlsSettings>,
    /// Set on every answer.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub users: Users,
    pub rate_limit: Option<RateLimit>,
    /// What the file asks for and cannot have, where what remains is stricter.
    pub warnings: Vec<String>,
}

#[derive(Debug, PartialEq)]
pub struct TlsSettings {
    pub cert: Pem,
    pub key: Pem,
    pub client_auth: ClientAuth,
    pub client_ca: Option<Pem>,
    /// Empty: every name.
    pub allowed_sans: Vec<San>,
    /// The lowest and the highest version.
    pub versions: (Version, Version),
    /// Names of suites of TLS 1.2, the best first; empty: all. Those of TLS 1.3 are always on.
    pub cipher_suites: Vec<String>,
    /// The best first; empty: all.
    pub curves: Vec<Curve>,
    pub prefer_server_order: bool,
    pub http2: bool,
}

/// PEM text and the key that named it.
#[derive(Debug, PartialEq)]
pub struct Pem {
    pub key: &'static str,
    pub from: PemFrom,
}

#[derive(PartialEq)]
pub enum PemFrom {
    File(PathBuf),
    Text(String),
}

impl std::fmt::Debug for PemFrom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PemFrom::File(path) => path.fmt(f),
            // It may be a private key.
            PemFrom::Text(_) => f.write_str("inline"),
        }
    }
}

/// What is asked of a client's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    None,
    /// A certificate may be given and is not checked.
    Request,
    /// A certificate must be given and is not checked.
    RequireAny,
    VerifyIfGiven,
    RequireAndVerify,
}

impl ClientAuth {
    pub fn verifies(self) -> bool {
        matches!(self, Self::VerifyIfGiven | Self::RequireAndVerify)
    }

    pub fn requires(self) -> bool {
        matches!(self, Self::RequireAny | Self::RequireAndVerify)
    }
}

/// A name that a client's certificate may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum San {
    Ip(IpAddr),
    /// Of DNS, or a URI.
    Name(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Tls12,
    Tls13,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    X25519,
    P256,
    P384,
}

/// A token each interval, and at most so many kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    pub interval: Duration,
    pub burst: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    tls_server_config: Option<TlsFile>,
    http_server_config: Option<HttpFile>,
    basic_auth_users: Option<BTreeMap<String, String>>,
    rate_limit: Option<RateFile>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TlsFile {
    cert: Option<String>,
    cert_file: Option<String>,
    key: Option<String>,
    key_file: Option<String>,
    client_ca: Option<String>,
    client_ca_file: Option<String>,
    client_auth_type: Option<String>,
    client_allowed_sans: Option<Vec<String>>,
    min_version: Option<String>,
    max_version: Option<String>,
    cipher_suites: Option<Vec<String>>,
    curve_preferences: Option<Vec<String>>,
    prefer_server_cipher_suites: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HttpFile {
    http2: Option<bool>,
    headers: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RateFile {
    interval: Option<String>,
    burst: Option<u32>,
}

impl Settings {
    /// Relative paths are those below `folder`.
    ///
    /// # Errors
    /// The text is no web config; the message names the key.
    pub fn parse(text: &str, folder: &Path) -> Result<Settings, String> {
        let file: File = settings_file::parse(text, &[])?;
        let http = file.http_server_config.unwrap_or_default();
        let mut warnings = Vec::new();
        let tls = file.tls_server_config.unwrap_or_default();
        let tls = if tls.is_enabled() {
            Some(tls.checked(folder, http.http2.unwrap_or(true), &mut warnings)?)
        } else {
            None
        };
        Ok(Settings {
            tls,
            headers: headers(&http.headers.unwrap_or_default())?,
            users: Users::checked(file.basic_auth_users.unwrap_or_default())?,
            rate_limit: file.rate_limit.unwrap_or_default().checked()?,
            warnings,
        })
    }
}

fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

/// One of a file and inline text.
fn pem(
    folder: &Path,
    (file_key, file): (&'static str, &Option<String>),
    (text_key, text): (&'static str, &Option<String>),
) -> Result<Option<Pem>, String> {
    match (given(file), given(text)) {
        (Some(_), Some(_)) => Err(format!(
            "tls_server_config: {text_key} and {file_key} are given, keep one of them"
        )),
        (Some(file), None) => Ok(Some(Pem {
            key: file_key,
            from: PemFrom::File(folder.join(file)),
        })),
        (None, Some(text)) => Ok(Some(Pem {
            key: text_key,
            from: PemFrom::Text(text.to_owned()),
        })),
        (None, None) => Ok(None),
    }
}

impl TlsFile {
    /// Whether any key asks for TLS.
    fn is_enabled(&self) -> bool {
        let keys = [
            &self.cert,
            &self.cert_file,
            &self.key,
            &self.key_file,
            &self.client_ca,
            &self.client_ca_file,
            &self.client_auth_type,
        ];
        keys.into_iter().any(|key| given(key).is_some())
    }

    fn checked(
        self,
        folder: &Path,
        http2: bool,
        warnings: &mut Vec<String>,
    ) -> Result<TlsSettings, String> {
        let cert = pem(folder, ("cert_file", &self.cert_file), ("cert", &self.cert))?
            .ok_or("tls_server_config: missing one of cert or cert_file")?;
        let key = pem(folder, ("key_file", &self.key_file), ("key", &self.key))?
            .ok_or("tls_server_config: missing one of key or key_file")?;
        let client_ca = pem(
            folder,
            ("client_ca_file", &self.client_ca_file),
            ("client_ca", &self.client_ca),
        )?;
        let client_auth = client_auth(given(&self.client_auth_type))?;
        let sans = self.client_allowed_sans.unwrap_or_default();
        let allowed_sans = sans
            .iter()
            .map(|name| san(name))
            .collect::<Result<_, _>>()?;
        let asks_nothing = client_auth == ClientAuth::None;
        if asks_nothing && (client_ca.is_some() || !sans.is_empty()) {
            let key = client_ca.map_or("client_allowed_sans", |pem| pem.key);
            return Err(format!(
                "tls_server_config.{key}: no client is asked for a certificate; add client_auth_type: \
                 RequireAndVerifyClientCert"
            ));
        } else if client_auth == ClientAuth::RequireAndVerify && client_ca.is_none() {
            return Err(
                "tls_server_config.client_ca_file: missing, and RequireAndVerifyClientCert needs it: the certificate \
                 authorities of the system are not used"
                    .to_owned(),
            );
        }
        let versions = versions(given(&self.min_version), given(&self.max_version), warnings)?;
        let cipher_suites = cipher_suites(
            &self.cipher_suites.unwrap_or_default(),
            versions,
            http2,
            warnings,
        )?;
        Ok(TlsSettings {
            cert,
            key,
            client_auth,
            client_ca,
            allowed_sans,
            versions,
            cipher_suites,
            curves: curves(&self.curve_preferences.unwrap_or_default(), warnings)?,
            prefer_server_order: self.prefer_server_cipher_suites.unwrap_or(true),
            http2,
        })
    }
}

fn client_auth(name: Option<&str>) -> Result<ClientAuth, String> {
    match name {
        None | Some("NoClientCert") => Ok(ClientAuth::None),
        Some("RequestClientCert") => Ok(ClientAuth::Request),
        // The second is the name that exporter-toolkit had before.
        Some("RequireAnyClientCert" | "RequireClientCert") => Ok(ClientAuth::RequireAny),
        Some("VerifyClientCertIfGiven") => Ok(ClientAuth::VerifyIfGiven),
        Some("RequireAndVerifyClientCert") => Ok(ClientAuth::RequireAndVerify),
        Some(other) => Err(format!(
            "tls_server_config.client_auth_type: {other:?} is none of NoClientCert, RequestClientCert, \
             RequireAnyClientCert, VerifyClientCertIfGiven, RequireAndVerifyClientCert"
        )),
    }
}

fn san(name: &str) -> Result<San, String> {
    if let Ok(address) = name.parse() {
        Ok(San::Ip(address))
    } else if name.contains('@') && !name.contains(':') {
        Err(format!(
            "tls_server_config.client_allowed_sans: {name:?} is an e-mail address, which is not compared here; give a \
             DNS name, an IP address or a URI of the certificate"
        ))
    } else {
        Ok(San::Name(name.to_owned()))
    }
}

fn versions(
    min: Option<&str>,
    max: Option<&str>,
    warnings: &mut Vec<String>,
) -> Result<(Version, Version), String> {
    let unknown = |key: &str, name: &str| {
        Err(format!(
            "tls_server_config.{key}: unknown TLS version {name:?}; TLS12 and TLS13 are offered"
        ))
    };
    let min = match min {
        None | Some("TLS12") => Version::Tls12,
        Some("TLS13") => Version::Tls13,
        Some(old @ ("TLS10" | "TLS11")) => {
            warnings.push(format!(
                "tls_server_config.min_version: {old} is not offered, TLS12 is the lowest"
            ));
            Version::Tls12
        }
        Some(other) => return unknown("min_version", other),
    };
    let max = match max {
        None | Some("TLS13") => Version::Tls13,
        Some("TLS12") => Version::Tls12,
        Some(old @ ("TLS10" | "TLS11")) => {
            return Err(format!(
                "tls_server_config.max_version: {old} is not offered, TLS12 is the lowest"
            ));
        }
        Some(other) => return unknown("max_version", other),
    };
    if min > max {
        return Err("tls_server_config.min_version: is above max_version".to_owned());
    }
    Ok((min, max))
}

/// The suites of TLS 1.2 that rustls has, by their names in Go.
pub(super) const SUITES: [&str; 6] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];

/// Those of TLS 1.3: both in Go and here they are on whether they are listed or not.
const SUITES_13: [&str; 3] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
];

/// Those that Go has besides: without forward secrecy or without authenticated encryption in one step.
const SUITES_OF_GO: [&str; 4] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
];

fn cipher_suites(
    names: &[String],
    versions: (Version, Version),
    http2: bool,
    warnings: &mut Vec<String>,
) -> Result<Vec<String>, String> {
    let key = "tls_server_config.cipher_suites";
    let mut suites = Vec::new();
    for name in names {
        if SUITES.contains(&name.as_str()) {
            suites.push(name.clone());
        } else if SUITES_OF_GO.contains(&name.as_str()) {
            warnings.push(format!("{key}: {name} is not offered"));
        } else if !SUITES_13.contains(&name.as_str()) {
            return Err(format!(
                "{key}: unknown cipher {name:?}; for TLS 1.2 there are {}",
                SUITES.join(", ")
            ));
        }
    }
    if names.is_empty() || versions.0 == Version::Tls13 {
        return Ok(suites);
    }
    let required = |suite: &String| suite.ends_with("_WITH_AES_128_GCM_SHA256");
    if suites.is_empty() && versions.1 == Version::Tls12 {
        Err(format!(
            "{key}: none of them is offered for TLS 1.2, where there are {}",
            SUITES.join(", ")
        ))
    } else if http2 && !suites.iter().any(required) {
        Err(format!(
            "{key}: HTTP/2 requires TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 or TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256; \
             add one, or set http_server_config.http2: false"
        ))
    } else {
        Ok(suites)
    }
}

fn curves(names: &[String], warnings: &mut Vec<String>) -> Result<Vec<Curve>, String> {
    let key = "tls_server_config.curve_preferences";
    let mut curves = Vec::new();
    for name in names {
        match name.as_str() {
            "X25519" => curves.push(Curve::X25519),
            "CurveP256" => curves.push(Curve::P256),
            "CurveP384" => curves.push(Curve::P384),
            "CurveP521" => warnings.push(format!("{key}: CurveP521 is not offered")),
            other => {
                return Err(format!(
                    "{key}: unknown curve {other:?}; there are X25519, CurveP256, CurveP384"
                ));
            }
        }
    }
    if curves.is_empty() && !names.is_empty() {
        return Err(format!(
            "{key}: CurveP521 is not offered; add X25519, CurveP256 or CurveP384"
        ));
    }
    Ok(curves)
}

/// The headers that may be set, each with its values where those are few.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
    ("Content-Security-Policy", &[]),
];

fn headers(given: &BTreeMap<String, String>) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let mut headers = Vec::new();
    for (name, value) in given {
        let key = format!("http_server_config.headers.{name}");
        let known = HEADERS.iter().find(|(known, _)| known == name);
        let values = known.map(|(_, values)| *values);
        // A blank one is as good as none.
        if value.is_empty() && values.is_none_or(<[_]>::is_empty) {
            continue;
        }
        let Some(values) = values else {
            let names = HEADERS.map(|(name, _)| name).join(", ");
            return Err(format!(
                "{key}: HTTP header {name:?} can not be configured, only {names}"
            ));
        };
        if !values.is_empty() && !values.contains(&value.as_str()) {
            return Err(format!(
                "{key}: invalid value {value:?}, expected {}",
                values.join(" or ")
            ));
        }
        let pair = name.parse().ok().zip(value.parse().ok());
        headers.push(pair.ok_or_else(|| format!("{key}: {value:?} cannot stand in a header"))?);
    }
    Ok(headers)
}

impl RateFile {
    fn checked(self) -> Result<Option<RateLimit>, String> {
        let interval = match given(&self.interval) {
            None | Some("0") => Duration::ZERO,
            Some(text) => humantime::parse_duration(text).map_err(|error| {
                format!("rate_limit.interval: {text:?}: {error}; write e.g. 1s or 100ms, or 0 for no limit")
            })?,
        };
        Ok((!interval.is_zero()).then_some(RateLimit {
            interval,
            burst: self.burst.unwrap_or(0),
        }))
    }
}
