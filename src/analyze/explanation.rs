//! The answer of `analyze`, as `--output json` prints it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::dumps::Analysis;
use crate::model::NamedIssue;

/// The shape of `--output json`, documented in `docs/analyze.md`.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// Those to blame first.
    pub brokers: Vec<BrokerFacts>,
    /// What no one broker can be charged with.
    pub elsewhere: Vec<Fact>,
    #[serde(flatten)]
    pub analysis: Analysis,
    pub files: Vec<FileFacts>,
    pub not_recognised: Vec<NotRecognised>,
}

#[derive(Debug, Serialize)]
pub struct BrokerFacts {
    /// Its id, or its address where no file tells the id.
    pub broker: String,
    pub verdict: Verdict,
    pub addresses: Vec<Address>,
    pub version: Option<String>,
    /// Indexes into [`Analysis::deadlocks`].
    pub deadlocks: Vec<usize>,
    pub known_issues: Vec<NamedIssue>,
    /// Brokers to blame whose connections it lost or whose ISRs it is missing from.
    pub suffers_from: Vec<String>,
    pub facts: Vec<Fact>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Alive but not working.
    Gray,
    /// Something speaks against it, which is not enough for a verdict.
    Suspect,
    NoFinding,
}

#[derive(Debug, Serialize)]
pub struct Address {
    pub address: String,
    pub by: By,
}

/// How a file or an address was given to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    Content,
    /// The manifest of the bundle that it is in.
    Manifest,
    /// The last part of the address is an id that has no other address: a guess.
    LastPartOfAddress,
    /// A hint, no more.
    FileName,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Fact {
    pub kind: &'static str,
    pub source: String,
    /// Null: it explains, and speaks against nobody.
    pub against: Option<Source>,
    pub text: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<&'static str, u64>,
    /// `topic-partition`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct FileFacts {
    pub source: String,
    pub forms: Vec<&'static str>,
    /// Null: it is about no one broker, or nothing tells which.
    pub broker: Option<String>,
    pub by: Option<By>,
}

#[derive(Debug, Serialize)]
pub struct NotRecognised {
    pub source: String,
    pub reason: String,
}

/// Where something that speaks against a broker was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    Dump,
    /// Its own sockets and handles.
    Own,
    /// What others' logs and sockets say of it.
    Peers,
    Isr,
    /// The exporter that saved the bundle.
    Exporter,
}
