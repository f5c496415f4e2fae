//! What stalled threads, disks that hang and contradictions mean for the state.

use super::*;
use crate::model::{DiskWait, FileCall, ListenerProbe};

const LATCH: &str = "java.util.concurrent.CountDownLatch$Sync";

fn stall(threads: usize, lock: &str, awaits: &[i32], since: Moment) -> Stall {
    Stall {
        pool: "request_handler".into(),
        threads: (0..threads).map(|n| format!("handler-{n}")).collect(),
        of: 8,
        since,
        lock_class: Some(lock.into()),
        awaits_brokers: awaits.iter().copied().collect(),
        frame: Some("kafka.server.X.y".into()),
        ..Stall::default()
    }
}

fn stalls(found: Vec<Stall>) -> ThreadReport {
    ThreadReport {
        stalls: Some(PoolFindings {
            found,
            pools: ["request_handler".into()].into(),
        }),
        ..ThreadReport::default()
    }
}

/// A dump without any.
fn no_stall(broker: &mut BrokerSnapshot, now: Moment) {
    broker.threads = known(stalls(Vec::new()), now);
}

#[test]
fn a_stall_that_waits_for_another_broker_is_suspect_and_names_it() {
    let mut scene = scene();
    let report = stalls(vec![stall(1, LATCH, &[218], scene.now)]);
    let shown = |broker: &mut BrokerSnapshot, now| broker.threads = known(report.clone(), now);
    let diagnosis = scene.after(120, shown);
    assert_eq!(
        (diagnosis.state, active(&diagnosis)),
        (BrokerState::Suspect, vec![FindingId::PartialStall])
    );
    assert_eq!(
        diagnosis.sentence,
        "Broker 2 works only in part since 10:14:03 UTC: 1 thread of request_handler is stalled in kafka.server.X.y, waiting \
         for java.util.concurrent.CountDownLatch$Sync, until broker 218 answers."
    );
    assert!(diagnosis.remedy.contains("check that one first"));
    assert_eq!(diagnosis.restart_required, None);
    assert_eq!(scene.after(1, no_stall).state, BrokerState::Healthy);
}

/// Then the silence makes it gray, and the text says for whom it waits.
#[test]
fn a_silent_broker_whose_threads_wait_for_another_one_names_that() {
    let mut scene = scene();
    let report = stalls(vec![stall(8, "java.lang.Object", &[218], scene.now)]);
    let diagnosis = scene.after(15, |broker, now| {
        broker.threads = known(report.clone(), now);
        broker.probes = known(probe(Some((Reason::Timeout, true))), now);
    });
    assert_eq!(diagnosis.state, BrokerState::Gray);
    assert!(
        diagnosis.sentence.contains("answers nothing since")
            && diagnosis.sentence.ends_with("until broker 218 answers."),
        "{}",
        diagnosis.sentence
    );
}

#[test]
fn a_lock_half_of_the_pool_or_harm_that_lasts_make_a_broker_gray() {
    let since = scene().now;
    let table = [
        (
            stall(1, "java.lang.Object", &[], since),
            5,
            BrokerState::Gray,
        ),
        (stall(4, LATCH, &[], since), 5, BrokerState::Gray),
        (stall(3, LATCH, &[], since), 300, BrokerState::Suspect),
    ];
    for (stall, seconds, expected) in table {
        let mut scene = scene();
        let report = stalls(vec![stall.clone()]);
        let shown = |broker: &mut BrokerSnapshot, now| broker.threads = known(report.clone(), now);
        assert_eq!(scene.after(seconds, shown).state, expected, "{stall:?}");
    }
    // Clients suffer: connections that nobody reads pile up.
    let mut scene = scene();
    let report = stalls(vec![stall(3, LATCH, &[], since)]);
    let harmed = |broker: &mut BrokerSnapshot, now| {
        broker.threads = known(report.clone(), now);
        let mut pulse = SocketPulse {
            unread_close_wait: 30,
            ..SocketPulse::default()
        };
        pulse.server.get_mut(TcpState::CloseWait).connections = 40;
        broker.sockets = known(pulse, now);
    };
    assert_eq!(scene.after(33, harmed).state, BrokerState::Suspect);
    assert_eq!(scene.after(3, harmed).state, BrokerState::Gray);
}

/// All handlers at one place in one dump.
fn standing(stall: Stall) -> ThreadReport {
    ThreadReport {
        standing: vec![stall],
        ..ThreadReport::default()
    }
}

fn owed(since: Moment, now: Moment) -> ProbeReport {
    let mut report = probe(Some((Reason::Timeout, true)));
    report.api.as_mut().unwrap().duration = now.since(since);
    report
}

#[test]
fn a_pool_that_stands_while_an_answer_is_owed_is_gray_at_once() {
    let asleep = || stall(8, "", &[], Moment(0));
    let may_work = Stall {
        unblocked_by: Some("handler-0".into()),
        ..asleep()
    };
    let suspects = |count: usize| ProgressReport {
        suspects: (0..count)
            .map(|n| Suspect {
                thread_id: 1,
                thread: format!("handler-{n}"),
                pool: "request_handler".into(),
                disk_wait: None,
            })
            .collect(),
        threads: 8,
    };
    let for_a_peer = Stall {
        awaits_brokers: [218].into(),
        ..asleep()
    };
    let table = [
        ("asleep", asleep(), 0, BrokerState::Gray),
        ("runs", may_work.clone(), 0, BrokerState::Suspect),
        ("runs, one moves", may_work.clone(), 7, BrokerState::Suspect),
        ("runs, and none moves", may_work, 8, BrokerState::Gray),
        ("for a peer", for_a_peer, 8, BrokerState::Suspect),
    ];
    for (name, stall, suspected, expected) in table {
        let mut scene = scene();
        let asked = scene.now;
        let report = standing(stall);
        let diagnosis = scene.after(2, |broker, now| {
            broker.threads = known(report.clone(), now);
            broker.progress = known(suspects(suspected), now);
            broker.probes = known(owed(asked, now), now);
        });
        assert_eq!(diagnosis.state, expected, "{name}");
        if expected == BrokerState::Gray {
            assert_eq!(active(&diagnosis), [FindingId::StalledPool]);
            assert!(diagnosis.sentence.contains("8 threads of request_handler"));
        }
    }
}

#[test]
fn network_threads_of_one_listener_are_no_reason_while_another_answers() {
    let network = |own_hangs: bool| {
        let mut scene = scene();
        let asked = scene.now;
        let report = standing(Stall {
            pool: "network".into(),
            ..stall(3, "", &[], Moment(0))
        });
        let diagnosis = scene.after(3, |broker, now| {
            broker.threads = known(report.clone(), now);
            let (silent, answers) = (owed(asked, now), probe(None));
            let (own, other) = match own_hangs {
                true => (silent.clone(), answers),
                false => (answers, silent),
            };
            let listener = ListenerProbe {
                listener: "CLIENTS".into(),
                probe: other.api.unwrap(),
                by_handler: true,
                certificate_end: None,
                verified: None,
                anonymous: false,
            };
            let listeners = vec![listener];
            broker.probes = known(ProbeReport { listeners, ..own }, now);
        });
        diagnosis.state
    };
    assert_eq!(network(true), BrokerState::Gray);
    assert_ne!(network(false), BrokerState::Gray);
}

#[test]
fn a_pool_that_stands_says_nothing_while_answers_come_or_the_jvm_pauses() {
    let report = standing(stall(8, "", &[], Moment(0)));
    let mut scene = scene();
    let shown = |broker: &mut BrokerSnapshot, now| broker.threads = known(report.clone(), now);
    assert_eq!(scene.after(20, shown).state, BrokerState::Healthy);
    // The dump is older than the request.
    let dumped = scene.now;
    let diagnosis = scene.after(3, |broker, now| {
        broker.threads = known(report.clone(), dumped);
        broker.probes = known(owed(dumped.plus(Duration::from_secs(1)), now), now);
    });
    assert_eq!(diagnosis.state, BrokerState::Suspect);
    let mut scene = scene_with_pauses(900);
    let asked = scene.now;
    let mut total = Duration::from_secs(100);
    let diagnosis = scene.after(4, |broker, now| {
        total += Duration::from_millis(900);
        broker.jvm_pauses = known(total, now);
        broker.threads = known(report.clone(), now);
        broker.probes = known(owed(asked, now), now);
    });
    assert_eq!(active(&diagnosis), [FindingId::JvmPaused]);
}

/// A scene after 12 s in which the JVM paused for so many milliseconds of each, 100 s in total.
fn scene_with_pauses(each: u64) -> Scene {
    let mut scene = scene();
    let mut total = Duration::from_secs(100) - Duration::from_millis(each * 12);
    scene.after(12, |broker, now| {
        total += Duration::from_millis(each);
        broker.jvm_pauses = known(total, now);
    });
    scene
}

/// A stall is measured in the time in which the JVM runs, so pauses do not explain it.
#[test]
fn of_pauses_and_a_stall_the_stall_is_named() {
    for each in [510, 900] {
        let mut scene = scene_with_pauses(each);
        let report = stalls(vec![stall(1, "java.lang.Object", &[], scene.now)]);
        let mut total = Duration::from_secs(100);
        let diagnosis = scene.after(5, |broker, now| {
            total += Duration::from_millis(each);
            broker.jvm_pauses = known(total, now);
            broker.threads = known(report.clone(), now);
        });
        assert_eq!(
            active(&diagnosis),
            [FindingId::StalledPool, FindingId::JvmPaused]
        );
        assert!(diagnosis.sentence.contains("is alive but stalled since"));
    }
}

fn at_disk(wait: DiskWait) -> ProgressReport {
    ProgressReport {
        suspects: vec![Suspect {
            thread_id: 1,
            thread: "handler-3".into(),
            pool: "request_handler".into(),
            disk_wait: Some(wait),
        }],
        threads: 8,
    }
}

#[test]
fn a_disk_that_does_not_answer_is_named_after_five_seconds() {
    let mut scene = scene();
    let since = scene.now;
    let mut described = (*scene.broker.broker).clone();
    described.log_dirs = vec!["/data".into(), "/data/2".into()];
    scene.broker.broker = Arc::new(described);
    let wait = DiskWait {
        since,
        call: Some("fsync".into()),
        is_file_call: true,
        file: Some("/data/2/t-0/0.log".into()),
    };
    let hangs =
        |broker: &mut BrokerSnapshot, now| broker.progress = known(at_disk(wait.clone()), now);
    assert_eq!(active(&scene.after(4, hangs)), []);
    let diagnosis = scene.after(1, hangs);
    assert_eq!(
        (diagnosis.state, active(&diagnosis)),
        (BrokerState::Gray, vec![FindingId::DiskHung])
    );
    assert_eq!(
        diagnosis.sentence,
        "Broker 2 is alive but its disk does not answer since 10:14:07 UTC: handler-3 has been in `fsync` of \
         /data/2/t-0/0.log for 5 s: log dir /data/2."
    );
    // A lock that is held meanwhile is given back by no restart.
    let report = stalls(vec![stall(1, "java.lang.Object", &[], since)]);
    let diagnosis = scene.after(20, |broker, now| {
        hangs(broker, now);
        broker.threads = known(report.clone(), now);
    });
    assert_eq!(diagnosis.restart_required, None);
    assert!(diagnosis.sentence.contains("its disk does not answer"));
    assert_eq!(scene.after(3, no_stall).state, BrokerState::Healthy);
}

#[test]
fn without_the_right_to_trace_a_dump_says_what_the_kernel_keeps_a_thread_in() {
    let since = scene().now;
    let untraced = DiskWait {
        since,
        ..DiskWait::default()
    };
    let frozen = DiskWait {
        call: Some("system call 202".into()),
        ..untraced.clone()
    };
    let call = |thread: &str| ThreadReport {
        file_calls: vec![FileCall {
            thread: thread.into(),
            method: "sun.nio.ch.FileDispatcherImpl.write0".into(),
        }],
        ..ThreadReport::default()
    };
    let table = [
        ("a dump shows it", &untraced, "handler-3", 1, true),
        ("a dump shows another", &untraced, "handler-4", 1, false),
        ("an old dump shows it", &untraced, "handler-3", 0, false),
        // As in a frozen control group.
        (
            "it is in no call for a file",
            &frozen,
            "handler-3",
            1,
            false,
        ),
    ];
    for (name, wait, thread, dumped, expected) in table {
        let mut scene = scene();
        let dumped = since
            .minus(Duration::from_secs(1))
            .plus(Duration::from_secs(dumped * 2));
        let diagnosis = scene.after(6, |broker, now| {
            broker.progress = known(at_disk(wait.clone()), now);
            broker.threads = known(call(thread), dumped);
        });
        let found = active(&diagnosis).contains(&FindingId::DiskHung);
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn a_broker_is_not_healthy_while_a_critical_finding_stands() {
    let mut scene = scene();
    let offline = |broker: &mut BrokerSnapshot, now| {
        let counts = ClusterCounts {
            offline: 3,
            ..cluster(&[1, 2, 3])
        };
        broker.cluster = known(counts, now);
    };
    assert_eq!(scene.after(14, offline).state, BrokerState::Healthy);
    let diagnosis = scene.after(2, offline);
    assert_eq!(diagnosis.state, BrokerState::Unknown);
    assert_eq!(
        diagnosis.sentence,
        "Broker 2 is unknown, for a critical finding stands: Offline partitions since 10:14:03 UTC: 3 of 30 partitions of the \
         cluster are offline."
    );
    assert_eq!(scene.after(11, |_, _| {}).state, BrokerState::Healthy);
}

#[test]
fn a_broker_whose_listener_answers_nonsense_is_unknown_whatever_its_threads_do() {
    let mut scene = scene();
    let diagnosis = scene.after(3, |broker, now| {
        broker.probes = known(probe(Some((Reason::Protocol, true))), now);
    });
    assert_eq!(
        (diagnosis.state, diagnosis.sentence.as_str()),
        (
            BrokerState::Unknown,
            "Broker 2 is unknown: 127.0.0.1:9092: protocol."
        )
    );
    assert_eq!(scene.after(1, |_, _| {}).state, BrokerState::Healthy);
}
