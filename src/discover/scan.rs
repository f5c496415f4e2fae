//! The discovery round: finds new, ended and restarted brokers, cheaply every few seconds.
//!
//! A scan reads `/proc/PID/stat` of every process, which cannot block, and remembers for each process what its command
//! line said. Other reads can block for ever: the command line of a process that waits for a dead disk, or a file below
//! another root on a hung or hostile file system. They run in a thread of their own, which is abandoned when it takes
//! too long.

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::entry::read_pid_file;
use super::examine::{Job, Owner, ProcessKind, examine};
use super::jvm::Launch;
use super::standing::Standing;
use crate::model::{Broker, Failure, Label, ProcessKey, Reason};
use crate::sys::blocking_worker::BlockingWorker;
use crate::sys::proc::{self, ProcError, ProcRoot, Stat};
use crate::sys::users;

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
/// A read that starts with less time left could be taken for one that hangs.
const READ_TIME: Duration = Duration::from_millis(500);
/// With so many abandoned threads, nothing that may block is read any more.
const MOST_STUCK_READERS: usize = 4;
/// With so many at processes of one user, nothing of other processes of that user.
const MOST_STUCK_OF_USER: usize = 2;
/// Bounds the log of a host full of JVMs.
const MOST_WARNINGS: usize = 16;
/// Users that a message names.
const MOST_NAMED_USERS: usize = 3;

/// Finds the Kafka brokers of this host, and remembers them from scan to scan.
pub struct Discovery {
    proc: ProcRoot,
    pid_files: Vec<PathBuf>,
    known: HashMap<ProcessKey, KnownProcess>,
    reader: BlockingWorker<()>,
    stuck_readers: Vec<StuckReader>,
    warnings: Vec<String>,
    /// Whose processes count; None: everybody's.
    users: Option<BTreeSet<u32>>,
    /// The most brokers that are watched.
    most: usize,
    standing: Standing,
    /// What `/etc/passwd` says, read when a name is first needed. A label must not change with that file.
    passwd: OnceCell<String>,
    left_out: usize,
    /// Why some processes are not seen, and the remedy.
    hidden: Option<String>,
}

/// A reader that hangs at the files of a process.
struct StuckReader {
    process: ProcessKey,
    owner: Option<u32>,
    reader: BlockingWorker<()>,
}

struct KnownProcess {
    comm: String,
    checked_at: Instant,
    /// A pid file names it.
    named: bool,
    owner: Option<u32>,
    kind: ProcessKind,
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
            users: None,
            most: usize::MAX,
            standing: Standing::new(own_user(), false),
            passwd: OnceCell::new(),
            left_out: 0,
            hidden: None,
        }
    }

    /// Only processes of these users count, unless none is named, and `most` brokers are watched. What is known of the
    /// host remains, above all who came first; where other users count than before, it starts again.
    pub fn set(&mut self, users: &[u32], most: usize, pid_files: Vec<PathBuf>) {
        let users: BTreeSet<u32> = users.iter().copied().collect();
        let users = (!users.is_empty()).then_some(users);
        if users != self.users {
            self.known.clear();
            self.standing = Standing::new(own_user(), users.is_some());
        }
        (self.users, self.most, self.pid_files) = (users, most, pid_files);
    }

    /// Returns the brokers of this host that are watched, sorted by process. An unchanged broker keeps its `Arc`. Takes up
    /// to 2 s if files hang, so do not call it in a thread that serves others.
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
        self.stuck_readers.retain(|stuck| stuck.reader.is_running());
        let named: Vec<u32> = self.named_processes();

        let now = Instant::now();
        let mut jobs = Vec::new();
        let mut alive = HashMap::with_capacity(self.known.len());
        let brokers: HashSet<u32> = self
            .known
            .iter()
            .filter(|(_, known)| known.is_candidate())
            .map(|(process, _)| process.pid)
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
            match self.known.remove(&key) {
                // A process that a reader hangs at gets no second reader.
                Some(known) if self.hangs(key) || !known.is_due(&stat, named, age, now) => {
                    alive.insert(key, known);
                }
                // A broker's child shows the broker's command line until it executes its own program.
                None if brokers.contains(&stat.parent) => {}
                known => {
                    // A broker stays one when a pid file starts to name it.
                    let same =
                        |known: &&KnownProcess| known.comm == stat.comm && (named || !known.named);
                    let same = known.as_ref().filter(same).and_then(KnownProcess::kafka);
                    let owner = Owner::of(&self.proc, pid);
                    if !self.counts(owner) {
                        let other = KnownProcess {
                            comm: stat.comm,
                            checked_at: now,
                            named,
                            owner: owner.uid(),
                            kind: ProcessKind::Other,
                        };
                        alive.insert(key, other);
                        continue;
                    }
                    jobs.push(Job {
                        key,
                        comm: stat.comm,
                        named,
                        owner,
                        describe: same.is_some(),
                        known: same,
                    });
                    alive.extend(known.map(|known| (key, known)));
                }
            }
        }
        self.known = alive;
        let process = |job: &Job| (job.owner.uid(), job.key);
        let mut jobs = self.standing.in_turn(jobs, process);
        // Known brokers come last: if one of them hangs, new ones are still found.
        jobs.sort_by_key(|job| (job.known.is_some(), !job.named));
        self.run(jobs, now);
        let new = self.choose();
        self.run(new, now);

        let mut found: Vec<Arc<Broker>> = self
            .known
            .values()
            .filter_map(KnownProcess::broker)
            .cloned()
            .collect();
        found.sort_by_key(|broker| broker.process);
        // With a thousand mounts this takes some ms.
        if hidden || found.is_empty() {
            // Without the number of processes: it changes all the time, and each new text is logged.
            let denied = "some processes may not be read, so brokers among them are not found: run kafka-vitals as the \
                          brokers' user";
            let unread = hidden.then(|| denied.to_owned());
            self.hidden = self.proc.hides_processes().or(unread);
        }
        self.warnings.extend(self.hidden.clone());
        for known in self.known.values() {
            if let (ProcessKind::Unclear(reason), true) =
                (&known.kind, self.warnings.len() < MOST_WARNINGS)
            {
                self.warnings.push(reason.clone());
            }
        }
        self.standing.update(&found, now);
        self.warnings.sort();
        Ok(found)
    }

    /// The name of each broker that the last scan returned.
    pub fn labels(&self, brokers: &[Arc<Broker>]) -> Vec<Label> {
        self.standing.labels(brokers, |uid| self.user(uid))
    }

    /// Why some processes of this host are not seen. If there is no broker among the others, it is unknown whether one
    /// runs.
    pub fn hidden(&self) -> Option<&str> {
        self.hidden.as_deref()
    }

    /// How many processes look like brokers and are not watched, because there are too many.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    fn user(&self, uid: u32) -> String {
        users::name_of(self.passwd.get_or_init(users::read), uid)
    }

    fn counts(&self, owner: Owner) -> bool {
        let named = |users: &BTreeSet<u32>| owner.uid().is_some_and(|uid| users.contains(&uid));
        self.users.as_ref().is_none_or(named)
    }

    fn hangs(&self, process: ProcessKey) -> bool {
        self.stuck_readers
            .iter()
            .any(|stuck| stuck.process == process)
    }

    /// Chooses the brokers that are watched, and returns the reads that this needs. The others are counted.
    fn choose(&mut self) -> Vec<Job> {
        let candidates = self.known.iter().filter(|(_, known)| known.is_candidate());
        let candidates: Vec<_> = candidates
            .map(|(key, known)| (*key, known.owner, known.named))
            .collect();
        let process = |(key, owner, _): &_| (*owner, *key);
        let mut chosen = self.standing.in_turn(candidates, process);
        chosen.sort_by_key(|(_, _, named)| !*named);
        let others = chosen.split_off(self.most.min(chosen.len()));
        self.left_out = others.len();
        if !others.is_empty() {
            self.warnings.push(self.too_many(&others));
        }
        for (key, _, _) in others {
            if let Some(known) = self.known.get_mut(&key) {
                known.kind = ProcessKind::Candidate;
            }
        }
        let new = chosen.into_iter().filter_map(|(key, owner, named)| {
            let known = self.known.get(&key)?;
            (!self.hangs(key) && matches!(known.kind, ProcessKind::Candidate)).then(|| Job {
                key,
                comm: known.comm.clone(),
                named,
                owner: owner.map_or(Owner::Unknown, Owner::User),
                describe: true,
                known: None,
            })
        });
        new.collect()
    }

    /// Without the number, which may change all the time: each new text is logged.
    fn too_many(&self, others: &[(ProcessKey, Option<u32>, bool)]) -> String {
        let mut by_user: HashMap<Option<u32>, usize> = HashMap::new();
        for (_, owner, _) in others {
            *by_user.entry(*owner).or_default() += 1;
        }
        let mut users: Vec<_> = by_user.into_iter().collect();
        users.sort_by_key(|(owner, count)| (std::cmp::Reverse(*count), *owner));
        let name = |owner: Option<u32>| {
            owner.map_or_else(|| "unknown users".to_owned(), |uid| self.user(uid))
        };
        let names = users.iter().take(MOST_NAMED_USERS);
        let mut names: Vec<String> = names.map(|(owner, _)| name(*owner)).collect();
        if users.len() > MOST_NAMED_USERS {
            names.push("others".to_owned());
        }
        format!(
            "more than {} processes of this host look like brokers; not watched are those of {} that started last: name \
             the brokers' users as `users` in the config file, or raise `max_brokers`",
            self.most,
            names.join(", ")
        )
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
        let watched = |known: &KnownProcess| usize::from(known.broker().is_some());
        let mut described: usize = self.known.values().map(watched).sum();
        let mut unread = false;
        for mut job in jobs {
            let (key, comm, named) = (job.key, job.comm.clone(), job.named);
            let owner = job.owner.uid();
            let of_user = self.stuck_readers.iter().filter(|s| s.owner == owner);
            if of_user.count() >= MOST_STUCK_OF_USER {
                unread = true;
                continue;
            }
            // Which ones are watched is decided when all are known.
            job.describe |= described < self.most;
            let left = READ_BUDGET.saturating_sub(now.elapsed());
            if left < READ_TIME {
                return;
            }
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
                owner,
                kind,
            };
            described += watched(&known);
            let before = self.known.insert(key, known);
            described -= before.as_ref().map_or(0, watched);
            if hangs {
                let reader = std::mem::replace(&mut self.reader, BlockingWorker::new(()));
                self.stuck_readers.push(StuckReader {
                    process: key,
                    owner,
                    reader,
                });
                return;
            }
        }
        if unread {
            self.warnings.push(format!(
                "new brokers of a user are not found, because {MOST_STUCK_OF_USER} reads of that user's files hang: look \
                 for processes in state D and hung file systems"
            ));
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

    fn is_candidate(&self) -> bool {
        matches!(self.kind, ProcessKind::Candidate | ProcessKind::Kafka(..))
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
            ProcessKind::Other | ProcessKind::Candidate => RENEW_OTHER,
        };
        // A process that was classified when young is classified once more when it no longer is.
        self.comm != stat.comm || self.named != named || since >= renew
    }
}

/// Root sees everybody's brokers alike.
fn own_user() -> Option<u32> {
    let uid = rustix::process::geteuid();
    (!uid.is_root()).then(|| uid.as_raw())
}

#[cfg(test)]
mod tests;
