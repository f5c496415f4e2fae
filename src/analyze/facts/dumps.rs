//! What thread dumps show: deadlocks, and threads that are stalled over several dumps.

use std::fmt::Write as _;

use super::gathering::{Gathering, fact, list};
use crate::analyze::artifact::File;
use crate::analyze::dumps::Analysis;
use crate::analyze::explanation::{FactKind, Source};
use crate::analyze::names::Owner;
use crate::analyze::stalls::{LoopInDumps, StalledInDumps};
use crate::model::text::first_of;
use crate::threads::stack;
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
                let (kind, text) = match dump.not_understood.as_slice() {
                    [] => (FactKind::NoDeadlock, format!("no deadlock in its dump{at}")),
                    not => {
                        let what = list(not);
                        let text = format!("not understood in its dump{at}: {what}");
                        (FactKind::NotUnderstood, text)
                    }
                };
                self.add(Some(name), fact(kind, file, text, &[]).alone());
            }
            // It proves nothing alone: not even a certain owner makes the broker gray by it.
            for likely in analysis.likely_of(index) {
                let text = format!("likely deadlock{at}: {}", likely.text);
                let fact = fact(FactKind::LikelyDeadlock, file, text, &[]);
                self.add(Some(name), fact.against(Some(Source::Dump)));
            }
            for (number, deadlock) in analysis.deadlocks_of(index) {
                let members = deadlock.cycle.iter().map(|member| &member.thread);
                let members = first_of(members, deadlock.members());
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

    /// It keeps some groups or transactions from their coordinator, and the broker works otherwise.
    pub(super) fn endless(&mut self, looping: LoopInDumps, files: &[File<'_>], owners: &[Owner]) {
        let LoopInDumps {
            found,
            file,
            from,
            until,
        } = looping;
        let (Some(file), Some(owner)) = (files.get(file), owners.get(file)) else {
            return;
        };
        let method = stack::shown(&found.frames).next().unwrap_or_default();
        let keys = list(found.known_issues.iter().map(|known| &known.issue));
        let text = format!(
            "{} used a core and did not come out of one method, {from} to {until}, as by {keys}: {method}",
            found.thread
        );
        let fact = fact(FactKind::Loop, file, text, &[]);
        let name = owner.as_ref().map(|(name, _)| name);
        if let Some(signals) = self.of(name) {
            signals.known_issues.extend(found.known_issues);
        }
        self.add(name, fact.against(Some(Source::Dump)));
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
