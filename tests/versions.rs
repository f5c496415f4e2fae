//! Real brokers of every version: what other tools say, and what the exporter says. One start each; with brokers that
//! are stopped, killed and paused: `tests/qualify_versions.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Instant;

use lab::versions::Mode;
use support::agree::agree_on_everything;
use support::versions::Case;

fn tools_agree(case: &Case) {
    let (cluster, exporter) = case.start(&[1, 2]);
    let begun = Instant::now();
    agree_on_everything(&cluster, &exporter);
    println!("{} {:?}: compared in {:.1?}", case.version, case.mode, begun.elapsed());
}

#[test]
fn kafka_0_10_1_1() {
    tools_agree(&Case::new("0.10.1.1", Mode::ZooKeeper));
}

#[test]
fn kafka_2_1_0() {
    tools_agree(&Case::new("2.1.0", Mode::ZooKeeper));
}

#[test]
fn kafka_2_8_2() {
    tools_agree(&Case::new("2.8.2", Mode::ZooKeeper));
}

#[test]
fn kafka_3_9_1_with_zookeeper() {
    tools_agree(&Case::new("3.9.1", Mode::ZooKeeper));
}

#[test]
fn kafka_3_9_1_combined() {
    tools_agree(&Case::new("3.9.1", Mode::KraftCombined));
}

#[test]
fn kafka_3_9_1_with_a_dedicated_controller() {
    tools_agree(&Case::new("3.9.1", Mode::KraftDedicated));
}

#[test]
fn kafka_4_3_0_combined() {
    tools_agree(&Case::new("4.3.0", Mode::KraftCombined));
}

#[test]
fn kafka_4_3_0_with_a_dedicated_controller() {
    tools_agree(&Case::new("4.3.0", Mode::KraftDedicated));
}

#[test]
fn kafka_4_3_0_on_a_newer_jdk() {
    match lab::jars::java_of(24..) {
        Some(java) => tools_agree(&Case { java: Some(java), ..Case::new("4.3.0", Mode::KraftCombined) }),
        None => support::skip("kafka_4_3_0_on_a_newer_jdk", "no JDK 24 or later found"),
    }
}
