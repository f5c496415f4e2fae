//! What tables of sockets and of open file descriptors show.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::gathering::{Gathering, MANY, count, fact, list};
use crate::analyze::artifact::File;
use crate::analyze::explanation::{FactKind, Form, Source};
use crate::analyze::formats::{fds, sockets};
use crate::analyze::names::Name;
use crate::model::TcpState;

/// The sockets of one file in one state, at one broker's end or at the other end.
#[derive(Default)]
struct Tally {
    sockets: u64,
    with_bytes: u64,
    bytes: u64,
    /// Brokers on the host at the other end.
    hosts: BTreeSet<Name>,
}

impl Gathering<'_> {
    pub(super) fn sockets(&mut self, file: &File<'_>) {
        if !file.is(Form::Sockets) {
            return;
        }
        let tallies = self.tallies(file);
        if tallies.is_empty() {
            let text = "none of these sockets uses a port that is known as a broker's";
            let fact = fact(FactKind::SocketsOfNoBroker, file, text, &[]);
            self.add(None, fact.alone());
        }
        for ((name, own_end, state), tally) in tallies {
            let Some((kind, against, text)) = tally.meaning(own_end, state) else {
                continue;
            };
            let figures = [
                ("connections", tally.sockets),
                ("with_bytes", tally.with_bytes),
                ("bytes", tally.bytes),
            ];
            let signal = fact(kind, file, text, &figures).against(against);
            self.add(Some(&name), signal.affecting(tally.hosts));
        }
    }

    /// By broker, whether the socket is at the broker's own end, and state.
    fn tallies(&self, file: &File<'_>) -> BTreeMap<(Name, bool, TcpState), Tally> {
        let mut tallies: BTreeMap<_, Tally> = BTreeMap::new();
        for socket in sockets::sockets(file.text) {
            let own = self.names.at(socket.local);
            let Some(name) = own.or_else(|| self.names.at(socket.peer)) else {
                continue;
            };
            let key = (name.clone(), own.is_some(), socket.state);
            let tally = tallies.entry(key).or_default();
            let bytes = match (own, socket.state) {
                // The peer's FIN counts 1.
                (Some(_), TcpState::CloseWait) => socket.receive_queue.saturating_sub(1),
                (Some(_), _) => socket.receive_queue,
                (None, _) => socket.send_queue,
            };
            tally.sockets += 1;
            tally.with_bytes += u64::from(bytes > 0);
            tally.bytes = tally.bytes.saturating_add(bytes);
            if own.is_none() {
                let host = self.names.on_host(socket.local.ip());
                tally.hosts.extend(host.map(|(host, _)| host.clone()));
            }
        }
        tallies
    }

    pub(super) fn fds(&mut self, file: &File<'_>, owner: Option<&Name>) {
        if !file.is(Form::Fds) {
            return;
        }
        let (mut all, mut sockets, mut untracked) = (0, 0, 0);
        for fd in fds::fds(file.text) {
            all += 1;
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
        let against = (untracked >= MANY).then_some(Source::Own);
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
                let mut text = format!(
                    "{connections} in CLOSE_WAIT, closed by the other side but not by the broker"
                );
                if unread {
                    let _ = write!(text, "; {with_bytes} with {bytes} unread bytes");
                }
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
