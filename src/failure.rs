//! What a room says instead of a reading.

/// Why a collector has nothing to say. It becomes an unknown reading, never a zero.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// One of a few words, fit for a label: `timeout`, `denied`, `gone`, `refused`, `protocol`, `unsupported` ...
    pub reason: &'static str,
    /// For a person: which broker, which file or address, what to do about it.
    pub message: String,
}

impl Failure {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Failure {
            reason,
            message: message.into(),
        }
    }
}
