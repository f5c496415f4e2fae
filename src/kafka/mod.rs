//! The dozen messages of Kafka's protocol that a probe needs, bounded in time and memory.

pub mod client;
pub mod conn;
pub mod wire;
