//! What the probes of the broker's own listeners show.

use super::*;
use crate::model::{ListenerProbe, rfc3339};

/// A listener that a request handler answers, or the network thread alone, or nobody.
fn listener(name: &str, by_handler: bool, silent: bool) -> ListenerProbe {
    let failure = silent.then_some((Reason::Timeout, true));
    ListenerProbe {
        listener: name.into(),
        probe: probe(failure).api.unwrap(),
        by_handler,
        certificate_end: None,
        verified: None,
        anonymous: false,
    }
}

/// The report of a broker with these listeners, of which the first one is asked for the rest.
fn report(listeners: &[ListenerProbe]) -> ProbeReport {
    let first = Some(listeners[0].probe.clone());
    let (api, network) = match listeners[0].by_handler {
        true => (first, None),
        false => (None, first),
    };
    ProbeReport {
        api,
        network,
        listeners: listeners.to_vec(),
        ..ProbeReport::default()
    }
}

#[test]
fn one_silent_listener_is_its_own_finding_and_all_silent_ones_are_the_broker() {
    use FindingId::{ApiUnresponsive, ListenerUnresponsive};
    let (well, hangs) = (false, true);
    let cases = [
        ([listener("A", true, well), listener("B", true, well)], None),
        (
            [listener("A", true, well), listener("B", true, hangs)],
            Some(ListenerUnresponsive),
        ),
        (
            [listener("A", true, hangs), listener("B", true, well)],
            Some(ListenerUnresponsive),
        ),
        (
            [listener("A", true, hangs), listener("B", true, hangs)],
            Some(ApiUnresponsive),
        ),
        (
            [listener("A", false, hangs), listener("B", false, hangs)],
            Some(ApiUnresponsive),
        ),
        (
            [listener("A", false, hangs), listener("B", false, well)],
            Some(ListenerUnresponsive),
        ),
    ];
    for (listeners, expected) in cases {
        let mut scene = scene();
        scene.evaluate();
        let diagnosis = scene.after(15, |broker, now| {
            broker.probes = known(report(&listeners), now);
        });
        assert_eq!(
            active(&diagnosis),
            Vec::from_iter(expected),
            "{listeners:?}"
        );
        let (state, said) = match expected {
            Some(ApiUnresponsive) => (BrokerState::Gray, "accepts connections and answers nothing"),
            Some(_) => (BrokerState::Suspect, "works only in part"),
            None => (BrokerState::Healthy, "is healthy"),
        };
        assert_eq!(diagnosis.state, state, "{listeners:?}");
        assert!(diagnosis.sentence.contains(said), "{diagnosis:?}");
    }
    // The network threads of one listener answer; whether a request handler does is unknown.
    let listeners = [listener("A", true, hangs), listener("B", false, well)];
    let mut scene = scene();
    let diagnosis = scene.after(15, |broker, now| {
        broker.probes = known(report(&listeners), now);
    });
    assert!(active(&diagnosis).contains(&ApiUnresponsive));
}

#[test]
fn an_answer_of_the_network_thread_acquits_no_request_handler() {
    let mut scene = scene();
    let network = [listener("SASL", false, false)];
    let diagnosis = scene.after(200, |broker, now| {
        broker.probes = known(report(&network), now);
        broker.threads = Reading::unknown("attaching is switched off");
    });
    assert_eq!(diagnosis.state, BrokerState::Unknown);
    assert!(!diagnosis.evaluated.contains(&FindingId::ApiUnresponsive));
    let diagnosis = scene.after(1, |broker, now| {
        broker.probes = known(report(&network), now);
    });
    assert_eq!(diagnosis.state, BrokerState::Healthy, "by its thread dump");
    // What was found there ends there.
    let silent = [listener("SASL", false, true)];
    let diagnosis = scene.after(10, |broker, now| {
        broker.probes = known(report(&silent), now);
    });
    assert_eq!(active(&diagnosis), [FindingId::ApiUnresponsive]);
    let diagnosis = scene.after(10, |broker, now| {
        broker.probes = known(report(&network), now);
    });
    assert_eq!(active(&diagnosis), []);
}

#[test]
fn a_certificate_is_found_two_weeks_before_its_end() {
    let day = Duration::from_secs(24 * 3600);
    let mut scene = scene();
    let ends = |left: Duration, now: Moment| ListenerProbe {
        certificate_end: Some(now.plus(left)),
        ..listener("SSL", true, false)
    };
    for (left, expected) in [(15 * day, false), (13 * day, true), (Duration::ZERO, true)] {
        let diagnosis = scene.after(1, |broker, now| {
            broker.probes = known(report(&[ends(left, now)]), now);
        });
        let found = active(&diagnosis).contains(&FindingId::CertificateExpiry);
        assert_eq!(found, expected, "{left:?}");
    }
    let facts = &scene.evaluate().findings[0].facts;
    let end = rfc3339(scene.now);
    let expected = format!("the certificate of listener SSL expired at {end}");
    assert_eq!(facts, &[expected]);
}
