//! Reads the corpus of the fuzzers and their past findings with the stable compiler.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

use kafka_vitals::analyze;
use kafka_vitals::analyze::dumps::read_all;
use kafka_vitals::sys::perf_data::PerfData;

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

#[test]
fn thread_dumps() {
    for file in files("fuzz/corpus/thread_dump")
        .into_iter()
        .chain(files("tests/fixtures/thread_dumps"))
    {
        let bytes = std::fs::read(&file).unwrap();
        read_all(&bytes);
        analyze::explain(&[(file.display().to_string(), bytes)]);
    }
}

#[test]
fn perf_data() {
    for file in files("fuzz/corpus/perf_data")
        .into_iter()
        .chain(files("tests/fixtures/perf_data"))
    {
        if let Ok(data) = PerfData::parse(std::fs::read(file).unwrap()) {
            let names: Vec<&str> = data.iter().map(|(name, _)| name).collect();
            names.iter().for_each(|name| {
                let _ = (data.long(name), data.text(name));
            });
        }
    }
}
