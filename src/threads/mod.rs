//! What thread dumps, the progress of threads and lines of the log mean. Pure functions.

pub mod known_issues;
pub mod likely;
pub mod log_signatures;
pub mod loops;
pub mod missing;
mod peers;
pub mod pools;
pub mod progress;
pub mod stack;
pub mod stalls;
pub mod wait_graph;
