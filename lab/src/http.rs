//! An HTTP GET with bounds, to read an exporter, and unused ports. Both act in the calling thread's network namespace.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ureq::Agent;

/// The largest body that is read; pages of the exporter are far smaller.
const BODY_MAX: u64 = 64 << 20;

/// Requests `GET path` and returns status and body. `time` bounds everything from the connect to the end of the body.
pub fn get(port: u16, path: &str, time: Duration) -> io::Result<(u16, String)> {
    // A new agent has no connection from another network namespace in its pool.
    let agent: Agent = Agent::config_builder()
        .timeout_global(Some(time))
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .build()
        .into();
    let failed = |error: ureq::Error| {
        let kind = match &error {
            ureq::Error::Timeout(_) => io::ErrorKind::TimedOut,
            ureq::Error::Io(error) => error.kind(),
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, format!("GET {path} within {time:?}: {error}"))
    };
    let mut answer = agent
        .get(format!("http://127.0.0.1:{port}{path}"))
        .header("Connection", "close")
        .call()
        .map_err(failed)?;
    // Without a length, a torn body would look complete.
    if !answer.headers().contains_key("content-length") {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("GET {path}: the answer has no Content-Length"),
        ));
    }
    let bytes = answer
        .body_mut()
        .with_config()
        .limit(BODY_MAX)
        .read_to_vec()
        .map_err(failed)?;
    let body = String::from_utf8(bytes).map_err(io::Error::other)?;
    Ok((answer.status().as_u16(), body))
}

/// Returns `count` unused ports below the ephemeral ones: a connection of another process could take one of those before
/// the broker binds it.
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
    use std::io::{Read as _, Write as _};
    use std::thread;
    use std::time::Instant;

    use super::*;

    /// Answers one request with these pieces, 50 ms apart.
    fn serve(pieces: impl Iterator<Item = &'static [u8]> + Send + 'static) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).unwrap();
            for piece in pieces {
                if stream.write_all(piece).is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(50));
            }
        });
        port
    }

    #[test]
    fn complete_bodies_are_read_and_torn_ones_are_errors() {
        let get = |answer: &'static [u8]| {
            let port = serve(std::iter::once(answer));
            get(port, "/metrics", Duration::from_secs(5))
        };
        assert_eq!(
            get(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup").unwrap(),
            (200, "up".into())
        );
        assert_eq!(
            get(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").unwrap(),
            (503, String::new())
        );
        assert_eq!(
            get(b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 2\r\n\r\nno").unwrap(),
            (302, "no".into())
        );
        for torn in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nup"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
            b"HTTP/1.1 200 OK\r\n\r\nup",
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b"",
        ] {
            let error = get(torn).unwrap_err();
            assert_ne!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        }
    }

    #[test]
    fn time_and_size_of_an_answer_are_bounded() {
        let head: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
        let slow = serve(std::iter::once(head).chain(std::iter::repeat(&b"x"[..])));
        let started = Instant::now();
        let error = get(slow, "/", Duration::from_millis(300)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        assert!(started.elapsed() < Duration::from_secs(5));

        let head: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n";
        let piece: &[u8] = vec![b'x'; 10 << 20].leak();
        let large = serve(std::iter::once(head).chain(std::iter::repeat(piece)));
        let error = get(large, "/", Duration::from_secs(30)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }
}
