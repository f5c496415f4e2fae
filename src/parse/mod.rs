//! Parsers for the text of a JVM, and for the lines in which Docker keeps it: pure, bounded, and they never panic.

pub mod docker;
pub mod thread_dump;

/// The number with which a text begins.
pub fn leading_number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}
