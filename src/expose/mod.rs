//! The newest snapshot as metrics, page and health.

pub mod analysis;
pub mod api;
pub mod metrics;
pub mod page;
pub mod server;
