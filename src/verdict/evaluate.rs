//! The verdict on each broker, from a snapshot and those before it.
//!
//! Levels explain or forecast; probes, progress and thread dumps decide. A deciding finding makes a broker gray, an
//! unconfirmed one makes it suspect, and a thread dump and a probe that find nothing acquit it. Threads that make no
//! progress cause a dump at once: they make a broker suspect only if no dump follows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::finding::{
    BrokerDiagnosis, BrokerState, Change, Diagnosis, Event, Finding, Recovery, Severity,
};
use super::finding_state::{FindingState, KEPT_UNKNOWN, RuleResult};
use super::memory::Memory;
use super::rules::{Case, RULES};
use super::sentence::sentence;
use super::unseen::unseen;
use crate::model::{BrokerSnapshot, ClusterCounts, MatchQuality, Moment, NamedIssue, Snapshot};
use crate::model::{ProcessKey, text};
use crate::threads::known_issues::each_once;
use crate::threads::known_issues::exposure::may_have_ended;

/// Entries of the timeline; older ones are dropped.
const TIMELINE: usize = 200;
/// How long a recovery is shown.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// Evaluates one snapshot after another.
#[derive(Debug, Default)]
pub struct Evaluator {
    processes: BTreeMap<ProcessKey, Memory>,
    /// By label, across restarts.
    labels: BTreeMap<String, Past>,
    timeline: VecDeque<Arc<Event>>,
    /// The longest time that anything must last before it counts; None leaves that to the rules.
    max_hold: Option<Duration>,
}

#[derive(Debug)]
struct Past {
    process: ProcessKey,
    /// The worst state since it was last healthy: `Gray` or `Ended`.
    trouble: Option<BrokerState>,
    /// Whether the process has changed since then.
    restarted: bool,
    recovery: Option<Recovery>,
}

impl Evaluator {
    /// For a single run: whatever should last longer than `longest` counts after `longest`.
    pub fn with_max_hold(longest: Duration) -> Evaluator {
        Evaluator {
            max_hold: Some(longest),
            ..Evaluator::default()
        }
    }

    /// Whether a rule has found something that does not count yet.
    pub fn is_undecided(&self) -> bool {
        self.processes
            .values()
            .flat_map(|memory| memory.findings.values())
            .any(FindingState::is_pending)
    }

    /// The diagnosis of `snapshot` at `now`, which must not lie before that of the last call.
    pub fn evaluate(&mut self, snapshot: &Snapshot, now: Moment) -> Diagnosis {
        self.processes.retain(|process, _| {
            snapshot
                .brokers
                .iter()
                .any(|broker| broker.broker.process == *process)
        });
        let brokers = snapshot
            .brokers
            .iter()
            .map(|broker| self.broker(snapshot, broker, now))
            .collect();
        self.labels
            .retain(|label, _| snapshot.brokers.iter().any(|broker| broker.label == *label));
        let timeline = self.timeline.iter().cloned().collect();
        Diagnosis {
            at: now,
            brokers,
            timeline,
        }
    }

    fn broker(
        &mut self,
        snapshot: &Snapshot,
        broker: &BrokerSnapshot,
        now: Moment,
    ) -> BrokerDiagnosis {
        let mut memory = self
            .processes
            .remove(&broker.broker.process)
            .unwrap_or_default();
        memory.update(snapshot, broker, now);
        memory.unavailable.update(broker, now);
        let mut changes = Vec::new();
        // A process that has ended loses its findings at once.
        let max_hold = broker.ended.map_or(self.max_hold, |_| Some(Duration::ZERO));
        for rule in &RULES {
            let result = match broker.ended {
                Some(_) => RuleResult::Absent,
                None => (rule.check)(&Case {
                    snapshot,
                    broker,
                    memory: &memory,
                    now,
                }),
            };
            let state = memory.findings.entry(rule.id).or_default();
            if let Some(started) = state.update(
                rule.id,
                result,
                rule.holds_for(broker),
                rule.clears_after,
                max_hold,
                now,
            ) && rule.id.kind().severity > Severity::Info
            {
                let finding = rule.id;
                changes.push(match started {
                    true => Change::FindingStarted { finding },
                    false => Change::FindingEnded { finding },
                });
            }
        }
        let state = memory.decide_state(broker, now);
        let since = match memory.state {
            Some((before, since)) if before == state => since,
            before => {
                if before.is_some() || state != BrokerState::Unknown {
                    changes.push(Change::StateChanged { state });
                }
                memory.state = Some((state, now));
                now
            }
        };
        let recovery = self.recovery(broker, state, now, &mut changes);
        for change in changes {
            self.record(now, &broker.label, change);
        }
        let mut findings: Vec<Finding> = memory
            .findings
            .values()
            .filter_map(|s| s.active.clone())
            .collect();
        findings.sort_by_key(|finding| (std::cmp::Reverse(finding.id.kind().severity), finding.id));
        let is_known = |state: &FindingState| {
            state
                .evaluated
                .is_some_and(|at| now.since(at) <= KEPT_UNKNOWN)
        };
        let evaluated = memory
            .findings
            .iter()
            .filter(|(_, state)| is_known(state) && broker.ended.is_none())
            .map(|(id, _)| *id)
            .collect();
        let unseen = match state {
            BrokerState::Healthy => unseen(broker, now),
            _ => Vec::new(),
        };
        let mut diagnosis = BrokerDiagnosis {
            unseen,
            label: broker.label.clone(),
            process: broker.broker.process,
            state,
            since,
            findings,
            evaluated,
            known_issues: known_issues(broker, now),
            forecasts: memory.forecasts.clone(),
            restart_required: memory.restart_required(broker, now),
            unavailable: memory.unavailable.list(),
            only_broker: memory.unavailable.is_only_broker(),
            recovery,
            ..BrokerDiagnosis::default()
        };
        let (sentence, remedy) = sentence(broker, &diagnosis, now);
        (diagnosis.sentence, diagnosis.remedy) = (text::message(sentence), text::message(remedy));
        self.processes.insert(broker.broker.process, memory);
        diagnosis
    }

    fn record(&mut self, at: Moment, broker: &str, change: Change) {
        if self.timeline.len() >= TIMELINE {
            self.timeline.pop_front();
        }
        self.timeline.push_back(Arc::new(Event {
            at,
            broker: broker.to_owned(),
            change,
        }));
    }

    /// Follows a label across its processes: one that was gray or had ended recovers when it is in every ISR again.
    fn recovery(
        &mut self,
        broker: &BrokerSnapshot,
        state: BrokerState,
        now: Moment,
        changes: &mut Vec<Change>,
    ) -> Option<Recovery> {
        let process = broker.broker.process;
        let past = self.labels.entry(broker.label.clone());
        let past = past.or_insert(Past {
            process,
            trouble: None,
            restarted: false,
            recovery: None,
        });
        if past.process != process {
            (past.process, past.restarted) = (process, true);
            past.trouble = past.trouble.or(Some(BrokerState::Ended));
            changes.insert(0, Change::Restarted { pid: process.pid });
        }
        match state {
            BrokerState::Gray => (past.trouble, past.recovery) = (Some(BrokerState::Gray), None),
            BrokerState::Ended if past.trouble.is_none() => {
                (past.trouble, past.recovery) = (Some(BrokerState::Ended), None);
            }
            BrokerState::Healthy => {
                if let Some(from) = past.trouble.take() {
                    let started = broker.broker.started.filter(|_| past.restarted);
                    past.recovery = Some(Recovery {
                        from,
                        back: started.unwrap_or(now),
                        in_every_isr: None,
                    });
                    past.restarted = false;
                }
                let is_complete =
                    |counts: &ClusterCounts| counts.not_in_isr == 0 && counts.isr_leader_alone == 0;
                let complete = broker.partitions(now).is_some_and(is_complete);
                if let Some(recovery) = past
                    .recovery
                    .as_mut()
                    .filter(|recovery| recovery.in_every_isr.is_none() && complete)
                {
                    recovery.in_every_isr = Some(now);
                    changes.push(Change::Recovered);
                }
            }
            _ => {}
        }
        past.recovery = past
            .recovery
            .take()
            .filter(|recovery| now.since(recovery.back) <= REMEMBERED);
        past.recovery.clone()
    }
}

/// The known issues of the deadlock, of the stalls, and of threads that have ended or loop, each once.
fn known_issues(broker: &BrokerSnapshot, now: Moment) -> Vec<NamedIssue> {
    let report = broker.threads.fresh(now);
    let stalls = report.and_then(|report| report.stalls.as_ref());
    let missing = report.and_then(|report| report.missing.as_ref());
    let of_missing = missing
        .into_iter()
        .flat_map(|missing| &missing.found)
        .flat_map(|gone| may_have_ended(&broker.broker, &gone.thread))
        .map(|issue| issue.named(MatchQuality::Similar));
    let of_loops = report
        .into_iter()
        .flat_map(|report| &report.loops)
        .flat_map(|found| &found.known_issues);
    let of_stalls = stalls
        .into_iter()
        .flat_map(|stalls| &stalls.found)
        .flat_map(|stall| &stall.known_issues);
    let of_deadlock = broker
        .deadlock
        .iter()
        .flat_map(|deadlock| &deadlock.known_issues);
    let in_dumps = of_deadlock.chain(of_stalls).chain(of_loops);
    each_once(in_dumps.cloned().chain(of_missing))
}

#[cfg(test)]
mod tests;
