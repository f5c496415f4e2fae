//! A Fetch that waits for the lock of a partition, and the groups of a broker that hangs.

use super::*;
use crate::model::{GroupState, GroupsReport, Rebalance};

fn coordinating(names: &[&str]) -> GroupsReport {
    GroupsReport {
        names: names.iter().map(|name| (*name).into()).collect(),
        total: names.len() as u64,
        ..GroupsReport::default()
    }
}

fn fetch(failure: Option<(Reason, bool)>) -> Probe {
    probe(failure).api.unwrap()
}

#[test]
fn a_fetch_that_hangs_is_a_broker_that_hangs_and_its_groups_are_named() {
    let mut scene = scene();
    let hangs = |broker: &mut BrokerSnapshot, now| {
        broker.fetch = known(fetch(Some((Reason::Timeout, true))), now);
        broker.groups = known(coordinating(&["billing", "orders"]).silent("it hangs"), now);
    };
    let facts = facts_of(scene.after(20, hangs), FindingId::ApiUnresponsive).unwrap();
    assert_eq!(
        facts,
        [
            "fetch: 127.0.0.1:9092: timeout",
            "it coordinates the groups billing, orders"
        ]
    );
    let answers = |broker: &mut BrokerSnapshot, now| broker.fetch = known(fetch(None), now);
    assert_eq!(active(&scene.after(20, answers)), []);
}

#[test]
fn a_fetch_that_is_late_or_not_sent_accuses_nobody() {
    for failure in [
        (Reason::Slow, true),
        (Reason::Closed, true),
        (Reason::Refused, false),
    ] {
        let mut scene = scene();
        let fails =
            |broker: &mut BrokerSnapshot, now| broker.fetch = known(fetch(Some(failure)), now);
        assert_eq!(active(&scene.after(20, fails)), [], "{failure:?}");
    }
    let mut scene = scene();
    let unsent = |broker: &mut BrokerSnapshot, _| broker.fetch = Reading::unknown("not sent");
    assert_eq!(active(&scene.after(20, unsent)), []);
}

#[test]
fn a_deadlock_names_the_groups_of_the_broker() {
    let mut scene = scene();
    let locked = |broker: &mut BrokerSnapshot, now| {
        broker.deadlock = Some(deadlock(["a", "b"], now, now));
        broker.groups = known(coordinating(&["billing"]), now);
    };
    let facts = facts_of(scene.after(1, locked), FindingId::JvmDeadlock).unwrap();
    assert!(
        facts.contains(&"it coordinates the groups billing".to_owned()),
        "{facts:?}"
    );
}

#[test]
fn a_rebalance_that_does_not_end_is_found_and_accuses_no_broker() {
    let mut scene = scene();
    let since = scene.now;
    let rebalances = move |answers| {
        move |broker: &mut BrokerSnapshot, now| {
            let rebalances = [Rebalance {
                group: "billing".into(),
                state: GroupState::PreparingRebalance,
                since,
                answers,
            }];
            let report = GroupsReport {
                rebalances: rebalances.into(),
                ..coordinating(&["billing"])
            };
            broker.groups = known(report, now);
        }
    };
    assert_eq!(active(&scene.after(60, rebalances(4))), []);
    assert_eq!(
        active(&scene.after(60, rebalances(3))),
        [],
        "it is asked rarely"
    );
    let late = scene.after(1, rebalances(4));
    assert_eq!(
        facts_of(late, FindingId::StuckGroup).unwrap(),
        ["group billing has been in a rebalance for 2 min, now preparing_rebalance"]
    );
    let silent = |broker: &mut BrokerSnapshot, now| {
        broker.groups = known(coordinating(&["billing"]).silent("it hangs"), now);
    };
    assert_eq!(active(&scene.after(1, silent)), [FindingId::StuckGroup]);
    let stable = |broker: &mut BrokerSnapshot, now| {
        broker.groups = known(coordinating(&["billing"]), now);
    };
    assert_eq!(active(&scene.after(1, stable)), []);
}
