#![allow(clippy::unwrap_used)]
use std::time::{Duration, Instant};

use super::*;

#[test]
fn secrets_go_and_the_rest_stays() {
    let table = [
        (
            "ssl.keystore.password = s3cret\n",
            "ssl.keystore.password = [hidden]\n",
        ),
        ("\tssl.key.password = null\n", "\tssl.key.password = null\n"),
        (
            "-Djavax.net.ssl.keyStorePassword=s3,cr)et -Xmx1G",
            "-Djavax.net.ssl.keyStorePassword=[hidden] -Xmx1G",
        ),
        (
            r#"Login username="admin" password="s3 cr\"et" user_bob="x";"#,
            r#"Login username="admin" password=[hidden] user_bob=[hidden];"#,
        ),
        (
            "sasl.jaas.config=a.b.PlainLoginModule required username=u user_u=s3cret;\n",
            "sasl.jaas.config=[hidden]\n",
        ),
        (
            r#"{"api.secret": "s3cret", "id": 7}"#,
            r#"{"api.secret": [hidden], "id": 7}"#,
        ),
        (
            r#"{\"password\":\"s3cret\",\"id\":7}"#,
            r#"{\"password\":[hidden],\"id\":7}"#,
        ),
        (
            r#"{"passwords": ["s3", "cr]et"], "id": 7}"#,
            r#"{"passwords": [hidden], "id": 7}"#,
        ),
        (
            r#"{\"passwords\":[\"s3\", \"cret\"],\"id\":7}"#,
            r#"{\"passwords\":[hidden],\"id\":7}"#,
        ),
        (
            r#"{"credentials": {"user": "bob", "word": "s3cret"}}"#,
            r#"{"credentials": [hidden]"#,
        ),
        ("passwords: [s3, cr\n", "passwords: [hidden]\n"),
        ("password=[hidden] ids=[1]", "password=[hidden] ids=[1]"),
        (
            "GET https://bob:s3cret@registry:8081/x",
            "GET https://[hidden]@registry:8081/x",
        ),
        (
            "GET https://s3cret@registry:8081/x",
            "GET https://[hidden]@registry:8081/x",
        ),
        (
            "GET https://s3cret:@registry:8081/a@b",
            "GET https://[hidden]@registry:8081/a@b",
        ),
        (
            "ran 'tool --password s3cret -v' - token is - 7\n",
            "ran 'tool --password [hidden] -v' - token is - 7\n",
        ),
        ("Authorization: Basic czNjcmV0 x", "Authorization: [hidden]"),
        (
            "listeners=PLAINTEXT://127.0.0.1:9092,SSL://:9093",
            "listeners=PLAINTEXT://127.0.0.1:9092,SSL://:9093",
        ),
        (
            "[2026-11-22 10:14:02,001] INFO key=value (kafka.x)",
            "[2026-11-22 10:14:02,001] INFO key=value (kafka.x)",
        ),
        ("größe:1 pässword=s3cret", "größe:1 pässword=s3cret"), // no name that is in use
        ("äpassword=ß3cret ü", "äpassword=[hidden] ü"),
        ("password=", "password="),
        (
            "Map(ssl.key.password -> s3cret)",
            "Map(ssl.key.password -> [hidden]",
        ),
        ("{:password => 's3 cret'}", "{:password =[hidden]"),
        ("password=>s3cret x", "password=[hidden] x"),
        (
            "ConfigEntry(name=ssl.key.password, value=s3cret, source=DEFAULT)",
            "ConfigEntry(name=ssl.key.password, value=[hidden] source=DEFAULT)",
        ),
        (
            r#"{"name": "sasl.password", "value": "s3 cret"}"#,
            r#"{"name": "sasl.password", "value": [hidden]}"#,
        ),
        (
            "<password>s3 cret</password>",
            "<password>[hidden]</password>",
        ),
        ("passwords[admin]=s3cret", "passwords[admin]=[hidden]"),
        (
            r#"\\\"password\\\":\\\"s3 cret"#,
            r#"\\\"password\\\":[hidden]"#,
        ),
        (
            "tool --password 's3 cret' -v",
            "tool --password [hidden] -v",
        ),
        (r#"["--password", "s3cret"]"#, r#"["--password", [hidden]"#),
        (
            "openssl -passin pass:s3cret -in x",
            "openssl -passin [hidden] -in x",
        ),
        ("db_pass=s3cret bypass=true", "db_pass=[hidden] bypass=true"),
        ("AccountKey=s3cret;", "AccountKey=[hidden]"),
        ("curl -u bob:s3cret http://h/", "curl -u [hidden] http://h/"),
        ("Cookie: a=b; session=s3cret", "Cookie: [hidden]"),
        (
            "sent Bearer s3crets3crets3cret ok",
            "sent Bearer [hidden] ok",
        ),
        (
            "got eyJhbGciOiJub25l.eyJzdWIiOiJi.s3cret ok",
            "got [hidden] ok",
        ),
        ("GET https://bob:s3'cret@h/x", "GET https://[hidden]@h/x"),
        (
            "a password=token = s3cret",
            "a password=[hidden] = [hidden]",
        ),
        (
            "listeners=PRIVATE://10.0.0.1:9092 x",
            "listeners=PRIVATE://10.0.0.1:9092 x",
        ),
    ];
    for (line, wanted) in table {
        assert_eq!(text(line), wanted);
    }
    let pem = "a\n-----BEGIN RSA PRIVATE KEY-----\ns3cret\n-----END RSA PRIVATE KEY-----\nb\n";
    assert_eq!(text(pem), "a\n[hidden]\nb\n");
    // A certificate ends on the line on which the key begins; a tail of a log begins within the key.
    let pem = "-----END CERTIFICATE----- -----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----\nb\n";
    assert_eq!(text(pem), "[hidden]\nb\n");
    let tail = "s3cret+/\ns3cret==\n-----END RSA PRIVATE KEY-----\nb\n";
    assert_eq!(text(tail), "[hidden]\nb\n");
}

/// Shapes that got through once. Of each nothing of the secret may be left, and the words around it stay.
#[test]
fn no_shape_gets_through() {
    const SECRET: &str = "s3cr3t";
    let texts = [
        "pass=s3cr3t",
        "pass: s3cr3t",
        "db.pass=s3cr3t",
        "dbPass=s3cr3t",
        "tool --pass s3cr3t -v",
        "tool --pass=s3cr3t -v",
        "tool -Dpass=s3cr3t -v",
        "curl -u user:s3cr3t http://h/",
        "curl -uuser:s3cr3t http://h/",
        "curl --user=user:s3cr3t http://h/",
        "fs.s3a.secretAccessKey=s3cr3t",
        "awsAccessKey: s3cr3t",
        "accountKey=s3cr3t;EndpointSuffix=core",
        "--account-key s3cr3t",
        "bearer=s3cr3t",
        "bearer: s3cr3t",
        "Cookie: sid=s3cr3t; b=s3cr3t",
        "Set-Cookie: sid=s3cr3t",
        "cookie=s3cr3t",
        "auth=s3cr3t",
        "x-auth: s3cr3t",
        "tool --auth s3cr3t -v",
        "https://h/c?sv=1&sig=s3cr3t&se=2",
        "X-Amz-Signature=s3cr3t",
        "zookeeper.digest=super:s3cr3t",
        "addauth digest super:s3cr3t",
        "ACL digest:super:s3cr3t:cdrwa",
        "sent Bearer s3cr3t now",
        "sent 'bearer s3cr3t' now",
        "got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJib2IifQ.s3cr3t now",
        "key AKIAS3CR3TS3CR3TS3CR is used",
        "passwd s3cr3t",
        "user bob passwd s3cr3t is wrong",
        "login of bob with pass s3cr3t failed",
        "login of bob using password s3cr3t failed",
        "its password is s3cr3t",
        "<password>s3cr3t<",
        "<password>s3cr3t</password>",
        "<password>s3cr3t",
        "<db.pass>s3cr3t<br>",
        r#"<property name="db.password">s3cr3t</property>"#,
        r#"<property name="db.password" value="s3cr3t"/>"#,
    ];
    for shape in texts {
        let masked = [text(shape), line(shape)];
        for masked in masked {
            let left = masked.to_ascii_lowercase();
            assert!(!left.contains(SECRET), "{shape}: {masked}");
            assert!(masked.contains(HIDDEN), "{shape}: {masked}");
        }
    }
    for name in [
        "pass",
        "db.pass",
        "dbPass",
        "s3.AccessKey",
        "accountKey",
        "bearer",
        "cookie",
        "auth",
        "sig",
        "zookeeper.digest",
        "zookeeper.auth",
    ] {
        let masked = properties(format!("{name}=s3cr3t\n").as_bytes()).unwrap();
        assert!(!masked.contains(SECRET), "{masked}");
        for line in [
            vec![format!("-D{name}=s3cr3t")],
            vec![format!("--{name}"), "s3cr3t".to_owned()],
        ] {
            let masked = arguments(&line);
            assert!(!masked.contains(SECRET), "{masked}");
        }
    }
    let masked = arguments(&["-u", "bob:s3cr3t", "-v"].map(str::to_owned));
    assert_eq!(masked, "-u\n[hidden]\n-v\n");
    // What a reader of a bundle needs.
    for plain in [
        "ssl.client.auth=required",
        "ssl.client.auth = none",
        "authorizer.class.name=kafka.security.authorizer.AclAuthorizer",
        "sasl.enabled.mechanisms=PLAIN,OAUTHBEARER",
        "the password of user bob is wrong",
        "password authentication failed for bob",
        "a bearer token is required",
        "compass=north bypass=true",
        "author=bob signal=9 design=x",
        "messages pass through the broker",
        "[2026-11-22 10:14:02,001] INFO digest of 3 files (kafka.x)",
    ] {
        assert_eq!(text(plain), plain);
    }
    let kept = "ssl.client.auth=required\n";
    assert!(properties(kept.as_bytes()).unwrap().ends_with(kept));
}

#[test]
fn no_text_makes_it_slow() {
    // Each would take long where the rest of a text is searched again for each piece.
    let pieces = [
        "password=",
        "password='",
        "password=[a] ",
        "->pass ",
        "token>",
        "-token",
        "://a@",
        "jaas=\\é",
        "-----BEGIN PRIVATE KEY",
        "a\n",
        "<a password",
        "<password>a",
        "passwd is ",
        "bearer abcd",
        "digest a:b",
        "-u a:",
    ];
    for piece in pieces {
        let long = piece.repeat(50_000 / piece.len());
        let start = Instant::now();
        let _ = (text(&long), line(&long));
        let took = start.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?} for {piece:?}");
    }
}

#[test]
fn command_lines_and_properties() {
    let line = [
        "java",
        "-Dpassword=s3 cret",
        "--password",
        "s3cret",
        "kafka.Kafka",
        "--override",
        "x.secret=s3=c",
    ];
    let line: Vec<String> = line.iter().map(|argument| (*argument).to_owned()).collect();
    let wanted = "java\n-Dpassword=[hidden]\n--password\n[hidden]\nkafka.Kafka\n--override\nx.secret=[hidden]\n";
    assert_eq!(arguments(&line), wanted);
    // As `sun.rt.javaCommand` has the same.
    let wanted = "kafka.Kafka server.properties --password [hidden]";
    assert_eq!(
        super::line("kafka.Kafka server.properties --password s3 cret --id 7"),
        wanted
    );

    let file = b"# old.password=s3cret\nbroker.id=1\nssl.key.password : s3cret\\\n  s3cret\nssl.key\\u0073tore.password s3cret\n\
        a.password=${file:/x:y}\nssl.principal.mapping.rules=RULE:^CN=(.*?)$/$1/,\\\\d\nempty.password=\nb\\ c=\\ d\n";
    let masked = properties(file).unwrap();
    assert!(!masked.contains("s3cret"), "{masked}");
    let (before, after) = (
        Properties::parse(file).unwrap(),
        Properties::parse(masked.as_bytes()).unwrap(),
    );
    for key in [
        "broker.id",
        "a.password",
        "ssl.principal.mapping.rules",
        "empty.password",
        "b c",
    ] {
        assert_eq!(after.raw(key), before.raw(key), "{key} in {masked}");
    }
    assert_eq!(after.raw("ssl.keystore.password"), Some(HIDDEN));
    assert_eq!(after.iter().count(), before.iter().count());
}
