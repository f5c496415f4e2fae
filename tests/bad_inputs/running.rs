//! The exporter as a process; dropping the value ends it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

pub struct Exporter {
    process: Guard,
    pub address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

/// A process that ends when this is dropped.
pub struct Guard(pub Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Exporter {
    /// Starts `command`, which is the exporter or a program that executes it.
    pub fn start(mut command: Command) -> Exporter {
        command
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = Guard(command.spawn().unwrap());
        let stderr = BufReader::new(process.0.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            stderr
                .lines()
                .map_while(Result::ok)
                .for_each(|line| kept.lock().unwrap().push(line))
        });
        let address = || {
            log.lock().unwrap().iter().find_map(|line| {
                line.split("address=")
                    .nth(1)?
                    .split(' ')
                    .next()?
                    .parse()
                    .ok()
            })
        };
        wait_for("the exporter to listen", || address().is_some());
        Exporter {
            process,
            address: address().unwrap(),
            log: Arc::clone(&log),
        }
    }

    /// Returns the lines of its log that contain `text`.
    pub fn logged(&self, text: &str) -> Vec<String> {
        let log = self.log.lock().unwrap();
        assert!(!log.iter().any(|line| line.contains("panicked")), "{log:?}");
        log.iter()
            .filter(|line| line.contains(text))
            .cloned()
            .collect()
    }

    /// The most resident memory so far, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.0.id())).unwrap();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix(" kB"));
        peak.unwrap().trim().parse::<u64>().unwrap() * 1024
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.0.id())
            .ok()
            .and_then(Pid::from_raw);
        rustix::process::kill_process(pid.unwrap(), signal).unwrap();
    }

    pub fn get(&self, path: &str) -> String {
        get(self.address, path)
    }

    pub fn send(&self, request: &[u8]) -> String {
        send(self.address, request)
    }
}

#[track_caller]
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "waited for {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A request that is the only one of its connection.
pub fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

pub fn get(address: SocketAddr, path: &str) -> String {
    send(address, request(path).as_bytes())
}

/// Sends a request and returns the answer until the connection is closed.
pub fn send(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(15)))
        .unwrap();
    // The connection may be closed before all was sent; that is an answer too.
    let _ = stream.write_all(request);
    if !request.ends_with(b"\r\n\r\n") {
        // Without this, the exporter waits ten seconds for the rest.
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::ConnectionReset,
            "neither answered nor closed"
        );
    }
    String::from_utf8_lossy(&answer).into_owned()
}
