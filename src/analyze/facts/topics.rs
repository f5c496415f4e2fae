//! What `kafka-topics --describe` shows: leaders that are alone in an ISR, and brokers that are down.

use std::collections::{BTreeMap, BTreeSet};

use super::gathering::{Gathering, by_topic, count, fact, list};
use crate::analyze::artifact::File;
use crate::analyze::explanation::{FactKind, Source};
use crate::analyze::formats::topics::{self, Partition};
use crate::analyze::names::Name;

/// The partitions whose ISR lacks one replica.
#[derive(Default)]
struct Missing {
    partitions: u64,
    leaders: BTreeSet<i32>,
}

impl Gathering<'_> {
    pub(super) fn topics(&mut self, file: &File<'_>) {
        let mut led: BTreeMap<Option<i32>, Vec<Partition<'_>>> = BTreeMap::new();
        let mut missing: BTreeMap<i32, Missing> = BTreeMap::new();
        for row in file.partitions() {
            led.entry(row.leader).or_default().push(row);
            for id in out_of_sync(&row).filter(|_| row.leader.is_some()) {
                let missing = missing.entry(id).or_default();
                missing.partitions += 1;
                missing.leaders.extend(row.leader);
            }
        }
        // A follower that is down is missing under every leader; a leader that is stuck loses every follower.
        let is_down = |id: &i32, found: &Missing| {
            found.leaders.len() > 1 || (missing.len() == 1 && !led.contains_key(&Some(*id)))
        };
        let down: BTreeSet<i32> = missing
            .iter()
            .filter(|(id, found)| is_down(id, found))
            .map(|(id, _)| *id)
            .collect();
        for (leader, rows) in &led {
            match leader {
                Some(leader) => self.leader(file, *leader, rows, &down),
                None => {
                    let text = format!("offline partitions: {}", names_of(rows.iter()));
                    let figures = [("partitions", rows.len() as u64)];
                    let fact = fact(FactKind::NoLeader, file, text, &figures);
                    self.add(None, fact.alone());
                    self.last_in_isr(file, rows);
                }
            }
        }
        self.offline_replicas(file, led.values().flatten());
        for (id, found) in missing.iter().filter(|(id, _)| down.contains(id)) {
            let text = format!(
                "missing from the ISR of {}, led by {}",
                count(found.partitions, "partition"),
                list(&found.leaders)
            );
            let figures = [("partitions", found.partitions)];
            let fact = fact(FactKind::MissingFromIsr, file, text, &figures);
            self.add(Some(&Name::Id(*id)), fact.against(Some(Source::Isr)));
        }
    }

    /// Who has to come back so that offline partitions lose nothing.
    fn last_in_isr(&mut self, file: &File<'_>, rows: &[Partition<'_>]) {
        let last = by_broker(rows.iter(), |row| match row.isr {
            "" => row.eligible,
            isr => isr,
        });
        self.each_broker(file, FactKind::LastInIsr, last, |number, names| {
            format!(
                "last in the ISR of {}: {names}; bring it back: any other replica lacks data",
                count(number, "offline partition"),
            )
        });
    }

    fn offline_replicas<'a>(
        &mut self,
        file: &File<'_>,
        rows: impl Iterator<Item = &'a Partition<'a>>,
    ) {
        let offline = by_broker(rows, |row| row.offline);
        self.each_broker(file, FactKind::OfflineReplicas, offline, |number, names| {
            format!(
                "{} offline, as it is down or their disk has failed: {names}",
                count(number, "replica"),
            )
        });
    }

    /// Adds a fact against each broker. `text` says it of the number of its partitions and their names.
    fn each_broker(
        &mut self,
        file: &File<'_>,
        kind: FactKind,
        brokers: BTreeMap<i32, Vec<&Partition<'_>>>,
        text: impl Fn(u64, String) -> String,
    ) {
        for (id, rows) in brokers {
            let number = rows.len() as u64;
            let text = text(number, names_of(rows.into_iter()));
            let fact = fact(kind, file, text, &[("partitions", number)]);
            self.add(Some(&Name::Id(id)), fact.against(Some(Source::Isr)));
        }
    }

    fn leader(
        &mut self,
        file: &File<'_>,
        leader: i32,
        rows: &[Partition<'_>],
        down: &BTreeSet<i32>,
    ) {
        let is_alone = |row: &&Partition<'_>| {
            topics::ids(row.isr).eq([leader]) && out_of_sync(row).next().is_some()
        };
        let alone: Vec<&Partition<'_>> = rows.iter().filter(is_alone).collect();
        if alone.is_empty() {
            return;
        }
        let without: BTreeSet<i32> = alone.iter().flat_map(|row| out_of_sync(row)).collect();
        let own_fault = !without.is_subset(down);
        let blame = if own_fault {
            ", which it removed and which are not to blame"
        } else {
            ""
        };
        let text = format!(
            "leads {} and is alone in the ISR of {}: {}; missing there: {}{blame}",
            count(rows.len() as u64, "partition"),
            alone.len(),
            names_of(alone.iter().copied()),
            list(&without),
        );
        let figures = [("leads", rows.len() as u64), ("alone", alone.len() as u64)];
        let mut fact = fact(FactKind::LeaderAlone, file, text, &figures);
        fact.partitions = alone
            .iter()
            .map(|row| format!("{}-{}", row.topic, row.partition))
            .collect();
        let signal = fact.against(own_fault.then_some(Source::Isr));
        let followers = without.into_iter().map(Name::Id);
        self.add(Some(&Name::Id(leader)), signal.affecting(followers));
    }
}

/// The partitions in one of whose lists a broker is.
fn by_broker<'a>(
    rows: impl Iterator<Item = &'a Partition<'a>>,
    list: impl Fn(&Partition<'a>) -> &'a str,
) -> BTreeMap<i32, Vec<&'a Partition<'a>>> {
    let mut found: BTreeMap<i32, Vec<&Partition<'_>>> = BTreeMap::new();
    for row in rows {
        for id in topics::ids(list(row)) {
            found.entry(id).or_default().push(row);
        }
    }
    found
}

/// Replicas that are not in the ISR.
fn out_of_sync<'a>(row: &Partition<'a>) -> impl Iterator<Item = i32> + use<'a> {
    let isr: BTreeSet<i32> = topics::ids(row.isr).collect();
    topics::ids(row.replicas).filter(move |id| !isr.contains(id))
}

fn names_of<'a>(rows: impl Iterator<Item = &'a Partition<'a>>) -> String {
    by_topic(rows.map(|row| (row.topic, row.partition)))
}
