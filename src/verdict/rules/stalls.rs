//! Rules about threads that stand.

use std::time::Duration;

use super::super::finding::FindingId;
use super::super::finding_state::RuleResult::{self, Unknown};
use super::super::stalls::decides;
use super::case::{Case, present_if};
use crate::model::{DiskWait, Moment, Probe, Stall, Suspect, ThreadReport, duration_text};
use crate::threads::pools::Pool;
use crate::threads::stalls::stall_text;

pub(super) fn stalled_pool(case: &Case<'_>) -> RuleResult {
    let Some(report) = case.broker.threads.fresh(case.now) else {
        return Unknown;
    };
    let standing: Vec<String> = standing(case, report).map(stall_text).collect();
    if !standing.is_empty() {
        return RuleResult::Present(standing);
    }
    of_stalls(case, report, true)
}

/// The stalls that do not make the broker gray.
pub(super) fn partial_stall(case: &Case<'_>) -> RuleResult {
    case.broker
        .threads
        .fresh(case.now)
        .map_or(Unknown, |report| of_stalls(case, report, false))
}

/// How long one call for a file may take. That of a disk that is only slow ends, and another one begins.
const DISK_ANSWERS: Duration = Duration::from_secs(5);
/// Threads that are listed.
const LISTED: usize = 8;

pub(super) fn disk_hung(case: &Case<'_>) -> RuleResult {
    let Some(progress) = case.broker.progress.fresh(case.now) else {
        return Unknown;
    };
    let hangs = progress.suspects.iter().filter_map(|suspect| {
        let wait = suspect.disk_wait.as_ref()?;
        let lasts = case.now.since(wait.since);
        let call = file_call(case, suspect, wait)?;
        (lasts >= DISK_ANSWERS).then(|| {
            let file = wait.file.as_ref();
            let file = file.map_or_else(String::new, |file| format!(" of {}", file.display()));
            let thread = &suspect.thread;
            let lasts = duration_text(lasts);
            format!(
                "{thread} has been in {call}{file} for {lasts}{}",
                log_dir(case, wait)
            )
        })
    });
    present_if(hangs.take(LISTED))
}

/// The call for a file in which a thread waits, by the kernel, or by a dump since then.
fn file_call(case: &Case<'_>, suspect: &Suspect, wait: &DiskWait) -> Option<String> {
    if let Some(call) = &wait.call {
        return wait.is_file_call.then(|| format!("`{call}`"));
    }
    let (report, dumped) = case.broker.threads.last()?;
    let mut calls = report.file_calls.iter();
    let call = calls.find(|call| call.thread == suspect.thread && dumped >= wait.since)?;
    Some(format!("`{}`", call.method))
}

/// `: log dir /data/1`, as far as it is known.
fn log_dir(case: &Case<'_>, wait: &DiskWait) -> String {
    let broker = &case.broker.broker;
    let dirs = || broker.log_dirs.iter().chain(&broker.metadata_log_dir);
    let of_file = wait.file.as_ref().and_then(|file| {
        let holding = dirs().filter(|dir| file.starts_with(dir));
        holding.max_by_key(|dir| dir.components().count())
    });
    let only = dirs()
        .next()
        .filter(|first| dirs().all(|dir| dir == *first));
    match of_file.or(only.filter(|_| wait.file.is_none())) {
        Some(dir) => format!(": log dir {}", dir.display()),
        None => String::new(),
    }
}

fn of_stalls(case: &Case<'_>, report: &ThreadReport, deciding: bool) -> RuleResult {
    let Some(stalls) = &report.stalls else {
        return Unknown;
    };
    let clients = owed_since(case, false).is_some()
        || [FindingId::CloseWaitPileup, FindingId::AcceptQueueFull]
            .iter()
            .any(|id| case.memory.is_active(*id));
    let wanted = |stall: &&Stall| decides(stall, clients, case.now) == deciding;
    present_if(stalls.found.iter().filter(wanted).map(stall_text))
}

/// Pools that stand as a whole while an answer is owed: the dump that shows them is younger than the request.
fn standing<'a>(case: &'a Case<'_>, report: &'a ThreadReport) -> impl Iterator<Item = &'a Stall> {
    let dumped = case.broker.threads.last().map(|(_, at)| at);
    // In a pause no thread moves, and no answer comes.
    let may_be = !case.memory.is_active(FindingId::JvmPaused)
        && !case.memory.is_starting(case.broker, case.now);
    // Each listener has network threads of its own: those of one that hangs are no reason while the broker answers elsewhere.
    let [by_all, by_own] = [false, true].map(|own| owed_since(case, own).filter(|_| may_be));
    let applies = move |stall: &&Stall| {
        let asked = match stall.pool == Pool::Network.name() {
            true => by_own,
            false => by_all,
        };
        asked.is_some_and(|asked| dumped >= Some(asked))
    };
    let all = report.standing.iter().filter(applies);
    let waits_here = |stall: &&Stall| stall.awaits_brokers.is_empty();
    all.filter(waits_here)
        .filter(|stall| stall.unblocked_by.is_none() || all_suspect(case, stall))
}

/// Since when the broker owes the oldest of its answers, longer than a probe waits; where `only_own`, of those at the listener
/// that decides whether it answers.
fn owed_since(case: &Case<'_>, only_own: bool) -> Option<Moment> {
    fn owed(probe: &Probe, at: Moment) -> Option<Moment> {
        let error = probe.error.as_ref()?;
        error.owes_answer().then(|| at.minus(probe.duration))
    }
    let (broker, now) = (case.broker, case.now);
    broker.probes.fresh(now)?;
    let (probes, at) = broker.probes.last()?;
    let others = probes.listeners.iter().filter(|_| !only_own);
    let others = others.map(|one| &one.probe);
    probes
        .own()
        .chain(others)
        .filter_map(|probe| owed(probe, at))
        .min()
}

/// Whether none of these threads made progress for some seconds, by what the kernel counts.
fn all_suspect(case: &Case<'_>, stall: &Stall) -> bool {
    let Some(progress) = case.broker.progress.fresh(case.now) else {
        return false;
    };
    let mut threads = stall.threads.iter();
    threads.all(|thread| {
        let mut suspects = progress.suspects.iter();
        suspects.any(|suspect| suspect.thread == *thread)
    })
}
