//! The state of the cluster that follows from the records: brokers, topics, partitions, `min.insync.replicas`.

use std::collections::BTreeMap;

use super::super::reader::Ids;
use super::super::wire::MAX_BROKERS;
use super::LogProblem;
use super::record::{PartitionId, Record, RegisterBroker, Uuid};

/// What keeping a topic or a config costs besides its texts and partitions.
const ENTRY: usize = 128;
/// More partitions than any topic has. It bounds what a single record can make grow.
const MOST_PARTITIONS: usize = 1 << 20;

/// Whether an image may need so many bytes. 200,000 partitions with three replicas each need some 13 MiB.
pub type MayNeed<'a> = &'a mut dyn FnMut(usize) -> bool;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Image {
    brokers: BTreeMap<i32, BrokerState>,
    topics: BTreeMap<Uuid, Topic>,
    /// `min.insync.replicas` of topics by name, of brokers by id, and of all brokers.
    min_isr_of_topics: BTreeMap<Box<str>, u32>,
    min_isr_of_brokers: BTreeMap<i32, u32>,
    min_isr_of_all: Option<u32>,
    migrating: bool,
    bytes: usize,
    changes: u64,
}

/// A registered broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerState {
    pub fenced: bool,
    pub in_controlled_shutdown: bool,
    /// Host and port of its first PLAINTEXT listener.
    pub endpoint: Option<(Box<str>, u16)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Topic {
    pub name: Box<str>,
    /// By index. Kafka numbers them without gaps; None is one whose record has not come yet.
    partitions: Vec<Option<Partition>>,
}

impl Topic {
    /// Its partitions with their index.
    pub fn partitions(&self) -> impl Iterator<Item = (i32, &Partition)> {
        let slots = (0..).zip(&self.partitions);
        slots.filter_map(|(index, partition)| Some((index, partition.as_ref()?)))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Partition {
    /// Negative is none.
    pub leader: i32,
    pub replicas: Box<[Replica]>,
}

/// A broker that has, or is to have, the data of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replica {
    pub id: i32,
    pub in_sync: bool,
    pub role: ReplicaRole,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaRole {
    Assigned,
    /// A reassignment adds it.
    Adding,
    /// A reassignment takes it away.
    Removing,
}

impl Partition {
    /// How many replicas there are to be in the ISR: those that a reassignment is adding are not missed (KIP-352).
    pub fn expected(&self) -> usize {
        let adding = |replica: &&Replica| replica.role == ReplicaRole::Adding;
        self.replicas.len() - self.replicas.iter().filter(adding).count()
    }

    pub fn in_sync(&self) -> usize {
        self.replicas
            .iter()
            .filter(|replica| replica.in_sync)
            .count()
    }

    pub fn is_reassigned(&self) -> bool {
        let moves = |replica: &Replica| replica.role != ReplicaRole::Assigned;
        self.replicas.iter().any(moves)
    }

    /// The ids that a record names, or those here that belong to the list that it leaves out.
    fn named_or(&self, named: Option<Ids<'_>>, belongs: impl Fn(&Replica) -> bool) -> Vec<i32> {
        match named {
            Some(ids) => ids.iter().collect(),
            None => {
                let belonging = self.replicas.iter().filter(|replica| belongs(replica));
                belonging.map(|replica| replica.id).collect()
            }
        }
    }
}

impl Image {
    /// An empty one instead of this one, which counts as a change.
    pub fn again(&self) -> Image {
        Image {
            changes: self.changes + 1,
            ..Image::default()
        }
    }

    /// Registered brokers by id.
    pub fn brokers(&self) -> &BTreeMap<i32, BrokerState> {
        &self.brokers
    }

    /// In a fixed order.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.values()
    }

    /// Whether ZooKeeper has the truth.
    pub fn is_migrating(&self) -> bool {
        self.migrating
    }

    /// `min.insync.replicas` of a topic, as a broker that leads its partitions takes it. None: neither the topic nor that
    /// broker nor the cluster has it set in the log, and the broker's own file decides.
    pub fn min_isr(&self, topic: &str, broker: i32) -> Option<u32> {
        let of_topic = self.min_isr_of_topics.get(topic);
        let set = of_topic.or_else(|| self.min_isr_of_brokers.get(&broker));
        set.copied().or(self.min_isr_of_all)
    }

    /// Grows with every change of what is counted, also from an image to the one that takes its place.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// About how many bytes of memory it needs.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Applies a record; transactions are the business of [`super::replay`]. `may_need` is asked before the image grows to so
    /// many bytes.
    ///
    /// # Errors
    /// The record does not fit those before it, or may not be kept. The image is of no use then.
    pub fn apply(&mut self, record: &Record<'_>, may_need: MayNeed<'_>) -> Result<(), LogProblem> {
        match *record {
            Record::RegisterBroker(broker) => self.register(broker, may_need)?,
            Record::UnregisterBroker { id } => {
                let known = self.brokers.remove(&id);
                known.ok_or(LogProblem::Unknown("a broker"))?;
                self.free(ENTRY);
            }
            Record::BrokerChange {
                id,
                fenced,
                in_controlled_shutdown,
            } => {
                let known = self.brokers.get_mut(&id);
                let broker = known.ok_or(LogProblem::Unknown("a broker"))?;
                broker.fenced = fenced.unwrap_or(broker.fenced);
                broker.in_controlled_shutdown |= in_controlled_shutdown;
            }
            Record::Topic { name, id } => {
                self.need(ENTRY + name.len(), may_need)?;
                let topic = Topic {
                    name: name.into(),
                    partitions: Vec::new(),
                };
                if let Some(before) = self.topics.insert(id, topic) {
                    self.free(bytes_of(&before));
                }
            }
            Record::RemoveTopic { id } => {
                let topic = self.topics.remove(&id);
                let topic = topic.ok_or(LogProblem::Unknown("a topic"))?;
                self.free(bytes_of(&topic));
                self.set_min_isr_of_topic(&topic.name, None, may_need)?;
            }
            Record::Partition {
                partition,
                replicas,
                isr,
                removing,
                adding,
                leader,
            } => {
                let replicas = joined(
                    replicas.iter().collect(),
                    &sorted(isr.iter()),
                    &sorted(removing.iter()),
                    &sorted(adding.iter()),
                )?;
                self.put(partition, Partition { leader, replicas }, may_need)?;
            }
            Record::PartitionChange {
                partition,
                replicas,
                isr,
                removing,
                adding,
                leader,
            } => {
                let before = self.get(partition)?;
                let of_role = |wanted| move |replica: &Replica| replica.role == wanted;
                let replicas = joined(
                    before.named_or(replicas, |_| true),
                    &sorted(before.named_or(isr, |replica| replica.in_sync)),
                    &sorted(before.named_or(removing, of_role(ReplicaRole::Removing))),
                    &sorted(before.named_or(adding, of_role(ReplicaRole::Adding))),
                )?;
                let leader = leader.unwrap_or(before.leader);
                self.put(partition, Partition { leader, replicas }, may_need)?;
            }
            Record::Config {
                of_topic,
                of,
                key: "min.insync.replicas",
                value,
            } => self.configure(of_topic, of, value, may_need)?,
            Record::Migration { under_way } => self.migrating = under_way,
            Record::Config { .. }
            | Record::NoOp
            | Record::Other
            | Record::BeginTransaction
            | Record::EndTransaction
            | Record::AbortTransaction => return Ok(()),
        }
        self.changes += 1;
        Ok(())
    }

    fn register(
        &mut self,
        broker: RegisterBroker<'_>,
        may_need: MayNeed<'_>,
    ) -> Result<(), LogProblem> {
        let state = BrokerState {
            fenced: broker.fenced,
            in_controlled_shutdown: broker.in_controlled_shutdown,
            endpoint: broker.endpoint.map(|(host, port)| (host.into(), port)),
        };
        if self.brokers.insert(broker.id, state).is_none() {
            self.need(ENTRY, may_need)?;
        }
        match self.brokers.len() > MAX_BROKERS {
            true => Err(LogProblem::Brokers),
            false => Ok(()),
        }
    }

    fn configure(
        &mut self,
        of_topic: bool,
        of: &str,
        value: Option<&str>,
        may_need: MayNeed<'_>,
    ) -> Result<(), LogProblem> {
        let number = |text: &str| text.trim().parse::<u32>().map_err(|_| LogProblem::MinIsr);
        let value = value.map(number).transpose()?;
        if of_topic {
            return self.set_min_isr_of_topic(of, value, may_need);
        }
        if of.is_empty() {
            self.min_isr_of_all = value;
            return Ok(());
        }
        let id = of.parse::<i32>();
        let id = id.map_err(|_| LogProblem::Unknown("a broker"))?;
        let before = match value {
            Some(value) => {
                self.need(ENTRY, may_need)?;
                self.min_isr_of_brokers.insert(id, value)
            }
            None => self.min_isr_of_brokers.remove(&id),
        };
        before.inspect(|_| self.free(ENTRY));
        Ok(())
    }

    fn set_min_isr_of_topic(
        &mut self,
        name: &str,
        value: Option<u32>,
        may_need: MayNeed<'_>,
    ) -> Result<(), LogProblem> {
        let bytes = ENTRY + name.len();
        let before = match value {
            Some(value) => {
                self.need(bytes, may_need)?;
                self.min_isr_of_topics.insert(name.into(), value)
            }
            None => self.min_isr_of_topics.remove(name),
        };
        before.inspect(|_| self.free(bytes));
        Ok(())
    }

    fn get(&self, id: PartitionId) -> Result<&Partition, LogProblem> {
        let topic = self.topics.get(&id.topic);
        let topic = topic.ok_or(LogProblem::Unknown("a topic"))?;
        let index = usize::try_from(id.index).unwrap_or(usize::MAX);
        let partition = topic.partitions.get(index).and_then(Option::as_ref);
        partition.ok_or(LogProblem::Unknown("a partition"))
    }

    fn put(
        &mut self,
        id: PartitionId,
        partition: Partition,
        may_need: MayNeed<'_>,
    ) -> Result<(), LogProblem> {
        let index = usize::try_from(id.index).unwrap_or(usize::MAX);
        if index >= MOST_PARTITIONS {
            return Err(LogProblem::PartitionId(id.index));
        }
        let topic = self.topics.get(&id.topic);
        let topic = topic.ok_or(LogProblem::Unknown("a topic"))?;
        let (length, room) = (topic.partitions.len(), topic.partitions.capacity());
        // Some more than needed, so that few partitions at a time are copied.
        let wanted = match index < room {
            true => room,
            false => (index + 1).max(room + room / 4),
        };
        self.need(
            bytes_of_slots(wanted - room) + bytes_of_partition(&partition),
            may_need,
        )?;
        let topic = self.topics.get_mut(&id.topic);
        let topic = topic.ok_or(LogProblem::Unknown("a topic"))?;
        topic.partitions.reserve_exact(wanted - length);
        if index >= length {
            topic.partitions.resize_with(index + 1, || None);
        }
        let slot = topic.partitions.get_mut(index);
        let old = slot.and_then(|slot| slot.replace(partition));
        self.free(old.as_ref().map_or(0, bytes_of_partition));
        Ok(())
    }

    fn need(&mut self, bytes: usize, may_need: MayNeed<'_>) -> Result<(), LogProblem> {
        self.bytes = self.bytes.saturating_add(bytes);
        match may_need(self.bytes) {
            true => Ok(()),
            false => Err(LogProblem::NoRoom(self.bytes)),
        }
    }

    fn free(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

fn bytes_of(topic: &Topic) -> usize {
    let partitions = topic.partitions.iter().flatten();
    let partitions: usize = partitions.map(bytes_of_partition).sum();
    ENTRY + topic.name.len() + bytes_of_slots(topic.partitions.capacity()) + partitions
}

fn bytes_of_slots(count: usize) -> usize {
    count * size_of::<Option<Partition>>()
}

fn bytes_of_partition(partition: &Partition) -> usize {
    // What an allocation costs besides its content.
    const ALLOCATION: usize = 8;
    size_of_val(&*partition.replicas) + ALLOCATION
}

fn sorted(ids: impl IntoIterator<Item = i32>) -> Vec<i32> {
    let mut ids: Vec<i32> = ids.into_iter().collect();
    ids.sort_unstable();
    ids
}

/// The replicas in their order; the other lists are sorted.
fn joined(
    ids: Vec<i32>,
    isr: &[i32],
    removing: &[i32],
    adding: &[i32],
) -> Result<Box<[Replica]>, LogProblem> {
    let is_in = |list: &[i32], id: i32| list.binary_search(&id).is_ok();
    let all = sorted(ids.iter().copied());
    let mut pairs = all.iter().zip(all.iter().skip(1));
    if let Some((id, _)) = pairs.find(|(one, next)| one == next) {
        return Err(LogProblem::TwiceReplica(*id));
    }
    if let Some(id) = isr.iter().find(|id| !is_in(&all, **id)) {
        return Err(LogProblem::NoReplica(*id));
    }
    let replica = |id| Replica {
        id,
        in_sync: is_in(isr, id),
        role: match (is_in(adding, id), is_in(removing, id)) {
            (true, _) => ReplicaRole::Adding,
            (false, true) => ReplicaRole::Removing,
            (false, false) => ReplicaRole::Assigned,
        },
    };
    Ok(ids.into_iter().map(replica).collect())
}
