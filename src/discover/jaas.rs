//! Java's login configuration (JAAS): the value of `sasl.jaas.config`, and files with sections. Only names and passwords
//! are read from it. Pure.

/// Of one login module.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct LoginModule {
    /// The name of the class.
    pub class: String,
    pub options: Vec<(String, String)>,
}

impl LoginModule {
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        let known = self.options.iter().find(|(known, _)| known == name);
        known.map(|(_, value)| value.as_str())
    }
}

/// Far more than a file of logins has.
const MOST_TOKENS: usize = 10_000;

enum Token {
    Word(String),
    Quoted(String),
    Symbol(char),
}

/// The modules of a value: `CLASS required name="value" ...;`
pub(super) fn modules(text: &str) -> Option<Vec<LoginModule>> {
    let tokens = tokens(text)?;
    let mut rest = tokens.as_slice();
    let mut modules = Vec::new();
    while !rest.is_empty() {
        modules.push(module(&mut rest)?);
    }
    Some(modules)
}

/// The modules of the section of that name in a file: `NAME { modules };`
pub(super) fn section(text: &str, name: &str) -> Option<Vec<LoginModule>> {
    let tokens = tokens(text)?;
    let mut rest = tokens.as_slice();
    let mut found = None;
    while !rest.is_empty() {
        let (Token::Word(section) | Token::Quoted(section)) = next(&mut rest)? else {
            return None;
        };
        symbol(&mut rest, '{')?;
        let mut modules = Vec::new();
        while !matches!(rest.first(), Some(Token::Symbol('}')) | None) {
            modules.push(module(&mut rest)?);
        }
        symbol(&mut rest, '}')?;
        symbol(&mut rest, ';')?;
        if section == name {
            found = Some(modules);
        }
    }
    found
}

fn module(rest: &mut &[Token]) -> Option<LoginModule> {
    let Token::Word(class) = next(rest)? else {
        return None;
    };
    // required, requisite, sufficient or optional
    let Token::Word(_) = next(rest)? else {
        return None;
    };
    let mut options = Vec::new();
    loop {
        let name = match next(rest)? {
            Token::Symbol(';') => break,
            Token::Word(name) | Token::Quoted(name) => name,
            Token::Symbol(_) => return None,
        };
        symbol(rest, '=')?;
        let (Token::Word(value) | Token::Quoted(value)) = next(rest)? else {
            return None;
        };
        options.push((name.clone(), value.clone()));
    }
    let class = class.clone();
    Some(LoginModule { class, options })
}

fn next<'t>(rest: &mut &'t [Token]) -> Option<&'t Token> {
    let (first, others) = rest.split_first()?;
    *rest = others;
    Some(first)
}

fn symbol(rest: &mut &[Token], wanted: char) -> Option<()> {
    matches!(next(rest)?, Token::Symbol(c) if *c == wanted).then_some(())
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c <= ' ');
        if rest.starts_with("//") || rest.starts_with('#') {
            rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
            continue;
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/")?.1;
            continue;
        }
        let Some(first) = rest.chars().next() else {
            return Some(tokens);
        };
        if tokens.len() == MOST_TOKENS {
            return None;
        }
        if first == '"' || first == '\'' {
            let (value, after) = quoted(&rest[1..], first)?;
            tokens.push(Token::Quoted(value));
            rest = after;
        } else if of_word(first) {
            let end = rest.find(|c| !of_word(c)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            tokens.push(Token::Word(word.to_owned()));
            rest = after;
        } else {
            tokens.push(Token::Symbol(first));
            rest = &rest[first.len_utf8()..];
        }
    }
}

fn of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '$' | '.') || c >= '\u{a0}'
}

/// The text up to the quote, unescaped as Java's `StreamTokenizer` does, and what follows it.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Some((value, text.get(at + 1..)?));
        } else if c == '\n' || c == '\r' {
            return None;
        } else if c != '\\' {
            value.push(c);
            continue;
        }
        let (_, escaped) = chars.next()?;
        value.push(match escaped {
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '0'..='7' => {
                let mut number = escaped.to_digit(8)?;
                let most = if escaped <= '3' { 2 } else { 1 };
                for _ in 0..most {
                    let digit = chars.peek().and_then(|(_, c)| c.to_digit(8));
                    let Some(digit) = digit else { break };
                    number = number * 8 + digit;
                    chars.next();
                }
                char::from_u32(number)?
            }
            other => other,
        });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Option<Vec<(String, String)>> {
        Some(modules(text)?.into_iter().next()?.options)
    }

    #[test]
    fn values_are_read_as_java_reads_them() {
        // By JaasConfig of kafka-clients 3.9.1.
        let table = [
            (
                r#"a.B required username="u" password="p";"#,
                Some(vec![("username", "u"), ("password", "p")]),
            ),
            (
                r#"a.B required password="a\"b\\c\n\101\78";"#,
                Some(vec![("password", "a\"b\\c\nA\u{7}8")]),
            ),
            (
                r#"a.B required password='it"s';"#,
                Some(vec![("password", "it\"s")]),
            ),
            (
                "a.B required\n  username=word // comment\n /* and\n another */ password=\"x\";",
                Some(vec![("username", "word"), ("password", "x")]),
            ),
            ("a.B required;", Some(vec![])),
            ("a.B required password=\"open;", None),
            ("a.B required password=\"line\nend\";", None),
            ("a.B required password;", None),
            ("a.B required password=\"x\"", None),
            ("a.B", None),
            ("/* open", None),
        ];
        for (text, expected) in table {
            let expected = expected.map(|pairs| {
                let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
                pairs.into_iter().map(owned).collect::<Vec<_>>()
            });
            assert_eq!(options(text), expected, "{text}");
        }
        assert!(modules("").is_some_and(|modules| modules.is_empty()));
    }

    #[test]
    fn a_section_of_a_file_is_found_by_its_name() {
        let text = "Client { a.Z required x=\"1\"; };\nKafkaServer {\n a.B required password=\"p\";\n c.D optional;\n};\n";
        let found = section(text, "KafkaServer").unwrap();
        let classes: Vec<_> = found.iter().map(|module| module.class.as_str()).collect();
        assert_eq!(classes, ["a.B", "c.D"]);
        assert_eq!(found[0].option("password"), Some("p"));
        for (text, name) in [
            (text, "Other"),
            ("KafkaServer {", "KafkaServer"),
            ("KafkaServer { a.B required; }", "KafkaServer"),
        ] {
            assert!(section(text, name).is_none(), "{text}");
        }
    }
}
