//! From the name of a broker's address to the addresses that may be connected to.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use tokio::sync::Mutex;

use super::thread::on_thread;

/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 8;

/// Resolves one name at a time: a thread waits for a name service that hangs. Each broker has its own, so that the names
/// of one hold no other up.
#[derive(Debug, Clone, Default)]
pub(super) struct Resolver(Arc<Mutex<()>>);

impl Resolver {
    /// Resolves `host:port` on a thread of its own. Dropping it leaves that thread to end by itself.
    pub(super) async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = address.parse() {
            return Ok(vec![address]);
        }
        let one_at_a_time = Arc::clone(&self.0).lock_owned().await;
        let address = address.to_owned();
        let resolve = move || {
            let addresses = address.to_socket_addrs();
            drop(one_at_a_time);
            addresses.map(|all| all.take(MOST_ADDRESSES).collect())
        };
        on_thread("resolver", resolve).await?
    }
}

/// Whether an address leads to the host of the exporter itself, whatever form it is written in.
pub(super) fn is_loopback(address: &SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    ip.is_loopback() || ip.is_unspecified()
}
