//! The verdict per broker: from each snapshot and what came before it, without input or output.
//!
//! Levels explain or forecast; probes, progress and thread dumps decide. A deciding finding makes a broker gray, what
//! is not confirmed yet makes it suspect, and a thread dump and a probe that find nothing acquit it. Threads that hardly
//! move call for a dump at once: only when that does not come is a broker suspect for them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::finding::{
    BrokerDiagnosis, BrokerState, Diagnosis, Event, Finding, FindingId, Recovery, Severity,
};
use super::finding_state::{FROZEN, FindingState, Judgement};
use super::memory::Memory;
use super::rules::{Case, RULES};
use super::sentence::sentence;
use crate::model::ProcessKey;
use crate::model::{BrokerSnapshot, ClusterCounts, Moment, NamedIssue, Snapshot};
use crate::threads::known_issues::each_once;

/// Entries of the timeline; older ones fall out.
const TIMELINE: usize = 200;
/// How long a recovery, and a broker that was away and is back, are remembered.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// Judges one snapshot after another.
#[derive(Debug, Default)]
pub struct Evaluator {
    processes: BTreeMap<ProcessKey, Memory>,
    /// By label, over restarts.
    labels: BTreeMap<String, Past>,
    timeline: VecDeque<Arc<Event>>,
    /// Nothing needs to last longer before it counts; None for as long as its rule says.
    max_hold: Option<Duration>,
}

#[derive(Debug)]
struct Past {
    process: ProcessKey,
    /// What it was since it was last healthy: `Gray`, or else `Down`.
    trouble: Option<BrokerState>,
    /// Whether it is another process since.
    restarted: bool,
    recovery: Option<Recovery>,
}

impl Evaluator {
    /// For one look: what must last longer than `longest` counts after that.
    pub fn with_max_hold(longest: Duration) -> Evaluator {
        Evaluator {
            max_hold: Some(longest),
            ..Evaluator::default()
        }
    }

    /// Whether something is seen that does not count yet.
    pub fn is_undecided(&self) -> bool {
        let mut standings = self
            .processes
            .values()
            .flat_map(|memory| memory.findings.values());
        standings.any(|standing| standing.turning.is_some() && standing.active.is_none())
    }

    /// The diagnosis of `snapshot` at `now`, which is not before that of the last one.
    pub fn judge(&mut self, snapshot: &Snapshot, now: Moment) -> Diagnosis {
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
        memory.take(snapshot, broker, now);
        memory.unavailable.take(broker, now);
        let mut events = Vec::new();
        // Of a process that has ended nothing stands.
        let max_hold = broker.ended.map_or(self.max_hold, |_| Some(Duration::ZERO));
        for rule in &RULES {
            let judgement = match broker.ended {
                Some(_) => Judgement::Absent,
                None => (rule.judge)(&Case {
                    snapshot,
                    broker,
                    memory: &memory,
                    now,
                }),
            };
            let standing = memory.findings.entry(rule.id).or_default();
            if let Some(began) = standing.take(
                rule.id,
                judgement,
                rule.holds_for(broker),
                rule.clears_after,
                max_hold,
                now,
            ) && rule.id.kind().severity > Severity::Info
            {
                let what = format!(
                    "{}{}",
                    rule.id.kind().title,
                    if began { "" } else { ": over" }
                );
                events.push((what, Some(rule.id)));
            }
        }
        let state = memory.judge_state(broker, now);
        let since = match memory.state {
            Some((before, since)) if before == state => since,
            before => {
                if before.is_some() || state != BrokerState::Unknown {
                    events.push((format!("is {}", state.name()), None));
                }
                memory.state = Some((state, now));
                now
            }
        };
        let recovery = self.recovery(broker, state, now, &mut events);
        for (what, finding) in events {
            self.tell(now, &broker.label, what, finding);
        }
        let mut findings: Vec<Finding> = memory
            .findings
            .values()
            .filter_map(|s| s.active.clone())
            .collect();
        findings.sort_by_key(|finding| (std::cmp::Reverse(finding.id.kind().severity), finding.id));
        let fresh =
            |standing: &FindingState| standing.judged.is_some_and(|at| now.since(at) <= FROZEN);
        let judged = memory
            .findings
            .iter()
            .filter(|(_, standing)| fresh(standing))
            .map(|(id, _)| *id)
            .collect();
        let mut diagnosis = BrokerDiagnosis {
            label: broker.label.clone(),
            process: broker.broker.process,
            state,
            since,
            findings,
            judged: if broker.ended.is_some() {
                Vec::new()
            } else {
                judged
            },
            known_issues: known_issues(broker, now),
            forecasts: memory.forecasts.clone(),
            restart_required: memory.restart_required(broker, now),
            unavailable: memory.unavailable.list(),
            alone: memory.unavailable.is_alone(),
            recovery,
            ..BrokerDiagnosis::default()
        };
        (diagnosis.sentence, diagnosis.remedy) = sentence(broker, &diagnosis, now);
        self.processes.insert(broker.broker.process, memory);
        diagnosis
    }

    fn tell(&mut self, at: Moment, broker: &str, what: String, finding: Option<FindingId>) {
        if self.timeline.len() >= TIMELINE {
            self.timeline.pop_front();
        }
        self.timeline.push_back(Arc::new(Event {
            at,
            broker: broker.to_owned(),
            what,
            finding,
        }));
    }

    /// Follows a label over its processes: what was gray or down and is whole again has recovered.
    fn recovery(
        &mut self,
        broker: &BrokerSnapshot,
        state: BrokerState,
        now: Moment,
        events: &mut Vec<(String, Option<FindingId>)>,
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
            past.trouble = past.trouble.or(Some(BrokerState::Down));
            events.insert(0, (format!("restarted as process {}", process.pid), None));
        }
        match state {
            BrokerState::Gray => (past.trouble, past.recovery) = (Some(BrokerState::Gray), None),
            BrokerState::Down if past.trouble.is_none() && broker.ended.is_some() => {
                (past.trouble, past.recovery) = (Some(BrokerState::Down), None);
            }
            BrokerState::Healthy => {
                if let Some(from) = past.trouble.take() {
                    let started = broker.broker.started.filter(|_| past.restarted);
                    past.recovery = Some(Recovery {
                        from,
                        back: started.unwrap_or(now),
                        whole: None,
                    });
                    past.restarted = false;
                }
                let is_whole =
                    |counts: &ClusterCounts| counts.not_in_isr == 0 && counts.isr_leader_alone == 0;
                let whole = broker.partitions(now).is_some_and(is_whole);
                if let Some(recovery) = past
                    .recovery
                    .as_mut()
                    .filter(|recovery| recovery.whole.is_none() && whole)
                {
                    recovery.whole = Some(now);
                    events.push(("recovered: it is in every ISR again".into(), None));
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

/// Of the standing deadlock and of the stalls, each name once.
fn known_issues(broker: &BrokerSnapshot, now: Moment) -> Vec<NamedIssue> {
    let stalls = broker
        .threads
        .fresh(now)
        .and_then(|report| report.stalls.as_ref());
    let of_stalls = stalls
        .into_iter()
        .flat_map(|stalls| &stalls.found)
        .flat_map(|stall| &stall.known_issues);
    let of_deadlock = broker
        .deadlock
        .iter()
        .flat_map(|standing| &standing.known_issues);
    each_once(of_deadlock.chain(of_stalls).cloned())
}

#[cfg(test)]
mod tests;
