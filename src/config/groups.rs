//! `groups:` of the config file: of which consumer groups the lag is read.

use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

/// Far more than a list of names needs.
const MOST_BYTES: usize = 4096;
/// Of a compiled expression, and of what it keeps while it searches.
const MOST_MEMORY: usize = 1 << 20;

/// Which groups' lag is exported; by default that of each.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupSettings {
    pub include: Option<Expression>,
    pub exclude: Option<Expression>,
}

impl GroupSettings {
    pub fn is_wanted(&self, group: &str) -> bool {
        let matches = |one: &Expression| one.compiled.is_match(group.as_bytes());
        self.include.as_ref().is_none_or(matches) && !self.exclude.as_ref().is_some_and(matches)
    }
}

/// A regular expression that must match the whole name.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct Expression {
    text: String,
    compiled: Regex,
}

impl TryFrom<String> for Expression {
    type Error = String;

    fn try_from(text: String) -> Result<Expression, String> {
        if text.len() > MOST_BYTES {
            let bytes = text.len();
            return Err(format!(
                "an expression for groups may have {MOST_BYTES} bytes, this one has {bytes}"
            ));
        }
        // The expression alone first: a bracket too many must not end the one around it.
        let built = compiled(&text).and_then(|_| compiled(&format!("^(?:{text})$")));
        match built {
            Ok(compiled) => Ok(Expression { text, compiled }),
            Err(error) => {
                let error = error.to_string();
                let why = error.lines().last().unwrap_or_default();
                let why = why.trim_start_matches("error: ");
                Err(format!("no regular expression for groups: {why}"))
            }
        }
    }
}

fn compiled(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text)
        .unicode(false)
        .size_limit(MOST_MEMORY)
        .dfa_size_limit(MOST_MEMORY)
        .build()
}

impl PartialEq for Expression {
    fn eq(&self, other: &Expression) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn settings(include: Option<&str>, exclude: Option<&str>) -> GroupSettings {
        let expression = |text: &str| Expression::try_from(text.to_owned()).unwrap();
        GroupSettings {
            include: include.map(expression),
            exclude: exclude.map(expression),
        }
    }

    #[test]
    fn expressions_match_whole_names_and_exclusion_has_the_last_word() {
        assert!(settings(None, None).is_wanted("any"));
        let one = settings(Some("orders|bill.*"), Some("billing-test"));
        for (group, wanted) in [
            ("orders", true),
            ("orders-2", false),
            ("my-orders", false),
            ("billing", true),
            ("billing-test", false),
            ("billing-test-2", true),
        ] {
            assert_eq!(one.is_wanted(group), wanted, "{group}");
        }
        assert!(!settings(None, Some(".*")).is_wanted("ä"));
    }

    #[test]
    fn an_expression_that_is_none_or_too_big_is_refused() {
        for (text, why) in [
            ("a)(b", "unopened group"),
            ("[", "unclosed character class"),
            ("(?:a{1000}){1000}", "size limit"),
            (&"a".repeat(5000), "4096 bytes, this one has 5000"),
        ] {
            let error = Expression::try_from(text.to_owned()).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
