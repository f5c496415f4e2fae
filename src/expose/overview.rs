//! What is said first, on the page and in a terminal: the worst, in a sentence.

use std::cmp::Reverse;

use crate::model::BrokerSnapshot;
use crate::model::EvidenceStatus;
use crate::model::rfc3339;
use crate::verdict::View;
use crate::verdict::finding::{BrokerDiagnosis, BrokerState, Severity};

/// How bad it is, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Ok,
    Unknown,
    Warning,
    Critical,
}

impl Level {
    pub fn of(diagnosis: &BrokerDiagnosis) -> Level {
        let found = diagnosis
            .findings
            .iter()
            .map(|finding| finding.id.kind().severity)
            .max();
        match (diagnosis.state, found) {
            (BrokerState::Gray | BrokerState::Down, _) | (_, Some(Severity::Critical)) => {
                Level::Critical
            }
            (BrokerState::Suspect, _) | (_, Some(Severity::Warning)) => Level::Warning,
            (BrokerState::Unknown, _) => Level::Unknown,
            (BrokerState::Healthy, _) => Level::Ok,
        }
    }

    /// As monitoring plugins write it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Ok => "OK",
            Level::Unknown => "UNKNOWN",
            Level::Warning => "WARNING",
            Level::Critical => "CRITICAL",
        }
    }
}

/// The sentences to begin with.
#[derive(Debug)]
pub struct Overview {
    pub level: Level,
    /// The worst first; never empty.
    pub sentences: Vec<String>,
}

/// Brokers in the order in which somebody should look at them.
pub fn worst_first(view: &View) -> Vec<(&BrokerSnapshot, &BrokerDiagnosis)> {
    let mut brokers: Vec<_> = view.brokers().collect();
    brokers.sort_by_key(|(_, diagnosis)| {
        (
            Reverse(Level::of(diagnosis)),
            diagnosis.state != BrokerState::Gray,
        )
    });
    brokers
}

pub fn overview(view: &View, saved: &EvidenceStatus) -> Overview {
    let mut overview = of_brokers(view, saved);
    if let Some(first) = overview.sentences.first_mut().filter(|_| view.replayed) {
        *first = format!("Replay of {}, not now: {first}", rfc3339(view.diagnosis.at));
    }
    overview
}

fn of_brokers(view: &View, saved: &EvidenceStatus) -> Overview {
    let brokers = worst_first(view);
    let discovery = &view.snapshot.discovery;
    if brokers.is_empty() {
        let sentence = match (&discovery.error, discovery.success) {
            (Some(error), _) => format!("Whether a broker runs on this host is unknown: {error}"),
            (None, None) => "Looking for brokers.".to_owned(),
            (None, Some(_)) => "No Kafka broker runs on this host.".to_owned(),
        };
        return Overview {
            level: Level::Unknown,
            sentences: vec![sentence],
        };
    }
    let mut sentences = Vec::new();
    let mut healthy = Vec::new();
    for (_, diagnosis) in &brokers {
        let level = Level::of(diagnosis);
        if level == Level::Ok && diagnosis.recovery.is_none() {
            healthy.push(diagnosis.label.as_str());
            continue;
        }
        let mut sentence = diagnosis.sentence.clone();
        if level > Level::Ok && diagnosis.state == BrokerState::Healthy {
            let found = diagnosis.findings.iter().map(|finding| finding.id.kind());
            let told: Vec<&str> = found
                .filter(|kind| kind.severity > Severity::Info)
                .map(|kind| kind.title)
                .collect();
            sentence = format!(
                "Broker {} answers, but: {}.",
                diagnosis.label,
                told.join("; ")
            );
        }
        match diagnosis
            .evidence(saved)
            .filter(|_| level == Level::Critical)
        {
            Some(Ok(_)) => sentence.push_str(" Evidence saved."),
            Some(Err(_)) => sentence.push_str(" No evidence is saved."),
            None => {}
        }
        if !diagnosis.remedy.is_empty() {
            sentence.push(' ');
            sentence.push_str(&diagnosis.remedy);
        }
        sentences.push(sentence);
    }
    match (healthy.as_slice(), sentences.is_empty()) {
        ([], _) => {}
        ([one], _) => sentences.push(format!("Broker {one} is healthy.")),
        (all, true) => sentences.push(format!(
            "All {} brokers of this host are healthy.",
            all.len()
        )),
        (some, false) => sentences.push(format!("Brokers {} are healthy.", some.join(", "))),
    }
    let level = brokers
        .iter()
        .map(|(_, diagnosis)| Level::of(diagnosis))
        .max()
        .unwrap_or(Level::Unknown);
    Overview { level, sentences }
}
