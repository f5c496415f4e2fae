//! The end of a broker's process, as soon as the kernel reports it, with what says why: the last lines of its log, the
//! room in its log dirs, its open fds.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::context::BrokerContext;
use super::log_dirs;
use super::snapshot_store::Update;
use crate::model::{
    BrokerSnapshot, CollectorName, LastReadings, LogDirSpace, LogLine, LogReport, Moment,
    ProcessKey, Severity,
};
use crate::sys::blocking_worker::BlockingWorker;
use crate::sys::pidfd::{self, Notice};
use crate::sys::proc::ProcRoot;
use crate::sys::rooted::Rooted;

/// The log is read every second.
const LOG_PATIENCE: Duration = Duration::from_millis(1_500);
/// A sick disk may be why the process ended.
const DIRS_PATIENCE: Duration = Duration::from_secs(1);
/// A line that was read longer before the end is not its reason.
const LINES_BEFORE: Duration = Duration::from_secs(60);
/// Lines that are kept.
const MOST_LINES: usize = 8;

/// What is held of a process: after its end, `/proc` has nothing of it.
#[derive(Debug)]
pub(super) struct Held {
    notice: OwnedFd,
    root: Option<Rooted>,
}

/// Opens what is held of a process. Blocking. None where only discovery notices its end.
pub(super) fn hold(proc: &ProcRoot, process: ProcessKey) -> Option<Held> {
    Some(Held {
        root: Rooted::of_process(proc, process.pid).ok(),
        notice: pidfd::open(proc, process.pid, process.start_ticks)?,
    })
}

/// Waits for the end of one process.
pub(super) struct End {
    notice: Notice,
    root: Option<Arc<Rooted>>,
    context: BrokerContext,
}

impl End {
    pub(super) fn of(held: Held, context: BrokerContext) -> Option<End> {
        Some(End {
            notice: Notice::of(held.notice)?,
            root: held.root.map(Arc::new),
            context,
        })
    }

    /// Ready once the process has ended.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        self.notice.poll(context)
    }

    /// Takes the last readings. The collectors of the broker still run.
    pub(super) async fn take_last_readings(&self) {
        let now = self.context.clock.now();
        let process = self.context.broker.process;
        let send = |update| self.context.updates.send(update);
        // Before its collectors find it gone.
        let known = Update::of_broker(process, move |broker, now| {
            broker.last = Some(last_readings(broker, now));
        });
        // The store ends only with the whole exporter.
        let _ = send(known).await;
        let (report, dirs) = tokio::join!(self.log(now), self.log_dirs());
        let newest = Update::of_broker(process, move |broker, _| {
            if let Some(last) = &mut broker.last {
                if let Some(report) = report {
                    (last.lines, last.announced) = of_log(Some(&report), now);
                }
                renew(&mut last.log_dirs, dirs);
            }
        });
        let _ = send(newest).await;
    }

    /// The log by a run that began after the end; by an earlier one where there is none.
    async fn log(&self, now: Moment) -> Option<Arc<LogReport>> {
        let mut read = self.context.signals.log_read.subscribe();
        if read.borrow().is_none() {
            return None;
        }
        let is_after = |read: &Option<(Moment, Arc<LogReport>)>| {
            read.as_ref().is_some_and(|(at, _)| *at > now)
        };
        let _ = tokio::time::timeout(LOG_PATIENCE, read.wait_for(is_after)).await;
        let read = read.borrow();
        read.as_ref().map(|(_, report)| Arc::clone(report))
    }

    async fn log_dirs(&self) -> Vec<LogDirSpace> {
        let collectors = &self.context.config.collectors;
        let is_on = collectors.is_on(CollectorName::LogDirs);
        let Some(root) = self.root.clone().filter(|_| is_on) else {
            return Vec::new();
        };
        let broker = Arc::clone(&self.context.broker);
        let mut worker = BlockingWorker::new(());
        worker.set_of_others(self.context.jvm.is_outranked());
        let read = move |_: &mut ()| log_dirs::spaces(&root, &broker).0;
        let name = self.context.broker.name();
        let spaces = worker.run(DIRS_PATIENCE, &name, read).await;
        spaces.map_or_else(|_| Vec::new(), |(spaces, _)| spaces)
    }
}

/// What the snapshot still knows of a process that has ended.
pub(super) fn last_readings(broker: &BrokerSnapshot, now: Moment) -> LastReadings {
    let vitals = broker.process.last();
    let dirs = broker.log_dirs.last();
    let (lines, announced) = of_log(broker.log.last().map(|(report, _)| &**report), now);
    LastReadings {
        at: now,
        open_fds: broker.open_fds.last().map(|(count, _)| *count),
        fd_limit: vitals.and_then(|(vitals, _)| vitals.fd_limit_soft),
        log_dirs: dirs.map_or_else(Vec::new, |(dirs, _)| dirs.clone()),
        lines,
        announced,
    }
}

/// The last critical lines, and whether the log announced that the broker shuts down, without one of them.
fn of_log(report: Option<&LogReport>, ended: Moment) -> (Vec<(String, LogLine)>, Option<bool>) {
    let Some(report) = report else {
        return (Vec::new(), None);
    };
    let lines = lines(report, ended);
    let announced = lines.is_empty() && report.announces_shutdown();
    (lines, Some(announced))
}

fn lines(report: &LogReport, ended: Moment) -> Vec<(String, LogLine)> {
    let critical = report.signatures.iter().filter_map(|(name, count)| {
        let line = count.last.as_ref()?;
        let is_of_end = ended.since(line.at) < LINES_BEFORE;
        (count.severity == Severity::Critical && is_of_end).then(|| (name.clone(), line.clone()))
    });
    let mut lines: Vec<_> = critical.collect();
    lines.sort_by_key(|(_, line)| std::cmp::Reverse(line.at));
    lines.truncate(MOST_LINES);
    lines
}

/// Takes the newer readings. Where the mounts ended with the process, its path leads to another file system.
fn renew(known: &mut [LogDirSpace], newest: Vec<LogDirSpace>) {
    for space in newest {
        let is_same =
            |of: &&mut LogDirSpace| (&of.dir, of.total_bytes) == (&space.dir, space.total_bytes);
        if let Some(before) = known.iter_mut().find(is_same) {
            *before = space;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LogSignatureCount;
    use crate::model::SHUTDOWN;

    #[test]
    fn the_last_critical_lines_are_kept() {
        let count = |severity, at| LogSignatureCount {
            severity,
            count: 1,
            last: Some(LogLine {
                at: Moment(at),
                text: String::new(),
                peer: None,
            }),
        };
        let mut report = LogReport {
            signatures: [
                ("disk_full".into(), count(Severity::Critical, 99_000)),
                ("log_dir_offline".into(), count(Severity::Critical, 100_400)),
                ("thread_died".into(), count(Severity::Critical, 40_000)),
                ("thread_stopped".into(), count(Severity::Info, 100_000)),
                (SHUTDOWN.into(), count(Severity::Info, 99_500)),
                ("own".into(), LogSignatureCount::none(Severity::Critical)),
            ]
            .into(),
            ..LogReport::default()
        };
        let (lines, announced) = of_log(Some(&report), Moment(100_000));
        let names: Vec<&str> = lines.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["log_dir_offline", "disk_full"]);
        // It shuts down because of them.
        assert_eq!(announced, Some(false));
        report
            .signatures
            .retain(|_, of| of.severity == Severity::Info);
        assert_eq!(of_log(Some(&report), Moment(100_000)), (vec![], Some(true)));
        report.signatures.clear();
        assert_eq!(
            of_log(Some(&report), Moment(100_000)),
            (vec![], Some(false))
        );
        assert_eq!(of_log(None, Moment(100_000)), (vec![], None));
    }

    #[test]
    fn another_file_system_in_the_place_of_a_log_dir_is_not_taken() {
        let space = |dir: &str, free_bytes, total_bytes| LogDirSpace {
            dir: dir.into(),
            free_bytes,
            total_bytes,
        };
        let mut known = [space("/a", 50, 100), space("/b", 50, 100)];
        renew(
            &mut known,
            vec![space("/a", 0, 100), space("/b", 900, 1_000)],
        );
        assert_eq!(known, [space("/a", 0, 100), space("/b", 50, 100)]);
    }
}
