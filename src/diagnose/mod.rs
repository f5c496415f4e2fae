//! What the readings mean. No input or output; time is an argument.

pub mod dump;
pub mod known_issues;
pub mod missing;
pub mod pools;
pub mod progress;
pub mod saved;
pub mod stalls;
pub mod wait_graph;
