//! The verdict in words.

use super::finding::{BrokerDiagnosis, BrokerState, Finding, FindingId, Recovery, Severity};
use super::last_words::last_words;
use super::memory::{DECIDING, PARTIAL, contradiction};
use super::unseen::as_far_as_seen;
use crate::model::{BrokerSnapshot, Moment, NamedIssue, Reason, clock_text, duration_text};

/// The verdict in one sentence for a person, and what to do.
pub fn sentence(
    broker: &BrokerSnapshot,
    diagnosis: &BrokerDiagnosis,
    now: Moment,
) -> (String, String) {
    let decides = |finding: &&Finding| match diagnosis.state {
        BrokerState::Gray => MAKE_GRAY.contains(&finding.id) || DECIDING.contains(&finding.id),
        BrokerState::Suspect => PARTIAL.contains(&finding.id),
        BrokerState::Starting
        | BrokerState::Closed
        | BrokerState::Ended
        | BrokerState::Unknown
        | BrokerState::Healthy => false,
    };
    let deciding = || diagnosis.findings.iter().filter(decides);
    let is_seen = |finding: &Finding| finding.last_seen.is_none();
    let newest = deciding().max_by_key(|finding| finding.last_seen);
    // While any of them is seen, one that is clearing does not explain the state.
    let Some(over) = newest.filter(|_| !deciding().any(is_seen)) else {
        return of_findings(broker, diagnosis, is_seen, now);
    };
    let is_newest = |finding: &Finding| finding.last_seen == over.last_seen;
    let (text, _) = of_findings(broker, diagnosis, is_newest, now);
    let text = text.trim_end_matches('.');
    (format!("{text}{}.", over.clearing(now)), "Wait.".to_owned())
}

/// What makes a broker gray beside others, or above a threshold.
const MAKE_GRAY: [FindingId; 2] = [FindingId::JvmPaused, FindingId::CutOff];

/// The verdict from those findings that `counts` names.
fn of_findings(
    broker: &BrokerSnapshot,
    diagnosis: &BrokerDiagnosis,
    counts: impl Fn(&Finding) -> bool,
    now: Moment,
) -> (String, String) {
    let name = format!("Broker {}", broker.label);
    let since = diagnosis.since;
    let find = |id: FindingId| {
        let mut findings = diagnosis.findings.iter();
        findings.find(|finding| finding.id == id && counts(finding))
    };
    let with = |text: String, remedy: &str| (text, remedy.to_owned());
    match diagnosis.state {
        BrokerState::Ended => {
            let at = clock_text(broker.ended.unwrap_or(since));
            let last = broker.last.clone().unwrap_or_default();
            let (facts, remedy) = last_words(&last);
            let text = format!("{name} is down: its process ended at {at}.{facts}");
            (text, remedy)
        }
        BrokerState::Starting => {
            let started = clock_text(broker.broker.started.unwrap_or(since));
            let text = format!("{name} is starting: its process has run since {started}.");
            with(text, "")
        }
        BrokerState::Closed => with(
            format!(
                "{name} is down: its process runs but has not listened since {}.",
                clock_text(since)
            ),
            "Read its log: it is shutting down, or has lost its listener.",
        ),
        BrokerState::Gray => {
            let deadlock = find(FindingId::JvmDeadlock).or_else(|| find(FindingId::LockCycle));
            if let Some(finding) = deadlock {
                let since = clock_text(finding.since);
                let mut known = broker.deadlock.iter().flat_map(|it| &it.known_issues);
                let by = known.next().map(by_issue).unwrap_or_default();
                with(
                    format!("{name} is alive but deadlocked since {since}{by}."),
                    "Restart it.",
                )
            } else if let Some(finding) = find(FindingId::ProcessStopped) {
                let since = clock_text(finding.since);
                let pid = broker.broker.process.pid;
                with(
                    format!("{name} is stopped by a signal since {since}."),
                    &format!("Continue it: kill -CONT {pid}."),
                )
            } else if let Some(finding) = find(FindingId::DiskHung) {
                let since = clock_text(finding.since);
                let what = finding.facts.first().map_or("", String::as_str);
                with(
                    format!("{name} is alive but its disk does not answer since {since}: {what}."),
                    "Mend the disk; a restart does not help.",
                )
            } else if let Some(finding) = find(FindingId::StalledPool) {
                let since = clock_text(finding.since);
                let what = finding
                    .facts
                    .first()
                    .map(String::as_str)
                    .unwrap_or("threads are stalled");
                let report = broker.threads.fresh(now);
                let stalls = report.and_then(|report| report.stalls.as_ref());
                let found = stalls.into_iter().flat_map(|stalls| &stalls.found);
                let mut known = found.flat_map(|stall| &stall.known_issues);
                let by = known.next().map(by_issue).unwrap_or_default();
                with(
                    format!("{name} is alive but stalled since {since}{by}: {what}."),
                    "Restart it if it lasts.",
                )
            // After the stalls: these are measured in the time in which the JVM runs, so pauses explain none.
            } else if let Some(finding) = find(FindingId::JvmPaused) {
                let since = clock_text(finding.since);
                with(
                    format!(
                        "{name} is alive but its JVM pauses most of the time since {since}: {}.",
                        finding.facts.join("; ")
                    ),
                    "Check its heap.",
                )
            } else if let Some(finding) = find(FindingId::BrokerFenced)
                && find(FindingId::ApiUnresponsive).is_none()
            {
                let since = clock_text(finding.since);
                with(
                    format!(
                        "{name} is alive but fenced by the controller since {since}: it serves no client."
                    ),
                    "See what is found below.",
                )
            } else if let (None, Some(finding)) =
                (find(FindingId::ApiUnresponsive), find(FindingId::CutOff))
            {
                let since = clock_text(finding.since);
                with(
                    format!("{name} is alive but cut off from its cluster since {since}."),
                    FindingId::CutOff.kind().what_to_do,
                )
            } else if let (None, Some(finding)) =
                (find(FindingId::ApiUnresponsive), find(FindingId::StaleView))
            {
                let since = clock_text(finding.since);
                let facts = finding.facts.join("; ");
                with(
                    format!("{name} acts on an old state of its cluster since {since}: {facts}."),
                    FindingId::StaleView.kind().what_to_do,
                )
            } else if let (None, Some(finding)) = (
                find(FindingId::ApiUnresponsive),
                find(FindingId::NotRegistered),
            ) {
                let since = clock_text(finding.since);
                with(
                    format!(
                        "{name} answers, but has not been registered in ZooKeeper since {since}."
                    ),
                    FindingId::NotRegistered.kind().what_to_do,
                )
            } else {
                let since = find(FindingId::ApiUnresponsive).map_or(since, |finding| finding.since);
                let stall = find(FindingId::PartialStall);
                let stall = stall.map(|stall| format!(": {}", stall.facts.join("; ")));
                let text = format!(
                    "{name} accepts connections and answers nothing since {}{}.",
                    clock_text(since),
                    stall.unwrap_or_default()
                );
                with(text, "See what is found below.")
            }
        }
        BrokerState::Suspect => match PARTIAL.into_iter().find_map(find) {
            Some(finding) => with(
                format!(
                    "{name} {} since {}: {}.",
                    match finding.id {
                        FindingId::JvmPaused => "pauses most of the time",
                        FindingId::CutOff => "is cut off from other brokers",
                        FindingId::ZooKeeperUnreachable => "has most likely lost ZooKeeper",
                        FindingId::MetadataStalled => "acts on an old state of its cluster",
                        _ => "works only in part",
                    },
                    clock_text(finding.since),
                    finding.facts.join("; ")
                ),
                match finding.id {
                    FindingId::PartialStall => FindingId::PartialStall.kind().what_to_do,
                    _ => "See what is found below.",
                },
            ),
            None => with(
                format!(
                    "{name} is suspect since {}; being checked.",
                    clock_text(since)
                ),
                "",
            ),
        },
        BrokerState::Unknown => {
            let critical = |found: &&Finding| found.id.kind().severity == Severity::Critical;
            if let Some(error) = contradiction(broker, now) {
                with(
                    format!("{name} is unknown: {}.", error.message),
                    match error.reason {
                        Reason::Refused => {
                            "Find out whether the broker still starts, and at which address it listens."
                        }
                        _ => "Find out what answers there.",
                    },
                )
            } else if let Some(found) = diagnosis.findings.iter().find(critical) {
                let (title, since) = (found.id.kind().title, clock_text(found.since));
                let facts = found.facts.join("; ");
                with(
                    format!(
                        "{name} is unknown, for a critical finding stands: {title} since {since}: {facts}."
                    ),
                    found.id.kind().what_to_do,
                )
            } else {
                with(
                    format!("{name} is unknown: the readings that decide are missing."),
                    "See what is unknown, and why.",
                )
            }
        }
        BrokerState::Healthy => match &diagnosis.recovery {
            Some(Recovery {
                in_every_isr: Some(complete),
                back,
                ..
            }) => {
                let took = duration_text(complete.since(*back));
                with(
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
                with(format!("{name} is back since {back}{what}."), "Wait.")
            }
            None => {
                let covered = as_far_as_seen(&diagnosis.unseen);
                with(format!("{name} is healthy{covered}."), "")
            }
        },
    }
}

/// ` by KAFKA-4399, fixed in 0.10.1.1`
fn by_issue(known: &NamedIssue) -> String {
    let likely = if known.is_exact() {
        " by"
    } else {
        ", probable match:"
    };
    let fixed = known
        .fixed_in
        .first()
        .map(|version| format!(", fixed in {version}"))
        .unwrap_or_default();
    format!("{likely} {}{fixed}", known.issue)
}
