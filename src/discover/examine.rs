//! How one process is examined: whose it is, whether its command line is that of a broker, and if so what the broker's
//! files say. Beyond the owner, all of it may block.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use super::broker;
use super::error::DiscoveryError;
use super::jvm::{self, JvmKind, Launch};
use crate::model::{Broker, ProcessKey};
use crate::sys::plain::FileError;
use crate::sys::proc::{ProcError, ProcRoot};
use crate::sys::rooted::Rooted;
use crate::sys::users;

const MOST_THREAD_NAMES: usize = 512;
const ARGUMENT_FILE_CAP: usize = 256 << 10;
/// The user that cannot be distinguished from others in this user namespace.
static UNMAPPED: LazyLock<Option<u32>> = LazyLock::new(users::unmapped);

/// What is known of one process.
#[derive(Clone)]
pub(super) enum ProcessKind {
    Other,
    /// Perhaps a broker, with the reason why that could not be seen.
    Unclear(String),
    /// A broker by its command line, of which no more is known: it is new, or there are too many.
    Candidate,
    Kafka(Arc<Launch>, Arc<Broker>),
}

/// What is to be read of one process.
pub(super) struct Job {
    pub(super) key: ProcessKey,
    pub(super) comm: String,
    /// A pid file names it, so it is a broker whatever its command line says.
    pub(super) named: bool,
    pub(super) owner: Owner,
    /// Whether to read more than the command line.
    pub(super) describe: bool,
    /// The earlier description, if nothing indicates that the process runs another program now.
    pub(super) known: Option<(Arc<Launch>, Arc<Broker>)>,
}

/// Whose process it is, by the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    User(u32),
    Unknown,
    /// Somebody runs a program with the rights of another user, under a command line of his choice.
    Mixed,
}

impl Owner {
    pub(super) fn of(proc: &ProcRoot, pid: u32) -> Owner {
        match proc.status(pid) {
            Ok(status) => match status.owner {
                None => Owner::Mixed,
                unmapped if unmapped == *UNMAPPED => Owner::Unknown,
                Some(uid) => Owner::User(uid),
            },
            Err(_) => Owner::Unknown,
        }
    }

    pub(super) fn uid(self) -> Option<u32> {
        match self {
            Owner::User(uid) => Some(uid),
            Owner::Unknown | Owner::Mixed => None,
        }
    }
}

/// Classifies one process and describes it if it is a broker. None if it is gone.
pub(super) fn examine(proc: &ProcRoot, job: &Job) -> Option<ProcessKind> {
    let pid = job.key.pid;
    let mut launch = match &job.known {
        Some((launch, _)) => launch.clone(),
        None => match classify(proc, job) {
            Ok(JvmKind::Kafka(_)) if job.owner == Owner::Mixed => {
                return Some(ProcessKind::Unclear(format!(
                    "process {pid} ({}) looks like a broker, but its real and its effective user differ: it is not \
                     watched, because it may be any program; start the broker as one user",
                    job.comm
                )));
            }
            Ok(JvmKind::Kafka(_)) if !job.describe => return Some(ProcessKind::Candidate),
            Ok(JvmKind::Kafka(mut launch)) => {
                launch.forget_other_settings();
                Arc::new(launch)
            }
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
        Ok(broker) => {
            let broker = Broker {
                owner: job.owner.uid(),
                ..broker
            };
            Some(ProcessKind::Kafka(launch, Arc::new(broker)))
        }
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
