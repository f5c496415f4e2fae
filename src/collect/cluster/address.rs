//! Which address a broker is asked at.

use std::net::IpAddr;

use crate::model::{Broker, Failure, Listener, Reason, Role, SecurityProtocol};

/// `HOST:PORT`, as a client writes it.
pub(super) fn address(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Chooses the address: the config's, else that of the config's listener, else that of a PLAINTEXT one.
pub(super) fn own_address(
    broker: &Broker,
    bootstrap: Option<&str>,
    listener: Option<&str>,
    same_network: &Result<bool, Failure>,
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
                "{}: the config's `probe_listener` {wanted} is none of its listeners ({})",
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
                    "{}: its listeners are unknown, so name its address as `bootstrap` in the config: {}",
                    broker.name(),
                    hint(broker)
                );
                Failure::new(Reason::NoListener, message)
            })?,
    };
    let reachable = || {
        let address = loopback_if_any(chosen);
        if !is_local(chosen.host.as_deref()) || same_network.clone()? {
            return Ok(address);
        }
        let message = format!(
            "{}: it runs in another network namespace (a container), so {address} here is not its listener {}: name an \
             address that reaches it from here as `brokers[].bootstrap` in the config file",
            broker.name(),
            chosen.name
        );
        Err(Failure::new(Reason::OtherNetwork, message))
    };
    match chosen.protocol {
        Some(SecurityProtocol::Plaintext) => reachable(),
        // Named by the user: the config knows better than a map that could not be read.
        None if listener.is_some() => reachable(),
        _ => {
            let message = format!(
                "{}: PLAINTEXT is spoken for now, and its listeners ({}) are not: name one that is as `probe_listener`, or \
                 add one: advertised on loopback it lets this broker be asked but no peer, for those every broker must \
                 advertise an address of its own",
                broker.name(),
                names()
            );
            Err(Failure::new(Reason::Unsupported, message))
        }
    }
}

/// Whether a host means every address, or one that differs in every network namespace.
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

/// What may be the reason why something is not known of the broker.
pub(super) fn hint(broker: &Broker) -> String {
    match broker.problems.first() {
        Some(problem) => problem.clone(),
        None => {
            "it has none yet, or its server.properties and meta.properties could not be read".into()
        }
    }
}
