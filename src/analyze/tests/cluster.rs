//! What ZooKeeper, `kafka-topics` and the metadata quorum say of the brokers.

use super::{against, explained, figures, has, lsof, one, verdict};
use crate::analyze::{FactKind, Source, Verdict};

#[test]
fn a_broker_with_replicas_that_is_not_registered() {
    let topics = "\tTopic: t\tPartition: 0\tLeader: 1\tReplicas: 3,1\tIsr: 3,1\n";
    let shell = "[zk: h:2181(CONNECTED) 0] ls /brokers/ids\n[1, 2]\n[zk: h:2181(CONNECTED) 1] get /controller\n{\"version\":1,\"brokerid\":2}\n";
    let found = explained(&[("topics.txt", topics), ("zk.txt", shell)]);
    let missing = one(&found, FactKind::NotRegistered);
    assert_eq!(missing.against, Some(Source::Registration));
    assert!(
        missing
            .text
            .starts_with("has replicas and is not registered in ZooKeeper, where 1, 2 are"),
        "{}",
        missing.text
    );
    assert_eq!(against(&found, "3"), [FactKind::NotRegistered]);
    assert_eq!(verdict(&found, "2"), Some(Verdict::NoFinding));
    assert!(has(&found, FactKind::Controller));
    // It is once in what several of its listings say.
    let again = format!("[zk: h(CONNECTED) 0] ls /brokers/ids\n[1, 2, 3]\n{shell}");
    let found = explained(&[("topics.txt", topics), ("zk.txt", &again)]);
    assert!(
        one(&found, FactKind::NotRegistered)
            .text
            .starts_with("no longer registered")
    );
    // Own sockets and ZooKeeper agree: alive and not working.
    let sockets = lsof("10.0.0.3:9092", 20_000..20_030);
    let node = "get /brokers/ids/3\nNode does not exist: /brokers/ids/3\n";
    let settings = "broker.id=3\nlisteners=PLAINTEXT://10.0.0.3:9092\n";
    let found = explained(&[("a", &sockets), ("b", node), ("c", settings)]);
    assert_eq!(verdict(&found, "3"), Some(Verdict::Gray));
}

/// It was stopped between the two listings.
#[test]
fn an_old_listing_does_not_show_that_a_broker_is_alive() {
    let topics = "\tTopic: t\tPartition: 0\tLeader: 1\tReplicas: 3,1\tIsr: 1\n\tTopic: t\tPartition: 1\tLeader: 2\tReplicas: 2,3\tIsr: 2\n";
    let (before, after) = ("ls /brokers/ids\n[1, 2, 3]\n", "ls /brokers/ids\n[1, 2]\n");
    for second in [
        &[("zk-1.txt", before), ("zk-2.txt", after)][..],
        &[("zk-2.txt", after)],
    ] {
        let found = explained(&[&[("topics.txt", topics)], second].concat());
        assert_eq!(verdict(&found, "3"), Some(Verdict::Suspect));
    }
}

#[test]
fn nodes_of_brokers_give_their_addresses() {
    let node = "get /brokers/ids/4\n{\"endpoints\":[\"INTERNAL://10.0.0.4:19092\",\"EXTERNAL://k.example:9092\"],\"host\":null,\"port\":-1,\"version\":4}\n";
    let found = explained(&[
        ("zk.txt", node),
        ("lsof.txt", &lsof("10.0.0.4:19092", 20_000..20_030)),
    ]);
    assert_eq!(against(&found, "4"), [FactKind::CloseWait]);
    assert_eq!(found.files[1].broker.as_deref(), Some("4"));
}

#[test]
fn offline_partitions_name_who_has_to_come_back() {
    let topics = "\tTopic: t\tPartition: 0\tLeader: none\tReplicas: 2,3\tIsr: 3\n\
                  \tTopic: t\tPartition: 1\tLeader: none\tReplicas: 2,3\tIsr: \tElr: 3\tLastKnownElr: \n\
                  \tTopic: t\tPartition: 2\tLeader: 1\tReplicas: 1,2\tIsr: 1,2\tOffline: \n\
                  \tTopic: t\tPartition: 3\tLeader: 1\tReplicas: 1,2\tIsr: 1\tOffline: 2\tLiveObservers: \n";
    let found = explained(&[("topics.txt", topics)]);
    let last = one(&found, FactKind::LastInIsr);
    assert_eq!(
        last.text,
        "last in the ISR of 2 offline partitions: t 0, 1; bring it back: any other replica lacks data"
    );
    assert_eq!(against(&found, "3"), [FactKind::LastInIsr]);
    assert_eq!(
        figures(one(&found, FactKind::OfflineReplicas)),
        [("partitions", 1)]
    );
    assert!(against(&found, "2").contains(&FactKind::OfflineReplicas));
}

#[test]
fn the_metadata_quorum() {
    let status = "LeaderId:               3002\nMaxFollowerLag:         7\nCurrentVoters:          [3000,3001,3002]\nCurrentObservers:       [1,2]\n";
    let topics = "\tTopic: t\tPartition: 0\tLeader: 1\tReplicas: 1,4\tIsr: 1,4\n";
    let found = explained(&[("status.txt", status), ("topics.txt", topics)]);
    let quorum = one(&found, FactKind::Quorum);
    assert_eq!(
        quorum.text,
        "the metadata quorum: 3 voters, 2 observers, led by node 3002"
    );
    assert_eq!(
        figures(quorum),
        [("lag", 7), ("observers", 2), ("voters", 3)]
    );
    assert_eq!(against(&found, "4"), [FactKind::NotRegistered]);
    let replication = "NodeId\tLogEndOffset\tLag\tLastFetchTimestamp\tLastCaughtUpTimestamp\tStatus\n\
                       1\t100\t0\t1700000060000\t1700000060000\tLeader\n\
                       2\t40\t60\t1700000059999\t1700000000000\tObserver\n\
                       3\t99\t1\t1700000059999\t1700000059500\tFollower\n";
    let found = explained(&[("replication.txt", replication)]);
    let lag = one(&found, FactKind::MetadataLag);
    assert_eq!(
        lag.text,
        "lacks 60 records of the metadata and had all of it 60 s ago"
    );
    assert_eq!(against(&found, "2"), [FactKind::MetadataLag]);
    let none = explained(&[("status.txt", &status.replace("3002\n", "-1\n"))]);
    assert!(
        one(&none, FactKind::Quorum)
            .text
            .contains("without a leader")
    );
}
