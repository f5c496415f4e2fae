//! The part of Kafka's protocol that a probe needs, bounded in time and memory: a connection, the encoding of its requests
//! and responses, and a client that asks a broker without harming it. And what KRaft's metadata log and ZooKeeper hold.

mod certificate;
pub mod client;
pub mod conn;
mod conn_error;
mod keys;
mod login;
pub mod metadata_log;
mod resolver;
pub mod scram;
pub mod security;
mod tls_error;
mod transport;
pub mod wire;
pub mod zookeeper;
