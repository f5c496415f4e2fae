#![allow(clippy::unwrap_used)]
use std::time::Duration;

use super::*;

fn after(start: Instant, seconds: f64) -> Instant {
    start + Duration::from_secs_f64(seconds)
}

const DEADLOCK: Expected = Expected {
    findings: &["jvm_deadlock"],
    cause: &["executor-heartbeat", "request-handler|handler-pool"],
    gray: true,
    before_harm: true,
};

/// A strike 10 s after `start`, and a heal 60 s later.
fn observed(start: Instant, said: Vec<Said>, complaints: Vec<Complaint>) -> Observed {
    Observed {
        struck: after(start, 10.0),
        healed: after(start, 70.0),
        sick: vec![2],
        said,
        complaints,
    }
}

fn said(at: Instant, broker: i32, state: &str, findings: &[(&str, &str, &str)]) -> Said {
    let found = |(name, severity, text): &(&str, &str, &str)| Found {
        name: (*name).into(),
        severity: (*severity).into(),
        text: (*text).into(),
    };
    Said {
        at,
        broker,
        state: state.into(),
        verdict: String::new(),
        findings: findings.iter().map(found).collect(),
    }
}

fn complaint(at: Instant, failed: bool) -> Complaint {
    Complaint {
        at,
        failed,
        client: "producer 1".into(),
        why: String::new(),
    }
}

#[test]
fn times_count_from_the_strike_and_harm_before_it_does_not_count() {
    let start = Instant::now();
    let at = |seconds| after(start, seconds);
    let cycle = "kafka-request-handler-1 wants what executor-Heartbeat holds";
    let words = vec![
        said(at(1.0), 1, "healthy", &[]),
        said(
            at(1.0),
            2,
            "healthy",
            &[("under_replicated", "warning", "")],
        ),
        said(
            at(11.0),
            2,
            "suspect",
            &[("under_replicated", "warning", "")],
        ),
        said(at(12.0), 2, "suspect", &[("jvm_deadlock", "critical", "")]),
        said(at(13.5), 2, "gray", &[("jvm_deadlock", "critical", cycle)]),
        said(at(80.0), 2, "healthy", &[]),
    ];
    let complaints = [(5.0, true), (11.5, false), (15.0, true), (20.0, true)];
    let complaints = complaints.map(|(seconds, failed)| complaint(at(seconds), failed));
    let score = score(&DEADLOCK, &observed(start, words, complaints.to_vec()));
    assert_eq!((score.slow, score.harm), (Some(1.5), Some(5.0)));
    assert_eq!((score.suspicion, score.component), (Some(1.0), Some(2.0)));
    assert_eq!((score.verdict, score.cause), (Some(3.5), Some(3.5)));
    assert_eq!(score.after_harm(), Some(-1.5));
    assert_eq!(score.named, ["jvm_deadlock"]);
    assert_eq!(score.healthy, Some(10.0));
    assert!(score.wrong.is_empty());
}

#[test]
fn others_may_be_suspect_of_the_sick_one_and_nothing_else() {
    let start = Instant::now();
    let at = |seconds| after(start, seconds);
    let reached = "Broker 2 does not answer";
    let words = vec![
        said(at(1.0), 1, "healthy", &[]),
        said(at(2.0), 3, "healthy", &[]),
        said(
            at(20.0),
            1,
            "suspect",
            &[("peer_unreachable", "warning", reached)],
        ),
        said(
            at(21.0),
            1,
            "healthy",
            &[("isr_leader_alone", "critical", "followers 2, 3")],
        ),
        said(
            at(22.0),
            3,
            "gray",
            &[("stalled_pool", "critical", "waits for broker 2")],
        ),
        said(
            at(23.0),
            3,
            "gray",
            &[("stalled_pool", "critical", "waits for broker 2 still")],
        ),
        said(at(24.0), 3, "suspect", &[]),
    ];
    let score = score(&DEADLOCK, &observed(start, words, Vec::new()));
    let wrong: Vec<_> = score
        .wrong
        .iter()
        .map(|one| (one.broker, one.kind))
        .collect();
    let (verdict, name) = (WrongKind::Verdict, WrongKind::Name);
    assert_eq!(wrong, [(1, name), (3, verdict), (3, verdict)]);
    assert_eq!((score.component, score.healthy), (None, None));
}

#[test]
fn a_text_names_a_broker_by_its_number_in_a_list_or_its_address() {
    for text in [
        "Broker 2 hangs",
        "brokers 1, 2 and 3 lack it",
        "peers 1 and 2",
        "10.9.2.2:9092 does not answer",
    ] {
        assert!(names(text, 2), "{text}");
    }
    for text in [
        "broker 12",
        "2 of 8 threads",
        "broker 1 since 2 s",
        "broker 1: 2 partitions",
    ] {
        assert!(!names(text, 2), "{text}");
    }
}

#[test]
fn the_summary_has_median_and_worst_over_those_with_harm() {
    let of = |verdict, harm: Option<f64>| Score {
        verdict,
        component: verdict,
        harm,
        ..Score::default()
    };
    let scores = [
        of(Some(2.0), Some(5.0)),
        of(Some(9.0), Some(5.0)),
        of(Some(3.0), None),
        of(None, Some(5.0)),
        of(Some(6.0), Some(5.0)),
    ];
    let summary = summary(scores.iter().map(|score| (DEADLOCK.before_harm, score)));
    assert_eq!((summary.made, summary.component, summary.cause), (5, 4, 0));
    assert_eq!((summary.median, summary.worst), (Some(1.0), Some(4.0)));
    assert_eq!((summary.compared, summary.too_late), (3, 3));
    assert_eq!(super::summary(std::iter::empty()), Summary::default());
}
