//! From the name of a broker's address to the addresses that may be connected to.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::thread::on_thread;

/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 8;

/// Resolves one name at a time: a thread waits for a name service that hangs. Each broker has its own, so that the names
/// of one hold no other up.
#[derive(Debug, Clone)]
pub(super) struct Resolver(Arc<Semaphore>);

impl Default for Resolver {
    fn default() -> Resolver {
        Resolver(Arc::new(Semaphore::new(1)))
    }
}

impl Resolver {
    /// Resolves `host:port` on a thread of its own. Dropping it leaves that thread to end by itself.
    pub(super) async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = address.parse() {
            return Ok(vec![address]);
        }
        let one_at_a_time = Arc::clone(&self.0);
        let permit = one_at_a_time
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        let address = address.to_owned();
        let resolve = move || {
            let addresses = address.to_socket_addrs();
            drop(permit);
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
