//! The collector `connections`, in the pass of `fds`: established connections at the listeners, the broker's own
//! connections, and orphaned sockets, which are in no socket table of the kernel.

use std::collections::HashSet;
use std::time::Duration;

use crate::collect::context::BrokerContext;
use crate::collect::frame::Stamp;
use crate::collect::sockets::Sockets;
use crate::kafka::conn::OwnConnections;
use crate::model::{Broker, BrokerSnapshot, CollectorName, Failure, SocketOwners};

/// Finds out which sockets are the broker's.
#[derive(Debug)]
pub(super) struct Connections {
    sockets: Sockets,
    own: OwnConnections,
}

/// The broker's sockets, and the number of orphaned ones.
pub type Owned = (SocketOwners, u64);

impl Connections {
    pub(super) fn new(context: &BrokerContext, time_limit: Duration) -> Connections {
        Connections {
            sockets: Sockets::new(context.proc.path(), time_limit),
            own: context.own.clone(),
        }
    }

    /// Reads once; `inodes` are those of the broker's sockets, and `inodes_again` reads them once more.
    pub(super) fn collect(
        &mut self,
        broker: &Broker,
        inodes: &HashSet<u64>,
        inodes_again: &mut dyn FnMut() -> Result<HashSet<u64>, Failure>,
    ) -> Result<Owned, Failure> {
        let own = |address| self.own.contains(address);
        self.sockets.owners(broker, inodes, inodes_again, &own)
    }
}

pub(super) fn store(broker: &mut BrokerSnapshot, result: Result<Owned, Failure>, stamp: Stamp) {
    let (owners, orphaned) = match result {
        Ok((owners, orphaned)) => (Ok(owners), Ok(orphaned)),
        Err(failure) => (Err(failure.clone()), Err(failure)),
    };
    stamp.put(&mut broker.untracked_sockets, orphaned);
    let failure = stamp.put(&mut broker.connections, owners);
    stamp.finish(broker, CollectorName::Connections, failure.as_ref());
}
