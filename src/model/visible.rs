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
    let Some((before, rest)) = first_unseen(text).and_then(|at| text.split_at_checked(at)) else {
        return Cow::Borrowed(text);
    };
    let mut out = String::with_capacity(text.len() + 16);
    out.push_str(before);
    for c in rest.chars() {
        match is_unseen(c) {
            true => out.extend(c.escape_unicode()),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

fn first_unseen(text: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        at += plain_prefix(text.as_bytes().get(at..)?);
        let c = text.get(at..)?.chars().next()?;
        if is_unseen(c) {
            return Some(at);
        }
        at += c.len_utf8();
    }
}

/// How many bytes at the beginning are printable ASCII or line ends. Nearly all of a page is, so it reads eight at a time.
fn plain_prefix(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 0xff;
    let (words, _) = bytes.as_chunks::<8>();
    let mut plain = 0;
    for word in words {
        let word = u64::from_le_bytes(*word);
        // The highest bit of a byte is set below where that byte is not ASCII, is below a blank, or is DEL. A borrow may
        // set that of a byte above such a one, never of a word without one.
        let below_blank = word.wrapping_sub(ONES * 0x20);
        let is_delete = (word ^ (ONES * 0x7f)).wrapping_sub(ONES);
        if (word | below_blank | is_delete) & (ONES * 0x80) != 0 {
            let is_plain = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n');
            let odd = word.to_le_bytes().iter().position(|byte| !is_plain(byte));
            if let Some(odd) = odd {
                return plain + odd;
            }
        }
        plain += 8;
    }
    plain
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
            ("sixteen are plain\u{7f}", "sixteen are plain\\u{7f}"),
            (
                "a line\nand one \u{e9}\n\u{200e}",
                "a line\nand one \u{e9}\n\\u{200e}",
            ),
        ];
        for (text, expected) in table {
            assert_eq!(visible(text), expected);
        }
        assert!(matches!(visible("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn each_character_is_found_at_each_place_of_a_word() {
        for c in (0..0x3000).chain([0xfeff]).filter_map(char::from_u32) {
            for before in 0..9 {
                let text = format!("{}{c}{}", "~".repeat(before), " ".repeat(16 - before));
                let found = first_unseen(&text);
                assert_eq!(
                    found,
                    is_unseen(c).then_some(before),
                    "{c:?} after {before}"
                );
            }
        }
    }
}
