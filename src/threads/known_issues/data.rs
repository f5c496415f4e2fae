//! The rows of `known_issues.toml`, which explains the fields.

use std::sync::LazyLock;

use serde::Deserialize;

use super::conditions::Condition;
use crate::model::{MatchQuality, NamedIssue, NoVersion, Release, Role};

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownIssue {
    pub key: String,
    pub title: String,
    pub shows: String,
    #[serde(default)]
    pub pulls: Vec<u32>,
    pub affected: Vec<Releases>,
    pub searched_from: Option<Release>,
    #[serde(default)]
    pub absent: Vec<Releases>,
    pub fixed_in: Vec<Release>,
    #[serde(default)]
    pub role: Where,
    #[serde(default)]
    pub needs: Vec<Condition>,
    pub advise: Option<String>,
    pub relatives: Vec<String>,
    #[serde(default, rename = "thread")]
    pub(super) threads: Vec<Signature>,
    pub(super) stall: Option<StallSignature>,
    #[serde(rename = "loop")]
    pub(super) endless: Option<LoopSignature>,
    pub(super) missing: Option<String>,
}

/// `2.1.0`, or all releases of `2.2.0 - 3.6.2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Releases {
    pub first: Release,
    pub last: Release,
}

impl Releases {
    pub fn contains(&self, release: Release) -> bool {
        (self.first..=self.last).contains(&release)
    }
}

impl TryFrom<String> for Releases {
    type Error = NoVersion;

    fn try_from(text: String) -> Result<Releases, NoVersion> {
        let text = text.as_str();
        let (first, last) = text.split_once(" - ").unwrap_or((text, text));
        Ok(Releases {
            first: first.parse()?,
            last: last.parse()?,
        })
    }
}

/// The processes that have a fault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Where {
    #[default]
    Broker,
    Controller,
    Any,
}

impl Where {
    /// None stands for every process.
    pub fn role(self) -> Option<Role> {
        match self {
            Where::Broker => Some(Role::Broker),
            Where::Controller => Some(Role::Controller),
            Where::Any => None,
        }
    }
}

/// One member of the deadlock.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Signature {
    pub(super) name: String,
    pub(super) wants: String,
    #[serde(default)]
    pub(super) frames: Vec<String>,
}

/// The threads of a stall, and the one that holds what they wait for, if a dump can show it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "StallRow")]
pub(super) struct StallSignature {
    pub(super) waiter: Signature,
    pub(super) holder: Vec<String>,
}

/// A thread that never comes out of a method.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LoopSignature {
    pub(super) name: String,
    pub(super) frames: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StallRow {
    name: String,
    wants: String,
    frames: Vec<String>,
    #[serde(default)]
    holder: Vec<String>,
}

impl From<StallRow> for StallSignature {
    fn from(row: StallRow) -> StallSignature {
        let StallRow {
            name,
            wants,
            frames,
            holder,
        } = row;
        StallSignature {
            waiter: Signature {
                name,
                wants,
                frames,
            },
            holder,
        }
    }
}

impl KnownIssue {
    pub fn named(&self, by: MatchQuality) -> NamedIssue {
        NamedIssue {
            issue: self.key.clone(),
            by,
            title: self.title.clone(),
            fixed_in: self.fixed_in.iter().map(Release::to_string).collect(),
            advise: self.advise.clone(),
            relatives: self.relatives.clone(),
        }
    }

    /// Whether it ends threads of this name.
    pub(super) fn ends(&self, thread: &str) -> bool {
        let name = self.missing.as_deref();
        name.is_some_and(|name| thread.ends_with(name))
    }

    /// The first release with the fix that a broker of this release can move to: that of its own line comes first.
    pub fn fixed_after(&self, release: Release) -> Option<Release> {
        let later = self.fixed_in.iter().copied();
        later.filter(|fixed| *fixed > release).min()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    releases: Vec<Release>,
    issue: Vec<KnownIssue>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let table: Result<Table, _> =
        serde_json::from_str(include_str!(concat!(env!("OUT_DIR"), "/known_issues.json")));
    // The data is part of the program, and a test reads it.
    #[expect(clippy::expect_used)]
    table.expect("known_issues.toml is not as its schema says")
});

/// Every known issue, in the order of the data.
pub fn known_issues() -> &'static [KnownIssue] {
    &TABLE.issue
}

/// The releases of Kafka that the data knows, in their order.
pub fn releases() -> &'static [Release] {
    &TABLE.releases
}
