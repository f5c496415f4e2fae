//! One reading of the kernel's TCP table for all brokers of a network namespace.
//!
//! A walk over the connections costs about the same for one broker as for many: the kernel visits every bucket of a
//! table whose size follows the host's memory. So the brokers of a namespace share it, and while nothing is suspected it
//! runs less often, under a ceiling. The listening sockets have a small table of their own, which is read every second:
//! it shows an accept queue that fills.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

use super::adaptive_interval::AdaptiveInterval;
use super::sockets::{self, Counted, Listeners, Sockets, Source};
use crate::model::{AcceptQueue, Broker, Failure, Reason, SocketPulse, TcpState};
use crate::sys::blocking_worker::measured;
use crate::sys::proc_net;
use crate::sys::sock_diag::States;

/// Share of one core that the walks of a namespace may cost while nothing is suspected.
const REST_CEILING: f64 = 0.001;
/// And while something is.
const SUSPECTED_CEILING: f64 = 0.005;
/// While nothing is suspected, only every so many rounds has a walk.
const ROUNDS_AT_REST: u32 = 5;
/// So many more file descriptors than at the last walk are suspicious: five connections in CLOSE_WAIT with unread bytes
/// are a finding.
const FD_GROWTH: u64 = 5;
/// The walks stay frequent for so long after the last sign.
const SUSPICION_LASTS: Duration = Duration::from_secs(30);
/// Rounds that are due at the same moment run one after the other, and share one reading.
const SAME_MOMENT: Duration = Duration::from_millis(200);

/// The tables of this host, by network namespace.
#[derive(Debug, Clone, Default)]
pub struct SocketTables(Arc<Mutex<BTreeMap<u64, Weak<Mutex<Table>>>>>);

/// What other readings of a broker say that makes its connections worth a walk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signs {
    /// Open file descriptors.
    pub fds: Option<u64>,
    /// Threads make no progress, or the broker answers late.
    pub stuck: bool,
}

/// A value with the time at which it was read.
type Timed<T> = (T, Instant);

/// What one round of one broker has.
#[derive(Debug)]
pub struct TableRound {
    pub accept_queues: Result<Timed<Vec<AcceptQueue>>, Failure>,
    /// None while the last walk is young enough.
    pub sockets: Option<Result<Timed<SocketPulse>, Failure>>,
    /// From one reading of the accept queues to the next, at most.
    pub listens_every: Duration,
    /// From one walk to the next, at most.
    pub interval: Duration,
    /// CPU time of the walk in this round, if it has one.
    pub walk: Duration,
}

/// The table of one network namespace.
#[derive(Debug)]
struct Table {
    sockets: Sockets,
    members: Vec<Weak<Member>>,
    listened: Option<Instant>,
    walked: Option<Instant>,
    rest: AdaptiveInterval,
    suspected: AdaptiveInterval,
    /// Not so where only `/proc` can be read: there the listeners come with the walk.
    listens_alone: bool,
}

/// One broker at a table.
#[derive(Debug)]
struct Member {
    listeners: Listeners,
    newest: Mutex<Newest>,
}

/// What was read last.
#[derive(Debug, Default)]
struct Newest {
    accept_queues: Option<Timed<Vec<AcceptQueue>>>,
    sockets: Option<Timed<SocketPulse>>,
}

/// Reads the table for one broker.
#[derive(Debug)]
pub struct TableReader {
    tables: SocketTables,
    proc_root: PathBuf,
    interval: Duration,
    time_limit: Duration,
    /// Whether connections are counted; else the listeners alone.
    walks: bool,
    /// Its place at the table; none before the first round.
    place: Option<(Arc<Mutex<Table>>, Arc<Member>)>,
    suspicion: Suspicion,
    /// The last walk that a round returned.
    returned: Option<Instant>,
}

impl TableReader {
    /// `interval` is that of the rounds, `time_limit` bounds each reading.
    pub fn new(
        tables: SocketTables,
        proc_root: impl Into<PathBuf>,
        interval: Duration,
        time_limit: Duration,
    ) -> TableReader {
        TableReader {
            tables,
            proc_root: proc_root.into(),
            interval,
            time_limit,
            walks: true,
            place: None,
            suspicion: Suspicion::default(),
            returned: None,
        }
    }

    /// Whether connections are counted as well.
    pub fn with_walks(self, walks: bool) -> TableReader {
        TableReader { walks, ..self }
    }

    /// One round of this broker. `own` says whether an address is the exporter's.
    pub fn round(
        &mut self,
        broker: &Broker,
        signs: Signs,
        own: &dyn Fn(SocketAddr) -> bool,
    ) -> TableRound {
        self.round_at(Instant::now(), broker, signs, own)
            .unwrap_or_else(|failure| {
                // The failure takes the place of the last walk, which is valid again in the next round.
                self.returned = None;
                TableRound {
                    accept_queues: Err(failure.clone()),
                    sockets: self.walks.then_some(Err(failure)),
                    listens_every: self.interval,
                    interval: self.interval,
                    walk: Duration::ZERO,
                }
            })
    }

    fn round_at(
        &mut self,
        now: Instant,
        broker: &Broker,
        signs: Signs,
        own: &dyn Fn(SocketAddr) -> bool,
    ) -> Result<TableRound, Failure> {
        let (table, member) = self.place(broker)?;
        let mut table = match table.try_lock() {
            Ok(table) => table,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                // The walk for another broker may take longer than short work should: only later it is taken to hang.
                let listened = member.newest().accept_queues.clone();
                let is_young = |at: Instant| now.saturating_duration_since(at) < self.time_limit;
                if let Some((queues, at)) = listened.filter(|(_, at)| is_young(*at)) {
                    return Ok(TableRound {
                        accept_queues: Ok((queues, at)),
                        sockets: None,
                        listens_every: self.interval,
                        interval: self.interval,
                        walk: Duration::ZERO,
                    });
                }
                let name = broker.name();
                let message = format!("sockets of {name}: an earlier reading of this table hangs");
                return Err(Failure::new(Reason::Timeout, message));
            }
        };
        let mut suspected = self.suspicion.stands(signs, now);
        let mut walk = Duration::ZERO;
        if !self.walks || table.listens_alone && !table.is_due(now, suspected) {
            table.listen(now, broker, own)?;
            suspected |= self.suspicion.queued(&member.newest(), now);
        }
        if self.walks && table.is_due(now, suspected) {
            walk = table.walk(now, broker, own)?;
            self.suspicion.queued(&member.newest(), now);
        }
        let newest = member.newest();
        let nothing = || {
            let message = format!("sockets of {}: nothing was counted", broker.name());
            Failure::new(Reason::Io, message)
        };
        let accept_queues = newest.accept_queues.clone().ok_or_else(nothing)?;
        let is_new = |(_, at): &&Timed<SocketPulse>| self.returned.is_none_or(|last| last < *at);
        let sockets = newest.sockets.as_ref().filter(is_new).cloned();
        if let Some((pulse, at)) = &sockets {
            self.returned = Some(*at);
            self.suspicion.walked(signs, pulse, now);
        }
        Ok(TableRound {
            accept_queues: Ok(accept_queues),
            sockets: sockets.map(Ok),
            listens_every: match table.listens_alone || !self.walks {
                true => self.interval,
                false => table.interval(false),
            },
            interval: table.interval(false),
            walk,
        })
    }

    fn place(&mut self, broker: &Broker) -> Result<(Arc<Mutex<Table>>, Arc<Member>), Failure> {
        if let Some(place) = &self.place {
            return Ok(place.clone());
        }
        let listeners = Listeners::of(broker)?;
        let namespace = proc_net::network_namespace(&self.proc_root, broker.process.pid)
            .map_err(|error| sockets::failure(broker, &error))?;
        let mut tables = lock(&self.tables.0);
        tables.retain(|_, table| table.strong_count() > 0);
        let table = tables.get(&namespace).and_then(Weak::upgrade);
        let table = table.unwrap_or_else(|| {
            let sockets = Sockets::new(&self.proc_root, self.time_limit);
            Arc::new(Mutex::new(Table::new(sockets, self.interval)))
        });
        tables.insert(namespace, Arc::downgrade(&table));
        drop(tables);
        let newest = Mutex::default();
        let member = Arc::new(Member { listeners, newest });
        lock(&table).admit(&member);
        Ok(self.place.insert((table, member)).clone())
    }
}

impl Member {
    fn newest(&self) -> MutexGuard<'_, Newest> {
        lock(&self.newest)
    }
}

/// What a panic leaves behind is whole: each value is replaced at once.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Table {
    fn new(sockets: Sockets, interval: Duration) -> Table {
        Table {
            sockets,
            members: Vec::new(),
            listened: None,
            walked: None,
            rest: AdaptiveInterval::new(interval * ROUNDS_AT_REST, REST_CEILING),
            suspected: AdaptiveInterval::new(interval, SUSPECTED_CEILING),
            listens_alone: true,
        }
    }

    /// Nothing was counted for a new member yet: the next round walks.
    fn admit(&mut self, member: &Arc<Member>) {
        self.members.retain(|member| member.strong_count() > 0);
        self.members.push(Arc::downgrade(member));
        self.walked = None;
    }

    fn interval(&self, suspected: bool) -> Duration {
        match suspected {
            true => self.suspected.interval(),
            false => self.rest.interval(),
        }
    }

    fn is_due(&self, now: Instant, suspected: bool) -> bool {
        let interval = self.interval(suspected);
        self.walked
            .is_none_or(|at| now.saturating_duration_since(at) + SAME_MOMENT >= interval)
    }

    /// Reads the listening sockets, if that was not done at this moment.
    fn listen(
        &mut self,
        now: Instant,
        broker: &Broker,
        own: &dyn Fn(SocketAddr) -> bool,
    ) -> Result<(), Failure> {
        let last = self.listened.max(self.walked);
        if last.is_some_and(|at| now.saturating_duration_since(at) < SAME_MOMENT) {
            return Ok(());
        }
        let listening = States::of(&[TcpState::Listen]);
        self.count(broker, listening, own, |newest, counted| {
            newest.accept_queues = Some((counted.accept_queues, now));
        })?;
        self.listened = Some(now);
        Ok(())
    }

    /// Counts the connections. Returns the CPU time that it took.
    fn walk(
        &mut self,
        now: Instant,
        broker: &Broker,
        own: &dyn Fn(SocketAddr) -> bool,
    ) -> Result<Duration, Failure> {
        let states = sockets::not_established();
        let count = || {
            self.count(broker, states, own, |newest, counted| {
                newest.accept_queues = Some((counted.accept_queues, now));
                newest.sockets = Some((counted.sockets, now));
            })
        };
        let (source, cost) = measured(count);
        self.rest.spent(cost);
        self.suspected.spent(cost);
        self.listens_alone = source? == Source::SockDiag;
        self.walked = Some(now);
        Ok(cost)
    }

    /// Counts for every member, by one reading that `broker` stands for.
    fn count(
        &mut self,
        broker: &Broker,
        states: States,
        own: &dyn Fn(SocketAddr) -> bool,
        put: impl Fn(&mut Newest, Counted),
    ) -> Result<Source, Failure> {
        let members: Vec<Arc<Member>> = self.members.iter().filter_map(Weak::upgrade).collect();
        let listeners: Vec<&Listeners> = members.iter().map(|member| &member.listeners).collect();
        let (counted, source) = self.sockets.count(broker, states, &listeners, own)?;
        for (member, counted) in std::iter::zip(&members, counted) {
            put(&mut member.newest(), counted);
        }
        Ok(source)
    }
}

/// Whether a broker's connections are worth a walk each second.
#[derive(Debug, Default)]
struct Suspicion {
    /// At the last walk.
    fds: Option<u64>,
    close_wait: u64,
    until: Option<Instant>,
}

impl Suspicion {
    fn stands(&mut self, signs: Signs, now: Instant) -> bool {
        let grown = |(before, fds): (u64, u64)| fds >= before.saturating_add(FD_GROWTH);
        if signs.stuck || self.fds.zip(signs.fds).is_some_and(grown) {
            self.rises(now);
        }
        self.until.is_some_and(|until| now < until)
    }

    /// Takes in the accept queues: whether a connection waits in one.
    fn queued(&mut self, newest: &Newest, now: Instant) -> bool {
        let mut queues = newest.accept_queues.iter().flat_map(|(queues, _)| queues);
        let waits = queues.any(|queue| queue.length > 0);
        if waits {
            self.rises(now);
        }
        waits
    }

    /// Takes in a walk.
    fn walked(&mut self, signs: Signs, pulse: &SocketPulse, now: Instant) {
        let close_wait = pulse.server.get(TcpState::CloseWait).connections;
        if close_wait > self.close_wait || pulse.unread_close_wait > 0 {
            self.rises(now);
        }
        (self.fds, self.close_wait) = (signs.fds, close_wait);
    }

    fn rises(&mut self, now: Instant) {
        self.until = Some(now + SUSPICION_LASTS);
    }
}

#[cfg(test)]
mod tests;
