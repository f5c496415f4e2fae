//! The subcommands, one file each, and what they share: the runtime, the output, the exit codes.
//!
//! Each `run` returns the exit code. Errors carry their context from here on; below this folder they are typed.

pub mod analyze;
pub mod bundle;
pub mod check;
pub mod evaluation;
pub mod install;
pub mod live;
mod log;
mod reload;
pub mod replay;
pub mod serve;
mod service;
pub mod threads;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Command, Format};
use crate::config::ConfigError;
use crate::expose::web_config::WebConfigError;
use crate::model::{is_unseen, text};
use crate::sys::limits;

/// Prints what clap has to say and picks the exit code: a probe with a misspelt flag must not restart the broker, and
/// a monitoring plugin that cannot run reports "unknown", never "critical".
pub fn exit_code_of_usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    let command = std::env::args_os().nth(1).unwrap_or_default();
    match command.to_str() {
        _ if !error.use_stderr() => ExitCode::SUCCESS,
        Some("live") => ExitCode::SUCCESS,
        Some("check") => ExitCode::from(3),
        _ => ExitCode::from(2),
    }
}

/// How the failure of this subcommand ends the process. For the service, 1 means that a supervisor may try again and 2
/// that the settings are wrong.
pub fn exit_code_of_failure(
    command: Option<&Command>,
) -> impl Fn(anyhow::Error) -> ExitCode + use<> {
    let failed = match command {
        None => 1,
        Some(Command::Check(_)) => 3,
        Some(_) => 2,
    };
    move |error| {
        // If the message cannot be written (full disk, closed pipe), the exit code still reports the failure.
        let _ = writeln!(
            std::io::stderr(),
            "{}",
            text::message(format!("kafka-vitals: {error:#}"))
        );
        let settings_are_wrong =
            failed == 1 && (error.is::<ConfigError>() || error.is::<WebConfigError>());
        ExitCode::from(if settings_are_wrong { 2 } else { failed })
    }
}

/// Runs `work` on a runtime of its own.
fn block_on<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    // Before the runtime, which panics where it can start no thread.
    limits::check()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Whatever takes long runs on threads of its own: a second worker would only be woken to find nothing to do.
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(work);
    // A read that hangs in the kernel never ends: it must not delay the exit.
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(result)
}

/// Completes at the first SIGTERM or SIGINT. Both are caught from this call on.
fn termination() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn print<T: serde::Serialize>(
    value: &T,
    output: Format,
    text: fn(&T) -> String,
) -> anyhow::Result<()> {
    let text = match output {
        Format::Text => without_control_characters(&text(value)),
        Format::Json => serde_json::to_string_pretty(value)? + "\n",
    };
    write_stdout(text.as_bytes())
}

/// Names of threads, and what files contain, must not control the terminal.
fn without_control_characters(text: &str) -> String {
    text.replace(is_unseen, "\u{fffd}")
}

fn write_stdout(bytes: &[u8]) -> anyhow::Result<()> {
    std::io::stdout()
        .write_all(bytes)
        .context("cannot write to standard output")
}
