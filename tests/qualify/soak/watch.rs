//! What the soak measures: scrapes over one connection, as Prometheus makes them, and the exporter's own resources.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::Stop;

const APART: Duration = Duration::from_millis(50);
/// A scrape that takes longer has failed.
const WITHIN: Duration = Duration::from_secs(5);

pub(super) fn log_file() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_TARGET_TMPDIR"), "/soak.log"))
}

/// The times of all scrapes.
#[derive(Default)]
pub(super) struct Scrapes {
    times: Vec<Duration>,
    failed: usize,
}

pub(super) struct ScrapeSummary {
    pub(super) count: usize,
    pub(super) failed: usize,
    pub(super) median: Duration,
    pub(super) p99: Duration,
    pub(super) p999: Duration,
    pub(super) worst: Duration,
}

impl Scrapes {
    /// Scrapes 20 times a second until the end. A scrape fails if it is not answered whole within 5 s.
    pub(super) fn run(&mut self, port: u16, stop: &Stop) {
        let mut connection = None;
        let mut next = Instant::now();
        while !stop.is_set() {
            let start = Instant::now();
            match scrape(&mut connection, port) {
                Ok(body) if body.contains("kafka_vitals_build_info") => {}
                other => {
                    self.failed += 1;
                    connection = None;
                    println!("a scrape failed: {other:?}");
                }
            }
            self.times.push(start.elapsed());
            // A slow scrape does not delay the next ones.
            next += APART;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    pub(super) fn summary(mut self) -> ScrapeSummary {
        self.times.sort();
        let count = self.times.len();
        let at = |thousandth: usize| self.times[count * thousandth / 1000];
        ScrapeSummary {
            count,
            failed: self.failed,
            median: at(500),
            p99: at(990),
            p999: at(999),
            worst: self.times[count - 1],
        }
    }
}

/// As Go's client does it, which Prometheus uses: the connection is kept, and opened again where the server has closed it
/// before the first byte of an answer.
fn scrape(connection: &mut Option<BufReader<TcpStream>>, port: u16) -> io::Result<String> {
    if let Some(mut kept) = connection.take() {
        match ask(&mut kept).and_then(|()| Ok(kept.fill_buf()?.len())) {
            Ok(0) => {}
            Ok(_) => return read(connection.insert(kept)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => return Err(error),
        }
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = TcpStream::connect_timeout(&address, WITHIN)?;
    stream.set_read_timeout(Some(WITHIN))?;
    let new = connection.insert(BufReader::new(stream));
    ask(new)?;
    read(new)
}

fn ask(stream: &mut BufReader<TcpStream>) -> io::Result<()> {
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.get_mut().write_all(request)
}

fn read(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let (mut length, mut line) = (None, String::new());
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok();
        }
    }
    let mut body = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
    stream.read_exact(&mut body)?;
    String::from_utf8(body).map_err(io::Error::other)
}

/// Takes the fds from the exporter for 5 s every minute: its limit becomes what it has open. Returns how often.
pub(super) fn run_out_of_fds_now_and_then(pid: u32, stop: &Stop) -> usize {
    let prlimit = |limit: &str| {
        let status = Command::new("prlimit")
            .args(["--pid", &pid.to_string(), &format!("--nofile={limit}")])
            .status();
        assert!(status.unwrap().success());
    };
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let usual: Vec<&str> = line.unwrap().split_whitespace().skip(3).take(2).collect();
    let mut times = 0;
    stop.sleep(Duration::from_secs(30));
    while !stop.is_set() {
        let highest = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        prlimit(&format!("{highest}:{}", usual[1]));
        stop.sleep(Duration::from_secs(5));
        prlimit(&usual.join(":"));
        times += 1;
        stop.sleep(Duration::from_secs(55));
    }
    times
}

/// The exporter's resources, once a second.
#[derive(Default)]
pub(super) struct Usage {
    memory: Vec<f64>,
    fds: Vec<f64>,
    peak: f64,
    most_threads: f64,
    lasting_zombies: usize,
}

pub(super) struct UsageSummary {
    pub(super) peak_memory: f64,
    /// Medians of the second and of the last quarter of the time.
    pub(super) memory: [f64; 2],
    pub(super) fds: [f64; 2],
    pub(super) most_threads: f64,
    pub(super) lasting_zombies: usize,
}

impl Usage {
    pub(super) fn run(&mut self, pid: u32, stop: &Stop) {
        // How many seconds each child has been a zombie.
        let mut zombies = std::collections::BTreeMap::new();
        while !stop.is_set() {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let field = |name: &str| -> f64 {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                let number = line.unwrap().trim_start_matches(':').trim();
                number.split(' ').next().unwrap().parse().unwrap()
            };
            self.memory.push(field("VmRSS") * 1024.0);
            self.peak = self.peak.max(field("VmHWM") * 1024.0);
            self.most_threads = self.most_threads.max(field("Threads"));
            let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
            self.fds.push(fds as f64);
            let dead = zombies_of(pid);
            zombies.retain(|zombie, _| dead.contains(zombie));
            for zombie in dead {
                let seconds = zombies.entry(zombie).or_insert(0);
                *seconds += 1;
                self.lasting_zombies += usize::from(*seconds == 5);
            }
            stop.sleep(Duration::from_secs(1));
        }
    }

    pub(super) fn summary(self) -> UsageSummary {
        let quarters = |values: &[f64]| {
            let quarter = values.len() / 4;
            let median = |part: &[f64]| {
                let mut part = part.to_vec();
                part.sort_by(f64::total_cmp);
                part[part.len() / 2]
            };
            [
                median(&values[quarter..2 * quarter]),
                median(&values[3 * quarter..]),
            ]
        };
        UsageSummary {
            peak_memory: self.peak,
            memory: quarters(&self.memory),
            fds: quarters(&self.fds),
            most_threads: self.most_threads,
            lasting_zombies: self.lasting_zombies,
        }
    }
}

/// Returns the children of a process that have ended and were not waited for.
fn zombies_of(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let children =
        tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let children: Vec<u32> = children
        .flat_map(|line| {
            line.split_whitespace()
                .filter_map(|child| child.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect();
    let is_zombie = |child: &u32| {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('Z'))
    };
    children.into_iter().filter(is_zombie).collect()
}
