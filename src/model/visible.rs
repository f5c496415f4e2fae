//! Text that a broker, or a process that speaks as one, has chosen, for people to read.

use std::borrow::Cow;

/// Whether a character shows nothing itself and changes how others are shown: control characters, those that turn the
/// direction of writing, those without a width. Line ends are none of them.
pub fn is_unseen(c: char) -> bool {
    (c.is_control() && c != '\n')
        || matches!(
            c,
            '\u{61c}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
        )
}

/// The text with such characters escaped, as in `\u{202e}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unseen) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_unseen(c) {
            true => out.extend(c.escape_unicode()),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_not_be_seen_is_escaped() {
        let table = [
            ("Grüße, 日本, שלום\nend", "Grüße, 日本, שלום\nend"),
            ("a\u{1b}[2Jb\rc\td", "a\\u{1b}[2Jb\\u{d}c\\u{9}d"),
            ("x\u{202e}gpj.exe\u{2066}", "x\\u{202e}gpj.exe\\u{2066}"),
            ("\u{feff}\u{200b}\u{85}", "\\u{feff}\\u{200b}\\u{85}"),
        ];
        for (text, expected) in table {
            assert_eq!(visible(text), expected);
        }
        assert!(matches!(visible("plain"), Cow::Borrowed(_)));
    }
}
