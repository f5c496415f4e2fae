//! `kafka-vitals check`: the state of every broker of this host on one page, with a monitoring plugin's exit code,
//! which [`Level`] decides; that of a failure or a wrong flag is in [`super`].

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::{block_on, evaluation, live, write_stdout};
use crate::cli::{CheckArgs, Format};
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
    let (level, text) = match ask_exporter(args.address, output) {
        Some(answer) => answer,
        None => {
            let config = Arc::new(Config::load(args.as_serving())?);
            let clock = Clock::start();
            let dumps = DumpService::new(&config.procfs);
            let view = block_on(evaluation::once(config, dumps, clock))?;
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

/// The answer of a running exporter, which knows what happened before, and its level. None if no exporter answers, or
/// if it has not finished its first round.
fn ask_exporter(address: SocketAddr, output: Output) -> Option<(Level, String)> {
    let ask = |path: &str| live::get(address, path, EXPORTER_DEADLINE, MAX_ANSWER_BYTES).ok();
    let get = |path: &str| ask(path).filter(|answer| answer.status == "200");
    match ask(routes::READY)?.status.as_str() {
        "200" => {}
        "503" => return None,
        other => {
            // If this cannot be written, the answer is still worth something.
            let _ = writeln!(
                std::io::stderr(),
                "kafka-vitals: {address} answered {other} (it may need TLS or a password): the brokers are read directly"
            );
            return None;
        }
    }
    let page = match output {
        Output::Coloured => get(&format!("{}?{COLOUR_QUERY}", routes::CHECK))?,
        Output::Plain | Output::Json => get(routes::CHECK)?,
    };
    let level = Level::of_name(page.header(LEVEL_HEADER)?)?;
    let text = match output {
        Output::Json => get(routes::API_BROKERS)?.body,
        Output::Plain | Output::Coloured => page.body,
    };
    Some((level, text))
}

/// Whether standard output is a terminal with colours and the user did not switch them off (<https://no-color.org>).
fn stdout_has_colours() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    std::io::IsTerminal::is_terminal(&std::io::stdout())
        && set("NO_COLOR").is_none()
        && set("TERM").is_some_and(|term| term != "dumb")
}
