//! What the collector of the cluster hands to others that ask the broker: where and how it is asked, over a connection of
//! their own.

use super::access::{Access, Place};
use crate::kafka::client::{Client, Timing};
use crate::kafka::conn::Dialer;
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
#[derive(Debug, Clone)]
pub struct Door {
    address: String,
    place: Place,
    loopback: bool,
    access: Access,
    dialer: Dialer,
}

impl Door {
    pub(super) fn new(address: String, place: Place, access: Access, dialer: Dialer) -> Door {
        Door {
            address,
            place,
            loopback: true,
            access,
            dialer,
        }
    }

    /// Sets whether it may be on the exporter's own loopback.
    pub(super) fn with_loopback(self, loopback: bool) -> Door {
        Door { loopback, ..self }
    }

    pub(in crate::collect) fn client(&self, timing: Timing) -> Client {
        let client = Client::new(self.address.clone(), self.dialer.clone(), timing);
        let mut client = self.access.prepare(client, self.place.clone());
        client.allow_loopback(self.loopback);
        client
    }

    /// Whether a connection to the other one leads to the same listener in the same way.
    pub(in crate::collect) fn is(&self, other: &Door) -> bool {
        (&self.address, &self.place, self.loopback)
            == (&other.address, &other.place, other.loopback)
    }
}
