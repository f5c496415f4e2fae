//! What a JVM is asked for, and the limits of an attach.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A request to a JVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    ThreadDump {
        /// Whether to ask for the owners of `java.util.concurrent` locks (`-l`). The JVM then walks its whole heap in a
        /// pause.
        with_locks: bool,
    },
    /// The JVM pauses while it writes its heap.
    HeapDump {
        /// The path as the JVM sees it.
        file: PathBuf,
        /// Bytes that must remain free on the file's disk.
        min_free: u64,
    },
}

/// Limits of one attach.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the call to the last byte.
    pub deadline: Duration,
    /// A longer reply is an error.
    pub max_bytes: usize,
    /// Whether SIGQUIT may be sent to open the socket.
    pub may_signal: bool,
}
