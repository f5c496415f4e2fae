//! Impatient clients, as real ones are: no answer within the time-out, and they close the socket and connect again.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::client::{Connection, Member};
use crate::cluster::Cluster;

/// How many clients, and how patient.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// A topic that exists; its first partitions are fetched.
    pub topic: String,
    /// Clients of each broker that send Metadata, Fetch and OffsetFetch twice a second.
    pub readers: usize,
    /// Clients of each broker that commit an offset every 2 s, each for a group of its own.
    pub committers: usize,
    /// Clients of each broker that join groups, each group with one of each other broker, and leave them again. (0.10.1.0 may deadlock by it.)
    pub rebalancers: usize,
    /// How long they wait for an answer.
    pub time_out: Duration,
}

impl LoadOptions {
    /// As many as in the recorded incident: per broker 3 readers and 4 committers, with time-outs of 5 s.
    pub fn incident(topic: &str) -> LoadOptions {
        LoadOptions { topic: topic.into(), readers: 3, committers: 4, rebalancers: 0, time_out: Duration::from_secs(5) }
    }
}

/// A running load. Dropping it tells the clients to end, which they do within their time-out.
pub struct Load(Arc<Counts>);

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    answered: AtomicU64,
    rebalanced: AtomicU64,
    failed: AtomicU64,
    first_failure: OnceLock<Instant>,
}

impl Load {
    /// Starts the clients.
    pub fn start(cluster: &Cluster, options: &LoadOptions) -> Result<Load> {
        let counts = Arc::new(Counts::default());
        let load = Load(Arc::clone(&counts));
        let fetch_version = cluster.version().fetch_version;
        let join_version = if fetch_version >= 4 { 2 } else { 0 };
        let ports: BTreeMap<i32, u16> = cluster.brokers().map(|broker| (broker.id(), broker.port())).collect();
        for broker in cluster.brokers() {
            for client in 0..options.readers + options.committers + options.rebalancers {
                let (counts, network, topic) = (Arc::clone(&counts), cluster.cell().network()?, options.topic.clone());
                let (port, time_out, commits) = (broker.port(), options.time_out, client >= options.readers);
                let rebalances = client >= options.readers + options.committers;
                let group = format!("load-{client}");
                let pause = Duration::from_millis(if commits && !rebalances { 2_000 } else { 500 });
                let (ports, counted) = (ports.clone(), Arc::clone(&counts));
                let request = move |connection: &mut Connection| -> io::Result<()> {
                    if rebalances {
                        let id = match connection.coordinator(&group) {
                            // There is none yet.
                            Err(error) if error.kind() == io::ErrorKind::Other => return Ok(()),
                            found => found?,
                        };
                        let port = ports.get(&id).ok_or(io::ErrorKind::NotFound)?;
                        let mut coordinator = Connection::open(*port, 2 * time_out)?;
                        // Refused while the coordinator moves.
                        if coordinator.rebalance(join_version, &group, &topic).is_ok() {
                            counted.rebalanced.fetch_add(1, Ordering::Relaxed);
                        }
                        return Ok(());
                    }
                    if commits {
                        return connection.commit(&Member::simple(&group), &topic);
                    }
                    connection.metadata()?;
                    connection.fetch(fetch_version, &topic, client as i32)?;
                    connection.fetch_offset(&group, &topic)
                };
                thread::Builder::new().name("client".into()).spawn(move || {
                    if network.enter().is_ok() {
                        drop(network);
                        run(&counts, port, time_out, pause, request);
                    }
                })?;
            }
        }
        Ok(load)
    }

    /// Rounds of requests that were answered.
    pub fn answered(&self) -> u64 {
        self.0.answered.load(Ordering::Relaxed)
    }

    /// Groups that were joined and left.
    pub fn rebalanced(&self) -> u64 {
        self.0.rebalanced.load(Ordering::Relaxed)
    }

    /// Requests and connects without an answer in time, or refused.
    pub fn failed(&self) -> u64 {
        self.0.failed.load(Ordering::Relaxed)
    }

    /// When the first client noticed.
    pub fn first_failure(&self) -> Option<Instant> {
        self.0.first_failure.get().copied()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

fn run(
    counts: &Counts,
    port: u16,
    time_out: Duration,
    pause: Duration,
    request: impl Fn(&mut Connection) -> io::Result<()>,
) {
    let mut kept: Option<Connection> = None;
    while !counts.stop.load(Ordering::Relaxed) {
        let connection = match kept.take() {
            Some(connection) => Ok(connection),
            None => Connection::open(port, time_out),
        };
        let connected = connection.is_ok();
        match connection.and_then(|mut connection| request(&mut connection).map(|()| connection)) {
            Ok(connection) => {
                counts.answered.fetch_add(1, Ordering::Relaxed);
                kept = Some(connection);
                thread::sleep(pause);
            }
            Err(_) => {
                if counts.stop.load(Ordering::Relaxed) {
                    return;
                }
                let _ = counts.first_failure.set(Instant::now());
                counts.failed.fetch_add(1, Ordering::Relaxed);
                if !connected {
                    thread::sleep(Duration::from_millis(500));
                }
            }
        }
    }
}
