//! What is remembered of one broker process from snapshot to snapshot, and the state that follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::finding::{BrokerState, FindingId, Forecasts, RestartRequired, Severity};
use super::finding_state::{FindingState, RuleResult};
use super::forecast::Series;
use super::known_faults::KnownFaults;
use super::pauses::Pauses;
use super::stalls::is_at_lock;
use super::standing::Standing;
use super::unavailable::UnavailableBrokers;
use super::views::{Counts, Views};
use crate::model::{
    BrokerSnapshot, DeadlockedThread, Moment, Probe, ProbeError, Reading, Reason, Snapshot, Stall,
};

/// A younger process that has not answered any request yet is starting: its port may be open long before it serves.
pub const STARTING: Duration = Duration::from_secs(600);
/// The first probe of a process ends within this time.
const FIRST_PROBE: Duration = Duration::from_secs(30);

/// How long the registration of a process that was killed may seem to be that of its successor:
/// `broker.session.timeout.ms`, by default 9 s, with some room.
const OLD_REGISTRATION: Duration = Duration::from_secs(30);

/// A broker that has started may take so long until it is in all ISRs; later, it, or the leader, is too slow.
const CATCHES_UP: Duration = Duration::from_secs(3600);

/// How long a broker may take to apply a record of its metadata log.
const SETTLED: Duration = Duration::from_secs(5);

/// A JVM that stands for a larger share of the time works only in part.
pub(super) const PAUSED: f64 = 0.5;
/// For a larger one, it serves nobody in time, until its share falls below the other again.
const MOSTLY_PAUSED: f64 = 0.8;

/// How long it takes until the end of a process is known with its reason.
const END_IS_READ: Duration = Duration::from_secs(10);

/// How long the dump may take that follows when threads make no progress.
const DUMP_TIME: Duration = Duration::from_secs(3);

/// Findings that make a broker gray.
pub const DECIDING: [FindingId; 9] = [
    FindingId::JvmDeadlock,
    FindingId::LockCycle,
    FindingId::StalledPool,
    FindingId::ProcessStopped,
    FindingId::DiskHung,
    FindingId::ApiUnresponsive,
    FindingId::BrokerFenced,
    FindingId::StaleView,
    FindingId::NotRegistered,
];
/// Findings that make it suspect as long as they last: it works only in part.
pub(super) const PARTIAL: [FindingId; 12] = [
    FindingId::JvmPaused,
    FindingId::LogDirFailed,
    FindingId::PartialStall,
    FindingId::LikelyDeadlock,
    FindingId::EndlessLoop,
    FindingId::MissingThread,
    FindingId::ListenerUnresponsive,
    FindingId::MetadataStalled,
    FindingId::CutOff,
    FindingId::ZooKeeperUnreachable,
    FindingId::FollowersLost,
    FindingId::ReplicaBehind,
];
/// Levels that make it suspect until a later dump and a later probe find nothing.
const SUSPICIOUS: [FindingId; 3] = [
    FindingId::CloseWaitPileup,
    FindingId::AcceptQueueFull,
    FindingId::FileHandleExhaustion,
];

/// What is remembered of one broker process.
#[derive(Debug, Default)]
pub struct Memory {
    pub fds: Series,
    pauses: Pauses,
    is_mostly_paused: bool,
    maps: Series,
    /// Used bytes by log dir.
    disks: BTreeMap<String, Series>,
    pub forecasts: Forecasts,
    pub unavailable: UnavailableBrokers,
    pub findings: BTreeMap<FindingId, FindingState>,
    pub state: Option<(BrokerState, Moment)>,
    /// The first and the newest dump that show a cycle, by its threads.
    cycles: BTreeMap<Vec<String>, (Moment, Moment)>,
    last_probe_success: Option<Moment>,
    /// Whether it has ever answered; None before the first probe.
    has_answered: Option<bool>,
    last_clean_dump: Option<Moment>,
    /// Since when threads have made no progress.
    no_progress_since: Option<Moment>,
    /// Whether the controller had unfenced this process.
    was_unfenced: bool,
    /// Since when the metadata log has this broker in controlled shutdown.
    shuts_down_since: Option<Moment>,
    /// What the other view of the cluster counts, and since when.
    other_view: Option<(Counts, Moment)>,
    /// Whether Metadata and the other view ever agreed.
    pub views_agreed: bool,
    pub standing: Standing,
    /// Whether it was ever in all ISRs.
    was_in_every_isr: bool,
    /// When the ISRs of all partitions that it leads were last complete.
    complete: Moment,
    known_faults: KnownFaults,
}

/// Whether nothing listens: the broker is starting or shutting down. If the kernel shows a listener of the broker, the
/// probe went to another process's address.
pub(super) fn is_closed(broker: &BrokerSnapshot, now: Moment) -> bool {
    let error = broker
        .probes
        .fresh(now)
        .and_then(|probes| probes.first()?.error.as_ref());
    let listens = broker
        .accept_queues
        .fresh(now)
        .is_some_and(|queues| !queues.is_empty());
    error.is_some_and(|error| error.reason == Reason::Refused) && !listens
}

/// What contradicts that the broker works, whatever its threads do: a listener of its own answers what Kafka's protocol does
/// not allow, or nothing listens where it is asked, while another of its listeners is open: a node that is controller as
/// well opens that one first.
pub(super) fn contradiction(broker: &BrokerSnapshot, now: Moment) -> Option<&ProbeError> {
    let probes = broker.probes.fresh(now)?;
    let others = probes.listeners.iter().map(|one| &one.probe);
    let mut errors = probes
        .own()
        .chain(others)
        .filter_map(|probe| probe.error.as_ref());
    let refused = || {
        let first = probes.first()?.error.as_ref();
        first.filter(|error| error.reason == Reason::Refused)
    };
    errors
        .find(|error| error.reason == Reason::Protocol)
        .or_else(refused)
}

/// When the process started, if that was not long ago.
pub fn young_since(broker: &BrokerSnapshot, now: Moment) -> Option<Moment> {
    broker
        .broker
        .started
        .filter(|started| now.since(*started) < STARTING)
}

impl Memory {
    pub fn update(&mut self, snapshot: &Snapshot, broker: &BrokerSnapshot, now: Moment) {
        self.known_faults.update(&broker.broker);
        if let Some((count, at)) = broker.open_fds.last() {
            self.fds.push(at, *count as f64);
        }
        if let Some((total, at)) = broker.jvm_pauses.last() {
            self.pauses.push(at, *total);
        }
        if let Some(share) = self.share_paused(broker, now) {
            let is_still = self.is_mostly_paused && share > PAUSED;
            self.is_mostly_paused = is_still || share > MOSTLY_PAUSED;
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
        let fd_limit = broker.process.fresh(now).map(|vitals| vitals.fd_limit_soft);
        let limit = fd_limit.map(|limit| limit.map_or(f64::INFINITY, |limit| limit as f64));
        self.forecasts.file_handles = limit
            .map(|limit| self.fds.forecast(limit))
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
            let first = probes.first();
            let error = first.and_then(|probe| probe.error.as_ref());
            // Only a request handler acquits a broker.
            if probes.api.as_ref().is_some_and(Probe::success) {
                self.last_probe_success = Some(*at);
            }
            let waits = error.is_some_and(ProbeError::owes_answer);
            let refused = error.is_some_and(|error| error.reason == Reason::Refused);
            let serves = probes.listeners.iter().any(|one| one.probe.success());
            let answered = first.is_some() && !waits && (!refused || serves);
            self.has_answered = Some(answered || self.has_answered == Some(true));
        }
        let registration = broker.own_registration(now);
        let is_new = young_since(broker, now).is_some_and(|at| now.since(at) < OLD_REGISTRATION);
        self.was_unfenced |= registration.is_some_and(|own| !own.fenced) && !is_new;
        if let Some(own) = registration {
            let since = self.shuts_down_since.unwrap_or(now);
            self.shuts_down_since = own.in_controlled_shutdown.then_some(since);
        }
        self.standing.update(broker, now);
        let counts = broker.own_partitions(now);
        self.was_in_every_isr |= counts.is_some_and(|counts| counts.not_in_isr == 0);
        if counts.is_some_and(|counts| counts.under_replicated == 0) {
            self.complete = now;
        }
        if let Some(views) = Views::of(broker, now) {
            self.views_agreed |= views.agree();
            let since = self.other_view.filter(|(counts, _)| *counts == views.other);
            self.other_view = Some((views.other, since.map_or(now, |(_, since)| since)));
        }
        if let Reading::Known {
            value: report, at, ..
        } = &broker.threads
            && report.deadlocks.is_empty()
            && report.not_understood.is_empty()
            && report
                .stalls
                .as_ref()
                .is_none_or(|stalls| stalls.found.is_empty())
        {
            self.last_clean_dump = Some(*at);
        }
        let no_progress = broker
            .progress
            .fresh(now)
            .is_some_and(|progress| !progress.suspects.is_empty());
        self.no_progress_since = no_progress.then(|| self.no_progress_since.unwrap_or(now));
        let present = broker.deadlock.as_ref();
        let cycles: BTreeSet<Vec<String>> = present
            .iter()
            .flat_map(|present| present.deadlocks.iter())
            .map(|deadlock| members(&deadlock.cycle))
            .collect();
        self.cycles.retain(|cycle, _| cycles.contains(cycle));
        for cycle in cycles {
            let confirmed = present.map_or(now, |present| present.confirmed);
            self.cycles.entry(cycle).or_insert((confirmed, confirmed)).1 = confirmed;
        }
    }

    /// The share of the last ten seconds in which the JVM stood at safepoints.
    pub fn share_paused(&self, broker: &BrokerSnapshot, now: Moment) -> Option<f64> {
        broker.jvm_pauses.fresh(now)?;
        self.pauses.share()
    }

    pub(super) fn known_faults(&self) -> RuleResult {
        self.known_faults.result()
    }

    pub fn is_active(&self, id: FindingId) -> bool {
        self.findings
            .get(&id)
            .is_some_and(|state| state.active.is_some())
    }

    fn has_critical(&self) -> bool {
        let mut all = FindingId::ALL.iter().copied();
        all.any(|id| id.kind().severity == Severity::Critical && self.is_active(id))
    }

    pub fn is_starting(&self, broker: &BrokerSnapshot, now: Moment) -> bool {
        self.has_answered == Some(false) && young_since(broker, now).is_some()
    }

    /// Whether the metadata log has counted the same since well before Metadata was read. A peer was asked together with
    /// the broker.
    pub fn is_settled(&self, views: &Views) -> bool {
        if !views.is_log {
            return true;
        }
        let since = self.other_view.map(|(_, since)| since);
        since.is_some_and(|since| views.read >= since.plus(SETTLED))
    }

    /// Whether the broker is fenced because it starts: a broker is until it has caught up.
    pub fn may_be_fenced(&self, broker: &BrokerSnapshot, now: Moment) -> bool {
        !self.was_unfenced && young_since(broker, now).is_some()
    }

    /// Whether it reaches neither the other brokers nor what decides about it: no write is replicated, and the cluster goes
    /// on without it.
    pub fn is_isolated(&self) -> bool {
        let of_cluster = [FindingId::MetadataStalled, FindingId::ZooKeeperUnreachable];
        self.is_active(FindingId::CutOff) && of_cluster.into_iter().any(|id| self.is_active(id))
    }

    /// Whether the broker may be missing in ISRs because it catches up after its start.
    pub fn may_catch_up(&self, broker: &BrokerSnapshot, now: Moment) -> bool {
        let started = broker.broker.started;
        !self.was_in_every_isr && started.is_some_and(|at| now.since(at) < CATCHES_UP)
    }

    /// Whether a follower may be missing in ISRs of this leader because it is down, or catches up since it is `back`.
    pub fn follower_catches_up(&self, back: Option<Moment>, now: Moment) -> bool {
        back.is_none_or(|back| {
            back > Moment(0) && self.complete <= back && now.since(back) < CATCHES_UP
        })
    }

    /// Whether the broker is fenced because it ends, which must not take longer than a start.
    pub fn shuts_down(&self, now: Moment) -> bool {
        let since = self.shuts_down_since;
        since.is_some_and(|since| now.since(since) < STARTING)
    }

    pub fn decide_state(&self, broker: &BrokerSnapshot, now: Moment) -> BrokerState {
        if broker.ended.is_some() {
            return BrokerState::Ended;
        }
        // Its process has ended, and why is still being read. Discovery, which says that it is down, may hang.
        let last = broker.last.as_ref();
        let is_read = last.is_some_and(|last| now.since(last.at) < END_IS_READ);
        if let Some((before, _)) = self.state.filter(|_| is_read) {
            return before;
        }
        let is_paused = self.is_active(FindingId::JvmPaused) && self.is_mostly_paused;
        if is_paused || self.is_isolated() || DECIDING.into_iter().any(|id| self.is_active(id)) {
            return BrokerState::Gray;
        }
        let is_closed = is_closed(broker, now);
        // Log recovery, before which nothing listens, may take longer than a start otherwise does.
        if self.is_starting(broker, now) || (is_closed && self.has_answered == Some(false)) {
            return BrokerState::Starting;
        }
        if is_closed {
            return BrokerState::Closed;
        }
        let probes = broker.probes.fresh(now);
        let probe = probes.and_then(|probes| probes.first());
        let no_progress = self
            .no_progress_since
            .filter(|since| now.since(*since) >= DUMP_TIME);
        let suspects =
            no_progress.is_some_and(|since| self.last_clean_dump.is_none_or(|at| at < since));
        let failing = probe.is_some_and(|probe| {
            probe
                .error
                .as_ref()
                .is_some_and(|e| e.is_silent() || e.is_unreachable())
        });
        let acquitted = self.last_probe_success.min(self.last_clean_dump);
        let level = SUSPICIOUS
            .into_iter()
            .filter_map(|id| self.findings.get(&id)?.active.as_ref());
        let unexplained = level
            .into_iter()
            .any(|finding| acquitted.is_none_or(|at| at < finding.since));
        let partial = PARTIAL.into_iter().any(|id| self.is_active(id));
        if suspects || failing || unexplained || partial {
            return BrokerState::Suspect;
        }
        // A starting broker has all its threads long before it serves, so the first probe, which ends soon, decides.
        let age = broker.broker.started.map(|started| now.since(started));
        let may_start =
            broker.probes == Reading::default() && age.is_some_and(|age| age < FIRST_PROBE);
        let dump = broker.threads.fresh(now);
        let understood = dump.is_some_and(|report| report.not_understood.is_empty());
        let dump_counts = !may_start && understood;
        let answers = probes.and_then(|probes| probes.api.as_ref());
        let decided = dump_counts || answers.is_some_and(Probe::success);
        // Threads that work do not acquit it of what else is known.
        let contradicted = self.has_critical() || contradiction(broker, now).is_some();
        if decided && !contradicted {
            BrokerState::Healthy
        } else {
            BrokerState::Unknown
        }
    }

    /// The deadlock, or the stall at a lock, that several dumps show.
    pub fn restart_required(
        &self,
        broker: &BrokerSnapshot,
        now: Moment,
    ) -> Option<RestartRequired> {
        if broker.ended.is_some() {
            return None;
        }
        let cycle = self
            .cycles
            .iter()
            .max_by_key(|(_, (first, last))| last.since(*first));
        if let Some((threads, (first, last))) = cycle {
            let what = format!("{} wait for each other", threads.join(", "));
            return Some(RestartRequired {
                what,
                first: *first,
                last: *last,
            });
        }
        // No lock is given back before the disk answers.
        if self.is_active(FindingId::DiskHung) {
            return None;
        }
        broker.threads.fresh(now)?;
        let (report, at) = broker.threads.last()?;
        let locked = |stall: &&Stall| is_at_lock(stall) && stall.unblocked_by.is_none();
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
            1 => format!("1 thread of {pool} waits for {lock} and makes no progress"),
            _ => format!("{threads} threads of {pool} wait for {lock} and make no progress"),
        };
        Some(RestartRequired {
            what,
            first: stall.since,
            last: at,
        })
    }
}

fn members(cycle: &[DeadlockedThread]) -> Vec<String> {
    let mut names: Vec<String> = cycle.iter().map(|member| member.thread.clone()).collect();
    names.sort();
    names
}
