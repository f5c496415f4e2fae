//! Removes what stands around each line of a dump in a log: times, the names of containers, Docker's JSON. What JConsole
//! shows of a thread becomes what JMX prints of it.

use memchr::{memchr, memmem, memrchr};

use super::trim_indent;
use crate::parse::docker;

/// With more words before a dump's line it is a log line that the dump was printed into.
const MOST_WORDS: usize = 6;

/// Longer starts of lines are no prefixes.
const LONGEST_PREFIX: usize = 256;

/// The lines that are in Docker's JSON. None for another text.
pub(super) fn without_docker_json(text: &str) -> Option<String> {
    if !text.trim_start().starts_with("{\"log\":\"") {
        return None;
    }
    let mut plain = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        match docker::written(line) {
            Some(written) => plain.push_str(&written),
            None => plain.push_str(line),
        }
    }
    Some(plain)
}

/// What stands in each thread in JConsole's form.
pub(super) const JCONSOLE: &[u8] = b"\nTotal blocked: ";

/// The threads that are in JConsole's form, each with its header on one line. For a text that has [`JCONSOLE`].
///
/// ```text
/// Name: a
/// State: BLOCKED on x.C@39 owned by: b
/// Total blocked: 1  Total waited: 0
///
/// Stack trace:
/// x.D.run(D.java:7)
///    - locked x.E@40
/// ```
pub(super) fn without_jconsole_form(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let (mut lines, mut number, mut in_stack) = (text.lines().peekable(), 0, false);
    while let Some(line) = lines.next() {
        let line = trim_indent(line).trim_end();
        let state = lines.peek().map(|next| trim_indent(next).trim_end());
        let state = state.and_then(|next| next.strip_prefix("State: "));
        if let (Some(name), Some(state)) = (line.strip_prefix("Name: "), state) {
            number += 1;
            let name = name.replace('"', "'");
            plain += &format!("\n\"{name}\" Id={number} {state}");
            lines.next();
            // Up to the blank line of the form, which else ends a stack. One that was copied in part may have none.
            let is_next = |line: &str| trim_indent(line).starts_with("Name: ");
            let is_stack = |line: &str| line.contains("Stack trace:");
            while lines
                .next_if(|line| !is_stack(line) && !is_next(line))
                .is_some()
            {}
            in_stack = lines.next_if(|line| is_stack(line)).is_some();
        } else {
            in_stack &= !line.is_empty();
            let is_frame = in_stack && !line.starts_with("- ") && !line.starts_with("at ");
            plain.push_str(if is_frame { "\tat " } else { "" });
            plain.push_str(line);
        }
        plain.push('\n');
    }
    Some(plain)
}

/// The text without the words before the dump's first line, as `2026-11-22T14:33:28.727069993Z stdout F `, on each line
/// that begins with words of the same shape. None where no words are before it.
pub(super) fn without_line_prefix(text: &str) -> Option<String> {
    let prefix = prefix(text)?;
    let words = prefix.split_ascii_whitespace().count();
    if words == 0 || words > MOST_WORDS {
        return None;
    }
    let shape = shape(prefix);
    let mut plain = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let rest = after_words(line, words);
        let (start, rest) = line.split_at(line.len() - rest.len());
        plain.push_str(if self::shape(start) == shape {
            rest
        } else {
            line
        });
    }
    Some(plain)
}

/// What stands on its line before the banner or, without one, before the first state of a thread.
fn prefix(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let start = memmem::find(bytes, b"Full thread dump ")
        .or_else(|| memmem::find(bytes, b"java.lang.Thread.State: "))?;
    let before = text.get(..start)?;
    let prefix = before.get(memrchr(b'\n', before.as_bytes()).map_or(0, |end| end + 1)..)?;
    // A thread's header may be on the same line where line breaks are lost.
    let is_prefix = prefix.len() <= LONGEST_PREFIX && memchr(b'"', prefix.as_bytes()).is_none();
    is_prefix.then_some(prefix)
}

/// The text after the first `words` words of `line` and one blank.
fn after_words(line: &str, words: usize) -> &str {
    let mut rest = line;
    for _ in 0..words {
        rest = rest.trim_start_matches(' ');
        rest = rest
            .get(rest.find([' ', '\t', '\r', '\n']).unwrap_or(rest.len())..)
            .unwrap_or("");
    }
    rest.strip_prefix(' ').unwrap_or(rest)
}

/// The words of a prefix, with one 9 for each run of digits: times and ids differ from line to line.
fn shape(prefix: &str) -> String {
    let mut shape = String::with_capacity(prefix.len());
    for c in prefix.trim().chars() {
        let c = if c.is_ascii_digit() { '9' } else { c };
        if (c == '9' || c == ' ') && shape.ends_with(c) {
            continue;
        }
        shape.push(c);
    }
    shape
}
