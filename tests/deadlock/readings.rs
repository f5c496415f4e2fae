//! What the exporter reads from healthy and from stopped brokers.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::Cluster;

use crate::support::agree::agree_on_everything;
use crate::support::{Exporter, trouble, wait_for};

/// The exporter's probe of one broker goes to a listener that never answers: it must dump this broker at once, and no
/// other.
pub fn silence_calls_for_a_dump(cluster: &Cluster) {
    let silent = cluster
        .cell()
        .in_network(|| TcpListener::bind("127.0.0.1:0").unwrap())
        .unwrap();
    let address = silent.local_addr().unwrap();
    let config = format!(
        "intervals: {{threads: 10m}}\nbrokers:\n  - {{match: {{id: 217}}, bootstrap: \"{address}\"}}\n"
    );
    let exporter = Exporter::start_with(cluster.cell(), &config, |_| {});
    let mut metrics = exporter.metrics();
    wait_for(
        "a dump of the silent broker alone",
        Duration::from_secs(30),
        || {
            metrics = exporter.metrics();
            let [silent, others @ ..] =
                trouble::BROKERS.map(|id| metrics.of("thread_dump_age_seconds", id));
            others.iter().all(|other| {
                silent
                    .zip(*other)
                    .is_some_and(|(silent, other)| silent + 3.0 < other)
            })
        },
    );
    assert_eq!(
        metrics.get("probe_success{broker=\"217\",path=\"api\"}"),
        Some(0.0)
    );
}

pub fn brokers_are_described(exporter: &Exporter) {
    let info = exporter.scrape();
    let info = info
        .lines()
        .find(|line| line.starts_with("kafka_vitals_broker_info{broker=\"217\""))
        .unwrap();
    assert!(
        info.contains("kafka_version=\"0.10.1.0\"") && info.contains("mode=\"zookeeper\""),
        "{info}"
    );
    assert!(
        info.contains("roles=\"broker\"") && !info.contains("java_version=\"\""),
        "{info}"
    );
}

pub fn promtool_finds_nothing_wrong(exporter: &Exporter) {
    let all = [
        "process",
        "fds",
        "sockets",
        "connections",
        "cluster",
        "log_dirs",
        "threads",
    ];
    wait_for("all collectors", Duration::from_secs(40), || {
        let metrics = exporter.metrics();
        all.iter()
            .all(|collector| metrics.success(219, collector) == Some(true))
    });
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is on the PATH: run through `make test`, which fetches it");
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(exporter.scrape().as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && printed.is_empty(), "{printed}");
}

/// Reads shell, exporter, shell: what the exporter adds up for a pool must lie between the two sums of the shell.
pub fn pools_equal_the_counts_of_the_kernel(cluster: &Cluster, exporter: &Exporter) {
    for broker in cluster.brokers() {
        let (id, pid) = (broker.id(), broker.pid().unwrap());
        let before = pools_by_shell(pid);
        let since = Instant::now();
        let mut metrics = exporter.metrics();
        wait_for("new readings of pools", Duration::from_secs(30), || {
            let since = since.elapsed().as_secs_f64();
            metrics = exporter.metrics();
            let age = format!("reading_age_seconds{{broker=\"{id}\",collector=\"pools\"}}");
            // Ages are in milliseconds.
            metrics.get(&age).is_some_and(|age| age + 0.01 < since)
        });
        let after = pools_by_shell(pid);
        for (pool, before) in before {
            for (name, before, after) in [
                ("pool_cpu_seconds_total", before.0, after[pool].0),
                ("pool_run_queue_seconds_total", before.1, after[pool].1),
            ] {
                let series = format!("{name}{{broker=\"{id}\",pool=\"{pool}\"}}");
                let ours = metrics.get(&series).unwrap();
                let nanoseconds = (ours * 1e9).round() as u64;
                assert!(
                    (before..=after).contains(&nanoseconds),
                    "{series}: {nanoseconds} ns is not in {before}..={after}"
                );
            }
        }
    }
}

/// Sums what `cat` prints of the threads of two pools: nanoseconds on a CPU, and waiting for one.
fn pools_by_shell(pid: u32) -> BTreeMap<&'static str, (u64, u64)> {
    let script = "for task in /proc/$0/task/*; do cat $task/comm $task/schedstat; done";
    let output = Command::new("sh")
        .args(["-c", script, &pid.to_string()])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    // As the kernel cuts the names of 0.10.1.0.
    let pools = [
        ("kafka-request-h", "request_handler"),
        ("kafka-network-t", "network"),
    ];
    let mut sums = BTreeMap::new();
    for task in lines.windows(2) {
        let Some((_, pool)) = pools.iter().find(|(name, _)| *name == task[0]) else {
            continue;
        };
        let counts: Vec<u64> = task[1]
            .split(' ')
            .map(|count| count.parse().unwrap())
            .collect();
        let (cpu, run_queue) = sums.entry(*pool).or_default();
        *cpu += counts[0];
        *run_queue += counts[1];
    }
    assert_eq!(sums.len(), pools.len(), "{text}");
    sums
}

pub fn one_broker_stops_and_returns(cluster: &mut Cluster, exporter: &Exporter) {
    cluster.stop(218).unwrap();
    wait_for(
        "the stopped broker to be reported",
        Duration::from_secs(15),
        || {
            let metrics = exporter.metrics();
            metrics.state(218, "ended") == Some(1.0)
                && metrics.success(218, "process").is_none()
                && metrics.of("open_file_handles", 218).is_none()
                && metrics.of("deadlock_detected", 218).is_none()
        },
    );
    cluster
        .wait_until_excluded(218, Duration::from_secs(60))
        .unwrap();
    agree_on_everything(cluster, exporter);
    cluster.start_again(218).unwrap();
    cluster
        .wait_fully_replicated(Duration::from_secs(60))
        .unwrap();
    trouble::all_well(exporter);
}
