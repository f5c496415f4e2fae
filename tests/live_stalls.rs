//! Threads of real brokers: healthy ones neither stall nor lack any, whatever they do; one that ends is missing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use lab::{Cluster, ClusterOptions, Load, LoadOptions};
use support::{Exporter, wait_for};

/// More often than by default, so that more is compared.
const CONFIG: &str = "rounds: {thread_dump: 2s}\n";
const AT_REST: Duration = Duration::from_secs(15);
const UNDER_LOAD: Duration = Duration::from_secs(60);

fn start(version: &str) -> (Cluster, Exporter) {
    let cluster = Cluster::start(ClusterOptions::new(version)).unwrap();
    cluster.create_topic("t32", 32, 3).unwrap();
    cluster.wait_whole(Duration::from_secs(60)).unwrap();
    let exporter = Exporter::start_configured(cluster.cell(), CONFIG);
    (cluster, exporter)
}

/// Waits until these pools of every broker can be judged.
fn judged(cluster: &Cluster, exporter: &Exporter, pools: &[&str]) {
    wait_for("every pool to be judged", Duration::from_secs(30), || {
        let metrics = exporter.metrics();
        cluster.brokers().all(|broker| {
            let of = |name: &str, pool: &str| format!("{name}{{broker=\"{}\",pool=\"{pool}\"}}", broker.id());
            let known = |series: String| metrics.get(&series).is_some();
            pools.iter().all(|pool| known(of("stalled_threads", pool)) && known(of("missing_threads", pool)))
        })
    });
}

/// Looks at every broker again and again until `over`.
fn nothing_found(exporter: &Exporter, over: impl Fn() -> bool) -> usize {
    let mut series = 0;
    loop {
        let last = over();
        for (name, value) in exporter.metrics().0 {
            if ["stalled_threads", "missing_threads", "deadlock_detected"].iter().any(|start| name.starts_with(start)) {
                assert_eq!(value, 0.0, "{name}: {}", exporter.page());
                series += 1;
            }
        }
        if last {
            return series;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn healthy(version: &str, pools: &[&str]) {
    let (mut cluster, exporter) = start(version);
    judged(&cluster, &exporter, pools);
    let begun = Instant::now();
    let at_rest = nothing_found(&exporter, || begun.elapsed() > AT_REST);
    let clients = Load::start(&cluster, &LoadOptions::incident("t32")).unwrap();
    let begun = Instant::now();
    let under_load = nothing_found(&exporter, || begun.elapsed() > UNDER_LOAD);
    println!("{version}: {at_rest} readings at rest, {under_load} under load, {} rounds answered", clients.answered());
    assert!(clients.answered() > 100);
    drop(clients);
    // Its peers' fetchers end, and its own threads one after the other.
    let id = cluster.brokers().next().unwrap().id();
    let restarted = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (cluster, restarted) = (&mut cluster, &restarted);
        scope.spawn(move || {
            cluster.restart(id).unwrap();
            restarted.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        nothing_found(&exporter, || restarted.load(std::sync::atomic::Ordering::Relaxed));
    });
    judged(&cluster, &exporter, pools);
    let begun = Instant::now();
    nothing_found(&exporter, || begun.elapsed() > AT_REST);
}

const POOLS: [&str; 5] = ["request_handler", "network", "acceptor", "expiration_reaper", "log_cleaner"];

#[test]
fn healthy_brokers_of_the_incident_neither_stall_nor_lack_threads() {
    healthy("0.10.1.0", &[&POOLS[..], &["scheduler", "replica_fetcher", "throttled_reaper"]].concat());
}

#[test]
fn healthy_brokers_without_zookeeper_neither_stall_nor_lack_threads() {
    healthy("4.3.0", &[&POOLS[..], &["raft_io", "metadata_loader", "event_processor", "replica_fetcher"]].concat());
}

/// The agent that ends threads, as a jar.
fn agent() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("agent");
    let run = |mut command: Command| {
        let Output { status, stderr, .. } = command.output().unwrap();
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    };
    let mut javac = Command::new("javac");
    javac.arg("-d").arg(&folder).arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/agent/EndThreads.java"));
    run(javac);
    std::fs::write(folder.join("manifest"), "Agent-Class: EndThreads\n").unwrap();
    let jar = folder.join("agent.jar");
    let mut pack = Command::new("jar");
    pack.arg("cfm").arg(&jar).arg(folder.join("manifest")).arg("-C").arg(&folder).arg("EndThreads.class");
    run(pack);
    jar
}

#[test]
fn threads_that_end_are_missing() {
    let (cluster, exporter) = start("0.10.1.0");
    let pools = ["log_cleaner", "expiration_reaper", "replica_fetcher"];
    judged(&cluster, &exporter, &pools);
    nothing_found(&exporter, || true);
    let broker = cluster.brokers().next().unwrap();
    let dump = cluster.jstack(broker.id()).unwrap();
    let names = dump.lines().filter_map(|line| line.strip_prefix('"')?.split('"').next());
    let fetcher = names.clone().find(|name| name.starts_with("ReplicaFetcherThread-")).unwrap();
    let reapers = names.filter(|name| name.starts_with("ExpirationReaper-")).count();
    let ended = format!("kafka-log-cleaner-thread-0,ExpirationReaper-{},{fetcher}", broker.id());
    let jar = agent();
    let mut end = Command::new("java");
    end.arg("-cp").arg(&jar).arg("EndThreads").arg(broker.cell_pid().unwrap().to_string()).arg(&jar).arg(&ended);
    let output = cluster.cell().run_tool(end, Duration::from_secs(20)).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // What jstack shows of them: one reaper of several has ended.
    wait_for("the threads to end", Duration::from_secs(30), || {
        let dump = cluster.jstack(broker.id()).unwrap();
        let count = |name: &str| dump.matches(&format!("\n\"{name}\"")).count();
        let reaper = format!("ExpirationReaper-{}", broker.id());
        count("kafka-log-cleaner-thread-0") == 0 && count(fetcher) == 0 && count(&reaper) == reapers - 1
    });
    let begun = Instant::now();
    // The fetcher's work is known to be still there once its leader has put the broker out of the ISR.
    wait_for("the missing threads to be told", Duration::from_secs(90), || {
        let metrics = exporter.metrics();
        pools.iter().all(|pool| {
            metrics.get(&format!("missing_threads{{broker=\"{}\",pool=\"{pool}\"}}", broker.id())) == Some(1.0)
        })
    });
    println!("{ended} of {reapers} reapers: told {:?} after their end", begun.elapsed());
    let page = exporter.page();
    for name in ended.split(',') {
        assert!(page.contains(&format!("<strong>{name}</strong>, gone for")), "{name} in {page}");
    }
    let metrics = exporter.metrics();
    for (series, value) in &metrics.0 {
        let others = !series.contains(&format!("broker=\"{}\"", broker.id()));
        if series.starts_with("missing_threads") && (others || !pools.iter().any(|pool| series.contains(pool))) {
            assert_eq!(*value, 0.0, "{series}");
        }
    }
}
