#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::model::{Listener, ProcessKey};

const LIMIT: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

fn broker(pid: u32, listeners: &[(&str, u16)]) -> Broker {
    let listener = |(index, (host, port)): (usize, &(&str, u16))| Listener {
        name: format!("L{index}"),
        protocol: None,
        host: (!host.is_empty()).then(|| host.to_string()),
        port: *port,
        controller: false,
        advertised: None,
    };
    let key = ProcessKey {
        pid,
        start_ticks: 1,
    };
    Broker {
        listeners: listeners.iter().enumerate().map(listener).collect(),
        ..Broker::unknown(key)
    }
}

fn no_own(_: SocketAddr) -> bool {
    false
}

/// A `/proc` in which these processes share one network namespace.
fn shared_proc(root: &Path, pids: &[u32], table: &str) {
    let net = root.join("net");
    fs::create_dir_all(&net).unwrap();
    fs::write(net.join("tcp"), table).unwrap();
    for pid in pids {
        let process = root.join(pid.to_string());
        fs::create_dir(&process).unwrap();
        symlink(&net, process.join("net")).unwrap();
    }
}

/// As the kernel prints it: local address, local port, state, unread bytes.
fn table(sockets: &[(u8, u16, u8, u32)]) -> String {
    let mut text = "  sl  local_address rem_address   st tx_queue rx_queue\n".to_owned();
    for (index, (host, port, state, unread)) in sockets.iter().enumerate() {
        let local = if *host == 0 {
            "00000000".to_owned()
        } else {
            format!("{host:02X}00007F")
        };
        let remote = if *state == 10 {
            "00000000:0000".to_owned()
        } else {
            format!("0200007F:{:04X}", 40_000 + index)
        };
        writeln!(
            text,
            "{index:4}: {local}:{port:04X} {remote} {state:02X} 00000000:{unread:08X} 00:00000000 00000000     0        0 {} 1 0 100 0 0 10 0",
            1000 + index
        )
        .unwrap();
    }
    text
}

fn reader(tables: &SocketTables, root: &Path) -> TableReader {
    TableReader::new(tables.clone(), root, SECOND, LIMIT)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Listeners may lie at the same port of different addresses, and several brokers' at the same.
    #[test]
    fn a_shared_walk_counts_for_each_broker_what_its_own_would(
        sockets in prop::collection::vec((0u8..4, 9090u16..9096, 1u8..12, 0u32..4), 0..60),
        brokers in prop::collection::vec(
            prop::collection::vec((prop::sample::select(vec!["", "127.0.0.1", "127.0.0.2", "localhost"]), 9090u16..9096), 1..4),
            1..6,
        ),
    ) {
        let root = tempfile::tempdir().unwrap();
        let brokers: Vec<Broker> =
            std::iter::zip(1.., &brokers).map(|(pid, listeners)| broker(pid, listeners)).collect();
        let pids: Vec<u32> = brokers.iter().map(|broker| broker.process.pid).collect();
        shared_proc(root.path(), &pids, &table(&sockets));
        let tables = SocketTables::default();
        let mut readers: Vec<TableReader> = brokers.iter().map(|_| reader(&tables, root.path())).collect();
        // All have their places before the walk that serves them all.
        for (reader, broker) in std::iter::zip(&mut readers, &brokers) {
            reader.place(broker).unwrap();
        }
        let now = Instant::now();
        for (reader, broker) in std::iter::zip(&mut readers, &brokers) {
            let round = reader.round_at(now, broker, Signs::default(), &no_own).unwrap();
            let alone = Sockets::new(root.path(), LIMIT).pulse(broker, &no_own).unwrap();
            prop_assert_eq!(round.accept_queues.unwrap(), (alone.accept_queues, now));
            prop_assert_eq!(round.sockets.unwrap().unwrap(), (alone.sockets, now));
        }
    }
}

#[test]
fn one_walk_serves_the_brokers_of_a_namespace_and_no_other() {
    let root = tempfile::tempdir().unwrap();
    shared_proc(
        root.path(),
        &[1, 2],
        &table(&[(1, 9092, 8, 0), (1, 9093, 8, 5)]),
    );
    let other = tempfile::tempdir().unwrap();
    shared_proc(other.path(), &[3], &table(&[(1, 9092, 8, 0); 7]));
    symlink(other.path().join("3"), root.path().join("3")).unwrap();
    let brokers = [
        broker(1, &[("", 9092)]),
        broker(2, &[("", 9093)]),
        broker(3, &[("", 9092)]),
    ];
    let tables = SocketTables::default();
    let mut readers = [(); 3].map(|()| reader(&tables, root.path()));
    for (reader, broker) in std::iter::zip(&mut readers, &brokers) {
        reader.place(broker).unwrap();
    }
    let start = Instant::now();
    let mut at = |after: f64| {
        let now = start + Duration::from_secs_f64(after);
        let mut read = |index: usize| {
            let round = readers[index].round_at(now, &brokers[index], Signs::default(), &no_own);
            let (pulse, at) = round.unwrap().sockets?.unwrap();
            let close_wait = pulse.server.get(TcpState::CloseWait).connections;
            Some((close_wait, (at - start).as_secs_f64()))
        };
        [read(0), read(1), read(2)]
    };
    assert_eq!(at(0.0), [Some((1, 0.0)), Some((1, 0.0)), Some((7, 0.0))]);
    // CLOSE_WAIT where there was none before: each second.
    assert_eq!(at(1.0), [Some((1, 1.0)), Some((1, 1.0)), Some((7, 1.0))]);
    assert_eq!(at(1.1), [None; 3], "the same moment");
    // The one with unread bytes stays suspected. The other of its namespace, whose rounds come first, has what that one's
    // walks read; in the namespace of the third nothing is suspected any more.
    at(31.0);
    assert_eq!(at(32.0), [None, Some((1, 32.0)), None]);
    assert_eq!(at(33.0), [Some((1, 32.0)), Some((1, 33.0)), None]);
    assert_eq!(
        at(36.0),
        [Some((1, 33.0)), Some((1, 36.0)), Some((7, 36.0))]
    );
}

#[test]
fn a_new_broker_is_counted_at_once_and_one_that_is_gone_no_more() {
    let root = tempfile::tempdir().unwrap();
    shared_proc(
        root.path(),
        &[1, 2],
        &table(&[(1, 9092, 4, 0), (1, 9093, 4, 0)]),
    );
    let brokers = [broker(1, &[("", 9092)]), broker(2, &[("", 9093)])];
    let tables = SocketTables::default();
    let now = Instant::now();
    let mut first = reader(&tables, root.path());
    let calm = Signs::default();
    let walked = |round: TableRound| round.sockets.is_some();
    assert!(walked(
        first.round_at(now, &brokers[0], calm, &no_own).unwrap()
    ));
    assert!(!walked(
        first
            .round_at(now + SECOND, &brokers[0], calm, &no_own)
            .unwrap()
    ));
    let mut second = reader(&tables, root.path());
    assert!(walked(
        second
            .round_at(now + SECOND, &brokers[1], calm, &no_own)
            .unwrap()
    ));
    let (table, _) = second.place(&brokers[1]).unwrap();
    drop(first);
    let mut third = reader(&tables, root.path());
    third.place(&brokers[0]).unwrap();
    assert_eq!(lock(&table).members.len(), 2);
    drop((table, second, third));
    let mut fourth = reader(&tables, root.path());
    fourth.place(&brokers[0]).unwrap();
    assert_eq!(lock(&tables.0).len(), 1);
    assert_eq!(lock(&fourth.place.unwrap().0).members.len(), 1);
}

#[test]
fn what_is_suspicious_calls_for_a_walk_each_second() {
    let queue = |length| Newest {
        accept_queues: Some((
            vec![AcceptQueue {
                listener: "L".into(),
                length,
                limit: Some(50),
            }],
            Instant::now(),
        )),
        sockets: None,
    };
    let pulse = |close_wait, unread| {
        let mut pulse = SocketPulse {
            unread_close_wait: unread,
            ..SocketPulse::default()
        };
        pulse.server.get_mut(TcpState::CloseWait).connections = close_wait;
        pulse
    };
    let fds = |fds| Signs {
        fds: Some(fds),
        stuck: false,
    };
    let now = Instant::now();
    let known = || {
        let mut suspicion = Suspicion::default();
        suspicion.walked(fds(100), &pulse(0, 0), now);
        assert!(!suspicion.stands(fds(100), now));
        suspicion
    };
    assert!(!known().stands(fds(104), now));
    assert!(!known().stands(fds(0), now));
    assert!(!known().stands(Signs::default(), now));
    assert!(!known().queued(&queue(0), now));
    let mut grown = known();
    assert!(grown.stands(fds(105), now));
    // And for a while after the last sign.
    assert!(grown.stands(fds(101), now + SUSPICION_LASTS / 2));
    assert!(!grown.stands(fds(101), now + SUSPICION_LASTS));
    assert!(known().stands(
        Signs {
            stuck: true,
            ..fds(100)
        },
        now
    ));
    let mut full = known();
    assert!(full.queued(&queue(1), now) && full.stands(fds(100), now));
    for (close_wait, unread, suspicious) in [(0, 0, false), (1, 0, true), (1, 1, true)] {
        let mut walked = known();
        walked.walked(fds(100), &pulse(close_wait, unread), now);
        assert_eq!(walked.stands(fds(100), now), suspicious);
        // A number that stays is no growth, but bytes that stay unread are suspicious for as long as they do.
        let later = now + SUSPICION_LASTS;
        walked.walked(fds(100), &pulse(close_wait, unread), later);
        assert_eq!(walked.stands(fds(100), later), unread > 0);
    }
}

#[test]
fn walks_stay_below_their_ceilings() {
    let mut table = Table::new(Sockets::new("/proc", LIMIT), SECOND);
    for (cost, suspected, rest) in [(0.3, 1.0, 5.0), (1.4, 1.0, 5.0), (40.0, 8.0, 40.0)] {
        for interval in [&mut table.suspected, &mut table.rest] {
            (0..100).for_each(|_| interval.spent(Duration::from_secs_f64(cost / 1e3)));
        }
        for (is_suspected, expected) in [(true, suspected), (false, rest)] {
            let found = table.interval(is_suspected).as_secs_f64();
            assert!(
                (found - expected).abs() < 0.01,
                "{cost} {is_suspected}: {found}"
            );
        }
    }
}
