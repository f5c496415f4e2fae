//! What brokers owe while no collector waits for it, as the settings change: a request that takes a lock and is unanswered
//! keeps a request handler, so the next collector waits for that answer and sends no other request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::collect::cluster::way::Door;
use crate::kafka::client::Client;
use crate::model::{GroupsReport, Probe, ProcessKey};

/// By process: at most one connection for each.
#[derive(Clone, Default)]
pub struct Debts(Arc<Mutex<HashMap<ProcessKey, Debt>>>);

/// Of one process, with what is known of it meanwhile.
#[derive(Default)]
pub(super) struct Debt {
    pub open: Option<(Door, Client)>,
    pub known: Option<GroupsReport>,
    pub fetch: Option<Probe>,
    pub rests_until: Option<Instant>,
}

impl Debts {
    pub(super) fn take(&self, process: ProcessKey) -> Option<Debt> {
        self.with(|debts| debts.remove(&process))
    }

    pub(super) fn keep(&self, process: ProcessKey, debt: Debt) {
        self.with(|debts| drop(debts.insert(process, debt)));
    }

    /// Forgets the processes that have ended.
    pub fn keep_only(&self, runs: impl Fn(ProcessKey) -> bool) {
        self.with(|debts| debts.retain(|process, _| runs(*process)));
    }

    fn with<T>(&self, change: impl FnOnce(&mut HashMap<ProcessKey, Debt>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
