//! Socket tables that no kernel writes: they are errors, never a count of the readable rest.

use std::fs;
use std::time::Duration;

use kafka_vitals::collect::sockets::Sockets;
use kafka_vitals::model::TcpState;

use crate::Cases;
use crate::host::Host;

const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
/// Port 9092, LISTEN.
const LINE: &str = "   0: 00000000:2384 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100\n";

#[test]
fn tables() {
    let bad = |line: &str| format!("{HEAD}{LINE}{line}\n");
    let garbage = |shown: &str| {
        format!("protocol: PROC/77/net/tcp: 1 lines are not sockets, the first of them is: {shown}")
    };
    #[rustfmt::skip] // a case a line
    let cases: Vec<(&str, Vec<u8>, String)> = vec![
        ("right", bad("").trim_end().into(), "1 listening".into()),
        ("empty", vec![], "0 listening".into()),
        ("cut in the address", bad("   1: 0000").into(), garbage("   1: 0000")),
        ("cut before the inode", bad(LINE.split(" 4711").next().unwrap()).into(), garbage("   0: 00000000:2384*")),
        ("address of 6 bytes", bad(&LINE.replacen("00000000:", "000000000000:", 1)).trim_end().into(), garbage("*000000000000:2384*")),
        ("port of 5 digits", bad(&LINE.replace("2384", "12384")).trim_end().into(), garbage("*12384*")),
        ("state that no kernel has", bad(&LINE.replace(" 0A ", " 63 ")).trim_end().into(), garbage("* 63 *")),
        ("queue of 9 digits", bad(&LINE.replace("00000000:00000000 00", "100000000:00000000 00")).trim_end().into(), garbage("*100000000*")),
        ("inode of 30 digits", bad(&LINE.replace("4711", &"9".repeat(30))).trim_end().into(), garbage("*2384*")),
        ("bytes that are no text", b"\0\xff\xfe\n".to_vec(), garbage("\\x00\\xff\\xfe")),
        ("a line of a megabyte", vec![b'x'; 1 << 20], garbage("(too long)")),
    ];
    let mut checked = Cases::default();
    for (name, table, golden) in &cases {
        let host = Host::new();
        host.write("net/tcp", table);
        checked.check(name, golden, &pulse(&host));
    }
    let host = Host::new();
    checked.check("missing", "gone: PROC/77/net/tcp is gone", &pulse(&host));
    fs::create_dir(host.path("net/tcp")).unwrap();
    checked.check(
        "folder",
        "io: PROC/77/net/tcp: Is a directory (os error 21)",
        &pulse(&host),
    );
    let host = Host::new();
    host.properties("broker.id=7\nzookeeper.connect=z\nlog.dirs=/data\nlisteners=junk\n");
    checked.check(
        "no listener",
        "unsupported: no listener's port is known (see its `listeners`)",
        &pulse(&host),
    );
    checked.finish(14, cases.len() + 3);
}

fn pulse(host: &Host) -> String {
    let broker = host.discovery().scan().unwrap().remove(0);
    match Sockets::new(host.folder.path(), Duration::from_secs(5)).pulse(&broker, &|_| false) {
        Ok(counted) => format!(
            "{} listening",
            counted.sockets.server.get(TcpState::Listen).connections
        ),
        Err(failure) => {
            let text = failure
                .message
                .strip_prefix("sockets of broker 7 (pid 77): ")
                .expect("the broker is named");
            format!(
                "{}: {}",
                failure.reason,
                text.replace(host.folder.path().to_str().unwrap(), "PROC")
            )
        }
    }
}
