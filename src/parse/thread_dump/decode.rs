//! Turns bytes into text that [`super::parse`] reads.

use std::borrow::Cow;
use std::fmt::Write as _;

use memchr::memmem;
use serde::Deserialize;

use super::{mend, wrapped};

/// Turns the bytes of a file or a reply into text: [`characters`], then [`mended`].
pub fn decode(bytes: &[u8]) -> Cow<'_, str> {
    mended(characters(bytes))
}

/// Bytes as text. They are UTF-8 (other bytes become U+FFFD), or UTF-16 of either order, with or without its mark.
pub fn characters(bytes: &[u8]) -> Cow<'_, str> {
    match utf16_order(bytes) {
        Some(order) => Cow::Owned(from_utf16(bytes, order)),
        None => from_jvm(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)),
    }
}

/// The JSON of `Thread.dump_to_file` becomes its plain form; what a container runtime or journald wrote around each line is
/// removed; what a page or a mail did to quotes, brackets and line breaks is undone. Text that needs none of this stays
/// borrowed.
pub fn mended(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.trim_start().starts_with('{')
        && let Ok(file) = serde_json::from_str::<DumpFile>(&text)
    {
        return Cow::Owned(file.thread_dump.into_plain());
    }
    let text = after(text, wrapped::without_docker_json);
    let text = after(text, wrapped::without_line_prefix);
    let signs = Signs::of(text.as_bytes());
    let steps: [(bool, Step); 3] = [
        (signs.jconsole, wrapped::without_jconsole_form),
        (signs.markup, mend::without_markup),
        (true, mend::with_line_breaks),
    ];
    let steps = steps.into_iter().filter(|(is_needed, _)| *is_needed);
    steps.fold(text, |text, (_, step)| after(text, step))
}

/// Returns None for a text that does not need it.
type Step = fn(&str) -> Option<String>;

fn after(text: Cow<'_, str>, step: Step) -> Cow<'_, str> {
    step(&text).map_or(text, Cow::Owned)
}

/// What a text may need, wherever in it the sign of that is.
#[derive(Default)]
struct Signs {
    jconsole: bool,
    markup: bool,
}

impl Signs {
    /// Searches for all signs in parts that the cache of the CPU holds: most dumps have none of them.
    fn of(bytes: &[u8]) -> Signs {
        const PART: usize = 16 << 10;
        let jconsole = memmem::Finder::new(wrapped::JCONSOLE);
        let mut signs = Signs::default();
        for start in (0..bytes.len()).step_by(PART) {
            // One that begins in the part may end beyond it.
            let end = (start + PART + wrapped::JCONSOLE.len() - 1).min(bytes.len());
            let part = bytes.get(start..end).unwrap_or_default();
            signs.markup |= mend::has_markup(part);
            signs.jconsole |= jconsole.find(part).is_some();
        }
        signs
    }
}

/// The text of a JVM's own reply. Nothing is undone in it, because nobody has wrapped or pasted it, and each step of
/// [`mended`] may need as much memory again.
pub fn from_jvm(bytes: &[u8]) -> Cow<'_, str> {
    // Five times as fast as the lossy conversion, which reads byte by byte.
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// Replaces what is not UTF-8 by question marks, in place: [`from_jvm`] then borrows it.
pub fn make_utf8(bytes: &mut [u8]) {
    let mut from = 0;
    while let Some(rest) = bytes.get_mut(from..)
        && let Err(error) = std::str::from_utf8(rest)
    {
        let start = error.valid_up_to();
        let end = error
            .error_len()
            .map_or(rest.len(), |length| start + length);
        if let Some(wrong) = rest.get_mut(start..end) {
            wrong.fill(b'?');
        }
        from += end;
    }
}

#[derive(Clone, Copy)]
enum ByteOrder {
    Little,
    Big,
}

fn utf16_order(bytes: &[u8]) -> Option<ByteOrder> {
    match bytes {
        [0xff, 0xfe, ..] => return Some(ByteOrder::Little),
        [0xfe, 0xff, ..] => return Some(ByteOrder::Big),
        _ => {}
    }
    // Without a mark, every second byte of UTF-16 is 0: a dump is nearly all ASCII.
    let sample = bytes.get(..bytes.len().min(512)).unwrap_or(bytes);
    let zeros = |offset: usize| {
        sample
            .iter()
            .skip(offset)
            .step_by(2)
            .filter(|&&byte| byte == 0)
            .count()
    };
    let (even, odd) = (zeros(0), zeros(1));
    match sample.len() / 2 {
        0 => None,
        pairs if odd * 2 > pairs && even * 8 < pairs => Some(ByteOrder::Little),
        pairs if even * 2 > pairs && odd * 8 < pairs => Some(ByteOrder::Big),
        _ => None,
    }
}

fn from_utf16(bytes: &[u8], order: ByteOrder) -> String {
    let units = bytes.chunks_exact(2).map(|pair| match (order, pair) {
        (ByteOrder::Little, &[low, high]) => u16::from_le_bytes([low, high]),
        (ByteOrder::Big, &[high, low]) => u16::from_be_bytes([high, low]),
        _ => 0xfffd,
    });
    char::decode_utf16(units)
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .filter(|&c| c != '\u{feff}')
        .collect()
}

/// `Thread.dump_to_file -format=json` of JDK 21 and later.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DumpFile {
    thread_dump: Dump,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Dump {
    time: String,
    runtime_version: String,
    thread_containers: Vec<Container>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Container {
    threads: Vec<FileThread>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct FileThread {
    tid: serde_json::Value,
    name: String,
    state: String,
    time: String,
    #[serde(rename = "virtual")]
    is_virtual: bool,
    blocked_on: Option<String>,
    waiting_on: Option<String>,
    park_blocker: Option<ParkBlocker>,
    stack: Vec<String>,
    monitors_owned: Vec<Monitors>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ParkBlocker {
    object: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Monitors {
    depth: usize,
    locks: Vec<Option<String>>,
}

impl Dump {
    /// As `Thread.dump_to_file` without `-format=json` writes it.
    fn into_plain(self) -> String {
        let mut plain = format!("{}\n{}\n\n", self.time, self.runtime_version);
        for thread in self
            .thread_containers
            .into_iter()
            .flat_map(|container| container.threads)
        {
            thread.write_plain(&mut plain);
        }
        plain
    }
}

impl FileThread {
    fn write_plain(mut self, plain: &mut String) {
        let number = match &self.tid {
            serde_json::Value::String(number) => number.clone(),
            other => other.to_string(),
        };
        let is_virtual = if self.is_virtual { " virtual" } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(
            plain,
            "#{number} \"{}\"{is_virtual} {} {}",
            self.name.replace(|c: char| c.is_control(), " "),
            self.state,
            self.time
        );
        self.monitors_owned.sort_by_key(|monitors| monitors.depth);
        let mut owned = self.monitors_owned.iter().peekable();
        let wants = [
            ("waiting to lock", self.blocked_on.as_ref()),
            ("waiting on", self.waiting_on.as_ref()),
            (
                "parking to wait for",
                self.park_blocker
                    .as_ref()
                    .and_then(|blocker| blocker.object.as_ref()),
            ),
        ];
        // A thread without frames may hold and want as well.
        for depth in 0..self.stack.len().max(1) {
            if let Some(frame) = self.stack.get(depth) {
                let _ = writeln!(plain, "    at {frame}");
            }
            for (what, object) in wants.iter().filter(|_| depth == 0) {
                if let Some(object) = object {
                    let _ = writeln!(plain, "    - {what} <{object}>");
                }
            }
            while let Some(monitors) = owned.next_if(|monitors| monitors.depth <= depth) {
                for lock in monitors.locks.iter().flatten() {
                    let _ = writeln!(plain, "    - locked <{lock}>");
                }
            }
        }
        plain.push('\n');
    }
}
