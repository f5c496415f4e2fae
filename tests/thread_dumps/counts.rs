//! Every thread, frame and lock of every dump we have, against counts made by regular expressions in Python.

use std::path::{Path, PathBuf};

use kafka_vitals::parse::thread_dump::{LockKind, Thread, ThreadDump, decode, parse};

/// The file in our fixtures, else in the folder of shared dumps beside the repository.
pub(super) fn find(path: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shared = std::env::var_os("KAFKA_VITALS_SHARED")
        .map_or_else(|| root.join("../shared"), PathBuf::from);
    [
        root.join("tests/fixtures/thread_dumps").join(path),
        shared.join(path),
    ]
    .into_iter()
    .find(|path| path.exists())
}

/// Its lines are in reverse order (the banner last, each header below its stack), which no JVM writes: it has the
/// threads, and stacks only for a reader from the end.
const UPSIDE_DOWN: &str =
    "thread-dumps/parttimenerd-jthreaddump/src/test/resources/thread-dump-jstack.txt";

fn with_report<'a>(dump: &ThreadDump<'a>) -> Vec<Thread<'a>> {
    let reported = dump
        .reported
        .iter()
        .flatten()
        .filter_map(|thread| thread.stack);
    dump.threads.iter().copied().chain(reported).collect()
}

#[test]
fn every_dump_has_the_counts_of_another_program() {
    let table = include_str!("../fixtures/thread_dumps/expected_counts.tsv");
    let (mut tried, mut missing, mut wrong) = (0, Vec::new(), Vec::new());
    for row in table.lines().filter(|row| !row.starts_with('#')) {
        let (path, expected) = row.split_once('\t').unwrap();
        let Some(file) = find(path) else {
            missing.push(path);
            continue;
        };
        tried += 1;
        let bytes = std::fs::read(file).unwrap();
        let text = decode(&bytes);
        let dumps = parse(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
        let threads: Vec<Thread<'_>> = dumps.iter().flat_map(with_report).collect();
        let locks: Vec<_> = threads.iter().flat_map(Thread::locks).collect();
        let owned = locks
            .iter()
            .filter(|lock| lock.kind == LockKind::OwnedSynchronizer)
            .count();
        let numbered = match expected.ends_with('-') {
            true => "-".to_owned(),
            false => dumps
                .iter()
                .flat_map(|dump| &dump.threads)
                .filter(|t| t.header().number.is_some())
                .count()
                .to_string(),
        };
        let found = format!(
            "{}\t{}\t{}\t{}\t{owned}\t{}\t{numbered}",
            dumps.len(),
            dumps.iter().map(|dump| dump.threads.len()).sum::<usize>(),
            threads
                .iter()
                .map(|thread| thread.frames().count())
                .sum::<usize>(),
            locks.len() - owned,
            dumps.iter().map(|dump| dump.reported.len()).sum::<usize>(),
        );
        if path == UPSIDE_DOWN {
            assert_eq!(
                dumps.iter().map(|dump| dump.threads.len()).sum::<usize>(),
                5,
                "{path}"
            );
        } else if found != expected {
            wrong.push(format!("{path}\n  expected {expected}\n  found    {found}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "dumps threads frames locks owned reports numbered\n{}",
        wrong.join("\n")
    );
    assert!(
        tried >= 22,
        "only {tried} dumps tried: the fixtures of the repository itself are missing"
    );
    if !missing.is_empty() {
        println!("not beside the repository: {}", missing.join(", "));
        lab::skip(
            "every_thread_of_others_dumps",
            "their dumps are not beside the repository (KAFKA_VITALS_SHARED)",
        );
    }
}
