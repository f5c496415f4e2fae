//! `kafka-vitals analyze`: reads files and folders within bounds, and prints what they show together.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::print;
use crate::analyze::long_log::LongLog;
use crate::analyze::{self, NotRecognised, report};
use crate::cli::AnalyzeArgs;
use crate::sys::plain;

/// All files together. A broker's dump has 0.1 to 2 MB, a day's log 1 to 100 MB.
const MAX_BYTES: u64 = 256 << 20;
/// A longer text is shortened as it is read. No file of a bundle is as long.
const LONG: u64 = 8 << 20;
/// Entries of a folder and of those in it.
const MAX_FILES: usize = 2_000;
const MAX_DEPTH: usize = 8;

/// Why a file is left out.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error("too big: more than 256 MB in all; give it in parts")]
    TooBig,
    #[error("no regular file, not opened")]
    NotRegular,
    #[error("a link, not followed")]
    Link,
    #[error("more than {MAX_DEPTH} folders deep")]
    TooDeep,
    #[error("more than {MAX_FILES} files; some were left out")]
    TooMany,
    #[error("{0}")]
    File(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The name of a file as it is printed, and its bytes.
type Artifact = (String, Vec<u8>);

/// # Errors
/// No file is recognised, or the answer cannot be printed.
pub fn run(args: &AnalyzeArgs) -> anyhow::Result<ExitCode> {
    let (artifacts, mut left_out) = read(&args.files);
    let mut explanation = analyze::explain(&artifacts);
    explanation.not_recognised.append(&mut left_out);
    if explanation.files.is_empty() {
        let reasons = explanation.not_recognised.iter().take(20);
        let reasons: Vec<String> = reasons
            .map(|file| format!("{}: {}", file.source, file.reason))
            .collect();
        anyhow::bail!("nothing here can be explained: {}", reasons.join("; "));
    }
    print(&explanation, args.output, report::explained)?;
    Ok(ExitCode::SUCCESS)
}

/// What cannot be read is listed with its reason and stops nothing.
fn read(paths: &[PathBuf]) -> (Vec<Artifact>, Vec<NotRecognised>) {
    let mut artifacts = Vec::new();
    let mut left_out = Vec::new();
    let mut left = MAX_BYTES;
    for path in paths {
        if path.is_dir() {
            folder(path, &mut left, &mut artifacts, &mut left_out);
            continue;
        }
        let opened = plain::open_or_pipe(path).map_err(|error| Unread::File(error.without(path)));
        match opened.and_then(|file| contents(file, &mut left)) {
            Ok(bytes) => artifacts.push((name(path), bytes)),
            Err(reason) => left_out.push(leave_out(path, reason)),
        }
    }
    (artifacts, left_out)
}

/// A line break in a file's name would forge a line of the answer.
fn name(path: &Path) -> String {
    path.display()
        .to_string()
        .replace(char::is_control, "\u{fffd}")
}

fn leave_out(path: &Path, reason: impl Into<Unread>) -> NotRecognised {
    NotRecognised {
        source: name(path),
        reason: reason.into().to_string(),
    }
}

/// The bytes of a file, of a long text only what is used of it. The number of all is taken from what is `left`.
fn contents(file: File, left: &mut u64) -> Result<Vec<u8>, Unread> {
    if file.metadata()?.len() > *left {
        return Err(Unread::TooBig);
    }
    // A pipe (`<(jstack PID)`) has no length, and a device no end.
    let mut rest = file.take(*left + 1);
    let mut bytes = Vec::new();
    rest.by_ref().take(LONG).read_to_end(&mut bytes)?;
    let mut read = bytes.len() as u64;
    // UTF-16 and files of a metadata log have zeros.
    let is_plain_text = !bytes.iter().take(4096).any(|byte| *byte == 0);
    if read == LONG && is_plain_text {
        let mut log = LongLog::default();
        log.write_all(&bytes)?;
        drop(bytes);
        read += io::copy(&mut rest, &mut log)?;
        bytes = log.finish();
    } else {
        read += rest.read_to_end(&mut bytes)? as u64;
    }
    *left = left.checked_sub(read).ok_or(Unread::TooBig)?;
    Ok(bytes)
}

/// Follows no link, so that it meets no folder twice, and opens only regular files.
fn folder(
    top: &Path,
    left: &mut u64,
    artifacts: &mut Vec<Artifact>,
    left_out: &mut Vec<NotRecognised>,
) {
    let mut open = vec![(top.to_owned(), 0)];
    let mut met = 0;
    while let Some((path, depth)) = open.pop() {
        let mut entries = match fs::read_dir(&path) {
            Ok(entries) => entries
                .take(MAX_FILES + 1 - met)
                .flatten()
                .map(|entry| entry.path())
                .collect::<Vec<_>>(),
            Err(error) => {
                left_out.push(leave_out(&path, error));
                continue;
            }
        };
        met += entries.len();
        entries.sort();
        for path in &entries {
            match fs::symlink_metadata(path).map(|status| status.file_type()) {
                Ok(kind) if kind.is_dir() && depth == MAX_DEPTH => {
                    left_out.push(leave_out(path, Unread::TooDeep));
                }
                Ok(kind) if kind.is_file() => {
                    match plain::open_no_link(path)
                        .map_err(|error| Unread::File(error.without(path)))
                        .and_then(|file| contents(file, left))
                    {
                        Ok(bytes) => artifacts.push((name(path), bytes)),
                        Err(reason) => left_out.push(leave_out(path, reason)),
                    }
                }
                Ok(kind) if kind.is_dir() => {}
                Ok(kind) if kind.is_symlink() => left_out.push(leave_out(path, Unread::Link)),
                Ok(_) => left_out.push(leave_out(path, Unread::NotRegular)),
                Err(error) => left_out.push(leave_out(path, error)),
            }
        }
        if met > MAX_FILES {
            left_out.push(leave_out(top, Unread::TooMany));
            break;
        }
        let folders = entries
            .into_iter()
            .filter(|path| depth < MAX_DEPTH && path.is_dir() && !path.is_symlink());
        open.extend(folders.rev().map(|path| (path, depth + 1)));
    }
}
