//! What strangers on the host and in the network do to the exporter: every attack in turn, all the time.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use lab::fake_broker::{Answer, FakeBroker, metadata};
use lab::{Cell, Process};

use super::Stop;
use crate::support::fakes::stranger;

/// How long each attack lasts.
const LASTS: Duration = Duration::from_secs(20);

/// How often each attack ran.
#[derive(Default)]
pub(super) struct Counts {
    idle_connections: usize,
    connects: usize,
    slow_readers: usize,
    large_metadata: usize,
    processes: usize,
}

impl Counts {
    pub(super) fn run(&mut self, cell: &Cell, port: u16, stop: &Stop) {
        let network = cell.network().unwrap();
        network.enter().unwrap();
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let folder = folder.path();
        while !stop.is_set() {
            hold(port, 900, b"", stop);
            self.idle_connections += 1;
            connect_again_and_again(port, stop);
            self.connects += 1;
            hold(
                port,
                60,
                b"GET /api/v1/brokers HTTP/1.1\r\nHost: localhost\r\n\r\n",
                stop,
            );
            self.slow_readers += 1;
            serve_large_metadata(cell, folder, stop);
            self.large_metadata += 1;
            many_processes(cell, folder, stop);
            self.processes += 1;
        }
    }

    pub(super) fn all_ran(&self) -> bool {
        [
            self.idle_connections,
            self.connects,
            self.slow_readers,
            self.large_metadata,
            self.processes,
        ]
        .iter()
        .all(|count| *count > 0)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} times 900 idle connections, {} times 10,000 connects, {} times 60 clients that do not read, \
             {} times 4 listeners with 9,990 brokers in their Metadata, {} times 300 processes of another user",
            self.idle_connections,
            self.connects,
            self.slow_readers,
            self.large_metadata,
            self.processes
        )
    }
}

/// Opens connections, sends `request` on each and reads nothing.
fn hold(port: u16, count: usize, request: &[u8], stop: &Stop) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let held: Vec<TcpStream> = (0..count)
        .filter_map(|_| {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
            stream.write_all(request).ok()?;
            Some(stream)
        })
        .collect();
    stop.sleep(LASTS);
    drop(held);
}

fn connect_again_and_again(port: u16, stop: &Stop) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    for _ in 0..10_000 {
        if stop.is_set() {
            return;
        }
        let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else {
            continue;
        };
        // Without this, ports in TIME_WAIT would run out on this side.
        let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
        let _ = stream.set_nonblocking(true);
        let _ = stream.read(&mut [0; 1]);
    }
}

/// Four processes of another user with listeners whose Metadata names 9,990 brokers with the longest names.
fn serve_large_metadata(cell: &Cell, folder: &Path, stop: &Stop) {
    let body = metadata(9_990, 255, 0);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut attackers = Vec::new();
        for id in 0..4 {
            let body = body.clone();
            let broker = FakeBroker::with_metadata(move |_| Answer::Body(body.clone())).await;
            let process = stranger(cell, folder, 800_000 + id, Some(&broker.address));
            attackers.push((process.unwrap(), broker));
        }
        let end = tokio::time::Instant::now() + LASTS;
        while !stop.is_set() && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

fn many_processes(cell: &Cell, folder: &Path, stop: &Stop) {
    let strangers: Vec<Process> = (0..300)
        .map(|id| stranger(cell, folder, 217 + id, None).unwrap())
        .collect();
    stop.sleep(LASTS);
    drop(strangers);
}
