//! Which broker a file or an address belongs to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::artifact::File;
use super::bundle::{Bundle, Found};
use super::explanation::{Address, By, Form};
use super::formats::sockets::Socket;
use super::formats::{fds, sockets, topics};
use super::ids::own_id;
use crate::discover::properties;

/// Limit of each collection here. No cluster has more brokers; what hostile text names beyond it is left out.
const MOST: usize = 1_000;

const KAFKA_PORT: u16 = 9092;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    Id(i32),
    /// A broker whose id is in no file.
    At(SocketAddr),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Id(id) => id.fmt(f),
            Name::At(address) => address.fmt(f),
        }
    }
}

/// The broker that a file is about, where anything shows it.
pub(super) type Owner = Option<(Name, By)>;

/// The brokers that the files name.
#[derive(Debug, Default)]
pub(super) struct Names {
    ids: BTreeSet<i32>,
    /// Those that have replicas of partitions.
    with_replicas: BTreeSet<i32>,
    addresses: BTreeMap<SocketAddr, (Name, By)>,
    /// Processes of sockets, and log directories, each with its broker; None where several brokers have it.
    pids: BTreeMap<u32, Option<Name>>,
    log_dirs: BTreeMap<String, Option<Name>>,
}

/// One id, where there is exactly one.
fn only(ids: &BTreeSet<i32>) -> Option<i32> {
    ids.first().copied().filter(|_| ids.len() == 1)
}

impl Names {
    pub(super) fn learn(files: &[File<'_>], bundles: &[Bundle<'_>]) -> Names {
        let mut names = Names::default();
        names.add_ids(bundles.iter().filter_map(Bundle::id));
        let mut ports = BTreeSet::new();
        for file in files {
            let replicas = file.partitions().flat_map(|row| topics::ids(row.replicas));
            for id in replicas {
                if names.with_replicas.len() < MOST {
                    names.with_replicas.insert(id);
                }
            }
            names.add_ids(file.partitions().filter_map(|row| row.leader));
            let found = file.found.as_ref().and_then(Found::id);
            names.add_ids(file.dump_ids.iter().copied().chain(found));
            names.cluster(file, &mut ports);
            if let Some(log) = &file.log {
                let others = log
                    .disconnects
                    .keys()
                    .chain(log.addresses.values())
                    .chain(&log.ids);
                names.add_ids(others.copied());
                names.settings(only(&log.ids), log.listeners, log.log_dirs, &mut ports);
                log.addresses
                    .iter()
                    .for_each(|(address, id)| names.locate(*address, Name::Id(*id), By::Content));
            }
            if let Some(settings) = &file.properties {
                let id = own_id(settings);
                names.add_ids(id.into_iter());
                let dirs = settings.get("log.dirs").or(settings.get("log.dir"));
                for key in ["listeners", "advertised.listeners"] {
                    names.settings(id, settings.get(key), dirs, &mut ports);
                }
            }
        }
        names.add_ids(names.with_replicas.clone().into_iter());
        ports.extend(names.addresses.keys().map(SocketAddr::port));
        if ports.is_empty() {
            ports.insert(KAFKA_PORT);
        }
        names.learn_sockets(files, &ports);
        names
    }

    /// Learns from what the cluster says of its brokers.
    fn cluster(&mut self, file: &File<'_>, ports: &mut BTreeSet<u16>) {
        if let Some(found) = &file.registrations {
            self.add_ids(found.ids().chain(found.controller));
            self.add_ids(found.absent.iter().chain(&found.gone).copied());
            for (id, endpoints) in &found.nodes {
                self.settings(Some(*id), Some(&endpoints.join(",")), None, ports);
            }
        }
        if let Some(quorum) = &file.quorum {
            // A voter that is well may be a controller alone.
            let late = quorum.replicas.iter().filter(|replica| replica.lag > 0);
            let late = late.map(|replica| replica.id);
            self.add_ids(quorum.observers.iter().copied().chain(late));
        }
        let brokers = file.log_dirs.iter().flat_map(|found| &found.brokers);
        self.add_ids(brokers.map(|dirs| dirs.broker));
        let brokers = file.metadata.iter().flat_map(|log| &log.brokers);
        for (id, state) in brokers {
            self.add_ids([*id].into_iter());
            let endpoint = state.endpoint.as_ref();
            let endpoint = endpoint.map(|(host, port)| format!("PLAINTEXT://{host}:{port}"));
            self.settings(Some(*id), endpoint.as_deref(), None, ports);
        }
    }

    fn add_ids(&mut self, ids: impl Iterator<Item = i32>) {
        for id in ids {
            if self.ids.len() < MOST {
                self.ids.insert(id);
            }
        }
    }

    fn locate(&mut self, address: SocketAddr, name: Name, by: By) {
        if self.addresses.len() < MOST {
            self.addresses.entry(address).or_insert((name, by));
        }
    }

    /// Learns from a broker's settings.
    fn settings(
        &mut self,
        id: Option<i32>,
        listeners: Option<&str>,
        dirs: Option<&str>,
        ports: &mut BTreeSet<u16>,
    ) {
        let addresses = listeners.into_iter().flat_map(properties::list);
        for address in addresses.filter_map(|entry| sockets::address(entry.split_once("://")?.1)) {
            ports.insert(address.port());
            if let Some(id) = id.filter(|_| !address.ip().is_unspecified()) {
                self.locate(address, Name::Id(id), By::Content);
            }
        }
        for dir in dirs.into_iter().flat_map(properties::list) {
            if let Some(id) = id {
                one_of(&mut self.log_dirs, dir.to_owned(), Name::Id(id));
            }
        }
    }

    /// Addresses of brokers, by their ports, and the processes behind them.
    fn learn_sockets(&mut self, files: &[File<'_>], ports: &BTreeSet<u16>) {
        let with_sockets = || files.iter().filter(|file| file.is(Form::Sockets));
        // With the ids in the names of files that show it as the own end of a connection.
        let mut unknown: BTreeMap<SocketAddr, BTreeSet<i32>> = BTreeMap::new();
        for file in with_sockets() {
            let hint = self.hint_of(file).map(|(id, _)| id);
            for Socket { local, peer, .. } in file.sockets() {
                for (address, hint) in [(local, hint), (peer, None)] {
                    let serves = ports.contains(&address.port()) && !address.ip().is_unspecified();
                    if serves && !self.addresses.contains_key(&address) && unknown.len() < MOST {
                        unknown.entry(address).or_default().extend(hint);
                    }
                }
            }
        }
        let last_part_is_id = |(address, (name, _)): (&SocketAddr, &(Name, By))| {
            last_part(address.ip()).is_none_or(|part| Name::Id(part) == *name)
        };
        let by_last_part = self.addresses.iter().all(last_part_is_id);
        let located: BTreeSet<Name> = self
            .addresses
            .values()
            .map(|(name, _)| name.clone())
            .collect();
        for (address, hints) in unknown {
            let part =
                last_part(address.ip()).filter(|part| by_last_part && self.ids.contains(part));
            let guesses = [(part, By::LastPartOfAddress), (only(&hints), By::FileName)];
            let guesses = guesses
                .into_iter()
                .filter_map(|(id, by)| Some((Name::Id(id?), by)));
            let guess = guesses
                .into_iter()
                .find(|(name, _)| !located.contains(name));
            let (name, by) = guess.unwrap_or((Name::At(address), By::Content));
            self.locate(address, name, by);
        }
        for socket in with_sockets().flat_map(File::sockets) {
            if let (Some((name, _)), Some(pid)) = (self.addresses.get(&socket.local), socket.pid) {
                one_of(&mut self.pids, pid, name.clone());
            }
        }
    }

    pub(super) fn all(&self) -> BTreeSet<Name> {
        self.ids
            .iter()
            .copied()
            .map(Name::Id)
            .chain(self.addresses.values().map(|(name, _)| name.clone()))
            .collect()
    }

    pub(super) fn at(&self, address: SocketAddr) -> Option<&Name> {
        self.addresses.get(&address).map(|(name, _)| name)
    }

    /// Whether the processes of a broker are known and this is none of them.
    pub(super) fn is_another_process(&self, broker: &Name, pid: u32) -> bool {
        let is_its = |owner: &Option<Name>| owner.as_ref() == Some(broker);
        self.pids.values().any(is_its) && !self.pids.get(&pid).is_some_and(is_its)
    }

    /// The ids of brokers that have replicas.
    pub(super) fn with_replicas(&self) -> &BTreeSet<i32> {
        &self.with_replicas
    }

    pub(super) fn addresses(&self, name: &Name) -> Vec<Address> {
        let own = self
            .addresses
            .iter()
            .filter(|(_, (owner, _))| owner == name);
        own.map(|(address, (_, by))| Address {
            address: address.to_string(),
            by: *by,
        })
        .collect()
    }

    /// The broker that a file is about. `in_manifest` is the id in the manifest of the file's bundle.
    pub(super) fn owner(&self, file: &File<'_>, in_manifest: Option<i32>) -> Owner {
        let in_log = file.log.as_ref().map(|log| &log.ids);
        let ids = in_log
            .into_iter()
            .chain([&file.dump_ids])
            .flatten()
            .copied();
        let stated = [
            file.properties.as_ref().and_then(own_id),
            file.found.as_ref().and_then(Found::id),
        ];
        let ids: BTreeSet<i32> = ids.chain(stated.into_iter().flatten()).collect();
        if !ids.is_empty() {
            return Some((Name::Id(only(&ids)?), By::Content));
        }
        let by_content = match () {
            () if file.is(Form::Sockets) => self.by_sockets(file),
            () => None,
        };
        let by_fds = || {
            let fds = file.is(Form::Fds).then_some(file.text);
            Some((self.by_fds(fds?)?, By::Content))
        };
        let by_manifest = || Some((Name::Id(in_manifest?), By::Manifest));
        let of_one_broker = [
            Form::Sockets,
            Form::Fds,
            Form::BrokerLog,
            Form::Limits,
            Form::Top,
        ];
        let by_file_name = || {
            let (id, by) = self.hint_of(file)?;
            // Of a dump the name counts only if a broker's threads are in it: applications number their files as well.
            let is_one = file.dump_of_node || of_one_broker.into_iter().any(|form| file.is(form));
            is_one.then_some((Name::Id(id), by))
        };
        by_content
            .or_else(by_fds)
            .or_else(by_manifest)
            .or_else(by_file_name)
    }

    /// The one broker that is the local end of the sockets, else the one on their host.
    fn by_sockets(&self, file: &File<'_>) -> Option<(Name, By)> {
        let serving = file
            .sockets()
            .filter_map(|socket| self.addresses.get(&socket.local));
        let on_host = file
            .sockets()
            .filter_map(|socket| self.on_host(socket.local.ip()));
        the_one(serving).or_else(|| the_one(on_host)).cloned()
    }

    /// The one broker with an address on this host.
    pub(super) fn on_host(&self, ip: IpAddr) -> Option<&(Name, By)> {
        the_one(
            self.addresses
                .iter()
                .filter(|(address, _)| address.ip() == ip)
                .map(|(_, owner)| owner),
        )
    }

    /// By the directories of its logs, its process or its own address.
    fn by_fds(&self, text: &str) -> Option<Name> {
        let mut owners = BTreeSet::new();
        for fd in fds::fds(text) {
            let dir = |path: &str| {
                let inside = |dir: &str| {
                    path.strip_prefix(dir)
                        .is_some_and(|rest| rest.starts_with('/'))
                };
                self.log_dirs
                    .iter()
                    .find(|(dir, _)| inside(dir.trim_end_matches('/')))
                    .map(|(_, owner)| owner)
            };
            let owner = fd.path.and_then(dir).or_else(|| self.pids.get(&fd.pid?));
            let owner = owner
                .and_then(Option::as_ref)
                .or_else(|| self.at(fd.local?));
            owners.extend(owner.cloned());
        }
        owners.pop_first().filter(|_| owners.is_empty())
    }

    /// The id in the name of its container, else of the file.
    fn hint_of(&self, file: &File<'_>) -> Option<(i32, By)> {
        let of_container = file.container.and_then(|name| self.hint(name));
        let of_file = || Some((self.hint(file.source)?, By::FileName));
        of_container.map(|id| (id, By::Container)).or_else(of_file)
    }

    /// The one known id in the name of a file or of its folder: after the word broker, as in
    /// `2026-11-22T10-14-02Z-broker-219`, else anywhere, as in `217-server.log`. `0.10.1.0` contains none.
    fn hint(&self, source: &str) -> Option<i32> {
        let ids = |part: &str| -> BTreeSet<i32> {
            let words = part.split(|c: char| !c.is_ascii_digit() && c != '.');
            let numbers = words
                .map(|word| word.trim_matches('.'))
                .filter_map(|word| word.parse().ok());
            numbers.filter(|id| self.ids.contains(id)).collect()
        };
        let parts = || source.rsplit('/').take(2);
        let after_broker = parts().filter_map(|part| Some(part.rsplit_once("broker")?.1));
        after_broker
            .chain(parts())
            .map(ids)
            .find(|ids| !ids.is_empty())
            .and_then(|ids| only(&ids))
    }
}

/// The last number of an IPv4 address.
fn last_part(ip: IpAddr) -> Option<i32> {
    match ip {
        IpAddr::V4(ip) => Some(ip.octets()[3].into()),
        IpAddr::V6(_) => None,
    }
}

/// Keeps what belongs to one broker; what belongs to several becomes None.
fn one_of<K: Ord>(map: &mut BTreeMap<K, Option<Name>>, key: K, name: Name) {
    if map.len() < MOST {
        map.entry(key)
            .and_modify(|kept| *kept = kept.take().filter(|kept| *kept == name))
            .or_insert(Some(name));
    }
}

/// The first, where all are of the same broker.
fn the_one<'a>(mut owners: impl Iterator<Item = &'a (Name, By)>) -> Option<&'a (Name, By)> {
    let first = owners.next()?;
    owners.all(|(name, _)| *name == first.0).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::ids::id_of_thread;

    #[test]
    fn ids_in_names_of_files() {
        let names = Names {
            ids: BTreeSet::from([1, 2, 219]),
            ..Names::default()
        };
        let table = [
            ("logs/219-server.log", Some(219)),
            ("broker2.log", Some(2)),
            ("broker2.log.1", None),
            (
                "2026-11-02T10-14-02Z-broker-219/thread-dump-1.txt",
                Some(219),
            ),
            ("host-219/jstack.txt", Some(219)),
            ("219/deeper/jstack.txt", None),
            ("incident-2.1.0/jstack.txt", None),
            ("netstat-219-grep-2.txt", None),
            ("218.txt", None),
        ];
        for (source, id) in table {
            assert_eq!(names.hint(source), id, "{source}");
        }
    }

    #[test]
    fn ids_in_names_of_threads() {
        // As 0.10.1.0, 2.8.2 and 4.3.0 name them.
        let table = [
            ("kafka-network-thread-2-PLAINTEXT-0", Some(2)),
            (
                "data-plane-kafka-network-thread-1-ListenerName(PLAINTEXT)-PLAINTEXT-0",
                Some(1),
            ),
            ("ExpirationReaper-2", Some(2)),
            ("ExpirationReaper-219-AlterAcls", Some(219)),
            ("ReplicaFetcherThread-0-3", None),
            // 0.8: the port, and the thread's number.
            ("kafka-network-thread-9092-2", None),
            ("kafka-request-handler-4", None),
        ];
        for (thread, id) in table {
            assert_eq!(id_of_thread(thread), id, "{thread}");
        }
    }
}
