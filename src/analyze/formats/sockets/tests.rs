//! What the tools print, with its content.
#![allow(clippy::unwrap_used)]
use super::*;

/// Lines that the tools printed, with their content.
#[test]
fn every_form() {
    let table = [
        // netstat -antp of net-tools 1.60 and 2.10, ss -tanp, ss -anp of iproute2 6.1
        (
            "tcp    14535      0 ::ffff:192.168.1.219:9092   ::ffff:192.168.1.218:49425  CLOSE_WAIT  81068/java",
            (
                TcpState::CloseWait,
                14535,
                0,
                "192.168.1.219:9092",
                "192.168.1.218:49425",
                Some(81068),
            ),
        ),
        (
            "tcp        0  53321 ::ffff:192.168.1.217:33408  ::ffff:192.168.1.219:9092   FIN_WAIT1   -   ",
            (
                TcpState::FinWait1,
                0,
                53321,
                "192.168.1.217:33408",
                "192.168.1.219:9092",
                None,
            ),
        ),
        (
            "tcp6       0      0 :::9092                 :::*                    LISTEN     ",
            (TcpState::Listen, 0, 0, "[::]:9092", "[::]:0", None),
        ),
        (
            "LISTEN     3      50     [::ffff:127.0.0.1]:59093                  *:*     users:((\"java\",pid=6278,fd=37))",
            (
                TcpState::Listen,
                3,
                50,
                "127.0.0.1:59093",
                "[::]:0",
                Some(6278),
            ),
        ),
        (
            "tcp   CLOSE-WAIT 101    0          127.0.0.1:42781    127.0.0.1:59022 users:((\"python3\",pid=29493,fd=6))",
            (
                TcpState::CloseWait,
                101,
                0,
                "127.0.0.1:42781",
                "127.0.0.1:59022",
                Some(29493),
            ),
        ),
        (
            "LISTEN 0 4096 127.0.0.53%lo:53 0.0.0.0:*",
            (
                TcpState::Listen,
                0,
                4096,
                "127.0.0.53:53",
                "0.0.0.0:0",
                None,
            ),
        ),
    ];
    for (line, (state, receive_queue, send_queue, local, peer, pid)) in table {
        let (local, peer) = (local.parse().unwrap(), peer.parse().unwrap());
        assert_eq!(
            sockets(line, "").next(),
            Some(Socket {
                state,
                receive_queue,
                send_queue,
                local,
                peer,
                pid
            }),
            "{line}"
        );
    }
    for line in [
        "",
        "tcp",
        "udp UNCONN 0 0 *:1 *:2",
        "tcp 1 2 a:b c:d LISTEN",
        "State Recv-Q Send-Q",
        "LISTEN x 1",
    ] {
        assert_eq!(sockets(line, "").next(), None, "{line}");
    }
}
fn row_of(text: &str) -> Row<'_> {
    let rows: Vec<_> = lines(text, "").collect();
    let [Line::Row(row)] = rows.as_slice() else {
        panic!("{text}: {rows:?}")
    };
    *row
}

/// What the tools print of connections at port 9092 whose other end has closed.
#[test]
fn every_table() {
    let closing = TcpState::CloseWait;
    let java = (Some(81068), Some("java"));
    let numeric = Some("192.168.1.219:9092");
    // The line, the bytes in the queue, the process and the own address; its port is 9092.
    let table = [
        (
            "java 81068 kafka 123u IPv6 4711 0t0 TCP 192.168.1.219:9092->192.168.1.217:58837 (CLOSE_WAIT)",
            0,
            java,
            numeric,
        ),
        (
            "java    81068 81070 executor kafka 123u IPv6 4711 0t0 TCP broker-219:9092->app-7:58837 (CLOSE_WAIT)",
            0,
            java,
            None,
        ),
        (
            "java 81068 kafka 123u IPv6 0x4711ab 0t0 TCP ip-10-0-0-1.ec2.internal:XmlIpcRegSvc->app:58837 (CLOSE_WAIT)",
            0,
            java,
            None,
        ),
        (
            "tcp   55  0 ::ffff:192.168.1.219:9092 ::ffff:192.168.1.217:58837 CLOSE_WAIT  1001  4711  81068/java",
            55,
            java,
            numeric,
        ),
        (
            "tcp   55  0 192.168.1.219:9092 192.168.1.217:58837 CLOSE_WAIT 81068/java off (0.00/0/0)",
            55,
            java,
            numeric,
        ),
        (
            "tcp6  55  0 192.168.1.219:9092 ip-192-168-1-217.ec2:58837CLOSE_WAIT",
            55,
            (None, None),
            numeric,
        ),
        (
            "tcp   55  0 broker-219:XmlIpcRegSvc app-7:58837 CLOSE_WAIT 81068/java",
            55,
            java,
            None,
        ),
        (
            "tcp   55  0 x.x.x.x:9092 x.x.x.x:58837 CLOSE_WAIT 81068/java",
            55,
            java,
            None,
        ),
        (
            "tcp4  55  0  192.168.1.219.9092  192.168.1.217.58837  CLOSE_WAIT",
            55,
            (None, None),
            numeric,
        ),
        (
            "tcp46 55  0  broker-219.9092  app-7.58837  CLOSE_WAIT",
            55,
            (None, None),
            None,
        ),
        (
            "  TCP    192.168.1.219:9092   192.168.1.217:58837   CLOSE_WAIT    81068",
            0,
            (Some(81068), None),
            numeric,
        ),
        (
            r#"CLOSE-WAIT 55 0 192.168.1.219:9092 192.168.1.217:58837 users:(("java",81068,123))"#,
            55,
            java,
            numeric,
        ),
        (
            r#"CLOSE-WAIT 55 0 broker-219:9092 app-7:58837 timer:(keepalive,1min,0) users:(("java",pid=81068,fd=123))"#,
            55,
            java,
            None,
        ),
    ];
    for (line, bytes, (pid, program), address) in table {
        let row = row_of(line);
        assert_eq!(
            (
                row.state,
                row.receive_queue,
                row.pid,
                row.program,
                row.local.port,
                row.times
            ),
            (Some(closing), bytes, pid, program, "9092", 1),
            "{line}"
        );
        let address = address.map(|address: &str| address.parse().unwrap());
        assert_eq!(
            (row.local.address, row.peer.port),
            (address, "58837"),
            "{line}"
        );
    }
    let of_thread = |line| row_of(line).of_thread;
    assert!(of_thread(table[1].0) && !of_thread(table[0].0));
    // With `-l` the user is a number as well.
    assert!(!of_thread(
        "java 81068 1001 123u IPv6 4711 0t0 TCP 192.168.1.219:9092->192.168.1.217:58837 (CLOSE_WAIT)"
    ));
    let listening = row_of("java 81068 kafka 99u IPv6 4711 0t0 TCP *:9092 (LISTEN)");
    assert_eq!(
        (listening.state, listening.local.address),
        (Some(TcpState::Listen), Some("[::]:9092".parse().unwrap()))
    );
    let mac = row_of("tcp6  0  0  fe80::1%lo0.9092  *.*  LISTEN");
    assert_eq!(mac.local.address, Some("[fe80::1]:9092".parse().unwrap()));
    let counted = row_of("     12 tcp 1 0 1.2.3.4:9092 1.2.3.5:7 CLOSE_WAIT 81068/java");
    assert_eq!((counted.times, counted.receive_queue), (12, 1));
    let unreadable = row_of("tcp 55 0 1.2.3.4:90921.2.3.5:58837 CLOSE_WAIT");
    assert_eq!(
        (unreadable.state, unreadable.local.address),
        (Some(closing), None)
    );
}

#[test]
fn lost_line_breaks() {
    let text = "tcp 1 0 1.2.3.4:9092 1.2.3.5:7 CLOSE_WAIT 81068/java tcp 2 0 1.2.3.4:9092 1.2.3.5:8 CLOSE_WAIT - tcp 0 0 0.0.0.0:9092 0.0.0.0:* LISTEN";
    let queues: Vec<_> = sockets(text, "")
        .map(|socket| (socket.receive_queue, socket.state))
        .collect();
    let closing = TcpState::CloseWait;
    assert_eq!(queues, [(1, closing), (2, closing), (0, TcpState::Listen)]);
}

/// `ss state close-wait` prints no state: the command shows it, or the name of the file.
#[test]
fn tables_without_a_state() {
    let table = "Recv-Q Send-Q Local Address:Port Peer Address:Port\n\
                 55     0      1.2.3.4:9092       1.2.3.5:7\n\
                 1      0      1.2.3.4:9092       1.2.3.5:8 users:((\"java\",pid=81068,fd=6))\n";
    let states = |text: &str, source: &str| -> Vec<_> {
        let rows = lines(text, source).map(|line| match line {
            Line::Row(row) => (row.state, row.receive_queue),
            other => panic!("{other:?}"),
        });
        rows.collect()
    };
    let both = |state| vec![(state, 55), (state, 1)];
    let closing = Some(TcpState::CloseWait);
    let command = format!("$ ss -tnp state close-wait\n{table}");
    assert_eq!(states(&command, "a.txt"), both(closing));
    assert_eq!(states(table, "x/ss-close_wait.txt"), both(closing));
    assert_eq!(states(table, "established/a.txt"), both(None));
    assert_eq!(sockets(table, "a.txt").count(), 0);
    // A table with states, without its header, below one without.
    let next = format!("{command}tcp 0 0 1.2.3.4:9092 1.2.3.5:9 ESTABLISHED\n");
    let states_of_next = states(&next, "a.txt");
    assert_eq!(
        states_of_next.last(),
        Some(&(Some(TcpState::Established), 0))
    );
    assert_eq!(
        states("Netid Recv-Q Send-Q Local\ntcp 5 0 a:1 b:2\n", ""),
        [(None, 5)]
    );
}

#[test]
fn counts_without_addresses() {
    let count = |state, number, port| Line::Count {
        state,
        number,
        port,
    };
    let closing = TcpState::CloseWait;
    let table = [
        ("    312 CLOSE_WAIT", count(closing, 312, "")),
        ("CLOSE-WAIT 312", count(closing, 312, "")),
        ("ESTABLISHED: 17", count(TcpState::Established, 17, "")),
        (
            "    312 192.168.1.219:9092 CLOSE_WAIT",
            count(closing, 312, "9092"),
        ),
        ("    312 (CLOSE_WAIT)", count(closing, 312, "")),
        (
            "TCP:   4567 (estab 112, closed 4000, orphaned 0, synrecv 0, timewait 53/0), ports 0",
            Line::Summary {
                all: 4567,
                established: 112,
            },
        ),
    ];
    for (line, expected) in table {
        assert_eq!(lines(line, "").collect::<Vec<_>>(), [expected], "{line}");
    }
    for line in [
        "unix 2 [ ACC ] STREAM LISTENING 123 /x",
        "u_str ESTAB 0 0 * 1 * 2",
        "LISTEN x",
    ] {
        assert_eq!(lines(line, "").next(), None, "{line}");
    }
}
