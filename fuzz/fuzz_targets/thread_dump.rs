//! Any bytes as a thread dump: decoded, parsed, judged, every lazy part read.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    kafka_vitals::analyze::dumps::read_all(bytes);
});
