use std::fs;

use super::*;
use crate::config::CredentialsOf;

fn process(owner: Option<u32>, is_trusted: bool) -> Process {
    Process {
        proc: ProcRoot::new(Path::new("/proc")),
        key: ProcessKey::default(),
        owner,
        is_trusted,
    }
}

fn place(protocol: SecurityProtocol) -> Place {
    Place {
        protocol,
        of_inter_broker: true,
        is_peer: false,
        name: Some("broker-1.example".into()),
    }
}

fn sasl(password_file: PathBuf) -> config::Access {
    config::Access {
        tls: None,
        login: Some(LoginSettings::Sasl(SaslSettings {
            mechanism: Mechanism::Plain,
            username: "monitor".into(),
            password_file: Some(password_file),
            password_env: None,
        })),
    }
}

fn password(security: &Security) -> &str {
    match &security.login {
        Login::With(credentials) => credentials.password.reveal(),
        _ => "",
    }
}

#[test]
fn the_newest_password_is_read_and_the_same_files_make_the_same_security() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    let settings = sasl(file.clone());
    let kept = Mutex::new(None);
    let read = || {
        let place = place(SecurityProtocol::SaslPlaintext);
        Material::read(&settings, &place, None)?.security(place.protocol, &kept)
    };
    let error = read().unwrap_err();
    assert!(error.starts_with("`sasl.password_file` /"), "{error}");
    for (text, expected) in [("one\n", "one"), ("t wo", "t wo"), ("three\r\n", "three")] {
        fs::write(&file, text).unwrap();
        let (first, second) = (read().unwrap(), read().unwrap());
        assert_eq!(password(&first), expected);
        assert!(Arc::ptr_eq(&first, &second));
    }
    for text in ["", "\n", "a\0b"] {
        fs::write(&file, text).unwrap();
        assert!(
            read().unwrap_err().ends_with("holds no password"),
            "{text:?}"
        );
    }
}

#[test]
fn settings_concern_the_listeners_that_need_them() {
    use SecurityProtocol as P;
    let none = config::Access::default();
    let with_tls = config::Access {
        tls: Some(config::TlsSettings::default()),
        login: None,
    };
    let with_login = sasl("/p".into());
    let of_broker = config::Access {
        tls: None,
        login: Some(LoginSettings::InterBroker),
    };
    let elsewhere = |protocol| Place {
        of_inter_broker: false,
        ..place(protocol)
    };
    let access = Access::new(of_broker.clone(), process(Some(0), true));
    for protocol in [P::Ssl, P::SaslPlaintext, P::SaslSsl] {
        let source = access.source(elsewhere(protocol));
        assert!(source.is_none(), "{protocol:?}");
    }
    let table = [
        (none, [false, false, false, false]),
        (with_tls, [false, true, false, true]),
        (with_login, [false, false, true, true]),
        (of_broker, [false, true, true, true]),
    ];
    for (settings, expected) in table {
        let access = Access::new(settings.clone(), process(Some(0), true));
        let read = [P::Plaintext, P::Ssl, P::SaslPlaintext, P::SaslSsl]
            .map(|protocol| access.source(place(protocol)).is_some());
        assert_eq!(read, expected, "{settings:?}");
    }
}

#[test]
fn a_stranger_s_process_gets_no_login_without_a_verified_certificate() {
    let login = || {
        let credentials = Credentials {
            mechanism: Mechanism::Plain,
            username: "monitor".into(),
            password: Secret::new("p".into()),
            from: "a test".into(),
        };
        Login::With(Arc::new(credentials))
    };
    let security = |trust: Option<Trust>, login: Login| {
        let tls = trust.map(|trust| {
            let settings = match trust {
                Trust::Unverified => TlsSettings::default(),
                Trust::Vouched => TlsSettings {
                    insecure_skip_verify: true,
                    ..TlsSettings::default()
                },
                Trust::Verified => TlsSettings {
                    authorities: pem::certificates("ca_file", CA).unwrap(),
                    ..TlsSettings::default()
                },
            };
            Tls::new(settings).unwrap()
        });
        Arc::new(Security { tls, login })
    };
    let stranger = process(Some(1234), false);
    for trust in [None, Some(Trust::Unverified), Some(Trust::Vouched)] {
        let error = stranger.may_get(security(trust, login())).unwrap_err();
        assert!(
            error.contains("belongs to uid 1234") && error.contains("`users`"),
            "{error}"
        );
        assert!(
            process(Some(0), true)
                .may_get(security(trust, login()))
                .is_ok()
        );
        assert!(stranger.may_get(security(trust, Login::Missing)).is_ok());
    }
    assert!(
        stranger
            .may_get(security(Some(Trust::Verified), login()))
            .is_ok()
    );
    assert!(
        process(None, false)
            .may_get(security(None, login()))
            .is_err()
    );
}

const CA: &str = include_str!("../../../../tests/fixtures/tls/until-2081.pem");

#[test]
fn what_cannot_be_used_is_named_by_where_it_stands() {
    let secret = |text: &str| Some(Secret::new(text.to_owned()));
    let security = |material: Material| {
        let security = material.security(SecurityProtocol::Ssl, &Mutex::new(None));
        security.map(drop).unwrap_err()
    };
    let of_broker = |authorities, certificate, key| {
        let mut material = Material::default();
        let found = InterBroker {
            authorities,
            certificate,
            key,
            ..InterBroker::default()
        };
        material.add(found, true, false);
        security(material)
    };
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        Some(path)
    };
    let configured = |authorities: &str, certificate: &str| {
        let settings = config::TlsSettings {
            ca_file: file("ca", authorities),
            cert_file: file("certificate", certificate),
            key_file: file("key", CA),
            ..config::TlsSettings::default()
        };
        security(Material {
            tls: Some(TlsTexts::read(&settings).unwrap()),
            credentials: None,
        })
    };
    let table = [
        (
            of_broker(secret("x"), None, None),
            "credentials: inter_broker, its ssl.truststore: holds no certificate;",
        ),
        (
            of_broker(None, secret("x"), secret("x")),
            "credentials: inter_broker, its ssl.keystore: holds no certificate;",
        ),
        (
            of_broker(None, secret(CA), secret(CA)),
            "credentials: inter_broker, its ssl.keystore: holds no private key",
        ),
        (configured("x", CA), "`tls.ca_file`: holds no certificate;"),
        (
            configured(CA, "x"),
            "`tls.cert_file`: holds no certificate;",
        ),
        (configured(CA, CA), "`tls.key_file`: holds no private key"),
    ];
    for (error, beginning) in table {
        assert!(error.starts_with(beginning), "{error}");
    }
}

#[test]
fn the_default_counts_where_an_entry_leaves_it_open() {
    let access = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yml");
        fs::write(&path, text).unwrap();
        let args = crate::cli::ServeArgs {
            config_file: Some(path),
            ..Default::default()
        };
        let config = config::Config::load(args).unwrap();
        config.access(config.brokers.first())
    };
    let sasl = "sasl: {mechanism: PLAIN, username: USER, password_file: /p}";
    let (a, b) = (sasl.replace("USER", "a"), sasl.replace("USER", "b"));
    let tls = "tls: {ca_file: /ca}";
    let entry = "brokers: [{match: {id: 1}, ";
    let user = |access: &config::Access| match &access.login {
        Some(LoginSettings::Sasl(sasl)) => sasl.username.clone(),
        Some(LoginSettings::InterBroker) => format!("{:?}", CredentialsOf::InterBroker),
        None => String::new(),
    };
    let table = [
        (format!("{tls}\n{a}\n"), "a", true),
        (format!("{tls}\n{a}\n{entry}{b}}}]\n"), "b", true),
        (format!("{a}\n{entry}{tls}}}]\n"), "a", true),
        (
            format!("{a}\n{entry}credentials: inter_broker}}]\n"),
            "InterBroker",
            false,
        ),
        (
            format!("credentials: inter_broker\n{entry}{b}}}]\n"),
            "b",
            false,
        ),
        ("{}".to_owned(), "", false),
    ];
    for (text, expected, has_tls) in table {
        let access = access(&text);
        assert_eq!(
            (&*user(&access), access.tls.is_some()),
            (expected, has_tls),
            "{text}"
        );
    }
}

#[test]
fn what_another_process_with_the_same_pid_has_is_no_login() {
    let folder = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp")
        .args(["-a", "tests/fixtures/proc/host/."])
        .arg(folder.path())
        .status();
    assert!(copied.unwrap().success());
    let jaas = "PlainLoginModule required username=\"u\" password=\"p\";";
    let properties = format!(
        "inter.broker.listener.name=SASL_SSL\nsasl.mechanism.inter.broker.protocol=PLAIN\n\
         listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.{jaas}\n"
    );
    let file = folder
        .path()
        .join("10586/tree/opt/kafka/config/server.properties");
    fs::write(file, properties).unwrap();
    let proc = ProcRoot::new(folder.path());
    let start_ticks = proc.stat(10586).unwrap().start_ticks;
    let settings = config::Access {
        tls: None,
        login: Some(LoginSettings::InterBroker),
    };
    let read = |start_ticks| {
        let process = Process {
            proc: proc.clone(),
            key: ProcessKey {
                pid: 10586,
                start_ticks,
            },
            ..process(Some(0), true)
        };
        let place = place(SecurityProtocol::SaslPlaintext);
        let material = Material::read(&settings, &place, Some(&process))?;
        Ok::<_, String>(material.credentials.unwrap().username)
    };
    assert_eq!(read(start_ticks).as_deref(), Ok("u"));
    let error = read(start_ticks + 1).unwrap_err();
    assert!(error.starts_with("credentials: inter_broker: "), "{error}");
}
