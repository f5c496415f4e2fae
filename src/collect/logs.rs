//! The collector `logs`: follows the broker's own log and counts the lines that have a signature. A thread's death, a
//! refused change of an ISR or a lost session stands there within a second.

mod find;
mod follow;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use self::find::{Destination, FileId, Written, find};
use self::follow::{LogFile, MOST_WAITING, Run};
use self::settings::Settings;
use super::context::{BrokerContext, LOGGED};
use super::dump_service::Jvm;
use super::frame::{BlockingCollector, Collector, Description, RunsOn, Stamp};
use super::process::{failure, same_process, unreadable};
use crate::discover::mask;
use crate::model::shares::{Share, Shares};
use crate::model::{
    Broker, BrokerSnapshot, Clock, CollectorName, Failure, LogLine, LogReport, LogSignatureCount,
    Moment, Reason, Severity, text, visible,
};
use crate::sys::plain::FileError;
use crate::sys::proc::{ProcError, ProcRoot};
use crate::sys::rights::FileRights;
use crate::sys::rooted::Rooted;
use crate::threads::log_signatures::{BuildError, Found, LogMatcher, OwnSignature};
use crate::threads::missing::Deaths;
use crate::threads::pools::Pool;

/// Bytes of one run. A broker that logs more is read later, and from some point on not all of it.
const MOST_PER_RUN: usize = 2 << 20;
/// Files of one broker; log4j's settings as Kafka delivers them name six.
const MOST_FILES: usize = 16;
/// Open files of all brokers, and of those of other users than the first one's.
static OPEN_FILES: Shares = Shares::new(1024, 256);
/// Between two looks for files that the broker has opened since, in milliseconds.
const FIND_EVERY: u64 = 30_000;
/// After a failure, and where there is no file; for so long a broker may open its log yet.
const PAUSE: u64 = 5_000;
const LONG_PAUSE: u64 = 60_000;
const STARTS: Duration = Duration::from_secs(60);
/// For so long a death in the log is a reason for a dump, in milliseconds.
const REASON_LASTS: u64 = 3_000;
/// Threads that end in one run.
const MOST_DEATHS: usize = 64;
/// What is kept of a line.
const MOST_OF_LINE: usize = 600;

/// Follows the log of one broker.
#[derive(Debug)]
pub struct Logs {
    proc: ProcRoot,
    broker: Arc<Broker>,
    clock: Clock,
    jvm: Option<Arc<Jvm>>,
    own: Vec<OwnSignature>,
    suspects: watch::Sender<BTreeSet<u32>>,
    deaths: watch::Sender<Deaths>,
    newest: watch::Sender<Option<(Moment, Arc<LogReport>)>>,
    following: Option<Following>,
    /// Its counts stay when the files are found again.
    report: Arc<LogReport>,
    /// When a death stood in the log last.
    died: Option<Moment>,
    /// Why the last run read nothing, and when that was.
    unread: Option<(Result<Update, Failure>, Moment)>,
}

/// What a run comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    Read(Arc<LogReport>),
    /// The log goes to no file, which is no failure.
    NoFile(String),
}

#[derive(Debug)]
struct Following {
    root: Rooted,
    files: Vec<LogFile>,
    share: Share,
    found: Moment,
}

impl Collector for Logs {
    const DESCRIPTION: Description = Description {
        name: CollectorName::Logs,
        ceiling: 0.01,
        deadline: Duration::from_secs(5),
    };
    type Value = Update;

    fn store(broker: &mut BrokerSnapshot, result: Result<Update, Failure>, stamp: Stamp) {
        let report = match result {
            Ok(Update::NoFile(why)) => return broker.set_not_read(CollectorName::Logs, why),
            Ok(Update::Read(report)) => Ok(report),
            Err(failure) => Err(failure),
        };
        let failure = stamp.put(&mut broker.log, report);
        stamp.finish(broker, CollectorName::Logs, failure.as_ref());
    }
}

impl BlockingCollector for Logs {
    // At rest it asks for the size of a few open files.
    const RUNS_ON: RunsOn = RunsOn::SharedThread;

    fn new(context: &BrokerContext) -> Logs {
        Logs {
            jvm: Some(Arc::clone(&context.jvm)),
            own: context.config.log_signatures.clone(),
            suspects: context.signals.suspects.clone(),
            deaths: context.signals.deaths.clone(),
            newest: context.signals.log_read.clone(),
            ..Logs::of(&context.proc, &context.broker, context.clock)
        }
    }

    fn collect(&mut self) -> Result<Update, Failure> {
        let now = self.clock.now();
        let starts = self.broker.started.is_some_and(|at| now.since(at) < STARTS);
        let pause = |unread: &Result<Update, Failure>| match unread {
            Ok(_) if !starts => LONG_PAUSE,
            _ => PAUSE,
        };
        if let Some((unread, at)) = &self.unread
            && now.0 < at.0 + pause(unread)
        {
            return unread.clone();
        }
        let read = self.read(now);
        self.unread = None;
        if !matches!(read, Ok(Update::Read(_))) {
            self.following = None;
            self.unread = Some((read.clone(), now));
        }
        read
    }
}

impl Logs {
    /// Follows the log of a broker of the first user.
    pub fn of(proc: &ProcRoot, broker: &Arc<Broker>, clock: Clock) -> Logs {
        Logs {
            proc: proc.clone(),
            broker: Arc::clone(broker),
            clock,
            jvm: None,
            own: Vec::new(),
            suspects: watch::Sender::default(),
            deaths: watch::Sender::default(),
            newest: watch::Sender::default(),
            following: None,
            report: Arc::default(),
            died: None,
            unread: None,
        }
    }

    fn read(&mut self, now: Moment) -> Result<Update, Failure> {
        if let Some(why) = self.look_for_files(now)? {
            return Ok(Update::NoFile(why));
        }
        let has_news = self.has_news().map_err(|error| self.not_read(&error))?;
        let died = match has_news {
            true => self.read_news(now)?,
            false => Vec::new(),
        };
        self.report_deaths(died, now);
        let report = Arc::clone(&self.report);
        self.newest.send_replace(Some((now, Arc::clone(&report))));
        Ok(Update::Read(report))
    }

    fn has_news(&self) -> io::Result<bool> {
        let files = self.following.iter().flat_map(|of| &of.files);
        files
            .map(LogFile::has_news)
            .try_fold(false, |any, news| Ok(any | news?))
    }

    /// Reads on, and returns the threads that have ended by the log.
    fn read_news(&mut self, now: Moment) -> Result<Vec<String>, Failure> {
        let Some(mut following) = self.following.take() else {
            return Ok(Vec::new());
        };
        // A broker at rest writes nothing, and needs no memory for it.
        let matcher = matcher(&self.own).map_err(|error| {
            let message = format!("log_signatures: {error}; write fewer or smaller patterns");
            Failure::new(Reason::NoRoom, message)
        })?;
        let mut seen: BTreeMap<usize, (u64, Found)> = BTreeMap::new();
        let mut died = Vec::new();
        let mut found = |line: Found| {
            let is_critical = matcher
                .signature(line.signature)
                .is_some_and(|(_, severity)| severity == Severity::Critical);
            let thread = line.thread.as_ref().filter(|_| is_critical);
            if let Some(thread) = thread.filter(|name| Pool::of(name).is_some())
                && died.len() < MOST_DEATHS
            {
                died.push(thread.clone());
            }
            let times = seen.get(&line.signature).map_or(0, |(times, _)| *times);
            seen.insert(line.signature, (times + 1, line));
        };
        let mut written: Option<Vec<Written>> = None;
        let mut is_written = |id: FileId| {
            let written = written.get_or_insert_with(|| match find(&self.proc, &self.broker) {
                Ok(Destination::Files(files)) => files,
                _ => Vec::new(),
            });
            written.iter().any(|file| file.id == id)
        };
        let mut run = Run {
            root: &following.root,
            matcher: &matcher,
            found: &mut found,
            budget: MOST_PER_RUN,
            is_written: &mut is_written,
        };
        let mut files = following.files.iter_mut();
        let read = files.try_for_each(|file| file.read(&mut run));
        read.map_err(|error| self.not_read(&error))?;
        let of_others = self.jvm.as_ref().is_some_and(|jvm| jvm.is_outranked());
        following.hold(&self.broker, of_others)?;
        let report = Arc::make_mut(&mut self.report);
        report.skipped_bytes += following.take_skipped();
        for (times, line) in seen.into_values() {
            count(report, &matcher, line, times, now);
        }
        self.following = Some(following);
        Ok(died)
    }

    fn not_read(&self, error: &io::Error) -> Failure {
        let name = self.broker.name();
        Failure::new(Reason::Io, format!("{name}: its log: {error}"))
    }

    /// Finds the files at first, and those that came since from time to time. Returns why there is none.
    fn look_for_files(&mut self, now: Moment) -> Result<Option<String>, Failure> {
        let is_due = |of: &Following| now.0 >= of.found.0 + FIND_EVERY;
        if self.following.as_ref().is_some_and(|of| !is_due(of)) {
            return Ok(None);
        }
        let broker = &self.broker;
        let destination = find(&self.proc, broker);
        match same_process(&self.proc, broker.process) {
            // What it wrote last is read from the files that are open here.
            Err(ProcError::Gone { .. }) if self.following.is_some() => return Ok(None),
            same => same.map_err(|error| failure(broker, &error))?,
        };
        let files = match destination.map_err(|error| failure(broker, &error))? {
            Destination::Files(files) => files,
            Destination::Output(output) => {
                // What is followed may be between two files.
                if let Some(following) = &mut self.following {
                    following.found = now;
                    return Ok(None);
                }
                let settings = settings::read(&self.proc, broker.process.pid);
                return Ok(Some(no_file(broker, &output, settings)));
            }
        };
        let at_first = self.following.is_none();
        let following = match &mut self.following {
            Some(following) => following,
            none => {
                let root = Rooted::of_process(&self.proc, broker.process.pid);
                none.insert(Following {
                    root: root.map_err(|error| unreadable(broker, &error))?,
                    files: Vec::new(),
                    share: OPEN_FILES.none(false),
                    found: now,
                })
            }
        };
        following.found = now;
        // A log that was deleted, or that one of another name replaced, is over; but it may just be rotated.
        following.files.retain_mut(|log| {
            let mut written = files.iter();
            let is_written = written.any(|file| log.has(file.id) || file.path == log.path);
            log.stays(is_written)
        });
        let rights = FileRights::of(&self.proc, broker.process.pid);
        let rights = rights.map_err(|error| unreadable(broker, &error))?;
        for file in files {
            let followed = &following.files;
            let is_known = |known: &LogFile| known.has(file.id) || known.path == file.path;
            if followed.iter().any(is_known) || followed.len() == MOST_FILES {
                continue;
            }
            let link = self
                .proc
                .file(broker.process.pid, &format!("fd/{}", file.fd));
            let opened = rights.open(&link);
            let opened = opened.map_err(|error| unreadable(broker, &error))?;
            let log = LogFile::new(file.path, opened, at_first).map_err(|cause| {
                let (name, link) = (broker.name(), link.display());
                Failure::new(Reason::Io, format!("{name}: {link}: {cause}"))
            })?;
            following.files.push(log);
        }
        let report = Arc::make_mut(&mut self.report);
        report.files = following
            .files
            .iter()
            .map(|file| file.path.clone())
            .collect();
        for own in &self.own {
            let count = report.signatures.entry(own.name.clone());
            count.or_insert(LogSignatureCount::none(own.severity));
        }
        Ok(None)
    }

    /// A thread that has ended is a reason for a dump.
    fn report_deaths(&mut self, threads: Vec<String>, now: Moment) {
        let died = !threads.is_empty();
        if died {
            self.died = Some(now);
            self.deaths.send_modify(|deaths| {
                for thread in threads {
                    deaths.add_logged(thread, now);
                }
            });
        }
        let is_over = self.died.is_some_and(|at| now.0 >= at.0 + REASON_LASTS);
        if is_over {
            self.died = None;
        }
        if died || is_over {
            self.suspects.send_if_modified(|suspects| match died {
                true => suspects.insert(LOGGED),
                false => suspects.remove(&LOGGED),
            });
        }
    }
}

/// Counts a signature that was seen so often, in this line at last.
fn count(report: &mut LogReport, matcher: &LogMatcher, line: Found, times: u64, now: Moment) {
    let Some((name, severity)) = matcher.signature(line.signature) else {
        return;
    };
    let count = report.signatures.entry(name.to_owned());
    let count = count.or_insert(LogSignatureCount::none(severity));
    count.count += times;
    // Others write it, and it may have a secret.
    let masked = mask::text(&line.text);
    count.last = Some(LogLine {
        at: now,
        text: text::cut(visible(&masked).into_owned(), MOST_OF_LINE),
        peer: line.peer,
    });
}

impl Following {
    /// Bytes that were passed over since the last call.
    fn take_skipped(&mut self) -> u64 {
        let files = self.files.iter_mut();
        files.map(|file| std::mem::take(&mut file.skipped)).sum()
    }

    /// Counts the open files of this broker among those of all.
    fn hold(&mut self, broker: &Broker, of_others: bool) -> Result<(), Failure> {
        self.share.set_of_others(of_others);
        let open = self.files.iter().map(LogFile::open_files).sum::<usize>();
        match open <= MOST_FILES + MOST_WAITING && self.share.try_hold(open) {
            true => Ok(()),
            false => {
                let name = broker.name();
                let message = format!(
                    "{name}: its log has {open} files that are not read yet; all logs of this host may have 1024 open, \
                     and those of other users than the first one 256"
                );
                Err(Failure::new(Reason::NoRoom, message))
            }
        }
    }
}

/// The matcher of these signatures, which all brokers share.
fn matcher(own: &[OwnSignature]) -> Result<Arc<LogMatcher>, BuildError> {
    type Newest = Option<(Vec<OwnSignature>, Arc<LogMatcher>)>;
    static NEWEST: Mutex<Newest> = Mutex::new(None);
    let mut newest = NEWEST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((of, matcher)) = &*newest
        && of == own
    {
        return Ok(Arc::clone(matcher));
    }
    let matcher = Arc::new(LogMatcher::new(own)?);
    *newest = Some((own.to_vec(), Arc::clone(&matcher)));
    Ok(matcher)
}

/// Why a log is not followed that goes to standard output, which leads to `output`.
fn no_file(broker: &Broker, output: &str, settings: Option<Result<Settings, FileError>>) -> String {
    let kind = output.split(':').next().unwrap_or_default();
    let where_to = match kind {
        "pipe" | "socket" => format!(
            "writes its log to standard output, which leads to a {kind}: only its reader sees it, as the runtime of a \
             container or systemd's journal"
        ),
        "" => "has no log file open, and its standard output is closed".to_owned(),
        _ => format!(
            "has no log file open, and its standard output leads to {}",
            text::beginning(output, 100)
        ),
    };
    let remedy = match settings {
        Some(Ok(Settings { path, file })) => {
            let path = text::beginning(&path.display().to_string(), 200).to_owned();
            match file {
                Some(file) => format!(
                    "its log4j settings ({path}) name {}, which it has not opened: see whether it may write there, and \
                     the beginning of its output, where log4j says why",
                    text::beginning(&file, 200)
                ),
                None => format!(
                    "its log4j settings ({path}) name no file; have them name one as well, so that its log can be followed"
                ),
            }
        }
        Some(Err(error)) => format!("its log4j settings: {error}"),
        None => "have log4j write a file as well, so that its log can be followed".to_owned(),
    };
    let (name, remedy) = (broker.name(), visible(&remedy).into_owned());
    format!("{name} {where_to}; {remedy}")
}

#[cfg(test)]
mod tests;
