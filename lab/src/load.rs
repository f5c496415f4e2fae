//! Simulates impatient clients: after a time-out without an answer they close the socket and connect again.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::client::{Connection, Member};
use crate::cluster::Cluster;
use crate::deadlock::TOPIC;

/// The clients of each broker, as in the recorded incident: readers send Metadata, Fetch and OffsetFetch twice a second,
/// committers commit an offset every 2 s, each for its own group.
const READERS: usize = 3;
const COMMITTERS: usize = 4;
/// The time that a client waits for an answer.
const TIME_OUT: Duration = Duration::from_secs(5);

/// A running load. After it is dropped, the clients end within their time-out.
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
    /// Starts the clients. [`TOPIC`] must exist.
    pub fn start(cluster: &Cluster) -> Result<Load> {
        Load::start_rebalancing(cluster, 0)
    }

    /// Starts the clients, and for each broker further `rebalancers` that join and leave groups. Each group has one
    /// rebalancer per broker. On 0.10.1.0 this can deadlock a broker.
    pub fn start_rebalancing(cluster: &Cluster, rebalancers: usize) -> Result<Load> {
        let load = Load(Arc::default());
        let fetch_version = cluster.version().fetch_version;
        let ports: BTreeMap<i32, u16> = cluster
            .brokers()
            .map(|broker| (broker.id(), broker.port()))
            .collect();
        for port in ports.values().copied() {
            for client in 0..READERS + COMMITTERS + rebalancers {
                let (counts, network, ports) = (
                    Arc::clone(&load.0),
                    cluster.cell().network()?,
                    ports.clone(),
                );
                let group = format!("load-{client}");
                let (reads, commits) = (
                    client < READERS,
                    (READERS..READERS + COMMITTERS).contains(&client),
                );
                let pause = Duration::from_millis(if commits { 2_000 } else { 500 });
                thread::Builder::new()
                    .name("client".into())
                    .spawn(move || {
                        if network.enter().is_err() {
                            return;
                        }
                        drop(network);
                        run(&counts, port, pause, |connection| {
                            if reads {
                                connection.metadata()?;
                                connection.fetch(fetch_version, TOPIC, client as i32)?;
                                connection.fetch_offset(&group, TOPIC)
                            } else if commits {
                                connection.commit(&Member::simple(&group), TOPIC)
                            } else {
                                rebalance(connection, &group, &ports, fetch_version, &counts)
                            }
                        });
                    })?;
            }
        }
        Ok(load)
    }

    /// Returns the number of answered rounds of requests.
    pub fn answered(&self) -> u64 {
        self.0.answered.load(Ordering::Relaxed)
    }

    /// Returns how often a rebalancer joined and left a group.
    pub fn rebalanced(&self) -> u64 {
        self.0.rebalanced.load(Ordering::Relaxed)
    }

    /// Returns the number of requests and connects that failed or had no answer in time.
    pub fn failed(&self) -> u64 {
        self.0.failed.load(Ordering::Relaxed)
    }

    /// Returns the time of the first failure.
    pub fn first_failure(&self) -> Option<Instant> {
        self.0.first_failure.get().copied()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

fn rebalance(
    connection: &mut Connection,
    group: &str,
    ports: &BTreeMap<i32, u16>,
    fetch_version: i16,
    counts: &Counts,
) -> io::Result<()> {
    let id = match connection.coordinator(group) {
        // The group has no coordinator yet.
        Err(error) if error.kind() == io::ErrorKind::Other => return Ok(()),
        found => found?,
    };
    let mut coordinator = Connection::open(
        *ports.get(&id).ok_or(io::ErrorKind::NotFound)?,
        2 * TIME_OUT,
    )?;
    let join_version = if fetch_version >= 4 { 2 } else { 0 };
    // Brokers refuse it while the coordinator moves.
    if coordinator.rebalance(join_version, group, TOPIC).is_ok() {
        counts.rebalanced.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn run(
    counts: &Counts,
    port: u16,
    pause: Duration,
    request: impl Fn(&mut Connection) -> io::Result<()>,
) {
    let mut kept: Option<Connection> = None;
    while !counts.stop.load(Ordering::Relaxed) {
        let connection = match kept.take() {
            Some(connection) => Ok(connection),
            None => Connection::open(port, TIME_OUT),
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
