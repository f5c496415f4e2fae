//! The ring: the next brokers by id, which are probed as well.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use tokio::time::{Duration, Instant};

use super::address::{address, is_local};
use crate::kafka::client::{Client, ClientError, Timing};
use crate::kafka::conn::OwnConnections;
use crate::model::{Peer, PeerProbe, Probe, ProbeError};

/// Peers that are probed.
const PEERS: usize = 8;
/// Kept connections to peers, those to brokers that left the ring and still owe an answer included.
const PEER_CONNECTIONS: usize = 2 * PEERS;
/// A broker that Metadata lists no more is probed for so long: it may be down, or gone for good.
pub(super) const UNLISTED: Duration = Duration::from_secs(600);

/// The other brokers, each asked over one kept connection.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// Ids above the own one, then those below, each with the time when Metadata last listed it.
    pub(super) ring: Vec<(Peer, Instant)>,
    pub(super) clients: BTreeMap<i32, Client>,
    /// Whether they are in another network than ours: what they call loopback is not ours.
    pub(super) elsewhere: bool,
}

impl Peers {
    /// Remembers the live brokers that Metadata listed; `asked` is the address of the own broker.
    pub(super) fn remember(&mut self, own_id: i32, asked: &str, live: &[Peer]) {
        let now = Instant::now();
        let own = live.iter().find(|peer| peer.id == own_id);
        // Where every broker advertises the same address, a request there reaches the own one.
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
        // A broker that is cut off from its cluster lists itself alone: then the older list is the better one.
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

    pub(super) async fn probe(&mut self, own: &OwnConnections, timing: Timing) -> Vec<PeerProbe> {
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

    /// Closes the connections to brokers that left the ring and owe no answer.
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
    let probe = probe_of(
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

/// The result of one request.
pub(super) fn probe_of(
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
