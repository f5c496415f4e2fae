//! Clients that take connections and do nothing with them.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType};

use crate::host::Host;
use crate::running::{Exporter, request, wait_for};

/// A connection that comes from this address of loopback. Of an answer that the client does not read, the kernel takes
/// little from the exporter.
pub fn connect_from(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket: OwnedFd = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4096)?;
    rustix::net::bind(&socket, &SocketAddr::from((from, 0)))?;
    rustix::net::connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

/// How long a request takes, from the connection to the end of the answer.
fn asked(from: Ipv4Addr, to: SocketAddr, path: &str) -> Duration {
    let start = Instant::now();
    let mut stream = connect_from(from, to).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.write_all(request(path).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    start.elapsed()
}

/// 900 connections without a request, and 10,000 more while probes ask.
#[test]
fn idle_connections_and_a_flood_of_new_ones_delay_no_probe() {
    let _alone = crate::MEASURED.lock();
    let host = Host::without_brokers();
    let exporter = Exporter::start(host.exporter());
    let attacker = Ipv4Addr::LOCALHOST;
    let idle: Vec<TcpStream> = (0..900)
        .map(|_| connect_from(attacker, exporter.address).unwrap())
        .collect();
    let (made, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut slowest = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut kept = Vec::new();
            while made.load(Ordering::Relaxed) < 10_000 && !stop.load(Ordering::Relaxed) {
                kept.extend(connect_from(attacker, exporter.address));
                // In bursts, at most 10,000 a second: an unoptimised exporter beside other tests accepts no more.
                if made.fetch_add(1, Ordering::Relaxed) % 100 == 0 {
                    std::thread::sleep(Duration::from_millis(10));
                }
                if kept.len() >= 500 {
                    kept.drain(..250);
                }
            }
        });
        let mut rounds = 0;
        // Each route and address is asked at least five times, and until the attack is over.
        while rounds < 5 || made.load(Ordering::Relaxed) < 10_000 {
            rounds += 1;
            for from in [Ipv4Addr::new(127, 0, 0, 2), attacker] {
                for path in ["/-/healthy", "/live"] {
                    slowest.push((asked(from, exporter.address, path), from, path));
                }
            }
            // Probes are rare; without this they would use up the ports of their own address.
            std::thread::sleep(Duration::from_millis(10));
        }
        stop.store(true, Ordering::Relaxed);
    });
    slowest.sort();
    let (count, slowest) = (slowest.len(), slowest.pop().unwrap());
    println!("{count} requests, the slowest took {slowest:?}");
    // A kubelet waits for a second. On a machine that does nothing else this is below 100 ms (docs/reliability.md).
    assert!(slowest.0 < Duration::from_secs(1), "{slowest:?}");
    assert!(open(&idle) <= 64);
}

/// All places taken by connections that each had a request, and 470 connects a second that send nothing.
#[test]
fn connections_of_other_addresses_of_loopback_keep_no_client_out() {
    let _alone = crate::MEASURED.lock();
    let host = Host::without_brokers();
    let exporter = Exporter::start(host.exporter());
    let attacker = |number: u8| Ipv4Addr::new(127, 0, 0, number);
    let _served: Vec<TcpStream> = (0..512)
        .map(|number| {
            let from = attacker(2 + (number % 8) as u8);
            let mut stream = connect_from(from, exporter.address).unwrap();
            let request = b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n";
            stream.write_all(request).unwrap();
            assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
            stream
        })
        .collect();
    let stop = AtomicBool::new(false);
    let answered = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut kept = std::collections::VecDeque::new();
            while !stop.load(Ordering::Relaxed) {
                kept.extend(connect_from(attacker(10), exporter.address));
                if kept.len() > 600 {
                    kept.pop_front();
                }
                std::thread::sleep(Duration::from_micros(2_100));
            }
        });
        let is_answered = |_: &u32| {
            let mut stream = connect_from(Ipv4Addr::LOCALHOST, exporter.address).unwrap();
            // A client that is a little slow.
            std::thread::sleep(Duration::from_millis(4));
            let mut answer = String::new();
            let _ = stream.write_all(request("/-/healthy").as_bytes());
            stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200")
        };
        let answered = (0..60).filter(is_answered).count();
        stop.store(true, Ordering::Relaxed);
        answered
    });
    assert_eq!(answered, 60);
}

/// How many of them the exporter has not closed: it has sent nothing on any.
fn open(streams: &[TcpStream]) -> usize {
    let is_open = |stream: &&TcpStream| {
        stream.set_nonblocking(true).unwrap();
        let read = (&mut &**stream).read(&mut [0]);
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    streams.iter().filter(is_open).count()
}

/// 496 connections with an unfinished request head each.
#[test]
fn unfinished_requests_share_their_memory() {
    let _alone = crate::MEASURED.lock();
    let host = Host::without_brokers();
    let mut command = host.exporter();
    // All of loopback is one address.
    command.arg("--web.max-connections-per-address=0");
    let exporter = Exporter::start(command);
    assert!(exporter.get("/metrics").starts_with("HTTP/1.1 200"));
    let before = exporter.peak_memory();
    let head = |length: usize| format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {:a>length$}", "");
    let slow: Vec<TcpStream> = (0..496)
        .map(|_| {
            let mut stream = connect_from(Ipv4Addr::LOCALHOST, exporter.address).unwrap();
            // It may have been closed for another one already.
            let _ = stream.write_all(head(15 * 1024).as_bytes());
            stream
        })
        .collect();
    wait_for("all but 128 to be closed", || open(&slow) <= 128);
    assert!(open(&slow) >= 100, "{} are open", open(&slow));
    assert!(exporter.get("/metrics").starts_with("HTTP/1.1 200"));
    let grown = (exporter.peak_memory() - before) / 1024;
    println!("{grown} KiB for unfinished requests");
    assert!(grown < 10 * 1024, "{grown} KiB");
    // A client's whole head has a bound as well.
    let large = format!("{}\r\n\r\n", head(20 * 1024));
    let answer = exporter.send(large.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}
