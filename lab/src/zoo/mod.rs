//! The zoo: every kind of half-dead broker, made on real brokers, and what the exporters beside them say, and when.
//!
//! Each broker has a host of its own ([`crate::hosts`]) with an exporter that has no setting. A [`Scenario`] strikes and
//! heals; [`clients`] suffer, [`watch`] reads the exporters, and [`score`] compares, by pure functions.

pub mod clients;
mod cluster;
mod disks;
mod known;
mod network;
mod process;
pub mod report;
pub mod scenario;
pub mod score;
pub mod stage;
mod stress;
mod threads;
pub mod watch;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use report::{Outcome, Stressed, Table, version_of};
use scenario::Scenario;
use score::{Observed, Score, score};
use stage::Stage;

use crate::cluster::Cluster;

/// The versions of all scenarios that their brokers can have.
pub const VERSIONS: [&str; 2] = ["0.10.1.0", "4.3.0"];
/// These have one deadlock each.
pub const OTHER_VERSIONS: [&str; 2] = ["0.10.1.1", "2.1.0"];
pub fn all_versions() -> Vec<String> {
    [VERSIONS, OTHER_VERSIONS]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect()
}

/// How long it is watched after everything expected has been said.
const AFTERWARDS: Duration = Duration::from_secs(10);
/// In this time wrong words come too.
const AT_LEAST: Duration = Duration::from_secs(25);
const HEALTHY_AGAIN: Duration = Duration::from_secs(90);
/// How long all must be healthy before the next strike.
const CALM: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(250);

pub struct Options {
    pub exporter: PathBuf,
    pub versions: Vec<String>,
    /// The names of scenarios; all where there is none.
    pub only: Vec<String>,
    /// Whether scenarios run at all.
    pub scenarios: bool,
    /// How long healthy brokers are put under stress, on each version.
    pub healthy: Duration,
    /// The folder for the logs of exporters and brokers.
    pub logs: PathBuf,
    /// The table, which is written after every scenario; what it has of others stays.
    pub table: Option<PathBuf>,
}

/// Runs the scenarios of every version. `stop` ends it after the present one.
pub fn run(options: &Options, stop: &Receiver<()>) -> Result<()> {
    let known: Vec<_> = scenario::all().iter().map(|one| one.about().name).collect();
    for name in &options.only {
        ensure!(
            known.contains(&name.as_str()),
            "there is no scenario {name}: {}",
            known.join(", ")
        );
    }
    let exporter = version_of(&options.exporter)?;
    let mut table = match &options.table {
        Some(file) => Table::read(file)?,
        None => Table::default(),
    };
    for version in &options.versions {
        let mut stage: Option<Stage> = None;
        for mut scenario in scenario::all() {
            let name = scenario.about().name;
            let chosen = options.only.iter().any(|only| only == name);
            let wanted = options.scenarios && (options.only.is_empty() || chosen);
            if !wanted || !scenario.runs_on(version) {
                continue;
            }
            if !matches!(
                stop.recv_timeout(Duration::ZERO),
                Err(RecvTimeoutError::Timeout)
            ) {
                return Ok(());
            }
            let logs = options.logs.join(format!("{version}-{name}"));
            std::fs::create_dir_all(&logs)?;
            let score = one(version, options, &logs, &mut stage, scenario.as_mut());
            let outcome = Outcome::new(scenario.as_ref(), version, &exporter, score);
            println!("{}", outcome.line());
            if !outcome.well_afterwards() {
                stage = None;
            }
            table.put(outcome);
            options.write(&table)?;
        }
        drop(stage);
        if !options.healthy.is_zero() && VERSIONS.contains(&version.as_str()) {
            let logs = options.logs.join(format!("{version}-healthy"));
            std::fs::create_dir_all(&logs)?;
            let stressed = stressed(version, &exporter, options, &logs, stop)?;
            table.put_stressed(version, stressed);
            options.write(&table)?;
        }
    }
    Ok(())
}

impl Options {
    fn write(&self, table: &Table) -> Result<()> {
        self.table.as_ref().map_or(Ok(()), |file| table.write(file))
    }
}

/// Puts healthy brokers under one stress after the other until the time is over.
fn stressed(
    version: &str,
    exporter: &str,
    options: &Options,
    logs: &Path,
    stop: &Receiver<()>,
) -> Result<Vec<Stressed>> {
    let mut stage = Stage::start(version, &options.exporter, logs, |_| {}, |_| Ok(()))?;
    let start = Instant::now();
    let mut all = Vec::new();
    for stress in stress::ALL.iter().cycle() {
        let stopped = !matches!(
            stop.recv_timeout(Duration::ZERO),
            Err(RecvTimeoutError::Timeout)
        );
        if start.elapsed() > options.healthy || stopped {
            return Ok(all);
        }
        stage.watch.forget();
        let struck = Instant::now();
        let acted = (stress.act)(&mut stage);
        let healed = Instant::now();
        while healed.elapsed() < HEALTHY_AGAIN && !stage.all_healthy() {
            std::thread::sleep(TICK);
        }
        let observed = Observed {
            struck,
            healed,
            sick: stress.out.to_vec(),
            said: stage.watch.said(),
            complaints: stage.clients.complaints_since(struck),
        };
        let file = format!(
            "{}-{}.txt",
            all.len(),
            stress.name.replace([' ', '%', ','], "-")
        );
        report::write_said(&logs.join(file), &observed)?;
        let one = Stressed {
            version: version.into(),
            name: stress.name.into(),
            exporter: exporter.into(),
            seconds: struck.elapsed().as_secs_f64(),
            wrong: score(&stress::NOTHING, &observed).wrong,
            failed: acted.err().map(|error| format!("{error:#}")),
        };
        println!("{}", one.line());
        all.push(one);
    }
    Ok(all)
}

fn one(
    version: &str,
    options: &Options,
    logs: &Path,
    stage: &mut Option<Stage>,
    scenario: &mut dyn Scenario,
) -> Result<Score> {
    let mut own = None;
    let stage = match scenario.change() {
        Some(change) => {
            let furnish = |cluster: &Cluster| scenario.furnish(cluster);
            own.insert(Stage::start(
                version,
                &options.exporter,
                logs,
                change,
                furnish,
            )?)
        }
        None => match stage {
            Some(stage) => stage,
            None => stage.insert(Stage::start(
                version,
                &options.exporter,
                logs,
                |_| {},
                |_| Ok(()),
            )?),
        },
    };
    let observed = observe(stage, scenario);
    for node in stage.cluster.nodes() {
        std::fs::write(logs.join(format!("broker-{}.log", node.id())), node.log()?)?;
    }
    let observed = observed?;
    report::write_said(&logs.join("said.txt"), &observed)?;
    let score = score(&scenario.about().expected, &observed);
    ensure!(stage.exporters_run()?, "an exporter has ended");
    Ok(score)
}

fn observe(stage: &mut Stage, scenario: &mut dyn Scenario) -> Result<Observed> {
    stage.watch.forget();
    stage.elect()?;
    scenario.prepare(stage)?;
    calm(stage)?;
    let struck = match scenario.strike(stage) {
        Ok(struck) => struck,
        // What stands half done must not outlive it: nothing ends a process that waits for a frozen disk.
        Err(error) => {
            let _ = scenario.heal(stage);
            return Err(error);
        }
    };
    let mut observed = Observed {
        struck: struck.at,
        healed: struck.at + scenario.lasts(),
        sick: struck.sick,
        said: Vec::new(),
        complaints: Vec::new(),
    };
    let expected = scenario.about().expected;
    let mut complete = None;
    while struck.at.elapsed() < scenario.lasts() {
        std::thread::sleep(TICK);
        observed.said = stage.watch.said();
        observed.complaints = stage.clients.complaints_since(struck.at);
        let now = score(&expected, &observed);
        if now.verdict.is_some() && now.cause.is_some() && now.harm.is_some() {
            let since = *complete.get_or_insert_with(Instant::now);
            if since.elapsed() > AFTERWARDS && struck.at.elapsed() > AT_LEAST {
                break;
            }
        }
    }
    observed.healed = Instant::now();
    scenario.heal(stage)?;
    // From here on nothing of the lab stands in the way.
    let mended = Instant::now();
    while mended.elapsed() < HEALTHY_AGAIN {
        std::thread::sleep(TICK);
        observed.said = stage.watch.said();
        if score(&expected, &observed).healthy.is_some() {
            break;
        }
    }
    observed.said = stage.watch.said();
    observed.complaints = stage.clients.complaints_since(struck.at);
    Ok(observed)
}

/// Waits until all is healthy and no client has complained for a while.
fn calm(stage: &Stage) -> Result<()> {
    stage.wait_known()?;
    let start = Instant::now();
    let mut since = start;
    while since.elapsed() < CALM {
        ensure!(
            start.elapsed() < Duration::from_secs(120),
            "clients are harmed, or a broker is not healthy, before the strike: {:?} {:#?}",
            stage.clients.complaints_since(since).first(),
            stage.watch.now()
        );
        std::thread::sleep(TICK);
        let harmed = stage.clients.complaints_since(since);
        if harmed.iter().any(|one| one.failed) || !stage.all_healthy() {
            since = Instant::now();
        }
    }
    Ok(())
}
