//! The lines of a broker's log that mean trouble, by the signatures that the collector `logs` counts.

use std::collections::BTreeMap;

use super::gathering::{Gathering, count, fact, list};
use crate::analyze::artifact::File;
use crate::analyze::explanation::{FactKind, Source};
use crate::analyze::formats::server_log::SECONDS;
use crate::analyze::long_log::{kept_of, known_signatures};
use crate::analyze::names::Name;
use crate::model::Severity;
use crate::threads::log_signatures::{Found, LogReader, log_signatures};

/// Threads and brokers that are named.
const NAMED: usize = 8;

#[derive(Default)]
struct Seen {
    times: u64,
    first: String,
    last: String,
    threads: Vec<String>,
    /// The brokers that the lines name.
    peers: Vec<String>,
}

impl Gathering<'_> {
    /// `own` is the broker that wrote the log, where that is known.
    pub(super) fn signatures(&mut self, file: &File<'_>, own: Option<&Name>) {
        let Some(matcher) = known_signatures() else {
            return;
        };
        let mut seen: BTreeMap<usize, Seen> = BTreeMap::new();
        let mut found = |line: Found| {
            let seen = seen.entry(line.signature).or_default();
            if seen.times == 0 {
                seen.first = time(&line.text);
            }
            seen.times += 1;
            seen.last = time(&line.text);
            let peer = line.peer.map(|id| format!("broker {id}"));
            for (names, name) in [(&mut seen.threads, line.thread), (&mut seen.peers, peer)] {
                let new = name.filter(|name| names.len() < NAMED && !names.contains(name));
                names.extend(new);
            }
        };
        let mut reader = LogReader::default();
        reader.read(file.text.as_bytes(), matcher, &mut found);
        // The last line may have no end.
        reader.read(b"\n", matcher, &mut found);
        for (number, seen) in seen {
            let Some((of, kept)) = log_signatures().get(number).zip(kept_of(number)) else {
                continue;
            };
            let when = match seen.first.is_empty() {
                true => String::new(),
                false if seen.times == 1 => format!(" at {}", seen.first),
                false => format!(", {} to {}", seen.first, seen.last),
            };
            let names = [seen.threads, seen.peers].concat();
            let names = match names.is_empty() {
                true => String::new(),
                false => format!(": {}", list(&names)),
            };
            // Of a long log no more are kept, and the last one may be below another line than it was.
            let more = match seen.times + 1 < kept {
                true => "",
                false => " or more",
            };
            let (name, times, meaning) = (&of.name, count(seen.times, "time"), &of.meaning);
            let text = format!("its log has {name} {times}{more}{when}{names}. {meaning}");
            let fact = fact(FactKind::Logged, file, text, &[("times", seen.times)]);
            let speaks = own.filter(|_| of.severity == Severity::Critical);
            self.add(own, fact.against(speaks.map(|_| Source::Own)));
        }
    }
}

/// To the second, as printed: `2018-07-14 04:38:45`; empty where the line does not begin with it.
fn time(line: &str) -> String {
    let start = line
        .trim_start_matches('[')
        .get(..SECONDS)
        .unwrap_or_default();
    let is_time = start
        .chars()
        .all(|c| c.is_ascii_digit() || "-:, T".contains(c));
    match is_time {
        true => start.to_owned(),
        false => String::new(),
    }
}
