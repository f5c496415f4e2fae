//! Counts the TCP sockets of this network namespace by state, like the bare C dump that the benchmarks compare with:
//! `socket_states ROUNDS all|pulse|proc [PORT]`.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use kafka_vitals::snapshot::{StateCounts, TcpState};
use kafka_vitals::sys::proc_net::tcp_sockets;
use kafka_vitals::sys::sock_diag::{Ports, Socket, States, dump};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let rounds: u32 = arguments.next().context("how many rounds?")?.parse()?;
    let kind = arguments.next().context("all, pulse or proc?")?;
    let ports = arguments.next().map(|port| port.parse().map(|port| Ports::new([port]))).transpose()?;
    let states = match kind.as_str() {
        "all" | "proc" => States::ALL,
        "pulse" => States::ALL.without(TcpState::Established),
        other => bail!("all, pulse or proc, not {other}"),
    };
    let mut buffer = Vec::new();
    let mut counts = StateCounts::default();
    for _ in 0..rounds {
        counts = StateCounts::default();
        let deadline = Instant::now() + Duration::from_secs(10);
        let each = |socket: &Socket| {
            let count = counts.get_mut(socket.state);
            count.connections += 1;
            count.receive_bytes += u64::from(socket.receive_queue);
            count.send_bytes += u64::from(socket.send_queue);
        };
        if kind == "proc" {
            let own = std::process::id();
            tcp_sockets("/proc".as_ref(), own, states, ports.as_ref(), &mut buffer, deadline, each)?;
        } else {
            dump(states, ports.as_ref(), &mut buffer, deadline, each)?;
        }
    }
    for state in TcpState::ALL {
        let count = counts.get(state);
        if count.connections > 0 {
            println!("{} {} {} {}", state.name(), count.connections, count.receive_bytes, count.send_bytes);
        }
    }
    Ok(())
}
