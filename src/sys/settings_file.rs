//! Files of settings in YAML: read within bounds, with errors in plain words.

use std::io::Read as _;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::plain::{self, FileError};

/// A longer file is refused.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The text of a regular file. `what` it should be stands in the message about one that is too large.
///
/// # Errors
/// It cannot be read, or is no text of a reasonable size; the message says what to do.
pub fn read(path: &Path, what: &str) -> Result<String, String> {
    let uid = rustix::process::geteuid().as_raw();
    let unreadable =
        |cause: std::io::Error| format!("{cause}; check the path and that uid {uid} may read it");
    let file = plain::open(path).map_err(|error| match error {
        FileError::Io { cause, .. } => unreadable(cause),
        FileError::Missing { .. } => unreadable(rustix::io::Errno::NOENT.into()),
        FileError::Denied { .. } => unreadable(rustix::io::Errno::ACCESS.into()),
        other => format!("{other}; name the file itself"),
    })?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!(
            "larger than {MAX_FILE_BYTES} bytes; this is not a {what}"
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error
            .as_bytes()
            .get(..error.utf8_error().valid_up_to())
            .unwrap_or_default();
        let line = 1 + memchr::memchr_iter(b'\n', valid).count();
        format!("not UTF-8 at line {line}; save it as UTF-8")
    })
}

/// The settings that a text holds; without any line, all defaults. `renamed` are keys of earlier versions, with what
/// took their place.
///
/// # Errors
/// The text is not of that form; the message names line and key.
pub fn parse<T: DeserializeOwned + Default>(
    text: &str,
    renamed: &[(&str, &str)],
) -> Result<T, String> {
    if text
        .lines()
        .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
    {
        return Ok(T::default());
    }
    serde_saphyr::from_str(text).map_err(|error| explain(&error, renamed))
}

/// One line of a serde error: its place, what is wrong, and the nearest right key for a misspelt one.
fn explain(error: &serde_saphyr::Error, renamed: &[(&str, &str)]) -> String {
    let without_snippet = error.without_snippet();
    let mut message = without_snippet
        .to_string()
        .lines()
        .next()
        .unwrap_or("not valid YAML")
        .to_owned();
    for (of_the_library, of_ours) in IN_PLAIN_WORDS {
        message = message.replace(of_the_library, of_ours);
    }
    if let Some((_, rest)) = message.split_once("unknown field `")
        && let Some((given, rest)) = rest.split_once('`')
        && let Some((_, known)) = rest.split_once("expected")
    {
        if let Some((_, new)) = renamed.iter().find(|(old, _)| *old == given) {
            message.push_str(&format!("; `{given}` is now {new}"));
            return message;
        }
        let known = known.split(" at line").next().unwrap_or(known);
        let keys = known
            .split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .filter(|w| !["", "one", "of", "or"].contains(w));
        let likeness = |key: &&str| strsim::jaro(given, key);
        let nearest = keys.max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        // `web` is as near to `brokers` as to anything: no hint is better than a wrong one.
        if let Some(nearest) = nearest.filter(|key| likeness(key) > 0.7) {
            let hint = format!("; did you mean `{nearest}`?");
            message.push_str(&hint);
        }
    }
    message
}

/// What the YAML crate says to programmers, for those who write the file.
const IN_PLAIN_WORDS: [(&str, &str); 9] = [
    ("expected mapping start", "`key: value` lines are expected"),
    (
        "expected sequence start",
        "a list is expected, lines that begin with `- `,",
    ),
    (
        "invalid i32",
        "a whole number is expected, 2147483647 at most,",
    ),
    ("invalid u32", "a whole number of 0 or more is expected,"),
    ("invalid u16", "a port is expected, 65535 at most,"),
    (
        ", set DuplicateKeyPolicy in Options if acceptable",
        ", keep one of them,",
    ),
    (
        "; use from_multiple or from_multiple_with_options",
        ", put everything into one,",
    ),
    (
        "tabs disallowed within this context (block indentation)",
        "a tab in the indentation, use blanks,",
    ),
    (
        "recursive references require weak recursion types",
        "an alias inside of what it stands for",
    ),
];
