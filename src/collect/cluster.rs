//! The cluster collector: asks the broker and the peers that it listed last, to see who answers, and reads ISR and leaders
//! from Metadata. While the broker does not answer, a peer's Metadata is used.

mod address;
mod count;
mod peers;

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::Instant;

pub use count::count;

use self::address::{hint, own_address};
use self::peers::{Peers, probed};
use crate::kafka::client::{Client, Timing};
use crate::kafka::conn::OwnConnections;
use crate::model::{
    Broker, ClusterCounts, ClusterSource, Failure, PeerProbe, Probe, ProbeReport, Reason,
};

/// Asks one broker process; a restarted broker needs a new one.
#[derive(Debug)]
pub struct ClusterCollector {
    broker: Arc<Broker>,
    bootstrap: Option<String>,
    listener: Option<String>,
    own: OwnConnections,
    timing: Timing,
    /// Whether the exporter and the broker share a loopback, or why that is unknown.
    same_network: Result<bool, Failure>,
    client: Option<Client>,
    peers: Peers,
}

impl ClusterCollector {
    /// `bootstrap` (`host:port`) and `listener` (its name) come from the config and override what discovery found.
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

    /// Sets whether the broker runs in the exporter's network namespace. If not, nothing on loopback is asked, because
    /// another broker may listen there.
    pub fn set_network(&mut self, same: Result<bool, Failure>) {
        self.same_network = same;
    }

    /// Runs one round: ApiVersions and then Metadata to the broker, and at the same time ApiVersions to each peer on the
    /// ring, with 2 s for each. Returns how that went and the counts from the broker's Metadata. It may be dropped at any
    /// time; a request that is then unanswered is not sent again.
    ///
    /// # Errors
    /// If neither the broker nor its peers could be asked.
    pub async fn probe(
        &mut self,
    ) -> Result<(ProbeReport, Result<ClusterCounts, Failure>), Failure> {
        let name = self.broker.name();
        let Some(id) = self.broker.id else {
            let message = format!(
                "{name}: its id is unknown, so its partitions cannot be counted: {}",
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
                        probed(&name, api.connected_in, api.duration, Some(&error)),
                        None,
                        Err(error),
                    );
                }
            };
            let metadata = probed(
                &name,
                asked.connected_in,
                asked.duration,
                asked.answer.as_ref().err(),
            );
            (
                probed(&name, api.connected_in, api.duration, None),
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
        // A broker that just started answers before it knows any broker. Then the empty response means nothing.
        let counts = counts.and_then(|counts| match counts.live_brokers.is_empty() {
            true => Err(Failure::new(
                Reason::Starting,
                format!(
                    "{name}: it has not learned about its cluster yet, so its Metadata is empty"
                ),
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

    /// Counts from the Metadata of the first peer that answered its probe. `silence` is why the broker itself failed.
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
            let (source, why) = (ClusterSource::Peer(peer), Some(silence.message.clone()));
            return match client
                .metadata(move |metadata| count(metadata, id, source, why))
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

    /// Waits for owed answers until then, because a broker that answers late is slow and not silent.
    pub async fn read_late(&mut self, until: Instant) {
        let asked = self
            .client
            .iter_mut()
            .chain(self.peers.clients.values_mut());
        join_all(asked.map(|client| client.read_late(until))).await;
    }
}

/// Returns a failure if no partition was counted, because zeros would then look like a healthy cluster.
pub fn no_topic(broker: &Broker, counts: &ClusterCounts) -> Option<Failure> {
    let message = || {
        format!(
            "{}: no topic is visible to the exporter: none exists, or the ANONYMOUS user lacks Describe on topics, \
             which the ACLs should allow",
            broker.name()
        )
    };
    (counts.partitions == 0).then(|| Failure::new(Reason::NoTopic, message()))
}

#[cfg(test)]
mod tests;
