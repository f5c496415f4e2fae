//! How soon a deadlock is reported, over many runs, and how often healthy brokers are suspected: `make qualify`.

use std::time::{Duration, Instant};

use crate::stalls::suspicions;
use crate::support::Exporter;
use crate::support::verdict::{followed, load, seconds_to_verdict, start};
use lab::{Cluster, ClusterOptions, Form, Load};

/// The runs of each form.
const RUNS: usize = 10;
/// The time at rest, and the same again under load.
const HEALTHY: Duration = Duration::from_secs(180);

#[test]
fn twenty_deadlocks_are_reported_within_3_s_median_and_5_s_worst() {
    let mut all = Vec::new();
    for form in [Form::Leave, Form::Expire] {
        for run in 0..RUNS {
            let (cluster, exporter) = start();
            let clients = Load::start(&cluster).unwrap();
            let (seconds, deadlock) = seconds_to_verdict(&cluster, form, || exporter.metrics());
            // A client waits 5 s for an answer.
            let noticed = clients
                .first_failure()
                .and_then(|at| at.checked_duration_since(deadlock.followers_continued));
            let noticed = noticed.map(|time| time.as_secs_f64());
            println!(
                "{form:?} {run}: {seconds:.2} s, first client {noticed:.2?} s, {}",
                load()
            );
            assert!(
                noticed.is_none_or(|noticed| seconds < noticed),
                "a client noticed first"
            );
            all.push(seconds);
        }
    }
    all.sort_by(f64::total_cmp);
    let (median, worst) = (all[all.len() / 2], all[all.len() - 1]);
    println!(
        "{} runs: median {median:.2} s, worst {worst:.2} s",
        all.len()
    );
    assert!(median <= 3.0 && worst <= 5.0, "{all:.2?}");
}

/// Healthy brokers are not suspected. Prints the suspicions and dumps in the exporter's log, and its CPU time.
fn not_suspected(version: &str) {
    let cluster = Cluster::start(ClusterOptions::new(version)).unwrap();
    cluster.create_topic("t32", 32, 3).unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let log = folder.path().join("log");
    let exporter = Exporter::start_with(cluster.cell(), "", |command| {
        command
            .arg("--log.level=debug")
            .stderr(std::fs::File::create(&log).unwrap());
    });
    followed(&cluster, &exporter);
    let start = Instant::now();
    let cpu = exporter.metrics().get("process_cpu_seconds_total").unwrap();
    std::thread::sleep(HEALTHY);
    let clients = Load::start(&cluster).unwrap();
    std::thread::sleep(HEALTHY);
    let metrics = exporter.metrics();
    let cpu = metrics.get("process_cpu_seconds_total").unwrap() - cpu;
    let share = 100.0 * cpu / start.elapsed().as_secs_f64();
    let suspicions = suspicions(&log);
    let log = std::fs::read_to_string(&log).unwrap();
    let dumps = log
        .lines()
        .filter(|line| line.contains("thread dump"))
        .count();
    println!(
        "{version}: {} suspicions, {dumps} dumps, {share:.2} % of a core, {}",
        suspicions.len(),
        load()
    );
    println!(
        "{version}: {} rounds of requests answered, {} failed",
        clients.answered(),
        clients.failed()
    );
    for broker in cluster.brokers() {
        let of = |name: &str| metrics.of(name, broker.id());
        let interval = metrics.get(&format!(
            "round_interval_seconds{{broker=\"{}\",collector=\"progress\"}}",
            broker.id()
        ));
        println!(
            "  {}: pauses {:?} s, progress every {interval:?} s",
            broker.id(),
            of("jvm_pause_seconds_total")
        );
        assert_eq!(of("deadlock_detected"), Some(0.0));
    }
    assert!(suspicions.is_empty(), "{suspicions:#?}");
}

tests! { not_suspected:
    healthy_brokers_of_0_10_are_not_suspected("0.10.1.0");
    healthy_brokers_of_2_8_are_not_suspected("2.8.2");
    healthy_brokers_of_3_9_are_not_suspected("3.9.1");
    healthy_brokers_of_4_3_are_not_suspected("4.3.0");
}
