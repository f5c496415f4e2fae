//! Logs of real clusters (`cargo run -p lab -- record-metadata-log`), with what `kafka-topics` said at the same moment.

use std::path::Path;

use lab::cli_tools::described_partitions;
use lab::client::Partition;

use super::*;
use crate::kafka::metadata_log::batch::{self, Batch, Parsed};
use crate::kafka::metadata_log::image::Image;
use crate::kafka::metadata_log::record;
use crate::kafka::metadata_log::replay::{Applied, Replay, Watch};

const RECORDED: [&str; 2] = ["3.9.1", "4.3.0"];

struct Alone;

impl Watch for Alone {
    fn before_transaction(&mut self, _: &Image) {}

    fn may_need(&mut self, _: usize) -> bool {
        true
    }
}

struct Recorded {
    folder: PathBuf,
    /// The files of the log by name.
    files: BTreeMap<String, Vec<u8>>,
}

impl Recorded {
    fn of(version: &str) -> Recorded {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/metadata_log");
        let folder = fixtures.join(version);
        let entries = fs::read_dir(folder.join(FOLDER)).unwrap();
        let file = |entry: std::io::Result<fs::DirEntry>| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        };
        let files = entries.map(file).collect();
        Recorded { folder, files }
    }

    fn listed(&self, file: &str) -> Vec<Partition> {
        described_partitions(&fs::read_to_string(self.folder.join(file)).unwrap())
    }

    /// The segments from the first record on, joined.
    fn segments(&self) -> Vec<u8> {
        let segments = self.files.iter().filter(|(name, _)| name.ends_with(".log"));
        segments.flat_map(|(_, bytes)| bytes.clone()).collect()
    }
}

/// Replays whole batches.
fn replayed(bytes: &[u8]) -> Replay {
    let mut replay = Replay::default();
    let mut rest = bytes;
    while let Parsed::Whole(batch) = batch::parse(rest, replay.next_offset()).unwrap() {
        assert_eq!(replay.apply(&batch, &mut Alone).unwrap(), Applied::Whole);
        rest = &rest[batch.size..];
    }
    replay
}

/// Each whole batch with where it begins. The first one has the offset `next`.
fn batches(bytes: &[u8], mut next: i64) -> Vec<(usize, Batch<'_>)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Parsed::Whole(batch) = batch::parse(&bytes[at..], next).unwrap() {
        found.push((at, batch));
        at += batch.size;
        next = batch.last_offset + 1;
    }
    found
}

/// A segment is named by the offset of its first batch; a snapshot has offsets of its own.
fn first_offset(name: &str) -> i64 {
    match name.strip_suffix(".log") {
        Some(base) => base.parse().unwrap(),
        None => 0,
    }
}

/// Each partition as `kafka-topics` has it: topic, index, leader, replicas, ISR.
fn partitions(image: &Image) -> Vec<Partition> {
    let of_topic = |topic: &'_ crate::kafka::metadata_log::image::Topic| {
        let partition =
            |(index, of): (i32, &crate::kafka::metadata_log::image::Partition)| Partition {
                topic: topic.name.to_string(),
                partition: index,
                leader: (of.leader >= 0).then_some(of.leader),
                replicas: of.replicas.iter().map(|replica| replica.id).collect(),
                isr: of
                    .replicas
                    .iter()
                    .filter(|replica| replica.in_sync)
                    .map(|replica| replica.id)
                    .collect(),
            };
        topic.partitions().map(partition).collect::<Vec<_>>()
    };
    sorted(image.topics().flat_map(of_topic).collect())
}

fn sorted(mut partitions: Vec<Partition>) -> Vec<Partition> {
    partitions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    // The log does not keep the order of an ISR; the controller sorts the replicas by preference.
    partitions.iter_mut().for_each(|of| of.isr.sort_unstable());
    partitions
}

#[test]
fn every_partition_is_what_kafka_topics_said() {
    for version in RECORDED {
        let recorded = Recorded::of(version);
        let replay = replayed(&recorded.segments());
        let ours = partitions(replay.image());
        assert_eq!(ours, sorted(recorded.listed("describe.txt")), "{version}");
    }
}

#[test]
fn the_counts_are_those_of_kafka_topics_from_a_snapshot_and_from_the_first_record() {
    for version in RECORDED {
        let recorded = Recorded::of(version);
        let all = recorded.listed("describe.txt");
        let led = |file: &str, id: i32| {
            let listed = recorded.listed(file).into_iter();
            listed.filter(|of| of.leader == Some(id)).count() as u64
        };
        for with_snapshot in [true, false] {
            let mut offline = 0;
            for id in [1, 2] {
                let mut node = Node::new(id);
                for (name, bytes) in &recorded.files {
                    if with_snapshot || name.ends_with(".log") {
                        node.write(name, bytes);
                    }
                }
                let log = node.log();
                let counts = log.counts.unwrap();
                assert_eq!(counts.partitions, all.len() as u64);
                assert_eq!(counts.leader, led("describe.txt", id));
                assert_eq!(counts.under_replicated, led("under-replicated.txt", id));
                // A leader demands no more replicas than there are, and the tool has the raw number.
                let under = recorded.listed("under-min-isr.txt").into_iter();
                let is_capped = |of: &Partition| of.isr.len() == of.replicas.len();
                let capped = under.filter(|of| of.leader == Some(id) && is_capped(of));
                let capped = capped.count() as u64;
                let (under, at) = (led("under-min-isr.txt", id), led("at-min-isr.txt", id));
                assert_eq!(counts.under_min_isr, Some(under - capped));
                assert_eq!(counts.at_min_isr, Some(at + capped));
                offline = counts.offline;
                let live: Vec<i32> = counts.live_brokers.iter().map(|peer| peer.id).collect();
                assert_eq!((live, counts.absent), (vec![1, 2], [3].into()));
                let states: Vec<bool> = log.brokers.values().map(|of| of.fenced).collect();
                assert_eq!(states, [false, false, true]);
            }
            assert_eq!(
                offline,
                recorded.listed("unavailable.txt").len() as u64,
                "{version}"
            );
        }
        let has_snapshot = |name: &String| name.ends_with(".checkpoint");
        assert!(recorded.files.keys().any(has_snapshot), "{version}");
    }
}

/// `kafka-dump-log` prints a line `... payload: {"type":"PARTITION_RECORD","version":1,...}` for each record.
#[test]
fn kinds_and_versions_are_those_of_kafka_dump_log() {
    for version in RECORDED {
        let recorded = Recorded::of(version);
        let dump = fs::read_to_string(recorded.folder.join("dump-log.txt")).unwrap();
        let words = |line: &str, after: &str| -> Option<String> {
            let rest = line.split_once(after)?.1;
            Some(rest.split([',', '"', '}']).next()?.to_owned())
        };
        let mut theirs: BTreeMap<(String, u32), usize> = BTreeMap::new();
        for line in dump.lines() {
            if let Some(kind) = words(line, "\"type\":\"")
                && let Some(version) = words(line, "\"version\":")
            {
                *theirs.entry((kind, version.parse().unwrap())).or_default() += 1;
            }
        }
        let mut ours: BTreeMap<(u8, u8), usize> = BTreeMap::new();
        for (name, bytes) in &recorded.files {
            let batches = batches(bytes, first_offset(name)).into_iter();
            for (_, batch) in batches.filter(|(_, batch)| !batch.control) {
                batch
                    .each(|raw| {
                        let value = raw.value.unwrap();
                        record::read(value).unwrap();
                        *ours.entry((value[1], value[2])).or_default() += 1;
                        Ok(())
                    })
                    .unwrap();
            }
        }
        let names = [
            ("REGISTER_BROKER_RECORD", 0),
            ("TOPIC_RECORD", 2),
            ("PARTITION_RECORD", 3),
            ("CONFIG_RECORD", 4),
            ("PARTITION_CHANGE_RECORD", 5),
            ("REMOVE_TOPIC_RECORD", 9),
            ("BROKER_REGISTRATION_CHANGE_RECORD", 17),
            ("NO_OP_RECORD", 20),
        ];
        for (name, kind) in names {
            let of_kind = theirs.iter().filter(|((of, _), _)| of == name);
            let theirs: Vec<(u8, usize)> = of_kind
                .map(|((_, version), count)| (*version as u8, *count))
                .collect();
            let of_kind = ours.iter().filter(|((of, _), _)| *of == kind);
            let ours: Vec<(u8, usize)> = of_kind
                .map(|((_, version), count)| (*version, *count))
                .collect();
            assert_eq!(ours, theirs, "{version}: {name}");
            assert!(!ours.is_empty(), "{version}: {name}");
        }
        assert_eq!(
            ours.values().sum::<usize>(),
            theirs.values().sum::<usize>(),
            "{version}"
        );
    }
}

/// A log that is cut says what its whole batches say, and the rest when it comes.
#[test]
fn every_truncation_is_the_state_before_it() {
    for version in RECORDED {
        let bytes = Recorded::of(version).segments();
        let mut node = Node::new(1);
        let (mut replay, mut whole, mut ends) = (Replay::default(), 0, 0);
        let mut known = Known::default();
        known.count(&node.broker, replay.image());
        for end in 0..=bytes.len() {
            let rest = &bytes[whole..end];
            if let Parsed::Whole(batch) = batch::parse(rest, replay.next_offset()).unwrap() {
                assert_eq!(replay.apply(&batch, &mut Alone).unwrap(), Applied::Whole);
                whole = end;
                ends += 1;
                if !replay.in_transaction() {
                    known.count(&node.broker, replay.image());
                }
            }
            node.append(&segment(0), &bytes[end.saturating_sub(1)..end]);
            // The follower sees each byte come, and an exporter that starts sees the cut file.
            let at_an_end = end == whole;
            if at_an_end || end % 7 == 0 {
                let log = node.log();
                assert_eq!(
                    (log.end_offset, &log.counts),
                    (replay.next_offset(), &known.counts)
                );
            }
            if at_an_end || end % 97 == 0 {
                let mut cut = Node::new(1);
                cut.write(&segment(0), &bytes[..end]);
                let log = cut.log();
                assert_eq!(
                    (log.end_offset, &log.counts),
                    (replay.next_offset(), &known.counts)
                );
            }
        }
        assert!(ends > 50, "{ends}");
        println!("{version}: {} bytes, {ends} batches", bytes.len());
    }
}

/// No flipped bit makes other counts: the batch is refused or waits, and nothing after it is read.
#[test]
fn every_flipped_bit_is_an_error_or_the_state_before_it() {
    for version in RECORDED {
        let recorded = Recorded::of(version);
        for (name, bytes) in &recorded.files {
            let mut end = 0;
            for (at, batch) in batches(bytes, first_offset(name)) {
                let mut flipped = bytes[at..].to_vec();
                for bit in 0..batch.size * 8 {
                    let byte = bit / 8;
                    flipped[byte] ^= 1 << (bit % 8);
                    match batch::parse(&flipped, batch.base_offset) {
                        Err(_) | Ok(Parsed::Incomplete(_)) => {}
                        Ok(Parsed::Whole(other)) => {
                            assert!(
                                (12..16).contains(&byte),
                                "{version}: {name}: byte {}",
                                at + byte
                            );
                            assert_ne!(other.epoch, batch.epoch);
                        }
                    }
                    flipped[byte] ^= 1 << (bit % 8);
                }
                end = at + batch.size;
            }
            assert_eq!(end, bytes.len(), "{version}: {name}");
        }
        // The whole way, for one bit of each header and of each first record.
        let bytes = recorded.segments();
        let whole = partitions(replayed(&bytes).image());
        let mut node = Node::new(1);
        node.write(&segment(0), &bytes);
        let counts = node.counts();
        let batches = batches(&bytes, 0);
        let expected = batches.last().unwrap().1.last_offset + 1;
        for (number, (start, _)) in batches.iter().enumerate() {
            let mut flipped = bytes.clone();
            flipped[start + number * 5 % 70] ^= 1 << (number % 8);
            let mut cut = Node::new(1);
            cut.write(&segment(0), &flipped);
            let before = replayed(&bytes[..*start]);
            let mut known = Known::default();
            known.count(&cut.broker, before.image());
            match cut.read() {
                Err(_) => {}
                Ok(Update::Read(log)) if log.end_offset == expected => {
                    assert_eq!(log.counts.as_ref(), Some(&counts));
                }
                Ok(Update::Read(log)) => {
                    let read = (log.end_offset, &log.counts);
                    assert_eq!(read, (before.next_offset(), &known.counts));
                }
                Ok(other) => panic!("{other:?}"),
            }
        }
        assert!(whole.len() > 10);
    }
}
