//! The header line of a thread.

use super::{State, Thread, hex_at_start_of};
use crate::parse::leading_number;

/// The content of a thread's header line; None is what that JVM does not print.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Header {
    /// Java's thread number: `#12`, `t@12`, `id=12`.
    pub number: Option<u64>,
    /// CPU time used, in milliseconds.
    pub cpu_ms: Option<f64>,
    /// The kernel's thread id as the JVM's pid namespace sees it; hexadecimal up to JDK 17, decimal from 21 on.
    pub nid: Option<u64>,
}

impl Thread<'_> {
    /// Reads the header line.
    pub fn header(&self) -> Header {
        let mut header = Header {
            number: self.before.strip_prefix('#').and_then(leading_number),
            ..Header::default()
        };
        for word in self.attributes.split([' ', '\t']) {
            match word.split_once('=') {
                Some(("id" | "Id", value)) => {
                    header.number = header.number.or(leading_number(value));
                }
                // SAP's JVM prints `cpu=1.00 [reset 1.00] ms`.
                Some(("cpu", value)) => {
                    let in_ms = value.strip_suffix("ms");
                    let in_ms = in_ms.or(Some(value).filter(|_| self.attributes.contains("] ms")));
                    header.cpu_ms = in_ms.and_then(decimal);
                }
                Some(("nid", value)) if value.starts_with("0x") => {
                    header.nid = hex_at_start_of(value).map(|(nid, _)| nid)
                }
                Some(("nid", value)) => header.nid = leading_number(value),
                Some(_) => {}
                None => {
                    let numbered = word.strip_prefix('#').or_else(|| word.strip_prefix("t@"));
                    header.number = header.number.or(numbered.and_then(leading_number));
                }
            }
        }
        header
    }

    /// The `java.lang.Thread.State`; the JVM's own threads have none.
    pub fn state(&self) -> Option<State> {
        // It is nearly always on the first line, whose end then need not be found.
        if let Some(state) = super::trim_indent(self.body).strip_prefix("java.lang.Thread.State: ")
        {
            return State::at_start_of(state);
        }
        for line in self.body.lines().take(4) {
            let line = super::trim_indent(line);
            if let Some(state) = line.strip_prefix("java.lang.Thread.State: ") {
                return State::at_start_of(state);
            }
            if line.starts_with("at ") {
                break;
            }
        }
        // `"name" Id=3149 RUNNABLE` (JMX) and `#12 "name" WAITING 2026-..Z` (dump_to_file): on the header line.
        if self.before.is_empty() && !self.is_of_jmx() {
            return None;
        }
        let mut words = self.attributes.split(' ');
        words.find_map(|word| State::at_start_of(word.strip_prefix("state=").unwrap_or(word)))
    }

    /// Whether `Thread.dump_to_file` printed it, which names no locks and no states before JDK 25.
    pub fn is_of_file(&self) -> bool {
        !self.before.is_empty()
    }

    /// Whether it is printed as `java.lang.management.ThreadInfo` is: `"a" Id=56 BLOCKED on x@39 owned by "b" Id=59`, or
    /// `"a" id=56 in BLOCKED`.
    pub(super) fn is_of_jmx(&self) -> bool {
        self.attributes.starts_with(" id=") || self.attributes.contains(" Id=")
    }
}

/// A decimal number with a point or, as in some locales, a comma.
fn decimal(text: &str) -> Option<f64> {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b',');
    if !plain {
        return None;
    }
    text.parse()
        .or_else(|_| text.replace(',', ".").parse())
        .ok()
}
