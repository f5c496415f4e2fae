//! What ZooKeeper says about the brokers of a cluster that keeps its metadata there.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Moment;

/// One reading of `/brokers/ids` and `/controller`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ZooKeeperReport {
    /// The server that answered, `host:port`.
    pub server: Arc<str>,
    /// The registered brokers of the whole cluster. ZooKeeper removes one when its session ends.
    pub brokers: Arc<BTreeSet<i32>>,
    /// The active controller; None while there is none.
    pub controller: Option<i32>,
    pub registration: OwnRegistration,
}

/// Whether a broker process is registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnRegistration {
    /// Its id is.
    Registered {
        since: Moment,
        endpoint: String,
    },
    /// Its id is, by a process that registered before this one started: an earlier one, whose session has not ended yet.
    Earlier {
        since: Moment,
        endpoint: String,
    },
    Missing,
}

impl ZooKeeperReport {
    pub fn is_registered(&self) -> bool {
        matches!(self.registration, OwnRegistration::Registered { .. })
    }
}
