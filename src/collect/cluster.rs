//! ISR and leaders of the cluster, from one Metadata request a round to the broker's own listener; while the broker is
//! silent, from the peers that it named last.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::Failure;
use crate::discover::{Broker, Listener, Role, SecurityProtocol};
use crate::kafka::client::{Client, ClientError, Timing};
use crate::kafka::conn::OwnConnections;
use crate::kafka::wire::{Item, Metadata, WireError};
use crate::snapshot::{ClusterCounts, ClusterSource, PartitionState, Peer};

/// Entries of [`ClusterCounts::not_whole`]; the rest is only counted.
const NOT_WHOLE_LISTED: usize = 100;
/// Peers that are asked in turn while the own broker is silent.
const PEERS_ASKED: usize = 8;
/// Kept connections to peers, those to brokers that left the cluster and still owe an answer included.
const PEER_CONNECTIONS: usize = 2 * PEERS_ASKED;

/// Asks one broker process; a restarted broker needs a new one.
#[derive(Debug)]
pub struct ClusterCollector {
    broker: Arc<Broker>,
    bootstrap: Option<String>,
    listener: Option<String>,
    own: OwnConnections,
    timing: Timing,
    /// Whether our loopback is the broker's; or why that is unknown.
    same_network: Result<bool, Failure>,
    client: Option<Client>,
    peers: Peers,
}

impl ClusterCollector {
    /// `bootstrap` (`host:port`) and `listener` (its name) are the config's, and go before what discovery knows.
    pub fn new(broker: Arc<Broker>, bootstrap: Option<String>, listener: Option<String>, own: OwnConnections) -> Self {
        Self::with_timing(broker, bootstrap, listener, own, Timing::default())
    }

    fn with_timing(
        broker: Arc<Broker>,
        bootstrap: Option<String>,
        listener: Option<String>,
        own: OwnConnections,
        timing: Timing,
    ) -> Self {
        let (same_network, peers) = (Ok(true), Peers::default());
        ClusterCollector { broker, bootstrap, listener, own, timing, same_network, client: None, peers }
    }

    /// Takes what discovery learned since, of the same process: the id of a broker that had none, its listeners.
    pub fn update(&mut self, broker: Arc<Broker>) {
        self.broker = broker;
    }

    /// Whether the broker runs in our network namespace. If not, nothing on loopback is asked: it may be another broker.
    pub fn set_network(&mut self, same: Result<bool, Failure>) {
        self.same_network = same;
    }

    /// One round: at most one question to the broker and one to a peer, with 2 s for each.
    ///
    /// May be dropped at any time; a question that is then unanswered is not asked again.
    pub async fn collect(&mut self) -> Result<ClusterCounts, Failure> {
        let name = name(&self.broker);
        let Some(id) = self.broker.id else {
            return Err(Failure::new(
                "no_id",
                format!(
                    "{name}: its id is unknown, so its partitions cannot be told from others': {}",
                    hint(&self.broker)
                ),
            ));
        };
        let (bootstrap, listener) = (self.bootstrap.as_deref(), self.listener.as_deref());
        let address = own_address(&self.broker, bootstrap, listener, &self.same_network)?;
        let elsewhere = self.same_network != Ok(true);
        let client = match self.client.take() {
            Some(client) if client.address() == address => self.client.insert(client),
            _ => self.client.insert(Client::new(address, self.own.clone(), self.timing)),
        };
        let own = match ask(client, id, ClusterSource::Own, None).await {
            Ok(counts) => {
                self.peers.elsewhere = elsewhere;
                self.peers.remember(id, &counts.live_brokers);
                self.peers.leave().await;
                return Ok(counts);
            }
            Err(error) => Failure::new(error.reason(), format!("{name}: {error}")),
        };
        match self.peers.ask(id, &own.message, &self.own, self.timing).await {
            None => Err(own),
            Some(Ok(counts)) => Ok(counts),
            Some(Err(peer)) => Err(Failure::new(own.reason, format!("{}; {peer}", own.message))),
        }
    }
}

async fn ask(
    client: &mut Client,
    id: i32,
    source: ClusterSource,
    own_silence: Option<String>,
) -> Result<ClusterCounts, ClientError> {
    let body = client.metadata().await?;
    count(&body, id, source, own_silence).map_err(|source| ClientError::Wire {
        address: client.address().to_owned(),
        request: "Metadata",
        source,
    })
}

/// The brokers that may be asked instead, each over one kept connection.
#[derive(Debug, Default)]
struct Peers {
    /// In the order of asking: ids above the own one, then those below.
    ring: Vec<Peer>,
    /// Whose turn it is: stays while it answers.
    turn: usize,
    clients: BTreeMap<i32, Client>,
    /// In another network than ours: those on its loopback are not for us.
    elsewhere: bool,
}

impl Peers {
    fn remember(&mut self, own_id: i32, live: &[Peer]) {
        let current = self.ring.get(self.turn).map(|peer| peer.id);
        let mut ring: Vec<Peer> = {
            let for_us = |peer: &&Peer| peer.id != own_id && !(self.elsewhere && is_local(Some(&peer.host)));
            live.iter().filter(for_us).cloned().collect()
        };
        if ring.is_empty() {
            // A broker cut off from its cluster knows itself alone: the older list is the better one.
            return;
        }
        ring.sort_by_key(|peer| (peer.id < own_id, peer.id));
        ring.dedup_by_key(|peer| peer.id);
        ring.truncate(PEERS_ASKED);
        self.turn = ring.iter().position(|peer| Some(peer.id) == current).unwrap_or(0);
        self.ring = ring;
    }

    /// Asks the peer whose turn it is; None while no peer is known.
    async fn ask(
        &mut self,
        id: i32,
        own_silence: &str,
        own: &OwnConnections,
        timing: Timing,
    ) -> Option<Result<ClusterCounts, String>> {
        let peer = self.ring.get(self.turn)?.clone();
        let address = address(&peer.host, peer.port);
        if self.clients.get(&peer.id).is_none_or(|client| client.address() != address) {
            if self.clients.len() >= PEER_CONNECTIONS {
                self.leave().await;
            }
            if self.clients.len() >= PEER_CONNECTIONS {
                return Some(Err(format!("{PEER_CONNECTIONS} peers owe an answer, so no further one is asked")));
            }
            self.clients.insert(peer.id, Client::new(address, own.clone(), timing));
        }
        let client = self.clients.get_mut(&peer.id)?;
        match ask(client, id, ClusterSource::Peer(peer.id), Some(own_silence.to_owned())).await {
            Ok(counts) => {
                self.remember(id, &counts.live_brokers);
                Some(Ok(counts))
            }
            Err(error) => {
                self.turn = (self.turn + 1) % self.ring.len().max(1);
                Some(Err(format!("peer {}: {error}", peer.id)))
            }
        }
    }

    /// Closes the connections on which nothing is owed.
    async fn leave(&mut self) {
        for id in self.clients.keys().copied().collect::<Vec<_>>() {
            if let Some(client) = self.clients.get_mut(&id)
                && !client.owes_answer().await
            {
                self.clients.remove(&id);
            }
        }
    }
}

fn name(broker: &Broker) -> String {
    match broker.id {
        Some(id) => format!("broker {id} (pid {})", broker.process.pid),
        None => format!("broker of pid {}", broker.process.pid),
    }
}

fn hint(broker: &Broker) -> String {
    match broker.problems.first() {
        Some(problem) => problem.clone(),
        None => "it has none yet, or its server.properties and meta.properties could not be read".into(),
    }
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Where the broker is asked: the config's address, else the config's listener, else a PLAINTEXT one.
fn own_address(
    broker: &Broker,
    bootstrap: Option<&str>,
    listener: Option<&str>,
    same_network: &Result<bool, Failure>,
) -> Result<String, Failure> {
    if !broker.roles.is_empty() && !broker.roles.contains(&Role::Broker) {
        let message = format!("{}: a dedicated controller leads no partitions and answers no Metadata", name(broker));
        return Err(Failure::new("controller", message));
    }
    if let Some(bootstrap) = bootstrap {
        return Ok(bootstrap.to_owned());
    }
    let served = || broker.listeners.iter().filter(|listener| !listener.controller);
    let plain = || served().filter(|listener| listener.protocol == Some(SecurityProtocol::Plaintext));
    let names = || served().map(|listener| listener.name.as_str()).collect::<Vec<_>>().join(", ");
    let chosen = match listener {
        Some(wanted) => served().find(|listener| listener.name == wanted).ok_or_else(|| {
            let message = format!(
                "{}: the config's `probe_listener` {wanted} is none of its listeners ({})",
                name(broker),
                names()
            );
            Failure::new("config", message)
        })?,
        None => plain()
            .find(|listener| *same_network == Ok(true) || !is_local(listener.host.as_deref()))
            .or_else(|| plain().next())
            .or_else(|| served().next())
            .ok_or_else(|| {
                let message = format!(
                    "{}: its listeners are unknown, so name its address as `bootstrap` in the config: {}",
                    name(broker),
                    hint(broker)
                );
                Failure::new("no_listener", message)
            })?,
    };
    let reachable = || {
        let address = loopback_if_any(chosen);
        if !is_local(chosen.host.as_deref()) || same_network.clone()? {
            return Ok(address);
        }
        let message = format!(
            "{}: it runs in another network namespace (a container), so {address} here is not its listener {}: name an \
             address that reaches it from here as `brokers[].bootstrap` in the config file",
            name(broker),
            chosen.name
        );
        Err(Failure::new("other_network", message))
    };
    match chosen.protocol {
        Some(SecurityProtocol::Plaintext) => reachable(),
        // Named by hand: the config knows better than a map that could not be read.
        None if listener.is_some() => reachable(),
        _ => {
            let message = format!(
                "{}: PLAINTEXT is spoken for now, and its listeners ({}) are not: add one on loopback, or name one that is as `probe_listener`",
                name(broker),
                names()
            );
            Err(Failure::new("unsupported", message))
        }
    }
}

/// Whether a host means every address, or one that is another one in every network namespace.
fn is_local(host: Option<&str>) -> bool {
    let host = host.unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(address) => address.is_loopback() || address.is_unspecified(),
        Err(_) => host.is_empty() || host.eq_ignore_ascii_case("localhost"),
    }
}

fn loopback_if_any(listener: &Listener) -> String {
    let host = match listener.host.as_deref() {
        None | Some("" | "0.0.0.0" | "::" | "[::]") => "127.0.0.1",
        Some(host) => host.trim_start_matches('[').trim_end_matches(']'),
    };
    address(host, listener.port)
}

/// What the body of a Metadata response (version 1) says from the point of view of broker `id`.
pub fn count(
    body: &[u8],
    id: i32,
    source: ClusterSource,
    own_silence: Option<String>,
) -> Result<ClusterCounts, WireError> {
    let mut counts = ClusterCounts {
        source,
        own_silence,
        live_brokers: Vec::new(),
        leader: 0,
        under_replicated: 0,
        isr_leader_alone: 0,
        not_in_isr: 0,
        not_in_isr_by_leader: BTreeMap::new(),
        leaderless: 0,
        partitions: 0,
        not_whole: Vec::new(),
        not_whole_left_out: 0,
    };
    let mut lowest_live = false;
    for item in Metadata::new(body) {
        let partition = match item? {
            Item::Broker { id, host, port, .. } => {
                counts.live_brokers.push(Peer { id, host: host.to_owned(), port });
                continue;
            }
            // The brokers are told before the controller.
            Item::Controller(_) => {
                lowest_live = counts.live_brokers.iter().map(|peer| peer.id).min() == Some(id);
                continue;
            }
            // A topic in error (just made, being deleted) has no partitions yet, or no more.
            Item::Topic { .. } => continue,
            Item::Partition(partition) => partition,
        };
        counts.partitions += 1;
        // The error code repeats what leader and ISR say, and differs between versions: it decides nothing.
        let leader = (partition.leader >= 0).then_some(partition.leader);
        let short = partition.isr.len() < partition.replicas.len();
        // Without a leader the ISR is mostly told as empty. No broker that lives is in it then: it would lead.
        if partition.replicas.contains(id) && !partition.isr.contains(id) {
            counts.not_in_isr += 1;
            // As many at most as the response lists brokers.
            if let Some(leader) = leader.filter(|leader| counts.live_brokers.iter().any(|peer| peer.id == *leader)) {
                *counts.not_in_isr_by_leader.entry(leader).or_default() += 1;
            }
        }
        let listed = match leader {
            None => {
                counts.leaderless += 1;
                lowest_live
            }
            Some(leader) if leader == id => {
                counts.leader += 1;
                counts.under_replicated += u64::from(short);
                let alone = short && partition.isr.len() == 1 && partition.isr.contains(id);
                counts.isr_leader_alone += u64::from(alone);
                short
            }
            Some(_) => false,
        };
        if !listed {
            continue;
        }
        if counts.not_whole.len() == NOT_WHOLE_LISTED {
            counts.not_whole_left_out += 1;
            continue;
        }
        counts.not_whole.push(PartitionState {
            topic: partition.topic.to_owned(),
            partition: partition.index,
            leader,
            // Four bytes each in a message of at most 2 GiB.
            replicas: u32::try_from(partition.replicas.len()).unwrap_or(u32::MAX),
            isr: u32::try_from(partition.isr.len()).unwrap_or(u32::MAX),
        });
    }
    Ok(counts)
}

#[cfg(test)]
mod tests;
