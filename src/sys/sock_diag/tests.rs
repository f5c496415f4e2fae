#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use proptest::prelude::*;

use super::*;

/// One operation of the filter, as the kernel reads it.
fn operation(code: &[u8], at: usize) -> (u8, usize, usize) {
    (
        code[at],
        usize::from(code[at + 1]),
        usize::from(u16::from_ne_bytes([code[at + 2], code[at + 3]])),
    )
}

/// Does what `inet_diag_bc_audit` and `valid_cc` in Linux' net/ipv4/inet_diag.c do, for the operations in use.
fn audit(code: &[u8]) -> Result<(), String> {
    let on_yes_path = |target: usize| {
        let mut at = 0;
        while at < code.len() && at < target {
            at += operation(code, at).1;
        }
        at == target
    };
    let mut at = 0;
    while at < code.len() {
        let left = code.len() - at;
        let (kind, yes, no) = operation(code, at);
        let shortest = match kind {
            BC_JMP => 4,
            BC_S_GE | BC_S_LE if left >= 8 => 8,
            _ => return Err(format!("operation {kind} at {at}")),
        };
        for distance in [yes, no] {
            if distance < shortest || distance > left + 4 || distance % 4 != 0 {
                return Err(format!("distance {distance} at {at} of {}", code.len()));
            }
        }
        if no < left && !on_yes_path(at + no) {
            return Err(format!(
                "jump from {at} to {}, which is off the path",
                at + no
            ));
        }
        at += yes;
    }
    if at == code.len() {
        Ok(())
    } else {
        Err("the path runs over the end".into())
    }
}

/// Does what `inet_diag_bc_run` does: true if the end is reached exactly.
fn run(code: &[u8], source_port: u16) -> bool {
    let mut at = 0;
    while at < code.len() {
        let (kind, yes, no) = operation(code, at);
        let operand = || operation(code, at + 4).2 as u16;
        let holds = match kind {
            BC_S_GE => source_port >= operand(),
            BC_S_LE => source_port <= operand(),
            _ => false,
        };
        at += if holds { yes } else { no };
    }
    at == code.len()
}

fn some_ports() -> impl Strategy<Value = Vec<u16>> {
    let edge = prop_oneof![Just(0u16), Just(1), Just(65_534), Just(65_535)];
    let near = 9090u16..9100;
    prop::collection::vec(prop_oneof![4 => any::<u16>(), 2 => near, 1 => edge], 1..120)
}

proptest! {
    #[test]
    fn filter_is_valid_and_equals_membership(ports in some_ports(), others in prop::collection::vec(any::<u16>(), 50)) {
        let set: BTreeSet<u16> = ports.iter().copied().collect();
        let filter = Ports::new(ports.iter().copied());
        let code = filter.bytecode().unwrap();
        prop_assert_eq!(audit(&code), Ok(()));
        let neighbours = ports.iter().flat_map(|port| [port.wrapping_sub(1), *port, port.wrapping_add(1)]);
        for port in neighbours.chain(others) {
            prop_assert_eq!(run(&code, port), set.contains(&port), "port {}", port);
            prop_assert_eq!(filter.contains(port), set.contains(&port), "port {}", port);
        }
    }

    #[test]
    fn any_datagram_is_read_without_a_panic(
        mut datagram in prop::collection::vec(any::<u8>(), 0..400),
        length in 0u32..500,
        kind in prop_oneof![Just(TCPDIAG_GETSOCK), Just(NLMSG_DONE), Just(NLMSG_ERROR), any::<u16>()],
    ) {
        if datagram.len() >= HEADER {
            datagram[..4].copy_from_slice(&length.to_ne_bytes());
            datagram[4..6].copy_from_slice(&kind.to_ne_bytes());
            datagram[8..12].copy_from_slice(&SEQUENCE.to_ne_bytes());
        }
        let _ = Dump::default().take(&datagram, &mut |_| ());
    }
}

#[test]
fn most_ranges_fit_and_one_more_is_an_error() {
    let scattered = |count: usize| Ports::new((0..count).map(|index| index as u16 * 2));
    let code = scattered(MOST_RANGES).bytecode().unwrap();
    assert_eq!(audit(&code), Ok(()));
    assert!(run(&code, (MOST_RANGES as u16 - 1) * 2) && !run(&code, 1));
    assert_eq!(
        scattered(MOST_RANGES + 1).bytecode(),
        Err(DiagError::TooManyPorts(MOST_RANGES + 1))
    );
    assert_eq!(Ports::new([]).bytecode(), Err(DiagError::TooManyPorts(0)));
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(SEQUENCE.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(body);
    message
}

/// A CLOSE_WAIT of a dual-stack listener: 101 in Recv-Q, inode 393774, uid 1000.
fn close_wait() -> Vec<u8> {
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1];
    let mut body = vec![AF_INET6, 8, 0, 0];
    body.extend([0x23, 0x84, 0xdf, 0x92]); // ports 9092 and 57234
    body.extend(mapped);
    body.extend(mapped);
    body.extend([0; 12]);
    for field in [0u32, 101, 0, 1000, 393_774] {
        body.extend(field.to_ne_bytes());
    }
    body.extend([5, 0, 8, 0, 0, 0, 0, 0]); // INET_DIAG_SHUTDOWN, which was not asked for
    body
}

#[test]
fn a_mapped_address_is_ipv4() {
    let mut seen = Vec::new();
    Dump::default()
        .take(&message(TCPDIAG_GETSOCK, 2, &close_wait()), &mut |socket| {
            seen.push(*socket)
        })
        .unwrap();
    let expected = TcpSocket {
        state: TcpState::CloseWait,
        local: "127.0.0.1:9092".parse().unwrap(),
        remote: "127.0.0.1:57234".parse().unwrap(),
        receive_queue: 101,
        send_queue: 0,
        inode: 393_774,
        uid: 1000,
        segments_in: None,
    };
    assert_eq!(seen, [expected]);
}

#[test]
fn errors_before_the_first_socket_mean_unavailable() {
    let error = |errno: i32| (-errno).to_ne_bytes();
    for kind in [NLMSG_ERROR, NLMSG_DONE] {
        // tcp_diag is missing: ENOENT, in DONE where inet_diag itself is there.
        let refused = Dump::default().take(&message(kind, 0, &error(2)), &mut |_| ());
        assert_eq!(refused, Err(DiagError::Unavailable(Errno::NOENT)));
        let mut datagram = message(TCPDIAG_GETSOCK, 2, &close_wait());
        datagram.extend(message(kind, 0, &error(12)));
        assert_eq!(
            Dump::default().take(&datagram, &mut |_| ()),
            Err(DiagError::Failed(Errno::NOMEM))
        );
    }
}

#[test]
fn interruption_and_cut_messages_are_noticed() {
    let mut dump = Dump::default();
    dump.take(&message(NLMSG_DONE, NLM_F_DUMP_INTR, &[0; 4]), &mut |_| ())
        .unwrap();
    assert!(dump.done && dump.interrupted);

    let whole = message(TCPDIAG_GETSOCK, 2, &close_wait());
    for cut in 1..whole.len() {
        let result =
            Dump::default().take(&whole[..cut], &mut |_| panic!("a socket from {cut} bytes"));
        assert!(
            matches!(result, Err(DiagError::Malformed(_))),
            "{cut}: {result:?}"
        );
    }
    let short = message(TCPDIAG_GETSOCK, 2, &close_wait()[..71]);
    assert!(matches!(
        Dump::default().take(&short, &mut |_| ()),
        Err(DiagError::Malformed(_))
    ));
}

#[test]
fn an_answer_to_another_request_is_ignored() {
    let mut other = message(TCPDIAG_GETSOCK, 2, &close_wait());
    other[8] ^= 1;
    Dump::default()
        .take(&other, &mut |_| panic!("not ours"))
        .unwrap();
}

/// Asks the kernel for all sockets of the ports.
fn live(states: States, ports: &[u16]) -> Vec<TcpSocket> {
    let mut sockets = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    dump(
        states,
        Some(&Ports::new(ports.iter().copied())),
        true,
        &mut Vec::new(),
        deadline,
        |socket| sockets.push(*socket),
    )
    .unwrap();
    sockets
}

#[test]
fn the_kernel_filters_by_port_and_state_in_both_families() {
    let listeners: Vec<TcpListener> = ["[::]:0", "127.0.0.1:0", "127.0.0.1:0"]
        .map(|place| TcpListener::bind(place).unwrap())
        .into();
    let ports: Vec<u16> = listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap().port())
        .collect();
    let mut held = Vec::new();
    for (listener, port) in std::iter::zip(&listeners, &ports) {
        let mut client = TcpStream::connect(("127.0.0.1", *port)).unwrap();
        let server = listener.accept().unwrap().0;
        client.write_all(b"seven b").unwrap();
        held.push((client, server));
    }
    let asked = [ports[0], ports[2]];
    let ascending = |mut sockets: Vec<TcpSocket>| {
        sockets.sort_by_key(|socket| (socket.local.port(), socket.state));
        sockets
    };
    let sockets = ascending(live(States::ALL, &asked));
    let mut expected: Vec<(u16, TcpState)> = asked
        .iter()
        .flat_map(|port| [(*port, TcpState::Established), (*port, TcpState::Listen)])
        .collect();
    expected.sort();
    assert_eq!(
        sockets
            .iter()
            .map(|socket| (socket.local.port(), socket.state))
            .collect::<Vec<_>>(),
        expected
    );
    for socket in sockets
        .iter()
        .filter(|socket| socket.state == TcpState::Established)
    {
        let (client, server) = &held[if socket.local.port() == ports[0] {
            0
        } else {
            2
        }];
        assert_eq!(socket.remote, client.local_addr().unwrap());
        assert_eq!(socket.receive_queue, 7);
        assert_eq!(socket.inode, rustix::fs::fstat(server).unwrap().st_ino);
        assert_eq!(socket.uid, rustix::process::getuid().as_raw());
    }
    let established = live(States::of(&[TcpState::Established]), &ports);
    assert_eq!(established.len(), 3);
    assert!(
        established
            .iter()
            .all(|socket| socket.state == TcpState::Established)
    );
    assert_eq!(
        live(States::ALL.without(TcpState::Established), &ports).len(),
        3
    );
}

#[test]
fn a_deadline_that_has_passed_ends_the_dump() {
    let result = dump(
        States::ALL,
        None,
        false,
        &mut Vec::new(),
        Instant::now(),
        |_| (),
    );
    assert_eq!(result, Err(DiagError::TimedOut));
}

#[test]
fn packets_that_arrive_are_counted_by_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut server = listener.accept().unwrap().0;
    let arrived = || {
        let sockets = live(States::of(&[TcpState::Established]), &[port]);
        sockets[0].segments_in.unwrap()
    };
    let mut before = arrived();
    for byte in 0..3 {
        client.write_all(&[byte]).unwrap();
        server.read_exact(&mut [0]).unwrap();
        let now = arrived();
        assert!(now > before, "{now} after {before}");
        before = now;
    }
}
