//! In which direction the path to a peer is cut: whether its packets still arrive on any connection with its host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::collect::context::BrokerContext;
use crate::collect::sockets::Sockets;
use crate::model::{CutPath, PeerProbe, TcpState};
use crate::sys::blocking_worker::BlockingWorker;
use crate::sys::sock_diag::TcpSocket;

/// For one reading of the connections.
const WITHIN: Duration = Duration::from_secs(2);

/// The kernel is asked only while a path is cut.
#[derive(Debug)]
pub(super) struct Paths {
    worker: BlockingWorker<Sockets>,
    /// The connections with the hosts that are out of reach, as they were read last.
    before: Vec<TcpSocket>,
    /// What was found last, by peer: a host with which no connection is left shows no more.
    found: BTreeMap<i32, CutPath>,
}

impl Paths {
    pub(super) fn new(context: &BrokerContext) -> Paths {
        Paths {
            worker: BlockingWorker::new(Sockets::new(context.proc.path(), WITHIN)),
            before: Vec::new(),
            found: BTreeMap::new(),
        }
    }

    /// Notes what has arrived until now from these addresses, by peer, to which the path is cut.
    pub(super) async fn watch(&mut self, context: &BrokerContext, cut: &BTreeMap<i32, IpAddr>) {
        self.before = match cut.is_empty() {
            true => Vec::new(),
            false => self.read(context, cut).await,
        };
    }

    /// Finds the directions for the peers whose path is cut, by what has arrived since the last call.
    pub(super) async fn find(
        &mut self,
        context: &BrokerContext,
        cut: &BTreeMap<i32, IpAddr>,
        peers: &mut [PeerProbe],
    ) {
        let before = std::mem::take(&mut self.before);
        self.watch(context, cut).await;
        self.found.retain(|id, _| cut.contains_key(id));
        for (id, address) in cut {
            let found = direction(*address, &before, &self.before);
            let known = self.found.entry(*id).or_insert(found);
            if found != CutPath::Unknown {
                *known = found;
            }
        }
        for peer in peers.iter_mut().filter(|peer| peer.cut.is_some()) {
            peer.cut = self.found.get(&peer.peer.id).copied().or(peer.cut);
        }
    }

    /// Nothing where it fails, and then the direction is unknown.
    async fn read(
        &mut self,
        context: &BrokerContext,
        cut: &BTreeMap<i32, IpAddr>,
    ) -> Vec<TcpSocket> {
        let broker = context.broker.clone();
        let addresses: BTreeSet<IpAddr> = cut.values().copied().collect();
        let name = context.broker.name();
        let read = move |sockets: &mut Sockets| sockets.with(&broker, &addresses);
        self.worker.set_of_others(context.jvm.is_outranked());
        match self.worker.run(WITHIN, &name, read).await {
            Ok((Ok(found), _)) => found,
            Ok((Err(failure), _)) | Err(failure) => {
                tracing::debug!("{}", failure.message);
                Vec::new()
            }
        }
    }
}

/// Two readings of the connections with the host at this address, while what is sent there is not acknowledged.
fn direction(address: IpAddr, before: &[TcpSocket], after: &[TcpSocket]) -> CutPath {
    let with = |socket: &&TcpSocket| socket.remote.ip() == address;
    let now: Vec<&TcpSocket> = after.iter().filter(with).collect();
    // It asks for a connection, and the answer does not reach it.
    if now.iter().any(|socket| socket.state == TcpState::SynRecv) {
        return CutPath::To;
    }
    let of = |socket: &TcpSocket| (socket.local, socket.remote);
    let pairs = now.iter().filter_map(|now| {
        let then = before.iter().find(|then| of(then) == of(now))?;
        Some((*now, now.segments_in? > then.segments_in?))
    });
    let mut waits = false;
    for (socket, arrived) in pairs {
        if arrived {
            return CutPath::To;
        }
        // Where nothing is owed, nothing need arrive.
        waits |= socket.send_queue > 0;
    }
    match waits {
        true => CutPath::From,
        false => CutPath::Unknown,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn socket(remote: &str, state: TcpState, owed: u32, segments_in: u32) -> TcpSocket {
        TcpSocket {
            state,
            local: "10.0.0.1:9092".parse().unwrap(),
            remote: remote.parse().unwrap(),
            receive_queue: 0,
            send_queue: owed,
            inode: 1,
            uid: 0,
            segments_in: Some(segments_in),
        }
    }

    #[test]
    fn the_direction_follows_from_what_arrives() {
        use TcpState::{Established, SynRecv};
        let peer = "10.0.0.2".parse().unwrap();
        let one = |owed, segments| socket("10.0.0.2:41000", Established, owed, segments);
        let idle = |segments| socket("10.0.0.2:42000", Established, 0, segments);
        let other = |segments| socket("10.0.0.3:41000", Established, 9, segments);
        let asks = socket("10.0.0.2:43000", SynRecv, 0, 0);
        let unknown = TcpSocket {
            segments_in: None,
            ..one(9, 0)
        };
        let table = [
            // Its requests come again and again, and the answers are not acknowledged.
            (vec![one(9, 5)], vec![one(9, 7)], CutPath::To),
            (
                vec![one(9, 5), idle(3)],
                vec![one(9, 5), idle(4)],
                CutPath::To,
            ),
            (vec![], vec![asks], CutPath::To),
            (vec![one(9, 5)], vec![one(9, 5)], CutPath::From),
            // Silence where nothing is owed says nothing, nor does another host.
            (vec![idle(3)], vec![idle(3)], CutPath::Unknown),
            (vec![other(3)], vec![other(4)], CutPath::Unknown),
            (vec![], vec![one(9, 5)], CutPath::Unknown),
            // Only /proc could be read.
            (vec![unknown], vec![unknown], CutPath::Unknown),
            (vec![], vec![], CutPath::Unknown),
        ];
        for (before, after, expected) in table {
            let found = direction(peer, &before, &after);
            assert_eq!(found, expected, "{before:?} {after:?}");
        }
    }
}
