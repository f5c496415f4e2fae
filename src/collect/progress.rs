//! The collector `progress`: samples how often the broker's threads run, and asks for a thread dump where they should
//! and do not, or have ended. It reads the pauses of the JVM as well.

pub mod pools;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use self::pools::{PoolSample, PoolTimes, Pools};
use super::adaptive_interval::{AdaptiveInterval, shared_moment};
use super::context::{BrokerContext, LOGGED, Names, SILENCE};
use super::frame::{self, Collector, Description, Stamp};
use super::process::failure;
use crate::model::{
    Broker, BrokerSnapshot, Clock, CollectorName, DiskWait, Failure, Moment, ProgressReport,
    Reason, Suspect,
};
use crate::sys::blocking_worker::{BlockingWorker, measured};
use crate::sys::perf_data::PerfFile;
use crate::sys::proc::{ProcError, ProcRoot};
use crate::sys::process::PinnedProcess;
use crate::sys::schedstat::{Allowance, Counts, Tasks};
use crate::threads::pools::Pool;
use crate::threads::progress::{
    ProgressDetector, Sample, is_clock, must_move, shows_rhythm, uses_disks,
};

/// Share of a core that the passes of all brokers may take together, as long as none has a thread that makes no progress.
const CEILING_OF_ALL: f64 = 0.003;
/// A report without news is published so often.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Between two scans for threads that started or ended where their number is the same.
const SCAN_EVERY: Duration = Duration::from_secs(2);
/// Between two readings of the JVM's own count of its pauses.
const PAUSES_EVERY: Duration = Duration::from_secs(1);
/// Passes start at shared moments: what is due at the same one must not wait for the next because this one came early.
const EARLY: Duration = Duration::from_millis(50);
/// For so long at most a thread that has ended is a reason for a dump.
const REASON_LASTS: Duration = Duration::from_secs(10);
/// A usual dump takes less, and its names are known a moment later.
const DUMP_TAKES: Duration = Duration::from_millis(500);
/// A JVM without performance data will hardly publish them later.
const RETRY_PAUSES: Duration = Duration::from_secs(60);
/// For so long a broker that starts or ends may be without the threads whose progress can be evaluated.
const STARTS_OR_ENDS: Duration = Duration::from_secs(60);

/// See [`ProgressCollector`].
#[derive(Debug)]
pub struct Progress;

/// What is published at a time; None is not due, and stays as it is known.
#[derive(Debug)]
pub struct Readings {
    pub progress: Option<Result<ProgressReport, Failure>>,
    /// Time that the JVM has spent at safepoints since it started. May be known without the other.
    pub pauses: Option<Result<Duration, Failure>>,
    pub pools: Option<pools::Reading>,
}

impl Collector for Progress {
    const DESCRIPTION: Description = Description {
        name: CollectorName::Progress,
        ceiling: 0.001,
        deadline: Duration::from_secs(2),
    };
    type Value = Readings;

    fn store(broker: &mut BrokerSnapshot, result: Result<Readings, Failure>, stamp: Stamp) {
        let readings = result.unwrap_or_else(|failure| {
            // Where they were never read, they may be switched off.
            let are_on = broker.collectors.contains_key(&CollectorName::Pools);
            Readings {
                progress: Some(Err(failure.clone())),
                pauses: None,
                pools: are_on.then_some(Err(failure)),
            }
        });
        if let Some(progress) = readings.progress {
            let reported = stamp.at_most_every(REPORT_EVERY);
            let failure = reported.put(&mut broker.progress, progress);
            stamp.finish(broker, CollectorName::Progress, failure.as_ref());
        }
        if let Some(pauses) = readings.pauses {
            let reported = stamp.at_most_every(PAUSES_EVERY);
            reported.put(&mut broker.jvm_pauses, pauses);
        }
        if let Some(pools) = readings.pools {
            pools::store(broker, pools, stamp);
        }
    }
}

/// Runs for ever.
pub(super) async fn run(context: BrokerContext) {
    let mut interval = frame::interval_of::<Progress>(&context);
    let collector = ProgressCollector::new(
        context.proc.clone(),
        Arc::clone(&context.broker),
        context.kept_descriptors.clone(),
        context.config.collectors.is_on(CollectorName::Pools),
    );
    let mut worker = BlockingWorker::new(Passes {
        collector,
        interval: interval.clone(),
        brokers: Arc::clone(&context.brokers),
        suspects: BTreeSet::new(),
        ended: Ended::default(),
        report_due: None,
        pauses: None,
        pools: None,
    });
    let name = context.broker.name();
    let mut last_success: Option<Instant> = None;
    let mut start = Instant::now();
    loop {
        let names = context.signals.names.subscribe();
        let pass = move |passes: &mut Passes, start| passes.pass(start, names.borrow().clone());
        let usual = REPORT_EVERY.max(interval.interval());
        let deadline = usual + Progress::DESCRIPTION.deadline;
        let report = worker.repeat(start, usual, deadline, &name, pass).await;
        let report = report.unwrap_or_else(|failure| Report {
            started: start,
            before_names: false,
            progress: Err(failure),
            suspects: BTreeSet::new(),
            ended: Vec::new(),
            pauses: None,
            pools: None,
            interval: interval.clone(),
        });
        start = report.interval.next(report.started);
        interval = report.interval.clone();
        let took = report.started.elapsed();
        report_ended(&context, &report.ended);
        report_suspects(&context, &report);
        if report.progress.is_ok() {
            last_success = Some(report.started);
        }
        let ends = last_success.is_some_and(|at| at.elapsed() < STARTS_OR_ENDS);
        let too_early = report.is_too_early(&context, ends);
        let readings = Readings {
            progress: (!too_early).then_some(report.progress),
            pauses: report.pauses,
            pools: report.pools.filter(|_| !too_early),
        };
        if readings.progress.is_some() || readings.pauses.is_some() {
            frame::publish::<Progress>(&context, Ok(readings), interval.interval(), took).await;
        }
    }
}

/// Before the suspects, so that the dump that these cause finds it.
fn report_ended(context: &BrokerContext, ended: &[Arc<str>]) {
    if ended.is_empty() {
        return;
    }
    let (broker, now) = (context.broker.name(), context.clock.now());
    tracing::debug!(broker, ?ended, "threads of pools that have ended");
    context.signals.deaths.send_modify(|deaths| {
        for thread in ended {
            deaths.add_gone(thread.to_string(), now);
        }
    });
}

/// Replaces the suspects of earlier passes, but for those of other collectors.
fn report_suspects(context: &BrokerContext, report: &Report) {
    let changed = context.signals.suspects.send_if_modified(|known| {
        let of_others = [SILENCE, LOGGED];
        let of_others = of_others.iter().filter(|id| known.contains(id));
        let suspects = report.suspects.iter().chain(of_others);
        let suspects: BTreeSet<u32> = suspects.copied().collect();
        std::mem::replace(known, suspects.clone()) != suspects
    });
    if changed {
        let suspects = report.progress.iter().flat_map(|report| &report.suspects);
        let names: Vec<&str> = suspects.map(|suspect| suspect.thread.as_str()).collect();
        let broker = context.broker.name();
        tracing::debug!(broker, suspects = ?names, "threads that make no progress");
    }
}

/// What the passes of one broker keep.
struct Passes {
    collector: ProgressCollector,
    interval: AdaptiveInterval,
    /// How many are watched.
    brokers: Arc<AtomicUsize>,
    suspects: BTreeSet<u32>,
    ended: Ended,
    /// When a report without news is due.
    report_due: Option<Instant>,
    pauses: Option<Result<Duration, Failure>>,
    pools: Option<pools::Reading>,
}

/// The threads that have ended since the newest dump, which are reasons for another one.
#[derive(Default)]
struct Ended {
    threads: BTreeMap<u32, Instant>,
    /// Of the newest dump.
    names: Option<Arc<Names>>,
}

impl Ended {
    fn add(&mut self, ended: impl Iterator<Item = u32>, names: Option<&Arc<Names>>, now: Instant) {
        let same = self.names.as_ref().map(Arc::as_ptr) == names.map(Arc::as_ptr);
        if !same {
            self.names = names.cloned();
        }
        self.threads.retain(|_, at| {
            let age = now.saturating_duration_since(*at);
            // A dump that was under way may have shown the thread.
            age < REASON_LASTS && (same || age < DUMP_TAKES)
        });
        self.threads.extend(ended.map(|thread| (thread, now)));
    }
}

/// The result of a pass that is to be published.
struct Report {
    started: Instant,
    /// Before any dump has named the threads.
    before_names: bool,
    progress: Result<ProgressReport, Failure>,
    suspects: BTreeSet<u32>,
    /// The names of the threads that have ended since the report before.
    ended: Vec<Arc<str>>,
    pauses: Option<Result<Duration, Failure>>,
    pools: Option<pools::Reading>,
    interval: AdaptiveInterval,
}

impl Report {
    /// Most versions need the names of the first dump, which is under way. A broker that starts has no such threads yet,
    /// and one that ends has none any more. Nothing has failed.
    fn is_too_early(&self, context: &BrokerContext, ends: bool) -> bool {
        let unnamed = |failure: &Failure| failure.reason == Reason::Unnamed;
        let starts = context
            .broker
            .started
            .is_some_and(|started| context.clock.now().since(started) < STARTS_OR_ENDS);
        self.progress.as_ref().is_err_and(unnamed) && (self.before_names || starts || ends)
    }
}

/// What the passes of one broker may take, where so many are watched.
fn ceiling(brokers: usize, suspected: bool) -> f64 {
    let each = Progress::DESCRIPTION.ceiling;
    if suspected {
        each
    } else {
        each.min(CEILING_OF_ALL / brokers.max(1) as f64)
    }
}

impl Passes {
    /// Runs one pass, and breaks where the suspects have changed or a report is due.
    fn pass(
        &mut self,
        started: Instant,
        names: Option<Arc<Names>>,
    ) -> ControlFlow<Report, Instant> {
        let before_names = names.is_none();
        let of_dump = names.clone();
        let (pass, cost) = measured(|| self.collector.pass(&names.unwrap_or_default()));
        self.interval.spent(cost);
        self.pauses = pass.pauses.or(self.pauses.take());
        self.pools = pass.pools.or(self.pools.take());
        let reported = pass.progress.iter().flat_map(|report| &report.suspects);
        let mut suspects: BTreeSet<u32> = reported.map(|suspect| suspect.thread_id).collect();
        let ended = pass.ended.iter().map(|(thread, _)| *thread);
        self.ended.add(ended, of_dump.as_ref(), started);
        suspects.extend(self.ended.threads.keys());
        let brokers = self.brokers.load(Ordering::Relaxed);
        let ceiling = ceiling(brokers, !suspects.is_empty());
        self.interval.set_ceiling(ceiling);
        let next = self.interval.next(started);
        if suspects == self.suspects
            && pass.ended.is_empty()
            && self.report_due.is_some_and(|due| next <= due)
        {
            return ControlFlow::Continue(next);
        }
        self.suspects.clone_from(&suspects);
        self.report_due = Some(shared_moment(started, REPORT_EVERY, started));
        ControlFlow::Break(Report {
            started,
            before_names,
            progress: pass.progress,
            suspects,
            ended: pass.ended.into_iter().map(|(_, name)| name).collect(),
            pauses: self.pauses.take(),
            pools: self.pools.take(),
            interval: self.interval.clone(),
        })
    }
}

/// Samples the threads of one broker.
#[derive(Debug)]
pub struct ProgressCollector {
    proc: ProcRoot,
    broker: Arc<Broker>,
    allowance: Allowance,
    clock: Clock,
    tasks: Option<Tasks>,
    scanned: Moment,
    /// Whether a thread that is followed has ended.
    one_ended: bool,
    names: Arc<Names>,
    followed: Vec<(u32, Pool)>,
    /// None where the collector is switched off.
    pools: Option<Pools>,
    pooled: Vec<(u32, Pool)>,
    /// The names of all threads of pools, by the kernel's id.
    named: BTreeMap<u32, Arc<str>>,
    /// Those that have ended since the last pass.
    ended: Vec<(u32, Arc<str>)>,
    pools_due: Moment,
    detector: ProgressDetector,
    pauses: Pauses,
}

/// What one pass found.
#[derive(Debug)]
pub struct Pass {
    pub progress: Result<ProgressReport, Failure>,
    /// Time that the JVM has spent at safepoints since it started; None in passes that do not read it.
    pub pauses: Option<Result<Duration, Failure>>,
    /// None in passes that do not read them.
    pub pools: Option<pools::Reading>,
    /// Threads of pools that have ended, by the kernel's id, and their names.
    pub ended: Vec<(u32, Arc<str>)>,
}

impl ProgressCollector {
    /// `pools` says whether the collector of that name is on.
    pub fn new(proc: ProcRoot, broker: Arc<Broker>, allowance: Allowance, pools: bool) -> Self {
        let pauses = Pauses {
            proc_root: proc.path().to_path_buf(),
            file: None,
            next: Moment::default(),
        };
        ProgressCollector {
            proc,
            broker,
            allowance,
            clock: Clock::start(),
            tasks: None,
            scanned: Moment::default(),
            one_ended: false,
            names: Arc::default(),
            followed: Vec::new(),
            pools: pools.then(Pools::default),
            pooled: Vec::new(),
            named: BTreeMap::new(),
            ended: Vec::new(),
            pools_due: Moment::default(),
            detector: ProgressDetector::default(),
            pauses,
        }
    }

    /// Reads once. Blocking, but only as long as the kernel takes to answer. `names` are those of the newest dump.
    pub fn pass(&mut self, names: &Arc<Names>) -> Pass {
        let now = self.clock.now();
        let pools_due = self.pools.is_some() && now.plus(EARLY) >= self.pools_due;
        if pools_due {
            self.pools_due = now.plus(pools::EVERY);
        }
        let sampled = self.sample(names, pools_due).map_err(|error| {
            // The next pass starts from nothing.
            self.tasks = None;
            self.named.clear();
            self.detector = ProgressDetector::default();
            failure(&self.broker, &error)
        });
        let (progress, times) = match sampled {
            Ok((Some(report), times)) => (Ok(report), times),
            Ok((None, _)) => (Err(self.nothing_to_follow()), None),
            Err(failure) => (Err(failure), None),
        };
        let pools = match &progress {
            Ok(_) => times.map(|times| Ok((times, Instant::now()))),
            Err(failure) => pools_due.then(|| Err(failure.clone())),
        };
        Pass {
            progress,
            pauses: self.pauses.read(&self.broker, now),
            pools,
            ended: std::mem::take(&mut self.ended),
        }
    }

    /// Returns no report where no progress can be evaluated, and the times of the pools where they are wanted.
    fn sample(
        &mut self,
        names: &Arc<Names>,
        with_pools: bool,
    ) -> Result<(Option<ProgressReport>, Option<PoolTimes>), ProcError> {
        let key = self.broker.process;
        let mut tasks = match self.tasks.take() {
            Some(tasks) => tasks,
            None => {
                self.scanned = Moment::default();
                Tasks::open(&self.proc, key.pid, key.start_ticks, self.allowance.clone())?
            }
        };
        let scanned = if self.one_ended {
            tasks.scan()?;
            true
        } else if self.clock.now().plus(EARLY).since(self.scanned) >= SCAN_EVERY {
            self.scanned = self.clock.now();
            tasks.scan_changed()?
        } else {
            // A thread that has ended is to be seen at once.
            tasks.scan_other_number()?
        };
        if scanned || !Arc::ptr_eq(&self.names, names) {
            self.names = Arc::clone(names);
            self.choose(&mut tasks);
        }
        let now = self.clock.now();
        let mut samples = Vec::with_capacity(self.followed.len());
        let mut of_pools = Vec::new();
        let threads = if with_pools {
            &self.pooled
        } else {
            &self.followed
        };
        tasks.counts(threads.iter().copied(), |thread, pool, counts| {
            if with_pools {
                of_pools.push(PoolSample {
                    thread,
                    pool,
                    counts,
                });
            }
            if is_followed(pool) {
                let Counts { cpu, switches, .. } = counts;
                samples.push(Sample {
                    thread,
                    pool,
                    cpu,
                    switches,
                });
            }
        })?;
        let is_alive = |thread| tasks.get(thread).is_some();
        let pools = self.pools.as_mut().filter(|_| with_pools);
        let times = pools.map(|pools| pools.add(now, &of_pools, is_alive));
        // Then the next pass scans for its successor.
        self.one_ended = samples.len() < self.followed.len();
        let mut states = Vec::new();
        for thread in self.detector.take(now, &samples) {
            states.extend(tasks.state(thread)?.map(|state| (thread, state)));
        }
        let suspects = self.detector.suspects(&states);
        let suspects = suspects.into_iter().map(|(thread_id, pool)| Suspect {
            thread_id,
            thread: self.name(&tasks, thread_id),
            pool: pool.name().to_owned(),
            disk_wait: self.disk_wait(&tasks, thread_id),
        });
        let report = ProgressReport {
            suspects: suspects.collect(),
            threads: samples.len() as u64,
        };
        self.tasks = Some(tasks);
        let known = |wanted: fn(Pool) -> bool| samples.iter().any(|sample| wanted(sample.pool));
        let report = (known(must_move) && known(is_clock)).then_some(report);
        Ok((report, times))
    }

    /// Chooses the threads of each pass, and those of the pools.
    fn choose(&mut self, tasks: &mut Tasks) {
        let named = tasks.iter().filter_map(|(thread, task)| {
            let name = self.names.get(&task.inner_id)?;
            Some((thread, Arc::clone(name)))
        });
        let before = std::mem::replace(&mut self.named, named.collect());
        let ended = before.into_iter();
        self.ended
            .extend(ended.filter(|(thread, _)| tasks.get(*thread).is_none()));
        let pooled = tasks.iter().filter_map(|(thread, task)| {
            let pool = match self.names.get(&task.inner_id) {
                Some(name) => Pool::of(name),
                None => Pool::of_kernel_name(&task.name),
            };
            Some((thread, pool?))
        });
        let with_pools = self.pools.is_some();
        self.pooled = pooled
            .filter(|(_, pool)| with_pools || is_followed(*pool))
            .collect();
        let followed = self.pooled.iter().filter(|(_, pool)| is_followed(*pool));
        self.followed = followed.copied().collect();
        // In ascending order, as the tasks are.
        let pooled = &self.pooled;
        tasks.keep_only(|thread| {
            pooled
                .binary_search_by_key(&thread, |(thread, _)| *thread)
                .is_ok()
        });
    }

    fn name(&self, tasks: &Tasks, thread: u32) -> String {
        let Some(task) = tasks.get(thread) else {
            return String::new();
        };
        self.names
            .get(&task.inner_id)
            .map_or_else(|| task.name.clone(), |name| name.to_string())
    }

    fn disk_wait(&self, tasks: &Tasks, thread: u32) -> Option<DiskWait> {
        let since = self.detector.in_kernel_since(thread)?;
        let call = tasks.kernel_call(thread);
        Some(DiskWait {
            since,
            is_file_call: call.as_ref().is_some_and(|call| call.is_file_call),
            file: call.as_ref().and_then(|call| call.file.clone()),
            call: call.map(|call| call.name),
        })
    }

    fn nothing_to_follow(&self) -> Failure {
        let pid = self.broker.process.pid;
        let message = format!(
            "pid {pid}: the kernel's short thread names do not distinguish the pools of this version, and no thread \
             dump has shown the full ones yet"
        );
        Failure::new(Reason::Unnamed, message)
    }
}

/// Whether threads of a pool are read in each pass: those whose progress can be evaluated, those that use disks, and the
/// reapers, which show whether the JVM runs.
fn is_followed(pool: Pool) -> bool {
    uses_disks(pool) || shows_rhythm(pool) || is_clock(pool)
}

/// Reads how long the JVM has been stopped at safepoints.
#[derive(Debug)]
struct Pauses {
    proc_root: PathBuf,
    file: Option<PerfFile>,
    next: Moment,
}

impl Pauses {
    fn read(&mut self, broker: &Broker, now: Moment) -> Option<Result<Duration, Failure>> {
        if now.plus(EARLY) < self.next {
            return None;
        }
        let result = self.safepoint_time(broker);
        self.next = now.plus(if result.is_ok() {
            PAUSES_EVERY
        } else {
            RETRY_PAUSES
        });
        Some(result)
    }

    fn safepoint_time(&mut self, broker: &Broker) -> Result<Duration, Failure> {
        let key = broker.process;
        let unknown = |reason, cause: String| {
            Failure::new(reason, format!("pauses of pid {}: {cause}", key.pid))
        };
        let mut file = match self.file.take() {
            Some(file) => file,
            None => PinnedProcess::open(&self.proc_root, key.pid, Some(key.start_ticks))
                .map_err(|error| unknown(error.reason(), error.to_string()))
                .and_then(|target| {
                    PerfFile::open(&target)
                        .map_err(|error| unknown(Reason::Absent, error.to_string()))
                })?,
        };
        let time = file
            .safepoint_time()
            .map_err(|error| unknown(Reason::Protocol, error.to_string()))?;
        self.file = Some(file);
        time.ok_or_else(|| {
            unknown(
                Reason::Absent,
                "the JVM publishes no sun.rt.safepointTime".into(),
            )
        })
    }
}

#[cfg(test)]
mod tests;
