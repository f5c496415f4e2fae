//! Failures of brokers, and what the exporter must report meanwhile.

use std::time::{Duration, Instant};

use lab::{Cluster, ClusterOptions, Deadlock, Form, deadlock};

use super::{Exporter, wait_for, wait_until_none};

pub const BROKERS: [i32; 3] = [217, 218, 219];

/// Starts the incident's brokers, with the topic that the deadlock needs.
pub fn cluster() -> Cluster {
    let cluster = Cluster::start(ClusterOptions::incident()).unwrap();
    cluster.create_topic(deadlock::TOPIC, 32, 3).unwrap();
    cluster
}

/// Scrapes 20 times a second while `trouble` runs, and at least 200 times. Every scrape must be answered in time; `check`
/// gets each answer.
pub fn scraped(exporter: &Exporter, check: impl Fn(&str), trouble: impl FnOnce() + Send) {
    let mut scrapes = Scrapes::default();
    scrapes.during(exporter, &check, trouble);
    while scrapes.0.len() < Scrapes::LEAST {
        check(&scrapes.scrape(exporter));
        std::thread::sleep(Scrapes::APART);
    }
    scrapes.were_answered_in_time();
}

/// The times that scrapes took, without the time in which the exporter or this test waited for a core: a busy machine does
/// not make the exporter late, and a broker that blocks it does.
#[derive(Default)]
pub struct Scrapes(Vec<Duration>);

impl Scrapes {
    const LEAST: usize = 200;
    const APART: Duration = Duration::from_millis(50);

    pub fn scrape(&mut self, exporter: &Exporter) -> String {
        let (start, waited) = (Instant::now(), waits_for_a_core(exporter));
        let body = exporter.scrape();
        let took = start.elapsed();
        let waited = waits_for_a_core(exporter).saturating_sub(waited);
        self.0.push(took.saturating_sub(waited));
        assert!(body.contains("kafka_vitals_build_info"));
        body
    }

    /// Scrapes 20 times a second while `trouble` runs; `check` gets each answer.
    pub fn during<T: Send>(
        &mut self,
        exporter: &Exporter,
        check: impl Fn(&str),
        trouble: impl FnOnce() -> T + Send,
    ) -> T {
        let result = std::thread::scope(|scope| {
            let trouble = scope.spawn(trouble);
            let mut next = Instant::now();
            while !trouble.is_finished() {
                check(&self.scrape(exporter));
                // A slow scrape does not delay the next ones.
                next += Scrapes::APART;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            trouble.join()
        });
        // The panic has printed its message already.
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    pub fn were_answered_in_time(self) {
        let mut times = self.0;
        times.sort();
        let count = times.len();
        assert!(count >= Scrapes::LEAST, "only {count} scrapes");
        let (p99, worst) = (times[count * 99 / 100], times[count - 1]);
        let summary = format!("{count} scrapes: p99 {p99:.1?}, worst {worst:.1?}");
        println!("{summary}");
        assert!(
            p99 < Duration::from_millis(100) && worst < Duration::from_secs(1),
            "{summary}"
        );
    }
}

/// Returns how long the threads of the exporter and this thread have waited for a core until now.
fn waits_for_a_core(exporter: &Exporter) -> Duration {
    let tasks = format!("/proc/{}/task", exporter.process.pid());
    let tasks = std::fs::read_dir(tasks).unwrap();
    let files = tasks.map(|task| task.unwrap().path().join("schedstat"));
    let own = std::path::PathBuf::from("/proc/thread-self/schedstat");
    // A thread that has just ended has no file.
    let waits = files.chain([own]).filter_map(|file| {
        let text = std::fs::read_to_string(file).ok()?;
        text.split(' ').nth(1)?.parse::<u64>().ok()
    });
    Duration::from_nanos(waits.sum())
}

/// Returns the results of the exporter's probes of a broker: the broker's own api and metadata, and for each other broker
/// how far it reached this one as a peer.
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

/// Waits until every broker's threads are known without a deadlock, and all probes are answered.
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

/// Stops a broker by SIGSTOP: its listener accepts connections and does not answer, no dump is tried, and the page reports
/// it. Then SIGCONT.
pub fn pause_and_resume(cluster: &Cluster, exporter: &Exporter, id: i32) {
    let on_page = |text: &str| exporter.page().contains(text);
    cluster.pause(id).unwrap();
    wait_for(
        "the stopped process on the page",
        Duration::from_secs(5),
        || on_page("is stopped by a signal"),
    );
    wait_for(
        "the thread dump to be unknown",
        Duration::from_secs(20),
        || exporter.metrics().success(id, "threads") == Some(false),
    );
    wait_for(
        "the probes to report its silence",
        Duration::from_secs(15),
        || probed(exporter, id) == ([Some(0.0), None], [[Some(1.0), Some(0.0)]; 2]),
    );
    wait_for(
        "others to report the cluster's state",
        Duration::from_secs(20),
        || is_reported_by_others(exporter),
    );
    cluster.resume(id).unwrap();
    wait_for("it to be well again", Duration::from_secs(40), || {
        exporter.metrics().success(id, "threads") == Some(true) && !is_reported_by_others(exporter)
    });
}

/// Whether the page has counts of a broker by a peer, or by ZooKeeper where its answers came in time.
pub fn is_reported_by_others(exporter: &Exporter) -> bool {
    let page = exporter.page();
    let by = ["<small>source: broker ", "<small>source: ZooKeeper"];
    by.iter().any(|text| page.contains(text))
}

/// Kills a broker by SIGKILL and starts it again: a new process with the same id.
pub fn kill_and_start_again(cluster: &mut Cluster, exporter: &Exporter, id: i32) {
    cluster.kill(id).unwrap();
    wait_for(
        "the killed process to be reported",
        Duration::from_secs(15),
        || exporter.metrics().state(id, "ended") == Some(1.0),
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
        "the new process to be reported",
        Duration::from_secs(10),
        || {
            exporter
                .scrape()
                .lines()
                .any(|line| line.contains(&of) && line.contains(&label))
        },
    );
    println!(
        "the new process was reported {:.1?} after its start",
        started.elapsed()
    );
    cluster
        .wait_fully_replicated(Duration::from_secs(60))
        .unwrap();
    all_well(exporter);
}

/// Makes the deadlock, which must be reported. Returns the id of the deadlocked broker.
pub fn make_deadlock(cluster: &Cluster, exporter: &Exporter, form: Form) -> i32 {
    let made = deadlock::make(cluster, form).unwrap();
    reported_in_time(cluster, exporter, form, &made);
    made.broker
}

/// Waits until a deadlock is reported, at most 20 s. Returns the seconds.
pub fn reported_in_time(
    cluster: &Cluster,
    exporter: &Exporter,
    form: Form,
    made: &Deadlock,
) -> f64 {
    wait_for(
        "the deadlock to be reported",
        Duration::from_secs(25),
        || exporter.metrics().of("deadlock_detected", made.broker) == Some(1.0),
    );
    let seconds = made.followers_continued.elapsed().as_secs_f64();
    println!(
        "{form:?}: deadlock reported {seconds:.1} s after the last follower's SIGCONT, {} round(s)",
        made.rounds
    );
    assert!(seconds <= 20.0, "reported only after {seconds:.1} s");
    deadlock_is_reported(cluster, exporter, made);
    seconds
}

/// Only the sick broker is reported, with the threads that `jstack` names.
pub fn deadlock_is_reported(cluster: &Cluster, exporter: &Exporter, made: &Deadlock) {
    // The lab stops the others for a moment, so their next dumps can come later.
    let others = cluster
        .brokers()
        .map(|broker| broker.id())
        .filter(|id| *id != made.broker);
    let others: Vec<i32> = others.collect();
    let mut metrics = exporter.metrics();
    wait_for("dumps of the others", Duration::from_secs(40), || {
        metrics = exporter.metrics();
        let mut found = others.iter().map(|id| metrics.of("deadlock_detected", *id));
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
}
