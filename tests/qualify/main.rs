//! Tests that take too long for CI: `make qualify`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

/// Makes a test for each row.
macro_rules! tests {
    ($check:ident: $($name:ident($argument:expr);)*) => {
        $(#[test]
        fn $name() {
            $check($argument);
        })*
    };
}

mod groups;
mod incident;
mod logs;
mod metadata_log;
mod secured;
mod soak;
mod stalls;
mod strikes;
#[path = "../support/mod.rs"]
mod support;
mod verdict;
mod versions;

use std::time::{Duration, Instant};

use lab::{Cluster, ClusterOptions, Form, deadlock};
use support::fakes::{self, Fakes};
use support::{Exporter, trouble};

/// How reliably the lab makes the deadlock: ten fresh clusters for each form. The bar is for an idle machine.
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
    assert!(
        first_rounds >= 9,
        "{form:?}: only {first_rounds} of 10 in the first round"
    );
}

tests! { nine_of_ten_in_the_first_round:
    deadlock_rate_as_a_session_expires(Form::Expire);
    deadlock_rate_as_a_member_leaves(Form::Leave);
}

/// Scrapes 20 times a second for at least a minute, while brokers are paused, killed and deadlocked and others come and go.
#[test]
fn scrapes_are_answered_for_a_minute_of_trouble() {
    let mut cluster = trouble::cluster();
    let exporter = Exporter::start(cluster.cell());
    trouble::all_well(&exporter);
    trouble::scraped(&exporter, fakes::never_zero, || {
        let _fakes = Fakes::start(cluster.cell());
        let start = Instant::now();
        for form in [Form::Expire, Form::Leave].into_iter().cycle() {
            trouble::pause_and_resume(&cluster, &exporter, 217);
            trouble::kill_and_start_again(&mut cluster, &exporter, 218);
            let sick = trouble::make_deadlock(&cluster, &exporter, form);
            trouble::kill_and_start_again(&mut cluster, &exporter, sick);
            trouble::all_well(&exporter);
            println!("{:.1?} of trouble", start.elapsed());
            if start.elapsed() > Duration::from_secs(60) {
                break;
            }
        }
    });
}

#[test]
fn a_writer_killed_a_hundred_times_leaves_complete_bundles_or_none() {
    support::evidence::kill_in_a_loop(100);
}
