//! The part of Kafka's protocol that a probe needs, bounded in time and memory: a connection, the encoding of its requests
//! and responses, and a client that asks a broker without harming it; and what KRaft's metadata log holds. [`zookeeper`] does
//! the same for the servers that keep the metadata of older clusters.

pub mod certificate;
pub mod client;
mod client_error;
pub mod conn;
mod conn_error;
mod dialer;
mod keys;
mod login;
pub mod metadata_log;
mod question;
mod reader;
mod resolver;
pub mod scram;
pub mod security;
pub(crate) mod thread;
mod timing;
mod tls_error;
mod transport;
pub mod wire;
pub mod zookeeper;
