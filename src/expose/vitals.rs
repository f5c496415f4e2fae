//! The vital signs of one broker in a few words each, for the page and the terminal.

mod unread;

pub use unread::{not_read, unknown};

use crate::model::text::first_of;
use crate::model::{
    BrokerSnapshot, ClusterCounts, ClusterSource, ListenerProbe, MemberState, Moment,
    OwnRegistration, Probe, Snapshot, TcpState, brief_text, duration_text, rfc3339, seconds_text,
};
use crate::threads::pools::Pool;
use crate::verdict::finding::{BrokerDiagnosis, FindingId, Severity};
use crate::verdict::forecast::Forecast;

/// One reading, or `unknown`; [`unknown`] gives the reason.
#[derive(Debug)]
pub struct Vital {
    pub name: String,
    pub value: String,
    pub notes: Vec<String>,
    /// The used share of the limit.
    pub used: Option<f64>,
    /// The worst severity of a finding about it.
    pub concern: Option<Severity>,
}

impl Vital {
    fn new(name: impl Into<String>, value: Option<String>) -> Vital {
        let value = value.unwrap_or_else(|| "unknown".into());
        Vital {
            name: name.into(),
            value,
            notes: Vec::new(),
            used: None,
            concern: None,
        }
    }

    fn note(mut self, note: impl Into<Option<String>>) -> Vital {
        self.notes.extend(note.into());
        self
    }

    /// Marks it if one of these findings is active.
    fn about(mut self, diagnosis: &BrokerDiagnosis, ids: &[FindingId]) -> Vital {
        let found = diagnosis
            .findings
            .iter()
            .filter(|finding| ids.contains(&finding.id));
        self.concern = found.map(|finding| finding.id.kind().severity).max();
        self
    }
}

/// The vital signs of a broker whose process runs; the last one is its version.
pub fn vitals(
    snapshot: &Snapshot,
    broker: &BrokerSnapshot,
    diagnosis: &BrokerDiagnosis,
    now: Moment,
) -> Vec<Vital> {
    let mut list = vec![requests(broker, diagnosis, now)];
    list.extend(listeners(broker, diagnosis, now));
    if let Some(probes) = broker.probes.fresh(now) {
        let answer =
            |peer: &&crate::model::PeerProbe| peer.api.as_ref().is_some_and(Probe::success);
        let silent: Vec<String> = probes
            .peers
            .iter()
            .filter(|peer| !answer(peer))
            .take(8)
            .map(|peer| peer.peer.id.to_string())
            .collect();
        let answering = format!(
            "{} of {} answer",
            probes.peers.iter().filter(answer).count(),
            probes.peers.len()
        );
        let slowest = probes
            .peers
            .iter()
            .filter_map(|peer| Some(peer.api.as_ref()?.duration))
            .max();
        if !probes.peers.is_empty() {
            let note = (!silent.is_empty()).then(|| format!("silent: {}", silent.join(", ")));
            let peers = Vital::new("Peers", Some(answering))
                .note(slowest.map(|slowest| format!("slowest {}", brief_text(slowest))));
            list.push(
                peers
                    .note(note)
                    .about(diagnosis, &[FindingId::PeerUnreachable]),
            );
        }
    }
    list.push(partitions(broker, diagnosis, now));
    list.extend(brokers(broker, diagnosis, now));
    list.extend(metadata_log(broker, diagnosis, now));
    list.extend(registration(broker, diagnosis, now));
    list.extend(levels(snapshot, broker, diagnosis, now));
    list.extend(connections(broker, diagnosis, now));
    list.push(threads(broker, diagnosis, now));
    let process = broker.process.fresh(now);
    let stopped = process
        .filter(|vitals| matches!(vitals.state, 'T' | 't'))
        .map(|_| "stopped by a signal".to_owned());
    let about = Vital::new("Process", Some(broker.broker.process.pid.to_string()))
        .note(stopped)
        .note(
            broker
                .broker
                .started
                .map(|started| format!("up {}", duration_text(now.since(started)))),
        )
        .note(process.map(|vitals| format!("{} resident", bytes(vitals.resident_bytes))))
        .about(diagnosis, &[FindingId::ProcessStopped]);
    list.push(about);
    let version = |version: &Option<String>| version.as_deref().unwrap_or("unknown").to_owned();
    let java = format!("Java {}", version(&broker.broker.java_version));
    list.push(Vital::new("Kafka", Some(version(&broker.broker.kafka_version))).note(java));
    list
}

fn requests(broker: &BrokerSnapshot, diagnosis: &BrokerDiagnosis, now: Moment) -> Vital {
    let probes = broker.probes.fresh(now);
    let metadata = probes.map(|probes| match (&probes.metadata, &probes.network) {
        (Some(probe), _) => format!("metadata {}", outcome(probe)),
        (None, Some(_)) => "by the network thread: more needs credentials".to_owned(),
        (None, None) => "metadata not asked".to_owned(),
    });
    let first = probes.and_then(|probes| probes.first());
    Vital::new("API", first.map(outcome))
        .note(metadata)
        .about(diagnosis, &[FindingId::ApiUnresponsive])
}

/// Each listener, where there is more to say than [`requests`] does.
fn listeners(broker: &BrokerSnapshot, diagnosis: &BrokerDiagnosis, now: Moment) -> Vec<Vital> {
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

fn partitions(broker: &BrokerSnapshot, diagnosis: &BrokerDiagnosis, now: Moment) -> Vital {
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
            (counts.not_in_isr, "lack this broker in the ISR"),
        ];
        let own = own.into_iter().filter(|_| !leads_none);
        let of_cluster = (counts.offline, "of the cluster offline");
        vital.notes = own
            .chain([of_cluster])
            .filter(|(n, _)| *n > 0)
            .map(|(n, what)| format!("{} {what}", number(n)))
            .collect();
        if vital.notes.is_empty() && !leads_none {
            vital.notes.push("fully replicated".into());
        }
        match counts.source {
            ClusterSource::Own => {}
            ClusterSource::Peer(id) => vital.notes.push(format!("reported by broker {id}")),
            ClusterSource::Log => vital.notes.push("from the metadata log".into()),
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
fn brokers(broker: &BrokerSnapshot, diagnosis: &BrokerDiagnosis, now: Moment) -> Option<Vital> {
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
            let what = state.name().replace('_', " ");
            let shown = first_of(&ids, ids.len());
            vital.notes.push(format!("{what}: {shown}"));
        }
    }
    Some(vital.about(diagnosis, &[FindingId::BrokerFenced]))
}

fn metadata_log(
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
fn registration(
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

/// The levels that have a limit.
fn levels(
    snapshot: &Snapshot,
    broker: &BrokerSnapshot,
    diagnosis: &BrokerDiagnosis,
    now: Moment,
) -> Vec<Vital> {
    let against = |name: &str, count: Option<u64>, limit: Option<u64>, forecast: &Forecast| {
        let of = limit
            .map(|limit| format!(" of {}", number(limit)))
            .unwrap_or_default();
        let mut vital = Vital::new(name, count.map(|count| format!("{}{of}", number(count))))
            .note(left(forecast));
        vital.used = count
            .zip(limit)
            .map(|(count, limit)| count as f64 / limit.max(1) as f64);
        vital
    };
    let forecasts = &diagnosis.forecasts;
    let untracked = broker
        .untracked_sockets
        .fresh(now)
        .filter(|count| **count > 0);
    let limit = broker
        .process
        .fresh(now)
        .and_then(|vitals| vitals.fd_limit_soft);
    let fds = against(
        "File handles",
        broker.open_fds.fresh(now).copied(),
        limit,
        &forecasts.file_handles,
    )
    .note(untracked.map(|count| format!("{} orphaned sockets", number(*count))))
    .about(
        diagnosis,
        &[
            FindingId::FileHandleExhaustion,
            FindingId::FileHandleLeak,
            FindingId::DeadSocketPileup,
        ],
    );
    let limit = snapshot.memory_map_limit.fresh(now).copied();
    let maps = against(
        "Memory maps",
        broker.memory_maps.fresh(now).copied(),
        limit,
        &forecasts.memory_maps,
    )
    .about(diagnosis, &[FindingId::MemoryMapsExhaustion]);
    let mut list = vec![fds, maps];
    // If there are many disks, the fullest.
    let mut spaces: Vec<_> = broker.log_dirs.fresh(now).into_iter().flatten().collect();
    spaces.sort_by_key(|space| space.free_bytes);
    for space in spaces.into_iter().take(4) {
        let dir = space.dir.display().to_string();
        let forecast = forecasts
            .log_dirs
            .iter()
            .find(|(name, _)| *name == dir)
            .map(|(_, forecast)| forecast);
        let free = format!(
            "{} free of {}",
            bytes(space.free_bytes),
            bytes(space.total_bytes)
        );
        // The ends of the paths differ.
        let end: String = dir
            .chars()
            .skip(dir.chars().count().saturating_sub(20))
            .collect();
        let name = if end == dir { end } else { format!("…{end}") };
        let mut vital =
            Vital::new(format!("Log dir {name}"), Some(free)).note(forecast.and_then(left));
        vital.used = Some(1.0 - space.free_bytes as f64 / space.total_bytes.max(1) as f64);
        list.push(vital.about(diagnosis, &[FindingId::LogDirExhaustion]));
    }
    list
}

fn connections(broker: &BrokerSnapshot, diagnosis: &BrokerDiagnosis, now: Moment) -> Vec<Vital> {
    let pulse = broker.sockets.fresh(now);
    let owners = broker.connections.fresh(now);
    let mut clients = Vital::new(
        "Connections",
        owners.map(|owners| {
            format!(
                "{} from clients",
                number(owners.server_established.connections)
            )
        }),
    )
    .note(owners.map(|owners| {
        format!(
            "{} of its own",
            number(owners.client.get(TcpState::Established).connections)
        )
    }));
    for state in TcpState::ALL
        .into_iter()
        .filter(|state| !matches!(state, TcpState::CloseWait | TcpState::Listen))
    {
        let count = pulse.map_or(0, |pulse| pulse.server.get(state).connections);
        if count > 0 {
            clients
                .notes
                .push(format!("{} {}", number(count), state.name().to_uppercase()));
        }
    }
    let waiting = pulse.map(|pulse| number(pulse.server.get(TcpState::CloseWait).connections));
    let unread =
        pulse.map(|pulse| format!("{} with unread bytes", number(pulse.unread_close_wait)));
    let mut list = vec![
        clients,
        Vital::new("CLOSE_WAIT", waiting)
            .note(unread)
            .about(diagnosis, &[FindingId::CloseWaitPileup]),
    ];
    let queues = broker.accept_queues.fresh(now);
    for queue in queues.into_iter().flatten().take(4) {
        let of = queue
            .limit
            .map(|limit| format!(" of {limit}"))
            .unwrap_or_default();
        let vital = Vital::new("Accept queue", Some(format!("{}{of}", queue.length)));
        list.push(
            vital
                .note(Some(cut(&queue.listener, 40)))
                .about(diagnosis, &[FindingId::AcceptQueueFull]),
        );
    }
    list
}

fn threads(broker: &BrokerSnapshot, diagnosis: &BrokerDiagnosis, now: Moment) -> Vital {
    let dump = broker.threads.last();
    let suspects = broker
        .progress
        .fresh(now)
        .map_or(0, |progress| progress.suspects.len());
    Vital::new(
        "Threads",
        dump.map(|(report, _)| number(report.by_state.values().sum())),
    )
    .note(dump.map(|(report, at)| {
        format!(
            "dump {} ago, took {}",
            duration_text(now.since(at)),
            brief_text(report.duration)
        )
    }))
    .note((suspects > 0).then(|| format!("{suspects} make no progress")))
    .note(
        broker
            .jvm_pauses
            .fresh(now)
            .map(|pauses| format!("paused {} in total", brief_text(*pauses))),
    )
    .about(
        diagnosis,
        &[
            FindingId::JvmDeadlock,
            FindingId::LockCycle,
            FindingId::StalledPool,
            FindingId::MissingThread,
        ],
    )
}

fn left(forecast: &Forecast) -> Option<String> {
    match forecast {
        Forecast::SecondsLeft(seconds) => Some(format!("about {} left", seconds_text(*seconds))),
        Forecast::NoneAhead => Some("steady".into()),
        Forecast::Unknown => None,
    }
}

/// `1,234,567`
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// How much of a core the threads that serve requests use, and for how long they wait for one. For the page: `check` has
/// to fit a terminal.
pub fn pools(broker: &BrokerSnapshot, now: Moment) -> Vec<Vital> {
    let pools = broker.pools.fresh(now);
    let named = [
        ("Request handlers", Pool::RequestHandler),
        ("Network threads", Pool::Network),
    ];
    let vital = |(name, pool): (&str, Pool)| {
        let time = pools?.get(pool.name())?;
        let cores = format!("{} of a core", percent(time.cores?));
        let waiting = format!("waiting for one {} of the time", percent(time.waiting?));
        Some(Vital::new(name, Some(cores)).note(waiting))
    };
    named.into_iter().filter_map(vital).collect()
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        percent if percent < 1.0 => "under 1 %".into(),
        percent => format!("{percent:.0} %"),
    }
}

fn bytes(n: u64) -> String {
    match n {
        n if n >= 10 << 40 => format!("{} TiB", n >> 40),
        n if n >= 10 << 30 => format!("{} GiB", n >> 30),
        n => format!("{} MiB", n >> 20),
    }
}

/// Cuts the text to `most` characters: a broker can make names and messages long.
pub fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text
            .chars()
            .take(most.saturating_sub(1))
            .chain(['…'])
            .collect(),
    }
}

#[cfg(test)]
mod tests;
