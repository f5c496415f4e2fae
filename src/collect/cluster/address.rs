//! Chooses the listeners at which a broker is asked. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::model::{Broker, Failure, Listener, Reason, SecurityProtocol};

/// Lower ports are those of other services: only root may listen there.
pub(in crate::collect) const FIRST_PORT: u16 = 1024;
/// Listeners of one broker that are asked, over one connection each.
pub(super) const LISTENERS: usize = 8;

/// Joins host and port, with brackets around an IPv6 address.
pub(super) fn address(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The port of `host:port`.
pub(in crate::collect) fn port(address: &str) -> Option<u16> {
    let (_, port) = address.rsplit_once(':')?;
    port.parse().ok()
}

/// Whether the files of a broker may lead the exporter, which has the user `own`, to this port. Any user may name a port
/// of the system there, and only the processes of root and of the exporter's user are believed.
pub(in crate::collect) fn may_name(broker: &Broker, port: u16, own: u32) -> bool {
    port >= FIRST_PORT || [Some(0), Some(own)].contains(&broker.owner)
}

/// A listener, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub address: String,
    /// Its name; the address where that is unknown.
    pub listener: String,
    pub protocol: SecurityProtocol,
}

/// Which addresses may be asked.
#[derive(Debug)]
pub(super) struct Allowed<'a> {
    /// `host:port` from the config.
    pub bootstrap: Option<&'a str>,
    /// A listener's name from the config.
    pub listener: Option<&'a str>,
    /// Whether the exporter and the broker share a loopback, or why that is unknown.
    pub same_network: &'a Result<bool, Failure>,
    /// The exporter's user: at a port of the system only what its process or root's may listen there is asked.
    pub own: u32,
    /// Listeners that turned out to demand credentials which nobody configured.
    pub demanding: &'a BTreeSet<String>,
    /// The listener whose credentials are configured, if they are those of one.
    pub preferred: Option<&'a str>,
}

/// The listeners of one broker that are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Targets {
    pub first: Target,
    /// The others that can be reached; none where it is unknown which listener the first one is.
    pub others: Vec<Target>,
}

/// Returns where the broker is asked: first at the config's address, else at the config's listener, else where least is
/// demanded.
pub(super) fn targets(broker: &Broker, allowed: &Allowed<'_>) -> Result<Targets, Failure> {
    let first = first(broker, allowed)?;
    let is_first = |listener: &Listener| listener.name == first.listener;
    let others = served(broker).filter(|listener| !is_first(listener));
    let others = others.filter_map(|listener| {
        Some(Target {
            address: reachable(broker, listener, allowed, false).ok()?,
            listener: listener.name.clone(),
            protocol: listener.protocol?,
        })
    });
    let others = match served(broker).any(is_first) {
        true => others.take(LISTENERS - 1).collect(),
        false => Vec::new(),
    };
    Ok(Targets { first, others })
}

fn served(broker: &Broker) -> impl Iterator<Item = &Listener> {
    broker
        .listeners
        .iter()
        .filter(|listener| !listener.controller)
}

fn first(broker: &Broker, allowed: &Allowed<'_>) -> Result<Target, Failure> {
    if broker.is_dedicated_controller() {
        let message = format!(
            "{}: a dedicated controller leads no partitions and answers no Metadata",
            broker.name()
        );
        return Err(Failure::new(Reason::Controller, message));
    }
    if let Some(bootstrap) = allowed.bootstrap {
        let port = port(bootstrap);
        let at_port = served(broker).find(|listener| Some(listener.port) == port);
        let known = at_port.and_then(|listener| Some((&listener.name, listener.protocol?)));
        let (name, protocol) = known.map_or(
            (bootstrap, SecurityProtocol::Plaintext),
            |(name, protocol)| (name.as_str(), protocol),
        );
        return Ok(Target {
            address: bootstrap.to_owned(),
            listener: name.to_owned(),
            protocol,
        });
    }
    let names = || {
        served(broker)
            .map(|listener| listener.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let chosen = match allowed.listener {
        Some(wanted) => served(broker).find(|listener| listener.name.eq_ignore_ascii_case(wanted)).ok_or_else(|| {
            let message = format!(
                "{}: the config's `probe_listener` {wanted} is not one of its listeners ({})",
                broker.name(),
                names()
            );
            Failure::new(Reason::Config, message)
        })?,
        None => served(broker)
            .min_by_key(|listener| {
                let elsewhere =
                    *allowed.same_network != Ok(true) && is_local(listener.host.as_deref());
                let demands = allowed.demanding.contains(&listener.name);
                let unknown = listener.protocol.is_none();
                let is_open = listener.protocol == Some(SecurityProtocol::Plaintext)
                    || allowed.preferred == Some(&listener.name);
                let demanded = demanded(listener.protocol);
                (elsewhere, unknown, demands, !is_open, demanded)
            })
            .ok_or_else(|| {
                let message = format!(
                    "{}: its listeners are unknown ({}), so name its address as `bootstrap` in the config",
                    broker.name(),
                    hint(broker)
                );
                Failure::new(Reason::NoListener, message)
            })?,
    };
    let protocol = match chosen.protocol {
        Some(protocol) => protocol,
        // The config names the listener, so it counts more than a map that could not be read.
        None if allowed.listener.is_some() => SecurityProtocol::Plaintext,
        None => {
            let message = format!(
                "{}: whether its listeners ({}) speak TLS or SASL is unknown, because \
                 `listener.security.protocol.map` does not have them: name a PLAINTEXT one as `probe_listener` in the \
                 config",
                broker.name(),
                names()
            );
            return Err(Failure::new(Reason::Unsupported, message));
        }
    };
    Ok(Target {
        address: reachable(broker, chosen, allowed, allowed.listener.is_some())?,
        listener: chosen.name.clone(),
        protocol,
    })
}

/// How much a listener demands before it answers.
fn demanded(protocol: Option<SecurityProtocol>) -> u8 {
    match protocol {
        Some(SecurityProtocol::Plaintext) => 0,
        Some(SecurityProtocol::Ssl) => 1,
        Some(SecurityProtocol::SaslPlaintext) => 2,
        Some(SecurityProtocol::SaslSsl) => 3,
        None => 4,
    }
}

/// The address of a listener, if it leads there and to nothing else. `named` is whether the config names the listener.
fn reachable(
    broker: &Broker,
    listener: &Listener,
    allowed: &Allowed<'_>,
    named: bool,
) -> Result<String, Failure> {
    let address = loopback_if_any(listener);
    if !named && !may_name(broker, listener.port, allowed.own) {
        let message = format!(
            "{}: {address} is not asked, because any user may name a port below {FIRST_PORT}, which is one of the \
             system: if it is the broker's, name the listener {} as `brokers[].probe_listener` in the config file",
            broker.name(),
            listener.name
        );
        return Err(Failure::new(Reason::Config, message));
    }
    if !is_local(listener.host.as_deref()) || allowed.same_network.clone()? {
        return Ok(address);
    }
    let message = format!(
        "{}: it runs in another network namespace (a container), so {address} does not lead to its listener {}: name \
         an address that reaches it from the exporter as `brokers[].bootstrap` in the config file",
        broker.name(),
        listener.name
    );
    Err(Failure::new(Reason::OtherNetwork, message))
}

/// Whether a host is the wildcard or loopback, which mean something else in each network namespace.
pub(super) fn is_local(host: Option<&str>) -> bool {
    let host = host
        .unwrap_or_default()
        .trim_start_matches('[')
        .trim_end_matches(']');
    match host.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(address) => address.is_loopback() || address.is_unspecified(),
        Err(_) => host.is_empty() || host.eq_ignore_ascii_case("localhost"),
    }
}

fn loopback_if_any(listener: &Listener) -> String {
    address(
        listener.host.as_deref().unwrap_or("127.0.0.1"),
        listener.port,
    )
}

/// Explains why the id or the listeners are unknown.
pub(super) fn hint(broker: &Broker) -> String {
    match broker.problems.first() {
        Some(problem) => problem.clone(),
        None => {
            "it has none yet, or its server.properties and meta.properties could not be read".into()
        }
    }
}
