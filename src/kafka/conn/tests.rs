//! `tests/bad_inputs/protocol.rs` has the messages for malformed answers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::sync::Notify;

use super::*;
use crate::kafka::wire::metadata_request;
use lab::fake_broker::{Answer, FakeBroker, framed};

const CAP: usize = 1000;

async fn connected(broker: &FakeBroker) -> Conn {
    Conn::connect(
        &broker.address,
        Duration::from_secs(5),
        &OwnConnections::default().into(),
        true,
        None,
    )
    .await
    .unwrap()
}

async fn ask(conn: &mut Conn, within: Duration) -> Result<Vec<u8>, ConnError> {
    conn.ask("Metadata", metadata_request, CAP, Instant::now() + within)
        .await
        .map(|body| body.to_vec())
}

#[tokio::test]
async fn answers_of_any_length_are_read() {
    let broker =
        FakeBroker::start(|asked| Answer::Body(vec![7; asked.correlation as usize - 1])).await;
    let mut conn = connected(&broker).await;
    for length in 0..50 {
        assert_eq!(
            ask(&mut conn, Duration::from_secs(5)).await.unwrap(),
            vec![7; length]
        );
    }
    assert_eq!(broker.asked().last().unwrap().connection, 0);
}

#[tokio::test]
async fn an_answer_larger_than_the_socket_buffer_is_read_in_parts() {
    let body: Vec<u8> = (0..5_000_000_u32).map(|n| n as u8).collect();
    let sent = body.clone();
    let broker = FakeBroker::start(move |_| Answer::Body(sent.clone())).await;
    let mut conn = connected(&broker).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    assert!(
        conn.ask("Metadata", metadata_request, 5_000_004, deadline)
            .await
            .unwrap()[..]
            == body
    );
    let error = conn
        .ask("Metadata", metadata_request, 5_000_003, deadline)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            ConnError::FrameLength {
                length: 5_000_004,
                ..
            }
        ),
        "{error}"
    );
}

/// A cluster may have a group so big that nobody wants to read all of it.
#[tokio::test]
async fn an_answer_above_its_cap_may_be_passed_over_and_the_connection_goes_on() {
    let lengths = [300_000, 100, 400_000];
    let broker = FakeBroker::start(move |asked| {
        let at = asked.correlation as usize - 1;
        Answer::Body(vec![at as u8; lengths[at]])
    })
    .await;
    let mut conn = connected(&broker).await;
    conn.pass_over(350_000);
    let deadline = Instant::now() + Duration::from_secs(20);
    let error = conn.ask("Metadata", metadata_request, 1000, deadline).await;
    let error = error.unwrap_err();
    assert!(
        matches!(
            error,
            ConnError::TooLong {
                length: 300_004,
                cap: 1000,
                ..
            }
        ),
        "{error}"
    );
    // It is passed over, and was not late.
    assert_eq!(conn.settle(deadline).await.unwrap(), None);
    let answer = conn.ask("Metadata", metadata_request, 1000, deadline).await;
    assert_eq!(answer.unwrap()[..], [1; 100]);
    let error = conn.ask("Metadata", metadata_request, 1000, deadline).await;
    let error = error.unwrap_err();
    assert!(matches!(error, ConnError::FrameLength { .. }), "{error}");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_an_error() {
    let error = Conn::connect(
        "no such host:9092",
        Duration::from_secs(5),
        &OwnConnections::default().into(),
        true,
        None,
    )
    .await
    .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot connect to no such host:9092: "),
        "{error}"
    );
}

/// What the text of a container's `listeners` hides, the resolved address shows.
#[tokio::test]
async fn no_form_of_a_loopback_address_is_connected_to_where_that_is_not_the_broker_s() {
    let broker = FakeBroker::start(|_| Answer::Silence).await;
    let port = broker.address.rsplit_once(':').unwrap().1;
    let dialer = Dialer::from(OwnConnections::default());
    let forms = [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0",
        "0.0.0.0",
        "localhost",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
    ];
    for host in forms {
        let address = format!("{host}:{port}");
        let within = Duration::from_secs(5);
        let error = Conn::connect(&address, within, &dialer, false, None)
            .await
            .unwrap_err();
        assert!(matches!(error, ConnError::Loopback { .. }), "{error}");
    }
    let address = format!("127.1:{port}");
    let allowed = Conn::connect(&address, Duration::from_secs(5), &dialer, true, None).await;
    assert!(allowed.is_ok(), "it does lead there");
}

#[tokio::test(start_paused = true)]
async fn a_name_service_that_hangs_is_an_error_of_its_own() {
    let never = std::future::pending();
    let own = OwnConnections::default();
    let error = Conn::connect_to("kafka-1:9092", never, Duration::from_secs(2), &own, true)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("the name of kafka-1:9092 was not resolved within 2000 ms, "),
        "{error}"
    );
}

#[tokio::test]
async fn a_timeout_keeps_the_connection_and_the_late_answer_is_dropped() {
    let go = Arc::new(Notify::new());
    let held = go.clone();
    let broker = FakeBroker::start(move |asked| match asked.correlation {
        1 => Answer::Held(held.clone(), b"late".to_vec()),
        _ => Answer::Body(b"new".to_vec()),
    })
    .await;
    let mut conn = connected(&broker).await;
    for _ in 0..5 {
        let error = ask(&mut conn, Duration::from_millis(20)).await.unwrap_err();
        assert!(
            matches!(
                error,
                ConnError::Timeout {
                    request: "Metadata",
                    ..
                }
            ),
            "{error}"
        );
        assert!(conn.unanswered_since().is_some());
    }
    assert_eq!(
        broker.asked().len(),
        1,
        "nothing is sent while a request is unanswered"
    );
    go.notify_one();
    assert_eq!(
        ask(&mut conn, Duration::from_secs(5)).await.unwrap(),
        b"new"
    );
    assert_eq!(conn.unanswered_since(), None);
    assert_eq!(broker.asked().len(), 2);
    assert!(broker.asked().iter().all(|asked| asked.connection == 0));
}

#[tokio::test]
async fn an_answer_that_comes_byte_by_byte_is_read_over_many_deadlines() {
    let broker = FakeBroker::start(|asked| match asked.correlation {
        1 => Answer::Dribble(framed(1, b"slow"), Duration::from_millis(10)),
        _ => Answer::Body(b"new".to_vec()),
    })
    .await;
    let mut conn = connected(&broker).await;
    let mut timeouts = 0;
    ask(&mut conn, Duration::from_millis(25)).await.unwrap_err();
    while let Err(error) = conn
        .settle(Instant::now() + Duration::from_millis(25))
        .await
    {
        assert!(matches!(error, ConnError::Timeout { .. }), "{error}");
        timeouts += 1;
    }
    assert!(timeouts > 0);
    assert_eq!(
        ask(&mut conn, Duration::from_secs(5)).await.unwrap(),
        b"new"
    );
    assert_eq!(broker.asked().len(), 2);
}

/// Bytes of a late answer are counted and not kept, and the room that it held is free as soon as nobody waits for it.
#[tokio::test]
async fn a_late_answer_is_passed_over() {
    let (cap, go) = (8_000_000, Arc::new(Notify::new()));
    let mut start = framed(1, &vec![1; 4_000_000]);
    start[..4].copy_from_slice(&8_000_000_i32.to_be_bytes());
    let (start, rest): (Arc<[u8]>, usize) = (start.into(), 8_000_000 - 4_000_004);
    let held = go.clone();
    let broker = FakeBroker::start(move |asked| match asked.correlation {
        1 => Answer::RawThenRest(start.clone(), held.clone(), vec![2; rest]),
        _ => Answer::Body(b"new".to_vec()),
    })
    .await;
    let mut conn = connected(&broker).await;
    let deadline = Instant::now() + Duration::from_millis(500);
    let late = conn.ask("Metadata", metadata_request, cap, deadline).await;
    assert!(matches!(late, Err(ConnError::Timeout { .. })), "{late:?}");
    assert!(conn.received.capacity() <= HEADER);
    assert_eq!(conn.room.held(), 0);
    go.notify_one();
    let settled = conn.settle(Instant::now() + Duration::from_secs(5)).await;
    assert!(settled.unwrap().is_some());
    assert_eq!(
        ask(&mut conn, Duration::from_secs(5)).await.unwrap(),
        b"new"
    );
}

#[tokio::test]
async fn own_connections_are_found_by_their_local_address() {
    let broker = FakeBroker::start(|_| Answer::Silence).await;
    let own = OwnConnections::default();
    let conn = Conn::connect(
        &broker.address,
        Duration::from_secs(5),
        &own.clone().into(),
        true,
        None,
    )
    .await
    .unwrap();
    let local = conn.stream.local_addr().unwrap();
    assert!(own.contains(local));
    let mapped = SocketAddr::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), local.port());
    assert!(own.contains(mapped), "a dual-stack listener shows it so");
    drop(conn);
    assert!(own.contains(local), "the kernel keeps it in TIME_WAIT");
}
