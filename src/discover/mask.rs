//! Hides secrets in texts before they are written. It hides too much rather than too little: a value without a secret
//! is easier to miss than a password in a ticket.

use std::ops::Range;
use std::sync::LazyLock;

use regex::bytes::{Regex, RegexBuilder};

use super::properties::{MalformedEscape, Properties, comes_from_provider};

/// As Kafka's own log writes it.
pub const HIDDEN: &str = "[hidden]";

/// Parts of names whose values are secret: Kafka's settings of type `password`, Java's options, HTTP, tools.
const MARK: &str = r"(?: passw | passphrase | pwd | secret | credential | token | jaas | authorization | cookie
    | license | user\.info | api[._]?key | access[._-]?key | account[._-]?key | private | storepass | keypass
    | certificate\.chain | truststore\.certificates )";

/// Marks that are the end of a name: `ssl.key`, `db_pass`, `dbPass`, `-passin`, `-Dpass`, `sig`, `zookeeper.digest`.
const LAST_MARK: &str = r"(?: [._-]key | (?: \b | _ | -D ) (?: pass (?: in | out )? | bearer | sig | digest )
    | signature | (?-i: [a-z] Pass ) )";

/// Names of secrets, and of settings whose values are a few words: `ssl.client.auth=required`.
const AUTH: &str = r"(?: (?: \b | _ | -D ) auth )";

/// What such a setting may be.
const NO_SECRET: &str = "required requested none true false null basic";

/// Words that follow the name of a secret in a sentence.
const NO_VALUE: &str = "a an and are as at authentication be but by callback can cannot change changed credential credentials does \
    expired file for from has in invalid is login may must not of on or realm scheme set than that the to token \
    tokens was with";

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
const FORMS: [&str; 16] = [
    // name=value, "name" : value, name => value; but not name://host, where the name is that of a listener
    r"NAME GAP [=:] (?: // | [\ \t]* (?<value> > [\ \t]* VALUE \S* | VALUE ) )",
    // values with blanks: sasl.jaas.config=a.b required password=c; Authorization: Basic d
    r"(?: jaas | authorization | cookie ) REST GAP [=:] [\ \t]* (?<value> .* \S )",
    // name -> value, as Scala prints a map
    r"NAME GAP -> [\ \t]* (?<value> VALUE )",
    // ConfigEntry(name=name, value=value, ...), {"name": "name", "value": "value"}
    r"NAME GAP [,;]? GAP value GAP [=:] [\ \t]* (?<value> VALUE )",
    // auth=value
    r"AUTH GAP [=:] [\ \t]* (?<setting> VALUE )",
    // <name>value<, <property name="name">value
    r"NAME > ( [^<\n]+ ) <",
    r"< [^<>\n]* (?: MARK | LAST_MARK ) [^<>\n]* > [\ \t]* ( [^<\s] [^<\n]* )",
    // --name value, ["--name", "value"]
    r#"\b{start-half} - (?: [^\s"'=]*? (?: MARK [^\s"'=]* | LAST_MARK | AUTH ) | key )
       (?: ["']? ,? \ + | ["'] , ) ( VALUE \S* )"#,
    // curl --user user:password, curl -uuser:password
    r#"\b{start-half} (?: -u | --user | --proxy-user ) (?: \ * | = ) ["']? ( [^\s:"']+ : \S+ )"#,
    // https://user:password@host, https://token@host
    r#"[=:] // ( [^\s/"]+ ) @"#,
    // Authorization without its name
    r"\b basic \ + ( [\w+/.~-]{16,} \S* )",
    r#"\b bearer \ + (?<word> [^\s"'\]),;]{4,} )"#,
    // passwd value, with pass value, the password is value
    r#"\b (?: passw(?: or )? d | passphrase | (?: with | using ) \ + pass ) (?: \ + (?: is | was ) )? \ + ["']? (?<word> [^\s"'=:>\[{(-] [^\s"']* )"#,
    // addauth digest user:password
    r#"\b digest [\s:,'"]+ ( [^\s:'",]+ : [^\s'",]+ )"#,
    // The id of a key of AWS
    r"\b ( (?-i: A[BKS]IA | ACCA ) (?-i: [A-Z0-9]{12,} ) )",
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
        ("AUTH", AUTH),
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
        let unset = matches!(value.as_bytes(), b"null" | b"[hidden]" | b"[REDACTED]");
        let harmless = (captures.name("value").is_some() && unset)
            || (captures.name("setting").is_some() && is_one_of(NO_SECRET, value.as_bytes()))
            || (captures.name("word").is_some() && is_one_of(NO_VALUE, value.as_bytes()));
        if !harmless {
            secrets.push(value.range());
        }
    }
}

/// Whether the value is one of the words, which blanks separate.
fn is_one_of(words: &str, value: &[u8]) -> bool {
    let value = value.trim_ascii();
    let mut words = words.split_ascii_whitespace();
    words.any(|word| word.as_bytes().eq_ignore_ascii_case(value))
}

/// Whether the value of a setting is hidden.
fn is_secret_setting(name: &str, value: &str) -> bool {
    static AUTH_NAME: LazyLock<Regex> = LazyLock::new(|| compiled(&pattern(r"AUTH \z")));
    is_secret(name)
        || (AUTH_NAME.is_match(name.as_bytes()) && !is_one_of(NO_SECRET, value.as_bytes()))
}

/// Whether the next argument is a secret: `--password`, `-u`.
fn is_secret_option(argument: &str) -> bool {
    matches!(argument, "-u" | "--user" | "--proxy-user")
        || (argument.starts_with('-') && !argument.contains('=') && is_secret_setting(argument, ""))
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
            Some((name, value)) if is_secret_setting(name, value) => {
                masked.push_str(&format!("{name}={HIDDEN}"))
            }
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
        let hide = is_secret_setting(key, value) && !provided && !value.is_empty();
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
mod tests;
