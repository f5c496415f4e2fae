//! How the listeners of a broker are spoken to, by the settings of the config file. Files are read for each connection, so
//! that the newest certificate and password are used, and no secret is kept longer than its connections need it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use tokio_rustls::rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::collect::process::same_process;
use crate::config::{self, LoginSettings, SaslSettings};
use crate::discover::inter_broker::{self, InterBroker};
use crate::kafka::client::Client;
use crate::kafka::security::{
    Login, Security, SecuritySource, Tls, TlsSettings, TlsSettingsError, Trust,
};
use crate::model::{Broker, Credentials, Mechanism, ProcessKey, Secret, SecurityProtocol};
use crate::sys::proc::ProcRoot;
use crate::sys::{pem, settings_file};

/// The settings of one broker and its peers.
#[derive(Debug, Clone, Default)]
pub struct Access {
    settings: Arc<config::Access>,
    process: Option<Process>,
    sources: Arc<Mutex<Vec<(Place, SecuritySource)>>>,
}

/// The process that a broker is.
#[derive(Debug, Clone)]
pub struct Process {
    pub proc: ProcRoot,
    pub key: ProcessKey,
    /// Whose it is; None while unknown.
    pub owner: Option<u32>,
    /// Whether a login may be sent to a process of that user: any user can start one that looks like a broker.
    pub is_trusted: bool,
}

impl Process {
    pub fn new(proc: ProcRoot, broker: &Broker, config: &config::Config) -> Process {
        let own = rustix::process::geteuid().as_raw();
        let trusted = |owner| owner == 0 || owner == own || config.users.contains(&owner);
        Process {
            proc,
            key: broker.process,
            owner: broker.owner,
            is_trusted: broker.owner.is_some_and(trusted),
        }
    }
}

/// What a connection leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub protocol: SecurityProtocol,
    /// Whether it is the inter-broker listener, of the broker or a peer: nowhere else the brokers' own login is sent.
    pub of_inter_broker: bool,
    /// Its certificate must be that of its address, whatever name the broker's own one has.
    pub is_peer: bool,
    /// The name that the certificate must have where no other is configured, instead of that of the address.
    pub name: Option<String>,
}

impl Access {
    pub fn new(settings: config::Access, process: Process) -> Access {
        Access {
            settings: Arc::new(settings),
            process: Some(process),
            sources: Arc::default(),
        }
    }

    /// Whether the broker's own inter-broker listener is the one to ask.
    pub(super) fn is_of_inter_broker(&self) -> bool {
        self.settings.login == Some(LoginSettings::InterBroker)
    }

    /// Makes a client speak to such a place.
    pub(super) fn prepare(&self, client: Client, mut place: Place) -> Client {
        // A stranger's files do not decide whose certificate is right.
        let is_trusted = self
            .process
            .as_ref()
            .is_none_or(|process| process.is_trusted);
        place.name = place.name.filter(|_| is_trusted);
        let client = client.with_security(Security::without_credentials(place.protocol));
        match self.source(place) {
            Some(source) => client.with_source(source),
            None => client,
        }
    }

    /// None where nothing is configured that concerns such a listener.
    fn source(&self, place: Place) -> Option<SecuritySource> {
        let of_broker = self.is_of_inter_broker() && place.of_inter_broker;
        let login = place.protocol.has_sasl() && login_at(&self.settings, &place).is_some();
        let tls = place.protocol.has_tls() && (self.settings.tls.is_some() || of_broker);
        if !tls && !login {
            return None;
        }
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let known = sources.iter().find(|(known, _)| *known == place);
        if let Some((_, source)) = known {
            return Some(source.clone());
        }
        let (settings, process) = (Arc::clone(&self.settings), self.process.clone());
        let (kept, of_source) = (Mutex::new(None), place.clone());
        let source = SecuritySource::new(move || {
            let place = &of_source;
            let material = Material::read(&settings, place, process.as_ref())?;
            let security = material.security(place.protocol, &kept)?;
            let is_own = settings.login == Some(LoginSettings::InterBroker);
            match &process {
                Some(process) if !is_own => process.may_get(security),
                _ => Ok(security),
            }
        });
        sources.push((place, source.clone()));
        Some(source)
    }
}

impl Process {
    /// Holds a login back from a stranger's process, unless its certificate shows that it is a broker.
    fn may_get(&self, security: Arc<Security>) -> Result<Arc<Security>, String> {
        let has_login = matches!(security.login, Login::With(_));
        let verified = security.tls.as_ref().map(Tls::trust) == Some(Trust::Verified);
        if !has_login || verified || self.is_trusted {
            return Ok(security);
        }
        let owner = self
            .owner
            .map_or("an unknown user".to_owned(), |uid| format!("uid {uid}"));
        Err(format!(
            "its process belongs to {owner}, and a login goes without a verified certificate only to processes of root, of \
             the exporter's user, and of `users` in the config: add the brokers' user there"
        ))
    }
}

/// The login for a place.
fn login_at<'a>(settings: &'a config::Access, place: &Place) -> Option<&'a LoginSettings> {
    let login = settings.login.as_ref();
    login.filter(|login| !matches!(login, LoginSettings::InterBroker) || place.of_inter_broker)
}

/// Reads all that is configured, and returns the first mistake. Blocking.
///
/// # Errors
/// A file cannot be read or used; the message names its key.
pub fn check(config: &config::Config) -> Result<(), String> {
    let entries = config.brokers.iter().map(Some).chain([None]);
    for settings in entries.map(|entry| config.access(entry)) {
        let place = Place {
            protocol: SecurityProtocol::SaslSsl,
            of_inter_broker: false,
            is_peer: false,
            name: None,
        };
        let material = Material::read(&settings, &place, None)?;
        material.security(place.protocol, &Mutex::new(None))?;
    }
    Ok(())
}

/// The texts that security is made from.
#[derive(Default)]
struct Material {
    tls: Option<TlsTexts>,
    credentials: Option<Credentials>,
}

#[derive(Default)]
struct TlsTexts {
    authorities: Option<Pem>,
    /// A certificate and its key, which may be one text.
    identity: Option<(Pem, Pem)>,
    server_name: Option<String>,
    insecure_skip_verify: bool,
}

/// A text in PEM form.
struct Pem {
    /// Where it stands, for messages.
    place: &'static str,
    text: Secret,
}

type Kept = Mutex<Option<([u8; 32], Arc<Security>)>>;

impl Material {
    fn read(
        settings: &config::Access,
        place: &Place,
        process: Option<&Process>,
    ) -> Result<Material, String> {
        let (tls, login) = (place.protocol.has_tls(), place.protocol.has_sasl());
        let mut material = Material::default();
        if let Some(settings) = settings.tls.as_ref().filter(|_| tls) {
            material.tls = Some(TlsTexts::read(settings)?);
        }
        match (login_at(settings, place), process) {
            (Some(LoginSettings::Sasl(sasl)), _) if login => {
                material.credentials = Some(credentials(sasl)?);
            }
            (Some(LoginSettings::InterBroker), Some(process)) => {
                let with_tls = tls && material.tls.is_none();
                let found = inter_broker::read(&process.proc, process.key.pid, with_tls)?;
                // Else it may be another process's, which has the same pid now.
                same_process(&process.proc, process.key)
                    .map_err(|error| format!("credentials: inter_broker: {error}"))?;
                material.add(found, tls, login);
            }
            _ => {}
        }
        if let Some(tls) = &mut material.tls {
            let configured = tls.server_name.take().filter(|_| !place.is_peer);
            tls.server_name = configured.or_else(|| place.name.clone());
        }
        Ok(material)
    }

    fn add(&mut self, found: InterBroker, tls: bool, login: bool) {
        let trusted = |text| Pem {
            place: "credentials: inter_broker, its ssl.truststore",
            text,
        };
        let own = |text| Pem {
            place: "credentials: inter_broker, its ssl.keystore",
            text,
        };
        if tls {
            let texts = self.tls.get_or_insert_default();
            let authorities = found.authorities.map(trusted);
            texts.authorities = texts.authorities.take().or(authorities);
            let identity = found.certificate.map(own).zip(found.key.map(own));
            texts.identity = texts.identity.take().or(identity);
        }
        self.credentials = found.credentials.filter(|_| login);
    }

    /// What it makes of a listener; the same as `kept` where nothing has changed since.
    fn security(self, protocol: SecurityProtocol, kept: &Kept) -> Result<Arc<Security>, String> {
        let digest = self.digest();
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, security)) = kept.as_ref().filter(|(before, _)| *before == digest) {
            return Ok(Arc::clone(security));
        }
        let mut security = Security::without_credentials(protocol);
        if let Some(texts) = self.tls {
            security.tls = Some(texts.tls()?);
        }
        if let Some(credentials) = self.credentials {
            security.login = Login::With(Arc::new(credentials));
        }
        let security = Arc::new(security);
        *kept = Some((digest, Arc::clone(&security)));
        Ok(security)
    }

    /// Of all that decides what [`Material::security`] makes.
    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let mut add = |text: Option<&str>| {
            let length = text.map_or(u64::MAX, |text| text.len() as u64);
            digest.update(length.to_le_bytes());
            digest.update(text.unwrap_or_default());
        };
        let tls = self.tls.as_ref();
        let identity = tls.and_then(|tls| tls.identity.as_ref());
        let pems = [
            tls.and_then(|tls| tls.authorities.as_ref()),
            identity.map(|(certificate, _)| certificate),
            identity.map(|(_, key)| key),
        ];
        for pem in pems {
            add(pem.map(|pem| pem.text.reveal()));
        }
        add(tls.and_then(|tls| tls.server_name.as_deref()));
        add(tls.filter(|tls| tls.insecure_skip_verify).map(|_| ""));
        let login = self.credentials.as_ref();
        add(login.map(|login| login.mechanism.name()));
        add(login.map(|login| &*login.username));
        add(login.map(|login| login.password.reveal()));
        digest.finalize().into()
    }
}

impl TlsTexts {
    fn read(settings: &config::TlsSettings) -> Result<TlsTexts, String> {
        let pem = |place, path: &Option<PathBuf>| {
            let read = |path| read_file(place, path, "file in PEM form").map(Secret::new);
            let text = path.as_deref().map(read).transpose()?;
            Ok::<_, String>(text.map(|text| Pem { place, text }))
        };
        let certificate = pem("`tls.cert_file`", &settings.cert_file)?;
        Ok(TlsTexts {
            authorities: pem("`tls.ca_file`", &settings.ca_file)?,
            identity: certificate.zip(pem("`tls.key_file`", &settings.key_file)?),
            server_name: settings.server_name.clone(),
            insecure_skip_verify: settings.insecure_skip_verify,
        })
    }

    /// The error names what cannot be used by its place.
    fn tls(&self) -> Result<Tls, String> {
        let authorities = self.authorities.as_ref().map(Pem::certificates);
        let identity = self.identity.as_ref().map(|(certificate, key)| {
            let key_text = key.text.reveal();
            Ok::<_, String>((
                certificate.certificates()?,
                pem::private_key(key.place, key_text)?,
            ))
        });
        let settings = TlsSettings {
            authorities: authorities.transpose()?.unwrap_or_default(),
            identity: identity.transpose()?,
            server_name: self.server_name.clone(),
            insecure_skip_verify: self.insecure_skip_verify,
        };
        Tls::new(settings).map_err(|error| {
            let pem = match error {
                TlsSettingsError::Authorities(_) => self.authorities.as_ref(),
                TlsSettingsError::Key(_) => self.identity.as_ref().map(|(_, key)| key),
                TlsSettingsError::ServerName(_) => None,
            };
            let place = pem.map_or("`tls.server_name`", |pem| pem.place);
            format!("{place}: {error}")
        })
    }
}

impl Pem {
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        pem::certificates(self.place, self.text.reveal())
    }
}

fn credentials(sasl: &SaslSettings) -> Result<Credentials, String> {
    let (place, text) = match (&sasl.password_file, &sasl.password_env) {
        (Some(path), _) => {
            let place = "`sasl.password_file`";
            (place, read_file(place, path, "file with a password")?)
        }
        (None, name) => {
            let (place, name) = ("`sasl.password_env`", name.as_deref().unwrap_or_default());
            let text = std::env::var(name).map_err(|_| {
                format!("{place}: the exporter's environment has no variable {name}")
            })?;
            (place, text)
        }
    };
    let text = Zeroizing::new(text);
    let password = text.trim_end_matches(['\r', '\n']);
    let fits = match sasl.mechanism {
        // It separates the parts of the message.
        Mechanism::Plain => !password.contains('\0'),
        Mechanism::ScramSha256 | Mechanism::ScramSha512 => true,
    };
    if password.is_empty() || !fits {
        return Err(format!("{place}: holds no password"));
    }
    Ok(Credentials {
        mechanism: sasl.mechanism,
        username: sasl.username.clone(),
        password: Secret::new(password.to_owned()),
        from: "`sasl` in the config".to_owned(),
    })
}

fn read_file(place: &str, path: &Path, what: &str) -> Result<String, String> {
    let shown = path.display();
    settings_file::read(path, what).map_err(|error| format!("{place} {shown}: {error}"))
}

#[cfg(test)]
mod tests;
