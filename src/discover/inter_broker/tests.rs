use super::*;

/// Files by their paths, and that of logins.
fn read(text: &str, files: &[(&str, &str)], jaas: Option<&str>) -> Result<InterBroker, String> {
    let properties = Properties::parse(text.as_bytes()).unwrap();
    let read_file = |path: &Path| {
        let file = files.iter().find(|(name, _)| Path::new(name) == path);
        file.map(|(_, text)| (*text).to_owned())
            .ok_or(format!("{} does not exist", path.display()))
    };
    interpret(&properties, true, read_file, || Ok(jaas.map(str::to_owned)))
}

fn login(text: &str, jaas: Option<&str>) -> Result<(Mechanism, String, String), String> {
    let found = read(text, &[], jaas)?;
    let login = found.credentials.ok_or("no login")?;
    Ok((
        login.mechanism,
        login.username,
        login.password.reveal().to_owned(),
    ))
}

const PLAIN: &str = "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"broker\" password=\"p\" user_a=\"x\";";
const SCRAM: &str = "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"s\" password=\"q\";";

#[test]
fn the_login_of_the_inter_broker_listener_is_found_where_kafka_finds_it() {
    let named = "inter.broker.listener.name=Internal\nlistener.security.protocol.map=INTERNAL:SASL_SSL,CLIENT:SSL\n";
    let protocol = "security.inter.broker.protocol=SASL_PLAINTEXT\n";
    let plain = "sasl.mechanism.inter.broker.protocol=PLAIN\n";
    let scram = "sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512\n";
    let of_internal = format!("listener.name.internal.plain.sasl.jaas.config={PLAIN}\n");
    let of_others = format!("listener.name.client.plain.sasl.jaas.config={SCRAM}\n");
    let section = format!("Client {{ {SCRAM} }};\nKafkaServer {{\n{PLAIN}\n}};\n");
    let p = Ok((Mechanism::Plain, "broker".to_owned(), "p".to_owned()));
    let q = Ok((Mechanism::ScramSha512, "s".to_owned(), "q".to_owned()));
    let table = [
        (
            format!("{named}{plain}{of_internal}{of_others}"),
            None,
            p.clone(),
        ),
        (
            format!("{protocol}{plain}plain.sasl.jaas.config={PLAIN}\n"),
            None,
            p.clone(),
        ),
        (
            format!("{protocol}{plain}sasl.jaas.config={PLAIN}\n"),
            None,
            p.clone(),
        ),
        (
            format!(
                "{protocol}{scram}listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config={PLAIN} {SCRAM}\n"
            ),
            None,
            q.clone(),
        ),
        (format!("{protocol}{plain}"), Some(&*section), p.clone()),
        (
            format!("{protocol}{plain}plain.sasl.jaas.config={PLAIN}\n"),
            Some("none"),
            p,
        ),
    ];
    for (text, jaas, expected) in table {
        assert_eq!(login(&text, jaas), expected, "{text}");
    }
    for text in ["", "security.inter.broker.protocol=SSL\n"] {
        assert_eq!(login(text, None), Err("no login".to_owned()), "{text}");
    }
}

#[test]
fn what_cannot_be_used_is_named_with_another_way_and_no_secret() {
    let sasl = "security.inter.broker.protocol=SASL_SSL\n";
    let plain = "security.inter.broker.protocol=SASL_PLAINTEXT\nsasl.mechanism.inter.broker.protocol=PLAIN\n";
    let ssl = "security.inter.broker.protocol=SSL\n";
    let mutual = "ssl.client.auth=required\nssl.truststore.type=PEM\nssl.truststore.location=/ca\nssl.keystore.location=/own\n";
    let files = [
        ("/ca", "CA"),
        ("/own", "-----BEGIN ENCRYPTED PRIVATE KEY-----"),
    ];
    let table = [
        (
            sasl.to_owned(),
            "log in by GSSAPI, which is not spoken here",
        ),
        (
            plain.to_owned(),
            "no plain.sasl.jaas.config, and its command line names no file of logins",
        ),
        (
            format!("{plain}plain.sasl.jaas.config=${{file:/etc/s3cret:jaas}}\n"),
            "comes from a config provider",
        ),
        (
            format!(
                "{plain}plain.sasl.jaas.config=x.PlainLoginModule required username=\"u\" password=s3cret\n"
            ),
            "no PlainLoginModule in a form",
        ),
        (
            format!(
                "{plain}plain.sasl.jaas.config=x.PlainLoginModule required username=\"u\" p=\"s3cret\";\n"
            ),
            "has no password",
        ),
        (
            format!("{plain}plain.sasl.jaas.config=x.OAuthLoginModule required p=\"s3cret\";\n"),
            "no PlainLoginModule",
        ),
        (
            format!("{ssl}ssl.truststore.location=/t.jks\nssl.truststore.password=s3cret\n"),
            "/t.jks is a keystore of the type JKS",
        ),
        (
            format!("{ssl}ssl.truststore.location=/t.p12\nssl.truststore.type=PKCS12\n"),
            "type PKCS12, which is not read here",
        ),
        (format!("{ssl}{mutual}"), "keystore of the type JKS"),
        (
            format!("{ssl}{mutual}ssl.keystore.type=PEM\n"),
            "has a password, which is not used here",
        ),
        (
            format!("{ssl}ssl.truststore.type=PEM\nssl.truststore.location=/gone\n"),
            "/gone does not exist",
        ),
        (
            "inter.broker.listener.name=ODD\n".to_owned(),
            "the protocol of the listener ODD is unknown",
        ),
    ];
    for (text, shown) in table {
        let error = read(&text, &files, None).err().unwrap();
        assert!(error.contains(shown), "{text}: {error}");
        assert!(!error.contains("s3cret"), "{text}: {error}");
    }
}

#[test]
fn certificates_in_pem_form_are_read() {
    let files = [("/ca", "CA"), ("/own", "OWN")];
    let reveal = |secret: Option<Secret>| secret.map(|secret| secret.reveal().to_owned());
    let text = "security.inter.broker.protocol=SSL\nssl.client.auth=required\nssl.truststore.type=PEM\n\
        ssl.truststore.location=/other\nlistener.name.ssl.ssl.truststore.location=/ca\nssl.keystore.type=PEM\n\
        ssl.keystore.location=/own\n";
    let found = read(text, &files, None).unwrap();
    assert_eq!(reveal(found.authorities).as_deref(), Some("CA"));
    assert_eq!(reveal(found.certificate).as_deref(), Some("OWN"));
    assert_eq!(reveal(found.key).as_deref(), Some("OWN"));
    let text = "security.inter.broker.protocol=SSL\nssl.truststore.certificates=IN LINE\n";
    let found = read(text, &files, None).unwrap();
    assert_eq!(reveal(found.authorities).as_deref(), Some("IN LINE"));
    assert!(found.key.is_none(), "nobody asks for a certificate");
}
