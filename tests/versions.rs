//! Real brokers of every version: the exporter and other tools agree. Each cluster starts once;
//! `tests/qualify/versions.rs` stops, kills and pauses brokers too.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Instant;

use lab::versions::Mode;
use support::agree::agree_on_everything;
use support::versions::{Case, test_each_version};

fn tools_agree(case: &Case) {
    let (cluster, exporter) = case.start(&[1, 2]);
    let start = Instant::now();
    agree_on_everything(&cluster, &exporter);
    println!(
        "{} {:?}: compared in {:.1?}",
        case.version,
        case.mode,
        start.elapsed()
    );
}

test_each_version!(tools_agree);

#[test]
fn kafka_4_3_0_on_a_newer_jdk() {
    match lab::jars::java_of(24..) {
        Some(java) => tools_agree(&Case {
            java: Some(java),
            ..Case::new("4.3.0", Mode::KraftCombined)
        }),
        None => support::skip("kafka_4_3_0_on_a_newer_jdk", "no JDK 24 or later found"),
    }
}
