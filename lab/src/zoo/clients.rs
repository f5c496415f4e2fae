//! Impatient clients of all kinds, which go where the leader or the coordinator is, as Kafka's clients do. Each gives an
//! operation 5 s, with all its retries; what fails then is harm, what takes more than 1 s is slow.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::client::Connection;
use crate::cluster::Cluster;

pub const TOPIC: &str = "zoo";
pub const PARTITIONS: i32 = 6;
/// The time that a client gives an operation.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// What takes longer is slow.
const SLOW: Duration = Duration::from_secs(1);
const BETWEEN_TRIES: Duration = Duration::from_millis(100);
/// For one broker, when the client looks for leaders and coordinators.
const LOOK_UP: Duration = Duration::from_secs(1);
/// A record of a producer.
const RECORD: usize = 500;
const MOST_COMPLAINTS: usize = 10_000;

/// What one client had to suffer.
#[derive(Clone, Debug)]
pub struct Complaint {
    pub at: Instant,
    pub failed: bool,
    pub client: String,
    pub why: String,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Appends to a partition, for all in-sync replicas.
    Producer(i32),
    /// Reads a partition's newest record.
    Consumer(i32),
    /// Commits offsets of a group.
    Committer,
    /// Makes a new connection to a broker each time.
    Newcomer(i32),
}

/// Running clients; dropping them ends them.
pub struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    brokers: BTreeMap<i32, SocketAddr>,
    old: bool,
    fetch_version: i16,
    /// The offset of the last record that was appended, by partition.
    appended: Vec<AtomicI64>,
    stop: AtomicBool,
    answered: AtomicU64,
    complaints: Mutex<Vec<Complaint>>,
}

impl Clients {
    /// Starts a producer and a consumer for each partition of [`TOPIC`], and a committer and a newcomer for each broker.
    pub fn start(cluster: &Cluster) -> Result<Clients> {
        let brokers: BTreeMap<i32, SocketAddr> = cluster
            .brokers()
            .map(|broker| (broker.id(), broker.address()))
            .collect();
        let mut kinds = Vec::new();
        for partition in 0..PARTITIONS {
            kinds.push((format!("producer {partition}"), Kind::Producer(partition)));
            kinds.push((format!("consumer {partition}"), Kind::Consumer(partition)));
        }
        for (id, group) in groups(cluster)? {
            kinds.push((group, Kind::Committer));
            kinds.push((format!("newcomer {id}"), Kind::Newcomer(id)));
        }
        Clients::of(cluster, brokers, kinds)
    }

    /// Starts further producers of one partition.
    pub fn producers(cluster: &Cluster, partition: i32, count: usize) -> Result<Clients> {
        let brokers = cluster
            .brokers()
            .map(|broker| (broker.id(), broker.address()));
        let kinds = (0..count)
            .map(|number| (format!("more {number}"), Kind::Producer(partition)))
            .collect();
        Clients::of(cluster, brokers.collect(), kinds)
    }

    fn of(
        cluster: &Cluster,
        brokers: BTreeMap<i32, SocketAddr>,
        kinds: Vec<(String, Kind)>,
    ) -> Result<Clients> {
        let version = cluster.version();
        let shared = Arc::new(Shared {
            brokers,
            old: version.name.starts_with("0.10."),
            fetch_version: version.fetch_version,
            appended: (0..PARTITIONS).map(|_| AtomicI64::new(-1)).collect(),
            stop: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            complaints: Mutex::default(),
        });
        let mut clients = Clients {
            shared,
            threads: Vec::new(),
        };
        for (name, kind) in kinds {
            let (shared, network) = (Arc::clone(&clients.shared), cluster.cell().network()?);
            let run = move || {
                if network.enter().is_ok() {
                    drop(network);
                    Client::new(&shared, name, kind).run();
                }
            };
            let thread = thread::Builder::new().name("client".into()).spawn(run)?;
            clients.threads.push(thread);
        }
        Ok(clients)
    }

    /// Returns the number of operations that succeeded.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Returns what happened since a moment.
    pub fn complaints_since(&self, since: Instant) -> Vec<Complaint> {
        let all = self.shared.complaints();
        let since = all.iter().filter(|complaint| complaint.at >= since);
        since.cloned().collect()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn complaints(&self) -> MutexGuard<'_, Vec<Complaint>> {
        self.complaints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn complain(&self, complaint: Complaint) {
        let mut all = self.complaints();
        if all.len() < MOST_COMPLAINTS {
            all.push(complaint);
        }
    }
}

/// Returns a group for each broker that coordinates some.
fn groups(cluster: &Cluster) -> Result<BTreeMap<i32, String>> {
    let first = cluster.brokers().next().context("a broker")?.address();
    let count = cluster.brokers().count();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found = cluster.cell().in_network(|| -> io::Result<_> {
            let mut connection = Connection::open_at(first, PATIENCE)?;
            let mut groups = BTreeMap::new();
            for group in (0..200).map(|number| format!("group-{number}")) {
                groups
                    .entry(connection.coordinator(&group)?)
                    .or_insert(group);
                if groups.len() == count {
                    break;
                }
            }
            Ok(groups)
        })?;
        match found {
            Ok(groups) => return Ok(groups),
            Err(error) if Instant::now() > deadline => {
                return Err(error).context("coordinators of groups");
            }
            Err(_) => crate::sleep_between_polls()?,
        }
    }
}

struct Client<'a> {
    shared: &'a Shared,
    name: String,
    kind: Kind,
    kept: Option<Connection>,
    /// The broker that was asked first when leaders or coordinators were looked for.
    asked: usize,
}

impl<'a> Client<'a> {
    fn new(shared: &'a Shared, name: String, kind: Kind) -> Client<'a> {
        Client {
            shared,
            name,
            kind,
            kept: None,
            asked: 0,
        }
    }

    fn run(&mut self) {
        while !self.stopped() {
            let start = Instant::now();
            let result = self.operation(start + PATIENCE);
            if self.stopped() {
                return;
            }
            let took = start.elapsed();
            if took > SLOW {
                let why = result.as_ref().map_or_else(
                    |error| error.to_string(),
                    |()| format!("took {:.1} s", took.as_secs_f64()),
                );
                self.complain(start + SLOW, false, &why);
            }
            match result {
                Ok(()) => {
                    self.shared.answered.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(self.pause());
                }
                Err(error) => self.complain(Instant::now(), true, &error),
            }
        }
    }

    fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    fn complain(&self, at: Instant, failed: bool, why: &dyn fmt::Display) {
        self.shared.complain(Complaint {
            at,
            failed,
            client: self.name.clone(),
            why: why.to_string(),
        });
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(match self.kind {
            Kind::Producer(_) => 100,
            Kind::Consumer(_) => 200,
            Kind::Committer => 500,
            Kind::Newcomer(_) => 1_000,
        })
    }

    /// Tries until it succeeds or the time is over.
    fn operation(&mut self, deadline: Instant) -> io::Result<()> {
        loop {
            let error = match self.attempt(deadline) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            self.kept = None;
            if Instant::now() + BETWEEN_TRIES >= deadline || self.stopped() {
                return Err(error);
            }
            thread::sleep(BETWEEN_TRIES);
        }
    }

    fn attempt(&mut self, deadline: Instant) -> io::Result<()> {
        let left = || {
            let left = deadline.saturating_duration_since(Instant::now());
            // The kernel takes no time-out of zero.
            left.max(Duration::from_millis(1))
        };
        if let Kind::Newcomer(id) = self.kind {
            return Connection::open_at(self.shared.brokers[&id], left())?
                .metadata()
                .map(drop);
        }
        let mut connection = match self.kept.take() {
            Some(connection) => connection,
            None => Connection::open_at(self.responsible(deadline)?, left())?,
        };
        connection.set_time(left());
        match self.kind {
            Kind::Producer(partition) => {
                let offset = connection.produce(self.shared.old, TOPIC, partition, RECORD)?;
                self.appended(partition).store(offset, Ordering::Relaxed);
            }
            Kind::Consumer(partition) => {
                let newest = self.appended(partition).load(Ordering::Relaxed).max(0);
                let wait = Duration::from_millis(500);
                let version = self.shared.fetch_version;
                let end = connection.fetch_from(version, TOPIC, partition, newest, wait)?;
                if end < newest {
                    return Err(io::Error::other("an acknowledged record cannot be read"));
                }
            }
            Kind::Committer | Kind::Newcomer(_) => connection.commit_checked(&self.name, TOPIC)?,
        }
        self.kept = Some(connection);
        Ok(())
    }

    fn appended(&self, partition: i32) -> &AtomicI64 {
        // There is one for each partition.
        &self.shared.appended[partition as usize]
    }

    /// Returns the address of the leader or coordinator, by the first broker that knows it.
    fn responsible(&mut self, deadline: Instant) -> io::Result<SocketAddr> {
        let brokers: Vec<SocketAddr> = self.shared.brokers.values().copied().collect();
        let mut last = io::Error::other("no broker knows who is responsible");
        for _ in 0..brokers.len() {
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.asked = (self.asked + 1) % brokers.len();
            match self.look_up(brokers[self.asked]) {
                Ok(address) => return Ok(address),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn look_up(&self, bootstrap: SocketAddr) -> io::Result<SocketAddr> {
        let mut connection = Connection::open_at(bootstrap, LOOK_UP)?;
        let id = match self.kind {
            Kind::Producer(partition) | Kind::Consumer(partition) => {
                let metadata = connection.metadata()?;
                let mut partitions = metadata.partitions.into_iter();
                partitions
                    .find(|one| one.topic == TOPIC && one.partition == partition)
                    .and_then(|one| one.leader)
                    .ok_or_else(|| io::Error::other("the partition has no leader"))?
            }
            Kind::Committer => connection.coordinator(&self.name)?,
            Kind::Newcomer(id) => id,
        };
        let address = self.shared.brokers.get(&id).copied();
        address.ok_or_else(|| io::Error::other(format!("there is no broker {id}")))
    }
}
