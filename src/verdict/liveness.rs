//! Whether a liveness probe may have a broker restarted: only where nothing else cures it, and one broker at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::finding::{BrokerDiagnosis, BrokerState, Diagnosis};
use crate::model::ProcessKey;
use crate::model::{
    BrokerSnapshot, EvidenceProgress, Moment, PeerProbe, ProbeError, Snapshot, deserialize_duration,
};

/// The dumps that show the same deadlock or stall lie at least so far apart.
const CONFIRMED: Duration = Duration::from_secs(10);
/// A broker that is away for longer never comes back by itself: it must not forbid the cure of this one.
const AWAY_COUNTS: Duration = Duration::from_secs(600);
/// One that is back takes so long to be of use again.
const SETTLES: Duration = Duration::from_secs(60);
/// Of several silent brokers each waits so long for every one with a higher id: longer than a probe's three failures and
/// the time that a container has to end take together.
const TURN: Duration = Duration::from_secs(180);

/// When a liveness probe may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LivenessSettings {
    pub enabled: bool,
    /// After a restart was asked for, none is asked for again for so long.
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub process: ProcessKey,
    pub label: String,
    pub id: Option<i32>,
    /// Whether the probe is to fail, so that whoever asks restarts the broker.
    pub restart: bool,
    pub reason: String,
}

/// What is remembered from view to view.
#[derive(Debug, Default)]
pub struct Liveness {
    settings: LivenessSettings,
    /// Since when a restart is the only cure of this process.
    since: BTreeMap<ProcessKey, Moment>,
    /// Of which process a restart was asked for last, and until when; by label.
    asked: BTreeMap<String, (ProcessKey, Moment)>,
}

/// What `/brokers/NAME/live` says, or `/live` where nobody is named: which of the answers is meant, or why none is.
pub fn answer_for<'a>(answers: &'a [Answer], name: Option<&str>) -> Result<&'a Answer, String> {
    let is_meant = |answer: &&Answer| {
        name.is_none_or(|name| {
            answer.label == name || answer.id.is_some_and(|id| id.to_string() == name)
        })
    };
    let mut meant = answers.iter().filter(is_meant);
    match (meant.next(), meant.next(), name) {
        (Some(only), None, _) => Ok(only),
        (None, _, Some(name)) => Err(format!(
            "No broker {name} is known on this host, so nothing speaks against it."
        )),
        (None, _, None) => {
            Err("No broker is known on this host, so nothing speaks against it.".into())
        }
        (Some(_), Some(_), _) => {
            Err("Several brokers of this host are meant: ask /brokers/NAME/live.".into())
        }
    }
}

impl Liveness {
    pub fn new(settings: LivenessSettings) -> Liveness {
        Liveness {
            settings,
            ..Liveness::default()
        }
    }

    /// The answers for every broker process that runs, in the order of the diagnosis.
    pub fn judge(
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
        let mut answers = Vec::new();
        for (broker, judged) in std::iter::zip(&snapshot.brokers, &diagnosis.brokers) {
            if broker.ended.is_some() {
                continue;
            }
            let verdict = self.verdict(snapshot, diagnosis, broker, judged, evidence(judged), now);
            if verdict.is_ok() {
                self.asked
                    .insert(judged.label.clone(), (judged.process, now));
            }
            let restart = verdict.is_ok();
            let reason = verdict.unwrap_or_else(|reason| reason);
            let (process, label, id) = (judged.process, judged.label.clone(), broker.broker.id);
            answers.push(Answer {
                process,
                label,
                id,
                restart,
                reason,
            });
        }
        answers
    }

    /// Why to restart it, or why not.
    fn verdict(
        &mut self,
        snapshot: &Snapshot,
        diagnosis: &Diagnosis,
        broker: &BrokerSnapshot,
        judged: &BrokerDiagnosis,
        evidence: EvidenceProgress,
        now: Moment,
    ) -> Result<String, String> {
        let Some(cause) = judged
            .restart_required
            .as_ref()
            .filter(|_| judged.state == BrokerState::Gray)
        else {
            self.since.remove(&judged.process);
            return Err(format!("{} {}", judged.sentence, judged.remedy)
                .trim()
                .to_owned());
        };
        if !self.settings.enabled {
            return Err(format!(
                "{} (live.enabled is false: no restart is asked for)",
                judged.sentence
            ));
        }
        let wait = |why: String| Err(format!("{} No restart yet: {why}.", judged.sentence));
        // A deadlock stands until another dump says otherwise, and the process may have ended meanwhile.
        if broker.process.fresh(now).is_none() {
            return wait("its process cannot be read now".into());
        }
        if cause.seen_for() < CONFIRMED {
            return wait("a second thread dump has to show the same".into());
        }
        let since = *self.since.entry(judged.process).or_insert(now);
        if evidence == EvidenceProgress::Pending
            && now.since(since) < self.settings.wait_for_evidence
        {
            return wait("the evidence is being saved".into());
        }
        let own = broker.broker.id;
        // All of them together hold it up for so long: one that comes and goes for ever must not forbid the cure.
        let counts = now.since(since) < AWAY_COUNTS;
        if counts && broker.cluster.fresh(now).is_none() && !judged.alone {
            return wait("whether another broker is away is unknown".into());
        }
        for absence in judged.unavailable.iter().filter(|_| counts) {
            match absence.until {
                None if now.since(absence.since) < AWAY_COUNTS => {
                    return wait(format!("broker {} is down or restarting", absence.id));
                }
                Some(back) if back > Moment(0) && now.since(back) < SETTLES => {
                    return wait(format!("broker {} has just come back", absence.id));
                }
                _ => {}
            }
        }
        // Each broker sees the next higher ids of the ring, so those go first: every two near each other agree.
        let before = own.map_or(0, |own| {
            silent(snapshot, diagnosis, own, now)
                .filter(|id| *id > own)
                .count()
        });
        if now.since(since) < TURN * u32::try_from(before).unwrap_or(u32::MAX) {
            return wait(match before {
                1 => "a silent broker with a higher id goes first".to_owned(),
                _ => format!("{before} silent brokers with higher ids go first"),
            });
        }
        if let Some((process, last)) = self.asked.get(&judged.label)
            && *process != judged.process
        {
            let left = self
                .settings
                .hold_off
                .saturating_sub(now.since(*last))
                .as_secs();
            return wait(format!(
                "it was restarted for the same lately, the next restart is in {left} s"
            ));
        }
        let alone = broker
            .cluster
            .last()
            .map_or(0, |(counts, _)| counts.isr_leader_alone);
        let risk = match alone {
            0 => String::new(),
            n => format!(
                " Of {n} partitions it alone is in the ISR: they are offline until it is back, and where unclean \
                 leader election is allowed what the others have not read is lost."
            ),
        };
        Ok(format!(
            "{} Only a restart cures it: {}.{risk}",
            judged.sentence, cause.what
        ))
    }
}

/// Other brokers that accept connections and answer nothing, as seen from this host.
fn silent(
    snapshot: &Snapshot,
    diagnosis: &Diagnosis,
    own: i32,
    now: Moment,
) -> impl Iterator<Item = i32> {
    let probes = snapshot
        .brokers
        .iter()
        .filter(|broker| broker.broker.id == Some(own));
    let peers = probes
        .filter_map(|broker| broker.probes.fresh(now))
        .flat_map(|probes| &probes.peers);
    let is_mute = |peer: &&PeerProbe| {
        peer.api
            .as_ref()
            .and_then(|api| api.error.as_ref())
            .is_some_and(ProbeError::is_silent)
    };
    let mute = peers.filter(is_mute).map(|peer| peer.peer.id);
    let here = std::iter::zip(&snapshot.brokers, &diagnosis.brokers);
    let gray = here
        .filter(|(_, judged)| judged.state == BrokerState::Gray)
        .filter_map(|(broker, _)| broker.broker.id);
    let silent: std::collections::BTreeSet<i32> =
        mute.chain(gray).filter(|id| *id != own).collect();
    silent.into_iter()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use super::*;
    use crate::model::Broker;
    use crate::model::{
        ClusterCounts, Peer, Probe, ProbeError, ProbeReport, ProcessVitals, Reading, Reason,
    };
    use crate::verdict::finding::{RestartRequired, UnavailableBroker};

    const START: Moment = Moment(10_000_000);

    struct Scene {
        liveness: Liveness,
        snapshot: Snapshot,
        diagnosis: Diagnosis,
        evidence: EvidenceProgress,
        now: Moment,
    }

    fn broker(pid: u32) -> BrokerSnapshot {
        let broker = Broker {
            id: Some(2),
            ..Broker::unknown(ProcessKey {
                pid,
                start_ticks: 1,
            })
        };
        let vitals = ProcessVitals {
            state: 'S',
            resident_bytes: 1,
            fd_limit_soft: None,
            fd_limit_hard: None,
        };
        let valid_for = Duration::from_secs(100_000);
        let process = Reading::Known {
            value: vitals,
            at: START,
            valid_for,
        };
        BrokerSnapshot {
            process,
            ..BrokerSnapshot::new(Arc::new(broker), "2".into())
        }
    }

    fn judged(pid: u32, state: BrokerState, seen_for: Option<u64>) -> BrokerDiagnosis {
        let last = |seconds: u64| START.plus(Duration::from_secs(seconds));
        BrokerDiagnosis {
            label: "2".into(),
            process: ProcessKey {
                pid,
                start_ticks: 1,
            },
            state,
            since: START,
            sentence: format!("Broker 2 is {}.", state.name()),
            restart_required: seen_for.map(|s| RestartRequired {
                what: "they hang".into(),
                first: START,
                last: last(s),
            }),
            ..BrokerDiagnosis::default()
        }
    }

    fn deadlocked() -> Scene {
        let mut scene = blind();
        scene.cluster(0);
        scene
    }

    /// Without a word of the cluster.
    fn blind() -> Scene {
        let diagnosis = Diagnosis {
            brokers: vec![judged(10, BrokerState::Gray, Some(15))],
            at: START,
            ..Diagnosis::default()
        };
        let snapshot = Snapshot {
            brokers: vec![Arc::new(broker(10))],
            ..Snapshot::default()
        };
        Scene {
            liveness: Liveness::default(),
            snapshot,
            diagnosis,
            evidence: EvidenceProgress::Saved,
            now: START,
        }
    }

    impl Scene {
        fn answer(&mut self) -> Answer {
            let evidence = self.evidence;
            self.liveness
                .judge(&self.snapshot, &self.diagnosis, |_| evidence, self.now)
                .remove(0)
        }

        fn later(&mut self, seconds: u64) -> Answer {
            self.now = self.now.plus(Duration::from_secs(seconds));
            self.answer()
        }

        fn cluster(&mut self, isr_leader_alone: u64) {
            let counts = ClusterCounts {
                leader: 9,
                isr_leader_alone,
                partitions: 9,
                ..ClusterCounts::default()
            };
            let valid_for = Duration::from_secs(100_000);
            Arc::make_mut(&mut self.snapshot.brokers[0]).cluster = Reading::Known {
                value: counts,
                at: START,
                valid_for,
            };
        }

        fn peers(&mut self, silent: &[i32], reason: Reason) {
            let peer = |id: &i32| {
                let error = ProbeError {
                    reason,
                    accepted: true,
                    message: "no answer".into(),
                };
                let well = Probe {
                    duration: Duration::ZERO,
                    error: None,
                };
                PeerProbe {
                    peer: Peer {
                        id: *id,
                        host: "h".into(),
                        port: 1,
                    },
                    api: Some(Probe {
                        error: Some(error),
                        ..well.clone()
                    }),
                    connect: well,
                }
            };
            let report = ProbeReport {
                api: Probe {
                    duration: Duration::ZERO,
                    error: None,
                },
                metadata: None,
                peers: silent.iter().map(peer).collect(),
            };
            let valid_for = Duration::from_secs(100_000);
            Arc::make_mut(&mut self.snapshot.brokers[0]).probes = Reading::Known {
                value: report,
                at: START,
                valid_for,
            };
        }
    }

    #[test]
    fn only_what_two_dumps_show_is_for_a_restart() {
        assert!(deadlocked().answer().restart);
        let table = [
            (BrokerState::Gray, Some(9), "a second thread dump"),
            (BrokerState::Gray, None, "Broker 2 is gray."),
            (BrokerState::Healthy, None, "Broker 2 is healthy."),
            (BrokerState::Suspect, Some(15), "Broker 2 is suspect."),
            (BrokerState::Down, None, "Broker 2 is down."),
            (BrokerState::Unknown, None, "Broker 2 is unknown."),
        ];
        for (state, seen_for, reason) in table {
            let mut scene = deadlocked();
            scene.diagnosis.brokers = vec![judged(10, state, seen_for)];
            let answer = scene.answer();
            assert!(
                !answer.restart && answer.reason.contains(reason),
                "{state:?} {seen_for:?}: {answer:?}"
            );
        }
        let mut scene = deadlocked();
        scene.liveness = Liveness::new(LivenessSettings {
            enabled: false,
            ..LivenessSettings::default()
        });
        assert!(!scene.answer().restart);
    }

    #[test]
    fn the_evidence_is_waited_for_but_not_for_ever() {
        let mut scene = deadlocked();
        scene.evidence = EvidenceProgress::Pending;
        assert!(
            scene
                .answer()
                .reason
                .contains("the evidence is being saved")
        );
        assert!(!scene.later(14).restart);
        assert!(scene.later(1).restart);
        for evidence in [EvidenceProgress::Saved, EvidenceProgress::None] {
            let mut scene = deadlocked();
            scene.evidence = evidence;
            assert!(scene.answer().restart, "{evidence:?}");
        }
    }

    #[test]
    fn another_broker_that_is_away_forbids_it_for_ten_minutes_at_most() {
        let mut scene = deadlocked();
        let absence = |id, until| UnavailableBroker {
            id,
            since: START,
            until,
        };
        scene.diagnosis.brokers[0].unavailable = vec![absence(3, None)];
        assert!(
            scene
                .later(10)
                .reason
                .contains("broker 3 is down or restarting")
        );
        assert!(!scene.later(589).restart);
        assert!(scene.later(1).restart);
        let mut scene = deadlocked();
        scene.diagnosis.brokers[0].unavailable =
            vec![absence(3, Some(START)), absence(1, Some(Moment(0)))];
        assert!(
            scene
                .answer()
                .reason
                .contains("broker 3 has just come back")
        );
        assert!(scene.later(60).restart);
    }

    #[test]
    fn one_that_cannot_tell_who_is_away_waits_as_long_unless_it_was_alone() {
        let mut scene = blind();
        assert!(
            scene
                .answer()
                .reason
                .contains("whether another broker is away is unknown")
        );
        assert!(!scene.later(599).restart);
        assert!(scene.later(1).restart);
        let mut scene = blind();
        scene.diagnosis.brokers[0].alone = true;
        assert!(scene.answer().restart);
    }

    #[test]
    fn several_silent_brokers_go_one_at_a_time_in_the_order_of_their_ids() {
        let mut scene = deadlocked();
        scene.peers(&[1, 3, 4], Reason::Timeout);
        assert!(
            scene
                .answer()
                .reason
                .contains("2 silent brokers with higher ids go first")
        );
        assert!(!scene.later(359).restart);
        assert!(scene.later(1).restart);
        let mut scene = deadlocked();
        scene.peers(&[0, 1], Reason::Timeout);
        assert!(scene.answer().restart, "the highest id goes first");
        let mut scene = deadlocked();
        scene.peers(&[3, 4], Reason::Slow);
        assert!(scene.answer().restart, "they answer, late");
    }

    #[test]
    fn a_restart_that_did_not_help_is_not_repeated_at_once() {
        let mut scene = deadlocked();
        assert!(scene.answer().restart);
        assert!(
            scene.later(30).restart,
            "the same process until it is restarted"
        );
        scene.snapshot.brokers = vec![Arc::new(broker(11))];
        scene.cluster(0);
        scene.diagnosis.brokers = vec![judged(11, BrokerState::Gray, Some(15))];
        assert!(
            scene
                .later(60)
                .reason
                .contains("restarted for the same lately")
        );
        assert!(!scene.later(539).restart);
        assert!(scene.later(1).restart);
    }

    #[test]
    fn alone_in_the_isr_is_told_and_forbids_nothing() {
        let mut scene = deadlocked();
        scene.cluster(4);
        let answer = scene.later(100);
        assert!(
            answer.restart
                && answer
                    .reason
                    .contains("Of 4 partitions it alone is in the ISR"),
            "{answer:?}"
        );
    }
}
