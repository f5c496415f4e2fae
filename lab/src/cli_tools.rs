//! Readings by the tools that an operator uses: `/proc`, `ss`, `jstack`, `kafka-topics`. Tests compare the exporter's
//! readings with them.

use std::fs;
use std::io;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cell::Cell;
use crate::client::Partition;

/// Counts the open fds of a process (host pid): the entries of `/proc/PID/fd`.
pub fn open_handles(pid: u32) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// Counts the sockets with local port `port` in a state (by the name that `ss` uses: `close-wait`).
pub fn sockets(cell: &Cell, state: &str, port: u16) -> Result<usize> {
    let mut ss = Command::new("ss");
    ss.args([
        "--no-header",
        "--tcp",
        "--numeric",
        "state",
        state,
        "sport",
        "=",
        &format!(":{port}"),
    ]);
    let output = cell
        .run_tool(ss, Duration::from_secs(10))
        .context("run `ss`: install it with `apt-get install iproute2`")?;
    if !output.status.success() {
        bail!("ss: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().count())
}

/// Parses the partitions from the output of `kafka-topics --describe`, of any version.
pub fn described_partitions(describe: &str) -> Vec<Partition> {
    describe.lines().filter_map(described_partition).collect()
}

fn described_partition(line: &str) -> Option<Partition> {
    let field = |name: &str| {
        line.split('\t')
            .find_map(|field| field.trim().strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    let ids = |name: &str| -> Option<Vec<i32>> {
        field(name)?
            .split(',')
            .filter(|id| !id.is_empty())
            .map(|id| id.trim().parse().ok())
            .collect()
    };
    Some(Partition {
        topic: field("Topic")?.into(),
        partition: field("Partition")?.parse().ok()?,
        leader: field("Leader")?.parse().ok().filter(|leader| *leader >= 0),
        replicas: ids("Replicas")?,
        isr: ids("Isr")?,
    })
}

/// Returns the part of `jstack`'s output about deadlocks, if it reports one.
pub fn reported_deadlock(dump: &str) -> Option<&str> {
    let start = dump.find("Found one Java-level deadlock")?;
    let report = &dump[start..];
    let end = report
        .find("Java stack information")
        .unwrap_or(report.len());
    Some(report[..end].trim_end())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_the_describe_of_old_and_new_versions() {
        // As kafka-topics of 0.10.1.0 and of 4.3.0 print it.
        let old = "Topic:t32\tPartitionCount:2\tReplicationFactor:3\tConfigs:\n\
                   \tTopic: t32\tPartition: 0\tLeader: 217\tReplicas: 217,218,219\tIsr: 217\n\
                   \tTopic: t32\tPartition: 1\tLeader: none\tReplicas: 218\tIsr: \n";
        let new = "\tTopic: t32\tPartition: 7\tLeader: 1\tReplicas: 1,2\tIsr: 1,2\tElr: \tLastKnownElr: \n";
        let partitions = described_partitions(old);
        assert_eq!(partitions.len(), 2);
        assert_eq!(
            (partitions[0].leader, &partitions[0].isr[..]),
            (Some(217), &[217][..])
        );
        assert!(!partitions[0].is_fully_replicated());
        assert_eq!((partitions[1].leader, partitions[1].isr.len()), (None, 0));
        let partitions = described_partitions(new);
        assert_eq!(
            (partitions[0].partition, partitions[0].is_fully_replicated()),
            (7, true)
        );
    }
}
