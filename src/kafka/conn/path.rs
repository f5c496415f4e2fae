//! The path to the broker, which the kernel watches where that is wanted: it ends a connection whose packets are not
//! acknowledged.

use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::Interest;
use tokio::time::{Instant, timeout_at};

use super::{Conn, ConnError, is_unacknowledged};

/// On a watched path an idle connection sends a keep-alive each second.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// And the kernel ends it when nothing was acknowledged for so long: sooner than a request gives up, so that a broker that
/// hangs and a path that is cut are never confused.
const UNACKNOWLEDGED: Duration = Duration::from_millis(1200);

impl Conn {
    /// Makes the kernel end the connection when its packets are not acknowledged, also while nothing is asked. A process
    /// that hangs, or is stopped, has a kernel that acknowledges.
    pub(super) fn watch_path(&self) -> Result<(), ConnError> {
        let Some(socket) = self.stream.socket() else {
            return Ok(());
        };
        let millis = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
        let set = sockopt::set_socket_keepalive(socket, true)
            .and_then(|()| sockopt::set_tcp_keepidle(socket, KEEP_ALIVE))
            .and_then(|()| sockopt::set_tcp_keepintvl(socket, KEEP_ALIVE))
            .and_then(|()| sockopt::set_tcp_user_timeout(socket, millis));
        set.map_err(|errno| ConnError::Connect {
            address: self.address.clone(),
            source: errno.into(),
        })
    }

    /// Whether the kernel has ended it because packets were not acknowledged.
    pub(in crate::kafka) fn is_lost(&self) -> bool {
        self.lost
    }

    /// As [`Conn::read_late`], and returns at once whether the kernel ends the connection because packets are not
    /// acknowledged.
    pub async fn rest(&mut self, until: Instant) -> bool {
        self.read_late(until).await;
        if !self.lost {
            // Where it does not end, the time does.
            let _ = timeout_at(until, self.ends_unacknowledged()).await;
        }
        self.lost
    }

    async fn ends_unacknowledged(&mut self) {
        if let Some(socket) = self.stream.socket()
            && socket.ready(Interest::ERROR).await.is_ok()
            && let Ok(Some(error)) = socket.take_error()
        {
            // The kernel says so once.
            self.lost = is_unacknowledged(&error);
        }
        if !self.lost {
            std::future::pending::<()>().await;
        }
    }
}
