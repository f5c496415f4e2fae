//! Text that others wrote, turned into data: pure, bounded, never a panic.

pub mod groups;
pub mod handles_text;
pub mod server_log;
pub mod sockets_text;
pub mod thread_dump;
pub mod topics;
pub mod zookeeper;
