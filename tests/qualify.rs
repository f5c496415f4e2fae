//! What takes longer than CI has: `make qualify`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use lab::{Cluster, ClusterOptions, Form, Load, LoadOptions, deadlock, hand, versions};
use support::fakes::{self, Fakes};
use support::{Exporter, trouble};

/// How surely the lab makes the deadlock: ten fresh clusters for each form. The figure is one of an idle machine.
fn nine_of_ten_in_the_first_round(form: Form) {
    let mut first_rounds = 0;
    for run in 1..=10 {
        let begin = Instant::now();
        let cluster = Cluster::start(ClusterOptions::new("0.10.1.0")).unwrap();
        let started = begin.elapsed();
        let deadlock = deadlock::make(&cluster, form).unwrap();
        first_rounds += u32::from(deadlock.rounds == 1);
        println!(
            "{form:?} {run}: started in {started:.1?}, deadlocked in round {} after {:.1?}, confirmed {:.1?} after SIGCONT",
            deadlock.rounds,
            begin.elapsed() - started,
            deadlock.confirmed - deadlock.followers_continued,
        );
    }
    println!("{form:?}: {first_rounds} of 10 in the first round");
    assert!(first_rounds >= 9, "{form:?}: only {first_rounds} of 10 in the first round");
}

#[test]
fn deadlock_rate_as_a_session_expires() {
    nine_of_ten_in_the_first_round(Form::Expire);
}

#[test]
fn deadlock_rate_as_a_member_leaves() {
    nine_of_ten_in_the_first_round(Form::Leave);
}

/// 20 scrapes a second for a minute at least, while all goes wrong that can, and other brokers come and go.
#[test]
fn scrapes_are_answered_for_a_minute_of_trouble() {
    let mut cluster = trouble::cluster();
    let exporter = Exporter::start(cluster.cell());
    trouble::all_well(&exporter);
    trouble::scraped(&exporter, fakes::never_zero, || {
        let _fakes = Fakes::start(cluster.cell());
        let begun = Instant::now();
        for form in [Form::Expire, Form::Leave].into_iter().cycle() {
            trouble::pause_and_resume(&cluster, &exporter, 217);
            trouble::kill_and_start_again(&mut cluster, &exporter, 218);
            let sick = trouble::make_deadlock(&cluster, &exporter, form);
            trouble::kill_and_start_again(&mut cluster, &exporter, sick);
            trouble::all_well(&exporter);
            println!("{:.1?} of trouble", begun.elapsed());
            if begun.elapsed() > Duration::from_secs(60) {
                break;
            }
        }
    });
}

/// Every version in every mode starts, keeps topics and serves clients.
#[test]
fn all_versions_start_and_serve() {
    // One alone: LAB_VERSION=3.9.1
    let wanted = std::env::var("LAB_VERSION");
    for version in versions::VERSIONS.iter().filter(|one| wanted.as_ref().map_or(true, |name| name == one.name)) {
        for mode in version.modes {
            let begin = Instant::now();
            let options = ClusterOptions { mode: Some(*mode), ..ClusterOptions::new(version.name) };
            let mut cluster = Cluster::start(options).unwrap();
            println!("{} {mode:?}: started in {:.1?}", version.name, begin.elapsed());
            cluster.create_topic("orders", 6, 3).unwrap();
            let described = hand::described_partitions(&cluster.topics_describe().unwrap());
            assert_eq!(described.iter().filter(|one| one.topic == "orders" && one.whole()).count(), 6, "{described:?}");

            let load = Load::start(&cluster, &LoadOptions::incident("orders")).unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            while load.answered() < 100 && load.failed() == 0 && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
            }
            assert!(load.answered() >= 100 && load.failed() == 0, "{} and {}", load.answered(), load.failed());
            drop(load);

            cluster.kill(2).unwrap();
            cluster.start_again(2).unwrap();
            cluster.wait_whole(Duration::from_secs(60)).unwrap();
            println!("{} {mode:?}: all well after {:.1?}", version.name, begin.elapsed());
        }
    }
}
