//! What other tools report about the exporter's readings, under the names of its series.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use lab::client::Partition;
use lab::{Cluster, cli_tools};

use super::Exporter;

pub type Readings = BTreeMap<String, u64>;

/// Counts the entries of `/proc/PID/fd` of each running broker and controller.
pub fn handles_by_folder(cluster: &Cluster) -> Readings {
    let count = |broker: &lab::cluster::Node| {
        let entries = cli_tools::open_handles(broker.pid().ok()?).ok()?;
        Some((
            format!("open_file_handles{{broker=\"{}\"}}", broker.id()),
            entries as u64,
        ))
    };
    cluster.nodes().iter().filter_map(count).collect()
}

/// The longest time after a change until `kafka-topics` and the Metadata of all brokers agree.
const AGREE_TIME: Duration = Duration::from_secs(120);

/// Waits until `kafka-topics` and the Metadata of every broker that answers give the same counts for the running brokers,
/// and returns them.
///
/// With ZooKeeper, which `kafka-topics` reads, either can be behind the other after a change. The exporter reads Metadata,
/// so a comparison with `kafka-topics` alone would compare two moments.
pub fn isr_by_kafka_topics(cluster: &Cluster) -> Readings {
    let running: Vec<i32> = cluster
        .brokers()
        .filter(|node| node.pid().is_ok())
        .map(|node| node.id())
        .collect();
    let deadline = Instant::now() + AGREE_TIME;
    loop {
        let described = isr_in_describe(&cluster.topics_describe().unwrap(), &running);
        // A paused broker does not answer.
        let answers = running
            .iter()
            .filter_map(|id| Some((*id, cluster.metadata(*id).ok()?.partitions)));
        let answers: Vec<_> = answers
            .map(|(id, partitions)| (id, isr_counts(&partitions, &running)))
            .collect();
        if !answers.is_empty() && answers.iter().all(|(_, counts)| *counts == described) {
            return described;
        }
        assert!(
            Instant::now() < deadline,
            "after {AGREE_TIME:?} kafka-topics and Metadata still differ: {described:#?}\n{answers:#?}"
        );
    }
}

/// Counts over the output of `kafka-topics --describe`.
pub fn isr_in_describe(text: &str, brokers: &[i32]) -> Readings {
    let partitions = cli_tools::described_partitions(text);
    assert!(!partitions.is_empty());
    isr_counts(&partitions, brokers)
}

fn isr_counts(partitions: &[Partition], brokers: &[i32]) -> Readings {
    let mut readings = Readings::new();
    for &id in brokers {
        let count = |wanted: &dyn Fn(&Partition) -> bool| {
            partitions.iter().filter(|p| wanted(p)).count() as u64
        };
        let led = |p: &Partition| p.leader == Some(id);
        let mut report =
            |name: &str, value| readings.insert(format!("{name}{{broker=\"{id}\"}}"), value);
        report("leader_partitions", count(&led));
        report(
            "under_replicated_partitions",
            count(&|p| led(p) && p.isr.len() < p.replicas.len()),
        );
        report(
            "isr_leader_alone_partitions",
            count(&|p| led(p) && p.isr == [id] && p.replicas.len() > 1),
        );
        report(
            "not_in_isr_partitions",
            count(&|p| p.replicas.contains(&id) && !p.isr.contains(&id)),
        );
    }
    readings.insert(
        "offline_partitions".into(),
        partitions.iter().filter(|p| p.leader.is_none()).count() as u64,
    );
    readings
}

/// Counts sockets by state as `ss` shows them, without the exporter's own and TIME_WAIT.
pub fn connections_by_ss(cluster: &Cluster, exporter: &Exporter) -> Readings {
    let mut ss = Command::new("ss");
    ss.args(["--no-header", "--tcp", "--all", "--numeric", "--processes"]);
    let output = cluster
        .cell()
        .run_tool(ss, Duration::from_secs(10))
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let place =
        |node: &lab::cluster::Node| Some((node.id(), node.cell_pid().ok()?, node.ports().to_vec()));
    let running = cluster.nodes().iter().filter_map(place).collect::<Vec<_>>();
    connections_in_ss(
        &String::from_utf8(output.stdout).unwrap(),
        &running,
        exporter.process.cell_pid().ok(),
    )
}

/// Counts sockets by state in the output of `ss`, for brokers with their id, pid and ports, without those of `own_pid`.
pub fn connections_in_ss(
    text: &str,
    brokers: &[(i32, u32, Vec<u16>)],
    own_pid: Option<u32>,
) -> Readings {
    let rows: Vec<Row> = text.lines().filter_map(Row::parse).collect();
    let is_own = |row: &&Row| own_pid.is_some() && row.pid == own_pid;
    let own: BTreeSet<&str> = rows.iter().filter(is_own).map(|row| row.local).collect();
    let mut readings = Readings::new();
    for (id, pid, ports) in brokers {
        let at_listener = |row: &&Row| row.local.parse().is_ok_and(|port| ports.contains(&port));
        for (name, shown) in STATES {
            let in_state = || rows.iter().filter(|row| row.state == shown);
            let server = in_state().filter(|row| at_listener(row) && !own.contains(row.remote));
            let client = in_state()
                .filter(|row| row.pid == Some(*pid) && !at_listener(row) && shown != "LISTEN");
            let mut report = |direction, count: usize| {
                let series = format!(
                    "connections{{broker=\"{id}\",direction=\"{direction}\",state=\"{name}\"}}"
                );
                readings.insert(series, count as u64);
            };
            report("in", server.count());
            // No tool knows the process of a connection that this process has already closed.
            if !in_state().any(|row| row.pid.is_none() && !at_listener(&row)) {
                report("out", client.count());
            }
        }
    }
    readings
}

/// The names of the exporter and of `ss` for the states that both report.
pub const STATES: [(&str, &str); 10] = [
    ("established", "ESTAB"),
    ("syn_sent", "SYN-SENT"),
    ("syn_recv", "SYN-RECV"),
    ("fin_wait1", "FIN-WAIT-1"),
    ("fin_wait2", "FIN-WAIT-2"),
    ("close", "UNCONN"),
    ("close_wait", "CLOSE-WAIT"),
    ("last_ack", "LAST-ACK"),
    ("listen", "LISTEN"),
    ("closing", "CLOSING"),
];

/// A line of `ss` about a TCP socket.
pub struct Row<'a> {
    pub state: &'a str,
    pub receive_queue: u64,
    pub send_queue: u64,
    /// The local port.
    pub local: &'a str,
    /// The remote port.
    pub remote: &'a str,
    pub pid: Option<u32>,
}

impl<'a> Row<'a> {
    pub fn parse(line: &'a str) -> Option<Row<'a>> {
        let mut fields = line.split_whitespace();
        let state = fields.next()?;
        let (receive_queue, send_queue) =
            (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let (local, remote) = (port(fields.next()?), port(fields.next()?));
        let pid = fields.next().and_then(|users| {
            users
                .split_once("pid=")?
                .1
                .split([',', ')'])
                .next()?
                .parse()
                .ok()
        });
        Some(Row {
            state,
            receive_queue,
            send_queue,
            local,
            remote,
            pid,
        })
    }
}

/// Returns the port: on a cell's loopback it distinguishes the ends, and `[::ffff:127.0.0.1]:9092` is `127.0.0.1:9092`.
fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap_or(address)
}
