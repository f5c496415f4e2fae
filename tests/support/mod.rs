//! Runs the exporter beside a cluster of the lab.
#![allow(dead_code)] // each test binary uses a part
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod agree;
pub mod evidence;
pub mod fakes;
pub mod groups;
pub mod metadata_log;
pub mod secured;
pub mod stalls;
pub mod tools;
pub mod trouble;
pub mod verdict;
pub mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::{Cell, Process};

/// A running exporter, started as a user would: with only the address to serve on.
pub struct Exporter {
    pub process: Process,
    pub port: u16,
    cell: Cell,
}

impl Exporter {
    pub fn start(cell: &Cell) -> Exporter {
        Exporter::start_with(cell, "", |_| {})
    }

    /// Starts it with a config file of this content, unless that is empty; `change` adds arguments or redirects the log.
    pub fn start_with(cell: &Cell, config: &str, change: impl FnOnce(&mut Command)) -> Exporter {
        Exporter::start_in(cell, cell, config, change)
    }

    /// As [`Exporter::start_with`], but `change` moves it into the network of another cell, where it is asked.
    pub fn start_in(
        cell: &Cell,
        network: &Cell,
        config: &str,
        change: impl FnOnce(&mut Command),
    ) -> Exporter {
        let port = network.free_ports(1).unwrap()[0];
        let mut command = Command::new(env!("CARGO_BIN_EXE_kafka-vitals"));
        command
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null());
        // Evidence of a test does not belong among that of the machine.
        command
            .env("XDG_STATE_HOME", env!("CARGO_TARGET_TMPDIR"))
            .env_remove("STATE_DIRECTORY");
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        if !config.is_empty() {
            std::fs::write(file.path(), config).unwrap();
            command.arg("--config.file").arg(file.path());
        }
        change(&mut command);
        let exporter = Exporter {
            process: cell.spawn(command).unwrap(),
            port,
            cell: network.clone(),
        };
        wait_for("the exporter to be ready", Duration::from_secs(10), || {
            network
                .http_get(port, "/-/ready", Duration::from_secs(1))
                .is_ok_and(|(status, _)| status == 200)
        });
        exporter
    }

    /// Returns the text of one scrape.
    pub fn scrape(&self) -> String {
        let (status, body) = self
            .cell
            .http_get(self.port, "/metrics", Duration::from_secs(5))
            .unwrap();
        assert_eq!(status, 200);
        body
    }

    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.scrape())
    }

    pub fn page(&self) -> String {
        self.get("/").1
    }

    /// Returns status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.cell
            .http_get(self.port, path, Duration::from_secs(5))
            .unwrap()
    }
}

/// The series of one scrape, by name and labels as in the text format, without the metrics' prefix.
pub struct Metrics(pub BTreeMap<String, f64>);

impl Metrics {
    pub fn parse(text: &str) -> Metrics {
        let series = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').unwrap();
                (
                    series.trim_start_matches("kafka_vitals_").to_owned(),
                    value.parse().unwrap(),
                )
            });
        Metrics(series.collect())
    }

    /// Returns None for an absent series, whose value is unknown.
    pub fn get(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    pub fn of(&self, name: &str, broker: i32) -> Option<f64> {
        self.get(&format!("{name}{{broker=\"{broker}\"}}"))
    }

    pub fn state(&self, broker: i32, state: &str) -> Option<f64> {
        self.get(&format!(
            "broker_state{{broker=\"{broker}\",state=\"{state}\"}}"
        ))
    }

    pub fn finding(&self, broker: i32, name: &str, severity: &str) -> Option<f64> {
        self.get(&format!(
            "finding_active{{broker=\"{broker}\",finding=\"{name}\",severity=\"{severity}\"}}"
        ))
    }

    /// The names of the findings that are active, of any broker, but for what is known of its version.
    pub fn active_findings(&self) -> BTreeSet<String> {
        let active = self.0.iter().filter(|(_, value)| **value == 1.0);
        let names = active.filter_map(|(series, _)| {
            let (_, rest) = series
                .strip_prefix("finding_active{")?
                .split_once("finding=\"")?;
            Some(rest.split_once('"')?.0.to_owned())
        });
        names.filter(|name| name != "known_issue_exposed").collect()
    }

    /// Whether a collector's last run read everything.
    pub fn success(&self, broker: i32, collector: &str) -> Option<bool> {
        let success = self.get(&format!(
            "collector_success{{broker=\"{broker}\",collector=\"{collector}\"}}"
        ));
        success.map(|success| success == 1.0)
    }
}

/// Polls until `holds` returns true. Only a fault reaches the time limit.
#[track_caller]
pub fn wait_for(what: &str, time: Duration, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < time, "waited {time:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Polls until `remaining` returns nothing, and fails with what remains at the time limit.
#[track_caller]
pub fn wait_until_none<T: std::fmt::Debug>(
    what: &str,
    time: Duration,
    mut remaining: impl FnMut() -> Vec<T>,
) {
    let mut last = Vec::new();
    let start = Instant::now();
    while start.elapsed() < time {
        last = remaining();
        if last.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("waited {time:?} for {what}: {last:#?}");
}

/// Runs one step of a scenario and prints its name with the time it took; a failed step is marked.
#[track_caller]
pub fn step<T>(name: &str, run: impl FnOnce() -> T) -> T {
    struct Step<'a>(&'a str, Instant);
    impl Drop for Step<'_> {
        fn drop(&mut self) {
            let outcome = if std::thread::panicking() {
                "FAILED"
            } else {
                "ok"
            };
            println!("step {outcome} ({:.1?}): {}", self.1.elapsed(), self.0);
        }
    }
    let _step = Step(name, Instant::now());
    run()
}

#[allow(unused_imports)] // as above
pub use lab::skip;

/// The option of a JVM by which the rules in this file of `tests/fixtures` hold.
pub fn byteman(rules: &str) -> String {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    lab::jars::byteman(&format!("{fixtures}/{rules}")).unwrap()
}

/// As [`byteman`], for rules that wait for a file in the folder `lab.harm`: the options, and that folder, which is empty.
pub fn byteman_on_demand(rules: &str, folder: &str) -> (Vec<String>, PathBuf) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).unwrap();
    let harm = format!("-Dlab.harm={}", folder.display());
    (vec![byteman(rules), harm], folder)
}
