//! Snapshots as lines of JSON, for a post-mortem and for [`crate::commands::replay`].

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flate2::bufread::MultiGzDecoder;
use tokio::sync::watch;

use crate::model::{Clock, Moment, Snapshot};
use crate::sys::blocking_worker::BlockingWorker;
use crate::sys::plain;

const AT_MOST_EVERY: Duration = Duration::from_secs(1);
const AT_LEAST_EVERY: Duration = Duration::from_secs(10);
/// For one line.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// The file and its size: a full file becomes `FILE.1`, so that twice as much is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub file: PathBuf,
    pub max_bytes: u64,
}

/// Writes each second's newest snapshot on a thread of its own, so that a disk that hangs delays nothing else; snapshots
/// meanwhile are left out. Ends when the publisher of the snapshots ends.
pub async fn run(settings: Settings, mut snapshots: watch::Receiver<Arc<Snapshot>>, clock: Clock) {
    let file = settings.file.display().to_string();
    let mut worker = BlockingWorker::reserved(Recorder {
        settings,
        open: None,
        failed: false,
    });
    let mut hangs = false;
    loop {
        if let Ok(Err(_)) = tokio::time::timeout(AT_LEAST_EVERY, snapshots.changed()).await {
            return;
        }
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        let take = move |recorder: &mut Recorder| {
            recorder.take(&Snapshot {
                at: clock.now(),
                ..(*snapshot).clone()
            });
        };
        match worker.run(WRITE_DEADLINE, "recording", take).await {
            Ok(_) if hangs => tracing::info!(file, "records again"),
            Err(failure) if !hangs => tracing::warn!(file, "cannot record: {failure}"),
            _ => {}
        }
        hangs = worker.is_running();
        tokio::time::sleep(AT_MOST_EVERY).await;
    }
}

struct Recorder {
    settings: Settings,
    open: Option<(File, u64)>,
    failed: bool,
}

impl Recorder {
    fn take(&mut self, snapshot: &Snapshot) {
        let file = self.settings.file.display().to_string();
        match self.write(snapshot) {
            Ok(()) if self.failed => tracing::info!(file, "records again"),
            Ok(()) => {}
            Err(error) => {
                // The file may end with a partial line, so the next one starts with a line end.
                self.open = None;
                if !self.failed {
                    tracing::warn!(
                        file,
                        "cannot record: {error}; check its folder, rights and free space"
                    );
                }
                self.failed = true;
                return;
            }
        }
        self.failed = false;
    }

    fn write(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let mut line = serde_json::to_vec(snapshot)?;
        line.push(b'\n');
        let Settings {
            file: path,
            max_bytes,
        } = &self.settings;
        let is_reopened = self.open.is_none();
        let mut open = self.open.take().map_or_else(|| open(path), Ok)?;
        // A file that was full when it was opened gets no more lines either, unless it can be renamed.
        if open.1 > 0 && open.1 + line.len() as u64 > *max_bytes {
            let mut full = path.clone().into_os_string();
            full.push(".1");
            std::fs::rename(path, &full).map_err(|error| {
                let full = full.display();
                io::Error::other(format!(
                    "it is full and cannot become {full} ({error}): mount its folder, not it alone"
                ))
            })?;
            open = self::open(path)?;
        } else if is_reopened && open.1 > 0 {
            line.insert(0, b'\n');
        }
        let (file, bytes) = self.open.insert(open);
        file.write_all(&line)?;
        *bytes += line.len() as u64;
        Ok(())
    }
}

/// Returns the file and its size. Only its owner may read it, because it names hosts, paths and topics.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

/// A longer line is skipped: that of a host with a hundred brokers has about 2 MiB.
const MAX_LINE: u64 = 16 << 20;

/// The snapshots of a recording, the oldest first.
pub struct Recording {
    lines: Box<dyn BufRead + Send>,
    at: Moment,
    /// The number of lines that are no snapshot, too long, truncated, or older than the one before.
    pub skipped: u64,
    /// Why reading ended before the end of the file.
    pub broken: Option<String>,
}

impl Recording {
    /// Opens a recording, plain or compressed by gzip.
    pub fn open(path: &Path) -> io::Result<Recording> {
        let file =
            plain::open_or_pipe(path).map_err(|error| io::Error::other(error.without(path)))?;
        Recording::new(BufReader::new(file))
    }

    pub fn new(mut bytes: impl BufRead + Send + 'static) -> io::Result<Recording> {
        let packed = bytes.fill_buf()?.starts_with(&[0x1f, 0x8b]);
        let lines: Box<dyn BufRead + Send> = if packed {
            Box::new(BufReader::new(MultiGzDecoder::new(bytes)))
        } else {
            Box::new(bytes)
        };
        Ok(Recording {
            lines,
            at: Moment(0),
            skipped: 0,
            broken: None,
        })
    }

    /// The next line; None at the end of the file.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        if self
            .lines
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)?
            == 0
        {
            return Ok(None);
        }
        if line.len() as u64 == MAX_LINE && !line.ends_with(b"\n") {
            self.lines.skip_until(b'\n')?;
        }
        Ok(Some(line))
    }
}

impl Iterator for Recording {
    type Item = Snapshot;

    fn next(&mut self) -> Option<Snapshot> {
        loop {
            let line = match self.line() {
                Ok(line) => line?,
                Err(error) => {
                    self.broken = Some(error.to_string());
                    return None;
                }
            };
            match serde_json::from_slice::<Snapshot>(&line) {
                Ok(snapshot) if snapshot.at >= self.at => {
                    self.at = snapshot.at;
                    return Some(snapshot);
                }
                // An empty line follows one that the end of the exporter truncated.
                _ if line.trim_ascii().is_empty() => {}
                _ => self.skipped += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests;
