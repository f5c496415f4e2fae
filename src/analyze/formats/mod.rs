//! Parsers for the output of the tools that people save: pure, bounded, and they never panic.

pub mod fds;
pub mod groups;
pub mod server_log;
pub mod sockets;
pub mod topics;
pub mod zookeeper;
