//! What `/proc/PID/limits` and `top -H` show of a process.

use std::collections::BTreeMap;

use super::gathering::{Gathering, count, fact, list};
use crate::analyze::artifact::File;
use crate::analyze::explanation::{FactKind, Form};
use crate::analyze::formats::limits::OpenFiles;
use crate::analyze::formats::top::{self, Thread};
use crate::analyze::names::{Name, Owner};
use crate::parse::thread_dump;

/// A thread that uses so much of a core is busy.
const BUSY_PERCENT: f64 = 50.0;
/// Busy threads that are listed.
const LISTED: usize = 8;

/// The soft limits of processes, by broker; that of nobody where one file has it and no broker is known.
pub(super) fn handle_limits<'a>(
    files: &[File<'_>],
    owners: &'a [Owner],
) -> BTreeMap<Option<&'a Name>, u64> {
    let limits = files.iter().zip(owners).filter_map(|(file, owner)| {
        let name = owner.as_ref().map(|(name, _)| name);
        Some((name, file.open_files?.soft?))
    });
    limits.collect()
}

impl Gathering<'_> {
    pub(super) fn limits(&mut self, file: &File<'_>, owner: Option<&Name>) {
        let Some(OpenFiles { soft, hard }) = file.open_files else {
            return;
        };
        let number = |limit: Option<u64>| {
            limit.map_or("any number of".to_owned(), |limit| limit.to_string())
        };
        let text = format!(
            "may have {} open file handles (soft limit; hard limit: {})",
            number(soft),
            hard.map_or("none".to_owned(), |limit| limit.to_string())
        );
        let figures = soft.map(|soft| ("limit", soft));
        let fact = fact(FactKind::HandleLimit, file, text, figures.as_slice());
        self.add(owner, fact.alone());
    }

    pub(super) fn busy_threads(
        &mut self,
        file: &File<'_>,
        owner: Option<&Name>,
        files: &[File<'_>],
    ) {
        if !file.is(Form::Top) {
            return;
        }
        let mut threads = top::threads(file.text);
        threads.sort_by(|a, b| b.cpu_percent.total_cmp(&a.cpu_percent));
        let busy = threads
            .iter()
            .filter(|thread| thread.cpu_percent >= BUSY_PERCENT);
        let busy: Vec<&Thread<'_>> = busy.collect();
        let text = match (busy.as_slice(), threads.first()) {
            ([], Some(busiest)) => format!(
                "none of {} uses half of a core; the busiest: {}",
                count(threads.len() as u64, "thread"),
                shown(busiest, &BTreeMap::new())
            ),
            ([], None) => return,
            (busy, _) => {
                let in_dumps = in_dumps(files, busy);
                let listed = busy.iter().take(LISTED);
                let listed = list(listed.map(|thread| shown(thread, &in_dumps)));
                let more = match busy.len().saturating_sub(LISTED) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                format!(
                    "at least half of a core is used by {} of {}: {listed}{more}",
                    busy.len(),
                    count(threads.len() as u64, "thread")
                )
            }
        };
        let figures = [
            ("threads", threads.len() as u64),
            ("busy", busy.len() as u64),
        ];
        let fact = fact(FactKind::BusyThreads, file, text, &figures);
        self.add(owner, fact.alone());
    }
}

/// Where dumps show those threads, by the kernel's thread id.
fn in_dumps(files: &[File<'_>], wanted: &[&Thread<'_>]) -> BTreeMap<u64, String> {
    let mut found = BTreeMap::new();
    let dumps = files
        .iter()
        .filter(|file| file.is(Form::Dump))
        .flat_map(|file| thread_dump::parse(file.text).into_iter().flatten());
    for dump in dumps {
        for thread in &dump.threads {
            let tid = thread.header().nid;
            if let Some(tid) = tid.filter(|tid| wanted.iter().any(|thread| thread.tid == *tid)) {
                let frame = thread
                    .frames()
                    .next()
                    .map(|frame| format!(" at {}", frame.text()));
                let place = format!("{}{}", thread.name, frame.unwrap_or_default());
                found.insert(tid, place);
            }
        }
    }
    found
}

fn shown(thread: &Thread<'_>, in_dumps: &BTreeMap<u64, String>) -> String {
    let Thread {
        tid,
        cpu_percent,
        name,
    } = thread;
    let dump = in_dumps.get(tid);
    let dump = dump.map_or(String::new(), |place| format!(", in a dump {place}"));
    format!("{name} (nid 0x{tid:x}{dump}) {cpu_percent} %")
}
