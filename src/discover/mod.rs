//! Which processes of this host are Kafka brokers, and what their own files say of them.

pub mod broker;
pub mod jvm;
pub mod properties;
pub mod scan;

pub use scan::{Discovery, labels, matches, read_pid_file};
