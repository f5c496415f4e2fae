//! `kill -9` of a writer of evidence, a hundred times.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

#[test]
fn a_writer_killed_a_hundred_times_leaves_whole_bundles_or_none() {
    support::evidence::kill_in_a_loop(100);
}
