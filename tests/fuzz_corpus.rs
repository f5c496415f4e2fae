//! Reads the corpus of the fuzzers, their past findings and their seeds with the stable compiler.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

#[path = "../fuzz/targets.rs"]
mod targets;

fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(path) = open.pop() {
        match path.is_dir() {
            true => open.extend(
                std::fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            ),
            false => found.push(path),
        }
    }
    assert!(!found.is_empty(), "{folder} is empty");
    found
}

/// Every target has a corpus; a panic, which names the file before it, is the failure.
#[test]
fn every_target_reads_its_corpus() {
    for target in &targets::TARGETS {
        let corpus = format!("fuzz/corpus/{}", target.name);
        for folder in target.seeds.iter().copied().chain([corpus.as_str()]) {
            for file in files(folder) {
                println!("{}: {}", target.name, file.display());
                (target.run)(&std::fs::read(&file).unwrap());
            }
        }
    }
}

#[test]
fn every_target_is_fuzzed() {
    let manifest = std::fs::read_to_string("fuzz/Cargo.toml").unwrap();
    for target in &targets::TARGETS {
        assert!(
            manifest.contains(&format!(
                "name = \"{}\"\npath = \"fuzz_targets/any.rs\"",
                target.name
            )),
            "fuzz/Cargo.toml has no binary {}",
            target.name
        );
    }
}
