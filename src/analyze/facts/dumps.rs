//! What thread dumps show: deadlocks, and threads that are stalled over several dumps.

use std::fmt::Write as _;

use super::gathering::{Gathering, fact, list};
use crate::analyze::artifact::File;
use crate::analyze::dumps::Analysis;
use crate::analyze::explanation::{FactKind, Source};
use crate::analyze::names::Owner;
use crate::analyze::stalls::StalledInDumps;
use crate::threads::stalls::stall_text;

impl Gathering<'_> {
    pub(super) fn dumps(&mut self, file: &File<'_>, owner: &Owner, analysis: &Analysis) {
        let Some((name, by)) = owner else { return };
        let by_name_only = by.is_only_a_name();
        for index in file.dumps.clone() {
            let Some(dump) = analysis.dumps.get(index) else {
                continue;
            };
            let time = dump.time.as_ref();
            let at = time.map_or_else(String::new, |time| format!(" at {time}"));
            if analysis.deadlocks_of(index).next().is_none() {
                let text = format!("no deadlock in its dump{at}");
                let fact = fact(FactKind::NoDeadlock, file, text, &[]);
                self.add(Some(name), fact.alone());
            }
            for (number, deadlock) in analysis.deadlocks_of(index) {
                let members = list(deadlock.cycle.iter().map(|member| &member.thread));
                let hint = if by_name_only {
                    "; only the file's name shows that the dump is of this broker"
                } else {
                    ""
                };
                if let Some(signals) = self.of(Some(name)) {
                    signals.deadlocks.push(number);
                    signals.dump_is_certain |= !by_name_only;
                }
                let text = format!("deadlock of {members}{at}{hint}");
                let figures = [("threads", deadlock.members() as u64)];
                let fact = fact(FactKind::Deadlock, file, text, &figures);
                self.add(Some(name), fact.against(Some(Source::Dump)));
            }
        }
    }

    pub(super) fn stall(&mut self, stalled: StalledInDumps, files: &[File<'_>], owners: &[Owner]) {
        let StalledInDumps {
            stall,
            file,
            from,
            until,
        } = stalled;
        let (Some(file), Some(owner)) = (files.get(file), owners.get(file)) else {
            return;
        };
        let mut text = format!("{}, {from} to {until}", stall_text(&stall));
        if let Some(thread) = &stall.unblocked_by {
            let _ = write!(text, "; perhaps until {thread} is done");
        }
        let figures = [("threads", stall.threads.len() as u64)];
        let fact = fact(FactKind::Stall, file, text, &figures);
        let name = owner.as_ref().map(|(name, _)| name);
        if let (Some(signals), Some((_, by))) = (self.of(name), owner) {
            signals.dump_is_certain |= !by.is_only_a_name();
            signals.known_issues.extend(stall.known_issues);
        }
        self.add(name, fact.against(Some(Source::Dump)));
    }
}
