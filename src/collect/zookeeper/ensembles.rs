//! The sessions with ZooKeeper: one for each ensemble, which the brokers of this host share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex as Lock, PoisonError, Weak};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, timeout_at};

use crate::kafka::conn::OwnConnections;
use crate::kafka::zookeeper::{Session, ZooKeeperError};
use crate::model::{Failure, Moment, Reason, text};

/// Rounds that are due at the same moment run one after the other, and share the list of brokers.
const SAME_MOMENT: Duration = Duration::from_millis(200);
/// How long an override is believed, and how many of them are kept.
const OVERRIDES_LAST: Duration = Duration::from_secs(120);
const MOST_OVERRIDES: usize = 1_000;
/// What a broker advertises is for a person, so its beginning is enough.
const ENDPOINT: usize = 255;

/// Which brokers may share a session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// `host:port`.
    pub servers: Vec<String>,
    /// Whether an address of the exporter's own loopback may be ZooKeeper's.
    pub loopback: bool,
    /// Whether another user's brokers come first.
    pub of_others: bool,
}

/// The ensembles that brokers of this host use.
#[derive(Clone, Default)]
pub struct Ensembles {
    own: OwnConnections,
    known: Arc<Lock<BTreeMap<Way, Weak<Ensemble>>>>,
}

/// One ensemble with its session.
pub struct Ensemble(Mutex<Shared>);

struct Shared {
    session: Session,
    /// By the root of the cluster.
    newest: BTreeMap<String, Round>,
    /// `min.insync.replicas` by the path of a node of settings.
    overrides: BTreeMap<String, (Instant, Option<u32>)>,
}

struct Round {
    started: Instant,
    members: Result<Members, Failure>,
}

/// What is the same for every broker of a cluster.
#[derive(Debug, Clone)]
pub struct Members {
    pub server: Arc<str>,
    pub brokers: Arc<BTreeSet<i32>>,
    pub controller: Option<i32>,
}

/// What a broker has written about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    pub since: Moment,
    pub endpoint: String,
}

impl Ensembles {
    /// `own` gets the exporter's connections to ZooKeeper.
    pub fn new(own: OwnConnections) -> Ensembles {
        Ensembles {
            own,
            known: Arc::default(),
        }
    }

    /// Returns the ensemble at these servers. The first connection leads to the server with the number `first`.
    pub fn of(&self, way: Way, first: usize) -> Arc<Ensemble> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ensemble) = known.get(&way).and_then(Weak::upgrade) {
            return ensemble;
        }
        known.retain(|_, ensemble| ensemble.strong_count() > 0);
        let session = Session::new(way.servers.clone(), first, self.own.clone(), way.loopback);
        session.set_of_others(way.of_others);
        let ensemble = Arc::new(Ensemble(Mutex::new(Shared {
            session,
            newest: BTreeMap::new(),
            overrides: BTreeMap::new(),
        })));
        known.insert(way, Arc::downgrade(&ensemble));
        ensemble
    }
}

impl Ensemble {
    /// Reads which brokers are registered below `root`, and what the broker `id` has registered. A call at the moment of
    /// another one uses its list.
    pub async fn read(
        &self,
        root: &str,
        id: i32,
        within: Duration,
    ) -> Result<(Members, Option<Registration>), Failure> {
        let called = Instant::now();
        let deadline = called + within;
        let mut shared = self.lock(deadline).await?;
        let young = |round: &Round| round.started + SAME_MOMENT >= called;
        shared.newest.retain(|_, round| young(round));
        let members = match shared.newest.get(root) {
            Some(round) => round.members.clone(),
            None => {
                let members = shared.members(root, deadline).await;
                let round = Round {
                    started: called,
                    members: members.clone(),
                };
                shared.newest.insert(root.to_owned(), round);
                members
            }
        }?;
        if !members.brokers.contains(&id) {
            return Ok((members, None));
        }
        let path = format!("{root}/brokers/ids/{id}");
        let (session, what) = (&mut shared.session, "a registered broker");
        // Where the node is gone, the broker has ended since the list was read.
        let registration = node(session, &path, deadline, registration, what).await?;
        Ok((members, registration))
    }

    /// Reads `min.insync.replicas` in nodes of settings; None where a node does not have it, or does not exist.
    pub async fn min_isr(
        &self,
        paths: &[String],
        within: Duration,
    ) -> Result<BTreeMap<String, Option<u32>>, Failure> {
        let deadline = Instant::now() + within;
        let mut shared = self.lock(deadline).await?;
        let now = Instant::now();
        let Shared {
            session, overrides, ..
        } = &mut *shared;
        overrides.retain(|_, (read, _)| now - *read < OVERRIDES_LAST);
        if overrides.len() + paths.len() > MOST_OVERRIDES {
            overrides.clear();
        }
        let mut found = BTreeMap::new();
        for path in paths {
            let min = match overrides.get(path) {
                Some((_, min)) => *min,
                None => {
                    let read = node(session, path, deadline, min_isr, "settings").await?;
                    let min = read.flatten();
                    overrides.insert(path.clone(), (now, min));
                    min
                }
            };
            found.insert(path.clone(), min);
        }
        Ok(found)
    }

    /// Hands the state of each partition to `each`, with its number in the list, but for those that do not exist and topics
    /// with a name that Kafka does not allow. The questions of other brokers come in between.
    pub async fn states(
        &self,
        root: &str,
        partitions: &[(&str, i32)],
        deadline: Instant,
        mut each: impl FnMut(usize, PartitionState),
    ) -> Result<(), Failure> {
        let legal = partitions.iter().enumerate();
        for (at, (topic, index)) in legal.filter(|(_, (topic, _))| is_topic(topic)) {
            let path = format!("{root}/brokers/topics/{topic}/partitions/{index}/state");
            let session = &mut self.lock(deadline).await?.session;
            let what = "the state of a partition";
            if let Some(state) = node(session, &path, deadline, partition_state, what).await? {
                each(at, state);
            }
        }
        Ok(())
    }

    /// Waits for the questions of other brokers.
    async fn lock(&self, deadline: Instant) -> Result<MutexGuard<'_, Shared>, Failure> {
        timeout_at(deadline, self.0.lock()).await.map_err(|_| {
            let message = "the questions of other brokers to the same ZooKeeper took all the time, because it answers slowly";
            Failure::new(Reason::Timeout, message.to_owned())
        })
    }

    /// Sends a question if the session would not last until `next` without one; returns when the next one is due.
    pub async fn keep(&self, root: &str, within: Duration, next: Instant) -> Option<Instant> {
        let mut shared = self.lock(Instant::now() + within).await.ok()?;
        let due = Instant::now() + shared.session.rest()?;
        if due >= next {
            return None;
        }
        drop(shared);
        tokio::time::sleep_until(due).await;
        let (path, deadline) = (format!("{root}/controller"), Instant::now() + within);
        shared = self.lock(deadline).await.ok()?;
        // The next round shows a failure.
        let _ = shared.session.data(&path, deadline, |_| ()).await;
        Some(due)
    }
}

impl Shared {
    async fn members(&mut self, root: &str, deadline: Instant) -> Result<Members, Failure> {
        let path = format!("{root}/brokers/ids");
        let brokers = self
            .session
            .children(&path, deadline, |names| ids(&names))
            .await;
        let server: Arc<str> = self.session.server().unwrap_or_default().into();
        let Some(brokers) = brokers.map_err(failure)? else {
            let message = format!(
                "{server} has no node {path}: no broker has ever registered there, or `zookeeper.connect` has changed since \
                 the broker started"
            );
            return Err(Failure::new(Reason::Config, message));
        };
        let Some(brokers) = brokers else {
            return Err(unreadable(&server, &path, "the ids of brokers"));
        };
        let path = format!("{root}/controller");
        let (session, what) = (&mut self.session, "the controller");
        // The node is there while one is elected.
        let controller = node(session, &path, deadline, controller, what).await?;
        Ok(Members {
            server,
            brokers: Arc::new(brokers),
            controller,
        })
    }
}

/// Reads the data of a node; None if there is no such node. `what` is what `read` takes them for.
async fn node<T>(
    session: &mut Session,
    path: &str,
    deadline: Instant,
    read: impl FnOnce(&[u8]) -> Option<T>,
    what: &str,
) -> Result<Option<T>, Failure> {
    let read = session.data(path, deadline, read).await.map_err(failure)?;
    let server = session.server().unwrap_or_default();
    let known = read.map(|known| known.ok_or_else(|| unreadable(server, path, what)));
    known.transpose()
}

fn failure(error: ZooKeeperError) -> Failure {
    Failure::new(error.reason(), error.to_string())
}

fn unreadable(server: &str, path: &str, what: &str) -> Failure {
    let message =
        format!("{server} has a node {path} whose data are not what Kafka writes about {what}");
    Failure::new(Reason::Protocol, message)
}

/// Reads the names of the nodes below `/brokers/ids`; None if one of them is no broker's id, so that none is left out.
pub fn ids(names: &[&str]) -> Option<BTreeSet<i32>> {
    names.iter().map(|name| name.parse().ok()).collect()
}

/// Reads what a broker has written below `/brokers/ids`.
pub fn registration(data: &[u8]) -> Option<Registration> {
    /// Old versions have only host and port, newer ones only endpoints where none of them is PLAINTEXT.
    #[derive(Deserialize)]
    struct Written {
        timestamp: Number,
        #[serde(default)]
        endpoints: Vec<String>,
        host: Option<String>,
        port: Option<i32>,
    }
    let written: Written = serde_json::from_slice(data).ok()?;
    let since = Moment(written.timestamp.value()?);
    let endpoint = written.endpoints.into_iter().next().or_else(|| {
        let (host, port) = (written.host?, written.port?);
        Some(format!("{host}:{port}"))
    });
    Some(Registration {
        since,
        endpoint: text::cut(endpoint?, ENDPOINT),
    })
}

/// Reads what the controller has written below `/controller`.
pub fn controller(data: &[u8]) -> Option<i32> {
    #[derive(Deserialize)]
    struct Written {
        brokerid: i32,
    }
    let written: Written = serde_json::from_slice(data).ok()?;
    Some(written.brokerid)
}

/// Reads `min.insync.replicas` in what Kafka has written below `/config`; None inside if that does not have it.
pub fn min_isr(data: &[u8]) -> Option<Option<u32>> {
    #[derive(Deserialize)]
    struct Written {
        #[serde(default)]
        config: Settings,
    }
    #[derive(Default, Deserialize)]
    struct Settings {
        #[serde(rename = "min.insync.replicas")]
        min_isr: Option<String>,
    }
    let written: Written = serde_json::from_slice(data).ok()?;
    match written.config.min_isr {
        None => Some(None),
        Some(text) => Some(Some(text.trim().parse().ok()?)),
    }
}

/// What the leader of a partition and the controller write about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionState {
    pub leader: Option<i32>,
    pub isr: Vec<i32>,
}

/// Reads what is written below `/brokers/topics/TOPIC/partitions/N/state`.
pub fn partition_state(data: &[u8]) -> Option<PartitionState> {
    #[derive(Deserialize)]
    struct Written {
        leader: i32,
        isr: Vec<i32>,
    }
    let Written { leader, isr } = serde_json::from_slice(data).ok()?;
    Some(PartitionState {
        leader: (leader >= 0).then_some(leader),
        isr,
    })
}

pub(super) fn is_topic(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !matches!(name, "" | "." | "..") && name.chars().all(legal)
}

/// Kafka writes milliseconds as a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Number(u64),
    Text(String),
}

impl Number {
    fn value(&self) -> Option<u64> {
        match self {
            Number::Number(value) => Some(*value),
            Number::Text(text) => text.parse().ok(),
        }
    }
}
