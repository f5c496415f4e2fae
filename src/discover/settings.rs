//! What the settings in `server.properties` mean, with Kafka's defaults. Pure: no file is read here.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::properties::{self, MOST_ENTRIES, Properties};
use crate::model::{Broker, Features, Listener, Mode, Role, SecurityProtocol};

/// Fills in what `server.properties` and Kafka's defaults say. What they leave open becomes a line of `problems`.
pub fn interpret(properties: &Properties, broker: &mut Broker) {
    let mut problems = Vec::new();
    // For a value from a config provider not even the default holds.
    let mut provided = BTreeSet::new();
    let known = |key: &'static str| {
        properties
            .get(key)
            .filter(|value| !properties::comes_from_provider(value))
    };
    for key in KEYS {
        if known(key).is_none() && properties.get(key).is_some() {
            provided.insert(key);
            problems.push(format!(
                "{key} comes from a config provider, which is not asked: see the broker's log"
            ));
        }
    }

    for key in ["node.id", "broker.id"] {
        match known(key).map(str::parse::<i32>) {
            Some(Ok(id)) if id >= 0 => broker.id = broker.id.or(Some(id)),
            Some(Err(_)) => problems.push(format!(
                "{key} in server.properties is no number that an id can be"
            )),
            _ => {}
        }
    }

    let zookeeper = known("zookeeper.connect");
    broker.mode = match (known("process.roles"), zookeeper) {
        _ if provided.contains("process.roles") => None,
        (Some(roles), _) => {
            broker.roles = properties::list(roles).filter_map(role).collect();
            Some(Mode::KRaft)
        }
        (None, Some(_)) => Some(Mode::ZooKeeper),
        (None, None) => None,
    };
    match broker.mode {
        Some(Mode::ZooKeeper) => broker.roles = BTreeSet::from([Role::Broker]),
        Some(Mode::KRaft) => {}
        None => problems.push(
            "mode unknown: server.properties has neither process.roles nor zookeeper.connect"
                .into(),
        ),
    }
    (broker.zookeeper, broker.zookeeper_root) =
        zookeeper.map(zookeeper_servers).unwrap_or_default();
    // TLS needs Netty, which is used for nothing else.
    let netty = known("zookeeper.clientCnxnSocket").is_some_and(|class| class.contains("Netty"));
    let tls =
        known("zookeeper.ssl.client.enable").is_some_and(|on| on.eq_ignore_ascii_case("true"));
    broker.zookeeper_tls = netty || tls;

    if !provided.contains("log.dirs") && !provided.contains("log.dir") {
        let dirs = known("log.dirs")
            .or(known("log.dir"))
            .unwrap_or("/tmp/kafka-logs");
        broker.log_dirs = properties::list(dirs)
            .take(MOST_ENTRIES)
            .map(PathBuf::from)
            .collect();
    }

    if broker.mode == Some(Mode::KRaft) && !provided.contains("metadata.log.dir") {
        let named = known("metadata.log.dir").map(PathBuf::from);
        broker.metadata_log_dir = named.or_else(|| broker.log_dirs.first().cloned());
    }
    if !provided.contains("min.insync.replicas") {
        let number = known("min.insync.replicas").map_or(Ok(1), str::parse::<u32>);
        if number.is_err() {
            problems.push("min.insync.replicas in server.properties is no number".into());
        }
        broker.min_insync_replicas = number.ok();
    }

    // Before 3.0 host.name and port stood for a PLAINTEXT listener where `listeners` was not set.
    let old = broker.release().is_none_or(|release| release < (3, 0));
    let pair = |host: &'static str, port: &'static str| match (known(host), known(port)) {
        (None, None) => None,
        (host, port) => Some((host.unwrap_or_default(), port)),
    };
    let plain = pair("host.name", "port").filter(|_| old);
    let protocols = Protocols::of(
        known("listener.security.protocol.map"),
        known("controller.listener.names"),
    );
    let listeners = match (known("listeners"), plain) {
        _ if provided.contains("listeners") => None,
        (Some(listeners), _) => Some(listeners.to_owned()),
        (None, Some((host, port))) => {
            Some(format!("PLAINTEXT://{host}:{}", port.unwrap_or("9092")))
        }
        (None, None) => Some("PLAINTEXT://:9092".to_owned()),
    };
    broker.listeners = listeners
        .map(|text| protocols.listeners("listeners", &text, &mut problems))
        .unwrap_or_default();
    if let Some(advertised) = known("advertised.listeners") {
        // What is wrong in it concerns clients alone.
        for one in protocols.listeners("advertised.listeners", advertised, &mut Vec::new()) {
            let mut listeners = broker.listeners.iter_mut();
            if let Some(listener) = listeners.find(|listener| listener.name == one.name) {
                listener.advertised = one.host;
            }
        }
    }
    broker.inter_broker_listener = Some(inter_broker_listener(properties));
    broker.features = features(known, &provided, broker.log_dirs.len());
    broker.problems.append(&mut problems);
}

/// What is switched on, with Kafka's defaults. None where a config provider has the value.
fn features<'p>(
    known: impl Fn(&'static str) -> Option<&'p str>,
    provided: &BTreeSet<&str>,
    log_dirs: usize,
) -> Features {
    let is_known = |key| !provided.contains(key);
    let value = |key| is_known(key).then(|| known(key).unwrap_or_default());
    let is_on = |key| value(key).map(|text| text.eq_ignore_ascii_case("true"));
    let is_positive = |key| value(key).map(|text| text.parse().is_ok_and(|n: i64| n > 0));
    let has_protocol = |protocol: &str| {
        let protocols = value("group.coordinator.rebalance.protocols")?;
        Some(properties::list(protocols).any(|one| one.eq_ignore_ascii_case(protocol)))
    };
    let either = |one: Option<bool>, other: Option<bool>| match (one, other) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    };
    let metadata_manager = value("remote.log.metadata.manager.class.name");
    Features {
        request_memory_bounded: is_positive("queued.max.request.bytes"),
        reauthentication: is_positive(REAUTHENTICATION),
        several_log_dirs: (is_known("log.dirs") && is_known("log.dir")).then_some(log_dirs > 1),
        tiered_storage: is_on("remote.log.storage.system.enable"),
        remote_metadata_in_topic: metadata_manager.map(|class| {
            class.is_empty() || class.ends_with(".TopicBasedRemoteLogMetadataManager")
        }),
        new_group_coordinator: either(
            is_on("group.coordinator.new.enable"),
            has_protocol("consumer"),
        ),
        share_groups: either(is_on("group.share.enable"), has_protocol("share")),
    }
}

const REAUTHENTICATION: &str = "connections.max.reauth.ms";

/// Whether `key` is read. Other keys are dropped at once, because their values may be passwords.
pub(super) fn is_read(key: &str) -> bool {
    KEYS.contains(&key) || is_reauthentication_of_listener(key)
}

/// Drops what is not read. The listeners' own times of re-authentication become one for all: any that is set is enough.
pub(super) fn only_read(mut properties: Properties) -> Properties {
    let of_listeners = || {
        let pairs = properties.iter();
        pairs.filter(|(key, _)| is_reauthentication_of_listener(key))
    };
    let expires = of_listeners()
        .find(|(_, value)| value.trim().parse().is_ok_and(|n: i64| n > 0))
        .or_else(|| of_listeners().find(|(_, value)| properties::comes_from_provider(value)));
    if let Some(value) = expires.map(|(_, value)| value.to_owned()) {
        properties.set(REAUTHENTICATION, value);
    }
    properties.only(&KEYS)
}

/// `listener.name.external.plain.connections.max.reauth.ms`
fn is_reauthentication_of_listener(key: &str) -> bool {
    let of_listener = key.strip_prefix("listener.name.");
    of_listener
        .and_then(|rest| rest.strip_suffix(REAUTHENTICATION))
        .is_some_and(|between| between.ends_with('.'))
}

const KEYS: [&str; 25] = [
    "broker.id",
    "node.id",
    "process.roles",
    "zookeeper.connect",
    "zookeeper.ssl.client.enable",
    "zookeeper.clientCnxnSocket",
    "log.dirs",
    "log.dir",
    "metadata.log.dir",
    "min.insync.replicas",
    "listeners",
    "advertised.listeners",
    "inter.broker.listener.name",
    "security.inter.broker.protocol",
    "host.name",
    "port",
    "listener.security.protocol.map",
    "controller.listener.names",
    REAUTHENTICATION,
    "queued.max.request.bytes",
    "remote.log.storage.system.enable",
    "remote.log.metadata.manager.class.name",
    "group.coordinator.new.enable",
    "group.coordinator.rebalance.protocols",
    "group.share.enable",
];

/// The name of the inter-broker listener, in upper case.
pub(super) fn inter_broker_listener(properties: &Properties) -> String {
    let name = properties.get("inter.broker.listener.name");
    let name = name.or(properties.get("security.inter.broker.protocol"));
    name.unwrap_or("PLAINTEXT").to_uppercase()
}

fn role(name: &str) -> Option<Role> {
    match name {
        "broker" => Some(Role::Broker),
        "controller" => Some(Role::Controller),
        _ => None,
    }
}

/// Returns `host:port` entries and the chroot, which follows the last entry. The default port is 2181.
fn zookeeper_servers(connect: &str) -> (Vec<String>, String) {
    let (servers, root) = connect.split_at(connect.find('/').unwrap_or(connect.len()));
    let with_port = |server: &str| {
        let has_port = server
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if has_port && !server.ends_with(']') {
            server.to_owned()
        } else {
            format!("{server}:2181")
        }
    };
    let servers = properties::list(servers)
        .take(MOST_ENTRIES)
        .map(with_port)
        .collect();
    (servers, root.trim_end_matches('/').to_owned())
}

/// Which protocol each listener speaks.
pub(super) struct Protocols {
    map: Vec<(String, Option<SecurityProtocol>)>,
    controllers: Vec<String>,
}

impl Protocols {
    pub(super) fn of(map: Option<&str>, controllers: Option<&str>) -> Protocols {
        let map = map
            .into_iter()
            .flat_map(properties::list)
            .filter_map(|entry| entry.split_once(':'));
        Protocols {
            map: map
                .map(|(name, protocol)| {
                    (name.trim().to_uppercase(), protocol_named(protocol.trim()))
                })
                .collect(),
            controllers: controllers
                .into_iter()
                .flat_map(properties::list)
                .map(str::to_uppercase)
                .collect(),
        }
    }

    fn listeners(&self, key: &str, text: &str, problems: &mut Vec<String>) -> Vec<Listener> {
        let mut listeners = Vec::new();
        for (number, entry) in (1..).zip(properties::list(text).take(MOST_ENTRIES)) {
            match self.listener(entry) {
                Some(Listener { port: 0, name, .. }) => problems
                    .push(format!("port of {name} unknown: {key} says 0, so the kernel chose one; set a fixed port")),
                Some(listener) => listeners.push(listener),
                None => problems.push(format!("entry {number} of {key} is not of the form NAME://HOST:PORT")),
            }
        }
        listeners
    }

    /// `name` is in upper case.
    pub(super) fn protocol(&self, name: &str) -> Option<SecurityProtocol> {
        match self.map.iter().find(|(known, _)| known == name) {
            Some((_, protocol)) => *protocol,
            // Without a map, Kafka gives every controller listener PLAINTEXT, whatever its name.
            None if self.map.is_empty() && self.controllers.iter().any(|one| one == name) => {
                protocol_named(name).or(Some(SecurityProtocol::Plaintext))
            }
            None => protocol_named(name),
        }
    }

    fn listener(&self, entry: &str) -> Option<Listener> {
        let (name, address) = entry.split_once("://")?;
        let (host, port) = address.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = name.trim().to_uppercase();
        let every_address = matches!(host, "" | "0.0.0.0" | "::");
        let controller = self.controllers.contains(&name);
        let protocol = self.protocol(&name);
        let host = (!every_address).then(|| host.to_owned());
        Some(Listener {
            name,
            protocol,
            host,
            port: port.trim().parse().ok()?,
            controller,
            advertised: None,
        })
    }
}

fn protocol_named(name: &str) -> Option<SecurityProtocol> {
    match name.to_uppercase().as_str() {
        "PLAINTEXT" => Some(SecurityProtocol::Plaintext),
        "SSL" => Some(SecurityProtocol::Ssl),
        "SASL_PLAINTEXT" => Some(SecurityProtocol::SaslPlaintext),
        "SASL_SSL" => Some(SecurityProtocol::SaslSsl),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
