//! What thread dumps and the progress of threads mean. Pure functions of dumps and samples.

pub mod known_issues;
pub mod likely;
pub mod missing;
pub mod pools;
pub mod progress;
mod stack;
pub mod stalls;
pub mod wait_graph;
