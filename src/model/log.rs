//! What a broker's own log says.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Moment, Severity};

/// What stood in a broker's log since the exporter follows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogReport {
    /// The files that are followed, as the broker names them.
    pub files: Vec<PathBuf>,
    /// By signature: those that were seen, and those of the config file.
    pub signatures: BTreeMap<String, LogSignatureCount>,
    /// Bytes that were passed over because the log grew faster than it may be read, or was compressed before.
    pub skipped_bytes: u64,
}

/// The signature of the line with which a broker that was asked to end begins to shut down.
pub const SHUTDOWN: &str = "shutdown_started";

impl LogReport {
    /// Whether the broker's log says that it shuts down.
    pub fn announces_shutdown(&self) -> bool {
        self.signatures
            .get(SHUTDOWN)
            .is_some_and(|seen| seen.count > 0)
    }
}

/// How often a signature was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSignatureCount {
    pub severity: Severity,
    pub count: u64,
    pub last: Option<LogLine>,
}

impl LogSignatureCount {
    pub fn none(severity: Severity) -> LogSignatureCount {
        LogSignatureCount {
            severity,
            count: 0,
            last: None,
        }
    }
}

/// A line of the log, without secrets, and with the exception's line where that has the signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was read.
    pub at: Moment,
    pub text: String,
    /// The id of the broker that it names.
    pub peer: Option<i32>,
}
