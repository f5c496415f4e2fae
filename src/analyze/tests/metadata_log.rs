//! Files of the metadata log.
#![allow(clippy::unwrap_used)]

use super::{against, has, one};
use crate::analyze::{FactKind, Verdict, explain};

/// What lies between the two files may register more brokers.
#[test]
fn a_metadata_log_with_a_gap_denies_no_broker() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/metadata_log/3.9.1/__cluster_metadata-0"
    );
    let topics = "\tTopic: t\tPartition: 0\tLeader: 1\tReplicas: 1,77\tIsr: 1,77\n";
    let mut files = vec![("topics".to_owned(), topics.as_bytes().to_vec())];
    for name in [
        "00000000000000000154-0000000002.checkpoint",
        "00000000000000000169.log",
    ] {
        let bytes = std::fs::read(format!("{folder}/{name}")).unwrap();
        files.push((name.to_owned(), bytes));
    }
    let found = explain(&files);
    assert!(
        one(&found, FactKind::MetadataLog)
            .text
            .contains("what follows is not read")
    );
    assert_eq!(against(&found, "77"), []);
}

/// `tests/fixtures/metadata_log/README.md`: broker 3 was killed.
#[test]
fn a_metadata_log() {
    // From 4.1 on the ISR of an offline partition is empty, and who was last in it is in the ELR, which is not read.
    a_metadata_log_of("3.9.1", &[FactKind::Fenced, FactKind::LastInIsr]);
    a_metadata_log_of("4.3.0", &[FactKind::Fenced]);
}

fn a_metadata_log_of(version: &str, expected: &[FactKind]) {
    let folder = format!(
        "{}/tests/fixtures/metadata_log/{version}/__cluster_metadata-0",
        env!("CARGO_MANIFEST_DIR")
    );
    let files: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.display().to_string(), std::fs::read(&path).unwrap())
        })
        .collect();
    let found = explain(&files);
    assert_eq!(found.files.len(), files.len());
    assert!(found.not_recognised.is_empty());
    let brokers: Vec<_> = found
        .brokers
        .iter()
        .map(|broker| (&*broker.broker, broker.verdict))
        .collect();
    assert_eq!(
        brokers,
        [
            ("3", Verdict::Suspect),
            ("1", Verdict::NoFinding),
            ("2", Verdict::NoFinding)
        ]
    );
    let against = against(&found, "3");
    assert!(
        expected.iter().all(|kind| against.contains(kind)),
        "{against:?}"
    );
    assert!(has(&found, FactKind::NoLeader));
    assert!(
        one(&found, FactKind::MetadataLog)
            .text
            .starts_with("the metadata log up to offset ")
    );
}
