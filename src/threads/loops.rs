//! Threads that never come out of one method: several dumps show them in it, and in between they used a core all the time.
//!
//! Work that takes long looks the same, so only methods of known faults count, for a minute at least, and it is always a
//! probable match. A JVM that prints no CPU times (JDK 8) shows no loop.

use std::collections::HashMap;
use std::time::Duration;

use super::known_issues::{matching_loop, may_loop};
use super::stack::top_frames;
use crate::model::{Loop, Moment};
use crate::parse::thread_dump::ThreadDump;

/// Loading a partition of a coordinator takes seconds.
const SPAN: Duration = Duration::from_secs(60);
/// Of a core.
const SHARE: f64 = 0.8;
const MAX_THREADS: usize = 64;

/// What is remembered from the last dump of a process.
#[derive(Debug, Default)]
pub struct LoopDetector {
    /// By name and Java's number.
    tracks: HashMap<(String, Option<u64>), Track>,
}

#[derive(Debug)]
struct Track {
    issues: Vec<String>,
    since: Moment,
    at: Moment,
    cpu_ms: f64,
}

impl LoopDetector {
    /// Takes in the next dump and returns the loops.
    pub fn observe(&mut self, dump: &ThreadDump<'_>, now: Moment) -> Vec<Loop> {
        let mut tracks = HashMap::new();
        let mut loops = Vec::new();
        let candidates = dump.threads.iter().filter(|thread| may_loop(thread.name));
        for thread in candidates.take(MAX_THREADS) {
            let header = thread.header();
            let Some(cpu_ms) = header.cpu_ms else {
                continue;
            };
            let frames = top_frames(thread);
            let known_issues = matching_loop(thread.name, &frames);
            if known_issues.is_empty() {
                continue;
            }
            let issues = known_issues.iter().map(|known| known.issue.clone());
            let issues: Vec<String> = issues.collect();
            let key = (thread.name.to_owned(), header.number);
            let loops_since = |before: &Track| {
                let used = (cpu_ms - before.cpu_ms) / 1000.0;
                let all_the_time = used >= SHARE * now.since(before.at).as_secs_f64();
                (before.issues == issues && all_the_time).then_some(before.since)
            };
            let since = self.tracks.get(&key).and_then(loops_since).unwrap_or(now);
            if now.since(since) >= SPAN {
                loops.push(Loop {
                    thread: thread.name.to_owned(),
                    since,
                    frames,
                    known_issues,
                });
            }
            let track = Track {
                issues,
                since,
                at: now,
                cpu_ms,
            };
            tracks.insert(key, track);
        }
        self.tracks = tracks;
        loops
    }
}

#[cfg(test)]
mod tests;
