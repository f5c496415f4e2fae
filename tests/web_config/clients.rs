//! What clients see with each file.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use crate::exporter::Exporter;
use crate::toolkit;

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

/// A client that begins a handshake and says no more.
#[test]
fn a_handshake_has_a_deadline() {
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
