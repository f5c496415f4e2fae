//! `--web.config.file`: the test files of exporter-toolkit, and curl against the running exporter.
//!
//! Which files are good, and what curl sees, is taken from exporter-toolkit's `web/tls_config_test.go`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kafka_vitals::expose::web_config::WebConfig;

const EXE: &str = env!("CARGO_BIN_EXE_kafka-vitals");

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/web_config")
        .join(name)
}

fn toolkit(name: &str) -> PathBuf {
    fixture("exporter-toolkit").join(name)
}

/// Every file of exporter-toolkit, with what its message must contain; None is a good one.
#[rustfmt::skip] // a file a line
const FILES: [(&str, Option<&str>); 40] = [
    ("tls_config_noAuth.requireandverifyclientcert.good.yml", None),
    ("tls_config_noAuth.requireanyclientcert.good.yml", None),
    ("tls_config_noAuth.requireanyclientcertkeyinline.good.yml", None),
    // Go would accept certificates of the system's authorities.
    ("web_config_auth_clientCAs_missing.bad.yml", Some("tls_server_config.client_ca_file: missing")),
    ("web_config_noAuth.good.blocking.yml", Some("tls_server_config.client_ca_file: missing")),
    ("web_config_auth_clientCAs_invalid.bad.yml", Some("tls_server_config.client_ca_file: no client is asked for a certificate")),
    ("web_config_noAuth.bad.yml", Some("tls_server_config.client_ca_file: no client is asked for a certificate")),
    // The file is a good one: it is the client's certificate that lacks the name.
    ("web_config_auth_client_san.bad.yaml", None),
    ("web_config_auth_client_san.good.yaml", None),
    ("web_config_auth_user_list_invalid.bad.yml", Some("basic_auth_users.john: is no bcrypt hash")),
    ("web_config_empty.yml", None),
    ("web_config_headers.good.yml", None),
    ("web_config_headers_content_type_options.bad.yml", Some("http_server_config.headers.X-Content-Type-Options: invalid value \"sniff\", expected nosniff")),
    ("web_config_headers_extra_header.bad.yml", Some("http_server_config.headers.Content-Type: HTTP header \"Content-Type\" can not be configured")),
    ("web_config_headers_frame_options.bad.yml", Some("http_server_config.headers.X-Frame-Options: invalid value \"foo\", expected deny or sameorigin")),
    ("web_config_junk.yml", Some("`key: value` lines are expected")),
    ("web_config_junk_key.yml", Some("unknown field `cert_filse`")),
    ("web_config_noAuth.good.yml", None),
    ("web_config_noAuth_allCiphers.good.yml", None),
    ("web_config_noAuth_allCurves.good.yml", None),
    ("web_config_noAuth_certPath_empty.bad.yml", Some("tls_server_config: missing one of cert or cert_file")),
    ("web_config_noAuth_certPath_invalid.bad.yml", Some("exporter-toolkit/somefile: No such file or directory")),
    ("web_config_noAuth_certPath_keyPath_empty.bad.yml", Some("tls_server_config: missing one of cert or cert_file")),
    ("web_config_noAuth_certPath_keyPath_invalid.bad.yml", Some("tls_server_config.cert_file /")),
    ("web_config_noAuth_cert_empty.bad.yml", Some("tls_server_config: missing one of cert or cert_file")),
    ("web_config_noAuth_inventedCiphers.bad.yml", Some("tls_server_config.cipher_suites: unknown cipher \"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA2048\"")),
    ("web_config_noAuth_inventedCurves.bad.yml", Some("tls_server_config.curve_preferences: unknown curve \"CurveP257\"")),
    ("web_config_noAuth_keyPath_empty.bad.yml", Some("tls_server_config: missing one of key or key_file")),
    ("web_config_noAuth_keyPath_invalid.bad.yml", Some("tls_server_config.cert_file /")),
    ("web_config_noAuth_key_empty.bad.yml", Some("tls_server_config: missing one of key or key_file")),
    ("web_config_noAuth_noHTTP2.good.yml", None),
    ("web_config_noAuth_noHTTP2Cipher.bad.yml", Some("tls_server_config.cipher_suites: HTTP/2 requires TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 or TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256")),
    ("web_config_noAuth_someCiphers.good.yml", None),
    ("web_config_noAuth_someCiphers_noOrder.good.yml", None),
    // Its only curve is one that ring lacks.
    ("web_config_noAuth_someCurves.good.yml", Some("tls_server_config.curve_preferences: CurveP521 is not offered")),
    ("web_config_noAuth_tlsInline.good.yml", None),
    ("web_config_noAuth_wrongTLSVersion.bad.yml", Some("tls_server_config.min_version: unknown TLS version \"TLS111\"")),
    ("web_config_rate_limiter_nonblocking.yaml", None),
    ("web_config_rate_limiter_one_second.yaml", None),
    ("web_config_users.good.yml", None),
];

#[test]
fn the_files_of_exporter_toolkit_are_good_and_bad_as_there() {
    let mut wrong = Vec::new();
    let users = ("web_config_users_noTLS.good.yml", None);
    let missing = ("no such file.yml", Some("No such file or directory"));
    for (name, expected) in FILES.into_iter().chain([users, missing]) {
        let path = toolkit(name);
        let message = WebConfig::load(&path).err().map(|error| error.to_string());
        let is_right = match (&message, expected) {
            (None, None) => true,
            (Some(message), Some(part)) => {
                message.starts_with(&format!("web config file {}: ", path.display()))
                    && message.contains(part)
            }
            _ => false,
        };
        if !is_right {
            wrong.push(format!("{name}: expected {expected:?}, but is {message:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let listed: BTreeSet<_> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
    let there = fs::read_dir(toolkit("")).unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        (name.ends_with(".yml") || name.ends_with(".yaml")).then_some(name)
    });
    let there: BTreeSet<_> = there.filter(|name| *name != users.0).collect();
    assert_eq!(there, listed);
}

/// Mistakes of one's own, each with its message.
#[test]
fn messages_name_key_and_remedy() {
    let own = fixture("own");
    let tls = |more: &str| {
        let own = own.display();
        format!(
            "tls_server_config:\n  cert_file: {own}/server.pem\n  key_file: {own}/server.key\n{more}"
        )
    };
    let path = |name: &str| own.join(name).display().to_string();
    let inline = fs::read_to_string(own.join("server.pem")).unwrap();
    let inline = inline.replace('\n', "\n    ");
    #[rustfmt::skip] // a case a line
    let cases = [
        (tls("  min_version: TLS13\n  max_version: TLS12\n"), "tls_server_config.min_version: is above max_version".to_owned()),
        (tls("  max_version: TLS11\n"), "tls_server_config.max_version: TLS11 is not offered, TLS12 is the lowest".into()),
        (tls("  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA]\n  max_version: TLS12\n"), "tls_server_config.cipher_suites: none of them is offered for TLS 1.2, where there are TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256".into()),
        (tls("  client_auth_type: Require\n"), "tls_server_config.client_auth_type: \"Require\" is none of NoClientCert, RequestClientCert".into()),
        (tls("  client_auth_type: RequireAnyClientCert\n  client_allowed_sans: [a@b.example]\n"), "tls_server_config.client_allowed_sans: \"a@b.example\" is an e-mail address, which is not compared here".into()),
        (tls("  client_allowed_sans: [b.example]\n"), "tls_server_config.client_allowed_sans: no client is asked for a certificate".into()),
        (tls("").replace("server.key", "client.key"), format!("tls_server_config.key_file {}: is not the private key of tls_server_config.cert_file {}", path("client.key"), path("server.pem"))),
        (tls("").replace("server.key", "server.pem"), format!("tls_server_config.key_file {}: holds no private key in PEM form", path("server.pem"))),
        (tls("").replace("server.pem", "server.key"), format!("tls_server_config.cert_file {}: holds no certificate", path("server.key"))),
        (tls("").replace("server.pem", ""), format!("tls_server_config.cert_file {}: {} is a folder, not a regular file", path(""), path(""))),
        (tls(&format!("  cert: |\n    {inline}\n")), "tls_server_config: cert and cert_file are given, keep one of them".into()),
        (tls("  key: x\n"), "tls_server_config: key and key_file are given, keep one of them".into()),
        ("basic_auth_users: {a: $2y$19$qRTBuFoULoYNA7AQ/F3ck.trZBPyjV64.oA4ZsSBCIWvXuvQlQTuu}".into(), "basic_auth_users.a: a bcrypt cost of 19 takes too long, 18 at most".into()),
        ("basic_auth_users: {a: hunter2}".into(), "basic_auth_users.a: is no bcrypt hash; `htpasswd -nBC 10 a` makes one".into()),
        ("basic_auth_users: {'a:b': $2y$10$qRTBuFoULoYNA7AQ/F3ck.trZBPyjV64.oA4ZsSBCIWvXuvQlQTuu}".into(), "basic_auth_users.a:b: no name with a colon can be sent".into()),
        ("rate_limit: {interval: 5, burst: 1}".into(), "rate_limit.interval: \"5\": ".into()),
        ("rate_limit: {interval: 1s, burst: -1}".into(), "a whole number of 0 or more is expected, at line 1".into()),
        ("http_server_config: {headers: {X-XSS-Protection: \"a\\nb\"}}".into(), "http_server_config.headers.X-XSS-Protection: \"a\\nb\" cannot stand in a header".into()),
        ("basic_auth_user: {}".into(), "did you mean `basic_auth_users`?".into()),
    ];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.yml");
    let mut wrong = Vec::new();
    for (text, expected) in &cases {
        fs::write(&file, text).unwrap();
        let message = WebConfig::load(&file).expect_err(text).to_string();
        if !message.contains(expected) || message.contains("hunter2") {
            wrong.push(format!(
                "{text}\n  expected: {expected}\n  but is: {message}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// An exporter of a host without brokers; dropping it ends it.
struct Exporter {
    child: Child,
    port: u16,
    log: Arc<Mutex<Vec<String>>>,
    _folder: tempfile::TempDir,
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Exporter {
    fn start(web_config: &Path) -> Exporter {
        Exporter::start_with(web_config, &[])
    }

    fn start_with(web_config: &Path, arguments: &[&str]) -> Exporter {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("stat"), "btime 1000000\n").unwrap();
        fs::write(folder.path().join("uptime"), "100000.00 1.0\n").unwrap();
        let mut child = Command::new(EXE)
            .arg("--path.procfs")
            .arg(folder.path())
            .arg("--web.config.file")
            .arg(web_config)
            .arg("--web.listen-address=127.0.0.1:0")
            .args(arguments)
            .env("XDG_STATE_HOME", folder.path())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            let lines = stderr.lines().map_while(Result::ok);
            lines.for_each(|line| kept.lock().unwrap().push(line));
        });
        let mut exporter = Exporter {
            child,
            port: 0,
            log,
            _folder: folder,
        };
        wait_for("the exporter to listen", || !exporter.listens().is_empty());
        exporter.port = exporter.listens()[0];
        exporter
    }

    /// The ports, in the order of the flags.
    fn listens(&self) -> Vec<u16> {
        let lines = self.logged("listening");
        let port = |line: &String| {
            line.split("address=127.0.0.1:")
                .nth(1)?
                .split(' ')
                .next()?
                .parse()
                .ok()
        };
        lines.iter().filter_map(port).collect()
    }

    fn logged(&self, text: &str) -> Vec<String> {
        let log = self.log.lock().unwrap();
        assert!(!log.iter().any(|line| line.contains("panicked")), "{log:?}");
        let found = log.iter().filter(|line| line.contains(text));
        found.cloned().collect()
    }

    /// What curl prints of `/-/healthy` with these arguments: the status and the version of HTTP, or curl's error.
    fn curl(&self, arguments: &[&str]) -> String {
        let output = self.curl_output(arguments, "/-/healthy", "%{http_code} HTTP/%{http_version}");
        let mut lines = output.lines().filter(|line| !line.is_empty());
        let line = if output.starts_with("curl: ") {
            lines.next()
        } else {
            lines.next_back()
        };
        line.unwrap_or_default().to_owned()
    }

    fn curl_output(&self, arguments: &[&str], path: &str, write: &str) -> String {
        let url = if arguments.contains(&"--http") {
            format!("http://localhost:{}{path}", self.port)
        } else {
            format!("https://localhost:{}{path}", self.port)
        };
        let arguments = arguments.iter().filter(|argument| **argument != "--http");
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--ipv4", "--max-time", "30"])
            .args(["--write-out", &format!("\n{write}")])
            .args(arguments)
            .arg(url)
            .output()
            .unwrap();
        if output.status.success() {
            String::from_utf8_lossy(&output.stdout).into_owned()
        } else {
            String::from_utf8_lossy(&output.stderr).trim().to_owned()
        }
    }
}

#[track_caller]
fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "waited for {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// curl with each file, as exporter-toolkit's tests ask with Go's client. `TLS` stands for
/// `--insecure` (OpenSSL takes its authority for none, which Go does not), a name for the client's certificate.
#[test]
fn curl_sees_what_go_s_client_sees() {
    const OK: &str = "200 HTTP/2";
    #[rustfmt::skip] // a case a line
    let cases: [(&str, &str, &str); 31] = [
        ("web_config_empty.yml", "--http", "200 HTTP/1.1"),
        ("web_config_empty.yml", "TLS", "wrong version number"),
        ("web_config_noAuth.good.yml", "--http", "400 HTTP/1.1"),
        ("web_config_noAuth.good.yml", "TLS", OK),
        ("web_config_noAuth.good.yml", "TLS --http1.1", "200 HTTP/1.1"),
        ("web_config_noAuth.good.yml", "", "certificate problem"),
        ("web_config_noAuth.good.yml", "TLS client_selfsigned", "alert"),
        ("web_config_noAuth_tlsInline.good.yml", "TLS", OK),
        ("web_config_noAuth.good.yml", "TLS --tls-max 1.1 --tlsv1.0 --ciphers DEFAULT@SECLEVEL=0", "alert"),
        ("web_config_noAuth.good.yml", "TLS --tls-max 1.2", OK),
        ("web_config_noAuth.good.yml", "TLS --tlsv1.3", OK),
        ("web_config_noAuth_allCiphers.good.yml", "TLS", OK),
        ("web_config_noAuth_someCiphers.good.yml", "TLS --ciphers ECDHE-RSA-AES128-GCM-SHA256", OK),
        ("web_config_noAuth_someCiphers.good.yml", "TLS --ciphers ECDHE-RSA-AES256-SHA", "alert handshake failure"),
        ("web_config_noAuth_someCiphers.good.yml", "TLS --tlsv1.3", "alert"),
        ("web_config_noAuth_allCurves.good.yml", "TLS --curves P-384", OK),
        ("web_config_noAuth_noHTTP2.good.yml", "TLS", "200 HTTP/1.1"),
        ("web_config_headers.good.yml", "--http", "200 HTTP/1.1"),
        ("tls_config_noAuth.requireanyclientcert.good.yml", "TLS", "alert"),
        ("tls_config_noAuth.requireanyclientcert.good.yml", "TLS client_selfsigned", OK),
        ("tls_config_noAuth.requireanyclientcertkeyinline.good.yml", "TLS client_selfsigned", OK),
        ("tls_config_noAuth.requireandverifyclientcert.good.yml", "TLS client_selfsigned", OK),
        ("tls_config_noAuth.requireandverifyclientcert.good.yml", "TLS client2_selfsigned", "alert unknown ca"),
        ("web_config_auth_client_san.good.yaml", "TLS client2_selfsigned", OK),
        ("web_config_auth_client_san.bad.yaml", "TLS client2_selfsigned", "alert"),
        ("web_config_users_noTLS.good.yml", "--http", "401 HTTP/1.1"),
        ("web_config_users_noTLS.good.yml", "--http --user dave:dave123", "200 HTTP/1.1"),
        ("web_config_users.good.yml", "TLS", "401 HTTP/2"),
        ("web_config_users.good.yml", "TLS --user carol:carol123", OK),
        ("web_config_users.good.yml", "TLS --user dave:bad", "401 HTTP/2"),
        ("web_config_users.good.yml", "TLS --user nonexistent:nonexistent", "401 HTTP/2"),
    ];
    let mut wrong = Vec::new();
    let mut exporter: Option<(&str, Exporter)> = None;
    for (file, arguments, expected) in cases {
        let exporter = match exporter {
            Some((before, ref exporter)) if before == file => exporter,
            _ => &exporter.insert((file, Exporter::start(&toolkit(file)))).1,
        };
        let seen = exporter.curl(
            &curl_arguments(arguments)
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
        );
        if !seen.contains(expected) {
            wrong.push(format!(
                "{file} {arguments}: expected {expected:?}, but is {seen:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// With certificates of an authority that curl trusts.
#[test]
fn certificates_are_checked_on_both_sides_and_taken_when_they_change() {
    let folder = tempfile::tempdir().unwrap();
    let put =
        |from: &str, to: &str| fs::copy(fixture("own").join(from), folder.path().join(to)).unwrap();
    put("server.pem", "server.pem");
    put("server.key", "server.key");
    put("ca.pem", "ca.pem");
    let file = folder.path().join("web.yml");
    let config = "tls_server_config: {cert_file: server.pem, key_file: server.key}\n";
    let with_clients = |sans: &str| {
        format!(
            "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n  client_ca_file: ca.pem\n  \
             client_auth_type: RequireAndVerifyClientCert\n  client_allowed_sans: [{sans}]\n"
        )
    };
    fs::write(&file, config).unwrap();
    let exporter = Exporter::start(&file);
    let path = |name: &str| fixture("own").join(name).display().to_string();
    let authority = path("ca.pem");
    let as_client = |name: &str| {
        let (cert, key) = (path(&format!("{name}.pem")), path(&format!("{name}.key")));
        exporter.curl(&["--cacert", &authority, "--cert", &cert, "--key", &key])
    };
    let anonymous = || exporter.curl(&["--cacert", &authority]);
    assert_eq!(anonymous(), "200 HTTP/2");
    assert!(exporter.curl(&[]).contains("certificate problem"));
    // Of whom the server's certificate is, as curl sees it.
    let shown = || {
        let out = exporter.curl_output(
            &["--cacert", &authority, "--verbose", "--stderr", "-"],
            "/-/healthy",
            "",
        );
        out.lines()
            .find_map(|line| line.split("subject: CN=").nth(1).map(str::to_owned))
    };
    assert_eq!(shown().as_deref(), Some("server"));

    // A certificate without its key, as between the two steps of a renewal: the pair of before remains.
    put("server2.pem", "server.pem");
    let refusal = "server.key: is not the private key of tls_server_config.cert_file";
    wait_for("the mismatch in the log", || {
        anonymous();
        !exporter.logged(refusal).is_empty()
    });
    assert_eq!(shown().as_deref(), Some("server"));
    put("server2.key", "server.key");
    wait_for("the renewed certificate", || {
        shown().as_deref() == Some("server2")
    });

    let names = [
        "spiffe://example/prometheus",
        "10.1.2.3",
        "other, prometheus.example",
    ];
    for sans in ["", names[0], names[1], names[2]] {
        fs::write(&file, with_clients(sans)).unwrap();
        wait_for("clients to need a certificate", || {
            anonymous().contains("alert")
        });
        wait_for(&format!("{sans:?}: the client is let in"), || {
            as_client("client") == "200 HTTP/2"
        });
        assert!(
            as_client("expired").contains("alert certificate expired"),
            "{}",
            as_client("expired")
        );
        // Of the right authority, but not for clients.
        assert!(
            as_client("server").contains("alert"),
            "{}",
            as_client("server")
        );
    }
    fs::write(&file, with_clients("example")).unwrap();
    wait_for("another name is refused", || {
        as_client("client").contains("alert")
    });

    // A file that is wrong, or would let in more than before, changes nothing.
    for (text, logged) in [
        ("tls_server_config: [", "web.yml: "),
        ("", "TLS is switched off only by a restart"),
        (
            config,
            "RequireAndVerifyClientCert is switched off only by a restart",
        ),
    ] {
        fs::write(&file, text).unwrap();
        wait_for(logged, || {
            as_client("client");
            exporter
                .logged("ERROR")
                .iter()
                .any(|line| line.contains(logged))
        });
        assert!(as_client("client").contains("alert"));
    }
    assert!(anonymous().contains("alert"));
    fs::write(&file, with_clients(names[0])).unwrap();
    wait_for("the usual file again", || {
        as_client("client") == "200 HTTP/2"
    });
    assert_eq!(
        exporter.logged(refusal).len(),
        1,
        "a failure is logged once"
    );
}

#[test]
fn users_headers_and_rate_limit_are_taken_when_the_file_changes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.yml");
    // Of exporter-toolkit: dave has the password dave123, carol carol123.
    let dave = "$2y$10$2UXri9cIDdgeKjBo4Rlpx.U3ZLDV8X1IxKmsfOvhcM5oXQt/mLmXq";
    let carol = "$2y$10$qRTBuFoULoYNA7AQ/F3ck.trZBPyjV64.oA4ZsSBCIWvXuvQlQTuu";
    fs::write(&file, format!("basic_auth_users: {{dave: {dave}}}\n")).unwrap();
    let exporter = Exporter::start(&file);
    let login = |login: &str| exporter.curl(&["--http", "--user", login]);
    let (right, refused) = ("200 HTTP/1.1", "401 HTTP/1.1");
    assert_eq!(login("dave:dave123"), right);
    assert_eq!(login("carol:carol123"), refused);
    // The password covers every page, and what is refused has the headers of every answer.
    for path in ["/", "/metrics", "/live", "/-/ready", "/nothing"] {
        let answer = exporter.curl_output(&["--http", "--include"], path, "");
        let lower = answer.to_lowercase();
        assert!(answer.starts_with("HTTP/1.1 401"), "{path}: {answer}");
        for header in [
            "www-authenticate: basic",
            "x-content-type-options: nosniff",
            "content-security-policy: default-src 'none'",
        ] {
            assert!(lower.contains(header), "{path}: {answer}");
        }
    }
    fs::write(&file, format!("basic_auth_users: {{carol: {carol}}}\n")).unwrap();
    wait_for("carol to be let in", || login("carol:carol123") == right);
    assert_eq!(login("dave:dave123"), refused);

    // An emptied file does not open what was closed.
    fs::write(&file, "").unwrap();
    wait_for("the message", || {
        let refused = "basic_auth_users: passwords are switched off only by a restart";
        exporter.curl(&["--http"]);
        !exporter.logged(refused).is_empty()
    });
    assert_eq!(exporter.curl(&["--http"]), refused);
    assert_eq!(login("carol:carol123"), right);

    let users = format!("basic_auth_users: {{carol: {carol}}}\n");
    let headers = "http_server_config: {headers: {X-Frame-Options: deny, Content-Security-Policy: \"default-src 'self'\"}}\n";
    fs::write(&file, format!("{users}{headers}")).unwrap();
    let shown = || {
        let carol = ["--http", "--include", "--user", "carol:carol123"];
        exporter.curl_output(&carol, "/", "").to_lowercase()
    };
    wait_for("the headers", || shown().contains("x-frame-options: deny"));
    let shown = shown();
    assert!(
        shown.contains("content-security-policy: default-src 'self'\r"),
        "{shown}"
    );
    assert_eq!(shown.matches("content-security-policy").count(), 1);
    assert!(shown.contains("x-content-type-options: nosniff"), "{shown}");

    fs::write(
        &file,
        format!("{users}rate_limit: {{interval: 1h, burst: 2}}\n"),
    )
    .unwrap();
    wait_for("the limit", || exporter.curl(&["--http"]) == "429 HTTP/1.1");
}

/// A client that begins a handshake and says no more.
#[test]
fn a_handshake_has_a_deadline() {
    use std::io::{Read as _, Write as _};
    let exporter = Exporter::start(&toolkit("web_config_noAuth.good.yml"));
    let start = Instant::now();
    let mut clients: Vec<_> = [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01"]
        .iter()
        .map(|bytes| {
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", exporter.port)).unwrap();
            stream.write_all(bytes).unwrap();
            stream
        })
        .collect();
    for client in &mut clients {
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let ended = client.read(&mut [0; 64]);
        assert!(matches!(&ended, Ok(0)), "{ended:?}");
    }
    assert!(
        start.elapsed() < Duration::from_secs(13),
        "{:?}",
        start.elapsed()
    );
}

/// A port of loopback that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A real Prometheus scrapes over TLS with a password and with a client's certificate, and fails with wrong ones.
#[test]
fn prometheus_scrapes_with_password_and_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let own = |name: &str| fixture("own").join(name).display().to_string();
    let server = format!(
        "tls_server_config:\n  cert_file: {}\n  key_file: {}\n",
        own("server.pem"),
        own("server.key")
    );
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let dave =
        "basic_auth_users: {dave: $2y$10$2UXri9cIDdgeKjBo4Rlpx.U3ZLDV8X1IxKmsfOvhcM5oXQt/mLmXq}\n";
    let certificate = format!(
        "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: {}\n  client_allowed_sans: [prometheus.example]\n",
        own("ca.pem")
    );
    let by_password = Exporter::start(&write("password.yml", format!("{server}{dave}")));
    let by_certificate =
        Exporter::start(&write("certificate.yml", format!("{server}{certificate}")));
    let job = |name: &str, exporter: &Exporter, tls: &str, more: &str| {
        format!(
            "  - job_name: {name}\n    scheme: https\n    tls_config: {{ca_file: {}{tls}}}\n{more}    static_configs: \
             [{{targets: ['localhost:{}']}}]\n",
            own("ca.pem"),
            exporter.port
        )
    };
    let client = |name: &str| {
        let (cert, key) = (own(&format!("{name}.pem")), own(&format!("{name}.key")));
        format!(", cert_file: {cert}, key_file: {key}")
    };
    let login =
        |password: &str| format!("    basic_auth: {{username: dave, password: {password}}}\n");
    let jobs = [
        job("password", &by_password, "", &login("dave123")),
        job("wrong-password", &by_password, "", &login("dave")),
        job("certificate", &by_certificate, &client("client"), ""),
        job("expired", &by_certificate, &client("expired"), ""),
        job("no-certificate", &by_certificate, "", ""),
    ];
    let config = format!(
        "global: {{scrape_interval: 2s, scrape_timeout: 2s}}\nscrape_configs:\n{}",
        jobs.concat()
    );
    let config = write("prometheus.yml", config);
    let port = free_port();
    let _prometheus = Ended(
        Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("series").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--log.level=error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("scripts/prerequisites.sh prometheus gets it"),
    );
    let targets = || -> Vec<(String, String, String)> {
        let url = format!("http://127.0.0.1:{port}/api/v1/targets");
        let output = Command::new("curl")
            .args(["--silent", &url])
            .output()
            .unwrap();
        let Ok(answer) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else {
            return Vec::new();
        };
        let targets = answer["data"]["activeTargets"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let field =
            |target: &serde_json::Value, name: &str| target[name].as_str().unwrap().to_owned();
        let line = |target| {
            (
                field(target, "scrapePool"),
                field(target, "health"),
                field(target, "lastError"),
            )
        };
        targets.iter().map(line).collect()
    };
    let expected = [
        ("certificate", "up", ""),
        ("expired", "down", "expired certificate"),
        ("no-certificate", "down", "certificate required"),
        ("password", "up", ""),
        ("wrong-password", "down", "401"),
    ];
    let mut seen = Vec::new();
    let start = Instant::now();
    // The first scrapes may come before Prometheus or a slow machine is ready for them.
    while start.elapsed() < Duration::from_secs(30) {
        seen = targets();
        seen.sort();
        let mut pairs = std::iter::zip(&seen, expected);
        if seen.len() == expected.len()
            && pairs.all(|((job, health, error), expected)| {
                (job.as_str(), health.as_str()) == (expected.0, expected.1)
                    && error.contains(expected.2)
            })
        {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{seen:#?}");
}

fn curl_arguments(text: &str) -> Vec<String> {
    let path = |name: &str| toolkit(name).display().to_string();
    let words = text.split(' ').filter(|word| !word.is_empty());
    words
        .flat_map(|word| match word {
            "TLS" => vec!["--insecure".to_owned()],
            "client_selfsigned" | "client2_selfsigned" => vec![
                "--cert".to_owned(),
                path(&format!("{word}.pem")),
                "--key".to_owned(),
                path(&format!("{word}.key")),
            ],
            word => vec![word.to_owned()],
        })
        .collect()
}
