//! Undoes what pages, chats and mail do to a pasted dump: entities, typographic quotes and dashes, lost and added line
//! breaks. What is not undone here stays in the text, and [`super::parse`] counts it as not read.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::{memchr, memchr2, memmem, memrchr};
use regex::bytes::{Regex, RegexBuilder};

use super::unread;
use super::{INDENT, trim_indent};

/// Nothing is undone in longer texts: it needs as much memory again, and nobody pastes so much.
const LONGEST: usize = 32 << 20;

/// A header of a thread with what follows up to its state is shorter.
const LONGEST_HEADER: usize = 4096;

const STATE: &[u8] = b"java.lang.Thread.State:";
const WANTS: &[u8] = b"waiting to lock";
const HELD: &[u8] = unread::HELD.as_bytes();

/// Whether any of [`MARKUP`] may be in the text: all of them begin with `&` or, in UTF-8, with E2.
pub(super) fn has_markup(bytes: &[u8]) -> bool {
    memchr2(b'&', 0xe2, bytes).is_some()
}

/// The text with the characters that a page made of quotes and brackets. None where it has none of them, and for a text
/// that is no dump.
pub(super) fn without_markup(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let has = |part: &str| memmem::find(bytes, part.as_bytes()).is_some();
    let marked = ["&lt;0x", "&quot;", "&#34;", "\u{201d}", "\u{2013} "];
    if text.len() > LONGEST || !marked.into_iter().any(has) || !is_of_dump(text) {
        return None;
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr2(b'&', 0xe2, rest.as_bytes()) {
        let (before, after) = rest.split_at(at);
        plain.push_str(before);
        let known = MARKUP.iter().find(|(marked, _)| after.starts_with(marked));
        let (taken, put) = match known {
            Some((marked, meant)) => (marked.len(), *meant),
            None => {
                let length = after.chars().next().map_or(1, char::len_utf8);
                (length, after.get(..length).unwrap_or_default())
            }
        };
        plain.push_str(put);
        rest = after.get(taken..).unwrap_or_default();
    }
    plain.push_str(rest);
    Some(plain)
}

/// What a page made of a character, and the character.
const MARKUP: [(&str, &str); 17] = [
    ("&quot;", "\""),
    ("&#34;", "\""),
    ("&lt;", "<"),
    ("&gt;", ">"),
    ("&#60;", "<"),
    ("&#62;", ">"),
    ("&#39;", "'"),
    ("&apos;", "'"),
    ("&nbsp;", " "),
    ("&amp;", "&"),
    ("\u{201c}", "\""),
    ("\u{201d}", "\""),
    ("\u{201e}", "\""),
    // `- locked` at the start of a line is a list to a word processor.
    ("\u{2013} waiting ", "- waiting "),
    ("\u{2013} locked ", "- locked "),
    ("\u{2013} parking ", "- parking "),
    ("\u{2013} eliminated ", "- eliminated "),
];

/// Whether anything in the text is of a thread dump.
fn is_of_dump(text: &str) -> bool {
    let parts = [STATE, WANTS, HELD, b"Full thread dump "];
    parts
        .into_iter()
        .any(|part| memmem::find(text.as_bytes(), part).is_some())
}

/// The text with a line for each header, state, frame and lock, where line breaks are lost or were added. None where each
/// has its line already.
pub(super) fn with_line_breaks(text: &str) -> Option<String> {
    if text.len() > LONGEST || !breaks_differ(text) {
        return None;
    }
    let mut plain = String::with_capacity(text.len() + text.len() / 8);
    for_each_joined(text, |line| {
        let mut start = 0;
        for piece in PIECE.find_iter(line.as_bytes()) {
            // The blank before it stays on the line before.
            let at = piece.start() + usize::from(piece.start() > 0);
            let (Some(before), true) = (line.get(start..at), at > start) else {
                continue;
            };
            // A line that only its indent is before is whole.
            if before.trim_matches(INDENT).is_empty() {
                continue;
            }
            plain.push_str(before.trim_end());
            plain.push('\n');
            start = at;
        }
        plain.push_str(line.get(start..).unwrap_or_default());
        plain.push('\n');
    });
    Some(plain)
}

/// Whether a thread's state or an entry of the JVM's report is on one line with the name that belongs before it, or a line
/// ends where a lock, its holder or a state should stand. What breaks lines breaks all of them, so the first ones suffice.
fn breaks_differ(text: &str) -> bool {
    let bytes = text.as_bytes();
    let name_before = |at: usize| {
        let from = at.saturating_sub(LONGEST_HEADER);
        let before = bytes.get(from..at).unwrap_or_default();
        let line = before
            .get(memrchr(b'\n', before).map_or(0, |end| end + 1)..)
            .unwrap_or_default();
        memchr(b'"', line).is_some()
    };
    let lacks_end = |at: usize| {
        let after = bytes.get(at..).unwrap_or_default();
        let (rest, next) = after.split_at(memchr(b'\n', after).unwrap_or(after.len()));
        let rest = rest.trim_ascii_end();
        let cut_in_report = || rest.starts_with(b" monitor") && memchr(b')', rest).is_none();
        let class_is_below = || next.trim_ascii_start().starts_with(b"(a ");
        rest.is_empty() || rest.ends_with(b"(a") || cut_in_report() || class_is_below()
    };
    let sample = |words| memmem::find_iter(bytes, words).take(SAMPLE);
    let first = match sample(STATE).next() {
        Some(_) => STATE,
        None => HELD,
    };
    sample(first).any(name_before)
        || (is_narrow(bytes)
            && [STATE, WANTS, HELD]
                .into_iter()
                .any(|words| sample(words).any(|at| lacks_end(at + words.len()))))
}

/// How many places of a text show how its lines are broken.
const SAMPLE: usize = 64;

/// Whether the text may have been broken at a width: the headers of a JVM's dump are longer, and most frames of Kafka.
fn is_narrow(bytes: &[u8]) -> bool {
    const WIDTH: usize = 132;
    let start = bytes.get(..64 << 10).unwrap_or(bytes);
    let mut lines = start.split(|&byte| byte == b'\n');
    lines.all(|line| line.len() <= WIDTH)
}

/// Passes on each line, with those below it that begin like none of a dump. Only one is kept at a time, because a text may
/// have nothing but line breaks.
fn for_each_joined(text: &str, mut pass: impl FnMut(&str)) {
    let mut open: Option<Cow<'_, str>> = None;
    let mut in_stack = false;
    for line in text.lines() {
        let plain = trim_indent(line).trim_end();
        let begins = plain.is_empty() || STARTS.iter().any(|start| plain.starts_with(start));
        let lacks_end = |last: &str| last.ends_with("held by") || last.ends_with("owned by");
        let joins = |last: &&mut Cow<'_, str>| in_stack && (!begins || lacks_end(last.trim_end()));
        match open.as_mut().filter(joins) {
            Some(last) => {
                let last = last.to_mut();
                last.push(' ');
                last.push_str(plain);
            }
            None => {
                let whole = open.replace(Cow::Borrowed(line));
                whole.iter().for_each(|whole| pass(whole));
            }
        }
        // A log line, or none at all, ends a stack.
        in_stack = !plain.is_empty() && !plain.starts_with('[');
    }
    open.iter().for_each(|whole| pass(whole));
}

/// How the lines of a dump begin, and those of a log of this century.
const STARTS: [&str; 17] = [
    "at ",
    "- ",
    "\"",
    "#",
    "[",
    "=",
    "20",
    "<EndOf",
    "java.lang.Thread.State:",
    "Locked ",
    "Found ",
    "Full thread dump",
    "Java stack information",
    "JNI ",
    "waiting ",
    "which is held",
    "Heap",
];

/// What begins a line of a dump, with the blank before it.
static PIECE: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r#"(?: ^ | [\ \t] ) (?:
        at\ [\w$./@<>-]+\(
        | -\ +(?: waiting\  | locked\  | parking\  | eliminated\  | blocked\ on\  | <0x | None\b )
        | java\.lang\.Thread\.State:
        | "[^"\n]*" (?: : | \ (?: \#\d | \[\d | prio= | daemon\  | os_prio= | tid= | Id= ) )
        | waiting\ to\ lock\ monitor\  | waiting\ for\ ownable\  | in\ JNI,\ which\  | which\ is\ held\ by\ "
        | Found\ (?: one\ Java | a\ total | \d+\ deadlock ) | Java\ stack\ information\ for\b
        | Locked\ (?: ownable\ ) ? synchronizers | JNI\ global\ ref | Full\ thread\ dump\  | ={5,}
    )"#;
    let compiled = RegexBuilder::new(pattern)
        .ignore_whitespace(true)
        .unicode(false)
        .build();
    // A constant, and the tests of this file compile it.
    #[expect(clippy::expect_used)]
    compiled.expect("a valid pattern")
});
