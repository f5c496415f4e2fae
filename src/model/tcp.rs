//! TCP connections by state, and the accept queues of listeners.

use serde::{Deserialize, Serialize};

use super::named::named;

named! {
    /// The kernel's TCP states, in the order of their numbers (1 is established). The twelfth, NEW_SYN_RECV, is not shown
    /// outside the kernel: sock_diag and `/proc/net/tcp` report it as SYN_RECV.
    #[derive(Serialize, Deserialize)]
    pub enum TcpState {
        Established = "established",
        SynSent = "syn_sent",
        SynRecv = "syn_recv",
        FinWait1 = "fin_wait1",
        FinWait2 = "fin_wait2",
        TimeWait = "time_wait",
        Close = "close",
        CloseWait = "close_wait",
        LastAck = "last_ack",
        Listen = "listen",
        Closing = "closing",
    }
}

impl TcpState {
    /// The number in `/proc/net/tcp` and sock_diag.
    pub fn number(self) -> u8 {
        self as u8 + 1
    }

    /// Returns the state with this [`TcpState::number`].
    pub fn from_number(number: u8) -> Option<TcpState> {
        TcpState::ALL
            .get(usize::from(number).checked_sub(1)?)
            .copied()
    }
}

/// Sockets in one state. For LISTEN the queues are not bytes and stay 0 here; see [`AcceptQueue`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateCount {
    pub connections: u64,
    /// Bytes that the broker has not read, without the peer's FIN, which counts 1 in `ss` until it is read.
    pub receive_bytes: u64,
    /// Bytes that the peer has not acknowledged. As in `ss`, an unacknowledged SYN or FIN counts 1.
    pub send_bytes: u64,
}

/// Counts by TCP state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateCounts([StateCount; 11]);

impl StateCounts {
    pub fn get(&self, state: TcpState) -> &StateCount {
        &self.0[state as usize]
    }

    pub fn get_mut(&mut self, state: TcpState) -> &mut StateCount {
        &mut self.0[state as usize]
    }
}

/// Sockets at the broker's listener ports, in every state except ESTABLISHED (that count stays 0).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SocketPulse {
    pub server: StateCounts,
    /// CLOSE_WAIT connections of the listeners with unread bytes.
    pub unread_close_wait: u64,
}

/// Connections of a listener that the kernel has completed and the broker has not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptQueue {
    /// Name of the Kafka listener.
    pub listener: String,
    pub length: u32,
    /// Unknown if only `/proc/PID/net/tcp` could be read.
    pub limit: Option<u32>,
}

/// Read on the slow round: counts that need the owner of each socket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SocketOwners {
    /// ESTABLISHED connections at the listener ports.
    pub server_established: StateCount,
    /// The broker's outgoing connections, to other brokers and ZooKeeper.
    pub client: StateCounts,
    pub client_unread_close_wait: u64,
}
