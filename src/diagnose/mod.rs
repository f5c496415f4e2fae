//! What the readings mean. No input or output; time is an argument.

pub mod wait_graph;
