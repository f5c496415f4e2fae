//! The manifest of a bundle: the verdict, its files with their checksums, and what is missing.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::{Moment, ProcessKey};
use crate::verdict::finding::FindingId;

/// The name of the file that lists the others.
pub const MANIFEST: &str = "manifest.json";
/// The thread dumps of a bundle, in the order in which they are taken.
pub const DUMPS: [&str; 3] = [
    "thread-dump-1.txt",
    "thread-dump-2.txt",
    "thread-dump-3.txt",
];

/// The content of `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// `kafka-vitals 0.1.0`
    pub made_by: String,
    /// The label of the broker.
    pub broker: String,
    #[serde(default)]
    pub kafka_version: Option<String>,
    pub process: ProcessKey,
    pub started: Option<Moment>,
    /// When writing started.
    pub at: Moment,
    /// The verdict for a person.
    pub verdict: String,
    /// The active findings at that time.
    pub findings: Vec<FindingId>,
    pub files: Vec<ListedFile>,
    /// It lies beside the bundle. If heap dumps are on and there is none, `missing` has the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heap_dump: Option<HeapDump>,
    pub missing: Vec<Missing>,
}

/// The heap of the broker, which its JVM wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeapDump {
    /// As the broker sees it.
    pub path: PathBuf,
    pub bytes: u64,
    /// The time from the request to the answer.
    pub seconds: f64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedFile {
    pub name: String,
    pub bytes: u64,
    /// In hexadecimal digits, as `sha256sum` writes it.
    pub sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    pub name: String,
    pub why: String,
}
