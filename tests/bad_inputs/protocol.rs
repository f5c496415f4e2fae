//! Answers of ports that are no broker, and of sick brokers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_vitals::collect::cluster::ClusterClient;
use kafka_vitals::kafka::conn::OwnConnections;
use kafka_vitals::model::{Broker, Reason};
use lab::fake_broker::Answer::{self, Body, RawThenClose as Raw, Silence};
use lab::fake_broker::{FakeBroker, offers_metadata};

use crate::host::Host;
use crate::{Cases, spoilt};

/// Metadata 1: broker 7 at h:9092 without a rack, controller 7, topic t with partition 0: leader, replicas and ISR 7.
fn metadata() -> Vec<u8> {
    let parts: [&[u8]; 10] = [
        &[
            0, 0, 0, 1, 0, 0, 0, 7, 0, 1, b'h', 0, 0, 0x23, 0x84, 0xff, 0xff,
        ],
        &[0, 0, 0, 7],
        &[0, 0, 0, 1, 0, 0, 0, 1, b't', 0],
        &[0, 0, 0, 1, 0, 0],
        &[0, 0, 0, 0],
        &[0, 0, 0, 7],
        &[0, 0, 0, 1],
        &[0, 0, 0, 7],
        &[0, 0, 0, 1],
        &[0, 0, 0, 7],
    ];
    parts.concat()
}

#[tokio::test]
async fn answers() {
    let closed = "closed: closed the connection before it answered ApiVersions: the broker is stopping, or the listener requires TLS or SASL (then name it as `probe_listener` in the config instead of its address as `bootstrap`)";
    let length = |length: i32| {
        format!(
            "protocol: answered ApiVersions with a frame of {length} bytes, but 4 to 1048576 are accepted: the port is no Kafka listener, or the cluster is too big"
        )
    };
    let frame = |length: i32| Raw(length.to_be_bytes().to_vec());
    let wire = |request: &str, what: &str| {
        format!(
            "protocol: answered {request} with bytes that are no such answer: {what}; the port is no Kafka listener, or this Kafka is newer than the exporter"
        )
    };
    let first = |answer: Answer| [answer, Silence];
    let second = |answer: Answer| [Body(offers_metadata()), answer];
    let spoilt = |at, bytes: &[u8]| Body(spoilt(metadata(), at, bytes));
    let trailing = [metadata(), vec![1, 2, 3]].concat();
    let old = "Kafka 0.10.0 or later is needed";
    let cases: Vec<(&str, [Answer; 2], String)> = vec![
        ("right", second(Body(metadata())), "1 partitions".into()),
        ("TLS", first(Raw(vec![0x15, 3, 3, 0, 2, 2, 80])), "unsupported: speaks TLS, but is asked without: `bootstrap` in the config leads to another listener than the broker's files say, so name the listener as `probe_listener` instead".into()),
        ("HTTP", first(Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())), "protocol: is a web server, not a broker: name the broker's own address as `bootstrap` in the config".into()),
        ("SSH", first(Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())), length(0x5353_482d)),
        ("frame of -1", first(frame(-1)), length(-1)),
        ("frame of the least", first(frame(i32::MIN)), length(i32::MIN)),
        ("frame of 0", first(frame(0)), length(0)),
        ("frame of 3", first(frame(3)), length(3)),
        ("frame of 2 GiB", first(frame(i32::MAX)), length(i32::MAX)),
        ("another correlation id", first(Raw([[0, 0, 0, 16], [0, 0, 0, 99]].concat().into_iter().chain(offers_metadata()).collect())), "protocol: answered request 99, but ApiVersions was request 1: the port is no Kafka listener, or something in between corrupts the connection".into()),
        ("closed at once", first(Raw(vec![])), closed.into()),
        ("closed in the frame's length", first(Raw(vec![0, 0])), closed.into()),
        ("closed in the frame", first(Raw(vec![0, 0, 0, 20, 0, 0, 0, 1, 5])), closed.into()),
        ("closed after ApiVersions", second(Raw(vec![])), closed.replace("ApiVersions", "Metadata")),
        ("silence", first(Silence), "timeout: accepted the connection and has not answered ApiVersions for * ms: the broker hangs or is slower than the deadline, or this is no Kafka listener".into()),
        ("silence after ApiVersions", second(Silence), "timeout: accepted the connection and has not answered Metadata for * ms: *".into()),
        ("ApiVersions with an error", first(Body(vec![0, 35, 0, 0, 0, 0])), format!("unsupported: answered ApiVersions with error 35: {old}")),
        ("no Metadata offered", first(Body(vec![0, 0, 0, 0, 0, 0])), format!("unsupported: speaks no Metadata version 1 (it offers none: a dedicated controller, or no broker): {old}")),
        ("newer Metadata offered", first(Body(vec![0, 0, 0, 0, 0, 1, 0, 3, 0, 2, 0, 20])), format!("unsupported: speaks no Metadata version 1 (it offers 2 to 20): {old}")),
        ("empty ApiVersions", first(Body(vec![])), wire("ApiVersions", "error code at byte 0: 2 bytes expected, 0 left")),
        ("api keys below zero", first(Body(vec![0, 0, 0xff, 0xff, 0xff, 0xfe])), wire("ApiVersions", "api keys at byte 2: the length is -2, but it may not be negative")),
        ("two billion brokers", second(spoilt(0, &[0x7f, 0xff, 0xff, 0xff])), wire("Metadata", "brokers at byte 0: 2147483647 elements of 12 bytes or more expected, 57 bytes left")),
        ("brokers below zero", second(spoilt(0, &[0xff; 4])), wire("Metadata", "brokers at byte 0: the length is -1, but it may not be negative")),
        ("host below zero", second(spoilt(8, &[0x80, 0])), wire("Metadata", "broker host at byte 8: the length is -32768, but it may not be negative")),
        ("host beyond the end", second(spoilt(8, &[0, 255])), wire("Metadata", "broker host at byte 10: 255 bytes expected, 51 left")),
        ("host of 256 bytes", second(spoilt(8, &[1, 0])), wire("Metadata", "broker host at byte 8: at most 255 bytes expected, 256 announced")),
        ("topic of 250 bytes", second(spoilt(27, &[0, 250])), wire("Metadata", "topic name at byte 27: at most 249 bytes expected, 250 announced")),
        ("host not UTF-8", second(spoilt(10, &[0xff])), wire("Metadata", "broker host at byte 8: text expected, but these bytes are not UTF-8")),
        ("port 65536", second(spoilt(11, &[0, 1, 0, 0])), wire("Metadata", "broker port at byte 11: 65536 is not a port")),
        ("replicas beyond the end", second(spoilt(45, &[0, 1, 0, 0])), wire("Metadata", "replicas at byte 45: 65536 elements of 4 bytes or more expected, 12 bytes left")),
        ("more than the message", second(Body(trailing)), wire("Metadata", "metadata at byte 61: end of the message expected, 3 bytes left")),
    ];
    let number = cases.len();
    let broker = Host::new().discovery().scan().unwrap().remove(0);
    let mut running = tokio::task::JoinSet::new();
    for (name, answers, golden) in cases {
        let broker = Arc::clone(&broker);
        running.spawn(async move {
            let port =
                FakeBroker::start(move |asked| answers[usize::from(asked.api == 3)].clone()).await;
            let text = probed(&port.address, broker, golden.starts_with("timeout")).await;
            (name, golden, text)
        });
    }
    let mut checked = Cases::default();
    for (name, golden, text) in running.join_all().await {
        checked.check(name, &golden, &text);
    }
    checked.finish(31, number);
}

async fn probed(address: &str, broker: Arc<Broker>, silent: bool) -> String {
    let mut collector = ClusterClient::new(
        broker,
        Some(address.to_owned()),
        None,
        OwnConnections::default(),
    );
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match collector.probe().await.unwrap().1 {
            Ok(counts) => return format!("{} partitions", counts.partitions),
            // On a busy machine this test's own listener can be late; the next round gets its answer.
            Err(failure)
                if failure.reason == Reason::Timeout && !silent && Instant::now() < deadline => {}
            Err(failure) => {
                let start = format!("broker 7 (pid 77): {address} ");
                let text = failure
                    .message
                    .strip_prefix(&start)
                    .expect("broker and address are named");
                return format!("{}: {text}", failure.reason);
            }
        }
    }
}

#[tokio::test]
async fn no_listener_and_none_that_can_be_asked() {
    #[rustfmt::skip] // a case a line
    let cases = [
        ("listeners=PLAINTEXT://127.0.0.1:1\n", "nothing listens on 127.0.0.1:1: the broker is starting or has ended, or `bootstrap` in the config should name another address"),
        ("listeners=SSL://127.0.0.1:1,SASL_SSL://127.0.0.1:2\n", "nothing listens on 127.0.0.1:1: the broker is starting or has ended, or `bootstrap` in the config should name another address"),
        ("listeners=ODD://127.0.0.1:1\n", "whether its listeners (ODD) speak TLS or SASL is unknown, because `listener.security.protocol.map` does not have them: name a PLAINTEXT one as `probe_listener` in the config"),
        ("listeners=junk\n", "its listeners are unknown (entry 1 of listeners is not of the form NAME://HOST:PORT), so name its address as `bootstrap` in the config"),
    ];
    for (text, golden) in cases {
        let host = Host::new();
        host.properties(format!(
            "broker.id=7\nzookeeper.connect=z\nlog.dirs=/data\n{text}"
        ));
        let broker = host.discovery().scan().unwrap().remove(0);
        let probed = ClusterClient::new(broker, None, None, OwnConnections::default())
            .probe()
            .await;
        let failure = probed.and_then(|(_, counts)| counts).unwrap_err();
        assert_eq!(failure.message, format!("broker 7 (pid 77): {golden}"));
    }
}
