//! Decides from a command line whether a process is the JVM of a Kafka broker, and how it was started.

use std::path::PathBuf;

use super::error::DiscoveryError;
use super::properties::Properties;
use super::settings;
use crate::sys::plain::FileError;
use crate::sys::proc::{CommandLine, Cut};

/// Main classes of Apache and the distributions that follow it, of Confluent Platform 3 to 5, and of Cloudera.
const MAIN_CLASSES: [&str; 3] = [
    "kafka.Kafka",
    "io.confluent.support.metrics.SupportedKafka",
    "com.cloudera.kafka.wrap.Kafka",
];

/// Options of the `java` command that take the next argument as their value.
const OPTIONS_WITH_VALUE: [&str; 15] = [
    "-cp",
    "-classpath",
    "--class-path",
    "-p",
    "--module-path",
    "--upgrade-module-path",
    "--add-modules",
    "--limit-modules",
    "--add-exports",
    "--add-opens",
    "--add-reads",
    "--patch-module",
    "--enable-native-access",
    "--illegal-native-access",
    "--source",
];

/// Names of threads that only a broker has, cut to the 15 bytes that the kernel keeps.
const BROKER_THREADS: [&str; 4] = [
    "kafka-request-h",
    "kafka-network-t",
    "data-plane-kafk",
    "ReplicaFetcherT",
];

/// How a broker was started. No `Debug`: overrides may hold passwords.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Launch {
    /// As given: entries are separated by `:`, and a last part `*` stands for all jars of its folder.
    pub class_path: Option<String>,
    /// As given; it may be relative to the working folder.
    pub properties: Option<PathBuf>,
    /// `--override key=value`.
    pub overrides: Vec<(String, String)>,
    /// The settings when `server.properties` was first read: a later edit does not change a running broker.
    pub read: Option<Properties>,
    /// Why some of this is unknown.
    pub problem: Option<String>,
}

impl Launch {
    /// Of up to a megabyte of overrides, some of them passwords.
    pub(super) fn forget_other_settings(&mut self) {
        self.overrides.retain(|(key, _)| settings::is_read(key));
    }
}

/// What a process is, according to its command line.
pub(super) enum JvmKind {
    Other,
    Kafka(Launch),
    /// A JVM whose main class could not be seen, and why.
    Unclear(DiscoveryError),
}

/// Classifies a process by its name and command line. `read_file` returns the text of an `@file` argument's file.
pub(super) fn classify(
    comm: &str,
    line: &CommandLine,
    mut read_file: impl FnMut(&str) -> Result<String, FileError>,
) -> JvmKind {
    let mut arguments = line.arguments.clone();
    if line.cut.is_some() {
        // The last one may be half an argument.
        arguments.pop();
    }
    let Some(command) = line.arguments.first() else {
        return JvmKind::Other;
    };
    // The executed file's name, or what the caller passed in its place.
    if !is_java(comm) && !is_java(command.rsplit('/').next().unwrap_or_default()) {
        return JvmKind::Other;
    }
    let mut launch = Launch::default();
    let mut rest = arguments
        .into_iter()
        .skip(1)
        .collect::<std::collections::VecDeque<_>>();
    let mut expand = true;
    let main = loop {
        let Some(argument) = rest.pop_front() else {
            return line
                .cut
                .map_or(JvmKind::Other, |cut| JvmKind::Unclear(cut_by(cut)));
        };
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
            _ => (argument.as_str(), None),
        };
        match name {
            "--disable-@files" => expand = false,
            "-jar" | "--dry-run" => return JvmKind::Other,
            "-cp" | "-classpath" | "--class-path" => {
                launch.class_path = value.or_else(|| rest.pop_front())
            }
            "-m" | "--module" => {
                let module = value.or_else(|| rest.pop_front()).unwrap_or_default();
                break module.rsplit('/').next().unwrap_or_default().to_owned();
            }
            _ if OPTIONS_WITH_VALUE.contains(&name) => {
                if value.is_none() {
                    rest.pop_front();
                }
            }
            // Brokers before 2.5 have no other setting for it.
            "-Dzookeeper.client.secure=true" => launch
                .overrides
                .push(("zookeeper.ssl.client.enable".into(), "true".into())),
            _ if name.starts_with('-') || name.is_empty() => {}
            _ if expand && name.starts_with('@') && !name.starts_with("@@") => {
                match read_file(&name[1..]) {
                    // Java does not expand `@file` inside an argument file either, so no loop is possible.
                    Ok(text) => {
                        for argument in argument_file(&text).into_iter().rev() {
                            rest.push_front(argument.trim_start_matches('@').to_owned());
                        }
                    }
                    Err(error) => {
                        return JvmKind::Unclear(DiscoveryError::ArgumentFile(error));
                    }
                }
            }
            _ => break argument,
        }
    };
    if !MAIN_CLASSES.contains(&main.as_str()) {
        return JvmKind::Other;
    }
    let mut rest = rest.into_iter().peekable();
    launch.properties = rest
        .next_if(|argument| !argument.starts_with("--"))
        .map(PathBuf::from);
    while let Some(argument) = rest.next() {
        let pair = match argument.strip_prefix("--override") {
            Some("") => rest.next(),
            Some(joined) => joined.strip_prefix('=').map(str::to_owned),
            None => None,
        };
        let pair = pair.as_deref().and_then(|pair| pair.split_once('='));
        launch
            .overrides
            .extend(pair.map(|(key, value)| (key.trim().to_owned(), value.to_owned())));
    }
    launch.problem = line.cut.map(|cut| cut_by(cut).to_string());
    JvmKind::Kafka(launch)
}

fn cut_by(cut: Cut) -> DiscoveryError {
    match cut {
        Cut::Kernel => DiscoveryError::CutCommandLine,
        Cut::Length => DiscoveryError::LongCommandLine,
    }
}

/// Whether thread names are those of a broker. For a JVM whose command line is unclear.
pub(super) fn has_broker_threads(names: &[String]) -> bool {
    names
        .iter()
        .any(|name| BROKER_THREADS.iter().any(|known| name.starts_with(known)))
}

/// Matches `java`, `java17`, `java-21`.
fn is_java(name: &str) -> bool {
    name.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-')) == "java"
}

/// Splits the text of an `@file` of the `java` command into arguments. Blanks separate them, `"` or `'` quote, a backslash
/// in quotes escapes the next character, and `#` starts a comment.
fn argument_file(text: &str) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut current: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), '\\') => current.get_or_insert_default().extend(chars.next()),
            (Some(_), c) => current.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                current.get_or_insert_default();
            }
            (None, '#') if current.is_none() => {
                chars.by_ref().find(|c| matches!(c, '\n' | '\r'));
            }
            (None, c) if c.is_ascii_whitespace() => arguments.extend(current.take()),
            (None, c) => current.get_or_insert_default().push(c),
        }
    }
    arguments.extend(current);
    arguments
}

#[cfg(test)]
mod tests;
