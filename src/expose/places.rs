//! Which connections may be open at a time, and which is closed where a new one needs a place.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

/// How many connections may be open: each costs the exporter a file descriptor and some kilobytes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub all: usize,
    /// Of those, only clients on loopback may use so many: a probe on this host reaches the exporter through any load.
    pub for_loopback: usize,
    /// Of one address.
    pub each_address: usize,
}

impl Limits {
    /// Of an address for probes.
    pub fn of_probes() -> Limits {
        Limits {
            all: 64,
            for_loopback: 16,
            each_address: 32,
        }
    }

    /// `each_address` of 0 is no limit.
    pub fn usual(each_address: usize) -> Limits {
        Limits {
            all: 512,
            for_loopback: 16,
            each_address: if each_address == 0 { 512 } else { each_address },
        }
    }
}

/// The connections that are open.
#[derive(Debug)]
pub struct Places {
    limits: Limits,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    by_number: HashMap<u64, Connection>,
    last: u64,
}

#[derive(Debug)]
struct Connection {
    client: IpAddr,
    /// Requests that are being answered.
    requests: usize,
    /// Whether it ever had a request, as that of a monitoring server that keeps it open has.
    served: bool,
    /// When it was accepted, or when its last request began or ended.
    active: Instant,
    close: Arc<Notify>,
}

impl Places {
    pub fn new(limits: Limits) -> Arc<Places> {
        Arc::new(Places {
            limits,
            taken: Mutex::default(),
        })
    }

    /// A place for a new connection. Where none is free, a connection is closed: one that never had a request before one
    /// that had, and of these the one that has been without a request for the longest time. Where all are being answered,
    /// there is none.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let client = client(address);
        let mut taken = self.lock();
        while let Some(full) = taken.fullness(client, self.limits) {
            let victim = taken.idlest(|connection| full.concerns(connection, client))?;
            if let Some(closed) = taken.by_number.remove(&victim) {
                closed.close.notify_one();
            }
        }
        taken.last += 1;
        let number = taken.last;
        let close = Arc::new(Notify::new());
        let connection = Connection {
            client,
            requests: 0,
            served: false,
            active: Instant::now(),
            close: Arc::clone(&close),
        };
        taken.by_number.insert(number, connection);
        Some(Place {
            places: Arc::clone(self),
            number,
            close,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, number: u64, change: impl FnOnce(&mut Connection)) {
        if let Some(connection) = self.lock().by_number.get_mut(&number) {
            connection.active = Instant::now();
            change(connection);
        }
    }
}

/// Which connections have no room for one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Full {
    /// Those of the client's own address.
    Address,
    /// Those from other hosts.
    Remote,
    All,
}

impl Full {
    /// Whether this connection may be closed for that client.
    fn concerns(self, connection: &Connection, client: IpAddr) -> bool {
        match self {
            Full::Address => connection.client == client,
            Full::Remote => !connection.client.is_loopback(),
            Full::All => true,
        }
    }
}

impl Taken {
    /// Why this client has no place, if so.
    fn fullness(&self, client: IpAddr, limits: Limits) -> Option<Full> {
        let (mut own, mut remote) = (0, 0);
        for other in self.by_number.values() {
            own += usize::from(other.client == client);
            remote += usize::from(!other.client.is_loopback());
        }
        if own >= limits.each_address {
            Some(Full::Address)
        } else if !client.is_loopback() && remote + limits.for_loopback >= limits.all {
            Some(Full::Remote)
        } else if self.by_number.len() >= limits.all {
            // The places that are kept for loopback are not taken from it.
            let local = self.by_number.len() - remote;
            let spare = client.is_loopback() || local > limits.for_loopback;
            Some(if spare { Full::All } else { Full::Remote })
        } else {
            None
        }
    }

    /// Connections without any request go first: a flood of them does not cost a monitoring server its connection.
    fn idlest(&self, concerns: impl Fn(&Connection) -> bool) -> Option<u64> {
        let idle = self
            .by_number
            .iter()
            .filter(|(_, connection)| connection.requests == 0 && concerns(connection));
        idle.min_by_key(|(number, connection)| (connection.served, connection.active, **number))
            .map(|(number, _)| *number)
    }
}

/// IPv4 as such, and the network of an IPv6 host: it may have any address of that.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            let network = v6.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        other => other,
    }
}

/// The place of one connection, free again when dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    number: u64,
    close: Arc<Notify>,
}

impl Place {
    /// Completes when another connection has got this place.
    pub async fn lost(&self) {
        self.close.notified().await;
    }

    /// A request is being answered until the value is dropped.
    pub fn request(self: &Arc<Self>) -> Request {
        self.places.change(self.number, |connection| {
            connection.requests += 1;
            connection.served = true;
        });
        Request(Arc::clone(self))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().by_number.remove(&self.number);
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Request(Arc<Place>);

impl Drop for Request {
    fn drop(&mut self) {
        self.0.places.change(self.0.number, |connection| {
            connection.requests = connection.requests.saturating_sub(1);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn is_lost(place: &Arc<Place>) -> bool {
        !place.places.lock().by_number.contains_key(&place.number)
    }

    fn taken(places: &Arc<Places>, from: &str) -> Arc<Place> {
        Arc::new(places.take(address(from)).unwrap())
    }

    #[test]
    fn an_address_that_has_its_share_loses_its_own_idlest_connection() {
        let places = Places::new(Limits {
            all: 10,
            for_loopback: 2,
            each_address: 3,
        });
        let other = taken(&places, "10.0.0.9");
        let own: Vec<_> = (0..3).map(|_| taken(&places, "10.0.0.1")).collect();
        let busy = own[0].request();
        let _new = taken(&places, "10.0.0.1");
        assert_eq!(
            own.iter().map(is_lost).collect::<Vec<_>>(),
            [false, true, false]
        );
        drop(busy);
        // The first one was active later.
        let _newer = taken(&places, "10.0.0.1");
        assert_eq!(
            own.iter().map(is_lost).collect::<Vec<_>>(),
            [false, true, true]
        );
        assert!(!is_lost(&other));
    }

    #[test]
    fn a_connection_that_was_served_outlives_a_flood_of_idle_ones() {
        let places = Places::new(Limits {
            all: 10,
            for_loopback: 2,
            each_address: 3,
        });
        let scraped = taken(&places, "10.0.0.1");
        drop(scraped.request());
        let flood: Vec<_> = (0..100).map(|_| taken(&places, "10.0.0.1")).collect();
        assert!(!is_lost(&scraped));
        assert_eq!(flood.iter().filter(|place| !is_lost(place)).count(), 2);
    }

    #[test]
    fn places_are_kept_for_loopback() {
        let places = Places::new(Limits {
            all: 6,
            for_loopback: 2,
            each_address: 6,
        });
        let remote: Vec<_> = (0..4)
            .map(|n| taken(&places, &format!("10.0.0.{n}")))
            .collect();
        let local = [taken(&places, "127.0.0.1"), taken(&places, "127.0.0.2")];
        let _fifth = taken(&places, "10.0.0.5");
        assert!(is_lost(&remote[0]) && !local.iter().any(is_lost));
        // Loopback may take what is idle, and only there where nothing is free.
        let _third = taken(&places, "127.0.0.3");
        assert!(is_lost(&remote[1]) && !local.iter().any(is_lost));
    }

    #[test]
    fn no_connection_with_a_request_is_closed() {
        let places = Places::new(Limits {
            all: 2,
            for_loopback: 0,
            each_address: 2,
        });
        let both = [taken(&places, "10.0.0.1"), taken(&places, "10.0.0.2")];
        let requests = both.each_ref().map(Place::request);
        assert!(places.take(address("10.0.0.3")).is_none());
        drop(requests);
        assert!(places.take(address("10.0.0.3")).is_some());
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let table = [
            ("2001:db8:1:2::3", "2001:db8:1:2::"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("::1", "::1"),
            ("10.0.0.1", "10.0.0.1"),
        ];
        for (given, expected) in table {
            assert_eq!(client(address(given)), address(expected), "{given}");
        }
    }
}
