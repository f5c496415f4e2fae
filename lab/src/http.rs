//! The little of HTTP/1.1 that a test needs to read an exporter, and free ports. Both act in the calling thread's network.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// More than any page of the exporter has; a body that goes on is an error.
const BODY_MAX: usize = 64 << 20;

/// Status and body of the answer to `GET path`, whole within `time`.
pub fn get(port: u16, path: &str, time: Duration) -> io::Result<(u16, String)> {
    let deadline = Instant::now() + time;
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), time)?;
    stream.set_write_timeout(Some(time))?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no whole answer to GET {path} within {time:?}"),
            ));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if answer.len() > BODY_MAX {
            return Err(bad("the answer is too long"));
        }
    }
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .ok_or_else(|| bad("no end of the headers"))?;
    let headers = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let status = headers
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| bad("no status"))?;
    let length = headers
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let body = &answer[end + 4..];
    // The exporter always sends the length; without it a torn body would look complete.
    if length.and_then(|length| length.trim().parse().ok()) != Some(body.len()) {
        return Err(bad("the body was cut off, or has no length"));
    }
    Ok((
        status,
        String::from_utf8(body.to_vec()).map_err(io::Error::other)?,
    ))
}

fn bad(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("bad HTTP answer: {what}"),
    )
}

/// Ports below the ephemeral ones, as another process's connection could take one of those before the broker binds it.
pub fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let clock = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.subsec_nanos());
    let start = (clock ^ std::process::id().wrapping_mul(7919)) % 12_000;
    let mut held = Vec::with_capacity(count);
    for step in 0..12_000 {
        if held.len() == count {
            break;
        }
        let port = 20_000 + ((start + step) % 12_000) as u16;
        held.extend(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
    }
    if held.len() < count {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "no free ports between 20000 and 32000",
        ));
    }
    held.iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::thread;

    fn serve(answer: &'static [u8]) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(answer).unwrap();
        });
        port
    }

    #[test]
    fn reads_whole_bodies_and_refuses_torn_ones() {
        let get = |answer| get(serve(answer), "/metrics", Duration::from_secs(5));
        assert_eq!(
            get(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup").unwrap(),
            (200, "up".into())
        );
        assert_eq!(
            get(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").unwrap(),
            (503, String::new())
        );
        assert!(get(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nup").is_err());
        assert!(get(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab").is_err());
    }
}
