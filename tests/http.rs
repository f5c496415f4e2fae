//! The HTTP server over real sockets, with snapshots written by hand.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser as _;
use flate2::read::GzDecoder;
use kafka_vitals::commands::live::{self, Outcome};
use kafka_vitals::expose::connections;
use kafka_vitals::expose::guard::Guard;
use kafka_vitals::expose::listen::bind;
use kafka_vitals::expose::places::{Limits, Places};
use kafka_vitals::expose::server::{Access, Served, router};
use kafka_vitals::model::{Broker, ProcessKey};
use kafka_vitals::model::{BrokerEvidence, EvidenceStatus, SavedBundle};
use kafka_vitals::model::{
    BrokerSnapshot, Clock, Deadlock, DeadlockedThread, Reading, Snapshot, StandingDeadlock,
};
use kafka_vitals::verdict::View;
use kafka_vitals::verdict::evaluate::Evaluator;
use kafka_vitals::verdict::liveness::Answer;
use tokio::sync::watch;

/// The path of the metrics.
const PATH: &str = "/of/the-metrics";

/// A server on a free port; dropping it ends it.
struct Server {
    address: SocketAddr,
    publish: watch::Sender<Arc<View>>,
    saved: watch::Sender<Arc<EvidenceStatus>>,
    clock: Clock,
    _runtime: tokio::runtime::Runtime,
}

fn start() -> Server {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let clock = Clock::start();
    let (publish, view) = watch::channel(Arc::default());
    let (saved, what_is_saved) = watch::channel(Arc::default());
    let listener = runtime
        .block_on(bind("127.0.0.1:0".parse().unwrap()))
        .unwrap();
    let address = listener.local_addr().unwrap();
    let served = Served {
        view,
        saved: what_is_saved,
        clock,
        telemetry_path: PATH.into(),
        port: None,
        answers: Arc::default(),
    };
    let access = Access {
        max_requests: 2,
        guard: Guard {
            web: None,
            host_names: ["broker-1.example".to_owned()].into(),
        },
        reload: None,
    };
    let server = connections::Server {
        router: router(served, access),
        places: Places::new(Limits::usual(64)),
        web: None,
    };
    runtime.spawn(server.serve(listener));
    Server {
        address,
        publish,
        saved,
        clock,
        _runtime: runtime,
    }
}

/// Returns head and body of the answer to one request.
fn get(address: SocketAddr, path: &str, headers: &str) -> (String, Vec<u8>) {
    get_under("localhost", address, path, headers)
}

fn get_under(host: &str, address: SocketAddr, path: &str, headers: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    (
        String::from_utf8(answer[..end].to_vec())
            .unwrap()
            .to_lowercase(),
        answer[end + 4..].to_vec(),
    )
}

fn deadlocked(server: &Server) -> View {
    let broker = Broker {
        id: Some(219),
        ..Broker::unknown(ProcessKey {
            pid: 81068,
            start_ticks: 1,
        })
    };
    let mut broker = BrokerSnapshot::new(Arc::new(broker), "219".into());
    let thread = |thread: &str, wants: &str, held_by: &str| DeadlockedThread {
        thread: thread.into(),
        wants: wants.into(),
        held_by: held_by.into(),
        frames: vec!["kafka.<script>alert(1)</script>".into()],
    };
    let now = server.clock.now();
    let (group, list) = ("kafka.coordinator.GroupMetadata", "java.util.LinkedList");
    broker.deadlock = Some(StandingDeadlock {
        more: Default::default(),
        since: now,
        confirmed: now,
        known_issues: vec![],
        deadlocks: Arc::new([Deadlock {
            cycle: vec![
                thread("kafka-request-handler-3", group, "group-metadata-manager-0"),
                thread("group-metadata-manager-0", list, "kafka-request-handler-3"),
            ],
            waiting: vec![thread(
                "executor-Heartbeat",
                group,
                "group-metadata-manager-0",
            )],
            reported: true,
            ..Deadlock::default()
        }]),
    });
    broker.open_fds = Reading::unknown("/proc/81068/fd: permission denied");
    let mut snapshot = Snapshot {
        at: now,
        brokers: vec![Arc::new(broker)],
        ..Snapshot::default()
    };
    snapshot.discovery.success = Some(true);
    View::of(&mut Evaluator::default(), Arc::new(snapshot), now)
}

#[test]
fn metrics_plain_and_packed_are_the_same() {
    let server = start();
    server.publish.send_replace(Arc::new(deadlocked(&server)));
    let (head, plain) = get(server.address, PATH, "");
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(
        head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"),
        "{head}"
    );
    let plain = String::from_utf8(plain).unwrap();
    assert!(
        plain.contains("\nkafka_vitals_deadlock_detected{broker=\"219\"} 1\n"),
        "{plain}"
    );
    let (head, packed) = get(server.address, PATH, "Accept-Encoding: gzip\r\n");
    assert!(head.contains("content-encoding: gzip"), "{head}");
    let mut unpacked = String::new();
    GzDecoder::new(packed.as_slice())
        .read_to_string(&mut unpacked)
        .unwrap();
    assert_eq!(unpacked, plain);
    let page = String::from_utf8(get(server.address, "/", "").1).unwrap();
    assert!(
        page.contains(&format!("<a href=\"{PATH}\">metrics</a>")),
        "{page}"
    );
}

#[test]
fn the_reason_for_missing_evidence_is_shown_beside_the_verdict() {
    let server = start();
    let view = deadlocked(&server);
    let process = view.diagnosis.brokers[0].process;
    server.publish.send_replace(Arc::new(view));
    let shown = |saved: EvidenceStatus| {
        server.saved.send_replace(Arc::new(saved));
        ["/", "/check"].map(|path| String::from_utf8(get(server.address, path, "").1).unwrap())
    };
    let of = |newest, failure: Option<&str>| {
        let of = BrokerEvidence {
            process,
            newest,
            total: 0,
            failure: failure.map(str::to_owned),
        };
        EvidenceStatus {
            off: None,
            brokers: [("219".to_owned(), of)].into(),
        }
    };
    let off = EvidenceStatus {
        off: Some("no folder <for> it".into()),
        ..EvidenceStatus::default()
    };
    for (saved, why) in [
        (off, "no folder <for> it"),
        (
            of(None, Some("/evidence: disk full")),
            "/evidence: disk full",
        ),
    ] {
        let [page, check] = shown(saved);
        let why_escaped = why.replace('<', "&lt;").replace('>', "&gt;");
        assert!(page.contains("No evidence is saved. Restart it."), "{page}");
        assert!(
            page.contains(&format!(
                "<strong>No evidence is saved: </strong>{why_escaped}</p>"
            )),
            "{page}"
        );
        assert!(
            check.contains(&format!("\n  no evidence is saved: {why}\n")),
            "{check}"
        );
    }
    // If this verdict has a bundle, the failure of a later one is not shown; before the first attempt nothing is.
    let bundle = SavedBundle {
        path: "/evidence/219".into(),
        at: server.clock.now(),
    };
    let [page, check] = shown(of(Some(bundle), Some("disk full")));
    assert!(
        page.contains("Evidence saved. Restart it.") && !page.contains("disk full"),
        "{page}"
    );
    assert!(check.contains("\n  evidence: /evidence/219\n"), "{check}");
    let [page, check] = shown(EvidenceStatus::default());
    for text in [
        "Evidence saved",
        "No evidence",
        "  evidence:",
        "  no evidence",
    ] {
        assert!(!page.contains(text) && !check.contains(text), "{text}");
    }
}

#[test]
fn ready_only_after_the_first_discovery() {
    let server = start();
    assert!(
        get(server.address, "/-/healthy", "")
            .0
            .starts_with("http/1.1 200")
    );
    assert!(
        get(server.address, "/-/ready", "")
            .0
            .starts_with("http/1.1 503")
    );
    server.publish.send_replace(Arc::new(deadlocked(&server)));
    assert!(
        get(server.address, "/-/ready", "")
            .0
            .starts_with("http/1.1 200")
    );
    assert!(
        get(server.address, "/nothing", "")
            .0
            .starts_with("http/1.1 404")
    );
}

/// As after DNS rebinding: the browser asks under the name of another site.
#[test]
fn another_site_reads_nothing_through_a_browser() {
    let server = start();
    let status = |host: &str, path: &str, headers: &str| {
        let (head, body) = get_under(host, server.address, path, headers);
        for header in [
            "x-content-type-options: nosniff",
            "content-security-policy: default-src 'none'",
        ] {
            assert!(head.contains(header), "{path}: {head}");
        }
        let status = head.split(' ').nth(1).unwrap().to_owned();
        (status, String::from_utf8(body).unwrap())
    };
    let browser = "Accept-Language: en\r\n";
    let pages = [
        "/",
        "/check",
        "/api/v1/brokers",
        "/api/v1/findings",
        "/runbooks",
        "/runbooks/lock_cycle",
    ];
    let machines = [PATH, "/live", "/brokers/1/live", "/-/healthy"];
    for host in [
        "127.0.0.1:80",
        "[::1]:80",
        "10.1.2.3",
        "localhost:80",
        "broker-1.example",
    ] {
        for path in pages.iter().chain(&machines) {
            assert_eq!(status(host, path, browser).0, "200", "{host} {path}");
        }
    }
    for path in pages {
        for headers in ["", browser] {
            let (status, text) = status("evil.example:10052", path, headers);
            assert_eq!(status, "421", "{path}");
            assert!(text.contains("--web.host-name=evil.example"), "{text}");
        }
    }
    for path in machines {
        assert_eq!(
            status("broker-2.example:10052", path, "").0,
            "200",
            "{path}: a scrape by name"
        );
        for headers in [
            browser,
            "Origin: http://evil.example\r\n",
            "Sec-Fetch-Site: same-origin\r\n",
            "Referer: http://evil.example/\r\n",
        ] {
            assert_eq!(
                status("evil.example", path, headers).0,
                "421",
                "{path}: {headers}"
            );
        }
    }
}

#[test]
fn runbooks_are_pages_that_link_to_each_other() {
    let server = start();
    let (head, body) = get(server.address, "/runbooks/lock_cycle", "");
    assert!(
        head.starts_with("http/1.1 200")
            && head.contains("content-security-policy: default-src 'none'"),
        "{head}"
    );
    let body = String::from_utf8(body).unwrap();
    assert!(
        body.contains("<h2>Mitigation</h2>")
            && body.contains("<a href=\"/runbooks/jvm_deadlock\">"),
        "{body}"
    );
    let list = String::from_utf8(get(server.address, "/runbooks", "").1).unwrap();
    assert!(
        list.contains("<a href=\"/runbooks/lock_cycle\">Deadlock that the JVM does not report</a>"),
        "{list}"
    );
    assert!(
        get(server.address, "/runbooks/nothing", "")
            .0
            .starts_with("http/1.1 404")
    );
}

#[test]
fn idle_connections_delay_no_other() {
    let server = start();
    let idle: Vec<TcpStream> = (0..50)
        .map(|_| TcpStream::connect(server.address).unwrap())
        .collect();
    let mut half = TcpStream::connect(server.address).unwrap();
    half.write_all(b"GET /metrics HTTP/1.1\r\nHos").unwrap();
    let start = Instant::now();
    assert!(get(server.address, PATH, "").0.starts_with("http/1.1 200"));
    assert!(start.elapsed() < Duration::from_secs(1));
    drop((idle, half));
}

#[test]
fn a_port_alone_is_every_address_of_both_kinds() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let cli = kafka_vitals::cli::Cli::try_parse_from(["kafka-vitals", "--web.listen-address=:0"])
        .unwrap();
    let _entered = runtime.enter();
    let listener = runtime.block_on(bind(cli.serve.listen[0])).unwrap();
    let port = listener.local_addr().unwrap().port();
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        TcpStream::connect(("::1", port)).unwrap();
    }
}

#[test]
fn the_liveness_probe_answers() {
    let server = start();
    let status = |path: &str| {
        let (head, body) = get(server.address, path, "");
        (
            head.split(' ').nth(1).unwrap().to_owned(),
            String::from_utf8(body).unwrap(),
        )
    };
    let address = server.address.to_string().parse().unwrap();
    let ask = |broker| live::ask(&address, broker, Duration::from_secs(5));
    // Nothing is known yet.
    for path in ["/live", "/brokers/219/live"] {
        assert_eq!(status(path).0, "200", "{path}");
    }
    let mut view = deadlocked(&server);
    let answer = |restart, label: &str| Answer {
        process: ProcessKey {
            pid: 1,
            start_ticks: 1,
        },
        label: label.into(),
        id: Some(219),
        outranked: false,
        restart,
        sentence: String::new(),
        reason: format!("reason of {label}"),
    };
    view.live = [answer(true, "219")].into();
    server.publish.send_replace(Arc::new(view.clone()));
    assert_eq!(status("/live"), ("503".into(), "reason of 219\n".into()));
    assert_eq!(status("/brokers/219/live").0, "503");
    assert_eq!(status("/brokers/218/live").0, "200", "an unknown id");
    assert_eq!(ask(None), Outcome::Restart("reason of 219".into()));
    assert!(matches!(ask(Some("218")), Outcome::Live(_)));
    // Two brokers that share an id on one host.
    view.live = [answer(true, "219@9092"), answer(false, "219@9093")].into();
    server.publish.send_replace(Arc::new(view));
    for (path, expected) in [
        ("/live", "200"),
        ("/brokers/219/live", "200"),
        ("/brokers/219@9092/live", "503"),
        ("/brokers/219@9093/live", "200"),
    ] {
        assert_eq!(status(path).0, expected, "{path}");
    }
    // A process that has ended is known by its verdict, and is no reason for a restart.
    let mut snapshot = deadlocked(&server).snapshot.as_ref().clone();
    let broker = Arc::make_mut(&mut snapshot.brokers[0]);
    (broker.ended, broker.deadlock) = (Some(server.clock.now()), None);
    let view = View::of(
        &mut Evaluator::default(),
        Arc::new(snapshot),
        server.clock.now(),
    );
    server.publish.send_replace(Arc::new(view));
    let (code, text) = status("/brokers/219/live");
    assert!(
        code == "200" && text.starts_with("Broker 219 is down: its process ended at "),
        "{code} {text}"
    );
    assert!(matches!(ask(Some("219")), Outcome::Live(said) if text.trim() == said));
}

#[test]
fn the_api_has_the_verdict_with_its_findings() {
    let server = start();
    server.publish.send_replace(Arc::new(deadlocked(&server)));
    let json = |path: &str| -> serde_json::Value {
        let (head, body) = get(server.address, path, "");
        assert!(head.contains("content-type: application/json"), "{head}");
        serde_json::from_slice(&body).unwrap()
    };
    let brokers = json("/api/v1/brokers");
    let broker = &brokers["brokers"][0];
    assert_eq!(
        (broker["broker"].as_str(), broker["state"].as_str()),
        (Some("219"), Some("gray"))
    );
    assert_eq!(
        broker["deadlock"]["deadlocks"][0]["cycle"][0]["thread"],
        "kafka-request-handler-3"
    );
    assert_eq!(broker["findings"][0]["finding"], "jvm_deadlock");
    let finding = &json("/api/v1/findings")["findings"][0];
    assert_eq!(
        (finding["broker"].as_str(), finding["severity"].as_str()),
        (Some("219"), Some("critical"))
    );
    let since = humantime::parse_rfc3339(finding["since"].as_str().unwrap()).unwrap();
    assert!(since.elapsed().unwrap() < Duration::from_secs(60));
}
