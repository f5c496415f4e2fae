//! Two hosts, made of network namespaces, of which the one asks the other while packets between them are lost in one
//! direction, or the other one hangs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kafka_vitals::kafka::client::{Client, Timing};
use kafka_vitals::kafka::conn::OwnConnections;
use kafka_vitals::model::Reason;
use lab::{Cell, Process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use support::{skip, wait_for};

const OWN: &str = "10.9.0.1";
const PEER: &str = "10.9.0.2";
const PORT: u16 = 9092;
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a program in the cell, which must succeed.
fn run(cell: &Cell, command: &str) {
    let mut words = command.split(' ');
    let mut program = Command::new(words.next().unwrap());
    program.args(words);
    let output = cell.run_tool(program, PATIENCE).unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
}

/// A second network, joined to that of the cell. It lasts as long as the process.
fn other_host(cell: &Cell) -> Process {
    let mut command = Command::new("unshare");
    command
        .args([
            "--net",
            "sh",
            "-c",
            "ip link set lo up; echo ready; read end",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let host = cell.spawn(command).unwrap();
    let net = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let own = cell
        .in_network(|| std::fs::read_link("/proc/thread-self/ns/net"))
        .unwrap()
        .ok();
    wait_for("a network of its own", PATIENCE, || {
        net(host.pid()).is_some() && net(host.pid()) != own
    });
    let pid = host.cell_pid().unwrap();
    let inside = format!("nsenter --net --target {pid}");
    run(
        cell,
        &format!("ip link add own type veth peer name peer netns {pid}"),
    );
    run(cell, &format!("ip address add {OWN}/24 dev own"));
    run(cell, &format!("{inside} ip address add {PEER}/24 dev peer"));
    run(cell, "ip link set own up");
    run(cell, &format!("{inside} ip link set peer up"));
    host
}

/// Answers ApiVersions on every connection, unless it hangs.
fn serve(listener: &TcpListener, hangs: &Arc<AtomicBool>) {
    for stream in listener.incoming() {
        let hangs = Arc::clone(hangs);
        std::thread::spawn(move || answer(stream.unwrap(), &hangs));
    }
}

fn answer(mut stream: TcpStream, hangs: &AtomicBool) {
    let mut length = [0; 4];
    while stream.read_exact(&mut length).is_ok() {
        let mut request = vec![0; u32::from_be_bytes(length) as usize];
        if stream.read_exact(&mut request).is_err() {
            return;
        }
        if hangs.load(Ordering::Relaxed) {
            continue;
        }
        // No error, two requests with their versions: Metadata and ApiVersions.
        let mut body = request[4..8].to_vec();
        body.extend([0, 0, 0, 0, 0, 2]);
        body.extend([0, 3, 0, 0, 0, 1, 0, 18, 0, 0, 0, 0]);
        let _ = stream.write_all(&u32::to_be_bytes(body.len() as u32));
        let _ = stream.write_all(&body);
    }
}

#[test]
fn a_path_that_is_cut_is_never_taken_for_a_broker_that_hangs() {
    let cell = Cell::new().unwrap();
    if !cell.isolated() {
        skip(
            "a_path_that_is_cut_is_never_taken_for_a_broker_that_hangs",
            "may not make namespaces",
        );
        return;
    }
    let host = other_host(&cell);
    let hangs = Arc::new(AtomicBool::new(false));
    let (network, hang) = (
        File::open(format!("/proc/{}/ns/net", host.pid())).unwrap(),
        Arc::clone(&hangs),
    );
    let (ready, listens) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let listener = TcpListener::bind((PEER, PORT)).unwrap();
        ready.send(()).unwrap();
        serve(&listener, &hang);
    });
    listens.recv().unwrap();
    let ask = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let at_peer = format!("nsenter --net --target {}", host.cell_pid().unwrap());
        runtime.unwrap().block_on(asked(&cell, &at_peer, &hangs));
    };
    cell.in_network(ask).unwrap();
}

/// `at_peer` runs a program on the peer's host.
async fn asked(cell: &Cell, at_peer: &str, hangs: &AtomicBool) {
    let inside = |timing: u64| tokio::time::Instant::now() + Duration::from_secs(timing);
    let address = format!("{PEER}:{PORT}");
    let mut client = Client::new(address, OwnConnections::default(), Timing::default());
    client.watch_path();
    client.api().await.answer.unwrap();
    assert!(!client.rest(inside(4)).await, "nothing is cut");

    // Packets go to a host that is none: first those to the peer while nothing is asked, then those back while something is.
    let there = (String::new(), PEER, "own", true);
    let back = (format!("{at_peer} "), OWN, "peer", false);
    for (place, to, link, idle) in [there, back] {
        let start = Instant::now();
        run(
            cell,
            &format!(
                "{place}ip neighbor replace {to} lladdr 02:00:00:00:00:99 dev {link} nud permanent"
            ),
        );
        if idle {
            assert!(client.rest(inside(10)).await, "nothing was found");
            assert!(
                start.elapsed() < Duration::from_secs(4),
                "{:?}",
                start.elapsed()
            );
        }
        let error = client.api().await.answer.unwrap_err();
        assert!(
            start.elapsed() < Duration::from_secs(6),
            "{:?}",
            start.elapsed()
        );
        assert!(client.is_path_cut(), "{error}");
        assert_eq!(error.reason(), Reason::Unreachable, "{error}");

        run(cell, &format!("{place}ip neighbor delete {to} dev {link}"));
        let heal = Instant::now();
        while let Err(error) = client.api().await.answer {
            assert!(heal.elapsed() < Duration::from_secs(10), "{error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(!client.is_path_cut());
    }

    hangs.store(true, Ordering::Relaxed);
    let error = client.api().await.answer.unwrap_err();
    assert_eq!(error.reason(), Reason::Timeout, "{error}");
    assert!(!client.rest(inside(4)).await, "its kernel acknowledges");
    assert!(!client.is_path_cut());
}
