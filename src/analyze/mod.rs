//! Saved output of many tools explained together: which broker is to blame, by what, and which ones only suffer from it.

mod artifact;
mod bundle;
pub mod dumps;
mod explain;
mod explanation;
mod facts;
pub mod formats;
mod ids;
pub mod long_log;
mod metadata;
mod names;
pub mod report;
mod signals;
mod stalls;
#[cfg(test)]
mod tests;

pub use explain::explain;
pub use explanation::{
    Address, BrokerFacts, By, Explanation, Fact, FactKind, FileFacts, Form, NotRecognised, Source,
    Verdict,
};
