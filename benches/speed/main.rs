//! `make bench`: costs as ratios within one run, compared with a floor (the bare system calls, `memchr`) and the
//! tools that people use. Fails when a bar is broken.
//!
//! `cargo bench --bench speed -- [--quick] [SUBJECT...]`; `--quick` is for trying the benches: small loads, few rounds.
#![forbid(unsafe_code)]

mod connections;
mod contest;
mod dump_text;
mod handles;
mod load;
mod metadata;
mod metadata_log;
mod metrics_page;
mod report;
mod rest;
mod saved;
mod thread_dumps;
mod worker;

use std::process::ExitCode;

use anyhow::{Result, bail};

use contest::Bench;
use report::Row;

type Subject = fn(&Bench) -> Result<Vec<Row>>;

/// A subject that cannot be measured here returns no row and notes why with [`Bench::skip`].
const SUBJECTS: [(&str, Subject); 9] = [
    ("handles", handles::run),
    ("connections", connections::run),
    ("threads", thread_dumps::run),
    ("text", dump_text::run),
    ("saved", saved::run),
    ("metadata", metadata::run),
    ("metadata-log", metadata_log::run),
    ("metrics", metrics_page::run),
    ("rest", rest::run),
];

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let outcome = match arguments.split_first() {
        Some((first, rest)) if first == worker::WORD => worker::run(rest).map(|()| true),
        _ => compare(&arguments),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("speed: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Returns whether every bar holds.
fn compare(arguments: &[String]) -> Result<bool> {
    let (flags, wanted): (Vec<&String>, Vec<&String>) = arguments
        .iter()
        .partition(|argument| argument.starts_with("--"));
    if let Some(unknown) = flags.iter().find(|flag| **flag != "--quick") {
        bail!("unknown flag {unknown}");
    }
    if let Some(unknown) = wanted
        .iter()
        .find(|name| SUBJECTS.iter().all(|(known, _)| known != *name))
    {
        let known: Vec<&str> = SUBJECTS.iter().map(|(name, _)| *name).collect();
        bail!("unknown subject {unknown}; known are {}", known.join(", "));
    }
    let bench = Bench::new(!flags.is_empty())?;
    let mut rows = Vec::new();
    for (name, subject) in SUBJECTS {
        if wanted.is_empty() || wanted.iter().any(|one| *one == name) {
            eprintln!("== {name}");
            rows.extend(subject(&bench)?);
        }
    }
    report::print(&rows, &bench.skipped());
    Ok(rows.iter().all(Row::holds))
}
