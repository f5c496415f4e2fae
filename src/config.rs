//! What the settings mean: flags and config file, checked once, with a default for everything.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FileType;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::cli::{CollectorFlags, Format, LogLevel, ServeArgs};
use crate::model::{CollectorName, Schedule, SettingsStatus, deserialize_duration, routes, text};
use crate::recording;
use crate::sys::plain::{self, FileError};
use crate::sys::proc::ProcRoot;
use crate::sys::settings_file;
use crate::sys::users;
use crate::threads::log_signatures::OwnSignature;
use crate::verdict::liveness::LivenessSettings;

mod access;
mod evidence;
mod groups;
mod log_signatures;

pub use access::{Access, CredentialsOf, LoginSettings, SaslSettings, TlsSettings};
pub use evidence::EvidenceSettings;
pub use groups::GroupSettings;

/// Checked settings of a serving exporter.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub listen: Vec<SocketAddr>,
    pub probe_addresses: Vec<SocketAddr>,
    pub telemetry_path: String,
    pub web_config_file: Option<PathBuf>,
    /// Of this host, in lower case.
    pub host_names: Vec<String>,
    /// 0 is no limit.
    pub max_connections_per_address: usize,
    /// 0 is no limit.
    pub max_requests: usize,
    pub procfs: PathBuf,
    pub record: Option<recording::Settings>,
    pub log_level: LogLevel,
    pub log_format: Format,
    pub intervals: Intervals,
    pub collectors: Switches,
    pub brokers: Vec<BrokerSettings>,
    /// In addition to those of [`crate::threads::log_signatures`].
    pub log_signatures: Vec<OwnSignature>,
    /// For brokers whose entry names none.
    pub access: Access,
    /// The most brokers that are watched.
    pub max_brokers: usize,
    /// Whose processes count as brokers; empty: everybody's.
    pub users: Vec<u32>,
    pub live: LivenessSettings,
    pub groups: GroupSettings,
    pub evidence: EvidenceSettings,
}

/// The settings in use.
#[derive(Debug, Clone)]
pub struct InUse {
    pub config: Arc<Config>,
    pub status: SettingsStatus,
}

/// The intervals of the collectors: `intervals: {NAME: 1s}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Intervals(BTreeMap<Key<HasInterval>, Interval>);

impl Intervals {
    /// As configured, else the default.
    pub fn of(&self, name: CollectorName) -> Duration {
        match name.about() {
            (_, Schedule::InPassOf(leader)) => self.of(leader),
            (_, Schedule::Every(default)) => self
                .0
                .get(&Key::of(name))
                .map_or(default, |interval| interval.0),
        }
    }
}

/// Which collectors run: `collectors: {NAME: false}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Switches(BTreeMap<Key<MayBeOff>, bool>);

impl Switches {
    /// Whether a collector runs. It does not where one that it needs is off.
    pub fn is_on(&self, name: CollectorName) -> bool {
        self.0.get(&Key::of(name)).copied().unwrap_or(true)
            && name.needs().is_none_or(|needed| self.is_on(needed))
    }

    /// The file's, overridden by the flags.
    fn with_flags(mut self, flags: &CollectorFlags) -> Switches {
        let given = flags.0.iter().map(|(name, on)| (Key::of(*name), *on));
        self.0.extend(given);
        self
    }
}

/// The name of a collector, as a key of the config file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key<Kind>(CollectorName, PhantomData<Kind>);

impl<Kind> Key<Kind> {
    fn of(name: CollectorName) -> Self {
        Key(name, PhantomData)
    }
}

/// Which collectors a section of the config file may name.
trait Section {
    fn refusal(name: CollectorName) -> Option<String>;
}

/// `intervals`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct HasInterval;

impl Section for HasInterval {
    fn refusal(name: CollectorName) -> Option<String> {
        match name.about() {
            (_, Schedule::InPassOf(leader)) => {
                let (name, leader) = (name.name(), leader.name());
                Some(format!("`{name}` has the interval of `{leader}`, set that"))
            }
            _ => None,
        }
    }
}

/// `collectors`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct MayBeOff;

impl Section for MayBeOff {
    fn refusal(name: CollectorName) -> Option<String> {
        let fixed = !name.may_be_off();
        fixed.then(|| format!("`{}` cannot be switched off, remove it", name.name()))
    }
}

impl<'de, Kind: Section> Deserialize<'de> for Key<Kind> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = String::deserialize(deserializer)?;
        let known = CollectorName::ALL.into_iter();
        let names = known.filter(|name| Kind::refusal(*name).is_none());
        match CollectorName::of_name(&given) {
            Some(name) => match Kind::refusal(name) {
                None => Ok(Key::of(name)),
                Some(why) => Err(D::Error::custom(why)),
            },
            None => {
                let names: Vec<&str> = names.map(CollectorName::name).collect();
                let names = names.join(", ");
                let why = format!("unknown field `{given}`, expected one of {names}");
                Err(D::Error::custom(why))
            }
        }
    }
}

/// `250ms`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct Interval(#[serde(deserialize_with = "deserialize_duration")] Duration);

/// What discovery cannot know of one broker.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerSettings {
    #[serde(rename = "match")]
    pub matches: BrokerMatch,
    /// Name of the listener to ask; default: a PLAINTEXT one.
    #[serde(default)]
    pub probe_listener: Option<String>,
    /// `host:port` to ask instead of the listener's own address.
    #[serde(default)]
    pub bootstrap: Option<String>,
    #[serde(default)]
    pub tls: Option<TlsSettings>,
    #[serde(default)]
    pub sasl: Option<SaslSettings>,
    #[serde(default)]
    pub credentials: Option<CredentialsOf>,
}

impl BrokerSettings {
    fn keys(&self) -> access::Keys<'_> {
        access::Keys {
            tls: self.tls.as_ref(),
            sasl: self.sasl.as_ref(),
            credentials: self.credentials,
        }
    }
}

/// Which broker is meant: by one of id, listener port or pid file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerMatch {
    pub id: Option<i32>,
    pub port: Option<u16>,
    /// File that holds the broker's process id.
    pub pid_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    intervals: Intervals,
    collectors: Switches,
    brokers: Vec<BrokerSettings>,
    evidence: EvidenceSettings,
    groups: GroupSettings,
    live: LivenessSettings,
    log_signatures: Vec<log_signatures::Entry>,
    max_brokers: usize,
    tls: Option<TlsSettings>,
    sasl: Option<SaslSettings>,
    credentials: Option<CredentialsOf>,
    users: Vec<String>,
}

impl File {
    fn keys(&self) -> access::Keys<'_> {
        access::Keys {
            tls: self.tls.as_ref(),
            sasl: self.sasl.as_ref(),
            credentials: self.credentials,
        }
    }
}

impl Default for File {
    fn default() -> Self {
        File {
            intervals: Intervals::default(),
            collectors: Switches::default(),
            brokers: Vec::new(),
            evidence: EvidenceSettings::default(),
            groups: GroupSettings::default(),
            live: LivenessSettings::default(),
            log_signatures: Vec::new(),
            max_brokers: 64,
            tls: None,
            sasl: None,
            credentials: None,
            users: Vec::new(),
        }
    }
}

/// A config file or a flag that cannot be used; the message says where and how to correct it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("config file {}: {message}", path.display())]
    File { path: PathBuf, message: String },
    #[error("{0}")]
    Flag(String),
}

/// Far more than run on one host; the pid file of each is read every few seconds.
const MAX_BROKERS: usize = 256;
/// Each takes the exporter some 100 KB, and some ms of CPU a second.
const MOST_WATCHED: usize = 1000;

impl Config {
    /// The flags together with the file that they name.
    pub fn load(args: ServeArgs) -> Result<Config, ConfigError> {
        let (file, of_file, own_signatures) = match args.config_file {
            None => (File::default(), Vec::new(), Vec::new()),
            Some(path) => read_file(&path)
                .and_then(|file| {
                    let of_file = uids(&file.users).map_err(|why| format!("users: {why}"))?;
                    let own_signatures = log_signatures::checked(&file.log_signatures)?;
                    Ok((file, of_file, own_signatures))
                })
                .map_err(|message| ConfigError::File { path, message })?,
        };
        let given = uids(&args.users)
            .map_err(|why| ConfigError::Flag(format!("--discovery.users: {why}")))?;
        check_telemetry_path(&args.telemetry_path)?;
        check_procfs(&args.procfs)?;
        if let Some(dir) = &args.evidence_dir {
            check_folder(dir)
                .map_err(|why| ConfigError::Flag(format!("--evidence.dir {dir:?}: {why}")))?;
        }
        if let Some(file) = &args.record {
            check_record(file, args.config_check)?;
        }
        let max_bytes = u64::from(args.record_max_size) << 20;
        let default_dir = || EvidenceSettings::default_dir(|name| std::env::var_os(name));
        Ok(Config {
            access: file.keys().or(&Access::default()),
            listen: args.listen,
            probe_addresses: args.probe_addresses,
            telemetry_path: args.telemetry_path,
            web_config_file: args.web_config_file,
            host_names: host_names(&args.host_names)?,
            max_connections_per_address: args.max_connections_per_address,
            max_requests: args.max_requests,
            procfs: args.procfs,
            record: args
                .record
                .map(|file| recording::Settings { file, max_bytes }),
            log_level: args.log_level,
            log_format: args.log_format,
            intervals: file.intervals,
            collectors: file.collectors.with_flags(&args.collectors),
            brokers: file.brokers,
            log_signatures: own_signatures,
            max_brokers: file.max_brokers,
            users: if given.is_empty() { of_file } else { given },
            live: file.live,
            groups: file.groups,
            evidence: EvidenceSettings {
                dir: args.evidence_dir.or(file.evidence.dir).or_else(default_dir),
                ..file.evidence
            },
        })
    }

    /// How a broker with this entry of the file is asked.
    pub fn access(&self, broker: Option<&BrokerSettings>) -> Access {
        broker.map_or_else(
            || self.access.clone(),
            |broker| broker.keys().or(&self.access),
        )
    }
}

/// The given ones, and the name that the system has.
fn host_names(given: &[String]) -> Result<Vec<String>, ConfigError> {
    let letters = |name: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        !name.is_empty() && name.len() <= 255 && name.chars().all(plain)
    };
    if let Some(wrong) = given.iter().find(|name| !letters(name)) {
        return Err(ConfigError::Flag(format!(
            "--web.host-name {wrong:?}: is no name of a host, e.g. broker-1.example; write it without a port"
        )));
    }
    let own = rustix::system::uname();
    let own = own.nodename().to_string_lossy();
    let first = own.split('.').next().unwrap_or_default();
    let names = given.iter().map(String::as_str).chain([&*own, first]);
    let names = names.map(|name| name.trim_end_matches('.').to_ascii_lowercase());
    Ok(names.filter(|name| !name.is_empty()).collect())
}

/// The ids of users that are given by name or id.
fn uids(given: &[String]) -> Result<Vec<u32>, String> {
    if given.is_empty() {
        return Ok(Vec::new());
    }
    let passwd = users::read();
    let uid = |name: &String| {
        if name.is_empty() {
            return Err("a name is empty; name the brokers' users, by name or id".to_owned());
        }
        let uid = name.parse().ok().or_else(|| users::uid_of(&passwd, name));
        uid.ok_or_else(|| {
            let shown = text::beginning(name, 60);
            format!(
                "/etc/passwd has no user {shown:?}; correct the name, or give the user's id, as of one that LDAP knows"
            )
        })
    };
    given.iter().map(uid).collect()
}

/// The router takes some characters for patterns, and a browser or Prometheus would encode others.
fn check_telemetry_path(path: &str) -> Result<(), ConfigError> {
    let fail = |why: &str| {
        Err(ConfigError::Flag(format!(
            "--web.telemetry-path {path:?}: {why}"
        )))
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '.' | '_' | '~');
    if !path.starts_with('/') || path.len() < 2 {
        return fail("must begin with / and name a path, e.g. /metrics");
    } else if !path.chars().all(plain) {
        return fail("only letters, digits and / - . _ ~ may stand in it, e.g. /metrics");
    } else if routes::ALL.contains(&path) {
        return fail("is taken, choose another");
    }
    Ok(())
}

/// A relative path would depend on where the exporter is started: systemd does so in `/`.
fn check_folder(path: &Path) -> Result<(), &'static str> {
    if path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&0) {
        Ok(())
    } else {
        Err("no absolute path of a folder, write e.g. /var/lib/kafka-vitals/evidence")
    }
}

/// A file, or nothing yet. Its folder may be mounted later, so only `--config.check` asks for it.
fn check_record(path: &Path, with_folder: bool) -> Result<(), ConfigError> {
    let fail = |why: &dyn std::fmt::Display| {
        Err(ConfigError::Flag(format!(
            "--record {path:?}: {why}; name a file, e.g. /var/lib/kafka-vitals/record.jsonl"
        )))
    };
    let folder = match path.parent() {
        _ if path.as_os_str().as_encoded_bytes().ends_with(b"/") => None,
        Some(folder) if folder.as_os_str().is_empty() => Some(Path::new(".")),
        folder => folder,
    };
    let Some(folder) = folder.filter(|_| path.file_name().is_some()) else {
        return fail(&"is no path of a file");
    };
    let found = match plain::find(path, FileType::RegularFile) {
        Err(FileError::Missing { .. }) => plain::find(folder, FileType::Directory),
        found => found,
    };
    match found {
        Err(FileError::Missing { .. }) if !with_folder => Ok(()),
        Err(error) => fail(&error),
        Ok(()) => Ok(()),
    }
}

/// `uptime` is what discovery reads first, and no right is needed for it.
///
/// # Errors
/// `--path.procfs` names a folder where no procfs is.
pub fn check_procfs(path: &Path) -> Result<(), ConfigError> {
    ProcRoot::new(path).uptime().map(drop).map_err(|error| {
        let path = path.display();
        ConfigError::Flag(format!(
            "--path.procfs {path}: no procfs is mounted there ({error}); leave it at /proc"
        ))
    })
}

fn read_file(path: &Path) -> Result<File, String> {
    parse(&settings_file::read(path, "config file of kafka-vitals")?)
}

fn parse(text: &str) -> Result<File, String> {
    let file: File = settings_file::parse(text, &RENAMED)?;
    for (Key(name, _), Interval(interval)) in &file.intervals.0 {
        if !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(interval) {
            let (name, given) = (name.name(), humantime::format_duration(*interval));
            return Err(format!(
                "intervals.{name}: {given} is out of range, must be 100ms to 1h"
            ));
        }
    }
    if file.brokers.len() > MAX_BROKERS {
        return Err(format!(
            "brokers: {} entries, at most {MAX_BROKERS} are taken",
            file.brokers.len()
        ));
    }
    for (index, broker) in file.brokers.iter().enumerate() {
        let m = &broker.matches;
        let given = [m.id.is_some(), m.port.is_some(), m.pid_file.is_some()]
            .into_iter()
            .filter(|x| *x)
            .count();
        if given != 1 {
            return Err(format!(
                "brokers[{index}].match: give exactly one of id, port, pid_file; {given} are given"
            ));
        }
        if let Some(first) = file
            .brokers
            .iter()
            .take(index)
            .position(|other| other.matches == *m)
        {
            return Err(format!(
                "brokers[{index}].match: is that of brokers[{first}] as well; keep one of the two"
            ));
        }
        if let Some(bootstrap) = &broker.bootstrap
            && !is_address(bootstrap)
        {
            return Err(format!(
                "brokers[{index}].bootstrap: {bootstrap:?} is not HOST:PORT, e.g. 127.0.0.1:9092"
            ));
        }
        broker.keys().check(&format!("brokers[{index}]."))?;
    }
    file.keys().check("")?;
    if !(1..=MOST_WATCHED).contains(&file.max_brokers) {
        return Err(format!(
            "max_brokers: {} is out of range, must be 1 to {MOST_WATCHED}",
            file.max_brokers
        ));
    }
    let e = &file.evidence;
    if let Some(dir) = &e.dir {
        check_folder(dir).map_err(|why| format!("evidence.dir: {dir:?} is {why}"))?;
    }
    if e.max_bytes < 10 << 20 {
        return Err(
            "evidence.max_bytes: a bundle takes some megabytes, must be 10MiB or more".to_owned(),
        );
    } else if e.max_bundles == 0 {
        return Err("evidence.max_bundles: must be 1 or more".to_owned());
    }
    Ok(file)
}

/// `HOST:PORT`, with nothing in it that no host name has.
fn is_address(text: &str) -> bool {
    let odd = |c: char| c.is_whitespace() || c.is_control();
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(odd) && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

/// Keys of earlier config files, and what took their place.
const RENAMED: [(&str, &str); 6] = [
    ("rounds", "`intervals`, by the names of the collectors"),
    ("pulse", "`process` and `accept_queues`"),
    ("slow", "`fds`, `memory_maps` and `log_dirs`"),
    ("probe", "`cluster`"),
    ("thread_dump", "`threads`"),
    ("handles", "`fds`"),
];

#[cfg(test)]
mod tests;
