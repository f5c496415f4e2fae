//! What each fuzz target does with bytes from outside. `fuzz_targets/` runs them with libFuzzer, and
//! `tests/fuzz_corpus.rs` replays the corpus with them.

use std::fs;
use std::io::Write as _;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use kafka_vitals::analyze;
use kafka_vitals::analyze::formats::{fds, limits, sockets, top};
use kafka_vitals::analyze::long_log::LongLog;
use kafka_vitals::cli::ServeArgs;
use kafka_vitals::collect::cluster::count::count;
use kafka_vitals::collect::metadata_log::count::count as count_log;
use kafka_vitals::collect::zookeeper::ensembles;
use kafka_vitals::config::Config;
use kafka_vitals::discover::inter_broker;
use kafka_vitals::discover::mask;
use kafka_vitals::discover::properties::Properties;
use kafka_vitals::discover::settings::interpret;
use kafka_vitals::kafka::certificate;
use kafka_vitals::kafka::metadata_log::batch::{self, Parsed};
use kafka_vitals::kafka::metadata_log::image::Image;
use kafka_vitals::kafka::metadata_log::record;
use kafka_vitals::kafka::metadata_log::replay::{Replay, Watch};
use kafka_vitals::kafka::scram::{Exchange, Hash, Keys};
use kafka_vitals::kafka::wire::groups;
use kafka_vitals::kafka::wire::{self, METADATA_VERSION, METADATA_WITH_LISTENERS, Metadata};
use kafka_vitals::kafka::zookeeper::jute;
use kafka_vitals::model::{Broker, ClusterSource, ProcessKey, TcpState};
use kafka_vitals::sys::perf_data::PerfData;
use kafka_vitals::sys::proc::{Deadline, ProcRoot};
use kafka_vitals::sys::proc_net;
use kafka_vitals::sys::sock_diag::{self, States};
use kafka_vitals::threads::log_signatures::{LogMatcher, LogReader, MOST_SIGNATURES};

pub type Target = fn(&[u8]);

/// Every parser of bytes from outside, by the name of its binary in `Cargo.toml`.
pub const TARGETS: [(&str, Target); 14] = [
    ("thread_dump", thread_dump),
    ("perf_data", perf_data),
    ("wire", kafka_wire),
    ("metadata_log", metadata_log),
    ("zookeeper", zookeeper),
    ("scram", scram),
    ("sock_diag", socket_messages),
    ("proc", proc_files),
    ("properties", properties),
    ("config", config),
    ("saved_text", saved_text),
    ("log_line", log_line),
    ("sockets_text", sockets_text),
    ("fds_text", fds_text),
];

/// Decodes, parses and evaluates a thread dump, and reads every lazy part.
fn thread_dump(bytes: &[u8]) {
    analyze::dumps::read_all(bytes);
}

/// Reads HotSpot's performance data and every counter in it.
fn perf_data(bytes: &[u8]) {
    if let Ok(data) = PerfData::parse(bytes.to_vec()) {
        for (name, _) in data.iter() {
            let _ = (data.long(name), data.text(name));
        }
        let _ = data.safepoint_time();
    }
}

/// Reads a response of a broker: ApiVersions, both versions of Metadata with what is counted in them, and what is read of
/// groups and their offsets.
fn kafka_wire(bytes: &[u8]) {
    let _ = certificate::end(bytes);
    let _ = wire::api_versions(bytes);
    let _ = (wire::sasl_handshake(bytes), wire::sasl_authenticate(bytes));
    let mut names = 0;
    for version in [groups::LIST_GROUPS_VERSION, groups::LIST_GROUPS_WITH_STATES] {
        let _ = groups::list_groups(bytes, version, |one| names += one.group.len());
    }
    for version in [groups::OFFSET_FETCH_NAMED, groups::OFFSET_FETCH_ALL] {
        let _ = groups::offset_fetch(bytes, version, |one| names += one.topic.len());
    }
    let _ = groups::list_offsets(bytes, |one| names += one.topic.len());
    let _ = groups::describe_groups(bytes, |_| names += 1);
    let _ = groups::fetch(bytes);
    for version in [METADATA_VERSION, METADATA_WITH_LISTENERS] {
        let _ = count(Metadata::new(bytes, version), 1, ClusterSource::Own, None);
    }
}

const MOST_OF_IMAGE: usize = 40 << 20;

struct Alone;

impl Watch for Alone {
    fn before_transaction(&mut self, image: &Image) {
        count_log(image, 1, None, false);
    }

    fn may_need(&mut self, bytes: usize) -> bool {
        bytes < MOST_OF_IMAGE
    }
}

/// Reads a file of a metadata log; then the same bytes as values of records, each behind a byte with its length, because
/// the checksum keeps a fuzzer out of the batches. What they come to is counted.
fn metadata_log(bytes: &[u8]) {
    let mut replay = Replay::default();
    let mut rest = bytes;
    while let Ok(Parsed::Whole(batch)) = batch::parse(rest, replay.next_offset())
        && replay.apply(&batch, &mut Alone).is_ok()
    {
        rest = rest.get(batch.size..).unwrap_or_default();
    }
    let mut image = Image::default();
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first() {
        let (value, after) = after.split_at(after.len().min(usize::from(*length)));
        rest = after;
        if let Ok(record) = record::read(value)
            && image
                .apply(&record, &mut |bytes| bytes < MOST_OF_IMAGE)
                .is_err()
        {
            return;
        }
    }
    for image in [replay.image(), &image] {
        let counts = count_log(image, 1, Some(2), true);
        assert!(counts.under_replicated <= counts.leader && counts.leader <= counts.partitions);
        assert!(counts.isr_leader_alone <= counts.under_replicated);
    }
}

/// Reads an answer of ZooKeeper: a session, children, a node and what Kafka writes into nodes.
fn zookeeper(bytes: &[u8]) {
    let _ = (
        jute::connected(bytes).is_ok(),
        jute::children(bytes).is_ok(),
    );
    let data = jute::data(bytes).ok().and_then(Result::ok);
    for data in data.into_iter().chain([bytes]) {
        let _ = (ensembles::registration(data), ensembles::controller(data));
        let _ = (ensembles::min_isr(data), ensembles::partition_state(data));
    }
}

/// Reads both messages of a server in a login by SCRAM, one in each line. Nobody here knows the password of a signature.
fn scram(bytes: &[u8]) {
    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    static KEYS: OnceLock<Keys> = OnceLock::new();
    let keys = || Keys::derive(Hash::Sha256, "a", b"", NonZeroU32::MIN);
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let (first, last) = (lines.next(), lines.next());
    let exchange = Exchange::new("user", NONCE);
    if let Ok(challenge) = exchange.challenge(first.unwrap_or_default()) {
        assert!((4096..=1_000_000).contains(&challenge.iterations.get()));
        let (_, expected) = exchange.prove(&challenge, KEYS.get_or_init(keys));
        assert!(expected.check(last.unwrap_or_default()).is_err());
    }
}

/// Reads one datagram of the kernel's socket list. Every state that is reported must be a known one.
fn socket_messages(bytes: &[u8]) {
    let _ = sock_diag::read_datagram(bytes, |socket| {
        assert!(States::of(&TcpState::ALL).contains(socket.state));
    });
}

/// Reads files of `/proc/PID`. The first byte chooses which of them holds the rest.
fn proc_files(bytes: &[u8]) {
    const PID: u32 = 7;
    const FILES: [&str; 10] = [
        "stat", "status", "limits", "cmdline", "environ", "maps", "net/tcp", "net/tcp6",
        "net/unix", "comm",
    ];
    let Some((choice, content)) = bytes.split_first() else {
        return;
    };
    let root = scratch();
    let process = root.join(PID.to_string());
    let name = FILES[usize::from(*choice) % FILES.len()];
    for file in FILES {
        let path = process.join(file);
        let _ = fs::create_dir_all(path.parent().unwrap_or(&path));
        fs::write(&path, if file == name { content } else { b"" }).expect("the scratch folder");
    }
    let proc = ProcRoot::with_kernel(root, (6, 2));
    let _ = (proc.stat(PID), proc.status(PID), proc.open_file_limits(PID));
    let _ = proc.command_line(PID);
    let _ = proc.environment_variable(PID, "KAFKA_OPTS");
    let _ = proc.memory_maps(PID, Deadline::after(Duration::from_secs(5)));
    let deadline = Instant::now() + Duration::from_secs(5);
    let states = States::of(&TcpState::ALL);
    let mut buffer = Vec::new();
    let _ = proc_net::tcp_sockets(root, PID, states, None, &mut buffer, deadline, |_| {});
    let _ = proc_net::other_socket_inodes(root, PID, &mut buffer, deadline, |_| {});
}

/// Reads `server.properties`, interprets it and masks it.
fn properties(bytes: &[u8]) {
    if let Ok(properties) = Properties::parse(bytes) {
        let key = ProcessKey {
            pid: 7,
            start_ticks: 1,
        };
        interpret(&properties, &mut Broker::unknown(key));
        let text = || String::from_utf8_lossy(bytes).into_owned();
        let _ = inter_broker::interpret(&properties, true, |_| Ok(text()), || Ok(Some(text())));
    }
    let _ = mask::properties(bytes);
}

/// Reads the config file.
fn config(bytes: &[u8]) {
    let path = scratch().join("config.yml");
    fs::write(&path, bytes).expect("the scratch folder");
    let _ = Config::load(ServeArgs {
        config_file: Some(path),
        ..ServeArgs::default()
    });
}

/// Explains one saved file, whatever its form: `netstat`, `ss`, `lsof`, `kafka-topics`, a log, a dump; and masks it.
fn saved_text(bytes: &[u8]) {
    let mut log = LongLog::default();
    let _ = log.write_all(bytes);
    assert!(log.finish().len() <= bytes.len());
    analyze::explain(&[("saved.txt".into(), bytes.to_vec())]);
    mask::text(&String::from_utf8_lossy(bytes));
}

/// Reads a broker's log in pieces, whose size the first byte decides, and as a whole: both find the same.
fn log_line(bytes: &[u8]) {
    static MATCHER: OnceLock<LogMatcher> = OnceLock::new();
    let matcher = MATCHER.get_or_init(|| LogMatcher::new(&[]).expect("known signatures"));
    let (size, text) = bytes.split_first().unwrap_or((&1, &[]));
    let read = |size: usize| {
        let (mut reader, mut found) = (LogReader::default(), Vec::new());
        for piece in text.chunks(size) {
            reader.read(piece, matcher, &mut |line| found.push(line));
        }
        found
    };
    let found = read(text.len().max(1));
    assert_eq!(read(usize::from(*size).max(1)), found);
    let lines = text.iter().filter(|byte| **byte == b'\n').count();
    assert!(found.len() <= lines * MOST_SIGNATURES);
    assert!(found.iter().all(|line| line.text.len() < 16 << 10));
}

/// Reads a table of sockets, whatever tool printed it. What has both addresses and a state is among all rows.
fn sockets_text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for source in ["a.txt", "ss-close-wait.txt"] {
        let rows = sockets::lines(&text, source).count();
        assert!(sockets::sockets(&text, source).count() <= rows);
    }
}

/// Reads lists of file handles, their limit and the threads of `top`.
fn fds_text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    assert!(fds::fds(&text).count() <= text.lines().count());
    let _ = (limits::open_files(&text), top::threads(&text).len());
}

/// Returns a folder of this process alone.
fn scratch() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("kafka-vitals-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the scratch folder");
        folder
    })
}
