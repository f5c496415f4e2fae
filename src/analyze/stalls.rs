//! Threads that are stalled, or loop, over several dumps of one process, by the times that the dumps print.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use super::artifact::File;
use super::explanation::Form;
use super::names::{Name, Owner};
use crate::model::{Loop, Moment, Stall};
use crate::parse::thread_dump::{self, ThreadDump};
use crate::threads::loops::LoopDetector;
use crate::threads::stalls::StallDetector;
use crate::threads::wait_graph::WaitGraph;

pub(super) struct StalledInDumps {
    pub(super) stall: Stall,
    /// Index of the file with the last dump that shows it.
    pub(super) file: usize,
    /// As the first and the last dump print their times.
    pub(super) from: String,
    pub(super) until: String,
}

/// A thread that does not come out of one method.
pub(super) struct LoopInDumps {
    pub(super) found: Loop,
    /// As for [`StalledInDumps`].
    pub(super) file: usize,
    pub(super) from: String,
    pub(super) until: String,
}

/// A process: its broker, its JVM, and the lowest id of a thread, as the first threads of a JVM live as long as it does.
type Process<'a> = (Option<&'a Name>, Option<&'a str>, u64);

pub(super) fn find(
    files: &[File<'_>],
    owners: &[Owner],
) -> (Vec<StalledInDumps>, Vec<LoopInDumps>) {
    let mut processes: BTreeMap<Process<'_>, Vec<(Moment, usize, ThreadDump<'_>)>> =
        BTreeMap::new();
    for (index, (file, owner)) in files
        .iter()
        .zip(owners)
        .enumerate()
        .filter(|(_, (file, _))| file.is(Form::Dump))
    {
        for dump in thread_dump::parse(file.text).into_iter().flatten() {
            let first_thread = dump
                .threads
                .iter()
                .filter_map(|thread| thread.header().nid)
                .min();
            if let (Some(at), Some(first_thread)) = (dump.time.and_then(printed), first_thread) {
                let process = (owner.as_ref().map(|(name, _)| name), dump.vm, first_thread);
                processes
                    .entry(process)
                    .or_default()
                    .push((at, index, dump));
            }
        }
    }
    let (mut found, mut found_loops) = (Vec::new(), Vec::new());
    for mut dumps in processes.into_values() {
        dumps.sort_by_key(|(at, ..)| *at);
        let times: BTreeMap<Moment, &str> = dumps
            .iter()
            .filter_map(|(at, _, dump)| Some((*at, dump.time?)))
            .collect();
        let time = |at: &Moment| times.get(at).copied().unwrap_or_default().to_owned();
        let mut detector = StallDetector::default();
        let mut loops = LoopDetector::default();
        let (mut last_of, mut last_loops) = (BTreeMap::new(), BTreeMap::new());
        for (at, file, dump) in &dumps {
            for found in loops.observe(dump, *at) {
                let (from, until) = (time(&found.since), time(at));
                let one = LoopInDumps {
                    found,
                    file: *file,
                    from,
                    until,
                };
                last_loops.insert((one.found.thread.clone(), one.found.since), one);
            }
            let stalls = detector.observe(dump, &WaitGraph::of(dump), None, *at);
            for stall in stalls.into_iter().flat_map(|stalls| stalls.found) {
                let place = (
                    stall.pool.clone(),
                    stall.frame.clone(),
                    stall.lock_class.clone(),
                    stall.since,
                );
                let (from, until) = (time(&stall.since), time(at));
                last_of.insert(
                    place,
                    StalledInDumps {
                        stall,
                        file: *file,
                        from,
                        until,
                    },
                );
            }
        }
        found.extend(last_of.into_values());
        found_loops.extend(last_loops.into_values());
    }
    (found, found_loops)
}

/// `2026-11-22 10:14:02`, in a time zone that is the same for all dumps of a process.
fn printed(time: &str) -> Option<Moment> {
    let since_1970 = humantime::parse_rfc3339_weak(time)
        .ok()?
        .duration_since(UNIX_EPOCH)
        .ok()?;
    Some(Moment(0).plus(since_1970))
}
