//! `/metrics`, the page and `check` for a recorded host: three brokers of 0.10.1.0, one of them deadlocked and silent,
//! recorded by `cargo run -p lab -- record-host DIR`. `make docs` rewrites the golden files. The output of other tools at the
//! same moment (`tests/fixtures/host/tools`) proves that they are right, and not only unchanged.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_vitals::collect::accept_queues::AcceptQueues;
use kafka_vitals::collect::cluster::{self, Cluster};
use kafka_vitals::collect::discovery::{self, Found};
use kafka_vitals::collect::fds::{self, Fds};
use kafka_vitals::collect::frame::{self, Collector};
use kafka_vitals::collect::groups::{self, Groups};
use kafka_vitals::collect::jvm_dumper::RawDump;
use kafka_vitals::collect::logs::{self, Logs};
use kafka_vitals::collect::memory_maps::{self, MemoryMaps};
use kafka_vitals::collect::metadata_log::{self, MetadataLogs};
use kafka_vitals::collect::process::{self, Process};
use kafka_vitals::collect::snapshot_store::{Update, apply};
use kafka_vitals::collect::socket_tables::TableRound;
use kafka_vitals::collect::sockets::Sockets;
use kafka_vitals::collect::threads::{self, ThreadHistory, Threads};
use kafka_vitals::collect::zookeeper::ZooKeeper;
use kafka_vitals::discover::Discovery;
use kafka_vitals::expose::check::CheckPage;
use kafka_vitals::expose::{metrics, page};
use kafka_vitals::kafka::wire::{METADATA_VERSION, Metadata};
use kafka_vitals::model::EvidenceStatus;
use kafka_vitals::model::Failure;
use kafka_vitals::model::{Broker, Schedule};
use kafka_vitals::model::{ClusterCounts, ClusterSource, ExporterVitals, Moment, Snapshot};
use kafka_vitals::model::{GroupLag, GroupState, GroupsReport, Probe, Reason};
use kafka_vitals::model::{LogLine, LogReport, LogSignatureCount, Severity};
use kafka_vitals::model::{OwnRegistration, ZooKeeperReport};
use kafka_vitals::sys::proc::ProcRoot;
use kafka_vitals::verdict::View;
use kafka_vitals::verdict::evaluate::Evaluator;
use support::Metrics;
use support::tools::{self, Row};

const HOST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/host");
const BROKERS: [i32; 3] = [217, 218, 219];
const BUDGET: Duration = Duration::from_secs(20);

fn recorded(path: &str) -> String {
    fs::read_to_string(Path::new(HOST).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn moment() -> Moment {
    Moment(recorded("moment").trim().parse().unwrap())
}

/// Copies the host with old file times: in a checkout every file is newer than the brokers, and discovery would warn.
fn copy() -> (tempfile::TempDir, ProcRoot) {
    let folder = tempfile::tempdir().unwrap();
    for part in ["proc", "root"] {
        let copied = Command::new("cp")
            .arg("-a")
            .arg(Path::new(HOST).join(part))
            .arg(folder.path())
            .status()
            .unwrap();
        assert!(copied.success());
    }
    let mut touch = Command::new("find");
    touch
        .arg(folder.path())
        .args(["-type", "f", "-exec", "touch", "-d", "@0", "{}", "+"]);
    assert!(touch.status().unwrap().success());
    // As before Linux 6.2: the size of a recorded folder is no count of fds.
    let proc = ProcRoot::with_kernel(folder.path().join("proc"), (5, 4));
    (folder, proc)
}

/// Returns the cluster's state by the broker itself, or by the next one for the silent broker.
fn cluster_counts(id: i32) -> Result<ClusterCounts, Failure> {
    let body = |id: i32| fs::read(Path::new(HOST).join(format!("metadata/{id}.bin"))).ok();
    let (body, source, silence) = match body(id) {
        Some(body) => (body, ClusterSource::Own, None),
        None => {
            let peer = BROKERS
                .into_iter()
                .find(|peer| *peer != id && body(*peer).is_some())
                .unwrap();
            let silence =
                format!("broker {id} did not answer Metadata when this host was recorded");
            (
                body(peer).unwrap(),
                ClusterSource::Peer(peer),
                Some(silence),
            )
        }
    };
    Ok(cluster::count::count(Metadata::new(&body, METADATA_VERSION), id, source, silence).unwrap())
}

/// Groups were not recorded: each broker coordinates two, and the deadlocked one is not asked for more.
fn groups_of(id: i32) -> groups::Round {
    let answered = GroupsReport {
        names: ["billing", "orders"]
            .into_iter()
            .map(|name| format!("{name}-{id}").into())
            .collect(),
        total: 2,
        states: GroupState::ALL
            .map(|state| match state {
                GroupState::Stable | GroupState::Empty => (state, 1),
                _ => (state, 0),
            })
            .into(),
        lags: [GroupLag {
            group: format!("orders-{id}").into(),
            topic: "orders".into(),
            records: 42,
        }]
        .into(),
        unknown_lags: 1,
        why_unknown: Some("another broker leads a partition of it".into()),
        ..GroupsReport::default()
    };
    let is_silent = !Path::new(HOST).join(format!("metadata/{id}.bin")).exists();
    let why = format!("broker {id} is suspect, so it is not asked for its groups");
    let silence = is_silent.then(|| Failure::new(Reason::Slow, &*why));
    groups::Round {
        fetch: match is_silent {
            true => Err(Failure::new(Reason::Slow, &*why)),
            false => Ok(Probe {
                duration: Duration::from_millis(1),
                error: None,
            }),
        },
        groups: Ok(match is_silent {
            true => answered.silent(why),
            false => answered,
        }),
        silence,
    }
}

/// Runs every collector once over the recorded host.
fn snapshot(proc: &ProcRoot) -> Snapshot {
    let now = moment();
    let mut discovery = Discovery::new(proc.clone(), Vec::new());
    let found = discovery.scan().unwrap();
    let labels = discovery.labels(&found);
    // The exporter's own use of the host is no part of the recording.
    let exporter = ExporterVitals {
        cpu_seconds: 12.5,
        open_fds: 31,
        handle_limit: Some(1024),
        resident_bytes: 14 << 20,
        virtual_bytes: 300 << 20,
        started: Moment(now.0 - 3_600_000),
        threads: 9,
    };
    let mut snapshot = Snapshot::default();
    let discovered = Found {
        left_out: 0,
        hidden: None,
        warnings: Vec::new(),
        brokers: Ok(std::iter::zip(found.iter().cloned(), labels).collect()),
        memory_map_limit: memory_maps::limit(proc),
        exporter: Ok(exporter),
    };
    let (interval, took) = (Duration::from_secs(5), Duration::from_millis(3));
    apply(
        &mut snapshot,
        discovery::update(discovered, interval, took),
        now,
    );
    for broker in &found {
        for update in updates(proc, broker) {
            apply(&mut snapshot, update, now);
        }
    }
    snapshot
}

/// The update of one run, with the default interval; it took as many milliseconds as that has seconds.
fn run<C: Collector>(broker: &Broker, value: C::Value) -> Update {
    let (_, Schedule::Every(interval)) = C::DESCRIPTION.name.about() else {
        panic!("it runs in the pass of another")
    };
    frame::update::<C>(broker.process, Ok(value), interval, interval / 1000)
}

/// No log was recorded: the first broker's shows that it lost the second one.
fn log_of(id: i32) -> LogReport {
    let mut log = LogReport::default();
    if id == 217 {
        let text = "[2016-11-22 14:33:54,555] WARN [ReplicaFetcherThread-0-218], Error in fetch (x) | java.io.IOException: Connection to 218 was disconnected before the response was read";
        let count = LogSignatureCount {
            count: 3,
            last: Some(LogLine {
                at: moment(),
                text: text.into(),
                peer: Some(218),
            }),
            ..LogSignatureCount::none(Severity::Warning)
        };
        log.signatures.insert("peer_disconnected".into(), count);
    }
    log
}

/// The updates of all collectors.
fn updates(proc: &ProcRoot, broker: &Arc<Broker>) -> [Update; 10] {
    let id = broker.id.unwrap();
    // No exporter ran when the host was recorded.
    let own = |_| false;
    let mut sockets = Sockets::new(proc.path(), BUDGET);
    let walked = fds::read(proc, broker, BUDGET).unwrap();
    let mut again = || fds::read(proc, broker, BUDGET).map(|walked| walked.inodes);
    let connections = sockets.owners(broker, &walked.inodes, &mut again, &own);
    let pass = fds::Pass {
        offline_log_dirs: walked.offline_log_dirs(broker),
        kinds: Ok(walked.kinds),
        connections: Some(connections),
    };
    let bytes = fs::read(Path::new(HOST).join(format!("dumps/{id}.txt"))).unwrap();
    let dump = RawDump {
        bytes,
        duration: Duration::from_millis(12),
        pause: None,
        paused: None,
        ..RawDump::default()
    };
    // With one dump, what takes several remains unknown.
    let (report, _) =
        threads::report(&dump, &mut ThreadHistory::default(), None, Moment(0)).unwrap();
    let counts = cluster_counts(id).map(Box::new);
    let no_log = metadata_log::none(broker).unwrap().unwrap();
    // ZooKeeper was not recorded: all brokers of the host are registered, and the first is the controller.
    let registered = ZooKeeperReport {
        server: "127.0.0.1:2181".into(),
        brokers: Arc::new([217, 218, 219].into()),
        controller: Some(217),
        registration: OwnRegistration::Registered {
            since: broker.started.unwrap_or_default(),
            endpoint: "PLAINTEXT://127.0.0.1:9092".into(),
        },
    };
    let counted = sockets.pulse(broker, &own).unwrap();
    // Its age is zero then, however long this test takes.
    let now = Instant::now() + Duration::from_secs(3600);
    let round = TableRound {
        accept_queues: Ok((counted.accept_queues, now)),
        sockets: Some(Ok((counted.sockets, now))),
        listens_every: Duration::from_secs(1),
        interval: Duration::from_secs(5),
        walk: Duration::ZERO,
    };
    [
        run::<Process>(broker, process::read(proc, broker)),
        run::<AcceptQueues>(broker, round),
        run::<Fds>(broker, pass),
        run::<MemoryMaps>(broker, memory_maps::read(proc, broker, BUDGET).unwrap()),
        run::<Logs>(broker, logs::Update::Read(Arc::new(log_of(id)))),
        run::<Cluster>(broker, cluster::Update::Counts(counts)),
        run::<Groups>(broker, groups_of(id)),
        frame::not_read::<MetadataLogs>(broker.process, no_log),
        run::<ZooKeeper>(broker, registered),
        run::<Threads>(broker, report),
    ]
}

/// Renders two seconds after everything was read, when every reading is still known.
fn rendered() -> (Snapshot, String, String, String) {
    let (_folder, proc) = copy();
    let snapshot = snapshot(&proc);
    let now = moment().plus(Duration::from_secs(2));
    let view = View::of(&mut Evaluator::default(), Arc::new(snapshot.clone()), now);
    let page = page::render(&view, &EvidenceStatus::default(), now, "/metrics")
        .into_string()
        .replace("><", ">\n<");
    let check = CheckPage::of(&view, &EvidenceStatus::default(), now).text();
    (
        snapshot.clone(),
        metrics::render(&view, &EvidenceStatus::default(), now),
        page,
        check,
    )
}

fn compare(file: &str, text: &str) {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/golden", file]
        .iter()
        .collect();
    if std::env::var_os("KAFKA_VITALS_REFRESH").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap();
    let differs = std::iter::zip(golden.lines(), text.lines()).find(|(golden, now)| golden != now);
    assert!(
        golden == text,
        "tests/golden/{file} differs, first in {differs:?}; if that is meant: make docs"
    );
}

#[test]
fn golden_metrics_page_and_check_of_a_recorded_host() {
    let (_, metrics, page, check) = rendered();
    compare("check.txt", &check);
    compare("metrics.txt", &metrics);
    compare("page.html", &page);
}

/// Compares each figure that another tool reported too.
#[test]
fn other_tools_reported_the_same_of_the_recorded_host() {
    let (snapshot, text, page, _) = rendered();
    let reported = Metrics::parse(&text);
    let mut compared = 0;
    let mut same = |series: &str, value: u64| {
        assert_eq!(reported.get(series), Some(value as f64), "{series}");
        compared += 1;
    };
    assert_eq!(
        snapshot
            .brokers
            .iter()
            .map(|broker| broker.broker.id)
            .collect::<Vec<_>>(),
        BROKERS.map(Some)
    );

    let ss = recorded("tools/ss-tcp.txt");
    let all_sockets = recorded("tools/ss-all.txt");
    // A TCP socket has `ino:4711`; for others the inode is a word beside their name.
    let tracked: BTreeSet<&str> = all_sockets
        .split_whitespace()
        .map(|word| word.trim_start_matches("ino:"))
        .collect();
    let rows: Vec<Row> = ss.lines().filter_map(Row::parse).collect();
    assert_eq!(rows.len(), ss.lines().count());
    let mut sockets = Vec::new();
    for id in BROKERS {
        let listing = recorded(&format!("tools/fd-{id}.txt"));
        let links: Vec<&str> = listing
            .lines()
            .filter_map(|line| Some(line.split_once(" -> ")?.1))
            .collect();
        let count =
            |wanted: &dyn Fn(&str) -> bool| links.iter().filter(|link| wanted(link)).count() as u64;
        same(
            &format!("open_file_handles{{broker=\"{id}\"}}"),
            links.len() as u64,
        );
        let mut kind = |kind: &str, wanted: &dyn Fn(&str) -> bool| {
            same(
                &format!("file_handles{{broker=\"{id}\",kind=\"{kind}\"}}"),
                count(wanted),
            );
        };
        kind("socket", &|link| link.starts_with("socket:"));
        kind("pipe", &|link| link.starts_with("pipe:"));
        kind("anon", &|link| link.starts_with("anon_inode:"));
        kind("jar", &|link| link.ends_with(".jar"));
        kind("log_segment", &|link| link.ends_with("00.log"));
        kind("index", &|link| link.ends_with("index"));
        let inodes = links
            .iter()
            .filter_map(|link| link.strip_prefix("socket:[")?.strip_suffix(']'));
        let lost = inodes.filter(|inode| !tracked.contains(inode)).count();
        same(
            &format!("untracked_sockets{{broker=\"{id}\"}}"),
            lost as u64,
        );

        let limits = recorded(&format!("tools/prlimit-{id}.txt"));
        for (bound, limit) in std::iter::zip(["soft", "hard"], limits.split_whitespace()) {
            same(
                &format!("file_handle_limit{{broker=\"{id}\",bound=\"{bound}\"}}"),
                limit.parse().unwrap(),
            );
        }
        let ps = recorded(&format!("tools/ps-{id}.txt"));
        let ps: Vec<f64> = ps
            .split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect();
        let resident = reported.of("resident_memory_bytes", id).unwrap();
        assert!(
            (resident / 1024.0 / ps[1] - 1.0).abs() < 0.02,
            "{resident} bytes, by ps {} KiB",
            ps[1]
        );
        // `ps` was run up to some seconds before the moment.
        let age = moment().seconds() - reported.of("start_time_seconds", id).unwrap();
        assert!((age - ps[2]).abs() < 10.0, "{age} s old, by ps {} s", ps[2]);

        let broker = &snapshot
            .brokers
            .iter()
            .find(|broker| broker.broker.id == Some(id))
            .unwrap()
            .broker;
        assert_eq!(f64::from(broker.process.pid), ps[0]);
        sockets.push((id, broker.process.pid, vec![broker.listeners[0].port]));
    }

    for (series, count) in tools::connections_in_ss(&ss, &sockets, None) {
        same(&series, count);
    }
    for (id, _, ports) in &sockets {
        let port = ports[0].to_string();
        let in_state = |state: &str| {
            rows.iter()
                .filter(|row| row.state == state && row.local == port)
                .collect::<Vec<_>>()
        };
        let waiting = in_state("CLOSE-WAIT");
        // The peer's FIN counts 1.
        let unread: u64 = waiting.iter().map(|row| row.receive_queue - 1).sum();
        let with_unread = waiting.iter().filter(|row| row.receive_queue > 1).count();
        same(
            &format!("unread_close_wait_connections{{broker=\"{id}\",direction=\"in\"}}"),
            with_unread as u64,
        );
        let of = |state: &str| format!("{{broker=\"{id}\",direction=\"in\",state=\"{state}\"}}");
        same(&format!("receive_queue_bytes{}", of("close_wait")), unread);
        let established = in_state("ESTAB");
        let queued = |queue: fn(&Row) -> u64| established.iter().map(|row| queue(row)).sum::<u64>();
        same(
            &format!("receive_queue_bytes{}", of("established")),
            queued(|row| row.receive_queue),
        );
        same(
            &format!("send_queue_bytes{}", of("established")),
            queued(|row| row.send_queue),
        );
        let listening: u64 = in_state("LISTEN").iter().map(|row| row.receive_queue).sum();
        same(
            &format!("accept_queue_length{{broker=\"{id}\",listener=\"PLAINTEXT\"}}"),
            listening,
        );
    }

    let topics = recorded("tools/topics.txt");
    for (series, count) in tools::isr_in_describe(&topics, &BROKERS) {
        same(&series, count);
    }
    for partition in lab::cli_tools::described_partitions(&topics)
        .iter()
        .filter(|partition| !partition.is_fully_replicated())
    {
        let (leader, topic, number) = (
            partition.leader.unwrap(),
            &partition.topic,
            partition.partition,
        );
        let labels = format!("{{broker=\"{leader}\",topic=\"{topic}\",partition=\"{number}\"}}");
        same(
            &format!("partition_isr_replicas{labels}"),
            partition.isr.len() as u64,
        );
    }

    let mut deadlocked = Vec::new();
    for id in BROKERS {
        let jstack = recorded(&format!("dumps/jstack-{id}.txt"));
        let (states, report) = jstack.split_once("\n\n").unwrap();
        for state in BTreeSet::from_iter(states.lines()) {
            let count = states.lines().filter(|line| *line == state).count();
            same(
                &format!(
                    "threads{{broker=\"{id}\",state=\"{}\"}}",
                    state.to_lowercase()
                ),
                count as u64,
            );
        }
        let holders: BTreeSet<&str> = report
            .lines()
            .filter_map(|l| l.trim().strip_prefix("which is held by "))
            .collect();
        same(
            &format!("deadlock_detected{{broker=\"{id}\"}}"),
            u64::from(!holders.is_empty()),
        );
        same(
            &format!("deadlocked_threads{{broker=\"{id}\"}}"),
            holders.len() as u64,
        );
        for holder in &holders {
            assert!(
                page.contains(&format!("{}</strong> wants", holder.trim_matches('"'))),
                "{holder} in {page}"
            );
        }
        deadlocked.extend((!holders.is_empty()).then_some(id));
    }
    assert_eq!(deadlocked.len(), 1, "{deadlocked:?}");
    // If the recording lacks the harm of the incident, it must be recorded again.
    for harm in ["untracked_sockets", "isr_leader_alone_partitions"] {
        assert!(reported.of(harm, deadlocked[0]).unwrap() > 0.0, "{harm}");
    }
    let unread = format!(
        "unread_close_wait_connections{{broker=\"{}\",direction=\"in\"}}",
        deadlocked[0]
    );
    assert!(reported.get(&unread).unwrap() > 0.0);
    let (_, headline) = page.split_once("<h1>").unwrap();
    let since = format!("Broker {} is alive but deadlocked since ", deadlocked[0]);
    assert!(
        headline.starts_with(&since)
            && headline.contains(" UTC by KAFKA-3994, fixed in 0.10.1.1. Restart it.</h1>")
    );
    println!("{compared} series are what other tools said");
    assert!(compared > 120, "only {compared} series compared");
}
