//! The collector `discovery`: which processes are brokers, and the exporter's own use of the host.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::ends::last_readings;
use super::frame::{Stamp, log_change, one_line};
use super::snapshot_store::Update;
use super::{exporter, memory_maps};
use crate::config::BrokerSettings;
use crate::discover::{self, Discovery};
use crate::model::{
    Broker, BrokerSnapshot, CollectorName, ExporterVitals, Failure, Label, Moment, Probe,
    ProcessKey, Reason, Snapshot, text,
};
use crate::sys::proc::ProcRoot;

/// What one run finds.
#[derive(Debug)]
pub struct Found {
    /// Every broker that runs now, each with its label.
    pub brokers: Result<Vec<(Arc<Broker>, Label)>, Failure>,
    /// See [`Snapshot::brokers_left_out`].
    pub left_out: u64,
    /// Why some processes of this host are not seen, and the remedy.
    pub hidden: Option<String>,
    /// See [`Snapshot::discovery_warnings`].
    pub warnings: Vec<String>,
    pub memory_map_limit: Result<u64, Failure>,
    pub exporter: Result<ExporterVitals, Failure>,
}

/// One run as it comes from the worker.
#[derive(Debug)]
pub(super) struct Scan {
    pub found: Found,
    /// The process in the pid file of each entry of the config file.
    pub pids: Vec<Option<u32>>,
}

impl Scan {
    /// Reads once. Blocking.
    pub(super) fn take(
        discovery: &mut Discovery,
        proc: &ProcRoot,
        settings: &[BrokerSettings],
    ) -> Scan {
        // Why a pid file cannot be read is among the warnings of the discovery.
        let pid_in_file = |settings: &BrokerSettings| {
            discover::read_pid_file(settings.matches.pid_file.as_ref()?).ok()
        };
        let brokers = discovery.scan().map(|brokers| {
            let labels = discovery.labels(&brokers);
            std::iter::zip(brokers, labels).collect()
        });
        Scan {
            found: Found {
                brokers,
                left_out: discovery.left_out() as u64,
                hidden: discovery.hidden().map(str::to_owned),
                warnings: discovery.warnings().to_vec(),
                memory_map_limit: memory_maps::limit(proc),
                exporter: exporter::vitals(),
            },
            pids: settings.iter().map(pid_in_file).collect(),
        }
    }

    pub(super) fn failed(failure: &Failure) -> Scan {
        Scan {
            found: Found {
                brokers: Err(failure.clone()),
                left_out: 0,
                hidden: None,
                warnings: Vec::new(),
                memory_map_limit: Err(failure.clone()),
                exporter: Err(failure.clone()),
            },
            pids: Vec::new(),
        }
    }
}

/// The label of a broker without an id is its process, under which none comes back.
const UNNAMED_IN_SIGHT: Duration = Duration::from_secs(60);

/// Of all that have ended.
const MOST_ENDED: usize = 32;

/// The update of the snapshot that one run causes.
pub fn update(found: Found, interval: Duration, took: Duration) -> Update {
    Update::new(move |snapshot, at| store(snapshot, found, Stamp { at, took, interval }))
}

fn store(snapshot: &mut Snapshot, found: Found, stamp: Stamp) {
    stamp.put(&mut snapshot.memory_map_limit, found.memory_map_limit);
    stamp.put(&mut snapshot.exporter, found.exporter);
    let sees_none = snapshot.brokers.is_empty() && found.brokers.as_ref().is_ok_and(Vec::is_empty);
    let unseen = found.hidden.filter(|_| sees_none);
    let unseen = unseen.map(|why| Failure::new(Reason::Denied, why));
    let failure = found.brokers.as_ref().err().or(unseen.as_ref());
    let before = snapshot.discovery.success;
    log_change("", CollectorName::Discovery, before, failure);
    snapshot.discovery = stamp.status(failure);
    let Ok(brokers) = found.brokers else { return };
    let warnings: Vec<String> = found.warnings.into_iter().map(text::message).collect();
    let known = &snapshot.discovery_warnings;
    for warning in warnings.iter().filter(|warning| !known.contains(warning)) {
        tracing::warn!("{}", one_line(warning));
    }
    for warning in known.iter().filter(|warning| !warnings.contains(warning)) {
        tracing::info!("no longer so: {}", one_line(warning));
    }
    snapshot.discovery_warnings = warnings;
    snapshot.brokers_left_out = found.left_out;
    store_brokers(snapshot, brokers, stamp.at);
}

fn store_brokers(snapshot: &mut Snapshot, found: Vec<(Arc<Broker>, Label)>, now: Moment) {
    let running: HashSet<ProcessKey> = found.iter().map(|(broker, _)| broker.process).collect();
    for broker in snapshot.brokers.iter_mut() {
        if broker.ended.is_none() && !running.contains(&broker.broker.process) {
            end(Arc::make_mut(broker), now);
        } else if !broker.served && has_served(broker) {
            Arc::make_mut(broker).served = true;
        }
    }
    for (broker, label) in found {
        log_found(&snapshot.brokers, &broker, &label.text);
        let known = snapshot
            .brokers
            .iter_mut()
            .find(|known| known.broker.process == broker.process);
        match known {
            // One run could not read it: it had not ended.
            Some(known) if known.ended.is_some() => {
                *known = Arc::new(BrokerSnapshot::new(broker, label))
            }
            Some(known)
                if known.broker == broker
                    && (&known.label, known.outranked) == (&label.text, label.outranked) => {}
            Some(known) => {
                let known = Arc::make_mut(known);
                known.broker = broker;
                (known.label, known.outranked) = (label.text, label.outranked);
            }
            None => snapshot
                .brokers
                .push(Arc::new(BrokerSnapshot::new(broker, label))),
        }
    }
    forget_ended(snapshot, now);
    snapshot.brokers.sort_by_cached_key(|x| {
        (
            x.broker.id.is_none(),
            x.broker.id,
            x.label.clone(),
            x.broker.process,
        )
    });
}

/// Whether it ever did what only a broker does: any process can look like one for a moment.
fn has_served(broker: &BrokerSnapshot) -> bool {
    let probes = broker.probes.last();
    let answered = probes.is_some_and(|(p, _)| p.first().is_some_and(Probe::success));
    let queues = broker.accept_queues.last();
    answered
        || queues.is_some_and(|(queues, _)| !queues.is_empty())
        || broker.threads.last().is_some()
}

/// Keeps in sight the brokers that have ended and are not back, however long: a bounded number, those of other users last.
fn forget_ended(snapshot: &mut Snapshot, now: Moment) {
    let labels: HashSet<String> = snapshot
        .brokers
        .iter()
        .filter(|broker| broker.ended.is_none())
        .map(|broker| broker.label.clone())
        .collect();
    let in_sight = |broker: &BrokerSnapshot, ended| {
        let may_return = broker.broker.id.is_some() || now.since(ended) < UNNAMED_IN_SIGHT;
        broker.served && may_return && !labels.contains(&broker.label)
    };
    let mut ended: Vec<_> = snapshot
        .brokers
        .iter()
        .filter_map(|broker| Some((broker, broker.ended?)))
        .filter(|(broker, ended)| in_sight(broker, *ended))
        .map(|(broker, ended)| (broker.outranked, Reverse(ended), broker.broker.process))
        .collect();
    ended.sort_unstable();
    let kept: HashSet<ProcessKey> = ended
        .into_iter()
        .take(MOST_ENDED)
        .map(|(_, _, process)| process)
        .collect();
    snapshot
        .brokers
        .retain(|broker| broker.ended.is_none() || kept.contains(&broker.broker.process));
}

/// No reading of a process stands after its end.
fn end(broker: &mut BrokerSnapshot, now: Moment) {
    let reason = format!("process {} has ended", broker.broker.process.pid);
    tracing::warn!(broker = broker.label, "the broker's {reason}");
    let label = Label {
        text: broker.label.clone(),
        outranked: broker.outranked,
    };
    let mut ended = BrokerSnapshot::new(Arc::clone(&broker.broker), label);
    (ended.ended, ended.served) = (Some(now), broker.served || has_served(broker));
    let last = broker.last.take();
    ended.last = Some(last.unwrap_or_else(|| last_readings(broker, now)));
    // Its collectors have not failed: none runs any more.
    *broker = ended;
}

/// Logs a broker that was not known, and what is known or unknown of it other than before.
fn log_found(known: &[Arc<BrokerSnapshot>], broker: &Broker, label: &str) {
    let known = known
        .iter()
        .find(|known| known.broker.process == broker.process);
    match known {
        None => {
            let version = broker.kafka_version.as_deref().unwrap_or("unknown");
            tracing::info!(
                broker = label,
                pid = broker.process.pid,
                version,
                "found a broker"
            );
        }
        Some(known) if known.label != label => {
            tracing::info!(
                broker = label,
                pid = broker.process.pid,
                before = known.label,
                "the broker's label is another"
            );
        }
        Some(_) => {}
    }
    let before = known.map_or(&[][..], |known| &known.broker.problems);
    for problem in &broker.problems {
        if before.contains(problem) {
            continue;
        }
        // A warning about the rights of the exporter stands for all of them.
        match broker.lacking.is_empty() {
            true => tracing::warn!(broker = label, "{}", one_line(problem)),
            false => tracing::debug!(broker = label, "{}", one_line(problem)),
        }
    }
}
