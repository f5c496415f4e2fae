//! The TCP connections of one broker, by the kernel's own tables: what reaches its listeners (direction *in*) and what
//! it opened itself, to other brokers and ZooKeeper (direction *out*).
//!
//! It counts for two collectors: `sockets`, through [`super::socket_tables`], what reaches the listeners in each state
//! but ESTABLISHED; `connections`, in [`super::fds`], the rest. Both readings block and end at their time limit: a list
//! of 50,000 sockets takes some 40 ms.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::model::Broker;
use crate::model::Failure;
use crate::model::{AcceptQueue, Reason, SocketOwners, SocketPulse, StateCounts, TcpState};
use crate::sys::lacking::REMEDY;
use crate::sys::proc_net::{self, ProcNetError};
use crate::sys::sock_diag::{self, DiagError, Ports, States, TcpSocket};

/// How long a refused sock_diag is not asked again: each time, the kernel may start `modprobe`.
const REFUSAL_LASTS: Duration = Duration::from_secs(600);

/// A process keeps its network namespace, unless it asks for another itself, as no JVM does.
const OURS_LASTS: Duration = Duration::from_secs(10);

/// Reads the socket tables for one broker after the other, with one buffer.
#[derive(Debug)]
pub struct Sockets {
    proc_root: PathBuf,
    time_limit: Duration,
    buffer: Vec<u8>,
    diag_refused: Option<Instant>,
    /// Whether the network namespace of this process is ours, and when that was looked up.
    ours: Option<(u32, bool, Instant)>,
    /// Whether packets that have arrived are counted.
    counts_segments: bool,
    /// Whether it has returned a socket: kernels of the 3.x line return an empty list if the module for TCP is missing.
    diag_proven: bool,
}

/// [`TcpState::ALL`] as `ss` spells them.
const SS_STATES: &str = "ESTAB SYN-SENT SYN-RECV FIN-WAIT-1 FIN-WAIT-2 TIME-WAIT UNCONN CLOSE-WAIT LAST-ACK LISTEN CLOSING";

/// The slow round counts the established connections, of which a broker that works has most.
pub(super) fn not_established() -> States {
    States::ALL.without(TcpState::Established)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    SockDiag,
    ProcNet,
}

impl Sockets {
    /// `time_limit` bounds each of [`Sockets::pulse`] and [`Sockets::owners`].
    pub fn new(proc_root: impl Into<PathBuf>, time_limit: Duration) -> Sockets {
        Sockets {
            proc_root: proc_root.into(),
            time_limit,
            buffer: Vec::new(),
            diag_refused: None,
            ours: None,
            counts_segments: false,
            diag_proven: false,
        }
    }

    /// The connections of these addresses with this host, those that are not complete too, with the packets that have
    /// arrived on each. The first [`Sockets::MOST_WITH`] only.
    pub(super) fn with(
        &mut self,
        broker: &Broker,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<Vec<TcpSocket>, Failure> {
        use TcpState::{CloseWait, Established, SynRecv};
        let deadline = Instant::now() + self.time_limit;
        let states = States::of(&[Established, SynRecv, CloseWait]);
        self.counts_segments = true;
        let fold = |found: &mut Vec<TcpSocket>, socket: &TcpSocket| {
            if found.len() < Self::MOST_WITH && addresses.contains(&socket.remote.ip()) {
                found.push(*socket);
            }
        };
        let read = self.read(broker, states, None, deadline, Vec::new, fold);
        self.counts_segments = false;
        read.map(|(found, _)| found)
    }

    const MOST_WITH: usize = 1024;

    /// What reaches one broker's listeners, see `Sockets::count`.
    pub fn pulse(
        &mut self,
        broker: &Broker,
        own: &dyn Fn(SocketAddr) -> bool,
    ) -> Result<Counted, Failure> {
        let listeners = Listeners::of(broker)?;
        let (mut counted, _) = self.count(broker, not_established(), &[&listeners], own)?;
        Ok(counted.pop().unwrap_or_default())
    }

    /// What reaches the listeners of each of these brokers, in these states, by one reading of the table. They share the
    /// network namespace of `broker`, which a failure names.
    ///
    /// `own` says whether the far end of a connection is the exporter's; those are left out.
    pub(super) fn count(
        &mut self,
        broker: &Broker,
        states: States,
        all: &[&Listeners],
        own: &dyn Fn(SocketAddr) -> bool,
    ) -> Result<(Vec<Counted>, Source), Failure> {
        let deadline = Instant::now() + self.time_limit;
        let ports = Ports::new(all.iter().flat_map(|listeners| listeners.ports()));
        let fresh = || -> Vec<Counter<'_>> { all.iter().map(|one| Counter::new(one)).collect() };
        let (counters, source) = self.read(
            broker,
            states,
            Some(&ports),
            deadline,
            fresh,
            |counters, socket| {
                for counter in counters {
                    counter.add(socket, own);
                }
            },
        )?;
        let counted = counters.into_iter().map(|counter| counter.counted(source));
        Ok((counted.collect(), source))
    }

    /// Who owns what: the established connections of the listeners, the broker's outgoing connections, and how many of
    /// its socket handles are in no table (reset, or given up on by keep-alive, and still held).
    ///
    /// `inodes` are those of the broker's socket handles, read just before; without the right to read them there is
    /// nothing to call this with. `inodes_again` reads them once more and is called only if some were in no table: a
    /// handle that was closed in between is not untracked.
    ///
    /// An outgoing connection that its process has closed (TIME_WAIT and the like) has no owner. It counts as the
    /// broker's if it leads to an address and port to which an owned connection leads, or to one of
    /// `zookeeper.connect`. So those of another process of this host to the same addresses are counted as well.
    /// Sockets at a port on which the broker listens for something else (JMX) are in neither role.
    pub fn owners(
        &mut self,
        broker: &Broker,
        inodes: &HashSet<u64>,
        inodes_again: &mut dyn FnMut() -> Result<HashSet<u64>, Failure>,
        own: &dyn Fn(SocketAddr) -> bool,
    ) -> Result<(SocketOwners, u64), Failure> {
        let deadline = Instant::now() + self.time_limit;
        let listeners = Listeners::of(broker)?;
        let owned = |socket: &TcpSocket| socket.inode != 0 && inodes.contains(&socket.inode);

        // Its listening ports first, whatever they are for.
        let listening = States::of(&[TcpState::Listen]);
        let (incoming, _) = self.read(
            broker,
            listening,
            None,
            deadline,
            HashSet::new,
            |ports, socket| {
                if owned(socket) {
                    ports.insert(socket.local.port());
                }
            },
        )?;
        let outgoing = |socket: &TcpSocket| {
            !incoming.contains(&socket.local.port())
                && !listeners.ports.contains(socket.local.port())
                && socket.state != TcpState::Listen
        };

        let fresh = || (SocketOwners::default(), Vec::new(), HashSet::new());
        let ((mut owners, mut seen, remotes), _) = self.read(
            broker,
            States::ALL,
            None,
            deadline,
            fresh,
            |(owners, seen, remotes), socket| {
                let owned = owned(socket);
                if owned {
                    seen.push(socket.inode);
                }
                if socket.state == TcpState::Established && listeners.at(socket.local).is_some() {
                    if !own(socket.remote) {
                        let count = &mut owners.server_established;
                        count.connections += 1;
                        count.receive_bytes += u64::from(socket.receive_queue);
                        count.send_bytes += u64::from(socket.send_queue);
                    }
                } else if owned && outgoing(socket) {
                    owners.client_unread_close_wait += add(&mut owners.client, socket);
                    remotes.insert(socket.remote);
                }
            },
        )?;

        use TcpState::{Closing, FinWait1, FinWait2, LastAck, TimeWait};
        let ownerless = States::of(&[FinWait1, FinWait2, TimeWait, LastAck, Closing]);
        let zookeeper: Vec<Place> = broker
            .zookeeper
            .iter()
            .filter_map(|entry| Place::parse(entry))
            .collect();
        let (closed, _) = self.read(
            broker,
            ownerless,
            None,
            deadline,
            StateCounts::default,
            |closed, socket| {
                let known = || {
                    remotes.contains(&socket.remote)
                        || zookeeper.iter().any(|place| place.is(socket.remote))
                };
                if socket.inode == 0 && outgoing(socket) && known() && !own(socket.local) {
                    add(closed, socket);
                }
            },
        )?;
        for state in [FinWait1, FinWait2, TimeWait, LastAck, Closing] {
            let (sum, more) = (owners.client.get_mut(state), closed.get(state));
            sum.connections += more.connections;
            sum.receive_bytes += more.receive_bytes;
            sum.send_bytes += more.send_bytes;
        }

        seen.sort_unstable();
        let mut untracked: HashSet<u64> = inodes
            .iter()
            .copied()
            .filter(|inode| seen.binary_search(inode).is_err())
            .collect();
        if !untracked.is_empty() {
            proc_net::other_socket_inodes(
                &self.proc_root,
                broker.process.pid,
                &mut self.buffer,
                deadline,
                |inode| _ = untracked.remove(&inode),
            )
            .map_err(|error| failure(broker, &error))?;
        }
        if !untracked.is_empty() {
            let still_open = inodes_again()?;
            untracked.retain(|inode| still_open.contains(inode));
        }
        Ok((owners, untracked.len() as u64))
    }

    /// Returns every TCP socket of the broker's network namespace, one line each, in the columns of `ss -tane`; the last
    /// column is user and inode. Beyond `most` lines, the last line says how many were left out.
    pub fn lines(&mut self, broker: &Broker, most: usize) -> Result<String, Failure> {
        let fresh = || {
            (
                "State Recv-Q Send-Q Local Address:Port Peer Address:Port\n".to_owned(),
                0_usize,
            )
        };
        let deadline = Instant::now() + self.time_limit;
        let ((mut text, count), _) =
            self.read(broker, States::ALL, None, deadline, fresh, |(text, count), socket| {
                *count += 1;
                if *count <= most {
                    let TcpSocket { state, local, remote, receive_queue, send_queue, inode, uid, .. } = socket;
                    let peer = remote.to_string();
                    // Of a listener any peer, of which `ss` says so.
                    let peer = peer.strip_suffix(":0").map_or(peer.clone(), |host| format!("{host}:*"));
                    let state = SS_STATES.split(' ').nth(*state as usize).unwrap_or_default();
                    // Writing into a string cannot fail.
                    let _ = writeln!(
                        text,
                        "{state:<10} {receive_queue:<6} {send_queue:<6} {local:>21} {peer:>21} uid:{uid} ino:{inode}"
                    );
                }
            })?;
        if count > most {
            let _ = writeln!(text, "# {} further sockets are left out", count - most);
        }
        Ok(text)
    }

    fn is_ours(&mut self, pid: u32) -> Result<bool, ProcNetError> {
        let known = self
            .ours
            .filter(|(of, _, at)| *of == pid && at.elapsed() < OURS_LASTS);
        if let Some((_, ours, _)) = known {
            return Ok(ours);
        }
        let ours = proc_net::same_network_namespace(&self.proc_root, pid)?;
        self.ours = Some((pid, ours, Instant::now()));
        Ok(ours)
    }

    /// Folds the TCP sockets of the broker's network namespace. If one source fails midway, it starts over with `fresh`.
    fn read<T>(
        &mut self,
        broker: &Broker,
        states: States,
        ports: Option<&Ports>,
        deadline: Instant,
        fresh: impl Fn() -> T,
        mut fold: impl FnMut(&mut T, &TcpSocket),
    ) -> Result<(T, Source), Failure> {
        let pid = broker.process.pid;
        let same = self.is_ours(pid).map_err(|error| failure(broker, &error))?;
        let refused = self
            .diag_refused
            .is_some_and(|at| at.elapsed() < REFUSAL_LASTS);
        if same && !refused {
            let mut interruptions = 0;
            loop {
                let mut sum = fresh();
                let proven = &mut self.diag_proven;
                let segments = self.counts_segments;
                let each = |socket: &TcpSocket| {
                    *proven = true;
                    fold(&mut sum, socket);
                };
                let buffer = &mut self.buffer;
                let dumped = sock_diag::dump(states, ports, segments, buffer, deadline, each);
                match dumped {
                    Ok(()) if self.diag_proven => return Ok((sum, Source::SockDiag)),
                    Ok(()) => break,
                    Err(DiagError::Interrupted) if interruptions < 2 => interruptions += 1,
                    Err(error @ DiagError::Unavailable(_)) => {
                        tracing::info!(
                            "{error}; reading {}/PID/net/tcp instead",
                            self.proc_root.display()
                        );
                        self.diag_refused = Some(Instant::now());
                        break;
                    }
                    Err(error) => {
                        let reason = match error {
                            DiagError::TimedOut => Reason::Timeout,
                            DiagError::TooManyPorts(_) => Reason::Unsupported,
                            _ => Reason::Protocol,
                        };
                        return Err(Failure::new(
                            reason,
                            format!("sockets of {}: {error}", broker.name()),
                        ));
                    }
                }
            }
        }
        let mut sum = fresh();
        proc_net::tcp_sockets(
            &self.proc_root,
            pid,
            states,
            ports,
            &mut self.buffer,
            deadline,
            |socket| fold(&mut sum, socket),
        )
        .map_err(|error| failure(broker, &error))?;
        Ok((sum, Source::ProcNet))
    }
}

/// What the kernel's table says of one broker's listeners.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counted {
    pub sockets: SocketPulse,
    pub accept_queues: Vec<AcceptQueue>,
}

/// Counts the sockets at one broker's listeners.
struct Counter<'a> {
    listeners: &'a Listeners,
    pulse: SocketPulse,
    /// Length and limit, by listener.
    queues: Vec<Option<(u32, u32)>>,
}

impl<'a> Counter<'a> {
    fn new(listeners: &'a Listeners) -> Counter<'a> {
        Counter {
            listeners,
            pulse: SocketPulse::default(),
            queues: vec![None; listeners.names.len()],
        }
    }

    fn add(&mut self, socket: &TcpSocket, own: &dyn Fn(SocketAddr) -> bool) {
        let Some(index) = self.listeners.at(socket.local) else {
            return;
        };
        if socket.state == TcpState::Listen {
            self.pulse.server.get_mut(TcpState::Listen).connections += 1;
            // One listener may have several sockets: one per family, or shared by SO_REUSEPORT.
            if let Some(queue) = self.queues.get_mut(index) {
                let (length, limit) = queue.unwrap_or((0u32, 0u32));
                let length = length.saturating_add(socket.receive_queue);
                *queue = Some((length, limit.saturating_add(socket.send_queue)));
            }
        } else if !own(socket.remote) {
            self.pulse.unread_close_wait += add(&mut self.pulse.server, socket);
        }
    }

    fn counted(self, source: Source) -> Counted {
        let queue = |(name, queue): (&String, Option<(u32, u32)>)| {
            let (length, limit) = queue?;
            Some(AcceptQueue {
                listener: name.clone(),
                length,
                limit: (source == Source::SockDiag).then_some(limit),
            })
        };
        Counted {
            sockets: self.pulse,
            accept_queues: std::iter::zip(&self.listeners.names, self.queues)
                .filter_map(queue)
                .collect(),
        }
    }
}

/// Counts one connection; returns 1 if it is a CLOSE_WAIT with bytes that are not read.
fn add(counts: &mut StateCounts, socket: &TcpSocket) -> u64 {
    // The peer's FIN takes one place in the queue until the broker reads the end of the stream.
    let ended = matches!(
        socket.state,
        TcpState::CloseWait | TcpState::LastAck | TcpState::Closing
    );
    let received = u64::from(socket.receive_queue).saturating_sub(u64::from(ended));
    let count = counts.get_mut(socket.state);
    count.connections += 1;
    count.receive_bytes += received;
    count.send_bytes += u64::from(socket.send_queue);
    u64::from(socket.state == TcpState::CloseWait && received > 0)
}

/// Where something listens, as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    Address(IpAddr),
    Loopback,
    /// No host, the unspecified address, or a name: not resolved here, so the port alone decides.
    Any,
}

impl Place {
    fn new(host: Option<&str>, port: u16) -> Place {
        let host = host
            .map(|host| host.trim_start_matches('[').trim_end_matches(']'))
            .unwrap_or_default();
        let literal = host.split('%').next().unwrap_or_default().parse::<IpAddr>();
        let host = match literal.map(|address| address.to_canonical()) {
            Ok(address) if !address.is_unspecified() => Host::Address(address),
            Err(_) if host.eq_ignore_ascii_case("localhost") => Host::Loopback,
            _ => Host::Any,
        };
        Place { host, port }
    }

    /// From `host:port`.
    fn parse(entry: &str) -> Option<Place> {
        let (host, port) = entry.trim().rsplit_once(':')?;
        Some(Place::new(Some(host), port.parse().ok()?))
    }

    fn is(&self, address: SocketAddr) -> bool {
        self.port == address.port()
            && match self.host {
                Host::Address(host) => host == address.ip(),
                Host::Loopback => address.ip().is_loopback(),
                Host::Any => true,
            }
    }
}

/// The broker's listeners, for finding the one that a local address belongs to.
#[derive(Debug)]
pub(super) struct Listeners {
    /// In the order of `Broker::listeners`.
    names: Vec<String>,
    /// With the index of the name; those with an address before those without.
    places: Vec<(usize, Place)>,
    ports: Ports,
}

impl Listeners {
    pub(super) fn of(broker: &Broker) -> Result<Listeners, Failure> {
        let mut places: Vec<(usize, Place)> = broker
            .listeners
            .iter()
            .map(|listener| Place::new(listener.host.as_deref(), listener.port))
            .enumerate()
            // Port 0 lets the kernel choose.
            .filter(|(_, place)| place.port != 0)
            .collect();
        places.sort_by_key(|(_, place)| place.host == Host::Any);
        let ports = Ports::new(places.iter().map(|(_, place)| place.port));
        if ports.is_empty() {
            let why = format!(
                "sockets of {}: no listener's port is known (see its `listeners`)",
                broker.name()
            );
            let reason = broker.reason_or_denied(Reason::Unsupported);
            return Err(Failure::new(reason, why));
        }
        let names = broker.listeners.iter();
        let names = names.map(|listener| listener.name.clone()).collect();
        Ok(Listeners {
            names,
            places,
            ports,
        })
    }

    fn ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.places.iter().map(|(_, place)| place.port)
    }

    fn at(&self, local: SocketAddr) -> Option<usize> {
        self.places
            .iter()
            .find(|(_, place)| place.is(local))
            .map(|(index, _)| *index)
    }
}

pub(super) fn failure(broker: &Broker, error: &ProcNetError) -> Failure {
    let (reason, remedy) = match error {
        ProcNetError::Gone(_) => (Reason::Gone, ""),
        ProcNetError::Denied(_) => (Reason::Denied, REMEDY),
        ProcNetError::TimedOut(_) => (Reason::Timeout, ""),
        ProcNetError::Garbage { .. } => (Reason::Protocol, ""),
        ProcNetError::Failed { .. } => (Reason::Io, ""),
    };
    let remedy = match remedy {
        "" => String::new(),
        remedy => format!("; {remedy}"),
    };
    Failure::new(
        reason,
        format!("sockets of {}: {error}{remedy}", broker.name()),
    )
}

#[cfg(test)]
mod tests;
