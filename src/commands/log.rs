//! The log: one line for each event, on standard error, no line longer than a message may be.

use std::borrow::Cow;
use std::io::{self, Write};

use serde_json::Value;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{Format, LogLevel};
use crate::model::text::{MESSAGE, cut};

/// Logs from now on.
pub(super) fn to_stderr(level: LogLevel, format: Format) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        // Otherwise it reports a full disk or a closed pipe on standard error, and panics because that fails too.
        .log_internal_errors(false);
    match format {
        Format::Text => subscriber
            .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
            .with_writer(|| Lines(short))
            .init(),
        Format::Json => subscriber.json().with_writer(|| Lines(short_json)).init(),
    }
}

/// Writes each event with one call, as this function shortens it.
struct Lines(fn(&str) -> Cow<'_, str>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        io::stderr().write_all((self.0)(&text).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn short(line: &str) -> Cow<'_, str> {
    match line.len() <= MESSAGE {
        true => line.into(),
        false => (cut(line.trim_end().to_owned(), MESSAGE - 1) + "\n").into(),
    }
}

/// It stays JSON: the texts in it are cut, further where it has many of them.
fn short_json(line: &str) -> Cow<'_, str> {
    if line.len() <= MESSAGE {
        return line.into();
    }
    let Ok(mut event) = serde_json::from_str(line) else {
        return short(line);
    };
    for most in [1024, 256, 64, 16] {
        cut_texts(&mut event, most);
        let shorter = event.to_string();
        if shorter.len() < MESSAGE {
            return (shorter + "\n").into();
        }
    }
    short(line)
}

/// An event has fields, and at most one object in another: the recursion ends there.
fn cut_texts(value: &mut Value, most: usize) {
    match value {
        Value::String(text) => *text = cut(std::mem::take(text), most),
        Value::Object(fields) => fields.values_mut().for_each(|value| cut_texts(value, most)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_and_json_stays_json() {
        assert_eq!(short("one line\n"), "one line\n");
        let long = format!("WARN {}\n", "\u{e9}".repeat(MESSAGE));
        let line = short(&long);
        assert!(line.len() <= MESSAGE && line.ends_with("(cut)\n"), "{line}");
        for texts in [1, 20] {
            let fields: serde_json::Map<String, Value> = (0..texts)
                .map(|field| (format!("field{field}"), "\"x\u{7}".repeat(9000).into()))
                .collect();
            let event = serde_json::json!({ "level": "WARN", "fields": fields }).to_string() + "\n";
            let line = short_json(&event);
            assert!(line.len() <= MESSAGE, "{}", line.len());
            let read: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(read["level"], "WARN");
            assert!(line.ends_with("}\n"));
        }
    }
}
