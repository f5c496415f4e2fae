//! The first sentences of the page and of `check`: the worst first.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::model::BrokerSnapshot;
use crate::model::EvidenceStatus;
use crate::model::named::named;
use crate::model::rfc3339;
use crate::verdict::View;
use crate::verdict::finding::{BrokerDiagnosis, BrokerState, Finding, Severity};
use crate::verdict::unseen::as_far_as_seen;

named! {
    /// The levels of a monitoring plugin, from good to bad.
    pub enum Level {
        Ok = "OK",
        Unknown = "UNKNOWN",
        Warning = "WARNING",
        Critical = "CRITICAL",
    }
}

impl Level {
    pub fn of(diagnosis: &BrokerDiagnosis) -> Level {
        let found = diagnosis
            .findings
            .iter()
            .map(|finding| finding.id.kind().severity)
            .max();
        Level::of_state(diagnosis.state).max(found.map_or(Level::Ok, Level::of_severity))
    }

    pub(super) fn of_state(state: BrokerState) -> Level {
        match state {
            BrokerState::Gray | BrokerState::Closed | BrokerState::Ended => Level::Critical,
            BrokerState::Suspect | BrokerState::Starting => Level::Warning,
            BrokerState::Unknown => Level::Unknown,
            BrokerState::Healthy => Level::Ok,
        }
    }

    pub(super) fn of_severity(severity: Severity) -> Level {
        match severity {
            Severity::Critical => Level::Critical,
            Severity::Warning => Level::Warning,
            Severity::Info => Level::Ok,
        }
    }

    /// As monitoring plugins end.
    pub fn exit_code(self) -> u8 {
        match self {
            Level::Ok => 0,
            Level::Warning => 1,
            Level::Critical => 2,
            Level::Unknown => 3,
        }
    }
}

/// The first sentences.
#[derive(Debug)]
pub struct Overview {
    pub level: Level,
    /// The worst first; never empty.
    pub sentences: Vec<String>,
}

/// Brokers in the order in which an operator should check them.
pub fn worst_first(view: &View) -> Vec<(&BrokerSnapshot, &BrokerDiagnosis)> {
    let mut brokers: Vec<_> = view.brokers().collect();
    brokers.sort_by_key(|(broker, diagnosis)| {
        (
            Reverse(Level::of(diagnosis)),
            diagnosis.state != BrokerState::Gray,
            broker.outranked,
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
    // By what their verdict does not cover.
    let mut healthy: BTreeMap<&[&str], Vec<&str>> = BTreeMap::new();
    for (_, diagnosis) in &brokers {
        let level = Level::of(diagnosis);
        if level == Level::Ok && diagnosis.recovery.is_none() {
            let alike = healthy.entry(&diagnosis.unseen).or_default();
            alike.push(&diagnosis.label);
            continue;
        }
        let mut sentence = diagnosis.sentence.clone();
        if level > Level::Ok && diagnosis.state == BrokerState::Healthy {
            let is_problem = |finding: &&Finding| finding.id.kind().severity > Severity::Info;
            let title = |finding: &Finding| {
                let title = finding.id.kind().title;
                format!("{title}{}", finding.clearing(view.diagnosis.at))
            };
            let found = diagnosis.findings.iter().filter(is_problem);
            let titles: Vec<String> = found.map(title).collect();
            let how = match diagnosis.unseen.as_slice() {
                [] => "answers".to_owned(),
                unseen => format!("is healthy{}", as_far_as_seen(unseen)),
            };
            sentence = format!(
                "Broker {} {how}, but: {}.",
                diagnosis.label,
                titles.join("; ")
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
    // The least covered first.
    for (unseen, labels) in healthy.into_iter().rev() {
        let who = match labels.as_slice() {
            [one] => format!("Broker {one} is"),
            all if all.len() == brokers.len() => {
                format!("All {} brokers of this host are", all.len())
            }
            some => format!("Brokers {} are", some.join(", ")),
        };
        sentences.push(format!("{who} healthy{}.", as_far_as_seen(unseen)));
    }
    let level = brokers
        .iter()
        .map(|(_, diagnosis)| Level::of(diagnosis))
        .max()
        .unwrap_or(Level::Unknown);
    Overview { level, sentences }
}
