//! The demonstration: the incident on three real brokers, looked at by hand and by the exporter, side by side.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::{Cell, Cluster, ClusterOptions, Form, Load, Monitoring, Process, deadlock, hand};

const BROKERS: [i32; 3] = [217, 218, 219];
/// The exporter's own port; another free one where it is taken.
const PORT: u16 = 10052;
/// The deadlock must be told within this time.
const TOLD_WITHIN: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_secs(5);

/// Runs it. `time` is how long the brokers are watched after the deadlock.
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

    let begun = Instant::now();
    header();
    look(&cluster, Some(&exporter), None)?;
    if paused(stop, TICK) {
        return Ok(());
    }
    look(&cluster, Some(&exporter), None)?;

    println!(
        "\nMaking the deadlock by requests alone (offset commits that meet expiring sessions, KAFKA-3994; meanwhile its followers are stopped for a moment) ..."
    );
    let made = deadlock::make(&cluster, Form::Expire)?;
    let formed = made.followers_continued;
    let told = wait_until_told(&exporter, made.broker, formed, stop)?;
    println!(
        "\n  {:4.1} s after it formed: kafka_vitals_deadlock_detected{{broker=\"{}\"}} 1, and 0 for the others",
        told.as_secs_f32(),
        made.broker
    );
    println!("  the page says:  {}", exporter.page_title()?);
    println!("  jstack, run by hand, agrees:");
    for line in made
        .report
        .lines()
        .filter(|line| line.starts_with('"') || line.contains("which is held by"))
    {
        println!("      {}", line.trim());
    }
    println!(
        "\nNow it unfolds. The broker's port still accepts, ZooKeeper still lists it, its log is quiet."
    );
    header();
    while formed.elapsed() < time {
        look(&cluster, Some(&exporter), Some(formed))?;
        pager(&monitoring, formed);
        if paused(stop, TICK) {
            return Ok(());
        }
    }
    println!();
    clients(&load, formed);
    println!(
        "The exporter knew {:.0} s after the deadlock.",
        told.as_secs_f32()
    );
    drop(load);
    agree(&exporter, made.broker)?;
    if !cure(&mut cluster, &exporter, made.broker, stop)? {
        return Ok(());
    }
    pager(&monitoring, formed);
    println!(
        "Watched for {:.0} s in all. Ending the exporter, the brokers and ZooKeeper.",
        begun.elapsed().as_secs_f32()
    );
    Ok(())
}

/// Page, `check`, evidence and liveness probe say the same.
fn agree(exporter: &Exporter, sick: i32) -> Result<()> {
    let title = exporter.page_title()?;
    let label = exporter.label(&exporter.scrape()?, sick);
    let verdict = format!("Broker {label} is alive but deadlocked since ");
    println!("\nWhat each of them says now:\n  page   {title}");
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
    let path = format!("/brokers/{label}/live");
    let (status, reason) = exporter
        .cell
        .http_get(exporter.port, &path, Duration::from_secs(5))?;
    println!("  live   {status}: {}", reason.trim());
    let told = manifest["verdict"].as_str().unwrap_or_default();
    for (what, text) in [
        ("page", title.as_str()),
        ("check", first),
        ("bundle", told),
        ("live", reason.as_str()),
    ] {
        ensure!(
            text.contains(&verdict),
            "the {what} says something else than \"{verdict}...\": {text}"
        );
    }
    ensure!(status == 503, "the liveness probe of broker {label} passes");
    Ok(())
}

/// What the probe asks for: kill and restart. False when the user wants it to end.
fn cure(
    cluster: &mut Cluster,
    exporter: &Exporter,
    sick: i32,
    stop: &Receiver<()>,
) -> Result<bool> {
    println!(
        "\nRestarting broker {sick}: SIGKILL, for its shutdown would wait for the very threads that hang."
    );
    cluster.kill(sick)?;
    cluster.start_again(sick)?;
    let begun = Instant::now();
    let label = exporter.label(&exporter.scrape()?, sick);
    let recovered = format!("Broker {label} has recovered");
    let mut told = String::new();
    while !told.starts_with(&recovered) {
        ensure!(
            begun.elapsed() < Duration::from_secs(120),
            "the recovery was not told: {told}"
        );
        if paused(stop, Duration::from_millis(500)) {
            return Ok(false);
        }
        let answer: serde_json::Value = serde_json::from_str(&exporter.get("/api/v1/brokers")?)?;
        let brokers = answer["brokers"].as_array().into_iter().flatten();
        let verdict = brokers
            .filter(|broker| broker["broker"] == label.as_str())
            .find_map(|broker| broker["verdict"].as_str());
        let verdict = verdict.unwrap_or_default();
        if verdict != told {
            println!("  +{:.0} s  {verdict}", begun.elapsed().as_secs_f32());
            told = verdict.to_owned();
        }
    }
    cluster.wait_whole(Duration::from_secs(30))?;
    println!("  kafka-topics agrees: every partition has its whole ISR again.");
    look(cluster, Some(exporter), None)?;
    Ok(true)
}

/// What has reached the pager since the last look.
fn pager(monitoring: &Monitoring, formed: Instant) {
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

/// True when the user wants it to end.
fn paused(stop: &Receiver<()>, time: Duration) -> bool {
    !matches!(stop.recv_timeout(time), Err(RecvTimeoutError::Timeout))
}

fn wait_until_told(
    exporter: &Exporter,
    sick: i32,
    formed: Instant,
    stop: &Receiver<()>,
) -> Result<Duration> {
    loop {
        let scrape = exporter.scrape()?;
        let deadlock = |id| exporter.value(&scrape, "deadlock_detected", id, "");
        if deadlock(sick) == Some(1.0) {
            for id in BROKERS.into_iter().filter(|id| *id != sick) {
                let others = deadlock(id);
                ensure!(
                    others == Some(0.0),
                    "deadlock_detected of broker {id} is {others:?}, not 0"
                );
            }
            return Ok(formed.elapsed());
        }
        ensure!(
            formed.elapsed() < TOLD_WITHIN,
            "the deadlock was not told within {} s",
            TOLD_WITHIN.as_secs()
        );
        if paused(stop, Duration::from_millis(100)) {
            bail!("ended before the deadlock was told");
        }
    }
}

fn header() {
    println!(
        "\n{:>7} {:>6}   {:<44} one scrape of the exporter",
        "", "broker", "by hand: ls /proc/PID/fd, ss, kafka-topics"
    );
}

/// A line for each broker: what the tools of the incident say, and what the exporter says, where there is one.
pub fn look(cluster: &Cluster, exporter: Option<&Exporter>, formed: Option<Instant>) -> Result<()> {
    let clock = formed.map_or("before".into(), |formed| {
        format!("+{:.0} s", formed.elapsed().as_secs_f32())
    });
    let partitions = hand::described_partitions(&cluster.topics_describe()?);
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
        let by_hand = format!(
            "{:>4} handles {:>4} CLOSE_WAIT  ISR alone {alone:>2}",
            hand::open_handles(node.pid()?)?,
            hand::sockets(cluster.cell(), "close-wait", node.port())?,
        );
        let ours = exporter.map_or(String::new(), |exporter| {
            let shown = |name, labels| {
                let value = exporter.value(&scrape, name, node.id(), labels);
                value.map_or("?".to_owned(), |value| value.to_string())
            };
            format!(
                "{:>4} handles {:>4} CLOSE_WAIT  ISR alone {:>2}  deadlock {}",
                shown("open_file_handles", ""),
                shown("connections", ",role=\"server\",state=\"close_wait\""),
                shown("isr_leader_alone_partitions", ""),
                shown("deadlock_detected", "")
            )
        });
        println!("{clock:>7} {:>6}   {by_hand:<44} {ours}", node.id());
    }
    println!();
    Ok(())
}

/// How the clients fare.
pub fn clients(load: &Load, formed: Instant) {
    println!(
        "Clients: {} requests answered, {} given up",
        load.answered(),
        load.failed()
    );
    if let Some(first) = load.first_failure() {
        let after = first.saturating_duration_since(formed).as_secs_f32();
        println!("  the first was given up {after:.0} s after the deadlock");
    }
}

pub struct Exporter {
    _process: Process,
    cell: Cell,
    program: PathBuf,
    /// Where it keeps its evidence.
    state: PathBuf,
    /// Of the brokers, by id.
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
        let begun = Instant::now();
        while !exporter.scrape().is_ok_and(|scrape| {
            exporter
                .value(&scrape, "deadlock_detected", BROKERS[2], "")
                .is_some()
        }) {
            ensure!(
                begun.elapsed() < Duration::from_secs(20),
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

    /// What a command of the program prints about this exporter.
    fn command(&self, name: &str) -> Result<String> {
        let mut command = Command::new(&self.program);
        command
            .arg(name)
            .arg(format!("--address=127.0.0.1:{}", self.port));
        let output = self.cell.run_tool(command, Duration::from_secs(60))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The newest bundle of the broker with this label.
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

    fn scrape(&self) -> Result<String> {
        self.get("/metrics")
    }

    /// A value of a scrape, by the series' name, broker, and what labels follow.
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

    /// The label of a broker: `217@PORT` where another cluster on this host has the same id.
    fn label(&self, scrape: &str, broker: i32) -> String {
        let shared = self
            .ports
            .get(&broker)
            .map(|port| format!("{broker}@{port}"));
        shared
            .filter(|shared| scrape.contains(&format!("broker=\"{shared}\"")))
            .unwrap_or_else(|| broker.to_string())
    }

    /// The page's first line.
    fn page_title(&self) -> Result<String> {
        let page = self.get("/")?;
        let title = page
            .split_once("<h1>")
            .and_then(|(_, rest)| rest.split_once("</h1>"));
        Ok(title.context("the page has no first line")?.0.to_owned())
    }
}
