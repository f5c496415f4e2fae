//! The collectors, and the frame that runs them within deadlines and cost ceilings.
//!
//! [`frame`] says what a collector is; their names and intervals are in [`CollectorName`](crate::model::CollectorName). `start` below is the list of
//! those that run for each broker. Three run in the pass of another: `connections` and `pools` have a file in its
//! folder, and `sockets` is stored by [`accept_queues`]. What reads and counts for `sockets` and `connections` is in
//! [`sockets`] and [`socket_tables`]. [`discovery`] runs once for the host. The other files serve all of these.

pub mod accept_queues;
pub mod adaptive_interval;
pub mod cluster;
pub mod context;
pub mod discovery;
pub mod dump_scheduler;
pub mod dump_service;
mod ends;
pub mod exporter;
pub mod fds;
pub mod frame;
pub mod groups;
pub mod jvm_dumper;
pub mod log_dirs;
pub mod logs;
pub mod memory_maps;
pub mod metadata_log;
pub mod process;
pub mod progress;
pub mod snapshot_store;
pub mod socket_tables;
pub mod sockets;
mod supervisor;
pub mod threads;
pub mod zookeeper;

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::InUse;
use crate::model::{Clock, Snapshot};
use context::BrokerContext;
use dump_service::DumpService;
use frame::{BlockingCollector, Collector};

/// Monitors every broker of this host until it is dropped.
pub async fn run(
    settings: watch::Receiver<InUse>,
    publish: watch::Sender<Arc<Snapshot>>,
    dumps: DumpService,
    clock: Clock,
) {
    supervisor::run(settings, publish, dumps, clock, start).await;
}

/// Starts the collectors of one broker. They end when the set is dropped.
fn start(context: &BrokerContext) -> JoinSet<()> {
    let mut tasks = Tasks {
        context,
        set: JoinSet::new(),
    };
    tasks.blocking::<process::Process>();
    // With `sockets`.
    tasks.blocking::<accept_queues::AcceptQueues>();
    // With `connections`.
    tasks.blocking::<fds::Fds>();
    tasks.blocking::<memory_maps::MemoryMaps>();
    tasks.blocking::<log_dirs::LogDirs>();
    tasks.blocking::<logs::Logs>();
    tasks.own::<metadata_log::MetadataLogs, _>(metadata_log::run);
    tasks.own::<threads::Threads, _>(threads::run);
    // With `pools`.
    tasks.own::<progress::Progress, _>(progress::run);
    tasks.own::<cluster::Cluster, _>(cluster::run);
    tasks.own::<groups::Groups, _>(groups::run);
    tasks.own::<zookeeper::ZooKeeper, _>(zookeeper::run);
    tasks.set
}

struct Tasks<'a> {
    context: &'a BrokerContext,
    set: JoinSet<()>,
}

impl Tasks<'_> {
    fn blocking<C: BlockingCollector>(&mut self) {
        self.own::<C, _>(frame::run::<C>);
    }

    /// A collector with a loop of its own.
    fn own<C: Collector, F: Future<Output = ()> + Send + 'static>(
        &mut self,
        run: impl Fn(BrokerContext) -> F + Send + 'static,
    ) {
        let context = self.context.clone();
        if context.config.collectors.is_on(C::DESCRIPTION.name) {
            self.set.spawn(frame::supervised::<C, F>(context, run));
        }
    }
}
