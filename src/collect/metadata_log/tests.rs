//! Logs that the test writes, and recorded ones with what `kafka-topics` said of them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod model;
mod recorded;

use std::fs;
use std::path::PathBuf;

use lab::metadata_log as log;

use super::*;
use crate::model::ClusterSource;
use crate::model::ProcessKey;

const TOPIC: log::Uuid = [5; 16];
const WRITTEN: i64 = 1_700_000_000_000;

/// A node with a folder for its log. Its process is this one.
struct Node {
    holder: tempfile::TempDir,
    broker: Arc<Broker>,
    logs: MetadataLogs,
}

impl Node {
    fn new(id: i32) -> Node {
        let holder = tempfile::tempdir().unwrap();
        fs::create_dir(holder.path().join(FOLDER)).unwrap();
        let proc = ProcRoot::new("/proc");
        let pid = std::process::id();
        let start_ticks = proc.stat(pid).unwrap().start_ticks;
        let broker = Arc::new(Broker {
            id: Some(id),
            metadata_log_dir: Some(holder.path().to_path_buf()),
            min_insync_replicas: Some(1),
            ..Broker::unknown(ProcessKey { pid, start_ticks })
        });
        let logs = MetadataLogs::of(&proc, &broker, Clock::start());
        Node {
            holder,
            broker,
            logs,
        }
    }

    /// The node 1, whose log has the beginning.
    fn with_beginning() -> Node {
        let node = Node::new(1);
        node.write(&segment(0), &batch(0, 1, &beginning()));
        node
    }

    /// The same node for an exporter that has just started.
    fn start_again(&mut self) {
        self.logs = MetadataLogs::of(&ProcRoot::new("/proc"), &self.broker, Clock::start());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.holder.path().join(FOLDER).join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn append(&self, name: &str, bytes: &[u8]) {
        use std::io::Write as _;
        let mut file = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path(name));
        file.as_mut().unwrap().write_all(bytes).unwrap();
    }

    fn read(&mut self) -> Result<Update, Failure> {
        self.logs.collect().map(|run| run.update)
    }

    /// Reads to the end.
    #[track_caller]
    fn log(&mut self) -> MetadataLog {
        for _ in 0..10 {
            if let Update::Read(log) = self.read().unwrap() {
                return *log;
            }
        }
        panic!("it does not come to an end")
    }

    fn counts(&mut self) -> ClusterCounts {
        self.log().counts.unwrap()
    }

    fn failure(&mut self) -> String {
        let failure = self.read().unwrap_err();
        assert_eq!(failure, self.read().unwrap_err(), "it stays for a while");
        self.start_again();
        failure.message
    }
}

fn segment(base: i64) -> String {
    format!("{base:020}.log")
}

fn partition(index: i32, replicas: &[i32], isr: &[i32], leader: i32) -> Vec<u8> {
    log::partition(
        1,
        &log::Partition {
            topic: TOPIC,
            index,
            replicas: Some(replicas.to_vec()),
            isr: Some(isr.to_vec()),
            leader: Some(leader),
            ..log::Partition::default()
        },
    )
}

fn shrink(index: i32, isr: &[i32]) -> Vec<u8> {
    log::partition_change(&log::Partition {
        topic: TOPIC,
        index,
        isr: Some(isr.to_vec()),
        ..log::Partition::default()
    })
}

/// Three brokers and a topic of two partitions, led by 1 and 2: offsets 0 to 5.
fn beginning() -> Vec<Vec<u8>> {
    let brokers = (1..=3).map(|id| log::register_broker(3, id, 9092, false, false));
    let mut values: Vec<_> = brokers.collect();
    values.push(log::topic("orders", TOPIC));
    values.push(partition(0, &[1, 2, 3], &[1, 2, 3], 1));
    values.push(partition(1, &[2, 3, 1], &[2, 3, 1], 2));
    values
}

fn batch(base: i64, epoch: i32, values: &[Vec<u8>]) -> Vec<u8> {
    log::batch(base, epoch, WRITTEN + base, values).unwrap()
}

#[test]
fn what_is_new_is_read_and_what_is_half_written_waits() {
    let mut node = Node::with_beginning();
    let first = node.log();
    assert_eq!(
        (first.end_offset, first.written),
        (6, Moment(WRITTEN as u64))
    );
    let counts = first.counts.unwrap();
    assert_eq!(
        (counts.source, counts.partitions, counts.leader),
        (ClusterSource::Log, 2, 1)
    );
    assert_eq!(
        (
            counts.under_replicated,
            counts.under_min_isr,
            counts.reassigning
        ),
        (0, Some(0), Some(0))
    );
    let live: Vec<_> = counts
        .live_brokers
        .iter()
        .map(|peer| (peer.id, &*peer.host, peer.port))
        .collect();
    assert_eq!(live, [1, 2, 3].map(|id| (id, "host.example", 9092)));
    let same = node.log();
    assert_eq!((same.end_offset, same.arrived), (6, first.arrived));

    let more = batch(6, 1, &[shrink(0, &[1]), log::broker_change(3, 0, true)]);
    for end in 0..more.len() {
        node.append(&segment(0), &more[end..=end]);
        let log = node.log();
        let done = end + 1 == more.len();
        assert_eq!(log.end_offset, if done { 8 } else { 6 });
        let counts = log.counts.unwrap();
        assert_eq!(
            (counts.under_replicated, counts.isr_leader_alone),
            (u64::from(done), u64::from(done))
        );
        assert_eq!(log.brokers[&3].in_controlled_shutdown, done);
    }
    let counts = node.counts();
    let listed: Vec<_> = counts
        .under_replicated_partitions
        .iter()
        .map(|of| (&*of.topic, of.partition, of.leader, of.replicas, of.isr))
        .collect();
    assert_eq!(listed, [("orders", 0, Some(1), 3, 1)]);
}

#[test]
fn a_segment_follows_a_snapshot_or_a_segment() {
    let mut node = Node::with_beginning();
    node.counts();
    // Kafka goes on with a new segment, and deletes the old one some time after a snapshot.
    node.append(&segment(0), &batch(6, 1, &[shrink(0, &[1, 2])]));
    node.write(&segment(7), &batch(7, 1, &[shrink(1, &[2])]));
    let log = node.log();
    assert_eq!(
        (log.end_offset, log.counts.unwrap().under_replicated),
        (8, 1)
    );
    let mut state = beginning();
    state.extend([
        shrink(0, &[1, 2]),
        shrink(1, &[2]),
        log::topic("other", [6; 16]),
    ]);
    let snapshot = log::snapshot(1, WRITTEN, &state, 4).unwrap();
    // Not whole, or of no use any more.
    for name in [
        "00000000000000000099-0000000001.checkpoint.part",
        "00000000000000000098-0000000001.checkpoint.deleted",
    ] {
        node.write(name, b"no snapshot");
    }
    node.write("00000000000000000009-0000000001.checkpoint", &snapshot);
    node.append(&segment(7), &batch(8, 1, &[log::topic("other", [6; 16])]));
    node.append(&segment(7), &batch(9, 2, &[shrink(0, &[1])]));
    fs::rename(
        node.path(&segment(0)),
        node.path(&format!("{}.deleted", segment(0))),
    )
    .unwrap();
    let followed = node.log();
    assert_eq!(followed.end_offset, 10);
    node.start_again();
    let restarted = node.log();
    assert_eq!(
        (restarted.end_offset, &restarted.counts),
        (10, &followed.counts)
    );
    let counts = restarted.counts.unwrap();
    assert_eq!(
        (
            counts.partitions,
            counts.isr_leader_alone,
            counts.not_in_isr
        ),
        (2, 1, 1)
    );
}

#[test]
fn zeros_are_the_end_of_what_is_written() {
    let mut node = Node::new(1);
    let name = segment(0);
    let first = batch(0, 1, &beginning());
    node.write(&name, &first);
    let file = fs::File::options().write(true).open(node.path(&name));
    let file = file.unwrap();
    file.set_len(1 << 20).unwrap();
    assert_eq!(node.log().end_offset, 6);
    assert_eq!(node.log().end_offset, 6, "the next run as well");
    // What is written over them is read.
    let more = batch(6, 1, &[shrink(0, &[1])]);
    std::os::unix::fs::FileExt::write_all_at(&file, &more, first.len() as u64).unwrap();
    let log = node.log();
    assert_eq!(
        (log.end_offset, log.counts.unwrap().under_replicated),
        (7, 1)
    );
    // A snapshot has its footer before them.
    let name = "00000000000000000007-0000000001.checkpoint";
    node.write(name, &batch(0, 1, &beginning()));
    let file = fs::File::options().write(true).open(node.path(name));
    file.unwrap().set_len(1 << 20).unwrap();
    node.start_again();
    let failure = node.failure();
    assert!(
        failure.ends_with("ends before the snapshot does: it is damaged"),
        "{failure}"
    );
}

#[test]
fn a_replica_that_was_cut_back_is_read_from_the_start() {
    let mut node = Node::new(1);
    let first = batch(0, 1, &beginning());
    node.write(&segment(0), &first);
    node.append(&segment(0), &batch(6, 1, &[shrink(0, &[1])]));
    assert_eq!(node.counts().under_replicated, 1);
    // What was not committed is replaced, by as many bytes.
    node.write(
        &segment(0),
        &[first.clone(), batch(6, 2, &[shrink(1, &[2])])].concat(),
    );
    let after = |node: &mut Node| {
        assert!(matches!(node.read(), Ok(Update::CatchingUp)));
        node.log()
    };
    assert_eq!(after(&mut node).counts.unwrap().under_replicated, 0);
    // By fewer, and by none.
    node.write(
        &segment(0),
        &[first.clone(), batch(6, 3, &[log::no_op()])].concat(),
    );
    assert_eq!(after(&mut node).end_offset, 7);
    node.write(&segment(0), &first);
    assert_eq!(after(&mut node).end_offset, 6);
    // By a snapshot of the leader, which is far ahead.
    fs::remove_file(node.path(&segment(0))).unwrap();
    let mut state = beginning();
    state.push(shrink(0, &[1]));
    node.write(
        "00000000000000000500-0000000003.checkpoint",
        &log::snapshot(3, WRITTEN, &state, 100).unwrap(),
    );
    node.write(&segment(500), &[]);
    let log = node.log();
    assert_eq!(
        (log.end_offset, log.counts.unwrap().under_replicated),
        (500, 1)
    );
    // Another file of the same name.
    fs::remove_file(node.path(&segment(500))).unwrap();
    node.write(
        &segment(500),
        &batch(
            500,
            4,
            &[log::topic("other", [6; 16]), shrink(0, &[1, 2, 3])],
        ),
    );
    let log = node.log();
    assert_eq!(
        (log.end_offset, log.counts.unwrap().under_replicated),
        (502, 0)
    );
}

#[test]
fn what_is_damaged_or_missing_is_said() {
    let mut node = Node::new(1);
    let at = |node: &Node| {
        let folder = format!("{}/{FOLDER}", node.holder.path().display());
        let pid = node.broker.process.pid;
        format!("broker 1 (pid {pid}): /proc/{pid}/root{folder}")
    };
    let folder = at(&node);
    assert_eq!(
        node.failure(),
        format!("{folder} has no segment: the node has not written its metadata log yet")
    );
    node.write(&segment(6), &batch(6, 1, &[log::no_op()]));
    assert_eq!(
        node.failure(),
        format!("{folder} has no segment with offset 0: the log has a gap")
    );
    node.write(&segment(0), &batch(0, 1, &beginning()[..5]));
    assert_eq!(
        node.failure(),
        format!("{folder} has no segment with offset 5: the log has a gap")
    );
    fs::remove_file(node.path(&segment(6))).unwrap();
    // A batch that others follow cannot be half written.
    let mut bytes = batch(0, 1, &beginning());
    bytes[80] ^= 1;
    node.write(
        &segment(0),
        &[bytes.clone(), batch(6, 1, &[log::no_op()])].concat(),
    );
    let name = segment(0);
    assert_eq!(
        node.failure(),
        format!("{folder}/{name}: offset 0: the checksum of the batch is wrong")
    );
    // The last one can.
    node.write(&segment(0), &bytes);
    assert_eq!(node.log().end_offset, 0);
    node.write(&segment(0), &batch(0, 1, &[log::other(3, 9)]));
    node.start_again();
    assert_eq!(
        node.failure(),
        format!(
            "{folder}/{name}: offset 0: a record Partition of version 9; this version of kafka-vitals knows those up to 2: a \
             newer one may know more"
        )
    );
    // A snapshot says that it is whole.
    let snapshot = log::snapshot(1, WRITTEN, &beginning(), 2).unwrap();
    let footer = log::control_batch(7, 1, WRITTEN, 4).unwrap().len();
    let name = "00000000000000000006-0000000001.checkpoint";
    for end in [0, 1, footer, snapshot.len() - footer, snapshot.len() - 1] {
        node.write(name, &snapshot[..end]);
        assert_eq!(
            node.failure(),
            format!("{folder}/{name} ends before the snapshot does: it is damaged")
        );
    }
    node.write(name, &snapshot);
    // The log has offset 0 alone.
    assert_eq!(
        node.failure(),
        format!("{folder} has no segment with offset 1: the log has a gap")
    );
    fs::remove_file(node.path(&segment(0))).unwrap();
    node.write(&segment(6), &[]);
    assert_eq!(node.counts().partitions, 2);
    fs::remove_dir_all(node.holder.path().join(FOLDER)).unwrap();
    node.start_again();
    assert_eq!(node.failure(), format!("{folder} does not exist"));
}

#[test]
fn where_the_mode_is_unknown_the_log_is_unknown_with_the_reason() {
    let mut broker = (*Node::new(1).broker).clone();
    broker.problems = vec!["server.properties cannot be read".into()];
    let failure = none(&broker).unwrap_err();
    let message = format!(
        "{}: it is unknown whether it runs with KRaft: server.properties cannot be read",
        broker.name()
    );
    assert_eq!(failure.message, message);
    let mut snapshot = BrokerSnapshot::default();
    let stamp = Stamp {
        at: Moment(1),
        took: Duration::ZERO,
        interval: Duration::from_secs(1),
    };
    MetadataLogs::store(&mut snapshot, Err(failure), stamp);
    let status = &snapshot.collectors[&CollectorName::MetadataLog];
    assert_eq!(status.success, Some(false));
    assert_eq!(snapshot.metadata_log.reason(Moment(1)), Some(message));
    broker.mode = Some(Mode::ZooKeeper);
    assert!(none(&broker).unwrap().is_some());
    broker.mode = Some(Mode::KRaft);
    assert_eq!(none(&broker).unwrap(), None);
}

#[test]
fn a_link_does_not_lead_to_what_is_no_file() {
    let mut node = Node::new(1);
    std::os::unix::fs::symlink("/proc/self/environ", node.path(&segment(0))).unwrap();
    let failure = node.failure();
    assert!(
        failure.contains("does not exist") || failure.contains("procfs"),
        "{failure}"
    );
}

#[test]
fn a_process_that_has_ended_is_not_followed() {
    let mut node = Node::with_beginning();
    let mut broker = (*node.broker).clone();
    broker.process.start_ticks -= 1;
    node.broker = Arc::new(broker);
    node.start_again();
    assert_eq!(node.read().unwrap_err().reason, Reason::Gone);
}

#[test]
fn while_zookeeper_has_the_truth_nothing_is_counted() {
    let mut node = Node::with_beginning();
    node.append(&segment(0), &batch(6, 1, &[log::migration(2)]));
    let log = node.log();
    assert_eq!((log.counts, log.brokers.len()), (None, 3));
    node.append(&segment(0), &batch(7, 1, &[log::migration(1)]));
    assert_eq!(node.log().counts, None);
    node.append(&segment(0), &batch(8, 1, &[log::migration(3)]));
    assert_eq!(node.counts().partitions, 2);
}

#[test]
fn an_open_transaction_does_not_count() {
    let mut node = Node::with_beginning();
    let name = segment(0);
    node.append(
        &name,
        &batch(6, 1, &[log::begin_transaction(), shrink(0, &[1])]),
    );
    let log = node.log();
    // The replica has the records.
    assert_eq!(
        (log.end_offset, log.counts.unwrap().under_replicated),
        (8, 0)
    );
    node.append(&name, &batch(8, 1, &[log::no_op(), log::end_transaction()]));
    assert_eq!(node.counts().under_replicated, 1);
    node.append(
        &name,
        &batch(10, 1, &[log::begin_transaction(), shrink(0, &[1, 2, 3])]),
    );
    assert_eq!(node.counts().under_replicated, 1);
    node.append(
        &name,
        &batch(12, 1, &[log::abort_transaction(), shrink(1, &[2])]),
    );
    let log = node.log();
    assert_eq!(
        (log.end_offset, log.counts.unwrap().under_replicated),
        (14, 1)
    );
    node.start_again();
    assert_eq!(node.counts().not_in_isr, 1);
}

#[test]
fn the_states_of_all_nodes_share_their_memory() {
    let all: &Shares = Box::leak(Box::new(memory()));
    let (mut first, mut second) = (Memory::of(all), Memory::of(all));
    assert!(first.hold(MOST_MEMORY / 4, false));
    assert!(!second.hold(MOST_MEMORY, false));
    assert_eq!(second.held(), 0, "what was refused does not count");
    assert!(second.hold(MOST_MEMORY / 4 * 3, false));
    // It becomes one of another user, for which that is too much.
    assert!(!second.hold(MOST_MEMORY / 4 * 3, true));
    assert!(!second.hold(MOST_MEMORY_OF_OTHERS + 1, true));
    assert!(second.hold(MOST_MEMORY_OF_OTHERS, true));
    // The others have room, all together have not.
    let mut third = Memory::of(all);
    assert!(first.hold(MOST_MEMORY / 2, false));
    assert!(second.hold(MOST_MEMORY_OF_OTHERS / 2, true));
    assert!(third.hold(MOST_MEMORY_OF_OTHERS / 2, true));
    assert!(second.hold(0, true));
    assert!(first.hold(MOST_MEMORY / 4 * 3, false));
    assert!(!third.hold(MOST_MEMORY_OF_OTHERS, true));
    assert_eq!(third.held(), MOST_MEMORY_OF_OTHERS / 2);
    drop(third);
    assert!(second.hold(MOST_MEMORY / 4, true));
    assert!(!second.hold(MOST_MEMORY / 4 + 1, true));
}

#[test]
fn the_age_of_the_first_record_is_not_what_nobody_saw() {
    let mut node = Node::with_beginning();
    let name = segment(0);
    let set_written = |node: &Node, at: Moment| {
        let file = fs::File::options().write(true).open(node.path(&name));
        let at = std::time::UNIX_EPOCH + Duration::from_millis(at.0);
        file.unwrap().set_modified(at).unwrap();
    };
    let now = Clock::start().now();
    let old = now.minus(Duration::from_secs(7200));
    set_written(&node, old);
    assert_eq!(node.log().arrived, old);
    assert_eq!(node.log().arrived, old, "the next run as well");
    // Also after a failure.
    node.start_again();
    assert_eq!(node.log().arrived, old);
    // From now on it is seen.
    node.append(&name, &batch(6, 1, &[log::no_op()]));
    set_written(&node, old);
    assert!(node.log().arrived >= now);
    // The clock went back.
    node.start_again();
    set_written(&node, now.plus(Duration::from_secs(7200)));
    let arrived = node.log().arrived;
    assert!(arrived >= now && arrived < now.plus(Duration::from_secs(3600)));
}

#[test]
fn only_the_first_runs_are_free() {
    let mut node = Node::with_beginning();
    assert!(node.logs.collect().unwrap().at_start);
    assert!(!node.logs.collect().unwrap().at_start);
    // Each aborted transaction makes the log begin again, in a run of its own.
    node.write(&segment(0), &batch(0, 1, &beginning()));
    for at in 0..100 {
        let aborted = [log::begin_transaction(), log::abort_transaction()];
        node.append(&segment(0), &batch(6 + 2 * at, 1, &aborted));
    }
    node.start_again();
    let runs: Vec<Run> = (0..101).map(|_| node.logs.collect().unwrap()).collect();
    assert!(matches!(runs[99].update, Update::CatchingUp));
    assert!(matches!(runs[100].update, Update::Read(_)));
    let free = runs.iter().take_while(|run| run.at_start).count();
    assert_eq!(free, FREE_RUNS as usize);
    assert!(!runs.iter().skip(free).any(|run| run.at_start));
}

#[test]
fn a_single_replica_needs_no_second_one_since_3_7() {
    for (version, under, at) in [("3.6.2", Some(2), Some(0)), ("3.7.0", Some(1), Some(1))] {
        let mut node = Node::new(1);
        let broker = Arc::make_mut(&mut node.broker);
        broker.kafka_version = Some(version.into());
        broker.min_insync_replicas = Some(2);
        node.start_again();
        let mut values = beginning();
        // The other one has lost a replica.
        values.extend([partition(2, &[1], &[1], 1), shrink(0, &[1])]);
        node.write(&segment(0), &batch(0, 1, &values));
        let counts = node.log().counts.unwrap();
        let found = (counts.under_min_isr, counts.at_min_isr);
        assert_eq!(found, (under, at), "{version}");
    }
}
