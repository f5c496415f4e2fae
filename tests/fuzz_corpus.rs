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
    let seeds = std::fs::read_to_string("fuzz/seeds").unwrap();
    let seeds: Vec<(&str, &str)> = seeds
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once(' ').unwrap())
        .collect();
    for (name, run) in &targets::TARGETS {
        let corpus = format!("fuzz/corpus/{name}");
        let of_target = seeds.iter().filter(|(target, _)| target == name);
        let folders = of_target.map(|(_, folder)| *folder);
        for file in folders.chain([corpus.as_str()]).flat_map(files) {
            println!("{name}: {}", file.display());
            run(&std::fs::read(&file).unwrap());
        }
    }
}

#[test]
fn every_target_is_fuzzed() {
    let manifest = std::fs::read_to_string("fuzz/Cargo.toml").unwrap();
    for (name, _) in &targets::TARGETS {
        let binary = format!("name = \"{name}\"\npath = \"fuzz_targets/any.rs\"");
        assert!(
            manifest.contains(&binary),
            "fuzz/Cargo.toml has no binary {name}"
        );
    }
}
