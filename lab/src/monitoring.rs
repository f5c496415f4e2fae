//! Runs Prometheus and Alertmanager with the configuration of `alerts/`, and receives their notifications.

use std::fs;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{Cell, Process};

const READY_TIME: Duration = Duration::from_secs(30);
/// The largest notification that is read; real ones are far smaller.
const BODY_MAX: u64 = 16 << 20;

/// A notification that Alertmanager sent to a webhook.
pub struct Notification {
    pub at: Instant,
    /// The path of the webhook, such as `/pager`.
    pub path: String,
    /// The notification as JSON.
    pub body: String,
}

impl Notification {
    /// Returns its alerts, each with `status`, `labels` and `annotations`.
    pub fn alerts(&self) -> Result<Vec<Value>> {
        let mut body: Value = serde_json::from_str(&self.body)?;
        match body["alerts"].take() {
            Value::Array(alerts) => Ok(alerts),
            _ => anyhow::bail!("a notification without alerts: {:.200}", self.body),
        }
    }
}

/// A running Prometheus and Alertmanager, with their ports. Dropping it ends both.
pub struct Monitoring {
    pub prometheus: u16,
    pub alertmanager: u16,
    pub notifications: Receiver<Notification>,
    _processes: [Process; 2],
}

impl Monitoring {
    /// Starts both. `alerts` is the folder of that name, `folder` an empty one that the cell sees. The shipped
    /// configuration is changed only in its addresses.
    pub fn start(cell: &Cell, alerts: &Path, folder: &Path, exporter: u16) -> Result<Monitoring> {
        let ports = cell.free_ports(2)?;
        let (prometheus, alertmanager) = (ports[0], ports[1]);
        let (listener, notifications) = receiver(cell)?;

        fs::copy(
            alerts.join("kafka-vitals.rules.yml"),
            folder.join("kafka-vitals.rules.yml"),
        )?;
        let shipped = fs::read_to_string(alerts.join("prometheus.yml"))?;
        let mut targets = shipped
            .lines()
            .filter(|line| line.contains(".example:10052"));
        let target = targets.next().context("prometheus.yml names no target")?;
        let others: Vec<&str> = targets.collect();
        let lines = shipped.lines().filter(|line| !others.contains(line));
        let config: String = lines.map(|line| format!("{line}\n")).collect();
        let config = config.replace(target.trim(), &format!("- 127.0.0.1:{exporter}"));
        write_config(
            &folder.join("prometheus.yml"),
            &config,
            "127.0.0.1:9093",
            alertmanager,
        )?;
        let shipped = fs::read_to_string(alerts.join("alertmanager.yml"))?;
        write_config(
            &folder.join("alertmanager.yml"),
            &shipped,
            "127.0.0.1:9099",
            listener,
        )?;

        let run = |program: &str, port: u16, arguments: &[String]| -> Result<Process> {
            let mut command = Command::new(program);
            command
                .args(arguments)
                .arg(format!("--web.listen-address=127.0.0.1:{port}"))
                .arg("--log.level=error");
            command
                .current_dir(folder)
                .stdin(Stdio::null())
                .stdout(Stdio::null());
            cell.spawn(command).with_context(|| {
                format!("start {program}: scripts/prerequisites.sh prometheus gets it")
            })
        };
        let at = |name: &str| folder.join(name).display().to_string();
        let prometheus_process = run(
            "prometheus",
            prometheus,
            &[
                format!("--config.file={}", at("prometheus.yml")),
                format!("--storage.tsdb.path={}", at("series")),
            ],
        )?;
        let alertmanager_process = run(
            "alertmanager",
            alertmanager,
            &[
                format!("--config.file={}", at("alertmanager.yml")),
                format!("--storage.path={}", at("notified")),
                // Without this it would search for others and listen on every address.
                "--cluster.listen-address=".to_owned(),
            ],
        )?;
        let started = Instant::now();
        for port in [prometheus, alertmanager] {
            while !cell
                .http_get(port, "/-/ready", Duration::from_secs(2))
                .is_ok_and(|(status, _)| status == 200)
            {
                ensure!(
                    started.elapsed() < READY_TIME,
                    "the server on port {port} is not ready after {READY_TIME:?}"
                );
                crate::sleep_between_polls()?;
            }
        }
        let processes = [prometheus_process, alertmanager_process];
        Ok(Monitoring {
            prometheus,
            alertmanager,
            notifications,
            _processes: processes,
        })
    }
}

fn write_config(file: &Path, config: &str, shipped: &str, port: u16) -> Result<()> {
    ensure!(
        config.contains(shipped),
        "{}: {shipped} is missing",
        file.display()
    );
    Ok(fs::write(
        file,
        config.replace(shipped, &format!("127.0.0.1:{port}")),
    )?)
}

/// Listens in the cell's network. The thread ends at the first notification after the [`Receiver`] was dropped.
fn receiver(cell: &Cell) -> Result<(u16, Receiver<Notification>)> {
    let listener = cell.in_network(|| TcpListener::bind(("127.0.0.1", 0)))??;
    let port = listener.local_addr()?.port();
    let (sender, notifications) = mpsc::channel();
    thread::Builder::new()
        .name("receiver".into())
        .spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Ok(notification) = take(stream)
                    && sender.send(notification).is_err()
                {
                    break;
                }
            }
        })?;
    Ok((port, notifications))
}

/// Reads one request and answers it.
fn take(stream: TcpStream) -> Result<Notification> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).context("no path")?.to_owned();
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    ensure!(length <= BODY_MAX, "a notification of {length} bytes");
    let mut body = String::new();
    reader.by_ref().take(length).read_to_string(&mut body)?;
    reader
        .get_mut()
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    Ok(Notification {
        at: Instant::now(),
        path,
        body,
    })
}
