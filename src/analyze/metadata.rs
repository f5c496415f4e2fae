//! Saved files of a metadata log (`__cluster_metadata-0`): snapshots and segments, read together as a node reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::kafka::metadata_log::LogError;
use crate::kafka::metadata_log::batch::{self, Parsed};
use crate::kafka::metadata_log::image::{BrokerState, Image};
use crate::kafka::metadata_log::replay::{Applied, Replay, Watch};

/// What the state of the cluster may need in memory. 200,000 partitions need 13 MiB.
const MOST_BYTES: usize = 128 << 20;
/// A transaction that was aborted makes the files be read again.
const MOST_PASSES: usize = 8;

/// The state of the cluster that the files of one folder give.
#[derive(Debug, Default)]
pub(super) struct Metadata<'a> {
    /// In the order in which they were read; the last one stands for all.
    pub(super) sources: Vec<&'a str>,
    /// The partitions as `kafka-topics --describe` prints them.
    pub(super) described: String,
    pub(super) brokers: BTreeMap<i32, BrokerState>,
    pub(super) partitions: u64,
    /// The offset after the last record.
    pub(super) end: i64,
    /// When the last record was written, in milliseconds since 1970.
    pub(super) written: u64,
    /// What was started and is not complete.
    pub(super) in_transaction: bool,
    /// Why the records after that offset are not in it.
    pub(super) problem: Option<Problem>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("{0} ends before the snapshot does")]
    CutSnapshot(String),
    #[error("the records from offset {from} to {to} are in none of the files")]
    Missing { from: i64, to: i64 },
    #[error("more than {MOST_PASSES} transactions were aborted")]
    Aborted,
}

impl Metadata<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.brokers.is_empty() && self.partitions == 0
    }

    /// The brokers that are registered.
    pub(super) fn ids(&self) -> BTreeSet<i32> {
        self.brokers.keys().copied().collect()
    }
}

struct Bounded;

impl Watch for Bounded {
    fn before_transaction(&mut self, _: &Image) {}

    fn may_need(&mut self, bytes: usize) -> bool {
        bytes <= MOST_BYTES
    }
}

/// A file of the log, with the offset of its first record; a snapshot's own offsets begin at 0.
struct Part<'a> {
    source: &'a str,
    bytes: &'a [u8],
    base: i64,
    /// The offset after the last record whose effect a snapshot has.
    snapshot_until: Option<i64>,
}

/// The metadata logs among the files, one for each folder.
pub(super) fn read(artifacts: &[(String, Vec<u8>)]) -> Vec<Metadata<'_>> {
    let mut folders: BTreeMap<&str, Vec<Part<'_>>> = BTreeMap::new();
    for (source, bytes) in artifacts {
        if let Some(part) = Part::of(source, bytes) {
            let folder = source.rsplit_once('/').map_or("", |(folder, _)| folder);
            folders.entry(folder).or_default().push(part);
        }
    }
    folders.into_values().map(whole).collect()
}

impl<'a> Part<'a> {
    /// None for what does not begin with a record batch.
    fn of(source: &'a str, bytes: &'a [u8]) -> Option<Part<'a>> {
        let base = i64::from_be_bytes(*bytes.first_chunk()?);
        let first = batch::parse(bytes, base).ok()?;
        let name = source.rsplit('/').next().unwrap_or(source);
        let snapshot = name.strip_suffix(".checkpoint");
        let snapshot_until = snapshot.and_then(|name| name.split('-').next()?.parse().ok());
        matches!(first, Parsed::Whole(_)).then_some(Part {
            source,
            bytes,
            base,
            snapshot_until,
        })
    }
}

/// Reads the newest snapshot, then the segments that follow it.
fn whole(mut parts: Vec<Part<'_>>) -> Metadata<'_> {
    parts.sort_by_key(|part| {
        (
            part.snapshot_until.is_none(),
            part.snapshot_until,
            part.base,
        )
    });
    let snapshots = parts.iter().filter(|part| part.snapshot_until.is_some());
    let newest = snapshots.clone().next_back();
    let from = newest.and_then(|part| part.snapshot_until).unwrap_or(0);
    let segments = parts.iter().filter(|part| part.snapshot_until.is_none());
    // The last segment that begins before the snapshot's end has what follows the snapshot.
    let first = segments
        .clone()
        .filter(|part| part.base <= from)
        .count()
        .saturating_sub(1);
    let in_order: Vec<&Part<'_>> = newest.into_iter().chain(segments.skip(first)).collect();

    let mut replay = Replay::default();
    let mut problem = Some(Problem::Aborted);
    for _ in 0..MOST_PASSES {
        problem = match pass(&mut replay, &in_order, from) {
            Ok(Applied::Whole) => None,
            Err(problem) => Some(problem),
            Ok(Applied::Aborted) => {
                replay = replay.again();
                continue;
            }
        };
        break;
    }
    let image = replay.image();
    let (described, partitions) = described(image);
    Metadata {
        sources: parts.iter().map(|part| part.source).collect(),
        described,
        brokers: image.brokers().clone(),
        partitions,
        end: replay.next_offset(),
        written: u64::try_from(replay.written()).unwrap_or(0),
        in_transaction: replay.in_transaction(),
        problem,
    }
}

/// Applies all files once.
fn pass(replay: &mut Replay, parts: &[&Part<'_>], from: i64) -> Result<Applied, Problem> {
    let mut expected = from;
    for part in parts {
        match part.snapshot_until {
            Some(_) => replay.go_on(0, 0),
            // What is before the first segment is unknown; what is missing between two is a gap.
            None if part.base > expected => {
                return Err(Problem::Missing {
                    from: expected,
                    to: part.base,
                });
            }
            None => replay.go_on(part.base, expected),
        }
        let mut rest = part.bytes;
        while let Parsed::Whole(batch) = batch::parse(rest, replay.next_offset())? {
            if replay.apply(&batch, &mut Bounded)? == Applied::Aborted {
                return Ok(Applied::Aborted);
            }
            rest = rest.get(batch.size..).unwrap_or_default();
        }
        match part.snapshot_until {
            None => expected = replay.next_offset(),
            Some(_) if replay.has_footer() => {}
            Some(_) => return Err(Problem::CutSnapshot(part.source.to_owned())),
        }
    }
    Ok(Applied::Whole)
}

fn described(image: &Image) -> (String, u64) {
    let mut text = String::new();
    let mut number = 0;
    let mut topics: Vec<_> = image.topics().collect();
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    for topic in topics {
        for (index, partition) in topic.partitions() {
            number += 1;
            let leader = match partition.leader {
                leader if leader >= 0 => leader.to_string(),
                _ => "none".to_owned(),
            };
            let ids = |is_wanted: fn(bool) -> bool| {
                let wanted = partition
                    .replicas
                    .iter()
                    .filter(|replica| is_wanted(replica.in_sync));
                let wanted: Vec<String> = wanted.map(|replica| replica.id.to_string()).collect();
                wanted.join(",")
            };
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "Topic: {}\tPartition: {index}\tLeader: {leader}\tReplicas: {}\tIsr: {}",
                topic.name,
                ids(|_| true),
                ids(|in_sync| in_sync),
            );
        }
    }
    (text, number)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::analyze::formats::topics;

    fn saved(version: &str) -> Vec<(String, Vec<u8>)> {
        let folder = format!(
            "{}/tests/fixtures/metadata_log/{version}/__cluster_metadata-0",
            env!("CARGO_MANIFEST_DIR")
        );
        let files = std::fs::read_dir(folder).unwrap().map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            (format!("node/{name}"), std::fs::read(&path).unwrap())
        });
        files.collect()
    }

    /// `describe.txt` is what `kafka-topics` printed at the same time.
    #[test]
    fn a_folder_says_what_the_tool_says() {
        for (version, expected) in [
            (
                "3.9.1",
                include_str!("../../tests/fixtures/metadata_log/3.9.1/describe.txt"),
            ),
            (
                "4.3.0",
                include_str!("../../tests/fixtures/metadata_log/4.3.0/describe.txt"),
            ),
        ] {
            let files = saved(version);
            let [found] = read(&files).try_into().unwrap();
            assert_eq!((&found.problem, found.sources.len()), (&None, files.len()));
            let rows = |text: &str| -> BTreeMap<(String, u32), _> {
                let rows = topics::partitions(text).map(|row| {
                    let ids = |list| topics::ids(list).collect::<BTreeSet<i32>>();
                    let key = (row.topic.to_owned(), row.partition);
                    (key, (row.leader, ids(row.replicas), ids(row.isr)))
                });
                rows.collect()
            };
            assert_eq!(rows(&found.described), rows(expected), "{version}");
            assert!(!found.is_empty() && found.partitions > 0);
            let fenced = found.brokers.iter().filter(|(_, state)| state.fenced);
            assert_eq!(fenced.map(|(id, _)| *id).collect::<Vec<_>>(), [3]);
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let mut files = saved("3.9.1");
        files.retain(|(name, _)| !name.ends_with(".checkpoint"));
        files.retain(|(name, _)| !name.contains("00000000.log"));
        let [found] = read(&files).try_into().unwrap();
        assert!(found.is_empty());
        assert_eq!(found.problem, Some(Problem::Missing { from: 0, to: 64 }));
        // A snapshot alone is whole.
        let mut files = saved("3.9.1");
        files.retain(|(name, _)| name.contains("154-0000000002"));
        let [found] = read(&files).try_into().unwrap();
        assert!(found.problem.is_none() && !found.is_empty());
        let cut = files[0].1.len() - 100;
        files[0].1.truncate(cut);
        let [found] = read(&files).try_into().unwrap();
        assert!(matches!(found.problem, Some(Problem::CutSnapshot(_))));
        assert!(read(&[("a.log".to_owned(), vec![0; 200])]).is_empty());
    }
}
