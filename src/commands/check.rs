//! `kafka-vitals check`: the state of every broker of this host on one page, with a monitoring plugin's exit code.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::{block_on, evaluation, live, write_stdout};
use crate::cli::{CheckArgs, Format};
use crate::config::Config;
use crate::expose::{api, check};
use crate::model::{Clock, EvidenceStatus};

const EXPORTER_DEADLINE: Duration = Duration::from_secs(1);
const MAX_ANSWER_BYTES: usize = 4 << 20;

pub fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let output = args.output;
    let (text, json) = match ask_exporter(args.address) {
        Some(answers) => answers,
        None => {
            let config = Arc::new(Config::load(args.as_serving())?);
            let clock = Clock::start();
            let view = block_on(evaluation::once(config, clock))?;
            (
                check::text(&view, &EvidenceStatus::default(), clock.now()),
                serde_json::to_string(&api::brokers(&view))? + "\n",
            )
        }
    };
    let code = check::exit_code(&text).context("the answer has no level")?;
    let text = match output {
        Format::Json => json,
        Format::Text if stdout_has_colours() => check::coloured(&text),
        Format::Text => text,
    };
    write_stdout(text.as_bytes())?;
    Ok(ExitCode::from(code))
}

/// The answers of a running exporter as text and JSON: it knows what happened before. None if no exporter answers, or
/// if it has not finished its first round.
fn ask_exporter(address: SocketAddr) -> Option<(String, String)> {
    let get = |path| match live::get(address, path, EXPORTER_DEADLINE, MAX_ANSWER_BYTES) {
        Ok((status, _, body)) if status == "200" => Some(body),
        _ => None,
    };
    get("/-/ready")?;
    let text = get("/check").filter(|text| check::exit_code(text).is_some())?;
    Some((text, get("/api/v1/brokers")?))
}

/// Whether standard output is a terminal with colours and the user did not switch them off (<https://no-color.org>).
fn stdout_has_colours() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    std::io::IsTerminal::is_terminal(&std::io::stdout())
        && set("NO_COLOR").is_none()
        && set("TERM").is_some_and(|term| term != "dumb")
}
