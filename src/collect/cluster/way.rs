//! What the collector of the cluster hands to others that ask the broker: where and how it is asked, over a connection of
//! their own.

use std::fmt;
use std::sync::Arc;

use crate::kafka::client::{Client, Timing};
use crate::kafka::wire::groups::TopicPartition;
use crate::model::Failure;

/// As the newest round found it.
#[derive(Debug, Default)]
pub struct Way {
    /// Why the broker cannot be asked for more; None before the first round.
    pub door: Option<Result<Door, Failure>>,
    /// A partition that it leads.
    pub led: Option<TopicPartition>,
}

impl Way {
    pub(super) fn closed(why: Failure) -> Way {
        Way {
            door: Some(Err(why)),
            led: None,
        }
    }
}

/// A listener, and how it is spoken to.
#[derive(Clone)]
pub struct Door {
    /// What distinguishes it from others.
    leads_to: String,
    connect: Arc<dyn Fn(Timing) -> Client + Send + Sync>,
}

impl Door {
    pub(super) fn new(
        leads_to: String,
        connect: impl Fn(Timing) -> Client + Send + Sync + 'static,
    ) -> Door {
        let connect = Arc::new(connect);
        Door { leads_to, connect }
    }

    pub(in crate::collect) fn client(&self, timing: Timing) -> Client {
        (self.connect)(timing)
    }

    /// Whether a connection to the other one leads to the same listener in the same way.
    pub(in crate::collect) fn is(&self, other: &Door) -> bool {
        self.leads_to == other.leads_to
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Door").field(&self.leads_to).finish()
    }
}
