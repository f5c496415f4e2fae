//! Records the series that Prometheus has of an incident, as input of a promtool test: a minute without a fault, the
//! deadlock under impatient clients, the restart.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use lab::{Cluster, ClusterOptions, Form, Load, Monitoring, deadlock};
use serde_json::Value;

/// The time from the deadlock to the restart.
const DEADLOCKED: Duration = Duration::from_secs(220);
/// The time after the restart.
const RECOVERING: Duration = Duration::from_secs(150);
/// Seconds between two samples, as between two scrapes.
const STEP: u64 = 10;

/// Replaces the `input_series` of the test file `to` and leaves its expectations as they are.
pub fn record_alerts(to: &Path, alerts: &Path, exporter: &Path) -> Result<()> {
    let test = fs::read_to_string(to)?;
    let (head, rest) = test
        .split_once("    input_series:\n")
        .context("no input_series in the test")?;
    let (_, tail) = rest
        .split_once("    promql_expr_test:\n")
        .context("no promql_expr_test in the test")?;

    let mut cluster = Cluster::start(ClusterOptions::incident())?;
    let cell = cluster.cell().clone();
    cluster.create_topic(deadlock::TOPIC, 32, 3)?;
    let port = *cell.free_ports(1)?.first().context("no free port")?;
    let folder = tempfile::tempdir_in(exporter.parent().context("no folder")?)?;
    let mut command = Command::new(exporter.canonicalize()?);
    command
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::null());
    command
        .arg("--evidence.dir")
        .arg(folder.path().join("evidence"));
    let _exporter = cell.spawn(command)?;
    let monitoring = Monitoring::start(&cell, alerts, folder.path(), port)?;
    let load = Load::start(&cluster)?;
    sleep(Duration::from_secs(30));

    let started = SystemTime::now();
    let since = || started.elapsed().map(|time| time.as_secs());
    sleep(Duration::from_secs(45));
    let made = deadlock::make(&cluster, Form::Expire)?;
    println!(
        "broker {} is deadlocked; jstack confirmed it {} s after the start",
        made.broker,
        since()?
    );
    sleep(DEADLOCKED);
    drop(load);
    let sick = made.broker;
    drop(made);
    cluster.kill(sick)?;
    println!("killed {} s after the start", since()?);
    cluster.start_again(sick)?;
    println!("started again {} s after the start", since()?);
    sleep(RECOVERING);

    let rules = fs::read_to_string(alerts.join("kafka-vitals.rules.yml"))?;
    let words = rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names: BTreeSet<&str> = words
        .filter(|word| word.starts_with("kafka_vitals_"))
        .chain(["up"])
        .collect();
    let names: Vec<&str> = names.into_iter().collect();
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map(|time| time.as_secs());
    let (start, end) = (seconds(started)?, seconds(SystemTime::now())?);
    let mut promtool = Command::new("promtool");
    promtool.args([
        "query",
        "range",
        "-o",
        "json",
        &format!("--start={start}"),
        &format!("--end={end}"),
    ]);
    promtool.args([
        &format!("--step={STEP}s"),
        &format!("http://127.0.0.1:{}", monitoring.prometheus),
    ]);
    promtool.arg(format!(
        "{{__name__=~\"{}\", job=\"kafka-vitals\"}}",
        names.join("|")
    ));
    let output = cell.run_tool(promtool, Duration::from_secs(60))?;
    ensure!(
        output.status.success(),
        "promtool: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let series: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let mut lines: Vec<String> = Vec::new();
    for one in &series {
        let mut samples = vec![None; ((end - start) / STEP + 1) as usize];
        for sample in one["values"].as_array().context("no values")? {
            let at = (sample[0].as_f64().context("no time")? as u64 - start) / STEP;
            *samples
                .get_mut(at as usize)
                .context("a sample outside the range")? = sample[1].as_str();
        }
        // No rule matches a series that is always infinite.
        if samples.iter().flatten().any(|value| *value != "+Inf") {
            let values = notation(&samples);
            lines.push(format!(
                "      - series: '{}'\n        values: '{values}'\n",
                name(&one["metric"])?
            ));
        }
    }
    lines.sort();
    fs::write(
        to,
        format!(
            "{head}    input_series:\n{}    promql_expr_test:\n{tail}",
            lines.concat()
        ),
    )?;
    println!(
        "{} series of {} samples in {}",
        lines.len(),
        (end - start) / STEP + 1,
        to.display()
    );
    Ok(())
}

/// Writes the name and labels of a series. The instance is fixed, because the exporter's port differs in each run.
fn name(metric: &Value) -> Result<String> {
    let metric = metric.as_object().context("no labels")?;
    let labels = metric
        .iter()
        .filter(|(label, _)| *label != "__name__")
        .map(|(label, value)| {
            if label == "instance" {
                "instance=\"k:10052\"".to_owned()
            } else {
                format!("{label}={value}")
            }
        });
    let labels: Vec<String> = labels.collect();
    Ok(format!(
        "{}{{{}}}",
        metric["__name__"].as_str().context("no name")?,
        labels.join(",")
    ))
}

/// Writes samples in promtool's notation: `1x2` is 1 three times, `_` is no sample, `stale` ends a series as Prometheus
/// does.
fn notation(samples: &[Option<&str>]) -> String {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < samples.len() {
        let run = samples[at..]
            .iter()
            .take_while(|sample| **sample == samples[at])
            .count();
        parts.push(match samples[at] {
            Some("+Inf") => vec!["Inf"; run].join(" "),
            Some(value) if run > 1 => format!("{value}x{}", run - 1),
            Some(value) => value.to_owned(),
            None if at > 0 && run > 1 => format!("stale _x{}", run - 1),
            None if at > 0 => "stale".to_owned(),
            None => format!("_x{run}"),
        });
        at += run;
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_become_promtools_notation() {
        let samples = [
            None,
            None,
            Some("1"),
            Some("1"),
            Some("1"),
            None,
            Some("+Inf"),
            Some("+Inf"),
            Some("7"),
            None,
            None,
        ];
        assert_eq!(notation(&samples), "_x2 1x2 stale Inf Inf 7 stale _x1");
    }
}
