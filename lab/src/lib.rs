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
pub mod usage;
pub mod versions;

pub use cell::{Cell, Process};
pub use cluster::{Cluster, ClusterOptions};
pub use deadlock::{Deadlock, Form};
pub use load::{Load, LoadOptions};
pub use rustix::process::Signal;
