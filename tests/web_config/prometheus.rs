//! A real Prometheus as the client.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::exporter::Exporter;
use crate::fixture;
use crate::running::Guard;

/// A port of loopback that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
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
    let _prometheus = Guard(
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
