#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::sync::Arc;

use lab::fake_broker::{Answer, FakeBroker, ReceivedRequest, framed};

use super::ensembles::{
    Ensembles, PartitionState, Way, controller, ids, min_isr, partition_state, registration,
};
use super::plan::{MOST_SERVERS, plan};
use super::*;
use crate::model::{Broker, Mode};

fn broker() -> Broker {
    Broker {
        id: Some(7),
        mode: Some(Mode::ZooKeeper),
        zookeeper: vec!["z:2181".into()],
        owner: Some(1001),
        ..Broker::default()
    }
}

#[test]
fn only_a_zookeeper_that_may_be_read_is_asked() {
    let servers = |broker: Broker| plan(&broker, 500).map(|plan| plan.servers.join(" "));
    let quiet = |broker| servers(broker).map_err(|why| why.logged);
    assert_eq!(quiet(broker()), Ok("z:2181".into()));
    let low = |owner| Broker {
        zookeeper: vec!["z:22".into(), "z:1024".into()],
        owner,
        ..broker()
    };
    assert_eq!(quiet(low(Some(1001))), Ok("z:1024".into()));
    assert_eq!(quiet(low(None)), Ok("z:1024".into()));
    for may_listen_there in [0, 500] {
        assert_eq!(quiet(low(Some(may_listen_there))), Ok("z:22 z:1024".into()));
    }
    let many = (1..100).map(|n| format!("z{n}:2181")).collect();
    let found = servers(Broker {
        zookeeper: many,
        ..broker()
    })
    .unwrap();
    assert_eq!(found.split(' ').count(), MOST_SERVERS);
    // What a user may not expect is in the log.
    let logged = [
        Broker {
            zookeeper_tls: true,
            ..broker()
        },
        Broker {
            zookeeper: vec!["z:22".into()],
            ..broker()
        },
        Broker {
            zookeeper_root: "/a\r\nb".into(),
            ..broker()
        },
        Broker {
            zookeeper_root: "/a//b".into(),
            ..broker()
        },
        Broker {
            zookeeper_root: format!("/{}", "x".repeat(1024)),
            ..broker()
        },
    ];
    assert!(logged.into_iter().all(|broker| quiet(broker) == Err(true)));
    let silent = [
        Broker {
            mode: Some(Mode::KRaft),
            zookeeper_tls: true,
            ..broker()
        },
        Broker {
            mode: None,
            ..broker()
        },
        Broker {
            zookeeper: Vec::new(),
            ..broker()
        },
        Broker {
            id: None,
            ..broker()
        },
    ];
    assert!(silent.into_iter().all(|broker| quiet(broker) == Err(false)));
}

#[test]
fn what_nobody_set_up_is_no_failure() {
    let of = |reason| Failure::new(reason, "z:2181 answers nothing");
    let expected = |reason, here| expected(&of(reason), here).is_some();
    for here in [true, false] {
        assert!(expected(Reason::Denied, here) && expected(Reason::Unsupported, here));
        assert!(!expected(Reason::Protocol, here) && !expected(Reason::Closed, here));
        assert!(!expected(Reason::Config, here));
        assert_eq!(expected(Reason::Refused, here), !here);
        assert_eq!(expected(Reason::Timeout, here), !here);
    }
}

/// What brokers of these versions write, as `zookeeper-shell` prints it.
#[test]
fn registrations_of_all_versions_are_read() {
    let table = [
        // 0.8, 0.10, with TLS alone, 3.x.
        (
            r#"{"jmx_port":-1,"timestamp":"1430000000000","host":"a","version":1,"port":9092}"#,
            "a:9092",
        ),
        (
            r#"{"jmx_port":-1,"timestamp":"1430000000000","endpoints":["PLAINTEXT://127.0.0.1:9092"],"host":"127.0.0.1","version":3,"port":9092}"#,
            "PLAINTEXT://127.0.0.1:9092",
        ),
        (
            r#"{"listener_security_protocol_map":{"SSL":"SSL"},"endpoints":["SSL://h:1"],"jmx_port":-1,"port":-1,"host":null,"version":4,"timestamp":"1430000000000"}"#,
            "SSL://h:1",
        ),
        (
            r#"{"features":{},"listener_security_protocol_map":{"A":"PLAINTEXT"},"endpoints":["A://h:1","B://h:2"],"jmx_port":-1,"port":9092,"host":"h","version":5,"timestamp":1430000000000}"#,
            "A://h:1",
        ),
    ];
    for (written, endpoint) in table {
        let read = registration(written.as_bytes()).unwrap();
        assert_eq!(
            (read.since, &*read.endpoint),
            (Moment(1_430_000_000_000), endpoint)
        );
    }
    let long = format!(
        r#"{{"timestamp":"1","endpoints":["{}"]}}"#,
        "x".repeat(9999)
    );
    assert!(registration(long.as_bytes()).unwrap().endpoint.len() <= 255);
    for other in [
        "",
        "null",
        "{}",
        r#"{"timestamp":"x","endpoints":["a"]}"#,
        r#"{"timestamp":"1"}"#,
    ] {
        assert_eq!(registration(other.as_bytes()), None, "{other}");
    }
    assert_eq!(
        controller(br#"{"version":1,"brokerid":217,"timestamp":"1430000000000"}"#),
        Some(217)
    );
    assert_eq!(controller(b"217"), None);
    assert_eq!(ids(&["7", "12"]), Some(BTreeSet::from([7, 12])));
    assert_eq!(ids(&["7", "x"]), None);
}

/// What `kafka-topics` and `kafka-configs` write.
#[test]
fn overrides_of_the_minimum_are_read() {
    for (written, min) in [
        (r#"{"version":1,"config":{}}"#, Some(None)),
        (r#"{"version":1,"config":{"retention.ms":"1"}}"#, Some(None)),
        (
            r#"{"version":1,"config":{"min.insync.replicas":"2","a":"b"}}"#,
            Some(Some(2)),
        ),
        (
            r#"{"version":1,"config":{"min.insync.replicas":"two"}}"#,
            None,
        ),
        ("", None),
    ] {
        assert_eq!(min_isr(written.as_bytes()), min, "{written}");
    }
}

/// What leaders and the controller write, as `zookeeper-shell` prints it.
#[test]
fn states_of_partitions_are_read() {
    let state = |leader, isr: &[i32]| {
        let isr = isr.to_vec();
        Some(PartitionState { leader, isr })
    };
    for (written, read) in [
        (
            r#"{"controller_epoch":1,"leader":217,"version":1,"leader_epoch":0,"isr":[217,218]}"#,
            state(Some(217), &[217, 218]),
        ),
        (
            r#"{"controller_epoch":7,"leader":-1,"version":1,"leader_epoch":9,"isr":[3]}"#,
            state(None, &[3]),
        ),
        (r#"{"leader":1,"leader_epoch":0}"#, None),
        (r#"{"leader":"1","isr":[1]}"#, None),
        ("", None),
    ] {
        assert_eq!(partition_state(written.as_bytes()), read, "{written}");
    }
}

#[test]
fn a_registration_from_before_the_start_is_that_of_an_earlier_process() {
    let members = Members {
        server: "z:2181".into(),
        brokers: Arc::new(BTreeSet::from([7])),
        controller: None,
    };
    let (minute, started) = (60_000, Moment(1_000_000));
    let at = |since: u64| {
        let registration = Registration {
            since: Moment(since),
            endpoint: "a:1".into(),
        };
        report(members.clone(), Some(registration), Some(started))
    };
    assert!(at(started.0 + 1).is_registered());
    // The clock was set back since.
    assert!(at(started.0 - minute).is_registered());
    let earlier = at(started.0 - minute - 1).registration;
    assert!(
        matches!(earlier, OwnRegistration::Earlier { .. }),
        "{earlier:?}"
    );
    let missing = report(members.clone(), None, Some(started)).registration;
    assert_eq!(missing, OwnRegistration::Missing);
}

/// The fake broker takes the first bytes of a request for other fields.
fn is_greeting(asked: &ReceivedRequest) -> bool {
    asked.correlation == 0
}

/// A ZooKeeper in which broker 7 is registered, and each node has these data. It grants sessions of so long.
pub(in crate::collect) async fn server(timeout_millis: i32, data: &'static str) -> FakeBroker {
    FakeBroker::start(move |asked| {
        let (xid, body) = match asked.correlation {
            0 => {
                let granted = timeout_millis.to_be_bytes().to_vec();
                (
                    0,
                    [granted, vec![0; 8], vec![0, 0, 0, 16], vec![0; 17]].concat(),
                )
            }
            8 => {
                let children = [&[0; 12][..], &[0, 0, 0, 1], &[0, 0, 0, 1], b"7"];
                (xid(asked), children.concat())
            }
            _ => {
                let length = (data.len() as i32).to_be_bytes();
                let node = [&[0; 12][..], &length, data.as_bytes(), &[0; 68]];
                (xid(asked), node.concat())
            }
        };
        Answer::RawThenSilence(framed(xid, &body).into())
    })
    .await
}

fn xid(asked: ReceivedRequest) -> i32 {
    i32::from(asked.api) << 16 | i32::from(asked.version as u16)
}

fn way(server: &FakeBroker, of_others: bool) -> Way {
    Way {
        servers: vec![server.address.clone()],
        loopback: true,
        of_others,
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn brokers_of_a_host_share_a_session_and_a_list() {
    let data = r#"{"timestamp":"5","endpoints":["A://h:1"],"brokerid":7}"#;
    let server = server(30_000, data).await;
    let ensembles = Ensembles::default();
    let [one, two] = [(); 2].map(|()| ensembles.of(way(&server, false), 0));
    let others = ensembles.of(way(&server, true), 0);
    let read = |ensemble: Arc<Ensemble>, id| async move { ensemble.read("", id, SECOND).await };
    let (own, other) = tokio::join!(read(one, 7), read(two, 8));
    let ((members, registration), (_, none)) = (own.unwrap(), other.unwrap());
    assert_eq!(
        (members.controller, &*members.brokers),
        (Some(7), &BTreeSet::from([7]))
    );
    assert_eq!((registration.unwrap().since, none), (Moment(5), None));
    let kinds = |server: &FakeBroker| -> Vec<(usize, i32)> {
        let asked = server.asked().into_iter();
        asked
            .map(|asked| (asked.connection, asked.correlation))
            .collect()
    };
    // The list, the controller, and the node of the one that is listed.
    assert_eq!(kinds(&server), [(0, 0), (0, 8), (0, 4), (0, 4)]);
    // What is another user's has a session of its own.
    read(others, 8).await.unwrap();
    assert_eq!(kinds(&server)[4..], [(1, 0), (1, 8), (1, 4)]);
}

#[tokio::test]
async fn overrides_are_read_once_in_two_minutes() {
    let data = r#"{"version":1,"config":{"min.insync.replicas":"2"}}"#;
    let server = server(30_000, data).await;
    let ensemble = Ensembles::default().of(way(&server, false), 0);
    let paths = ["/config/topics/a", "/config/topics/b"].map(str::to_owned);
    for paths in [&paths[..1], &paths, &paths] {
        let found = ensemble.min_isr(paths, SECOND).await.unwrap();
        assert!(found.len() == paths.len() && found.values().all(|min| *min == Some(2)));
    }
    assert_eq!(server.asked().len(), 1 + paths.len());
}

#[tokio::test]
async fn a_short_session_is_kept_by_rare_questions() {
    let server = server(1, r#"{"brokerid":7}"#).await;
    let ensemble = Ensembles::default().of(way(&server, false), 0);
    let _ = ensemble.read("", 8, SECOND).await.unwrap();
    let (before, next) = (server.asked().len(), Instant::now() + SECOND * 5 / 2);
    rest(&ensemble, "", next).await;
    assert!(Instant::now() >= next);
    let questions = server.asked();
    assert_eq!(questions.len(), before + 1, "{questions:?}");
    assert_eq!(
        questions.iter().filter(|asked| is_greeting(asked)).count(),
        1
    );
}

#[tokio::test]
async fn a_hung_zookeeper_takes_no_more_than_the_time_of_each_question() {
    let server = FakeBroker::start(|_| Answer::Silence).await;
    let ensemble = Ensembles::default().of(way(&server, false), 0);
    let slow = ensemble.read("", 7, SECOND * 5);
    let other = async {
        while server.asked().is_empty() {
            tokio::task::yield_now().await;
        }
        ensemble
            .min_isr(&["/config/topics/a".to_owned()], SECOND / 10)
            .await
    };
    let start = Instant::now();
    let failed = tokio::select! {
        _ = slow => panic!("the second one waited for the first"),
        failed = other => failed.unwrap_err(),
    };
    assert_eq!(failed.reason, Reason::Timeout, "{failed:?}");
    assert!(start.elapsed() < SECOND * 4);
}
