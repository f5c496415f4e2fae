//! What a healthy verdict does not cover, because it is not read.

use crate::model::{AnyReading, BrokerSnapshot, Moment};

/// The failures that nobody would see on a broker, each with the reason. What has never been tried is read soon.
pub(super) fn unseen(broker: &BrokerSnapshot, now: Moment) -> Vec<&'static str> {
    let is_unknown =
        |reading: &dyn AnyReading| !reading.is_pending() && reading.why_unknown(now).is_some();
    let dump = broker.threads.fresh(now);
    let in_part = dump.is_some_and(|report| !report.not_understood.is_empty());
    let no_requests = is_unknown(&broker.probes) && !broker.broker.is_dedicated_controller();
    let list = [
        (
            is_unknown(&broker.threads),
            "no thread dumps, so no deadlock would be found",
        ),
        (
            in_part,
            "a part of the thread dump is not understood, so a deadlock may be missed",
        ),
        (
            no_requests,
            "no requests, so a broker that answers nothing would not be found",
        ),
    ];
    let seen = list.into_iter().filter(|(is_so, _)| *is_so);
    seen.map(|(_, what)| what).collect()
}

/// ` as far as seen: no thread dumps, so no deadlock would be found`; empty where nothing is unseen.
pub fn as_far_as_seen(unseen: &[&str]) -> String {
    match unseen {
        [] => String::new(),
        list => format!(" as far as seen: {}", list.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Broker, ProbeReport, Reading, Role, ThreadReport};

    fn known<T>(value: T) -> Reading<T> {
        Reading::Known {
            value,
            at: Moment(0),
            valid_for: Duration::from_secs(45),
        }
    }

    #[test]
    fn a_healthy_verdict_names_what_is_not_read() {
        let (now, later) = (Moment(0), Moment(0).plus(Duration::from_secs(46)));
        let dumps = "no thread dumps, so no deadlock would be found";
        let requests = "no requests, so a broker that answers nothing would not be found";
        let mut broker = BrokerSnapshot::default();
        assert_eq!(unseen(&broker, now), [""; 0], "not tried yet");
        broker.threads = known(ThreadReport::default());
        broker.probes = known(ProbeReport::default());
        assert_eq!(unseen(&broker, now), [""; 0]);
        assert_eq!(unseen(&broker, later), [dumps, requests], "too old");
        broker.threads = Reading::unknown("the collector `threads` is switched off");
        assert_eq!(unseen(&broker, now), [dumps]);
        assert_eq!(
            as_far_as_seen(&unseen(&broker, now)),
            format!(" as far as seen: {dumps}")
        );
        broker.threads = known(ThreadReport {
            not_understood: vec!["a line".into()],
            ..ThreadReport::default()
        });
        assert_eq!(unseen(&broker, now).len(), 1);
        broker.threads = known(ThreadReport::default());
        broker.probes = Reading::unknown("a dedicated controller speaks Raft");
        assert_eq!(unseen(&broker, now), [requests]);
        broker.broker = std::sync::Arc::new(Broker {
            roles: [Role::Controller].into(),
            ..Broker::default()
        });
        assert_eq!(unseen(&broker, now), [""; 0]);
        assert_eq!(as_far_as_seen(&[]), "");
    }
}
