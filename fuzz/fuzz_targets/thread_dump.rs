//! Reads any bytes as a thread dump: decodes, parses and evaluates them, and reads every lazy part.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    kafka_vitals::analyze::dumps::read_all(bytes);
});
