//! The discovery round: finds new, ended and restarted brokers, cheaply every few seconds.
//!
//! A scan reads `/proc/PID/stat` of every process, which cannot block, and remembers for each process what its command
//! line said. Other reads can block for ever: the command line of a process that waits for a dead disk, or a file below
//! another root on a hung or hostile file system. They run in a thread of their own, which is abandoned when it takes
//! too long.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::DiscoveryError;
use super::jvm::{self, JvmKind, Launch};
use super::{broker, properties};
use crate::model::Failure;
use crate::model::{Broker, ProcessKey, Reason};
use crate::sys::blocking_worker::BlockingWorker;
use crate::sys::plain::FileError;
use crate::sys::proc::{self, ProcError, ProcRoot, Stat};
use crate::sys::rooted::Rooted;

/// A process this young may be a fork that will execute another program under the same start time.
const YOUNG: Duration = Duration::from_secs(10);
/// Any process may execute another program under the same name, so it is classified again after this time.
const RENEW_OTHER: Duration = Duration::from_secs(60);
/// A broker's files are read again after this time: some may be readable now, and edits are reported.
const RENEW_BROKER: Duration = Duration::from_secs(300);
/// While a process without an id is younger than this, each scan reads it: `meta.properties` appears early or never.
const ID_EXPECTED: Duration = Duration::from_secs(600);
/// Time for all blocking reads of one scan together.
const READ_BUDGET: Duration = Duration::from_secs(2);
/// With so many abandoned threads, nothing that may block is read any more.
const MOST_STUCK_READERS: usize = 4;
/// Bounds the log of a host full of JVMs.
const MOST_WARNINGS: usize = 16;
const MOST_THREAD_NAMES: usize = 512;
const ARGUMENT_FILE_CAP: usize = 256 << 10;

/// Finds the Kafka brokers of this host, and remembers them from scan to scan.
pub struct Discovery {
    proc: ProcRoot,
    pid_files: Vec<PathBuf>,
    known: HashMap<ProcessKey, KnownProcess>,
    reader: BlockingWorker<()>,
    /// Readers that hang, each with the process at whose files.
    stuck_readers: Vec<(ProcessKey, BlockingWorker<()>)>,
    warnings: Vec<String>,
}

struct KnownProcess {
    comm: String,
    checked_at: Instant,
    /// A pid file names it.
    named: bool,
    kind: ProcessKind,
}

#[derive(Clone)]
enum ProcessKind {
    Other,
    /// Perhaps a broker, with the reason why that could not be seen.
    Unclear(String),
    Kafka(Arc<Launch>, Arc<Broker>),
}

struct Job {
    key: ProcessKey,
    comm: String,
    /// A pid file names it, so it is a broker whatever its command line says.
    named: bool,
    /// The earlier description, if nothing indicates that the process runs another program now.
    known: Option<(Arc<Launch>, Arc<Broker>)>,
}

impl Discovery {
    /// Processes named by `pid_files` are brokers whatever their command lines say.
    pub fn new(proc: ProcRoot, pid_files: Vec<PathBuf>) -> Discovery {
        Discovery {
            proc,
            pid_files,
            known: HashMap::new(),
            reader: BlockingWorker::new(()),
            stuck_readers: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Returns all brokers of this host, sorted by process. An unchanged broker keeps its `Arc`. Takes up to 2 s if files
    /// hang, so do not call it in a thread that serves others.
    ///
    /// # Errors
    /// If the processes cannot be listed. Then nothing is known about brokers, old or new.
    pub fn scan(&mut self) -> Result<Vec<Arc<Broker>>, Failure> {
        let pids = self.proc.pids().map_err(|error| {
            Failure::new(
                Reason::Io,
                format!(
                    "brokers unknown: {error}; is --path.procfs the folder where procfs is mounted?"
                ),
            )
        })?;
        let uptime = self
            .proc
            .uptime()
            .map_err(|error| Failure::new(Reason::Io, format!("brokers unknown: {error}")))?;
        self.warnings.clear();
        self.stuck_readers.retain(|(_, reader)| reader.is_running());
        let named: Vec<u32> = self.named_processes();

        let now = Instant::now();
        let mut jobs = Vec::new();
        let mut alive = HashMap::with_capacity(self.known.len());
        let brokers: Vec<u32> = self
            .known
            .iter()
            .filter(|(_, k)| k.broker().is_some())
            .map(|(p, _)| p.pid)
            .collect();
        let mut hidden = false;
        for pid in pids {
            let stat = match self.proc.stat(pid) {
                Ok(stat) => stat,
                Err(ProcError::Denied { .. }) => {
                    hidden = true;
                    continue;
                }
                Err(ProcError::Gone { .. }) => continue,
                Err(error) => {
                    if self.warnings.len() < MOST_WARNINGS {
                        self.warnings.push(format!(
                            "process {pid} is skipped, although it may be a broker: {error}"
                        ));
                    }
                    continue;
                }
            };
            if stat.kernel_thread || stat.ended {
                continue;
            }
            let key = ProcessKey {
                pid,
                start_ticks: stat.start_ticks,
            };
            let named = named.contains(&pid);
            let age = uptime.saturating_sub(proc::ticks(stat.start_ticks));
            let hangs = self.stuck_readers.iter().any(|(at, _)| *at == key);
            match self.known.remove(&key) {
                // A process that a reader hangs at gets no second reader.
                Some(known) if hangs || !known.is_due(&stat, named, age, now) => {
                    alive.insert(key, known);
                }
                // A broker's child shows the broker's command line until it executes its own program.
                None if brokers.contains(&stat.parent) => {}
                known => {
                    // A broker stays one when a pid file starts to name it.
                    let same =
                        |known: &&KnownProcess| known.comm == stat.comm && (named || !known.named);
                    let same = known.as_ref().filter(same).and_then(KnownProcess::kafka);
                    jobs.push(Job {
                        key,
                        comm: stat.comm,
                        named,
                        known: same,
                    });
                    alive.extend(known.map(|known| (key, known)));
                }
            }
        }
        self.known = alive;
        if hidden {
            // Without the number of processes: it changes all the time, and each new text is logged.
            let warning = "some processes may not be read (is procfs mounted with hidepid?), so brokers among them are \
                           not found: run kafka-vitals as the brokers' user";
            self.warnings.push(warning.to_owned());
        }
        // Known brokers come last: if one of them hangs, new ones are still found.
        jobs.sort_by_key(|job| job.known.is_some());
        self.run(jobs, now);

        let mut found: Vec<Arc<Broker>> = self
            .known
            .values()
            .filter_map(KnownProcess::broker)
            .cloned()
            .collect();
        found.sort_by_key(|broker| broker.process);
        for known in self.known.values() {
            if let (ProcessKind::Unclear(reason), true) =
                (&known.kind, self.warnings.len() < MOST_WARNINGS)
            {
                self.warnings.push(reason.clone());
            }
        }
        self.warnings.sort();
        Ok(found)
    }

    /// Where the last scan may have missed a broker, and why. To be logged when it changes.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn named_processes(&mut self) -> Vec<u32> {
        let mut pids = Vec::new();
        for file in &self.pid_files {
            match read_pid_file(file) {
                Ok(pid) => pids.push(pid),
                Err(failure) => self.warnings.push(failure.message),
            }
        }
        pids
    }

    /// Runs the jobs on a thread that is abandoned if one does not end in time; the rest is left to the next scan.
    fn run(&mut self, jobs: Vec<Job>, now: Instant) {
        if !jobs.is_empty() && self.stuck_readers.len() >= MOST_STUCK_READERS {
            self.warnings.push(format!(
                "new brokers are not found, because {MOST_STUCK_READERS} reads of other processes' files hang: \
                 look for processes in state D and hung file systems"
            ));
            return;
        }
        for job in jobs {
            let (key, comm, named) = (job.key, job.comm.clone(), job.named);
            let left = READ_BUDGET.saturating_sub(now.elapsed());
            let proc = self.proc.clone();
            let read = move |(): &mut ()| examine(&proc, &job);
            let examined = self.reader.run_and_wait(left, "discovery", read);
            let hangs = self.reader.is_running();
            let kind = match examined {
                Ok(Some(kind)) => self.keep_if_same(key, kind),
                Ok(None) => {
                    self.known.remove(&key);
                    continue;
                }
                Err(failure) => self.kind_of_unread(key, &comm, &failure),
            };
            let known = KnownProcess {
                comm,
                checked_at: now,
                named,
                kind,
            };
            self.known.insert(key, known);
            if hangs {
                let reader = std::mem::replace(&mut self.reader, BlockingWorker::new(()));
                self.stuck_readers.push((key, reader));
                return;
            }
        }
    }

    /// A broker keeps its description; any other process may be a broker.
    fn kind_of_unread(&mut self, key: ProcessKey, comm: &str, failure: &Failure) -> ProcessKind {
        let pid = key.pid;
        let reading = "reading its command line or files";
        let reason = match failure.reason {
            Reason::Timeout => format!(
                "process {pid} ({comm}): {reading} took longer than {} s; it is tried again once that has ended",
                READ_BUDGET.as_secs()
            ),
            _ => format!(
                "process {pid} ({comm}): {reading} failed ({failure}); it is tried again later"
            ),
        };
        match self.known.get(&key).map(|known| known.kind.clone()) {
            Some(kept @ ProcessKind::Kafka(..)) => {
                self.warnings.push(reason);
                kept
            }
            _ => ProcessKind::Unclear(reason),
        }
    }

    /// Keeps the `Arc` that others already hold, if nothing changed.
    fn keep_if_same(&self, key: ProcessKey, kind: ProcessKind) -> ProcessKind {
        match (&kind, self.known.get(&key).and_then(KnownProcess::broker)) {
            (ProcessKind::Kafka(launch, new), Some(old)) if new == old => {
                ProcessKind::Kafka(launch.clone(), old.clone())
            }
            _ => kind,
        }
    }
}

impl KnownProcess {
    fn broker(&self) -> Option<&Arc<Broker>> {
        match &self.kind {
            ProcessKind::Kafka(_, broker) => Some(broker),
            _ => None,
        }
    }

    fn kafka(&self) -> Option<(Arc<Launch>, Arc<Broker>)> {
        match &self.kind {
            ProcessKind::Kafka(launch, broker) => Some((launch.clone(), broker.clone())),
            _ => None,
        }
    }

    /// Whether to classify the process again.
    fn is_due(&self, stat: &Stat, named: bool, age: Duration, now: Instant) -> bool {
        let since = now.duration_since(self.checked_at);
        let renew = match &self.kind {
            ProcessKind::Kafka(_, broker) if broker.id.is_none() && age < ID_EXPECTED => {
                Duration::ZERO
            }
            ProcessKind::Kafka(..) => RENEW_BROKER,
            // It may hang, so it is not tried at every scan, even if it is young.
            ProcessKind::Unclear(_) => RENEW_OTHER,
            ProcessKind::Other if age < YOUNG => Duration::ZERO,
            ProcessKind::Other => RENEW_OTHER,
        };
        // A process that was classified when young is classified once more when it no longer is.
        self.comm != stat.comm || self.named != named || since >= renew
    }
}

/// Classifies one process and describes it if it is a broker. None if it is gone.
fn examine(proc: &ProcRoot, job: &Job) -> Option<ProcessKind> {
    let pid = job.key.pid;
    let mut launch = match &job.known {
        Some((launch, _)) => launch.clone(),
        None => match classify(proc, job) {
            Ok(JvmKind::Kafka(launch)) => Arc::new(launch),
            Ok(JvmKind::Other) => return Some(ProcessKind::Other),
            Ok(JvmKind::Unclear(reason)) => {
                return Some(ProcessKind::Unclear(format!(
                    "process {pid} ({}) may be a broker: {reason}; name its pid file in the config file",
                    job.comm
                )));
            }
            Err(ProcError::Gone { .. }) => return None,
            Err(error) => {
                return Some(ProcessKind::Unclear(format!(
                    "process {pid} ({}) may be a broker: {error}",
                    job.comm
                )));
            }
        },
    };
    let earlier = job.known.as_ref().map(|(_, broker)| &**broker);
    match broker::describe(proc, job.key, Arc::make_mut(&mut launch), earlier) {
        Ok(broker) => Some(ProcessKind::Kafka(launch, Arc::new(broker))),
        Err(_) => None,
    }
}

fn classify(proc: &ProcRoot, job: &Job) -> Result<JvmKind, ProcError> {
    let pid = job.key.pid;
    let line = proc.command_line(pid)?;
    let kind = jvm::classify(&job.comm, &line, |name| read_argument_file(proc, pid, name));
    match kind {
        JvmKind::Unclear(reason)
            if job.named
                || jvm::has_broker_threads(
                    &proc
                        .thread_names(pid, MOST_THREAD_NAMES)
                        .unwrap_or_default(),
                ) =>
        {
            Ok(JvmKind::Kafka(Launch {
                problem: Some(reason.to_string()),
                ..Launch::default()
            }))
        }
        JvmKind::Other if job.named => {
            let properties = line
                .arguments
                .iter()
                .find(|argument| argument.ends_with(".properties"));
            let problem = Some(
                "it counts as a broker because a pid file of the config file names it".to_owned(),
            );
            Ok(JvmKind::Kafka(Launch {
                properties: properties.map(PathBuf::from),
                problem,
                ..Launch::default()
            }))
        }
        kind => Ok(kind),
    }
}

/// Reads again how a broker was started.
///
/// # Errors
/// If its command line cannot be read or is not that of a broker.
pub fn launch_of(proc: &ProcRoot, pid: u32) -> Result<Launch, DiscoveryError> {
    let stat = proc.stat(pid)?;
    let line = proc.command_line(pid)?;
    match jvm::classify(&stat.comm, &line, |name| {
        read_argument_file(proc, pid, name)
    }) {
        JvmKind::Kafka(launch) => Ok(launch),
        JvmKind::Unclear(reason) => Err(reason),
        JvmKind::Other => Err(DiscoveryError::NotKafka),
    }
}

fn read_argument_file(proc: &ProcRoot, pid: u32, name: &str) -> Result<String, FileError> {
    let folder = proc.link(pid, "cwd").unwrap_or_default();
    let root = Rooted::of_process(proc, pid)?;
    let file = root.read(&folder.join(name), ARGUMENT_FILE_CAP)?;
    Ok(String::from_utf8_lossy(&file.bytes).into_owned())
}

/// Reads the process id from a pid file that the config file names.
///
/// # Errors
/// If the file cannot be read or holds no process id.
pub fn read_pid_file(path: &Path) -> Result<u32, Failure> {
    let fail = |reason, cause: String| {
        Failure::new(reason, format!("pid file {}: {cause}", path.display()))
    };
    // `Rooted` also refuses a FIFO and a huge file.
    let file = Rooted::open(Path::new("/")).and_then(|root| root.read(path, properties::FILE_CAP));
    let file = file.map_err(|error| match error {
        FileError::Missing { .. } => fail(
            Reason::Gone,
            "does not exist; is the broker down?".to_owned(),
        ),
        other => fail(Reason::Io, other.to_string()),
    })?;
    let text = String::from_utf8_lossy(&file.bytes);
    text.trim()
        .parse()
        .map_err(|_| fail(Reason::Protocol, "holds no process id".to_owned()))
}

/// Returns the `broker` label of each broker: its id, `<id>@<port>` where brokers share an id, `pid-N` while the id is
/// unknown.
pub fn labels(brokers: &[Arc<Broker>]) -> Vec<String> {
    let port = |broker: &Broker| {
        let listener = broker
            .listeners
            .iter()
            .find(|listener| !listener.controller)
            .or(broker.listeners.first());
        listener.map(|listener| listener.port)
    };
    let wanted = |broker: &Broker| {
        let id = broker.id?;
        if brokers.iter().filter(|other| other.id == Some(id)).count() == 1 {
            return Some(id.to_string());
        }
        let same = |other: &&Arc<Broker>| other.id == Some(id) && port(other) == port(broker);
        Some(format!(
            "{id}@{}",
            port(broker).filter(|_| brokers.iter().filter(same).count() == 1)?
        ))
    };
    brokers
        .iter()
        .map(|b| wanted(b).unwrap_or_else(|| format!("pid-{}", b.process.pid)))
        .collect()
}

/// Whether a broker is the one that the config file names: everything that is given must match.
pub fn matches(broker: &Broker, id: Option<i32>, port: Option<u16>, pid: Option<u32>) -> bool {
    (id.is_some() || port.is_some() || pid.is_some())
        && id.is_none_or(|id| broker.id == Some(id))
        && port.is_none_or(|port| {
            broker
                .listeners
                .iter()
                .any(|listener| listener.port == port)
        })
        && pid.is_none_or(|pid| broker.process.pid == pid)
}

#[cfg(test)]
mod tests;
