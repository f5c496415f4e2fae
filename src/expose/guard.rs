//! What stands before every page: headers, rate limit, passwords, host names.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::places::Client;
use super::web_config::auth::Login;
use super::web_config::{Live, WebConfig};
use crate::model::routes;

/// Who gets an answer.
#[derive(Clone, Default)]
pub struct Guard {
    pub web: Option<Arc<Live>>,
    /// Names of this host besides addresses and `localhost`, in lower case.
    pub host_names: Arc<[String]>,
}

pub(super) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let config = match &guard.web {
        Some(web) => Some(web.current().await),
        None => None,
    };
    let (head, body) = request.into_parts();
    let refused = guard.refusal(config.as_deref(), &head).await;
    let mut answer = match refused {
        Some(refusal) => refusal,
        None => next.run(Request::from_parts(head, body)).await,
    };
    set_headers(answer.headers_mut(), config.as_deref());
    answer
}

impl Guard {
    /// None: the request may be answered.
    async fn refusal(&self, config: Option<&WebConfig>, head: &Parts) -> Option<Response> {
        if let (Some(web), Some(config)) = (&self.web, config) {
            if !web.take_token() {
                let status = StatusCode::TOO_MANY_REQUESTS;
                return Some((status, "Too Many Requests\n").into_response());
            }
            if let Some(refusal) = without_login(web, config, head).await {
                return Some(refusal);
            }
        }
        // A page of another site has neither a certificate for that site's name nor a password here.
        if config.is_some_and(WebConfig::is_guarded)
            || is_for_machines(head.uri.path()) && !is_of_a_browser(&head.headers)
        {
            return None;
        }
        let host = host_of(&head.uri, &head.headers)?;
        if is_this_host(&host, &self.host_names) {
            return None;
        }
        let shown: String = host
            .chars()
            .take(100)
            .flat_map(char::escape_default)
            .collect();
        let text = format!(
            "{shown} is not known as a name of this host (a browser may have been sent here by another site). Use an \
             IP address, or start kafka-vitals with --web.host-name={shown}\n"
        );
        Some((StatusCode::MISDIRECTED_REQUEST, text).into_response())
    }
}

/// The refusal of a request without a right login, where the settings ask for one.
async fn without_login(web: &Live, config: &WebConfig, head: &Parts) -> Option<Response> {
    if config.users.is_empty() {
        return None;
    }
    // Each connection has one; without it, all would be one client.
    let client = head.extensions.get::<Client>().copied();
    let client = client.unwrap_or(Client::LOOPBACK);
    let login = web.logins.check(&config.users, &head.headers, client);
    match login.await {
        Login::Right => None,
        Login::Wrong => {
            let realm = [(header::WWW_AUTHENTICATE, "Basic realm=\"kafka-vitals\"")];
            Some((StatusCode::UNAUTHORIZED, realm, "Unauthorized\n").into_response())
        }
        Login::Busy => {
            let later = [(header::RETRY_AFTER, "1")];
            let text = "Too many passwords are being checked, try again.\n";
            Some((StatusCode::SERVICE_UNAVAILABLE, later, text).into_response())
        }
    }
}

/// What Prometheus and probes ask for: they may know this host by any name.
fn is_for_machines(path: &str) -> bool {
    let pages = [
        routes::PAGE,
        routes::CHECK,
        routes::RUNBOOKS,
        routes::RELOAD,
    ];
    !(pages.contains(&path) || path.starts_with("/api/") || path.starts_with("/runbooks/"))
}

/// Headers of which every browser sends the first, and no script can leave it out; a scrape has none of them.
const OF_BROWSERS: [header::HeaderName; 5] = [
    header::ACCEPT_LANGUAGE,
    header::ORIGIN,
    header::REFERER,
    header::COOKIE,
    header::HeaderName::from_static("sec-fetch-site"),
];

fn is_of_a_browser(headers: &HeaderMap) -> bool {
    OF_BROWSERS.iter().any(|name| headers.contains_key(name))
}

/// The host that the client asked, without its port; None where it named none, as no browser does.
fn host_of(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let given = match uri.authority() {
        // HTTP/2 and requests to a proxy.
        Some(authority) => authority.as_str(),
        None => headers.get(header::HOST)?.to_str().unwrap_or("\u{fffd}"),
    };
    let host = match given.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => given.rsplit_once(':').map_or(given, |(host, _)| host),
    };
    Some(host.trim_end_matches('.').to_ascii_lowercase())
}

fn is_this_host(host: &str, names: &[String]) -> bool {
    host.parse::<IpAddr>().is_ok()
        || host == "localhost"
        || host.ends_with(".localhost")
        || names.iter().any(|name| name == host)
}

const USUAL: [(header::HeaderName, HeaderValue); 2] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        ),
    ),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
];

/// Those of the web config take the place of the usual ones.
fn set_headers(headers: &mut HeaderMap, config: Option<&WebConfig>) {
    let configured = config.map_or(&[][..], |config| &config.headers);
    for (name, value) in USUAL.iter().chain(configured) {
        headers.insert(name, value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_read_without_its_port() {
        let table = [
            ("127.0.0.1:10052", "127.0.0.1"),
            ("[::1]:10052", "::1"),
            ("[::1]", "::1"),
            ("Broker-1.Example.:80", "broker-1.example"),
            ("localhost", "localhost"),
        ];
        for (given, expected) in table {
            let headers = HeaderMap::from_iter([(header::HOST, given.parse().unwrap())]);
            let host = host_of(&Uri::from_static("/"), &headers);
            assert_eq!(host.as_deref(), Some(expected), "{given}");
        }
        assert_eq!(host_of(&Uri::from_static("/"), &HeaderMap::new()), None);
        let by_uri = Uri::from_static("http://evil.example:10052/");
        let host = host_of(&by_uri, &HeaderMap::new());
        assert_eq!(host.as_deref(), Some("evil.example"));
    }

    #[test]
    fn a_name_that_nobody_listed_is_another_site_s() {
        let names = ["broker-1".to_owned()];
        let table = [
            ("10.0.0.1", true),
            ("::1", true),
            ("localhost", true),
            ("kafka.localhost", true),
            ("broker-1", true),
            ("evil.example", false),
            ("broker-1.evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
        ];
        for (host, expected) in table {
            assert_eq!(is_this_host(host, &names), expected, "{host}");
        }
    }
}
