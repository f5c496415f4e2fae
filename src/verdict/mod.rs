//! What the readings mean for each broker. No input or output; time is an argument.
//!
//! For each snapshot [`evaluate`] applies the [`rules`] to each broker, [`finding_state`] turns what lasts into
//! findings, [`memory`] decides the state from them (`Memory::decide_state`: gray, down, suspect), and [`sentence`]
//! puts it into words.

pub mod evaluate;
pub mod finding;
pub mod finding_state;
pub mod forecast;
mod known_faults;
mod last_words;
pub mod liveness;
pub mod memory;
mod pauses;
pub mod rules;
pub mod sentence;
mod stalls;
mod standing;
pub mod unavailable;
pub mod unseen;
mod view;
pub mod views;

pub use view::View;
