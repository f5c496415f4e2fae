//! Connections by TCP state: 50,000 established ones and 5,000 that the peers have closed, at three processes of one
//! network namespace; the peers are in another.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Cell, Process, jars};

use crate::contest::{self, Bench, contest, contestant, cost_of, median, milliseconds, row};
use crate::report::{Bar, Row};
use crate::{load, worker};

const PORT: u16 = 9092;
const SERVERS: usize = 3;
/// All states, and all but ESTABLISHED, as `floors/sockets.c` takes them.
const EVERY_STATE: &str = "ffe";
const PULSE_STATES: &str = "ffc";

/// The two namespaces with their sockets; dropping it ends the processes, and with them the namespaces.
struct Sockets {
    servers: Cell,
    _processes: Vec<Process>,
    established: usize,
    close_wait: usize,
}

fn compare(bench: &Bench, sockets: &Sockets) -> Result<Vec<Row>> {
    let cell = &sockets.servers;
    let floor = contest::floor("sockets")?;
    let port = PORT.to_string();
    let rounds = bench.count(15, 3);
    let each = bench.count(10, 2).to_string();
    let per_run = |cpu: Duration| milliseconds(cpu) / bench.count(10, 2) as f64;
    let bare = |states: &str, port: &str| -> Result<(f64, BTreeMap<u8, u64>)> {
        let mut command = Command::new(&floor);
        command.args([&each, states, port]);
        let (cpu, printed) = cost_of(cell, command)?;
        Ok((per_run(cpu), states_of(&printed)))
    };
    let ours = |what: &str| cost_of(cell, worker::command([what, &each, &port], &[]));
    // The kernel resumes at a position in a table that all of the machine shares: if other connections end between two
    // parts of its answer, it can leave out one that exists.
    let expected = |counted: usize, wanted: usize| -> Result<()> {
        ensure!(
            counted.abs_diff(wanted) <= wanted / 1000 + 1,
            "counted {counted}, not {wanted}"
        );
        Ok(())
    };
    let all_counted = |states: &BTreeMap<u8, u64>| -> Result<()> {
        expected(
            states.get(&1).copied().unwrap_or(0) as usize,
            sockets.established,
        )?;
        expected(
            states.get(&8).copied().unwrap_or(0) as usize,
            sockets.close_wait,
        )
    };

    let node_exporter = NodeExporter::start(bench, cell)?;
    let mut peak = Vec::new();
    let mut by_state = vec![
        contestant("ours", || {
            let (cpu, printed) = ours("count-states")?;
            all_counted(&states_of(&printed))?;
            peak.push(
                printed
                    .lines()
                    .last()
                    .context("no last line")?
                    .parse::<f64>()?,
            );
            Ok(per_run(cpu))
        }),
        contestant("bare dump", || {
            let (cost, states) = bare(EVERY_STATE, &port)?;
            all_counted(&states)?;
            Ok(cost)
        }),
    ];
    for (tool, arguments, established) in
        [("ss", "-tan", "ESTAB"), ("netstat", "-ant", "ESTABLISHED")]
    {
        if bench.has(tool) {
            by_state.push(contestant(format!("`{tool} {arguments}`"), move || {
                let mut command = Command::new(tool);
                command.arg(arguments);
                let (cpu, printed) = cost_of(cell, command)?;
                let words = printed
                    .lines()
                    .filter(|line| line.split_whitespace().any(|word| word == established));
                expected(words.count(), sockets.established)?;
                Ok(milliseconds(cpu))
            }));
        }
    }
    if let Some(exporter) = &node_exporter {
        by_state.push(contestant("node_exporter tcpstat", || {
            // The kernel counts its CPU time in hundredths of a second.
            let scrapes = bench.count(20, 5);
            let before = exporter.cpu()?;
            for _ in 0..scrapes {
                let page = exporter.scrape()?;
                let line = page.lines().find(|line| {
                    line.starts_with("node_tcp_connection_states{state=\"established\"}")
                });
                let counted = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
                // The count includes its own connections and ours.
                ensure!(
                    counted.is_some_and(|counted| counted >= sockets.established as f64),
                    "node_exporter reports {line:?}"
                );
            }
            Ok(milliseconds(exporter.cpu()? - before) / scrapes as f64)
        }));
    }
    contest(rounds, &mut by_state)?;

    let mut of_pulse = vec![
        contestant("ours", || {
            let (cpu, printed) = ours("pulse")?;
            expected(printed.trim().parse()?, sockets.close_wait)?;
            Ok(per_run(cpu))
        }),
        contestant("bare dump", || Ok(bare(PULSE_STATES, &port)?.0)),
    ];
    contest(rounds, &mut of_pulse)?;
    let mut of_owners = vec![
        contestant("ours", || {
            let (cpu, printed) = ours("owners")?;
            expected(printed.trim().parse()?, sockets.established)?;
            Ok(per_run(cpu))
        }),
        contestant("bare dump", || Ok(bare(EVERY_STATE, "0")?.0)),
    ];
    contest(rounds, &mut of_owners)?;

    let count = sockets.established;
    let mut rows = vec![
        row(
            format!("{count} connections by state"),
            "ms",
            "bare sock_diag dump",
            Bar::Ratio(1.15),
            &by_state,
        ),
        row(
            "the same, every second: states but ESTABLISHED",
            "ms",
            "the same dump",
            Bar::Ratio(1.15),
            &of_pulse,
        ),
        row(
            "the same, every 30 s: by owner",
            "ms",
            "unfiltered dump",
            Bar::None,
            &of_owners,
        ),
    ];
    drop(by_state);
    rows.push(Row {
        subject: format!("{count} connections by state: peak memory"),
        unit: "MB",
        ours: median(peak),
        floor: None,
        bar: Bar::Most(20.0),
        beside: Vec::new(),
    });
    Ok(rows)
}

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    match Sockets::make(bench)? {
        Some(sockets) => compare(bench, &sockets),
        None => Ok(Vec::new()),
    }
}

/// Parses lines `STATE COUNT ...`.
fn states_of(printed: &str) -> BTreeMap<u8, u64> {
    let of = |line: &str| {
        let mut fields = line.split(' ');
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    printed.lines().filter_map(of).collect()
}

impl Sockets {
    /// Returns None, and notes the skip, where namespaces cannot be made.
    fn make(bench: &Bench) -> Result<Option<Sockets>> {
        let (servers, peers) = (Cell::new()?, Cell::new()?);
        if !servers.isolated() || !peers.isolated() {
            bench.skip("connections", "needs network namespaces: run as root");
            return Ok(None);
        }
        if !bench.has("ip") {
            return Ok(None);
        }
        let mut processes = vec![
            load::start(&servers, &["wait"])?,
            load::start(&peers, &["wait"])?,
        ];
        let (one, other) = (
            processes[0].pid().to_string(),
            processes[1].pid().to_string(),
        );
        let link = [
            "link", "add", "bench0", "netns", &one, "type", "veth", "peer", "name", "bench1",
            "netns", &other,
        ];
        let made = Command::new("ip").args(link).output()?;
        if !made.status.success() {
            bench.skip("connections", String::from_utf8_lossy(&made.stderr).trim());
            return Ok(None);
        }
        let ip = |cell: &Cell, arguments: &str| {
            let mut command = Command::new("ip");
            command.args(arguments.split(' '));
            cost_of(cell, command)
        };
        let address = |server: usize| format!("10.77.0.{}", server + 1);
        for server in 0..SERVERS {
            ip(
                &servers,
                &format!("addr add {}/24 dev bench0", address(server)),
            )?;
        }
        ip(&peers, "addr add 10.77.0.100/24 dev bench1")?;
        ip(&servers, "link set bench0 up")?;
        ip(&peers, "link set bench1 up")?;

        let each = bench.count(50_000, 1_000).div_ceil(SERVERS);
        let close = each / 10;
        for server in 0..SERVERS {
            let (at, count) = (
                format!("{}:{PORT}", address(server)),
                (each + close).to_string(),
            );
            processes.push(load::start(&servers, &["serve", &at, &count])?);
            processes.push(load::start(
                &peers,
                &["connect", &at, &count, &close.to_string()],
            )?);
        }
        let sockets = Sockets {
            servers,
            _processes: processes,
            established: each * SERVERS,
            close_wait: close * SERVERS,
        };
        sockets.settle()?;
        Ok(Some(sockets))
    }

    /// Waits until the peers' closes have arrived.
    fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let (_, printed) = cost_of(
                &self.servers,
                worker::command(["count-states", "1", &PORT.to_string()], &[]),
            )?;
            let states = states_of(&printed);
            if states.get(&8) == Some(&(self.close_wait as u64)) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the connections did not settle: {states:?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Prometheus' node_exporter with only its collector of TCP states.
struct NodeExporter {
    process: Process,
    cell: Cell,
    port: u16,
}

impl NodeExporter {
    /// Returns None, and notes the skip, where it is not installed.
    fn start(bench: &Bench, cell: &Cell) -> Result<Option<NodeExporter>> {
        let names = ["prometheus-node-exporter", "node_exporter"];
        let Some(program) = names.iter().find_map(|name| jars::on_path(name)) else {
            bench.skip("node_exporter", "not on the PATH");
            return Ok(None);
        };
        let port = cell.free_ports(1)?[0];
        let mut command = Command::new(program);
        command.args([
            "--collector.disable-defaults",
            "--collector.tcpstat",
            "--log.level=error",
        ]);
        command
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null());
        let exporter = NodeExporter {
            process: cell.spawn(command)?,
            cell: cell.clone(),
            port,
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Err(error) = exporter.scrape() {
            ensure!(
                Instant::now() < deadline,
                "node_exporter does not answer: {error:#}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Some(exporter))
    }

    /// Uses HTTP/1.0, which has no chunks: the page ends with the connection.
    fn scrape(&self) -> Result<String> {
        let mut stream = self.cell.connect(self.port)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(
            answer.contains(" 200 OK\r\n"),
            "node_exporter answered {answer:.80}"
        );
        Ok(answer)
    }

    fn cpu(&self) -> Result<Duration> {
        contest::process_cpu(self.process.pid())
    }
}
