//! The collectors: one file per source, and the frame that runs them within deadlines and cost ceilings.

pub mod cluster;
pub mod context;
pub mod dump_scheduler;
pub mod exporter;
pub mod process;
pub mod progress;
mod short_work;
mod socket_tables;
pub mod sockets;
pub mod store;
mod supervisor;
pub mod threads;
pub mod worker;

pub use supervisor::run;
