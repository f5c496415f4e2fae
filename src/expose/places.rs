//! Which connections may be open at a time, and which is closed where a new one needs a place.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

/// How many connections may be open: each costs the exporter a file descriptor and some kilobytes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub all: usize,
    /// Of those, only clients on loopback may use so many: a probe on this host reaches the exporter through any load.
    pub for_loopback: usize,
    /// Of one address; all of loopback is one.
    pub each_address: usize,
    /// That have sent something, and not yet a whole request: each may cost the exporter 100 kB.
    pub beginning: usize,
}

impl Limits {
    /// Of an address for probes.
    pub fn of_probes() -> Limits {
        Limits {
            all: 64,
            for_loopback: 16,
            each_address: 32,
            beginning: 64,
        }
    }

    /// `each_address` of 0 is no limit.
    pub fn usual(each_address: usize) -> Limits {
        Limits {
            all: 512,
            for_loopback: 16,
            each_address: if each_address == 0 { 512 } else { each_address },
            beginning: 128,
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
    /// How many each client has.
    counts: HashMap<Client, usize>,
    last: u64,
}

#[derive(Debug)]
struct Connection {
    client: Client,
    /// Requests that are being answered.
    requests: usize,
    /// Whether its client has sent something.
    begun: bool,
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

    /// A place for a new connection. Where none is free, a connection is closed; where all are being answered, there is
    /// none.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let client = Client::of(address);
        let mut taken = self.lock();
        while let Some(full) = taken.fullness(client, self.limits) {
            let victim = taken.victim(|connection| full.concerns(connection, client))?;
            taken.close(victim);
        }
        taken.last += 1;
        let number = taken.last;
        let close = Arc::new(Notify::new());
        let connection = Connection {
            client,
            requests: 0,
            begun: false,
            served: false,
            active: Instant::now(),
            close: Arc::clone(&close),
        };
        taken.by_number.insert(number, connection);
        *taken.counts.entry(client).or_default() += 1;
        Some(Place {
            places: Arc::clone(self),
            client,
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
    fn concerns(self, connection: &Connection, client: Client) -> bool {
        match self {
            Full::Address => connection.client == client,
            Full::Remote => !connection.client.is_loopback(),
            Full::All => true,
        }
    }
}

impl Taken {
    /// Why this client has no place, if so.
    fn fullness(&self, client: Client, limits: Limits) -> Option<Full> {
        let own = self.count(client);
        let remote = self.by_number.len() - self.count(Client::LOOPBACK);
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

    fn count(&self, client: Client) -> usize {
        self.counts.get(&client).copied().unwrap_or_default()
    }

    fn remove(&mut self, number: u64) -> Option<Connection> {
        let removed = self.by_number.remove(&number)?;
        let left = self.count(removed.client).saturating_sub(1);
        if left == 0 {
            self.counts.remove(&removed.client);
        } else {
            self.counts.insert(removed.client, left);
        }
        Some(removed)
    }

    fn close(&mut self, number: u64) {
        if let Some(closed) = self.remove(number) {
            closed.close.notify_one();
        }
    }

    /// Which of the concerned connections without a request is closed: one of the client that has the most, so that no
    /// client takes the places of those that have fewer. Of these the one that never had a request for the longest time
    /// while they are half of them, so that a flood costs a monitoring server no connection. While they are fewer, one
    /// that had a request: a new connection has time to send its own, however many of the others had one.
    fn victim(&self, concerns: impl Fn(&Connection) -> bool) -> Option<u64> {
        let mut most = 0;
        let (mut new, mut served) = (Idle::default(), Idle::default());
        for (number, connection) in &self.by_number {
            if connection.requests > 0 || !concerns(connection) {
                continue;
            }
            let count = self.count(connection.client);
            if count > most {
                most = count;
                (new, served) = (Idle::default(), Idle::default());
            }
            if count == most {
                let idle = if connection.served {
                    &mut served
                } else {
                    &mut new
                };
                idle.add(connection.active, *number);
            }
        }
        let first = if new.count >= served.count {
            new
        } else {
            served
        };
        first.oldest.map(|(_, number)| number)
    }
}

/// Connections without a request.
#[derive(Debug, Default)]
struct Idle {
    count: usize,
    oldest: Option<(Instant, u64)>,
}

impl Idle {
    fn add(&mut self, active: Instant, number: u64) {
        let this = (active, number);
        self.count += 1;
        self.oldest = Some(self.oldest.map_or(this, |oldest| oldest.min(this)));
    }
}

/// IPv4 as such, the network of an IPv6 host, and all of loopback: a host may have any address of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Client(IpAddr);

impl Client {
    pub const LOOPBACK: Client = Client(IpAddr::V4(Ipv4Addr::LOCALHOST));

    pub fn of(address: IpAddr) -> Client {
        match address.to_canonical() {
            loopback if loopback.is_loopback() => Client::LOOPBACK,
            IpAddr::V6(v6) => {
                let network = v6.to_bits() & !u128::from(u64::MAX);
                Client(IpAddr::V6(Ipv6Addr::from_bits(network)))
            }
            v4 => Client(v4),
        }
    }

    fn is_loopback(self) -> bool {
        self == Client::LOOPBACK
    }
}

/// The place of one connection, free again when dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    pub client: Client,
    number: u64,
    close: Arc<Notify>,
}

impl Place {
    /// Completes when another connection has got this place.
    pub async fn lost(&self) {
        self.close.notified().await;
    }

    /// The client has sent something. Where too many others have as well, and no whole request yet, one is closed.
    pub fn begins(&self) {
        let places = &self.places;
        places.change(self.number, |connection| connection.begun = true);
        let is_beginning = |connection: &Connection| connection.begun && !connection.served;
        let mut taken = places.lock();
        let beginning = taken.by_number.values().filter(|one| is_beginning(one));
        if beginning.count() > places.limits.beginning
            && let Some(victim) = taken.victim(is_beginning)
        {
            taken.close(victim);
        }
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
        self.places.lock().remove(self.number);
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

    const FEW: Limits = Limits {
        all: 10,
        for_loopback: 2,
        each_address: 3,
        beginning: 3,
    };

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
        let places = Places::new(FEW);
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
        let places = Places::new(FEW);
        let scraped = taken(&places, "10.0.0.1");
        drop(scraped.request());
        let flood: Vec<_> = (0..100).map(|_| taken(&places, "10.0.0.1")).collect();
        assert!(!is_lost(&scraped));
        assert_eq!(flood.iter().filter(|place| !is_lost(place)).count(), 2);
    }

    #[test]
    fn a_new_connection_has_time_for_its_request_where_all_others_had_one() {
        let places = Places::new(Limits::usual(64));
        let attacker: Vec<_> = (0..512)
            .map(|n| taken(&places, &format!("127.0.0.{}", 2 + n % 8)))
            .inspect(|place| drop(place.request()))
            .collect();
        assert_eq!(attacker.iter().filter(|place| !is_lost(place)).count(), 64);
        let probe = taken(&places, "127.0.0.1");
        let flood = || taken(&places, "127.0.0.2");
        // As many as come in 60 ms at 470 a second.
        let flood: Vec<_> = (0..28).map(|_| flood()).collect();
        assert!(!is_lost(&probe) && !flood.iter().any(is_lost));
    }

    #[test]
    fn a_client_with_many_connections_takes_none_of_one_that_has_few() {
        let places = Places::new(Limits::usual(64));
        let few = [taken(&places, "10.0.0.1"), taken(&places, "127.0.0.1")];
        let flood = |subnet: u32| {
            let flood: Vec<_> = (0..1000)
                .map(|n| taken(&places, &format!("10.0.{subnet}.{}", n % 9)))
                .inspect(|place| drop(place.request()))
                .collect();
            flood.iter().filter(|place| !is_lost(place)).count()
        };
        assert_eq!(flood(1), 495);
        assert!(!few.iter().any(is_lost));
    }

    #[test]
    fn of_those_that_begin_the_oldest_of_the_client_with_the_most_is_closed() {
        let places = Places::new(Limits {
            each_address: 8,
            ..FEW
        });
        let begins = |from: &str| {
            let place = taken(&places, from);
            place.begins();
            place
        };
        let other = begins("10.0.0.1");
        let served = begins("10.0.0.2");
        drop(served.request());
        let idle = taken(&places, "10.0.0.2");
        let slow: Vec<_> = (0..4).map(|_| begins("10.0.0.2")).collect();
        assert_eq!(
            slow.iter().map(is_lost).collect::<Vec<_>>(),
            [true, true, false, false]
        );
        assert!(![&other, &served, &idle].into_iter().any(is_lost));
    }

    #[test]
    fn places_are_kept_for_loopback() {
        let places = Places::new(Limits {
            all: 6,
            each_address: 6,
            ..FEW
        });
        let remote = ["10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.1"];
        let remote = remote.map(|from| taken(&places, from));
        let local = [taken(&places, "127.0.0.1"), taken(&places, "127.0.0.2")];
        let _fifth = taken(&places, "10.0.0.5");
        assert!(is_lost(&remote[0]) && !local.iter().any(is_lost));
        // Loopback may take what is idle of a client that has more, and only there where nothing is free.
        let _third = taken(&places, "127.0.0.3");
        assert!(is_lost(&remote[1]) && !local.iter().any(is_lost));
    }

    #[test]
    fn no_connection_with_a_request_is_closed() {
        let places = Places::new(Limits {
            all: 2,
            for_loopback: 0,
            each_address: 2,
            ..FEW
        });
        let both = [taken(&places, "10.0.0.1"), taken(&places, "10.0.0.2")];
        let requests = both.each_ref().map(Place::request);
        assert!(places.take(address("10.0.0.3")).is_none());
        drop(requests);
        assert!(places.take(address("10.0.0.3")).is_some());
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_so_is_loopback() {
        let table = [
            ("2001:db8:1:2::3", "2001:db8:1:2::"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("::1", "127.0.0.1"),
            ("127.0.0.9", "127.0.0.1"),
            ("::ffff:127.8.0.1", "127.0.0.1"),
            ("10.0.0.1", "10.0.0.1"),
        ];
        for (given, expected) in table {
            assert_eq!(Client::of(address(given)).0, address(expected), "{given}");
        }
    }
}
