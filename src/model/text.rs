//! Texts whose length others decide, cut.

/// The most bytes of a message to a person or of a line of the log. What comes from outside, as a path or the name of a
/// thread, may be longer.
pub const MESSAGE: usize = 2048;

/// The beginning of `text`, at most so many bytes, that ends with a whole character.
pub fn beginning(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or(text)
}

/// The text with at most so many bytes, and a mark where something is cut.
pub fn cut(mut text: String, most: usize) -> String {
    const MARK: &str = "\u{2026} (cut)";
    if text.len() > most {
        text.truncate(beginning(&text, most.saturating_sub(MARK.len())).len());
        text.push_str(MARK);
        text.shrink_to_fit();
    }
    text
}

/// The text as a message, see [`MESSAGE`].
pub fn message(text: impl Into<String>) -> String {
    cut(text.into(), MESSAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_at_a_whole_character_and_marked() {
        assert_eq!(message("short"), "short");
        let whole = "x".repeat(MESSAGE);
        assert_eq!(message(whole.clone()), whole);
        let long = message("\u{1f600}".repeat(MESSAGE));
        assert!(
            long.len() <= MESSAGE && long.len() > MESSAGE - 4,
            "{}",
            long.len()
        );
        assert!(long.ends_with("\u{1f600}\u{2026} (cut)"), "{long}");
        assert_eq!(beginning("a\u{e9}", 2), "a");
    }
}
