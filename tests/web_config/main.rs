//! `--web.config.file`: the test files of exporter-toolkit, and curl and Prometheus against the running exporter.
//!
//! Which files are good, and what curl sees, is taken from exporter-toolkit's `web/tls_config_test.go`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod changes;
mod clients;
mod exporter;
mod files;
#[allow(dead_code, unused_imports)] // this binary uses a part
#[path = "../bad_inputs/host.rs"]
mod host;
mod prometheus;
#[allow(dead_code)] // as above
#[path = "../bad_inputs/running.rs"]
mod running;

use std::path::{Path, PathBuf};

const EXE: &str = env!("CARGO_BIN_EXE_kafka-vitals");

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/web_config")
        .join(name)
}

fn toolkit(name: &str) -> PathBuf {
    fixture("exporter-toolkit").join(name)
}
