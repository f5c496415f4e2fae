//! Writes one bundle. Everything that it is made of has a deadline, and whatever can hang does so on a thread of its
//! own: one for each part of a broker, one for the evidence folder.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use super::bundle::{self, PARTS, READ_DEADLINE, Subject};
use super::history::History;
use super::manifest::{DUMPS, HeapDump, Manifest};
use super::store::{self, Writer};
use crate::collect::blocking_worker::BlockingWorker;
use crate::collect::jvm_dumper::{JvmDumper, THIS_PROGRAM};
use crate::config::EvidenceSettings;
use crate::model::{Clock, Failure, ProcessKey, Reason};
use crate::sys::proc::ProcRoot;
use crate::verdict::View;
use crate::verdict::finding::BrokerDiagnosis;

/// From one thread dump to the next: all three span the 10 s for which threads stand still that `analyze` calls stalled,
/// and are had before a liveness probe that waits 15 s for the evidence goes on without it.
const DUMPS_APART: Duration = Duration::from_secs(5);
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

/// Writes bundles.
pub struct Saver {
    pub settings: Arc<EvidenceSettings>,
    pub proc: ProcRoot,
    pub clock: Clock,
    /// Whether older bundles may go.
    may_remove: bool,
    folder: BlockingWorker<Option<Writer>>,
    /// One for each part of each broker: a log on a hung disk keeps only itself from being read.
    pub readers: HashMap<(ProcessKey, &'static str), BlockingWorker<()>>,
}

impl Saver {
    pub fn new(
        settings: EvidenceSettings,
        proc: ProcRoot,
        clock: Clock,
        may_remove: bool,
    ) -> Saver {
        let (settings, folder) = (Arc::new(settings), BlockingWorker::new(None));
        Saver {
            settings,
            proc,
            clock,
            may_remove,
            folder,
            readers: HashMap::new(),
        }
    }

    pub async fn tidy(&mut self) {
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

    pub async fn in_folder<R: Send + 'static>(
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
    pub async fn save(
        &mut self,
        view: &View,
        broker: &BrokerDiagnosis,
        history: &History,
        is_stuck: impl Fn() -> bool,
    ) -> Result<PathBuf, String> {
        let slow = || {
            format!(
                "not done after {} s: the disk of the evidence folder is slow",
                SAVE_DEADLINE.as_secs()
            )
        };
        let written = timeout(SAVE_DEADLINE, self.write(view, broker, history)).await;
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
        history: &History,
    ) -> Result<(Manifest, Result<JvmDumper, String>), String> {
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
        let mut dumps = JvmDumper::new(
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
                Err(before) if before.reason != Reason::Timeout => Err(format!(
                    "not tried, as the dump before could not be had: {}",
                    before.reason.name()
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
        let snapshots = history.lines();
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
            .or_insert_with(|| BlockingWorker::new(()));
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
    mut collector: JvmDumper,
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
        Err(failure) if failure.reason == Reason::Timeout => Err(format!(
            "{}; if the JVM still writes {}, it is whole when the broker answers thread dumps again",
            failure.message,
            path.display()
        )),
        Err(failure) => Err(failure.message),
    }
}
