//! The rounds: one room per source, each with its deadline.

pub mod cluster;
pub mod exporter;
pub mod keeper;
pub mod process;
pub mod round;
pub mod rounds;
pub mod sockets;
pub mod threads;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::{BrokerSettings, Config};
use crate::discover::{self, Broker, Discovery, ProcessKey};
pub use crate::failure::Failure;
use crate::kafka::conn::OwnConnections;
use crate::snapshot::{Clock, Snapshot};
use crate::sys::proc::ProcRoot;
use keeper::Update;
use round::{Lane, Pace};
use rounds::Watched;

/// Share of one core that discovery may cost.
const DISCOVERY_CEILING: f64 = 0.001;
const DISCOVERY_DEADLINE: Duration = Duration::from_secs(4);
/// Updates on their way to the keeper; a full queue slows the rounds down, never a scrape.
const UPDATES: usize = 256;

/// Watches every broker of this host until it is dropped.
pub async fn run(config: Arc<Config>, publish: watch::Sender<Arc<Snapshot>>, clock: Clock) {
    let (tell, updates) = mpsc::channel(UPDATES);
    tokio::join!(keeper::keep(updates, publish, clock), discovery(config, tell));
}

/// The rounds of one broker process, ended when dropped.
struct Running {
    broker: Arc<Broker>,
    _rounds: JoinSet<()>,
}

async fn discovery(config: Arc<Config>, tell: mpsc::Sender<Update>) {
    let proc = ProcRoot::new(&config.procfs);
    let own = OwnConnections::default();
    let pid_files = config.brokers.iter().filter_map(|settings| settings.matches.pid_file.clone()).collect();
    let mut lane = Lane::new(Discovery::new(proc.clone(), pid_files));
    let mut pace = Pace::new(config.rounds.discovery, DISCOVERY_CEILING);
    let mut running: HashMap<ProcessKey, Running> = HashMap::new();
    loop {
        let begun = Instant::now();
        let root = proc.clone();
        let work =
            move |discovery: &mut Discovery| (discovery.scan(), process::memory_map_limit(&root), exporter::vitals());
        let (found, memory_map_limit, exporter) = match lane.run(DISCOVERY_DEADLINE, "discovery", work).await {
            Ok((result, cpu)) => {
                pace.spent(cpu);
                result
            }
            Err(failure) => (Err(failure.clone()), Err(failure.clone()), Err(failure)),
        };
        let found = found.map(|brokers| {
            let labels = discover::labels(&brokers);
            std::iter::zip(brokers, labels).collect::<Vec<_>>()
        });
        let alive = found.as_ref().ok().cloned();
        let (took, interval) = (begun.elapsed(), pace.interval());
        // The keeper must know a broker before its rounds tell of it.
        let update = Update::Discovered { found, memory_map_limit, exporter, took, interval };
        if tell.send(update).await.is_err() {
            return;
        }
        if let Some(alive) = alive {
            running.retain(|process, _| alive.iter().any(|(broker, _)| broker.process == *process));
            for (broker, _) in alive {
                if running.get(&broker.process).is_some_and(|known| suits(&known.broker, &broker)) {
                    continue;
                }
                let watched = Watched {
                    settings: settings_of(&config.brokers, &broker),
                    broker: Arc::clone(&broker),
                    config: Arc::clone(&config),
                    proc: proc.clone(),
                    own: own.clone(),
                    tell: tell.clone(),
                    dumping: watch::Sender::new(false),
                };
                running.insert(broker.process, Running { broker, _rounds: watched.start() });
            }
        }
        tokio::time::sleep_until((begun + pace.interval()).into()).await;
    }
}

/// What the config file says of this broker.
fn settings_of(settings: &[BrokerSettings], broker: &Broker) -> Option<BrokerSettings> {
    let meant = |settings: &&BrokerSettings| {
        let wanted = &settings.matches;
        let by_id = wanted.id.is_some() && wanted.id == broker.id;
        let by_port = wanted.port.is_some_and(|port| broker.listeners.iter().any(|listener| listener.port == port));
        by_id || by_port
    };
    settings.iter().find(meant).cloned()
}

/// Whether rounds that were begun for `known` may go on. To begin them anew costs a hanging broker a connection and a
/// request, so the wording of a problem, which changes when somebody edits a file, is no reason.
fn suits(known: &Broker, found: &Broker) -> bool {
    *found == Broker { problems: found.problems.clone(), ..known.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_go_on_until_something_they_need_changes() {
        let known = Broker::unknown(ProcessKey { pid: 1, start_ticks: 1 });
        let edited = Broker { problems: vec!["server.properties was changed".into()], ..known.clone() };
        assert!(suits(&known, &edited));
        assert!(!suits(&known, &Broker { id: Some(1), ..edited }));
    }
}
