//! Tables of sockets: what a broker does not close, and what is not its fault.

use super::{against, all, explained, figures, has, lsof, one, only_forms, verdict};
use crate::analyze::{FactKind, Form, Source, Verdict};

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
