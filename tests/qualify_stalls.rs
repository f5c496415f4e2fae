//! Healthy brokers of every version, watched for long: no stall, no missing thread, no deadlock: `make qualify`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use lab::versions::VERSIONS;
use support::stalls::{POOLS, healthy};

const UNDER_LOAD: Duration = Duration::from_secs(600);

#[test]
fn healthy_brokers_of_every_version_neither_stall_nor_lack_threads() {
    for version in VERSIONS {
        for mode in version.modes {
            println!("{} {mode:?}", version.name);
            healthy(version.name, Some(*mode), &POOLS, UNDER_LOAD);
        }
    }
}
