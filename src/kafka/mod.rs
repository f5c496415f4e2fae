//! The dozen messages of Kafka's protocol that a probe needs, bounded in time and memory.

pub mod client;
pub mod conn;
#[cfg(test)]
pub(crate) mod fake_broker;
pub mod wire;
