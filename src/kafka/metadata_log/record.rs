//! The metadata records that the state of the cluster needs. The others are passed over.
//!
//! Their fields are those of `metadata/src/main/resources/common/metadata/*.json` in Kafka, 3.3 to 4.3.0.

use super::super::reader::{Ids, Problem, Reader, WireError};
use super::super::wire::{MAX_HOST_BYTES, MAX_TOPIC_BYTES};
use super::LogProblem;
pub use super::encoding::Uuid;

/// One record, in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    RegisterBroker(RegisterBroker<'a>),
    UnregisterBroker {
        id: i32,
    },
    BrokerChange {
        id: i32,
        /// None is unchanged.
        fenced: Option<bool>,
        /// Whether the broker has asked for it; it stays so until it registers again.
        in_controlled_shutdown: bool,
    },
    Topic {
        name: &'a str,
        id: Uuid,
    },
    RemoveTopic {
        id: Uuid,
    },
    Partition {
        partition: PartitionId,
        replicas: Ids<'a>,
        isr: Ids<'a>,
        removing: Ids<'a>,
        adding: Ids<'a>,
        leader: i32,
    },
    /// None is unchanged.
    PartitionChange {
        partition: PartitionId,
        replicas: Option<Ids<'a>>,
        isr: Option<Ids<'a>>,
        removing: Option<Ids<'a>>,
        adding: Option<Ids<'a>>,
        leader: Option<i32>,
    },
    /// Of a topic or broker, by name; the broker's name is empty for all brokers.
    Config {
        of_topic: bool,
        of: &'a str,
        key: &'a str,
        /// None takes it away.
        value: Option<&'a str>,
    },
    /// Whether ZooKeeper has the truth, because the cluster has not finished its migration.
    Migration {
        under_way: bool,
    },
    BeginTransaction,
    EndTransaction,
    AbortTransaction,
    /// Written at a regular interval while nothing else is.
    NoOp,
    /// Known, and without effect on what is counted.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegisterBroker<'a> {
    pub id: i32,
    pub fenced: bool,
    pub in_controlled_shutdown: bool,
    /// Host and port of its first PLAINTEXT listener.
    pub endpoint: Option<(&'a str, u16)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionId {
    pub topic: Uuid,
    pub index: i32,
}

/// Kinds whose fields are read, with the newest version that is known. Kinds that are passed over have none.
const KINDS: [(u32, Option<u32>, &str); 27] = [
    (REGISTER_BROKER, Some(4), "RegisterBroker"),
    (UNREGISTER_BROKER, Some(0), "UnregisterBroker"),
    (TOPIC, Some(0), "Topic"),
    (PARTITION, Some(2), "Partition"),
    (CONFIG, Some(0), "Config"),
    (PARTITION_CHANGE, Some(2), "PartitionChange"),
    (FENCE_BROKER, Some(0), "FenceBroker"),
    (UNFENCE_BROKER, Some(0), "UnfenceBroker"),
    (REMOVE_TOPIC, Some(0), "RemoveTopic"),
    (10, None, "DelegationToken"),
    (11, None, "UserScramCredential"),
    (12, None, "FeatureLevel"),
    (14, None, "ClientQuota"),
    (15, None, "ProducerIds"),
    (BROKER_CHANGE, Some(3), "BrokerRegistrationChange"),
    (18, None, "AccessControlEntry"),
    (19, None, "RemoveAccessControlEntry"),
    (NO_OP, None, "NoOp"),
    (MIGRATION, Some(0), "ZkMigrationState"),
    (22, None, "RemoveUserScramCredential"),
    (BEGIN_TRANSACTION, Some(0), "BeginTransaction"),
    (END_TRANSACTION, Some(0), "EndTransaction"),
    (ABORT_TRANSACTION, Some(0), "AbortTransaction"),
    (26, None, "RemoveDelegationToken"),
    (27, None, "RegisterController"),
    (28, None, "ClearElr"),
    (29, None, "UnregisterController"),
];

const REGISTER_BROKER: u32 = 0;
const UNREGISTER_BROKER: u32 = 1;
const TOPIC: u32 = 2;
const PARTITION: u32 = 3;
const CONFIG: u32 = 4;
const PARTITION_CHANGE: u32 = 5;
const FENCE_BROKER: u32 = 7;
const UNFENCE_BROKER: u32 = 8;
const REMOVE_TOPIC: u32 = 9;
const BROKER_CHANGE: u32 = 17;
const NO_OP: u32 = 20;
const MIGRATION: u32 = 21;
const BEGIN_TRANSACTION: u32 = 23;
const END_TRANSACTION: u32 = 24;
const ABORT_TRANSACTION: u32 = 25;

/// Resource types of a config.
const OF_TOPIC: i8 = 2;
const OF_BROKER: i8 = 4;
/// The PLAINTEXT protocol in the list of endpoints.
const PLAINTEXT: i16 = 0;
/// Names and values of configs are only compared.
const ANY_LENGTH: usize = usize::MAX;

/// Reads the value of a record.
///
/// # Errors
/// It is malformed, or of a kind or version that is not known.
pub fn read(value: &[u8]) -> Result<Record<'_>, LogProblem> {
    let mut reader = Reader::new(value);
    let frame = reader.unsigned_varint("frame version")?;
    if frame > 1 {
        return Err(LogProblem::Frame(frame));
    }
    let kind = reader.unsigned_varint("record kind")?;
    let version = reader.unsigned_varint("record version")?;
    let known = KINDS.iter().find(|(known, ..)| *known == kind);
    let Some(&(_, newest, name)) = known else {
        return Err(LogProblem::Kind(kind));
    };
    let Some(newest) = newest else {
        return Ok(match kind {
            NO_OP => Record::NoOp,
            _ => Record::Other,
        });
    };
    if version > newest {
        return Err(LogProblem::Version {
            name,
            version,
            newest,
        });
    }
    let record = fields(&mut reader, kind, version)?;
    reader.end(name)?;
    Ok(record)
}

fn fields<'a>(reader: &mut Reader<'a>, kind: u32, version: u32) -> Result<Record<'a>, WireError> {
    let record = match kind {
        REGISTER_BROKER => Record::RegisterBroker(register_broker(reader, version)?),
        UNREGISTER_BROKER => {
            let id = reader.int32("broker id")?;
            reader.int64("broker epoch")?;
            Record::UnregisterBroker { id }
        }
        FENCE_BROKER | UNFENCE_BROKER => {
            let id = reader.int32("broker id")?;
            reader.int64("broker epoch")?;
            Record::BrokerChange {
                id,
                fenced: Some(kind == FENCE_BROKER),
                in_controlled_shutdown: false,
            }
        }
        BROKER_CHANGE => return broker_change(reader),
        TOPIC => Record::Topic {
            name: reader.text(MAX_TOPIC_BYTES, "topic name")?,
            id: reader.uuid("topic id")?,
        },
        REMOVE_TOPIC => Record::RemoveTopic {
            id: reader.uuid("topic id")?,
        },
        PARTITION => {
            let partition = partition_id(reader)?;
            let record = Record::Partition {
                partition,
                replicas: reader.broker_ids("replicas")?,
                isr: reader.broker_ids("isr")?,
                removing: reader.broker_ids("removing replicas")?,
                adding: reader.broker_ids("adding replicas")?,
                leader: reader.int32("leader")?,
            };
            reader.int32("leader epoch")?;
            reader.int32("partition epoch")?;
            if version >= 1 {
                directories(reader)?;
            }
            record
        }
        PARTITION_CHANGE => return partition_change(reader),
        CONFIG => {
            let resource = reader.int8("resource type")?;
            let of = reader.text(ANY_LENGTH, "resource name")?;
            let key = reader.text(ANY_LENGTH, "config name")?;
            let value = reader.compact_string(ANY_LENGTH, "config value")?;
            match resource {
                OF_TOPIC | OF_BROKER => Record::Config {
                    of_topic: resource == OF_TOPIC,
                    of,
                    key,
                    value,
                },
                _ => Record::Other,
            }
        }
        MIGRATION => {
            let start = reader.clone();
            match reader.int8("migration state")? {
                0 | 3 => Record::Migration { under_way: false },
                // 3.4 wrote these two the other way round.
                1 | 2 => Record::Migration { under_way: true },
                other => {
                    let problem = Problem::NoSuchValue(other.into());
                    return Err(start.error("migration state", problem));
                }
            }
        }
        BEGIN_TRANSACTION => Record::BeginTransaction,
        END_TRANSACTION => Record::EndTransaction,
        _ => Record::AbortTransaction,
    };
    reader.tagged(|_, _| Ok(()))?;
    Ok(record)
}

fn register_broker<'a>(
    reader: &mut Reader<'a>,
    version: u32,
) -> Result<RegisterBroker<'a>, WireError> {
    let id = reader.int32("broker id")?;
    if version >= 2 {
        reader.boolean("is a migrating broker")?;
    }
    reader.uuid("incarnation id")?;
    reader.int64("broker epoch")?;
    let mut endpoint = None;
    for _ in 0..required_count(reader, 7, "endpoints")? {
        reader.compact_string(ANY_LENGTH, "listener name")?;
        let host = reader.text(MAX_HOST_BYTES, "listener host")?;
        let port = u16::from_be_bytes(reader.array("listener port")?);
        if reader.int16("security protocol")? == PLAINTEXT {
            endpoint = endpoint.or(Some((host, port)));
        }
        reader.tagged(|_, _| Ok(()))?;
    }
    for _ in 0..required_count(reader, 6, "features")? {
        reader.compact_string(ANY_LENGTH, "feature name")?;
        reader.int16("oldest feature version")?;
        reader.int16("newest feature version")?;
        reader.tagged(|_, _| Ok(()))?;
    }
    reader.compact_string(ANY_LENGTH, "rack")?;
    let fenced = reader.boolean("fenced")?;
    let in_controlled_shutdown = version >= 1 && reader.boolean("in controlled shutdown")?;
    Ok(RegisterBroker {
        id,
        fenced,
        in_controlled_shutdown,
        endpoint,
    })
}

fn broker_change<'a>(reader: &mut Reader<'a>) -> Result<Record<'a>, WireError> {
    let id = reader.int32("broker id")?;
    reader.int64("broker epoch")?;
    let (mut fenced, mut in_controlled_shutdown) = (None, false);
    reader.tagged(|tag, field| {
        let start = field.clone();
        let wrong = |value: i8| start.error("broker change", Problem::NoSuchValue(value.into()));
        match tag {
            0 => {
                fenced = match field.int8("fenced")? {
                    -1 => Some(false),
                    0 => None,
                    1 => Some(true),
                    other => return Err(wrong(other)),
                }
            }
            1 => {
                in_controlled_shutdown = match field.int8("in controlled shutdown")? {
                    0 => false,
                    1 => true,
                    other => return Err(wrong(other)),
                }
            }
            _ => return Ok(()),
        }
        field.end("broker change")
    })?;
    Ok(Record::BrokerChange {
        id,
        fenced,
        in_controlled_shutdown,
    })
}

fn partition_change<'a>(reader: &mut Reader<'a>) -> Result<Record<'a>, WireError> {
    let partition = partition_id(reader)?;
    let (mut replicas, mut isr, mut removing, mut adding) = (None, None, None, None);
    let mut leader = None;
    reader.tagged(|tag, field| {
        match tag {
            0 => isr = field.compact_ids("isr")?,
            1 => leader = Some(field.int32("leader")?).filter(|leader| *leader != UNCHANGED),
            2 => replicas = field.compact_ids("replicas")?,
            3 => removing = field.compact_ids("removing replicas")?,
            4 => adding = field.compact_ids("adding replicas")?,
            _ => return Ok(()),
        }
        field.end("partition change")
    })?;
    Ok(Record::PartitionChange {
        partition,
        replicas,
        isr,
        removing,
        adding,
        leader,
    })
}

/// A leader in a change that leaves it as it is.
const UNCHANGED: i32 = -2;

fn partition_id(reader: &mut Reader<'_>) -> Result<PartitionId, WireError> {
    let index = reader.int32("partition")?;
    let topic = reader.uuid("topic id")?;
    Ok(PartitionId { topic, index })
}

fn directories(reader: &mut Reader<'_>) -> Result<(), WireError> {
    let count = required_count(reader, 16, "directories")?;
    reader.take(count * 16, "directories").map(drop)
}

fn required_count(
    reader: &mut Reader<'_>,
    each: usize,
    field: &'static str,
) -> Result<usize, WireError> {
    let start = reader.clone();
    let count = reader.compact_count(each, field)?;
    count.ok_or_else(|| start.error(field, Problem::Null))
}
