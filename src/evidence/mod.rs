//! What a verdict rests on, saved in a folder before the broker is restarted.

pub mod bundle;
mod error;
mod history;
pub mod manifest;
mod quota;
mod saver;
mod schedule;
pub mod store;

pub use error::{PartError, SaveError};
pub use history::History;
pub use saver::Saver;
pub use schedule::{is_stuck, run};
