//! Recorded snapshots, judged anew at their own time.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flate2::bufread::MultiGzDecoder;
use serde::Serialize;

use crate::diagnose::View;
use crate::diagnose::finding::Diagnosis;
use crate::diagnose::verdict::{Judge, clock};
use crate::snapshot::{Moment, Snapshot};

/// A longer line is skipped: that of a host with a hundred brokers has some 2 MiB.
const MAX_LINE: u64 = 16 << 20;
/// Lines come at least this often; where they do not, nobody recorded.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The snapshots of a recording, in the order of time.
pub struct Recording {
    lines: Box<dyn BufRead + Send>,
    at: Moment,
    /// Lines that are whole and no snapshot, that are too long or cut off, or that go back in time.
    pub skipped: u64,
    /// Why the reading ended before the end of the file.
    pub broken: Option<String>,
}

impl Recording {
    /// # Errors
    /// The file cannot be opened or read.
    pub fn open(path: &Path) -> io::Result<Recording> {
        Recording::new(BufReader::new(File::open(path)?))
    }

    /// Plain, or compressed by gzip.
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

    /// Up to the line's end; None at the end of the file.
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
                // What was cut off by an end of the exporter is closed by an empty line.
                _ if line.trim_ascii().is_empty() => {}
                _ => self.skipped += 1,
            }
        }
    }
}

/// What a recording said in the end.
#[derive(Debug, Default, Serialize)]
pub struct Replayed {
    pub snapshots: u64,
    pub skipped: u64,
    /// Why the file could not be read to its end.
    pub broken: Option<String>,
    pub from: Option<Moment>,
    #[serde(flatten)]
    pub diagnosis: Arc<Diagnosis>,
}

/// Judges one snapshot after the other, `speed` times as fast as they were taken, and shows each view. Blocking.
pub fn play(mut recording: Recording, speed: f64, mut show: impl FnMut(View)) -> Replayed {
    let mut judge = Judge::default();
    let mut played = Replayed::default();
    let mut before = None;
    for snapshot in recording.by_ref() {
        let now = snapshot.at;
        if let Some(before) = before.replace(now) {
            let gap: Duration = now.since(before).min(LONGEST_WAIT);
            std::thread::sleep(gap.div_f64(speed));
        }
        played.from.get_or_insert(now);
        played.snapshots += 1;
        // Its answers to liveness probes stay empty: an old recording must not have a broker of today restarted.
        let view = View {
            replayed: true,
            ..View::of(&mut judge, Arc::new(snapshot), now)
        };
        played.diagnosis = Arc::clone(&view.diagnosis);
        show(view);
    }
    Replayed {
        skipped: recording.skipped,
        broken: recording.broken,
        ..played
    }
}

/// The timeline and the last verdicts.
pub fn text(played: &Replayed) -> String {
    let mut text = String::new();
    let diagnosis = &played.diagnosis;
    let from = played.from.unwrap_or_default();
    let (begin, end) = (clock(from), clock(diagnosis.at));
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{} snapshots from {begin} to {end}, {} lines skipped\n",
        played.snapshots, played.skipped
    );
    if let Some(broken) = &played.broken {
        let _ = writeln!(text, "not read to its end: {broken}\n");
    }
    for event in &diagnosis.timeline {
        let _ = writeln!(
            text,
            "{}  broker {}: {}",
            clock(event.at),
            event.broker,
            event.what
        );
    }
    for broker in &diagnosis.brokers {
        let _ = writeln!(
            text,
            "\n{}: {} {}",
            broker.state.name(),
            broker.sentence,
            broker.remedy
        );
        for finding in &broker.findings {
            let _ = writeln!(
                text,
                "  {} since {}",
                finding.id.kind().title,
                clock(finding.since)
            );
            for fact in &finding.facts {
                let _ = writeln!(text, "    {fact}");
            }
        }
    }
    text
}
