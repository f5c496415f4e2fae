//! `kafka-vitals live`: asks the exporter beside the broker, for an exec probe. It fails only on the exporter's own 503:
//! an exporter that has ended, hangs or refuses must never cause the restart of a broker.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::without_control_characters;
use crate::cli::{ExporterAddress, LiveArgs};
use crate::expose::server::RESTART_HEADER;
use crate::model::routes;

/// Longer answers are not read.
const MAX_ANSWER: usize = 64 * 1024;

/// Only the exit code counts: if the text cannot be written, the probe must not fail because of that.
pub fn run(args: &LiveArgs) -> ExitCode {
    let (text, code) = match ask(&args.address, args.broker.as_deref(), args.timeout) {
        Outcome::Restart(reason) => (reason, ExitCode::FAILURE),
        Outcome::Live(reason) => (reason, ExitCode::SUCCESS),
        Outcome::NoAnswer(reason) => (
            format!("passes without an answer: {reason}"),
            ExitCode::SUCCESS,
        ),
    };
    let _ = writeln!(std::io::stdout(), "{}", without_control_characters(&text));
    code
}

/// The result of a request to the exporter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Restart the broker, for this reason.
    Restart(String),
    /// The broker must not be restarted; the exporter's text.
    Live(String),
    /// No usable answer: the probe passes as well.
    NoAnswer(String),
}

/// Asks the exporter at `address` about `broker`, or about the only one, within `time`.
pub fn ask(address: &ExporterAddress, broker: Option<&str>, time: Duration) -> Outcome {
    let path = broker.map_or_else(
        || routes::LIVE.to_owned(),
        |broker| routes::of(routes::BROKER_LIVE, broker),
    );
    match get(address, &path, time, MAX_ANSWER) {
        Err(error) => Outcome::NoAnswer(format!("{address}: {error}")),
        Ok(answer) => {
            let (status, reason) = (&answer.status, answer.body.trim().to_owned());
            let (header, restart) = RESTART_HEADER;
            match status.as_str() {
                "503" if answer.header(header) == Some(restart) => Outcome::Restart(reason),
                "200" => Outcome::Live(reason),
                _ => Outcome::NoAnswer(format!(
                    "{address} answered {status}, which is no verdict: {reason}"
                )),
            }
        }
    }
}

/// An answer by HTTP.
pub(super) struct Answer {
    pub(super) status: String,
    head: String,
    pub(super) body: String,
}

impl Answer {
    /// The value of the header with this name.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(':'));
        headers
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }
}

/// The exporter's answer for `path`, read within `time` and shorter than `most` bytes.
pub(super) fn get(
    exporter: &ExporterAddress,
    path: &str,
    time: Duration,
    most: usize,
) -> std::io::Result<Answer> {
    let deadline = Instant::now() + time;
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(std::io::ErrorKind::TimedOut.into())
        } else {
            Ok::<Duration, std::io::Error>(left)
        }
    };
    let mut connected = Err(std::io::ErrorKind::AddrNotAvailable.into());
    for address in &exporter.addresses {
        connected = TcpStream::connect_timeout(address, left()?).map(|stream| (stream, address));
        if connected.is_ok() {
            break;
        }
    }
    let (mut stream, address) = connected?;
    stream.set_write_timeout(Some(left()?))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while bytes.len() < most {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut buffer)? {
            0 => break,
            count => bytes.extend_from_slice(buffer.get(..count).unwrap_or_default()),
        }
    }
    let parts = || {
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
        Some(Answer {
            status: status.to_owned(),
            head: head.to_owned(),
            body: body.to_owned(),
        })
    };
    let complete = parts().filter(|_| bytes.len() < most);
    complete.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "no HTTP answer"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::TcpListener;

    use super::*;

    /// A server that answers one request with these bytes; a hanging one keeps the connection until the probe closes it.
    fn serving(bytes: &'static [u8], hangs: bool) -> ExporterAddress {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // The request arrives in one piece.
            let _ = stream.read(&mut [0; 512]).unwrap();
            stream.write_all(bytes).unwrap();
            if hangs {
                let _ = stream.read(&mut [0; 512]);
            }
        });
        address.to_string().parse().unwrap()
    }

    #[test]
    fn the_probe_fails_only_on_the_exporter_s_own_503() {
        let restart = || Some(Outcome::Restart("deadlocked".into()));
        // An answer, whether the server hangs after it, and its meaning; None is no verdict.
        let table: [(&[u8], bool, Option<Outcome>); 11] = [
            (
                b"HTTP/1.1 503 x\r\nkafka-vitals: restart\r\n\r\ndeadlocked\n",
                false,
                restart(),
            ),
            (
                b"HTTP/1.1 503 x\r\nKafka-Vitals:restart\r\nA: b\r\n\r\ndeadlocked\n",
                false,
                restart(),
            ),
            // A proxy that does not reach the exporter.
            (
                b"HTTP/1.1 503 Service Unavailable\r\nServer: nginx\r\n\r\nx",
                false,
                None,
            ),
            (
                b"HTTP/1.1 503 x\r\n\r\nkafka-vitals: restart\r\n",
                false,
                None,
            ),
            (
                b"HTTP/1.1 200 OK\r\n\r\nwell\n",
                false,
                Some(Outcome::Live("well".into())),
            ),
            (b"HTTP/1.1 401 Unauthorized\r\n\r\n", false, None),
            (b"HTTP/1.1 404 Not Found\r\n\r\n503", false, None),
            (b"HTTP/1.1 500 503\r\n\r\n", false, None),
            (b"503", false, None),
            (b"", false, None),
            (
                b"HTTP/1.1 503 x\r\nkafka-vitals: restart\r\n\r\ncut",
                true,
                None,
            ),
        ];
        for (bytes, hangs, expected) in table {
            let time = Duration::from_millis(if hangs { 500 } else { 10_000 });
            let outcome = ask(&serving(bytes, hangs), None, time);
            let verdict = Some(&outcome).filter(|outcome| !matches!(outcome, Outcome::NoAnswer(_)));
            assert_eq!(
                verdict,
                expected.as_ref(),
                "{:?}: {outcome:?}",
                String::from_utf8_lossy(bytes)
            );
        }
        let closed = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        assert!(matches!(
            ask(
                &closed.to_string().parse().unwrap(),
                Some("1"),
                Duration::from_secs(1)
            ),
            Outcome::NoAnswer(_)
        ));
    }

    #[test]
    fn localhost_is_both_loopback_addresses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 512]).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nwell").unwrap();
        });
        let named: ExporterAddress = format!("localhost:{port}").parse().unwrap();
        let outcome = ask(&named, None, Duration::from_secs(10));
        assert_eq!(outcome, Outcome::Live("well".into()));
        for wrong in [
            "localhost",
            "localhost:",
            "localhost:x",
            "example.org:1",
            "",
        ] {
            assert!(wrong.parse::<ExporterAddress>().is_err(), "{wrong}");
        }
    }
}
