//! The table of rules: what each finding rests on, how long that must hold, and how long it must be gone.
//!
//! A rule checks one broker at one moment; [`super::finding_state`] checks that the result lasts.

mod case;
mod network;
mod replication;
mod requests;
mod stalls;

use std::time::Duration;

use super::finding::FindingId;
use super::finding_state::RuleResult::{self, Absent, Present, Unknown};
use super::forecast::Forecast;
use super::memory::PAUSED;
use super::pauses::WINDOW;
use crate::model::text::first_of;
use crate::model::{
    BrokerSnapshot, CollectorName, Deadlock, Loop, MissingThread, TcpState, ThreadReport,
    duration_text, seconds_text,
};
use crate::threads::known_issues::exposure::may_have_ended;
use crate::threads::likely::{STANDS, likely_text};
use crate::threads::stack;
pub use case::Case;
use case::present_if;
use network::{cut_off, path_cut, peer_unreachable, zookeeper_unreachable};
use replication::{
    broker_fenced, followers_lost, followers_missing, metadata_stalled, not_registered,
    offline_partitions, registered_but_dead, replica_behind, stale_view, views_diverge,
};
use requests::{api_unresponsive, certificate_expiry, listener_unresponsive, stuck_group};
use stalls::{disk_hung, partial_stall, stalled_pool};

#[derive(Debug)]
pub struct Rule {
    pub id: FindingId,
    /// How long it must hold before it counts.
    holds_for: Duration,
    /// The collector that must find it twice before it counts, however rarely it runs.
    twice_in: Option<CollectorName>,
    /// How long it must be gone before the finding ends.
    pub clears_after: Duration,
    pub check: fn(&Case<'_>) -> RuleResult,
}

const fn rule(
    id: FindingId,
    holds_for: u64,
    clears_after: u64,
    check: fn(&Case<'_>) -> RuleResult,
) -> Rule {
    Rule {
        id,
        holds_for: Duration::from_secs(holds_for),
        twice_in: None,
        clears_after: Duration::from_secs(clears_after),
        check,
    }
}

impl Rule {
    const fn twice_in(self, collector: CollectorName) -> Rule {
        Rule {
            twice_in: Some(collector),
            ..self
        }
    }

    /// How long it must hold before it counts.
    pub fn holds_for(&self, broker: &BrokerSnapshot) -> Duration {
        let status = self.twice_in.and_then(|name| broker.collectors.get(&name));
        // Zero where a recording of an earlier version does not have it.
        let interval = status.map(|status| status.interval);
        let known = interval.filter(|interval| !interval.is_zero());
        known.map_or(self.holds_for, |interval| interval + Duration::from_secs(1))
    }
}

/// Thread dumps confirm themselves, so their results count at once, and so does the kernel's word on a path. A probe must fail twice and levels must last.
/// Whatever accompanies the restart of a follower gets a minute.
pub const RULES: [Rule; 39] = [
    rule(FindingId::JvmDeadlock, 0, 0, |case| {
        deadlocks(case, |deadlock| deadlock.reported)
    }),
    rule(FindingId::LockCycle, 0, 0, |case| {
        deadlocks(case, |deadlock| !deadlock.reported)
    }),
    rule(FindingId::StalledPool, 0, 0, stalled_pool),
    rule(FindingId::ProcessStopped, 2, 2, process_stopped),
    rule(FindingId::DiskHung, 0, 2, disk_hung),
    rule(FindingId::JvmPaused, 0, 10, jvm_paused),
    rule(FindingId::ApiUnresponsive, 6, 4, api_unresponsive).twice_in(CollectorName::Cluster),
    rule(FindingId::ListenerUnresponsive, 6, 4, listener_unresponsive)
        .twice_in(CollectorName::Cluster),
    rule(FindingId::BrokerFenced, 3, 10, broker_fenced),
    rule(FindingId::MetadataStalled, 2, 5, metadata_stalled),
    rule(FindingId::StaleView, 2, 3, stale_view),
    // Other servers of the ensemble are tried meanwhile.
    rule(FindingId::ZooKeeperUnreachable, 4, 5, zookeeper_unreachable),
    rule(FindingId::CutOff, 0, 3, cut_off),
    // Two readings: a broker whose session has expired opens the next one at once.
    rule(FindingId::NotRegistered, 6, 10, not_registered),
    rule(
        FindingId::FileHandleExhaustion,
        10,
        60,
        file_handle_exhaustion,
    ),
    rule(
        FindingId::MemoryMapsExhaustion,
        60,
        60,
        memory_maps_exhaustion,
    ),
    rule(FindingId::LogDirExhaustion, 60, 60, log_dir_exhaustion),
    // At its end a broker gives up one after the other.
    rule(FindingId::LogDirFailed, 2, 2, log_dir_failed),
    rule(FindingId::OfflinePartitions, 15, 10, offline_partitions),
    rule(FindingId::UnderMinIsr, 15, 10, |case| {
        followers_missing(case, |counts| counts.under_min_isr)
    }),
    rule(FindingId::IsrLeaderAlone, 15, 10, |case| {
        followers_missing(case, |counts| Some(counts.isr_leader_alone))
    }),
    rule(FindingId::PartialStall, 0, 0, partial_stall),
    rule(FindingId::FollowersLost, 2, 5, followers_lost),
    rule(FindingId::LikelyDeadlock, 0, 0, likely_deadlock),
    rule(FindingId::EndlessLoop, 0, 0, endless_loop),
    rule(FindingId::MissingThread, 0, 0, missing_thread),
    rule(FindingId::ReplicaBehind, 5, 5, replica_behind),
    rule(FindingId::RegisteredButDead, 0, 0, registered_but_dead),
    rule(FindingId::FileHandleLeak, 60, 300, file_handle_leak),
    rule(FindingId::DeadSocketPileup, 60, 60, dead_socket_pileup),
    rule(FindingId::CloseWaitPileup, 15, 15, close_wait_pileup),
    rule(FindingId::AcceptQueueFull, 3, 10, accept_queue_full),
    rule(FindingId::UnderReplicated, 60, 10, |case| {
        followers_missing(case, |counts| Some(counts.under_replicated))
    }),
    rule(FindingId::ViewsDiverge, 30, 10, views_diverge),
    rule(FindingId::PathCut, 0, 3, path_cut),
    rule(FindingId::PeerUnreachable, 15, 10, peer_unreachable),
    rule(FindingId::CertificateExpiry, 0, 0, certificate_expiry),
    rule(FindingId::StuckGroup, 0, 0, stuck_group),
    rule(FindingId::KnownIssueExposed, 0, 0, known_issue_exposed),
];

fn deadlocks(case: &Case<'_>, wanted: impl Fn(&Deadlock) -> bool) -> RuleResult {
    let Some(present) = &case.broker.deadlock else {
        let understood = |report: &ThreadReport| report.not_understood.is_empty();
        return match case.broker.threads.fresh(case.now) {
            Some(report) if understood(report) => Absent,
            _ => Unknown,
        };
    };
    let mut facts = Vec::new();
    for deadlock in present.deadlocks.iter().filter(|deadlock| wanted(deadlock)) {
        for member in &deadlock.cycle {
            let (thread, wants, holder) = (&member.thread, &member.wants, &member.held_by);
            facts.push(format!("{thread} wants {wants}, which {holder} holds"));
        }
        if deadlock.cycle_left_out > 0 {
            facts.push(format!(
                "{} threads are in the cycle; {} of them are not listed",
                deadlock.members(),
                deadlock.cycle_left_out
            ));
        }
        if !deadlock.waiting.is_empty() {
            let waiting = deadlock.waiting.iter().map(|thread| &thread.thread);
            let waiting = first_of(waiting, deadlock.blocked());
            facts.push(format!("blocked behind the deadlock: {waiting}"));
        }
    }
    if !facts.is_empty() {
        for known in &present.known_issues {
            let by = if known.is_exact() { "is" } else { "looks like" };
            facts.push(format!("it {by} {}: {}", known.issue, known.title));
        }
        facts.extend(case.groups());
    }
    present_if(facts)
}

/// Only what dumps far enough apart show: a wait for a peer or a disk ends.
fn likely_deadlock(case: &Case<'_>) -> RuleResult {
    let (Some(report), Some((_, at))) = (
        case.broker.threads.fresh(case.now),
        case.broker.threads.last(),
    ) else {
        return Unknown;
    };
    let stands = report
        .likely_deadlocks
        .iter()
        .filter(|likely| at.since(likely.since) >= STANDS);
    present_if(stands.map(likely_text))
}

fn endless_loop(case: &Case<'_>) -> RuleResult {
    let Some(report) = case.broker.threads.fresh(case.now) else {
        return Unknown;
    };
    let fact = |found: &Loop| {
        let method = stack::shown(&found.frames).next().unwrap_or_default();
        let issues = found.known_issues.iter().map(|known| &known.issue);
        let issues = first_of(issues, found.known_issues.len());
        format!(
            "{} uses a core and does not come out of one method, as by {issues}: {method}",
            found.thread
        )
    };
    present_if(report.loops.iter().map(fact))
}

fn missing_thread(case: &Case<'_>) -> RuleResult {
    let Some(missing) = case
        .broker
        .threads
        .fresh(case.now)
        .and_then(|report| report.missing.as_ref())
    else {
        return Unknown;
    };
    let fact = |gone: &MissingThread| {
        let mut fact = format!("{} ({}) has ended", gone.thread, gone.pool);
        for known in may_have_ended(&case.broker.broker, &gone.thread) {
            fact += &format!(", as by {}: {}", known.key, known.title);
        }
        fact
    };
    present_if(missing.found.iter().map(fact))
}

fn process_stopped(case: &Case<'_>) -> RuleResult {
    match case
        .broker
        .process
        .fresh(case.now)
        .map(|vitals| vitals.state)
    {
        None => Unknown,
        Some('T' | 't') => Present(vec![format!(
            "process {} is in state T",
            case.broker.broker.process.pid
        )]),
        Some(_) => Absent,
    }
}

fn jvm_paused(case: &Case<'_>) -> RuleResult {
    let Some(share) = case.memory.share_paused(case.broker, case.now) else {
        return Unknown;
    };
    let fact = format!(
        "at safepoints for {:.0} % of the last {}",
        100.0 * share,
        duration_text(WINDOW)
    );
    present_if((share > PAUSED).then_some(fact))
}

/// The share of a limit that must be used before a forecast counts: a young broker opens its segments fast.
const USED_FOR_FORECAST: f64 = 0.5;
/// The share of a limit that is too near at any slope.
const USED_UP: f64 = 0.95;
const FDS_AHEAD: f64 = 3600.0;
const MAPS_AHEAD: f64 = 4.0 * 3600.0;
const DISK_AHEAD: f64 = 4.0 * 3600.0;

pub(super) fn is_near(used: u64, limit: u64) -> bool {
    used as f64 >= limit as f64 * USED_UP
}

/// One level against its limit; a level that is `near` needs no slope.
fn exhaustion(
    what: &str,
    used: u64,
    limit: u64,
    near: bool,
    forecast: &Forecast,
    ahead: f64,
) -> Option<String> {
    let enough = used as f64 >= limit as f64 * USED_FOR_FORECAST;
    let soon = enough && matches!(forecast, Forecast::SecondsLeft(left) if *left <= ahead);
    let left = match forecast {
        Forecast::SecondsLeft(left) => format!(", about {} left", seconds_text(*left)),
        _ => String::new(),
    };
    (near || soon).then(|| format!("{what}: {used} of {limit}{left}"))
}

fn file_handle_exhaustion(case: &Case<'_>) -> RuleResult {
    let (Some(count), Some(vitals)) = (
        case.broker.open_fds.fresh(case.now),
        case.broker.process.fresh(case.now),
    ) else {
        return Unknown;
    };
    let Some(limit) = vitals.fd_limit_soft else {
        return Absent;
    };
    let forecast = &case.memory.forecasts.file_handles;
    let fact = exhaustion(
        "open file handles",
        *count,
        limit,
        is_near(*count, limit),
        forecast,
        FDS_AHEAD,
    );
    let kinds = fact.as_ref().and_then(|_| most_handles(case));
    present_if(fact.into_iter().chain(kinds))
}

/// The two kinds of which there were most, when they were last counted.
fn most_handles(case: &Case<'_>) -> Option<String> {
    let mut kinds = case.broker.fd_kinds.fresh(case.now)?.named();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let of_kind = |(kind, count): &(&str, u64)| format!("{count} of kind {kind}");
    let most: Vec<String> = kinds.iter().take(2).map(of_kind).collect();
    Some(format!(
        "most of them, when last counted: {}",
        most.join(", ")
    ))
}

fn memory_maps_exhaustion(case: &Case<'_>) -> RuleResult {
    let maps = case.broker.memory_maps.fresh(case.now);
    let (Some(maps), Some(limit)) = (maps, case.snapshot.memory_map_limit.fresh(case.now)) else {
        return Unknown;
    };
    let forecast = &case.memory.forecasts.memory_maps;
    let fact = exhaustion(
        "memory maps",
        *maps,
        *limit,
        is_near(*maps, *limit),
        forecast,
        MAPS_AHEAD,
    );
    present_if(fact)
}

fn log_dir_exhaustion(case: &Case<'_>) -> RuleResult {
    let Some(dirs) = case.broker.log_dirs.fresh(case.now) else {
        return Unknown;
    };
    // Some file systems report no size.
    let facts = dirs
        .iter()
        .filter(|space| space.total_bytes > 0)
        .filter_map(|space| {
            let dir = space.dir.display().to_string();
            let forecast = case
                .memory
                .forecasts
                .log_dirs
                .iter()
                .find(|(name, _)| *name == dir);
            let forecast = forecast.map_or(&Forecast::Unknown, |(_, forecast)| forecast);
            let (used, total) = (space.used_bytes(), space.total_bytes);
            let what = format!("bytes of the file system of {dir}");
            let full = is_near(used, total);
            exhaustion(&what, used, total, full, forecast, DISK_AHEAD)
        });
    present_if(facts)
}

/// For so long a broker may have the lock of a log dir after it has said that it gives it up.
const GIVES_UP: Duration = Duration::from_secs(10);

fn log_dir_failed(case: &Case<'_>) -> RuleResult {
    let broker = case.broker;
    let mut facts = Vec::new();
    let unlocked = broker.offline_log_dirs.fresh(case.now);
    // All locks a while after the line: another broker has written it to the same file, or an earlier process.
    let all_locked = unlocked.filter(|dirs| dirs.is_empty());
    let locked_at = all_locked.and(broker.offline_log_dirs.last());
    let said = broker.log.last().and_then(|(log, _)| {
        let line = log.signatures.get("log_dir_offline")?.last.as_ref()?;
        let is_refuted = locked_at.is_some_and(|(_, at)| at >= line.at.plus(GIVES_UP));
        (!is_refuted).then(|| format!("its log: {}", line.text))
    });
    for dir in unlocked.into_iter().flatten() {
        let space = broker.log_dirs.fresh(case.now).into_iter().flatten();
        let mut space = space.filter(|space| space.dir == *dir);
        let why = match space.any(|space| is_near(space.used_bytes(), space.total_bytes)) {
            true => "; its disk is full",
            false => "",
        };
        let dir = dir.display();
        facts.push(format!(
            "log dir {dir} is offline: the broker has released its lock{why}"
        ));
    }
    facts.extend(said);
    match present_if(facts) {
        Absent if unlocked.is_none() => Unknown,
        result => result,
    }
}

fn file_handle_leak(case: &Case<'_>) -> RuleResult {
    let Some(count) = case.broker.open_fds.fresh(case.now) else {
        return Unknown;
    };
    let fact = |grown: Duration| {
        format!(
            "{count} open, growing for {} without coming down",
            duration_text(grown)
        )
    };
    let fact = case.memory.fds.leak().map(fact);
    let kinds = fact.as_ref().and_then(|_| most_handles(case));
    present_if(fact.into_iter().chain(kinds))
}

/// Fewer sockets without a table entry may come from reading the tables one after the other.
const DEAD_SOCKETS: u64 = 50;

fn dead_socket_pileup(case: &Case<'_>) -> RuleResult {
    match case.broker.untracked_sockets.fresh(case.now) {
        None => Unknown,
        Some(count) if *count >= DEAD_SOCKETS => Present(vec![format!(
            "{count} sockets of the process are in no socket table of the kernel"
        )]),
        Some(_) => Absent,
    }
}

/// A working broker closes a connection at once when its client has closed it.
const CLOSE_WAIT: u64 = 20;
const UNREAD_CLOSE_WAIT: u64 = 5;

fn close_wait_pileup(case: &Case<'_>) -> RuleResult {
    let Some(pulse) = case.broker.sockets.fresh(case.now) else {
        return Unknown;
    };
    let waiting = pulse.server.get(TcpState::CloseWait);
    if waiting.connections < CLOSE_WAIT && pulse.unread_close_wait < UNREAD_CLOSE_WAIT {
        return Absent;
    }
    Present(vec![format!(
        "{} connections in CLOSE_WAIT, {} of them with unread bytes ({} bytes)",
        waiting.connections, pulse.unread_close_wait, waiting.receive_bytes
    )])
}

fn accept_queue_full(case: &Case<'_>) -> RuleResult {
    let Some(queues) = case.broker.accept_queues.fresh(case.now) else {
        return Unknown;
    };
    // Without a known limit, as in another network namespace, no length is too long.
    if queues.iter().all(|queue| queue.limit.is_none()) {
        return Unknown;
    }
    let facts = queues.iter().filter_map(|queue| {
        let limit = queue
            .limit
            .filter(|limit| queue.length >= (*limit).max(1))?;
        Some(format!(
            "listener {}: {} connections wait, its limit is {limit}",
            queue.listener, queue.length
        ))
    });
    present_if(facts)
}

fn known_issue_exposed(case: &Case<'_>) -> RuleResult {
    case.memory.known_faults()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_finding_has_one_rule() {
        let of_rules: BTreeSet<FindingId> = RULES.iter().map(|rule| rule.id).collect();
        let all: BTreeSet<FindingId> = FindingId::ALL.iter().copied().collect();
        assert_eq!((of_rules, RULES.len()), (all.clone(), all.len()));
    }
}
