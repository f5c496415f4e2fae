//! The exporter beside a cluster of the lab, and what other tools say of the same things.
#![allow(dead_code)] // each test binary uses a part
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod stalls;
pub mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::{Cell, Cluster, Process, hand};

/// A running exporter, started as a user would: with nothing but the address to serve on.
pub struct Exporter {
    pub process: Process,
    pub port: u16,
    cell: Cell,
}

impl Exporter {
    pub fn start(cell: &Cell) -> Exporter {
        Exporter::launch(cell, |_| {})
    }

    /// Writes all that it does into `log`.
    pub fn start_logged(cell: &Cell, log: &std::path::Path) -> Exporter {
        let log = std::fs::File::create(log).unwrap();
        Exporter::launch(cell, move |command| {
            command.arg("--log.level=debug").stderr(log);
        })
    }

    /// With a config file of these contents.
    pub fn start_configured(cell: &Cell, config: &str) -> Exporter {
        let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        std::io::Write::write_all(&mut file, config.as_bytes()).unwrap();
        Exporter::launch(cell, |command| {
            command.arg("--config.file").arg(file.path());
        })
    }

    fn launch(cell: &Cell, change: impl FnOnce(&mut Command)) -> Exporter {
        let port = cell.free_ports(1).unwrap()[0];
        let mut command = Command::new(env!("CARGO_BIN_EXE_kafka-vitals"));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}")).stdin(Stdio::null());
        change(&mut command);
        let exporter = Exporter { process: cell.spawn(command).unwrap(), port, cell: cell.clone() };
        wait_for("the exporter to be ready", Duration::from_secs(10), || {
            cell.http_get(port, "/-/ready", Duration::from_secs(1)).is_ok_and(|(status, _)| status == 200)
        });
        exporter
    }

    /// The text of one scrape.
    pub fn scrape(&self) -> String {
        let (status, body) = self.cell.http_get(self.port, "/metrics", Duration::from_secs(5)).unwrap();
        assert_eq!(status, 200);
        body
    }

    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.scrape())
    }

    pub fn page(&self) -> String {
        self.cell.http_get(self.port, "/", Duration::from_secs(5)).unwrap().1
    }
}

/// Series of one scrape, by name and labels as the text format writes them, without the metrics' prefix.
pub struct Metrics(pub BTreeMap<String, f64>);

impl Metrics {
    pub fn parse(text: &str) -> Metrics {
        let series = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.trim_start_matches("kafka_vitals_").to_owned(), value.parse().unwrap())
        });
        Metrics(series.collect())
    }

    /// None where the series is absent: unknown.
    pub fn get(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    pub fn of(&self, name: &str, broker: i32) -> Option<f64> {
        self.get(&format!("{name}{{broker=\"{broker}\"}}"))
    }
}

/// Asks again and again until `holds`, with a bound that only a fault reaches.
#[track_caller]
pub fn wait_for(what: &str, time: Duration, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < time, "waited {time:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What other tools say, under the names of the exporter's series.
pub type Readings = BTreeMap<String, u64>;

/// The entries of `/proc/PID/fd` of each broker that runs.
pub fn handles_by_folder(cluster: &Cluster) -> Readings {
    let count = |broker: &lab::cluster::Node| {
        let entries = hand::open_handles(broker.pid().ok()?).ok()?;
        Some((format!("open_file_handles{{broker=\"{}\"}}", broker.id()), entries as u64))
    };
    cluster.brokers().filter_map(count).collect()
}

/// Counts over `kafka-topics --describe`, for the brokers that run.
pub fn isr_by_kafka_topics(cluster: &Cluster) -> Readings {
    let partitions = hand::described_partitions(&cluster.topics_describe().unwrap());
    assert!(!partitions.is_empty());
    let mut readings = Readings::new();
    for id in cluster.brokers().filter(|b| b.pid().is_ok()).map(|b| b.id()) {
        let count =
            |wanted: &dyn Fn(&lab::client::Partition) -> bool| partitions.iter().filter(|p| wanted(p)).count() as u64;
        let led = |p: &lab::client::Partition| p.leader == Some(id);
        let mut tell = |name: &str, value| readings.insert(format!("{name}{{broker=\"{id}\"}}"), value);
        tell("leader_partitions", count(&led));
        tell("under_replicated_partitions", count(&|p| led(p) && p.isr.len() < p.replicas.len()));
        tell("isr_leader_alone_partitions", count(&|p| led(p) && p.isr == [id] && p.replicas.len() > 1));
        tell("not_in_isr_partitions", count(&|p| p.replicas.contains(&id) && !p.isr.contains(&id)));
    }
    readings.insert("offline_partitions".into(), partitions.iter().filter(|p| p.leader.is_none()).count() as u64);
    readings
}

/// Sockets by state as `ss` shows them, the exporter's own and TIME_WAIT left out.
pub fn connections_by_ss(cluster: &Cluster, exporter: &Exporter) -> Readings {
    let mut ss = Command::new("ss");
    ss.args(["--no-header", "--tcp", "--all", "--numeric", "--processes"]);
    let output = cluster.cell().run_tool(ss, Duration::from_secs(10)).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Row> = text.lines().filter_map(Row::parse).collect();
    let own_pid = exporter.process.cell_pid().unwrap();
    let own: BTreeSet<&str> = rows.iter().filter(|row| row.pid == Some(own_pid)).map(|row| row.local).collect();
    let mut readings = Readings::new();
    for broker in cluster.brokers() {
        let Ok(pid) = broker.cell_pid() else { continue };
        let listener = broker.port().to_string();
        for (name, shown) in STATES {
            let in_state = || rows.iter().filter(|row| row.state == shown);
            let server = in_state().filter(|row| row.local == listener && !own.contains(row.remote)).count();
            let client =
                in_state().filter(|row| row.pid == Some(pid) && row.local != listener && row.state != "LISTEN").count();
            let mut tell = |role, count: usize| {
                let series = format!("connections{{broker=\"{}\",role=\"{role}\",state=\"{name}\"}}", broker.id());
                readings.insert(series, count as u64);
            };
            tell("server", server);
            tell("client", client);
        }
    }
    readings
}

/// How the exporter and `ss` spell the states that both tell.
const STATES: [(&str, &str); 10] = [
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

/// One line of `ss`.
struct Row<'a> {
    state: &'a str,
    local: &'a str,
    remote: &'a str,
    pid: Option<u32>,
}

impl<'a> Row<'a> {
    fn parse(line: &'a str) -> Option<Row<'a>> {
        let mut fields = line.split_whitespace();
        let state = fields.next()?;
        let (local, remote) = (port(fields.nth(2)?), port(fields.next()?));
        let pid = fields.next().and_then(|users| users.split_once("pid=")?.1.split([',', ')']).next()?.parse().ok());
        Some(Row { state, local, remote, pid })
    }
}

/// The port alone: on a cell's loopback it tells the ends apart, and `[::ffff:127.0.0.1]:9092` is `127.0.0.1:9092`.
fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap_or(address)
}

/// One request from the calling thread's own network; for threads that entered the cell's.
pub fn get(port: u16, path: &str) -> (u16, String) {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}
