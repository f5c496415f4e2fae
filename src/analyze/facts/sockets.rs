//! What tables of sockets and of open file descriptors show.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::gathering::{Gathering, MANY, count, fact, list};
use crate::analyze::artifact::File;
use crate::analyze::explanation::{Fact, FactKind, Form, Source};
use crate::analyze::formats::fds;
use crate::analyze::formats::sockets::{End, Line, Row};
use crate::analyze::names::Name;
use crate::model::TcpState;

/// Ports of one file that are kept. There are 65,536.
const MOST_PORTS: usize = 100_000;

/// The sockets of one file in one state, at one broker's end or at the other end.
#[derive(Default)]
struct Tally {
    sockets: u64,
    with_bytes: u64,
    bytes: u64,
    /// Brokers on the host at the other end.
    hosts: BTreeSet<Name>,
}

/// A port, and the program and the process with the socket.
type PortOf<'a> = (&'a str, Option<&'a str>, Option<u32>);

/// What one file shows of sockets.
#[derive(Default)]
struct Seen<'a> {
    /// By broker, whether the socket is at the broker's own end, and state.
    of_brokers: BTreeMap<(Name, bool, TcpState), Tally>,
    /// In CLOSE_WAIT with neither end known as a broker's, by the own port.
    by_own_port: BTreeMap<PortOf<'a>, Tally>,
    /// The same, by the port of the other side.
    by_peer_port: BTreeMap<PortOf<'a>, Tally>,
    /// Sockets whose addresses are unreadable, by state.
    without_address: BTreeMap<TcpState, u64>,
    without_state: u64,
    /// Those that `uniq -c` or awk counted, by state and port.
    counted: BTreeMap<(TcpState, &'a str), u64>,
    summary: Option<(u64, u64)>,
}

impl Tally {
    fn add(&mut self, row: &Row<'_>, bytes: u64) {
        self.sockets = self.sockets.saturating_add(row.times);
        let with_bytes = if bytes > 0 { row.times } else { 0 };
        self.with_bytes = self.with_bytes.saturating_add(with_bytes);
        self.bytes = self.bytes.saturating_add(bytes.saturating_mul(row.times));
    }

    /// Connections of one port that nobody reads and closes. Those of a client have a port each.
    fn is_pile(&self) -> bool {
        self.sockets >= MANY || (self.sockets > 1 && self.with_bytes > 0)
    }

    fn figures(&self) -> [(&'static str, u64); 3] {
        [
            ("connections", self.sockets),
            ("with_bytes", self.with_bytes),
            ("bytes", self.bytes),
        ]
    }

    fn unread(&self) -> String {
        match self.with_bytes {
            0 => String::new(),
            with_bytes => format!("; {with_bytes} with {} unread bytes", self.bytes),
        }
    }
}

impl Gathering<'_> {
    pub(super) fn sockets(&mut self, file: &File<'_>, owner: Option<&Name>) {
        if !file.is(Form::Sockets) {
            return;
        }
        let seen = self.seen(file);
        let has_piles = self.piles(file, owner, &seen);
        let partly = unnumbered(file, &seen);
        if seen.of_brokers.is_empty() && !has_piles && partly.is_empty() {
            let text = "none of these sockets uses a port that is known as a broker's";
            let fact = fact(FactKind::SocketsOfNoBroker, file, text, &[]);
            self.add(None, fact.alone());
        }
        for fact in partly {
            self.add(owner, fact.alone());
        }
        for ((name, own_end, state), tally) in seen.of_brokers {
            if !own_end && state == TcpState::CloseWait && tally.sockets >= MANY {
                let client = match tally.hosts.is_empty() {
                    true => "the client".to_owned(),
                    false => format!("a process on the host of broker {}", list(&tally.hosts)),
                };
                self.leak(file, &format!("broker {name}"), &client, &tally);
            }
            let Some((kind, against, text)) = tally.meaning(own_end, state) else {
                continue;
            };
            let signal = fact(kind, file, text, &tally.figures()).against(against);
            self.add(Some(&name), signal.affecting(tally.hosts));
        }
    }

    fn seen<'a>(&self, file: &File<'a>) -> Seen<'a> {
        let mut seen = Seen::default();
        let of_processes = file.socket_lines().filter_map(|line| match line {
            Line::Row(row) if !row.of_thread => Some(row.pid),
            _ => None,
        });
        let processes: BTreeSet<Option<u32>> = of_processes.collect();
        for line in file.socket_lines() {
            match line {
                // The process has it already.
                Line::Row(row) if row.of_thread && processes.contains(&row.pid) => {}
                Line::Row(row) => self.see(&row, &mut seen),
                Line::Count {
                    state,
                    number,
                    port,
                } => add(seen.counted.entry((state, port)).or_default(), number),
                Line::Summary { all, established } => seen.summary = Some((all, established)),
            }
        }
        seen
    }

    fn see<'a>(&self, row: &Row<'a>, seen: &mut Seen<'a>) {
        let at = |end: &End<'_>| self.names.at(end.address?);
        let own = at(&row.local);
        let Some(state) = row.state else {
            add(&mut seen.without_state, row.times);
            return;
        };
        if let Some(name) = own.or_else(|| at(&row.peer)) {
            let tally = seen
                .of_brokers
                .entry((name.clone(), own.is_some(), state))
                .or_default();
            let bytes = match (own, state) {
                // The peer's FIN counts 1.
                (_, TcpState::CloseWait) => row.receive_queue.saturating_sub(1),
                (Some(_), _) => row.receive_queue,
                (None, _) => row.send_queue,
            };
            tally.add(row, bytes);
            if let (None, Some(local)) = (own, row.local.address) {
                let host = self.names.on_host(local.ip());
                tally.hosts.extend(host.map(|(host, _)| host.clone()));
            }
            return;
        }
        if row.local.address.is_none() || row.peer.address.is_none() {
            add(seen.without_address.entry(state).or_default(), row.times);
        }
        if state == TcpState::CloseWait {
            let bytes = row.receive_queue.saturating_sub(1);
            for (piles, port) in [
                (&mut seen.by_own_port, row.local.port),
                (&mut seen.by_peer_port, row.peer.port),
            ] {
                let key = (port, row.program, row.pid);
                if piles.len() < MOST_PORTS && !port.is_empty() {
                    piles.entry(key).or_default().add(row, bytes);
                }
            }
        }
    }

    /// Connections in CLOSE_WAIT that are at no known address of a broker. Those to a server have one own port, those of a
    /// client one port of the other side. Returns whether there are any.
    fn piles(&mut self, file: &File<'_>, owner: Option<&Name>, seen: &Seen<'_>) -> bool {
        let of_servers = seen.by_own_port.iter().filter(|(_, tally)| tally.is_pile());
        let of_clients = seen
            .by_peer_port
            .iter()
            .filter(|(_, tally)| tally.sockets >= MANY);
        let is_any = of_servers
            .clone()
            .chain(of_clients.clone())
            .next()
            .is_some();
        for ((port, program, pid), tally) in of_servers {
            let mut text = format!(
                "{} in CLOSE_WAIT at port {port} of {}, closed by the other side but not by this process{}",
                count(tally.sockets, "connection"),
                process(*program, *pid),
                tally.unread(),
            );
            let may_be_broker = self.may_be_broker(owner, *program, *pid);
            if may_be_broker && owner.is_none() {
                text += "; a broker that does so is alive and does not work";
            }
            let mut figures = tally.figures().to_vec();
            figures.extend(port.parse().map(|port: u64| ("port", port)));
            let fact = fact(FactKind::CloseWaitAtPort, file, text, &figures);
            let against = (may_be_broker && owner.is_some()).then_some(Source::Own);
            self.add(owner, fact.against(against));
        }
        for ((port, program, pid), tally) in of_clients {
            let client = process(*program, *pid);
            self.leak(file, &format!("port {port}"), &client, tally);
        }
        is_any
    }

    /// Whether a process that is not known as a broker's may be the owner of the file.
    fn may_be_broker(&self, owner: Option<&Name>, program: Option<&str>, pid: Option<u32>) -> bool {
        let is_java = program.is_none_or(|program| program.starts_with("java"));
        // Where the broker's own process is known, another one is no broker, such as Kafka Connect beside it.
        let is_another = owner
            .zip(pid)
            .is_some_and(|(owner, pid)| self.names.is_another_process(owner, pid));
        is_java && !is_another
    }

    /// A client that does not close what the other side has closed.
    fn leak(&mut self, file: &File<'_>, towards: &str, client: &str, tally: &Tally) {
        let text = format!(
            "{} to {towards} in CLOSE_WAIT: closed there but not by {client}, whose own leak that is; it is no fault of the other side{}",
            count(tally.sockets, "connection"),
            tally.unread(),
        );
        let fact = fact(FactKind::ClientLeak, file, text, &tally.figures());
        self.add(None, fact.alone());
    }

    /// `limit`: how many file handles its broker may have.
    pub(super) fn fds(&mut self, file: &File<'_>, owner: Option<&Name>, limit: Option<u64>) {
        if !file.is(Form::Fds) {
            return;
        }
        let (mut all, mut sockets, mut untracked) = (0, 0, 0);
        // `lsof` may print those of other processes as well, which share no limit.
        let mut by_process: BTreeMap<Option<u32>, u64> = BTreeMap::new();
        let of_processes = fds::fds(file.text).filter(|fd| !fd.of_thread);
        let processes: BTreeSet<Option<u32>> = of_processes.map(|fd| fd.pid).collect();
        for fd in fds::fds(file.text) {
            if fd.of_thread && processes.contains(&fd.pid) {
                continue;
            }
            all += 1;
            *by_process.entry(fd.pid).or_default() += 1;
            sockets += u64::from(fd.socket);
            untracked += u64::from(fd.untracked);
        }
        let mut text = format!("{all} open file handles, {sockets} of them sockets");
        if untracked > 0 {
            let _ = write!(
                text,
                "; {untracked} of those are in no table of the kernel any more"
            );
        }
        let figures = [
            ("handles", all),
            ("sockets", sockets),
            ("untracked", untracked),
        ];
        let most = by_process.into_values().max().unwrap_or(0);
        let is_full = limit.is_some_and(|limit| most >= limit - limit / 10);
        if let Some(limit) = limit.filter(|_| is_full) {
            let _ = write!(
                text,
                "; at most {limit} are allowed: beyond that it opens no file and accepts no connection"
            );
        }
        let against = (untracked >= MANY || is_full).then_some(Source::Own);
        let fact = fact(FactKind::Handles, file, text, &figures);
        self.add(owner, fact.against(against));
    }
}

impl Tally {
    /// The fact that it is, which view it gives against the broker, and the text; None for what is ordinary.
    fn meaning(
        &self,
        own_end: bool,
        state: TcpState,
    ) -> Option<(FactKind, Option<Source>, String)> {
        let Tally {
            sockets,
            with_bytes,
            bytes,
            hosts,
        } = self;
        let connections = count(*sockets, "connection");
        let towards_it = if hosts.is_empty() {
            format!("{connections} to it")
        } else {
            format!("{connections} of broker {} to it", list(hosts))
        };
        let unread = *with_bytes > 0;
        Some(match (own_end, state) {
            (true, TcpState::CloseWait) => {
                let text = format!(
                    "{connections} in CLOSE_WAIT, closed by the other side but not by the broker{}",
                    self.unread()
                );
                let against = (unread || *sockets >= MANY).then_some(Source::Own);
                (FactKind::CloseWait, against, text)
            }
            (true, TcpState::Established) if unread => {
                let text = format!(
                    "{with_bytes} of {sockets} established connections hold {bytes} unread bytes"
                );
                (FactKind::Unread, None, text)
            }
            (true, TcpState::Listen) if *bytes > 0 => {
                let text = format!("{bytes} connections wait to be accepted");
                (FactKind::AcceptQueue, None, text)
            }
            (false, TcpState::FinWait1) if unread => {
                let text =
                    format!("{towards_it} in FIN_WAIT1, with {bytes} bytes that it does not take");
                (FactKind::FinWait1TowardsIt, Some(Source::Peers), text)
            }
            (false, TcpState::FinWait2) => {
                let text = format!(
                    "{towards_it} in FIN_WAIT2: closed by the other side but not by the broker"
                );
                (FactKind::FinWait2TowardsIt, None, text)
            }
            _ => return None,
        })
    }
}

/// Numbers of `uniq -c` and awk are any numbers.
fn add(sum: &mut u64, number: u64) {
    *sum = sum.saturating_add(number);
}

fn sum<'a>(numbers: impl Iterator<Item = &'a u64>) -> u64 {
    numbers.fold(0, |sum, number| sum.saturating_add(*number))
}

fn process(program: Option<&str>, pid: Option<u32>) -> String {
    match (program, pid) {
        (Some(program), Some(pid)) => format!("{program} (process {pid})"),
        (None, Some(pid)) => format!("process {pid}"),
        _ => "a process that is not shown".to_owned(),
    }
}

/// What can be said of sockets of which the tool printed only a part.
fn unnumbered(file: &File<'_>, seen: &Seen<'_>) -> Vec<Fact> {
    const REMEDY: &str = "`ss -tanp` or `netstat -antp` prints all of it";
    let by_state = |states: &BTreeMap<TcpState, u64>| {
        list(
            states
                .iter()
                .map(|(state, number)| format!("{number} {}", printed(*state))),
        )
    };
    let mut facts = Vec::new();
    if !seen.without_address.is_empty() {
        let all = sum(seen.without_address.values());
        let text = format!(
            "{} without numeric addresses ({}), of which it is not known whether they are a broker's; {REMEDY}",
            count(all, "socket"),
            by_state(&seen.without_address)
        );
        let closing = seen.without_address.get(&TcpState::CloseWait);
        let figures = [
            ("sockets", all),
            ("close_wait", closing.copied().unwrap_or(0)),
        ];
        facts.push(fact(FactKind::SocketsWithoutAddress, file, text, &figures));
    }
    if seen.without_state > 0 {
        let text = format!(
            "{} in a table without the column State; {REMEDY}",
            count(seen.without_state, "socket")
        );
        let figures = [("sockets", seen.without_state)];
        facts.push(fact(FactKind::SocketsWithoutState, file, text, &figures));
    }
    if !seen.counted.is_empty() {
        let mut states: BTreeMap<TcpState, u64> = BTreeMap::new();
        for ((state, _), number) in &seen.counted {
            add(states.entry(*state).or_default(), *number);
        }
        // Those of clients have a port each.
        let is_pile =
            |((_, port), number): &(&(TcpState, &str), &u64)| **number >= MANY && !port.is_empty();
        let piles = seen.counted.iter().filter(is_pile);
        let piles = piles.map(|((state, port), number)| {
            format!("; {number} {} at port {port}", printed(*state))
        });
        let text = format!(
            "only counts of sockets: {}{}; {REMEDY}",
            by_state(&states),
            piles.collect::<String>(),
        );
        let closing = states.get(&TcpState::CloseWait);
        let figures = [
            ("sockets", sum(states.values())),
            ("close_wait", closing.copied().unwrap_or(0)),
        ];
        facts.push(fact(FactKind::SocketCounts, file, text, &figures));
    }
    if let Some((all, established)) = seen.summary {
        let text = format!(
            "only a summary: {all} TCP sockets, {established} established; `ss -s` does not count CLOSE_WAIT, {REMEDY}"
        );
        let figures = [("sockets", all), ("established", established)];
        facts.push(fact(FactKind::SocketCounts, file, text, &figures));
    }
    facts
}

/// `CLOSE_WAIT`, as the tools print it.
fn printed(state: TcpState) -> String {
    state.name().to_ascii_uppercase()
}
