//! Keeps the newest readings: takes in what the rounds tell, publishes one immutable snapshot after another.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::{cluster, progress};
use crate::model::{
    AcceptQueue, BrokerSnapshot, Clock, ClusterCounts, CollectorStatus, ExporterVitals, FdKinds,
    LogDirSpace, Moment, ProbeReport, ProcessVitals, ProgressReport, Reading, Snapshot,
    SocketOwners, SocketPulse, StandingDeadlock, ThreadReport,
};
use crate::model::{Broker, ProcessKey};
use crate::model::{Failure, Reason};
use crate::threads::known_issues::{each_once, matching};

/// What one run of one round tells of one broker.
#[derive(Debug)]
pub struct RoundEnd {
    pub process: ProcessKey,
    pub round: &'static str,
    /// At which the round now runs.
    pub interval: Duration,
    pub took: Duration,
    pub told: Told,
}

#[derive(Debug)]
pub enum Told {
    Process {
        handles: Result<u64, Failure>,
        vitals: Result<ProcessVitals, Failure>,
    },
    Handles {
        kinds: Result<FdKinds, Failure>,
        memory_maps: Result<u64, Failure>,
    },
    /// Of the log dirs that could be looked at, and why another could not.
    LogDirs(Vec<LogDirSpace>, Option<Failure>),
    /// With its age: the walk that read it serves other brokers as well.
    Sockets(Result<(SocketPulse, Duration), Failure>),
    AcceptQueues(Result<(Vec<AcceptQueue>, Duration), Failure>),
    /// With the number of untracked sockets.
    Connections(Result<(SocketOwners, u64), Failure>),
    Cluster(Result<ClusterCounts, Failure>),
    Probes(Result<ProbeReport, Failure>),
    /// Nobody is to ask this broker, for this reason: no collector has failed.
    NotAsked(&'static str),
    Threads(Result<ThreadReport, Failure>),
    Progress(Result<ProgressReport, Failure>),
    /// Of the progress round as well, but told apart: the one may be known without the other.
    Pauses(Result<Duration, Failure>),
}

#[derive(Debug)]
pub enum Update {
    Discovered {
        /// Every broker now alive, each with its label.
        found: Result<Vec<(Arc<Broker>, String)>, Failure>,
        /// See [`Snapshot::discovery_warnings`].
        warnings: Vec<String>,
        memory_map_limit: Result<u64, Failure>,
        exporter: Result<ExporterVitals, Failure>,
        took: Duration,
        interval: Duration,
    },
    Round(Box<RoundEnd>),
}

/// A reading says nothing of now when it is older than this many intervals of its round.
const VALID_INTERVALS: u32 = 3;

/// How long a broker that is gone, and not back as another process, stays in sight.
const GONE_IN_SIGHT: Duration = Duration::from_secs(3600);

/// One without an id has its process' as label, under which nobody comes back.
const UNNAMED_IN_SIGHT: Duration = Duration::from_secs(60);

/// A round whose answer is there needs to be polled twice before its updates are in the queue.
const YIELDS: usize = 3;

/// Takes in updates until every sender is gone.
pub async fn keep(
    mut updates: mpsc::Receiver<Update>,
    publish: watch::Sender<Arc<Snapshot>>,
    clock: Clock,
) {
    let mut snapshot = Snapshot::default();
    while let Some(update) = updates.recv().await {
        apply(&mut snapshot, update, clock.now());
        // Rounds end together: one snapshot for all of them. The others that are ready run first.
        for _ in 0..YIELDS {
            tokio::task::yield_now().await;
        }
        while let Ok(update) = updates.try_recv() {
            apply(&mut snapshot, update, clock.now());
        }
        publish.send_replace(Arc::new(snapshot.clone()));
    }
}

/// The snapshot after one update.
pub fn apply(snapshot: &mut Snapshot, update: Update, now: Moment) {
    snapshot.at = now;
    match update {
        Update::Discovered {
            found,
            warnings,
            memory_map_limit,
            exporter,
            took,
            interval,
        } => {
            let valid = interval * VALID_INTERVALS;
            put(&mut snapshot.memory_map_limit, memory_map_limit, now, valid);
            put(&mut snapshot.exporter, exporter, now, valid);
            log_change(
                "",
                "discovery",
                snapshot.discovery.success,
                found.as_ref().err(),
            );
            snapshot.discovery = status(found.as_ref().err(), took, now);
            if let Ok(found) = found {
                for doubt in warnings
                    .iter()
                    .filter(|doubt| !snapshot.discovery_warnings.contains(doubt))
                {
                    tracing::warn!("{}", one_line(doubt));
                }
                for doubt in snapshot
                    .discovery_warnings
                    .iter()
                    .filter(|doubt| !warnings.contains(doubt))
                {
                    tracing::info!("no longer so: {}", one_line(doubt));
                }
                snapshot.discovery_warnings = warnings;
                discovered(snapshot, found, now);
            }
        }
        Update::Round(end) => {
            let of_process =
                |broker: &&mut Arc<BrokerSnapshot>| broker.broker.process == end.process;
            // A round may end after discovery saw its process go: what it tells is then of nobody.
            if let Some(broker) = snapshot.brokers.iter_mut().find(of_process)
                && broker.ended.is_none()
            {
                round_end(Arc::make_mut(broker), *end, now);
            }
        }
    }
}

fn discovered(snapshot: &mut Snapshot, found: Vec<(Arc<Broker>, String)>, now: Moment) {
    let alive: HashSet<ProcessKey> = found.iter().map(|(broker, _)| broker.process).collect();
    for broker in snapshot.brokers.iter_mut() {
        if broker.ended.is_none() && !alive.contains(&broker.broker.process) {
            end(Arc::make_mut(broker), now);
        }
    }
    for (broker, label) in found {
        log_found(&snapshot.brokers, &broker, &label);
        match snapshot
            .brokers
            .iter_mut()
            .find(|known| known.broker.process == broker.process)
        {
            // One look could not read it: it had not ended.
            Some(known) if known.ended.is_some() => {
                *known = Arc::new(BrokerSnapshot::new(broker, label))
            }
            Some(known) if known.broker == broker && known.label == label => {}
            Some(known) => {
                let known = Arc::make_mut(known);
                known.broker = broker;
                known.label = label;
            }
            None => snapshot
                .brokers
                .push(Arc::new(BrokerSnapshot::new(broker, label))),
        }
    }
    let labels: HashSet<String> = snapshot
        .brokers
        .iter()
        .filter(|b| b.ended.is_none())
        .map(|b| b.label.clone())
        .collect();
    snapshot.brokers.retain(|broker| match broker.ended {
        None => true,
        Some(ended) => {
            let in_sight = if broker.broker.id.is_some() {
                GONE_IN_SIGHT
            } else {
                UNNAMED_IN_SIGHT
            };
            now.since(ended) < in_sight && !labels.contains(&broker.label)
        }
    });
    snapshot.brokers.sort_by(|a, b| {
        let key = |x: &BrokerSnapshot| {
            (
                x.broker.id.is_none(),
                x.broker.id,
                x.label.clone(),
                x.broker.process,
            )
        };
        key(a).cmp(&key(b))
    });
}

/// Nothing that was read of a process speaks of it after its end.
fn end(broker: &mut BrokerSnapshot, now: Moment) {
    let reason = format!("process {} has ended", broker.broker.process.pid);
    tracing::warn!(broker = broker.label, "the broker's {reason}");
    let mut gone = BrokerSnapshot::new(Arc::clone(&broker.broker), broker.label.clone());
    gone.ended = Some(now);
    for collector in broker.collectors.keys() {
        let status = CollectorStatus {
            success: Some(false),
            at: now,
            error: Some(reason.clone()),
            ..Default::default()
        };
        gone.collectors.insert(collector.clone(), status);
    }
    *broker = gone;
}

fn round_end(broker: &mut BrokerSnapshot, end: RoundEnd, now: Moment) {
    let valid = end.interval * VALID_INTERVALS;
    if !matches!(end.told, Told::NotAsked(_)) {
        broker.rounds.insert(end.round.to_owned(), end.interval);
    }
    let (collector, error) = match end.told {
        Told::Process { handles, vitals } => {
            let handles = put(&mut broker.open_fds, handles, now, valid);
            (
                "process",
                put(&mut broker.process, vitals, now, valid).or(handles),
            )
        }
        Told::Handles { kinds, memory_maps } => {
            let memory_maps = put(&mut broker.memory_maps, memory_maps, now, valid);
            (
                "handles",
                put(&mut broker.fd_kinds, kinds, now, valid).or(memory_maps),
            )
        }
        Told::LogDirs(spaces, error) => {
            let known = if spaces.is_empty() {
                error.clone().map_or(Ok(spaces), Err)
            } else {
                Ok(spaces)
            };
            put(&mut broker.log_dirs, known, now, valid);
            ("log_dirs", error)
        }
        Told::Sockets(pulse) => ("sockets", put_read(&mut broker.sockets, pulse, now, valid)),
        Told::AcceptQueues(queues) => (
            "accept_queues",
            put_read(&mut broker.accept_queues, queues, now, valid),
        ),
        Told::Connections(owners) => {
            let untracked = owners
                .as_ref()
                .map(|(_, untracked)| *untracked)
                .map_err(Failure::clone);
            put(&mut broker.untracked_sockets, untracked, now, valid);
            (
                "connections",
                put(
                    &mut broker.connections,
                    owners.map(|(owners, _)| owners),
                    now,
                    valid,
                ),
            )
        }
        Told::Cluster(counts) => {
            let no_topic = counts
                .as_ref()
                .ok()
                .and_then(|counts| cluster::no_topic(&broker.broker, counts));
            (
                "cluster",
                put(&mut broker.cluster, counts, now, valid).or(no_topic),
            )
        }
        Told::Probes(report) => ("probes", put(&mut broker.probes, report, now, valid)),
        Told::NotAsked(reason) => {
            (broker.cluster, broker.probes) = (Reading::unknown(reason), Reading::unknown(reason));
            return;
        }
        Told::Threads(report) => {
            let error = report.as_ref().err().cloned();
            threads(broker, report, now, valid);
            ("threads", error)
        }
        Told::Progress(report) => {
            let valid = valid.max(progress::TELL_EVERY * VALID_INTERVALS);
            ("progress", put(&mut broker.progress, report, now, valid))
        }
        Told::Pauses(pauses) => {
            put(
                &mut broker.jvm_pauses,
                pauses,
                now,
                valid.max(progress::PAUSES_EVERY * VALID_INTERVALS),
            );
            return;
        }
    };
    let before = broker
        .collectors
        .insert(collector.to_owned(), status(error.as_ref(), end.took, now));
    log_change(
        &broker.label,
        collector,
        before.and_then(|status| status.success),
        error.as_ref(),
    );
}

fn threads(
    broker: &mut BrokerSnapshot,
    report: Result<ThreadReport, Failure>,
    now: Moment,
    valid: Duration,
) {
    match report {
        Ok(report) => {
            match (&broker.deadlock, report.deadlocks.is_empty()) {
                (None, false) => {
                    // `?` quotes them: the names of threads are the broker's to choose.
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
            broker.deadlock = (!report.deadlocks.is_empty()).then(|| StandingDeadlock {
                since: broker
                    .deadlock
                    .as_ref()
                    .map_or(now, |standing| standing.since),
                confirmed: now,
                known_issues: each_once(report.deadlocks.iter().flat_map(matching)),
                deadlocks: report.deadlocks.clone(),
            });
            broker.threads = Reading::Known {
                value: report,
                at: now,
                valid_for: valid,
            };
        }
        Err(failure) => {
            *broker.dump_failures.entry(failure.reason).or_default() += 1;
            // The last dump stays until it is too old: one that failed takes nothing back. Before the first, its
            // reason is what there is to tell.
            if broker.threads.last().is_none() {
                broker.threads = Reading::unknown(failure.message);
            }
        }
    }
}

/// Thread names in one line of the log.
const THREADS_LOGGED: usize = 20;

/// A failure is logged when it begins and when it ends; rounds run every second. That a process is gone, discovery tells
/// once for all collectors.
fn log_change(broker: &str, collector: &str, before: Option<bool>, failure: Option<&Failure>) {
    match (before, failure) {
        (Some(false), None) => tracing::info!(broker, collector, "the collector works again"),
        (None | Some(true), Some(failure)) if failure.reason != Reason::Gone => {
            tracing::warn!(
                broker,
                collector,
                reason = failure.reason.name(),
                "{}",
                one_line(&failure.message)
            );
        }
        _ => {}
    }
}

/// A broker that was not known, or of which something else is known or unknown than before.
fn log_found(known: &[Arc<BrokerSnapshot>], broker: &Broker, label: &str) {
    let known = known
        .iter()
        .find(|known| known.broker.process == broker.process);
    match known {
        None => {
            let version = broker.kafka_version.as_deref().unwrap_or("unknown");
            tracing::info!(
                broker = label,
                pid = broker.process.pid,
                version,
                "found a broker"
            );
        }
        Some(known) if known.label != label => {
            tracing::info!(
                broker = label,
                pid = broker.process.pid,
                before = known.label,
                "the broker's label is another"
            );
        }
        Some(_) => {}
    }
    let told = known
        .map(|known| known.broker.problems.as_slice())
        .unwrap_or_default();
    for problem in broker
        .problems
        .iter()
        .filter(|problem| !told.contains(problem))
    {
        tracing::warn!(broker = label, "{}", one_line(problem));
    }
}

/// Paths and answers in a message are others' work: they must not begin a line of the log themselves.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// As [`put`], for what was read some time before.
fn put_read<T>(
    reading: &mut Reading<T>,
    result: Result<(T, Duration), Failure>,
    now: Moment,
    valid_for: Duration,
) -> Option<Failure> {
    let at = result.as_ref().map_or(now, |(_, age)| now.minus(*age));
    put(reading, result.map(|(value, _)| value), at, valid_for)
}

/// Replaces what was known. Why it is unknown now, if it is.
fn put<T>(
    reading: &mut Reading<T>,
    result: Result<T, Failure>,
    at: Moment,
    valid_for: Duration,
) -> Option<Failure> {
    let (new, failure) = match result {
        Ok(value) => (
            Reading::Known {
                value,
                at,
                valid_for,
            },
            None,
        ),
        Err(failure) => (Reading::unknown(failure.message.clone()), Some(failure)),
    };
    *reading = new;
    failure
}

fn status(error: Option<&Failure>, duration: Duration, at: Moment) -> CollectorStatus {
    CollectorStatus {
        success: Some(error.is_none()),
        duration,
        at,
        error: error.map(|failure| failure.message.clone()),
    }
}
