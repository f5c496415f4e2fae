//! Real Kafka brokers and real failures on demand, for the tests and the demo of kafka-vitals.
//!
//! [`Cell`] isolates a cluster from the rest of the host, [`Cluster`] runs ZooKeeper and brokers of a version in
//! [`versions`], [`deadlock`] makes the incident's deadlock by requests alone, [`Load`] simulates impatient clients, and
//! [`cli_tools`] reads what an operator would read with `ss`, `kafka-topics`, `jstack` and `/proc`. [`fake_broker`] gives
//! answers that no real broker gives, and [`metadata_log`] writes logs that no cluster has written.

pub mod cell;
pub mod cli_tools;
pub mod client;
pub mod cluster;
pub mod deadlock;
pub mod fake_broker;
pub mod hosts;
mod http;
pub mod jars;
pub mod load;
pub mod metadata_log;
pub mod monitoring;
pub mod security;
pub mod usage;
pub mod versions;
pub mod zoo;

pub use cell::{Cell, Process};
pub use cluster::{Cluster, ClusterOptions};
pub use deadlock::{Deadlock, Form};
pub use load::Load;
pub use monitoring::Monitoring;
pub use rustix::process::Signal;
pub use security::{Certificate, Listener, Security};

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes every wait of the lab in this process end with an error, so that a signal can end a start in order. The thread
/// that receives signals calls it.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Sleeps between two checks of a condition; an error once the lab was interrupted.
pub fn sleep_between_polls() -> anyhow::Result<()> {
    anyhow::ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    std::thread::sleep(Duration::from_millis(50));
    Ok(())
}

/// Reports that a test does not run here. `tests/skips.txt` lists the reports that are allowed; a run fails on any other.
pub fn skip(test: &str, reason: &str) {
    use std::io::Write as _;
    let line = format!("{test}: {reason}\n");
    let reported = match std::env::var_os("KAFKA_VITALS_SKIPS") {
        Some(file) => {
            let file = std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(file);
            file.and_then(|mut file| file.write_all(line.as_bytes()))
        }
        // The test runner does not capture this.
        None => std::io::stderr().write_all(line.as_bytes()),
    };
    // An unreported skip would count as a test that ran.
    if let Err(error) = reported {
        panic!("cannot report that {test} was skipped: {error}");
    }
}
