//! A fake broker whose answers a test chooses: silence, malformed bytes, one byte at a time. Unit tests, `tests/bad_inputs`
//! and the benches use it.

#![allow(clippy::unwrap_used)] // a panic here is the failure of a test

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// The header of a received request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceivedRequest {
    /// The number of the connection, from 0.
    pub connection: usize,
    pub api: i16,
    pub version: i16,
    pub correlation: i32,
}

/// What the broker does with a request.
#[derive(Clone)]
pub enum Answer {
    /// This body in a frame with the right length and correlation id.
    Body(Vec<u8>),
    /// The same, sent once the test notifies.
    Held(Arc<Notify>, Vec<u8>),
    /// These bytes, after which the broker closes the connection.
    RawThenClose(Vec<u8>),
    /// These bytes, and nothing more on the open connection.
    RawThenSilence(Arc<[u8]>),
    /// These bytes, and the others once the test notifies.
    RawThenRest(Arc<[u8]>, Arc<Notify>, Vec<u8>),
    /// These bytes one by one, with a pause after each.
    Dribble(Vec<u8>, Duration),
    Silence,
    Close,
    /// Nothing, and the connection is closed once the test notifies.
    CloseLater(Arc<Notify>),
}

/// A running fake broker. Dropping it closes its listener and its connections.
pub struct FakeBroker {
    pub address: String,
    asked: Arc<Mutex<Vec<ReceivedRequest>>>,
    handshakes: Arc<Mutex<Vec<Result<(), String>>>>,
    accepting: JoinHandle<()>,
}

/// TLS of a fake broker.
pub struct FakeTls {
    /// In PEM form, of nobody but itself: what a client must trust.
    pub certificate: String,
    /// In PEM form.
    pub key: String,
    pub version: &'static SupportedProtocolVersion,
    /// Whether a client must show `certificate` as well.
    pub client_auth: ClientAuth,
}

/// As Kafka's `ssl.client.auth`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    None,
    Requested,
    Required,
}

impl FakeTls {
    /// For 127.0.0.1 and `localhost`, until `end` in seconds since 1970.
    pub fn until(end: i64, version: &'static SupportedProtocolVersion) -> FakeTls {
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_after = time::OffsetDateTime::from_unix_timestamp(end).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        FakeTls {
            certificate: params.self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
            version,
            client_auth: ClientAuth::None,
        }
    }

    fn config(&self) -> ServerConfig {
        use rustls::pki_types::pem::PemObject as _;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let key = provider.key_provider.load_private_key(key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[self.version])
            .unwrap();
        let config = if self.client_auth != ClientAuth::None {
            let mut roots = RootCertStore::empty();
            roots.add(certificate.clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier = match self.client_auth {
                ClientAuth::Requested => verifier.allow_unauthenticated(),
                _ => verifier,
            };
            config.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            config.with_no_client_auth()
        };
        // Unlike `with_single_cert` it takes certificates that rustls itself would not.
        let shown = CertifiedKey::new(vec![certificate], key);
        config.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)))
    }
}

impl Drop for FakeBroker {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Frames a body as a broker does.
pub fn framed(correlation: i32, body: &[u8]) -> Vec<u8> {
    let mut frame = i32::try_from(body.len() + 4)
        .unwrap()
        .to_be_bytes()
        .to_vec();
    frame.extend_from_slice(&correlation.to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

/// Returns the ApiVersions body of a broker that offers Metadata 0 to 2, as 0.10.1 does.
pub fn offers_metadata() -> Vec<u8> {
    vec![0, 0, 0, 0, 0, 1, 0, 3, 0, 0, 0, 2]
}

/// Metadata 1 of this many brokers with host names of this many bytes, and of one topic. All partitions are without a
/// leader, so that each of them is counted and none is led.
pub fn metadata(brokers: i32, host_bytes: i16, partitions: i32) -> Vec<u8> {
    let mut body = brokers.to_be_bytes().to_vec();
    for id in 0..brokers {
        body.extend(id.to_be_bytes());
        body.extend(host_bytes.to_be_bytes());
        body.resize(body.len() + host_bytes as usize, b'h');
        body.extend(9092_i32.to_be_bytes());
        body.extend((-1_i16).to_be_bytes());
    }
    body.extend((-1_i32).to_be_bytes());
    body.extend(1_i32.to_be_bytes());
    body.extend([0, 0, 0, 1, b't', 0]);
    body.extend(partitions.to_be_bytes());
    for index in 0..partitions {
        body.extend(5_i16.to_be_bytes());
        body.extend(index.to_be_bytes());
        body.extend((-1_i32).to_be_bytes());
        body.extend([0; 8]);
    }
    body
}

impl FakeBroker {
    /// Listens on a free loopback port and answers each request with `answer`.
    pub async fn start(
        answer: impl Fn(ReceivedRequest) -> Answer + Send + Sync + 'static,
    ) -> FakeBroker {
        FakeBroker::listen(None, move |asked, _| answer(asked)).await
    }

    /// The same for an `answer` that reads what comes after the header as well.
    pub async fn start_reading(
        answer: impl Fn(ReceivedRequest, &[u8]) -> Answer + Send + Sync + 'static,
    ) -> FakeBroker {
        FakeBroker::listen(None, answer).await
    }

    /// As [`FakeBroker::start`], with TLS.
    pub async fn with_tls(
        tls: &FakeTls,
        answer: impl Fn(ReceivedRequest) -> Answer + Send + Sync + 'static,
    ) -> FakeBroker {
        let acceptor = TlsAcceptor::from(Arc::new(tls.config()));
        FakeBroker::listen(Some(acceptor), move |asked, _| answer(asked)).await
    }

    async fn listen(
        tls: Option<TlsAcceptor>,
        answer: impl Fn(ReceivedRequest, &[u8]) -> Answer + Send + Sync + 'static,
    ) -> FakeBroker {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (asked.clone(), Arc::new(answer));
        let handshakes = Arc::<Mutex<Vec<_>>>::default();
        let shaken = handshakes.clone();
        let accepting = tokio::spawn(async move {
            // The end of this task drops the set, which ends the connections.
            let mut serving = tokio::task::JoinSet::new();
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let (answer, log) = (answer.clone(), log.clone());
                let Some(tls) = &tls else {
                    serving.spawn(serve(stream, connection, answer, log));
                    continue;
                };
                let (accepting, shaken) = (tls.accept(stream), shaken.clone());
                serving.spawn(async move {
                    let accepted = accepting.await;
                    let result = accepted.as_ref().map(drop);
                    let result = result.map_err(|error| error.to_string());
                    shaken.lock().unwrap().push(result);
                    if let Ok(stream) = accepted {
                        serve(stream, connection, answer, log).await;
                    }
                });
            }
        });
        FakeBroker {
            address,
            asked,
            handshakes,
            accepting,
        }
    }

    /// Answers ApiVersions with [`offers_metadata`] and all other requests with `answer`.
    pub async fn with_metadata(
        answer: impl Fn(ReceivedRequest) -> Answer + Send + Sync + 'static,
    ) -> FakeBroker {
        FakeBroker::start(move |asked| {
            if asked.api == 18 {
                Answer::Body(offers_metadata())
            } else {
                answer(asked)
            }
        })
        .await
    }

    /// Returns how the handshakes of TLS ended so far.
    pub fn handshakes(&self) -> Vec<Result<(), String>> {
        self.handshakes.lock().unwrap().clone()
    }

    /// Returns all requests so far.
    pub fn asked(&self) -> Vec<ReceivedRequest> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    connection: usize,
    answer: Arc<impl Fn(ReceivedRequest, &[u8]) -> Answer>,
    log: Arc<Mutex<Vec<ReceivedRequest>>>,
) {
    loop {
        let Ok(length) = stream.read_i32().await else {
            return;
        };
        let mut frame = vec![0; usize::try_from(length).unwrap()];
        if stream.read_exact(&mut frame).await.is_err() {
            return;
        }
        let asked = ReceivedRequest {
            connection,
            api: i16::from_be_bytes([frame[0], frame[1]]),
            version: i16::from_be_bytes([frame[2], frame[3]]),
            correlation: i32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]]),
        };
        log.lock().unwrap().push(asked);
        let client_id = usize::from(u16::from_be_bytes([frame[8], frame[9]]));
        let body = frame.get(10 + client_id..).unwrap_or_default();
        let sent = match answer(asked, body) {
            Answer::Body(body) => stream.write_all(&framed(asked.correlation, &body)).await,
            Answer::Held(until, body) => {
                until.notified().await;
                stream.write_all(&framed(asked.correlation, &body)).await
            }
            Answer::RawThenClose(bytes) => {
                let _ = stream.write_all(&bytes).await;
                return;
            }
            Answer::RawThenSilence(bytes) => stream.write_all(&bytes).await,
            Answer::RawThenRest(start, until, rest) => {
                if stream.write_all(&start).await.is_err() {
                    return;
                }
                until.notified().await;
                stream.write_all(&rest).await
            }
            Answer::Dribble(bytes, pause) => {
                for byte in bytes {
                    if stream.write_all(&[byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                }
                Ok(())
            }
            Answer::Silence => Ok(()),
            Answer::Close => return,
            Answer::CloseLater(when) => return when.notified().await,
        };
        if sent.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}
