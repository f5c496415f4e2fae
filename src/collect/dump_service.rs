//! The one service that takes dumps, for the collector `threads` and for evidence alike: of each JVM one at a time, with
//! one memory of signals and stuck children, and within one budget of pauses.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::jvm_dumper::{JvmDumper, RawDump, THIS_PROGRAM};
use crate::model::{Broker, Failure, ProcessKey, Reason};

/// For one thread dump.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// From the end of a dump until the JVM has closed its end of the connection.
const SETTLES: Duration = Duration::from_millis(50);

/// The JVMs of this host. Clones share them.
#[derive(Debug, Clone)]
pub struct DumpService {
    proc_root: PathBuf,
    jvms: Arc<Mutex<HashMap<ProcessKey, Arc<Jvm>>>>,
}

/// One JVM.
#[derive(Debug)]
pub struct Jvm {
    dumper: tokio::sync::Mutex<JvmDumper>,
    /// How many dumps are under way: the JVM then holds an fd for our connection, which no count should show.
    dumping: watch::Sender<u32>,
    /// Pauses that the budget does not know yet.
    uncharged: Mutex<Duration>,
}

/// A thread dump, and how long the JVM was stopped for it, where that is known: also one that failed may have done so.
pub type Taken = (Result<RawDump, Failure>, Option<Duration>);

impl DumpService {
    pub fn new(proc_root: impl Into<PathBuf>) -> DumpService {
        DumpService {
            proc_root: proc_root.into(),
            jvms: Arc::default(),
        }
    }

    /// The JVM of this broker process.
    pub fn jvm(&self, broker: &Arc<Broker>) -> Arc<Jvm> {
        let new = || {
            let dumper =
                JvmDumper::new(THIS_PROGRAM, &self.proc_root, Arc::clone(broker), DEADLINE);
            Arc::new(Jvm {
                dumper: tokio::sync::Mutex::new(dumper),
                dumping: watch::Sender::default(),
                uncharged: Mutex::default(),
            })
        };
        let mut jvms = lock(&self.jvms);
        Arc::clone(jvms.entry(broker.process).or_insert_with(new))
    }

    /// Forgets the JVMs of all other processes.
    pub fn keep_only(&self, runs: impl Fn(ProcessKey) -> bool) {
        lock(&self.jvms).retain(|process, _| runs(*process));
    }
}

impl Jvm {
    /// Takes a thread dump, after another one that may be under way: twice the deadline at most.
    ///
    /// # Errors
    /// As those of [`JvmDumper::collect`].
    pub async fn thread_dump(&self) -> Taken {
        self.take(async |dumper| {
            let dump = dumper.collect().await;
            // Where the JVM does not publish its pauses, all of the time counts as pause.
            let pause = match &dump {
                Ok(dump) => Some(dump.pause.unwrap_or(dump.duration)),
                Err(_) => dumper.failed_pause(),
            };
            (dump, pause)
        })
        .await
        .unwrap_or_else(|failure| (Err(failure), None))
    }

    /// Takes a thread dump that no schedule knows: its pause is charged to the budget afterwards.
    ///
    /// # Errors
    /// As those of [`JvmDumper::collect`].
    pub async fn extra_thread_dump(&self) -> Result<RawDump, Failure> {
        let (dump, pause) = self.thread_dump().await;
        *lock(&self.uncharged) += pause.unwrap_or_default();
        dump
    }

    /// See [`JvmDumper::collect_with_locks`].
    ///
    /// # Errors
    /// As those of [`JvmDumper::collect`].
    pub async fn thread_dump_with_locks(&self) -> Result<RawDump, Failure> {
        self.take(JvmDumper::collect_with_locks).await?
    }

    /// See [`JvmDumper::heap_dump`].
    ///
    /// # Errors
    /// As those of [`JvmDumper::collect`].
    pub async fn heap_dump(
        &self,
        file: &Path,
        min_free: u64,
        deadline: Duration,
    ) -> Result<(u64, Duration), Failure> {
        self.take(async |dumper| dumper.heap_dump(file, min_free, deadline).await)
            .await?
    }

    /// Takes the pauses of extra dumps since the last call, to charge them.
    pub fn uncharged(&self) -> Duration {
        std::mem::take(&mut lock(&self.uncharged))
    }

    /// How many dumps are under way.
    pub fn dumping(&self) -> watch::Receiver<u32> {
        self.dumping.subscribe()
    }

    async fn take<T>(&self, take: impl AsyncFnOnce(&mut JvmDumper) -> T) -> Result<T, Failure> {
        let Ok(mut dumper) = timeout(DEADLINE, self.dumper.lock()).await else {
            let message = "another dump of this JVM is still under way";
            return Err(Failure::new(Reason::Timeout, message));
        };
        let under_way = UnderWay::start(&self.dumping);
        let taken = take(&mut dumper).await;
        // The JVM ends the answer before it closes its fd.
        tokio::spawn(async move {
            tokio::time::sleep(SETTLES).await;
            drop(under_way);
        });
        Ok(taken)
    }
}

/// Counts one dump for as long as it lives.
struct UnderWay(watch::Sender<u32>);

impl UnderWay {
    fn start(count: &watch::Sender<u32>) -> UnderWay {
        count.send_modify(|count| *count += 1);
        UnderWay(count.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// A panic leaves nothing half done behind: each change is one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
