//! What a broker's own files say of it: `server.properties`, `meta.properties`, the names of its jars, the `release`
//! file of its JVM. All of them are read inside the broker's root and may be anybody's work.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::jvm::Launch;
use super::properties::{self, Properties};
use crate::model::Moment;
use crate::model::{Broker, Listener, Mode, ProcessKey, Role, SecurityProtocol};
use crate::sys::proc::{self, Deadline, ProcError, ProcRoot};
use crate::sys::rooted::{FileContent, Rooted, RootedError};

/// Listeners, log folders and class path folders that are looked at.
const MOST_ENTRIES: usize = 64;
/// Entries of a class path folder.
const MOST_JARS: usize = 4096;
/// Jars are opened first, so their handles are the lowest.
const MOST_FDS: usize = 4096;
const SMALL_FILE_CAP: usize = 64 << 10;

/// Reads everything about a Kafka process that can be read; what cannot is None, with a line in `problems`. What was
/// read `earlier` stays: none of it changes while a process lives, whatever becomes of the clock and the files.
///
/// # Errors
/// Only if the process is gone, or another one has its id.
pub fn describe(
    proc: &ProcRoot,
    key: ProcessKey,
    launch: &mut Launch,
    earlier: Option<&Broker>,
) -> Result<Broker, ProcError> {
    let pid = key.pid;
    let mut broker = earlier.cloned().unwrap_or_else(|| Broker::unknown(key));
    let started = || {
        proc.started(key.start_ticks)
            .ok()
            .map(|since_1970| Moment(0).plus(since_1970))
    };
    broker.started = broker.started.or_else(started);
    broker.problems = launch.problem.iter().cloned().collect();
    match proc.status(pid) {
        Ok(status) => (broker.uid, broker.gid) = (Some(status.uid), Some(status.gid)),
        Err(error) => broker.problems.push(format!("user unknown: {error}")),
    }
    match Files::open(proc, pid, broker.uid) {
        Ok(files) => read_files(proc, launch, &files, &mut broker),
        Err(error) => {
            let class_path = launch.class_path.as_deref();
            broker.kafka_version = broker
                .kafka_version
                .or_else(|| class_path_version(class_path?));
            broker.problems.push(match launch.read {
                Some(_) => format!("its files are unknown, what was read before counts: {error}"),
                None => format!("id, versions, listeners and log folders unknown: {error}"),
            });
        }
    }
    if proc
        .stat(pid)
        .is_ok_and(|stat| stat.start_ticks == key.start_ticks && !stat.ended)
    {
        Ok(broker)
    } else {
        Err(ProcError::Gone { pid })
    }
}

fn read_files(proc: &ProcRoot, launch: &mut Launch, files: &Files, broker: &mut Broker) {
    let pid = broker.process.pid;
    if broker.kafka_version.is_none() {
        match kafka_version(proc, pid, launch, files) {
            Ok(version) => broker.kafka_version = Some(version),
            Err(problem) => broker
                .problems
                .push(format!("Kafka version unknown: {problem}")),
        }
    }
    if broker.java_version.is_none() {
        match java_version(proc, pid, files) {
            Ok(version) => broker.java_version = Some(version),
            Err(problem) => broker
                .problems
                .push(format!("Java version unknown: {problem}")),
        }
    }
    if let Err(problem) = read_server_properties(launch, files, broker) {
        let before = if launch.read.is_some() {
            ", what was read before counts"
        } else {
            ""
        };
        broker
            .problems
            .push(format!("server.properties unknown{before}: {problem}"));
    }
    let earlier_id = broker.id.take();
    match &launch.read {
        Some(properties) => interpret(properties, broker),
        // Without the file the defaults say nothing: its lock in each log folder does.
        None => broker.log_dirs = locked_folders(proc, pid, files),
    }
    broker.log_dirs = broker
        .log_dirs
        .iter()
        .filter_map(|dir| files.absolute(dir))
        .collect();
    remember_id(files, broker, earlier_id);
}

/// The id that `meta.properties` has, or had `earlier`, counts: a broker ends at its start if the two differ, so when
/// they do, somebody has changed `server.properties` since.
fn remember_id(files: &Files, broker: &mut Broker, earlier: Option<i32>) {
    let mut remembered = None;
    let mut reasons = Vec::new();
    for dir in broker.log_dirs.iter().take(MOST_ENTRIES) {
        match files
            .root
            .read(&dir.join("meta.properties"), SMALL_FILE_CAP)
        {
            Ok(file) => {
                let meta = Properties::parse(&file.bytes).unwrap_or_default();
                let id = meta
                    .get("node.id")
                    .or(meta.get("broker.id"))
                    .and_then(|id| id.parse::<i32>().ok());
                remembered = remembered.or(id.filter(|id| *id >= 0));
            }
            Err(error) => reasons.push(files.remedy(error)),
        }
    }
    match (broker.id, remembered.or(earlier)) {
        (Some(configured), Some(remembered)) if configured != remembered => {
            broker.id = Some(remembered);
            broker.problems.push(format!(
                "server.properties says id {configured} and meta.properties {remembered}: the latter is what runs"
            ));
        }
        (None, Some(remembered)) => broker.id = Some(remembered),
        (None, None) => {
            let reason = reasons
                .into_iter()
                .next()
                .unwrap_or_else(|| "no log folder has one".to_owned());
            broker.problems.push(format!(
                "id unknown: neither in server.properties nor in meta.properties: {reason}"
            ));
        }
        _ => {}
    }
}

/// The folder tree of the broker and where it stands in it.
struct Files {
    root: Rooted,
    /// Where the root is for us, if the process was put there by chroot: links are told with it.
    root_link: PathBuf,
    working_folder: Option<PathBuf>,
    uid: Option<u32>,
}

impl Files {
    fn open(proc: &ProcRoot, pid: u32, uid: Option<u32>) -> Result<Files, ProcError> {
        // The link is read first: it tells a missing right apart, as opening it would, and where a chroot is.
        let root_link = proc.link(pid, "root")?;
        let path = proc.file(pid, "root");
        let root = Rooted::open(&path).map_err(|error| match error {
            RootedError::Missing { .. } => ProcError::Gone { pid },
            RootedError::Denied { path } => ProcError::Denied { pid, path },
            other => ProcError::Io {
                path,
                cause: std::io::Error::other(other),
            },
        })?;
        let mut files = Files {
            root,
            root_link,
            working_folder: None,
            uid,
        };
        files.working_folder = proc.link(pid, "cwd").ok().map(|link| files.inside(&link));
        Ok(files)
    }

    /// A link as /proc tells it, as the process itself would write it.
    fn inside(&self, link: &Path) -> PathBuf {
        link.strip_prefix(&self.root_link)
            .map_or_else(|_| link.to_path_buf(), |inside| Path::new("/").join(inside))
    }

    fn absolute(&self, path: &Path) -> Option<PathBuf> {
        if path.is_absolute() {
            return Some(path.to_path_buf());
        }
        Some(self.working_folder.as_ref()?.join(path))
    }

    fn remedy(&self, error: RootedError) -> String {
        match (&error, self.uid) {
            (RootedError::Denied { .. }, Some(uid)) => {
                format!(
                    "{error}: run kafka-vitals as the broker's user (uid {uid}), or let it read that file"
                )
            }
            _ => error.to_string(),
        }
    }
}

/// The bytes of the `server.properties` that the command line names, as the file is now.
///
/// # Errors
/// What could not be read, and why.
pub fn server_properties(proc: &ProcRoot, pid: u32, launch: &Launch) -> Result<Vec<u8>, String> {
    let uid = proc.status(pid).ok().map(|status| status.uid);
    let files = Files::open(proc, pid, uid).map_err(|error| error.to_string())?;
    Ok(properties_file(launch, &files)?.1.bytes)
}

fn properties_file(launch: &Launch, files: &Files) -> Result<(PathBuf, FileContent), String> {
    let given = launch
        .properties
        .as_ref()
        .ok_or("the command line names no file; name the broker in the config file")?;
    let path = files.absolute(given).ok_or_else(|| {
        format!(
            "{} is relative to a working folder that is unknown",
            given.display()
        )
    })?;
    let file = files
        .root
        .read(&path, properties::FILE_CAP)
        .map_err(|error| files.remedy(error))?;
    Ok((path, file))
}

/// What the file says is kept in `launch` when it is read for the first time.
fn read_server_properties(
    launch: &mut Launch,
    files: &Files,
    broker: &mut Broker,
) -> Result<(), String> {
    let (path, file) = properties_file(launch, files)?;
    let mut properties =
        Properties::parse(&file.bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    for (key, value) in &launch.overrides {
        properties.set(key.as_str(), value.as_str());
    }
    let properties = properties.only(&KEYS);
    let why = if launch
        .read
        .as_ref()
        .is_some_and(|before| *before != properties)
    {
        "what was read before counts until a restart"
    } else if broker
        .started
        .is_some_and(|started| file.modified > (started.0 / 1000) as i64 + 1)
    {
        "what it says may not be what runs until a restart"
    } else {
        ""
    };
    if !why.is_empty() {
        broker.problems.push(format!(
            "{} was changed after the broker started: {why}",
            path.display()
        ));
    }
    launch.read.get_or_insert(properties);
    Ok(())
}

/// Everything that `server.properties` and Kafka's defaults tell; pure.
fn interpret(properties: &Properties, broker: &mut Broker) {
    let mut problems = Vec::new();
    // A value from a config provider is as unknown as can be: the default does not hold either.
    let mut provided = BTreeSet::new();
    let known = |key: &'static str| {
        properties
            .get(key)
            .filter(|value| !properties::comes_from_provider(value))
    };
    for key in KEYS {
        if known(key).is_none() && properties.get(key).is_some() {
            provided.insert(key);
            problems.push(format!(
                "{key} comes from a config provider, which is not asked: see the broker's log"
            ));
        }
    }

    for key in ["node.id", "broker.id"] {
        match known(key).map(str::parse::<i32>) {
            Some(Ok(id)) if id >= 0 => broker.id = broker.id.or(Some(id)),
            Some(Err(_)) => problems.push(format!(
                "{key} in server.properties is no number that an id can be"
            )),
            _ => {}
        }
    }

    let zookeeper = known("zookeeper.connect");
    broker.mode = match (known("process.roles"), zookeeper) {
        _ if provided.contains("process.roles") => None,
        (Some(roles), _) => {
            broker.roles = properties::list(roles).filter_map(role).collect();
            Some(Mode::KRaft)
        }
        (None, Some(_)) => Some(Mode::ZooKeeper),
        (None, None) => None,
    };
    match broker.mode {
        Some(Mode::ZooKeeper) => broker.roles = BTreeSet::from([Role::Broker]),
        Some(Mode::KRaft) => {}
        None => problems.push(
            "mode unknown: server.properties has neither process.roles nor zookeeper.connect"
                .into(),
        ),
    }
    broker.zookeeper = zookeeper.map(zookeeper_servers).unwrap_or_default();

    if !provided.contains("log.dirs") && !provided.contains("log.dir") {
        let dirs = known("log.dirs")
            .or(known("log.dir"))
            .unwrap_or("/tmp/kafka-logs");
        broker.log_dirs = properties::list(dirs)
            .take(MOST_ENTRIES)
            .map(PathBuf::from)
            .collect();
    }

    // Before 3.0 host.name and port stood for a PLAINTEXT listener where `listeners` was not set.
    let old = major_version(broker.kafka_version.as_deref()).is_none_or(|major| major < 3);
    let pair = |host: &'static str, port: &'static str| match (known(host), known(port)) {
        (None, None) => None,
        (host, port) => Some((host.unwrap_or_default(), port)),
    };
    let plain = pair("host.name", "port").filter(|_| old);
    let protocols = Protocols::of(
        known("listener.security.protocol.map"),
        known("controller.listener.names"),
    );
    let listeners = match (known("listeners"), plain) {
        _ if provided.contains("listeners") => None,
        (Some(listeners), _) => Some(listeners.to_owned()),
        (None, Some((host, port))) => {
            Some(format!("PLAINTEXT://{host}:{}", port.unwrap_or("9092")))
        }
        (None, None) => Some("PLAINTEXT://:9092".to_owned()),
    };
    broker.listeners = listeners
        .map(|text| protocols.listeners("listeners", &text, &mut problems))
        .unwrap_or_default();
    broker.problems.append(&mut problems);
}

/// The keys that we read: an unreadable value of another one is none of our business.
const KEYS: [&str; 11] = [
    "broker.id",
    "node.id",
    "process.roles",
    "zookeeper.connect",
    "log.dirs",
    "log.dir",
    "listeners",
    "host.name",
    "port",
    "listener.security.protocol.map",
    "controller.listener.names",
];

fn role(name: &str) -> Option<Role> {
    match name {
        "broker" => Some(Role::Broker),
        "controller" => Some(Role::Controller),
        _ => None,
    }
}

/// `host:port` entries; the chroot follows the last one, the port is 2181 unless given.
fn zookeeper_servers(connect: &str) -> Vec<String> {
    let servers = connect.split('/').next().unwrap_or_default();
    let with_port = |server: &str| {
        let has_port = server
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if has_port && !server.ends_with(']') {
            server.to_owned()
        } else {
            format!("{server}:2181")
        }
    };
    properties::list(servers)
        .take(MOST_ENTRIES)
        .map(with_port)
        .collect()
}

struct Protocols {
    map: Vec<(String, Option<SecurityProtocol>)>,
    controllers: Vec<String>,
}

impl Protocols {
    fn of(map: Option<&str>, controllers: Option<&str>) -> Protocols {
        let map = map
            .into_iter()
            .flat_map(properties::list)
            .filter_map(|entry| entry.split_once(':'));
        Protocols {
            map: map
                .map(|(name, protocol)| {
                    (name.trim().to_uppercase(), protocol_named(protocol.trim()))
                })
                .collect(),
            controllers: controllers
                .into_iter()
                .flat_map(properties::list)
                .map(str::to_uppercase)
                .collect(),
        }
    }

    fn listeners(&self, key: &str, text: &str, problems: &mut Vec<String>) -> Vec<Listener> {
        let mut listeners = Vec::new();
        for (number, entry) in (1..).zip(properties::list(text).take(MOST_ENTRIES)) {
            match self.listener(entry) {
                Some(Listener { port: 0, name, .. }) => problems
                    .push(format!("port of {name} unknown: {key} says 0, so the kernel chose one; set a fixed port")),
                Some(listener) => listeners.push(listener),
                None => problems.push(format!("entry {number} of {key} is not of the form NAME://HOST:PORT")),
            }
        }
        listeners
    }

    fn listener(&self, entry: &str) -> Option<Listener> {
        let (name, address) = entry.split_once("://")?;
        let (host, port) = address.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = name.trim().to_uppercase();
        let every_address = matches!(host, "" | "0.0.0.0" | "::");
        let controller = self.controllers.contains(&name);
        let protocol = match self.map.iter().find(|(known, _)| *known == name) {
            Some((_, protocol)) => *protocol,
            // Where no map is given, controllers speak plain text under whatever name.
            None if controller && self.map.is_empty() => {
                protocol_named(&name).or(Some(SecurityProtocol::Plaintext))
            }
            None => protocol_named(&name),
        };
        let host = (!every_address).then(|| host.to_owned());
        Some(Listener {
            name,
            protocol,
            host,
            port: port.trim().parse().ok()?,
            controller,
        })
    }
}

fn protocol_named(name: &str) -> Option<SecurityProtocol> {
    match name.to_uppercase().as_str() {
        "PLAINTEXT" => Some(SecurityProtocol::Plaintext),
        "SSL" => Some(SecurityProtocol::Ssl),
        "SASL_PLAINTEXT" => Some(SecurityProtocol::SaslPlaintext),
        "SASL_SSL" => Some(SecurityProtocol::SaslSsl),
        _ => None,
    }
}

fn major_version(version: Option<&str>) -> Option<u32> {
    // Confluent's own 6 is Kafka's 2, 7 is 3 and so on; its 5 is Kafka's 2 as well, which is all the same here.
    let version = version?;
    let major = version.split('.').next()?.parse::<u32>().ok()?;
    Some(if version.ends_with("-ccs") || version.ends_with("-ce") {
        major.saturating_sub(4)
    } else {
        major
    })
}

/// Folders in which the process holds Kafka's `.lock` open.
fn locked_folders(proc: &ProcRoot, pid: u32, files: &Files) -> Vec<PathBuf> {
    let mut folders = BTreeSet::new();
    // What cannot be read leaves the list empty, and the id unknown with its reason.
    let _ = first_fds(proc, pid, |link| {
        let folder = link
            .strip_suffix(b"/.lock")
            .and_then(|folder| std::str::from_utf8(folder).ok());
        folders.extend(folder.map(|folder| files.inside(Path::new(folder))));
    });
    folders.into_iter().take(MOST_ENTRIES).collect()
}

fn first_fds(proc: &ProcRoot, pid: u32, mut look: impl FnMut(&[u8])) -> Result<(), ProcError> {
    let mut seen = 0;
    proc.visit_fd_links(
        pid,
        Deadline::after(Duration::from_millis(200)),
        |_, link| {
            look(link);
            seen += 1;
            if seen < MOST_FDS {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        },
    )
}

/// From the jars that the JVM holds open, which an upgrade on disk does not change; else from its class path.
fn kafka_version(
    proc: &ProcRoot,
    pid: u32,
    launch: &Launch,
    files: &Files,
) -> Result<String, String> {
    let mut best = None;
    let handles = first_fds(proc, pid, |link| {
        best = better(
            best.take(),
            std::str::from_utf8(proc::file_name(link))
                .ok()
                .and_then(jar_version),
        );
    });
    if let Some((_, version)) = best {
        return Ok(version);
    }
    let environment = || proc.environment_variable(pid, "CLASSPATH").ok().flatten();
    let class_path = launch.class_path.clone().or_else(environment);
    let Some(class_path) = class_path else {
        let reason = handles.err().map_or_else(
            || "no Kafka jar is open".to_owned(),
            |error| error.to_string(),
        );
        return Err(format!("no class path, and {reason}"));
    };
    if let Some(version) = class_path_version(&class_path) {
        return Ok(version);
    }
    let mut reasons = Vec::new();
    for folder in class_path
        .split(':')
        .filter_map(|entry| entry.strip_suffix('*'))
        .take(MOST_ENTRIES)
    {
        let Some(folder) = files.absolute(Path::new(folder)) else {
            continue;
        };
        match files.root.list(&folder, MOST_JARS) {
            Ok(names) => {
                best = names
                    .iter()
                    .filter_map(|name| name.to_str())
                    .map(jar_version)
                    .fold(best, better);
            }
            Err(error) => reasons.push(files.remedy(error)),
        }
    }
    let reason = || {
        reasons
            .into_iter()
            .next()
            .unwrap_or_else(|| "no Kafka jar on the class path".to_owned())
    };
    best.map(|(_, version)| version).ok_or_else(reason)
}

fn class_path_version(class_path: &str) -> Option<String> {
    let names = class_path
        .split(':')
        .map(|entry| entry.rsplit('/').next().unwrap_or_default());
    Some(names.map(jar_version).fold(None, better)?.1)
}

type Ranked = Option<(u8, String)>;

/// The one of lower rank; of equal ones the first, as a class loader takes it.
fn better(one: Ranked, other: Ranked) -> Ranked {
    match (&one, &other) {
        (Some((first, _)), Some((second, _))) if second < first => other,
        (None, _) => other,
        _ => one,
    }
}

/// The version in the name of one of Kafka's own jars, as written: Confluent's own numbers end in `-ccs` or `-ce`.
/// The broker's jar goes before those that clients have as well.
fn jar_version(name: &str) -> Ranked {
    let name = name.strip_suffix(".jar")?;
    let (rank, version) = if let Some(rest) = name.strip_prefix("kafka_") {
        (0, rest.split_once('-')?.1)
    } else {
        let servers = ["kafka-server-common-", "kafka-server-", "kafka-metadata-"];
        let server = servers
            .iter()
            .find_map(|prefix| name.strip_prefix(prefix))
            .filter(|rest| starts_with_digit(rest));
        match server {
            Some(rest) => (1, rest),
            None => (2, name.strip_prefix("kafka-clients-")?),
        }
    };
    let plain = version
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    let by_product = ["-sources", "-javadoc", "-scaladoc", "-test"]
        .iter()
        .any(|suffix| version.contains(suffix));
    (starts_with_digit(version) && plain && !by_product && version.len() <= 64)
        .then(|| (rank, version.to_owned()))
}

fn starts_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

/// `JAVA_VERSION` of the `release` file in the JVM's folder: two above the command, three for `jre/bin/java`.
fn java_version(proc: &ProcRoot, pid: u32, files: &Files) -> Result<String, String> {
    let command = proc.link(pid, "exe").map_err(|error| error.to_string())?;
    let command = files.inside(&command);
    let mut reason = "the command has no folder above".to_owned();
    for home in command.ancestors().skip(2).take(2) {
        match files
            .root
            .read(&home.join(OsStr::new("release")), SMALL_FILE_CAP)
        {
            Ok(file) => match release_version(&String::from_utf8_lossy(&file.bytes)) {
                Some(version) => return Ok(version),
                None => reason = format!("no JAVA_VERSION in {}", home.join("release").display()),
            },
            Err(error) => reason = files.remedy(error),
        }
    }
    Err(reason)
}

fn release_version(text: &str) -> Option<String> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("JAVA_VERSION="))?;
    let version = value.trim().trim_matches('"');
    let plain = version
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'+'));
    (starts_with_digit(version) && plain && version.len() <= 64).then(|| version.to_owned())
}

#[cfg(test)]
mod tests;
