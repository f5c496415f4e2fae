//! The newest view, which is a snapshot with its verdict, as metrics, page, `check`, JSON and health; and the runbooks.

pub mod answers;
pub mod api;
pub mod check;
pub mod connections;
pub mod guard;
pub mod listen;
pub mod metrics;
pub mod overview;
pub mod page;
pub mod places;
pub mod runbooks;
pub mod server;
pub mod vitals;
pub mod web_config;
