//! Real brokers of every version: the exporter and other tools agree. Each cluster starts once;
//! `tests/qualify/versions.rs` stops, kills and pauses brokers too.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::time::Instant;

use lab::Cluster;
use lab::versions::Mode;
use support::Exporter;
use support::agree::agree_on_everything;
use support::versions::{Case, test_each_version};

fn tools_agree(case: &Case) {
    let (cluster, exporter) = case.start(&[1, 2]);
    let start = Instant::now();
    agree_on_everything(&cluster, &exporter);
    is_exposed_as_its_source_shows(case, &cluster, &exporter);
    println!(
        "{} {:?}: compared in {:.1?}",
        case.version,
        case.mode,
        start.elapsed()
    );
}

/// What the nodes of the lab are exposed to: defaults, one log dir, plain listeners. By hand from `docs/known-issues.md`, with
/// the rows whose condition is not read (transactions) left out.
fn is_exposed_as_its_source_shows(case: &Case, cluster: &Cluster, exporter: &Exporter) {
    let metrics = exporter.metrics();
    for node in cluster.nodes() {
        let is_controller = match case.mode {
            Mode::ZooKeeper => false,
            Mode::KraftCombined => true,
            Mode::KraftDedicated => !node.is_broker(),
        };
        let mut expected: BTreeSet<&str> = match (case.version, case.mode) {
            ("0.10.1.1", _) => BTreeSet::from(["5970"]),
            ("2.1.0", _) => BTreeSet::from(["7697", "8334", "7576"]),
            // Also 12330 (fetch sessions), 12686 (ISR changes), 13403, 13457, 14225, 15046; 13544 is fixed in 2.8.2.
            ("2.8.2", _) => BTreeSet::from([
                "12330", "12686", "13403", "13457", "14225", "15046", "19390",
            ]),
            ("3.9.1", Mode::ZooKeeper) => BTreeSet::from(["19390", "19407"]),
            ("3.9.1", _) => BTreeSet::from(["19390", "20726"]),
            ("4.3.0", _) => BTreeSet::from(["20726"]),
            (version, _) => panic!("no table for {version}"),
        };
        if case.version == "3.9.1" && case.mode != Mode::ZooKeeper {
            if node.is_broker() {
                expected.extend(["19407", "19990", "19294"]);
            }
            if is_controller {
                expected.extend(["18345", "17793", "20247"]);
            }
        }
        let start = format!(
            "known_issue_exposed{{broker=\"{}\",issue=\"KAFKA-",
            node.id()
        );
        let exposed = metrics
            .0
            .keys()
            .filter_map(|series| series.strip_prefix(&start)?.split('"').next());
        assert_eq!(
            exposed.collect::<BTreeSet<_>>(),
            expected,
            "{} {:?} {}",
            case.version,
            case.mode,
            node.id()
        );
    }
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
