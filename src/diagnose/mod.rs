//! What the readings mean. No input or output; time is an argument.

pub mod dump;
pub mod known_issues;
pub mod wait_graph;
