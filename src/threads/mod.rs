//! What thread dumps and the progress of threads mean. Pure functions of dumps and samples.

pub mod known_issues;
pub mod likely;
pub mod loops;
pub mod missing;
pub mod pools;
pub mod progress;
pub mod stack;
pub mod stalls;
pub mod wait_graph;
