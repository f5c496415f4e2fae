//! What the connections to one broker and its peers share, and which connections are the exporter's own.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::keys::KnownKeys;
use super::resolver::Resolver;

/// Local addresses of the newest 256 connections that the exporter made itself, so that it does not count them as the
/// broker's clients. Closed ones stay in the list, because the kernel keeps them in TIME_WAIT.
#[derive(Debug, Clone, Default)]
pub struct OwnConnections(Arc<Mutex<VecDeque<SocketAddr>>>);

impl OwnConnections {
    const KEPT: usize = 256;

    pub fn register(&self, local: SocketAddr) {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let local = canonical(local);
        newest.retain(|known| *known != local);
        if newest.len() == Self::KEPT {
            newest.pop_front();
        }
        newest.push_back(local);
    }

    /// Whether the connection from `local` is, or recently was, the exporter's own. IPv4 addresses that are mapped into
    /// IPv6 count as IPv4.
    pub fn contains(&self, local: SocketAddr) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&canonical(local))
    }
}

/// What the connections to one broker and its peers share.
#[derive(Debug, Clone)]
pub struct Dialer {
    pub(super) own: OwnConnections,
    pub(super) resolver: Resolver,
    /// Whether it is for a broker that another user's come before.
    of_others: Arc<AtomicBool>,
    pub(super) keys: KnownKeys,
    /// Whether the kernel watches the path of each connection.
    pub(super) watches_path: bool,
}

impl Dialer {
    pub fn set_of_others(&self, of_others: bool) {
        self.of_others.store(of_others, Ordering::Relaxed);
    }

    pub(super) fn is_of_others(&self) -> bool {
        self.of_others.load(Ordering::Relaxed)
    }
}

impl From<OwnConnections> for Dialer {
    fn from(own: OwnConnections) -> Dialer {
        Dialer {
            own,
            resolver: Resolver::default(),
            of_others: Arc::default(),
            keys: KnownKeys::default(),
            watches_path: false,
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn own_connections_forget_the_oldest_first() {
        let own = OwnConnections::default();
        let local = |port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        own.register(local(1));
        own.register(local(2));
        own.register(local(1));
        for port in 1000..1255 {
            own.register(local(port));
        }
        assert_eq!(own.0.lock().unwrap().len(), 256);
        assert!(own.contains(local(1)) && !own.contains(local(2)));
    }
}
