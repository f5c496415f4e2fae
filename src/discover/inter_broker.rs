//! How a broker itself gets in at other brokers, from its own `server.properties`. This is read only where the config says
//! `credentials: inter_broker`, and kept by nobody in this part.

use std::path::Path;

use super::broker::settings_now;
use super::error::DiscoveryError;
use super::examine::launch_of;
use super::files::Files;
use super::jaas;
use super::properties::{self, Properties};
use super::settings::{Protocols, inter_broker_listener};
use crate::model::{Credentials, Mechanism, Secret, SecurityProtocol};
use crate::sys::proc::ProcRoot;

/// Certificates and logins are shorter.
const FILE_CAP: usize = 1 << 20;

/// What the inter-broker listener is spoken to with. Texts are in PEM form.
#[derive(Default)]
pub struct InterBroker {
    pub credentials: Option<Credentials>,
    pub authorities: Option<Secret>,
    pub certificate: Option<Secret>,
    pub key: Option<Secret>,
}

/// Reads what the broker's inter-broker listener needs, and of its TLS nothing unless `with_tls`. Blocking.
///
/// # Errors
/// It cannot be read or used; the message says what to configure instead.
pub fn read(proc: &ProcRoot, pid: u32, with_tls: bool) -> Result<InterBroker, String> {
    let (files, properties) = open(proc, pid).map_err(|error| {
        format!("credentials: inter_broker: server.properties of process {pid}: {error}")
    })?;
    let read_file = |path: &Path| {
        let shown = path.display();
        let path = files.absolute(path);
        let path =
            path.ok_or_else(|| format!("{shown} is relative to a folder that is unknown"))?;
        let file = files.root.read(&path, FILE_CAP);
        let file = file.map_err(|error| files.error(error).to_string())?;
        String::from_utf8(file.bytes).map_err(|_| format!("{shown} is no text in PEM form"))
    };
    let jaas = || {
        let line = proc.command_line(pid).map_err(|error| error.to_string())?;
        let mut arguments = line.arguments.iter().rev();
        let path = arguments
            .find_map(|argument| argument.strip_prefix("-Djava.security.auth.login.config="));
        match path {
            Some(path) => read_file(Path::new(path.trim_start_matches('='))).map(Some),
            None => Ok(None),
        }
    };
    interpret(&properties, with_tls, read_file, jaas)
        .map_err(|error| format!("credentials: inter_broker: {error}"))
}

/// The same of settings; `jaas_file` is the text of the file that the command line names.
///
/// # Errors
/// As [`read`].
pub fn interpret(
    properties: &Properties,
    with_tls: bool,
    read_file: impl Fn(&Path) -> Result<String, String>,
    jaas_file: impl Fn() -> Result<Option<String>, String>,
) -> Result<InterBroker, String> {
    InterBrokerListener::of(properties)?.read(with_tls, read_file, jaas_file)
}

fn open(proc: &ProcRoot, pid: u32) -> Result<(Files, Properties), DiscoveryError> {
    let launch = launch_of(proc, pid)?;
    let uid = proc.status(pid).ok().map(|status| status.uid);
    let files = Files::open(proc, pid, uid)?;
    let (properties, ..) = settings_now(&launch, &files)?;
    Ok((files, properties))
}

/// The listener of the brokers among themselves, and the settings that are about it.
struct InterBrokerListener<'a> {
    properties: &'a Properties,
    /// In lower case.
    name: String,
    protocol: SecurityProtocol,
}

impl<'a> InterBrokerListener<'a> {
    fn of(properties: &'a Properties) -> Result<Self, String> {
        let name = inter_broker_listener(properties);
        let map = properties.get("listener.security.protocol.map");
        let protocol = Protocols::of(map, None)
            .protocol(&name)
            .ok_or_else(|| format!("the protocol of the listener {name} is unknown"))?;
        Ok(InterBrokerListener {
            properties,
            name: name.to_lowercase(),
            protocol,
        })
    }

    /// The value of this listener, else that of all.
    fn get(&self, key: &str) -> Result<Option<&'a str>, String> {
        let own = format!("listener.name.{}.{key}", self.name);
        let (key, value) = match self.properties.get(&own) {
            Some(value) => (own.as_str(), Some(value)),
            None => (key, self.properties.get(key)),
        };
        match value {
            Some(value) if properties::comes_from_provider(value) => Err(format!(
                "{key} comes from a config provider, which is not asked: name a login as `sasl` and certificates as `tls` \
                 in the config"
            )),
            value => Ok(value),
        }
    }

    fn read(
        &self,
        with_tls: bool,
        read_file: impl Fn(&Path) -> Result<String, String>,
        jaas_file: impl Fn() -> Result<Option<String>, String>,
    ) -> Result<InterBroker, String> {
        let mut found = InterBroker::default();
        if self.protocol.has_sasl() {
            found.credentials = Some(self.credentials(jaas_file)?);
        }
        if with_tls && self.protocol.has_tls() {
            found.authorities = self.authorities(&read_file)?.map(Secret::new);
        }
        // Where the brokers show each other a certificate, that is their login.
        if self.protocol == SecurityProtocol::Ssl
            && self.get("ssl.client.auth")? == Some("required")
        {
            let (certificate, key) = self.identity(&read_file)?;
            (found.certificate, found.key) = (Some(certificate), Some(key));
        }
        Ok(found)
    }

    fn credentials(
        &self,
        jaas_file: impl Fn() -> Result<Option<String>, String>,
    ) -> Result<Credentials, String> {
        let remedy = "name another login as `sasl` in the config";
        // That of the clients' settings has no prefix.
        let named = self.properties.get("sasl.mechanism.inter.broker.protocol");
        let named = named.unwrap_or("GSSAPI");
        let mechanism = Mechanism::of_name(named).ok_or_else(|| {
            format!("the brokers log in by {named}, which is not spoken here: {remedy}")
        })?;
        let key = format!("{}.sasl.jaas.config", named.to_lowercase());
        let value = match self.get(&key)? {
            Some(value) => Some(value),
            None => self.get("sasl.jaas.config")?,
        };
        let (modules, from) = match value {
            Some(value) => (
                jaas::modules(value),
                "sasl.jaas.config of its server.properties",
            ),
            None => {
                let text = jaas_file()?.ok_or_else(|| {
                    format!("its server.properties has no {key}, and its command line names no file of logins: {remedy}")
                })?;
                let of_listener = format!("{}.KafkaServer", self.name);
                let modules = jaas::section(&text, &of_listener);
                let modules = modules.or_else(|| jaas::section(&text, "KafkaServer"));
                (modules, "its java.security.auth.login.config")
            }
        };
        let class = match mechanism {
            Mechanism::Plain => ".PlainLoginModule",
            Mechanism::ScramSha256 | Mechanism::ScramSha512 => ".ScramLoginModule",
        };
        let modules = modules.unwrap_or_default();
        let module = modules.iter().find(|module| module.class.ends_with(class));
        let module = module.ok_or_else(|| {
            format!(
                "{from} has no {} in a form that is known: {remedy}",
                &class[1..]
            )
        })?;
        let option = |name: &str| {
            let value = module.option(name);
            value.ok_or_else(|| format!("{from} has no {name}: {remedy}"))
        };
        Ok(Credentials {
            mechanism,
            username: option("username")?.to_owned(),
            password: Secret::new(option("password")?.to_owned()),
            from: format!("credentials: inter_broker, {from}"),
        })
    }

    fn authorities(
        &self,
        read_file: &impl Fn(&Path) -> Result<String, String>,
    ) -> Result<Option<String>, String> {
        let inline = self.get("ssl.truststore.certificates")?;
        let location = self.get("ssl.truststore.location")?;
        match (inline, location) {
            (Some(text), _) => Ok(Some(text.to_owned())),
            (None, None) => Ok(None),
            (None, Some(path)) => {
                self.is_pem("ssl.truststore.type", path, "ca_file")?;
                read_file(Path::new(path)).map(Some)
            }
        }
    }

    /// The certificate and its key.
    fn identity(
        &self,
        read_file: &impl Fn(&Path) -> Result<String, String>,
    ) -> Result<(Secret, Secret), String> {
        let key = self.get("ssl.keystore.key")?;
        let chain = self.get("ssl.keystore.certificate.chain")?;
        let (chain, key) = match (chain, key) {
            (Some(chain), Some(key)) => {
                (Secret::new(chain.to_owned()), Secret::new(key.to_owned()))
            }
            _ => {
                let path = self.get("ssl.keystore.location")?;
                let path = path.ok_or("its server.properties names no keystore: name a certificate as `tls.cert_file` in the config")?;
                self.is_pem("ssl.keystore.type", path, "cert_file` and `tls.key_file")?;
                let text = Secret::new(read_file(Path::new(path))?);
                (text.clone(), text)
            }
        };
        if key.reveal().contains("BEGIN ENCRYPTED PRIVATE KEY") {
            return Err(
                "the key in its keystore has a password, which is not used here: name one without as `tls.key_file` and \
                 its certificate as `tls.cert_file` in the config"
                    .to_owned(),
            );
        }
        Ok((chain, key))
    }

    fn is_pem(&self, key: &str, path: &str, instead: &str) -> Result<(), String> {
        match self.get(key)?.unwrap_or("JKS") {
            "PEM" => Ok(()),
            kind => Err(format!(
                "{path} is a keystore of the type {kind}, which is not read here: write what is in it to files in PEM form \
                 (`keytool -exportcert -rfc`, `openssl pkcs12`) and name those as `tls.{instead}` in the config"
            )),
        }
    }
}

#[cfg(test)]
mod tests;
