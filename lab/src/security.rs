//! Listeners that encrypt, or that demand a certificate or a login, and the certificates of the lab that they need.
//!
//! Every broker gets all listeners of [`ClusterOptions`]. The first one is that of the brokers among themselves, of the
//! lab's own client and of the command-line tools, so its certificate must be right.
//!
//! [`ClusterOptions`]: crate::ClusterOptions

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use time::{Duration, OffsetDateTime};

use crate::client::Access;

/// The users of every SASL listener with their passwords, by each mechanism that the version has. `broker` is that of
/// the brokers among themselves.
pub const USERS: [(&str, &str); 3] = [
    ("broker", "Br0ker+in%the:lab"),
    ("admin", "Adm1n+in%the:lab"),
    ("monitor", "M0nitor+in%the:lab"),
];

/// The password of every keystore of the lab.
pub const STORE_PASSWORD: &str = "St0re+in%the:lab";

/// The name that the right certificates have besides 127.0.0.1.
pub const HOST: &str = "localhost";

/// The mechanisms of SASL listeners, from Kafka 0.10.2 on. Before there was only the first one.
pub const MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];

/// How a listener is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Security {
    Plaintext,
    Ssl,
    /// SSL with a certificate of the client
    Mtls,
    SaslPlaintext,
    SaslSsl,
}

impl Security {
    /// The protocol's name in Kafka.
    pub fn protocol(self) -> &'static str {
        match self {
            Security::Plaintext => "PLAINTEXT",
            Security::Ssl | Security::Mtls => "SSL",
            Security::SaslPlaintext => "SASL_PLAINTEXT",
            Security::SaslSsl => "SASL_SSL",
        }
    }

    fn encrypts(self) -> bool {
        !matches!(self, Security::Plaintext | Security::SaslPlaintext)
    }

    fn has_login(self) -> bool {
        matches!(self, Security::SaslPlaintext | Security::SaslSsl)
    }
}

/// The certificate that the brokers show on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// Of [`HOST`] and 127.0.0.1, valid for 30 days, by the lab's certificate authority.
    Right,
    /// The same, valid until so many days from now; negative: days ago.
    Ends(i64),
    /// Of `other.example` alone.
    WrongName,
    /// By another certificate authority.
    UnknownCa,
}

/// One listener of every broker.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Brokers before 1.0 have only the names of the protocols.
    pub name: String,
    pub security: Security,
    pub certificate: Certificate,
}

impl Listener {
    /// A listener with the name of its protocol and, if it encrypts, the right certificate.
    pub fn new(security: Security) -> Listener {
        Listener {
            name: security.protocol().into(),
            security,
            certificate: Certificate::Right,
        }
    }

    pub fn named(self, name: &str) -> Listener {
        Listener {
            name: name.into(),
            ..self
        }
    }

    pub fn showing(self, certificate: Certificate) -> Listener {
        Listener {
            certificate,
            ..self
        }
    }
}

/// What a cluster's listeners need: the certificates, as files, and how the lab itself gets in.
pub(crate) struct Secured {
    listeners: Vec<Listener>,
    /// A version before 1.0: no prefixes, and logins from a file of the JVM.
    old: bool,
    /// Brokers before 3.0 take no PEM whose key has no password.
    pem: bool,
    /// `tls`, as the cell sees it.
    folder: PathBuf,
    pub(crate) access: Access,
}

/// Makes keystores, which `keytool` cannot do of a key that it did not make itself.
const KEYSTORE_PROGRAM: &str = include_str!("security/Keystore.java");

impl Secured {
    /// Checks the listeners and writes the certificates into `outside`/tls, which the cell sees as `inside`/tls.
    pub(crate) fn create(
        listeners: &[Listener],
        version: &str,
        outside: &Path,
        inside: &Path,
    ) -> Result<Secured> {
        let first = listeners.first().context("a broker needs a listener")?;
        let old = version.starts_with("0.10.");
        ensure!(
            first.certificate == Certificate::Right,
            "the brokers themselves use the first listener, so its certificate must be right"
        );
        for (index, listener) in listeners.iter().enumerate() {
            let name = &listener.name;
            ensure!(
                !listeners[..index].iter().any(|other| other.name == *name),
                "two listeners have the name {name}"
            );
            ensure!(
                !old || *name == listener.security.protocol()
                    && listener.certificate == Certificate::Right,
                "Kafka {version} knows no listener with a name or a certificate of its own"
            );
        }
        let mut secured = Secured {
            listeners: listeners.to_vec(),
            old,
            pem: !version.starts_with(['0', '1', '2']),
            folder: inside.join("tls"),
            access: Access {
                old,
                ..Access::default()
            },
        };
        if !secured.any(|security| security != Security::Plaintext) {
            return Ok(secured);
        }
        let folder = outside.join("tls");
        fs::create_dir(&folder)?;
        if secured.any(Security::encrypts) {
            write_certificates(&folder, listeners)?;
            fs::write(folder.join("Keystore.java"), KEYSTORE_PROGRAM)?;
        }
        if first.security.encrypts() {
            secured.access.tls = Some(Arc::new(client_config(&folder)?));
        }
        if first.security.has_login() {
            secured.access.login = Some(USERS[1]);
        }
        if old {
            let section = format!("KafkaServer {{\n{}\n}};\n", plain());
            fs::write(folder.join("jaas.conf"), section)?;
        }
        if let Some(text) = secured.tool_properties() {
            fs::write(folder.join("admin.properties"), text)?;
        }
        Ok(secured)
    }

    fn any(&self, is: impl Fn(Security) -> bool) -> bool {
        self.listeners.iter().any(|listener| is(listener.security))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.listeners.iter().map(|listener| listener.name.as_str())
    }

    /// The files in PEM form, without their ending, of which the brokers need keystores of Java.
    pub(crate) fn keystores(&self) -> Vec<PathBuf> {
        if self.pem || !self.any(Security::encrypts) {
            return Vec::new();
        }
        let listeners = self.listeners.iter().filter(|one| one.security.encrypts());
        let mut stems: Vec<_> = listeners.map(Listener::file_stem).collect();
        stems.extend(["ca", "right", "client"].map(str::to_owned));
        stems.sort();
        stems.dedup();
        stems.iter().map(|stem| self.folder.join(stem)).collect()
    }

    /// The program that makes them.
    pub(crate) fn keystore_program(&self) -> PathBuf {
        self.folder.join("Keystore.java")
    }

    /// Whether a listener has logins by SCRAM, whose users are kept in the cluster's metadata.
    pub(crate) fn has_scram(&self) -> bool {
        !self.old && self.any(Security::has_login)
    }

    /// Whether a listener has not the name of its protocol.
    pub(crate) fn has_names(&self) -> bool {
        let mut listeners = self.listeners.iter();
        listeners.any(|listener| listener.name != listener.security.protocol())
    }

    /// `PLAINTEXT:PLAINTEXT,MTLS:SSL`
    pub(crate) fn protocols(&self) -> String {
        let pair = |one: &Listener| format!("{}:{}", one.name, one.security.protocol());
        let pairs: Vec<_> = self.listeners.iter().map(pair).collect();
        pairs.join(",")
    }

    /// The lines of `server.properties` about the listeners, without their addresses.
    pub(crate) fn properties(&self) -> String {
        let mut lines = String::new();
        let first = &self.listeners[0];
        if !self.any(|security| security != Security::Plaintext) {
            // Nothing but defaults, which tests may override.
            return lines;
        } else if self.old {
            lines += &format!("security.inter.broker.protocol={}\n", first.name);
        } else {
            lines += &format!("inter.broker.listener.name={}\n", first.name);
        }
        if first.security.has_login() {
            lines += "sasl.mechanism.inter.broker.protocol=PLAIN\n";
        }
        for listener in &self.listeners {
            let prefix = match self.old {
                true => String::new(),
                false => format!("listener.name.{}.", listener.name.to_lowercase()),
            };
            if listener.security.encrypts() {
                for (key, value) in self.stores(&listener.file_stem()) {
                    lines += &format!("{prefix}ssl.{key}={value}\n");
                }
            }
            if listener.security == Security::Mtls {
                lines += &format!("{prefix}ssl.client.auth=required\n");
            }
            if listener.security.has_login() && self.old {
                lines += "sasl.enabled.mechanisms=PLAIN\n";
            } else if listener.security.has_login() {
                lines += &format!("{prefix}sasl.enabled.mechanisms={}\n", MECHANISMS.join(","));
                for mechanism in MECHANISMS {
                    let login = match mechanism {
                        "PLAIN" => plain(),
                        _ => login_module(SCRAM, USERS[0]),
                    };
                    let mechanism = mechanism.to_lowercase();
                    lines += &format!("{prefix}{mechanism}.sasl.jaas.config={login}\n");
                }
            }
        }
        lines
    }

    /// The options of the brokers' JVMs.
    pub(crate) fn jvm_option(&self) -> Option<String> {
        let file = self.folder.join("jaas.conf");
        (self.old && self.any(Security::has_login))
            .then(|| format!("-Djava.security.auth.login.config={}", file.display()))
    }

    /// The file for `--command-config`, with the admin's certificate and login; None where none is needed.
    pub(crate) fn command_config(&self) -> Option<PathBuf> {
        let needed = self.listeners[0].security != Security::Plaintext;
        needed.then(|| self.folder.join("admin.properties"))
    }

    fn tool_properties(&self) -> Option<String> {
        let security = self.listeners[0].security;
        self.command_config()?;
        let mut lines = format!("security.protocol={}\n", security.protocol());
        if security.encrypts() {
            for (key, value) in self.stores("client") {
                lines += &format!("ssl.{key}={value}\n");
            }
        }
        if security.has_login() {
            lines += &format!(
                "sasl.mechanism=PLAIN\nsasl.jaas.config={}\n",
                login_module(PLAIN, USERS[1])
            );
        }
        Some(lines)
    }

    fn stores(&self, own: &str) -> Vec<(&'static str, String)> {
        let (form, ending) = match self.pem {
            true => ("PEM", "pem"),
            false => ("PKCS12", "p12"),
        };
        let file = |stem: &str| {
            self.folder
                .join(format!("{stem}.{ending}"))
                .display()
                .to_string()
        };
        let mut keys = vec![
            ("truststore.type", form.to_owned()),
            ("truststore.location", file("ca")),
            ("keystore.type", form.to_owned()),
            ("keystore.location", file(own)),
        ];
        if !self.pem {
            let passwords = ["truststore.password", "keystore.password", "key.password"];
            keys.extend(passwords.map(|key| (key, STORE_PASSWORD.to_owned())));
        }
        keys
    }

    /// The arguments of `kafka-storage format` and, joined by commas, the value of `kafka-configs --add-config` that
    /// make each user.
    pub(crate) fn scram_users() -> impl Iterator<Item = (&'static str, [String; 2])> {
        let of = |(_, password): (&str, &str), mechanism: &str| {
            format!("{mechanism}=[iterations=8192,password={password}]")
        };
        USERS
            .into_iter()
            .map(move |user| (user.0, [of(user, MECHANISMS[1]), of(user, MECHANISMS[2])]))
    }
}

impl Listener {
    /// Of the files with its certificate.
    fn file_stem(&self) -> String {
        match self.certificate {
            Certificate::Right => "right".into(),
            _ => self.name.to_lowercase(),
        }
    }
}

const PLAIN: &str = "org.apache.kafka.common.security.plain.PlainLoginModule";
const SCRAM: &str = "org.apache.kafka.common.security.scram.ScramLoginModule";

fn login_module(module: &str, (name, password): (&str, &str)) -> String {
    format!("{module} required username=\"{name}\" password=\"{password}\";")
}

/// The brokers' own login by PLAIN, and all users that may log in.
fn plain() -> String {
    let module = login_module(PLAIN, USERS[0]);
    let users = USERS.map(|(name, password)| format!(" user_{name}=\"{password}\""));
    format!("{}{};", module.trim_end_matches(';'), users.concat())
}

/// Writes `ca.pem`, `other-ca.pem`, `right.pem`, `client.pem` (with `client.crt` and `client.key`), and one for each
/// listener that shows another certificate. A file with a key has the certificate after it.
fn write_certificates(folder: &Path, listeners: &[Listener]) -> Result<()> {
    let (ca, other) = (authority("lab")?, authority("other lab")?);
    fs::write(folder.join("ca.pem"), &ca.0)?;
    fs::write(folder.join("other-ca.pem"), &other.0)?;
    let names = [HOST, "127.0.0.1"];
    let write = |stem: &str, names: &[&str], ends: i64, authority: &Authority| {
        let (certificate, key) = signed(names, ends, &authority.1)?;
        fs::write(
            folder.join(format!("{stem}.pem")),
            format!("{key}{certificate}"),
        )?;
        anyhow::Ok((certificate, key))
    };
    write("right", &names, 30, &ca)?;
    let (certificate, key) = write("client", &["client.example"], 30, &ca)?;
    fs::write(folder.join("client.crt"), certificate)?;
    fs::write(folder.join("client.key"), key)?;
    for listener in listeners {
        let stem = listener.file_stem();
        match listener.certificate {
            Certificate::Right => continue,
            Certificate::Ends(days) => write(&stem, &names, days, &ca)?,
            Certificate::WrongName => write(&stem, &["other.example"], 30, &ca)?,
            Certificate::UnknownCa => write(&stem, &names, 30, &other)?,
        };
    }
    Ok(())
}

/// The certificate in PEM form, and what signs others.
type Authority = (String, Issuer<'static, KeyPair>);

fn authority(name: &str) -> Result<Authority> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.pem();
    Ok((certificate, Issuer::new(params, key)))
}

/// Returns a certificate and its key, in PEM form.
fn signed(names: &[&str], ends: i64, issuer: &Issuer<'_, KeyPair>) -> Result<(String, String)> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names.clone())?;
    params
        .distinguished_name
        .push(DnType::CommonName, names[0].as_str());
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::days(400);
    params.not_after = now + Duration::days(ends);
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, issuer)?.pem(), key.serialize_pem()))
}

fn client_config(folder: &Path) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.pem"))?)?;
    let own = CertificateDer::from_pem_file(folder.join("client.crt"))?;
    let key = PrivateKeyDer::from_pem_file(folder.join("client.key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![own], key)?)
}
