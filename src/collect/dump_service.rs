//! The one service that takes dumps, for the collector `threads` and for evidence alike: of each JVM one at a time, with
//! one memory of signals and stuck children, and within one budget of pauses.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::jvm_dumper::{JvmDumper, LOCKS_DEADLINE, RawDump, THIS_PROGRAM};
use crate::model::shares::Shares;
use crate::model::{Broker, Failure, ProcessKey, Reason};

/// For one thread dump.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// From the end of a dump until the JVM has closed its end of the connection.
const SETTLES: Duration = Duration::from_millis(50);
/// Dumps at a time, of all JVMs: each has an attach child, and both hold the text.
const MOST: usize = 4;
/// Of these, of brokers that another user's come before: processes that never answer must leave some to the first user's.
const MOST_OF_OTHERS: usize = 2;
static PLACES: Shares = Shares::new(MOST, MOST_OF_OTHERS);

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
    /// Whether another user's brokers come first.
    outranked: AtomicBool,
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
                outranked: AtomicBool::default(),
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
    /// Whether another user's brokers come first on this host, as far as is known now.
    pub fn set_outranked(&self, outranked: bool) {
        self.outranked.store(outranked, Ordering::Relaxed);
    }

    /// See [`Jvm::set_outranked`].
    pub fn is_outranked(&self) -> bool {
        self.outranked.load(Ordering::Relaxed)
    }

    /// Takes a thread dump, after another one that may be under way: twice the deadline at most.
    ///
    /// # Errors
    /// As those of [`JvmDumper::collect`].
    pub async fn thread_dump(&self) -> Taken {
        self.take(DEADLINE, async |dumper| {
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
        self.take(LOCKS_DEADLINE, JvmDumper::collect_with_locks)
            .await?
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
        self.take(deadline, async |dumper| {
            dumper.heap_dump(file, min_free, deadline).await
        })
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

    /// Waits for a place as long as a dump may take.
    async fn take<T>(
        &self,
        deadline: Duration,
        take: impl AsyncFnOnce(&mut JvmDumper) -> T,
    ) -> Result<T, Failure> {
        let Ok(mut dumper) = timeout(DEADLINE, self.dumper.lock()).await else {
            let message = "another dump of this JVM is still under way";
            return Err(Failure::new(Reason::Timeout, message));
        };
        let of_others = self.is_outranked();
        // Those of others hold nobody up who takes one dump after another.
        let patience = match of_others {
            true => DEADLINE,
            false => deadline,
        };
        let Ok(_place) = timeout(patience, PLACES.one(of_others)).await else {
            return Err(no_place(patience));
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

fn no_place(patience: Duration) -> Failure {
    let seconds = patience.as_secs();
    let message = format!(
        "no place within {seconds} s: {MOST} JVMs are being attached to, which is the most at a time, or {MOST_OF_OTHERS} of \
         other users than the first, and do not answer; name the brokers' users as `users` in the config file"
    );
    Failure::new(Reason::NoRoom, message)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Processes that take every attach and never answer kept the dumps of a real broker out.
    #[tokio::test]
    async fn jvms_of_other_users_that_never_answer_leave_places_to_those_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let hangs = folder.path().join("hangs");
        let script = r#"printf '#!/bin/sh\nexec sleep 60\n' >"$0"; chmod 755 "$0""#;
        let made = std::process::Command::new("sh")
            .args(["-c", script])
            .arg(&hangs)
            .status();
        assert!(made.unwrap().success());
        let jvm = |pid, exe: &Path, outranked, deadline| {
            let start_ticks = 1;
            let broker = Arc::new(Broker::unknown(ProcessKey { pid, start_ticks }));
            Arc::new(Jvm {
                dumper: tokio::sync::Mutex::new(JvmDumper::new(exe, "/proc", broker, deadline)),
                outranked: AtomicBool::new(outranked),
                dumping: watch::Sender::default(),
                uncharged: Mutex::default(),
            })
        };
        let fakes: Vec<_> = (1..=61)
            .map(|pid| jvm(pid, &hangs, true, DEADLINE))
            .collect();
        let mut dumps = tokio::task::JoinSet::new();
        for fake in &fakes {
            let fake = Arc::clone(fake);
            dumps.spawn(async move { fake.thread_dump().await });
        }
        // The tasks run in the order in which they were spawned.
        tokio::task::yield_now().await;
        let under_way = fakes.iter().filter(|fake| *fake.dumping().borrow() > 0);
        assert_eq!(under_way.count(), MOST_OF_OTHERS);
        let real = jvm(62, Path::new("/bin/false"), false, Duration::from_secs(2));
        let (dump, _) = real.thread_dump().await;
        assert_eq!(
            dump.unwrap_err().message,
            "thread dump of pid 62: the attach child failed: no header: EOF while parsing a value at line 1 column 0",
            "it got a child"
        );
    }
}
