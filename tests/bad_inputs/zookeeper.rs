//! Answers of ports that are not ZooKeeper, and of a ZooKeeper that is sick.

use std::time::Duration;

use kafka_vitals::kafka::conn::OwnConnections;
use kafka_vitals::kafka::zookeeper::Session;
use lab::fake_broker::Answer::{self, RawThenClose as Raw, RawThenSilence, Silence};
use lab::fake_broker::{FakeBroker, framed};
use tokio::time::Instant;

use crate::{Cases, spoilt};

/// What a server sends in a frame with this xid.
fn sent(xid: i32, body: &[u8]) -> Answer {
    RawThenSilence(framed(xid, body).into())
}

/// A session of 30 s, its id 7, its password sixteen bytes, not read-only.
fn session() -> Vec<u8> {
    let parts: [&[u8]; 5] = [
        &[0, 0, 0x75, 0x30],
        &[0, 0, 0, 0, 0, 0, 0, 7],
        &[0, 0, 0, 16],
        &[5; 16],
        &[0],
    ];
    parts.concat()
}

/// zxid 9, no error, one child `1`.
fn children() -> Vec<u8> {
    let parts: [&[u8]; 5] = [
        &[0, 0, 0, 0, 0, 0, 0, 9],
        &[0; 4],
        &[0, 0, 0, 1],
        &[0, 0, 0, 1],
        b"1",
    ];
    parts.concat()
}

#[tokio::test]
async fn answers() {
    let closed = "closed: closed the connection before it answered connect: ZooKeeper has no quorum or as many connections as it allows (maxClientCnxns), or the port requires TLS";
    let length = |length: i32| {
        format!(
            "protocol: answered connect with a frame of {length} bytes, but 4 to 1048576 are accepted: its port is not for ZooKeeper's clients"
        )
    };
    let frame = |length: i32| Raw(length.to_be_bytes().to_vec());
    let wire = |request: &str, what: &str| {
        format!(
            "protocol: answered {request} with bytes that are no such answer: {what}; its port is not for ZooKeeper's clients"
        )
    };
    let first = |answer: Answer| [answer, Silence];
    let second = |answer: Answer| [sent(0, &session()), answer];
    let of_session = |at, bytes: &[u8]| first(sent(0, &spoilt(session(), at, bytes)));
    let of_children = |at, bytes: &[u8]| second(sent(1, &spoilt(children(), at, bytes)));
    let cases: Vec<(&str, [Answer; 2], String)> = vec![
        ("right", second(sent(1, &children())), "Some([\"1\"])".into()),
        ("no node", of_children(8, &(-101_i32).to_be_bytes()), "None".into()),
        ("no right to read", of_children(8, &(-102_i32).to_be_bytes()), "denied: lets only clients with a login read /brokers/ids, which the exporter does not have".into()),
        ("a login is required", of_children(8, &(-124_i32).to_be_bytes()), "denied: serves only clients with a login, which the exporter does not have".into()),
        ("another error", of_children(8, &(-8_i32).to_be_bytes()), "protocol: answered getChildren of /brokers/ids with ZooKeeper's error -8".into()),
        ("TLS", first(Raw(vec![0x15, 3, 3, 0, 2, 2, 80])), "unsupported: speaks TLS, which the exporter does not speak with ZooKeeper".into()),
        ("HTTP", first(Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())), "protocol: is a web server, not ZooKeeper".into()),
        ("frame of -1", first(frame(-1)), length(-1)),
        ("frame of 3", first(frame(3)), length(3)),
        ("frame of 2 GiB", first(frame(i32::MAX)), length(i32::MAX)),
        ("frame of 1 MiB and a byte", first(frame((1 << 20) + 1)), length((1 << 20) + 1)),
        ("an endless frame", second(RawThenSilence([[0, 0x10, 0, 0], [0, 0, 0, 1]].concat().into())), "timeout: accepted the connection and has not answered getChildren for * ms: ZooKeeper hangs, or its port is not for clients".into()),
        ("closed at once", first(Raw(vec![])), closed.into()),
        ("closed in the frame", first(Raw(vec![0, 0, 0, 20, 0, 0, 0, 0, 5])), closed.into()),
        ("closed after the session", second(Raw(vec![])), closed.replace("connect:", "getChildren:")),
        ("silence", first(Silence), "timeout: accepted the connection and has not answered connect for * ms: ZooKeeper hangs, or its port is not for clients".into()),
        ("silence after the session", second(Silence), "timeout: accepted the connection and has not answered getChildren for * ms: *".into()),
        ("another protocol", first(sent(1, &session())), "protocol: answered request 1, but connect was request 0: its port is not for ZooKeeper's clients, or something in between corrupts the connection".into()),
        ("another xid", second(sent(2, &children())), "protocol: answered request 2, but getChildren was request 1: *".into()),
        ("a watch that nobody set", second(sent(-1, &children())), "protocol: answered request -1, but getChildren was request 1: *".into()),
        ("an expired session", of_session(0, &[0; 4]), "closed: does not know the exporter's session any more, or granted one too late".into()),
        ("an empty session", first(sent(0, &[])), wire("connect", "session timeout at byte 0: 4 bytes expected, 0 left")),
        ("a huge password", of_session(12, &[0x7f, 0xff, 0xff, 0xff]), wire("connect", "session password at byte 12: at most 16 expected, 2147483647 announced")),
        ("two billion children", of_children(12, &[0x7f, 0xff, 0xff, 0xff]), wire("getChildren", "children at byte 12: 2147483647 elements of 4 bytes or more expected, 5 bytes left")),
        ("children below zero", of_children(12, &[0xff, 0xff, 0xff, 0xfe]), wire("getChildren", "children at byte 12: the length is -2, but it may not be negative")),
        ("a name beyond the end", of_children(16, &[0, 0, 0, 9]), wire("getChildren", "child at byte 20: 9 bytes expected, 1 left")),
        ("a name of 256 bytes", of_children(16, &[0, 0, 1, 0]), wire("getChildren", "child at byte 16: at most 255 bytes expected, 256 announced")),
        ("a name that is no text", of_children(20, &[0xff]), wire("getChildren", "child at byte 16: text expected, but these bytes are not UTF-8")),
        ("more than the message", second(sent(1, &[children(), vec![0; 3]].concat())), wire("getChildren", "children at byte 21: end of the message expected, 3 bytes left")),
    ];
    let number = cases.len();
    let mut running = tokio::task::JoinSet::new();
    for (name, answers, golden) in cases {
        running.spawn(async move {
            // The first request of a connection has no kind where the others have theirs.
            let server = FakeBroker::start(move |asked| {
                answers[usize::from(asked.correlation != 0)].clone()
            })
            .await;
            (name, golden, read(&server.address).await)
        });
    }
    let mut checked = Cases::default();
    for (name, golden, text) in running.join_all().await {
        checked.check(name, &golden, &text);
    }
    checked.finish(29, number);
}

async fn read(address: &str) -> String {
    let servers = vec![address.to_owned()];
    let mut session = Session::new(servers, 0, OwnConnections::default(), true);
    let deadline = Instant::now() + Duration::from_secs(2);
    let names = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
    match session.children("/brokers/ids", deadline, names).await {
        Ok(names) => format!("{names:?}"),
        Err(error) => {
            let (reason, text) = (error.reason(), error.to_string());
            let text = text.strip_prefix(&format!("{address} "));
            format!("{reason}: {}", text.expect("the server is named"))
        }
    }
}
