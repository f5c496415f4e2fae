//! TCP connections by state, and the accept queues of listeners.

use serde::{Deserialize, Serialize};

use super::named::named;

named! {
    /// The kernel's TCP states, in the order of its numbers (1 is established). The twelfth, NEW_SYN_RECV, never leaves
    /// the kernel: sock_diag and `/proc/net/tcp` both tell it as SYN_RECV.
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
    /// As `/proc/net/tcp` and sock_diag count them.
    pub fn number(self) -> u8 {
        self as u8 + 1
    }

    /// From its [`TcpState::number`].
    pub fn from_number(number: u8) -> Option<TcpState> {
        TcpState::ALL
            .get(usize::from(number).checked_sub(1)?)
            .copied()
    }
}

/// Sockets in one state. For LISTEN the queues are no bytes and stay 0 here; see [`AcceptQueue`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateCount {
    pub connections: u64,
    /// Bytes that the broker has not read: the peer's FIN, which counts 1 in `ss` until it is read, is left out.
    pub receive_bytes: u64,
    /// Bytes that the peer has not acknowledged, as `ss` tells them: an unacknowledged SYN or FIN counts 1.
    pub send_bytes: u64,
}

/// Counts by TCP state; index with [`StateCounts::get`].
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

/// At the broker's listener ports, every state but ESTABLISHED (that slot stays 0).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SocketPulse {
    pub server: StateCounts,
    /// CLOSE_WAIT connections of the listeners with bytes that nobody reads.
    pub unread_close_wait: u64,
}

/// A listener's connections that the kernel completed and the broker has not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptQueue {
    /// Name of the Kafka listener.
    pub listener: String,
    pub length: u32,
    /// Unknown where only `/proc/PID/net/tcp` could be read.
    pub limit: Option<u32>,
}

/// Every slow round: what only the owner of each socket tells.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SocketOwners {
    /// ESTABLISHED connections at the listener ports.
    pub server_established: StateCount,
    /// The broker's outgoing connections, to other brokers and ZooKeeper.
    pub client: StateCounts,
    pub client_unread_close_wait: u64,
}
