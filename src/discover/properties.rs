//! Reads Java's `.properties` files as Kafka does, that is as `java.util.Properties.load(InputStream)`: bytes are
//! ISO-8859-1, even where an editor wrote UTF-8.

use std::collections::BTreeMap;

/// Biggest properties file that is read, in bytes.
pub const FILE_CAP: usize = 1 << 20;
/// The longest value that is kept, in bytes.
pub(super) const VALUE_CAP: usize = 16 << 10;
/// Entries of one list (listeners, log folders, class path folders) that are read.
pub(super) const MOST_ENTRIES: usize = 64;

/// Because of it Java refuses the whole file, and the broker would not start with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: \\u is not followed by four hexadecimal digits; Java refuses the file")]
pub struct MalformedEscape {
    pub line: usize,
}

/// Keys and values. If a key is given twice, the later value holds.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(BTreeMap<String, String>);

/// Without values, because some are passwords.
impl std::fmt::Debug for Properties {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Properties of {} keys", self.0.len())
    }
}

impl Properties {
    pub fn parse(bytes: &[u8]) -> Result<Properties, MalformedEscape> {
        let mut pairs = BTreeMap::new();
        for (line, text) in logical_lines(bytes) {
            let (key, value) = split_key(&text);
            let fail = |()| MalformedEscape { line };
            pairs.insert(unescape(key).map_err(fail)?, unescape(value).map_err(fail)?);
        }
        Ok(Properties(pairs))
    }

    /// Returns the value as written.
    pub fn raw(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Returns the value as Kafka reads it: without characters up to U+0020 around it, and None if it is empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        Some(self.raw(key)?.trim_matches(|c| c <= ' ')).filter(|value| !value.is_empty())
    }

    /// Replaces a value, as `--override key=value` on the command line does.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.insert(key.into(), value.into());
    }

    /// Drops every other key.
    pub fn only(mut self, keys: &[&str]) -> Properties {
        self.0.retain(|key, _| keys.contains(&key.as_str()));
        self
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// Splits a value at commas as Kafka does: without blanks around the parts and without empty parts.
pub fn list(value: &str) -> impl Iterator<Item = &str> {
    value
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

/// Whether the value is like `${provider:path:key}`, so that only the broker's config provider knows it.
pub fn comes_from_provider(value: &str) -> bool {
    value.split_once("${").is_some_and(|(_, rest)| {
        rest.split_once('}')
            .is_some_and(|(name, _)| name.contains(':'))
    })
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\x0c')
}

/// Joins lines that end in an odd number of backslashes with the next one, and leaves out comments and blank lines. Each
/// comes with the number of its first natural line.
fn logical_lines(bytes: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut lines = Vec::new();
    let mut open: Option<(usize, Vec<u8>)> = None;
    for (number, natural) in (1..).zip(natural_lines(bytes)) {
        let text = skip_blanks(natural);
        // A continued line that is still empty may become a comment.
        let empty = open.as_ref().is_none_or(|(_, line)| line.is_empty());
        if empty && matches!(text.first(), None | Some(b'#' | b'!')) {
            open = None;
            continue;
        }
        let (first, mut line) = open.take().unwrap_or((number, Vec::new()));
        line.extend_from_slice(text);
        let backslashes = text.iter().rev().take_while(|byte| **byte == b'\\').count();
        if backslashes % 2 == 1 {
            line.pop();
            open = Some((first, line));
        } else if !line.is_empty() {
            lines.push((first, line));
        }
    }
    // The last line of the file may end in a backslash as well.
    lines.extend(open);
    lines
}

fn skip_blanks(text: &[u8]) -> &[u8] {
    let start = text
        .iter()
        .position(|byte| !is_blank(*byte))
        .unwrap_or(text.len());
    text.get(start..).unwrap_or_default()
}

/// Splits at `\n`, `\r\n` and `\r`.
fn natural_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = memchr::memchr2(b'\n', b'\r', text) else {
            rest = None;
            return Some(text);
        };
        let (line, after) = text.split_at(end);
        rest = after.strip_prefix(b"\r\n").or(after.get(1..));
        Some(line)
    })
}

/// The key ends at the first `=`, `:` or blank without a backslash before it. Blanks and one `=` or `:` separate it from
/// the value.
fn split_key(line: &[u8]) -> (&[u8], &[u8]) {
    let mut escaped = false;
    let end = line.iter().position(|byte| {
        let ends = !escaped && (matches!(byte, b'=' | b':') || is_blank(*byte));
        escaped = *byte == b'\\' && !escaped;
        ends
    });
    let (key, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = skip_blanks(rest);
    let rest = rest
        .strip_prefix(b"=")
        .or(rest.strip_prefix(b":"))
        .unwrap_or(rest);
    (key, skip_blanks(rest))
}

fn unescape(text: &[u8]) -> Result<String, ()> {
    // Java's characters are UTF-16 units, and two \u escapes may make one character.
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            units.push(byte.into());
            continue;
        }
        units.push(match bytes.next() {
            None => break,
            Some(b'u') => {
                let mut unit = 0;
                for _ in 0..4 {
                    let digit = bytes
                        .next()
                        .and_then(|digit| char::from(digit).to_digit(16))
                        .ok_or(())?;
                    unit = unit << 4 | digit as u16;
                }
                unit
            }
            Some(b't') => b'\t'.into(),
            Some(b'r') => b'\r'.into(),
            Some(b'n') => b'\n'.into(),
            Some(b'f') => 0x0c,
            Some(other) => other.into(),
        });
    }
    Ok(String::from_utf16_lossy(&units))
}

#[cfg(test)]
mod tests;
