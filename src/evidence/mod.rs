//! What a verdict rests on, saved in a folder before anybody restarts the broker.
//!
//! A bundle begins when a broker's state becomes gray. Everything that it is made of has a deadline, and whatever can
//! hang does so on a thread of its own: one for each reading of a broker, one for the evidence folder.

pub mod bundle;
pub mod mask;
pub mod store;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::collect::round::Lane;
use crate::collect::threads::{THIS_PROGRAM, ThreadCollector};
use crate::config::{Config, EvidenceSettings};
use crate::diagnose::View;
use crate::diagnose::finding::{BrokerDiagnosis, BrokerState, FindingId, Severity};
use crate::diagnose::live::Evidence;
use crate::discover::ProcessKey;
use crate::failure::Failure;
use crate::judging;
use crate::snapshot::{BrokerSnapshot, Clock, Moment, Snapshot};
use crate::sys::proc::ProcRoot;
use bundle::{PARTS, READ_DEADLINE, Subject};
use store::{HeapDump, Manifest, Writer};

/// Between two bundles of one process.
const FLOOR: Duration = Duration::from_secs(600);
/// After a bundle that could not be written.
const RETRY: Duration = Duration::from_secs(60);
/// From one thread dump to the next: all three span the 10 s for which threads stand still that `analyze` calls stalled,
/// and are had before a liveness probe that waits 15 s for the evidence goes on without it.
const DUMPS_APART: Duration = Duration::from_secs(5);
const DUMPS: [&str; 3] = [
    "thread-dump-1.txt",
    "thread-dump-2.txt",
    "thread-dump-3.txt",
];
const DUMP_DEADLINE: Duration = Duration::from_secs(5);
/// For one access to the evidence folder.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// For all that a bundle is made of; what is not had by then is missing.
const BUNDLE_DEADLINE: Duration = Duration::from_secs(45);
/// For a whole bundle, its writing included: then it is given up.
const SAVE_DEADLINE: Duration = Duration::from_secs(90);
/// For the heap dump, which comes last: 6 GiB, more than Kafka's heaps have as a rule, at 100 MiB a second. A JVM that
/// needs longer writes on, and the bundle is done without it.
const HEAP_DUMP_DEADLINE: Duration = Duration::from_secs(60);
/// How often a snapshot is kept, how many, and how many bytes of them.
const KEEP_EVERY: Duration = Duration::from_secs(10);
const KEPT: usize = 360;
const KEPT_BYTES: usize = 16 << 20;
/// How often the limits of the folder are looked after while nothing is written.
const TIDY_EVERY: Duration = Duration::from_secs(3600);

/// What has been saved, and where.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Saved {
    /// Why nothing is ever saved.
    pub off: Option<String>,
    /// By label; a broker that was never gray is not among them.
    pub brokers: BTreeMap<String, SavedOf>,
}

/// What has been saved of one broker.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedOf {
    pub process: ProcessKey,
    /// The newest whole bundle of this process.
    pub newest: Option<SavedBundle>,
    /// Bundles of this label since the exporter started.
    pub total: u64,
    /// Why the last one could not be written.
    pub failure: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedBundle {
    pub path: PathBuf,
    /// When it was begun.
    pub at: Moment,
}

impl Saved {
    /// Where the evidence of this verdict is, or why there is none; None: none is asked for, or it is being saved.
    pub fn evidence(&self, broker: &BrokerDiagnosis) -> Option<Result<String, &str>> {
        let saved = self.of(broker.process);
        let newest = saved
            .and_then(|saved| saved.newest.as_ref())
            .filter(|newest| newest.at >= broker.since);
        if let Some(newest) = newest {
            return Some(Ok(newest.path.display().to_string()));
        }
        let why = self
            .off
            .as_ref()
            .or(saved.and_then(|saved| saved.failure.as_ref()));
        why.filter(|_| broker.state == BrokerState::Gray)
            .map(|why| Err(why.as_str()))
    }

    /// How far it is, for the liveness probe: what was saved before the deadlock or stall does not count.
    pub fn progress(&self, broker: &BrokerDiagnosis) -> Evidence {
        let first = broker
            .only_restart
            .as_ref()
            .map_or(broker.since, |cause| cause.first);
        match self.of(broker.process) {
            _ if self.off.is_some() => Evidence::None,
            Some(SavedOf {
                newest: Some(newest),
                ..
            }) if newest.at >= first => Evidence::Saved,
            Some(SavedOf {
                failure: Some(_), ..
            }) => Evidence::None,
            _ => Evidence::Pending,
        }
    }

    /// Of one process; None while it has none and none was tried.
    pub fn of(&self, process: ProcessKey) -> Option<&SavedOf> {
        self.brokers.values().find(|saved| saved.process == process)
    }
}

/// Snapshots of the last hour, a line of JSON each.
#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Ring {
    fn push(&mut self, snapshot: &Snapshot) {
        // Plain data: it cannot fail.
        let Ok(mut line) = serde_json::to_vec(snapshot) else {
            return;
        };
        line.push(b'\n');
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > KEPT || self.bytes > KEPT_BYTES {
            let Some(oldest) = self.lines.pop_front() else {
                return;
            };
            self.bytes -= oldest.len();
        }
    }
}

/// What is remembered of one process: how often it is saved, and for which findings.
#[derive(Debug, Clone, Default)]
struct Tried {
    findings: BTreeSet<FindingId>,
    bundles: u32,
    at: Moment,
    failed: bool,
}

impl Tried {
    /// Until a bundle of a later episode: twice as long after each bundle, up to 21 hours, so that a broker which is
    /// gray on and off does not drive out what was saved of others.
    fn floor(&self) -> Duration {
        FLOOR * 2_u32.pow(self.bundles.saturating_sub(1).min(7))
    }
}

/// The gray broker whose evidence is to be saved now, of several the one that has been gray for longest.
fn due<'a>(
    view: &'a View,
    tried: &HashMap<ProcessKey, Tried>,
    now: Moment,
) -> Option<&'a BrokerDiagnosis> {
    let is_due = |broker: &&BrokerDiagnosis| match tried.get(&broker.process) {
        _ if broker.state != BrokerState::Gray => false,
        None => true,
        Some(before) if before.failed => now.since(before.at) >= RETRY,
        Some(before) => {
            let (new, apart) = (&critical(broker) - &before.findings, now.since(before.at));
            let joined =
                !new.is_empty() && (apart >= FLOOR || STUCK.iter().any(|id| new.contains(id)));
            joined || (broker.since > before.at && apart >= before.floor())
        }
    };
    view.diagnosis
        .brokers
        .iter()
        .filter(is_due)
        .min_by_key(|broker| broker.since)
}

/// What a restart is asked for: its traces go with the process, so they do not wait.
const STUCK: [FindingId; 3] = [
    FindingId::JvmDeadlock,
    FindingId::LockCycle,
    FindingId::StalledPool,
];

/// Whether the broker is deadlocked or stalled: only such a one is stopped for a heap dump.
fn is_stuck(broker: &BrokerDiagnosis) -> bool {
    broker.state == BrokerState::Gray
        && broker
            .findings
            .iter()
            .any(|finding| STUCK.contains(&finding.id))
}

/// The kind of verdict.
fn critical(broker: &BrokerDiagnosis) -> BTreeSet<FindingId> {
    let ids = broker.findings.iter().map(|finding| finding.id);
    ids.filter(|id| id.kind().severity == Severity::Critical)
        .collect()
}

/// Saves the evidence of every broker that becomes gray, one after the other, until `views` ends. Without a folder it
/// says so once and saves nothing.
pub async fn run(
    views: watch::Receiver<Arc<View>>,
    publish: watch::Sender<Arc<Saved>>,
    settings: EvidenceSettings,
    proc: ProcRoot,
    clock: Clock,
) {
    if settings.dir.is_none() {
        let off = "evidence is off: there is no folder for it (STATE_DIRECTORY, XDG_STATE_HOME and HOME are not \
                   set); give --evidence.dir";
        tracing::warn!("{off}");
        publish.send_replace(Arc::new(Saved {
            off: Some(off.to_owned()),
            ..Saved::default()
        }));
        return std::future::pending().await;
    }
    let ring = Mutex::new(Ring::default());
    tokio::select! {
        () = keep(views.clone(), &ring) => {}
        () = save(views, publish, Saver::new(settings, proc, clock, true), &ring) => {}
    }
}

async fn keep(mut views: watch::Receiver<Arc<View>>, ring: &Mutex<Ring>) {
    while views.changed().await.is_ok() {
        let view = Arc::clone(&views.borrow_and_update());
        lock(ring).push(&view.snapshot);
        sleep(KEEP_EVERY).await;
    }
}

fn lock(ring: &Mutex<Ring>) -> std::sync::MutexGuard<'_, Ring> {
    ring.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn save(
    mut views: watch::Receiver<Arc<View>>,
    publish: watch::Sender<Arc<Saved>>,
    mut saver: Saver,
    ring: &Mutex<Ring>,
) {
    let (mut tried, mut saved) = saver.remembered().await;
    publish.send_replace(Arc::new(saved.clone()));
    let mut tidied = Instant::now();
    loop {
        let view = Arc::clone(&views.borrow_and_update());
        let Some(broker) = due(&view, &tried, saver.clock.now()) else {
            if tidied.elapsed() >= TIDY_EVERY {
                tidied = Instant::now();
                saver.tidy().await;
            }
            if views.changed().await.is_err() {
                return;
            }
            continue;
        };
        let at = saver.clock.now();
        let still_stuck = || {
            views
                .borrow()
                .diagnosis
                .of(broker.process)
                .is_some_and(is_stuck)
        };
        let result = saver.save(&view, broker, ring, still_stuck).await;
        let entry = saved.brokers.entry(broker.label.clone());
        let entry = entry.or_insert(SavedOf {
            process: broker.process,
            newest: None,
            total: 0,
            failure: None,
        });
        if std::mem::replace(&mut entry.process, broker.process) != broker.process {
            entry.newest = None;
        }
        let known = tried.entry(broker.process).or_default();
        (known.at, known.failed) = (at, result.is_err());
        match result {
            Ok(path) => {
                tracing::warn!(broker = broker.label, path = %path.display(), "saved the evidence");
                known.findings.extend(critical(broker));
                known.bundles += 1;
                (entry.total, entry.newest, entry.failure) =
                    (entry.total + 1, Some(SavedBundle { path, at }), None);
            }
            Err(why) => {
                tracing::error!(broker = broker.label, "no evidence could be saved: {why}");
                entry.failure = Some(why);
            }
        }
        let here = |process: &ProcessKey| view.diagnosis.of(*process).is_some();
        tried.retain(|process, _| here(process));
        saved.brokers.retain(|label, saved| {
            here(&saved.process)
                || view
                    .diagnosis
                    .brokers
                    .iter()
                    .any(|broker| broker.label == *label)
        });
        saver.readers.retain(|(process, _), _| here(process));
        publish.send_replace(Arc::new(saved.clone()));
    }
}

/// Writes bundles.
struct Saver {
    settings: Arc<EvidenceSettings>,
    proc: ProcRoot,
    clock: Clock,
    /// Whether older bundles may go.
    may_remove: bool,
    folder: Lane<Option<Writer>>,
    /// One for each part of each broker: a log on a hung disk keeps only itself from being read.
    readers: HashMap<(ProcessKey, &'static str), Lane<()>>,
}

impl Saver {
    fn new(settings: EvidenceSettings, proc: ProcRoot, clock: Clock, may_remove: bool) -> Saver {
        let (settings, folder) = (Arc::new(settings), Lane::new(None));
        Saver {
            settings,
            proc,
            clock,
            may_remove,
            folder,
            readers: HashMap::new(),
        }
    }

    /// What an earlier exporter saved of processes that may still run: it is not saved again after a restart.
    async fn remembered(&mut self) -> (HashMap<ProcessKey, Tried>, Saved) {
        let dir = self.settings.dir.clone().unwrap_or_default();
        let proc = self.proc.clone();
        let found = self.in_folder(move |_| {
            let mut found = store::manifests(&dir);
            // After a reboot another process may have the same id and ticks.
            found.retain(|(_, manifest)| {
                let ticks = manifest.process.start_ticks;
                let started = proc
                    .started(ticks)
                    .ok()
                    .map(|since_1970| Moment(0).plus(since_1970));
                let apart = started
                    .zip(manifest.started)
                    .map(|(a, b)| a.since(b).max(b.since(a)));
                apart.is_some_and(|apart| apart < Duration::from_secs(60))
                    && proc
                        .stat(manifest.process.pid)
                        .is_ok_and(|stat| stat.start_ticks == ticks)
            });
            found
        });
        let (mut tried, mut saved) = (HashMap::<ProcessKey, Tried>::new(), Saved::default());
        for (path, manifest) in found.await.unwrap_or_default() {
            let known = tried.entry(manifest.process).or_default();
            known.at = manifest.at;
            known.findings.extend(manifest.findings);
            known.bundles += 1;
            let newest = Some(SavedBundle {
                path,
                at: manifest.at,
            });
            let entry = SavedOf {
                process: manifest.process,
                newest,
                total: 0,
                failure: None,
            };
            saved.brokers.insert(manifest.broker, entry);
        }
        (tried, saved)
    }

    async fn tidy(&mut self) {
        let settings = Arc::clone(&self.settings);
        match self
            .in_folder(move |_| store::tidy(&settings).map_err(|error| error.to_string()))
            .await
        {
            Ok(Ok(())) => {}
            Ok(Err(why)) | Err(why) => {
                tracing::warn!("the evidence folder cannot be looked after: {why}")
            }
        }
    }

    async fn in_folder<R: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Option<Writer>) -> R + Send + 'static,
    ) -> Result<R, String> {
        let dir = self
            .settings
            .dir
            .as_deref()
            .unwrap_or(std::path::Path::new(""))
            .display()
            .to_string();
        let done = self
            .folder
            .run(WRITE_DEADLINE, &format!("evidence folder {dir}"), work)
            .await;
        done.map(|(result, _)| result)
            .map_err(|failure| failure.message)
    }

    /// Saves one bundle: in some 11 seconds, and a heap dump after that where one is wanted of a broker that `is_stuck`
    /// then still.
    async fn save(
        &mut self,
        view: &View,
        broker: &BrokerDiagnosis,
        ring: &Mutex<Ring>,
        is_stuck: impl Fn() -> bool,
    ) -> Result<PathBuf, String> {
        let slow = || {
            format!(
                "not done after {} s: the disk of the evidence folder is slow",
                SAVE_DEADLINE.as_secs()
            )
        };
        let written = timeout(SAVE_DEADLINE, self.write(view, broker, ring)).await;
        let (mut manifest, dumps) = written.unwrap_or_else(|_| Err(slow()))?;
        if let Some(folder) = self.settings.heap_dump.as_ref() {
            let path = folder.join(store::heap_dump_name(&broker.label));
            let taken = match dumps {
                _ if !is_stuck() => Err(
                    "the broker is neither deadlocked nor stalled: it is not stopped for one"
                        .into(),
                ),
                Err(why) => Err(format!(
                    "not tried, as the last thread dump could not be had: {why}"
                )),
                Ok(collector) => heap_dump(collector, path, self.settings.min_free).await,
            };
            match taken {
                Ok(taken) => {
                    let HeapDump {
                        path,
                        bytes,
                        seconds,
                    } = &taken;
                    tracing::warn!(broker = broker.label, path = %path.display(), bytes, seconds, "took a heap dump");
                    manifest.heap_dump = Some(taken);
                }
                Err(why) => {
                    tracing::warn!(broker = broker.label, "no heap dump: {why}");
                    self.add("heap dump", Err(why)).await?;
                }
            }
        }
        self.in_folder(move |open| open.take().ok_or("it was given up")?.commit(manifest))
            .await?
    }

    /// Writes all but the manifest. With it whoever took the thread dumps, or why the last could not be had.
    async fn write(
        &mut self,
        view: &View,
        broker: &BrokerDiagnosis,
        ring: &Mutex<Ring>,
    ) -> Result<(Manifest, Result<ThreadCollector, String>), String> {
        let (begun, at) = (Instant::now(), self.clock.now());
        let readings = view
            .snapshot
            .brokers
            .iter()
            .find(|known| known.broker.process == broker.process);
        let readings = readings.ok_or("there are no readings of the broker any more")?;
        let (settings, label, may_remove) = (
            Arc::clone(&self.settings),
            broker.label.clone(),
            self.may_remove,
        );
        let begin = move |open: &mut Option<Writer>| {
            // One that was given up goes first, and with it its lock.
            *open = None;
            Writer::begin(&settings, &label, at, may_remove).map(|writer| *open = Some(writer))
        };
        self.in_folder(begin).await??;

        let subject = Subject {
            broker: Arc::clone(&readings.broker),
            proc: self.proc.clone(),
        };
        let mut dumps = ThreadCollector::new(
            THIS_PROGRAM,
            self.proc.path(),
            Arc::clone(&subject.broker),
            DUMP_DEADLINE,
        );
        let mut last: Result<(), Failure> = Ok(());
        // The first one had, so that a slow one does not shorten the span.
        let mut first_had = begun;
        for (index, name) in (0..).zip(DUMPS) {
            let dump = match &last {
                // What is slow may be faster next time; what may not be attached to may not a little later.
                Err(before) if before.reason != "timeout" => Err(format!(
                    "not tried, as the dump before could not be had: {}",
                    before.reason
                )),
                _ => {
                    sleep_until(first_had + DUMPS_APART * index).await;
                    let dump = dumps.collect().await;
                    last = dump.as_ref().map(drop).map_err(Failure::clone);
                    dump.map(|dump| dump.bytes)
                        .map_err(|failure| failure.message)
                }
            };
            self.add(name, dump).await?;
            if index == 0 {
                first_had = Instant::now();
                for part in PARTS {
                    let content = self.read(&subject, part, begun + BUNDLE_DEADLINE).await;
                    self.add(part.0, content).await?;
                }
            }
        }
        for (name, content) in bundle::of_view(view, broker) {
            self.add(name, content).await?;
        }
        let snapshots = lock(ring).lines.make_contiguous().concat();
        self.add("snapshots.jsonl", Ok(snapshots)).await?;
        let manifest = Manifest {
            made_by: concat!("kafka-vitals ", env!("CARGO_PKG_VERSION")).to_owned(),
            broker: broker.label.clone(),
            kafka_version: readings.broker.kafka_version.clone(),
            process: broker.process,
            started: readings.broker.started,
            at,
            verdict: broker.sentence.clone(),
            findings: broker.findings.iter().map(|finding| finding.id).collect(),
            files: Vec::new(),
            heap_dump: None,
            missing: Vec::new(),
        };
        Ok((
            manifest,
            last.map(|()| dumps).map_err(|failure| failure.message),
        ))
    }

    async fn read(
        &mut self,
        subject: &Subject,
        part: bundle::Part,
        until: Instant,
    ) -> Result<Vec<u8>, String> {
        let time = READ_DEADLINE.min(until.saturating_duration_since(Instant::now()));
        let reader = self
            .readers
            .entry((subject.broker.process, part.0))
            .or_insert_with(|| Lane::new(()));
        let own = subject.clone();
        let read = reader
            .run(time, &subject.broker.name(), move |()| own.read(part))
            .await;
        read.map_err(|failure| failure.message)?.0
    }

    async fn add(
        &mut self,
        name: &'static str,
        content: Result<Vec<u8>, String>,
    ) -> Result<(), String> {
        let add = move |open: &mut Option<Writer>| {
            if let Some(writer) = open {
                writer.add(name, content);
            }
        };
        self.in_folder(add).await
    }
}

async fn heap_dump(
    mut collector: ThreadCollector,
    path: PathBuf,
    min_free: u64,
) -> Result<HeapDump, String> {
    match collector
        .heap_dump(&path, min_free, HEAP_DUMP_DEADLINE)
        .await
    {
        Ok((bytes, took)) => Ok(HeapDump {
            path,
            bytes,
            seconds: took.as_secs_f64(),
        }),
        Err(failure) if failure.reason == "timeout" => Err(format!(
            "{}; if the JVM still writes {}, it is whole when the broker answers thread dumps again",
            failure.message,
            path.display()
        )),
        Err(failure) => Err(failure.message),
    }
}

/// One bundle now of each broker of this host, or of the one that is `wanted` by id or label, without a running
/// exporter: discovers, takes every reading once, judges, saves. Nothing older is removed. Of each its path, or why
/// there is none.
pub async fn take_now(config: Config, wanted: Option<&str>) -> Vec<Result<PathBuf, String>> {
    let clock = Clock::start();
    let mut saver = Saver::new(
        config.evidence.clone(),
        ProcRoot::new(&config.procfs),
        clock,
        false,
    );
    let is_wanted = |broker: &BrokerSnapshot| {
        wanted.is_none_or(|wanted| {
            broker.label == wanted || broker.broker.id.is_some_and(|id| id.to_string() == wanted)
        })
    };
    // Its own dumps are over then: they and the bundle's would wait for each other.
    let view = judging::once(Arc::new(config), clock).await;
    let ring = Mutex::new(Ring::default());
    lock(&ring).push(&view.snapshot);
    let mut results = Vec::new();
    // Both are in the same order.
    for (readings, broker) in std::iter::zip(&view.snapshot.brokers, &view.diagnosis.brokers) {
        if is_wanted(readings) {
            let saved = saver.save(&view, broker, &ring, || is_stuck(broker)).await;
            results
                .push(saved.map_err(|why| format!("no bundle of broker {}: {why}", broker.label)));
        }
    }
    if results.is_empty() {
        let found: Vec<&str> = view
            .snapshot
            .brokers
            .iter()
            .map(|broker| broker.label.as_str())
            .collect();
        let why = view
            .snapshot
            .discovery
            .error
            .clone()
            .unwrap_or_else(|| format!("found: {}", found.join(", ")));
        results.push(Err(format!(
            "no broker {} runs on this host ({why})",
            wanted.unwrap_or("at all")
        )));
    }
    results
}

#[cfg(test)]
mod tests;
