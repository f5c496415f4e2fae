//! Connections: each has a place, a time within which its request must come, TLS where that is configured.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutWriter;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::places::{Place, Places};
use super::web_config::{H2, Live};

/// A client must complete the TLS handshake, and send its whole request head, within this time each.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// A client that takes nothing of its answer for this time holds it no longer.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// An older connection is closed after its present answer, so that a client that reads nothing blocks no place forever.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);
/// The largest request head.
const MAX_HEAD: u32 = 16 * 1024;
/// No route reads a body: of HTTP/2, only what the protocol starts with may be on its way.
const MAX_UNREAD: u32 = 65_535;
/// The most requests at a time on a connection of HTTP/2.
const MAX_STREAMS: u32 = 16;

/// How many connections are accepted before they are served: far fewer than one address may have.
const AT_ONCE: u64 = 8;

/// How connections are served.
#[derive(Clone)]
pub struct Server {
    pub router: Router,
    pub places: Arc<Places>,
    /// None: neither TLS nor what else a web config file has.
    pub web: Option<Arc<Live>>,
}

impl Server {
    /// Answers on `listener` until the task is dropped.
    pub async fn serve(self, listener: TcpListener) {
        let mut failing = false;
        let mut accepted: u64 = 0;
        loop {
            match listener.accept().await {
                Ok((stream, client)) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!("connections are accepted again");
                    }
                    // Where no place is free and none can be made free, it is closed.
                    if let Some(place) = self.places.take(client.ip()) {
                        let server = self.clone();
                        tokio::spawn(async move {
                            let place = Arc::new(place);
                            tokio::select! {
                                () = place.lost() => {}
                                () = server.connection(stream, client, &place) => {}
                            }
                        });
                    }
                    // Under a flood of connections the newest must be served before further ones take its place.
                    accepted += 1;
                    if accepted.is_multiple_of(AT_ONCE) {
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) => {
                    // Most likely the file descriptors are used up: the kernel would return the same error at once.
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "cannot accept connections");
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn connection(&self, stream: TcpStream, client: SocketAddr, place: &Arc<Place>) {
        // A client that says nothing costs no buffers.
        if let Ok(Ok(())) = tokio::time::timeout(HEADER_DEADLINE, stream.readable()).await {
            place.begins();
            Box::pin(self.speak(stream, client, place)).await;
        }
    }

    async fn speak(&self, stream: TcpStream, client: SocketAddr, place: &Arc<Place>) {
        let tls = match &self.web {
            Some(web) => web.current().await.tls.clone(),
            None => None,
        };
        let Some(tls) = tls else {
            return self.http1(stream, place).await;
        };
        let handshake = async {
            if speaks_http(&stream).await {
                return refuse_http(stream).await.map(|()| None);
            }
            let handshake = TlsAcceptor::from(tls).accept(stream).into_fallible();
            match handshake.await {
                Ok(stream) => Ok(Some(stream)),
                Err((error, stream)) => {
                    read_out(stream).await;
                    Err(error)
                }
            }
        };
        let stream = match tokio::time::timeout(HEADER_DEADLINE, handshake).await {
            Ok(Ok(Some(stream))) => stream,
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(error)) => {
                tracing::debug!(%client, %error, "the TLS handshake failed");
                return;
            }
        };
        if stream.get_ref().1.alpn_protocol() == Some(H2) {
            self.http2(stream, place).await;
        } else {
            self.http1(stream, place).await;
        }
    }

    async fn http1(&self, stream: impl AsyncRead + AsyncWrite, place: &Arc<Place>) {
        let io = pin!(with_deadline(stream));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEADER_DEADLINE)
            .max_buf_size(MAX_HEAD as usize);
        let service = hyper::service::service_fn(|request| self.answer(request, place));
        let connection = http.serve_connection(TokioIo::new(io), service);
        until_its_end(connection, http1::Connection::graceful_shutdown).await;
    }

    async fn http2(&self, stream: impl AsyncRead + AsyncWrite, place: &Arc<Place>) {
        let io = pin!(with_deadline(stream));
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD)
            .initial_stream_window_size(MAX_UNREAD)
            .initial_connection_window_size(MAX_UNREAD)
            // A client that is gone is noticed.
            .keep_alive_interval(HEADER_DEADLINE)
            .keep_alive_timeout(HEADER_DEADLINE);
        let (server, place) = (self.clone(), Arc::clone(place));
        let service = hyper::service::service_fn(move |request| {
            let (server, place) = (server.clone(), Arc::clone(&place));
            async move { server.answer(request, &place).await }
        });
        let connection = http.serve_connection(TokioIo::new(io), service);
        until_its_end(connection, http2::Connection::graceful_shutdown).await;
    }

    async fn answer(
        &self,
        mut request: axum::http::Request<Incoming>,
        place: &Arc<Place>,
    ) -> Result<Response, Infallible> {
        let _request = place.request();
        request.extensions_mut().insert(place.client);
        self.router.clone().oneshot(request.map(Body::new)).await
    }
}

/// Serves a connection of either version until it ends or has had its time.
async fn until_its_end<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    shut_down: impl FnOnce(Pin<&mut C>),
) {
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = tokio::time::sleep(CONNECTION_LIFE) => {
            shut_down(connection.as_mut());
            // Otherwise the client reads nothing of its answer.
            tokio::time::timeout(HEADER_DEADLINE, connection).await.ok()
        }
    };
    if let Some(Err(error)) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

fn with_deadline<S: AsyncRead + AsyncWrite>(stream: S) -> TimeoutWriter<S> {
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(WRITE_DEADLINE));
    stream
}

/// Whether the client sends a request in plain text; a TLS handshake begins with a byte that is no letter.
async fn speaks_http(stream: &TcpStream) -> bool {
    let mut first = [0];
    let peeked = stream.peek(&mut first).await;
    peeked.is_ok_and(|count| count == 1) && first[0].is_ascii_uppercase()
}

/// Ends a connection after a last word to the client. A close while bytes of the client are unread would reset the
/// connection, and take that word from it.
async fn read_out(mut stream: TcpStream) {
    let mut left = 2 * MAX_HEAD as usize;
    let mut buffer = [0; 4096];
    let read = async {
        stream.shutdown().await?;
        while left > 0 {
            match stream.read(&mut buffer).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        std::io::Result::Ok(())
    };
    // It makes no difference whether it worked.
    let _ = tokio::time::timeout(Duration::from_secs(1), read).await;
}

/// Go's server sends the same text.
async fn refuse_http(mut stream: TcpStream) -> std::io::Result<()> {
    let text = "Client sent an HTTP request to an HTTPS server.\n";
    let length = text.len();
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{text}"
    );
    stream.write_all(answer.as_bytes()).await?;
    read_out(stream).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::time::Instant;

    use super::*;
    use crate::expose::places::Limits;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_holds_its_answer_for_ten_seconds() {
        let places = Places::new(Limits::usual(0));
        let place = Arc::new(places.take([127, 0, 0, 1].into()).unwrap());
        let router = Router::new().route("/", get(|| async { vec![0; 1 << 20] }));
        let server = Server {
            router,
            places,
            web: None,
        };
        let (mut client, stream) = tokio::io::duplex(64 << 10);
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
        client.write_all(request).await.unwrap();
        let start = Instant::now();
        server.http1(stream, &place).await;
        assert!(
            (10..12).contains(&start.elapsed().as_secs()),
            "{:?}",
            start.elapsed()
        );
    }
}
