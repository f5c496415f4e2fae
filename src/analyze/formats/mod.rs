//! Parsers for the output of the tools that people save: pure, bounded, and they never panic.

pub mod fds;
pub mod groups;
pub mod limits;
pub mod log_dirs;
pub mod quorum;
pub mod server_log;
pub mod sockets;
pub mod top;
pub mod topics;
pub mod wrapped;
pub mod zookeeper;

use regex::bytes::{Regex, RegexBuilder};

/// A regular expression in verbose mode. Its classes are ASCII, so that it needs no tables of Unicode.
struct Pattern(Regex);

impl Pattern {
    /// For patterns that the tests of their file compile.
    fn new(pattern: &str) -> Pattern {
        let compiled = RegexBuilder::new(pattern)
            .ignore_whitespace(true)
            .unicode(false)
            .build();
        // A constant, and the parser's first call compiles it: a test of that parser fails if it is wrong.
        #[allow(clippy::expect_used)]
        Pattern(compiled.expect("a valid pattern"))
    }

    fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text.as_bytes())
    }

    /// The text up to the end of the first match, and what follows it.
    fn prefix<'a>(&self, text: &'a str) -> Option<(&'a str, &'a str)> {
        let end = self.0.find(text.as_bytes())?.end();
        text.split_at_checked(end)
    }

    /// The first group of a pattern that is anchored at the start, and the text after the match.
    fn after<'a>(&self, text: &'a str) -> Option<(&'a str, &'a str)> {
        if !self.is_match(text) {
            return None;
        }
        let captures = self.0.captures(text.as_bytes())?;
        let group = captures.get(1).map_or(0..0, |group| group.range());
        Some((text.get(group)?, text.get(captures.get(0)?.end()..)?))
    }

    /// The text with `by` in place of each match. The pattern matches ASCII.
    fn replaced(&self, text: &str, by: &str) -> String {
        let bytes = self.0.replace_all(text.as_bytes(), by.as_bytes());
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The groups of the first match; an empty text for a group that takes no part in it.
    fn groups<'a, const N: usize>(&self, text: &'a str) -> Option<[&'a str; N]> {
        // Nearly all texts do not match, which is found out faster without groups.
        if !self.is_match(text) {
            return None;
        }
        let captures = self.0.captures(text.as_bytes())?;
        let group = |index| text.get(captures.get(index + 1)?.range());
        Some(std::array::from_fn(|index| {
            group(index).unwrap_or_default()
        }))
    }

    /// The groups of each match.
    fn all_groups<'a, const N: usize>(&self, text: &'a str) -> impl Iterator<Item = [&'a str; N]> {
        let matches = self.0.captures_iter(text.as_bytes());
        matches.map(|captures| {
            std::array::from_fn(|index| {
                let group = captures.get(index + 1);
                group
                    .and_then(|group| text.get(group.range()))
                    .unwrap_or_default()
            })
        })
    }
}
