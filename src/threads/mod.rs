//! What thread dumps, the progress of threads and lines of the log mean. Pure functions.

pub mod known_issues;
pub mod log_signatures;
pub mod missing;
pub mod pools;
pub mod progress;
mod stack;
pub mod stalls;
pub mod wait_graph;
