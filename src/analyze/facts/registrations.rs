//! Who is registered: by ZooKeeper, by the metadata quorum, by the metadata log.

use std::collections::BTreeSet;

use super::gathering::{Gathering, count, fact, list};
use crate::analyze::artifact::File;
use crate::analyze::explanation::{FactKind, Source};
use crate::analyze::formats::quorum::Replica;
use crate::analyze::names::Name;
use crate::model::{Moment, rfc3339};

/// A replica of the metadata that lacks records for so long is not only a little late.
const LATE_MS: u64 = 10_000;

impl Gathering<'_> {
    pub(super) fn zookeeper(&mut self, file: &File<'_>) {
        let Some(found) = &file.registrations else {
            return;
        };
        for id in found.ids().collect::<BTreeSet<i32>>() {
            let text = "registered in ZooKeeper: its session is alive";
            let fact = fact(FactKind::Registered, file, text, &[]);
            self.add(Some(&Name::Id(id)), fact.alone());
        }
        for id in &found.absent {
            let text = "not registered in ZooKeeper: its node does not exist";
            self.not_registered(file, *id, text);
        }
        for id in found.gone.difference(&found.absent) {
            let text = "no longer registered in ZooKeeper: an earlier listing has it, the last one does not";
            self.not_registered(file, *id, text);
        }
        if let Some(listed) = &found.listed {
            let known = |id: &i32| {
                found.absent.contains(id) || found.gone.contains(id) || found.nodes.contains_key(id)
            };
            self.unlisted(file, listed, "in ZooKeeper", known);
        }
        if let Some(id) = found.controller {
            let fact = fact(
                FactKind::Controller,
                file,
                "the controller, by ZooKeeper",
                &[],
            );
            self.add(Some(&Name::Id(id)), fact.alone());
        }
    }

    /// Brokers that have replicas and are not listed.
    fn unlisted(
        &mut self,
        file: &File<'_>,
        listed: &BTreeSet<i32>,
        place: &str,
        is_known: impl Fn(&i32) -> bool,
    ) {
        let unlisted = self.names.with_replicas().difference(listed);
        let unlisted: Vec<i32> = unlisted.copied().filter(|id| !is_known(id)).collect();
        for id in unlisted {
            let text = format!(
                "has replicas and is not registered {place}, where {} are: it is down or has lost its session",
                if listed.is_empty() {
                    "none".to_owned()
                } else {
                    list(listed)
                }
            );
            self.not_registered(file, id, text);
        }
    }

    fn not_registered(&mut self, file: &File<'_>, id: i32, text: impl Into<String>) {
        let fact = fact(FactKind::NotRegistered, file, text, &[]);
        let signal = fact.against(Some(Source::Registration));
        self.add(Some(&Name::Id(id)), signal);
    }

    pub(super) fn quorum(&mut self, file: &File<'_>) {
        let Some(quorum) = &file.quorum else { return };
        let leader = match quorum.leader {
            Some(leader) if leader >= 0 => format!("led by node {leader}"),
            Some(_) => "without a leader: nothing in the cluster can be changed".to_owned(),
            None => "with a leader that is not shown".to_owned(),
        };
        let text = format!(
            "the metadata quorum: {}, {}, {leader}",
            count(quorum.voters.len() as u64, "voter"),
            count(quorum.observers.len() as u64, "observer"),
        );
        let lags = quorum.replicas.iter().map(|replica| replica.lag);
        let lag = lags.max().or(quorum.max_lag);
        let mut figures = vec![
            ("voters", quorum.voters.len() as u64),
            ("observers", quorum.observers.len() as u64),
        ];
        figures.extend(lag.map(|lag| ("lag", lag)));
        let fact_of_all = fact(FactKind::Quorum, file, text, &figures);
        self.add(None, fact_of_all.alone());
        for replica in quorum.replicas.iter().filter(|replica| is_late(replica)) {
            let Replica {
                id,
                lag,
                caught_up_ms_ago,
                ..
            } = replica;
            let since = caught_up_ms_ago.map_or("never had all of it".to_owned(), |ago| {
                format!("had all of it {} s ago", ago / 1000)
            });
            let text = format!(
                "lacks {} of the metadata and {since}",
                count(*lag, "record")
            );
            let fact = fact(FactKind::MetadataLag, file, text, &[("records", *lag)]);
            self.add(Some(&Name::Id(*id)), fact.against(Some(Source::Peers)));
        }
        // Observers that fetch nothing are dropped after 5 minutes. A broker may be a voter as well.
        if !quorum.observers.is_empty() {
            let all = quorum.observers.union(&quorum.voters).copied().collect();
            self.unlisted(file, &all, "with the metadata quorum", |_| false);
        }
    }

    pub(super) fn metadata_log(&mut self, file: &File<'_>) {
        let Some(log) = file.metadata else { return };
        for (id, state) in &log.brokers {
            let name = Name::Id(*id);
            let (kind, against, text) = match (state.fenced, state.in_controlled_shutdown) {
                (true, _) => (
                    FactKind::Fenced,
                    Some(Source::Registration),
                    "fenced: the controller does not get its heartbeats, and it leads nothing",
                ),
                // It speaks neither against it nor for its being alive: it may have ended since.
                (false, true) => (
                    FactKind::ShutsDown,
                    None,
                    "registered in the metadata log, in a controlled shutdown",
                ),
                (false, false) => (
                    FactKind::Registered,
                    None,
                    "registered in the metadata log and not fenced: the controller gets its heartbeats",
                ),
            };
            let fact = fact(kind, file, text, &[]);
            self.add(Some(&name), fact.against(against));
        }
        // What was not read may register others.
        if log.problem.is_none() {
            self.unlisted(file, &log.ids(), "in the metadata log", |_| false);
        }
        let mut text = format!(
            "the metadata log up to offset {}, written at {}: {}, {}",
            log.end,
            rfc3339(Moment(log.written)),
            count(log.brokers.len() as u64, "broker"),
            count(log.partitions, "partition"),
        );
        if log.in_transaction {
            text += "; with what an open transaction has done";
        }
        if let Some(problem) = &log.problem {
            text += &format!("; what follows is not read: {problem}");
        }
        let figures = [
            ("brokers", log.brokers.len() as u64),
            ("partitions", log.partitions),
        ];
        let fact = fact(FactKind::MetadataLog, file, text, &figures);
        self.add(None, fact.alone());
    }
}

fn is_late(replica: &Replica) -> bool {
    let late = replica.caught_up_ms_ago.is_none_or(|ago| ago >= LATE_MS);
    !replica.is_leader && replica.lag > 0 && late
}
