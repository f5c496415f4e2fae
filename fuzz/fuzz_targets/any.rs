//! Runs the target of `fuzz/targets.rs` that has this binary's name.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut targets = targets::TARGETS.iter();
    let target = targets.find(|(name, _)| *name == env!("CARGO_BIN_NAME"));
    target.expect("every binary has a target").1(bytes);
});
