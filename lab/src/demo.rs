//! Demonstrates the incident on three real brokers: readings of command-line tools beside those of the exporter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::{Cell, Cluster, ClusterOptions, Form, Load, Monitoring, Process, cli_tools, deadlock};

const BROKERS: [i32; 3] = [217, 218, 219];
/// The exporter's default port. The demo uses a free one if it is taken.
const PORT: u16 = 10052;
/// The exporter must report the deadlock within this time.
const REPORTED_WITHIN: Duration = Duration::from_secs(20);
/// All views of the exporter must agree within this time.
const LAST_VIEW_WITHIN: Duration = Duration::from_secs(120);
const TICK: Duration = Duration::from_secs(5);

/// Runs the demo and shows readings for `time` after the deadlock.
pub fn run(exporter: &Path, time: Duration, stop: &Receiver<()>) -> Result<()> {
    ensure!(
        exporter.exists(),
        "no exporter at {}: cargo build --release",
        exporter.display()
    );
    println!(
        "Starting ZooKeeper and three brokers of Kafka 0.10.1.0. Ctrl-C ends everything, at any time."
    );
    let cell = Cell::outside()?;
    let mut cluster = Cluster::start(ClusterOptions {
        cell: Some(cell.clone()),
        ..ClusterOptions::incident()
    })?;
    cluster.create_topic(deadlock::TOPIC, 32, 3)?;
    let folder = tempfile::tempdir()?;
    let exporter = Exporter::start(&cluster, exporter, folder.path())?;
    let monitoring = Monitoring::start(&cell, Path::new("alerts"), folder.path(), exporter.port)?;
    println!(
        "\n  page          http://127.0.0.1:{0}/\n  metrics       http://127.0.0.1:{0}/metrics",
        exporter.port
    );
    println!(
        "  Prometheus    http://127.0.0.1:{}/",
        monitoring.prometheus
    );
    println!(
        "  Alertmanager  http://127.0.0.1:{}/\n",
        monitoring.alertmanager
    );
    println!("Clients produce load: each sends requests and gives up after 5 s without an answer.");
    let load = Load::start(&cluster)?;

    let started = Instant::now();
    print_header();
    print_readings(&cluster, Some(&exporter), "before")?;
    if stop_requested(stop, TICK) {
        return Ok(());
    }
    print_readings(&cluster, Some(&exporter), "before")?;

    println!(
        "\nMaking the deadlock by requests alone: offset commits while sessions expire (KAFKA-3994). The followers are stopped for a moment."
    );
    let made = deadlock::make(&cluster, Form::Expire)?;
    let formed = made.followers_continued;
    let reported = wait_until_reported(&exporter, made.broker, formed, stop)?;
    println!(
        "\n  {:4.1} s after it formed: kafka_vitals_deadlock_detected{{broker=\"{}\"}} 1, and 0 for the others",
        reported.as_secs_f32(),
        made.broker
    );
    println!("  the page says:  {}", exporter.page_title()?);
    println!("  jstack reports the same:");
    for line in made
        .report
        .lines()
        .filter(|line| line.starts_with('"') || line.contains("which is held by"))
    {
        println!("      {}", line.trim());
    }
    println!(
        "\nNow the symptoms grow. The broker's port still accepts, ZooKeeper still lists it, its log is quiet."
    );
    print_header();
    while formed.elapsed() < time {
        print_readings(&cluster, Some(&exporter), &seconds_since(formed))?;
        print_notifications(&monitoring, formed);
        if stop_requested(stop, TICK) {
            return Ok(());
        }
    }
    println!();
    print_clients(&load, formed);
    println!(
        "The exporter reported it {:.0} s after the deadlock.",
        reported.as_secs_f32()
    );
    drop(load);
    ensure_all_agree(&exporter, made.broker, stop)?;
    if !restart_and_recover(&mut cluster, &exporter, made.broker, stop)? {
        return Ok(());
    }
    print_notifications(&monitoring, formed);
    println!(
        "The demo took {:.0} s. Ending the exporter, the brokers and ZooKeeper.",
        started.elapsed().as_secs_f32()
    );
    Ok(())
}

/// Prints what page, `check`, evidence bundle and liveness probe say; an error unless they agree.
fn ensure_all_agree(exporter: &Exporter, sick: i32, stop: &Receiver<()>) -> Result<()> {
    let label = exporter.label(&exporter.scrape()?, sick);
    let verdict = format!("Broker {label} is alive but deadlocked since ");
    // The probe fails last: after a second dump and the evidence.
    let started = Instant::now();
    let (mut status, mut reason) = exporter.live(&label)?;
    while status != 503 {
        ensure!(
            started.elapsed() < LAST_VIEW_WITHIN,
            "the liveness probe of broker {label} passes: {reason}"
        );
        if stop_requested(stop, Duration::from_millis(500)) {
            bail!("stopped before the liveness probe failed");
        }
        (status, reason) = exporter.live(&label)?;
    }
    let title = exporter.page_title()?;
    println!("\nThe views of the exporter now:\n  page   {title}");
    let check = exporter.command("check")?;
    let first = check.lines().next().unwrap_or_default();
    println!("  check  {first}");
    let bundle = exporter.bundle(&label)?;
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(bundle.join("manifest.json"))?)?;
    println!(
        "  bundle {} files in {}",
        manifest["files"].as_array().map_or(0, Vec::len),
        bundle.display()
    );
    println!("  live   {status}: {}", reason.trim());
    let bundled = manifest["verdict"].as_str().unwrap_or_default();
    for (what, text) in [
        ("page", title.as_str()),
        ("check", first),
        ("bundle", bundled),
        ("live", reason.as_str()),
    ] {
        ensure!(
            text.contains(&verdict),
            "the {what} does not say \"{verdict}...\": {text}"
        );
    }
    Ok(())
}

/// Kills and restarts the broker, as a failed liveness probe would, and waits for its recovery. Returns false if the user
/// stops the demo.
fn restart_and_recover(
    cluster: &mut Cluster,
    exporter: &Exporter,
    sick: i32,
    stop: &Receiver<()>,
) -> Result<bool> {
    println!(
        "\nRestarting broker {sick} with SIGKILL, because a shutdown would wait for the deadlocked threads."
    );
    cluster.kill(sick)?;
    cluster.start_again(sick)?;
    let started = Instant::now();
    let label = exporter.label(&exporter.scrape()?, sick);
    let recovered = format!("Broker {label} has recovered");
    let mut last = String::new();
    while !last.starts_with(&recovered) {
        ensure!(
            started.elapsed() < Duration::from_secs(120),
            "the exporter did not report the recovery: {last}"
        );
        if stop_requested(stop, Duration::from_millis(500)) {
            return Ok(false);
        }
        let answer: serde_json::Value = serde_json::from_str(&exporter.get("/api/v1/brokers")?)?;
        let brokers = answer["brokers"].as_array().into_iter().flatten();
        let verdict = brokers
            .filter(|broker| broker["broker"] == label.as_str())
            .find_map(|broker| broker["verdict"].as_str());
        let verdict = verdict.unwrap_or_default();
        if verdict != last {
            println!("  +{:.0} s  {verdict}", started.elapsed().as_secs_f32());
            last = verdict.to_owned();
        }
    }
    cluster.wait_fully_replicated(Duration::from_secs(30))?;
    println!("  Metadata agrees: every partition is fully replicated again.");
    print_readings(cluster, Some(exporter), "after")?;
    Ok(true)
}

/// Prints the alerts that have reached the pager since the last call.
fn print_notifications(monitoring: &Monitoring, formed: Instant) {
    let notifications = monitoring
        .notifications
        .try_iter()
        .filter(|notification| notification.path == "/pager");
    for notification in notifications {
        let after = notification
            .at
            .saturating_duration_since(formed)
            .as_secs_f32();
        for alert in notification.alerts().unwrap_or_default() {
            let (name, text) = (
                &alert["labels"]["alertname"],
                &alert["annotations"]["description"],
            );
            println!(
                "  pager, {after:.0} s after the deadlock: {name} {}: {text}\n",
                alert["status"]
            );
        }
    }
}

/// Waits for `time`. Returns true if the user stops the demo.
fn stop_requested(stop: &Receiver<()>, time: Duration) -> bool {
    !matches!(stop.recv_timeout(time), Err(RecvTimeoutError::Timeout))
}

fn wait_until_reported(
    exporter: &Exporter,
    sick: i32,
    formed: Instant,
    stop: &Receiver<()>,
) -> Result<Duration> {
    let mut reported = None;
    loop {
        let scrape = exporter.scrape()?;
        let deadlock = |id| exporter.value(&scrape, "deadlock_detected", id, "");
        if deadlock(sick) == Some(1.0) {
            let after = *reported.get_or_insert_with(|| formed.elapsed());
            // The followers were stopped for a moment, so their next dumps can come later.
            let others = BROKERS.into_iter().filter(|id| *id != sick).map(deadlock);
            let others: Vec<_> = others.collect();
            if others.iter().all(|other| *other == Some(0.0)) {
                return Ok(after);
            }
            ensure!(
                !others.contains(&Some(1.0)) && formed.elapsed() < LAST_VIEW_WITHIN,
                "deadlock_detected of the other brokers is {others:?}, not 0"
            );
        }
        ensure!(
            reported.is_some() || formed.elapsed() < REPORTED_WITHIN,
            "the exporter did not report the deadlock within {} s",
            REPORTED_WITHIN.as_secs()
        );
        if stop_requested(stop, Duration::from_millis(100)) {
            bail!("stopped before the exporter reported the deadlock");
        }
    }
}

fn print_header() {
    println!(
        "\n{:>7} {:>6}   {:<44} one scrape of the exporter",
        "", "broker", "tools: ls /proc/PID/fd, ss, kafka-topics"
    );
}

/// Names a moment by the time since `start`, for [`print_readings`].
pub fn seconds_since(start: Instant) -> String {
    format!("+{:.0} s", start.elapsed().as_secs_f32())
}

/// Prints a line for each broker: the readings of the tools, and those of the exporter if there is one.
pub fn print_readings(cluster: &Cluster, exporter: Option<&Exporter>, when: &str) -> Result<()> {
    let partitions = cli_tools::described_partitions(&cluster.topics_describe()?);
    let scrape = exporter
        .map(Exporter::scrape)
        .transpose()?
        .unwrap_or_default();
    for node in cluster.brokers() {
        let led = partitions
            .iter()
            .filter(|partition| partition.leader == Some(node.id()));
        let alone = led
            .filter(|partition| partition.isr.len() == 1 && partition.replicas.len() > 1)
            .count();
        let by_tools = format!(
            "{:>4} handles {:>4} CLOSE_WAIT  ISR alone {alone:>2}",
            cli_tools::open_handles(node.pid()?)?,
            cli_tools::sockets(cluster.cell(), "close-wait", node.port())?,
        );
        let ours = exporter.map_or(String::new(), |exporter| {
            let shown = |name, labels| {
                let value = exporter.value(&scrape, name, node.id(), labels);
                value.map_or("?".to_owned(), |value| value.to_string())
            };
            format!(
                "{:>4} handles {:>4} CLOSE_WAIT  ISR alone {:>2}  deadlock {}",
                shown("open_file_handles", ""),
                shown("connections", ",direction=\"in\",state=\"close_wait\""),
                shown("isr_leader_alone_partitions", ""),
                shown("deadlock_detected", "")
            )
        });
        println!("{when:>7} {:>6}   {by_tools:<44} {ours}", node.id());
    }
    println!();
    Ok(())
}

/// Prints how many requests of the clients were answered.
pub fn print_clients(load: &Load, formed: Instant) {
    println!(
        "Clients: {} requests answered, {} given up",
        load.answered(),
        load.failed()
    );
    if let Some(first) = load.first_failure() {
        let after = first.saturating_duration_since(formed).as_secs_f32();
        println!("  the first gave up {after:.0} s after the deadlock");
    }
}

pub struct Exporter {
    _process: Process,
    cell: Cell,
    program: PathBuf,
    /// The folder of its evidence.
    state: PathBuf,
    /// The ports of the brokers, by id.
    ports: BTreeMap<i32, u16>,
    port: u16,
}

impl Exporter {
    fn start(cluster: &Cluster, program: &Path, state: &Path) -> Result<Exporter> {
        let cell = cluster.cell();
        let ports = cluster
            .brokers()
            .map(|node| (node.id(), node.port()))
            .collect();
        let (program, state) = (program.canonicalize()?, state.to_owned());
        let usual = std::net::TcpListener::bind(("0.0.0.0", PORT)).is_ok();
        let port = if usual {
            PORT
        } else {
            *cell.free_ports(1)?.first().context("no free port")?
        };
        let mut command = Command::new(&program);
        command
            .env_remove("STATE_DIRECTORY")
            .env("XDG_STATE_HOME", &state);
        command
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--log.level=error")
            .stdin(Stdio::null());
        let exporter = Exporter {
            _process: cell.spawn(command)?,
            cell: cell.clone(),
            program,
            state,
            ports,
            port,
        };
        let started = Instant::now();
        while !exporter.scrape().is_ok_and(|scrape| {
            exporter
                .value(&scrape, "deadlock_detected", BROKERS[2], "")
                .is_some()
        }) {
            ensure!(
                started.elapsed() < Duration::from_secs(20),
                "the exporter did not find the brokers"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(exporter)
    }

    fn get(&self, path: &str) -> Result<String> {
        let (status, body) = self
            .cell
            .http_get(self.port, path, Duration::from_secs(5))?;
        ensure!(status == 200, "GET {path}: status {status}");
        Ok(body)
    }

    /// Runs a command of the program against this exporter and returns its output.
    fn command(&self, name: &str) -> Result<String> {
        let mut command = Command::new(&self.program);
        command
            .arg(name)
            .arg(format!("--address=127.0.0.1:{}", self.port));
        let output = self.cell.run_tool(command, Duration::from_secs(60))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Returns the newest bundle of the broker with this label.
    fn bundle(&self, label: &str) -> Result<PathBuf> {
        let folder = self.state.join("kafka-vitals/evidence");
        let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        let own = entries.flatten().filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .ends_with(&format!("-broker-{label}"))
        });
        let bundles = own
            .map(|entry| entry.path())
            .filter(|path| path.join("manifest.json").is_file());
        bundles
            .max()
            .with_context(|| format!("no bundle in {}", folder.display()))
    }

    /// Asks the liveness probe of the broker with this label; returns status and reason.
    fn live(&self, label: &str) -> Result<(u16, String)> {
        let path = format!("/brokers/{label}/live");
        let time = Duration::from_secs(5);
        Ok(self.cell.http_get(self.port, &path, time)?)
    }

    fn scrape(&self) -> Result<String> {
        self.get("/metrics")
    }

    /// Returns a value of a scrape by the name of the series, the broker, and further labels.
    fn value(&self, scrape: &str, name: &str, broker: i32, labels: &str) -> Option<f64> {
        let series = format!(
            "kafka_vitals_{name}{{broker=\"{}\"{labels}}} ",
            self.label(scrape, broker)
        );
        scrape
            .lines()
            .find_map(|line| line.strip_prefix(&series))?
            .parse()
            .ok()
    }

    /// Returns the label of a broker: `217@PORT` if another cluster on this host has the same id.
    fn label(&self, scrape: &str, broker: i32) -> String {
        let shared = self
            .ports
            .get(&broker)
            .map(|port| format!("{broker}@{port}"));
        shared
            .filter(|shared| scrape.contains(&format!("broker=\"{shared}\"")))
            .unwrap_or_else(|| broker.to_string())
    }

    /// Returns the heading of the page.
    fn page_title(&self) -> Result<String> {
        let page = self.get("/")?;
        let title = page
            .split_once("<h1>")
            .and_then(|(_, rest)| rest.split_once("</h1>"));
        Ok(title.context("the page has no heading")?.0.to_owned())
    }
}
