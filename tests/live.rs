//! Real brokers of the incident's version: what other tools say, and what the exporter says.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use lab::{Cluster, ClusterOptions, Form, deadlock};
use support::{Exporter, Readings, connections_by_ss, handles_by_folder, isr_by_kafka_topics, wait_for};

fn start() -> Cluster {
    let options = ClusterOptions { brokers: vec![217, 218, 219], ..ClusterOptions::new("0.10.1.0") };
    let cluster = Cluster::start(options).unwrap();
    cluster.create_topic("t32", 32, 3).unwrap();
    cluster.wait_whole(Duration::from_secs(30)).unwrap();
    cluster
}

/// Tool, exporter, tool: wherever both readings of the tool agree, the exporter's must equal them. The exporter's
/// reading is taken once its age says that it was read between the two. Ends when every series was compared.
#[track_caller]
fn agree(exporter: &Exporter, reading: &str, brokers: &[i32], tool: impl Fn() -> Readings) {
    let begun = Instant::now();
    let mut open: Option<Vec<String>> = None;
    while open.as_ref().is_none_or(|open| !open.is_empty()) {
        assert!(begun.elapsed() < Duration::from_secs(90), "not compared within 90 s: {open:?}");
        let before_begun = Instant::now();
        let before = tool();
        let read_since = Instant::now();
        let mut metrics = exporter.metrics();
        wait_for(&format!("new readings of {reading}"), Duration::from_secs(60), || {
            metrics = exporter.metrics();
            let since = read_since.elapsed().as_secs_f64();
            let age = |id: &i32| metrics.get(&format!("reading_age_seconds{{broker=\"{id}\",reading=\"{reading}\"}}"));
            brokers.iter().all(|id| age(id).is_some_and(|age| age < since))
        });
        let after = tool();
        let open = open.get_or_insert_with(|| before.keys().cloned().collect());
        let stable = |series: &String| before.get(series) == after.get(series);
        for series in before.keys().filter(|series| stable(series)) {
            let ours = metrics.get(series);
            assert_eq!(ours, Some(before[series] as f64), "{series}, compared over {:?}", before_begun.elapsed());
        }
        open.retain(|series| !stable(series));
    }
}

/// All that the tools tell, for the brokers that run.
fn agree_on_everything(cluster: &Cluster, exporter: &Exporter) {
    let running: Vec<i32> = cluster.brokers().filter(|b| b.pid().is_ok()).map(|b| b.id()).collect();
    agree(exporter, "handles", &running, || handles_by_folder(cluster));
    let every_pulse = |series: &str| series.contains("\"server\"") && !series.contains("\"established\"");
    for (reading, pulse) in [("sockets", true), ("connections", false)] {
        agree(exporter, reading, &running, || {
            let all = connections_by_ss(cluster, exporter);
            all.into_iter().filter(|(series, _)| every_pulse(series) == pulse).collect()
        });
    }
    agree(exporter, "cluster", &running, || isr_by_kafka_topics(cluster));
}

#[test]
fn other_tools_agree_and_the_deadlock_is_seen() {
    let mut cluster = start();
    let exporter = Exporter::start(cluster.cell());
    wait_for("all brokers", Duration::from_secs(10), || {
        let metrics = exporter.metrics();
        [217, 218, 219].iter().all(|id| metrics.of("deadlock_detected", *id) == Some(0.0))
    });
    let info = exporter.scrape();
    let info =
        info.lines().find(|line| line.starts_with("kafka_vitals_broker_info{broker=\"217\"")).unwrap().to_owned();
    assert!(info.contains("kafka_version=\"0.10.1.0\"") && info.contains("mode=\"zookeeper\""), "{info}");
    assert!(info.contains("roles=\"broker\"") && !info.contains("java_version=\"\""), "{info}");
    agree_on_everything(&cluster, &exporter);

    cluster.stop(218).unwrap();
    wait_for("the stopped broker to be told", Duration::from_secs(15), || {
        let metrics = exporter.metrics();
        metrics.get("collector_success{broker=\"218\",collector=\"process\"}") == Some(0.0)
            && metrics.of("open_file_handles", 218).is_none()
            && metrics.of("deadlock_detected", 218).is_none()
    });
    agree_on_everything(&cluster, &exporter);
    cluster.start_again(218).unwrap();
    cluster.wait_whole(Duration::from_secs(60)).unwrap();

    for form in [Form::Leave] {
        let made = deadlock::make(&cluster, form).unwrap();
        wait_for("the deadlock to be told", Duration::from_secs(25), || {
            exporter.metrics().of("deadlock_detected", made.broker) == Some(1.0)
        });
        let seconds = made.followers_continued.elapsed().as_secs_f64();
        println!("{form:?}: deadlock told {seconds:.1} s after the last follower's SIGCONT, {} round(s)", made.rounds);
        assert!(seconds <= 20.0, "told only after {seconds:.1} s");
        let metrics = exporter.metrics();
        for id in [217, 218, 219].into_iter().filter(|id| *id != made.broker) {
            assert_eq!(metrics.of("deadlock_detected", id), Some(0.0), "{id}");
        }
        assert_eq!(metrics.of("deadlocked_threads", made.broker), Some(2.0));
        // jstack's report names the same two threads as holders of each other's locks.
        let page = exporter.page();
        assert!(page.contains(&format!("Broker {} is alive but deadlocked", made.broker)), "{page}");
        for holder in made.report.lines().filter_map(|line| line.trim().strip_prefix("which is held by \"")) {
            let holder = holder.trim_end_matches('"');
            assert!(page.contains(&format!("<strong>{holder}</strong> wants")), "{holder} in {page}");
        }
    }
}

/// Scrapes 20 times a second on a thread of its own while `trouble` goes on; all answered, and in time.
fn scraped(cluster: &mut Cluster, exporter: &Exporter, trouble: impl FnOnce(&mut Cluster)) {
    use std::sync::atomic::{AtomicBool, Ordering};
    let over = AtomicBool::new(false);
    let (network, port) = (cluster.cell().network().unwrap(), exporter.port);
    let mut times = std::thread::scope(|scope| {
        let over = &over;
        let scraper = scope.spawn(move || {
            network.enter().unwrap();
            let mut times = Vec::new();
            while !over.load(Ordering::Relaxed) || times.len() < 200 {
                let begun = Instant::now();
                let (status, body) = support::get(port, "/metrics");
                times.push(begun.elapsed());
                assert_eq!(status, 200);
                assert!(body.contains("kafka_vitals_build_info"));
                std::thread::sleep(Duration::from_millis(50).saturating_sub(begun.elapsed()));
            }
            times
        });
        trouble(cluster);
        over.store(true, Ordering::Relaxed);
        scraper.join().unwrap()
    });
    times.sort();
    let (p99, worst) = (times[times.len() * 99 / 100], times[times.len() - 1]);
    println!("{} scrapes: p99 {p99:?}, worst {worst:?}", times.len());
    assert!(p99 < Duration::from_millis(100) && worst < Duration::from_secs(1), "p99 {p99:?}, worst {worst:?}");
}

#[test]
fn scrapes_are_answered_whatever_the_brokers_do() {
    let mut cluster = start();
    let mut exporter = Exporter::start(cluster.cell());
    let success = |id: i32, collector: &str| {
        exporter.metrics().get(&format!("collector_success{{broker=\"{id}\",collector=\"{collector}\"}}"))
    };
    wait_for("all brokers", Duration::from_secs(10), || {
        [217, 218, 219].iter().all(|id| success(*id, "threads") == Some(1.0))
    });
    scraped(&mut cluster, &exporter, |cluster| {
        let told = |text: &str| exporter.page().contains(text);
        // Stopped: its own listener is silent, a dump is not tried, and the page says so.
        cluster.pause(217).unwrap();
        wait_for("the stopped process to be told", Duration::from_secs(5), || told("stopped (SIGSTOP)"));
        wait_for("the thread dump to be unknown", Duration::from_secs(20), || success(217, "threads") == Some(0.0));
        wait_for("a peer to tell the cluster's state", Duration::from_secs(20), || told("(told by broker "));
        cluster.resume(217).unwrap();
        wait_for("it to be well again", Duration::from_secs(40), || {
            success(217, "threads") == Some(1.0) && !told("(told by broker ")
        });
        // Killed, and started again: another process with the same id.
        cluster.kill(218).unwrap();
        wait_for("the killed process to be told", Duration::from_secs(15), || success(218, "process") == Some(0.0));
        cluster.start_again(218).unwrap();
        let started = Instant::now();
        let pid = cluster.broker(218).unwrap().cell_pid().unwrap();
        let (label, of) = (format!("pid=\"{pid}\""), "broker_info{broker=\"218\"");
        wait_for("the new process to be followed", Duration::from_secs(10), || {
            exporter.scrape().lines().any(|line| line.contains(of) && line.contains(&label))
        });
        println!("the new process was followed {:?} after it had started", started.elapsed());
        // Deadlocked.
        cluster.wait_whole(Duration::from_secs(60)).unwrap();
        let made = deadlock::make(cluster, Form::Expire).unwrap();
        wait_for("the deadlock to be told", Duration::from_secs(25), || {
            exporter.metrics().of("deadlock_detected", made.broker) == Some(1.0)
        });
        let seconds = made.followers_continued.elapsed().as_secs_f64();
        println!("Expire: deadlock told {seconds:.1} s after the last follower's SIGCONT, {} round(s)", made.rounds);
        assert!(seconds <= 20.0, "told only after {seconds:.1} s");
        assert_eq!(exporter.metrics().of("deadlocked_threads", made.broker), Some(2.0));
    });
    let begun = Instant::now();
    exporter.process.signal(lab::Signal::TERM).unwrap();
    let ended = exporter.process.wait_timeout(Duration::from_secs(5)).unwrap().expect("SIGTERM ends it");
    assert!(ended.success() && begun.elapsed() < Duration::from_secs(1), "{ended}, {:?}", begun.elapsed());
}

#[test]
fn promtool_finds_nothing_wrong() {
    use std::io::Write as _;
    let cluster = start();
    let exporter = Exporter::start(cluster.cell());
    wait_for("all collectors", Duration::from_secs(15), || {
        let metrics = exporter.metrics();
        ["process", "handles", "sockets", "connections", "cluster", "threads"].iter().all(|collector| {
            metrics.get(&format!("collector_success{{broker=\"219\",collector=\"{collector}\"}}")) == Some(1.0)
        })
    });
    let mut promtool = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("promtool is on the PATH: run through `make test`, which fetches it");
    promtool.stdin.take().unwrap().write_all(exporter.scrape().as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}
