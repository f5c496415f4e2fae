//! The addresses that the exporter listens on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// The most connections that wait to be accepted; the kernel's own limit (`net.core.somaxconn`) may be lower. A connection
/// that finds the queue full is tried again by its client after a second, so that it has room for a flood.
const BACKLOG: u32 = 4096;

/// The server cannot listen on an address.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {cause}; {}", remedy(cause))]
pub struct BindError {
    address: SocketAddr,
    cause: std::io::Error,
}

impl BindError {
    /// Whether another process uses the port.
    pub fn is_in_use(&self) -> bool {
        self.cause.kind() == std::io::ErrorKind::AddrInUse
    }
}

fn remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another process uses this port: end it, or choose another port with --web.listen-address"
        }
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE: choose one above with --web.listen-address"
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "this host has no such address: choose another with --web.listen-address"
        }
        _ => "choose another with --web.listen-address",
    }
}

/// Listens on the address. `[::]` means every IPv4 and IPv6 address, or every IPv4 one on a host without IPv6.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let bound = match (listen(address), address.ip()) {
        (Err(error), IpAddr::V6(Ipv6Addr::UNSPECIFIED))
            if error.raw_os_error() == Some(libc::EAFNOSUPPORT) =>
        {
            listen((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        (bound, _) => bound,
    };
    bound.map_err(|cause| BindError { address, cause })
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        // The host's setting (`net.ipv6.bindv6only`) may differ.
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
