//! What was typed: the raw command line. [`crate::config`] turns it into checked settings.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::model::{CollectorName, Schedule};

/// Prometheus exporter that finds the Kafka broker which is alive but not working.
///
/// Without a command it serves metrics of every Kafka broker that /proc of this host shows.
#[derive(Debug, Parser)]
#[command(name = "kafka-vitals", version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("KAFKA_VITALS_REVISION"), ")"), args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(flatten)]
    pub serve: ServeArgs,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the state of every broker of this host on one page; the exit code is that of a monitoring plugin.
    ///
    /// Asks the exporter. If none answers, it reads the brokers itself for 4 seconds, and for up to 30 if something is
    /// suspicious. Exits with 0 if all is well, 1 on a warning, 2 if it is critical, 3 if it is unknown or failed.
    Check(CheckArgs),
    /// Take a thread dump of one JVM over HotSpot's attach protocol; print what it shows, then the dump.
    Threads(ThreadsArgs),
    /// Save the evidence of a broker, or of each broker of this host, now: dumps, sockets, handles, log, findings.
    Bundle(BundleArgs),
    /// Explain saved output together: thread dumps, sockets, handles, topics, groups, logs; which broker is to blame.
    Analyze(AnalyzeArgs),
    /// Evaluate recorded readings (`--record FILE`) again: serve page and metrics as they were then, or print the verdicts.
    Replay(ReplayArgs),
    /// Liveness probe: ask the exporter whether only a restart cures the broker. Exits with 1 if so, else with 0, also
    /// when the exporter does not answer.
    Live(LiveArgs),
    /// Copy this program into a folder, as DIR/kafka-vitals: for an init container, whose image has no `cp`.
    Install(InstallArgs),
}

#[derive(Debug, Args)]
pub struct InstallArgs {
    /// The folder, which exists.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// Where to ask an exporter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExporterAddress {
    text: String,
    /// To be tried in this order.
    pub addresses: Vec<SocketAddr>,
}

impl std::fmt::Display for ExporterAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// No other name is looked up: a name server that is silent must not hold up a probe.
impl std::str::FromStr for ExporterAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "expected IP:PORT, [IPV6]:PORT or localhost:PORT, e.g. 127.0.0.1:10052";
        let addresses = match text.strip_prefix("localhost:") {
            Some(port) => {
                let port: u16 = port.parse().map_err(|_| expected)?;
                vec![
                    (Ipv4Addr::LOCALHOST, port).into(),
                    (Ipv6Addr::LOCALHOST, port).into(),
                ]
            }
            None => vec![text.parse().map_err(|_| expected)?],
        };
        let text = text.to_owned();
        Ok(ExporterAddress { text, addresses })
    }
}

#[derive(Debug, Args)]
pub struct LiveArgs {
    /// Address of the exporter, IP:PORT or localhost:PORT.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10052")]
    pub address: ExporterAddress,
    /// The broker's id or label; not needed where one broker runs on the host.
    #[arg(long, value_name = "BROKER")]
    pub broker: Option<String>,
    /// Give up after so long, and pass. Must be less than the probe's own time-out.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    pub timeout: std::time::Duration,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Address of the exporter, IP:PORT or localhost:PORT.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10052")]
    pub address: ExporterAddress,
    /// Settings that discovery cannot know, in YAML, as for the exporter.
    #[arg(long = "config.file", value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Folder where the proc file system is mounted.
    #[arg(long = "path.procfs", value_name = "DIR", default_value = "/proc")]
    pub procfs: PathBuf,
    /// Form of the answer.
    #[arg(long, default_value = "text")]
    pub output: Format,
}

impl CheckArgs {
    /// What an exporter with these settings would do.
    pub fn as_serving(self) -> ServeArgs {
        ServeArgs {
            config_file: self.config_file,
            procfs: self.procfs,
            ..ServeArgs::default()
        }
    }
}

#[derive(Debug, Args)]
pub struct ThreadsArgs {
    /// Process id of the JVM, as this host's /proc numbers it.
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: u32,
    /// Folder where the proc file system is mounted.
    #[arg(long = "path.procfs", default_value = "/proc")]
    pub procfs: PathBuf,
    /// Form of the answer; json leaves the dump itself out.
    #[arg(long, default_value = "text")]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct BundleArgs {
    /// Id of the broker, or its label (`ID@PORT`, `pid-N`); default: each broker of this host.
    #[arg(long, value_name = "ID")]
    pub broker: Option<String>,
    /// Folder in which the bundle is made; default: that of the exporter's --evidence.dir.
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// The exporter's config file.
    #[arg(long = "config.file", value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Folder where the proc file system is mounted.
    #[arg(long = "path.procfs", value_name = "DIR", default_value = "/proc")]
    pub procfs: PathBuf,
}

#[derive(Debug, Args)]
pub struct AnalyzeArgs {
    /// Files of jstack, jcmd, netstat, ss, lsof, kafka-topics and others, known by what they hold; folders of them.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Form of the answer.
    #[arg(long, default_value = "text")]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// What `--record` wrote, or that compressed by gzip.
    pub file: PathBuf,
    /// How many times as fast as it happened; or max, as fast as it can be judged.
    #[arg(long, value_name = "N|max", default_value = "1", value_parser = speed)]
    pub speed: f64,
    /// Serve nothing: print the timeline and the last verdicts, and exit; at --speed max.
    #[arg(long, conflicts_with = "listen")]
    pub output: Option<Format>,
    /// Address to serve metrics and pages on; may be given more than once. Default: 127.0.0.1:10052, or another port of this
    /// host where an exporter uses that one. No other host can take them for now.
    #[arg(long = "web.listen-address", value_name = "ADDRESS", value_parser = listen_address)]
    pub listen: Vec<SocketAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Address to serve metrics and pages on; may be given more than once.
    #[arg(long = "web.listen-address", value_name = "ADDRESS", default_value = ":10052", value_parser = listen_address)]
    pub listen: Vec<SocketAddr>,
    /// Serve on the sockets that systemd hands over (LISTEN_FDS), instead of --web.listen-address.
    #[arg(long = "web.systemd-socket")]
    pub systemd_socket: bool,
    /// Path of the metrics.
    #[arg(
        long = "web.telemetry-path",
        value_name = "PATH",
        default_value = "/metrics"
    )]
    pub telemetry_path: String,
    /// File with TLS, passwords, headers and a rate limit, as Prometheus' exporter-toolkit has it.
    #[arg(long = "web.config.file", value_name = "FILE")]
    pub web_config_file: Option<PathBuf>,
    /// Take the config file again on POST /-/reload, as on SIGHUP.
    #[arg(long = "web.enable-lifecycle")]
    pub enable_lifecycle: bool,
    /// Another name of this host under which a browser may ask for the pages; may be given more than once.
    #[arg(long = "web.host-name", value_name = "NAME")]
    pub host_names: Vec<String>,
    /// Connections of one address at a time; one more closes the idlest of them. 0 is no limit.
    #[arg(
        long = "web.max-connections-per-address",
        value_name = "N",
        default_value_t = 64
    )]
    pub max_connections_per_address: usize,
    /// Requests answered at a time; more wait. 0 is no limit.
    #[arg(long = "web.max-requests", value_name = "N", default_value_t = 40)]
    pub max_requests: usize,
    /// Address that serves liveness and health alone, without TLS and passwords; may be given more than once.
    #[arg(long = "web.probe-address", value_name = "ADDRESS", value_parser = listen_address)]
    pub probe_addresses: Vec<SocketAddr>,
    /// Settings that discovery cannot know, in YAML; everything has a default.
    #[arg(long = "config.file", value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Check the config file and the flags, then exit: 0 if they are right, 2 if not.
    #[arg(long = "config.check")]
    pub config_check: bool,
    /// Users, by name or id, whose processes count as brokers; default: everybody's.
    #[arg(
        long = "discovery.users",
        value_name = "USER,USER",
        value_delimiter = ','
    )]
    pub users: Vec<String>,
    /// Write each second's readings to this file, for `kafka-vitals replay`.
    #[arg(long = "record", value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// MiB after which the file becomes FILE.1.
    #[arg(long = "record.max-size", value_name = "MIB", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub record_max_size: u32,
    /// Folder where the proc file system is mounted.
    #[arg(long = "path.procfs", value_name = "DIR", default_value = "/proc")]
    pub procfs: PathBuf,
    /// Folder for evidence, saved when a broker is found gray; default: below STATE_DIRECTORY, XDG_STATE_HOME or HOME.
    #[arg(long = "evidence.dir", value_name = "DIR")]
    pub evidence_dir: Option<PathBuf>,
    /// Least severe messages that are logged.
    #[arg(long = "log.level", value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,
    /// Form of the log lines, which go to standard error.
    #[arg(long = "log.format", value_name = "FORMAT", default_value = "text")]
    pub log_format: Format,
    #[command(flatten)]
    pub collectors: CollectorFlags,
}

/// `--collector.NAME` and `--no-collector.NAME`, for each collector that may be switched off; of both the later counts.
#[derive(Debug, Clone, Default)]
pub struct CollectorFlags(pub BTreeMap<CollectorName, bool>);

impl CollectorFlags {
    fn names() -> impl Iterator<Item = (CollectorName, String, String)> {
        let names = CollectorName::ALL.into_iter();
        names.filter(|name| name.may_be_off()).map(|name| {
            let on = format!("collector.{}", name.name());
            let off = format!("no-{on}");
            (name, on, off)
        })
    }
}

impl Args for CollectorFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        Self::names().fold(command, |command, (name, on, off)| {
            let (reads, schedule) = name.about();
            let when = match (schedule, name.needs()) {
                (Schedule::InPassOf(leader), _) => format!("with `{}`", leader.name()),
                (Schedule::Every(interval), None) => {
                    format!("every {}", humantime::format_duration(interval))
                }
                (Schedule::Every(interval), Some(needed)) => {
                    let interval = humantime::format_duration(interval);
                    format!("every {interval}; off with `{}`", needed.name())
                }
            };
            let flag = |id: &String| {
                let arg = Arg::new(id.clone()).long(id.clone());
                arg.action(ArgAction::SetTrue).help_heading("Collectors")
            };
            let help = format!("Leave out: {reads} ({when})");
            command
                .arg(flag(&off).help(help))
                // All are on by default: it only overrides the config file.
                .arg(flag(&on).overrides_with(off).hide(true))
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for CollectorFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = Self::names().filter_map(|(name, on, off)| {
            let given = matches.get_flag(&on) || matches.get_flag(&off);
            given.then(|| (name, matches.get_flag(&on)))
        });
        Ok(CollectorFlags(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// `ADDRESS:PORT`, or `:PORT` for every address of both kinds, as Prometheus' own exporters take it.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let full = if text.starts_with(':') {
        format!("[::]{text}")
    } else {
        text.to_owned()
    };
    full.parse()
        .map_err(|_| "expected IP:PORT, [IPV6]:PORT or :PORT, e.g. 127.0.0.1:10052".to_owned())
}

/// `max` is infinity.
fn speed(text: &str) -> Result<f64, String> {
    let speed = if text == "max" {
        f64::INFINITY
    } else {
        text.parse().unwrap_or(0.0)
    };
    if speed >= 0.01 {
        Ok(speed)
    } else {
        Err("expected a number of at least 0.01, or max".to_owned())
    }
}

impl Default for ServeArgs {
    fn default() -> Self {
        Cli::parse_from(["kafka-vitals"]).serve
    }
}
