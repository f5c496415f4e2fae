//! Random histories: a plain model of the cluster counts as `kafka-topics` does, and the log of the same history must say the
//! same, however it is cut into snapshots, segments and reads.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::model::{Elsewhere, LostFollower};

/// Nobody else's code: a list of partitions, of brokers and of settings.
#[derive(Debug, Clone, Default)]
struct Cluster {
    brokers: BTreeMap<i32, (bool, bool)>,
    topics: BTreeMap<u8, BTreeMap<i32, Placed>>,
    min_isr: BTreeMap<(u8, String), u32>,
}

#[derive(Debug, Clone, PartialEq)]
struct Placed {
    replicas: Vec<i32>,
    isr: Vec<i32>,
    adding: Vec<i32>,
    removing: Vec<i32>,
    leader: i32,
}

/// One step of a history, with numbers that choose among what is there.
#[derive(Debug, Clone)]
enum Step {
    Register(i32, bool),
    Fence(i32, bool),
    Shutdown(i32),
    Unregister(i32),
    CreateTopic(u8, u8, u8),
    RemoveTopic(u8),
    Isr(u8, u8, u8),
    Leader(u8, u8, u8),
    Reassign(u8, u8, u8),
    Finish(u8, u8),
    MinIsr(u8, u8, Option<u32>),
    NoOp,
}

fn step() -> impl Strategy<Value = Step> {
    let id = 1..6_i32;
    let topic = 0..5_u8;
    prop_oneof![
        (id.clone(), any::<bool>()).prop_map(|(id, fenced)| Step::Register(id, fenced)),
        (id.clone(), any::<bool>()).prop_map(|(id, fenced)| Step::Fence(id, fenced)),
        id.clone().prop_map(Step::Shutdown),
        id.prop_map(Step::Unregister),
        (topic.clone(), 1..6_u8, any::<u8>()).prop_map(|(a, b, c)| Step::CreateTopic(a, b, c)),
        topic.clone().prop_map(Step::RemoveTopic),
        (topic.clone(), any::<u8>(), any::<u8>()).prop_map(|(a, b, c)| Step::Isr(a, b, c)),
        (topic.clone(), any::<u8>(), any::<u8>()).prop_map(|(a, b, c)| Step::Leader(a, b, c)),
        (topic.clone(), any::<u8>(), any::<u8>()).prop_map(|(a, b, c)| Step::Reassign(a, b, c)),
        (topic.clone(), any::<u8>()).prop_map(|(a, b)| Step::Finish(a, b)),
        (0..3_u8, topic, prop::option::of(0..4_u32)).prop_map(|(a, b, c)| Step::MinIsr(a, b, c)),
        Just(Step::NoOp),
    ]
}

fn uuid(topic: u8) -> log::Uuid {
    [topic; 16]
}

fn name(topic: u8) -> String {
    format!("topic-{topic}")
}

/// Every bit of `bits` chooses one.
fn chosen(from: &[i32], bits: u8) -> Vec<i32> {
    let bit = |at: &usize| bits >> (at % 8) & 1 == 1;
    let chosen = (0..from.len()).filter(bit).map(|at| from[at]);
    chosen.collect()
}

impl Cluster {
    /// Does a step, and returns its records; none where it would make no sense.
    fn step(&mut self, step: &Step) -> Vec<Vec<u8>> {
        match step.clone() {
            Step::Register(id, fenced) => {
                self.brokers.insert(id, (fenced, false));
                vec![log::register_broker(id as u32 % 5, id, 9092, fenced, false)]
            }
            Step::Fence(id, fenced) => match self.brokers.get_mut(&id) {
                Some(broker) => {
                    broker.0 = fenced;
                    vec![match id {
                        1 => log::fence_broker(id, fenced),
                        _ => log::broker_change(id, if fenced { 1 } else { -1 }, false),
                    }]
                }
                None => vec![],
            },
            Step::Shutdown(id) => match self.brokers.get_mut(&id) {
                Some(broker) => {
                    broker.1 = true;
                    vec![log::broker_change(id, 0, true)]
                }
                None => vec![],
            },
            Step::Unregister(id) => match self.brokers.remove(&id) {
                Some(_) => vec![log::unregister_broker(id)],
                None => vec![],
            },
            Step::CreateTopic(topic, count, bits) => {
                if self.topics.contains_key(&topic) {
                    return vec![];
                }
                let place = |index: i32| {
                    let all = [1, 2, 3, 4, 5, 6].map(|id| (id + index) % 6 + 1);
                    let replicas = all[..usize::from(bits % 3) + 1].to_vec();
                    Placed {
                        isr: replicas.clone(),
                        leader: replicas[0],
                        adding: vec![],
                        removing: vec![],
                        replicas,
                    }
                };
                let partitions: BTreeMap<i32, Placed> = (0..i32::from(count))
                    .map(|index| (index, place(index)))
                    .collect();
                let mut records = vec![log::topic(&name(topic), uuid(topic))];
                records.extend(partitions.iter().map(|(at, of)| whole(topic, *at, of)));
                self.topics.insert(topic, partitions);
                records
            }
            Step::RemoveTopic(topic) => match self.topics.remove(&topic) {
                Some(_) => {
                    self.min_isr.remove(&(2, name(topic)));
                    vec![log::remove_topic(uuid(topic))]
                }
                None => vec![],
            },
            Step::Isr(topic, at, bits) => self.change(topic, at, |of| {
                of.isr = chosen(&of.replicas, bits);
                (Some(of.isr.clone()), None)
            }),
            Step::Leader(topic, at, bits) => self.change(topic, at, |of| {
                of.leader = chosen(&of.isr, bits).first().copied().unwrap_or(-1);
                (None, Some(of.leader))
            }),
            Step::Reassign(topic, at, bits) => {
                let adding = chosen(&[1, 2, 3, 4, 5, 6], bits);
                let (index, of) = match self.at(topic, at) {
                    Some((index, of)) if of.adding.is_empty() && of.removing.is_empty() => {
                        (index, of)
                    }
                    _ => return vec![],
                };
                let is_new = |id: &i32| !of.replicas.contains(id);
                let adding: Vec<i32> = adding.into_iter().filter(is_new).collect();
                // A partition always keeps a replica.
                if adding.is_empty() {
                    return vec![];
                }
                of.adding = adding;
                of.removing = of.replicas[..1].to_vec();
                of.replicas.extend(&of.adding);
                let change = log::Partition {
                    replicas: Some(of.replicas.clone()),
                    adding: Some(of.adding.clone()),
                    removing: Some(of.removing.clone()),
                    ..id(topic, index)
                };
                vec![log::partition_change(&change)]
            }
            Step::Finish(topic, at) => {
                let Some((index, of)) = self.at(topic, at) else {
                    return vec![];
                };
                let removing = std::mem::take(&mut of.removing);
                of.replicas.retain(|id| !removing.contains(id));
                of.isr.retain(|id| !removing.contains(id));
                of.adding.clear();
                let change = log::Partition {
                    replicas: Some(of.replicas.clone()),
                    isr: Some(of.isr.clone()),
                    adding: Some(vec![]),
                    removing: Some(vec![]),
                    ..id(topic, index)
                };
                vec![log::partition_change(&change)]
            }
            Step::MinIsr(kind, of, value) => {
                let (kind, of) = match kind {
                    0 => (4, String::new()),
                    1 => (4, "1".to_owned()),
                    _ => (2, name(of)),
                };
                match value {
                    Some(value) => self.min_isr.insert((kind, of.clone()), value),
                    None => self.min_isr.remove(&(kind, of.clone())),
                };
                let value = value.map(|value| value.to_string());
                vec![log::config(
                    kind,
                    &of,
                    "min.insync.replicas",
                    value.as_deref(),
                )]
            }
            Step::NoOp => vec![log::no_op()],
        }
    }

    fn at(&mut self, topic: u8, at: u8) -> Option<(i32, &mut Placed)> {
        let partitions = self.topics.get_mut(&topic)?;
        let index = i32::from(at) % partitions.len() as i32;
        Some((index, partitions.get_mut(&index)?))
    }

    fn change(
        &mut self,
        topic: u8,
        at: u8,
        change: impl FnOnce(&mut Placed) -> (Option<Vec<i32>>, Option<i32>),
    ) -> Vec<Vec<u8>> {
        let Some((index, of)) = self.at(topic, at) else {
            return vec![];
        };
        let (isr, leader) = change(of);
        let change = log::Partition {
            isr,
            leader,
            ..id(topic, index)
        };
        vec![log::partition_change(&change)]
    }

    /// The records of a snapshot.
    fn state(&self) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        for ((kind, of), value) in &self.min_isr {
            let value = value.to_string();
            records.push(log::config(*kind, of, "min.insync.replicas", Some(&value)));
        }
        for (id, (fenced, shutdown)) in &self.brokers {
            records.push(log::register_broker(4, *id, 9092, *fenced, *shutdown));
        }
        for (topic, partitions) in &self.topics {
            records.push(log::topic(&name(*topic), uuid(*topic)));
            // The last one first: their order says nothing.
            records.extend(
                partitions
                    .iter()
                    .rev()
                    .map(|(at, of)| whole(*topic, *at, of)),
            );
        }
        records
    }

    /// By the definitions of `kafka-topics`.
    fn expected(&self, id: i32) -> ClusterCounts {
        let live: BTreeSet<i32> = self
            .brokers
            .iter()
            .filter(|(_, (fenced, _))| !fenced)
            .map(|(id, _)| *id)
            .collect();
        let setting = |kind: u8, of: &str| self.min_isr.get(&(kind, of.to_owned())).copied();
        let mut counts = ClusterCounts {
            source: ClusterSource::Log,
            under_min_isr: Some(0),
            at_min_isr: Some(0),
            reassigning: Some(0),
            ..ClusterCounts::default()
        };
        let add = |sum: &mut Option<u64>, holds: bool| *sum = sum.map(|sum| sum + u64::from(holds));
        for (topic, partitions) in &self.topics {
            let least = setting(2, &name(*topic))
                .or(setting(4, &id.to_string()))
                .or(setting(4, ""))
                .unwrap_or(1) as usize;
            for of in partitions.values() {
                counts.partitions += 1;
                counts
                    .absent
                    .extend(of.replicas.iter().filter(|id| !live.contains(id)));
                let missed =
                    of.replicas.contains(&id) && !of.isr.contains(&id) && !of.adding.contains(&id);
                counts.not_in_isr += u64::from(missed);
                if !live.contains(&of.leader) {
                    counts.offline += 1;
                    continue;
                }
                if missed {
                    *Arc::make_mut(&mut counts.not_in_isr_by_leader)
                        .entry(of.leader)
                        .or_default() += 1;
                }
                if of.leader != id {
                    continue;
                }
                let factor = of.replicas.len() - of.adding.len();
                let short = factor > of.isr.len();
                counts.leader += 1;
                counts.under_replicated += u64::from(short);
                counts.isr_leader_alone += u64::from(short && of.isr == [id]);
                let least = least.min(of.replicas.len());
                add(&mut counts.under_min_isr, of.isr.len() < least);
                add(&mut counts.at_min_isr, of.isr.len() == least);
                add(
                    &mut counts.reassigning,
                    of.adding.len() + of.removing.len() > 0,
                );
            }
        }
        if counts.not_in_isr > 0 || counts.under_replicated > 0 {
            self.add_blame(&mut counts, id, &live);
        }
        counts
    }

    /// Which leaders lack this broker alone, and which followers its own partitions lack.
    fn add_blame(&self, counts: &mut ClusterCounts, id: i32, live: &BTreeSet<i32>) {
        let led = |leader: i32| {
            let all = self
                .topics
                .values()
                .flat_map(|partitions| partitions.values());
            all.filter(move |of| of.leader == leader)
        };
        // Those that lack a follower, and those that have it in the ISR.
        let lacks = |leader: i32, follower: i32| {
            let lacks = |of: &&Placed| {
                let expected = of.replicas.contains(&follower) && !of.adding.contains(&follower);
                expected && !of.isr.contains(&follower)
            };
            led(leader).filter(lacks).count() as u64
        };
        let has = |leader: i32, follower: i32| {
            let has = |of: &Placed| of.isr.contains(&follower) && !of.adding.contains(&follower);
            led(leader).any(has)
        };
        for leader in live.iter().filter(|leader| **leader != id) {
            let others = live
                .iter()
                .filter(|other| *other != leader && **other != id);
            let others: u64 = others.map(|other| lacks(*leader, *other)).sum();
            let own = if live.contains(&id) {
                lacks(*leader, id)
            } else {
                0
            };
            if own > 0 && others == 0 {
                counts.behind_alone.insert(*leader, own);
            }
        }
        for follower in live.iter().filter(|follower| **follower != id) {
            let partitions = if live.contains(&id) {
                lacks(id, *follower)
            } else {
                0
            };
            let mut others = live
                .iter()
                .filter(|other| **other != id && *other != follower);
            let elsewhere = if others.clone().any(|leader| lacks(*leader, *follower) > 0) {
                Elsewhere::Behind
            } else if others.any(|leader| has(*leader, *follower)) {
                Elsewhere::InSync
            } else {
                Elsewhere::Unknown
            };
            if partitions > 0 {
                let lost = LostFollower {
                    partitions,
                    elsewhere,
                };
                counts.lost_followers.insert(*follower, lost);
            }
        }
    }
}

fn id(topic: u8, index: i32) -> log::Partition {
    log::Partition {
        topic: uuid(topic),
        index,
        ..log::Partition::default()
    }
}

fn whole(topic: u8, index: i32, of: &Placed) -> Vec<u8> {
    let whole = log::Partition {
        replicas: Some(of.replicas.clone()),
        isr: Some(of.isr.clone()),
        adding: Some(of.adding.clone()),
        removing: Some(of.removing.clone()),
        leader: Some(of.leader),
        ..id(topic, index)
    };
    log::partition(index as u32 % 3, &whole)
}

/// What happens to the files beside the records.
#[derive(Debug, Clone, PartialEq)]
enum Files {
    Nothing,
    Read,
    StartAgain,
    Roll,
    Snapshot,
    /// The steps until the next one of these are a transaction, which ends or is aborted.
    Transaction {
        aborted: bool,
    },
}

fn files() -> impl Strategy<Value = Files> {
    prop_oneof![
        4 => Just(Files::Nothing),
        2 => Just(Files::Read),
        1 => Just(Files::StartAgain),
        1 => Just(Files::Roll),
        1 => Just(Files::Snapshot),
        1 => any::<bool>().prop_map(|aborted| Files::Transaction { aborted }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_log_says_what_its_history_is(
        history in prop::collection::vec((files(), prop::collection::vec(step(), 0..6)), 1..40),
    ) {
        let mut node = Node::new(1);
        let mut cluster = Cluster::default();
        let (mut next, mut base, mut epoch) = (0, 0, 1);
        node.write(&segment(0), &[]);
        for (files, steps) in history {
            match files {
                Files::Nothing | Files::Transaction { .. } => {}
                Files::Read => check(&mut node, &cluster, next),
                Files::StartAgain => {
                    node.start_again();
                    check(&mut node, &cluster, next);
                }
                Files::Roll if base != next => {
                    base = next;
                    epoch += 1;
                    node.write(&segment(base), &[]);
                }
                Files::Snapshot => {
                    let bytes = log::snapshot(epoch, WRITTEN, &cluster.state(), 3).unwrap();
                    node.write(&format!("{next:020}-{epoch:010}.checkpoint"), &bytes);
                    if base > 0 {
                        let _ = fs::remove_file(node.path(&segment(0)));
                    }
                }
                Files::Roll => {}
            }
            let mut after = cluster.clone();
            let mut records: Vec<Vec<u8>> = steps.iter().flat_map(|step| after.step(step)).collect();
            match files {
                Files::Transaction { aborted } => {
                    records.insert(0, log::begin_transaction());
                    for record in &records {
                        node.append(&segment(base), &batch(next, epoch, std::slice::from_ref(record)));
                        next += 1;
                    }
                    // It is still open.
                    check(&mut node, &cluster, next);
                    let end = if aborted { log::abort_transaction() } else { log::end_transaction() };
                    node.append(&segment(base), &batch(next, epoch, &[end]));
                    next += 1;
                    if !aborted {
                        cluster = after;
                    }
                }
                _ => {
                    if !records.is_empty() {
                        node.append(&segment(base), &batch(next, epoch, &records));
                        next += records.len() as i64;
                    }
                    cluster = after;
                }
            }
        }
        check(&mut node, &cluster, next);
        node.start_again();
        check(&mut node, &cluster, next);
    }
}

#[track_caller]
fn check(node: &mut Node, cluster: &Cluster, next: i64) {
    let log = node.log();
    assert_eq!(log.end_offset, next);
    let brokers: BTreeMap<i32, (bool, bool)> = log
        .brokers
        .iter()
        .map(|(id, of)| (*id, (of.fenced, of.in_controlled_shutdown)))
        .collect();
    assert_eq!(brokers, cluster.brokers);
    let mut counts = log.counts.unwrap();
    let live: Vec<i32> = counts.live_brokers.iter().map(|peer| peer.id).collect();
    let unfenced = cluster.brokers.iter().filter(|(_, (fenced, _))| !fenced);
    assert_eq!(live, unfenced.map(|(id, _)| *id).collect::<Vec<_>>());
    let listed = counts.under_replicated_partitions.len() as u64 + counts.under_replicated_left_out;
    let offline = if live.first() == Some(&1) {
        counts.offline
    } else {
        0
    };
    assert_eq!(listed, counts.under_replicated + offline);
    counts.live_brokers = Arc::default();
    counts.under_replicated_partitions = Arc::default();
    assert_eq!(counts, cluster.expected(1));
}
