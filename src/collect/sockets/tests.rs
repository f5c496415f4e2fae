#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::model::StateCount;
use crate::model::{Listener, ProcessKey, Reason};

const LIMIT: Duration = Duration::from_secs(10);

fn broker(pid: u32, listeners: &[(&str, Option<&str>, u16)], zookeeper: &[String]) -> Broker {
    let listener = |(name, host, port): &(&str, Option<&str>, u16)| Listener {
        name: name.to_string(),
        protocol: None,
        host: host.map(str::to_string),
        port: *port,
        controller: false,
        advertised: None,
    };
    Broker {
        id: Some(219),
        listeners: listeners.iter().map(listener).collect(),
        zookeeper: zookeeper.to_vec(),
        ..Broker::unknown(ProcessKey {
            pid,
            start_ticks: 1,
        })
    }
}

fn not_ours(_: SocketAddr) -> bool {
    false
}

fn by_state(counts: &StateCounts) -> BTreeMap<&'static str, (u64, u64, u64)> {
    let named = |state: TcpState| (state.name(), *counts.get(state));
    let counted = TcpState::ALL
        .into_iter()
        .map(named)
        .filter(|(_, count)| *count != StateCount::default());
    counted
        .map(|(name, count)| {
            (
                name,
                (count.connections, count.receive_bytes, count.send_bytes),
            )
        })
        .collect()
}

/// What `ss` says of the sockets that the filter names: connections, Recv-Q and Send-Q by state.
fn ss(filter: &str) -> BTreeMap<&'static str, (u64, u64, u64)> {
    let output = Command::new("ss")
        .args(["-Htan", filter])
        .output()
        .expect("ss (package iproute2) runs");
    assert!(output.status.success(), "{output:?}");
    let mut sums = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = match words[0] {
            "ESTAB" => "established".to_string(),
            "FIN-WAIT-1" => "fin_wait1".to_string(),
            "FIN-WAIT-2" => "fin_wait2".to_string(),
            other => other.to_lowercase().replace('-', "_"),
        };
        let state = TcpState::of_name(&name).expect("a state of ss");
        let sum: &mut (u64, u64, u64) = sums.entry(state.name()).or_default();
        *sum = (
            sum.0 + 1,
            sum.1 + words[1].parse::<u64>().unwrap(),
            sum.2 + words[2].parse::<u64>().unwrap(),
        );
    }
    sums
}

/// Our reading between two of ss that agree, until it is as expected or time is up. Read twice: `/proc/net/tcp` comes in
/// pieces, and other tests' sockets come and go between them.
fn settled<T: PartialEq>(
    filter: &str,
    mut read: impl FnMut() -> T,
    done: impl Fn(&BTreeMap<&str, (u64, u64, u64)>) -> bool,
) -> (BTreeMap<&'static str, (u64, u64, u64)>, T) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let (before, ours, again, after) = (ss(filter), read(), read(), ss(filter));
        if before == after && ours == again && done(&before) {
            return (before, ours);
        }
        assert!(
            Instant::now() < deadline,
            "ss does not settle: {before:?}, {after:?}"
        );
    }
}

/// Connections at one listener in every state that can be made without losing packets.
struct Scene {
    listener: TcpListener,
    held: Vec<TcpStream>,
    servers: Vec<TcpStream>,
}

impl Scene {
    fn new(place: &str) -> Scene {
        Scene {
            listener: TcpListener::bind(place).unwrap(),
            held: Vec::new(),
            servers: Vec::new(),
        }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port())).unwrap()
    }

    fn pair(&self) -> (TcpStream, TcpStream) {
        let client = self.connect();
        let (server, peer) = self.listener.accept().unwrap();
        assert_eq!(peer.port(), client.local_addr().unwrap().port());
        (client, server)
    }

    /// 3 ESTABLISHED; CLOSE_WAIT: 2 empty, 3 with 100 unread bytes; FIN_WAIT2, FIN_WAIT1, CLOSING, LAST_ACK, TIME_WAIT one
    /// each; 4 connections in an accept queue of 3.
    fn fill(&mut self) {
        for _ in 0..3 {
            let (client, server) = self.pair();
            self.held.extend([client, server]);
        }
        for bytes in [0, 0, 100, 100, 100] {
            let (mut client, server) = self.pair();
            client.write_all(&vec![1; bytes]).unwrap();
            drop(client);
            self.servers.push(server);
        }
        let (client, server) = self.pair();
        server.shutdown(Shutdown::Write).unwrap();
        self.held.extend([client, server]);

        let (client, server) = self.pair();
        stuff(&server);
        drop(server);
        self.held.push(client);

        // Shut down, not closed: a child that another test forks at this moment holds the handle until it execs, and
        // the order of the two ends is what makes CLOSING.
        let (client, server) = self.pair();
        stuff(&server);
        server.shutdown(Shutdown::Write).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        self.held.extend([client, server]);

        let (client, mut server) = self.pair();
        stuff(&server);
        client.shutdown(Shutdown::Write).unwrap();
        server.set_nonblocking(false).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        server.shutdown(Shutdown::Write).unwrap();
        self.held.extend([client, server]);

        let (mut client, server) = self.pair();
        drop(server);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop(client);

        // The limit of a listening socket can be set again; one connection more than it fits.
        rustix::net::listen(&self.listener, 3).unwrap();
        for _ in 0..4 {
            self.held.push(self.connect());
        }
    }
}

/// Sends until the peer, who does not read, takes no more.
fn stuff(mut stream: &TcpStream) {
    stream.set_nonblocking(true).unwrap();
    while stream.write(&[7; 65536]).is_ok() {}
}

fn inode(socket: impl AsFd) -> u64 {
    rustix::fs::fstat(socket).unwrap().st_ino
}

/// Ours in the terms of ss: its Recv-Q counts the peer's unread FIN, its LISTEN line holds the accept queue.
fn check(
    mut theirs: BTreeMap<&'static str, (u64, u64, u64)>,
    counted: &Counted,
    fins: &[(&'static str, u64)],
) {
    theirs.remove("established");
    let queue = theirs.get_mut("listen").unwrap();
    let (pulse, accept) = (&counted.sockets, &counted.accept_queues[0]);
    assert_eq!(
        (u64::from(accept.length), accept.limit.map(u64::from)),
        (queue.1, Some(queue.2))
    );
    (queue.1, queue.2) = (0, 0);
    for (state, count) in fins {
        theirs.get_mut(state).unwrap().1 -= count;
    }
    assert_eq!(by_state(&pulse.server), theirs);
}

#[test]
fn pulse_equals_ss_in_both_families() {
    for place in ["[::]:0", "127.0.0.1:0"] {
        let mut scene = Scene::new(place);
        scene.fill();
        let broker = broker(
            std::process::id(),
            &[("PLAINTEXT", None, scene.port())],
            &[],
        );
        let mut sockets = Sockets::new("/proc", LIMIT);
        let filter = format!("sport = :{}", scene.port());
        let (theirs, pulse) = settled(
            &filter,
            || sockets.pulse(&broker, &not_ours).unwrap(),
            |states| states.len() == 8 && states["close_wait"].0 == 5,
        );
        assert_eq!(sockets.diag_refused, None);
        // LAST_ACK read the end of the stream, so its FIN is counted no more.
        let fins = [("close_wait", 5), ("closing", 1)];
        check(theirs, &pulse, &fins);
        assert_eq!(pulse.sockets.unread_close_wait, 3);
        let close_wait = pulse.sockets.server.get(TcpState::CloseWait);
        assert_eq!((close_wait.connections, close_wait.receive_bytes), (5, 300));
        let queue = AcceptQueue {
            listener: "PLAINTEXT".into(),
            length: 4,
            limit: Some(3),
        };
        assert_eq!(pulse.accept_queues, [queue]);

        // The same where sock_diag is refused; only the limit of the accept queue is unknown there.
        let mut refused = Sockets::new("/proc", LIMIT);
        refused.diag_refused = Some(Instant::now());
        let (theirs, mut fallback) = settled(
            &filter,
            || refused.pulse(&broker, &not_ours).unwrap(),
            |_| true,
        );
        assert_eq!(fallback.accept_queues[0].limit.replace(3), None);
        check(theirs, &fallback, &fins);
        assert_eq!(fallback.sockets.unread_close_wait, 3);

        // The exporter's own connection is left out.
        let ours = scene.servers[4].peer_addr().unwrap();
        let ours = SocketAddr::new(ours.ip().to_canonical(), ours.port());
        let without = sockets.pulse(&broker, &|remote| remote == ours).unwrap();
        assert_eq!(
            (
                without.sockets.server.get(TcpState::CloseWait).connections,
                without.sockets.unread_close_wait
            ),
            (4, 2)
        );
    }
}

#[test]
fn one_port_at_two_addresses_is_two_listeners() {
    let first = Scene::new("127.0.0.1:0");
    let second = TcpListener::bind(("127.0.0.2", first.port())).unwrap();
    let _waiting = [
        TcpStream::connect(("127.0.0.2", first.port())).unwrap(),
        first.connect(),
        first.connect(),
    ];
    let mut sockets = Sockets::new("/proc", LIMIT);
    let mut of = |host: &str| {
        let broker = broker(
            std::process::id(),
            &[("PLAINTEXT", Some(host), first.port())],
            &[],
        );
        let (owners, _) = sockets
            .owners(
                &broker,
                &HashSet::new(),
                &mut || Ok(HashSet::new()),
                &not_ours,
            )
            .unwrap();
        let pulse = sockets.pulse(&broker, &not_ours).unwrap();
        (
            pulse.accept_queues[0].length,
            owners.server_established.connections,
        )
    };
    assert_eq!(of("127.0.0.1"), (2, 2));
    assert_eq!(of("127.0.0.2"), (1, 1));
    assert_eq!(of("localhost"), (3, 3));
    assert_eq!(of("broker-219.example"), (3, 3));
    drop(second);
}

#[test]
fn owners_tell_roles_and_untracked_sockets() {
    let scene = Scene::new("[::]:0");
    let zookeeper = Scene::new("127.0.0.1:0");
    let jmx = Scene::new("127.0.0.1:0");
    let mut theirs: Vec<TcpStream> = Vec::new();
    let mut broker_holds: Vec<TcpStream> = Vec::new();

    // 50 that the broker holds; 40 of them were reset by their peer.
    for index in 0..50 {
        let (client, server) = scene.pair();
        if index < 40 {
            rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        } else {
            theirs.push(client);
        }
        broker_holds.push(server);
    }
    theirs[0].write_all(&[5; 21]).unwrap();
    let (client, server) = jmx.pair();
    broker_holds.push(server);
    theirs.push(client);
    // Outgoing: 3 established, 1 closed by the peer with 30 bytes unread, 1 closed by the broker (TIME_WAIT).
    for bytes in [None, None, None, Some(30)] {
        let (outgoing, mut far) = zookeeper.pair();
        if let Some(bytes) = bytes {
            far.write_all(&vec![3; bytes]).unwrap();
        } else {
            theirs.push(far);
        }
        broker_holds.push(outgoing);
    }
    let (outgoing, mut far) = zookeeper.pair();
    drop(outgoing);
    assert_eq!(far.read(&mut [0]).unwrap(), 0);
    drop(far);

    let unix = UnixStream::pair().unwrap();
    let udp = UdpSocket::bind("[::]:0").unwrap();
    let closed_meanwhile = inode(jmx.connect());
    let held: HashSet<u64> = broker_holds.iter().map(inode).collect();
    let held: HashSet<u64> = held
        .into_iter()
        .chain([
            inode(&unix.0),
            inode(&udp),
            inode(&scene.listener),
            inode(&jmx.listener),
        ])
        .collect();
    let before: HashSet<u64> = held.iter().copied().chain([closed_meanwhile]).collect();

    // A reset takes its time on a busy machine.
    settled(
        &format!("sport = :{}", scene.port()),
        || (),
        |states| states["established"].0 == 10,
    );

    let entry = vec![format!("127.0.0.1:{}", zookeeper.port())];
    let broker = broker(
        std::process::id(),
        &[("PLAINTEXT", None, scene.port())],
        &entry,
    );
    let mut sockets = Sockets::new("/proc", LIMIT);
    let filter = format!("dport = :{}", zookeeper.port());
    let done = |states: &BTreeMap<&str, (u64, u64, u64)>| {
        states.len() == 3 && states["established"].0 == 3
    };
    for refused in [None, Some(Instant::now())] {
        sockets.diag_refused = refused;
        let read = || {
            sockets
                .owners(&broker, &before, &mut || Ok(held.clone()), &not_ours)
                .unwrap()
        };
        let (mut by_ss, (owners, untracked)) = settled(&filter, read, done);
        by_ss.get_mut("close_wait").unwrap().1 -= 1; // the FIN
        assert_eq!(by_state(&owners.client), by_ss);
        assert_eq!(owners.client_unread_close_wait, 1);
        let established = ss(&format!("sport = :{}", scene.port()))["established"];
        let count = owners.server_established;
        assert_eq!(
            (count.connections, count.receive_bytes, count.send_bytes),
            established
        );
        assert_eq!((count.connections, count.receive_bytes), (10, 21));
        assert_eq!(untracked, 40);
    }
    let failing = &mut || Err(Failure::new(Reason::Gone, "no more"));
    assert_eq!(
        sockets
            .owners(&broker, &before, failing, &not_ours)
            .unwrap_err()
            .reason,
        Reason::Gone
    );
}

#[test]
fn recorded_tables_give_the_counts_that_were_made() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sockets/proc");
    let listeners = [
        ("PLAINTEXT", None, 9092),
        ("INTERNAL", Some("127.0.0.1"), 9093),
        ("V6", Some("[::1]"), 9095),
    ];
    let broker = broker(4711, &listeners, &["127.0.0.1:2181".to_string()]);
    let mut sockets = Sockets::new(root, LIMIT);
    let pulse = sockets.pulse(&broker, &not_ours).unwrap();
    let expected = [
        ("syn_recv", (1, 0, 0)),
        ("fin_wait1", (1, 0, 3_782_145)),
        ("fin_wait2", (1, 0, 0)),
        ("time_wait", (1, 0, 0)),
        ("close_wait", (5, 207, 0)),
        ("last_ack", (1, 0, 3_782_145)),
        ("listen", (3, 0, 0)),
        ("closing", (1, 0, 3_782_145)),
    ];
    assert_eq!(by_state(&pulse.sockets.server), BTreeMap::from(expected));
    assert_eq!(pulse.sockets.unread_close_wait, 3);
    let queue = |listener: &str, length| AcceptQueue {
        listener: listener.into(),
        length,
        limit: None,
    };
    assert_eq!(
        pulse.accept_queues,
        [queue("PLAINTEXT", 2), queue("INTERNAL", 2), queue("V6", 0)]
    );

    // The two handles of the outgoing connections to 2181, a unix socket, and one that no table has.
    let inodes = HashSet::from([393_801, 393_803, 393_811, 1]);
    let (owners, untracked) = sockets
        .owners(&broker, &inodes, &mut || Ok(inodes.clone()), &not_ours)
        .unwrap();
    assert_eq!(
        by_state(&owners.client),
        BTreeMap::from([("established", (2, 0, 0)), ("time_wait", (1, 0, 0))])
    );
    assert_eq!(
        (
            owners.server_established.connections,
            owners.server_established.receive_bytes
        ),
        (9, 33)
    );
    assert_eq!(untracked, 1);
}

#[test]
fn an_empty_list_is_believed_once_sock_diag_has_told_a_socket() {
    let mut sockets = Sockets::new("/proc", LIMIT);
    let listening = Scene::new("127.0.0.1:0");
    // Nothing listens on tcpmux.
    let (without, with) = (Ports::new([1]), Ports::new([listening.port()]));
    let broker = broker(std::process::id(), &[("PLAINTEXT", None, 1)], &[]);
    let mut source = |ports: &Ports| {
        let deadline = Instant::now() + LIMIT;
        sockets
            .read(
                &broker,
                States::ALL,
                Some(ports),
                deadline,
                || 0,
                |sum, _| *sum += 1,
            )
            .unwrap()
    };
    assert_eq!(source(&without), (0, Source::ProcNet));
    assert_eq!(source(&with), (1, Source::SockDiag));
    assert_eq!(source(&without), (0, Source::SockDiag));
}

#[test]
fn places_match_as_a_broker_binds() {
    let matches =
        |host: Option<&str>, local: &str| Place::new(host, 9092).is(local.parse().unwrap());
    for any in [
        None,
        Some(""),
        Some("0.0.0.0"),
        Some("::"),
        Some("[::]"),
        Some("kafka-1.example"),
    ] {
        assert!(
            matches(any, "10.0.0.5:9092") && matches(any, "[fd00::5]:9092"),
            "{any:?}"
        );
        assert!(!matches(any, "10.0.0.5:9093"), "{any:?}");
    }
    assert!(
        matches(Some("10.0.0.5"), "10.0.0.5:9092") && !matches(Some("10.0.0.5"), "10.0.0.6:9092")
    );
    assert!(matches(Some("::ffff:10.0.0.5"), "10.0.0.5:9092"));
    assert!(
        matches(Some("[fd00::5]"), "[fd00::5]:9092")
            && matches(Some("fe80::1%eth0"), "[fe80::1]:9092")
    );
    assert!(
        matches(Some("LocalHost"), "127.0.0.1:9092")
            && !matches(Some("localhost"), "10.0.0.5:9092")
    );
    assert_eq!(
        Place::parse("zk-1:5181"),
        Some(Place {
            host: Host::Any,
            port: 5181
        })
    );
    assert_eq!(
        Place::parse(" [::1]:2181"),
        Some(Place {
            host: Host::Address("::1".parse().unwrap()),
            port: 2181
        })
    );
    assert_eq!(
        [
            Place::parse("zk-1"),
            Place::parse("zk-1:port"),
            Place::parse("")
        ],
        [None; 3]
    );
}

#[test]
fn a_time_limit_is_kept() {
    let broker = broker(std::process::id(), &[("PLAINTEXT", None, 9092)], &[]);
    let late = Sockets::new("/proc", Duration::ZERO)
        .pulse(&broker, &not_ours)
        .unwrap_err();
    assert_eq!(late.reason, Reason::Timeout);
}
