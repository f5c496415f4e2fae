//! Requests to the broker's own listener and to the peers that it named last: who answers, and, from Metadata, the ISR
//! and leaders of the cluster; while the broker is silent, as a peer tells them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::{Duration, Instant};

use crate::kafka::client::{Client, ClientError, Timing};
use crate::kafka::conn::OwnConnections;
use crate::kafka::wire::{self, Item, Metadata, WireError};
use crate::model::Failure;
use crate::model::{Broker, Listener, Reason, Role, SecurityProtocol};
use crate::model::{
    ClusterCounts, ClusterSource, PartitionState, Peer, PeerProbe, Probe, ProbeError, ProbeReport,
};

/// Entries of [`ClusterCounts::absent`].
const ABSENT_LISTED: usize = 64;
/// Entries of [`ClusterCounts::under_replicated_partitions`]; the rest is only counted.
const UNDER_REPLICATED_LISTED: usize = 100;
/// Peers that are probed.
const PEERS: usize = 8;
/// Kept connections to peers, those to brokers that left the ring and still owe an answer included.
const PEER_CONNECTIONS: usize = 2 * PEERS;
/// A broker that Metadata lists no more is probed for so long: it may be down, or gone for good.
const UNLISTED: Duration = Duration::from_secs(600);

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
    pub fn new(
        broker: Arc<Broker>,
        bootstrap: Option<String>,
        listener: Option<String>,
        own: OwnConnections,
    ) -> Self {
        let (timing, same_network, client, peers) =
            (Timing::default(), Ok(true), None, Peers::default());
        ClusterCollector {
            broker,
            bootstrap,
            listener,
            own,
            timing,
            same_network,
            client,
            peers,
        }
    }

    /// Whether the broker runs in our network namespace. If not, nothing on loopback is asked: it may be another broker.
    pub fn set_network(&mut self, same: Result<bool, Failure>) {
        self.same_network = same;
    }

    /// One round: ApiVersions, then Metadata to the broker, and meanwhile ApiVersions to each peer on the ring, with
    /// 2 s for each. How that went, and what the broker said of the cluster; a failure tells why nobody was asked.
    ///
    /// May be dropped at any time; a question that is then unanswered is not asked again.
    pub async fn probe(
        &mut self,
    ) -> Result<(ProbeReport, Result<ClusterCounts, Failure>), Failure> {
        let name = self.broker.name();
        let Some(id) = self.broker.id else {
            let message = format!(
                "{name}: its id is unknown, so its partitions cannot be told from others': {}",
                hint(&self.broker)
            );
            return Err(Failure::new(Reason::NoId, message));
        };
        let (bootstrap, listener) = (self.bootstrap.as_deref(), self.listener.as_deref());
        let address = own_address(&self.broker, bootstrap, listener, &self.same_network)?;
        let client = match self.client.take() {
            Some(client) if client.address() == address => self.client.insert(client),
            _ => self
                .client
                .insert(Client::new(address, self.own.clone(), self.timing)),
        };
        let own = async {
            let api = client.api().await;
            let asked = match api.answer {
                Ok(()) => {
                    client
                        .metadata(move |metadata| count(metadata, id, ClusterSource::Own, None))
                        .await
                }
                Err(error) => {
                    return (
                        told(&name, api.connected_in, api.duration, Some(&error)),
                        None,
                        Err(error),
                    );
                }
            };
            let metadata = told(
                &name,
                asked.connected_in,
                asked.duration,
                asked.answer.as_ref().err(),
            );
            (
                told(&name, api.connected_in, api.duration, None),
                Some(metadata),
                asked.answer,
            )
        };
        let ((api, metadata, counts), peers) =
            tokio::join!(own, self.peers.probe(&self.own, self.timing));
        if let Ok(counts) = &counts {
            self.peers.elsewhere = self.same_network != Ok(true);
            self.peers
                .remember(id, client.address(), &counts.live_brokers);
        }
        let counts =
            counts.map_err(|error| Failure::new(error.reason(), format!("{name}: {error}")));
        // It answers before it was told who is there: then no broker and no partition means nothing.
        let counts = counts.and_then(|counts| match counts.live_brokers.is_empty() {
            true => Err(Failure::new(
                Reason::Starting,
                format!("{name}: it has not heard of its cluster yet"),
            )),
            false => Ok(counts),
        });
        Ok((
            ProbeReport {
                api,
                metadata,
                peers,
            },
            counts,
        ))
    }

    /// What the first peer that answered the probe says of the cluster, because the broker itself failed so.
    pub async fn ask_peer(
        &mut self,
        silence: Failure,
        probed: &[PeerProbe],
    ) -> Result<ClusterCounts, Failure> {
        let answers = |peer: &&PeerProbe| peer.api.as_ref().is_some_and(Probe::success);
        let chosen = probed.iter().find(answers).map(|probe| probe.peer.id);
        if let (Some(id), Some(peer)) = (self.broker.id, chosen)
            && let Some(client) = self.peers.clients.get_mut(&peer)
        {
            let (source, told) = (ClusterSource::Peer(peer), Some(silence.message.clone()));
            return match client
                .metadata(move |metadata| count(metadata, id, source, told))
                .await
                .answer
            {
                Ok(counts) => {
                    let asked = self.client.as_ref().map_or("", Client::address);
                    self.peers.remember(id, asked, &counts.live_brokers);
                    Ok(counts)
                }
                Err(error) => Err(Failure::new(
                    silence.reason,
                    format!("{}; peer {peer}: {error}", silence.message),
                )),
            };
        }
        let failed = probed
            .iter()
            .find_map(|probe| probe.api.as_ref().unwrap_or(&probe.connect).error.as_ref());
        Err(match failed {
            Some(error) => Failure::new(
                silence.reason,
                format!("{}; {}", silence.message, error.message),
            ),
            None => silence,
        })
    }

    /// Reads what is owed as it comes, until then: a broker that answers late is slow, and not silent.
    pub async fn read_late(&mut self, until: Instant) {
        let asked = self
            .client
            .iter_mut()
            .chain(self.peers.clients.values_mut());
        join_all(asked.map(|client| client.read_late(until))).await;
    }
}

/// Why no partition was counted, where none was: zeros that nobody counted must not be told.
pub fn no_topic(broker: &Broker, counts: &ClusterCounts) -> Option<Failure> {
    let message = || {
        format!(
            "{}: no topic is visible to the exporter: none exists, or the ANONYMOUS user lacks Describe on topics: \
             allow it that in the ACLs",
            broker.name()
        )
    };
    (counts.partitions == 0).then(|| Failure::new(Reason::NoTopic, message()))
}

fn told(
    who: &str,
    connected_in: Option<Duration>,
    duration: Duration,
    error: Option<&ClientError>,
) -> Probe {
    let error = error.map(|error| ProbeError {
        reason: error.reason(),
        accepted: connected_in.is_some(),
        message: format!("{who}: {error}"),
    });
    Probe { duration, error }
}

/// The brokers beside the own one, each asked over one kept connection.
#[derive(Debug, Default)]
struct Peers {
    /// Ids above the own one, then those below, each with when Metadata last listed it.
    ring: Vec<(Peer, Instant)>,
    clients: BTreeMap<i32, Client>,
    /// In another network than ours: those on its loopback are not for us.
    elsewhere: bool,
}

impl Peers {
    /// `asked` is where the own broker is.
    fn remember(&mut self, own_id: i32, asked: &str, live: &[Peer]) {
        let now = Instant::now();
        let own = live.iter().find(|peer| peer.id == own_id);
        // Where every broker advertises the same address, whoever asks there asks the own one.
        let is_own = |peer: &Peer| {
            own.is_some_and(|own| (&own.host, own.port) == (&peer.host, peer.port))
                || asked.eq_ignore_ascii_case(&address(&peer.host, peer.port))
        };
        let for_us = |peer: &&Peer| {
            peer.id != own_id && !is_own(peer) && !(self.elsewhere && is_local(Some(&peer.host)))
        };
        let mut ring: Vec<(Peer, Instant)> = live
            .iter()
            .filter(for_us)
            .map(|peer| (peer.clone(), now))
            .collect();
        // A broker cut off from its cluster knows itself alone: then the older list is the better one.
        let alone = ring.is_empty();
        ring.extend(
            self.ring
                .drain(..)
                .filter(|(_, listed)| alone || now - *listed < UNLISTED),
        );
        // Stable: of two entries the one now listed stays.
        ring.sort_by_key(|(peer, _)| (peer.id < own_id, peer.id));
        ring.dedup_by_key(|(peer, _)| peer.id);
        ring.truncate(PEERS);
        self.ring = ring;
    }

    async fn probe(&mut self, own: &OwnConnections, timing: Timing) -> Vec<PeerProbe> {
        self.leave().await;
        for (peer, _) in &self.ring {
            let address = address(&peer.host, peer.port);
            let known = self.clients.get(&peer.id);
            // An id at another address is another process.
            if known.is_none_or(|client| client.address() != address)
                && (known.is_some() || self.clients.len() < PEER_CONNECTIONS)
            {
                self.clients
                    .insert(peer.id, Client::new(address, own.clone(), timing));
            }
        }
        let on_ring = |id: &i32| {
            self.ring
                .iter()
                .find(|(peer, _)| peer.id == *id)
                .map(|(peer, _)| peer)
        };
        let asked = self
            .clients
            .iter_mut()
            .filter_map(|(id, client)| Some((on_ring(id)?, client)));
        let mut probes = join_all(asked.map(|(peer, client)| probe_peer(peer, client))).await;
        probes.sort_by_key(|probe| {
            self.ring
                .iter()
                .position(|(peer, _)| peer.id == probe.peer.id)
        });
        probes
    }

    /// Closes the connections to brokers that left the ring and owe nothing.
    async fn leave(&mut self) {
        for id in self.clients.keys().copied().collect::<Vec<_>>() {
            if !self.ring.iter().any(|(peer, _)| peer.id == id)
                && let Some(client) = self.clients.get_mut(&id)
                && !client.owes_answer().await
            {
                self.clients.remove(&id);
            }
        }
    }
}

async fn probe_peer(peer: &Peer, client: &mut Client) -> PeerProbe {
    let asked = client.api().await;
    let probe = told(
        &format!("peer {}", peer.id),
        asked.connected_in,
        asked.duration,
        asked.answer.as_ref().err(),
    );
    let (connect, api) = match asked.connected_in {
        Some(duration) => (
            Probe {
                duration,
                error: None,
            },
            Some(probe),
        ),
        None => (probe, None),
    };
    PeerProbe {
        peer: peer.clone(),
        connect,
        api,
    }
}

fn hint(broker: &Broker) -> String {
    match broker.problems.first() {
        Some(problem) => problem.clone(),
        None => {
            "it has none yet, or its server.properties and meta.properties could not be read".into()
        }
    }
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Where the broker is asked: the config's address, else the config's listener, else a PLAINTEXT one.
fn own_address(
    broker: &Broker,
    bootstrap: Option<&str>,
    listener: Option<&str>,
    same_network: &Result<bool, Failure>,
) -> Result<String, Failure> {
    if !broker.roles.is_empty() && !broker.roles.contains(&Role::Broker) {
        let message = format!(
            "{}: a dedicated controller leads no partitions and answers no Metadata",
            broker.name()
        );
        return Err(Failure::new(Reason::Controller, message));
    }
    if let Some(bootstrap) = bootstrap {
        return Ok(bootstrap.to_owned());
    }
    let served = || {
        broker
            .listeners
            .iter()
            .filter(|listener| !listener.controller)
    };
    let plain =
        || served().filter(|listener| listener.protocol == Some(SecurityProtocol::Plaintext));
    let names = || {
        served()
            .map(|listener| listener.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let chosen = match listener {
        Some(wanted) => served().find(|listener| listener.name.eq_ignore_ascii_case(wanted)).ok_or_else(|| {
            let message = format!(
                "{}: the config's `probe_listener` {wanted} is none of its listeners ({})",
                broker.name(),
                names()
            );
            Failure::new(Reason::Config, message)
        })?,
        None => plain()
            .find(|listener| *same_network == Ok(true) || !is_local(listener.host.as_deref()))
            .or_else(|| plain().next())
            .or_else(|| served().next())
            .ok_or_else(|| {
                let message = format!(
                    "{}: its listeners are unknown, so name its address as `bootstrap` in the config: {}",
                    broker.name(),
                    hint(broker)
                );
                Failure::new(Reason::NoListener, message)
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
            broker.name(),
            chosen.name
        );
        Err(Failure::new(Reason::OtherNetwork, message))
    };
    match chosen.protocol {
        Some(SecurityProtocol::Plaintext) => reachable(),
        // Named by hand: the config knows better than a map that could not be read.
        None if listener.is_some() => reachable(),
        _ => {
            let message = format!(
                "{}: PLAINTEXT is spoken for now, and its listeners ({}) are not: name one that is as `probe_listener`, or \
                 add one: advertised on loopback it lets this broker be asked but no peer, for those every broker must \
                 advertise an address of its own",
                broker.name(),
                names()
            );
            Err(Failure::new(Reason::Unsupported, message))
        }
    }
}

/// Whether a host means every address, or one that is another one in every network namespace.
fn is_local(host: Option<&str>) -> bool {
    let host = host
        .unwrap_or_default()
        .trim_start_matches('[')
        .trim_end_matches(']');
    match host.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(address) => address.is_loopback() || address.is_unspecified(),
        Err(_) => host.is_empty() || host.eq_ignore_ascii_case("localhost"),
    }
}

fn loopback_if_any(listener: &Listener) -> String {
    address(
        listener.host.as_deref().unwrap_or("127.0.0.1"),
        listener.port,
    )
}

/// What a Metadata response says from the point of view of broker `id`.
pub fn count(
    metadata: Metadata<'_>,
    id: i32,
    source: ClusterSource,
    own_silence: Option<String>,
) -> Result<ClusterCounts, WireError> {
    let mut counts = ClusterCounts {
        source,
        own_silence,
        ..ClusterCounts::default()
    };
    let mut lowest_live = false;
    let (mut live_brokers, mut live) = (Vec::new(), Vec::new());
    let mut not_in_isr_by_leader = BTreeMap::new();
    let mut under_replicated = Vec::new();
    for item in metadata {
        let partition = match item? {
            Item::Broker { id, host, port } => {
                live.push(id);
                live_brokers.push(Peer {
                    id,
                    host: host.into(),
                    port,
                });
                continue;
            }
            // The brokers are told before the controller.
            Item::Controller(_) => {
                live.sort_unstable();
                lowest_live = live.first() == Some(&id);
                continue;
            }
            // A topic in error (just made, being deleted) has no partitions yet, or no more.
            Item::Topic { .. } => continue,
            Item::Partition(partition) => partition,
        };
        counts.partitions += 1;
        for replica in partition.replicas.iter() {
            if counts.absent.len() < ABSENT_LISTED && live.binary_search(&replica).is_err() {
                counts.absent.insert(replica);
            }
        }
        // Every other error repeats what leader and ISR say, and differs between versions: it decides nothing.
        let leader = (partition.leader >= 0).then_some(partition.leader);
        let short = partition.isr.len() < partition.replicas.len();
        // Without a leader the ISR is mostly told as empty. No broker that lives is in it then: it would lead.
        if partition.replicas.contains(id) && !partition.isr.contains(id) {
            counts.not_in_isr += 1;
            // As many at most as the response lists brokers.
            if let Some(leader) = leader.filter(|leader| live.binary_search(leader).is_ok()) {
                *not_in_isr_by_leader.entry(leader).or_default() += 1;
            }
        }
        let listed = match leader {
            // Its leader lives, and is not told.
            None if partition.error == wire::LISTENER_NOT_FOUND => false,
            None => {
                counts.offline += 1;
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
        if under_replicated.len() == UNDER_REPLICATED_LISTED {
            counts.under_replicated_left_out += 1;
            continue;
        }
        under_replicated.push(PartitionState {
            topic: partition.topic.to_owned(),
            partition: partition.index,
            leader,
            // Four bytes each in a message of at most 2 GiB.
            replicas: u32::try_from(partition.replicas.len()).unwrap_or(u32::MAX),
            isr: u32::try_from(partition.isr.len()).unwrap_or(u32::MAX),
        });
    }
    Ok(ClusterCounts {
        live_brokers: live_brokers.into(),
        not_in_isr_by_leader: Arc::new(not_in_isr_by_leader),
        under_replicated_partitions: under_replicated.into(),
        ..counts
    })
}

#[cfg(test)]
mod tests;
