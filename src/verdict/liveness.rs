//! Whether a liveness probe may ask for a restart: only where nothing else cures the broker, and one broker at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::finding::{BrokerDiagnosis, BrokerState, Diagnosis, Finding, FindingId};
use crate::model::ProcessKey;
use crate::model::{
    Broker, BrokerSnapshot, EvidenceProgress, Moment, Probe, ProbeError, Snapshot,
    deserialize_duration,
};

/// Dumps that show the same deadlock or stall must be at least so far apart.
const CONFIRMED: Duration = Duration::from_secs(10);
/// A broker that is down for longer will not return by itself: it must not prevent the cure of this one.
const DOWN_COUNTS: Duration = Duration::from_secs(600);
/// A broker that has returned needs so long to be of use again.
const SETTLES: Duration = Duration::from_secs(60);
/// Of several silent brokers each waits so long for every one with a higher id: longer than three failures of a probe and
/// the time that a container has to end take together.
const TURN: Duration = Duration::from_secs(180);
/// So many brokers with higher ids a broker probes at most, so it waits for no more that nothing asks.
const RING: usize = 8;
/// For all of them together.
const ALL_TURNS: Duration = Duration::from_secs(1800);

/// When a liveness probe may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LivenessSettings {
    pub enabled: bool,
    /// How long after a restart no further one is asked for.
    #[serde(deserialize_with = "deserialize_duration")]
    pub hold_off: Duration,
    /// How long a restart waits for the evidence.
    #[serde(deserialize_with = "deserialize_duration")]
    pub wait_for_evidence: Duration,
}

impl Default for LivenessSettings {
    fn default() -> Self {
        LivenessSettings {
            enabled: true,
            hold_off: Duration::from_secs(600),
            wait_for_evidence: Duration::from_secs(15),
        }
    }
}

/// The answer for one broker process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub process: ProcessKey,
    pub label: String,
    pub id: Option<i32>,
    /// Another user's brokers come first on this host, so it is the answer for nothing but its label.
    pub outranked: bool,
    /// Whether the probe fails, so that its caller restarts the broker.
    pub restart: bool,
    /// The verdict on the broker.
    pub sentence: String,
    /// Why the probe fails or passes; empty where the verdict says it.
    pub reason: String,
}

impl Answer {
    /// The verdict and the reason.
    pub fn text(&self) -> String {
        format!("{} {}", self.sentence, self.reason)
            .trim()
            .to_owned()
    }
}

/// Why no answer belongs to a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    #[error("No broker {0} is known on this host, so nothing speaks against it.")]
    UnknownName(String),
    #[error("No broker is known on this host, so nothing speaks against it.")]
    NoBroker,
    #[error("This host has several brokers: ask /brokers/NAME/live.")]
    Ambiguous,
}

/// The answer for the broker with this label or id, or for the only one of the host. Brokers of users that others come
/// before are known by their labels alone: anybody may start a process with any id.
///
/// # Errors
/// No broker matches, or several do.
pub fn answer_for<'a>(answers: &'a [Answer], name: Option<&str>) -> Result<&'a Answer, NoAnswer> {
    let labelled = |name| answers.iter().find(|answer| answer.label == name);
    if let Some(answer) = name.and_then(labelled) {
        return Ok(answer);
    }
    let matches = |answer: &&Answer| {
        let is_named = |name| answer.id.is_some_and(|id| id.to_string() == name);
        !answer.outranked && name.is_none_or(is_named)
    };
    let mut matching = answers.iter().filter(matches);
    match (matching.next(), matching.next(), name) {
        (Some(only), None, _) => Ok(only),
        (None, _, Some(name)) => Err(NoAnswer::UnknownName(name.to_owned())),
        (None, _, None) => Err(NoAnswer::NoBroker),
        (Some(_), Some(_), _) => Err(NoAnswer::Ambiguous),
    }
}

/// Why a broker that only a restart cures is not restarted yet.
#[derive(Debug, thiserror::Error)]
enum Wait {
    #[error("its process cannot be read now")]
    ProcessUnreadable,
    #[error("a second thread dump has to show the same")]
    SecondDump,
    #[error("the evidence is being saved")]
    Evidence,
    #[error("whether another broker is down is unknown")]
    ClusterUnknown,
    #[error("broker {0} is down or restarting")]
    BrokerDown(i32),
    #[error("broker {0} has just come back")]
    BrokerBack(i32),
    #[error("{}", match .0 {
        1 => "a silent broker with a higher id goes first".to_owned(),
        n => format!("{n} silent brokers with higher ids go first"),
    })]
    Turn(usize),
    #[error(
        "{0} brokers with higher ids go first, {1} of which may be silent because nothing asks them"
    )]
    TurnUnasked(usize, usize),
    #[error("it was restarted recently for the same reason, the next restart is in {0} s")]
    HoldOff(u64),
}

/// What is remembered from view to view.
#[derive(Debug, Default)]
pub struct Liveness {
    settings: LivenessSettings,
    /// Since when a restart is the only cure of this process.
    since: BTreeMap<ProcessKey, Moment>,
    /// By label, the process for which a restart was asked last, and when.
    asked: BTreeMap<String, (ProcessKey, Moment)>,
}

impl Liveness {
    pub fn new(settings: LivenessSettings) -> Liveness {
        Liveness {
            settings,
            ..Liveness::default()
        }
    }

    /// From now on.
    pub fn set(&mut self, settings: LivenessSettings) {
        self.settings = settings;
    }

    /// The answers for every running broker process, in the order of the diagnosis.
    pub fn answers(
        &mut self,
        snapshot: &Snapshot,
        diagnosis: &Diagnosis,
        evidence: impl Fn(&BrokerDiagnosis) -> EvidenceProgress,
        now: Moment,
    ) -> Vec<Answer> {
        let hold_off = self.settings.hold_off;
        self.asked
            .retain(|_, (_, last)| now.since(*last) < hold_off);
        self.since
            .retain(|process, _| diagnosis.of(*process).is_some());
        std::iter::zip(&snapshot.brokers, &diagnosis.brokers)
            .filter(|(broker, _)| broker.ended.is_none())
            .map(|(broker, diagnosed)| {
                let (restart, reason) =
                    self.decide(snapshot, diagnosis, broker, diagnosed, &evidence, now);
                Answer {
                    process: diagnosed.process,
                    label: diagnosed.label.clone(),
                    id: broker.broker.id,
                    outranked: broker.outranked,
                    restart,
                    sentence: diagnosed.sentence.clone(),
                    reason,
                }
            })
            .collect()
    }

    /// Whether to restart the broker, and why or why not.
    fn decide(
        &mut self,
        snapshot: &Snapshot,
        diagnosis: &Diagnosis,
        broker: &BrokerSnapshot,
        diagnosed: &BrokerDiagnosis,
        evidence: impl Fn(&BrokerDiagnosis) -> EvidenceProgress,
        now: Moment,
    ) -> (bool, String) {
        let Some(cause) = diagnosed
            .restart_required
            .as_ref()
            .filter(|_| diagnosed.state == BrokerState::Gray)
        else {
            self.since.remove(&diagnosed.process);
            return (false, diagnosed.remedy.clone());
        };
        if !self.settings.enabled {
            let reason = "(live.enabled is false: no restart is asked for)";
            return (false, reason.to_owned());
        }
        // A deadlock stays active until another dump refutes it, and the process may have ended meanwhile.
        let waits = if broker.process.fresh(now).is_none() {
            Err(Wait::ProcessUnreadable)
        } else if cause.seen_for() < CONFIRMED {
            Err(Wait::SecondDump)
        } else {
            let since = *self.since.entry(diagnosed.process).or_insert(now);
            // Each broker probes the next higher ids, so those go first: any two neighbours agree on the order.
            let before = broker.broker.id.map_or_else(Before::default, |own| {
                before(snapshot, diagnosis, broker, own, now)
            });
            self.may_restart(broker, diagnosed, evidence(diagnosed), before, since, now)
        };
        if let Err(wait) = waits {
            return (false, format!("No restart yet: {wait}."));
        }
        self.asked
            .insert(diagnosed.label.clone(), (diagnosed.process, now));
        let last = broker.cluster.last().map(|(counts, _)| counts);
        let counts = broker.own_partitions(now).or(last);
        let alone = counts.map_or(0, |counts| counts.isr_leader_alone);
        let risk = match alone {
            0 => String::new(),
            n => format!(
                " It is alone in the ISR of {n} partitions: they are offline until it is back, and an unclean leader \
                 election, where that is allowed, would lose what the others have not read."
            ),
        };
        (
            true,
            format!("Only a restart cures it: {}.{risk}", cause.what),
        )
    }

    /// Whether the evidence and the other brokers, some of which go `before`, permit the restart, which has been required
    /// `since`.
    fn may_restart(
        &self,
        broker: &BrokerSnapshot,
        diagnosed: &BrokerDiagnosis,
        evidence: EvidenceProgress,
        before: Before,
        since: Moment,
        now: Moment,
    ) -> Result<(), Wait> {
        let waited = now.since(since);
        if evidence == EvidenceProgress::Pending && waited < self.settings.wait_for_evidence {
            return Err(Wait::Evidence);
        }
        // All other brokers together delay it for so long: one that keeps coming and going must not prevent the cure.
        if waited < DOWN_COUNTS {
            if !knows_cluster(broker, diagnosed, now) && !diagnosed.only_broker {
                return Err(Wait::ClusterUnknown);
            }
            for other in &diagnosed.unavailable {
                match other.until {
                    None if now.since(other.since) < DOWN_COUNTS => {
                        return Err(Wait::BrokerDown(other.id));
                    }
                    Some(back) if back > Moment(0) && now.since(back) < SETTLES => {
                        return Err(Wait::BrokerBack(other.id));
                    }
                    _ => {}
                }
            }
        }
        let all = before.silent + before.unasked;
        let turns = u32::try_from(all).unwrap_or(u32::MAX);
        if waited < TURN.saturating_mul(turns).min(ALL_TURNS) {
            return Err(match before.unasked {
                0 => Wait::Turn(all),
                unasked => Wait::TurnUnasked(all, unasked),
            });
        }
        if let Some((process, last)) = self.asked.get(&diagnosed.label)
            && *process != diagnosed.process
        {
            let left = self.settings.hold_off.saturating_sub(now.since(*last));
            return Err(Wait::HoldOff(left.as_secs()));
        }
        Ok(())
    }
}

/// Whether it is known which brokers are live. A replica of the metadata log that stands still has an old list.
fn knows_cluster(broker: &BrokerSnapshot, diagnosed: &BrokerDiagnosis, now: Moment) -> bool {
    let is_stalled = |finding: &Finding| finding.id == FindingId::MetadataStalled;
    let by_log = broker.registrations(now).is_some() && !diagnosed.findings.iter().any(is_stalled);
    by_log || broker.cluster.fresh(now).is_some()
}

/// How many brokers with higher ids go first.
#[derive(Debug, Clone, Copy, Default)]
struct Before {
    silent: usize,
    /// Those of which nothing here knows whether they are silent.
    unasked: usize,
}

/// The other brokers of its cluster with higher ids that accept connections and answer nothing, as seen from this host, and
/// those that may. A broker of this host counts only if it has the same user, and if the cluster's Metadata names its id at
/// a port of its own, or the metadata log of its cluster has the id: any process may claim any id.
fn before(
    snapshot: &Snapshot,
    diagnosis: &Diagnosis,
    broker: &BrokerSnapshot,
    own: i32,
    now: Moment,
) -> Before {
    let probes = broker.probes.fresh(now);
    let peers = probes.into_iter().flat_map(|probes| &probes.peers);
    let asked = peers.filter_map(|peer| Some((peer.peer.id, peer.api.as_ref()?)));
    let is_silent = |probe: &Probe| probe.error.as_ref().is_some_and(ProbeError::is_silent);
    let asked = asked.map(|(id, probe)| (id, is_silent(probe)));
    let listed = broker
        .cluster
        .last()
        .map_or(&[][..], |(counts, _)| &counts.live_brokers);
    let is_listed = |other: &Broker| {
        let at = |port| other.listeners.iter().any(|l| l.port == port);
        let mut listed = listed.iter();
        // Also from a log that stands still: one broker too many is waited for rather than one too few.
        let log = broker.metadata_log.fresh(now);
        let log = log.filter(|_| other.is_of_same_cluster(&broker.broker));
        let registered = log.filter(|log| log.counts.is_some());
        other.id.is_some_and(|id| {
            listed.any(|peer| id == peer.id && at(peer.port))
                || registered.is_some_and(|log| log.brokers.contains_key(&id))
        })
    };
    let here = std::iter::zip(&snapshot.brokers, &diagnosis.brokers)
        .filter(|(other, _)| other.broker.is_of_same_user(&broker.broker))
        .filter(|(other, _)| is_listed(&other.broker));
    let here = here.filter_map(|(other, diagnosed)| {
        let is_gray = match diagnosed.state {
            BrokerState::Gray => true,
            BrokerState::Healthy => false,
            BrokerState::Starting
            | BrokerState::Closed
            | BrokerState::Ended
            | BrokerState::Suspect
            | BrokerState::Unknown => return None,
        };
        Some((other.broker.id?, is_gray))
    });
    // Whether any process of that id is silent.
    let mut known: BTreeMap<i32, bool> = BTreeMap::new();
    for (id, is_silent) in asked.chain(here).filter(|(id, _)| *id > own) {
        *known.entry(id).or_default() |= is_silent;
    }
    // Without credentials no peer is asked, and deadlocked ones may remain registered.
    let registered = broker.registrations(now).into_iter().flatten();
    let serving = registered.filter(|(id, of)| **id > own && !of.fenced);
    let next = serving.take(RING).map(|(id, _)| id);
    let unasked = next.filter(|id| !known.contains_key(*id));
    Before {
        silent: known.values().filter(|is_silent| **is_silent).count(),
        unasked: unasked.count(),
    }
}

#[cfg(test)]
mod tests;
