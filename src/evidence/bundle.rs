//! The content of a bundle. Texts have the formats of common tools, so that those and `kafka-vitals analyze` read them:
//! `jstack`, `ss -tane`, `ls -ln /proc/PID/fd`, `jcmd PID PerfCounter.print`.

use std::fmt::Write as _;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use memchr::memmem;

use super::error::PartError;
use crate::collect::fds;
use crate::collect::sockets::Sockets;
use crate::discover::broker::server_properties;
use crate::discover::launch_of;
use crate::discover::mask;
use crate::model::Broker;
use crate::model::rfc3339;
use crate::model::{FdKinds, LogReport, Moment};
use crate::sys::perf_data::{PerfFile, Value};
use crate::sys::proc::{Deadline, ProcRoot, file_name};
use crate::sys::process::PinnedProcess;
use crate::sys::rights::FileRights;
use crate::verdict::View;
use crate::verdict::finding::BrokerDiagnosis;

/// The deadline of one part.
pub const READ_DEADLINE: Duration = Duration::from_secs(5);
/// The most lines of file descriptors and of sockets.
const MOST_LINES: usize = 100_000;
/// The most bytes from the end of the broker's log.
const LOG_TAIL: u64 = 1 << 20;

/// The most bytes of a thread dump: so many of its threads, and of its end, where the JVM reports deadlocks.
const DUMP_HEAD: usize = 3 << 20;
const DUMP_TAIL: usize = 1 << 20;

/// The broker whose evidence is saved.
#[derive(Debug, Clone)]
pub struct Subject {
    pub broker: Arc<Broker>,
    pub proc: ProcRoot,
}

/// One file, and how its content is read. It may block.
pub type Part = (&'static str, fn(&Subject) -> Result<Vec<u8>, PartError>);

/// The most important first, in case the limits do not suffice for all.
pub const PARTS: [Part; 8] = [
    ("sockets.txt", sockets),
    ("handles.txt", fds),
    ("limits.txt", |subject| small(subject, "limits")),
    ("status.txt", |subject| small(subject, "status")),
    ("server.log", log_tail),
    ("hsperfdata.txt", performance_data),
    ("command-line.txt", command_line),
    ("server.properties", properties),
];

impl Subject {
    /// Reads one part, of this process and no other.
    ///
    pub fn read(&self, part: Part) -> Result<Vec<u8>, PartError> {
        let bytes = part.1(self)?;
        let process = self.broker.process;
        match self.proc.stat(process.pid) {
            Ok(stat) if stat.start_ticks == process.start_ticks => Ok(bytes),
            _ => Err(PartError::Ended(self.broker.name())),
        }
    }

    fn pid(&self) -> u32 {
        self.broker.process.pid
    }
}

/// A thread dump without what is too much of it, which a line says. Between threads are empty lines, so none is cut.
pub fn cut_dump(mut bytes: Vec<u8>) -> Vec<u8> {
    let Some(from) = bytes
        .len()
        .checked_sub(DUMP_TAIL)
        .filter(|at| *at > DUMP_HEAD)
    else {
        return bytes;
    };
    const EMPTY_LINE: &[u8] = b"\n\n";
    let head = bytes.get(..DUMP_HEAD).unwrap_or_default();
    let head = memmem::rfind(head, EMPTY_LINE).map_or(DUMP_HEAD, |at| at + EMPTY_LINE.len());
    let tail = bytes.get(from..).unwrap_or_default();
    let tail = memmem::find(tail, EMPTY_LINE).map_or(from, |at| from + at + EMPTY_LINE.len());
    let line = format!(
        "# kafka-vitals left out {} bytes here: a bundle keeps the first 3 MiB of a thread dump and the last MiB\n\n",
        tail - head
    );
    bytes.splice(head..tail, line.into_bytes());
    bytes
}

fn small(subject: &Subject, name: &str) -> Result<Vec<u8>, PartError> {
    subject
        .proc
        .small(subject.pid(), name)
        .map(|(_, bytes)| bytes)
        .map_err(PartError::read)
}

fn sockets(subject: &Subject) -> Result<Vec<u8>, PartError> {
    let mut sockets = Sockets::new(subject.proc.path(), READ_DEADLINE);
    sockets
        .lines(&subject.broker, MOST_LINES)
        .map(String::into_bytes)
        .map_err(PartError::Collector)
}

fn fds(subject: &Subject) -> Result<Vec<u8>, PartError> {
    let (mut text, mut count, mut kinds) = (String::new(), 0_usize, FdKinds::default());
    let folder = subject.proc.file(subject.pid(), "fd");
    let visited = subject.proc.visit_fd_links(
        subject.pid(),
        Deadline::after(READ_DEADLINE),
        |number, link| {
            *fds::count_of(&mut kinds, link) += 1;
            count += 1;
            // Closed meanwhile: it is counted and not listed.
            let Some(own) = std::fs::symlink_metadata(folder.join(number))
                .ok()
                .filter(|_| count <= MOST_LINES)
            else {
                return ControlFlow::Continue(());
            };
            let bits = [(0o400, 'r'), (0o200, 'w'), (0o100, 'x')];
            let mode: String = bits
                .into_iter()
                .map(|(bit, c)| if own.mode() & bit != 0 { c } else { '-' })
                .collect();
            // A name may contain a line end.
            let link: String = String::from_utf8_lossy(link)
                .chars()
                .map(|c| if c.is_control() { '?' } else { c })
                .collect();
            let (uid, gid, at) = (
                own.uid(),
                own.gid(),
                rfc3339(Moment(own.mtime().unsigned_abs().saturating_mul(1000))),
            );
            let _ = writeln!(
                text,
                "l{mode}------ 1 {uid} {gid} 64 {at} {number} -> {link}"
            );
            ControlFlow::Continue(())
        },
    );
    visited.map_err(PartError::read)?;
    let counts: Vec<String> = kinds
        .named()
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    let left_out = count.saturating_sub(MOST_LINES);
    let _ = writeln!(
        text,
        "# {count} file handles: {}; {left_out} are not listed",
        counts.join(", ")
    );
    Ok(text.into_bytes())
}

/// The end of the broker's log, read through its own file descriptor, so that a moved or deleted log works too.
fn log_tail(subject: &Subject) -> Result<Vec<u8>, PartError> {
    // How close a name is to those in Kafka's own configurations.
    let rank = |name: &str| match name {
        "server.log" => 3,
        "kafka.log" | "kafkaServer.out" | "nohup.out" => 2,
        name if name.ends_with(".log")
            && !name.contains("gc")
            && !name.starts_with(|c: char| c.is_ascii_digit()) =>
        {
            1
        }
        _ => 0,
    };
    let mut best: (u32, PathBuf) = (0, PathBuf::new());
    let folder = subject.proc.file(subject.pid(), "fd");
    let visited = subject.proc.visit_fd_links(
        subject.pid(),
        Deadline::after(READ_DEADLINE),
        |number, link| {
            let rank = rank(&String::from_utf8_lossy(file_name(link)));
            if link.first() == Some(&b'/') && rank > best.0 {
                best = (rank, folder.join(number));
            }
            ControlFlow::Continue(())
        },
    );
    visited.map_err(PartError::read)?;
    if best.0 == 0 {
        return Err(PartError::NoLog);
    }
    let path = best.1;
    let fail = |cause: std::io::Error| PartError::Log {
        path: path.clone(),
        cause,
    };
    // A process can hold a reference to a file that it may not read, and give it any name.
    let mut file = FileRights::of(&subject.proc, subject.pid())?.open(&path)?;
    let start = file
        .metadata()
        .map_err(fail)?
        .len()
        .saturating_sub(LOG_TAIL);
    file.seek(SeekFrom::Start(start)).map_err(fail)?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut bytes).map_err(fail)?;
    let text = String::from_utf8_lossy(&bytes);
    // A partial line may lack the name of the secret that it contains.
    let complete = if start == 0 {
        &text
    } else {
        text.split_once('\n').map_or("", |(_, rest)| rest)
    };
    Ok(mask::text(complete).into_bytes())
}

fn performance_data(subject: &Subject) -> Result<Vec<u8>, PartError> {
    let process = subject.broker.process;
    let target = PinnedProcess::open(subject.proc.path(), process.pid, Some(process.start_ticks));
    let target = target.map_err(PartError::read)?;
    let data = PerfFile::open(&target)
        .and_then(|file| file.read())
        .map_err(PartError::read)?;
    let mut text = String::new();
    for (name, value) in data.iter() {
        let _ = match value {
            Value::Long(value) => writeln!(text, "{name}={value}"),
            Value::Text(value) => {
                let value = mask::line(&String::from_utf8_lossy(value).replace('\n', " "));
                writeln!(text, "{name}=\"{value}\"")
            }
        };
    }
    Ok(text.into_bytes())
}

fn command_line(subject: &Subject) -> Result<Vec<u8>, PartError> {
    let line = subject
        .proc
        .command_line(subject.pid())
        .map_err(PartError::read)?;
    Ok(mask::arguments(&line.arguments).into_bytes())
}

fn properties(subject: &Subject) -> Result<Vec<u8>, PartError> {
    let launch = launch_of(&subject.proc, subject.pid()).map_err(PartError::read)?;
    let bytes =
        server_properties(&subject.proc, subject.pid(), &launch).map_err(PartError::read)?;
    mask::properties(&bytes)
        .map(String::into_bytes)
        .map_err(PartError::read)
}

/// The files made from existing readings; they wait for nothing.
pub fn of_view(
    view: &View,
    broker: &BrokerDiagnosis,
) -> Vec<(&'static str, Result<Vec<u8>, PartError>)> {
    let json = |result: serde_json::Result<Vec<u8>>| result.map_err(PartError::read);
    let readings = view.snapshot.of(broker.process);
    let metadata = readings.map(|of| {
        serde_json::json!({
            "cluster": of.cluster, "metadata_log": of.metadata_log, "probes": of.probes,
            "fetch": of.fetch, "groups": of.groups,
        })
    });
    vec![
        ("findings.txt", Ok(findings(broker).into_bytes())),
        ("findings.json", json(serde_json::to_vec_pretty(broker))),
        ("timeline.txt", Ok(timeline(view).into_bytes())),
        (
            "log-signatures.txt",
            match readings.and_then(|of| of.log.last()) {
                Some((log, _)) => Ok(signatures(log).into_bytes()),
                None => Err(PartError::NoReadings),
            },
        ),
        (
            "metadata.json",
            match metadata {
                Some(metadata) => json(serde_json::to_vec_pretty(&metadata)),
                None => Err(PartError::NoReadings),
            },
        ),
    ]
}

fn findings(broker: &BrokerDiagnosis) -> String {
    let mut text = format!("{} {}\n", broker.sentence, broker.remedy);
    for finding in &broker.findings {
        let kind = finding.id.kind();
        let (severity, since) = (kind.severity.name(), rfc3339(finding.since));
        let _ = writeln!(
            text,
            "\n{} ({}, {severity}) since {since}",
            kind.title, kind.name
        );
        finding
            .facts
            .iter()
            .for_each(|fact| _ = writeln!(text, "- {fact}"));
        let _ = writeln!(text, "{}\n{}", kind.meaning, kind.what_to_do);
    }
    for issue in &broker.known_issues {
        let _ = writeln!(
            text,
            "\n{}: {}. Fixed in {}.",
            issue.issue,
            issue.title,
            issue.fixed_in.join(", ")
        );
    }
    text
}

/// The last line of each kind, whose secrets are hidden already.
fn signatures(log: &LogReport) -> String {
    let mut text = String::from(
        "# Lines of the broker's log that have a signature, and the last one of each.\n",
    );
    for (name, seen) in &log.signatures {
        let Some(last) = &seen.last else { continue };
        let (severity, at) = (seen.severity.name(), rfc3339(last.at));
        let _ = writeln!(
            text,
            "\n{name} ({severity}): {}, last read at {at}",
            seen.count
        );
        let _ = writeln!(text, "{}", last.text.replace('\n', " "));
    }
    text
}

fn timeline(view: &View) -> String {
    let events = view.diagnosis.timeline.iter();
    events.fold(String::new(), |text, event| {
        text + &format!(
            "{} broker {}: {}\n",
            rfc3339(event.at),
            event.broker,
            event.change
        )
    })
}
