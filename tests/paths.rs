//! Two hosts, made of network namespaces, of which the one asks the other while packets between them are lost in one
//! direction, or the other one hangs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kafka_vitals::kafka::client::{Client, Timing};
use kafka_vitals::kafka::conn::OwnConnections;
use kafka_vitals::model::Reason;
use lab::Cell;
use lab::hosts::{Host, ip};
use support::skip;

/// Where the asking end of the link is.
const OWN: &str = "10.9.1.1";
const PORT: u16 = 9092;

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
    let peer = Host::create(&cell, 1, None).unwrap();
    let listen = || TcpListener::bind((peer.address, PORT));
    let listener = peer.cell.in_network(listen).unwrap().unwrap();
    let hangs = Arc::new(AtomicBool::new(false));
    let hang = Arc::clone(&hangs);
    std::thread::spawn(move || serve(&listener, &hang));
    let ask = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(asked(&cell, &peer, &hangs));
    };
    cell.in_network(ask).unwrap();
}

async fn asked(cell: &Cell, peer: &Host, hangs: &AtomicBool) {
    let inside = |timing: u64| tokio::time::Instant::now() + Duration::from_secs(timing);
    let address = format!("{}:{PORT}", peer.address);
    let mut client = Client::new(address, OwnConnections::default(), Timing::default());
    client.watch_path();
    client.api().await.answer.unwrap();
    assert!(!client.rest(inside(4)).await, "nothing is cut");

    // Packets go to a host that is none: first those to the peer while nothing is asked, then those back while something is.
    let peer_address = peer.address.to_string();
    let there = (cell, &*peer_address, "host1", true);
    let back = (&peer.cell, OWN, "eth0", false);
    for (place, to, link, idle) in [there, back] {
        let neighbor = |change: &str| ip(place, &format!("neighbor {change} dev {link}")).unwrap();
        let start = Instant::now();
        neighbor(&format!(
            "replace {to} lladdr 02:00:00:00:00:99 nud permanent"
        ));
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

        neighbor(&format!("delete {to}"));
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
