//! Whether and where ZooKeeper is asked about a broker.

use std::sync::Arc;

use super::ensembles::{Ensemble, Way};
use crate::collect::cluster::address::{FIRST_PORT, may_name, port};
use crate::collect::context::BrokerContext;
use crate::model::{Broker, Mode};

/// Servers of an ensemble that are asked.
pub(super) const MOST_SERVERS: usize = 8;

/// How ZooKeeper is asked about one broker.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::collect) struct Plan {
    pub id: i32,
    pub(super) servers: Vec<String>,
}

/// Why it is not.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::collect) struct NotAsked {
    pub reason: String,
    /// Whether a user may not expect it.
    pub logged: bool,
}

impl Plan {
    pub(in crate::collect) fn of(context: &BrokerContext) -> Result<Plan, NotAsked> {
        plan(&context.broker, rustix::process::geteuid().as_raw())
    }

    /// Returns the ensemble, which the brokers of this host share. `here` says whether the exporter and the broker have the
    /// same loopback: another host's is not asked.
    pub(in crate::collect) fn ensemble(
        &self,
        context: &BrokerContext,
        here: bool,
    ) -> Arc<Ensemble> {
        let way = Way {
            servers: self.servers.clone(),
            loopback: here,
            of_others: context.jvm.is_outranked(),
        };
        let first = usize::try_from(self.id).unwrap_or_default();
        context.ensembles.of(way, first)
    }
}

/// `own` is the exporter's user.
pub(super) fn plan(broker: &Broker, own: u32) -> Result<Plan, NotAsked> {
    let quiet = |reason: &str| {
        Err(NotAsked {
            reason: reason.into(),
            logged: false,
        })
    };
    let logged = |reason: String| {
        Err(NotAsked {
            reason,
            logged: true,
        })
    };
    let name = broker.name();
    if broker.mode == Some(Mode::KRaft) {
        return quiet("the cluster keeps its metadata in KRaft, not in ZooKeeper");
    }
    if broker.mode.is_none() || broker.zookeeper.is_empty() {
        return quiet("no ZooKeeper of the broker is known");
    }
    let Some(id) = broker.id else {
        return quiet("the id of the broker is unknown");
    };
    if broker.zookeeper_tls {
        return logged(format!(
            "{name}: it speaks TLS with ZooKeeper, which the exporter does not, so whether it is registered is unknown"
        ));
    }
    if !is_path(&broker.zookeeper_root) {
        return logged(format!(
            "{name}: the chroot of `zookeeper.connect` is no path"
        ));
    }
    // Discovery gives each server a port.
    let allowed = |server: &&String| may_name(broker, port(server).unwrap_or(0), own);
    let servers: Vec<String> = broker.zookeeper.iter().filter(allowed).cloned().collect();
    match servers.is_empty() {
        true => logged(format!(
            "{name}: ZooKeeper is not asked at a port below {FIRST_PORT}, which is one of the system"
        )),
        false => Ok(Plan {
            id,
            servers: servers.into_iter().take(MOST_SERVERS).collect(),
        }),
    }
}

/// Whether ZooKeeper may have a node of this name, or it is empty.
fn is_path(root: &str) -> bool {
    const LONGEST: usize = 1024;
    root.is_empty()
        || root.len() <= LONGEST
            && root.starts_with('/')
            && !root.contains("//")
            && !root.chars().any(char::is_control)
}
