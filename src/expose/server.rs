//! HTTP: metrics, the page, health. Every answer comes from the newest snapshot in memory.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower::limit::GlobalConcurrencyLimitLayer;

use super::check::CheckPage;
use super::{api, metrics, page, runbooks};
use crate::model::EvidenceStatus;
use crate::model::routes;
use crate::model::{Clock, Moment};
use crate::verdict::View;
use crate::verdict::liveness::answer_for;

/// Header and value of an answer that asks for a restart: a proxy also answers 503 while the exporter is down.
pub const RESTART_HEADER: (&str, &str) = ("kafka-vitals", "restart");
/// Header of `/check` with the worst level of the host.
pub const LEVEL_HEADER: &str = "kafka-vitals-level";
/// Query of `/check` that gives its lines the colours of a terminal.
pub const COLOUR_QUERY: &str = "colour=always";

/// What the handlers read.
#[derive(Debug, Clone)]
pub struct Served {
    pub view: watch::Receiver<Arc<View>>,
    pub saved: watch::Receiver<Arc<EvidenceStatus>>,
    pub clock: Clock,
    /// The path of the metrics; the settings are checked to be a valid one.
    pub telemetry_path: Arc<str>,
}

impl Served {
    /// What the pages are rendered from. Copied, because a lock held while rendering would block the publisher.
    fn now(&self) -> (Arc<View>, Arc<EvidenceStatus>, Moment) {
        (
            Arc::clone(&self.view.borrow()),
            Arc::clone(&self.saved.borrow()),
            self.clock.now(),
        )
    }
}

/// A client must send its whole request head within this time.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// An older connection is closed after its present answer, so that a client that reads nothing blocks no permit forever.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);
/// The most connections at a time: each costs the exporter a file descriptor.
const MAX_CONNECTIONS: usize = 512;
/// The most connections that wait to be accepted.
const BACKLOG: u32 = 128;

/// The routes. `max_requests` of 0 is no limit.
pub fn router(served: Served, max_requests: usize) -> Router {
    let limit = if max_requests == 0 {
        Semaphore::MAX_PERMITS
    } else {
        max_requests.min(Semaphore::MAX_PERMITS)
    };
    let not_found = format!(
        "Not found. Pages: {}, {}\n",
        served.telemetry_path,
        routes::of(&routes::ALL.join(", "), "NAME")
    );
    Router::new()
        .route(&served.telemetry_path, get(metrics_page))
        .route(routes::PAGE, get(landing_page))
        .route(routes::CHECK, get(check_page))
        .route(routes::API_BROKERS, get(api_brokers))
        .route(routes::API_FINDINGS, get(api_findings))
        .route(
            routes::RUNBOOKS,
            get(|| async { html_page(runbooks::list()) }),
        )
        .route(routes::RUNBOOK, get(runbook))
        .route(routes::LIVE, get(live_only))
        .route(routes::BROKER_LIVE, get(live_of))
        .route(
            routes::HEALTHY,
            get(|| async { "kafka-vitals is healthy.\n" }),
        )
        .route(routes::READY, get(ready))
        .fallback(move || std::future::ready((StatusCode::NOT_FOUND, not_found.clone())))
        .layer(GlobalConcurrencyLimitLayer::new(limit))
        .with_state(served)
}

async fn metrics_page(State(served): State<Served>, headers: HeaderMap) -> Response {
    let (view, saved, now) = served.now();
    let text = metrics::render(&view, &saved, now);
    let content_type = (header::CONTENT_TYPE, metrics::CONTENT_TYPE);
    if accepts_gzip(&headers)
        && let Ok(packed) = gzip(text.as_bytes())
    {
        return ([content_type, (header::CONTENT_ENCODING, "gzip")], packed).into_response();
    }
    ([content_type], text).into_response()
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers
        .get_all(header::ACCEPT_ENCODING)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let named = parts
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let refused = parts.any(|p| {
            p.strip_prefix("q=")
                .is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q == 0.0))
        });
        named && !refused
    })
}

fn gzip(text: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 4), Compression::fast());
    encoder.write_all(text)?;
    encoder.finish()
}

async fn landing_page(State(served): State<Served>) -> Response {
    let (view, saved, now) = served.now();
    html_page(page::render(&view, &saved, now, &served.telemetry_path))
}

async fn runbook(Path(name): Path<String>) -> Response {
    match runbooks::page(&name) {
        Some(page) => html_page(page),
        None => (
            StatusCode::NOT_FOUND,
            "No such runbook. /runbooks lists them.\n",
        )
            .into_response(),
    }
}

fn html_page(page: maud::Markup) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, page.into_string()).into_response()
}

/// What `kafka-vitals check` prints.
async fn check_page(State(served): State<Served>, RawQuery(query): RawQuery) -> Response {
    let (view, saved, now) = served.now();
    let page = CheckPage::of(&view, &saved, now);
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    let level = [(LEVEL_HEADER, page.level.name())];
    let text = match query.as_deref() {
        Some(COLOUR_QUERY) => page.coloured(),
        _ => page.text(),
    };
    (headers, level, text).into_response()
}

async fn api_brokers(State(served): State<Served>) -> Response {
    json(&api::brokers(&served.now().0))
}

async fn api_findings(State(served): State<Served>) -> Response {
    json(&api::findings(&served.now().0))
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => {
            let headers = [
                (header::CONTENT_TYPE, "application/json"),
                (header::CACHE_CONTROL, "no-store"),
            ];
            (headers, text + "\n").into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn live_only(State(served): State<Served>) -> Response {
    live(&served, None)
}

async fn live_of(State(served): State<Served>, Path(name): Path<String>) -> Response {
    live(&served, Some(&name))
}

/// 503 with the header if only a restart cures the broker and nothing prevents it, otherwise 200: the unknown is no reason for a
/// restart.
fn live(served: &Served, name: Option<&str>) -> Response {
    let view = Arc::clone(&served.view.borrow());
    match answer_for(&view.live, name) {
        Ok(answer) if answer.restart => (
            StatusCode::SERVICE_UNAVAILABLE,
            [RESTART_HEADER],
            format!("{}\n", answer.text()),
        )
            .into_response(),
        Ok(answer) => format!("{}\n", answer.text()).into_response(),
        Err(reason) => format!("{reason}\n").into_response(),
    }
}

async fn ready(State(served): State<Served>) -> Response {
    // Nothing is known before the first discovery round.
    if served.view.borrow().snapshot.discovery.success.is_some() {
        "kafka-vitals is ready.\n".into_response()
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "The first discovery round has not ended yet.\n",
        )
            .into_response()
    }
}

/// Answers on `listener` until the task is dropped.
pub async fn serve(listener: TcpListener, router: Router) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut failing = false;
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("connections are accepted again");
                }
                let router = router.clone();
                tokio::spawn(async move {
                    connection(stream, router).await;
                    drop(permit);
                });
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

async fn connection(stream: TcpStream, router: Router) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(64 * 1024);
    let service = TowerToHyperService::new(router);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = tokio::time::sleep(CONNECTION_LIFE) => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(HEADER_DEADLINE, connection).await {
                Ok(ended) => ended,
                // The client reads nothing of its answer.
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// The server cannot listen on an address.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {cause}; {}", remedy(cause))]
pub struct BindError {
    address: SocketAddr,
    cause: std::io::Error,
}

fn remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another process uses this port: end it, or choose another port with --web.listen-address"
        }
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE: choose one above with --web.listen-address"
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "this host has no such address: choose another with --web.listen-address"
        }
        _ => "choose another with --web.listen-address",
    }
}

/// Listens on the address. `[::]` means every IPv4 and IPv6 address, or every IPv4 one on a host without IPv6.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let bound = match address {
        SocketAddr::V6(every) if every.ip().is_unspecified() => match bind_dual_stack(address) {
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
            }
            bound => bound,
        },
        _ => TcpListener::bind(address).await,
    };
    bound.map_err(|cause| BindError { address, cause })
}

fn bind_dual_stack(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    // The host's setting (`net.ipv6.bindv6only`) may differ.
    rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_sent_to_clients_that_accept_it() {
        let table = [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("identity", false),
            ("gzippy", false),
            ("", false),
        ];
        for (value, expected) in table {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, value.parse().unwrap());
            assert_eq!(accepts_gzip(&headers), expected, "{value}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
