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
use crate::deadlock::TOPIC;

/// Clients of each broker, as in the recorded incident: those that send Metadata, Fetch and OffsetFetch twice a second,
/// and those that commit an offset every 2 s, each for a group of its own.
const READERS: usize = 3;
const COMMITTERS: usize = 4;
/// How long they wait for an answer.
const TIME_OUT: Duration = Duration::from_secs(5);

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
    /// Starts the clients of [`TOPIC`], which exists.
    pub fn start(cluster: &Cluster) -> Result<Load> {
        Load::start_rebalancing(cluster, 0)
    }

    /// And so many of each broker that join groups, each group with one of each other broker, and leave them again.
    /// (0.10.1.0 may deadlock by it.)
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

fn rebalance(
    connection: &mut Connection,
    group: &str,
    ports: &BTreeMap<i32, u16>,
    fetch_version: i16,
    counts: &Counts,
) -> io::Result<()> {
    let id = match connection.coordinator(group) {
        // There is none yet.
        Err(error) if error.kind() == io::ErrorKind::Other => return Ok(()),
        found => found?,
    };
    let mut coordinator = Connection::open(
        *ports.get(&id).ok_or(io::ErrorKind::NotFound)?,
        2 * TIME_OUT,
    )?;
    let join_version = if fetch_version >= 4 { 2 } else { 0 };
    // Refused while the coordinator moves.
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
