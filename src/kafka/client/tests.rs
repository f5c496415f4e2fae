#![allow(clippy::unwrap_used, clippy::expect_used)]

mod tls;

use std::sync::Arc;

use tokio::sync::Notify;

use super::*;
use lab::fake_broker::{Answer, FakeBroker, framed};

/// Like the default, but faster.
const FAST: Timing = Timing {
    deadline: Duration::from_millis(500),
    late: Duration::from_millis(5),
    silence: Duration::from_secs(600),
    retry_first: Duration::from_millis(40),
    retry_last: Duration::from_millis(600),
    retry_tls: Duration::from_millis(600),
    retry_login: Duration::from_secs(300),
    renew_tls: Duration::from_secs(3600),
};

fn client(broker: &FakeBroker, timing: Timing) -> Client {
    Client::new(
        broker.address.clone(),
        crate::kafka::conn::OwnConnections::default(),
        timing,
    )
}

/// Runs a round as for the own broker: ApiVersions, then Metadata.
async fn round(client: &mut Client) -> Result<Vec<u8>, ClientError> {
    client.api().await.answer?;
    client
        .ask(METADATA, |_, body| Ok(body.to_vec()))
        .await
        .answer
}

fn apis(broker: &FakeBroker) -> Vec<(usize, i16, i16)> {
    broker
        .asked()
        .iter()
        .map(|asked| (asked.connection, asked.api, asked.version))
        .collect()
}

#[tokio::test]
async fn an_idle_connection_that_the_broker_closed_is_replaced_at_once() {
    let broker = FakeBroker::with_metadata(|asked| match asked.connection {
        0 => Answer::RawThenClose(framed(asked.correlation, b"first")),
        _ => Answer::Body(b"second".to_vec()),
    })
    .await;
    let mut client = client(&broker, Timing::default());
    assert_eq!(round(&mut client).await.unwrap(), b"first");
    assert_eq!(round(&mut client).await.unwrap(), b"second");
    assert_eq!(
        apis(&broker),
        [(0, 18, 0), (0, 3, 1), (1, 18, 0), (1, 3, 1)]
    );
}

#[tokio::test]
async fn a_late_answer_is_never_taken_for_the_new_one() {
    let go = Arc::new(Notify::new());
    let held = go.clone();
    let broker = FakeBroker::with_metadata(move |asked| match asked.correlation {
        2 => Answer::Held(held.clone(), b"late".to_vec()),
        _ => Answer::Body(b"new".to_vec()),
    })
    .await;
    let mut client = client(&broker, FAST);
    round(&mut client).await.unwrap_err();
    assert!(client.owes_answer().await);
    go.notify_one();
    let answer = loop {
        if let Ok(answer) = round(&mut client).await {
            break answer;
        }
    };
    assert_eq!(answer, b"new");
    assert!(!client.owes_answer().await);
    assert!(broker.asked().iter().all(|asked| asked.connection == 0));
}

#[tokio::test]
async fn connections_that_a_broker_closes_become_rarer() {
    for broker in [
        FakeBroker::start(|_| Answer::Close).await,
        FakeBroker::with_metadata(|_| Answer::Close).await,
    ] {
        let mut client = client(&broker, FAST);
        let started = Instant::now();
        let mut waited = false;
        while broker
            .asked()
            .last()
            .is_none_or(|asked| asked.connection < 3)
        {
            let error = round(&mut client).await.unwrap_err();
            assert_eq!(error.reason(), Reason::Closed);
            waited |= matches!(error, ClientError::Waiting { .. })
                && error.to_string().contains("next connection in 1 s");
            tokio::task::yield_now().await;
        }
        assert!(waited);
        assert!(
            started.elapsed() >= Duration::from_millis(40 + 80 + 160),
            "{:?}",
            started.elapsed()
        );
    }
}

#[tokio::test]
async fn metadata_is_asked_with_listeners_where_that_is_offered() {
    for (offered, asked) in [(5, 1), (6, 6), (13, 6)] {
        let broker = FakeBroker::start(move |request| match request.api {
            18 => Answer::Body(vec![0, 0, 0, 0, 0, 1, 0, 3, 0, 0, 0, offered]),
            _ => Answer::Silence,
        })
        .await;
        let mut client = client(&broker, FAST);
        client.api().await.answer.unwrap();
        client.metadata(|_| Ok(())).await.answer.unwrap_err();
        assert_eq!(apis(&broker), [(0, 18, 0), (0, 3, asked)]);
    }
}

#[tokio::test]
async fn a_big_answer_is_read_in_another_thread() {
    let broker = FakeBroker::with_metadata(|_| Answer::Body(vec![0; 12])).await;
    let mut client = client(&broker, Timing::default());
    client.api().await.answer.unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let read = client.metadata(move |_| Ok(receiver.recv_timeout(Duration::from_secs(60))));
    // This test has one thread, on which the reader would wait in vain.
    let (asked, ()) = tokio::join!(read, async { sender.send(()).unwrap() });
    asked.answer.unwrap().unwrap();
}

#[tokio::test]
async fn late_metadata_is_slow_while_the_broker_answers() {
    let go = Arc::new(Notify::new());
    let late = go.clone();
    let broker =
        FakeBroker::with_metadata(move |_| Answer::Held(late.clone(), b"late".to_vec())).await;
    let mut client = client(&broker, FAST);
    assert_eq!(
        round(&mut client).await.unwrap_err().reason(),
        Reason::Timeout
    );
    go.notify_one();
    client
        .read_late(Instant::now() + Duration::from_secs(60))
        .await;
    client.api().await.answer.unwrap();
    let asked = client.ask(METADATA, |_, _| Ok(())).await;
    assert_eq!(asked.answer.unwrap_err().reason(), Reason::Slow);
    assert!(asked.duration >= FAST.deadline, "{:?}", asked.duration);
    assert_eq!(
        client.api().await.answer.unwrap_err().reason(),
        Reason::Timeout,
        "the owed answer has not come"
    );
}

#[test]
fn failed_connections_become_rarer_down_to_one_a_minute() {
    let seconds: Vec<u64> = (1..8)
        .map(|failures| Timing::default().retry_after(failures).as_secs())
        .collect();
    assert_eq!(seconds, [4, 8, 16, 32, 60, 60, 60]);
    assert_eq!(Timing::default().retry_after(u32::MAX).as_secs(), 60);
}
