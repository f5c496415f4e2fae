//! Which files are good, and what is said of the others.

use std::collections::BTreeSet;
use std::fs;

use kafka_vitals::expose::web_config::WebConfig;

use crate::{fixture, toolkit};

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
