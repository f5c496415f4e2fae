//! `kafka-vitals check`: the state of every broker of this host on one page, with a monitoring plugin's exit code,
//! which [`Level`] decides; that of a failure or a wrong flag is in [`super`].

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::{block_on, evaluation, live, write_stdout};
use crate::cli::{CheckArgs, ExporterAddress, Format};
use crate::collect::dump_service::DumpService;
use crate::config::Config;
use crate::expose::api;
use crate::expose::check::CheckPage;
use crate::expose::overview::Level;
use crate::expose::server::{COLOUR_QUERY, LEVEL_HEADER};
use crate::model::{Clock, EvidenceStatus, routes};

const EXPORTER_DEADLINE: Duration = Duration::from_secs(1);
const MAX_ANSWER_BYTES: usize = 4 << 20;

pub fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let output = match args.output {
        Format::Json => Output::Json,
        Format::Text if stdout_has_colours() => Output::Coloured,
        Format::Text => Output::Plain,
    };
    let (level, text) = match ask_exporter(&args.address, output) {
        Ok(answer) => answer,
        Err(why) => {
            let config = Arc::new(Config::load(args.as_serving())?);
            let clock = Clock::start();
            let dumps = DumpService::new(&config.procfs);
            let mut view = block_on(evaluation::once(config, dumps, clock))?;
            let note = format!("{why}: this command has read the brokers itself, once");
            let warnings = &mut Arc::make_mut(&mut view.snapshot).discovery_warnings;
            warnings.insert(0, note);
            let page = CheckPage::of(&view, &EvidenceStatus::default(), clock.now());
            let text = match output {
                Output::Plain => page.text(),
                Output::Coloured => page.coloured(),
                Output::Json => serde_json::to_string(&api::brokers(&view))? + "\n",
            };
            (page.level, text)
        }
    };
    write_stdout(text.as_bytes())?;
    Ok(ExitCode::from(level.exit_code()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    Plain,
    Coloured,
    Json,
}

/// The answer of a running exporter, which knows what happened before, and its level.
///
/// # Errors
/// Why there is none.
fn ask_exporter(address: &ExporterAddress, output: Output) -> Result<(Level, String), String> {
    let get = |path: &str| {
        let answer = live::get(address, path, EXPORTER_DEADLINE, MAX_ANSWER_BYTES);
        let answer =
            answer.map_err(|error| format!("no exporter answers at {address} ({error})"))?;
        match answer.status.as_str() {
            "200" => Ok(answer),
            "503" if path == routes::READY => Err(format!(
                "the exporter at {address} has not ended its first round"
            )),
            other => Err(format!(
                "{address} answers {other} (an exporter may demand TLS or a password)"
            )),
        }
    };
    get(routes::READY)?;
    let page = match output {
        Output::Coloured => get(&format!("{}?{COLOUR_QUERY}", routes::CHECK))?,
        Output::Plain | Output::Json => get(routes::CHECK)?,
    };
    let level = page.header(LEVEL_HEADER).and_then(Level::of_name);
    let level = level.ok_or_else(|| format!("what answers at {address} is no kafka-vitals"))?;
    let text = match output {
        Output::Json => get(routes::API_BROKERS)?.body,
        Output::Plain | Output::Coloured => page.body,
    };
    Ok((level, text))
}

/// Whether standard output is a terminal with colours and the user did not switch them off (<https://no-color.org>).
fn stdout_has_colours() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    std::io::IsTerminal::is_terminal(&std::io::stdout())
        && set("NO_COLOR").is_none()
        && set("TERM").is_some_and(|term| term != "dumb")
}
