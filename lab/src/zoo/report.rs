//! The table of all runs, as text and as JSON. A later run of some scenarios replaces their rows.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::scenario::Scenario;
use super::score::{Observed, Score, Summary, Wrong, summary};

/// The kinds without a scenario, by number.
const NOT_MADE: &str = "
## Not made here
- 4, a lock held while an event is awaited: on 0.10.1.0 this is the stuck controller (17), whose thread waits with its lock.
- 7, connection storm: a broker of the lab accepts faster than its clients connect; the full accept queue is 22.
- 19, an expired certificate: an expiry is known weeks before, and `tests/listeners.rs` compares it; no client is harmed
  before the day.
- 21, memory maps: `vm.max_map_count` is one for the whole machine, and would end other processes.
- 24, a stuck transaction: clients of the lab have no transactions; the stuck group is made.
- 25, half-open connections: nobody is harmed by them until handles run out, which is 6.
";

/// One scenario on one version.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub scenario: String,
    pub kind: u8,
    pub what: String,
    pub version: String,
    /// The exporter's version.
    pub exporter: String,
    /// Whether the kind must be found before the first client is harmed.
    pub before_harm: bool,
    /// The score, or why there is none.
    pub result: Result<Score, String>,
}

impl Outcome {
    pub fn new(
        scenario: &dyn Scenario,
        version: &str,
        exporter: &str,
        score: Result<Score>,
    ) -> Outcome {
        let about = scenario.about();
        Outcome {
            scenario: about.name.into(),
            kind: about.kind,
            what: about.what.into(),
            version: version.into(),
            exporter: exporter.into(),
            before_harm: about.expected.before_harm,
            result: score.map_err(|error| format!("{error:#}")),
        }
    }

    /// Whether its cluster can be used for the next scenario.
    pub fn well_afterwards(&self) -> bool {
        self.result
            .as_ref()
            .is_ok_and(|score| score.healthy.is_some())
    }

    /// One line for the terminal.
    pub fn line(&self) -> String {
        let name = format!("{:9} {:28}", self.version, self.scenario);
        match &self.result {
            Err(error) => format!("{name} NOT MADE: {error}"),
            Ok(score) => {
                let mut line = format!(
                    "{name} harm {:>5} slow {:>5} suspicion {:>5} verdict {:>5} cause {:>5} healthy {:>5}  {}",
                    seconds(score.harm),
                    seconds(score.slow),
                    seconds(score.suspicion),
                    seconds(score.verdict),
                    seconds(score.cause),
                    seconds(score.healthy),
                    score.named.join(" ")
                );
                for wrong in &score.wrong {
                    let _ = write!(line, "\n    WRONG {}", wrong_text(wrong));
                }
                line
            }
        }
    }
}

/// One stress of healthy brokers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Stressed {
    pub version: String,
    pub name: String,
    /// The exporter's version.
    pub exporter: String,
    pub seconds: f64,
    pub wrong: Vec<Wrong>,
    /// Why it could not be done.
    pub failed: Option<String>,
}

impl Stressed {
    pub fn line(&self) -> String {
        let mut line = format!("{:9} {:50} {:.0} s", self.version, self.name, self.seconds);
        for wrong in &self.wrong {
            let _ = write!(line, "\n    WRONG {}", wrong_text(wrong));
        }
        if let Some(error) = &self.failed {
            let _ = write!(line, "\n    NOT DONE: {error}");
        }
        line
    }
}

fn wrong_text(wrong: &Wrong) -> String {
    format!(
        "at {:.1} s, broker {}: {}",
        wrong.at, wrong.broker, wrong.what
    )
}

/// What is known from all runs.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Table {
    pub scenarios: Vec<Outcome>,
    pub healthy: Vec<Stressed>,
}

impl Table {
    /// Reads the JSON beside the text; returns an empty one where there is none yet.
    pub fn read(text: &Path) -> Result<Table> {
        let json = text.with_extension("json");
        if !json.exists() {
            return Ok(Table::default());
        }
        let table = std::fs::read_to_string(&json)?;
        serde_json::from_str(&table).with_context(|| format!("read {}", json.display()))
    }

    /// Writes the text, and beside it the same as JSON.
    pub fn write(&self, text: &Path) -> Result<()> {
        std::fs::write(text, self.markdown())?;
        let json = json!({
            "summary": self.summary(), "scenarios": self.scenarios, "healthy": self.healthy,
        });
        let json = serde_json::to_string_pretty(&json)?;
        Ok(std::fs::write(text.with_extension("json"), json + "\n")?)
    }

    /// In place of the row of the same scenario and version, if there is one.
    pub fn put(&mut self, outcome: Outcome) {
        let is_it = |one: &&mut Outcome| {
            (&one.scenario, &one.version) == (&outcome.scenario, &outcome.version)
        };
        match self.scenarios.iter_mut().find(is_it) {
            Some(row) => *row = outcome,
            None => self.scenarios.push(outcome),
        }
    }

    /// In place of all that this version has borne before.
    pub fn put_stressed(&mut self, version: &str, stressed: Vec<Stressed>) {
        self.healthy.retain(|one| one.version != version);
        self.healthy.extend(stressed);
    }

    fn summary(&self) -> Summary {
        let all = self.scenarios.iter();
        summary(all.filter_map(|one| Some((one.before_harm, one.result.as_ref().ok()?))))
    }

    fn markdown(&self) -> String {
        let summary = self.summary();
        let mut text = format!(
            "# The zoo: partial failures on real brokers, and what was found when\n\
             `make zoo` makes this table: three hosts (namespaces with an address, a disk and an exporter each, without a \
             setting), a fourth for ZooKeeper or the controller, and clients that give an operation 5 s with all its \
             retries. Times are seconds after the strike; harm is the first operation that failed, slow the first that \
             took more than 1 s. The verdict is the first finding that names the right component, at a broker that \
             cannot serve together with gray or down; the cause is thread, lock, link, disk or limit by name. Healthy: \
             seconds from the beginning of the heal until all brokers are healthy without a critical finding. A run of \
             some scenarios (`KAFKA_VITALS_ZOO=NAME,NAME make zoo`) replaces their rows.\n\n\
             Exporter: {}.\n\n",
            self.exporters()
        );
        let _ = writeln!(
            text,
            "| what | figure |\n|---|---|\n\
             | made, right component, exact cause | {}, {}, {} |\n\
             | verdict minus first harm, median and worst of {} | {} s, {} s |\n\
             | to be found before the harm, and were not | {} |\n\
             | wrong verdicts, wrong names | {}, {} |\n\n\
             | Kafka | failure | what is done | slow | harm | suspicion | verdict | cause | healthy | findings | wrong |\n\
             |---|---|---|---|---|---|---|---|---|---|---|",
            summary.made,
            summary.component,
            summary.cause,
            summary.compared,
            seconds(summary.median),
            seconds(summary.worst),
            summary.too_late,
            summary.wrong_verdicts,
            summary.wrong_names
        );
        for outcome in &self.scenarios {
            let head = format!(
                "| {} | {} {} | {} |",
                outcome.version, outcome.kind, outcome.scenario, outcome.what
            );
            let _ = match &outcome.result {
                Err(error) => writeln!(
                    text,
                    "{head} not made: {} | | | | | | | |",
                    error.lines().next().unwrap_or_default().replace('|', "/")
                ),
                Ok(score) => writeln!(
                    text,
                    "{head} {} | {} | {} | {} | {} | {} | {} | {} |",
                    seconds(score.slow),
                    seconds(score.harm),
                    seconds(score.suspicion),
                    seconds(score.verdict),
                    seconds(score.cause),
                    seconds(score.healthy),
                    score.named.join(", "),
                    score
                        .wrong
                        .iter()
                        .map(|wrong| format!(
                            "broker {}: {}",
                            wrong.broker,
                            wrong.what.replace('|', "/")
                        ))
                        .collect::<Vec<_>>()
                        .join("; ")
                ),
            };
        }
        text.push_str(NOT_MADE);
        if !self.healthy.is_empty() {
            self.write_stressed(&mut text);
        }
        text
    }

    /// The versions of the exporter, sorted.
    fn exporters(&self) -> String {
        let of_scenarios = self.scenarios.iter().map(|one| one.exporter.as_str());
        let of_healthy = self.healthy.iter().map(|one| one.exporter.as_str());
        let all: BTreeSet<&str> = of_scenarios.chain(of_healthy).collect();
        Vec::from_iter(all).join(", ")
    }

    fn write_stressed(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "\n## Healthy, and under stress\n\
             Brokers that are not themselves restarted, stopped or cut off must stay healthy, without a critical finding.\n\n\
             | Kafka | stress | times | minutes | wrong |\n|---|---|---|---|---|"
        );
        let mut rows: Vec<(&str, &str)> = Vec::new();
        for one in &self.healthy {
            let row = (one.version.as_str(), one.name.as_str());
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
        for row in rows {
            let of_row = |one: &&Stressed| (one.version.as_str(), one.name.as_str()) == row;
            let all: Vec<&Stressed> = self.healthy.iter().filter(of_row).collect();
            let wrong = all.iter().flat_map(|one| &one.wrong).map(wrong_text);
            let not_done = all
                .iter()
                .filter_map(|one| Some(format!("not done: {}", one.failed.as_ref()?)));
            let said: Vec<String> = wrong.chain(not_done).collect();
            let minutes = all.iter().map(|one| one.seconds).sum::<f64>() / 60.0;
            let _ = writeln!(
                text,
                "| {} | {} | {} | {minutes:.1} | {} |",
                row.0,
                row.1,
                all.len(),
                said.join("; ").replace(['|', '\n'], "/")
            );
        }
    }
}

/// What the exporter says of its version.
pub fn version_of(exporter: &Path) -> Result<String> {
    let output = std::process::Command::new(exporter)
        .arg("--version")
        .output()
        .with_context(|| format!("start {}", exporter.display()))?;
    ensure!(
        output.status.success(),
        "{}: {}",
        exporter.display(),
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn seconds(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| format!("{value:.1}"))
}

/// Writes everything that was said and suffered, for the one who looks for a reason.
pub fn write_said(file: &Path, observed: &Observed) -> Result<()> {
    let at = |at: Instant| match at.checked_duration_since(observed.struck) {
        Some(after) => format!("{:7.2}", after.as_secs_f64()),
        None => format!("{:7.2}", -(observed.struck - at).as_secs_f64()),
    };
    let mut text = format!(
        "sick {:?}, healed at {}\n",
        observed.sick,
        at(observed.healed)
    );
    for said in &observed.said {
        let _ = writeln!(
            text,
            "{} broker {} {}: {}",
            at(said.at),
            said.broker,
            said.state,
            said.verdict
        );
        for found in &said.findings {
            let _ = writeln!(
                text,
                "            {} {}: {}",
                found.severity, found.name, found.text
            );
        }
    }
    for complaint in &observed.complaints {
        let what = if complaint.failed { "failed" } else { "slow" };
        let _ = writeln!(
            text,
            "{} {} {what}: {}",
            at(complaint.at),
            complaint.client,
            complaint.why
        );
    }
    Ok(std::fs::write(file, text)?)
}
