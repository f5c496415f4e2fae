//! The part of Kafka's protocol that a probe needs, bounded in time and memory: a connection, the encoding of its requests
//! and responses, and a client that asks a broker without harming it. [`zookeeper`] does the same for the servers that keep
//! the metadata of older clusters.

pub mod client;
pub mod conn;
mod resolver;
pub mod wire;
pub mod zookeeper;
