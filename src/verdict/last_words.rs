//! Why the process of a broker ended, and what to mend before it is started again.

use super::rules::is_near;
use crate::model::text::{cut, first_of};
use crate::model::{LastReadings, LogDirSpace, LogLine};
use crate::threads::log_signatures::log_signatures;

/// A file system with less room than this share of it is full for a broker.
const FULL: u64 = 100;
/// What is shown of a line of the log.
const LINE: usize = 240;
/// Signatures that say why a process ends, before those that only go with it.
const REASONS: [&str; 3] = ["disk_full", "too_many_open_files", "out_of_memory"];

/// Sentences about the end, and what to do.
pub(super) fn last_words(last: &LastReadings) -> (String, String) {
    let mut facts = String::new();
    let full: Vec<&LogDirSpace> = last.log_dirs.iter().filter(|dir| is_full(dir)).collect();
    for dir in &full {
        facts += &format!(
            " Its log dir {} has {} of {} MiB free.",
            dir.dir.display(),
            dir.free_bytes >> 20,
            dir.total_bytes >> 20
        );
    }
    let handles = last.open_fds.zip(last.fd_limit);
    let handles = handles.filter(|(open, limit)| is_near(*open, *limit));
    if let Some((open, limit)) = handles {
        facts += &format!(" It had {open} of {limit} file handles open.");
    }
    let line = reason(&last.lines);
    if let Some((signature, line)) = line {
        let text = cut(line.text.clone(), LINE);
        facts += &format!(" Its log has {signature}: {text}");
        if !text.ends_with('.') {
            facts.push('.');
        }
    }
    if last.announced == Some(true) {
        facts += " Its log announced the shutdown.";
    }
    let of_signature = line.and_then(|(name, _)| {
        let mut known = log_signatures().iter();
        known.find(|signature| signature.name == *name)
    });
    let remedy = match (handles, of_signature) {
        _ if !full.is_empty() => {
            let dirs = full.iter().map(|dir| dir.dir.display());
            format!(
                "Make room in {}, then start it.",
                first_of(dirs, full.len())
            )
        }
        (Some(_), _) => {
            "Find what its file handles lead to, or raise their limit, then start it.".to_owned()
        }
        (None, Some(signature)) => signature.what_to_do.clone(),
        (None, None) => "Start it.".to_owned(),
    };
    (facts, remedy)
}

fn is_full(dir: &LogDirSpace) -> bool {
    dir.total_bytes > 0 && dir.free_bytes < dir.total_bytes / FULL
}

/// The line that says why best; the newest of the others.
fn reason(lines: &[(String, LogLine)]) -> Option<&(String, LogLine)> {
    let named = |reason: &&str| lines.iter().find(|(name, _)| name == reason);
    REASONS.iter().find_map(named).or(lines.first())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Moment;

    fn line(signature: &str, text: &str) -> (String, LogLine) {
        let line = LogLine {
            at: Moment(1),
            text: text.into(),
            peer: None,
        };
        (signature.into(), line)
    }

    fn space(dir: &str, free_bytes: u64, total_bytes: u64) -> LogDirSpace {
        LogDirSpace {
            dir: dir.into(),
            free_bytes,
            total_bytes,
        }
    }

    #[test]
    fn a_full_disk_exhausted_handles_and_the_last_line_are_reasons() {
        let regular = LastReadings {
            open_fds: Some(200),
            fd_limit: Some(1024),
            log_dirs: vec![space("/data", 30 << 20, 64 << 20)],
            ..LastReadings::default()
        };
        let full = LastReadings {
            log_dirs: vec![space("/a", 60 << 20, 64 << 20), space("/b", 0, 64 << 20)],
            lines: vec![
                line("log_dir_offline", "Stopping serving replicas in dir /b"),
                line("disk_full", "java.io.IOException: No space left on device"),
            ],
            ..regular.clone()
        };
        let handles = LastReadings {
            open_fds: Some(1020),
            lines: vec![line(
                "too_many_open_files",
                "java.io.IOException: Too many open files",
            )],
            ..regular.clone()
        };
        let logged = LastReadings {
            lines: vec![line(
                "disk_full",
                "java.io.IOException: No space left on device",
            )],
            ..regular.clone()
        };
        let own = LastReadings {
            lines: vec![line("ours", "the end.")],
            ..LastReadings::default()
        };
        let announced = LastReadings {
            announced: Some(true),
            ..LastReadings::default()
        };
        let table = [
            (LastReadings::default(), "", "Start it."),
            (regular, "", "Start it."),
            (
                full,
                " Its log dir /b has 0 of 64 MiB free. Its log has disk_full: java.io.IOException: No space left on device.",
                "Make room in /b, then start it.",
            ),
            (
                handles,
                " It had 1020 of 1024 file handles open. Its log has too_many_open_files: java.io.IOException: Too many open files.",
                "Find what its file handles lead to, or raise their limit, then start it.",
            ),
            (
                logged,
                " Its log has disk_full: java.io.IOException: No space left on device.",
                "Make room: shorten the retention, or give the file system more; then restart the broker.",
            ),
            (own, " Its log has ours: the end.", "Start it."),
            (announced, " Its log announced the shutdown.", "Start it."),
        ];
        for (last, facts, remedy) in table {
            assert_eq!(last_words(&last), (facts.to_owned(), remedy.to_owned()));
        }
    }
}
