//! What is unknown about a broker or not read of it, and why.

use crate::model::{AnyReading, BrokerSnapshot, CollectorName, Moment};
use crate::threads::known_issues::exposure::{UnknownVersion, exposures};

/// What is unknown about this broker, and why.
pub fn unknown(snapshot: &BrokerSnapshot, now: Moment) -> Vec<(String, String)> {
    let mut list = because(snapshot, now, false);
    for (collector, status) in &snapshot.collectors {
        if let Some(error) = status
            .error
            .as_ref()
            .filter(|_| status.success == Some(false))
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
    list.extend(
        snapshot
            .broker
            .problems
            .iter()
            .map(|problem| ("discovery".to_owned(), problem.clone())),
    );
    list
}

/// What is not read of this broker, and why: it does not have it, or nobody has configured it. That is no failure.
pub fn not_read(snapshot: &BrokerSnapshot, now: Moment) -> Vec<(String, String)> {
    let mut list: Vec<(String, String)> = Vec::new();
    for (what, why) in because(snapshot, now, true) {
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

/// The readings that are unknown although no run of their collector has failed, if `expected`, or the other unknown ones.
fn because(snapshot: &BrokerSnapshot, now: Moment, expected: bool) -> Vec<(String, String)> {
    if snapshot.ended.is_some() {
        return Vec::new();
    }
    let is_expected = |collector: &CollectorName, reading: &dyn AnyReading| {
        let status = snapshot.collectors.get(collector);
        let failed = status.is_some_and(|status| status.success == Some(false));
        !failed && !reading.is_pending() && reading.taken().is_none()
    };
    let readings = snapshot.readings();
    let chosen = readings.filter(|(of, _, reading)| is_expected(of, *reading) == expected);
    let why = |(_, what, reading): (_, &str, &dyn AnyReading)| {
        Some((what.to_owned(), reading.why_unknown(now)?))
    };
    chosen.filter_map(why).collect()
}
