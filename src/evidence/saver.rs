//! Writes one bundle. Each of its parts has a deadline, and whatever can hang runs on its own thread: one for each part of
//! a broker, one for the evidence folder.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use super::bundle::{self, PARTS, READ_DEADLINE, Subject};
use super::error::{PartError, SaveError};
use super::history::History;
use super::manifest::{DUMPS, HeapDump, Manifest};
use super::store::{self, Writer};
use crate::collect::dump_service::{DumpService, Jvm};
use crate::config::EvidenceSettings;
use crate::model::room::Room;
use crate::model::{Clock, Failure, ProcessKey, Reason};
use crate::sys::blocking_worker::BlockingWorker;
use crate::sys::proc::ProcRoot;
use crate::verdict::View;
use crate::verdict::finding::BrokerDiagnosis;

/// The time from one thread dump to the next: all three span the 10 s after which `analyze` calls a thread stalled, and are
/// complete before a liveness probe, which waits 15 s for the evidence, continues without it.
const DUMPS_APART: Duration = Duration::from_secs(5);
/// The deadline of one access to the evidence folder.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// The deadline of all parts; parts that miss it are reported as missing.
const BUNDLE_DEADLINE: Duration = Duration::from_secs(45);
/// The deadline of a bundle, including its writing; then it is abandoned.
const SAVE_DEADLINE: Duration = Duration::from_secs(90);
/// The deadline of the heap dump, which comes last: enough for 6 GiB, more than Kafka's heaps usually have, at 100 MiB per
/// second. A slower JVM continues to write, and the bundle is completed without the dump.
const HEAP_DUMP_DEADLINE: Duration = Duration::from_secs(60);

/// Writes bundles.
pub struct Saver {
    pub settings: Arc<EvidenceSettings>,
    pub proc: ProcRoot,
    pub clock: Clock,
    dumps: DumpService,
    /// Whether older bundles may be removed.
    may_remove: bool,
    folder: BlockingWorker<Option<Writer>>,
    /// One for each part of each broker: a log on a hung disk delays no other part.
    pub readers: HashMap<(ProcessKey, &'static str), BlockingWorker<()>>,
}

impl Saver {
    pub fn new(
        settings: EvidenceSettings,
        proc: ProcRoot,
        dumps: DumpService,
        clock: Clock,
        may_remove: bool,
    ) -> Saver {
        let (settings, folder) = (Arc::new(settings), BlockingWorker::reserved(None));
        Saver {
            settings,
            proc,
            clock,
            dumps,
            may_remove,
            folder,
            readers: HashMap::new(),
        }
    }

    /// Another one of the same settings, to write at the same time. It shares no thread with this one.
    pub fn another(&self) -> Saver {
        Saver {
            settings: Arc::clone(&self.settings),
            proc: self.proc.clone(),
            clock: self.clock,
            dumps: self.dumps.clone(),
            may_remove: self.may_remove,
            folder: BlockingWorker::new(None),
            readers: HashMap::new(),
        }
    }

    pub async fn tidy(&mut self) {
        let settings = Arc::clone(&self.settings);
        let tidied = self.in_folder(move |_| store::tidy(&settings)).await;
        let why = match tidied {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(failure) => failure.message,
        };
        tracing::warn!("the evidence folder cannot be used: {why}");
    }

    pub async fn in_folder<R: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Option<Writer>) -> R + Send + 'static,
    ) -> Result<R, Failure> {
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
    }

    /// Saves one bundle, in about 11 seconds, and then a heap dump if the settings ask for one and the broker is still
    /// stuck.
    pub async fn save(
        &mut self,
        view: &View,
        broker: &BrokerDiagnosis,
        history: &History,
        is_stuck: impl Fn() -> bool,
    ) -> Result<PathBuf, SaveError> {
        let written = timeout(SAVE_DEADLINE, self.write(view, broker, history)).await;
        let (mut manifest, dumps) =
            written.unwrap_or(Err(SaveError::Slow(SAVE_DEADLINE.as_secs())))?;
        if let Some(folder) = self.settings.heap_dump.as_ref() {
            let path = folder.join(store::heap_dump_name(&broker.label));
            let taken = match dumps {
                _ if !is_stuck() => Err(PartError::NotStuck),
                Err(failure) => Err(PartError::NoHeapDump(failure)),
                Ok(jvm) => heap_dump(&jvm, path, self.settings.min_free).await,
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
        self.in_folder(move |open| open.take().ok_or(SaveError::Abandoned)?.commit(manifest))
            .await?
    }

    /// Writes everything but the manifest. Returns it with the JVM that was dumped, or why the last one failed.
    async fn write(
        &mut self,
        view: &View,
        broker: &BrokerDiagnosis,
        history: &History,
    ) -> Result<(Manifest, Result<Arc<Jvm>, Failure>), SaveError> {
        let (started, at) = (Instant::now(), self.clock.now());
        let readings = view.snapshot.of(broker.process);
        let readings = readings.ok_or(SaveError::NoReadings)?;
        let (settings, label, may_remove) = (
            Arc::clone(&self.settings),
            broker.label.clone(),
            self.may_remove,
        );
        let begin = move |open: &mut Option<Writer>| {
            // An abandoned writer is dropped first, and its lock with it.
            *open = None;
            Writer::begin(&settings, &label, at, may_remove).map(|writer| *open = Some(writer))
        };
        self.in_folder(begin).await??;

        let subject = Subject {
            broker: Arc::clone(&readings.broker),
            proc: self.proc.clone(),
        };
        let jvm = self.dumps.jvm(&subject.broker);
        // For the dump, or the snapshots, that are being written.
        let mut room = Room::default();
        let mut last: Result<(), Failure> = Ok(());
        // The end of the first dump, so that a slow one does not shorten the span.
        let mut first_ended = started;
        for (index, name) in (0..).zip(DUMPS) {
            let dump = match &last {
                // A slow JVM may be faster next time; other failures stay for a while.
                Err(before) if !matches!(before.reason, Reason::Timeout | Reason::NoRoom) => {
                    Err(PartError::AfterFailedDump(before.reason))
                }
                _ => {
                    sleep_until(first_ended + DUMPS_APART * index).await;
                    let dump = jvm.extra_thread_dump().await;
                    last = dump.as_ref().map(drop).map_err(Failure::clone);
                    dump.map(|dump| {
                        room = dump.room;
                        bundle::cut_dump(dump.bytes)
                    })
                    .map_err(PartError::Collector)
                }
            };
            self.add(name, dump).await?;
            room = Room::default();
            if index == 0 {
                first_ended = Instant::now();
                for part in PARTS {
                    let content = self.read(&subject, part, started + BUNDLE_DEADLINE).await;
                    self.add(part.0, content).await?;
                }
            }
        }
        for (name, content) in bundle::of_view(view, broker) {
            self.add(name, content).await?;
        }
        let snapshots = snapshots(history, &mut room).await;
        self.add("snapshots.jsonl", snapshots.map_err(PartError::Collector))
            .await?;
        drop(room);
        let left_out = history.left_out();
        if left_out > 0 {
            self.add(
                "some of snapshots.jsonl",
                Err(PartError::LongLines(left_out)),
            )
            .await?;
        }
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
        Ok((manifest, last.map(|()| jvm)))
    }

    async fn read(
        &mut self,
        subject: &Subject,
        part: bundle::Part,
        until: Instant,
    ) -> Result<Vec<u8>, PartError> {
        let time = READ_DEADLINE.min(until.saturating_duration_since(Instant::now()));
        let reader = self
            .readers
            .entry((subject.broker.process, part.0))
            .or_insert_with(|| BlockingWorker::new(()));
        // Reads that hang at the processes of another user must leave threads to the first user's.
        reader.set_of_others(self.dumps.jvm(&subject.broker).is_outranked());
        let own = subject.clone();
        let read = reader
            .run(time, &subject.broker.name(), move |()| own.read(part))
            .await;
        read?.0
    }

    async fn add(
        &mut self,
        name: &'static str,
        content: Result<Vec<u8>, PartError>,
    ) -> Result<(), Failure> {
        let add = move |open: &mut Option<Writer>| {
            if let Some(writer) = open {
                writer.add(name, content);
            }
        };
        self.in_folder(add).await
    }
}

async fn snapshots(history: &History, room: &mut Room) -> Result<Vec<u8>, Failure> {
    let bytes = history.bytes();
    if timeout(READ_DEADLINE, room.grow_to(bytes)).await.is_err() {
        let message = format!(
            "no room for its {bytes} bytes within {} s, beside the answers of brokers and JVMs",
            READ_DEADLINE.as_secs()
        );
        return Err(Failure::new(Reason::NoRoom, message));
    }
    let unreadable = |error: std::io::Error| Failure::new(Reason::Internal, error.to_string());
    history.lines().map_err(unreadable)
}

async fn heap_dump(jvm: &Jvm, path: PathBuf, min_free: u64) -> Result<HeapDump, PartError> {
    match jvm.heap_dump(&path, min_free, HEAP_DUMP_DEADLINE).await {
        Ok((bytes, took)) => Ok(HeapDump {
            path,
            bytes,
            seconds: took.as_secs_f64(),
        }),
        Err(failure) if failure.reason == Reason::Timeout => {
            Err(PartError::SlowHeapDump { failure, path })
        }
        Err(failure) => Err(failure.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Snapshot;

    #[tokio::test(start_paused = true)]
    async fn without_room_the_snapshots_are_missing_after_their_own_deadline() {
        let history = History::default();
        history.push(&Snapshot::default());
        let start = Instant::now();
        let failure = snapshots(&history, &mut Room::of_nothing())
            .await
            .unwrap_err();
        assert_eq!(failure.reason, Reason::NoRoom, "{}", failure.message);
        assert!(start.elapsed() < READ_DEADLINE * 2, "{:?}", start.elapsed());
    }
}
