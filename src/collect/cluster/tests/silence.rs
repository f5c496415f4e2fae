//! Brokers that answer late or not at all.

use super::*;
use crate::collect::zookeeper::ensembles::{Ensembles, Way};
use crate::collect::zookeeper::tests::server;

#[tokio::test]
async fn while_the_broker_is_silent_a_peer_is_asked_and_then_the_broker_again() {
    let silent = Arc::new(AtomicBool::new(false));
    let partitions = [partition(0, 2, "2,3", "2"), partition(1, 3, "3,2", "3")];

    // Broker 3 answers nothing, broker 1 does: the ring goes from 2 to 3 and then to 1.
    let dead = FakeBroker::start(|_| Answer::Silence).await;
    let seen = Arc::new(OnceLock::new());
    let sees = seen.clone();
    let alive =
        FakeBroker::with_metadata(move |_| Answer::Body(Vec::clone(sees.get().unwrap()))).await;
    let body = response(&[peer_of(1, &alive), peer_of(3, &dead)], &partitions);
    seen.set(body.clone()).unwrap();
    let own = answering(body, &silent).await;

    let mut collector = collector(&own);
    let first = collect(&mut collector).await.unwrap();
    assert_eq!(
        (first.source, first.own_silence),
        (ClusterSource::Own, None)
    );
    assert_eq!(
        (first.leader, first.isr_leader_alone, first.not_in_isr),
        (1, 1, 1)
    );
    assert_eq!(
        (dead.asked().len(), alive.asked().len()),
        (0, 0),
        "no peer is known before"
    );

    silent.store(true, Ordering::SeqCst);
    let second = collect(&mut collector).await.unwrap();
    assert_eq!(second.source, ClusterSource::Peer(1));
    let silence = second.own_silence.unwrap();
    assert!(
        silence.starts_with("broker 2 (pid 77): 127.0.0.1:"),
        "{silence}"
    );
    assert!(
        silence.contains("closed the connection before it answered Metadata"),
        "{silence}"
    );
    assert_eq!(
        (second.leader, second.isr_leader_alone, second.not_in_isr),
        (1, 1, 1)
    );

    silent.store(false, Ordering::SeqCst);
    while collect(&mut collector)
        .await
        .is_ok_and(|counts| counts.source != ClusterSource::Own)
    {}
    assert_eq!(dead.asked().len(), 1, "the silent peer was asked once");
    let metadata =
        |broker: &FakeBroker| broker.asked().iter().filter(|asked| asked.api == 3).count();
    assert!(metadata(&alive) >= 1 && alive.asked().iter().all(|asked| asked.connection == 0));
}

#[tokio::test]
async fn a_broker_that_hangs_is_asked_once_however_long_it_hangs() {
    let partitions = [partition(0, 2, "2,1", "2")];
    let body = response(&peers(&[2]), &partitions);
    let peer = answering(body, &Arc::default()).await;
    let body = response(&[elsewhere(2), peer_of(1, &peer)], &partitions);
    let own = FakeBroker::with_metadata(move |asked| match asked.correlation {
        2 => Answer::Body(body.clone()),
        _ => Answer::Silence,
    })
    .await;
    let mut collector = collector(&own);
    assert_eq!(
        collect(&mut collector).await.unwrap().source,
        ClusterSource::Own
    );
    for _ in 0..20 {
        let counts = collect(&mut collector).await.unwrap();
        assert_eq!(
            (counts.source, counts.isr_leader_alone),
            (ClusterSource::Peer(1), 1)
        );
        assert!(
            counts
                .own_silence
                .unwrap()
                .contains("has not answered Metadata for")
        );
    }
    assert_eq!(
        own.asked().len(),
        4,
        "twice ApiVersions and Metadata, the last without an answer"
    );
    assert!(peer.asked().iter().all(|asked| asked.connection == 0));
}

/// What the exporter costs a broker that hangs for ten minutes, as its own broker and as the peer of another.
#[tokio::test]
async fn ten_minutes_of_silence_cost_one_request_and_one_connection_for_each_role() {
    let mute = Arc::new(AtomicBool::new(false));
    let listed = Arc::new(OnceLock::new());
    let broker_that_falls_silent = || {
        let (mute, listed) = (mute.clone(), listed.clone());
        FakeBroker::start(move |asked| match asked.api {
            _ if mute.load(Ordering::SeqCst) => Answer::Silence,
            18 => Answer::Body(offers_metadata()),
            _ => Answer::Body(Vec::clone(listed.get().unwrap())),
        })
    };
    let brokers = [
        broker_that_falls_silent().await,
        broker_that_falls_silent().await,
    ];
    listed
        .set(response(
            &[peer_of(1, &brokers[0]), peer_of(2, &brokers[1])],
            &[],
        ))
        .unwrap();
    let mut watching = [1, 2].map(|id| {
        let address = brokers[id as usize - 1].address.clone();
        ClusterClient::new(
            Arc::new(broker(Some(id), &[])),
            Some(address),
            None,
            OwnConnections::default(),
        )
    });
    for _ in 0..2 {
        for collector in &mut watching {
            assert!(collect(collector).await.is_ok());
        }
    }
    let before = brokers.each_ref().map(|broker| broker.asked().len());
    mute.store(true, Ordering::SeqCst);
    // From here on there are no answers, so none is missed while time jumps.
    tokio::time::pause();
    let silence = Instant::now();
    let mut most_open = [BTreeSet::new(), BTreeSet::new()];
    while silence.elapsed() < Duration::from_secs(660) {
        let next = Instant::now() + Duration::from_secs(5);
        for collector in &mut watching {
            let (report, counts) = collector.probe().await.unwrap();
            let error = report.api.as_ref().unwrap().error.as_ref().unwrap();
            assert_eq!(
                (error.reason, error.accepted, &report.metadata),
                (Reason::Timeout, true, &None)
            );
            let counts = collector.confirm(counts, false, &report.peers, None);
            assert!(counts.await.is_err());
        }
        for (broker, (before, connections)) in
            std::iter::zip(&brokers, std::iter::zip(before, &mut most_open))
        {
            let unanswered: Vec<usize> = broker.asked()[before..]
                .iter()
                .map(|asked| asked.connection)
                .collect();
            connections.extend(broker.asked().iter().map(|asked| asked.connection));
            let most = if silence.elapsed() < Duration::from_secs(600) {
                2
            } else {
                4
            };
            assert!(
                unanswered.len() <= most && connections.len() <= most,
                "{:?}: {unanswered:?}",
                silence.elapsed()
            );
            assert_eq!(
                unanswered.iter().collect::<BTreeSet<_>>().len(),
                unanswered.len(),
                "one for each connection"
            );
        }
        tokio::time::sleep_until(next).await;
    }
    assert_eq!(
        most_open.map(|connections| connections.len()),
        [4, 4],
        "after ten minutes each makes a new connection"
    );
}

#[tokio::test]
async fn a_broker_that_answers_late_is_slow_and_not_silent() {
    let go = Arc::new(Notify::new());
    let late = go.clone();
    let own = FakeBroker::start(move |_| Answer::Held(late.clone(), offers_metadata())).await;
    let mut collector = collector(&own);
    let error = |report: ProbeReport| report.api.unwrap().error.map(|error| error.reason).unwrap();
    assert_eq!(
        error(collector.probe().await.unwrap().0),
        Reason::Timeout,
        "no answer has come yet"
    );
    for _ in 0..2 {
        go.notify_one();
        let until = Instant::now() + Duration::from_secs(60);
        collector.rest(until, true).await;
        assert!(Instant::now() < until, "it ends with the answer");
        let (report, counts) = collector.probe().await.unwrap();
        let (took, failure) = (report.api.as_ref().unwrap().duration, counts.unwrap_err());
        assert!(
            took > FAST.deadline
                && failure
                    .message
                    .contains(&format!("took {} ms", took.as_millis()))
        );
        assert_eq!(
            (error(report), failure.reason),
            (Reason::Slow, Reason::Slow)
        );
    }
    // Now it hangs.
    assert_eq!(error(collector.probe().await.unwrap().0), Reason::Timeout);
}

/// A broker whose threads hang may answer from the state that it had before.
#[tokio::test]
async fn a_suspect_broker_is_counted_by_a_peer_as_long_as_one_answers() {
    let shrunk = [partition(0, 2, "2,1", "2")];
    let closes = Arc::new(AtomicBool::new(false));
    let body = response(&peers(&[1, 2]), &shrunk);
    let peer = answering(body, &closes).await;
    let old = [partition(0, 2, "2,1", "2,1")];
    let body = response(&[elsewhere(2), peer_of(1, &peer)], &old);
    let own = answering(body, &Arc::default()).await;
    let mut collector = collector(&own);
    // The first answer names the peer.
    collect(&mut collector).await.unwrap();
    let mut counts = async |suspect| {
        let (probes, counts) = collector.probe().await.unwrap();
        let counts = collector
            .confirm(counts, suspect, &probes.peers, None)
            .await;
        counts.unwrap()
    };
    let trusted = counts(false).await;
    let seen = |counts: &ClusterCounts| (counts.source, counts.under_replicated);
    assert_eq!(seen(&trusted), (ClusterSource::Own, 0));
    let suspect = counts(true).await;
    assert_eq!(seen(&suspect), (ClusterSource::Peer(1), 1));
    let why = "threads make no progress, so its Metadata may be old";
    assert!(suspect.own_silence.unwrap().contains(why));
    closes.store(true, Ordering::SeqCst);
    let alone = counts(true).await;
    assert_eq!(seen(&alone), (ClusterSource::Own, 0));
}

/// A leader writes a change of an ISR to ZooKeeper long before it reaches a peer.
#[tokio::test]
async fn while_a_broker_is_suspect_zookeeper_says_what_its_partitions_are() {
    let of_peer = [
        partition(0, 2, "2,1", "2,1"),
        partition(1, 1, "1,2", "1,2"),
        partition(2, 1, "1,3", "1"),
    ];
    let listed = Arc::new(Mutex::new(of_peer.to_vec()));
    let (lists, live) = (listed.clone(), Arc::new(OnceLock::new()));
    let lives: Arc<OnceLock<[Peer; 2]>> = live.clone();
    let peer = FakeBroker::with_metadata(move |_| {
        Answer::Body(response(lives.get().unwrap(), &lists.lock().unwrap()))
    })
    .await;
    live.set([peer_of(1, &peer), elsewhere(2)]).unwrap();
    let body = response(&[elsewhere(2), peer_of(1, &peer)], &of_peer);
    let own = answering(body, &Arc::default()).await;
    let state = r#"{"controller_epoch":1,"leader":2,"version":1,"leader_epoch":3,"isr":[2]}"#;
    let zookeeper = server(30_000, state).await;
    let states = |address: &str| {
        let way = Way {
            servers: vec![address.to_owned()],
            loopback: true,
            of_others: false,
        };
        Some(States {
            ensemble: Ensembles::default().of(way, 0),
            root: "/chroot".to_owned(),
        })
    };
    let mut collector = collector(&own);
    // The first answer names the peer.
    collect(&mut collector).await.unwrap();
    let mut counts = async |states| {
        let (probes, counts) = collector.probe().await.unwrap();
        let counts = collector.confirm(counts, true, &probes.peers, states).await;
        counts.unwrap()
    };
    let by_zookeeper = counts(states(&zookeeper.address)).await;
    // Leader, under-replicated, leader alone, not in ISR, offline, partitions.
    assert_eq!(figures(&by_zookeeper), [2, 2, 2, 0, 0, 3]);
    assert_eq!(by_zookeeper.source, ClusterSource::ZooKeeper);
    assert_eq!(by_zookeeper.under_replicated_partitions.len(), 2);
    // The session, and a state for each partition of which it is a replica.
    assert_eq!(zookeeper.asked().len(), 3);
    // Where they are not read, the peer counts, and the reason is said.
    let of_peer = |counts: ClusterCounts, why: &str| {
        assert_eq!(counts.source, ClusterSource::Peer(1));
        let silence = counts.own_silence.clone().unwrap();
        assert!(silence.contains(why), "{silence}");
        figures(&counts)
    };
    let dead = counts(states("127.0.0.1:1")).await;
    let why = "nothing listens on 127.0.0.1:1";
    assert_eq!(of_peer(dead, why), [1, 0, 0, 0, 0, 3]);
    let many = |isr| {
        let many = (0..2001).map(|index| partition(index, 2, "2,1", isr));
        *listed.lock().unwrap() = many.collect();
    };
    // Those that were never complete may be new to it.
    many("2,1");
    counts(None).await;
    many("2");
    let too_many = counts(states(&zookeeper.address)).await;
    let why = "more than 2000 replicas";
    let all = [2001, 2001, 2001, 0, 0, 2001];
    assert_eq!(of_peer(too_many, why), all);
    assert_eq!(zookeeper.asked().len(), 3, "no more than before");
}

#[tokio::test]
async fn a_peer_is_asked_for_its_view_now_and_then_and_while_it_differs() {
    let shrunk = [partition(0, 2, "2,1", "2")];
    let seen = Arc::new(OnceLock::new());
    let sees = seen.clone();
    let peer =
        FakeBroker::with_metadata(move |_| Answer::Body(Vec::clone(sees.get().unwrap()))).await;
    let body = response(&[elsewhere(2), peer_of(1, &peer)], &shrunk);
    seen.set(body).unwrap();
    let whole = [partition(0, 2, "2,1", "2,1")];
    let views = [&whole, &whole, &shrunk];
    let bodies = views.map(|seen| response(&[elsewhere(2), peer_of(1, &peer)], seen));
    let round = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let at = round.clone();
    let own = FakeBroker::with_metadata(move |_| {
        Answer::Body(bodies[at.load(Ordering::SeqCst).min(2)].clone())
    })
    .await;
    let mut collector = collector(&own);
    let mut checked = Vec::new();
    for number in 0..16 {
        round.store(number, Ordering::SeqCst);
        let (probes, counts) = collector.probe().await.unwrap();
        // What another collector has found makes the third round one with a check.
        let view = collector
            .check(counts.as_ref().ok(), number == 2, &probes.peers)
            .await;
        checked.extend(view.map(|_| number));
    }
    // No peer is known in the first round. From the third on, the next check is due after 12 rounds.
    assert_eq!(checked, [2, 14]);
    collector.unchecked = 0;
    round.store(1, Ordering::SeqCst);
    for asked_again in [true, true] {
        let (probes, counts) = collector.probe().await.unwrap();
        let view = collector
            .check(counts.as_ref().ok(), false, &probes.peers)
            .await;
        assert_eq!(view.is_some(), asked_again, "they differ");
    }
}
