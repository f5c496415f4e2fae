//! The newest snapshot as metrics, page and health.

pub mod api;
pub mod check;
pub mod metrics;
pub mod overview;
pub mod page;
pub mod runbooks;
pub mod server;
pub mod vitals;
