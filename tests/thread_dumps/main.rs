//! Saved thread dumps: what is read from them, which deadlocks they show, and which known issue each of those is.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod counts;
mod forms;
mod graph;
mod hostile;
mod known_issues;
mod likely;
mod pasted;
mod tools;

use kafka_vitals::model::Deadlock;
use kafka_vitals::parse::thread_dump::{decode, parse};
use kafka_vitals::threads::wait_graph::WaitGraph;

fn fixture(path: &str) -> Vec<u8> {
    std::fs::read(format!(
        "{}/tests/fixtures/thread_dumps/{path}",
        env!("CARGO_MANIFEST_DIR")
    ))
    .unwrap()
}

fn deadlocks_of(bytes: &[u8]) -> Vec<Deadlock> {
    parse(&decode(bytes))
        .unwrap()
        .iter()
        .flat_map(|dump| WaitGraph::of(dump).deadlocks())
        .collect()
}
