//! HotSpot's thread dumps as text: `jstack`, `jcmd Thread.print`, the attach protocol's `threaddump`, SIGQUIT on the
//! broker's stdout among log lines, `jhsdb jstack`, `Thread.dump_to_file`; JDK 5 to 25.
//!
//! [`decode`] turns bytes into text, [`parse`] finds the dumps in it, their threads and the JVM's deadlock report.
//! Everything borrows from the text. A thread's header, frames and locks are read on demand, so that a dump of a
//! thousand threads costs little more than finding where each begins.

mod body;
mod decode;
mod header;
mod mend;
mod scan;
mod unread;
mod wrapped;

pub use body::{Frame, Lock, LockKind};
pub use decode::{characters, decode, from_jvm, make_utf8, mended};
pub use header::Header;
pub use scan::{parse, parse_at_most};
pub use unread::Unread;

use crate::model::named::named;
use crate::model::text::beginning;

/// Longer names are cut: a broker's longest ones have some 100 bytes, and names are kept from dump to dump.
const MAX_NAME: usize = 256;

fn cut_name(name: &str) -> &str {
    beginning(name, MAX_NAME)
}

/// What [`parse`] cannot turn into dumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DumpError {
    #[error("OpenJ9 javacore: not supported")]
    OpenJ9,
    #[error("no thread dump in this text: take one with `jstack PID` or `jcmd PID Thread.print`")]
    NoDump,
    #[error("it has more than {most} threads, which is more than are read")]
    TooMany { most: usize },
    #[error("parts of a thread dump, of which no thread was read: {0}")]
    NoThread(Unread),
}

/// One dump. Object addresses are comparable within one dump only: garbage collection moves objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ThreadDump<'a> {
    /// The time line before the dump, as printed: the JVM's local time, in `Thread.dump_to_file` UTC.
    pub time: Option<&'a str>,
    /// The virtual machine, as printed: `OpenJDK 64-Bit Server VM (17.0.15+6 mixed mode, sharing)`.
    pub vm: Option<&'a str>,
    pub threads: Vec<Thread<'a>>,
    /// The JVM's own deadlock report, one for each `Found one Java-level deadlock` block. Its threads are in the order
    /// in which the JVM walked: each waits for the next, the last one for an earlier one. Those before that one are
    /// blocked behind the cycle.
    pub reported: Vec<Vec<ReportedThread<'a>>>,
    /// The text ends before the dump. Known only for the forms that print an end; false where unknown.
    pub truncated: bool,
    /// Without what is in a thread that was read, see [`Thread::lock_lines`].
    pub unread: Unread,
}

/// One thread. [`parse`] finds only its place in the text; the methods read the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thread<'a> {
    /// Not unique. Empty where the JVM printed none.
    pub name: &'a str,
    /// The text before the quoted name on the header line: `#12` in `Thread.dump_to_file`, else empty.
    before: &'a str,
    /// The header line after the name.
    attributes: &'a str,
    /// The lines below the header.
    body: &'a str,
}

named! {
    /// `java.lang.Thread.State`.
    pub enum State {
        New = "new",
        Runnable = "runnable",
        Blocked = "blocked",
        Waiting = "waiting",
        TimedWaiting = "timed_waiting",
        Terminated = "terminated",
    }
}

impl State {
    /// Reads text that begins with the state's name as Java prints it.
    fn at_start_of(text: &str) -> Option<State> {
        let of_name = |byte: &u8| byte.is_ascii_uppercase() || *byte == b'_';
        let end = text.bytes().position(|byte| !of_name(&byte));
        let name = text.as_bytes().get(..end.unwrap_or(text.len()))?;
        // Each thread's is read more than once: by the first letter, only one name is compared with it.
        let state = match name.first()? {
            b'N' => State::New,
            b'R' => State::Runnable,
            b'B' => State::Blocked,
            b'W' => State::Waiting,
            b'T' if name.get(1) == Some(&b'I') => State::TimedWaiting,
            b'T' => State::Terminated,
            _ => return None,
        };
        state
            .name()
            .as_bytes()
            .eq_ignore_ascii_case(name)
            .then_some(state)
    }
}

/// One thread of the JVM's report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedThread<'a> {
    pub name: &'a str,
    /// What it waits for, `WaitingToLock` or `ParkingToWaitFor`, by the object's address (not its monitor's); None where
    /// the text ends before that.
    pub wants: Option<Lock<'a>>,
    /// The holder's name; None is an owner that the JVM could not name.
    pub held_by: Option<&'a str>,
    /// Its stack, which the report repeats, as a thread without a header.
    pub stack: Option<Thread<'a>>,
}

/// Characters with which lines begin: blanks, and the bullets of pasted pages.
const INDENT: [char; 4] = [' ', '\t', '\u{2022}', '\u{a0}'];

fn trim_indent(line: &str) -> &str {
    // A JVM prints no others than these two. Searching for all of them decodes each character.
    let bytes = line.bytes();
    let blanks = bytes
        .take_while(|byte| matches!(byte, b' ' | b'\t'))
        .count();
    let rest = line.get(blanks..).unwrap_or_default();
    match rest.as_bytes().first() {
        Some(first) if !first.is_ascii() => rest.trim_start_matches(INDENT),
        _ => rest,
    }
}

/// As `str::trim_end`, without decoding the blanks that a JVM prints.
fn trim_end(text: &str) -> &str {
    let blanks = text.bytes().rev();
    let blanks = blanks.take_while(u8::is_ascii_whitespace).count();
    let rest = text.get(..text.len() - blanks).unwrap_or(text);
    match rest.as_bytes().last() {
        Some(last) if !last.is_ascii_graphic() => rest.trim_end(),
        _ => rest,
    }
}

/// Hexadecimal digits at the start of `text`, with or without `0x`: the number and how many bytes it took.
fn hex_at_start_of(text: &str) -> Option<(u64, usize)> {
    let bytes = text.as_bytes();
    let digits = bytes.strip_prefix(b"0x").unwrap_or(bytes);
    let mut number = 0u64;
    let mut count = 0;
    // Most of what is parsed are addresses. This is a table, because digits and letters in random order defeat branches.
    for &byte in digits {
        let digit = HEX_DIGIT[usize::from(byte)];
        if digit == NO_DIGIT {
            break;
        }
        number = number << 4 | u64::from(digit);
        count += 1;
        if count > 16 {
            return None;
        }
    }
    (count > 0).then_some((number, bytes.len() - digits.len() + count))
}

const NO_DIGIT: u8 = 16;

const HEX_DIGIT: [u8; 256] = {
    let mut table = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < 16 {
        table[b"0123456789abcdef"[digit] as usize] = digit as u8;
        table[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
        digit += 1;
    }
    table
};
