//! What a broker and its peers answer, and what it, its metadata log and ZooKeeper say of the cluster.

use super::vital::{Vital, cut, number};
use crate::model::text::first_of;
use crate::model::{
    BrokerSnapshot, ClusterCounts, ClusterSource, GroupState, ListenerProbe, MemberState, Moment,
    OwnRegistration, PeerProbe, Probe, brief_text, duration_text, rfc3339,
};
use crate::verdict::finding::{BrokerDiagnosis, FindingId};

pub(super) fn requests(broker: &BrokerSnapshot, diagnosis: &BrokerDiagnosis, now: Moment) -> Vital {
    let probes = broker.probes.fresh(now);
    let metadata = probes.map(|probes| match (&probes.metadata, &probes.network) {
        (Some(probe), _) => format!("metadata {}", outcome(probe)),
        (None, Some(_)) => "by the network thread: more needs credentials".to_owned(),
        (None, None) => "metadata not asked".to_owned(),
    });
    let first = probes.and_then(|probes| probes.first());
    let fetch = broker.fetch.fresh(now);
    Vital::new("API", first.map(outcome))
        .note(metadata)
        .note(fetch.map(|fetch| format!("fetch {}", outcome(fetch))))
        .about(diagnosis, &[FindingId::ApiUnresponsive])
}

/// Each listener, where there is more to say than [`requests`] does.
pub(super) fn listeners(
    broker: &BrokerSnapshot,
    diagnosis: &BrokerDiagnosis,
    now: Moment,
) -> Vec<Vital> {
    let probes = broker.probes.fresh(now);
    let vital = |one: &ListenerProbe| {
        let end = one.certificate_end.map(|end| match end.since(now) {
            left if left.is_zero() => format!("its certificate expired at {}", rfc3339(end)),
            left => format!("its certificate ends in {}", duration_text(left)),
        });
        let verified = one.verified.map(|verified| match verified {
            true => "certificate verified",
            false => "certificate not verified",
        });
        let by = (!one.by_handler).then_some("by the network thread");
        Vital::new(
            format!("Listener {}", cut(&one.listener, 40)),
            Some(outcome(&one.probe)),
        )
        .note(by.map(str::to_owned))
        .note(verified.map(str::to_owned))
        .note(end)
        .about(
            diagnosis,
            &[
                FindingId::ListenerUnresponsive,
                FindingId::CertificateExpiry,
            ],
        )
    };
    let listeners = probes.into_iter().flat_map(|probes| &probes.listeners);
    listeners.map(vital).collect()
}

fn outcome(probe: &Probe) -> String {
    match &probe.error {
        None => brief_text(probe.duration),
        Some(error) => format!(
            "{} after {}",
            error.reason.name(),
            brief_text(probe.duration)
        ),
    }
}

pub(super) fn peers(
    broker: &BrokerSnapshot,
    diagnosis: &BrokerDiagnosis,
    now: Moment,
) -> Option<Vital> {
    let peers = &broker.probes.fresh(now)?.peers;
    if peers.is_empty() {
        return None;
    }
    let answers = |peer: &PeerProbe| peer.api.as_ref().is_some_and(Probe::success);
    let (answering, silent): (Vec<_>, Vec<_>) = peers.iter().partition(|peer| answers(peer));
    let silent: Vec<String> = silent
        .iter()
        .take(8)
        .map(|peer| peer.peer.id.to_string())
        .collect();
    let slowest = peers
        .iter()
        .filter_map(|peer| Some(peer.api.as_ref()?.duration))
        .max();
    let value = format!("{} of {} answer", answering.len(), peers.len());
    let vital = Vital::new("Peers", Some(value))
        .note(slowest.map(|slowest| format!("slowest {}", brief_text(slowest))))
        .note((!silent.is_empty()).then(|| format!("silent: {}", silent.join(", "))));
    Some(vital.about(
        diagnosis,
        &[
            FindingId::CutOff,
            FindingId::PathCut,
            FindingId::PeerUnreachable,
        ],
    ))
}

pub(super) fn partitions(
    broker: &BrokerSnapshot,
    diagnosis: &BrokerDiagnosis,
    now: Moment,
) -> Vital {
    let counts = broker.partitions(now);
    let leads_none = broker.broker.is_dedicated_controller();
    let value = |counts: &ClusterCounts| match leads_none {
        true => format!("{} in the cluster", number(counts.partitions)),
        false => format!("leads {}", number(counts.leader)),
    };
    let mut vital = Vital::new("Partitions", counts.map(value));
    if let Some(counts) = counts {
        let own = [
            (counts.under_replicated, "under-replicated"),
            (counts.isr_leader_alone, "with the leader alone in the ISR"),
            (counts.under_min_isr.unwrap_or(0), "under min-ISR"),
            (counts.reassigning.unwrap_or(0), "being reassigned"),
        ];
        let own = own.into_iter().filter(|_| !leads_none);
        let of_cluster = (counts.offline, "of the cluster offline");
        vital.notes = own
            .chain([of_cluster])
            .filter(|(n, _)| *n > 0)
            .map(|(n, what)| format!("{} {what}", number(n)))
            .collect();
        if counts.not_in_isr > 0 && !leads_none {
            let out = number(counts.not_in_isr);
            vital
                .notes
                .push(format!("out of the ISR of {out} partitions"));
        }
        if vital.notes.is_empty() && !leads_none {
            vital.notes.push("fully replicated".into());
        }
        match counts.source {
            ClusterSource::Own => {}
            ClusterSource::Peer(id) => vital.notes.push(format!("source: broker {id}")),
            ClusterSource::Log => vital.notes.push("source: metadata log".into()),
            ClusterSource::ZooKeeper => vital.notes.push("source: ZooKeeper".into()),
        }
    }
    let about = [
        FindingId::OfflinePartitions,
        FindingId::UnderMinIsr,
        FindingId::IsrLeaderAlone,
        FindingId::UnderReplicated,
    ];
    vital.about(diagnosis, &about)
}

/// The brokers of the cluster, where not all are well.
pub(super) fn brokers(
    broker: &BrokerSnapshot,
    diagnosis: &BrokerDiagnosis,
    now: Moment,
) -> Option<Vital> {
    let not_well = broker.members_not_well(now)?;
    if not_well.is_empty() {
        return None;
    }
    let live = broker.member_counts(now).map(|members| members.registered);
    let of_metadata = broker.cluster.fresh(now);
    let live = live.or_else(|| of_metadata.map(|counts| counts.live_brokers.len() as u64));
    let value = live.map(|live| format!("{} live", number(live)));
    let mut vital = Vital::new("Brokers", value);
    for state in MemberState::ALL {
        let ids = not_well.iter().filter(|(_, of)| **of == state);
        let ids: Vec<i32> = ids.map(|(id, _)| *id).collect();
        if !ids.is_empty() {
            let what = match state {
                MemberState::Missing => "missing from the cluster's metadata".to_owned(),
                other => other.name().replace('_', " "),
            };
            let shown = first_of(&ids, ids.len());
            vital.notes.push(format!("{what}: {shown}"));
        }
    }
    Some(vital.about(diagnosis, &[FindingId::BrokerFenced]))
}

/// The groups that the broker coordinates, or coordinated when it last answered.
pub(super) fn groups(broker: &BrokerSnapshot, now: Moment) -> Option<Vital> {
    let report = broker.groups.fresh(now)?;
    let value = format!("{} coordinated", number(report.total));
    let mut vital = Vital::new("Groups", Some(value));
    if report.silence.is_some() {
        let named = report.named()?;
        vital.notes = vec![cut(&named, 160), "state and lag unknown".to_owned()];
        return Some(vital);
    }
    if report.total == 0 {
        return None;
    }
    let states = report.states.iter().filter(|(_, count)| **count > 0);
    let state = |(state, count): (&GroupState, &u64)| {
        format!("{} {}", number(*count), state.name().replace('_', " "))
    };
    vital.notes.extend(states.map(state));
    if let Some(most) = report.lags.iter().max_by_key(|lag| lag.records) {
        let (records, of) = (number(most.records), cut(&most.group, 40));
        vital.notes.push(format!("largest lag {records} ({of})"));
    }
    if report.unknown_lags > 0 {
        let why = report.why_unknown.as_deref().unwrap_or_default();
        let unknown = number(report.unknown_lags);
        vital.notes.push(format!("{unknown} lags unknown: {why}"));
    }
    Some(vital)
}

pub(super) fn metadata_log(
    broker: &BrokerSnapshot,
    diagnosis: &BrokerDiagnosis,
    now: Moment,
) -> Option<Vital> {
    let log = broker.metadata_log.fresh(now)?;
    let offset = u64::try_from(log.end_offset).ok().map(number);
    let age = brief_text(now.since(log.arrived));
    let migrating = "ZooKeeper has the truth until the migration ends";
    let vital = Vital::new(
        "Metadata log",
        offset.map(|offset| format!("offset {offset}")),
    )
    .note(format!("last record {age} ago"))
    .note(log.counts.is_none().then(|| migrating.to_owned()));
    Some(vital.about(diagnosis, &[FindingId::MetadataStalled]))
}

/// What ZooKeeper says of the broker.
pub(super) fn registration(
    broker: &BrokerSnapshot,
    diagnosis: &BrokerDiagnosis,
    now: Moment,
) -> Option<Vital> {
    let report = broker.zookeeper.fresh(now)?;
    let value = match report.registration {
        OwnRegistration::Registered { .. } => "registered",
        OwnRegistration::Earlier { .. } => "an earlier process is registered",
        OwnRegistration::Missing => "not registered",
    };
    let note = match report.controller {
        None => Some("no controller".to_owned()),
        controller if controller == broker.broker.id => Some("the controller".to_owned()),
        Some(_) => None,
    };
    let about = [FindingId::NotRegistered, FindingId::RegisteredButDead];
    let vital = Vital::new("ZooKeeper", Some(value.to_owned()));
    Some(vital.note(note).about(diagnosis, &about))
}
