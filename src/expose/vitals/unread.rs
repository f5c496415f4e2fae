//! What is unknown about a broker or not read of it, and why.

use crate::model::{AnyReading, BrokerSnapshot, CollectorName, CollectorStatus, Moment, Reason};
use crate::threads::known_issues::exposure::{UnknownVersion, exposures};

/// What is unknown about this broker, and why.
pub fn unknown(snapshot: &BrokerSnapshot, now: Moment) -> Vec<(String, String)> {
    let mut list = because(snapshot, now, Cause::Failure);
    for (collector, status) in &snapshot.collectors {
        if let Some(error) = status
            .error
            .as_ref()
            .filter(|_| status.success == Some(false) && !is_for_rights(snapshot, status))
            && !list.iter().any(|(_, why)| why == error)
        {
            list.push((format!("collector {}", collector.name()), error.clone()));
        }
    }
    let report = snapshot.threads.fresh(now);
    let understood = |what: &String| ("deadlock".to_owned(), format!("not understood: {what}"));
    list.extend(
        report
            .iter()
            .flat_map(|report| &report.not_understood)
            .map(understood),
    );
    let lacking = &snapshot.broker.lacking;
    if lacking.is_empty() {
        let problems = snapshot.broker.problems.iter();
        list.extend(problems.map(|problem| ("discovery".to_owned(), problem.clone())));
    } else {
        let denied = because(snapshot, now, Cause::Rights);
        let mut denied: Vec<String> = denied.into_iter().map(|(what, _)| what).collect();
        if !snapshot.broker.problems.is_empty() {
            denied.insert(0, "what its files say".to_owned());
        }
        if !denied.is_empty() {
            let lacking = lacking.join(", ");
            let why =
                format!("kafka-vitals lacks {lacking} for it: see the warning about its rights");
            list.insert(0, (denied.join(", "), why));
        }
    }
    list
}

/// What is not read of this broker, and why: it does not have it, or nobody has configured it. That is no failure.
pub fn not_read(snapshot: &BrokerSnapshot, now: Moment) -> Vec<(String, String)> {
    let mut list: Vec<(String, String)> = Vec::new();
    for (what, why) in because(snapshot, now, Cause::Expected) {
        match list.iter_mut().find(|(_, known)| *known == why) {
            Some((all, _)) => all.extend([", ", &what]),
            None => list.push((what, why)),
        }
    }
    let why = match exposures(&snapshot.broker) {
        // Discovery says why.
        Err(UnknownVersion::None) => None,
        Err(why) => Some(why.to_string()),
        // Where it is exposed to any, the finding says so.
        Ok(known) if known.exposed.is_empty() => known.unknown_text(),
        Ok(_) => None,
    };
    list.extend(why.map(|why| ("known faults of its version".to_owned(), why)));
    list
}

/// Why a reading is unknown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// A run of its collector has failed, or there was none yet.
    Failure,
    /// The exporter lacks rights.
    Rights,
    /// No run has failed.
    Expected,
}

/// Whether a collector failed for want of the rights of which there is one warning.
fn is_for_rights(snapshot: &BrokerSnapshot, status: &CollectorStatus) -> bool {
    status.reason == Some(Reason::Denied) && !snapshot.broker.lacking.is_empty()
}

/// The readings that are unknown for this cause.
fn because(snapshot: &BrokerSnapshot, now: Moment, wanted: Cause) -> Vec<(String, String)> {
    if snapshot.ended.is_some() {
        return Vec::new();
    }
    // Where its files are closed, nothing is known of what it has.
    let closed = !snapshot.broker.lacking.is_empty() && snapshot.broker.id.is_none();
    let cause = |collector: &CollectorName, reading: &dyn AnyReading| {
        let status = snapshot.collectors.get(collector);
        let failed = status.is_some_and(|status| status.success == Some(false));
        let expected = !failed && !reading.is_pending() && reading.taken().is_none();
        match status {
            Some(status) if failed && is_for_rights(snapshot, status) => Cause::Rights,
            _ if expected && closed && !is_off(*collector, reading, now) => Cause::Rights,
            _ if expected => Cause::Expected,
            _ => Cause::Failure,
        }
    };
    let readings = snapshot.readings();
    let chosen = readings.filter(|(of, _, reading)| cause(of, *reading) == wanted);
    let why = |(_, what, reading): (_, &str, &dyn AnyReading)| {
        Some((what.to_owned(), reading.why_unknown(now)?))
    };
    chosen.filter_map(why).collect()
}

fn is_off(collector: CollectorName, reading: &dyn AnyReading, now: Moment) -> bool {
    reading.why_unknown(now) == Some(collector.why_off())
}
