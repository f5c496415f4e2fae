#![forbid(unsafe_code)]
//! The command: reads the flags, then serves, checks or prints.

mod analyze;

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use kafka_vitals::cli::{
    BundleArgs, CheckArgs, Cli, Command, Format, LiveArgs, LogLevel, ReplayArgs, ServeArgs,
    ThreadsArgs,
};
use kafka_vitals::collect::threads::{THIS_PROGRAM, ThreadCollector};
use kafka_vitals::config::{Config, ConfigError, check_procfs};
use kafka_vitals::diagnose::View;
use kafka_vitals::diagnose::dump::Analysis;
use kafka_vitals::discover::{Broker, ProcessKey};
use kafka_vitals::evidence::Saved;
use kafka_vitals::exec_probe::{self, Outcome};
use kafka_vitals::expose::server::{self, Served};
use kafka_vitals::expose::{analysis, api, check};
use kafka_vitals::parse::thread_dump;
use kafka_vitals::replay::{Recording, Replayed};
use kafka_vitals::snapshot::Clock;
use kafka_vitals::{collect, evidence, judging, record, replay, sys};
use sys::proc::ProcRoot;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments
        .next()
        .is_some_and(|first| first == sys::attach::child::SUBCOMMAND)
    {
        // Before anything else: the child switches the user ids of its one thread.
        return sys::attach::child::child_main(arguments);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // A probe with a misspelt flag must not have the broker restarted, and a monitoring plugin that cannot
            // look says "unknown", never "critical".
            let command = std::env::args_os().nth(1).unwrap_or_default();
            return match command.to_str() {
                _ if !error.use_stderr() => ExitCode::SUCCESS,
                Some("live") => ExitCode::SUCCESS,
                Some("check") => ExitCode::from(3),
                _ => ExitCode::from(2),
            };
        }
    };
    // A service that cannot start (1) is worth another try, wrong settings (2) are not.
    let failed = match cli.command {
        None => 1,
        Some(Command::Check(_)) => 3,
        Some(_) => 2,
    };
    let result = match cli.command {
        None => serve(cli.serve),
        Some(Command::Check(args)) => look(args),
        Some(Command::Threads(args)) => threads(&args),
        Some(Command::Bundle(args)) => bundle(args),
        Some(Command::Analyze(args)) => analyze::run(&args),
        Some(Command::Replay(args)) => replay_recording(&args),
        Some(Command::Live(args)) => Ok(live(&args)),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            // Where nobody takes the message (a full disk, a closed pipe) the exit code still tells.
            let _ = writeln!(std::io::stderr(), "kafka-vitals: {error:#}");
            ExitCode::from(if failed == 1 && error.is::<ConfigError>() {
                2
            } else {
                failed
            })
        }
    }
}

fn serve(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let only_checked = args.config_check;
    let config = Config::load(args)?;
    if only_checked {
        tell(b"kafka-vitals: the settings are right\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    log_to_stderr(config.log_level, config.log_format);
    awaited(run(config))?
}

fn awaited<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(work);
    // Reads that hang in the kernel never end: they must not hold up the exit.
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(result)
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let stopped = stopped()?;
    let clock = Clock::start();
    let (publish, snapshots) = watch::channel(Arc::default());
    let (publish_view, view) = watch::channel(Arc::default());
    let (publish_saved, saved) = watch::channel(Arc::default());
    let telemetry_path = config.telemetry_path.as_str().into();
    let served = Served {
        view: view.clone(),
        saved: saved.clone(),
        clock,
        telemetry_path,
    };
    let mut tasks = listen(&config.listen, served, config.max_requests).await?;
    if let Some(settings) = config.record.clone() {
        tasks.spawn(record::run(settings, snapshots.clone(), clock));
    }
    tasks.spawn(judging::run(
        snapshots,
        publish_view,
        saved,
        config.live,
        clock,
    ));
    let proc = ProcRoot::new(&config.procfs);
    tasks.spawn(evidence::run(
        view,
        publish_saved,
        config.evidence.clone(),
        proc,
        clock,
    ));
    tasks.spawn(collect::run(Arc::new(config), publish, clock));
    tokio::select! {
        () = stopped => {
            tracing::info!("ending");
            Ok(ExitCode::SUCCESS)
        }
        // Every task runs for ever: an end is a fault that a supervisor should see.
        _ = tasks.join_next() => anyhow::bail!("a part of the exporter ended by itself; the log above tells why"),
    }
}

/// Ends with SIGTERM or SIGINT from now on.
fn stopped() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

async fn listen(
    addresses: &[SocketAddr],
    served: Served,
    max_requests: usize,
) -> anyhow::Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    let router = server::router(served, max_requests);
    for address in addresses {
        let listener = server::bind(*address).await?;
        let address = listener
            .local_addr()
            .context("cannot tell the address listened on")?;
        tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
        tasks.spawn(server::serve(listener, router.clone()));
    }
    Ok(tasks)
}

fn look(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let output = args.output;
    let (text, json) = match told_by_exporter(args.address) {
        Some(told) => told,
        None => {
            let config = Arc::new(Config::load(args.as_serving())?);
            let clock = Clock::start();
            let view = awaited(judging::once(config, clock))?;
            (
                check::text(&view, &Saved::default(), clock.now()),
                serde_json::to_string(&api::brokers(&view))? + "\n",
            )
        }
    };
    let code = check::exit_code(&text).context("the answer has no level")?;
    let text = match output {
        Format::Json => json,
        Format::Text if coloured() => check::coloured(&text),
        Format::Text => text,
    };
    tell(text.as_bytes())?;
    Ok(ExitCode::from(code))
}

/// What a running exporter says, as text and JSON: it has seen what came before. None where none answers, or one that
/// has not looked yet.
fn told_by_exporter(address: SocketAddr) -> Option<(String, String)> {
    let get = |path| match exec_probe::get(address, path, EXPORTER_DEADLINE, MAX_TOLD_BYTES) {
        Ok((status, _, body)) if status == "200" => Some(body),
        _ => None,
    };
    get("/-/ready")?;
    let text = get("/check").filter(|text| check::exit_code(text).is_some())?;
    Some((text, get("/api/v1/brokers")?))
}

const EXPORTER_DEADLINE: Duration = Duration::from_secs(1);
const MAX_TOLD_BYTES: usize = 4 << 20;

/// A terminal that can, unless somebody said otherwise (<https://no-color.org>).
fn coloured() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    std::io::IsTerminal::is_terminal(&std::io::stdout())
        && set("NO_COLOR").is_none()
        && set("TERM").is_some_and(|term| term != "dumb")
}

fn log_to_stderr(level: LogLevel, format: Format) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        // It would say so on standard error, and panic where the disk under that is full or its pipe closed.
        .log_internal_errors(false);
    match format {
        Format::Text => subscriber
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .init(),
        Format::Json => subscriber.json().init(),
    }
}

/// Only the exit code counts: where nobody takes the text the probe must not fail for that.
fn live(args: &LiveArgs) -> ExitCode {
    let (text, code) = match exec_probe::ask(args.address, args.broker.as_deref(), args.timeout) {
        Outcome::Restart(reason) => (reason, ExitCode::FAILURE),
        Outcome::Live(reason) => (reason, ExitCode::SUCCESS),
        Outcome::NoAnswer(reason) => (
            format!("passes without an answer: {reason}"),
            ExitCode::SUCCESS,
        ),
    };
    let _ = writeln!(std::io::stdout(), "{}", harmless(&text));
    code
}

fn add_dumps(analysis: &mut Analysis, source: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let text = thread_dump::decode(bytes);
    let dumps = thread_dump::parse(&text).with_context(|| source.to_owned())?;
    dumps.iter().for_each(|dump| analysis.add(source, dump));
    Ok(())
}

fn print<T: serde::Serialize>(
    told: &T,
    output: Format,
    text: fn(&T) -> String,
) -> anyhow::Result<()> {
    let text = match output {
        Format::Text => harmless(&text(told)),
        Format::Json => serde_json::to_string_pretty(told)? + "\n",
    };
    tell(text.as_bytes())
}

/// Names of threads, and what files hold, must not steer the terminal.
fn harmless(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}")
}

fn tell(bytes: &[u8]) -> anyhow::Result<()> {
    std::io::stdout()
        .write_all(bytes)
        .context("cannot write to standard output")
}

/// Prints the path of each bundle; 1 where one could not be written.
fn bundle(args: BundleArgs) -> anyhow::Result<ExitCode> {
    let serve = ServeArgs {
        config_file: args.config_file,
        procfs: args.procfs,
        evidence_dir: args.output,
        ..ServeArgs::default()
    };
    let config = Config::load(serve)?;
    let taken = awaited(evidence::take_now(config, args.broker.as_deref()))?;
    let mut code = ExitCode::SUCCESS;
    for result in taken {
        match result {
            Ok(path) => tell(format!("{}\n", path.display()).as_bytes())?,
            Err(why) => {
                code = ExitCode::from(1);
                let _ = writeln!(std::io::stderr(), "kafka-vitals: {why}");
            }
        }
    }
    Ok(code)
}

fn threads(args: &ThreadsArgs) -> anyhow::Result<ExitCode> {
    check_procfs(&args.procfs)?;
    let stat = sys::proc::ProcRoot::new(&args.procfs).stat(args.pid)?;
    let broker = Broker::unknown(ProcessKey {
        pid: args.pid,
        start_ticks: stat.start_ticks,
    });
    let mut collector = ThreadCollector::new(
        THIS_PROGRAM,
        &args.procfs,
        Arc::new(broker),
        Duration::from_secs(10),
    );
    let dump = awaited(collector.collect())??;
    let mut analysis = Analysis::default();
    add_dumps(&mut analysis, &format!("pid {}", args.pid), &dump.bytes)?;
    print(&analysis, args.output, analysis::text)?;
    if args.output == Format::Text {
        tell(&dump.bytes)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn replay_recording(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let source = args.file.display().to_string();
    let recording = Recording::open(&args.file).with_context(|| source.clone())?;
    let checked = |replayed: Replayed| {
        let why =
            "no line of it is a snapshot; give a file that `kafka-vitals --record FILE` wrote";
        anyhow::ensure!(
            replayed.snapshots > 0,
            "{source}: {}",
            replayed.broken.as_deref().unwrap_or(why)
        );
        Ok(replayed)
    };
    if let Some(output) = args.output {
        let replayed = checked(replay::play(recording, f64::INFINITY, drop))?;
        print(&replayed, output, replay::text)?;
        return Ok(ExitCode::SUCCESS);
    }
    log_to_stderr(LogLevel::Info, Format::Text);
    awaited(async {
        let stopped = stopped()?;
        let clock = Clock::replayed();
        let (publish, view) = watch::channel(Arc::default());
        // Nothing is saved while old readings are looked at.
        let (_, saved) = watch::channel(Arc::default());
        let served = Served {
            view,
            saved,
            clock,
            telemetry_path: "/metrics".into(),
        };
        let mut tasks = listen(&args.listen, served, 40).await?;
        let speed = args.speed;
        let show = move |view: View| {
            clock.set(view.diagnosis.at);
            publish.send_replace(Arc::new(view));
        };
        let play = async {
            let played =
                tokio::task::spawn_blocking(move || replay::play(recording, speed, show)).await;
            let Replayed {
                snapshots,
                skipped,
                broken,
                ..
            } = checked(played.context("the replay ended by a fault")?)?;
            tracing::info!(
                snapshots,
                skipped,
                broken,
                "the recording is at its end; its last view stays"
            );
            std::future::pending().await
        };
        tokio::select! {
            () = stopped => Ok(ExitCode::SUCCESS),
            ended = play => ended,
            _ = tasks.join_next() => anyhow::bail!("serving ended by itself; the log above tells why"),
        }
    })?
}
