#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::expose::check::CheckPage;
use crate::model::{Broker, ProcessKey};
use crate::model::{BrokerEvidence, SavedBundle};
use crate::model::{BrokerSnapshot, Deadlock, DeadlockedThread, Snapshot, StandingDeadlock};
use crate::verdict::finding::{BrokerDiagnosis, BrokerState, Diagnosis, Event, Finding, FindingId};

const NOW: Moment = Moment(1_700_000_000_000);

fn thread(name: String, held_by: String) -> DeadlockedThread {
    let frames = (0..60)
        .map(|line| format!("kafka.Class{line}.{}(File.scala:{line})", "long".repeat(50)))
        .collect();
    DeadlockedThread {
        thread: name,
        wants: "kafka.coordinator.GroupMetadata".into(),
        held_by,
        frames,
    }
}

/// A ring of `members`, and `waiting` threads, each waiting for the one before it.
fn deadlock(members: usize, waiting: usize) -> Deadlock {
    let member = |n: usize| format!("member-{}", n % members);
    let waiter = |n: usize| {
        if n == 0 {
            member(1)
        } else {
            format!("waiter-{}", n - 1)
        }
    };
    Deadlock {
        cycle: (0..members)
            .map(|n| thread(member(n), member(n + 1)))
            .collect(),
        waiting: (0..waiting)
            .map(|n| thread(format!("waiter-{n}"), waiter(n)))
            .collect(),
        reported: true,
        ..Deadlock::default()
    }
}

fn view(brokers: &[(BrokerState, Vec<Finding>, Option<Deadlock>)]) -> View {
    let mut snapshot = Snapshot {
        at: NOW,
        ..Snapshot::default()
    };
    snapshot.discovery.success = Some(true);
    let mut diagnosis = Diagnosis {
        at: NOW,
        ..Diagnosis::default()
    };
    for (n, (state, findings, deadlock)) in brokers.iter().enumerate() {
        let process = ProcessKey {
            pid: 100 + n as u32,
            start_ticks: 1,
        };
        let label = n.to_string();
        let mut broker =
            BrokerSnapshot::new(Arc::new(Broker::unknown(process)), label.clone().into());
        broker.deadlock = deadlock.clone().map(|deadlock| StandingDeadlock {
            more: Default::default(),
            since: NOW,
            confirmed: NOW,
            deadlocks: [deadlock].into(),
            known_issues: Vec::new(),
        });
        snapshot.brokers.push(Arc::new(broker));
        diagnosis.brokers.push(BrokerDiagnosis {
            sentence: format!("Broker {n} is {}.", state.name()),
            label,
            process,
            state: *state,
            since: NOW,
            remedy: if *state == BrokerState::Gray {
                "Restart it.".into()
            } else {
                String::new()
            },
            findings: findings.clone(),
            ..BrokerDiagnosis::default()
        });
    }
    View {
        snapshot: Arc::new(snapshot),
        diagnosis: Arc::new(diagnosis),
        ..View::default()
    }
}

fn found(id: FindingId) -> Finding {
    Finding {
        id,
        last_seen: None,
        since: NOW,
        facts: vec!["fact ".repeat(1000); 100],
    }
}

/// A broker that nobody asks may not answer.
#[test]
fn the_headline_of_a_healthy_broker_with_a_problem_says_what_is_not_read() {
    let healthy = (
        BrokerState::Healthy,
        vec![found(FindingId::CertificateExpiry)],
        None,
    );
    let mut view = view(&[healthy]);
    let headline = |view: &View| {
        let overview = super::overview(view, &EvidenceStatus::default());
        overview.sentences.join(" ")
    };
    let title = FindingId::CertificateExpiry.kind().title;
    assert_eq!(headline(&view), format!("Broker 0 answers, but: {title}."));
    Arc::make_mut(&mut view.diagnosis).brokers[0].unseen = vec!["no requests"];
    let text = format!("Broker 0 is healthy as far as seen: no requests, but: {title}.");
    assert_eq!(headline(&view), text);
}

#[test]
fn what_would_not_be_seen_on_the_page_is_escaped() {
    let mut finding = found(FindingId::StalledPool);
    finding.facts = vec!["thread \u{202e}reldnah\u{1b}[2J".into()];
    let mut view = view(&[(BrokerState::Gray, vec![finding], None)]);
    Arc::make_mut(&mut view.snapshot).discovery_warnings = vec!["a\u{2066}b".into()];
    let page = render(&view, &EvidenceStatus::default(), NOW, "/metrics").into_string();
    for escaped in ["thread \\u{202e}reldnah\\u{1b}[2J", "a\\u{2066}b"] {
        assert!(page.contains(escaped), "{page}");
    }
    assert!(!page.contains(crate::model::is_unseen), "{page}");
}

#[test]
fn a_page_full_of_problems_stays_below_100_kb() {
    let findings: Vec<Finding> = FindingId::ALL.iter().take(6).map(|id| found(*id)).collect();
    let mut view = view(&vec![
        (BrokerState::Gray, findings, Some(deadlock(40, 200)));
        3
    ]);
    let event = |n: u64| Event {
        at: Moment(NOW.0 + n),
        broker: "1".into(),
        change: Change::Restarted { pid: n as u32 },
    };
    Arc::make_mut(&mut view.diagnosis).timeline = (0..200).map(|n| Arc::new(event(n))).collect();
    let page = render(&view, &EvidenceStatus::default(), NOW, "/metrics").into_string();
    println!("{} bytes", page.len());
    assert!(page.len() < 100_000, "{} bytes", page.len());
    // Members, blocked threads, facts and events are cut, with the number of omitted ones.
    for text in [
        "and 29 more</text>",
        "<summary>200 more are blocked behind the deadlock",
        "<li>and 188 more</li>",
        "and 150 older ones",
    ] {
        assert!(page.contains(text), "{text}");
    }
    let shows = |n: u64| page.contains(&format!("restarted as process {n}<"));
    assert!(shows(199) && shows(150) && !shows(149));
    let ids: Vec<&str> = page
        .split(" id=\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    assert_eq!(ids.len(), BTreeSet::from_iter(&ids).len(), "{ids:?}");
}

#[test]
fn the_drawing_hangs_each_waiting_thread_on_the_member_that_it_waits_for() {
    let drawing = graph::draw(&deadlock(2, 3), "x").into_string();
    let place = |text: &str| {
        drawing
            .find(&format!(">{text}<"))
            .unwrap_or_else(|| panic!("{text} in {drawing}"))
    };
    // A box is drawn after the threads below it: the three are below the second.
    let row = [
        "member-0",
        "waiter-0",
        "waiter-1 (through others)",
        "waiter-2 (through others)",
        "member-1",
    ];
    assert!(row.map(place).is_sorted(), "{drawing}");
    assert!(drawing.contains(">wants GroupMetadata<") && drawing.contains(">holds GroupMetadata<"));
    assert!(
        drawing.contains("<title") && drawing.contains("2 threads in a ring"),
        "{drawing}"
    );
}

/// A saved bundle for each broker.
fn saved_of_all(view: &View) -> EvidenceStatus {
    let saved = |broker: &BrokerDiagnosis| BrokerEvidence {
        process: broker.process,
        newest: Some(SavedBundle {
            path: "/evidence/folder".into(),
            at: broker.since,
        }),
        total: 1,
        failure: None,
    };
    let brokers = view.diagnosis.brokers.iter();
    EvidenceStatus {
        off: None,
        brokers: brokers
            .map(|broker| (broker.label.clone(), saved(broker)))
            .collect(),
    }
}

#[test]
fn the_first_line_and_the_exit_code_show_the_worst() {
    use BrokerState::{Ended, Gray, Healthy, Starting, Suspect, Unknown};
    let plain = |state| (state, Vec::new(), None);
    let with = |id| (Healthy, vec![found(id)], None);
    let table = [
        (vec![], "UNKNOWN: No Kafka broker runs on this host.", 3),
        (vec![plain(Healthy)], "OK: Broker 0 is healthy.", 0),
        (
            vec![plain(Healthy), plain(Healthy)],
            "OK: All 2 brokers of this host are healthy.",
            0,
        ),
        (
            vec![with(FindingId::KnownIssueExposed)],
            "OK: Broker 0 is healthy.",
            0,
        ),
        (
            vec![plain(Healthy), plain(Unknown)],
            "UNKNOWN: Broker 1 is unknown.",
            3,
        ),
        (
            vec![plain(Unknown), plain(Suspect)],
            "WARNING: Broker 1 is suspect.",
            1,
        ),
        (
            vec![with(FindingId::UnderReplicated)],
            "WARNING: Broker 0 answers, but: Under-replicated partitions.",
            1,
        ),
        (
            vec![with(FindingId::IsrLeaderAlone)],
            "CRITICAL: Broker 0 answers, but: Leader alone in the ISR. Evidence saved.",
            2,
        ),
        (
            vec![plain(Suspect), plain(Ended), plain(Gray)],
            "CRITICAL: Broker 2 is gray. Evidence saved. Restart it.",
            2,
        ),
        (
            vec![plain(Ended)],
            "CRITICAL: Broker 0 is ended. Evidence saved.",
            2,
        ),
        (vec![plain(Starting)], "WARNING: Broker 0 is starting.", 1),
    ];
    for (brokers, first, code) in table {
        let view = view(&brokers);
        let saved = saved_of_all(&view);
        let check = CheckPage::of(&view, &saved, NOW.plus(Duration::from_secs(1)));
        assert_eq!(
            (
                check.text().lines().next().unwrap(),
                check.level.exit_code()
            ),
            (first, code)
        );
        let page = render(&view, &saved, NOW, "/metrics").into_string();
        let (_, headline) = first.split_once(": ").unwrap();
        assert!(
            page.contains(&format!("<h1>{headline}</h1>")),
            "{headline} in {page}"
        );
        assert!(brokers.is_empty() || page.contains("/evidence/folder"));
    }
}

#[test]
fn names_of_threads_control_neither_browser_nor_terminal() {
    let hostile = "\x1b[2J<script>alert(1)</script>";
    let mut finding = found(FindingId::JvmDeadlock);
    finding.facts = vec![hostile.into()];
    let mut deadlock = deadlock(2, 0);
    deadlock.cycle[0].thread = hostile.into();
    let view = view(&[(BrokerState::Gray, vec![finding], Some(deadlock))]);
    let page = render(&view, &EvidenceStatus::default(), NOW, "/metrics").into_string();
    assert!(
        !page.contains("<script") && page.contains("&lt;script&gt;"),
        "{page}"
    );
    let check = CheckPage::of(&view, &EvidenceStatus::default(), NOW);
    let text = check.text();
    assert!(
        text.contains("alert(1)") && !text.contains('\x1b'),
        "{text}"
    );
    assert!(check.coloured().starts_with("\x1b[1;31mCRITICAL: "));
}
