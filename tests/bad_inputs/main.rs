//! Wrong input from outside: settings, files of brokers, /proc, socket tables, the Kafka protocol, thread dumps, HTTP.
//! Each case has its golden message, in which `*` stands for any text; none may panic or hang.
//!
//! The messages are what an operator needs (what, where, the remedy), not copies of the output.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod connections;
mod discovery;
mod dumps;
mod exporter;
mod files;
mod host;
mod memory;
mod metadata_memory;
mod protocol;
mod reload;
mod running;
mod service;
mod settings;
mod sockets;
mod strangers;
mod zookeeper;

const EXE: &str = env!("CARGO_BIN_EXE_kafka-vitals");

/// Held by tests that measure times under load or read the host's own processes: of those, one runs at a time.
static MEASURED: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Whether `text` matches `golden`, in which `*` stands for any text.
fn is_golden(golden: &str, text: &str) -> bool {
    let mut parts = golden.split('*');
    let first = parts.next().unwrap();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        last = Some(part);
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty() || last.is_some_and(|last| last.is_empty() || rest.ends_with(last))
}

/// Returns the right answer with some bytes replaced.
fn spoilt(mut right: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    right[at..at + bytes.len()].copy_from_slice(bytes);
    right
}

/// Collects the cases that differ, so that one run shows all of them.
#[derive(Default)]
struct Cases(Vec<String>);

impl Cases {
    fn check(&mut self, name: &str, golden: &str, text: &str) {
        if !is_golden(golden, text) {
            self.0
                .push(format!("{name}\n  golden: {golden}\n  but is: {text}"));
        }
    }

    #[track_caller]
    fn finish(self, at_least: usize, cases: usize) {
        assert!(
            self.0.is_empty(),
            "{} of {cases} cases differ:\n{}",
            self.0.len(),
            self.0.join("\n")
        );
        assert!(cases >= at_least, "only {cases} cases ran");
    }
}
