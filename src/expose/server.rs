//! The pages: metrics, the verdict, health. Every answer comes from the newest snapshot in memory.

use std::io::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tower::limit::GlobalConcurrencyLimitLayer;

use super::answers::{Answer, Answers, Crowded};
use super::check::CheckPage;
use super::guard::{self, Guard};
use super::page::Own;
use super::{api, metrics, page, runbooks};
use crate::model::routes;
use crate::model::{BrokerSnapshot, EvidenceStatus};
use crate::model::{Clock, Moment};
use crate::verdict::View;
use crate::verdict::finding::BrokerDiagnosis;
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
    /// On which exporters of other hosts are taken to listen too.
    pub port: Option<u16>,
    pub answers: Arc<Answers>,
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

    /// The body of an answer, rendered unless it is there already, and the level that came with it.
    fn answer(
        &self,
        answer: Answer,
        render: impl FnOnce(&View, &EvidenceStatus, Moment) -> (Vec<u8>, &'static str),
    ) -> Result<(Bytes, &'static str), Crowded> {
        let (view, saved, now) = self.now();
        self.answers
            .of(answer, &view, &saved, || render(&view, &saved, now))
    }
}

/// Takes the config file again when asked; the text says why it cannot be used.
pub type Reload = mpsc::Sender<oneshot::Sender<Result<(), String>>>;

/// Who gets answers, and how many at a time.
#[derive(Clone, Default)]
pub struct Access {
    /// 0 is no limit.
    pub max_requests: usize,
    pub guard: Guard,
    /// None: a client cannot have the config file taken again.
    pub reload: Option<Reload>,
}

/// The routes.
pub fn router(served: Served, access: Access) -> Router {
    let limit = match access.max_requests {
        0 => Semaphore::MAX_PERMITS,
        limit => limit.min(Semaphore::MAX_PERMITS),
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
        .route(
            routes::RELOAD,
            post({
                let reload = access.reload;
                move |headers| take_config(headers, reload)
            }),
        )
        .merge(for_probes())
        .fallback(move || std::future::ready((StatusCode::NOT_FOUND, not_found.clone())))
        .layer(GlobalConcurrencyLimitLayer::new(limit))
        .layer(from_fn_with_state(access.guard, guard::check))
        .with_state(served)
}

fn for_probes() -> Router<Served> {
    Router::new()
        .route(routes::LIVE, get(live_only))
        .route(routes::BROKER_LIVE, get(live_of))
        .route(
            routes::HEALTHY,
            get(|| async { "kafka-vitals is healthy.\n" }),
        )
        .route(routes::READY, get(ready))
}

/// What an address for probes serves: liveness and health, without a web config file.
pub fn probe_router(served: Served) -> Router {
    for_probes()
        .fallback(|| async { (StatusCode::NOT_FOUND, "This address is for probes.\n") })
        .layer(from_fn_with_state(Guard::default(), guard::check))
        .with_state(served)
}

/// As Prometheus answers.
async fn take_config(headers: HeaderMap, reload: Option<Reload>) -> Response {
    let refused = |text: String| (StatusCode::FORBIDDEN, text).into_response();
    let Some(reload) = reload else {
        return refused(
            "Lifecycle API is not enabled: start with --web.enable-lifecycle.\n".into(),
        );
    };
    // Any page in a browser can send a form to this address; it then names itself.
    if headers.contains_key(header::ORIGIN) {
        return refused("Not from a browser.\n".into());
    }
    let (answer, taken) = oneshot::channel();
    let taken = match reload.try_send(answer) {
        Ok(()) => taken.await.ok(),
        Err(_) => Some(Err("the config file is being read, try again".to_owned())),
    };
    match taken {
        Some(Ok(())) => StatusCode::OK.into_response(),
        Some(Err(error)) => {
            let text = format!("failed to reload config: {error}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
        None => (StatusCode::SERVICE_UNAVAILABLE, "kafka-vitals is ending.\n").into_response(),
    }
}

async fn metrics_page(
    State(served): State<Served>,
    headers: HeaderMap,
) -> Result<Response, Crowded> {
    let packed = accepts_gzip(&headers);
    let answer = match packed {
        true => Answer::PackedMetrics,
        false => Answer::Metrics,
    };
    let (text, _) = served.answer(answer, |view, saved, now| {
        let text = metrics::render(view, saved, now).into_bytes();
        let text = match packed {
            true => gzip(&text).unwrap_or_default(),
            false => text,
        };
        (text, "")
    })?;
    let content_type = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
    let encoding = packed.then_some([(header::CONTENT_ENCODING, "gzip")]);
    Ok((content_type, encoding, text).into_response())
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

/// Writing to memory does not fail.
fn gzip(text: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 4), Compression::fast());
    encoder.write_all(text)?;
    encoder.finish()
}

async fn landing_page(State(served): State<Served>) -> Result<Response, Crowded> {
    let own = Own {
        telemetry_path: &served.telemetry_path,
        port: served.port,
    };
    let (page, _) = served.answer(Answer::Page, |view, saved, now| {
        let page = page::render(view, saved, now, own);
        (page.into_string().into_bytes(), "")
    })?;
    Ok(html(page))
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
    html(page.into_string().into())
}

fn html(page: Bytes) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, page).into_response()
}

/// What `kafka-vitals check` prints.
async fn check_page(
    State(served): State<Served>,
    RawQuery(query): RawQuery,
) -> Result<Response, Crowded> {
    let colours = query.as_deref() == Some(COLOUR_QUERY);
    let answer = match colours {
        true => Answer::ColouredCheck,
        false => Answer::Check,
    };
    let (text, level) = served.answer(answer, |view, saved, now| {
        let page = CheckPage::of(view, saved, now);
        let text = match colours {
            true => page.coloured(),
            false => page.text(),
        };
        (text.into_bytes(), page.level.name())
    })?;
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, [(LEVEL_HEADER, level)], text).into_response())
}

async fn api_brokers(State(served): State<Served>) -> Result<Response, Crowded> {
    let brokers = |view: &View, _: &_, _| serialised(&api::brokers(view));
    served.answer(Answer::Brokers, brokers).map(json)
}

async fn api_findings(State(served): State<Served>) -> Result<Response, Crowded> {
    let findings = |view: &View, _: &_, _| serialised(&api::findings(view));
    served.answer(Answer::Findings, findings).map(json)
}

/// Serialising plain data does not fail.
fn serialised(value: &impl Serialize) -> (Vec<u8>, &'static str) {
    let mut json = serde_json::to_vec(value).unwrap_or_default();
    json.push(b'\n');
    (json, "")
}

fn json((body, _): (Bytes, &'static str)) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, body).into_response()
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
        Err(reason) => match name.and_then(|name| ended(&view, name)) {
            Some(down) => format!("{} {}\n", down.sentence, down.remedy).into_response(),
            None => format!("{reason}\n").into_response(),
        },
    }
}

/// The verdict on a broker whose process has ended: nothing is left to restart.
fn ended<'a>(view: &'a View, name: &str) -> Option<&'a BrokerDiagnosis> {
    let mut ended = view.brokers().filter(|(broker, _)| broker.ended.is_some());
    let is_named = |broker: &BrokerSnapshot| {
        let by_id = broker.broker.id.is_some_and(|id| id.to_string() == name);
        broker.label == name || by_id && !broker.outranked
    };
    let found = ended.find(|(broker, _)| is_named(broker));
    found.map(|(_, diagnosis)| diagnosis)
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
