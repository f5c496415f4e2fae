//! Chooses the address at which a broker is asked. Pure.

use std::net::IpAddr;

use crate::model::{Broker, Failure, Listener, Reason, Role, SecurityProtocol};

/// Lower ports are those of other services: only root may listen there.
pub(super) const FIRST_PORT: u16 = 1024;

/// Joins host and port, with brackets around an IPv6 address.
pub(super) fn address(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Returns where the broker is asked: the config's address, else the config's listener, else a PLAINTEXT one, at a port of
/// the system only where the process could listen there: that of root, or of `own`, the exporter's user.
pub(super) fn own_address(
    broker: &Broker,
    bootstrap: Option<&str>,
    listener: Option<&str>,
    same_network: &Result<bool, Failure>,
    own: u32,
) -> Result<String, Failure> {
    if !broker.roles.is_empty() && !broker.roles.contains(&Role::Broker) {
        let message = format!(
            "{}: a dedicated controller leads no partitions and answers no Metadata",
            broker.name()
        );
        return Err(Failure::new(Reason::Controller, message));
    }
    if let Some(bootstrap) = bootstrap {
        return Ok(bootstrap.to_owned());
    }
    let served = || {
        broker
            .listeners
            .iter()
            .filter(|listener| !listener.controller)
    };
    let plain =
        || served().filter(|listener| listener.protocol == Some(SecurityProtocol::Plaintext));
    let names = || {
        served()
            .map(|listener| listener.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let chosen = match listener {
        Some(wanted) => served().find(|listener| listener.name.eq_ignore_ascii_case(wanted)).ok_or_else(|| {
            let message = format!(
                "{}: the config's `probe_listener` {wanted} is not one of its listeners ({})",
                broker.name(),
                names()
            );
            Failure::new(Reason::Config, message)
        })?,
        None => plain()
            .find(|listener| *same_network == Ok(true) || !is_local(listener.host.as_deref()))
            .or_else(|| plain().next())
            .or_else(|| served().next())
            .ok_or_else(|| {
                let message = format!(
                    "{}: its listeners are unknown ({}), so name its address as `bootstrap` in the config",
                    broker.name(),
                    hint(broker)
                );
                Failure::new(Reason::NoListener, message)
            })?,
    };
    let reachable = || {
        let address = loopback_if_any(chosen);
        let may_listen = [Some(0), Some(own)].contains(&broker.owner);
        if chosen.port < FIRST_PORT && !may_listen && listener.is_none() {
            let message = format!(
                "{}: {address} is not asked, because any user may name a port below {FIRST_PORT}, which is one of the \
                 system: if it is the broker's, name the listener {} as `brokers[].probe_listener` in the config file",
                broker.name(),
                chosen.name
            );
            return Err(Failure::new(Reason::Config, message));
        }
        if !is_local(chosen.host.as_deref()) || same_network.clone()? {
            return Ok(address);
        }
        let message = format!(
            "{}: it runs in another network namespace (a container), so {address} does not lead to its listener {}: name \
             an address that reaches it from the exporter as `brokers[].bootstrap` in the config file",
            broker.name(),
            chosen.name
        );
        Err(Failure::new(Reason::OtherNetwork, message))
    };
    match chosen.protocol {
        Some(SecurityProtocol::Plaintext) => reachable(),
        // The config names the listener, so it counts more than a map that could not be read.
        None if listener.is_some() => reachable(),
        _ => {
            let message = format!(
                "{}: only PLAINTEXT is supported, but its listeners ({}) use other protocols: name a PLAINTEXT listener as \
                 `probe_listener`, or add one. If it is advertised on loopback, this broker can be asked but no peer: \
                 for peers, every broker must advertise an address of its own",
                broker.name(),
                names()
            );
            Err(Failure::new(Reason::Unsupported, message))
        }
    }
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
