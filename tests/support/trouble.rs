//! What goes wrong with brokers, and what the exporter must say of it meanwhile.

use std::time::{Duration, Instant};

use lab::{Cluster, ClusterOptions, Form, deadlock};

use super::{Exporter, wait_for, wait_until_none};

pub const BROKERS: [i32; 3] = [217, 218, 219];

/// The incident's brokers, with the topic that the deadlock is made with.
pub fn cluster() -> Cluster {
    let cluster = Cluster::start(ClusterOptions::incident()).unwrap();
    cluster.create_topic(deadlock::TOPIC, 32, 3).unwrap();
    cluster
}

/// Scrapes 20 times a second while `trouble` goes on, and 200 times at least; all are answered, and in time. `check`
/// sees each answer.
pub fn scraped(exporter: &Exporter, check: impl Fn(&str), trouble: impl FnOnce() + Send) {
    const APART: Duration = Duration::from_millis(50);
    let begun = Instant::now();
    let mut times = Vec::new();
    std::thread::scope(|scope| {
        let trouble = scope.spawn(trouble);
        let mut next = begun;
        while !trouble.is_finished() || times.len() < 200 {
            let asked = Instant::now();
            let body = exporter.scrape();
            times.push(asked.elapsed());
            assert!(body.contains("kafka_vitals_build_info"));
            check(&body);
            // At its own times, whether the last one was slow or not.
            next += APART;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    });
    times.sort();
    let (took, count) = (begun.elapsed(), times.len());
    let (p99, worst) = (times[count * 99 / 100], times[count - 1]);
    let told = format!("{count} scrapes in {took:.1?}: p99 {p99:.1?}, worst {worst:.1?}");
    println!("{told}");
    assert!(
        p99 < Duration::from_millis(100) && worst < Duration::from_secs(1),
        "{told}"
    );
}

/// What the probes of the exporter say of a broker: api and metadata of its own, and by each other broker as a peer how
/// far it was reached.
fn probed(exporter: &Exporter, id: i32) -> ([Option<f64>; 2], [[Option<f64>; 2]; 2]) {
    let metrics = exporter.metrics();
    let own = |path| metrics.get(&format!("probe_success{{broker=\"{id}\",path=\"{path}\"}}"));
    let by = |other: i32, stage| {
        metrics.get(&format!(
            "peer_probe_success{{broker=\"{other}\",peer=\"{id}\",stage=\"{stage}\"}}"
        ))
    };
    let mut others = BROKERS.into_iter().filter(|other| *other != id);
    let others = [(); 2].map(|()| others.next().unwrap());
    (
        ["api", "metadata"].map(own),
        others.map(|other| ["connect", "api"].map(|stage| by(other, stage))),
    )
}

/// Until every broker's threads are known, and no deadlock, and all probes are answered.
pub fn all_well(exporter: &Exporter) {
    let answered = Some(1.0);
    wait_until_none("all brokers to be well", Duration::from_secs(40), || {
        let metrics = exporter.metrics();
        let state = |id: &i32| {
            (
                probed(exporter, *id),
                metrics.of("deadlock_detected", *id),
                metrics.success(*id, "threads"),
            )
        };
        let well = (([answered; 2], [[answered; 2]; 2]), Some(0.0), Some(true));
        BROKERS
            .iter()
            .map(|id| (id, state(id)))
            .filter(|(_, state)| *state != well)
            .collect()
    });
}

/// SIGSTOP: its own listener takes connections and is silent, a dump is not tried, and the page says so. Then SIGCONT.
pub fn pause_and_resume(cluster: &Cluster, exporter: &Exporter, id: i32) {
    let told = |text: &str| exporter.page().contains(text);
    cluster.pause(id).unwrap();
    wait_for(
        "the stopped process to be told",
        Duration::from_secs(5),
        || told("is stopped by a signal"),
    );
    wait_for(
        "the thread dump to be unknown",
        Duration::from_secs(20),
        || exporter.metrics().success(id, "threads") == Some(false),
    );
    wait_for(
        "the probes to tell its silence",
        Duration::from_secs(15),
        || probed(exporter, id) == ([Some(0.0), None], [[Some(1.0), Some(0.0)]; 2]),
    );
    wait_for(
        "a peer to tell the cluster's state",
        Duration::from_secs(20),
        || told("<small>reported by broker "),
    );
    cluster.resume(id).unwrap();
    wait_for("it to be well again", Duration::from_secs(40), || {
        exporter.metrics().success(id, "threads") == Some(true) && !told("<small>reported by broker ")
    });
}

/// SIGKILL, and started again: another process with the same id.
pub fn kill_and_start_again(cluster: &mut Cluster, exporter: &Exporter, id: i32) {
    cluster.kill(id).unwrap();
    wait_for(
        "the killed process to be told",
        Duration::from_secs(15),
        || exporter.metrics().success(id, "process") == Some(false),
    );
    wait_for("the peers to be refused", Duration::from_secs(15), || {
        probed(exporter, id) == ([None; 2], [[Some(0.0), None]; 2])
    });
    cluster.start_again(id).unwrap();
    let started = Instant::now();
    let pid = cluster.broker(id).unwrap().cell_pid().unwrap();
    let (label, of) = (
        format!("pid=\"{pid}\""),
        format!("broker_info{{broker=\"{id}\""),
    );
    wait_for(
        "the new process to be followed",
        Duration::from_secs(10),
        || {
            exporter
                .scrape()
                .lines()
                .any(|line| line.contains(&of) && line.contains(&label))
        },
    );
    println!(
        "the new process was followed {:.1?} after it had started",
        started.elapsed()
    );
    cluster
        .wait_fully_replicated(Duration::from_secs(60))
        .unwrap();
    all_well(exporter);
}

/// Told within 20 s, of the sick broker alone, with the threads that `jstack` names; the sick broker's id.
pub fn make_deadlock(cluster: &Cluster, exporter: &Exporter, form: Form) -> i32 {
    let made = deadlock::make(cluster, form).unwrap();
    wait_for("the deadlock to be told", Duration::from_secs(25), || {
        exporter.metrics().of("deadlock_detected", made.broker) == Some(1.0)
    });
    let seconds = made.followers_continued.elapsed().as_secs_f64();
    println!(
        "{form:?}: deadlock told {seconds:.1} s after the last follower's SIGCONT, {} round(s)",
        made.rounds
    );
    assert!(seconds <= 20.0, "told only after {seconds:.1} s");
    // The others were stopped for a moment, so their next dumps can come later.
    let others = BROKERS.into_iter().filter(|id| *id != made.broker);
    let mut metrics = exporter.metrics();
    wait_for("dumps of the others", Duration::from_secs(40), || {
        metrics = exporter.metrics();
        let mut found = others.clone().map(|id| metrics.of("deadlock_detected", id));
        found.all(|found| found.is_some())
    });
    for id in others {
        assert_eq!(metrics.of("deadlock_detected", id), Some(0.0), "{id}");
    }
    assert_eq!(metrics.of("deadlocked_threads", made.broker), Some(2.0));
    let page = exporter.page();
    assert!(
        page.contains(&format!("Broker {} is alive but deadlocked", made.broker)),
        "{page}"
    );
    for holder in made
        .report
        .lines()
        .filter_map(|line| line.trim().strip_prefix("which is held by \""))
    {
        let holder = holder.trim_end_matches('"');
        assert!(
            page.contains(&format!("<strong>{holder}</strong> wants")),
            "{holder} in {page}"
        );
    }
    made.broker
}
