use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lab::fake_broker::{Answer, FakeBroker, ReceivedRequest};

use super::*;
use crate::kafka::client::{Client, ClientError, Timing};
use crate::kafka::conn::OwnConnections;
use crate::kafka::security::{Login, Security, SecuritySource};
use crate::model::{Reason, Secret};

const PASSWORD: &str = "s3cret+word";

fn security(mechanism: Mechanism, password: &str) -> Security {
    let credentials = Credentials {
        mechanism,
        username: "monitor".into(),
        password: Secret::new(password.into()),
        from: "`sasl` in the config".into(),
    };
    Security {
        tls: None,
        login: Login::With(Arc::new(credentials)),
    }
}

fn client(broker: &FakeBroker, mechanism: Mechanism) -> Client {
    let (address, own) = (broker.address.clone(), OwnConnections::default());
    Client::new(address, own, Timing::default()).with_security(security(mechanism, PASSWORD))
}

/// Of a broker since 1.0: Metadata 0 to 2, SaslHandshake, SaslAuthenticate.
fn offers_sasl() -> Vec<u8> {
    let keys = [[3, 0, 2], [17, 0, 1], [36, 0, 1]];
    let keys = keys.into_iter().flatten().flat_map(i16::to_be_bytes);
    [0, 0, 0, 0, 0, 3].into_iter().chain(keys).collect()
}

fn handshake(error: i16) -> Vec<u8> {
    let mut body = error.to_be_bytes().to_vec();
    body.extend([0, 0, 0, 2, 0, 5]);
    body.extend(b"PLAIN");
    body.extend([0, 13]);
    body.extend(b"SCRAM-SHA-256");
    body
}

fn authenticate(error: i16, message: Option<&str>, token: &[u8]) -> Answer {
    let mut body = error.to_be_bytes().to_vec();
    match message {
        None => body.extend((-1_i16).to_be_bytes()),
        Some(text) => {
            body.extend((text.len() as i16).to_be_bytes());
            body.extend(text.as_bytes());
        }
    }
    body.extend((token.len() as i32).to_be_bytes());
    body.extend(token);
    Answer::Body(body)
}

/// A broker that offers logins. `answer` gets the token of each SaslAuthenticate, and its number.
async fn broker(answer: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> FakeBroker {
    let tokens = AtomicUsize::new(0);
    FakeBroker::start_reading(move |asked: ReceivedRequest, body| match asked.api {
        18 => Answer::Body(offers_sasl()),
        17 => Answer::Body(handshake(0)),
        36 => {
            let token = std::str::from_utf8(&body[4..]).unwrap();
            answer(token, tokens.fetch_add(1, Ordering::Relaxed))
        }
        api => panic!("request {api} before the login was complete"),
    })
    .await
}

async fn refusal(mut client: Client) -> ClientError {
    client.api().await.answer.unwrap_err()
}

#[tokio::test]
async fn plain_sends_name_and_password_and_then_asks() {
    let broker = broker(|token, _| match token {
        "\0monitor\0s3cret+word" => authenticate(0, None, b""),
        _ => authenticate(58, Some("wrong"), b""),
    })
    .await;
    let mut client = client(&broker, Mechanism::Plain);
    assert!(client.api().await.answer.is_ok());
    let apis: Vec<_> = broker
        .asked()
        .iter()
        .map(|one| (one.api, one.version))
        .collect();
    assert_eq!(apis, [(18, 0), (17, 1), (36, 0), (18, 0)]);
    // Once for a connection.
    assert!(client.api().await.answer.is_ok());
    assert_eq!(broker.asked().len(), 5);
}

#[tokio::test]
async fn refusals_name_the_remedy_and_no_password() {
    let long = "x".repeat(3000);
    let table = [
        (
            Some("Authentication failed: Invalid username or password"),
            "error 58: Authentication failed: Invalid username or password",
        ),
        (None, "(error 58: )"),
        (Some("no user\nmonitor"), "no user monitor"),
        (Some("monitor/s3cret+word is wrong"), "contain the password"),
        (Some(&*long), "(cut)"),
    ];
    for (said, shown) in table {
        let said = said.map(str::to_owned);
        let broker = broker(move |_, _| authenticate(58, said.as_deref(), b"")).await;
        let error = refusal(client(&broker, Mechanism::Plain)).await;
        assert_eq!(error.reason(), Reason::Denied);
        let text = error.to_string();
        assert!(
            text.contains(shown) && text.contains("correct the user or the password"),
            "{text}"
        );
        assert!(
            text.contains("user \"monitor\" by PLAIN, from `sasl` in the config"),
            "{text}"
        );
        assert!(!text.contains(PASSWORD) && text.len() < 600, "{text}");
    }
}

#[tokio::test]
async fn a_listener_without_the_mechanism_or_without_sasl_is_named() {
    for (error, shown) in [
        (
            33,
            "offers no login by SCRAM-SHA-512, but by PLAIN, SCRAM-SHA-256",
        ),
        (34, "takes no login (Kafka's error 34)"),
    ] {
        let broker = FakeBroker::start(move |asked| match asked.api {
            18 => Answer::Body(offers_sasl()),
            _ => Answer::Body(handshake(error)),
        })
        .await;
        let mut client = client(&broker, Mechanism::ScramSha512);
        let error = client.api().await.answer.unwrap_err();
        assert_eq!(error.reason(), Reason::Config);
        assert!(error.to_string().contains(shown), "{error}");
        // Each one is a failed authentication in the broker's log.
        let ClientError::Waiting { wait, .. } = client.api().await.answer.unwrap_err() else {
            panic!("hammering");
        };
        assert!(wait > Timing::default().retry_last, "{wait:?}");
    }
}

#[tokio::test]
async fn a_hostile_server_learns_nothing_and_costs_little() {
    // What it says to the first token, where NONCE stands for that of the client, and to the second one.
    let table: [(&str, &str, Reason, &str); 8] = [
        (
            "r=NONCEx,s=AAAA,i=2147483647",
            "",
            Reason::Protocol,
            "asks for 2147483647 iterations",
        ),
        (
            "r=NONCEx,s=AAAA,i=1",
            "",
            Reason::Protocol,
            "asks for 1 iterations",
        ),
        (
            "r=other,s=AAAA,i=4096",
            "",
            Reason::Protocol,
            "does not continue",
        ),
        (
            "r=NONCE,s=AAAA,i=4096",
            "",
            Reason::Protocol,
            "does not continue",
        ),
        ("", "", Reason::Protocol, "no valid nonce"),
        (
            "r=NONCEx,s=AAAA,i=4096",
            "v=AAAA",
            Reason::Protocol,
            "does not know the password itself",
        ),
        (
            "r=NONCEx,s=AAAA,i=4096",
            "r=NONCEx,s=AAAA,i=4096",
            Reason::Protocol,
            "no valid signature",
        ),
        (
            "r=NONCEx,s=AAAA,i=4096",
            "e=invalid-proof",
            Reason::Denied,
            "invalid-proof",
        ),
    ];
    for (first, second, reason, shown) in table {
        let broker = broker(move |token, number| {
            let nonce = token.rsplit_once("r=").unwrap().1;
            let message = if number == 0 { first } else { second };
            let message = message.replace("NONCE", nonce.split(',').next().unwrap());
            authenticate(0, None, message.as_bytes())
        })
        .await;
        let error = refusal(client(&broker, Mechanism::ScramSha256)).await;
        assert_eq!(error.reason(), reason, "{first}: {error}");
        assert!(error.to_string().contains(shown), "{first}: {error}");
        let sent = broker.asked().iter().filter(|one| one.api == 36).count();
        assert!(sent <= 2, "{first}");
    }
}

#[tokio::test]
async fn answers_that_are_none_are_refused() {
    let table = [
        Answer::Body(vec![0; 64 << 10]),
        Answer::Body(vec![]),
        Answer::Body(vec![0, 0, 0, 9, b'x']),
        Answer::Body(vec![0, 0, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]),
        Answer::RawThenClose(vec![0x7f; 100]),
    ];
    for answer in table {
        let broker = broker(move |_, _| answer.clone()).await;
        let error = refusal(client(&broker, Mechanism::Plain)).await;
        assert_eq!(error.reason(), Reason::Protocol, "{error}");
    }
}

#[tokio::test]
async fn a_refused_login_is_sent_again_only_with_other_settings() {
    let broker = broker(|token, _| match token {
        "\0monitor\0right" => authenticate(0, None, b""),
        _ => authenticate(58, None, b""),
    })
    .await;
    let newest = Arc::new(Mutex::new(Arc::new(security(Mechanism::Plain, "wrong"))));
    let source = {
        let newest = Arc::clone(&newest);
        SecuritySource::new(move || Ok(Arc::clone(&newest.lock().unwrap())))
    };
    let (address, own) = (broker.address.clone(), OwnConnections::default());
    let mut client = Client::new(address, own, Timing::default()).with_source(source);
    for _ in 0..20 {
        let error = client.api().await.answer.unwrap_err();
        assert_eq!(error.reason(), Reason::Denied, "{error}");
    }
    let logins = |broker: &FakeBroker| broker.asked().iter().filter(|one| one.api == 36).count();
    assert_eq!(logins(&broker), 1, "hammering");
    *newest.lock().unwrap() = Arc::new(security(Mechanism::Plain, "right"));
    assert!(client.api().await.answer.is_ok());
    assert_eq!(logins(&broker), 2);
}

#[tokio::test]
async fn files_that_cannot_be_read_are_no_silence_of_the_broker() {
    let broker = broker(|_, _| Answer::Silence).await;
    let source = SecuritySource::new(|| Err("`sasl.password_file` /x: does not exist".to_owned()));
    let (address, own) = (broker.address.clone(), OwnConnections::default());
    let mut client = Client::new(address, own, Timing::default()).with_source(source);
    let asked = client.api().await;
    let error = asked.answer.unwrap_err();
    assert_eq!((error.reason(), asked.connected_in), (Reason::Config, None));
    assert!(error.to_string().contains("/x: does not exist"), "{error}");
    assert_eq!(broker.asked(), []);
}

#[tokio::test]
async fn a_login_without_answer_keeps_its_connection_and_begins_again_after_it() {
    let until = Arc::new(tokio::sync::Notify::new());
    let held = Arc::clone(&until);
    let broker = broker(move |_, number| match number {
        0 => Answer::Held(Arc::clone(&held), vec![0, 0, 0xff, 0xff, 0, 0, 0, 0]),
        _ => authenticate(0, None, b""),
    })
    .await;
    let timing = Timing {
        deadline: Duration::from_millis(200),
        ..Timing::default()
    };
    let (address, own) = (broker.address.clone(), OwnConnections::default());
    let mut client =
        Client::new(address, own, timing).with_security(security(Mechanism::Plain, PASSWORD));
    for _ in 0..3 {
        let error = client.api().await.answer.unwrap_err();
        assert_eq!(error.reason(), Reason::Timeout, "{error}");
    }
    let connections = |broker: &FakeBroker| broker.asked().last().unwrap().connection;
    assert_eq!((broker.asked().len(), connections(&broker)), (3, 0));
    until.notify_one();
    client
        .read_late(Instant::now() + Duration::from_secs(2))
        .await;
    assert!(client.api().await.answer.is_ok());
    assert_eq!(connections(&broker), 1);
}
