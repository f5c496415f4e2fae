//! Logs of several containers, and what is said where nothing is found.

use super::{LOST, STARTED, against, explained, has, one};
use crate::analyze::{By, FactKind, explain, report};

fn wrapped(text: &str, id: &str, before: &str) -> String {
    let text = text.replace("ID", id);
    text.lines()
        .map(|line| format!("{before}{line}\n"))
        .collect()
}

#[test]
fn a_log_of_several_containers_is_that_of_several_brokers() {
    let text = [
        wrapped(STARTED, "1", "kafka1     | "),
        wrapped(STARTED, "2", "kafka2     | "),
        wrapped(
            "[2024-01-02 03:04:05,678] INFO x (org.apache.zookeeper.server.ZooKeeperServer)\n",
            "",
            "zookeeper  | ",
        ),
        wrapped(LOST, "1", "kafka1     | "),
    ];
    let found = explained(&[("all.log", &text.concat())]);
    let files: Vec<_> = found
        .files
        .iter()
        .map(|file| (&*file.source, file.broker.as_deref(), file.by))
        .collect();
    assert_eq!(
        files,
        [
            ("all.log (kafka1)", Some("1"), Some(By::Content)),
            ("all.log (kafka2)", Some("2"), Some(By::Content)),
        ]
    );
    assert_eq!(found.not_recognised[0].source, "all.log (zookeeper)");
    let lost = one(&found, FactKind::Disconnects);
    assert_eq!(
        (&*lost.text, &*lost.source),
        (
            "broker 1 lost its connection to it at 2024-01-02 03:04:06",
            "all.log (kafka1)"
        )
    );
    assert_eq!(against(&found, "2"), [FactKind::Disconnects]);
}

/// PowerShell's `>` writes it, with the mark; what is copied out of such a file has none.
#[test]
fn a_log_in_utf_16_is_that_of_its_containers() {
    let text = wrapped(STARTED, "1", "kafka1     | ") + &wrapped(STARTED, "2", "kafka2     | ");
    let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for mark in [&[][..], &[0xff, 0xfe]] {
        let found = explain(&[("all.log".to_owned(), [mark, &units].concat())]);
        let files = found.files.iter();
        let files: Vec<_> = files
            .map(|file| (&*file.source, file.broker.as_deref()))
            .collect();
        assert_eq!(
            files,
            [
                ("all.log (kafka1)", Some("1")),
                ("all.log (kafka2)", Some("2"))
            ]
        );
    }
}

/// Neither a line nor the file's name shows whose log it is.
#[test]
fn the_name_of_a_pod_identifies_its_broker() {
    let line = "[2024-01-02 03:04:05,678] INFO x (kafka.server.KafkaServer)\n";
    let text = wrapped(line, "", "[pod/kafka-2/kafka] ");
    let topics = "Topic: t\tPartition: 0\tLeader: 2\tReplicas: 2,1\tIsr: 2,1\n";
    let found = explained(&[("x.log", &text), ("topics.txt", topics)]);
    assert_eq!(
        (found.files[0].broker.as_deref(), found.files[0].by),
        (Some("2"), Some(By::Container))
    );
}

#[test]
fn what_is_not_found_is_said() {
    let log = STARTED.replace("ID", "1");
    let client = "03:04:05.678 [main] WARN org.apache.kafka.clients.NetworkClient - [Producer clientId=p] x\n";
    let table = [
        (
            &*log,
            "a log from 2024-01-02 03:04:05 to 2024-01-02 03:04:05 without a line that is known to mean trouble, without a connection lost",
        ),
        (
            client,
            "a client's log from 03:04:05 to 03:04:05 without a failed produce request",
        ),
        (
            "tcp 0 0 10.0.0.1:9092 10.0.0.7:5 ESTABLISHED -\n",
            "no connection in CLOSE_WAIT",
        ),
        (
            "tcp 0 0 10.0.0.1:9092 10.0.0.7:5 ESTABLISHED -\ntcp 1 0 10.0.0.1:8080 10.0.0.7:6 CLOSE_WAIT -\n",
            "1 connection in CLOSE_WAIT, none of them at a broker's port",
        ),
        (
            "\tTopic: t\tPartition: 0\tLeader: 1\tReplicas: 1,2,3\tIsr: 1,2\n\tTopic: t\tPartition: 1\tLeader: 3\tReplicas: 3,1\tIsr: 3,1\n",
            "2 partitions, none offline and no leader alone in its ISR; 1 under-replicated",
        ),
        (
            "ls /brokers/ids\n[]\n",
            "no broker is registered in ZooKeeper",
        ),
        ("broker.id=1\n", "settings, which say"),
    ];
    for (text, expected) in table {
        let found = explained(&[("x", text)]);
        let fact = one(&found, FactKind::NothingFound);
        assert!(fact.text.starts_with(expected), "{}", fact.text);
        assert!(report::explained(&found).contains(expected));
    }
    // Something speaks against a broker: that is the answer.
    let found = explained(&[("a", &log), ("b", &LOST.replace("ID", "1"))]);
    assert!(!has(&found, FactKind::NothingFound));
}

/// A warning is named, and accuses no broker.
#[test]
fn warnings_of_a_broker_s_log() {
    let expired = "[2024-01-02 03:04:06,678] INFO zookeeper state changed (Expired) (org.I0Itec.zkclient.ZkClient)\n";
    let text = format!("{}{}", STARTED.replace("ID", "1"), expired.repeat(2));
    let found = explained(&[("x", &text)]);
    let fact = one(&found, FactKind::Logged);
    let start = "its log has zookeeper_session_expired 2 times, 2024-01-02 03:04:06 to 2024-01-02 03:04:06. ";
    assert!(fact.text.starts_with(start), "{}", fact.text);
    assert_eq!((fact.against, fact.figures["times"]), (None, 2));
    let fenced = "[2024-01-02 03:04:07,000] INFO [QuorumController id=1] Fencing broker 3 because its session has timed out. (org.apache.kafka.controller.ReplicationControlManager)\n";
    let found = explained(&[("x", fenced)]);
    let text = &one(&found, FactKind::Logged).text;
    let start = "its log has broker_fenced 1 time at 2024-01-02 03:04:07: broker 3. ";
    assert!(text.starts_with(start), "{text}");
    // The connection that is lost is a fact of its own.
    let found = explained(&[("b", &LOST.replace("ID", "1"))]);
    assert!(!has(&found, FactKind::Logged));
}
