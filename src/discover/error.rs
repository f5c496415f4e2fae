//! Why something about a broker could not be read from its command line or its files.

use std::path::PathBuf;

use super::properties::{self, MalformedEscape};
use crate::sys::plain::FileError;
use crate::sys::proc::{self, ProcError};

/// Becomes a line of [`Broker::problems`](crate::model::Broker::problems) or a discovery warning, which adds what is
/// unknown.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    #[error(transparent)]
    Proc(#[from] ProcError),
    #[error("{cause}")]
    File { cause: FileError },
    #[error("{cause}: run kafka-vitals as the broker's user (uid {uid}), or let it read that file")]
    DeniedFile { cause: FileError, uid: u32 },
    #[error("its argument file: {0}")]
    ArgumentFile(FileError),
    #[error("its command line is cut (at 4096 bytes by kernels before 4.2)")]
    CutCommandLine,
    #[error(
        "its command line is read up to {} bytes and is not shorter; shorten it, for example by an @file",
        proc::COMMAND_LINE_CAP
    )]
    LongCommandLine,
    #[error("its command line is not that of a Kafka broker")]
    NotKafka,
    #[error("the command line names no file; name the broker in the config file")]
    NoPropertiesFile,
    #[error("{} is relative to a working folder that is unknown", path.display())]
    NoWorkingFolder { path: PathBuf },
    #[error("{}: {cause}", path.display())]
    MalformedProperties {
        path: PathBuf,
        cause: MalformedEscape,
    },
    #[error("{}: {key} has more than {} bytes", path.display(), properties::VALUE_CAP)]
    LongValue { path: PathBuf, key: String },
    #[error("the broker has no class path, and no Kafka jar is open")]
    NoClassPath,
    #[error("the broker has no class path, and its open files are unknown: {0}")]
    NoClassPathNorFds(ProcError),
    #[error("no Kafka jar is on the class path")]
    NoKafkaJar,
    #[error("no folder lies above the command")]
    NoJavaHome,
    #[error("no JAVA_VERSION in {}", path.display())]
    NoJavaVersion { path: PathBuf },
}
