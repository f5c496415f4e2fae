//! Samples how the broker's threads move, and asks for a thread dump where they do not.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::process::failure;
use crate::model::Broker;
use crate::model::Failure;
use crate::model::{Clock, Moment, ProgressReport, Reason, Suspect};
use crate::sys::perf_data::PerfFile;
use crate::sys::proc::{ProcError, ProcRoot};
use crate::sys::process::PinnedProcess;
use crate::sys::schedstat::{Allowance, Counts, Tasks};
use crate::threads::pools::Pool;
use crate::threads::progress::{ProgressDetector, Sample, is_clock, must_move, shows_rhythm};

/// A report without news is told so often.
pub const TELL_EVERY: Duration = Duration::from_secs(1);
/// Between two looks for threads that began or ended.
const SCAN_EVERY: Duration = Duration::from_secs(2);
/// Between two readings of the JVM's own count of its pauses.
pub const PAUSES_EVERY: Duration = Duration::from_secs(1);
/// Passes begin at shared moments: what is due at the same one must not wait for the next because this one came early.
const EARLY: Duration = Duration::from_millis(50);
/// A JVM without performance data will hardly get them.
const RETRY_PAUSES: Duration = Duration::from_secs(60);

/// The broker's threads that belong to a pool, by the kernel's id as the JVM sees it (`nid`).
pub type Names = HashMap<u32, Arc<str>>;

/// Watches one broker.
#[derive(Debug)]
pub struct ProgressCollector {
    proc: ProcRoot,
    broker: Arc<Broker>,
    allowance: Allowance,
    clock: Clock,
    tasks: Option<Tasks>,
    scanned: Moment,
    /// A thread that is followed has ended.
    one_ended: bool,
    names: Arc<Names>,
    judged: Vec<(u32, Pool)>,
    detector: ProgressDetector,
    pauses: Pauses,
}

/// What one pass found.
#[derive(Debug)]
pub struct Pass {
    pub progress: Result<ProgressReport, Failure>,
    /// Time that the JVM has spent at safepoints since it started; None in passes that do not read it.
    pub pauses: Option<Result<Duration, Failure>>,
}

impl ProgressCollector {
    pub fn new(proc: ProcRoot, broker: Arc<Broker>, allowance: Allowance) -> Self {
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
            judged: Vec::new(),
            detector: ProgressDetector::default(),
            pauses,
        }
    }

    /// Reads once. Blocking, but only as long as the kernel takes to answer. `names` are those of the newest dump.
    pub fn pass(&mut self, names: &Arc<Names>) -> Pass {
        let progress = self.progress(names).map_err(|error| {
            // The next pass begins anew.
            self.tasks = None;
            self.detector = ProgressDetector::default();
            failure(&self.broker, &error)
        });
        let progress = progress.and_then(|report| match report {
            Some(report) => Ok(report),
            None => Err(self.nothing_to_judge()),
        });
        Pass {
            progress,
            pauses: self.pauses.read(&self.broker, self.clock.now()),
        }
    }

    /// None where no thread can be judged.
    fn progress(&mut self, names: &Arc<Names>) -> Result<Option<ProgressReport>, ProcError> {
        let key = self.broker.process;
        let mut tasks = match self.tasks.take() {
            Some(tasks) => tasks,
            None => {
                self.scanned = Moment::default();
                Tasks::open(&self.proc, key.pid, key.start_ticks, self.allowance.clone())?
            }
        };
        let mut scanned = false;
        if self.one_ended {
            tasks.scan()?;
            scanned = true;
        } else if self.clock.now().plus(EARLY).since(self.scanned) >= SCAN_EVERY {
            scanned = tasks.scan_changed()?;
            self.scanned = self.clock.now();
        }
        if scanned || !Arc::ptr_eq(&self.names, names) {
            self.names = Arc::clone(names);
            self.choose(&mut tasks);
        }
        let now = self.clock.now();
        let mut samples = Vec::with_capacity(self.judged.len());
        tasks.counts(
            self.judged.iter().copied(),
            |thread, pool, Counts { cpu, switches }| {
                samples.push(Sample {
                    thread,
                    pool,
                    cpu,
                    switches,
                });
            },
        )?;
        // Then the next pass looks at once what came in its place.
        self.one_ended = samples.len() < self.judged.len();
        let mut states = Vec::new();
        for thread in self.detector.take(now, &samples) {
            states.extend(tasks.state(thread)?.map(|state| (thread, state)));
        }
        let suspects = self
            .detector
            .suspects(&states)
            .into_iter()
            .map(|(thread_id, pool)| Suspect {
                thread_id,
                thread: self.name(&tasks, thread_id),
                pool: pool.name().to_owned(),
            });
        let report = ProgressReport {
            suspects: suspects.collect(),
            threads: samples.len() as u64,
        };
        self.tasks = Some(tasks);
        let known = |wanted: fn(Pool) -> bool| samples.iter().any(|sample| wanted(sample.pool));
        Ok((known(must_move) && known(is_clock)).then_some(report))
    }

    /// Which threads to follow: those that can be judged, and the reapers that tell whether the JVM runs.
    fn choose(&mut self, tasks: &mut Tasks) {
        self.judged.clear();
        for (thread, task) in tasks.iter() {
            let pool = match self.names.get(&task.inner_id) {
                Some(name) => Pool::of(name),
                None => Pool::of_kernel_name(&task.name),
            };
            let followed = |pool: &Pool| must_move(*pool) || shows_rhythm(*pool) || is_clock(*pool);
            self.judged
                .extend(pool.filter(followed).map(|pool| (thread, pool)));
        }
        // In ascending order, as the tasks are.
        let judged = &self.judged;
        tasks.keep_only(|thread| {
            judged
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

    fn nothing_to_judge(&self) -> Failure {
        let pid = self.broker.process.pid;
        let message = format!(
            "pid {pid}: the kernel's short thread names do not tell the pools of this version apart, and no thread \
             dump has told the full ones yet"
        );
        Failure::new(Reason::Unnamed, message)
    }
}

/// Reads how long the JVM has stood still.
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
