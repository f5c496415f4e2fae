//! A long run under trouble: `make soak`. Brokers are paused, killed and deadlocked, a disk hangs, fds run out and
//! strangers attack, all at once, while the exporter is scraped 20 times a second. At the end it prints the table of
//! `docs/reliability.md`.

mod attacks;
mod disk;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::{Cluster, Form, deadlock};

use crate::support::fakes::Fakes;
use crate::support::{Exporter, trouble};
use disk::HangingDisk;
use watch::{Scrapes, Usage};

const MEGABYTE: f64 = 1e6;
/// No attack takes the exporter over this, and the unit's `MemoryMax` follows from it.
const MOST_MEMORY: f64 = 128.0 * 1_048_576.0;

fn duration() -> Duration {
    let minutes = std::env::var("KAFKA_VITALS_SOAK_MINUTES").map_or(30.0, |minutes| {
        minutes
            .parse()
            .expect("KAFKA_VITALS_SOAK_MINUTES is a number")
    });
    Duration::from_secs_f64(60.0 * minutes)
}

/// What a thread of trouble asks between two of its steps.
#[derive(Clone)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits for `time`, or less if the soak ends.
    pub(crate) fn sleep(&self, time: Duration) {
        let end = Instant::now() + time;
        while !self.is_set() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Sets the flag when it is dropped, also by a panic: otherwise the other threads would never end.
struct StopAtEnd(Stop);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn half_an_hour_of_trouble() {
    let mut cluster = trouble::cluster();
    let cell = cluster.cell().clone();
    let disk = HangingDisk::new(&cell).expect("mounting a file system in a file needs root");
    let exporter = Exporter::start_with(&cell, "", |command| {
        command
            .arg(format!("--evidence.dir={}", disk.path("evidence")))
            .arg(format!("--record={}", disk.path("record.jsonl.gz")))
            .stderr(std::fs::File::create(watch::log_file()).unwrap());
    });
    trouble::all_well(&exporter);
    let start = Instant::now();
    let stop = Stop(Arc::new(AtomicBool::new(false)));
    let (mut scrapes, mut usage, mut deadlocks) =
        (Scrapes::default(), Usage::default(), Vec::new());
    let (mut freezes, mut shortages, mut attacks) = (0, 0, attacks::Counts::default());
    let mut rounds = 0;
    let (network, pid) = (cell.network().unwrap(), exporter.process.pid());
    std::thread::scope(|scope| {
        let _end = StopAtEnd(stop.clone());
        scope.spawn(|| {
            network.enter().unwrap();
            scrapes.run(exporter.port, &stop);
        });
        scope.spawn(|| usage.run(pid, &stop));
        scope.spawn(|| freezes = disk.hang_now_and_then(&stop));
        scope.spawn(|| shortages = watch::run_out_of_fds_now_and_then(pid, &stop));
        scope.spawn(|| attacks.run(&cell, exporter.port, &stop));
        let _fakes = Fakes::start(&cell);
        for form in [Form::Expire, Form::Leave].into_iter().cycle() {
            rounds += 1;
            deadlocks.extend(one_round(&mut cluster, &exporter, form));
            println!(
                "{:.0} s: {} deadlocks, {:.1} MB",
                start.elapsed().as_secs_f64(),
                deadlocks.len(),
                exporter
                    .metrics()
                    .get("process_resident_memory_bytes")
                    .unwrap_or_default()
                    / MEGABYTE
            );
            if start.elapsed() > duration() {
                break;
            }
        }
    });

    assert!(!deadlocks.is_empty(), "no deadlock could be made");
    deadlocks.sort_by(f64::total_cmp);
    let (scrapes, usage) = (scrapes.summary(), usage.summary());
    println!("| what | figure |\n|---|---|");
    for (what, figure) in [
        (
            "duration",
            format!("{:.0} min", start.elapsed().as_secs_f64() / 60.0),
        ),
        (
            "deadlocks, each reported; median and worst after the last follower's SIGCONT",
            format!(
                "{}; {:.1} s, {:.1} s",
                deadlocks.len(),
                deadlocks[deadlocks.len() / 2],
                deadlocks[deadlocks.len() - 1]
            ),
        ),
        (
            "brokers killed and started, brokers stopped by SIGSTOP",
            format!("{}, {rounds}", rounds + deadlocks.len()),
        ),
        (
            "times that the disk of evidence and records hung, times without fds",
            format!("{freezes}, {shortages}"),
        ),
        ("attacks", attacks.to_string()),
        (
            "scrapes, failed",
            format!("{}, {}", scrapes.count, scrapes.failed),
        ),
        (
            "scrapes: median, p99, p99.9, worst",
            format!(
                "{:.1?}, {:.1?}, {:.1?}, {:.1?}",
                scrapes.median, scrapes.p99, scrapes.p999, scrapes.worst
            ),
        ),
        (
            "peak of resident memory",
            format!("{:.1} MB", usage.peak_memory / MEGABYTE),
        ),
        (
            "resident memory, median of the second and of the last quarter",
            format!(
                "{:.1} MB, {:.1} MB",
                usage.memory[0] / MEGABYTE,
                usage.memory[1] / MEGABYTE
            ),
        ),
        (
            "fds, median of the second and of the last quarter",
            format!("{:.0}, {:.0}", usage.fds[0], usage.fds[1]),
        ),
        ("threads, most", format!("{:.0}", usage.most_threads)),
        (
            "zombies that lasted for 5 s",
            format!("{}", usage.lasting_zombies),
        ),
    ] {
        println!("| {what} | {figure} |");
    }
    assert_eq!(scrapes.failed, 0, "failed scrapes");
    assert!(
        scrapes.p999 < Duration::from_millis(100),
        "{:?}",
        scrapes.p999
    );
    assert!(
        usage.peak_memory < MOST_MEMORY,
        "{} bytes",
        usage.peak_memory
    );
    // Flat: what little remains of the slope is within the noise of the troubles.
    assert!(usage.memory[1] - usage.memory[0] < 4.0 * MEGABYTE);
    assert!(usage.fds[1] - usage.fds[0] < 8.0);
    assert_eq!(usage.lasting_zombies, 0);
    assert!(freezes > 0 && shortages > 0 && attacks.all_ran());
    assert!(
        !std::fs::read_to_string(watch::log_file())
            .unwrap()
            .contains("panicked")
    );
}

/// Every kind of trouble with a broker, one after the other. Returns the seconds until the deadlock was reported, or None
/// where none could be made: the lab's own clients time out on a machine that is too busy.
fn one_round(cluster: &mut Cluster, exporter: &Exporter, form: Form) -> Option<f64> {
    trouble::pause_and_resume(cluster, exporter, 217);
    trouble::kill_and_start_again(cluster, exporter, 218);
    let made = match deadlock::make(cluster, form) {
        Ok(made) => made,
        Err(error) => {
            println!("no deadlock was made: {error:#}");
            trouble::BROKERS
                .iter()
                .for_each(|id| cluster.resume(*id).unwrap());
            return None;
        }
    };
    let seconds = trouble::reported_in_time(cluster, exporter, form, &made);
    trouble::kill_and_start_again(cluster, exporter, made.broker);
    trouble::all_well(exporter);
    Some(seconds)
}
