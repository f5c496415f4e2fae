//! Real brokers: a deadlock is told before clients notice, and healthy brokers are left alone.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use lab::Form;
use support::verdict::{load, seconds_to_verdict, start};

fn deadlock_is_told_soon(form: Form) {
    let (cluster, exporter) = start();
    let (seconds, deadlock) = seconds_to_verdict(&cluster, &exporter, form);
    println!("{form:?}: told {seconds:.2} s after the last follower's SIGCONT, round {}, {}", deadlock.rounds, load());
    let round = format!("round_interval_seconds{{broker=\"{}\",round=\"progress\"}}", deadlock.broker);
    println!("{form:?}: progress is read every {:.3} s", exporter.metrics().get(&round).unwrap());
    assert!(seconds <= 5.0, "told only after {seconds:.2} s, {}", load());
}

#[test]
fn a_deadlock_of_leaving_members_is_told_within_5_s() {
    deadlock_is_told_soon(Form::Leave);
}

#[test]
fn a_deadlock_of_expiring_sessions_is_told_within_5_s() {
    deadlock_is_told_soon(Form::Expire);
}
