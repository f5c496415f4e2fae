//! `/api/v1/brokers` and `/api/v1/findings`: the diagnosis for programs, documented in `docs/api.md`.

use serde::Serialize;

use crate::model::{NamedIssue, ProcessKey, StandingDeadlock, rfc3339_millis, routes};
use crate::verdict::View;
use crate::verdict::finding::{BrokerState, Finding, Forecasts, Severity};
use crate::verdict::forecast::Forecast;

/// The answer of `/api/v1/brokers` and of `check --output json`.
#[derive(Debug, Serialize)]
pub struct Brokers<'a> {
    at: String,
    brokers: Vec<BrokerEntry<'a>>,
    timeline: Vec<EventEntry<'a>>,
    /// Where discovery may have missed a broker.
    warnings: &'a [String],
}

#[derive(Debug, Serialize)]
struct BrokerEntry<'a> {
    broker: &'a str,
    id: Option<i32>,
    pid: u32,
    kafka_version: Option<&'a str>,
    java_version: Option<&'a str>,
    state: BrokerState,
    since: String,
    verdict: &'a str,
    what_to_do: &'a str,
    /// What a healthy verdict does not cover.
    unseen: &'a [&'static str],
    findings: Vec<FindingEntry<'a>>,
    known_issues: &'a [NamedIssue],
    deadlock: Option<&'a StandingDeadlock>,
    forecasts: ForecastEntry<'a>,
    recovery: Option<RecoveryEntry>,
    /// Whether the liveness probe asks for a restart, and why or why not; null for a process that has ended.
    live: Option<LiveEntry>,
}

#[derive(Debug, Serialize)]
struct FindingEntry<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    broker: Option<&'a str>,
    finding: &'static str,
    severity: Severity,
    since: String,
    /// Where it is clearing.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen: Option<String>,
    title: &'static str,
    facts: &'a [String],
    meaning: &'static str,
    what_to_do: String,
    runbook: String,
}

/// The seconds left: a number, null where nothing runs out, absent while unknown.
#[derive(Debug, Serialize)]
struct ForecastEntry<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    file_handles: Option<Option<f64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_maps: Option<Option<f64>>,
    log_dirs: std::collections::BTreeMap<&'a str, Option<f64>>,
}

#[derive(Debug, Serialize)]
struct RecoveryEntry {
    from: BrokerState,
    back: String,
    in_every_isr: Option<String>,
}

#[derive(Debug, Serialize)]
struct LiveEntry {
    restart: bool,
    reason: String,
}

#[derive(Debug, Serialize)]
struct EventEntry<'a> {
    at: String,
    broker: &'a str,
    what: String,
}

pub fn brokers(view: &View) -> Brokers<'_> {
    let brokers = view.brokers().map(|(broker, diagnosis)| BrokerEntry {
        broker: &diagnosis.label,
        id: broker.broker.id,
        pid: diagnosis.process.pid,
        kafka_version: broker.broker.kafka_version.as_deref(),
        java_version: broker.broker.java_version.as_deref(),
        state: diagnosis.state,
        since: rfc3339_millis(diagnosis.since),
        verdict: &diagnosis.sentence,
        what_to_do: &diagnosis.remedy,
        unseen: &diagnosis.unseen,
        findings: diagnosis
            .findings
            .iter()
            .map(|finding| finding_entry(None, finding, diagnosis.process))
            .collect(),
        known_issues: &diagnosis.known_issues,
        deadlock: broker.deadlock.as_ref(),
        forecasts: forecasts(&diagnosis.forecasts),
        recovery: diagnosis.recovery.as_ref().map(|recovery| RecoveryEntry {
            from: recovery.from,
            back: rfc3339_millis(recovery.back),
            in_every_isr: recovery.in_every_isr.map(rfc3339_millis),
        }),
        live: view
            .live
            .iter()
            .find(|answer| answer.process == diagnosis.process)
            .map(|answer| LiveEntry {
                restart: answer.restart,
                reason: answer.text(),
            }),
    });
    let timeline = view.diagnosis.timeline.iter();
    Brokers {
        at: rfc3339_millis(view.diagnosis.at),
        brokers: brokers.collect(),
        timeline: timeline
            .map(|e| EventEntry {
                at: rfc3339_millis(e.at),
                broker: &e.broker,
                what: e.change.to_string(),
            })
            .collect(),
        warnings: &view.snapshot.discovery_warnings,
    }
}

/// The answer of `/api/v1/findings`: every active finding, the worst first.
pub fn findings(view: &View) -> impl Serialize {
    let brokers = view.diagnosis.brokers.iter();
    let of_broker = brokers.flat_map(|broker| {
        broker
            .findings
            .iter()
            .map(|finding| (broker.label.as_str(), finding, broker.process))
    });
    let mut all: Vec<FindingEntry<'_>> = of_broker
        .map(|(label, finding, process)| finding_entry(Some(label), finding, process))
        .collect();
    all.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    serde_json::json!({ "at": rfc3339_millis(view.diagnosis.at), "findings": all })
}

fn finding_entry<'a>(
    broker: Option<&'a str>,
    finding: &'a Finding,
    process: ProcessKey,
) -> FindingEntry<'a> {
    let kind = finding.id.kind();
    FindingEntry {
        broker,
        finding: kind.name,
        severity: kind.severity,
        since: rfc3339_millis(finding.since),
        last_seen: finding.last_seen.map(rfc3339_millis),
        title: kind.title,
        facts: &finding.facts,
        meaning: kind.meaning,
        what_to_do: finding.what_to_do(process),
        runbook: routes::of(routes::RUNBOOK, finding.id.runbook()),
    }
}

fn forecasts(forecasts: &Forecasts) -> ForecastEntry<'_> {
    let left = |forecast: &Forecast| match forecast {
        Forecast::Unknown => None,
        Forecast::NoneAhead => Some(None),
        Forecast::SecondsLeft(left) => Some(Some(*left)),
    };
    let dirs = forecasts.log_dirs.iter();
    ForecastEntry {
        file_handles: left(&forecasts.file_handles),
        memory_maps: left(&forecasts.memory_maps),
        log_dirs: dirs
            .filter_map(|(dir, forecast)| Some((dir.as_str(), left(forecast)?)))
            .collect(),
    }
}
