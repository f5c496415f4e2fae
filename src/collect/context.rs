//! What the collectors of one broker share.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::cluster::way::Way;
use super::dump_service::Jvm;
use super::groups::debts::Debts;
use super::snapshot_store::Update;
use super::socket_tables::SocketTables;
use super::zookeeper::ensembles::Ensembles;
use crate::config::{BrokerSettings, Config};
use crate::kafka::conn::OwnConnections;
use crate::model::{Broker, Clock, CollectorName, LogReport, Moment};
use crate::sys::proc::ProcRoot;
use crate::sys::schedstat::Allowance;
use crate::threads::missing::{Deaths, Follows};

/// A usual dump takes some 10 ms.
pub(super) const DUMP_PATIENCE: Duration = Duration::from_millis(200);

/// What the collectors of one broker process need.
#[derive(Clone)]
pub struct BrokerContext {
    pub broker: Arc<Broker>,
    /// Its entry in the config file.
    pub settings: Option<BrokerSettings>,
    pub config: Arc<Config>,
    pub proc: ProcRoot,
    /// The exporter's own connections to brokers, which are left out of all counts.
    pub own: OwnConnections,
    pub tables: SocketTables,
    pub ensembles: Ensembles,
    /// What brokers owe from before the settings changed.
    pub debts: Debts,
    /// To the snapshot store.
    pub updates: mpsc::Sender<Update>,
    pub clock: Clock,
    /// How many descriptors the progress collectors of all brokers may keep open.
    pub kept_descriptors: Allowance,
    /// Takes the dumps.
    pub jvm: Arc<Jvm>,
    /// How many brokers are watched.
    pub brokers: Arc<AtomicUsize>,
    pub signals: Signals,
}

/// What the collectors of one broker hand to each other.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// In how many ISRs of each leader the broker is missing; None while unknown.
    pub behind: watch::Sender<Option<Arc<BTreeMap<i32, u64>>>>,
    /// How many partitions of each live leader the broker follows, and when that was read; None while unknown.
    pub follows: watch::Sender<Option<Follows>>,
    /// Open fds as the collector `process` counts them, for that of the sockets.
    pub fds: watch::Sender<Option<u64>>,
    /// From the probes to the collector of the sockets: the broker answers late, or not at all.
    pub late: watch::Sender<bool>,
    /// From the probes to the collector of the groups: where the broker is asked.
    pub way: watch::Sender<Way>,
    /// From the dumps to the progress collector: the names of the threads. None until the first dump has ended or failed.
    pub names: watch::Sender<Option<Arc<Names>>>,
    /// From the progress collector, the probes and the log to the dumps: threads that make no progress or have ended, by
    /// the kernel's id; [`SILENCE`], [`LOGGED`].
    pub suspects: watch::Sender<BTreeSet<u32>>,
    /// To the probes: the collectors by which the broker's view of the cluster may be old, so that a peer's is asked for.
    pub doubts: watch::Sender<BTreeSet<CollectorName>>,
    /// From the progress collector and the log to the dumps: threads that have ended lately.
    pub deaths: watch::Sender<Deaths>,
    /// From the log to the end of the process: when the newest run began, and what is known since.
    pub log_read: watch::Sender<Option<(Moment, Arc<LogReport>)>>,
}

impl Signals {
    /// Whether the collector has reason to doubt that the broker knows the state of its cluster.
    pub(super) fn set_doubt(&self, collector: CollectorName, doubts: bool) {
        self.doubts.send_if_modified(|all| match doubts {
            true => all.insert(collector),
            false => all.remove(&collector),
        });
    }
}

/// The broker's threads that belong to a pool, by the kernel's id as the JVM sees it (`nid`).
pub type Names = HashMap<u32, Arc<str>>;

/// Stands among the suspects for a broker that owes an answer: the kernel gives this id to no thread.
pub const SILENCE: u32 = 0;
/// Stands among the suspects for a thread that has ended by the broker's log: above all ids of threads.
pub const LOGGED: u32 = u32::MAX;

impl BrokerContext {
    /// That of a broker of which nothing is known yet, with the updates that its collectors send.
    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    pub(super) fn of_test(broker: Arc<Broker>) -> (BrokerContext, mpsc::Receiver<Update>) {
        let (updates, received) = mpsc::channel(8);
        let context = BrokerContext {
            settings: None,
            config: Arc::new(Config::load(Default::default()).unwrap()),
            proc: ProcRoot::new("/proc"),
            own: Default::default(),
            tables: Default::default(),
            ensembles: Default::default(),
            debts: Default::default(),
            updates,
            clock: Clock::start(),
            kept_descriptors: Allowance::new(1),
            jvm: super::dump_service::DumpService::new("/proc").jvm(&broker),
            brokers: Arc::new(AtomicUsize::new(1)),
            signals: Signals::default(),
            broker,
        };
        (context, received)
    }

    /// Waits for the end of a dump under way, but not for one that hangs.
    pub(super) async fn dump_ended(&self) {
        let mut dumping = self.jvm.dumping();
        let ended = dumping.wait_for(|dumping| *dumping == 0);
        // Either way the reading is taken.
        let _ = tokio::time::timeout(DUMP_PATIENCE, ended).await;
    }
}
