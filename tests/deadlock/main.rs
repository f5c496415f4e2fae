//! One cluster of the incident's version from health through both forms of the deadlock: every check that needs such
//! brokers, in steps with names.
//!
//! The steps share the cluster, because most of their time would be its start and the deadlock itself. They depend on
//! each other in this order; the output of a failed run names the step.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod alerts;
mod evidence;
mod groups;
mod readings;
#[path = "../support/mod.rs"]
mod support;
mod verdict;

use std::time::{Duration, Instant};

use lab::{Cluster, ClusterOptions, Deadlock, Form, Load, deadlock};
use support::agree::agree_on_everything;
use support::trouble::{self, Scrapes};
use support::verdict::{followed, load, seconds_to_verdict};
use support::versions::fast_exporter;
use support::{Exporter, Metrics, step};

#[test]
fn from_healthy_brokers_through_both_deadlocks() {
    let mut cluster = step("three brokers start", || {
        let cluster = Cluster::start(ClusterOptions {
            properties: vec![("ssl.keystore.password".into(), evidence::SECRET.into())],
            jvm_options: vec![format!(
                "-Djavax.net.ssl.trustStorePassword={}",
                evidence::SECRET
            )],
            ..ClusterOptions::incident()
        })
        .unwrap();
        cluster.create_topic(deadlock::TOPIC, 32, 3).unwrap();
        cluster
    });
    let mut scrapes = Scrapes::default();
    readings_and_failures(&mut cluster, &mut scrapes);
    while_members_leave(&mut cluster, &mut scrapes);
    while_sessions_expire(&mut cluster, &mut scrapes);
    step("all scrapes during failures were answered in time", || {
        scrapes.were_answered_in_time();
    });
}

/// Before any deadlock: what is read from brokers that are healthy, silent, stopped, paused and killed.
fn readings_and_failures(cluster: &mut Cluster, scrapes: &mut Scrapes) {
    step("a silent broker, and no other, is dumped", || {
        readings::silence_calls_for_a_dump(cluster);
    });
    let exporter = fast_exporter(cluster.cell());
    step("healthy brokers are reported", || {
        trouble::all_well(&exporter);
        readings::brokers_are_described(&exporter);
    });
    step("promtool accepts the metrics", || {
        readings::promtool_finds_nothing_wrong(&exporter);
    });
    step("other tools agree", || {
        agree_on_everything(cluster, &exporter);
    });
    step("the shell agrees about the pools", || {
        readings::pools_equal_the_counts_of_the_kernel(cluster, &exporter);
    });
    step("they agree too about a stopped broker", || {
        readings::one_broker_stops_and_returns(cluster, &exporter);
    });
    drop(exporter);
    let exporter = Exporter::start(cluster.cell());
    trouble::all_well(&exporter);
    let failures = || {
        trouble::pause_and_resume(cluster, &exporter, 217);
        trouble::kill_and_start_again(cluster, &exporter, 218);
    };
    step("a SIGSTOP and a SIGKILL are reported", || {
        scrapes.during(&exporter, |_| {}, failures);
    });
}

/// The first deadlock, for the evidence that is saved.
fn while_members_leave(cluster: &mut Cluster, scrapes: &mut Scrapes) {
    let folders = evidence::Folders::new();
    let exporter = folders.exporter(cluster);
    trouble::all_well(&exporter);
    followed(cluster, &exporter);
    let made = step("the deadlock of leaving members is reported in 5 s", || {
        reported_in_time(cluster, &exporter, Form::Leave, scrapes)
    });
    let exporter = step("the exporter saves one bundle of it", || {
        folders.one_bundle_in_spite_of_a_restart(cluster, exporter, &made)
    });
    drop(exporter);
    step("that bundle has the heap of this broker alone", || {
        folders.heap_of_the_deadlocked_broker(cluster, &made);
    });
    step("a bundle agrees with other tools", || {
        folders.bundle_agrees_with_other_tools(cluster, &made);
    });
    step("a bundle of a hung broker has all but its dumps", || {
        folders.bundle_of_a_hung_broker(cluster, &made);
    });
    step("the brokers return", || {
        let sick = made.broker;
        cluster.kill(sick).unwrap();
        drop(made);
        cluster.start_again(sick).unwrap();
        cluster
            .wait_fully_replicated(Duration::from_secs(60))
            .unwrap();
    });
}

/// The second deadlock, from the verdict and the pager to the recovery.
fn while_sessions_expire(cluster: &mut Cluster, scrapes: &mut Scrapes) {
    let cell = cluster.cell().clone();
    let intervals = "intervals: {groups: 5s}\n";
    let mut exporter = Exporter::start_with(&cell, intervals, |_| {});
    trouble::all_well(&exporter);
    followed(cluster, &exporter);
    let group = step("a group has the lag that the tool says", || {
        groups::Watched::start(cluster, &exporter)
    });
    let closed_port = cell.free_ports(1).unwrap()[0];
    step("page, API, check and probe report healthy brokers", || {
        verdict::healthy(cluster, &exporter, closed_port);
    });
    let mut pager = step("Prometheus knows every broker", || {
        alerts::Pager::start(&cell, &exporter)
    });
    let clients = Load::start(cluster).unwrap();
    let made = step(
        "the deadlock of expiring sessions is reported in 5 s",
        || reported_in_time(cluster, &exporter, Form::Expire, scrapes),
    );
    step("page, API and check report the gray broker", || {
        verdict::gray(cluster, &exporter, closed_port, &made);
    });
    step("the groups of the gray broker are named", || {
        group.is_named(&exporter);
    });
    step("the pager receives the deadlock in a minute", || {
        pager.receives_the_deadlock(&exporter, &made);
    });
    step("the probe fails for this broker alone", || {
        verdict::probe_fails(cluster, &exporter, &made);
    });
    step("ZooKeeper goes on listing the silent broker", || {
        verdict::registered_but_dead(cluster, &exporter, made.broker);
    });
    step("Alertmanager inhibits a symptom of this broker", || {
        pager.inhibits_a_symptom(made.broker);
    });
    step("every panel has data", || pager.every_panel_has_data());

    drop(clients);
    let sick = made.broker;
    step("the broker recovers after a restart", || {
        verdict::recovers(cluster, &exporter, made);
    });
    step("the lag of its group is known again", || {
        group.is_right_again(cluster, &exporter);
    });
    step("the alert is resolved, no symptom was sent", || {
        pager.receives_the_end(sick);
    });
    step("check reports a paused broker", || {
        verdict::paused(cluster, closed_port, sick);
    });
    step("SIGTERM ends the exporter within a second", || {
        let start = Instant::now();
        exporter.process.signal(lab::Signal::TERM).unwrap();
        let ended = exporter
            .process
            .wait_timeout(Duration::from_secs(5))
            .unwrap()
            .expect("SIGTERM ends it");
        assert!(
            ended.success() && start.elapsed() < Duration::from_secs(1),
            "{ended}, {:?}",
            start.elapsed()
        );
    });
}

/// Makes the deadlock while the exporter is scraped. It must be reported within 5 s, before clients notice.
fn reported_in_time(
    cluster: &Cluster,
    exporter: &Exporter,
    form: Form,
    scrapes: &mut Scrapes,
) -> Deadlock {
    let (seconds, made) =
        seconds_to_verdict(cluster, form, || Metrics::parse(&scrapes.scrape(exporter)));
    let round = format!(
        "round_interval_seconds{{broker=\"{}\",collector=\"progress\"}}",
        made.broker
    );
    println!(
        "{form:?}: reported {seconds:.2} s after the last follower's SIGCONT, round {}, progress is read every {:?} s, {}",
        made.rounds,
        exporter.metrics().get(&round),
        load()
    );
    assert!(
        seconds <= 5.0,
        "reported only after {seconds:.2} s, {}",
        load()
    );
    let reported = || trouble::deadlock_is_reported(cluster, exporter, &made);
    scrapes.during(exporter, |_| {}, reported);
    made
}
