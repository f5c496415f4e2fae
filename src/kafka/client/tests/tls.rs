//! Brokers that speak TLS, that demand a certificate or a login, and that break the handshake.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::rustls::SupportedProtocolVersion;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::{TLS12, TLS13};

use super::*;
use crate::kafka::conn::OwnConnections;
use crate::kafka::security::{Security, Tls, TlsSettings};
use crate::model::{Moment, SecurityProtocol};
use lab::fake_broker::{ClientAuth, FakeTls, offers_metadata};

/// 2030-01-01.
const END: i64 = 1_893_456_000;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

fn without_credentials(address: &str, protocol: SecurityProtocol) -> Client {
    let client = Client::new(address.into(), OwnConnections::default(), FAST);
    client.with_security(Security::without_credentials(protocol))
}

fn with_settings(address: &str, settings: TlsSettings) -> Client {
    let client = Client::new(address.into(), OwnConnections::default(), FAST);
    client.with_security(Security {
        tls: Some(Tls::new(settings).unwrap()),
        ..Security::default()
    })
}

fn authority(tls: &FakeTls) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(tls.certificate.as_bytes()).unwrap()
}

async fn answering(tls: &FakeTls) -> FakeBroker {
    FakeBroker::with_tls(tls, |asked| match asked.api {
        18 => Answer::Body(offers_metadata()),
        _ => Answer::Body(b"metadata".to_vec()),
    })
    .await
}

/// Waits until the broker has counted so many handshakes.
async fn handshakes(broker: &FakeBroker, count: usize) -> Vec<Result<(), String>> {
    loop {
        let all = broker.handshakes();
        if all.len() >= count {
            return all;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn any_certificate_is_taken_and_its_end_is_read() {
    for version in VERSIONS {
        let broker = answering(&FakeTls::until(END, version)).await;
        let mut client = without_credentials(&broker.address, SecurityProtocol::Ssl);
        for _ in 0..2 {
            assert_eq!(round(&mut client).await.unwrap(), b"metadata");
        }
        assert_eq!(
            apis(&broker),
            [(0, 18, 0), (0, 3, 1), (0, 18, 0), (0, 3, 1)]
        );
        assert_eq!(client.certificate_end(), Some(Moment(END as u64 * 1000)));
        assert_eq!(client.trust(), Some(Trust::Unverified));
        assert!(client.is_answered_by_handler());
    }
}

/// As `openssl x509 -req` makes them, which the instructions of Kafka use.
#[tokio::test]
async fn a_certificate_of_version_1_with_sha_1_and_without_names_is_taken() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls");
    let read = |ending: &str| {
        std::fs::read_to_string(format!("{folder}/version-1-sha1.{ending}")).unwrap()
    };
    for version in VERSIONS {
        let old = FakeTls {
            certificate: read("pem"),
            key: read("key"),
            version,
            client_auth: ClientAuth::None,
        };
        let broker = answering(&old).await;
        let mut client = without_credentials(&broker.address, SecurityProtocol::Ssl);
        assert_eq!(round(&mut client).await.unwrap(), b"metadata");
        let settings = TlsSettings {
            authorities: vec![authority(&FakeTls::until(END, version))],
            ..TlsSettings::default()
        };
        let error = round(&mut with_settings(&broker.address, settings)).await;
        let error = error.unwrap_err();
        assert_eq!(error.reason(), Reason::Certificate);
        assert!(
            error.to_string().contains("`tls.insecure_skip_verify`"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_seen_because_the_connection_is_renewed() {
    let broker = answering(&FakeTls::until(END, &TLS13)).await;
    let mut client = without_credentials(&broker.address, SecurityProtocol::Ssl);
    client.timing.renew_tls = Duration::ZERO;
    for _ in 0..2 {
        round(&mut client).await.unwrap();
    }
    assert_eq!(
        apis(&broker),
        [(0, 18, 0), (0, 3, 1), (1, 18, 0), (1, 3, 1)]
    );
}

/// The first attempt shows that the certificate is required. Later ones end before the broker would log a failed login.
#[tokio::test]
async fn a_broker_that_demands_a_certificate_is_asked_for_its_handshake() {
    for version in VERSIONS {
        let tls = FakeTls {
            client_auth: ClientAuth::Required,
            ..FakeTls::until(END, version)
        };
        let broker = answering(&tls).await;
        let mut client = without_credentials(&broker.address, SecurityProtocol::Ssl);
        for round in 1..4 {
            let asked = client.api().await;
            let error = asked.answer.unwrap_err();
            assert_eq!(error.reason(), Reason::NeedsCredentials, "{error}");
            assert!(error.to_string().contains("`tls.cert_file`"), "{error}");
            assert!(!client.is_answered_by_handler());
            assert_eq!(client.certificate_end(), Some(Moment(END as u64 * 1000)));
            handshakes(&broker, round).await;
        }
        let refused = "peer sent no certificates".to_owned();
        let ended = "tls handshake eof".to_owned();
        let expected = [Err(refused), Err(ended.clone()), Err(ended)];
        assert_eq!(broker.handshakes(), expected);
        let identity = (
            vec![authority(&tls)],
            PrivateKeyDer::from_pem_slice(tls.key.as_bytes()).unwrap(),
        );
        let settings = TlsSettings {
            authorities: vec![authority(&tls)],
            identity: Some(identity),
            ..TlsSettings::default()
        };
        let mut client = with_settings(&broker.address, settings);
        assert_eq!(round(&mut client).await.unwrap(), b"metadata");
    }
}

/// One close does not make it a broker that demands a certificate for good.
#[tokio::test]
async fn a_broker_that_only_requests_a_certificate_is_asked_again_after_it_closed() {
    for version in VERSIONS {
        let tls = FakeTls {
            client_auth: ClientAuth::Requested,
            ..FakeTls::until(END, version)
        };
        let broker = FakeBroker::with_tls(&tls, |asked| match (asked.connection, asked.api) {
            (0, _) => Answer::Close,
            (_, 18) => Answer::Body(offers_metadata()),
            _ => Answer::Body(b"metadata".to_vec()),
        })
        .await;
        let mut client = without_credentials(&broker.address, SecurityProtocol::Ssl);
        let start = Instant::now();
        while let Err(error) = client.api().await.answer {
            assert_eq!(error.reason(), Reason::NeedsCredentials, "{error}");
            assert!(start.elapsed() < FAST.retry_tls * 10, "for good");
            tokio::task::yield_now().await;
        }
        assert!(start.elapsed() >= FAST.retry_tls);
        assert!(client.is_answered_by_handler());
        assert_eq!(round(&mut client).await.unwrap(), b"metadata");
    }
}

#[tokio::test]
async fn before_a_login_each_connection_asks_once() {
    let broker = FakeBroker::with_metadata(|_| Answer::Close).await;
    let mut client = without_credentials(&broker.address, SecurityProtocol::SaslPlaintext);
    for _ in 0..2 {
        assert!(!client.is_answered_by_handler());
        client.api().await.answer.unwrap();
        let error = client.metadata(|_| Ok(())).await.answer.unwrap_err();
        assert_eq!(error.reason(), Reason::NeedsCredentials);
        assert!(error.to_string().contains("`sasl`"), "{error}");
    }
    assert_eq!(apis(&broker), [(0, 18, 0), (1, 18, 0)]);
}

#[tokio::test]
async fn certificates_are_verified_where_an_authority_is_configured() {
    let [past, other, right] = [1_600_000_000, END, END].map(|end| FakeTls::until(end, &TLS13));
    let verifying = |tls: &FakeTls, server_name: Option<&str>| TlsSettings {
        authorities: vec![authority(tls)],
        server_name: server_name.map(str::to_owned),
        ..TlsSettings::default()
    };
    let cases = [
        (
            &past,
            verifying(&past, None),
            "expired at 2020-09-13T12:26:40Z: renew it",
        ),
        (
            &right,
            verifying(&other, None),
            "comes from no authority of `tls.ca_file`",
        ),
        (
            &right,
            verifying(&right, Some("kafka.example")),
            "is not for kafka.example but for 127.0.0.1, localhost: name one of its names as `tls.server_name`",
        ),
    ];
    for (shown, settings, expected) in cases {
        let broker = answering(shown).await;
        let mut client = with_settings(&broker.address, settings);
        let error = round(&mut client).await.unwrap_err();
        assert_eq!(error.reason(), Reason::Certificate);
        let message = error.to_string();
        assert!(
            message.starts_with(&broker.address) && message.contains(expected),
            "{message}"
        );
        assert_eq!(broker.asked(), [], "nothing is sent to whom is not trusted");
        let error = round(&mut client).await.unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.contains("next connection in"),
            "{error}"
        );
    }
    let broker = answering(&right).await;
    for name in [None, Some("localhost")] {
        let mut client = with_settings(&broker.address, verifying(&right, name));
        assert_eq!(round(&mut client).await.unwrap(), b"metadata");
    }
}

/// A secret cannot be sent to anybody who happens to answer.
#[tokio::test]
async fn only_a_verified_or_a_plain_connection_is_one_for_secrets() {
    let tls = FakeTls::until(END, &TLS13);
    let broker = answering(&tls).await;
    let verified = TlsSettings {
        authorities: vec![authority(&tls)],
        ..TlsSettings::default()
    };
    let vouched = TlsSettings {
        insecure_skip_verify: true,
        ..TlsSettings::default()
    };
    let cases = [
        (None, true),
        (Some(Tls::unverified()), false),
        (Some(Tls::new(TlsSettings::default()).unwrap()), false),
        (Some(Tls::new(verified).unwrap()), true),
        (Some(Tls::new(vouched).unwrap()), true),
    ];
    for (tls, expected) in cases {
        let dialer = OwnConnections::default().into();
        let within = Duration::from_secs(5);
        let conn = Conn::connect(&broker.address, within, &dialer, true, tls.as_ref()).await;
        assert_eq!(conn.unwrap().trusted().is_ok(), expected, "{tls:?}");
    }
}

/// Listens, sends `bytes` on each connection, and then closes it or keeps it open. Returns its address, and how many
/// connections it has accepted.
async fn sends(
    bytes: &'static [u8],
    closes: bool,
) -> (String, Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let accepted = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            // The ClientHello, so that the close is no reset.
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(bytes).await;
            if !closes {
                open.push(stream);
            }
        }
    });
    (address, accepted)
}

#[tokio::test]
async fn a_broker_that_never_finishes_the_handshake_is_silent_and_costs_one_connection() {
    // Nothing, and the beginning of a ServerHello.
    for bytes in [&b""[..], b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03"] {
        let (address, accepted) = sends(bytes, false).await;
        let mut client = without_credentials(&address, SecurityProtocol::Ssl);
        for _ in 0..3 {
            let asked = client.api().await;
            assert!(asked.connected_in.is_some(), "TCP has accepted");
            let error = asked.answer.unwrap_err();
            assert_eq!(error.reason(), Reason::Timeout);
            let expected = "accepted the connection and has not answered the TLS handshake for";
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert_eq!(accepted.load(std::sync::atomic::Ordering::SeqCst), 1);
        client.timing.silence = Duration::ZERO;
        client.api().await.answer.unwrap_err();
        assert_eq!(accepted.load(std::sync::atomic::Ordering::SeqCst), 2);
    }
}

#[tokio::test]
async fn what_speaks_no_tls_is_an_error_with_its_remedy() {
    let refuses = b"\x15\x03\x03\x00\x02\x02\x28"; // handshake_failure
    let cases: [(&[u8], Reason, &str); 5] = [
        (
            b"",
            Reason::Protocol,
            "closed the connection when TLS began: the listener is a PLAINTEXT or SASL_PLAINTEXT one",
        ),
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            Reason::Protocol,
            "speaks no TLS",
        ),
        (
            b"\x00\x00\x00\x0a\x00\x00\x00\x01\x00\x23\x00\x00\x00\x00",
            Reason::Protocol,
            "speaks no TLS",
        ),
        (
            refuses,
            Reason::Unsupported,
            "refused the TLS handshake with the alert HandshakeFailure",
        ),
        (
            b"\x16\x03\x03\x00\x04\x02\x00\x00\x00",
            Reason::Protocol,
            "broke the rules of TLS",
        ),
    ];
    for (bytes, reason, expected) in cases {
        let (address, _) = sends(bytes, true).await;
        let mut client = without_credentials(&address, SecurityProtocol::Ssl);
        let error = client.api().await.answer.unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        let message = error.to_string();
        assert!(
            message.starts_with(&address) && message.contains(expected),
            "{message}"
        );
    }
}

/// The port of a broker that spoke TLS does not turn into a PLAINTEXT one.
#[tokio::test]
async fn a_broker_that_spoke_tls_before_and_closes_is_one_that_closes() {
    let broker = answering(&FakeTls::until(END, &TLS13)).await;
    let mut client = without_credentials(&broker.address, SecurityProtocol::Ssl);
    client.api().await.answer.unwrap();
    (client.address, _) = sends(b"", true).await;
    client.kept = None;
    let error = client.api().await.answer.unwrap_err();
    assert_eq!(error.reason(), Reason::Closed, "{error}");
}

#[tokio::test]
async fn a_plain_client_says_that_the_listener_speaks_tls() {
    let broker = answering(&FakeTls::until(END, &TLS13)).await;
    let mut client = without_credentials(&broker.address, SecurityProtocol::Plaintext);
    let error = client.api().await.answer.unwrap_err();
    assert_eq!(error.reason(), Reason::Unsupported);
    let expected = "speaks TLS, but is asked without";
    assert!(error.to_string().contains(expected), "{error}");
}
