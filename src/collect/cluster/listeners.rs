//! The listeners of the broker itself. The first one is asked for everything, the others for ApiVersions alone, each over
//! one connection with at most one unanswered request.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::address::{Target, Targets};
use super::peers::probe_of;
use crate::kafka::client::{Asked, Client, ClientError};
use crate::kafka::security::Trust;
use crate::model::{ListenerProbe, Probe};

#[derive(Debug, Default)]
pub(super) struct Listeners {
    first: Option<Known>,
    others: Vec<Known>,
    /// The names of those that demand credentials which nobody configured.
    pub demanding: BTreeSet<String>,
}

#[derive(Debug)]
pub(super) struct Known {
    pub target: Target,
    pub client: Client,
}

impl Listeners {
    /// Keeps the connections to these listeners, and closes those to others. Returns the first one and the rest.
    pub(super) fn set(
        &mut self,
        targets: Targets,
        new: impl Fn(&Target) -> Client,
    ) -> (&mut Known, &mut [Known]) {
        let before = self.first.take().into_iter().chain(self.others.drain(..));
        let mut before: Vec<Known> = before.collect();
        let mut of = |target: Target| match before.iter().position(|known| known.target == target) {
            Some(at) => before.swap_remove(at),
            None => Known {
                client: new(&target),
                target,
            },
        };
        let first = of(targets.first);
        self.others = targets.others.into_iter().map(of).collect();
        (self.first.insert(first), &mut self.others)
    }

    /// Where the broker is asked.
    pub(super) fn address(&self) -> &str {
        self.first
            .as_ref()
            .map_or("", |first| first.client.address())
    }

    /// Remembers which of them demand credentials.
    pub(super) fn remember(&mut self, probes: &[ListenerProbe]) {
        for probe in probes.iter().filter(|probe| probe.probe.success()) {
            match probe.by_handler {
                true => self.demanding.remove(&probe.listener),
                false => self.demanding.insert(probe.listener.clone()),
            };
        }
    }

    pub(super) async fn read_late(&mut self, until: Instant) {
        let all = self.first.iter_mut().chain(&mut self.others);
        join_all(all.map(|known| known.client.read_late(until))).await;
    }
}

impl Known {
    /// Asks ApiVersions. The error is why no more can be asked.
    pub(super) async fn probe(&mut self, who: &str) -> (ListenerProbe, Result<(), ClientError>) {
        let Asked {
            connected_in,
            duration,
            answer,
        } = self.client.api().await;
        let error = answer.as_ref().err();
        // As far as the broker lets anybody come, it has answered.
        let refused = error.is_some_and(|error| error.reason().is_of_access());
        let error = error.filter(|_| !refused);
        let mut probe = self.described(probe_of(who, connected_in, duration, error));
        probe.by_handler &= !refused;
        (probe, answer)
    }

    fn described(&self, probe: Probe) -> ListenerProbe {
        let trust = self.client.trust();
        ListenerProbe {
            listener: self.target.listener.clone(),
            probe,
            by_handler: self.client.is_answered_by_handler(),
            certificate_end: self.client.certificate_end(),
            verified: trust.map(|trust| trust == Trust::Verified),
            anonymous: trust.is_some() && self.client.is_anonymous(),
        }
    }
}
