//! The verdict per broker: from each snapshot and what came before it, without input or output.
//!
//! Levels explain or forecast; probes, progress and thread dumps decide. A deciding finding makes a broker gray, what
//! is not confirmed yet makes it suspect, and a thread dump and a probe that find nothing acquit it. Threads that hardly
//! move call for a dump at once: only when that does not come is a broker suspect for them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::absences::Absences;
use super::finding::{
    BrokerDiagnosis, BrokerState, Diagnosis, Event, Finding, FindingId, Forecasts, OnlyRestart,
    Recovery, Severity,
};
use super::forecast::Series;
use super::known_issues::each_once;
use super::rules::{Case, Judgement, RULES, Rule, is_silent, is_unreachable, span};
use crate::discover::ProcessKey;
use crate::snapshot::{
    BrokerSnapshot, ClusterCounts, Moment, NamedIssue, Reading, Snapshot, Stall,
};

/// Entries of the timeline; older ones fall out.
const TIMELINE: usize = 200;
/// What cannot be judged any more is forgotten after so long.
const FROZEN: Duration = Duration::from_secs(120);
/// How long a recovery, and a broker that was away and is back, are remembered.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// A process that is younger, and has been asked and has not answered yet, is starting: its port may be open long before.
const STARTING: Duration = Duration::from_secs(600);
/// The first probe of a process ends within so long.
const FIRST_PROBE: Duration = Duration::from_secs(30);

/// A dump of threads that hardly move is taken at once; so long it may take.
const DUMP_TIME: Duration = Duration::from_secs(3);

/// Findings that make a broker gray.
pub(super) const DECIDING: [FindingId; 5] = [
    FindingId::JvmDeadlock,
    FindingId::LockCycle,
    FindingId::StalledPool,
    FindingId::ProcessStopped,
    FindingId::ApiUnresponsive,
];
/// Levels that make it suspect until a dump and a probe have looked.
const SUSPICIOUS: [FindingId; 3] = [
    FindingId::CloseWaitPileup,
    FindingId::AcceptQueueFull,
    FindingId::FileHandleExhaustion,
];

/// Judges one snapshot after another.
#[derive(Debug, Default)]
pub struct Judge {
    processes: BTreeMap<ProcessKey, Memory>,
    /// By label, over restarts.
    labels: BTreeMap<String, Past>,
    timeline: VecDeque<Arc<Event>>,
    /// Nothing needs to last longer before it counts; None for as long as its rule says.
    hurry: Option<Duration>,
}

/// What is remembered of one broker process.
#[derive(Debug, Default)]
pub struct Memory {
    pub handles: Series,
    maps: Series,
    /// Bytes in use, by log dir.
    disks: BTreeMap<String, Series>,
    pub forecasts: Forecasts,
    pub absences: Absences,
    findings: BTreeMap<FindingId, Standing>,
    state: Option<(BrokerState, Moment)>,
    /// By the threads of the cycle: the first and the newest dump that shows it.
    cycles: BTreeMap<Vec<String>, (Moment, Moment)>,
    last_probe_success: Option<Moment>,
    /// Whether it has answered; None before it was asked.
    has_answered: Option<bool>,
    last_clean_dump: Option<Moment>,
    /// Since when threads have hardly moved.
    still: Option<Moment>,
}

/// Where one rule stands.
#[derive(Debug, Default)]
struct Standing {
    active: Option<Finding>,
    /// Since when it says the opposite of what counts.
    turning: Option<Moment>,
    judged: Option<Moment>,
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

impl Judge {
    /// For one look: what must last longer than `longest` counts after that.
    pub fn in_a_hurry(longest: Duration) -> Judge {
        Judge {
            hurry: Some(longest),
            ..Judge::default()
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
        memory.absences.take(broker, now);
        let mut events = Vec::new();
        // Of a process that has ended nothing stands.
        let hurry = broker.ended.map_or(self.hurry, |_| Some(Duration::ZERO));
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
            if let Some(began) =
                standing.take(rule, judgement, rule.begins_after(broker), hurry, now)
                && rule.id.kind().severity > Severity::Info
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
        let fresh = |standing: &Standing| standing.judged.is_some_and(|at| now.since(at) <= FROZEN);
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
            only_restart: memory.only_restart(broker, now),
            absences: memory.absences.list(),
            alone: memory.absences.is_alone(),
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

/// Nobody listens: it is starting, or on its way down. Where the kernel shows its listener, it was another's address that
/// was asked.
fn is_closed(broker: &BrokerSnapshot, now: Moment) -> bool {
    let error = broker
        .probes
        .fresh(now)
        .and_then(|probes| probes.api.error.as_ref());
    let listens = broker
        .sockets
        .fresh(now)
        .is_some_and(|pulse| !pulse.accept_queues.is_empty());
    error.is_some_and(|error| error.reason == "refused") && !listens
}

/// When the process began, while that is not long ago.
fn young_since(broker: &BrokerSnapshot, now: Moment) -> Option<Moment> {
    broker
        .broker
        .started
        .filter(|started| now.since(*started) < STARTING)
}

impl Standing {
    /// Takes a judgement in; whether the finding has begun (true) or ended with it.
    fn take(
        &mut self,
        rule: &Rule,
        judgement: Judgement,
        begins_after: Duration,
        hurry: Option<Duration>,
        now: Moment,
    ) -> Option<bool> {
        let facts = match judgement {
            Judgement::Unknown => {
                let forget = self.judged.is_none_or(|at| now.since(at) > FROZEN);
                if forget {
                    self.turning = None;
                }
                return (forget && self.active.take().is_some()).then_some(false);
            }
            Judgement::Absent => None,
            Judgement::Present(facts) => Some(facts),
        };
        self.judged = Some(now);
        if facts.is_some() == self.active.is_some() {
            self.turning = None;
            if let (Some(active), Some(facts)) = (&mut self.active, facts) {
                active.facts = facts;
            }
            return None;
        }
        let since = *self.turning.get_or_insert(now);
        let needed = if facts.is_some() {
            begins_after
        } else {
            rule.ends_after
        };
        let needed = hurry.map_or(needed, |longest| needed.min(longest));
        if now.since(since) < needed {
            return None;
        }
        self.turning = None;
        self.active = facts.map(|facts| Finding {
            id: rule.id,
            since,
            facts,
        });
        Some(self.active.is_some())
    }
}

impl Memory {
    fn take(&mut self, snapshot: &Snapshot, broker: &BrokerSnapshot, now: Moment) {
        if let Some((count, at)) = broker.handles.last() {
            self.handles.push(at, *count as f64);
        }
        if let Some((count, at)) = broker.memory_maps.last() {
            self.maps.push(at, *count as f64);
        }
        if let Some((spaces, at)) = broker.log_dirs.last() {
            for space in spaces {
                let disk = self
                    .disks
                    .entry(space.dir.display().to_string())
                    .or_default();
                disk.push(at, space.used_bytes() as f64);
            }
        }
        let handle_limit = broker
            .process
            .fresh(now)
            .map(|vitals| vitals.handle_limit_soft);
        let limit = handle_limit.map(|limit| limit.map_or(f64::INFINITY, |limit| limit as f64));
        self.forecasts.file_handles = limit
            .map(|limit| self.handles.forecast(limit))
            .unwrap_or_default();
        let limit = snapshot
            .memory_map_limit
            .fresh(now)
            .map(|limit| *limit as f64);
        self.forecasts.memory_maps = limit
            .map(|limit| self.maps.forecast(limit))
            .unwrap_or_default();
        let spaces = broker.log_dirs.fresh(now).map_or(&[][..], |spaces| spaces);
        let forecasts = spaces.iter().filter_map(|space| {
            let dir = space.dir.display().to_string();
            let forecast = self.disks.get(&dir)?.forecast(space.total_bytes as f64);
            Some((dir, forecast))
        });
        self.forecasts.log_dirs = forecasts.collect();

        if let Reading::Known {
            value: probes, at, ..
        } = &broker.probes
        {
            let error = probes.api.error.as_ref();
            if error.is_none() {
                self.last_probe_success = Some(*at);
            }
            let waits = error.is_some_and(|error| is_silent(error) && error.reason == "timeout");
            let answered = !waits && !is_closed(broker, now);
            self.has_answered = Some(answered || self.has_answered == Some(true));
        }
        if let Reading::Known {
            value: report, at, ..
        } = &broker.threads
            && report.deadlocks.is_empty()
            && report
                .stalls
                .as_ref()
                .is_none_or(|stalls| stalls.found.is_empty())
        {
            self.last_clean_dump = Some(*at);
        }
        let still = broker
            .progress
            .fresh(now)
            .is_some_and(|progress| !progress.suspects.is_empty());
        self.still = still.then(|| self.still.unwrap_or(now));
        let standing = broker.deadlock.as_ref();
        let cycles: BTreeSet<Vec<String>> = standing
            .iter()
            .flat_map(|standing| &standing.deadlocks)
            .map(|deadlock| members(&deadlock.cycle))
            .collect();
        self.cycles.retain(|cycle, _| cycles.contains(cycle));
        for cycle in cycles {
            let confirmed = standing.map_or(now, |standing| standing.confirmed);
            self.cycles.entry(cycle).or_insert((confirmed, confirmed)).1 = confirmed;
        }
    }

    pub(super) fn is_active(&self, id: FindingId) -> bool {
        self.findings
            .get(&id)
            .is_some_and(|standing| standing.active.is_some())
    }

    pub(super) fn is_starting(&self, broker: &BrokerSnapshot, now: Moment) -> bool {
        self.has_answered == Some(false) && young_since(broker, now).is_some()
    }

    fn judge_state(&self, broker: &BrokerSnapshot, now: Moment) -> BrokerState {
        if broker.ended.is_some() {
            return BrokerState::Down;
        }
        if DECIDING.into_iter().any(|id| self.is_active(id)) {
            return BrokerState::Gray;
        }
        if self.is_starting(broker, now) || is_closed(broker, now) {
            return BrokerState::Down;
        }
        let probe = broker.probes.fresh(now).map(|probes| &probes.api);
        let still = self.still.filter(|since| now.since(*since) >= DUMP_TIME);
        let suspects = still.is_some_and(|since| self.last_clean_dump.is_none_or(|at| at < since));
        let failing = probe.is_some_and(|probe| {
            probe
                .error
                .as_ref()
                .is_some_and(|e| is_silent(e) || is_unreachable(e))
        });
        let acquitted = self.last_probe_success.min(self.last_clean_dump);
        let level = SUSPICIOUS
            .into_iter()
            .filter_map(|id| self.findings.get(&id)?.active.as_ref());
        let unexplained = level
            .into_iter()
            .any(|finding| acquitted.is_none_or(|at| at < finding.since));
        if suspects || failing || unexplained || self.is_active(FindingId::MissingThread) {
            return BrokerState::Suspect;
        }
        // The threads of one that starts stand well before it serves: its first probe, which ends soon, is waited for.
        let age = broker.broker.started.map(|started| now.since(started));
        let may_start =
            broker.probes == Reading::default() && age.is_some_and(|age| age < FIRST_PROBE);
        let threads_tell = !may_start && broker.threads.fresh(now).is_some();
        let decided = threads_tell || probe.is_some_and(|probe| probe.success());
        if decided {
            BrokerState::Healthy
        } else {
            BrokerState::Unknown
        }
    }

    /// The deadlock, or the stall in front of a lock, that several dumps show.
    fn only_restart(&self, broker: &BrokerSnapshot, now: Moment) -> Option<OnlyRestart> {
        if broker.ended.is_some() {
            return None;
        }
        let cycle = self
            .cycles
            .iter()
            .max_by_key(|(_, (first, last))| last.since(*first));
        if let Some((threads, (first, last))) = cycle {
            let what = format!("{} wait for each other", threads.join(", "));
            return Some(OnlyRestart {
                what,
                first: *first,
                last: *last,
            });
        }
        broker.threads.fresh(now)?;
        let (report, at) = broker.threads.last()?;
        let locked = |stall: &&Stall| is_at_lock(stall) && stall.goes_on_with.is_none();
        let stall = report
            .stalls
            .as_ref()?
            .found
            .iter()
            .filter(locked)
            .min_by_key(|stall| stall.since)?;
        let lock = stall.lock_class.as_deref().unwrap_or_default();
        let (threads, pool) = (stall.threads.len(), &stall.pool);
        let what = match threads {
            1 => format!("1 thread of {pool} waits for {lock} and does not move"),
            _ => format!("{threads} threads of {pool} wait for {lock} and do not move"),
        };
        Some(OnlyRestart {
            what,
            first: stall.since,
            last: at,
        })
    }
}

/// Not so for what an event ends: a condition, a latch, a permit, a notification.
fn is_at_lock(stall: &Stall) -> bool {
    let events = [
        "ConditionObject",
        "CountDownLatch",
        "Semaphore",
        "CompletableFuture",
        "FutureTask",
    ];
    let class = stall.lock_class.as_deref();
    let notified = stall
        .frames
        .first()
        .is_some_and(|frame| frame.starts_with("java.lang.Object.wait"));
    class.is_some_and(|class| !events.iter().any(|event| class.contains(event))) && !notified
}

fn members(cycle: &[crate::snapshot::DeadlockedThread]) -> Vec<String> {
    let mut names: Vec<String> = cycle.iter().map(|member| member.thread.clone()).collect();
    names.sort();
    names
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

/// The verdict for a person, and what to do.
fn sentence(broker: &BrokerSnapshot, judged: &BrokerDiagnosis, now: Moment) -> (String, String) {
    let name = format!("Broker {}", broker.label);
    let since = judged.since;
    let by = judged
        .known_issues
        .first()
        .map(by_issue)
        .unwrap_or_default();
    let of = |wanted: FindingId| judged.findings.iter().find(|finding| finding.id == wanted);
    let told = |text: String, remedy: &str| (text, remedy.to_owned());
    match judged.state {
        BrokerState::Down => match broker.ended {
            Some(ended) => told(
                format!("{name} is down: its process ended at {}.", clock(ended)),
                "Start it.",
            ),
            None => match young_since(broker, now) {
                Some(started) => told(
                    format!(
                        "{name} is starting: its process runs since {}.",
                        clock(started)
                    ),
                    "",
                ),
                None => told(
                    format!(
                        "{name} is down: its process runs and nobody listens since {}.",
                        clock(since)
                    ),
                    "Look at its log: it is shutting down, or has lost its listener.",
                ),
            },
        },
        BrokerState::Gray => {
            let deadlock = of(FindingId::JvmDeadlock).or_else(|| of(FindingId::LockCycle));
            if let Some(finding) = deadlock {
                let since = clock(finding.since);
                told(
                    format!("{name} is alive but deadlocked since {since}{by}."),
                    "Restart it.",
                )
            } else if let Some(finding) = of(FindingId::ProcessStopped) {
                let since = clock(finding.since);
                told(
                    format!("{name} is stopped by a signal since {since}."),
                    "Let it go on: kill -CONT.",
                )
            } else if let Some(finding) = of(FindingId::StalledPool) {
                let since = clock(finding.since);
                let what = finding
                    .facts
                    .first()
                    .map(String::as_str)
                    .unwrap_or("threads stand still");
                told(
                    format!("{name} is alive but stalled since {since}{by}: {what}."),
                    "Restart it if it lasts.",
                )
            } else {
                let since = of(FindingId::ApiUnresponsive).map_or(since, |finding| finding.since);
                let text = format!(
                    "{name} accepts connections and answers nothing since {}.",
                    clock(since)
                );
                told(text, "See what is found below.")
            }
        }
        BrokerState::Suspect => match of(FindingId::MissingThread) {
            Some(finding) => told(
                format!(
                    "{name} works in part only since {}: {}.",
                    clock(since),
                    finding.facts.join("; ")
                ),
                "See what is found below.",
            ),
            None => told(
                format!("{name} is suspect since {}; looking closer.", clock(since)),
                "",
            ),
        },
        BrokerState::Unknown => told(
            format!("{name}: what would tell whether it works could not be read."),
            "See what is unknown, and why.",
        ),
        BrokerState::Healthy => match &judged.recovery {
            Some(Recovery {
                whole: Some(whole),
                back,
                ..
            }) => {
                let took = span(whole.since(*back).as_secs_f64());
                told(
                    format!(
                        "{name} has recovered: back since {}, in every ISR {took} later.",
                        clock(*back)
                    ),
                    "",
                )
            }
            Some(Recovery { back, .. }) => {
                let counts = broker.partitions(now);
                let back = clock(*back);
                let what = match counts.map(|counts| (counts.not_in_isr, counts.isr_leader_alone)) {
                    None => "; whether it is in every ISR is unknown".to_owned(),
                    Some((0, alone)) => format!(" and still alone in {alone} ISRs"),
                    Some((behind, _)) => format!(" and still missing in {behind} ISRs"),
                };
                told(format!("{name} is back since {back}{what}."), "Wait.")
            }
            None => told(format!("{name} is healthy."), ""),
        },
    }
}

/// ` by KAFKA-4399, fixed in 0.10.1.1`
fn by_issue(known: &NamedIssue) -> String {
    let likely = if known.is_exact() {
        "by"
    } else {
        "by what looks like"
    };
    let fixed = known
        .fixed_in
        .first()
        .map(|version| format!(", fixed in {version}"))
        .unwrap_or_default();
    format!(" {likely} {}{fixed}", known.issue)
}

/// `10:14:02 UTC`
pub fn clock(at: Moment) -> String {
    let seconds = at.0 / 1000 % 86_400;
    format!(
        "{:02}:{:02}:{:02} UTC",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests;
