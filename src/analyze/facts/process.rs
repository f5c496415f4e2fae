//! What `/proc/PID/limits` and `top -H` show of a process.

use std::collections::BTreeMap;

use super::gathering::{Gathering, count, fact};
use crate::analyze::artifact::File;
use crate::analyze::explanation::{FactKind, Form};
use crate::analyze::formats::limits::OpenFiles;
use crate::analyze::formats::top::Thread;
use crate::analyze::names::{Name, Owner};
use crate::model::text::first_of;
use crate::parse::thread_dump;

/// A thread that uses so much of a core is busy.
const BUSY_PERCENT: f64 = 50.0;

/// The soft limits of processes, by broker; that of nobody where one file has it and no broker is known.
pub(super) fn handle_limits<'a>(
    files: &[File<'_>],
    owners: &'a [Owner],
) -> BTreeMap<Option<&'a Name>, u64> {
    let limits = files.iter().zip(owners).filter_map(|(file, owner)| {
        let name = owner.as_ref().map(|(name, _)| name);
        Some((name, file.open_files?.soft?))
    });
    let limits: Vec<_> = limits.collect();
    let of_nobody = limits.iter().filter(|(name, _)| name.is_none()).count();
    let limits = limits.into_iter();
    // Of several processes nothing shows which one has the handles.
    limits
        .filter(|(name, _)| name.is_some() || of_nobody == 1)
        .collect()
}

/// The busy threads that files show, by the kernel's thread id, with their places in the dumps of a broker.
pub(super) type Places<'a> = BTreeMap<u64, Vec<(Option<&'a Name>, String)>>;

/// Where dumps show the threads that `top` shows to be busy.
pub(super) fn places_of_busy<'a>(files: &[File<'_>], owners: &'a [Owner]) -> Places<'a> {
    let threads = files.iter().flat_map(|file| &file.threads);
    let busy = threads.filter(|thread| is_busy(thread));
    let mut found: Places<'a> = busy.map(|thread| (thread.tid, Vec::new())).collect();
    if found.is_empty() {
        return found;
    }
    for (file, owner) in files.iter().zip(owners) {
        if !file.is(Form::Dump) {
            continue;
        }
        let owner = owner.as_ref().map(|(name, _)| name);
        for dump in thread_dump::parse(file.text).into_iter().flatten() {
            for thread in &dump.threads {
                let Some(places) = thread.header().nid.and_then(|tid| found.get_mut(&tid)) else {
                    continue;
                };
                let frame = thread
                    .frames()
                    .next()
                    .map(|frame| format!(" at {}", frame.text()));
                let place = format!("{}{}", thread.name, frame.unwrap_or_default());
                // The last dump of a broker counts.
                places.retain(|(other, _)| *other != owner);
                places.push((owner, place));
            }
        }
    }
    found
}

fn is_busy(thread: &Thread<'_>) -> bool {
    thread.cpu_percent >= BUSY_PERCENT
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
        places: &Places<'_>,
    ) {
        let mut threads: Vec<&Thread<'_>> = file.threads.iter().collect();
        threads.sort_by(|a, b| b.cpu_percent.total_cmp(&a.cpu_percent));
        let are_busy = threads.iter().copied().filter(|thread| is_busy(thread));
        let busy: Vec<&Thread<'_>> = are_busy.collect();
        let text = match (busy.as_slice(), threads.first()) {
            ([], Some(busiest)) => format!(
                "none of {} uses half of a core; the busiest: {}",
                count(threads.len() as u64, "thread"),
                shown(busiest, None)
            ),
            ([], None) => return,
            (busy, _) => {
                let place = |thread: &Thread<'_>| place_of(places.get(&thread.tid)?, owner);
                let listed = busy.iter().map(|thread| shown(thread, place(thread)));
                format!(
                    "at least half of a core is used by {} of {}: {}",
                    busy.len(),
                    count(threads.len() as u64, "thread"),
                    first_of(listed, busy.len())
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

/// In a dump of the same broker, else in the only one. Ids of threads are those of one host.
fn place_of<'a>(places: &'a [(Option<&Name>, String)], owner: Option<&Name>) -> Option<&'a str> {
    let of_owner = places.iter().find(|(of, _)| *of == owner);
    let only = match places {
        [one] if one.0.is_none() || owner.is_none() => Some(one),
        _ => None,
    };
    of_owner.or(only).map(|(_, place)| place.as_str())
}

fn shown(thread: &Thread<'_>, place: Option<&str>) -> String {
    let Thread {
        tid,
        cpu_percent,
        name,
    } = thread;
    let dump = place.map_or(String::new(), |place| format!(", in a dump {place}"));
    format!("{name} (nid 0x{tid:x}{dump}) {cpu_percent} %")
}
