//! Why a part of a bundle is missing, and why there is no bundle.

use std::io;
use std::path::{Path, PathBuf};

use crate::model::{Failure, Reason};
use crate::sys::plain::FileError;

/// Why one part is missing in a bundle.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    #[error(transparent)]
    Collector(#[from] Failure),
    #[error(transparent)]
    Read(Box<dyn std::error::Error + Send + Sync>),
    #[error("{0} has ended")]
    Ended(String),
    #[error("there are no readings of the broker any more")]
    NoReadings,
    #[error(
        "no open file descriptor leads to a server.log; look where its standard output goes (journal, container)"
    )]
    NoLog,
    #[error("its log, open as {}: {cause}", path.display())]
    Log { path: PathBuf, cause: io::Error },
    #[error("its log: {0}")]
    LogNotOpened(#[from] FileError),
    #[error("not tried because the previous thread dump failed: {0}")]
    AfterFailedDump(Reason),
    #[error("not tried because the last thread dump failed: {0}")]
    NoHeapDump(Failure),
    #[error("the broker is neither deadlocked nor stalled: it is not stopped for one")]
    NotStuck,
    #[error(
        "{failure}; if the JVM still writes {}, it is complete when the broker answers thread dumps again",
        path.display()
    )]
    SlowHeapDump { failure: Failure, path: PathBuf },
    #[error(
        "snapshots since the exporter started that have no line there, because it would be longer than 1 MiB: {0}"
    )]
    LongLines(u64),
    #[error("its {0} bytes are more than the limits of the evidence leave")]
    TooLarge(u64),
    #[error("its {0} bytes would go below evidence.min_free")]
    NoSpace(u64),
    #[error("{}: {cause}", path.display())]
    Write { path: PathBuf, cause: io::Error },
}

impl PartError {
    pub(super) fn read(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> PartError {
        PartError::Read(error.into())
    }
}

/// Why there is no bundle: the folder, the cause, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error("evidence is off: no folder for it; give --evidence.dir")]
    Off,
    #[error("{}: {cause}; let uid {uid} write there, or name another folder by --evidence.dir", dir.display())]
    Folder {
        dir: PathBuf,
        cause: io::Error,
        uid: u32,
    },
    #[error(
        "{}: {why}: evidence would be neither safe from them nor they from what is written there; name another folder by \
         --evidence.dir, or set evidence.shared: true",
        dir.display()
    )]
    OfOthers { dir: PathBuf, why: String },
    #[error(
        "{}: the newest bundles of all brokers fill evidence.max_bytes; move some away or raise it",
        .0.display()
    )]
    Full(PathBuf),
    #[error(
        "{}: less is free there than evidence.min_free ({} MiB); make space or lower it",
        dir.display(), min_free >> 20
    )]
    NoSpace { dir: PathBuf, min_free: u64 },
    #[error("{}: {what}: {why}; {REMEDY}", dir.display())]
    Useless {
        dir: PathBuf,
        what: &'static str,
        why: String,
    },
    #[error("{}: {cause}; {REMEDY}", path.display())]
    Commit { path: PathBuf, cause: io::Error },
    #[error(transparent)]
    Hangs(#[from] Failure),
    #[error("not done after {0} s: the disk of the evidence folder is slow")]
    Slow(u64),
    #[error("there are no readings of the broker any more")]
    NoReadings,
    #[error("writing was abandoned")]
    Abandoned,
}

const REMEDY: &str = "make space there, or name another folder by --evidence.dir";

impl SaveError {
    pub(super) fn folder(dir: &Path, cause: io::Error) -> SaveError {
        SaveError::Folder {
            dir: dir.to_owned(),
            cause,
            uid: rustix::process::geteuid().as_raw(),
        }
    }

    pub(super) fn commit(path: &Path, cause: impl Into<io::Error>) -> SaveError {
        SaveError::Commit {
            path: path.to_owned(),
            cause: cause.into(),
        }
    }
}
