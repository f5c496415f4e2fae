//! The text of the tools that people save, turned into data: pure, bounded, never a panic.

pub mod groups;
pub mod handles;
pub mod server_log;
pub mod sockets;
pub mod topics;
pub mod zookeeper;
