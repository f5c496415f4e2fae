//! Rules about what the broker answers at its listeners.

use std::time::Duration;

use super::super::finding::FindingId;
use super::super::finding_state::RuleResult::{self, Absent, Unknown};
use super::case::{Case, present_if};
use crate::model::text::cut;
use crate::model::{Probe, ProbeError, Reason, duration_text, rfc3339, visible};

/// As the alert has it.
const CERTIFICATE_AHEAD: Duration = Duration::from_secs(14 * 24 * 3600);

pub(super) fn api_unresponsive(case: &Case<'_>) -> RuleResult {
    let Some(probes) = case.broker.probes.fresh(case.now) else {
        return Unknown;
    };
    if case.memory.is_starting(case.broker, case.now) {
        return Absent;
    }
    let is_active = case.memory.is_active(FindingId::ApiUnresponsive);
    let silent = |path: &str, probe: &Probe| {
        // After ten minutes the kept connection is closed, and a new one fails at the full accept queue.
        let is_it = |error: &&ProbeError| error.is_silent() || is_active && error.is_unreachable();
        Some(format!(
            "{path}: {}",
            probe.error.as_ref().filter(is_it)?.message
        ))
    };
    // A broker that answers ApiVersions and then closes the connection requires a login.
    let is_open = |probe: &&Probe| {
        probe
            .error
            .as_ref()
            .is_none_or(|error| error.reason != Reason::Closed)
    };
    let metadata = probes.metadata.as_ref().filter(is_open);
    // Where another listener answers in the same way, only this one hangs.
    let others = probes.listeners.iter().skip(1);
    let works = |by_handler: bool| {
        let mut answering = others.clone().filter(|other| other.probe.success());
        answering.any(|other| other.by_handler || !by_handler)
    };
    let api = probes.api.as_ref().filter(|_| !works(true));
    let network = probes.network.as_ref().filter(|_| !works(false));
    // It waits for the lock of a partition.
    let fetch = case.broker.fetch.fresh(case.now).filter(is_open);
    let paths = [
        ("api", api),
        ("network", network),
        ("metadata", metadata),
        ("fetch", fetch),
    ];
    let facts = paths
        .into_iter()
        .filter_map(|(path, probe)| silent(path, probe?));
    let mut facts: Vec<String> = facts.collect();
    if !facts.is_empty() {
        facts.extend(case.groups());
    }
    match present_if(facts) {
        // That the network thread answers says nothing of the request handlers.
        Absent if probes.api.is_none() && !is_active => Unknown,
        result => result,
    }
}

pub(super) fn listener_unresponsive(case: &Case<'_>) -> RuleResult {
    let Some(probes) = case.broker.probes.fresh(case.now) else {
        return Unknown;
    };
    let listeners = &probes.listeners;
    let works = listeners.iter().any(|one| one.probe.success());
    if !works || case.memory.is_starting(case.broker, case.now) {
        return Absent;
    }
    present_if(listeners.iter().filter_map(|one| {
        let error = one.probe.error.as_ref()?;
        let is_it = error.is_silent();
        is_it.then(|| format!("listener {}: {}", one.listener, error.message))
    }))
}

/// A few members that join one after the other need some seconds each.
const REBALANCES: Duration = Duration::from_secs(90);
/// Where the broker is asked rarely, a few answers may find rebalances that have nothing to do with each other.
const ANSWERS: u32 = 4;

pub(super) fn stuck_group(case: &Case<'_>) -> RuleResult {
    let groups = &case.broker.groups;
    let (Some(report), Some((_, at))) = (groups.fresh(case.now), groups.last()) else {
        return Unknown;
    };
    if report.silence.is_some() {
        return Unknown;
    }
    present_if(report.rebalances.iter().filter_map(|one| {
        let lasts = at.since(one.since);
        let group = cut(visible(&one.group).into_owned(), 64);
        (lasts >= REBALANCES && one.answers >= ANSWERS).then(|| {
            format!(
                "group {group} has been in a rebalance for {}, now {}",
                duration_text(lasts),
                one.state.name()
            )
        })
    }))
}

pub(super) fn certificate_expiry(case: &Case<'_>) -> RuleResult {
    let Some(probes) = case.broker.probes.fresh(case.now) else {
        return Unknown;
    };
    present_if(probes.listeners.iter().filter_map(|one| {
        let end = one.certificate_end?;
        let left = end.since(case.now);
        let when = match left.is_zero() {
            true => format!("expired at {}", rfc3339(end)),
            false => format!("ends in {}, at {}", duration_text(left), rfc3339(end)),
        };
        let soon = left < CERTIFICATE_AHEAD;
        soon.then(|| format!("the certificate of listener {} {when}", one.listener))
    }))
}
