//! Files and certificates that change while the exporter runs.

use std::fs;

use crate::exporter::Exporter;
use crate::fixture;
use crate::running::wait_for;

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
