//! The verdict in words: one sentence for a person, and what to do.

use super::finding::{BrokerDiagnosis, BrokerState, FindingId, Recovery};
use super::memory::young_since;
use crate::model::{BrokerSnapshot, Moment, NamedIssue, clock_text, duration_text};

/// The verdict for a person, and what to do.
pub fn sentence(
    broker: &BrokerSnapshot,
    judged: &BrokerDiagnosis,
    now: Moment,
) -> (String, String) {
    let name = format!("Broker {}", broker.label);
    let since = judged.since;
    let by = judged
        .known_issues
        .first()
        .map(by_issue)
        .unwrap_or_default();
    let of = |wanted: FindingId| judged.findings.iter().find(|finding| finding.id == wanted);
    let told = |text: String, remedy: &str| (text, remedy.to_owned());
    match judged.state {
        BrokerState::Down => match broker.ended {
            Some(ended) => told(
                format!(
                    "{name} is down: its process ended at {}.",
                    clock_text(ended)
                ),
                "Start it.",
            ),
            None => match young_since(broker, now) {
                Some(started) => told(
                    format!(
                        "{name} is starting: its process runs since {}.",
                        clock_text(started)
                    ),
                    "",
                ),
                None => told(
                    format!(
                        "{name} is down: its process runs and nobody listens since {}.",
                        clock_text(since)
                    ),
                    "Look at its log: it is shutting down, or has lost its listener.",
                ),
            },
        },
        BrokerState::Gray => {
            let deadlock = of(FindingId::JvmDeadlock).or_else(|| of(FindingId::LockCycle));
            if let Some(finding) = deadlock {
                let since = clock_text(finding.since);
                told(
                    format!("{name} is alive but deadlocked since {since}{by}."),
                    "Restart it.",
                )
            } else if let Some(finding) = of(FindingId::ProcessStopped) {
                let since = clock_text(finding.since);
                told(
                    format!("{name} is stopped by a signal since {since}."),
                    "Let it go on: kill -CONT.",
                )
            } else if let Some(finding) = of(FindingId::StalledPool) {
                let since = clock_text(finding.since);
                let what = finding
                    .facts
                    .first()
                    .map(String::as_str)
                    .unwrap_or("threads stand still");
                told(
                    format!("{name} is alive but stalled since {since}{by}: {what}."),
                    "Restart it if it lasts.",
                )
            } else {
                let since = of(FindingId::ApiUnresponsive).map_or(since, |finding| finding.since);
                let text = format!(
                    "{name} accepts connections and answers nothing since {}.",
                    clock_text(since)
                );
                told(text, "See what is found below.")
            }
        }
        BrokerState::Suspect => match of(FindingId::MissingThread) {
            Some(finding) => told(
                format!(
                    "{name} works in part only since {}: {}.",
                    clock_text(since),
                    finding.facts.join("; ")
                ),
                "See what is found below.",
            ),
            None => told(
                format!(
                    "{name} is suspect since {}; looking closer.",
                    clock_text(since)
                ),
                "",
            ),
        },
        BrokerState::Unknown => told(
            format!("{name}: what would tell whether it works could not be read."),
            "See what is unknown, and why.",
        ),
        BrokerState::Healthy => match &judged.recovery {
            Some(Recovery {
                whole: Some(whole),
                back,
                ..
            }) => {
                let took = duration_text(whole.since(*back));
                told(
                    format!(
                        "{name} has recovered: back since {}, in every ISR {took} later.",
                        clock_text(*back)
                    ),
                    "",
                )
            }
            Some(Recovery { back, .. }) => {
                let counts = broker.partitions(now);
                let back = clock_text(*back);
                let what = match counts.map(|counts| (counts.not_in_isr, counts.isr_leader_alone)) {
                    None => "; whether it is in every ISR is unknown".to_owned(),
                    Some((0, alone)) => format!(" and still alone in {alone} ISRs"),
                    Some((behind, _)) => format!(" and still missing in {behind} ISRs"),
                };
                told(format!("{name} is back since {back}{what}."), "Wait.")
            }
            None => told(format!("{name} is healthy."), ""),
        },
    }
}

/// ` by KAFKA-4399, fixed in 0.10.1.1`
fn by_issue(known: &NamedIssue) -> String {
    let likely = if known.is_exact() {
        "by"
    } else {
        "by what looks like"
    };
    let fixed = known
        .fixed_in
        .first()
        .map(|version| format!(", fixed in {version}"))
        .unwrap_or_default();
    format!(" {likely} {}{fixed}", known.issue)
}
