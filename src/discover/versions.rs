//! Which versions of Kafka and Java a broker runs.

use std::path::Path;

use super::error::DiscoveryError;
use super::files::{Files, first_fd_links};
use super::jvm::Launch;
use super::properties::MOST_ENTRIES;
use crate::sys::proc::{self, ProcRoot};

/// Entries of a class path folder.
const MOST_JARS: usize = 4096;
const SMALL_FILE_CAP: usize = 64 << 10;

/// Reads Kafka's version from the names of the jars that the JVM holds open, because an upgrade on disk does not change
/// those; else from its class path.
pub(super) fn kafka_version(
    proc: &ProcRoot,
    pid: u32,
    launch: &Launch,
    files: &Files,
) -> Result<String, DiscoveryError> {
    let mut best = None;
    let fds = first_fd_links(proc, pid, |link| {
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
        return Err(fds.err().map_or(
            DiscoveryError::NoClassPath,
            DiscoveryError::NoClassPathNorFds,
        ));
    };
    if let Some(version) = class_path_version(&class_path) {
        return Ok(version);
    }
    let mut first_error = None;
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
            Err(error) => {
                first_error.get_or_insert(files.error(error));
            }
        }
    }
    best.map(|(_, version)| version)
        .ok_or_else(|| first_error.unwrap_or(DiscoveryError::NoKafkaJar))
}

pub(super) fn class_path_version(class_path: &str) -> Option<String> {
    let names = class_path
        .split(':')
        .map(|entry| entry.rsplit('/').next().unwrap_or_default());
    Some(names.map(jar_version).fold(None, better)?.1)
}

/// A version with the rank of the jar that it comes from.
type Ranked = Option<(u8, String)>;

/// Returns the one of lower rank; of equal ones the first, because a class loader takes that one.
fn better(one: Ranked, other: Ranked) -> Ranked {
    match (&one, &other) {
        (Some((first, _)), Some((second, _))) if second < first => other,
        (None, _) => other,
        _ => one,
    }
}

/// Returns the version in the name of one of Kafka's own jars. Confluent's own versions end in `-ccs` or `-ce`. The
/// broker's jar ranks before those that clients have as well.
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

/// Reads `JAVA_VERSION` from the `release` file of the JVM's folder, which is two levels above the command, or three for
/// `jre/bin/java`.
pub(super) fn java_version(
    proc: &ProcRoot,
    pid: u32,
    files: &Files,
) -> Result<String, DiscoveryError> {
    let command = files.inside(&proc.link(pid, "exe")?);
    let mut error = DiscoveryError::NoJavaHome;
    for home in command.ancestors().skip(2).take(2) {
        let path = home.join("release");
        match files.root.read(&path, SMALL_FILE_CAP) {
            Ok(file) => match release_version(&String::from_utf8_lossy(&file.bytes)) {
                Some(version) => return Ok(version),
                None => error = DiscoveryError::NoJavaVersion { path },
            },
            Err(cause) => error = files.error(cause),
        }
    }
    Err(error)
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
