//! Parsers for the text of a JVM: pure, bounded, and they never panic.

pub mod thread_dump;

/// The number with which a text begins.
pub fn leading_number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}
