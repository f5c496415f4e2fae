//! The oracle of batches is the crate kafka-protocol; `lab::metadata_log` writes the records. Real logs are read in
//! `collect/metadata_log`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use lab::metadata_log as log;
use proptest::prelude::*;

use super::batch::{Batch, Parsed};
use super::image::{Image, ReplicaRole};
use super::record::{PartitionId, Record, RegisterBroker};
use super::replay::{Applied, Replay, Watch};
use super::*;
use crate::kafka::wire::Problem;

/// Enough for every test but that of the bound.
const ROOM: usize = 40 << 20;

struct Alone;

impl Watch for Alone {
    fn before_transaction(&mut self, _: &Image) {}

    fn may_need(&mut self, bytes: usize) -> bool {
        bytes <= ROOM
    }
}

/// Notes how many topics there were at the start of each transaction.
struct Topics<'a>(&'a mut Vec<usize>);

impl Watch for Topics<'_> {
    fn before_transaction(&mut self, image: &Image) {
        self.0.push(image.topics().count());
    }

    fn may_need(&mut self, _: usize) -> bool {
        true
    }
}

const TOPIC: log::Uuid = [5; 16];

fn whole(bytes: &[u8], expected: i64) -> Batch<'_> {
    match batch::parse(bytes, expected).unwrap() {
        Parsed::Whole(batch) => batch,
        Parsed::Incomplete(needed) => panic!("{needed} bytes needed of {}", bytes.len()),
    }
}

fn problem(bytes: &[u8], expected: i64) -> LogProblem {
    batch::parse(bytes, expected).unwrap_err().problem
}

fn partition(replicas: &[i32], isr: &[i32], leader: i32) -> log::Partition {
    log::Partition {
        topic: TOPIC,
        replicas: Some(replicas.to_vec()),
        isr: Some(isr.to_vec()),
        leader: Some(leader),
        ..log::Partition::default()
    }
}

/// Applies the records, in batches of two.
fn replayed(values: &[Vec<u8>]) -> Result<Replay, LogError> {
    let mut replay = Replay::default();
    for values in values.chunks(2) {
        let bytes = log::batch(replay.next_offset(), 1, 1000, values).unwrap();
        let batch = whole(&bytes, replay.next_offset());
        if replay.apply(&batch, &mut Alone)? == Applied::Aborted {
            replay = replay.again();
            return Err(LogProblem::Aborted(1).at(replay.next_offset()));
        }
    }
    Ok(replay)
}

/// Replicas of the only partition: id, whether in the ISR, role.
fn replicas(image: &Image) -> Vec<(i32, bool, ReplicaRole)> {
    let topic = image.topics().next().unwrap();
    let (_, partition) = topic.partitions().next().unwrap();
    let replicas = partition.replicas.iter();
    replicas
        .map(|replica| (replica.id, replica.in_sync, replica.role))
        .collect()
}

proptest! {
    #[test]
    fn batches_of_the_oracle_are_read(
        base in 0..i64::MAX / 2, epoch: i32, written: i64,
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..20),
    ) {
        let bytes = log::batch(base, epoch, written, &values).unwrap();
        let batch = whole(&bytes, base);
        prop_assert_eq!((batch.base_offset, batch.last_offset), (base, base + values.len() as i64 - 1));
        prop_assert_eq!((batch.epoch, batch.written, batch.control, batch.size), (epoch, written, false, bytes.len()));
        let mut read = Vec::new();
        batch.each(|record| {
            assert_eq!((record.offset, record.key), (base + read.len() as i64, None));
            read.push(record.value.unwrap().to_vec());
            Ok(())
        }).unwrap();
        prop_assert_eq!(read, values);
    }

    #[test]
    fn anything_else_is_an_error_or_waits(bytes in prop::collection::vec(any::<u8>(), 0..200), expected: i64) {
        if let Ok(Parsed::Whole(_)) = batch::parse(&bytes, expected) {
            panic!("random bytes with the right checksum");
        }
        let _ = record::read(&bytes);
    }

    #[test]
    fn a_cut_or_changed_record_is_never_another_kind(
        kind in 0_usize..6, cut in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(), bit in 0_u32..8,
    ) {
        let values = [
            log::register_broker(4, 1, 9092, true, false),
            log::partition(2, &partition(&[1, 2], &[1], 1)),
            log::partition_change(&partition(&[1, 2], &[1], 1)),
            log::topic("orders", TOPIC),
            log::config(2, "orders", "min.insync.replicas", Some("2")),
            log::broker_change(1, 1, true),
        ];
        let value = &values[kind];
        // Without its last byte, the number of tagged fields, no record is whole.
        prop_assert!(record::read(&value[..cut.index(value.len())]).is_err());
        let mut changed = value.clone();
        changed[byte.index(value.len())] ^= 1_u8 << bit;
        let _ = record::read(&changed);
    }
}

#[test]
fn a_batch_that_is_not_whole_waits() {
    let bytes = log::batch(7, 1, 1000, &[log::no_op(), log::no_op()]).unwrap();
    for length in 0..bytes.len() {
        let Ok(Parsed::Incomplete(needed)) = batch::parse(&bytes[..length], 7) else {
            panic!("{length} bytes")
        };
        assert!(
            needed > length && needed <= bytes.len(),
            "{needed}, {length}"
        );
    }
    // The end of a file may be there before its bytes.
    assert!(matches!(
        batch::parse(&[0; 4096], 7),
        Ok(Parsed::Incomplete(_))
    ));
}

#[test]
fn every_flipped_bit_of_a_batch_is_an_error_or_waits() {
    let bytes = log::batch(7, 1, 1000, &[log::topic("orders", TOPIC)]).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match batch::parse(&flipped, 7) {
            Err(_) | Ok(Parsed::Incomplete(_)) => {}
            // The checksum does not cover the epoch, which changes no count.
            Ok(Parsed::Whole(batch)) => {
                assert!((12..16).contains(&(bit / 8)), "byte {}", bit / 8);
                assert_ne!(batch.epoch, 1);
            }
        }
    }
}

#[test]
fn what_is_not_a_batch_of_this_log() {
    let bytes = log::batch(7, 1, 1000, &[log::no_op()]).unwrap();
    let with = |at: usize, new: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        let checksum = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&checksum.to_be_bytes());
        bytes
    };
    assert_eq!(problem(&bytes, 8), LogProblem::Order(8));
    assert_eq!(problem(&with(8, &[0xff; 4]), 7), LogProblem::Length(-1));
    assert_eq!(problem(&with(8, &[0, 0, 0, 9]), 7), LogProblem::Length(9));
    assert_eq!(
        problem(&with(8, &[9, 0, 0, 0]), 7),
        LogProblem::Length(9 << 24)
    );
    assert_eq!(problem(&with(16, &[1]), 7), LogProblem::Magic(1));
    assert_eq!(problem(&with(22, &[1]), 7), LogProblem::Compressed);
    // More records than there are, and none.
    assert!(matches!(
        problem(&with(57, &[0, 0, 0, 2]), 7),
        LogProblem::Wire(_)
    ));
    let two = with(23, &[0, 0, 0, 1]);
    assert!(matches!(problem(&two, 7), LogProblem::Wire(_)));
}

#[test]
fn versions_and_kinds_that_are_not_known_are_errors_that_name_them() {
    let version = |name, version, newest| LogProblem::Version {
        name,
        version,
        newest,
    };
    let table = [
        (log::other(3, 3), version("Partition", 3, 2)),
        (log::other(0, 5), version("RegisterBroker", 5, 4)),
        (log::other(5, 3), version("PartitionChange", 3, 2)),
        (log::other(23, 1), version("BeginTransaction", 1, 0)),
        (log::other(30, 0), LogProblem::Kind(30)),
        (vec![2, 3, 0], LogProblem::Frame(2)),
    ];
    for (value, expected) in table {
        assert_eq!(record::read(&value).unwrap_err(), expected);
    }
    // They say nothing of what is counted, whatever their version.
    for kind in [10, 11, 12, 14, 15, 18, 19, 22, 26, 27, 28, 29] {
        assert_eq!(record::read(&log::other(kind, 9)), Ok(Record::Other));
    }
    assert_eq!(record::read(&log::no_op()), Ok(Record::NoOp));
    let message = version("Partition", 3, 2).at(41).to_string();
    assert!(
        message.starts_with("offset 41: a record Partition of version 3; "),
        "{message}"
    );
}

#[test]
fn a_broker_registers_in_every_version() {
    for version in 0..=4 {
        for (fenced, shutdown) in [(true, false), (false, true)] {
            let value = log::register_broker(version, 3, 9092, fenced, shutdown);
            let expected = RegisterBroker {
                id: 3,
                fenced,
                in_controlled_shutdown: shutdown && version >= 1,
                endpoint: Some(("host.example", 9092)),
            };
            assert_eq!(record::read(&value), Ok(Record::RegisterBroker(expected)));
        }
    }
}

#[test]
fn brokers_are_fenced_by_old_and_new_records() {
    let states = |values: &[Vec<u8>]| {
        let replay = replayed(values).unwrap();
        let states = replay.image().brokers().iter();
        let states = states.map(|(id, state)| (*id, state.fenced, state.in_controlled_shutdown));
        states.collect::<Vec<_>>()
    };
    let register = |id| log::register_broker(4, id, 9092, true, false);
    let mut values = vec![
        register(1),
        register(2),
        log::broker_change(1, -1, false),
        log::fence_broker(2, false),
        log::broker_change(1, 0, true),
    ];
    assert_eq!(states(&values), [(1, false, true), (2, false, false)]);
    values.extend([log::broker_change(1, 1, false), log::fence_broker(2, true)]);
    assert_eq!(states(&values), [(1, true, true), (2, true, false)]);
    // It registers again when it starts again.
    values.extend([register(1), log::unregister_broker(2)]);
    assert_eq!(states(&values), [(1, true, false)]);
    values.push(log::fence_broker(2, true));
    let error = replayed(&values).unwrap_err();
    assert_eq!(error, LogProblem::Unknown("a broker").at(9));
}

#[test]
fn a_reassignment_from_begin_to_end() {
    use ReplicaRole::{Adding, Assigned, Removing};
    let mut values = vec![
        log::topic("orders", TOPIC),
        log::partition(1, &partition(&[1], &[1], 1)),
    ];
    let change = |replicas: Option<&[i32]>,
                  isr: Option<&[i32]>,
                  removing: Option<&[i32]>,
                  adding: Option<&[i32]>| {
        let list = |ids: Option<&[i32]>| ids.map(<[i32]>::to_vec);
        log::partition_change(&log::Partition {
            topic: TOPIC,
            index: 0,
            replicas: list(replicas),
            isr: list(isr),
            removing: list(removing),
            adding: list(adding),
            leader: None,
        })
    };
    values.push(change(Some(&[1, 2, 3]), None, Some(&[1]), Some(&[2, 3])));
    let now = |values: &[Vec<u8>]| replicas(replayed(values).unwrap().image());
    assert_eq!(
        now(&values),
        [(1, true, Removing), (2, false, Adding), (3, false, Adding)]
    );
    values.push(change(None, Some(&[1, 3]), None, None));
    assert_eq!(
        now(&values),
        [(1, true, Removing), (2, false, Adding), (3, true, Adding)]
    );
    values.push(change(Some(&[2, 3]), Some(&[3, 2]), Some(&[]), Some(&[])));
    assert_eq!(now(&values), [(2, true, Assigned), (3, true, Assigned)]);
    // A record that makes no sense is no count.
    values.push(change(None, Some(&[4]), None, None));
    assert_eq!(
        replayed(&values).unwrap_err().problem,
        LogProblem::NoReplica(4)
    );
    values.pop();
    values.push(change(Some(&[2, 3, 2]), None, None, None));
    assert_eq!(
        replayed(&values).unwrap_err().problem,
        LogProblem::TwiceReplica(2)
    );
    let many: Vec<i32> = (2..=258).collect();
    values.pop();
    values.push(change(Some(&many[..256]), None, None, None));
    assert_eq!(now(&values).len(), 256);
    values.pop();
    values.push(change(Some(&many), None, None, None));
    let problem = replayed(&values).unwrap_err().problem.to_string();
    assert!(
        problem.contains("at most 256 expected, 257 announced"),
        "{problem}"
    );
}

#[test]
fn min_isr_of_topic_broker_and_cluster() {
    let key = "min.insync.replicas";
    let mut values = vec![log::topic("orders", TOPIC)];
    let min_isr = |values: &[Vec<u8>]| {
        let replay = replayed(values).unwrap();
        [("orders", 1), ("orders", 2), ("other", 1)]
            .map(|(topic, id)| replay.image().min_isr(topic, id))
    };
    assert_eq!(min_isr(&values), [None, None, None]);
    values.push(log::config(4, "", key, Some("2")));
    values.push(log::config(4, "", "log.retention.ms", Some("2")));
    assert_eq!(min_isr(&values), [Some(2), Some(2), Some(2)]);
    values.push(log::config(4, "1", key, Some("4")));
    assert_eq!(min_isr(&values), [Some(4), Some(2), Some(4)]);
    values.push(log::config(2, "orders", key, Some("3")));
    assert_eq!(min_isr(&values), [Some(3), Some(3), Some(4)]);
    values.push(log::config(4, "1", key, None));
    values.push(log::config(4, "", key, None));
    assert_eq!(min_isr(&values), [Some(3), Some(3), None]);
    // A topic of the same name later does not have it.
    values.push(log::remove_topic(TOPIC));
    assert_eq!(min_isr(&values), [None, None, None]);
    values.push(log::config(2, "orders", key, Some("many")));
    assert_eq!(replayed(&values).unwrap_err().problem, LogProblem::MinIsr);
}

#[test]
fn records_of_a_transaction_count_when_it_ends_and_never_when_it_is_aborted() {
    let topics = |replay: &Replay| replay.image().topics().count();
    let (begin, end) = (log::begin_transaction(), log::end_transaction());
    let values = vec![
        log::topic("a", [1; 16]),
        begin.clone(),
        log::topic("b", [2; 16]),
    ];
    let mut seen = Vec::new();
    let mut replay = Replay::default();
    let mut apply = |replay: &mut Replay, values: &[Vec<u8>]| {
        let bytes = log::batch(replay.next_offset(), 1, 1000, values).unwrap();
        let batch = whole(&bytes, replay.next_offset());
        replay.apply(&batch, &mut Topics(&mut seen))
    };
    assert_eq!(apply(&mut replay, &values), Ok(Applied::Whole));
    assert!(replay.in_transaction());
    assert_eq!(
        apply(&mut replay, std::slice::from_ref(&end)),
        Ok(Applied::Whole)
    );
    assert!(!replay.in_transaction());
    assert_eq!(topics(&replay), 2);
    let aborted = [
        begin.clone(),
        log::topic("c", [3; 16]),
        log::abort_transaction(),
        log::topic("d", [4; 16]),
    ];
    assert_eq!(apply(&mut replay, &aborted), Ok(Applied::Aborted));
    let mut again = replay.again();
    assert_eq!(apply(&mut again, &values), Ok(Applied::Whole));
    assert_eq!(
        apply(&mut again, std::slice::from_ref(&end)),
        Ok(Applied::Whole)
    );
    assert_eq!(apply(&mut again, &aborted), Ok(Applied::Whole));
    assert_eq!(topics(&again), 3);
    assert!(!again.in_transaction());
    let nested = apply(&mut again, &[begin.clone(), begin]);
    assert_eq!(nested.unwrap_err().problem, LogProblem::Transaction);
    assert_eq!(
        apply(&mut Replay::default(), &[end]).unwrap_err().problem,
        LogProblem::Transaction
    );
    assert_eq!(seen, [1, 2, 1, 3]);
}

#[test]
fn what_grows_without_bound_is_refused() {
    let topic = log::topic("orders", TOPIC);
    let far = log::Partition {
        index: i32::MAX,
        ..partition(&[1], &[1], 1)
    };
    let error = replayed(&[topic.clone(), log::partition(0, &far)]).unwrap_err();
    assert_eq!(error.problem, LogProblem::PartitionId(i32::MAX));
    // A million slots for one partition each.
    let topics = (0..16_u8).flat_map(|id| {
        let far = log::Partition {
            topic: [id; 16],
            index: (1 << 20) - 1,
            ..partition(&[1], &[1], 1)
        };
        [log::topic("orders", [id; 16]), log::partition(0, &far)]
    });
    let error = replayed(&topics.collect::<Vec<_>>()).unwrap_err();
    let LogProblem::NoRoom(needed) = error.problem else {
        panic!("{error}")
    };
    assert!((ROOM..ROOM * 2).contains(&needed), "{needed}");
    // As many replicas as a partition may have, and none of it stays when the topic goes.
    let many: Vec<i32> = (0..256).collect();
    let big = log::partition(0, &partition(&many, &[], -1));
    let replay = replayed(&[topic.clone(), big.clone()]).unwrap();
    assert!(replay.image().bytes() > 256 * 8);
    let replay = replayed(&[
        topic.clone(),
        big.clone(),
        big,
        topic,
        log::remove_topic(TOPIC),
    ])
    .unwrap();
    assert_eq!(replay.image().bytes(), 0);
}

#[test]
fn a_list_that_announces_more_than_there_is() {
    let mut value = log::partition(0, &partition(&[1], &[1], 1));
    // The length of the replicas, behind frame, kind, version, index and topic.
    value[23] = 0x7f;
    let error = record::read(&value).unwrap_err();
    let LogProblem::Wire(error) = error else {
        panic!("{error}")
    };
    assert_eq!(error.field, "replicas");
    assert!(
        matches!(error.problem, Problem::Count { count: 126, .. }),
        "{error}"
    );
    let id = PartitionId {
        topic: TOPIC,
        index: 0,
    };
    let value = log::partition_change(&partition(&[1], &[1], 1));
    let read = record::read(&value);
    assert!(matches!(read, Ok(Record::PartitionChange { partition, .. }) if partition == id));
}

#[test]
fn the_pulse_is_the_time_between_no_ops_as_long_as_they_come() {
    let mut replay = Replay::default();
    let mut pulse_after = |written: i64, value: Vec<u8>| {
        let bytes = log::batch(replay.next_offset(), 1, written, &[value]).unwrap();
        let batch = whole(&bytes, replay.next_offset());
        assert_eq!(replay.apply(&batch, &mut Alone), Ok(Applied::Whole));
        replay.pulse().map(|pulse| pulse.as_millis())
    };
    assert_eq!(pulse_after(1_000, log::topic("orders", TOPIC)), None);
    assert_eq!(pulse_after(9_000, log::no_op()), None);
    assert_eq!(pulse_after(9_500, log::no_op()), Some(500));
    assert_eq!(pulse_after(10_100, log::topic("other", [6; 16])), Some(500));
    // The next leader writes none.
    assert_eq!(pulse_after(14_000, log::topic("third", [7; 16])), None);
    assert_eq!(pulse_after(14_500, log::no_op()), Some(5_000));
}
