//! The header line of a thread.

use super::{State, Thread, hex_at_start_of};

/// What a thread's header line tells; None is what that JVM does not print.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Header<'a> {
    /// Java's thread number: `#12`, `t@12`, `id=12`.
    pub number: Option<u64>,
    pub daemon: bool,
    /// A virtual thread of `Thread.dump_to_file`.
    pub is_virtual: bool,
    pub priority: Option<i32>,
    pub os_priority: Option<i32>,
    /// CPU time used, in milliseconds.
    pub cpu_ms: Option<f64>,
    /// Age of the thread, in seconds.
    pub elapsed_s: Option<f64>,
    /// Address of the JVM's thread structure: tells threads of one name apart.
    pub tid: Option<u64>,
    /// The kernel's thread id as the JVM's pid namespace sees it; hexadecimal up to JDK 17, decimal from 21 on.
    pub nid: Option<u64>,
    /// `waiting on condition`, `in Object.wait()` ...
    pub status: &'a str,
}

impl<'a> Thread<'a> {
    /// Reads the header line.
    pub fn header(&self) -> Header<'a> {
        let mut header = Header { number: self.before.strip_prefix('#').and_then(number), ..Header::default() };
        let mut rest = self.attributes;
        loop {
            rest = rest.trim_start();
            let word = rest.split([' ', '\t']).next().unwrap_or("");
            if word.is_empty() || word.starts_with("[0x") {
                break;
            }
            if !read_attribute(&mut header, word) {
                // The first word that is no attribute begins the status, which the stack range ends.
                header.status = rest.split('[').next().unwrap_or("").trim_end();
                break;
            }
            rest = rest.get(word.len()..).unwrap_or("");
        }
        header
    }

    /// Its `java.lang.Thread.State`; the JVM's own threads have none.
    pub fn state(&self) -> Option<State> {
        // Nearly always on the first line, whose end then need not be found.
        if let Some(state) = super::trim_indent(self.body).strip_prefix("java.lang.Thread.State: ") {
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
        // `"name" id=3149 in RUNNABLE` (JMX) and `#12 "name" WAITING 2026-..Z` (dump_to_file): on the header line.
        if self.before.is_empty() && !self.attributes.starts_with(" id=") {
            return None;
        }
        self.attributes.split(' ').find_map(State::at_start_of)
    }

    /// The number of the virtual thread that this carrier carries.
    pub fn carries(&self) -> Option<u64> {
        self.body
            .lines()
            .find_map(|line| super::trim_indent(line).strip_prefix("Carrying virtual thread #"))
            .and_then(number)
    }
}

/// Takes one word of the header line in; false for one that is no attribute.
fn read_attribute(header: &mut Header, word: &str) -> bool {
    let Some((key, value)) = word.split_once('=') else {
        match word {
            "daemon" => header.daemon = true,
            "virtual" => header.is_virtual = true,
            "-" | "Thread" => {}
            _ if word.starts_with('#') => header.number = word.get(1..).and_then(number),
            _ if word.starts_with("t@") => header.number = word.get(2..).and_then(number),
            // The kernel's id in brackets, printed again as nid.
            _ if word.starts_with('[') && word.ends_with(']') => {}
            _ => return false,
        }
        return true;
    };
    match key {
        "id" => header.number = number(value),
        "prio" => header.priority = value.parse().ok(),
        "os_prio" => header.os_priority = value.parse().ok(),
        "cpu" => header.cpu_ms = value.strip_suffix("ms").and_then(decimal),
        "elapsed" => header.elapsed_s = value.strip_suffix('s').and_then(decimal),
        "tid" => header.tid = hex_at_start_of(value).map(|(tid, _)| tid),
        "nid" if value.starts_with("0x") => header.nid = hex_at_start_of(value).map(|(nid, _)| nid),
        "nid" => header.nid = number(value),
        "allocated" | "defined_classes" | "lwp_id" => {}
        _ => return false,
    }
    true
}

fn number(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}

/// A decimal with the point or, as some locales have it, the comma.
fn decimal(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b',');
    if !plain {
        return None;
    }
    text.parse().or_else(|_| text.replace(',', ".").parse()).ok()
}
