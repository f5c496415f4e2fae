//! What lines of a broker's log mean. The signatures are data, in `log_signatures.toml`; the config file may add some.

use std::sync::{LazyLock, OnceLock};

use regex::bytes::{Regex, RegexBuilder};
use regex_automata::nfa::thompson::WhichCaptures;
use regex_automata::util::syntax;
use regex_automata::{Input, MatchKind, PatternSet, meta};
use serde::Deserialize;

use crate::model::Severity;
use crate::model::named::named;

/// At most so many signatures are known: those of the data and of the config file.
pub const MOST_SIGNATURES: usize = 128;
/// The most memory of one compiled pattern of the config file, and of all patterns together. The states that matching
/// makes of them need as much again.
const PATTERN_SIZE: usize = 64 << 10;
const SET_SIZE: usize = 2 << 20;
const STATES_SIZE: usize = 512 << 10;
/// What of a line is matched and kept; the rest is passed over.
pub const MOST_OF_LINE: usize = 4 << 10;
/// What is kept of a line for those below it.
const MOST_OF_HEAD: usize = 512;

/// A row of `log_signatures.toml`, which explains the fields.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSignature {
    pub name: String,
    patterns: Vec<String>,
    #[serde(default)]
    cause: bool,
    pub severity: Severity,
    pub blames: Blamed,
    pub meaning: String,
    pub what_to_do: String,
    #[serde(default)]
    pub examples: Vec<String>,
}

named! {
    /// Where the cause of a line is to be looked for.
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum Blamed {
        /// The broker whose log it is.
        Broker = "this broker",
        /// Another broker; the group `peer` names it where the line does.
        Peer = "another broker",
        Client = "a client",
        Disk = "a disk",
        ZooKeeper = "ZooKeeper",
        Controller = "the controller",
    }
}

/// A signature of the config file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnSignature {
    pub name: String,
    pub pattern: String,
    pub severity: Severity,
}

/// Every signature of the data, in its order.
pub fn log_signatures() -> &'static [LogSignature] {
    #[derive(Deserialize)]
    struct Table {
        signature: Vec<LogSignature>,
    }
    static SIGNATURES: LazyLock<Vec<LogSignature>> = LazyLock::new(|| {
        let table: Result<Table, _> = serde_json::from_str(include_str!(concat!(
            env!("OUT_DIR"),
            "/log_signatures.json"
        )));
        // The data is part of the program, and a test reads it.
        #[expect(clippy::expect_used)]
        table
            .expect("log_signatures.toml is not as its schema says")
            .signature
    });
    &SIGNATURES
}

/// The first pattern of a signature of the data.
pub fn pattern_of(name: &str) -> &'static str {
    let signature = log_signatures()
        .iter()
        .find(|signature| signature.name == name);
    // Else nothing matches.
    signature
        .and_then(|signature| signature.patterns.first())
        .map_or("[^\\s\\S]", String::as_str)
}

/// Why a pattern of the config file is not taken.
///
/// # Errors
/// It is no regular expression, it is too large, or it matches every line.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    match builder(pattern).size_limit(PATTERN_SIZE).build() {
        Ok(regex) if regex.is_match(b"") => {
            Err("matches an empty line, and so every one".to_owned())
        }
        Ok(_) => Ok(()),
        Err(regex::Error::CompiledTooBig(_)) => {
            Err("is too large: write fewer and smaller repetitions".to_owned())
        }
        // The first lines show the pattern again, the last one says what is wrong with it.
        Err(error) => {
            let text = error.to_string();
            let why = text.lines().last().unwrap_or_default();
            Err(why.trim_start_matches("error: ").to_owned())
        }
    }
}

fn builder(pattern: &str) -> RegexBuilder {
    let mut builder = RegexBuilder::new(pattern);
    builder.unicode(false);
    builder
}

/// Why the patterns of a config file make no matcher.
pub type BuildError = Box<meta::BuildError>;

/// All signatures as one matcher.
#[derive(Debug)]
pub struct LogMatcher {
    set: meta::Regex,
    /// Which signature each pattern of the set belongs to, and the pattern alone for its groups.
    patterns: Vec<Pattern>,
    signatures: Vec<Signature>,
}

#[derive(Debug)]
struct Pattern {
    signature: usize,
    text: String,
    alone: OnceLock<Option<Regex>>,
}

#[derive(Debug)]
struct Signature {
    name: String,
    severity: Severity,
    cause: bool,
}

impl LogMatcher {
    /// Those of the data, and the first of `own` that there is room for.
    ///
    /// # Errors
    /// The patterns of the config file are too large together.
    pub fn new(own: &[OwnSignature]) -> Result<LogMatcher, BuildError> {
        let (mut patterns, mut signatures) = (Vec::new(), Vec::new());
        let mut add = |name: &str, severity, cause, texts: &[String]| {
            let signature = signatures.len();
            if signature == MOST_SIGNATURES {
                return;
            }
            patterns.extend(texts.iter().map(|text| Pattern {
                signature,
                text: text.clone(),
                alone: OnceLock::new(),
            }));
            signatures.push(Signature {
                name: name.to_owned(),
                severity,
                cause,
            });
        };
        for known in log_signatures() {
            add(&known.name, known.severity, known.cause, &known.patterns);
        }
        for own in own {
            let text = std::slice::from_ref(&own.pattern);
            add(&own.name, own.severity, false, text);
        }
        let texts: Vec<&str> = patterns.iter().map(|of| of.text.as_str()).collect();
        // As a `RegexSet` is made, but without its search for the literals of all patterns: that table takes 1.3 MB.
        let set = meta::Regex::builder()
            .syntax(syntax::Config::new().unicode(false).utf8(false))
            .configure(
                meta::Config::new()
                    .match_kind(MatchKind::All)
                    .utf8_empty(false)
                    .which_captures(WhichCaptures::None)
                    .auto_prefilter(false)
                    .nfa_size_limit(Some(SET_SIZE))
                    .hybrid_cache_capacity(STATES_SIZE),
            )
            .build_many(&texts)
            .map_err(Box::new)?;
        Ok(LogMatcher {
            set,
            patterns,
            signatures,
        })
    }

    /// The numbers of the patterns that match; None for most lines.
    fn matching(&self, line: &[u8]) -> Option<PatternSet> {
        // This takes a tenth of the time of the search for all that match.
        if !self.set.is_match(line) {
            return None;
        }
        let mut matching = PatternSet::new(self.set.pattern_len());
        self.set
            .which_overlapping_matches(&Input::new(line), &mut matching);
        Some(matching)
    }

    /// The name and the severity of a signature that a [`Found`] has.
    pub fn signature(&self, number: usize) -> Option<(&str, Severity)> {
        let signature = self.signatures.get(number)?;
        Some((&signature.name, signature.severity))
    }
}

/// A line that has a signature.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub signature: usize,
    /// With the beginning of the line above whose exception it is.
    pub text: String,
    /// The broker that it names.
    pub peer: Option<i32>,
    /// The thread that it names, as a dump does.
    pub thread: Option<String>,
}

/// Reads a log in pieces of any size.
#[derive(Debug, Default)]
pub struct LogReader {
    /// The line that has not ended yet, or its beginning.
    line: Vec<u8>,
    /// Whether the rest of it is passed over.
    cut: bool,
    /// The beginning of the last line that is not one of an exception.
    head: Vec<u8>,
    /// The signatures that were counted for it and the lines below it.
    counted: u128,
    /// Whether it has one itself.
    head_counted: bool,
}

impl LogReader {
    /// Passes over what comes up to the next end of a line.
    pub fn skip_line(&mut self) {
        self.line.clear();
        self.cut = true;
    }

    /// Forgets the line that has not ended: the file begins again.
    pub fn drop_line(&mut self) {
        self.line.clear();
        self.cut = false;
    }

    /// Reads the next bytes.
    pub fn read(&mut self, mut bytes: &[u8], matcher: &LogMatcher, found: &mut impl FnMut(Found)) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            bytes = rest.get(1..).unwrap_or_default();
            // A line that is there as a whole is not copied.
            if self.line.is_empty() && !self.cut {
                self.line(line, matcher, found);
            } else {
                self.add(line);
                let line = std::mem::take(&mut self.line);
                // Where the beginning is unknown nothing is matched.
                if !line.is_empty() {
                    self.line(&line, matcher, found);
                }
                self.line = line;
                self.line.clear();
            }
            self.cut = false;
        }
        self.add(bytes);
    }

    /// Adds to the line that has not ended.
    fn add(&mut self, bytes: &[u8]) {
        if self.cut {
            return;
        }
        let bytes = match self.line.is_empty() {
            true => without_hole(bytes),
            false => bytes,
        };
        let room = MOST_OF_LINE.saturating_sub(self.line.len());
        self.cut = bytes.len() > room;
        let bytes = bytes.get(..room).unwrap_or(bytes);
        self.line.extend_from_slice(bytes);
    }

    /// Reads a whole line.
    pub fn line(&mut self, line: &[u8], matcher: &LogMatcher, found: &mut impl FnMut(Found)) {
        let line = without_hole(line);
        let line = line.get(..MOST_OF_LINE).unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let below = match Kind::of(line) {
            Kind::Frame => return,
            Kind::Exception => true,
            Kind::Head => {
                self.head.clear();
                let head = line.get(..MOST_OF_HEAD).unwrap_or(line);
                self.head.extend_from_slice(head);
                (self.counted, self.head_counted) = (0, false);
                false
            }
        };
        let mut last = None;
        for number in matcher.matching(line).iter().flat_map(PatternSet::iter) {
            let Some(pattern) = matcher.patterns.get(number.as_usize()) else {
                continue;
            };
            let signature = pattern.signature;
            // Several patterns of one signature are one line.
            if last.replace(signature) == Some(signature) {
                continue;
            }
            let cause = matcher.signatures.get(signature).is_some_and(|of| of.cause);
            let bit = 1_u128 << (signature % MOST_SIGNATURES);
            if self.counted & bit != 0 || (below && self.head_counted && !cause) {
                continue;
            }
            self.counted |= bit;
            self.head_counted |= !below && !cause;
            let head = match below {
                true => self.head.as_slice(),
                false => b"",
            };
            found(pattern.found(line, head));
        }
    }
}

impl Pattern {
    fn found(&self, line: &[u8], head: &[u8]) -> Found {
        let has_groups = ["<peer>", "<thread>"]
            .iter()
            .any(|group| self.text.contains(group));
        let alone = self.alone.get_or_init(|| {
            let regex = has_groups.then(|| builder(&self.text).build());
            regex.and_then(Result::ok)
        });
        let groups = alone.as_ref().and_then(|alone| alone.captures(line));
        let group = |name| {
            let group = groups.as_ref()?.name(name)?;
            std::str::from_utf8(group.as_bytes()).ok()
        };
        let text = match head {
            b"" => String::from_utf8_lossy(line).into_owned(),
            head => {
                let (head, line) = (String::from_utf8_lossy(head), String::from_utf8_lossy(line));
                format!("{head} | {line}")
            }
        };
        Found {
            signature: self.signature,
            text,
            peer: group("peer").and_then(|id| id.parse().ok()),
            thread: group("thread").map(thread_name),
        }
    }
}

/// Without the zeros of the hole that a writer leaves who goes on behind what was cut off.
fn without_hole(bytes: &[u8]) -> &[u8] {
    let text = bytes.iter().position(|byte| *byte != 0);
    bytes.get(text.unwrap_or(bytes.len())..).unwrap_or_default()
}

/// What stands on a line.
enum Kind {
    /// An entry of the log begins.
    Head,
    /// The first line of an exception, or of its cause.
    Exception,
    /// A frame of its stack, how many are left out, or nothing.
    Frame,
}

impl Kind {
    fn of(line: &[u8]) -> Kind {
        let text = line.trim_ascii_start();
        if text.starts_with(b"Caused by: ") || text.starts_with(b"Suppressed: ") {
            return Kind::Exception;
        }
        if text.len() < line.len() || text.is_empty() {
            return Kind::Frame;
        }
        // `java.io.IOException: message`, `kafka.common.KafkaException`
        let name = text.split(|byte| *byte == b':').next().unwrap_or(text);
        let in_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"._$".contains(byte);
        let is_name = name.contains(&b'.')
            && name.first().is_some_and(u8::is_ascii_lowercase)
            && name.iter().all(in_name);
        match is_name {
            true => Kind::Exception,
            false => Kind::Head,
        }
    }
}

/// The name of a thread as a dump has it: from 1.0 on a fetcher's lines begin with what it does instead,
/// `ReplicaFetcher replicaId=1, leaderId=3, fetcherId=0`.
fn thread_name(written: &str) -> String {
    let value = |key: &str| {
        let (_, rest) = written.split_once(key)?;
        let end = rest.find(|c: char| !c.is_ascii_digit());
        rest.get(..end.unwrap_or(rest.len()))
    };
    match (
        written.starts_with("ReplicaFetcher "),
        value("fetcherId="),
        value("leaderId="),
    ) {
        (true, Some(fetcher), Some(leader)) => format!("ReplicaFetcherThread-{fetcher}-{leader}"),
        _ => written.to_owned(),
    }
}

#[cfg(test)]
mod tests;
