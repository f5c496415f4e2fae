//! To which known faults a broker is exposed, by its version and its configuration, and which release is without them.

use super::conditions::{Answer, has_role};
use super::data::{KnownIssue, known_issues, releases};
use crate::model::{Broker, Build, Mode, Release};

/// Whether a broker has a fault, as it is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    Exposed,
    NotExposed,
    Unknown(Why),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The version has it; whether the fault's condition holds is unknown.
    Condition(&'static str),
    /// It was not searched in this release.
    NotSearched,
}

/// What is known of one broker.
#[derive(Debug)]
pub struct Exposures {
    pub release: Release,
    pub exposed: Vec<&'static KnownIssue>,
    /// The version has them; whether their condition holds is unknown.
    pub perhaps: Vec<(&'static KnownIssue, &'static str)>,
    /// How many were not searched in this release.
    pub not_searched: usize,
}

impl Exposures {
    /// Why it is unknown for some faults whether the broker is exposed to them.
    pub fn unknown_text(&self) -> Option<String> {
        let (perhaps, not_searched) = (self.perhaps.len(), self.not_searched);
        let needs = format!("for {perhaps}, what they need is not read");
        let searched = format!("{not_searched} were not searched in {}", self.release);
        match (perhaps, not_searched) {
            (0, 0) => None,
            (_, 0) => Some(needs),
            (0, _) => Some(searched),
            (_, _) => Some(format!("{searched}; {needs}")),
        }
    }
}

/// Why nothing is known of a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownVersion {
    #[error("its version is unknown")]
    None,
    #[error("{0:?} is no version of Kafka")]
    NoVersion(String),
    #[error(
        "{0} is not a release but a build of its source, which may have any fault and any fix of that time"
    )]
    Snapshot(String),
    #[error(
        "{version} is Confluent's build of Kafka {major}.{minor}, with fixes of its own: ask Confluent which it has"
    )]
    Confluent {
        version: String,
        major: u32,
        minor: u32,
    },
    #[error("{0} is a vendor's build with fixes of its own: ask the vendor which it has")]
    Vendor(String),
    #[error("the data of this exporter does not know Kafka {0}; the newest release in it is {1}")]
    NotInData(Release, Release),
}

/// # Errors
/// If the version is not a release in the data.
fn release_of(broker: &Broker) -> Result<Release, UnknownVersion> {
    let text = broker.kafka_version.as_ref().ok_or(UnknownVersion::None)?;
    let Some(version) = broker.version() else {
        return Err(UnknownVersion::NoVersion(text.clone()));
    };
    let Some(release) = version.release() else {
        let (build, (major, minor)) = (version.build, version.major_minor());
        let version = text.clone();
        return Err(match build {
            Build::Snapshot => UnknownVersion::Snapshot(version),
            Build::Confluent => UnknownVersion::Confluent {
                version,
                major,
                minor,
            },
            Build::Vendor | Build::Release => UnknownVersion::Vendor(version),
        });
    };
    match releases().last() {
        Some(newest) if releases().binary_search(&release).is_err() => {
            Err(UnknownVersion::NotInData(release, *newest))
        }
        _ => Ok(release),
    }
}

/// The known faults of this broker, as it is configured.
///
/// # Errors
/// If nothing is known of its version.
pub fn exposures(broker: &Broker) -> Result<Exposures, UnknownVersion> {
    let release = release_of(broker)?;
    let mut found = Exposures {
        release,
        exposed: Vec::new(),
        perhaps: Vec::new(),
        not_searched: 0,
    };
    for issue in known_issues() {
        match exposure(issue, broker, release) {
            Exposure::Exposed => found.exposed.push(issue),
            Exposure::NotExposed => {}
            Exposure::Unknown(Why::Condition(why)) => found.perhaps.push((issue, why)),
            Exposure::Unknown(Why::NotSearched) => found.not_searched += 1,
        }
    }
    Ok(found)
}

/// The known faults that may have ended a thread of this broker. The match is never exact: only the name shows it.
pub fn may_have_ended<'b>(
    broker: &'b Broker,
    thread: &'b str,
) -> impl Iterator<Item = &'static KnownIssue> + use<'b> {
    let issues = known_issues()
        .iter()
        .filter(move |issue| issue.ends(thread));
    issues.filter(move |issue| may_have(broker, &issue.key))
}

/// Whether the broker may have a fault: what only resembles one that its version does not have is another.
pub fn may_have(broker: &Broker, key: &str) -> bool {
    let Ok(release) = release_of(broker) else {
        return true;
    };
    let known = known_issues().iter().find(|issue| issue.key == key);
    known.is_none_or(|issue| exposure(issue, broker, release) != Exposure::NotExposed)
}

/// Whether a broker that is configured like this one has the fault with `release`.
pub fn exposure(issue: &KnownIssue, broker: &Broker, release: Release) -> Exposure {
    let presence = presence(issue, release);
    if presence == Presence::Absent {
        return Exposure::NotExposed;
    }
    let role = issue.role.role();
    let in_role = role.map(|role| has_role(broker, release, role));
    let needed = issue
        .needs
        .iter()
        .map(|needed| needed.holds(broker, release));
    let mut unknown = None;
    for answer in in_role.into_iter().chain(needed) {
        match answer {
            Answer::Yes => {}
            Answer::No => return Exposure::NotExposed,
            Answer::Unknown(why) => {
                unknown.get_or_insert(why);
            }
        }
    }
    match (presence, unknown) {
        (Presence::Unknown, _) => Exposure::Unknown(Why::NotSearched),
        (_, Some(why)) => Exposure::Unknown(Why::Condition(why)),
        (_, None) => Exposure::Exposed,
    }
}

/// Whether a release has the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Present,
    Absent,
    /// Nobody searched it there. It is not said to be free of it.
    Unknown,
}

pub fn presence(issue: &KnownIssue, release: Release) -> Presence {
    if releases().binary_search(&release).is_err() {
        return Presence::Unknown;
    }
    if issue.affected.iter().any(|range| range.contains(release)) {
        return Presence::Present;
    }
    let in_line = |fixed: &&Release| fixed.line() == release.line();
    let has_fix = match issue.fixed_in.iter().find(in_line) {
        Some(fixed) => release >= *fixed,
        None => issue
            .fixed_in
            .iter()
            .max()
            .is_some_and(|last| release > *last),
    };
    if has_fix || issue.absent.iter().any(|range| range.contains(release)) {
        Presence::Absent
    } else {
        Presence::Unknown
    }
}

/// Where to go from a release with known faults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remedy {
    /// The next release without any of the faults to which the broker is exposed: of its own line, else of the next one.
    pub fixes: Option<Release>,
    /// The faults to which that release exposes it instead.
    pub then: Vec<&'static str>,
    /// The next release that is known to be without every known fault. None if there is none, or not yet.
    pub free: Option<Release>,
    /// ZooKeeper ends before one of them.
    pub ends_zookeeper: bool,
}

/// Which newer release has none of the faults to which `broker` is exposed. Pure: what comes after the newest release of the
/// data is unknown, and never recommended.
pub fn remedy(broker: &Broker, release: Release, exposed: &[&'static KnownIssue]) -> Remedy {
    let newer = || releases().iter().copied().filter(|newer| *newer > release);
    let is_fixed = |newer: &Release| {
        let mut issues = exposed.iter();
        issues.all(|issue| exposure(issue, broker, *newer) == Exposure::NotExposed)
    };
    let is_free = |newer: &Release| {
        let mut issues = known_issues().iter();
        issues.all(|issue| exposure(issue, broker, *newer) == Exposure::NotExposed)
    };
    let fixes = newer().find(is_fixed);
    let then = fixes.map_or_else(Vec::new, |newer| {
        let exposed = |issue: &&KnownIssue| exposure(issue, broker, newer) == Exposure::Exposed;
        let issues = known_issues().iter().filter(exposed);
        issues.map(|issue| issue.key.as_str()).collect()
    });
    let free = newer().find(is_free);
    let ends = |newer: Release| newer.major_minor() >= (4, 0);
    Remedy {
        ends_zookeeper: broker.mode == Some(Mode::ZooKeeper)
            && fixes.into_iter().chain(free).any(ends),
        fixes,
        then,
        free,
    }
}

impl Remedy {
    /// `4.2.2 has none of these.`
    pub fn text(&self) -> String {
        let newest = releases()
            .last()
            .map(Release::to_string)
            .unwrap_or_default();
        let mut text = match (self.fixes, self.then.as_slice()) {
            (None, _) => format!("no release up to {newest} is known to be without all of these"),
            (Some(fixes), []) => format!("{fixes} is the next release with none of these"),
            (Some(fixes), then) => format!(
                "{fixes} is the next release with none of these, but it has {}",
                then.join(", ")
            ),
        };
        match self.free {
            Some(free) if self.fixes != Some(free) => {
                text += &format!("; {free} is the first with no fault that is known here");
            }
            _ => {}
        }
        if self.ends_zookeeper {
            text += " (4.0 and later run without ZooKeeper: the cluster must move to KRaft first)";
        }
        text
    }
}

#[cfg(test)]
mod tests;
