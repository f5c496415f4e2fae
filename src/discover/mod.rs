//! Finds the Kafka brokers among the processes of this host and describes them from their own files.

pub mod broker;
mod error;
mod files;
mod jvm;
pub mod properties;
pub mod scan;
pub mod settings;
mod standing;
mod versions;

pub use error::DiscoveryError;
pub use scan::{Discovery, matches, read_pid_file};
