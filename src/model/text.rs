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

/// How many of a list a person is shown.
const SHOWN: usize = 8;

/// The first of the names, and how many more there are of `all`: `1, 2 and 5 more`.
pub fn first_of<T: ToString>(names: impl IntoIterator<Item = T>, all: usize) -> String {
    let names = names.into_iter().take(SHOWN);
    let shown: Vec<String> = names.map(|name| name.to_string()).collect();
    match all.saturating_sub(shown.len()) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
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

    #[test]
    fn the_first_of_a_list_are_named_and_the_others_counted() {
        assert_eq!(first_of([1, 2], 2), "1, 2");
        assert_eq!(first_of(["a", "b"], 5), "a, b and 3 more");
        assert_eq!(first_of(1..=10, 10), "1, 2, 3, 4, 5, 6, 7, 8 and 2 more");
    }
}
