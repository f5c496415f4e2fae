//! Hides secrets in texts before they are written. It hides too much rather than too little: a value that no secret
//! stands in is easier to bear without than a password in a ticket.

use std::ops::Range;

use memchr::memchr3;

use crate::discover::properties::{MalformedEscape, Properties, comes_from_provider};

/// As Kafka's own log writes it.
pub const HIDDEN: &str = "[hidden]";

/// Parts of names whose values are secret: Kafka's settings of type `password`, Java's options, HTTP, tools.
const MARKS: &str = "passw passphrase pwd secret credential token jaas authorization license user.info apikey api.key \
                     api_key private storepass keypass certificate.chain truststore.certificates";

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    MARKS.split_ascii_whitespace().any(|mark| name.contains(mark))
        || [".key", "_key", "-key"].iter().any(|end| name.ends_with(end))
        // `user_alice="PASSWORD"` of PlainLoginModule.
        || name.starts_with("user_")
}

/// A text of many lines, such as a log.
pub fn text(text: &str) -> String {
    let mut in_private_key = false;
    let mut masked = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let begins = line.contains("-----BEGIN") && line.contains("PRIVATE KEY");
        if in_private_key && !begins {
            in_private_key = !line.contains("-----END");
            continue;
        }
        in_private_key = begins && !line.contains("-----END");
        if begins {
            masked.push_str(HIDDEN);
            masked.push('\n');
        } else {
            masked.push_str(&self::line(line, false));
        }
    }
    masked
}

/// One line. With `to_its_end` what follows a secret's name is hidden up to the end of the line, for texts that do not
/// tell where a value ends.
pub fn line(text: &str, to_its_end: bool) -> String {
    let mut masked = String::with_capacity(text.len());
    let (mut at, mut copied) = (0, 0);
    while let Some(found) = text
        .as_bytes()
        .get(at..)
        .and_then(|rest| memchr3(b'=', b':', b' ', rest))
    {
        let separator = at + found;
        at = separator + 1;
        let value = match text.as_bytes().get(separator) {
            Some(b' ') => value_of_option(text, separator, to_its_end),
            _ => secret_behind(text, separator, to_its_end),
        };
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            continue;
        };
        masked.push_str(text.get(copied..value.start).unwrap_or_default());
        masked.push_str(HIDDEN);
        (at, copied) = (value.end, value.end);
    }
    masked.push_str(text.get(copied..).unwrap_or_default());
    masked
}

/// Where the secret stands whose name or scheme ends at the `=` or `:`.
fn secret_behind(text: &str, separator: usize, to_its_end: bool) -> Option<Range<usize>> {
    let (before, behind) = (text.get(..separator)?, text.get(separator + 1..)?);
    // `https://user:password@host`, `https://token@host`
    if let Some(authority) = behind.strip_prefix("//") {
        let end = authority
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\''))
            .unwrap_or(authority.len());
        let (user_info, start) = (authority.get(..end)?, separator + 3);
        // A token may stand alone, or where the user stands.
        return Some(start..start + user_info.rfind('@')?);
    }
    // `"password" : "..."`, also quoted once more.
    let name =
        before.trim_end_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '\\'));
    let name = name
        .rsplit(|c: char| !(c.is_alphanumeric() || matches!(c, '.' | '_' | '-')))
        .next()?;
    if !is_secret(name) {
        return None;
    }
    let value = behind.trim_start_matches([' ', '\t']);
    let start = text.len() - value.len();
    let line_end = value.trim_end().len();
    let lower = name.to_ascii_lowercase();
    let end = if to_its_end || lower.contains("jaas") || lower.contains("authorization") {
        line_end
    } else if let Some(quote) = ["\\\"", "\"", "'"]
        .into_iter()
        .find(|quote| value.starts_with(quote))
    {
        closing(value, quote).unwrap_or(line_end)
    } else if let Some((_, close)) = [('[', ']'), ('{', '}')]
        .into_iter()
        .find(|(open, _)| value.starts_with(*open))
        && !value.starts_with(HIDDEN)
    {
        // A list, up to the last bracket: one may stand in a value.
        value.rfind(close).map_or(line_end, |end| end + 1)
    } else {
        value.find(char::is_whitespace).unwrap_or(value.len())
    };
    // Kafka logs what is not set, and hides what is, itself.
    let known_harmless = value
        .get(..end)
        .is_some_and(|value| matches!(value, "null" | "[hidden]" | "[REDACTED]"));
    (!known_harmless).then_some(start..start + end)
}

/// Where the value of `--password VALUE` stands.
fn value_of_option(text: &str, space: usize, to_its_end: bool) -> Option<Range<usize>> {
    let (before, behind) = (text.get(..space)?, text.get(space + 1..)?);
    let name = before
        .rsplit(|c: char| c.is_whitespace() || matches!(c, '"' | '\''))
        .next()?;
    if !is_secret_option(name) {
        return None;
    }
    let value = behind.trim_start_matches(' ');
    let start = text.len() - value.len();
    let ends = |c: char| !to_its_end && c.is_whitespace() || c == '\n';
    Some(start..start + value.find(ends).unwrap_or(value.len()))
}

fn is_secret_option(argument: &str) -> bool {
    argument.starts_with('-') && !argument.contains('=') && is_secret(argument)
}

/// Behind the quote that ends a value which begins with it.
fn closing(value: &str, quote: &str) -> Option<usize> {
    let mut at = quote.len();
    loop {
        let found = at + value.get(at..)?.find(quote)?;
        at = found + quote.len();
        if quote.len() > 1 || !value.get(..found)?.ends_with('\\') {
            return Some(at);
        }
    }
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
            _ => masked.push_str(&line(argument, true)),
        }
        masked.push('\n');
    }
    masked
}

/// `server.properties` as Kafka reads it, sorted, without comments (which may hold an old password): Java reads the same
/// from it again.
///
/// # Errors
/// Java could not read the file either.
pub fn properties(bytes: &[u8]) -> Result<String, MalformedEscape> {
    let mut masked =
        String::from("# As Kafka reads it: sorted, without comments; secrets are hidden.\n");
    for (key, value) in Properties::parse(bytes)?.iter() {
        let provided =
            value.starts_with("${") && value.ends_with('}') && comes_from_provider(value);
        let hide = is_secret(key) && !provided && !value.is_empty();
        let value = if hide {
            HIDDEN.to_owned()
        } else {
            line(value, true)
        };
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
            ("größe:1 pässword=s3cret", "größe:1 pässword=s3cret"), // no name that anything has
            ("äpassword=ß3cret ü", "äpassword=[hidden] ü"),
            ("password=", "password="),
        ];
        for (line, wanted) in table {
            assert_eq!(text(line), wanted);
        }
        let pem = "a\n-----BEGIN RSA PRIVATE KEY-----\ns3cret\n-----END RSA PRIVATE KEY-----\nb\n";
        assert_eq!(text(pem), "a\n[hidden]\nb\n");
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
            super::line(
                "kafka.Kafka server.properties --password s3 cret --id 7",
                true
            ),
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
