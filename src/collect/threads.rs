//! The collector `threads`: thread dumps, and what they say with those before them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::context::{BrokerContext, Names};
use super::dump_scheduler::DumpScheduler;
use super::dump_service;
use super::frame::{self, Collector, Description, Stamp};
use super::jvm_dumper::RawDump;
use crate::model::{
    Broker, BrokerSnapshot, CollectorName, Failure, Moment, NamedIssue, Reading, Reason,
    StandingDeadlock, ThreadReport,
};
use crate::parse::thread_dump;
use crate::sys::blocking_worker::BlockingWorker;
use crate::threads::known_issues::exposure::may_have;
use crate::threads::known_issues::{each_once, matching};
use crate::threads::likely::LikelyDetector;
use crate::threads::loops::LoopDetector;
use crate::threads::missing::{Deaths, Follows, ThreadInventory};
use crate::threads::pools::Pool;
use crate::threads::stalls::{StallDetector, file_calls, standing};
use crate::threads::wait_graph::{Owners, WaitGraph, is_exclusive_lock};

/// Takes and reads the dumps of one broker, see [`DumpScheduler`] for when.
#[derive(Debug)]
pub struct Threads;

impl Collector for Threads {
    const DESCRIPTION: Description = Description {
        name: CollectorName::Threads,
        // Of the JVM's time, in pauses.
        ceiling: 0.002,
        // For one dump.
        deadline: dump_service::DEADLINE,
    };
    type Value = ThreadReport;

    fn store(broker: &mut BrokerSnapshot, result: Result<ThreadReport, Failure>, stamp: Stamp) {
        let failure = result.as_ref().err().cloned();
        match result {
            Ok(mut report) => {
                keep_possible(&broker.broker, &mut report);
                store_deadlocks(broker, &report, stamp.at);
                stamp.put(&mut broker.threads, Ok(report));
            }
            Err(failure) => {
                *broker.dump_failures.entry(failure.reason).or_default() += 1;
                // The last dump stands until it is too old, also when the next one fails. Before the first, the reason
                // of the failure is all that is known.
                if broker.threads.last().is_none() {
                    broker.threads = Reading::unknown(failure.message);
                }
            }
        }
        stamp.finish(broker, CollectorName::Threads, failure.as_ref());
    }
}

/// Removes the known issues that only resemble what the dump shows, where the broker's version is without them.
fn keep_possible(broker: &Broker, report: &mut ThreadReport) {
    let stalls = report
        .stalls
        .iter_mut()
        .flat_map(|stalls| &mut stalls.found);
    for stall in stalls {
        stall.known_issues.retain(|known| may_be(broker, known));
    }
    for found in &mut report.loops {
        found.known_issues.retain(|known| may_be(broker, known));
    }
    report.loops.retain(|found| !found.known_issues.is_empty());
}

/// What has the threads, locks and frames of a fault is the fault, whatever the version.
fn may_be(broker: &Broker, known: &NamedIssue) -> bool {
    known.is_exact() || may_have(broker, &known.issue)
}

/// A deadlock stands until a later dump shows none. One that was not understood shows nothing.
fn store_deadlocks(broker: &mut BrokerSnapshot, report: &ThreadReport, now: Moment) {
    if report.deadlocks.is_empty() && !report.not_understood.is_empty() {
        return;
    }
    match (&broker.deadlock, report.deadlocks.is_empty()) {
        (None, false) => {
            // `?` quotes them: the broker chooses the names of its threads.
            let cycle = report.deadlocks.iter().flat_map(|deadlock| &deadlock.cycle);
            let threads: Vec<&str> = cycle
                .map(|thread| thread.thread.as_str())
                .take(THREADS_LOGGED)
                .collect();
            tracing::error!(
                broker = broker.label,
                ?threads,
                "threads of the broker are deadlocked: restart it"
            );
        }
        (Some(_), true) => tracing::info!(broker = broker.label, "the deadlock is gone"),
        _ => {}
    }
    let since = broker
        .deadlock
        .as_ref()
        .map_or(now, |standing| standing.since);
    let known = report.deadlocks.iter().flat_map(matching);
    broker.deadlock = (!report.deadlocks.is_empty()).then(|| StandingDeadlock {
        since,
        confirmed: now,
        known_issues: each_once(known.filter(|known| may_be(&broker.broker, known))),
        deadlocks: Arc::clone(&report.deadlocks),
        more: report.more_deadlocks,
    });
}

/// Thread names in one line of the log.
const THREADS_LOGGED: usize = 20;

/// Runs for ever.
pub(super) async fn run(context: BrokerContext) {
    let Description { name, ceiling, .. } = Threads::DESCRIPTION;
    let mut scheduler = DumpScheduler::new(context.config.intervals.of(name), ceiling);
    let mut worker = BlockingWorker::new(ThreadHistory::default());
    let name = context.broker.name();
    let mut suspected = context.signals.suspects.subscribe();
    // Once for each process: its pause of seconds is charged to no budget, as the broker is stuck anyway.
    let mut asked_for_owners = false;
    loop {
        let started = Instant::now();
        let suspects = suspected.borrow_and_update().clone();
        let (dump, pause) = context.jvm.thread_dump().await;
        let took = started.elapsed();
        let mut report = read_dump(&context, &mut worker, dump).await;
        if !asked_for_owners
            && report
                .as_ref()
                .is_ok_and(|(report, _)| lacks_owners(report))
        {
            asked_for_owners = true;
            tracing::info!(broker = %name, "threads are stalled at a lock: one dump that shows its owner");
            let dump = context.jvm.thread_dump_with_locks().await;
            report = read_dump(&context, &mut worker, dump).await.or(report);
        }
        let report = report.map(|(report, names)| {
            context.signals.names.send_replace(Some(Arc::new(names)));
            report
        });
        // The names of an earlier dump stay when one fails.
        context
            .signals
            .names
            .send_modify(|names| *names = Some(names.take().unwrap_or_default()));
        let deadlocked = report
            .as_ref()
            .ok()
            .filter(|report| !report.deadlocks.is_empty() || report.not_understood.is_empty())
            .map(|report| !report.deadlocks.is_empty());
        match &report {
            Err(failure) if failure.reason == Reason::Stopped => scheduler.stopped(started),
            _ => scheduler.taken(started, pause, &suspects, deadlocked),
        }
        if let Ok(report) = &report {
            scheduler.lacks(report.lacks_some);
        }
        tracing::debug!(broker = %name, ?took, ?pause, suspects = suspects.len(), ?deadlocked, "thread dump");
        frame::publish::<Threads>(&context, report, scheduler.interval(), took).await;
        // What is suspected and what other dumps cost may change while this waits, and with it when the next is due.
        loop {
            scheduler.charge(context.jvm.uncharged());
            let suspects = suspected.borrow_and_update().clone();
            let due = scheduler.due(&suspects).unwrap_or(started);
            if due <= Instant::now() {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                // Its sender is a part of `context`.
                _ = suspected.changed() => {}
            }
        }
    }
}

/// Reads one dump on a thread of its own.
async fn read_dump(
    context: &BrokerContext,
    worker: &mut BlockingWorker<ThreadHistory>,
    dump: Result<RawDump, Failure>,
) -> Result<(ThreadReport, Names), Failure> {
    let mut dump = dump?;
    let name = context.broker.name();
    let (behind, now) = (context.signals.behind.borrow().clone(), context.clock.now());
    let deaths = context.signals.deaths.borrow().clone();
    let follows = context.signals.follows.borrow().clone();
    let read = move |history: &mut ThreadHistory| {
        thread_dump::make_utf8(&mut dump.bytes);
        (history.deaths, history.follows) = (deaths, follows);
        report(&dump, history, behind.as_deref(), now)
    };
    worker.set_of_others(context.jvm.is_outranked());
    let (report, _) = worker
        .run(Threads::DESCRIPTION.deadline, &name, read)
        .await?;
    report.map_err(|failure| Failure::new(failure.reason, format!("{name}: {}", failure.message)))
}

/// A dump with more threads is not read. Linux runs 32,768 unless a host is set up for more; some 200 bytes of memory are
/// needed for each while a dump is read.
const MAX_THREADS: usize = 1 << 17;
/// Threads whose names the other collectors get.
const MAX_NAMES: usize = 4096;

/// Longest queues for one lock that are reported.
const MAX_CONVOYS: usize = 8;

/// What is remembered of one process from dump to dump.
#[derive(Debug, Default)]
pub struct ThreadHistory {
    stalls: StallDetector,
    loops: LoopDetector,
    inventory: ThreadInventory,
    owners: Owners,
    /// Threads that have ended lately.
    deaths: Deaths,
    /// Whom the broker follows, where known.
    follows: Option<Follows>,
    likely: LikelyDetector,
}

/// Returns what a dump says, with those before it, and the names of the threads that belong to a pool. Takes a millisecond
/// or so: not for a thread that serves others. `behind` is
/// [`not_in_isr_by_leader`](crate::model::ClusterCounts::not_in_isr_by_leader) where known, `now` the dump's time.
///
/// # Errors
/// `protocol`, where the JVM answered with something that is no dump.
pub fn report(
    dump: &RawDump,
    history: &mut ThreadHistory,
    behind: Option<&BTreeMap<i32, u64>>,
    now: Moment,
) -> Result<(ThreadReport, Names), Failure> {
    let text = thread_dump::from_jvm(&dump.bytes);
    let unreadable = |message: &str| {
        Failure::new(
            Reason::Protocol,
            format!("the JVM's answer is no thread dump: {message}"),
        )
    };
    let dumps = thread_dump::parse_at_most(&text, MAX_THREADS)
        .map_err(|error| unreadable(&error.to_string()))?;
    let newest = dumps.last().ok_or_else(|| unreadable("it is empty"))?;
    let mut by_state: BTreeMap<thread_dump::State, u64> = BTreeMap::new();
    for state in newest.threads.iter().filter_map(|thread| thread.state()) {
        *by_state.entry(state).or_default() += 1;
    }
    let graph = WaitGraph::with_owners(newest, &history.owners);
    // What has moved since is forgotten for good.
    history.owners = graph.owners();
    let pooled = newest
        .threads
        .iter()
        .filter(|thread| Pool::of(thread.name).is_some());
    let id =
        |thread: &thread_dump::Thread| thread.header().nid.and_then(|nid| u32::try_from(nid).ok());
    let names = pooled
        .filter_map(|thread| Some((id(thread)?, thread.name.into())))
        .take(MAX_NAMES)
        .collect();
    let report = ThreadReport {
        by_state: by_state
            .into_iter()
            .map(|(state, count)| (state.name().to_owned(), count))
            .collect(),
        deadlocks: graph.deadlocks().into(),
        more_deadlocks: graph.more_deadlocks(),
        not_understood: graph.not_understood(),
        likely_deadlocks: history.likely.observe(&graph, now),
        convoys: graph.convoys().into_iter().take(MAX_CONVOYS).collect(),
        stalls: history.stalls.observe(newest, &graph, dump.paused, now),
        standing: standing(&graph, now),
        missing: history.inventory.observe(
            newest,
            behind,
            history.follows.as_ref(),
            &history.deaths,
            now,
        ),
        lacks_some: history.inventory.lacks_some(),
        loops: history.loops.observe(newest, now),
        file_calls: file_calls(newest),
        duration: dump.duration,
        bytes: dump.bytes.len() as u64,
    };
    Ok((report, names))
}

/// Whether threads are stalled at a lock whose owner only a dump with locks shows.
pub fn lacks_owners(report: &ThreadReport) -> bool {
    let stalls = report.stalls.iter().flat_map(|stalls| &stalls.found);
    let mut unowned = stalls
        .filter(|stall| stall.holders.is_empty())
        .flat_map(|stall| &stall.lock_class);
    report.deadlocks.is_empty() && unowned.any(|class| is_exclusive_lock(class))
}
