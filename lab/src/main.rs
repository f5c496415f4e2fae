//! The command line of the lab: starts clusters, shows the incident with and without the exporter, and records test data.

mod demo;
mod record;
mod record_alerts;
mod record_metadata_log;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use lab::versions::Mode;
use lab::{Cell, Cluster, ClusterOptions, Form, Listener, Load, Security, deadlock, security, zoo};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

#[derive(Parser)]
#[command(about = "Real Kafka brokers and real failures on demand")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster and keep it until Ctrl-C, SIGTERM or the end of a piped stdin
    Up(UpOptions),
    /// Show the incident on three real brokers: readings of other tools beside those of the exporter
    Demo(DemoOptions),
    /// Start a cluster, make the incident's deadlock, and show the readings of other tools
    Incident {
        #[command(flatten)]
        up: UpOptions,
        /// The thread that deadlocks with the request handler
        #[arg(long, value_enum, default_value = "expire")]
        form: Form,
        /// Run impatient clients too, as in the incident
        #[arg(long)]
        load: bool,
        /// Seconds to continue after the deadlock
        #[arg(long, default_value_t = 120)]
        seconds: u64,
    },
    /// Make every kind of half-dead broker in turn, and measure what the exporter beside each broker says, and when
    Zoo(ZooOptions),
    /// Record three brokers, one of them deadlocked, for tests/golden.rs
    RecordHost {
        /// The folder to create
        folder: PathBuf,
        /// The exporter that takes the thread dumps [default: the one built beside this program]
        #[arg(long)]
        exporter: Option<PathBuf>,
    },
    /// Record the metadata log of a KRaft cluster in trouble, for the tests of the collector `metadata_log`
    RecordMetadataLog {
        /// The Kafka version
        kafka: String,
        /// The folder to create
        folder: PathBuf,
    },
    /// Record the incident's series from Prometheus into a test of the alerts; takes 9 minutes
    RecordAlerts {
        #[arg(default_value = "alerts/tests/incident.yml")]
        test: PathBuf,
        /// The exporter to run
        #[arg(long, default_value = "target/debug/kafka-vitals")]
        exporter: PathBuf,
    },
}

#[derive(Args)]
struct DemoOptions {
    /// The exporter to run
    #[arg(long, default_value = "target/release/kafka-vitals")]
    exporter: PathBuf,
    /// Seconds to show readings after the deadlock
    #[arg(long, default_value_t = 75)]
    seconds: u64,
}

#[derive(Args)]
struct ZooOptions {
    /// The scenarios; all by default
    #[arg(value_delimiter = ',')]
    only: Vec<String>,
    /// The exporter to run
    #[arg(long, default_value = "target/release/kafka-vitals")]
    exporter: PathBuf,
    /// The Kafka versions
    #[arg(long, value_delimiter = ',', default_values_t = zoo::all_versions())]
    versions: Vec<String>,
    /// Minutes of stress for healthy brokers, on each version
    #[arg(long, default_value_t = 0.0)]
    healthy: f64,
    /// Only the healthy brokers
    #[arg(long)]
    only_healthy: bool,
    /// The folder for logs, and everything that was said
    #[arg(long, default_value = "target/zoo")]
    logs: PathBuf,
    /// The table in which the rows of these scenarios are replaced, and beside it the same as JSON
    #[arg(long)]
    table: Option<PathBuf>,
}

#[derive(Args)]
struct UpOptions {
    /// The Kafka version
    #[arg(long, default_value = "0.10.1.0")]
    kafka: String,
    /// ZooKeeper or KRaft [default: the usual mode of the version]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// The number of brokers
    #[arg(long, default_value_t = 3)]
    brokers: u16,
    /// The id of the first broker; the others count up from it
    #[arg(long, default_value_t = 1)]
    first_id: u16,
    /// The listeners, the first for the brokers among themselves; several as `plaintext,sasl-ssl`
    #[arg(long, value_enum, value_delimiter = ',', default_value = "plaintext")]
    security: Vec<Security>,
    /// Run the cluster in its own pid, network and mount namespaces
    #[arg(long)]
    apart: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let stop = stop_requests()?;
    match Cli::parse().command {
        Command::Up(options) => {
            let cluster = up(&options)?;
            println!("Ctrl-C ends them.");
            stop.recv()?;
            drop(cluster);
            Ok(())
        }
        Command::Demo(options) => demo::run(
            &options.exporter,
            Duration::from_secs(options.seconds),
            &stop,
        ),
        Command::Incident {
            up: options,
            form,
            load,
            seconds,
        } => {
            let cluster = up(&options)?;
            incident(&cluster, form, load, Duration::from_secs(seconds), &stop)
        }
        Command::Zoo(options) => zoo(options, &stop),
        Command::RecordAlerts { test, exporter } => {
            record_alerts::record_alerts(&test, "alerts".as_ref(), &exporter)
        }
        Command::RecordHost { folder, exporter } => {
            let beside = std::env::current_exe()?.with_file_name("kafka-vitals");
            record::record_host(&folder, &exporter.unwrap_or(beside))
        }
        Command::RecordMetadataLog { kafka, folder } => {
            record_metadata_log::record_metadata_log(&kafka, &folder)
        }
    }
}

fn up(options: &UpOptions) -> Result<Cluster> {
    ensure!(options.brokers > 0, "--brokers must be at least 1");
    let started = Instant::now();
    let first = i32::from(options.first_id);
    let cluster = Cluster::start(ClusterOptions {
        brokers: (first..first + i32::from(options.brokers)).collect(),
        mode: options.mode,
        listeners: options
            .security
            .iter()
            .copied()
            .map(Listener::new)
            .collect(),
        cell: if options.apart {
            None
        } else {
            Some(Cell::outside()?)
        },
        ..ClusterOptions::new(&options.kafka)
    })?;
    println!(
        "Kafka {} started in {:.1} s",
        cluster.version().name,
        started.elapsed().as_secs_f32()
    );
    if options
        .security
        .iter()
        .any(|one| *one != Security::Plaintext)
    {
        println!(
            "certificates, and admin.properties for --command-config: {}",
            cluster.tls_folder().display()
        );
        for (user, password) in security::USERS {
            println!("user {user}  password {password}");
        }
    }
    if let Some((process, port)) = cluster.zookeeper() {
        println!("ZooKeeper   127.0.0.1:{port}  pid {}", process.pid());
    }
    for node in cluster.nodes() {
        let role = if node.is_broker() {
            "broker"
        } else {
            "controller"
        };
        println!(
            "{role} {:4} 127.0.0.1:{}  pid {}",
            node.id(),
            node.ports()
                .iter()
                .map(u16::to_string)
                .collect::<Vec<_>>()
                .join(","),
            node.pid()?
        );
    }
    Ok(cluster)
}

fn incident(
    cluster: &Cluster,
    form: Form,
    load: bool,
    time: Duration,
    stop: &mpsc::Receiver<()>,
) -> Result<()> {
    cluster.create_topic(deadlock::TOPIC, 32, cluster.brokers().count().min(3))?;
    let load = if load {
        Some(Load::start(cluster)?)
    } else {
        None
    };
    demo::print_readings(cluster, None, "before")?;
    let deadlock = deadlock::make(cluster, form)?;
    let since = deadlock.followers_continued;
    println!(
        "broker {} is deadlocked, in round {}; jstack reports it {:.1} s after the followers resumed:\n{}",
        deadlock.broker,
        deadlock.rounds,
        (deadlock.confirmed - since).as_secs_f32(),
        deadlock.report,
    );
    while since.elapsed() < time {
        demo::print_readings(cluster, None, &demo::seconds_since(since))?;
        load.as_ref()
            .inspect(|load| demo::print_clients(load, since));
        match stop.recv_timeout(Duration::from_secs(10)) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => break,
        }
    }
    Ok(())
}

fn zoo(options: ZooOptions, stop: &mpsc::Receiver<()>) -> Result<()> {
    zoo::run(
        &zoo::Options {
            exporter: options.exporter.canonicalize()?,
            versions: options.versions,
            only: options.only,
            scenarios: !options.only_healthy,
            healthy: Duration::from_secs_f64(60.0 * options.healthy),
            logs: options.logs,
            table: options.table,
        },
        stop,
    )
}

/// Returns a channel that receives at SIGINT, SIGTERM, SIGHUP and the end of a piped stdin.
fn stop_requests() -> Result<mpsc::Receiver<()>> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let (stop, stopped) = mpsc::channel();
    let by_signal = stop.clone();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            signals.forever().next();
            let _ = by_signal.send(());
            lab::interrupt();
            // After 10 s a tool may still hang. Exit all the same: processes end by their parent-death signal.
            thread::sleep(Duration::from_secs(10));
            std::process::exit(130);
        })?;
    let stdin = rustix::fs::fstat(std::io::stdin()).context("stdin")?;
    if rustix::fs::FileType::from_raw_mode(stdin.st_mode) == rustix::fs::FileType::Fifo {
        thread::Builder::new().name("stdin".into()).spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            let _ = stop.send(());
        })?;
    }
    Ok(stopped)
}
