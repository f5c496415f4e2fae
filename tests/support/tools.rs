//! What other tools say of what the exporter reads, under the names of its series.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use lab::{Cluster, cli_tools};

use super::Exporter;

pub type Readings = BTreeMap<String, u64>;

/// The entries of `/proc/PID/fd` of each broker and controller that runs.
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

/// Counts over `kafka-topics --describe`, for the brokers that run.
pub fn isr_by_kafka_topics(cluster: &Cluster) -> Readings {
    let running: Vec<i32> = cluster
        .brokers()
        .filter(|b| b.pid().is_ok())
        .map(|b| b.id())
        .collect();
    isr_in_describe(&cluster.topics_describe().unwrap(), &running)
}

/// Counts over the output of `kafka-topics --describe`.
pub fn isr_in_describe(text: &str, brokers: &[i32]) -> Readings {
    let partitions = cli_tools::described_partitions(text);
    assert!(!partitions.is_empty());
    let mut readings = Readings::new();
    for &id in brokers {
        let count = |wanted: &dyn Fn(&lab::client::Partition) -> bool| {
            partitions.iter().filter(|p| wanted(p)).count() as u64
        };
        let led = |p: &lab::client::Partition| p.leader == Some(id);
        let mut tell =
            |name: &str, value| readings.insert(format!("{name}{{broker=\"{id}\"}}"), value);
        tell("leader_partitions", count(&led));
        tell(
            "under_replicated_partitions",
            count(&|p| led(p) && p.isr.len() < p.replicas.len()),
        );
        tell(
            "isr_leader_alone_partitions",
            count(&|p| led(p) && p.isr == [id] && p.replicas.len() > 1),
        );
        tell(
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

/// Sockets by state as `ss` shows them, the exporter's own and TIME_WAIT left out.
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

/// Sockets by state in the output of `ss`, of brokers with their id, pid and ports. Those of `own_pid` are left out.
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
            let mut tell = |role, count: usize| {
                let series =
                    format!("connections{{broker=\"{id}\",role=\"{role}\",state=\"{name}\"}}");
                readings.insert(series, count as u64);
            };
            tell("server", server.count());
            // Whose a connection was that its process has closed, no tool can tell any more.
            if !in_state().any(|row| row.pid.is_none() && !at_listener(&row)) {
                tell("client", client.count());
            }
        }
    }
    readings
}

/// How the exporter and `ss` spell the states that both tell.
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

/// One line of `ss` about a TCP socket.
pub struct Row<'a> {
    pub state: &'a str,
    pub receive_queue: u64,
    pub send_queue: u64,
    /// Ports.
    pub local: &'a str,
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

/// The port alone: on a cell's loopback it tells the ends apart, and `[::ffff:127.0.0.1]:9092` is `127.0.0.1:9092`.
fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap_or(address)
}
