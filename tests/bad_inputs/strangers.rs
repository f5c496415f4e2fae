//! Processes of other users that claim to be brokers, beside a running exporter.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::EXE;
use crate::host::{Host, skip};
use crate::running::{Exporter, wait_for};

/// No user of any host where tests run.
const MALLORY: u32 = 70_001;
const FAST: &str = "intervals: {discovery: 100ms, process: 100ms}\n";

impl Host {
    /// Makes `pid` a process of this user that started at this time.
    fn owned(&self, pid: u32, uid: u32, start_ticks: u64) {
        let base = self.folder.path().join(pid.to_string());
        let status = fs::read_to_string(base.join("status")).unwrap();
        let own = status.lines().find(|line| line.starts_with("Uid:"));
        let uids = format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}");
        fs::write(base.join("status"), status.replace(own.unwrap(), &uids)).unwrap();
        let stat = fs::read_to_string(base.join("stat")).unwrap();
        let started = stat.replace(" 5000 ", &format!(" {start_ticks} "));
        fs::write(base.join("stat"), started).unwrap();
    }

    /// Adds a process that shows no more than a broker's command line.
    fn fake(&self, pid: u32, uid: u32) {
        let base = self.folder.path().join(pid.to_string());
        fs::create_dir(&base).unwrap();
        let stat = format!(
            "{pid} (java) S 1 {pid} {pid} 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 4 0 4000 99999 5\n"
        );
        let status = format!("Name:\tjava\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t1\t1\t1\t1\n");
        fs::write(base.join("stat"), stat).unwrap();
        fs::write(base.join("status"), status).unwrap();
        fs::write(base.join("cmdline"), "java\0kafka.Kafka\0x.properties\0").unwrap();
    }
}

/// The labels of the brokers with their processes, `7=77`, sorted.
fn brokers(exporter: &Exporter) -> Vec<String> {
    let metrics = exporter.get("/metrics");
    let infos = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("kafka_vitals_broker_info{broker=\""));
    let part = |info: &str| {
        let label = info.split('"').next()?.to_owned();
        let pid = info.split("pid=\"").nth(1)?.split('"').next()?.to_owned();
        Some(format!("{label}={pid}"))
    };
    let mut brokers: Vec<String> = infos.filter_map(part).collect();
    brokers.sort();
    brokers
}

#[track_caller]
fn expect(exporter: &Exporter, expected: &[&str]) {
    wait_for(&format!("{expected:?}"), || brokers(exporter) == expected);
}

#[test]
fn a_stranger_with_the_id_of_a_broker_takes_its_label_neither_now_nor_while_it_restarts() {
    let host = Host::new();
    host.broker(66);
    host.owned(66, MALLORY, 6000);
    let exporter = Exporter::start(host.exporter_with(FAST));
    expect(&exporter, &["7=77", "7@uid-70001=66"]);
    fs::remove_dir_all(host.path("")).unwrap();
    expect(&exporter, &["7@uid-70001=66"]);
    host.broker(78);
    let stat = host.folder.path().join("78/stat");
    let later = fs::read_to_string(&stat)
        .unwrap()
        .replace(" 5000 ", " 7000 ");
    fs::write(&stat, later).unwrap();
    expect(&exporter, &["7=78", "7@uid-70001=66"]);
    assert!(
        exporter.get("/live").contains("Broker 7 "),
        "the only one of its user"
    );
}

#[test]
fn nor_while_other_settings_are_taken() {
    let host = Host::new();
    host.broker(66);
    host.owned(66, MALLORY, 4000);
    let place = |name| host.folder.path().join(name);
    fs::rename(place("66"), place("later")).unwrap();
    let exporter = Exporter::start(host.exporter_with(FAST));
    expect(&exporter, &["7=77"]);
    fs::rename(place("later"), place("66")).unwrap();
    let expected = ["7=77", "7@uid-70001=66"];
    expect(&exporter, &expected);
    let other = "intervals: {discovery: 100ms, process: 3s}\nmax_brokers: 32\n";
    fs::write(place("config.yml"), other).unwrap();
    exporter.signal(Signal::HUP);
    wait_for("the other settings", || {
        let taken = "_round_interval_seconds{broker=\"7\",collector=\"process\"} 3\n";
        exporter.get("/metrics").contains(taken)
    });
    assert_eq!(brokers(&exporter), expected);
    let hangs = exporter.logged("an earlier read still hangs");
    assert!(hangs.is_empty(), "{hangs:?}");
}

#[test]
fn where_users_are_named_no_other_process_counts() {
    let host = Host::new();
    host.broker(66);
    host.owned(66, MALLORY, 4000);
    let own = rustix::process::geteuid().as_raw();
    for (pid, real) in [(67, MALLORY), (68, own)] {
        host.broker(pid);
        host.owned(pid, own, 4000);
        // A program that runs with the rights of the named user, started by another.
        let path = host.folder.path().join(format!("{pid}/status"));
        let status = fs::read_to_string(&path).unwrap();
        let uids = format!("Uid:\t{own}\t{own}");
        fs::write(
            &path,
            status.replacen(&uids, &format!("Uid:\t{real}\t{own}"), 1),
        )
        .unwrap();
    }
    let config = format!("{FAST}users: [{own}]\n");
    let exporter = Exporter::start(host.exporter_with(&config));
    expect(&exporter, &["pid-68=68", "pid-77=77"]);
}

/// The broker's own readings stay young, and scrapes fast.
#[test]
fn five_thousand_fakes_cost_the_broker_nothing() {
    let _alone = crate::MEASURED.lock();
    let host = Host::new();
    for pid in 10_000..15_000 {
        host.fake(pid, MALLORY);
    }
    host.owned(77, rustix::process::geteuid().as_raw(), 9000);
    let exporter = Exporter::start(host.exporter_with(""));
    let left_out = "kafka_vitals_series_left_out{what=\"brokers\"} ";
    // The fakes are older; the exporter's own user comes before them, unless that is root.
    let label = match rustix::process::geteuid().is_root() {
        true => "7@root",
        false => "7",
    };
    let read = &*format!("kafka_vitals_open_file_handles{{broker=\"{label}\"}} ");
    let age =
        &*format!("kafka_vitals_reading_age_seconds{{broker=\"{label}\",collector=\"process\"}} ");
    let of = |metrics: &str, series: &str| {
        let mut lines = metrics.lines();
        lines.find_map(|line| line.strip_prefix(series)?.parse::<f64>().ok())
    };
    wait_for("the broker among the fakes", || {
        let metrics = exporter.get("/metrics");
        let count = of(&metrics, left_out).unwrap_or_default();
        count > 1000.0 && metrics.contains(read) && metrics.contains(age)
    });
    let (mut slowest, mut oldest) = (Duration::ZERO, 0.0_f64);
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        let start = Instant::now();
        let metrics = exporter.get("/metrics");
        slowest = slowest.max(start.elapsed());
        oldest = oldest.max(of(&metrics, age).unwrap());
        std::thread::sleep(Duration::from_millis(50));
    }
    println!(
        "slowest scrape {slowest:?}, oldest reading {oldest} s, peak {} bytes",
        exporter.peak_memory()
    );
    assert!(slowest < Duration::from_millis(100), "{slowest:?}");
    assert!(oldest <= 2.0, "{oldest} s");
    let named = exporter.logged("more than 64 processes of this host look like brokers");
    assert_eq!(named.len(), 1, "{named:?}");
    assert!(
        named[0].contains("those of uid-70001 that started last"),
        "{named:?}"
    );
}

/// A broker of root runs, and the exporter of another user does not see it.
#[test]
fn where_procfs_hides_processes_it_is_unknown_whether_a_broker_runs() {
    let name = "where_procfs_hides_processes_it_is_unknown_whether_a_broker_runs";
    if !rustix::process::geteuid().is_root() {
        return skip(name, "needs root");
    }
    let folder = tempfile::Builder::new()
        .permissions(PermissionsExt::from_mode(0o755))
        .tempdir()
        .unwrap();
    let exe = folder.path().join("kafka-vitals");
    fs::copy(EXE, &exe).unwrap();
    fs::write(folder.path().join("kafka.Kafka"), "sleep 1000\n").unwrap();
    fs::write(folder.path().join("server.properties"), "broker.id=7\n").unwrap();
    let start = |hidepid: &str| {
        let script = format!(
            "mount -o remount,hidepid={hidepid} /proc || exit 9\n(exec -a java sh kafka.Kafka server.properties) &\n\
             setpriv --reuid=65534 --regid=65534 --clear-groups ./kafka-vitals \"$@\"; exit 1"
        );
        let mut command = Command::new("unshare");
        command
            .args(["--pid", "--fork", "--kill-child=KILL", "--mount-proc"])
            .args(["bash", "-c", &script, "bash"])
            .current_dir(folder.path());
        Exporter::start(command)
    };
    let visible = start("0");
    wait_for("the broker", || !brokers(&visible).is_empty());
    drop(visible);
    let exporter = start("2");
    let unknown = "Whether a broker runs on this host is unknown: /proc is mounted with hidepid=";
    wait_for(unknown, || exporter.get("/check").contains(unknown));
    let check = exporter.get("/check");
    let remedy = "run kafka-vitals as the brokers' user";
    assert!(check.contains(remedy), "{check}");
    let metrics = exporter.get("/metrics");
    let failed = "kafka_vitals_collector_success{broker=\"\",collector=\"discovery\"} 0\n";
    assert!(metrics.contains(failed), "{metrics}");
}
