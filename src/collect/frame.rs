//! What all collectors share: when they run, within which limits, and how their results reach the snapshot.
//!
//! A collector is a [`Description`], a function that reads a value or returns a [`Failure`], and a function that stores
//! the result with the [`Stamp`] of the run: [`Stamp::put`] for each reading, [`Stamp::finish`] for the success and the
//! duration of the run. The frame adds the schedule, the deadline and the cost ceiling. A collector that reads nothing of a
//! broker, which is no failure, publishes the reason with [`not_read`].

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::adaptive_interval::AdaptiveInterval;
use super::context::{BrokerContext, DUMP_PATIENCE};
use super::snapshot_store::Update;
use crate::model::{
    BrokerSnapshot, CollectorName, CollectorStatus, Failure, Moment, ProcessKey, Reading, Reason,
    is_unseen,
};
use crate::sys::blocking_worker::{BlockingWorker, measured};

/// The limits of a collector. Its interval is in [`CollectorName::about`], and the config file may change it.
#[derive(Debug, Clone, Copy)]
pub struct Description {
    pub name: CollectorName,
    /// Share of the time that it may cost. Above it, the interval grows.
    pub ceiling: f64,
    /// For one run.
    pub deadline: Duration,
}

/// A source of readings of one broker.
pub trait Collector: 'static {
    const DESCRIPTION: Description;
    /// What one run reads.
    type Value: Send + 'static;

    /// Writes the readings of one run, and how it ended, into the snapshot.
    fn store(broker: &mut BrokerSnapshot, result: Result<Self::Value, Failure>, stamp: Stamp);
}

/// A collector whose reads block the thread.
pub trait BlockingCollector: Collector + Send + Sized {
    const RUNS_ON: RunsOn;
    /// Whether a run waits until a thread dump under way has ended: the JVM then holds an fd for our connection, which
    /// no count should show.
    const WAITS_FOR_DUMP: bool = false;
    /// Under this ceiling it runs every second while the broker answers late, or threads make no progress. For one that runs
    /// on a thread of its own.
    const CEILING_WHILE_SUSPECT: Option<f64> = None;

    fn new(context: &BrokerContext) -> Self;

    /// Reads once.
    fn collect(&mut self) -> Result<Self::Value, Failure>;

    /// What of the CPU time that was measured counts against the ceiling.
    fn cost(_: &Self::Value, measured: Duration) -> Duration {
        measured
    }
}

/// Where the reads of a collector run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunsOn {
    /// On the thread that all short reads share.
    SharedThread,
    /// On a thread of its own, for reads that may take more than some milliseconds.
    OwnThread,
}

/// A reading older than this many intervals of its collector says nothing of now.
const VALID_INTERVALS: u32 = 3;

/// When and how a run ended.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    pub at: Moment,
    pub took: Duration,
    pub interval: Duration,
}

impl Stamp {
    /// For how long a reading of this run is valid.
    pub fn valid_for(self) -> Duration {
        self.interval * VALID_INTERVALS
    }

    /// Replaces what was known. Returns why it is unknown now, if it is.
    pub fn put<T>(self, reading: &mut Reading<T>, result: Result<T, Failure>) -> Option<Failure> {
        match result {
            Ok(value) => {
                *reading = Reading::Known {
                    value,
                    at: self.at,
                    valid_for: self.valid_for(),
                };
                None
            }
            Err(failure) => {
                *reading = Reading::unknown(failure.message.clone());
                Some(failure)
            }
        }
    }

    /// As [`Stamp::put`], for a value that comes with the time at which it was read.
    pub fn put_read<T>(
        self,
        reading: &mut Reading<T>,
        result: Result<(T, Instant), Failure>,
    ) -> Option<Failure> {
        match result {
            Ok((value, at)) => {
                let at = self.at.minus(at.elapsed());
                Stamp { at, ..self }.put(reading, Ok(value))
            }
            Err(failure) => self.put(reading, Err(failure)),
        }
    }

    /// The stamp of a result that is reported at most every `interval`.
    pub fn at_most_every(self, interval: Duration) -> Stamp {
        Stamp {
            interval: self.interval.max(interval),
            ..self
        }
    }

    /// Records that a run of this collector has ended: successfully, or with something unknown.
    pub fn finish(
        self,
        broker: &mut BrokerSnapshot,
        name: CollectorName,
        failure: Option<&Failure>,
    ) {
        let status = self.status(failure);
        let error = status.error.clone();
        let before = broker.collectors.insert(name, status);
        if let Some(failure) = failure.filter(|failure| nobody_asked(failure)) {
            // Once, as long as it is the same.
            if before.is_none_or(|before| before.error != error) {
                let (broker, collector) = (&broker.label, name.name());
                let reason = failure.reason.name();
                tracing::info!(broker, collector, reason, "{}", one_line(&failure.message));
            }
            return;
        }
        // A warning about the rights of the exporter stands for all of them.
        let is_denied = |failure: &&Failure| failure.reason == Reason::Denied;
        if let Some(failure) = failure.filter(is_denied)
            && !broker.broker.lacking.is_empty()
        {
            let (broker, collector) = (&broker.label, name.name());
            tracing::debug!(broker, collector, "{}", one_line(&failure.message));
            return;
        }
        log_change(
            &broker.label,
            name,
            before.and_then(|status| status.success),
            failure,
        );
    }

    pub fn status(self, failure: Option<&Failure>) -> CollectorStatus {
        CollectorStatus {
            success: match failure {
                Some(failure) if nobody_asked(failure) => None,
                failure => Some(failure.is_none()),
            },
            duration: self.took,
            interval: self.interval,
            at: self.at,
            error: failure.map(|failure| failure.message.clone()),
            reason: failure.map(|failure| failure.reason),
        }
    }
}

/// Whether something is unknown because nobody configured what it needs: the collector has not failed then.
fn nobody_asked(failure: &Failure) -> bool {
    failure.reason == Reason::NeedsCredentials
}

/// The update of the snapshot that one run of a collector causes.
pub fn update<C: Collector>(
    process: ProcessKey,
    result: Result<C::Value, Failure>,
    interval: Duration,
    took: Duration,
) -> Update {
    Update::of_broker(process, move |broker, at| {
        if result
            .as_ref()
            .is_err_and(|failure| failure.reason == Reason::Internal)
        {
            *broker.panics.entry(C::DESCRIPTION.name).or_default() += 1;
        }
        C::store(broker, result, Stamp { at, took, interval });
    })
}

/// The update of the snapshot where a collector reads nothing of the broker, for this reason: it has no run that could fail.
pub fn not_read<C: Collector>(process: ProcessKey, why: impl Into<Arc<str>>) -> Update {
    let why = why.into();
    Update::of_broker(process, move |broker, _| {
        broker.set_not_read(C::DESCRIPTION.name, why);
    })
}

/// Sends one result to the snapshot store.
pub(super) async fn publish<C: Collector>(
    context: &BrokerContext,
    result: Result<C::Value, Failure>,
    interval: Duration,
    took: Duration,
) {
    let update = update::<C>(context.broker.process, result, interval, took);
    send(context, update).await;
}

/// Sends to the snapshot store why nothing is read.
pub(super) async fn publish_not_read<C: Collector>(
    context: &BrokerContext,
    why: impl Into<Arc<str>>,
) {
    send(context, not_read::<C>(context.broker.process, why)).await;
}

async fn send(context: &BrokerContext, update: Update) {
    // The store ends only with the whole exporter.
    let _ = context.updates.send(update).await;
}

/// The interval of a collector, as configured and within its ceiling.
pub(super) fn interval_of<C: Collector>(context: &BrokerContext) -> AdaptiveInterval {
    let Description { name, ceiling, .. } = C::DESCRIPTION;
    AdaptiveInterval::new(context.config.intervals.of(name), ceiling)
}

/// Runs a blocking collector for ever.
pub(super) async fn run<C: BlockingCollector>(context: BrokerContext) {
    let deadline = C::DESCRIPTION.deadline;
    let name = context.broker.name();
    let mut interval = interval_of::<C>(&context);
    let mut worker = BlockingWorker::new(C::new(&context));
    let mut hurried =
        C::CEILING_WHILE_SUSPECT.map(|ceiling| AdaptiveInterval::new(HURRIED, ceiling));
    let mut start = Instant::now();
    let mut last = start;
    loop {
        let read = match C::RUNS_ON {
            RunsOn::SharedThread => {
                let dumping = context.jvm.dumping();
                let collect = move |collector: &mut C, now| {
                    if C::WAITS_FOR_DUMP && *dumping.borrow() > 0 && now < start + DUMP_PATIENCE {
                        return ControlFlow::Continue(now + DUMP_POLL);
                    }
                    ControlFlow::Break(measured(|| collector.collect()))
                };
                worker
                    .repeat(start, Duration::ZERO, deadline, &name, collect)
                    .await
            }
            RunsOn::OwnThread => {
                let sooner = hurried.as_ref().map(|hurried| hurried.next(last));
                tokio::select! {
                    () = tokio::time::sleep_until(start.into()) => {}
                    () = suspected(&context, sooner.unwrap_or(start)), if sooner.is_some() => {}
                }
                start = start.min(Instant::now());
                if C::WAITS_FOR_DUMP {
                    context.dump_ended().await;
                }
                worker.set_of_others(context.jvm.is_outranked());
                worker.run(deadline, &name, C::collect).await
            }
        };
        let result = match read {
            Ok((result, measured)) => {
                let cost = result.as_ref().map(|value| C::cost(value, measured));
                let cost = cost.unwrap_or(measured);
                interval.spent(cost);
                hurried.iter_mut().for_each(|hurried| hurried.spent(cost));
                result
            }
            Err(failure) => Err(failure),
        };
        publish::<C>(&context, result, interval.interval(), start.elapsed()).await;
        last = start;
        start = interval.next(start);
    }
}

/// From one run to the next while the broker is suspect.
const HURRIED: Duration = Duration::from_secs(1);

/// Waits until the broker answers late, or threads make no progress, and then until this time.
async fn suspected(context: &BrokerContext, soonest: Instant) {
    let mut late = context.signals.late.subscribe();
    let mut suspects = context.signals.suspects.subscribe();
    // The senders are a part of the context.
    tokio::select! {
        _ = late.wait_for(|late| *late) => {}
        _ = suspects.wait_for(|suspects| !suspects.is_empty()) => {}
    }
    tokio::time::sleep_until(soonest.into()).await;
}

/// Until the shared thread looks again whether a dump has ended.
const DUMP_POLL: Duration = Duration::from_millis(20);

/// Runs a collector, and starts it again when it has panicked.
pub(super) async fn supervised<C: Collector, F: Future<Output = ()> + Send + 'static>(
    context: BrokerContext,
    run: impl Fn(BrokerContext) -> F,
) {
    let interval = context.config.intervals.of(C::DESCRIPTION.name);
    loop {
        // In a task of its own it would outlive this one for a moment.
        let mut running = pin!(run(context.clone()));
        let ended = poll_fn(|task| {
            let polled = catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(task)));
            polled.map_or_else(|_| Poll::Ready(Err(())), |poll| poll.map(Ok))
        });
        if ended.await.is_ok() {
            return;
        }
        let message = format!(
            "{}: the collector panicked and is started again; see the log",
            context.broker.name()
        );
        let failure = Failure::new(Reason::Internal, message);
        publish::<C>(&context, Err(failure), interval, Duration::ZERO).await;
        tokio::time::sleep(interval.max(RESTART_AFTER)).await;
    }
}

/// A collector that panics each time must not fill the log.
const RESTART_AFTER: Duration = Duration::from_secs(5);

/// Logs a failure when it begins and when it ends, as collectors run every second. That a process is gone is logged by
/// discovery, once for all collectors.
pub(super) fn log_change(
    broker: &str,
    collector: CollectorName,
    before: Option<bool>,
    failure: Option<&Failure>,
) {
    let collector = collector.name();
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

/// Paths and answers in a message come from elsewhere: they must not begin a line of the log.
pub(super) fn one_line(text: &str) -> String {
    text.replace(|c| c == '\n' || is_unseen(c), " ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::collect::fds::Fds;
    use crate::collect::process::Process;
    use crate::collect::snapshot_store::apply;
    use crate::model::{Broker, Snapshot};

    #[tokio::test]
    async fn a_rare_collector_runs_every_second_while_the_broker_is_late() {
        let process = ProcessKey {
            pid: std::process::id(),
            start_ticks: 1,
        };
        let (context, mut received) = BrokerContext::of_test(Arc::new(Broker::unknown(process)));
        let late = context.signals.late.clone();
        let running = tokio::spawn(run::<Fds>(context));
        received.recv().await.unwrap();
        let second = Duration::from_millis(1500);
        let none = tokio::time::timeout(second, received.recv()).await;
        assert!(none.is_err(), "its interval is 30 s");
        late.send_replace(true);
        for _ in 0..2 {
            tokio::time::timeout(2 * second, received.recv())
                .await
                .unwrap()
                .unwrap();
        }
        running.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_panics_is_reported_and_started_again() {
        let process = ProcessKey {
            pid: 1,
            start_ticks: 1,
        };
        let broker = Arc::new(Broker::unknown(process));
        let (context, mut received) = BrokerContext::of_test(Arc::clone(&broker));
        let starts = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&starts);
        let panics_twice = move |_| {
            let start = counted.fetch_add(1, Ordering::Relaxed);
            async move { assert!(start == 2, "made by the test") }
        };
        supervised::<Process, _>(context, panics_twice).await;
        assert_eq!(starts.load(Ordering::Relaxed), 3);
        let mut snapshot = Snapshot::default();
        snapshot
            .brokers
            .push(Arc::new(BrokerSnapshot::new(broker, "1".into())));
        for _ in 0..2 {
            apply(&mut snapshot, received.recv().await.unwrap(), Moment(1));
            let status = &snapshot.brokers[0].collectors[&CollectorName::Process];
            let error = status.error.as_deref().unwrap();
            assert!(error.contains("panicked and is started again"), "{error}");
        }
        assert_eq!(
            snapshot.brokers[0].panics,
            [(CollectorName::Process, 2)].into()
        );
    }
}
