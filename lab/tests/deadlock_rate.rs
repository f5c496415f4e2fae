//! How surely the deadlock is made: ten fresh clusters for each form. Minutes, so it runs by hand, and on an idle machine:
//! `cargo test -p lab --test deadlock_rate -- --ignored --nocapture --test-threads=1`.

#![allow(clippy::unwrap_used)]

use std::time::Instant;

use lab::{Cluster, ClusterOptions, Form, deadlock};

#[test]
#[ignore = "takes some minutes"]
fn nine_of_ten_deadlock_in_the_first_round_as_sessions_expire() {
    nine_of_ten(Form::Expire);
}

#[test]
#[ignore = "takes some minutes"]
fn nine_of_ten_deadlock_in_the_first_round_as_members_leave() {
    nine_of_ten(Form::Leave);
}

fn nine_of_ten(form: Form) {
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
    assert!(first_rounds >= 9, "{form:?}: only {first_rounds} of 10 in the first round");
}
