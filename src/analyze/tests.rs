//! Small made-up files of every kind, with what they show.
#![allow(clippy::unwrap_used)]

use super::{By, Explanation, Fact, FactKind, Form, Source, Verdict, explain};
use crate::analyze::report;

fn explained(files: &[(&str, &str)]) -> Explanation {
    let files: Vec<_> = files
        .iter()
        .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
        .collect();
    explain(&files)
}

fn all(found: &Explanation) -> impl Iterator<Item = &Fact> {
    let of_brokers = found.brokers.iter().flat_map(|broker| &broker.facts);
    of_brokers.chain(&found.elsewhere)
}

/// The only fact of a kind.
fn one(found: &Explanation, kind: FactKind) -> &Fact {
    let facts: Vec<&Fact> = all(found).filter(|fact| fact.kind == kind).collect();
    let [fact] = facts.as_slice() else {
        panic!("{kind:?}: {}", report::explained(found))
    };
    fact
}

fn has(found: &Explanation, kind: FactKind) -> bool {
    all(found).any(|fact| fact.kind == kind)
}

fn figures(fact: &Fact) -> Vec<(&str, u64)> {
    fact.figures
        .iter()
        .map(|(name, figure)| (*name, *figure))
        .collect()
}

fn verdict(found: &Explanation, broker: &str) -> Option<Verdict> {
    let found = found.brokers.iter().find(|known| known.broker == broker);
    Some(found?.verdict)
}

/// Of a broker's facts those that speak against it.
fn against(found: &Explanation, broker: &str) -> Vec<FactKind> {
    let broker = found.brokers.iter().find(|known| known.broker == broker);
    let facts = broker.into_iter().flat_map(|broker| &broker.facts);
    facts
        .filter(|fact| fact.against.is_some())
        .map(|fact| fact.kind)
        .collect()
}

fn only_forms(found: &Explanation) -> &[Form] {
    let [file] = found.files.as_slice() else {
        panic!("{}", report::explained(found))
    };
    &file.forms
}

const STARTED: &str =
    "[2024-01-02 03:04:05,678] INFO [KafkaServer id=ID] started (kafka.server.KafkaServer)\n";
const LOST: &str = "[2024-01-02 03:04:06,678] WARN [ReplicaFetcher replicaId=ID, leaderId=2, fetcherId=0] Error in fetch (kafka.server.ReplicaFetcherThread)\n\
                    java.io.IOException: Connection to 2 was disconnected before the response was read\n";

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

fn lsof(own: &str, others: impl Iterator<Item = u32>) -> String {
    let line =
        |n| format!("java 81068 kafka {n}u IPv6 4711 0t0 TCP {own}->10.0.0.7:{n} (CLOSE_WAIT)\n");
    others.map(line).collect()
}

#[test]
fn lsof_shows_what_a_broker_does_not_close() {
    let found = explained(&[("lsof.txt", &lsof("10.0.0.1:9092", 20_000..20_030))]);
    assert_eq!(only_forms(&found), [Form::Sockets, Form::Fds]);
    let closing = one(&found, FactKind::CloseWait);
    assert_eq!(
        (closing.against, figures(closing)),
        (
            Some(Source::Own),
            vec![("bytes", 0), ("connections", 30), ("with_bytes", 0)]
        )
    );
    assert_eq!(verdict(&found, "10.0.0.1:9092"), Some(Verdict::Suspect));
}

/// Without `-p`, `lsof` of older versions prints everything again for each thread.
#[test]
fn what_lsof_prints_for_each_thread_counts_once() {
    let line = |thread: &str, n: u32| {
        format!(
            "java 81068 {thread}kafka {n}u IPv6 4711 0t0 TCP 10.0.0.1:9092->10.0.0.7:{n} (CLOSE_WAIT)\n"
        )
    };
    let threads = (81_070..81_090).map(|tid| format!("{tid} executor "));
    let threads: String = threads.map(|thread| line(&thread, 20_000)).collect();
    let settings = "broker.id=1\nlisteners=PLAINTEXT://10.0.0.1:9092\n";
    let limits = "Max open files            20                   4096                 files\n";
    let both = line("", 20_000) + &threads;
    let found = explained(&[("1-lsof", &both), ("1-limits", limits), ("s", settings)]);
    let closing = one(&found, FactKind::CloseWait);
    assert_eq!(
        (closing.against, figures(closing)[1]),
        (None, ("connections", 1))
    );
    let handles = one(&found, FactKind::Handles);
    assert_eq!(
        (handles.against, figures(handles)[0]),
        (None, ("handles", 1))
    );
    // Where only the threads are there, they count.
    let found = explained(&[("1-lsof", &threads), ("s", settings)]);
    assert_eq!(
        figures(one(&found, FactKind::CloseWait))[1],
        ("connections", 20)
    );
}

/// Kafka Connect on the host of a broker that is well.
#[test]
fn a_pile_of_another_process_is_not_the_brokers() {
    let own = "tcp 0 0 10.0.0.1:9092 10.0.0.7:5 ESTABLISHED 81068/java\n";
    let other = |n| format!("tcp 55 0 10.0.0.1:8083 10.0.0.7:{n} CLOSE_WAIT 900/java\n");
    let text: String = [own.to_owned()]
        .into_iter()
        .chain((20_000..20_012).map(other))
        .collect();
    let settings = "broker.id=1\nlisteners=PLAINTEXT://10.0.0.1:9092\n";
    let found = explained(&[("netstat", &text), ("s", settings)]);
    assert_eq!(one(&found, FactKind::CloseWaitAtPort).against, None);
    assert_eq!(verdict(&found, "1"), Some(Verdict::NoFinding));
    let same = text.replace("900/java", "81068/java");
    let found = explained(&[("netstat", &same), ("s", settings)]);
    assert_eq!(against(&found, "1"), [FactKind::CloseWaitAtPort]);
}

#[test]
fn any_numbers_are_summed() {
    let most = u64::MAX;
    for text in [
        format!("{most} CLOSE_WAIT\n{most} 10.0.0.1:9092 CLOSE_WAIT\n{most} CLOSE_WAIT\n"),
        format!("{most} tcp 9 0 a:9092 b:1 CLOSE_WAIT\n").repeat(3),
        format!("{most} tcp 9 0 10.0.0.1:9092 10.0.0.7:1 CLOSE_WAIT\n").repeat(3),
        format!("Recv-Q Send-Q\n{most} 0 10.0.0.1:9092 10.0.0.7:1\n").repeat(3),
    ] {
        assert!(!explained(&[("a", &text)]).files.is_empty(), "{text}");
    }
}

#[test]
fn a_pile_at_any_port_is_reported() {
    let netstat = |own: &str, process: &str| -> String {
        let line = |n| format!("tcp 55 0 {own} 10.0.0.7:{n} CLOSE_WAIT {process}\n");
        (20_000..20_012).map(line).collect()
    };
    let expected = [
        ("bytes", 648),
        ("connections", 12),
        ("port", 19092),
        ("with_bytes", 12),
    ];
    for own in ["10.0.0.1:19092", "broker-1:19092", "x.x.x.x:19092"] {
        let found = explained(&[("a.txt", &netstat(own, "81068/java"))]);
        let pile = one(&found, FactKind::CloseWaitAtPort);
        assert_eq!(
            (pile.against, figures(pile)),
            (None, expected.to_vec()),
            "{own}"
        );
        assert!(pile.text.starts_with(
            "12 connections in CLOSE_WAIT at port 19092 of java (process 81068), closed by the other side but not by this process; 12 with 648 unread bytes; a broker"
        ), "{}", pile.text);
        assert!(!has(&found, FactKind::ClientLeak) && !has(&found, FactKind::SocketsOfNoBroker));
    }
    // Of a broker that the file's name shows.
    let topics = "Topic: t\tPartition: 0\tLeader: 7\tReplicas: 7\tIsr: 7\n";
    let own = netstat("10.0.0.1:19092", "81068/java");
    let found = explained(&[("broker-7.txt", &own), ("topics.txt", topics)]);
    assert_eq!(against(&found, "7"), [FactKind::CloseWaitAtPort]);
    let found = explained(&[
        ("broker-7.txt", &netstat("10.0.0.1:19092", "900/nginx")),
        ("topics.txt", topics),
    ]);
    assert_eq!(against(&found, "7"), []);
}

/// Each connection has its own port, and the port of the other side is one.
#[test]
fn a_leak_of_a_client_is_its_own() {
    for peer in ["10.0.0.1:9092", "10.0.0.1:19092", "broker-1:XmlIpcRegSvc"] {
        let line = |n| format!("tcp6 1 0 10.0.0.7:{n} {peer} CLOSE_WAIT 333/java\n");
        let text: String = (20_000..20_013).map(line).collect();
        let found = explained(&[("a.txt", &text)]);
        let leak = one(&found, FactKind::ClientLeak);
        assert_eq!(
            figures(leak),
            [("bytes", 0), ("connections", 13), ("with_bytes", 0)]
        );
        assert!(
            leak.text.contains("whose own leak that is"),
            "{}",
            leak.text
        );
        assert!(all(&found).all(|fact| fact.against.is_none()), "{peer}");
    }
}

#[test]
fn what_is_printed_in_part_is_said() {
    let named = "tcp 0 0 broker-1:XmlIpcRegSvc app:58837 ESTABLISHED 81068/java\n\
                 tcp 1 0 broker-1:XmlIpcRegSvc app:58838 CLOSE_WAIT 81068/java\n";
    let found = explained(&[("a.txt", named)]);
    let fact = one(&found, FactKind::SocketsWithoutAddress);
    assert_eq!(figures(fact), [("close_wait", 1), ("sockets", 2)]);
    assert!(
        fact.text
            .starts_with("2 sockets without numeric addresses (1 ESTABLISHED, 1 CLOSE_WAIT)"),
        "{}",
        fact.text
    );

    let counted = "    312 CLOSE_WAIT\n     17 ESTABLISHED\n";
    let found = explained(&[("a.txt", counted)]);
    let fact = one(&found, FactKind::SocketCounts);
    assert_eq!(figures(fact), [("close_wait", 312), ("sockets", 329)]);

    let by_port = "     14 10.0.0.1:9092 CLOSE_WAIT\n      1 10.0.0.1:40000 FIN_WAIT2\n      1 10.0.0.1:40001 FIN_WAIT2\n";
    let found = explained(&[("a.txt", by_port)]);
    let text = &one(&found, FactKind::SocketCounts).text;
    assert!(
        text.starts_with(
            "only counts of sockets: 2 FIN_WAIT2, 14 CLOSE_WAIT; 14 CLOSE_WAIT at port 9092; "
        ),
        "{text}"
    );

    let summary = "Total: 215\nTCP:   4567 (estab 112, closed 4000, orphaned 0, timewait 53)\n";
    let found = explained(&[("a.txt", summary)]);
    let fact = one(&found, FactKind::SocketCounts);
    assert_eq!(figures(fact), [("established", 112), ("sockets", 4567)]);

    let table =
        "Recv-Q Send-Q Local Address:Port Peer Address:Port\n5 0 10.0.0.1:9092 10.0.0.7:5\n";
    let found = explained(&[("a.txt", table)]);
    assert_eq!(
        figures(one(&found, FactKind::SocketsWithoutState)),
        [("sockets", 1)]
    );
    let found = explained(&[("close-wait.txt", table)]);
    assert_eq!(
        figures(one(&found, FactKind::CloseWait)),
        [("bytes", 4), ("connections", 1), ("with_bytes", 1)]
    );
}

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

#[test]
fn directories_of_brokers() {
    let json = "{\"version\":1,\"brokers\":[{\"broker\":1,\"logDirs\":[{\"logDir\":\"/a\",\"error\":null,\"partitions\":[{\"partition\":\"t-0\",\"size\":7,\"offsetLag\":3,\"isFuture\":false},{\"partition\":\"t-1\",\"size\":5,\"offsetLag\":0,\"isFuture\":true}]}]},{\"broker\":2,\"logDirs\":[{\"logDir\":\"/b\",\"error\":\"KAFKA_STORAGE_ERROR\",\"partitions\":[]}]}]}";
    let found = explained(&[(
        "dirs.txt",
        &format!("Querying brokers for log directories information\n{json}\n"),
    )]);
    assert_eq!(only_forms(&found), [Form::LogDirs]);
    let texts: Vec<&str> = all(&found).map(|fact| &*fact.text).collect();
    assert_eq!(
        texts,
        [
            "its log directory /b is offline: KAFKA_STORAGE_ERROR",
            "1 log directory with 0 replicas, 0 bytes",
            "1 log directory with 2 replicas, 12 bytes; 1 behind (t-0 by 3 records); 1 moving to another directory",
        ]
    );
    assert_eq!(against(&found, "2"), [FactKind::LogDirOffline]);
}

#[test]
fn the_limit_of_file_handles_and_busy_threads() {
    let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                  Max open files            32                   4096                 files\n";
    let found = explained(&[
        ("limits", limits),
        ("lsof", &lsof("10.0.0.1:9092", 20_000..20_030)),
    ]);
    assert_eq!(figures(one(&found, FactKind::HandleLimit)), [("limit", 32)]);
    // The handles belong to the broker at that address, the limit to nobody.
    assert_eq!(one(&found, FactKind::Handles).against, None);
    let topics = "\tTopic: t\tPartition: 0\tLeader: 1\tReplicas: 1\tIsr: 1\n";
    let handles: String = (0..30)
        .map(|n| format!("lrwx------ 1 root root 64 Nov 22 14:33 {n} -> socket:[{n}]\n"))
        .collect();
    let found = explained(&[("1-limits", limits), ("1-fd", &handles), ("t", topics)]);
    assert_eq!(one(&found, FactKind::Handles).against, Some(Source::Own));

    let top = "Threads: 2 total\n  PID USER %CPU COMMAND\n 12345 kafka 99.9 kafka-request-h\n 12346 kafka 0.3 GC Thread#0\n";
    let dump = "\"kafka-request-handler-3\" #9 prio=5 os_prio=0 tid=0x1 nid=0x3039 runnable\n   java.lang.Thread.State: RUNNABLE\n\tat a.B.c(D.java:7)\n";
    let found = explained(&[("top", top), ("dump", dump)]);
    assert_eq!(
        one(&found, FactKind::BusyThreads).text,
        "at least half of a core is used by 1 of 2 threads: kafka-request-h (nid 0x3039, in a dump kafka-request-handler-3 at a.B.c(D.java:7)) 99.9 %"
    );
    let idle = explained(&[("top", &top.replace("99.9", "1.0"))]);
    assert!(
        one(&idle, FactKind::BusyThreads)
            .text
            .starts_with("none of 2 threads uses half of a core")
    );
}

/// It works with its other disk.
#[test]
fn a_disk_that_failed_does_not_make_a_broker_gray() {
    let dirs = "{\"brokers\":[{\"broker\":2,\"logDirs\":[{\"logDir\":\"/a\\nBroker 1: suspect\",\"error\":\"KAFKA_STORAGE_ERROR\",\"partitions\":[]},{\"logDir\":\"/b\",\"error\":null,\"partitions\":[]}]}]}";
    let topics = "\tTopic: t\tPartition: 0\tLeader: 1\tReplicas: 1,2\tIsr: 1\tOffline: 2\n\tTopic: t\tPartition: 1\tLeader: 3\tReplicas: 3,2\tIsr: 3\tOffline: 2\n";
    let found = explained(&[("dirs", dirs), ("topics", topics)]);
    assert_eq!(verdict(&found, "2"), Some(Verdict::Suspect));
    // What is in a file forges no line of the answer.
    assert!(!report::explained(&found).contains("\nBroker 1: suspect"));
}

/// Ids of threads are those of one host.
#[test]
fn a_busy_thread_is_found_in_a_dump_of_its_broker() {
    let top = "Threads: 1 total\n  PID USER %CPU COMMAND\n 12345 kafka 99.9 kafka-request-h\n";
    let dump = |id| {
        format!(
            "\"kafka-network-thread-{id}-PLAINTEXT-0\" #9 prio=5 os_prio=0 tid=0x1 nid=0x3039 runnable\n   java.lang.Thread.State: RUNNABLE\n\tat a.B.c(D.java:7)\n"
        )
    };
    let (one_dump, other_dump) = (dump(1), dump(2));
    let text = |files: &[(&str, &str)]| one(&explained(files), FactKind::BusyThreads).text.clone();
    let found = text(&[("1-top", top), ("a", &one_dump), ("b", &other_dump)]);
    assert!(
        found.contains("in a dump kafka-network-thread-1-"),
        "{found}"
    );
    let found = text(&[("top", top), ("a", &one_dump), ("b", &other_dump)]);
    assert!(!found.contains("in a dump"), "{found}");
}

/// Of two processes nothing shows which one has the handles.
#[test]
fn a_limit_of_nobody_is_the_only_one() {
    let limits = "Max open files            32                   4096                 files\n";
    let handles: String = (0..30)
        .map(|n| format!("lrwx------ 1 root root 64 Nov 22 14:33 {n} -> socket:[{n}]\n"))
        .collect();
    let found = explained(&[("limits", limits), ("fd", &handles)]);
    assert_eq!(one(&found, FactKind::Handles).against, Some(Source::Own));
    let found = explained(&[("x", limits), ("y", limits), ("fd", &handles)]);
    assert_eq!(one(&found, FactKind::Handles).against, None);
}

/// What lies between the two files may register more brokers.
#[test]
fn a_metadata_log_with_a_gap_denies_no_broker() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/metadata_log/3.9.1/__cluster_metadata-0"
    );
    let topics = "\tTopic: t\tPartition: 0\tLeader: 1\tReplicas: 1,77\tIsr: 1,77\n";
    let mut files = vec![("topics".to_owned(), topics.as_bytes().to_vec())];
    for name in [
        "00000000000000000154-0000000002.checkpoint",
        "00000000000000000169.log",
    ] {
        let bytes = std::fs::read(format!("{folder}/{name}")).unwrap();
        files.push((name.to_owned(), bytes));
    }
    let found = explain(&files);
    assert!(
        one(&found, FactKind::MetadataLog)
            .text
            .contains("what follows is not read")
    );
    assert_eq!(against(&found, "77"), []);
}

/// `tests/fixtures/metadata_log/README.md`: broker 3 was killed.
#[test]
fn a_metadata_log() {
    // From 4.1 on the ISR of an offline partition is empty, and who was last in it is in the ELR, which is not read.
    a_metadata_log_of("3.9.1", &[FactKind::Fenced, FactKind::LastInIsr]);
    a_metadata_log_of("4.3.0", &[FactKind::Fenced]);
}

fn a_metadata_log_of(version: &str, expected: &[FactKind]) {
    let folder = format!(
        "{}/tests/fixtures/metadata_log/{version}/__cluster_metadata-0",
        env!("CARGO_MANIFEST_DIR")
    );
    let files: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.display().to_string(), std::fs::read(&path).unwrap())
        })
        .collect();
    let found = explain(&files);
    assert_eq!(found.files.len(), files.len());
    assert!(found.not_recognised.is_empty());
    let brokers: Vec<_> = found
        .brokers
        .iter()
        .map(|broker| (&*broker.broker, broker.verdict))
        .collect();
    assert_eq!(
        brokers,
        [
            ("3", Verdict::Suspect),
            ("1", Verdict::NoFinding),
            ("2", Verdict::NoFinding)
        ]
    );
    let against = against(&found, "3");
    assert!(
        expected.iter().all(|kind| against.contains(kind)),
        "{against:?}"
    );
    assert!(has(&found, FactKind::NoLeader));
    assert!(
        one(&found, FactKind::MetadataLog)
            .text
            .starts_with("the metadata log up to offset ")
    );
}

#[test]
fn what_is_not_found_is_said() {
    let log = STARTED.replace("ID", "1");
    let client = "03:04:05.678 [main] WARN org.apache.kafka.clients.NetworkClient - [Producer clientId=p] x\n";
    let table = [
        (
            &*log,
            "a log from 2024-01-02 03:04:05 to 2024-01-02 03:04:05 without a connection lost",
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
