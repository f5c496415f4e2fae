//! `tests/bad_inputs/zookeeper.rs` has the messages for malformed answers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use lab::fake_broker::{Answer, FakeBroker, ReceivedRequest, framed};

use super::*;
use crate::kafka::conn::OwnConnections;

/// Like the default, but faster.
const FAST: Timing = Timing {
    deadline: Duration::from_millis(500),
    late: Duration::from_millis(5),
    silence: Duration::from_millis(300),
    retry_first: Duration::from_millis(200),
    retry_last: Duration::from_millis(600),
    retry_tls: Duration::from_millis(600),
    retry_login: Duration::from_millis(600),
    renew_tls: Duration::from_secs(3600),
};

/// The fake broker takes the first bytes of a request for other fields.
fn xid(asked: ReceivedRequest) -> i32 {
    i32::from(asked.api) << 16 | i32::from(asked.version as u16)
}

fn is_greeting(asked: ReceivedRequest) -> bool {
    asked.correlation == 0
}

/// Grants a session of 30 s.
fn granted() -> Answer {
    let mut body = 30_000_i32.to_be_bytes().to_vec();
    body.extend(7_i64.to_be_bytes());
    body.extend(16_i32.to_be_bytes());
    body.extend([5; 16]);
    body.push(0);
    Answer::RawThenSilence(framed(0, &body).into())
}

fn answer(asked: ReceivedRequest, code: i32, fields: &[u8]) -> Answer {
    let mut body = 99_i64.to_be_bytes().to_vec();
    body.extend(code.to_be_bytes());
    body.extend(fields);
    Answer::RawThenSilence(framed(xid(asked), &body).into())
}

/// Children `1` and `22`.
const CHILDREN: &[u8] = &[0, 0, 0, 2, 0, 0, 0, 1, b'1', 0, 0, 0, 2, b'2', b'2'];

async fn server(
    questions: impl Fn(ReceivedRequest) -> Answer + Send + Sync + 'static,
) -> FakeBroker {
    FakeBroker::start(move |asked| match is_greeting(asked) {
        true => granted(),
        false => questions(asked),
    })
    .await
}

fn session(servers: &[&FakeBroker]) -> Session {
    let servers = servers
        .iter()
        .map(|server| server.address.clone())
        .collect();
    Session {
        timing: FAST,
        ..Session::new(servers, 0, OwnConnections::default(), true)
    }
}

async fn children(session: &mut Session) -> Result<Option<Vec<String>>, ZooKeeperError> {
    let read = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    session
        .children("/ids", Instant::now() + FAST.deadline, read)
        .await
}

/// Connection, and xid or `None` for a greeting, of each request.
fn asked(server: &FakeBroker) -> Vec<(usize, Option<i32>)> {
    let request =
        |asked: ReceivedRequest| (asked.connection, (!is_greeting(asked)).then(|| xid(asked)));
    server.asked().into_iter().map(request).collect()
}

#[tokio::test]
async fn one_session_serves_all_questions() {
    let server = server(|asked| match xid(asked) {
        3 => answer(asked, jute::NO_NODE, &[]),
        4 => answer(asked, jute::NO_AUTH, &[]),
        _ => answer(asked, 0, CHILDREN),
    })
    .await;
    let mut session = session(&[&server]);
    for _ in 0..2 {
        let names = children(&mut session).await.unwrap().unwrap();
        assert_eq!(names, ["1", "22"]);
    }
    assert_eq!(children(&mut session).await.unwrap(), None);
    let error = children(&mut session).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Denied, "{error}");
    assert!(children(&mut session).await.unwrap().is_some());
    assert_eq!(
        asked(&server),
        [
            (0, None),
            (0, Some(1)),
            (0, Some(2)),
            (0, Some(3)),
            (0, Some(4)),
            (0, Some(5))
        ]
    );
    assert_eq!(session.server(), Some(server.address.as_str()));
    assert_eq!(session.rest(), Some(Duration::from_secs(10)));
}

#[tokio::test]
async fn a_silent_server_is_not_asked_again_until_it_is_left() {
    let silent = server(|_| Answer::Silence).await;
    let other = server(|asked| answer(asked, 0, CHILDREN)).await;
    let mut session = session(&[&silent, &other]);
    let mut timeouts = 0;
    while let Err(error) = children(&mut session).await {
        assert_eq!(error.reason(), Reason::Timeout, "{error}");
        timeouts += 1;
        tokio::time::sleep(FAST.silence / 10).await;
    }
    assert!(timeouts > 0);
    assert_eq!(asked(&silent), [(0, None), (0, Some(1))]);
    assert_eq!(asked(&other), [(0, None), (0, Some(1))]);
}

/// What is due each 5 s may fail once, and not twice.
#[tokio::test]
async fn one_server_that_falls_silent_is_left_within_a_round() {
    let hangs = Arc::new(AtomicBool::new(false));
    let is_silent = Arc::clone(&hangs);
    let one = server(move |asked| match is_silent.load(Ordering::SeqCst) {
        true => Answer::Silence,
        false => answer(asked, 0, CHILDREN),
    })
    .await;
    let other = server(|asked| answer(asked, 0, CHILDREN)).await;
    let servers = [&one, &other].map(|server| server.address.clone());
    let mut session = Session::new(servers.into(), 0, OwnConnections::default(), true);
    assert!(children(&mut session).await.unwrap().is_some());
    hangs.store(true, Ordering::SeqCst);
    let started = Instant::now();
    let error = children(&mut session).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Timeout, "{error}");
    tokio::time::sleep_until(started + Duration::from_secs(4)).await;
    assert!(children(&mut session).await.unwrap().is_some());
    assert_eq!(session.server(), Some(other.address.as_str()));
}

/// As at the address of a host that is down.
#[tokio::test]
async fn a_server_that_accepts_no_connection_leaves_time_for_the_next_one() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut queued = Vec::new();
    let within = Duration::from_millis(300);
    while let Ok(stream) =
        tokio::time::timeout(within, tokio::net::TcpStream::connect(address)).await
    {
        queued.push(stream.unwrap());
    }
    let other = server(|asked| answer(asked, 0, CHILDREN)).await;
    let servers = vec![address.to_string(), other.address.clone()];
    let mut session = Session::new(servers, 0, OwnConnections::default(), true);
    let deadline = Instant::now() + Duration::from_secs(2);
    let read = session.children("/ids", deadline, |_| ()).await;
    assert_eq!(read.unwrap(), Some(()));
}

#[tokio::test]
async fn servers_that_fail_are_tried_once_each_and_then_rarely() {
    let [one, two] = [
        FakeBroker::start(|_| Answer::Close).await,
        FakeBroker::start(|_| Answer::Close).await,
    ];
    let mut session = session(&[&one, &two]);
    let count = || (one.asked().len(), two.asked().len());
    let error = children(&mut session).await.unwrap_err();
    assert_eq!(
        (error.reason(), count()),
        (Reason::Closed, (1, 1)),
        "{error}"
    );
    let error = children(&mut session).await.unwrap_err();
    assert!(
        matches!(
            error,
            ZooKeeperError::Waiting {
                reason: Reason::Closed,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(count(), (1, 1));
    tokio::time::sleep(FAST.retry_first).await;
    children(&mut session).await.unwrap_err();
    assert_eq!(count(), (2, 2));
    // Twice as long.
    tokio::time::sleep(FAST.retry_first).await;
    children(&mut session).await.unwrap_err();
    assert_eq!(count(), (2, 2));
}

#[tokio::test]
async fn a_server_that_demands_a_login_gets_no_session_each_round() {
    let server = server(|asked| answer(asked, jute::SASL_REQUIRED, &[])).await;
    let mut session = session(&[&server]);
    for _ in 0..3 {
        let error = children(&mut session).await.unwrap_err();
        assert_eq!(error.reason(), Reason::Denied, "{error}");
    }
    assert_eq!(asked(&server), [(0, None), (0, Some(1))]);
}

/// Reads the session that a greeting names.
async fn greeted(stream: &mut tokio::net::TcpStream) -> i64 {
    use tokio::io::AsyncReadExt as _;
    let mut frame = [0; 4 + 45];
    stream.read_exact(&mut frame).await.unwrap();
    i64::from_be_bytes(frame[20..28].try_into().unwrap())
}

#[tokio::test]
async fn a_session_goes_on_over_the_next_connection_until_it_has_expired() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let sessions = Arc::new(Mutex::new(Vec::new()));
    let (seen, expired) = (Arc::clone(&sessions), AtomicBool::new(false));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let session = greeted(&mut stream).await;
            seen.lock().unwrap().push(session);
            // The second connection finds the session expired.
            let expires = session != 0 && !expired.swap(true, Ordering::Relaxed);
            let (timeout, id) = if expires { (0, 0) } else { (30_000_i32, 7_i64) };
            let mut body = timeout.to_be_bytes().to_vec();
            body.extend(id.to_be_bytes());
            body.extend([0, 0, 0, 16]);
            body.extend([5; 17]);
            stream.write_all(&framed(0, &body)).await.unwrap();
            if !expires {
                let mut question = [0; 4 + 17];
                stream.read_exact(&mut question).await.unwrap();
                let body = [&[0; 12], CHILDREN].concat();
                stream.write_all(&framed(1, &body)).await.unwrap();
            }
        }
    });
    let mut session = Session {
        timing: FAST,
        ..Session::new(vec![address], 0, OwnConnections::default(), true)
    };
    for _ in 0..4 {
        assert!(children(&mut session).await.unwrap().is_some());
    }
    assert_eq!(*sessions.lock().unwrap(), [0, 7, 0, 7, 7]);
}
