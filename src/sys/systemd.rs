//! What systemd hands over to a service, and what a service reports to it.

use std::net::TcpListener;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt;
use sd_notify::NotifyState;

/// The listening sockets that systemd has opened. To be called once, before anything else is opened.
///
/// # Errors
/// There is none, or one that no HTTP server can accept connections from; the message says what to do.
pub fn listeners() -> Result<Vec<TcpListener>, String> {
    let fds = sd_notify::listen_fds()
        .map_err(|error| format!("the sockets of systemd (LISTEN_FDS) cannot be used: {error}"))?;
    let fds: Vec<_> = fds.collect();
    for fd in &fds {
        // SAFETY: `listen_fds` has just found it open, and this thread, the only one, does not close it meanwhile.
        let borrowed = unsafe { BorrowedFd::borrow_raw(*fd) };
        let accepts = sockopt::socket_acceptconn(borrowed).unwrap_or(false);
        let domain = sockopt::socket_domain(borrowed).ok();
        let is_tcp = domain.is_some_and(|domain| {
            [
                rustix::net::AddressFamily::INET,
                rustix::net::AddressFamily::INET6,
            ]
            .contains(&domain)
        });
        if !accepts || !is_tcp {
            return Err(format!(
                "fd {fd} of systemd (LISTEN_FDS) is no listening TCP socket: use ListenStream=PORT in the socket unit"
            ));
        }
    }
    if fds.is_empty() {
        return Err(
            "systemd handed over no socket (LISTEN_FDS): start the service by its socket unit"
                .to_owned(),
        );
    }
    let own = |fd| -> std::io::Result<TcpListener> {
        // SAFETY: systemd opened it for this process (LISTEN_PID), nothing else knows of it, and it is taken once.
        let listener = TcpListener::from(unsafe { OwnedFd::from_raw_fd(fd) });
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    let listeners: std::io::Result<Vec<_>> = fds.into_iter().map(own).collect();
    listeners.map_err(|error| error.to_string())
}

/// The state of this service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Ready,
    Reloading,
    Stopping,
    /// It works: the watchdog may wait again.
    Works,
}

/// Reports it, if systemd has started this process.
pub fn notify(state: State) {
    let sent = match state {
        State::Ready => sd_notify::notify(&[NotifyState::Ready]),
        State::Reloading => NotifyState::monotonic_usec_now()
            .and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now])),
        State::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
        State::Works => sd_notify::notify(&[NotifyState::Watchdog]),
    };
    log_failure(sent);
}

/// The time within which the watchdog of systemd expects [`State::Works`]; None without one.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Has the watchdog wait so long from now on.
pub fn set_watchdog(patience: Duration) {
    let text = format!("WATCHDOG_USEC={}", patience.as_micros());
    log_failure(sd_notify::notify(&[NotifyState::Custom(&text)]));
}

fn log_failure(sent: std::io::Result<()>) {
    if let Err(error) = sent {
        tracing::warn!(%error, "systemd cannot be notified (NOTIFY_SOCKET)");
    }
}
