//! Finds dumps, threads and the JVM's report in a text, and touches as few bytes as possible.
//!
//! Thread names are in quotes at the start of a line, and quotes are rare elsewhere, so the search goes from quote to
//! quote. The text between two headers is a stack; its lines are read only where it does not end like a stack.
//! The words that only a blocked thread and the JVM's report have are counted as well, so that it is known what was not
//! read of them.

use memchr::{memchr, memchr_iter, memmem, memrchr};

use super::unread::{self, Blocked, HELD, Start};
use super::{
    DumpError, Lock, LockKind, ReportedThread, Thread, ThreadDump, cut_name, hex_at_start_of,
    trim_end, trim_indent,
};

/// Finds every dump in `text`, in order. Time and memory are linear in its length; a thread takes 64 bytes beside the text.
///
/// # Errors
/// An OpenJ9 javacore, and a text without any dump.
pub fn parse(text: &str) -> Result<Vec<ThreadDump<'_>>, DumpError> {
    parse_at_most(text, usize::MAX)
}

/// As [`parse`], for a text that may be hostile: the shortest thread has 7 bytes, a tenth of what it takes in memory.
///
/// # Errors
/// As those of [`parse`], and where more than `most` threads, entries of reports and dumps are in the text.
pub fn parse_at_most(text: &str, most: usize) -> Result<Vec<ThreadDump<'_>>, DumpError> {
    // The slices below cannot panic: each bound is 0, the end, or beside an ASCII byte that was found, in this order.
    let bytes = text.as_bytes();
    let mut scanner = Scanner {
        left: most,
        text,
        ..Scanner::default()
    };
    let mut quotes = memchr_iter(b'"', bytes);
    let mut quote = quotes.next();
    let mut head = None;
    let mut chunk_start = 0;
    let mut held_at = Vec::new();
    let mut blocked = Blocked::default();
    while let Some(open) = quote {
        let line_start = match open.checked_sub(1).and_then(|before| bytes.get(before)) {
            // Nearly every name begins its line.
            Some(b'\n') => open,
            _ => memrchr(b'\n', &bytes[chunk_start..open])
                .map_or(chunk_start, |end| chunk_start + end + 1),
        };
        let line_end = memchr(b'\n', &bytes[open..]).map_or(bytes.len(), |length| open + length);
        let (mut first, mut last) = (None, None);
        quote = quotes.next();
        while let Some(next) = quote.filter(|&next| next < line_end) {
            first = first.or(Some(next));
            last = Some(next);
            quote = quotes.next();
        }
        let (Some(first), Some(last)) = (first, last) else {
            continue;
        };
        let quoted_value = first < last && has_quoted_value(&text[first + 1..line_end]);
        let close = if quoted_value { first } else { last };
        let (before, name, after) = (
            &text[line_start..open],
            &text[open + 1..close],
            &text[close + 1..line_end],
        );
        let before = trim_indent(before).trim_end();
        if before.ends_with(HELD) && held_at.len() < most {
            held_at.push(open);
        }
        if let Some(next) = Scanner::head(before, name, after.trim_end_matches('\r')) {
            scanner.chunk(head.replace(next), &text[chunk_start..line_start], false);
            chunk_start = (line_end + 1).min(bytes.len());
            blocked.search(bytes, line_start, BLOCK);
            if scanner.exceeded {
                return Err(DumpError::TooMany { most });
            }
        }
    }
    blocked.search(bytes, bytes.len(), 0);
    scanner.chunk(head, &text[chunk_start..], true);
    scanner.close_dump();
    if scanner.exceeded {
        return Err(DumpError::TooMany { most });
    }
    unread::count(
        blocked.places(bytes),
        &held_at,
        &mut scanner.dumps,
        &scanner.starts,
    );
    if scanner.dumps.is_empty() {
        Err(no_dump(bytes))
    } else {
        Ok(scanner.dumps)
    }
}

/// The text is searched for blocked threads in parts of so many bytes, while they are in the cache of the CPU.
const BLOCK: usize = 16 << 10;

fn no_dump(bytes: &[u8]) -> DumpError {
    let javacore = ["0SECTION ", "3XMTHREADINFO ", "1LKDEADLOCK "];
    let has = |tag: &&str| memmem::find(bytes, tag.as_bytes()).is_some();
    if javacore.iter().any(has) {
        return DumpError::OpenJ9;
    }
    let unread = unread::anywhere(bytes);
    // Prose may name the report.
    match unread.blocked + unread.holders {
        0 => DumpError::NoDump,
        _ => DumpError::NoThread(unread),
    }
}

/// Whether the text after a thread's name is attributes, one of them in quotes: `user="A"`, `owned by "t1"`. Otherwise a
/// further quote on the line belongs to the name.
fn has_quoted_value(after: &str) -> bool {
    begins_attributes(after) && (after.contains("=\"") || after.contains(" owned by \""))
}

/// Whether the text after a quoted name is the rest of a thread's header.
fn begins_attributes(after: &str) -> bool {
    let Some(first) = after.strip_prefix(' ') else {
        return false;
    };
    let attribute = match first.as_bytes().first() {
        Some(b'#') => return true,
        Some(b'p') => "prio=",
        Some(b'd') => "daemon ",
        Some(b'o') => "os_prio=",
        Some(b't') => "tid=",
        Some(b'n') => "nid=",
        Some(b'-') => "- Thread t@",
        Some(b'i') => "id=",
        Some(b'I') => "Id=",
        Some(b'c') => "cpu=",
        Some(b'v') => "virtual ",
        _ => return false,
    };
    first.starts_with(attribute)
}

/// A line that begins with a quoted name.
enum Head<'a> {
    Thread {
        before: &'a str,
        name: &'a str,
        attributes: &'a str,
    },
    /// `"name":`, of the JVM's report.
    Reported(&'a str),
}

/// The scanner's place in the JVM's report.
#[derive(Default, PartialEq, Clone, Copy)]
enum Report {
    #[default]
    Outside,
    Entries,
    Stacks,
}

/// A line between threads that has a meaning.
enum Mark<'a> {
    Banner(&'a str),
    LocalTime(&'a str),
    /// The time with which `Thread.dump_to_file` begins; the next line is the version.
    UtcTime(&'a str),
    DebuggerAttaches,
    VmVersion(&'a str),
    End,
    ReportStart,
    ReportStacks,
    /// How many deadlocks it says.
    ReportEnd(usize),
    /// An evidence bundle keeps the first and the last threads of a long dump.
    LeftOut,
    /// A JVM thread printed without a name, as JDK 25 prints the flight recorder's sampler.
    Nameless(&'a str),
    /// Ends a stack and has no other meaning.
    Other,
}

#[derive(Default)]
struct Scanner<'a> {
    text: &'a str,
    dumps: Vec<ThreadDump<'a>>,
    starts: Vec<Start>,
    open: Option<ThreadDump<'a>>,
    time: Option<&'a str>,
    /// Time and version of a `Thread.dump_to_file` before its first thread.
    file: Option<(&'a str, Option<&'a str>)>,
    ended: bool,
    report: Report,
    report_ended: bool,
    /// The index of the report's next stack.
    next_stack: usize,
    /// How many more threads, entries of reports and dumps may be kept, and whether there were more.
    left: usize,
    exceeded: bool,
}

impl<'a> Scanner<'a> {
    /// Whether a line with a quoted name is a header.
    fn head(before: &'a str, name: &'a str, after: &'a str) -> Option<Head<'a>> {
        let numbered = before
            .strip_prefix('#')
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        if numbered {
            return Some(Head::Thread {
                before,
                name,
                attributes: after,
            });
        }
        if !before.is_empty() {
            return None;
        }
        if after == ":" {
            return Some(Head::Reported(name));
        }
        begins_attributes(after).then_some(Head::Thread {
            before,
            name,
            attributes: after,
        })
    }

    /// Whether one more may be kept.
    fn may_keep(&mut self) -> bool {
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => self.exceeded = true,
        }
        !self.exceeded
    }

    /// Adds a head with the lines up to the next one.
    fn chunk(&mut self, head: Option<Head<'a>>, chunk: &'a str, last: bool) {
        if head.is_some() && !self.may_keep() {
            return;
        }
        let (body, rest) = match last || !ends_like_a_stack(chunk) {
            true => chunk.split_at(first_mark(chunk)),
            false => (chunk, ""),
        };
        match head {
            None => {}
            Some(Head::Thread {
                before,
                name,
                attributes,
            }) => {
                if !before.is_empty()
                    && let Some((time, vm)) = self.file.take()
                {
                    let dump = ThreadDump {
                        time: Some(time),
                        vm,
                        ..ThreadDump::default()
                    };
                    self.open(dump, before);
                }
                // A thread after the report is another dump's, or jhsdb's, which prints the report first.
                self.report = Report::Outside;
                self.dump().threads.push(Thread {
                    name: cut_name(name),
                    before,
                    attributes,
                    body,
                });
            }
            Some(Head::Reported(name)) => {
                // A paste may lack the sentence above the first entry.
                if self.report == Report::Outside && held_by(body).next().is_some() {
                    self.report = Report::Entries;
                    self.report_ended = false;
                    self.dump().reported.push(Vec::new());
                }
                self.reported(cut_name(name), body);
            }
        }
        for line in rest.lines() {
            self.between(line);
        }
    }

    fn dump(&mut self) -> &mut ThreadDump<'a> {
        if self.open.is_none() {
            self.starts.push(Start::default());
        }
        self.open.get_or_insert_default()
    }

    /// Begins a dump with a part of the text.
    fn open(&mut self, dump: ThreadDump<'a>, first: &'a str) {
        self.close_dump();
        let at = (first.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        self.starts.push(Start {
            at,
            ..Start::default()
        });
        self.open = Some(dump);
    }

    fn reported(&mut self, name: &'a str, body: &'a str) {
        let (report, next) = (self.report, self.next_stack);
        let Some(deadlock) = self.open.as_mut().and_then(|dump| dump.reported.last_mut()) else {
            return;
        };
        match report {
            Report::Outside => return,
            Report::Entries => return deadlock.push(entry(name, body)),
            Report::Stacks => {}
        }
        // The stacks are in the order of the entries; where lines are lost, a few may be missing.
        let ahead = deadlock.iter_mut().enumerate().skip(next).take(8);
        if let Some((index, thread)) = ahead.into_iter().find(|(_, thread)| thread.name == name) {
            thread.stack = Some(Thread {
                name,
                before: "",
                attributes: "",
                body,
            });
            self.next_stack = index + 1;
        }
    }

    fn between(&mut self, line: &'a str) {
        let line = trim_indent(line).trim_end();
        if let Some((_, version)) = &mut self.file
            && version.is_none()
            && !line.is_empty()
        {
            *version = Some(line);
        }
        match mark(line) {
            None | Some(Mark::Other) => {}
            Some(Mark::LocalTime(time)) => self.time = Some(time),
            Some(Mark::UtcTime(time)) => self.file = Some((time, None)),
            Some(
                Mark::Banner(_) | Mark::DebuggerAttaches | Mark::ReportStart | Mark::Nameless(_),
            ) if !self.may_keep() => {}
            Some(Mark::Banner(vm)) => {
                let dump = ThreadDump {
                    time: self.time.take(),
                    vm: Some(vm),
                    ..ThreadDump::default()
                };
                self.open(dump, line);
            }
            Some(Mark::DebuggerAttaches) => self.open(ThreadDump::default(), line),
            Some(Mark::VmVersion(version)) => self.dump().vm = Some(version),
            Some(Mark::End) => self.ended = true,
            Some(Mark::LeftOut) => {
                if let Some(start) = self.starts.last_mut() {
                    start.left_out += 1;
                }
            }
            Some(Mark::ReportStart) => {
                self.report = Report::Entries;
                self.report_ended = false;
                self.dump().reported.push(Vec::new());
            }
            Some(Mark::ReportStacks) => {
                self.report = Report::Stacks;
                self.next_stack = 0;
            }
            Some(Mark::ReportEnd(said)) => {
                if let Some(start) = self.starts.last_mut().filter(|_| self.open.is_some()) {
                    start.said = start.said.max(said);
                }
                self.report = Report::Outside;
                self.report_ended = true;
            }
            Some(Mark::Nameless(attributes)) => {
                self.dump().threads.push(Thread {
                    name: "",
                    before: "",
                    attributes,
                    body: "",
                });
            }
        }
    }

    fn close_dump(&mut self) {
        if let Some(mut dump) = self.open.take() {
            let report_cut = !dump.reported.is_empty() && !self.report_ended;
            dump.truncated = report_cut || (!self.ended && prints_end(&dump));
            self.dumps.push(dump);
        }
        self.ended = false;
        self.report = Report::Outside;
        self.report_ended = false;
    }
}

/// Whether this form of dump ends with the line of JNI references.
fn prints_end(dump: &ThreadDump<'_>) -> bool {
    let Some(vm) = dump.vm else { return false };
    let of_hotspot = vm.contains(" VM ")
        && ![" 1.5.", "(1.5.", " 1.4.", "(1.4."]
            .iter()
            .any(|old| vm.contains(old));
    let through_jmx = dump
        .threads
        .first()
        .is_some_and(|thread| thread.attributes.starts_with(" - Thread t@") || thread.is_of_jmx());
    of_hotspot && !through_jmx
}

/// Whether the last line that is not blank belongs to a stack.
fn ends_like_a_stack(chunk: &str) -> bool {
    let chunk = trim_end(chunk);
    let last = chunk
        .get(memrchr(b'\n', chunk.as_bytes()).map_or(0, |end| end + 1)..)
        .unwrap_or("");
    let last = trim_indent(last);
    match last.as_bytes().first() {
        None => true,
        Some(b'a') => last.starts_with("at "),
        Some(b'-') => last.starts_with("- "),
        Some(b'j') => last.starts_with("java.lang.Thread.State: "),
        Some(b'N') => last.starts_with("No compile task"),
        Some(_) => false,
    }
}

/// The place of the first line that ends a stack.
fn first_mark(chunk: &str) -> usize {
    let mut start = 0;
    for line in chunk.split_inclusive('\n') {
        if mark(trim_indent(line).trim_end()).is_some() {
            return start;
        }
        start += line.len();
    }
    chunk.len()
}

/// Reads a line without its indent.
fn mark(line: &str) -> Option<Mark<'_>> {
    match line.as_bytes().first()? {
        b'F' => {
            if let Some(vm) = line.strip_prefix("Full thread dump ") {
                return Some(Mark::Banner(vm.trim().trim_end_matches(':')));
            }
            if line.starts_with("Found one Java-level deadlock") {
                return Some(Mark::ReportStart);
            }
            let end = line.starts_with("Found ") && line.contains(" deadlock");
            let said = || line.split(' ').find_map(|word| word.parse().ok());
            (end || line.starts_with("Finding concurrent locks"))
                .then(|| Mark::ReportEnd(said().unwrap_or_default()))
        }
        b'J' if line.starts_with("JNI global ref") => Some(Mark::End),
        b'J' if line.starts_with("Java stack information for the threads") => {
            Some(Mark::ReportStacks)
        }
        b'J' => line.strip_prefix("JVM version is ").map(Mark::VmVersion),
        b'A' => line
            .starts_with("Attaching to process ID ")
            .then_some(Mark::DebuggerAttaches),
        b'T' => line
            .starts_with("Threads class SMR info:")
            .then_some(Mark::Other),
        b'#' => line
            .starts_with("# kafka-vitals left out ")
            .then_some(Mark::LeftOut),
        b'H' => (line == "Heap").then_some(Mark::Other),
        b'<' => (line == "<EndOfDump>").then_some(Mark::End),
        b'o' => {
            (line.starts_with("os_prio=") && line.contains(" tid=")).then_some(Mark::Nameless(line))
        }
        b'0'..=b'9' => time(line),
        _ => None,
    }
}

/// `2026-11-22 14:33:28` and `2026-11-22T14:33:40.727069993Z`, alone on their line.
fn time(line: &str) -> Option<Mark<'_>> {
    let bytes = line.as_bytes();
    let separated =
        bytes.get(4) == Some(&b'-') && bytes.get(7) == Some(&b'-') && bytes.get(13) == Some(&b':');
    match (separated, bytes.get(10)?, bytes.last()?) {
        (true, b' ', last) if bytes.len() == 19 && last.is_ascii_digit() => {
            Some(Mark::LocalTime(line))
        }
        (true, b'T', b'Z') if bytes.len() <= 30 => Some(Mark::UtcTime(line)),
        _ => None,
    }
}

/// One thread of the report.
fn entry<'a>(name: &'a str, body: &'a str) -> ReportedThread<'a> {
    let mut thread = ReportedThread {
        name,
        wants: None,
        held_by: None,
        stack: None,
    };
    for line in body.lines() {
        let line = line.trim();
        if let Some(lock) = reported_lock(line) {
            thread.wants = Some(lock);
        }
    }
    thread.held_by = held_by(body).last();
    thread
}

/// The holders that the lines of an entry name. Each is on a line of its own, except in `jhsdb`'s report; `in JNI, which is
/// held by` is for monitors entered there.
fn held_by(body: &str) -> impl Iterator<Item = &str> {
    body.lines().filter_map(|line| {
        let (_, owner) = line.split_once("which is held by \"")?;
        Some(cut_name(owner.trim_end().strip_suffix('"')?))
    })
}

/// `waiting to lock monitor 0x.. (object 0x.., a C),`, `waiting to lock Monitor@0x.. (Object@0x.., a C),` and
/// `waiting for ownable synchronizer 0x.., (a C),`.
fn reported_lock(line: &str) -> Option<Lock<'_>> {
    let class = |text| -> &str { str::trim_end_matches(text, [',', ')']) };
    if let Some(rest) = line.strip_prefix("waiting for ownable synchronizer ") {
        let (address, of) = rest.split_once(", (a ")?;
        let address = hex_at_start_of(address).map(|(address, _)| address);
        return Some(Lock {
            kind: LockKind::ParkingToWaitFor,
            address,
            class: class(of),
        });
    }
    let (_, object) = line.strip_prefix("waiting to lock ")?.split_once('(')?;
    let (address, of) = object.split_once(", a ")?;
    let address = address
        .strip_prefix("object ")
        .or_else(|| address.strip_prefix("Object@"))?;
    let address = hex_at_start_of(address).map(|(address, _)| address);
    Some(Lock {
        kind: LockKind::WaitingToLock,
        address,
        class: class(of),
    })
}
