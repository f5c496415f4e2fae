//! Kinds of deadlock on real JVMs, among threads with the names of a broker's: which are found, and by what.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code)] // the tests of attach use the rest
#[path = "attach/jvm.rs"]
mod jvm;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use kafka_vitals::collect::jvm_dumper::JvmDumper;
use kafka_vitals::collect::threads::{ThreadHistory, report};
use kafka_vitals::model::{Broker, ProcessKey};
use kafka_vitals::model::{Moment, ThreadReport};

use jvm::{JDKS, Jdk, newest_jdk, start_ticks};

const EXE: &str = env!("CARGO_BIN_EXE_kafka-vitals");
const DEADLINE: Duration = Duration::from_secs(10);

fn collector(exe: impl Into<PathBuf>, pid: u32, deadline: Duration) -> JvmDumper {
    let broker = Broker::unknown(ProcessKey {
        pid,
        start_ticks: start_ticks(pid),
    });
    JvmDumper::new(exe, "/proc", Arc::new(broker), deadline)
}

static CLASSES: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shapes-classes");
    let sources = [
        "Shapes",
        "kafka/cluster/Partition",
        "kafka/server/Broker",
        "kafka/server/DelayedFetch",
        "kafka/server/ReplicaManager",
    ];
    let path = |name| {
        format!(
            "{}/tests/fixtures/shapes/{name}.java",
            env!("CARGO_MANIFEST_DIR")
        )
    };
    let mut javac = Command::new(JDKS[0].tool("javac"));
    javac
        .args(["--release", "11", "-nowarn", "-d"])
        .arg(&folder)
        .args(sources.map(path));
    let output = javac.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    folder
});

/// The program, and the threads of each shape, which it prints.
struct Shapes {
    process: Child,
    threads: BTreeMap<String, BTreeSet<String>>,
}

impl Shapes {
    fn start(jdk: &Jdk) -> Shapes {
        use std::io::{BufRead, BufReader};
        // It ends with the test, also if the test is killed.
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(jdk.tool("java"))
            .args([
                "-Xmx64m",
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
                "-cp",
            ])
            .arg(&*CLASSES)
            .arg("Shapes")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap())
            .lines()
            .map(|line| line.unwrap());
        let mut threads = BTreeMap::new();
        let mut ready = false;
        for line in lines {
            let mut words = line.split(' ').map(str::to_owned);
            match words.next().as_deref() {
                Some("shape") => drop(threads.insert(words.next().unwrap(), words.collect())),
                Some("READY") => {
                    ready = true;
                    break;
                }
                _ => {}
            }
        }
        assert!(ready, "the JVM ended");
        Shapes { process, threads }
    }
}

impl Drop for Shapes {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How a report shows the threads: `cycle`, `stall`.
fn shown(report: &ThreadReport, threads: &BTreeSet<String>) -> BTreeSet<&'static str> {
    let in_cycle = report
        .deadlocks
        .iter()
        .flat_map(|deadlock| &deadlock.cycle)
        .any(|t| threads.contains(&t.thread));
    let stalls = report.stalls.iter().flat_map(|stalls| &stalls.found);
    let stalled = stalls
        .flat_map(|stall| &stall.threads)
        .any(|thread| threads.contains(thread));
    [("cycle", in_cycle), ("stall", stalled)]
        .into_iter()
        .filter(|(_, shows)| *shows)
        .map(|(by, _)| by)
        .collect()
}

/// The threads that likely wait for each other: the one that waits for an event, and whom it seems to wait for.
fn likely(report: &ThreadReport) -> BTreeMap<&str, Option<&str>> {
    let likely = report.likely_deadlocks.iter();
    likely
        .map(|likely| (likely.thread.as_str(), likely.may_await.as_deref()))
        .collect()
}

async fn shapes_are_found(jdk: &Jdk) {
    let shapes = Shapes::start(jdk);
    assert_eq!(shapes.threads.len(), 17);
    let may_stall: BTreeSet<&String> = shapes.threads.values().flatten().collect();
    let mut collector = collector(EXE, shapes.process.id(), DEADLINE);
    let mut history = ThreadHistory::default();
    let start = Instant::now();
    let mut last = BTreeMap::new();
    // Dumps follow each other faster than the times that they are given: a stall only needs that nothing moved.
    let mut now = Moment(0);
    let mut take = |with_locks| {
        let dump = async {
            if with_locks {
                collector.collect_with_locks().await
            } else {
                collector.collect().await
            }
        };
        let dump = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(dump))
            .unwrap();
        now = now.plus(Duration::from_secs(25));
        report(&dump, &mut history, None, now).unwrap().0
    };
    let report = (0u64..)
        .find_map(|_| {
            let report = take(false);
            let stalls = report.stalls.iter().flat_map(|stalls| &stalls.found);
            for thread in stalls.flat_map(|stall| &stall.threads) {
                assert!(may_stall.contains(thread), "{thread} is idle");
            }
            let by: BTreeMap<_, _> = shapes
                .threads
                .iter()
                .map(|(shape, threads)| (shape.clone(), shown(&report, threads)))
                .collect();
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "not found within 60 s: {last:?}"
            );
            let all = by.values().all(|by| by.contains("stall"));
            last = by;
            all.then_some(report)
        })
        .unwrap();
    for (shape, by) in &last {
        println!("JDK {}: {shape}: {by:?}", jdk.major);
    }
    // Those whose holders the JVM prints.
    for shape in ["monitors", "locks", "monitor-lock", "write-locks"] {
        assert!(last[shape].contains("cycle"), "{shape}");
    }
    // Those whose holders no text shows.
    for shape in [
        "stamped-locks",
        "semaphores",
        "readers",
        "join",
        "pool-for-itself",
        "lock-across-await",
        "lock-class",
    ] {
        assert!(!last[shape].contains("cycle"), "{shape}");
    }
    let of_readers = report.stalls.as_ref().unwrap().found.iter();
    let frame = of_readers.clone().find(|stall| {
        stall
            .threads
            .contains(&"data-plane-kafka-request-handler-0".to_owned())
    });
    let stall = frame.unwrap();
    assert_eq!(
        stall.frame.as_deref(),
        Some("kafka.cluster.Partition.fetchOffsetSnapshot")
    );
    assert_eq!(
        stall.threads,
        [
            "data-plane-kafka-request-handler-0",
            "data-plane-kafka-request-handler-1"
        ]
    );
    let lock = "java.util.concurrent.locks.ReentrantReadWriteLock$NonfairSync";
    assert_eq!(stall.lock_class.as_deref(), Some(lock));
    let named: Vec<_> = stall
        .known_issues
        .iter()
        .map(|known| (known.issue.as_str(), known.is_exact()))
        .collect();
    assert_eq!(named, [("KAFKA-7697", false)]);
    let mut others = report
        .stalls
        .as_ref()
        .unwrap()
        .found
        .iter()
        .filter(|other| *other != stall);
    assert!(others.all(|other| other.known_issues.is_empty()));
    let writers = of_readers
        .clone()
        .find(|stall| stall.frame.as_deref() == Some("kafka.cluster.Partition.maybeShrinkIsr"));
    assert_eq!(
        writers.unwrap().threads,
        ["kafka-scheduler-4", "kafka-scheduler-5"]
    );
    let pools = &report.stalls.as_ref().unwrap().pools;
    assert!(
        pools.contains("network") && pools.contains("expiration_reaper"),
        "{pools:?}"
    );
    // Those that hold a monitor while they wait for another thread. The holder of a lock is not shown yet.
    assert_eq!(
        likely(&report),
        BTreeMap::from([("kafka-log-cleaner-thread-0", Some("executor-Heartbeat"))])
    );
    assert_eq!(report.not_understood, Vec::<String>::new());
    let holders = |report: &ThreadReport, waiter: &str| {
        let mut stalls = report.stalls.iter().flat_map(|stalls| &stalls.found);
        stalls
            .find(|stall| stall.threads.iter().any(|thread| thread == waiter))
            .unwrap()
            .holders
            .clone()
    };
    assert!(holders(&report, "controller-event-thread").is_empty());
    // Once shown, the owners stay known in dumps that do not show them.
    for with_locks in [true, false, false] {
        let report = take(with_locks);
        assert_eq!(
            shown(&report, &shapes.threads["lock-class"]),
            BTreeSet::from(["cycle", "stall"])
        );
        assert_eq!(
            holders(&report, "controller-event-thread"),
            BTreeSet::from(["kafka-scheduler-1".to_owned()])
        );
        assert_eq!(
            likely(&report),
            BTreeMap::from([
                ("kafka-log-cleaner-thread-0", Some("executor-Heartbeat")),
                ("kafka-scheduler-1", Some("controller-event-thread")),
            ])
        );
        for shape in [
            "stamped-locks",
            "semaphores",
            "readers",
            "lock-across-await",
        ] {
            assert!(
                !shown(&report, &shapes.threads[shape]).contains("cycle"),
                "{shape}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_is_found_and_no_idle_thread() {
    shapes_are_found(&JDKS[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_is_found_on_a_newer_jdk() {
    if let Some(jdk) = newest_jdk("every_kind_is_found_on_a_newer_jdk") {
        shapes_are_found(jdk).await;
    }
}
