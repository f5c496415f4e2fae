//! What was looked for and not found, where nothing speaks against any broker: an answer that names only the files is none.

use std::collections::BTreeSet;

use super::gathering::{Gathering, MANY, count, fact};
use crate::analyze::artifact::File;
use crate::analyze::dumps::Analysis;
use crate::analyze::explanation::{Fact, FactKind, Form};
use crate::analyze::formats::sockets::Line;
use crate::analyze::formats::topics;
use crate::analyze::names::Owner;
use crate::model::TcpState;

impl Gathering<'_> {
    pub(super) fn nothing_found(
        &mut self,
        files: &[File<'_>],
        owners: &[Owner],
        analysis: &Analysis,
    ) {
        let signals = self.signals.values().flat_map(|signals| &signals.facts);
        let facts: Vec<&Fact> = signals
            .map(|signal| &signal.fact)
            .chain(&self.elsewhere)
            .collect();
        let is_anything = facts.iter().any(|fact| fact.against.is_some());
        if is_anything || !analysis.deadlocks.is_empty() {
            return;
        }
        let spoken: BTreeSet<String> = facts.iter().map(|fact| fact.source.clone()).collect();
        for (file, owner) in files.iter().zip(owners) {
            if spoken.contains(file.source) {
                continue;
            }
            let sentences: Vec<String> = file
                .forms
                .iter()
                .filter_map(|form| not_found(file, *form))
                .collect();
            if !sentences.is_empty() {
                let fact = fact(FactKind::NothingFound, file, sentences.join("; "), &[]);
                self.add(owner.as_ref().map(|(name, _)| name), fact.alone());
            }
        }
    }
}

/// No fact names connections of clients in CLOSE_WAIT, nor a few at a port that is no broker's: they are ordinary.
fn sockets(file: &File<'_>) -> String {
    let rest = "no unread bytes, no connection that waits to be accepted";
    let in_state = |wanted: TcpState| {
        file.socket_lines().fold(0_u64, |sum, line| match line {
            Line::Row(row) if row.state == Some(wanted) => sum.saturating_add(row.times),
            _ => sum,
        })
    };
    match (in_state(TcpState::CloseWait), in_state(TcpState::FinWait2)) {
        (0, 0) => format!("no connection in CLOSE_WAIT or FIN_WAIT2, {rest}"),
        (closing, waiting) => format!(
            "{} in CLOSE_WAIT, none of them at a broker's port and fewer than {MANY} at any other, {waiting} in FIN_WAIT2, none of them towards a broker, {rest}",
            count(closing, "connection")
        ),
    }
}

/// What a form can show and does not. None for a form that always shows something.
fn not_found(file: &File<'_>, form: Form) -> Option<String> {
    let period = || {
        let log = file.log.as_ref().filter(|log| !log.first.is_empty());
        log.map_or(String::new(), |log| {
            format!(" from {} to {}", log.first, log.last)
        })
    };
    Some(match form {
        Form::BrokerLog => format!(
            "a log{} without a line that is known to mean trouble, without a connection lost to a broker, and without an ISR that shrank to the broker alone and stayed so",
            period()
        ),
        Form::ClientLog => format!(
            "a client's log{} without a failed produce request, and without a connection that ended before its answer",
            period()
        ),
        Form::Sockets => sockets(file),
        Form::Topics => {
            let rows = file.partitions();
            let (all, short) = rows.fold((0, 0), |(all, short), row| {
                let (replicas, isr) = (topics::ids(row.replicas), topics::ids(row.isr));
                (all + 1, short + u64::from(isr.count() < replicas.count()))
            });
            format!(
                "{}, none offline and no leader alone in its ISR; {short} under-replicated",
                count(all, "partition")
            )
        }
        Form::ZooKeeper => "no broker is registered in ZooKeeper".to_owned(),
        Form::Settings => {
            "settings, which say which broker it is and nothing of its health".to_owned()
        }
        Form::Dump
        | Form::Groups
        | Form::Fds
        | Form::Quorum
        | Form::MetadataLog
        | Form::LogDirs
        | Form::Limits
        | Form::Top
        | Form::Findings
        | Form::Evidence => return None,
    })
}
