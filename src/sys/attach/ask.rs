//! What an attach asks of a JVM, and within which limits.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a JVM is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    ThreadDump {
        /// Whether to ask for the owners of `java.util.concurrent` locks (`-l`), for which the JVM walks its whole heap
        /// in a pause.
        with_locks: bool,
    },
    /// The JVM stands still while it writes its heap.
    HeapDump {
        /// As the JVM sees it.
        file: PathBuf,
        /// Bytes that remain free on the file's disk.
        min_free: u64,
    },
}

/// What one attach may do.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the call to the last byte.
    pub deadline: Duration,
    /// A longer reply is an error.
    pub max_bytes: usize,
    /// Whether SIGQUIT may be sent to open the socket.
    pub may_signal: bool,
}
