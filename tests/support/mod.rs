//! The exporter beside a cluster of the lab.
#![allow(dead_code)] // each test binary uses a part
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod agree;
pub mod evidence;
pub mod fakes;
pub mod stalls;
pub mod tools;
pub mod trouble;
pub mod verdict;
pub mod versions;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::{Cell, Process};

/// A running exporter, started as a user would: with nothing but the address to serve on.
pub struct Exporter {
    pub process: Process,
    pub port: u16,
    cell: Cell,
}

impl Exporter {
    pub fn start(cell: &Cell) -> Exporter {
        Exporter::start_with(cell, "", |_| {})
    }

    /// With a config file of these contents, where there are any, and further arguments, or its log elsewhere.
    pub fn start_with(cell: &Cell, config: &str, change: impl FnOnce(&mut Command)) -> Exporter {
        let port = cell.free_ports(1).unwrap()[0];
        let mut command = Command::new(env!("CARGO_BIN_EXE_kafka-vitals"));
        command
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null());
        // Evidence of what is tested does not belong among that of the machine.
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
            cell: cell.clone(),
        };
        wait_for("the exporter to be ready", Duration::from_secs(10), || {
            cell.http_get(port, "/-/ready", Duration::from_secs(1))
                .is_ok_and(|(status, _)| status == 200)
        });
        exporter
    }

    /// The text of one scrape.
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

    /// Status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.cell
            .http_get(self.port, path, Duration::from_secs(5))
            .unwrap()
    }
}

/// Series of one scrape, by name and labels as the text format writes them, without the metrics' prefix.
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

    /// None where the series is absent: unknown.
    pub fn get(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    pub fn of(&self, name: &str, broker: i32) -> Option<f64> {
        self.get(&format!("{name}{{broker=\"{broker}\"}}"))
    }

    /// Whether a collector's last run read everything.
    pub fn success(&self, broker: i32, collector: &str) -> Option<bool> {
        let success = self.get(&format!(
            "collector_success{{broker=\"{broker}\",collector=\"{collector}\"}}"
        ));
        success.map(|success| success == 1.0)
    }
}

/// Asks again and again until `holds`, with a bound that only a fault reaches.
#[track_caller]
pub fn wait_for(what: &str, time: Duration, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < time, "waited {time:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asks again and again until nothing is amiss; a fault is told with what is.
#[track_caller]
pub fn wait_until_none<T: std::fmt::Debug>(
    what: &str,
    time: Duration,
    mut amiss: impl FnMut() -> Vec<T>,
) {
    let mut last = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < time {
        last = amiss();
        if last.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("waited {time:?} for {what}: {last:#?}");
}

#[allow(unused_imports)] // as above
pub use lab::skip;
