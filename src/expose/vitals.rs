//! The vital signs of one broker in a few words each, for the page and the terminal.

mod cluster;
mod unread;
mod vital;

pub use unread::{not_read, unknown};
pub use vital::{Vital, cut};

use crate::model::{
    Broker, BrokerSnapshot, Moment, Snapshot, TcpState, brief_text, duration_text, seconds_text,
};
use crate::threads::known_issues::exposure::{exposures, remedy};
use crate::threads::pools::Pool;
use crate::verdict::finding::{BrokerDiagnosis, FindingId};
use crate::verdict::forecast::Forecast;
use cluster::{
    brokers, groups, listeners, metadata_log, partitions, peers, registration, requests,
};
use vital::number;

/// The vital signs of a broker whose process runs; the last one is its version.
pub fn vitals(
    snapshot: &Snapshot,
    broker: &BrokerSnapshot,
    diagnosis: &BrokerDiagnosis,
    now: Moment,
) -> Vec<Vital> {
    let mut list = vec![requests(broker, diagnosis, now)];
    list.extend(listeners(broker, diagnosis, now));
    list.extend(peers(broker, diagnosis, now));
    list.push(partitions(broker, diagnosis, now));
    list.extend(brokers(broker, diagnosis, now));
    list.extend(groups(broker, now));
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
    let kafka = Vital::new("Kafka", Some(version(&broker.broker.kafka_version)));
    list.push(kafka.note(java).note(exposed(&broker.broker)));
    list
}

/// To how many known faults the broker is exposed, and the release to go to.
fn exposed(broker: &Broker) -> Option<String> {
    let known = exposures(broker).ok()?;
    let faults = match known.exposed.len() {
        0 => return None,
        1 => "1 known fault".to_owned(),
        many => format!("{many} known faults"),
    };
    let next = match remedy(broker, known.release, &known.exposed).fixes {
        Some(release) => format!("none of them in {release}"),
        None => "in later releases too".to_owned(),
    };
    Some(format!("as configured exposed to {faults}, {next}"))
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
        let about = [FindingId::LogDirFailed, FindingId::LogDirExhaustion];
        list.push(vital.about(diagnosis, &about));
    }
    list
}

fn connections(broker: &BrokerSnapshot, diagnosis: &BrokerDiagnosis, now: Moment) -> Vec<Vital> {
    let pulse = broker.sockets.fresh(now);
    let owners = broker.connections.fresh(now);
    let mut clients = Vital::new(
        "Connections",
        owners.map(|owners| format!("{} inbound", number(owners.server_established.connections))),
    )
    .note(owners.map(|owners| {
        format!(
            "{} outbound",
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
    .note(
        dump.filter(|(report, _)| report.deadlocks.is_empty() && !report.not_understood.is_empty())
            .map(|_| "whether deadlocked: unknown".to_owned()),
    )
    .note((suspects > 0).then(|| format!("{suspects} make no progress")))
    .note(
        broker
            .jvm_pauses
            .fresh(now)
            .map(|pauses| format!("JVM safepoint time since start {}", brief_text(*pauses))),
    )
    .about(
        diagnosis,
        &[
            FindingId::JvmDeadlock,
            FindingId::LockCycle,
            FindingId::StalledPool,
            FindingId::DiskHung,
            FindingId::JvmPaused,
            FindingId::PartialStall,
            FindingId::LikelyDeadlock,
            FindingId::EndlessLoop,
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

#[cfg(test)]
mod tests;
