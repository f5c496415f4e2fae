//! Which peers are asked.

use super::*;

#[tokio::test]
async fn each_peer_has_a_probe_for_connecting_and_one_for_the_answer() {
    let silent = FakeBroker::start(|_| Answer::Silence).await;
    let closing = FakeBroker::start(|_| Answer::Close).await;
    let well = FakeBroker::with_metadata(|_| Answer::Silence).await;
    let gone = peer_of(6, &FakeBroker::start(|_| Answer::Silence).await);
    let all = [
        gone,
        peer_of(5, &closing),
        peer_of(4, &silent),
        peer_of(3, &well),
        elsewhere(2),
    ];
    let listed = Arc::new(Mutex::new(response(&all, &[])));
    let listing = listed.clone();
    let own =
        FakeBroker::with_metadata(move |_| Answer::Body(listing.lock().unwrap().clone())).await;
    let mut collector = collector(&own);
    assert_eq!(collector.probe().await.unwrap().0.peers, []);
    // A broker that is not listed any more stays on the ring.
    *listed.lock().unwrap() = response(&all[1..], &[]);
    let expected = [
        (3, "", true, Some(("", false))),
        (4, "", true, Some(("timeout", true))),
        (5, "", true, Some(("closed", true))),
        (6, "refused", false, None),
    ];
    for _ in 0..3 {
        let (report, _) = collector.probe().await.unwrap();
        let seen = report.peers.iter().map(|probe| {
            let [connect, api] = [Some(&probe.connect), probe.api.as_ref()].map(|probe| {
                probe.map(|probe| {
                    probe
                        .error
                        .as_ref()
                        .map_or(("", false), |e| (e.reason.name(), e.accepted))
                })
            });
            let (reason, _) = connect.unwrap();
            (probe.peer.id, reason, probe.connect.success(), api)
        });
        assert_eq!(seen.collect::<Vec<_>>(), expected);
        assert!(report.api.unwrap().success() && report.metadata.unwrap().success());
    }
    assert_eq!(silent.asked().len(), 1);
}

#[tokio::test]
async fn peers_on_the_loopback_of_another_network_are_not_asked() {
    let partitions = [partition(0, 2, "2,1", "2")];
    let other = FakeBroker::start(|_| Answer::Silence).await;
    let body = response(&[elsewhere(2), peer_of(1, &other)], &partitions);
    let silent = Arc::new(AtomicBool::new(false));
    let own = answering(body, &silent).await;
    let mut collector = collector(&own);
    collector.set_network(Ok(false));
    assert_eq!(
        collect(&mut collector).await.unwrap().source,
        ClusterSource::Own
    );
    silent.store(true, Ordering::SeqCst);
    assert_eq!(
        collect(&mut collector).await.unwrap_err().reason,
        Reason::Closed
    );
    assert_eq!(other.asked().len(), 0);
}

/// As a hostile container names them: in forms that only the resolver understands, and at ports of other services.
#[tokio::test]
async fn a_container_leads_to_no_service_of_the_host() {
    let service = FakeBroker::start(|_| Answer::Silence).await;
    let port = service.address.rsplit_once(':').unwrap().1;
    let named = |host: &str| Listener {
        name: "PLAINTEXT".into(),
        protocol: Some(SecurityProtocol::Plaintext),
        host: Some(host.into()),
        port: port.parse().unwrap(),
        controller: false,
        advertised: None,
    };
    for host in ["127.1", "2130706433", "localhost"] {
        let broker = Broker {
            id: Some(1),
            listeners: vec![named(host)],
            ..Broker::unknown(ProcessKey::default())
        };
        let mut client =
            ClusterClient::new(Arc::new(broker), None, None, OwnConnections::default());
        client.set_network(Ok(false));
        let reason = match client.probe().await {
            Ok((probes, _)) => probes.api.unwrap().error.unwrap().reason,
            Err(failure) => failure.reason,
        };
        assert_eq!(reason, Reason::OtherNetwork, "{host}");
    }
    let peer = |id, host: &str, port| Peer {
        id,
        host: host.into(),
        port,
    };
    let mut peers = Peers {
        elsewhere: true,
        ..Peers::default()
    };
    let port = port.parse().unwrap();
    let listed = [
        peer(2, "127.1", port),
        peer(3, "192.0.2.1", 22),
        peer(4, "192.0.2.1", 1023),
    ];
    peers.remember(1, "", &listed);
    let own: Dialer = OwnConnections::default().into();
    let new = |address| Client::new(address, own.clone(), Timing::default());
    let probes = peers.probe(new).await;
    let asked: Vec<_> = probes
        .iter()
        .map(|probe| (probe.peer.id, probe.connect.error.as_ref().unwrap().reason))
        .collect();
    assert_eq!(asked, [(2, Reason::OtherNetwork)]);
    assert_eq!(service.asked().len(), 0);
}

#[tokio::test]
async fn a_broker_at_the_own_address_is_no_peer() {
    let listed = Arc::new(Mutex::new(Vec::new()));
    let listing = listed.clone();
    let own =
        FakeBroker::with_metadata(move |_| Answer::Body(Vec::clone(&listing.lock().unwrap())))
            .await;
    let mut collector = collector(&own);
    // Brokers that all advertise the same listener; then a list without the own broker; then a list with the own broker
    // at another name of its address.
    let named = |id| Peer {
        host: "LocalHost".into(),
        ..peer_of(id, &own)
    };
    let lists = [
        vec![peer_of(1, &own), peer_of(2, &own)],
        vec![peer_of(1, &own)],
        vec![named(1), named(2)],
    ];
    for list in lists {
        *listed.lock().unwrap() = response(&list, &[partition(0, 2, "2,1", "2,1")]);
        assert_eq!(*collect(&mut collector).await.unwrap().live_brokers, *list);
        assert_eq!(collector.probe().await.unwrap().0.peers, []);
    }
    assert!(own.asked().iter().all(|asked| asked.connection == 0));
}

#[tokio::test]
async fn without_a_visible_topic_the_peers_are_still_known() {
    let peer = FakeBroker::with_metadata(|_| Answer::Silence).await;
    let body = response(&[elsewhere(2), peer_of(1, &peer)], &[]);
    let own = answering(body, &Arc::default()).await;
    let mut collector = collector(&own);
    let counts = collect(&mut collector).await.unwrap();
    assert_eq!(
        collector.probe().await.unwrap().0.peers.len(),
        1,
        "the ring has it"
    );
    let failure = no_topic(&collector.broker, &counts).unwrap();
    let expected = "broker 2 (pid 77): no topic is visible to the exporter: none exists, or the user of its login (ANONYMOUS without one) lacks Describe on topics, which the ACLs should allow";
    assert_eq!(
        (failure.reason, failure.message.as_str()),
        (Reason::NoTopic, expected)
    );
}

#[tokio::test(start_paused = true)]
async fn the_ring_starts_above_the_own_id_and_keeps_brokers_that_were_listed_recently() {
    let mut ring = Peers::default();
    let ids = |ring: &Peers| {
        ring.ring
            .iter()
            .map(|(peer, _)| peer.id)
            .collect::<Vec<_>>()
    };
    ring.remember(
        5,
        "127.0.0.1:9092",
        &peers(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
    );
    assert_eq!(ids(&ring), [6, 7, 8, 9, 10, 11, 1, 2]);
    tokio::time::advance(UNLISTED / 2).await;
    ring.remember(5, "127.0.0.1:9092", &peers(&[4, 9, 7, 5]));
    assert_eq!(
        ids(&ring),
        [6, 7, 8, 9, 10, 11, 1, 2],
        "brokers that are not listed any more may come back"
    );
    tokio::time::advance(UNLISTED / 2).await;
    ring.remember(5, "127.0.0.1:9092", &peers(&[5]));
    assert_eq!(
        ids(&ring),
        [6, 7, 8, 9, 10, 11, 1, 2],
        "a list with only the own broker does not empty the ring"
    );
    ring.remember(5, "127.0.0.1:9092", &peers(&[4, 9, 7, 5]));
    assert_eq!(ids(&ring), [7, 9, 4]);
}
