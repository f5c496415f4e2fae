//! The exporter as a service of systemd: what it reports, and the sockets that it is given.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::host::Host;
use crate::running::{Exporter, Guard, get};
use crate::{EXE, is_golden};

/// Stands for systemd's end of `NOTIFY_SOCKET`.
struct Notified(UnixDatagram);

impl Notified {
    fn by(command: &mut Command, host: &Host) -> Notified {
        let path = host.folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        command.env("NOTIFY_SOCKET", path);
        Notified(socket)
    }

    /// The next message, if one comes within this time.
    fn next(&self, time: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(time)).unwrap();
        let mut message = [0; 512];
        let length = self.0.recv(&mut message).ok()?;
        Some(String::from_utf8_lossy(&message[..length]).into_owned())
    }

    #[track_caller]
    fn expect(&self, golden: &str) {
        let message = self.next(Duration::from_secs(20));
        assert!(
            is_golden(golden, message.as_deref().unwrap_or_default()),
            "expected {golden:?}, but is {message:?}"
        );
    }
}

#[test]
fn rounds_feed_the_watchdog_and_nothing_else_does() {
    let host = Host::new();
    let mut command = host.exporter_with("intervals: {discovery: 100ms}\n");
    command.env("WATCHDOG_USEC", "60000000");
    let systemd = Notified::by(&mut command, &host);
    let exporter = Exporter::start(command);
    systemd.expect("READY=1\n");
    for _ in 0..3 {
        systemd.expect("WATCHDOG=1\n");
    }
    // The process lives and answers, and views are evaluated again each 1.25 s, but there is no further round.
    fs::write(
        host.folder.path().join("config.yml"),
        "intervals: {discovery: 1h}\n",
    )
    .unwrap();
    exporter.signal(Signal::HUP);
    let mut seen = Vec::new();
    while seen.last().map(String::as_str) != Some("WATCHDOG_USEC=10800000000\n") {
        seen.extend(systemd.next(Duration::from_secs(20)));
    }
    assert!(seen.contains(&"READY=1\n".to_owned()), "{seen:?}");
    let silence = systemd.next(Duration::from_secs(4));
    assert_eq!(silence, None);
    assert!(exporter.get("/-/ready").starts_with("HTTP/1.1 200"));
}

#[test]
fn reloads_and_the_end_are_reported() {
    let host = Host::new();
    let mut command = host.exporter_with("");
    let systemd = Notified::by(&mut command, &host);
    let exporter = Exporter::start(command);
    systemd.expect("READY=1\n");
    exporter.signal(Signal::HUP);
    systemd.expect("RELOADING=1\nMONOTONIC_USEC=*\n");
    systemd.expect("READY=1\n");
    exporter.signal(Signal::TERM);
    systemd.expect("STOPPING=1\n");
}

#[test]
fn a_reload_while_it_starts_does_not_report_it_as_ready() {
    let host = Host::new();
    // It gets SIGHUP all the time, and ignores it until it can take its config file again.
    let script =
        "trap '' HUP; (while kill -HUP $$ 2>/dev/null; do sleep 0.001; done) & exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    let exporter = host.exporter_with("");
    command
        .args(["-c", script])
        .arg(EXE)
        .args(exporter.get_args());
    let systemd = Notified::by(&mut command, &host);
    let _exporter = Exporter::start(command);
    systemd.expect("READY=1\n");
    systemd.expect("RELOADING=1\nMONOTONIC_USEC=*\n");
}

/// The exporter with these sockets, as systemd starts it: from fd 3 on.
fn activated(socket: impl Into<OwnedFd>, host: &Host) -> Command {
    let script = "exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", script, EXE, "--web.systemd-socket", "--path.procfs"])
        .arg(host.folder.path())
        .stdin(Stdio::from(socket.into()));
    command
}

#[test]
fn it_serves_on_the_sockets_of_systemd() {
    let host = Host::without_brokers();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut command = activated(listener, &host);
    // Exporter::start would give it another stdin.
    command
        .arg("--web.listen-address=127.0.0.1:0")
        .stderr(Stdio::null());
    let _exporter = Guard(command.spawn().unwrap());
    let answer = get(address, "/-/healthy");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn what_is_no_socket_of_systemd_is_refused() {
    let host = Host::new();
    let refusal = |mut command: Command| {
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        text
    };
    let file = fs::File::open(host.folder.path().join("stat")).unwrap();
    let text = refusal(activated(file, &host));
    assert!(
        text.contains(
            "--web.systemd-socket: fd 3 of systemd (LISTEN_FDS) is no listening TCP socket"
        ),
        "{text}"
    );
    let mut command = Command::new(EXE);
    command.arg("--web.systemd-socket").env_remove("LISTEN_PID");
    let text = refusal(command);
    assert!(
        text.contains("--web.systemd-socket: systemd handed over no socket (LISTEN_FDS)"),
        "{text}"
    );
}
