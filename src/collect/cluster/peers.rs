//! The other brokers of the cluster that are probed, each over one kept connection.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Duration, Instant};

use super::address::{FIRST_PORT, address, is_local};
use crate::kafka::client::{Client, ClientError};
use crate::model::text;
use crate::model::{CutPath, Peer, PeerProbe, Probe, ProbeError};

/// Peers that are probed.
const PEERS: usize = 8;
/// Kept connections to peers, with those to brokers that left the ring and still owe an answer.
const PEER_CONNECTIONS: usize = 2 * PEERS;
/// A broker that Metadata does not list any more is probed for so long: it may be down, or removed for good.
pub(super) const UNLISTED: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(super) struct Peers {
    /// Ids above the own one, then those below, each with the time when Metadata last listed it. So each broker is probed
    /// by the exporters of those before it.
    pub ring: Vec<(Peer, Instant)>,
    pub clients: BTreeMap<i32, Client>,
    /// Whether the broker runs in another network. Peers on its loopback cannot be reached then.
    pub elsewhere: bool,
}

impl Peers {
    /// Updates the ring from the list of live brokers. `asked` is the address of the own broker.
    pub(super) fn remember(&mut self, own_id: i32, asked: &str, live: &[Peer]) {
        let now = Instant::now();
        let own = live.iter().find(|peer| peer.id == own_id);
        // If all brokers advertise the same address, only the own one answers there.
        let is_own = |peer: &Peer| {
            own.is_some_and(|own| (&own.host, own.port) == (&peer.host, peer.port))
                || asked.eq_ignore_ascii_case(&address(&peer.host, peer.port))
        };
        // What answers as the broker decides what is asked here: never a service of the system.
        let is_peer = |peer: &&Peer| {
            peer.id != own_id
                && peer.port >= FIRST_PORT
                && !peer.host.is_empty()
                && !is_own(peer)
                && !(self.elsewhere && is_local(Some(&peer.host)))
        };
        let mut ring: Vec<(Peer, Instant)> = live
            .iter()
            .filter(is_peer)
            .map(|peer| (peer.clone(), now))
            .collect();
        // A broker that is cut off from its cluster lists only itself. Then the older list is better.
        let alone = ring.is_empty();
        ring.extend(
            self.ring
                .drain(..)
                .filter(|(_, listed)| alone || now - *listed < UNLISTED),
        );
        // The sort is stable, so of two entries the one that is listed now stays.
        ring.sort_by_key(|(peer, _)| (peer.id < own_id, peer.id));
        ring.dedup_by_key(|(peer, _)| peer.id);
        ring.truncate(PEERS);
        self.ring = ring;
    }

    /// Asks every peer of the ring for ApiVersions, all at the same time. `new` makes the client for an address.
    pub(super) async fn probe(&mut self, new: impl Fn(String) -> Client) -> Vec<PeerProbe> {
        self.close_unlisted().await;
        for (peer, _) in &self.ring {
            let address = address(&peer.host, peer.port);
            let known = self.clients.get(&peer.id);
            // An id at another address is another process.
            if known.is_none_or(|client| client.address() != address)
                && (known.is_some() || self.clients.len() < PEER_CONNECTIONS)
            {
                self.clients.insert(peer.id, new(address));
            }
        }
        let on_ring = |id: &i32| {
            self.ring
                .iter()
                .find(|(peer, _)| peer.id == *id)
                .map(|(peer, _)| peer)
        };
        let asked = self.clients.iter_mut().filter_map(|(id, client)| {
            client.allow_loopback(!self.elsewhere);
            client.watch_path();
            Some((on_ring(id)?, client))
        });
        let mut probes = join_all(asked.map(|(peer, client)| probe_peer(peer, client))).await;
        probes.sort_by_key(|probe| {
            self.ring
                .iter()
                .position(|(peer, _)| peer.id == probe.peer.id)
        });
        probes
    }

    /// Waits for owed answers until then. Where it `ends_cut`, it returns true as soon as a path is cut.
    pub(super) async fn rest(&mut self, until: Instant, ends_cut: bool) -> bool {
        let clients = self.clients.values_mut();
        let mut rests: FuturesUnordered<_> = clients.map(|client| client.rest(until)).collect();
        while let Some(cut) = rests.next().await {
            if cut && ends_cut {
                return true;
            }
        }
        false
    }

    /// Where the peers are to which the path is cut.
    pub(super) fn cut(&self) -> BTreeMap<i32, IpAddr> {
        let cut = self
            .clients
            .iter()
            .filter(|(_, client)| client.is_path_cut());
        cut.filter_map(|(id, client)| Some((*id, client.remote()?)))
            .collect()
    }

    /// Closes the connections to brokers that left the ring and owe nothing.
    async fn close_unlisted(&mut self) {
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
    let error = asked.answer.as_ref().err();
    let probe = probe_of(
        &format!("peer {}", peer.id),
        asked.connected_in,
        asked.duration,
        error,
    );
    let demands = error.is_some_and(|error| error.reason().is_of_access());
    let (connect, api) = match asked.connected_in {
        Some(duration) => (
            Probe {
                duration,
                error: None,
            },
            // Its network thread has answered, which says no more.
            (!demands).then_some(probe),
        ),
        None => (probe, None),
    };
    PeerProbe {
        peer: peer.clone(),
        connect,
        api,
        cut: client.is_path_cut().then_some(CutPath::Unknown),
    }
}

/// Turns the result of a request to `who` into a probe.
pub(in crate::collect) fn probe_of(
    who: &str,
    connected_in: Option<Duration>,
    duration: Duration,
    error: Option<&ClientError>,
) -> Probe {
    let error = error.map(|error| ProbeError {
        reason: error.reason(),
        accepted: connected_in.is_some(),
        message: text::message(format!("{who}: {error}")),
    });
    Probe { duration, error }
}
