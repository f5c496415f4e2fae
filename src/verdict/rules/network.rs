//! Rules about the paths to other brokers.

use super::super::finding_state::RuleResult::{self, Unknown};
use super::case::{Case, present_if};
use crate::model::text::first_of;
use crate::model::{CutPath, PeerProbe};

/// A peer whose packets are acknowledged, or that refuses the connection.
pub(super) fn peer_unreachable(case: &Case<'_>) -> RuleResult {
    let Some(probes) = case.broker.probes.fresh(case.now) else {
        return Unknown;
    };
    let of_process = probes.peers.iter().filter(|peer| peer.cut.is_none());
    present_if(of_process.filter_map(|peer| {
        let error = peer
            .connect
            .error
            .as_ref()
            .or_else(|| peer.api.as_ref()?.error.as_ref())?;
        Some(format!(
            "from broker {} to broker {}: {}",
            case.broker.label, peer.peer.id, error.message
        ))
    }))
}

/// The kernel gave up a connection, and another could not be made: no process takes part in either.
pub(super) fn path_cut(case: &Case<'_>) -> RuleResult {
    let Some(probes) = case.broker.probes.fresh(case.now) else {
        return Unknown;
    };
    present_if(probes.peers.iter().filter_map(|peer| {
        let (own, other) = (&case.broker.label, peer.peer.id);
        Some(match peer.cut? {
            CutPath::To => format!(
                "from broker {own} to broker {other}: packets are not acknowledged, while those of broker {other} arrive: the \
                 path is cut in this direction"
            ),
            CutPath::From => format!(
                "from broker {other} to broker {own}: no packet arrives, and those sent are not acknowledged: the path is cut \
                 in this direction or in both, or the host of broker {other} is down"
            ),
            CutPath::Unknown => format!(
                "between broker {own} and broker {other}: packets are not acknowledged: the path is cut in one direction or \
                 both, or the host of broker {other} is down"
            ),
        })
    }))
}

/// The exporter asks from the broker's host. A start of the exporter without ZooKeeper says nothing of the broker.
pub(super) fn zookeeper_unreachable(case: &Case<'_>) -> RuleResult {
    match &case.memory.standing.zookeeper_failure {
        Some(failure) => present_if(failure.clone()),
        None => Unknown,
    }
}

/// So many peers, and more than half of them all, are out of reach: not they are, but this broker.
const PEERS_CUT: usize = 2;

pub(super) fn cut_off(case: &Case<'_>) -> RuleResult {
    let Some(probes) = case.broker.probes.fresh(case.now) else {
        return Unknown;
    };
    // The controller has decided that these are down.
    let absent = case.broker.absent(case.now);
    let is_live = |peer: &&PeerProbe| absent.is_none_or(|absent| !absent.contains(&peer.peer.id));
    let live: Vec<&PeerProbe> = probes.peers.iter().filter(is_live).collect();
    let cut = live.iter().filter(|peer| peer.cut.is_some());
    let cut: Vec<i32> = cut.map(|peer| peer.peer.id).collect();
    let is_cut_off = cut.len() >= PEERS_CUT && 2 * cut.len() > live.len();
    present_if(is_cut_off.then(|| {
        format!(
            "{} of the {} live brokers that it asks are out of reach: {}",
            cut.len(),
            live.len(),
            first_of(&cut, cut.len())
        )
    }))
}
