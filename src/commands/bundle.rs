//! `kafka-vitals bundle`: saves the evidence of the brokers of this host now, without a running exporter.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;

use super::{block_on, evaluation, without_control_characters, write_stdout};
use crate::cli::{BundleArgs, ServeArgs};
use crate::collect::dump_service::DumpService;
use crate::config::Config;
use crate::evidence::manifest::{MANIFEST, Manifest, Missing};
use crate::evidence::{History, Saver, is_stuck};
use crate::model::{BrokerSnapshot, Clock, text};
use crate::sys::proc::ProcRoot;

/// Prints the path of each bundle; the exit code is 1 if one could not be written, or lacks a part.
pub fn run(args: BundleArgs) -> anyhow::Result<ExitCode> {
    let output = args.output.map(std::path::absolute).transpose();
    let config = Config::load(ServeArgs {
        config_file: args.config_file,
        procfs: args.procfs,
        evidence_dir: output.context("--output names no folder")?,
        ..ServeArgs::default()
    })?;
    let mut code = ExitCode::SUCCESS;
    for result in block_on(save_now(config, args.broker.as_deref()))? {
        match result {
            Ok(path) => {
                write_stdout(format!("{}\n", path.display()).as_bytes())?;
                for Missing { name, why } in missing(&path)? {
                    code = ExitCode::from(1);
                    report(&format!("{} lacks {name}: {why}", path.display()));
                }
            }
            Err(error) => {
                code = ExitCode::from(1);
                report(&format!("{error:#}"));
            }
        }
    }
    Ok(code)
}

/// If it cannot be written, the exit code still says that something is missing.
fn report(message: &str) {
    let message = without_control_characters(&format!("kafka-vitals: {message}"));
    let _ = writeln!(std::io::stderr(), "{}", text::message(message));
}

/// What the bundle lacks, by its manifest.
fn missing(bundle: &Path) -> anyhow::Result<Vec<Missing>> {
    let path = bundle.join(MANIFEST);
    let read = || {
        let manifest: Manifest = serde_json::from_slice(&std::fs::read(&path)?)?;
        anyhow::Ok(manifest.missing)
    };
    read().with_context(|| path.display().to_string())
}

/// Saves one bundle of each broker of this host, or of the one whose id or label is `wanted`: discovers the brokers,
/// takes every reading once, evaluates, saves. Older bundles stay.
async fn save_now(config: Config, wanted: Option<&str>) -> Vec<anyhow::Result<PathBuf>> {
    let clock = Clock::start();
    let dumps = DumpService::new(&config.procfs);
    let mut saver = Saver::new(
        config.evidence.clone(),
        ProcRoot::new(&config.procfs),
        dumps.clone(),
        clock,
        false,
    );
    let is_wanted = |broker: &BrokerSnapshot| {
        wanted.is_none_or(|wanted| {
            broker.label == wanted || broker.broker.id.is_some_and(|id| id.to_string() == wanted)
        })
    };
    let view = evaluation::once(Arc::new(config), dumps, clock).await;
    let history = History::default();
    history.push(&view.snapshot);
    let mut results = Vec::new();
    // Both are in the same order.
    for (readings, broker) in std::iter::zip(&view.snapshot.brokers, &view.diagnosis.brokers) {
        if is_wanted(readings) {
            let saved = saver
                .save(&view, broker, &history, || is_stuck(broker))
                .await;
            results.push(saved.with_context(|| format!("no bundle of broker {}", broker.label)));
        }
    }
    if results.is_empty() {
        let found: Vec<&str> = view
            .snapshot
            .brokers
            .iter()
            .map(|broker| broker.label.as_str())
            .collect();
        let why = view
            .snapshot
            .discovery
            .error
            .clone()
            .unwrap_or_else(|| format!("found: {}", found.join(", ")));
        results.push(Err(anyhow::anyhow!(
            "no broker {} runs on this host ({why})",
            wanted.unwrap_or("at all")
        )));
    }
    results
}
