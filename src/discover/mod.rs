//! Finds the Kafka brokers among the processes of this host and describes them from their own files.

pub mod broker;
mod entry;
mod error;
mod examine;
mod files;
pub mod inter_broker;
mod jaas;
mod jvm;
pub mod mask;
mod pod;
pub mod properties;
mod scan;
pub mod settings;
mod standing;
mod versions;

pub use entry::{matches, read_pid_file};
pub use error::DiscoveryError;
pub use examine::launch_of;
pub use scan::Discovery;
