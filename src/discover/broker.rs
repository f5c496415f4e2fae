//! Describes one broker process from its own files: `server.properties`, `meta.properties`, the names of its jars, the
//! `release` file of its JVM. They are read inside the broker's root, and anybody may have written them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::error::DiscoveryError;
use super::files::{Files, first_fd_links};
use super::jvm::Launch;
use super::pod::pod_of;
use super::properties::{self, MOST_ENTRIES, Properties};
use super::settings::{self, interpret};
use super::versions::{class_path_version, java_version, kafka_version};
use crate::model::{Broker, Moment, ProcessKey, text};
use crate::sys::lacking::lacking;
use crate::sys::proc::{ProcError, ProcRoot};
use crate::sys::rooted::FileContent;

const SMALL_FILE_CAP: usize = 64 << 10;

/// Reads everything about a Kafka process. What cannot be read is None and has a line in `problems`. What was read
/// `earlier` stays, because it does not change while the process lives, even if the clock or the files change.
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
    let status = proc.status(pid);
    match &status {
        Ok(status) => (broker.uid, broker.gid) = (Some(status.uid), Some(status.gid)),
        Err(error) => broker.problems.push(format!("user unknown: {error}")),
    }
    let files = Files::open(proc, pid, broker.uid);
    let is_denied = matches!(files, Err(ProcError::Denied { .. }));
    // The files of a recorded host have no rights of processes.
    let ids = status.ok().filter(|_| proc.is_procfs());
    let lacks = ids.map(|status| lacking((status.uid, status.gid), is_denied));
    let lacks = lacks.into_iter().flatten().map(str::to_owned);
    broker.lacking = lacks.collect();
    match files {
        Ok(files) => {
            read_files(proc, launch, &files, &mut broker);
            if earlier.is_none() {
                broker.pod = pod_of(proc, pid, &files);
            }
        }
        Err(error) => {
            let class_path = launch.class_path.as_deref();
            broker.kafka_version = broker
                .kafka_version
                .or_else(|| class_path_version(class_path?));
            broker.problems.push(match launch.read {
                Some(_) => format!("its files are unknown, values read earlier are kept: {error}"),
                None => format!("id, versions, listeners and log folders unknown: {error}"),
            });
        }
    }
    if proc
        .stat(pid)
        .is_ok_and(|stat| stat.start_ticks == key.start_ticks && !stat.ended)
    {
        for problem in &mut broker.problems {
            *problem = text::message(std::mem::take(problem));
        }
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
            Err(error) => broker
                .problems
                .push(format!("Kafka version unknown: {error}")),
        }
    }
    if broker.java_version.is_none() {
        match java_version(proc, pid, files) {
            Ok(version) => broker.java_version = Some(version),
            Err(error) => broker
                .problems
                .push(format!("Java version unknown: {error}")),
        }
    }
    if let Err(error) = read_server_properties(launch, files, broker) {
        let kept = if launch.read.is_some() {
            ", values read earlier are kept"
        } else {
            ""
        };
        broker
            .problems
            .push(format!("server.properties unknown{kept}: {error}"));
    }
    let earlier_id = broker.id.take();
    match &launch.read {
        Some(properties) => interpret(properties, broker),
        // Without the file the defaults may not hold, but Kafka keeps a lock file open in each log folder.
        None => {
            broker.log_dirs = locked_folders(proc, pid, files);
            broker.log_dirs_uncertain = true;
        }
    }
    broker.log_dirs = broker
        .log_dirs
        .iter()
        .filter_map(|dir| files.absolute(dir))
        .collect();
    let metadata_log_dir = broker.metadata_log_dir.take();
    broker.metadata_log_dir = metadata_log_dir.and_then(|dir| files.absolute(&dir));
    remember_id(files, broker, earlier_id);
}

/// Prefers the id of `meta.properties`, now or `earlier`. Kafka refuses to start when `server.properties` has another
/// id, so where they differ, that file was changed since the start.
fn remember_id(files: &Files, broker: &mut Broker, earlier: Option<i32>) {
    let mut remembered = None;
    let mut first_error = None;
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
                let cluster = meta.get("cluster.id").map(text::message);
                broker.cluster_id = broker.cluster_id.take().or(cluster);
            }
            Err(error) => {
                first_error.get_or_insert(files.error(error));
            }
        }
    }
    match (broker.id, remembered.or(earlier)) {
        (Some(configured), Some(remembered)) if configured != remembered => {
            broker.id = Some(remembered);
            broker.problems.push(format!(
                "server.properties says id {configured} and meta.properties says {remembered}: the broker runs with the latter"
            ));
        }
        (None, Some(remembered)) => broker.id = Some(remembered),
        (None, None) => {
            let reason = first_error.map_or_else(
                || "no log folder has one".to_owned(),
                |error| error.to_string(),
            );
            broker.problems.push(format!(
                "id unknown: neither in server.properties nor in meta.properties: {reason}"
            ));
        }
        _ => {}
    }
}

/// Reads the `server.properties` that the command line names, as the file is now.
///
/// # Errors
/// If the command line names no file, or the file cannot be read.
pub fn server_properties(
    proc: &ProcRoot,
    pid: u32,
    launch: &Launch,
) -> Result<Vec<u8>, DiscoveryError> {
    let uid = proc.status(pid).ok().map(|status| status.uid);
    let files = Files::open(proc, pid, uid)?;
    Ok(properties_file(launch, &files)?.1.bytes)
}

fn properties_file(
    launch: &Launch,
    files: &Files,
) -> Result<(PathBuf, FileContent), DiscoveryError> {
    let given = launch
        .properties
        .as_ref()
        .ok_or(DiscoveryError::NoPropertiesFile)?;
    let path = files
        .absolute(given)
        .ok_or_else(|| DiscoveryError::NoWorkingFolder {
            path: given.clone(),
        })?;
    let file = files
        .root
        .read(&path, properties::FILE_CAP)
        .map_err(|cause| files.error(cause))?;
    Ok((path, file))
}

/// What the file says as it is now, under what the command line says itself; with the file's path and when it was
/// changed, in seconds since 1970.
pub(super) fn settings_now(
    launch: &Launch,
    files: &Files,
) -> Result<(Properties, PathBuf, i64), DiscoveryError> {
    let (path, file) = properties_file(launch, files)?;
    let mut properties = match Properties::parse(&file.bytes) {
        Ok(properties) => properties,
        Err(cause) => return Err(DiscoveryError::MalformedProperties { path, cause }),
    };
    for (key, value) in &launch.overrides {
        properties.set(key.as_str(), value.as_str());
    }
    Ok((properties, path, file.modified))
}

/// Keeps in `launch` what the file says when it is read for the first time, and reports later changes.
fn read_server_properties(
    launch: &mut Launch,
    files: &Files,
    broker: &mut Broker,
) -> Result<(), DiscoveryError> {
    let (properties, path, modified) = settings_now(launch, files)?;
    let properties = settings::only_read(properties);
    // They are kept, of each of many processes.
    let is_long = |(_, value): &(_, &str)| value.len() > properties::VALUE_CAP;
    if let Some((key, _)) = properties.iter().find(is_long) {
        let key = key.to_owned();
        return Err(DiscoveryError::LongValue { path, key });
    }
    let is_newer = broker
        .started
        .is_some_and(|started| modified > (started.0 / 1000) as i64 + 1);
    if launch.read.is_none() {
        broker.log_dirs_uncertain = is_newer;
    }
    let why = if launch
        .read
        .as_ref()
        .is_some_and(|before| *before != properties)
    {
        "the values read earlier are kept until a restart"
    } else if is_newer {
        "until a restart, the broker may run with other values"
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

/// Returns the folders in which the process holds Kafka's `.lock` open.
fn locked_folders(proc: &ProcRoot, pid: u32, files: &Files) -> Vec<PathBuf> {
    let mut folders = BTreeSet::new();
    // If the fds cannot be read, the list stays empty, and the id is then unknown with a reason.
    let _ = first_fd_links(proc, pid, |link| {
        let folder = link
            .strip_suffix(b"/.lock")
            .and_then(|folder| std::str::from_utf8(folder).ok());
        folders.extend(folder.map(|folder| files.inside(Path::new(folder))));
    });
    folders.into_iter().take(MOST_ENTRIES).collect()
}

#[cfg(test)]
mod tests;
