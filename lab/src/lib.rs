//! Real Kafka brokers and real failures on demand, for the tests and the demo of kafka-vitals.
//!
//! [`Cell`] keeps a cluster apart from everything else on the host, [`Cluster`] runs ZooKeeper and brokers of a
//! version in [`versions`], [`deadlock`] makes the incident's deadlock by requests alone, [`Load`] plays impatient
//! clients, and [`hand`] reads what an operator would read with `ss`, `kafka-topics`, `jstack` and `/proc`.

pub mod cell;
pub mod client;
pub mod cluster;
pub mod deadlock;
pub mod hand;
mod http;
pub mod jars;
pub mod load;
pub mod monitoring;
pub mod usage;
pub mod versions;

pub use cell::{Cell, Process};
pub use cluster::{Cluster, ClusterOptions};
pub use deadlock::{Deadlock, Form};
pub use load::Load;
pub use monitoring::Monitoring;
pub use rustix::process::Signal;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes every wait of the lab in this process end with an error, so that a start or a deadlock in the making can be
/// given up in order. For the thread that is told of signals.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Sleeps between two looks at a condition; an error once the lab was interrupted.
fn nap() -> anyhow::Result<()> {
    anyhow::ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    std::thread::sleep(Duration::from_millis(50));
    Ok(())
}

/// Tells that a test does not run here; `tests/skips.txt` lists what may be told, and a run fails over anything else.
pub fn skip(test: &str, reason: &str) {
    use std::io::Write as _;
    let line = format!("{test}: {reason}\n");
    let told = match std::env::var_os("KAFKA_VITALS_SKIPS") {
        Some(file) => {
            let file = std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(file);
            file.and_then(|mut file| file.write_all(line.as_bytes()))
        }
        // Past the runner's capture.
        None => std::io::stderr().write_all(line.as_bytes()),
    };
    // A skip that nobody hears of must not pass for a test that ran.
    if let Err(error) = told {
        panic!("cannot tell that {test} was skipped: {error}");
    }
}
