//! What stands in a bundle. Texts have the forms of the tools that people use, so that those, and `kafka-vitals
//! analyze`, read them: `jstack`, `ss -tane`, `ls -ln /proc/PID/fd`, `jcmd PID PerfCounter.print`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::mask;
use crate::collect::process;
use crate::collect::sockets::Sockets;
use crate::discover::broker::server_properties;
use crate::discover::scan::launch_of;
use crate::model::Broker;
use crate::model::rfc3339;
use crate::model::{FdKinds, Moment};
use crate::sys::perf_data::{PerfFile, Value};
use crate::sys::proc::{Deadline, ProcRoot, file_name};
use crate::sys::process::PinnedProcess;
use crate::verdict::View;
use crate::verdict::finding::BrokerDiagnosis;

/// For one reading of the broker.
pub const READ_DEADLINE: Duration = Duration::from_secs(5);
/// Lines of handles and of sockets.
const MOST_LINES: usize = 100_000;
/// Bytes from the end of the broker's log.
const LOG_TAIL: u64 = 1 << 20;

/// The broker that is told of.
#[derive(Debug, Clone)]
pub struct Subject {
    pub broker: Arc<Broker>,
    pub proc: ProcRoot,
}

/// One file, and how its content is read. It may block.
pub type Part = (&'static str, fn(&Subject) -> Result<Vec<u8>, String>);

/// In the order of their worth, should the room not do for all.
pub const PARTS: [Part; 8] = [
    ("sockets.txt", sockets),
    ("handles.txt", handles),
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
    /// # Errors
    /// What could not be read, and why.
    pub fn read(&self, part: Part) -> Result<Vec<u8>, String> {
        let bytes = part.1(self)?;
        let process = self.broker.process;
        match self.proc.stat(process.pid) {
            Ok(stat) if stat.start_ticks == process.start_ticks => Ok(bytes),
            _ => Err(format!("{} has ended", self.broker.name())),
        }
    }

    fn pid(&self) -> u32 {
        self.broker.process.pid
    }
}

fn small(subject: &Subject, name: &str) -> Result<Vec<u8>, String> {
    subject
        .proc
        .small(subject.pid(), name)
        .map(|(_, bytes)| bytes)
        .map_err(|error| error.to_string())
}

fn sockets(subject: &Subject) -> Result<Vec<u8>, String> {
    let mut sockets = Sockets::new(subject.proc.path(), READ_DEADLINE);
    sockets
        .lines(&subject.broker, MOST_LINES)
        .map(String::into_bytes)
        .map_err(|failure| failure.message)
}

fn handles(subject: &Subject) -> Result<Vec<u8>, String> {
    let (mut text, mut count, mut kinds) = (String::new(), 0_usize, FdKinds::default());
    let folder = subject.proc.file(subject.pid(), "fd");
    let visited = subject.proc.visit_numbered_links(
        subject.pid(),
        Deadline::after(READ_DEADLINE),
        |number, link| {
            *process::slot(&mut kinds, link) += 1;
            count += 1;
            // Closed meanwhile: counted, and not shown.
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
            // A name may hold a line end.
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
    visited.map_err(|error| error.to_string())?;
    let counts: Vec<String> = kinds
        .named()
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    let left_out = count.saturating_sub(MOST_LINES);
    let _ = writeln!(
        text,
        "# {count} handles: {}; {left_out} are not shown",
        counts.join(", ")
    );
    Ok(text.into_bytes())
}

/// The end of the log that the broker writes, by way of its own open handle: also where it was moved or deleted since.
fn log_tail(subject: &Subject) -> Result<Vec<u8>, String> {
    // The nearest to a name that Kafka's own configurations give.
    let worth = |name: &str| match name {
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
    let visited = subject.proc.visit_numbered_links(
        subject.pid(),
        Deadline::after(READ_DEADLINE),
        |number, link| {
            let worth = worth(&String::from_utf8_lossy(file_name(link)));
            if link.first() == Some(&b'/') && worth > best.0 {
                best = (worth, folder.join(number));
            }
            ControlFlow::Continue(())
        },
    );
    visited.map_err(|error| error.to_string())?;
    if best.0 == 0 {
        return Err(
            "no open handle leads to a server.log; look where its standard output goes (journal, container)".into()
        );
    }
    let fail = |error: std::io::Error| format!("its log, open as {}: {error}", best.1.display());
    // A FIFO would hang.
    if !std::fs::metadata(&best.1).map_err(fail)?.is_file() {
        return Err(format!(
            "its log, open as {}, is no regular file",
            best.1.display()
        ));
    }
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut file = File::options()
        .read(true)
        .custom_flags(flags)
        .open(&best.1)
        .map_err(fail)?;
    let start = file
        .metadata()
        .map_err(fail)?
        .len()
        .saturating_sub(LOG_TAIL);
    file.seek(SeekFrom::Start(start)).map_err(fail)?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut bytes).map_err(fail)?;
    let text = String::from_utf8_lossy(&bytes);
    // Half a line may lack the name of the secret that it holds.
    let whole = if start == 0 {
        &text
    } else {
        text.split_once('\n').map_or("", |(_, rest)| rest)
    };
    Ok(mask::text(whole).into_bytes())
}

fn performance_data(subject: &Subject) -> Result<Vec<u8>, String> {
    let process = subject.broker.process;
    let target = PinnedProcess::open(subject.proc.path(), process.pid, Some(process.start_ticks));
    let target = target.map_err(|error| error.to_string())?;
    let data = PerfFile::open(&target)
        .and_then(|file| file.read())
        .map_err(|error| error.to_string())?;
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

fn command_line(subject: &Subject) -> Result<Vec<u8>, String> {
    let line = subject
        .proc
        .command_line(subject.pid())
        .map_err(|error| error.to_string())?;
    Ok(mask::arguments(&line.arguments).into_bytes())
}

fn properties(subject: &Subject) -> Result<Vec<u8>, String> {
    let launch = launch_of(&subject.proc, subject.pid())?;
    let bytes = server_properties(&subject.proc, subject.pid(), &launch)?;
    mask::properties(&bytes)
        .map(String::into_bytes)
        .map_err(|error| error.to_string())
}

/// What is made of readings that were taken before: nothing of it waits for anything.
pub fn of_view(
    view: &View,
    broker: &BrokerDiagnosis,
) -> Vec<(&'static str, Result<Vec<u8>, String>)> {
    let json = |result: serde_json::Result<Vec<u8>>| result.map_err(|error| error.to_string());
    let readings = view
        .snapshot
        .brokers
        .iter()
        .find(|known| known.broker.process == broker.process);
    let metadata = readings.map(|readings| (&readings.cluster, &readings.probes));
    vec![
        ("findings.txt", Ok(findings(broker).into_bytes())),
        ("findings.json", json(serde_json::to_vec_pretty(broker))),
        ("timeline.txt", Ok(timeline(view).into_bytes())),
        (
            "metadata.json",
            match metadata {
                Some((cluster, probes)) => json(serde_json::to_vec_pretty(
                    &serde_json::json!({ "cluster": cluster, "probes": probes }),
                )),
                None => Err("there are no readings of the broker any more".to_owned()),
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

fn timeline(view: &View) -> String {
    let events = view.diagnosis.timeline.iter();
    events.fold(String::new(), |text, event| {
        text + &format!(
            "{} broker {}: {}\n",
            rfc3339(event.at),
            event.broker,
            event.what
        )
    })
}
