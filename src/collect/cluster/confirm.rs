//! What others say of a broker's partitions: a peer, to check the broker's own counts, and in place of them while the broker
//! is silent or suspect.

use std::sync::{Arc, PoisonError};

use super::ClusterClient;
use super::count::count_others;
use super::states::{MOST_STATES, States, counts};
use crate::kafka::wire::Metadata;
use crate::model::{ClusterCounts, ClusterSource, Failure, PeerProbe, Probe, Reason};

/// Rounds from one view of a peer to the next: a minute by default.
const CHECKED_EVERY: u32 = 12;

impl ClusterClient {
    /// The counts of the broker itself, or those of others where the broker is silent or suspect: one that hangs may answer
    /// from an old state of the cluster. `states` are read in that case.
    pub async fn confirm(
        &mut self,
        own: Result<ClusterCounts, Failure>,
        suspect: bool,
        probed: &[PeerProbe],
        states: Option<States>,
    ) -> Result<ClusterCounts, Failure> {
        match own {
            Err(silence) => self.ask(silence, probed, states).await,
            Ok(own) if suspect => {
                let name = self.broker.name();
                let message =
                    format!("{name}: threads make no progress, so its Metadata may be old");
                let doubt = Failure::new(Reason::Slow, message);
                self.ask(doubt, probed, states).await.or(Ok(own))
            }
            own => own,
        }
    }

    /// What a peer counts: once a minute, and in every round while that differs from the broker's own counts, or something
    /// else `doubts` them.
    pub async fn check(
        &mut self,
        counts: Option<&ClusterCounts>,
        doubts: bool,
        probed: &[PeerProbe],
    ) -> Option<ClusterCounts> {
        let own = counts.filter(|counts| counts.source == ClusterSource::Own)?;
        if self.unchecked > 0 && !doubts {
            self.unchecked -= 1;
            return None;
        }
        let why = Failure::new(Reason::Slow, "a check of what the broker itself says");
        let peer = self.ask(why, probed, None).await.ok();
        let id = self.broker.id;
        let lists = |peer: &ClusterCounts| peer.live_brokers.iter().any(|one| Some(one.id) == id);
        let agrees = |peer: &ClusterCounts| peer.view() == own.view() && lists(peer);
        let same = peer.as_ref().is_none_or(agrees);
        self.unchecked = if same { CHECKED_EVERY - 1 } else { 0 };
        peer
    }

    /// Counts from the Metadata of the first peer that answered its probe, with the states of the broker's own partitions
    /// where they are read. `silence` is why the broker itself failed.
    async fn ask(
        &mut self,
        silence: Failure,
        probed: &[PeerProbe],
        states: Option<States>,
    ) -> Result<ClusterCounts, Failure> {
        let answers = |peer: &&PeerProbe| peer.api.as_ref().is_some_and(Probe::success);
        let chosen = probed.iter().find(answers).map(|probe| probe.peer.id);
        if let (Some(id), Some(peer)) = (self.broker.id, chosen)
            && let Some(client) = self.peers.clients.get_mut(&peer)
        {
            let most = states.as_ref().map_or(0, |_| MOST_STATES);
            let whole = Arc::clone(&self.whole);
            let read = move |metadata: Metadata<'_>| {
                let mut whole = whole.lock().unwrap_or_else(PoisonError::into_inner);
                count_others(metadata, id, most, &mut whole)
            };
            return match client.metadata(read).await.answer {
                Ok((pass, kept)) => {
                    let peer = ClusterSource::Peer(peer);
                    let counts =
                        counts(pass, kept, peer, silence.message, states, &self.whole).await;
                    let asked = self.listeners.address();
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
}
