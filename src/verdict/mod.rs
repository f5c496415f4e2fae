//! What the readings mean for each broker. No input or output; time is an argument.

pub mod evaluate;
pub mod finding;
pub mod finding_state;
pub mod forecast;
pub mod liveness;
pub mod memory;
pub mod rules;
pub mod sentence;
pub mod unavailable;
mod view;

pub use view::View;
