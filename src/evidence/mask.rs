//! Hides secrets in texts before they are written. It hides too much rather than too little: a value without a secret
//! is easier to miss than a password in a ticket.

use std::ops::Range;
use std::sync::LazyLock;

use regex::bytes::{Regex, RegexBuilder};

use crate::discover::properties::{MalformedEscape, Properties, comes_from_provider};

/// As Kafka's own log writes it.
pub const HIDDEN: &str = "[hidden]";

/// Parts of names whose values are secret: Kafka's settings of type `password`, Java's options, HTTP, tools.
const MARK: &str = r"(?: passw | passphrase | pwd | secret | credential | token | jaas | authorization | cookie
    | license | user\.info | api[._]?key | access[._-]?key | account[._-]?key | private | storepass | keypass
    | certificate\.chain | truststore\.certificates )";

/// Marks that are the end of a name: `ssl.key`, `db_pass`, `-passin`.
const LAST_MARK: &str = r"(?: [._-]key | (?: \b | _ ) pass (?: in | out )? )";

/// The rest of a name. Letters beyond ASCII may be part of it.
const REST: &str = r"[\w.\-\x80-\xff]*";

/// A name from its mark on. `user_alice="PASSWORD"` is the form of PlainLoginModule.
const NAME: &str = r"(?: MARK REST | LAST_MARK | \b user_ REST ) (?: \[ [\w.-]* \] )?";

/// May stand between a name and what follows it: blanks, and quotes, also escaped ones.
const GAP: &str = r#"[\s"'\\\x80-\xff]*"#;

/// A value: a list, a quoted text, or all up to the next blank. What is not closed, or escaped more than once, goes to
/// the end of the line.
const VALUE: &str = r#"(?: \[hidden\] \S*
    | \[ .* \] | \{ .* \}
    | " (?: [^"\\\n] | \\+ [^\\\n] )* " | ' (?: [^'\\\n] | \\+ [^\\\n] )* '
    | \\" .*? \\" | \\' .*? \\' \S*
    | (?: \\* ["'] | [\[{] ) (?: .* \S )?
    | \S+ )"#;

/// Each is searched for by itself, so that none takes a part of another. The first group of a match is the secret.
const FORMS: [&str; 10] = [
    // name=value, "name" : value, name => value; but not name://host, where the name is that of a listener
    r"NAME GAP [=:] (?: // | [\ \t]* (?<value> > [\ \t]* VALUE \S* | VALUE ) )",
    // values with blanks: sasl.jaas.config=a.b required password=c; Authorization: Basic d
    r"(?: jaas | authorization | cookie ) REST GAP [=:] [\ \t]* (?<value> .* \S )",
    // name -> value, as Scala prints a map
    r"NAME GAP -> [\ \t]* (?<value> VALUE )",
    // ConfigEntry(name=name, value=value, ...), {"name": "name", "value": "value"}
    r"NAME GAP [,;] GAP value GAP [=:] [\ \t]* (?<value> VALUE )",
    // <name>value</name>
    r"NAME > ( [^<\n]+ ) </",
    // --name value, ["--name", "value"]
    r#"\b{start-half} - (?: [^\s"'=]*? (?: MARK [^\s"'=]* | LAST_MARK ) | key )
       (?: ["']? ,? \ + | ["'] , ) ( VALUE \S* )"#,
    // curl --user user:password
    r#"\b{start-half} (?: -u | --user | --proxy-user ) (?: \ + | = ) ["']? ( [^\s:"']+ : \S+ )"#,
    // https://user:password@host, https://token@host
    r#"[=:] // ( [^\s/"]+ ) @"#,
    // Authorization without its name
    r"\b (?: bearer | basic ) \ + ( [\w+/.~-]{16,} \S* )",
    // JSON Web Token
    r"\b ( eyJ [\w-]{10,} \. [\w-]{10,} \S* )",
];

/// A private key from its first line to its last one. Where the text begins within it, the lines of its digits.
const PRIVATE_KEY: &str = r"
      ^ .* (?: -----BEGIN .* PRIVATE\ KEY | PRIVATE\ KEY .* -----BEGIN ) (?s: .*? ) (?: -----END .* (?: \n | \z ) | \z )
    | (?: ^ [\w+/=]+ \r? \n )* ^ .* -----END .* PRIVATE\ KEY .* (?: \n | \z )";

/// With the constants above in place of their names, and with ASCII's classes and cases.
fn pattern(pattern: &str) -> RegexBuilder {
    let constants = [
        ("NAME", NAME),
        ("VALUE", VALUE),
        ("LAST_MARK", LAST_MARK),
        ("MARK", MARK),
        ("REST", REST),
        ("GAP", GAP),
    ];
    let mut pattern = pattern.to_owned();
    for (name, text) in constants {
        pattern = pattern.replace(name, text);
    }
    let mut builder = RegexBuilder::new(&pattern);
    builder
        .ignore_whitespace(true)
        .case_insensitive(true)
        .multi_line(true)
        .unicode(false);
    builder
}

fn compiled(builder: &RegexBuilder) -> Regex {
    // All patterns are constants, and the tests below compile each.
    #[allow(clippy::expect_used)]
    builder.build().expect("a valid pattern")
}

static IN_TEXT: LazyLock<[Regex; FORMS.len()]> =
    LazyLock::new(|| FORMS.map(|form| compiled(&pattern(form))));

/// A value goes to the end.
static IN_LINE: LazyLock<[Regex; FORMS.len()]> = LazyLock::new(|| {
    FORMS.map(|form| {
        let form = form.replace("VALUE", r"(?: .* \S )");
        compiled(pattern(&form).dot_matches_new_line(true))
    })
});

fn is_secret(name: &str) -> bool {
    static SECRET_NAME: LazyLock<Regex> =
        LazyLock::new(|| compiled(&pattern(r"MARK | LAST_MARK \z | \A user_")));
    SECRET_NAME.is_match(name.as_bytes())
}

/// A text of many lines, such as a log.
pub fn text(text: &str) -> String {
    static KEY: LazyLock<Regex> = LazyLock::new(|| compiled(&pattern(PRIVATE_KEY)));
    let without_keys = KEY.replace_all(text.as_bytes(), b"[hidden]\n".as_slice());
    hide(&*IN_TEXT, &String::from_utf8_lossy(&without_keys))
}

/// A text that does not show where a value ends: what follows a secret's name is hidden up to the end.
pub fn line(text: &str) -> String {
    hide(&*IN_LINE, text)
}

fn hide(forms: &[Regex], text: &str) -> String {
    let mut secrets = Vec::new();
    for form in forms {
        find(form, text, &mut secrets);
    }
    secrets.sort_unstable_by_key(|secret| secret.start);
    let mut masked = String::with_capacity(text.len());
    let mut copied = 0;
    for secret in secrets {
        if secret.start >= copied {
            masked.push_str(text.get(copied..secret.start).unwrap_or_default());
            masked.push_str(HIDDEN);
        }
        copied = copied.max(secret.end);
    }
    masked.push_str(text.get(copied..).unwrap_or_default());
    masked
}

/// At most so much of a value is searched for a name whose value follows: `password=token = a`.
const MAX_NAME: usize = 200;

fn find(form: &Regex, text: &str, secrets: &mut Vec<Range<usize>>) {
    let mut at = 0;
    while let Some(captures) = form.captures_at(text.as_bytes(), at) {
        let mut groups = captures.iter().flatten();
        let (Some(all), value) = (groups.next(), groups.next()) else {
            return;
        };
        let Some(value) = value else {
            at = all.end();
            continue;
        };
        at = value.end().saturating_sub(MAX_NAME);
        at = at.max(value.start()).max(all.start() + 1);
        // Kafka itself logs what is not set as null, and hides what is set.
        let harmless = matches!(value.as_bytes(), b"null" | b"[hidden]" | b"[REDACTED]");
        if !harmless || captures.name("value").is_none() {
            secrets.push(value.range());
        }
    }
}

fn is_secret_option(argument: &str) -> bool {
    argument.starts_with('-') && !argument.contains('=') && is_secret(argument)
}

/// A command line, an argument a line.
pub fn arguments(arguments: &[String]) -> String {
    let mut masked = String::new();
    let mut value_of_secret = false;
    for argument in arguments {
        // `--password VALUE`
        let hide = std::mem::replace(&mut value_of_secret, is_secret_option(argument));
        match argument.split_once('=') {
            _ if hide => masked.push_str(HIDDEN),
            Some((name, _)) if is_secret(name) => masked.push_str(&format!("{name}={HIDDEN}")),
            _ => masked.push_str(&line(argument)),
        }
        masked.push('\n');
    }
    masked
}

/// `server.properties` as Kafka reads it, sorted, without comments (which may contain an old password). Java reads the same
/// settings from it again.
///
/// # Errors
/// Java cannot read the file either.
pub fn properties(bytes: &[u8]) -> Result<String, MalformedEscape> {
    let mut masked =
        String::from("# As Kafka reads it: sorted, without comments; secrets are hidden.\n");
    for (key, value) in Properties::parse(bytes)?.iter() {
        let provided =
            value.starts_with("${") && value.ends_with('}') && comes_from_provider(value);
        let hide = is_secret(key) && !provided && !value.is_empty();
        let value = if hide { HIDDEN.to_owned() } else { line(value) };
        escape(key, true, &mut masked);
        masked.push('=');
        escape(&value, false, &mut masked);
        masked.push('\n');
    }
    Ok(masked)
}

fn escape(text: &str, key: bool, to: &mut String) {
    for (index, c) in text.chars().enumerate() {
        match c {
            '\n' => to.push_str("\\n"),
            '\r' => to.push_str("\\r"),
            '\t' => to.push_str("\\t"),
            '\\' => to.push_str("\\\\"),
            ' ' | '=' | ':' | '#' | '!' if key || index == 0 => to.extend(['\\', c]),
            ' '..='~' => to.push(c),
            other => other
                .encode_utf16(&mut [0; 2])
                .iter()
                .for_each(|unit| to.push_str(&format!("\\u{unit:04x}"))),
        }
    }
}

#[cfg(test)]
mod tests {
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
}
