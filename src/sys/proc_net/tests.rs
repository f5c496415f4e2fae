#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sockets")
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// State, queues, addresses and inode, as `ss -Htane` printed them while the tables were recorded.
fn ss_lines() -> Vec<[String; 6]> {
    let text = std::fs::read_to_string(recorded().join("ss-tane.txt")).unwrap();
    let mut lines: Vec<[String; 6]> = text
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let inode = words
                .iter()
                .find_map(|word| word.strip_prefix("ino:"))
                .unwrap();
            let address = |word: &str| {
                word.replace("[::ffff:127.0.0.1]", "127.0.0.1")
                    .replace("*", "0")
            };
            let listening = words[0] == "LISTEN";
            // Only sock_diag has the limit of an accept queue.
            let send_queue = if listening { "0" } else { words[2] };
            [
                words[0],
                words[1],
                send_queue,
                &address(words[3]),
                &address(words[4]),
                inode,
            ]
            .map(String::from)
        })
        .collect();
    lines.sort();
    lines
}

/// Spells a socket as ss does.
fn as_ss(socket: &TcpSocket) -> [String; 6] {
    let state = match socket.state {
        TcpState::Established => "ESTAB".to_string(),
        TcpState::FinWait1 => "FIN-WAIT-1".to_string(),
        TcpState::FinWait2 => "FIN-WAIT-2".to_string(),
        other => other.name().replace('_', "-").to_uppercase(),
    };
    // ss prints the wildcard of a dual-stack socket as `*`.
    let address = |address: SocketAddr| match address.to_string().as_str() {
        "[::]:9092" => "0:9092".to_string(),
        "[::]:0" if socket.local.port() == 9092 => "0:0".to_string(),
        other => other
            .strip_suffix(":0")
            .map_or(other.to_string(), |host| format!("{host}:0")),
    };
    let [receive, send] = [socket.receive_queue, socket.send_queue].map(|queue| queue.to_string());
    [
        state,
        receive,
        send,
        address(socket.local),
        address(socket.remote),
        socket.inode.to_string(),
    ]
}

#[test]
fn recorded_tables_agree_with_ss() {
    let mut read = Vec::new();
    tcp_sockets(
        &recorded().join("proc"),
        4711,
        States::ALL,
        None,
        &mut Vec::new(),
        soon(),
        |socket| {
            read.push(as_ss(socket));
        },
    )
    .unwrap();
    read.sort();
    assert_eq!(read, ss_lines());
    let states: BTreeMap<&str, usize> = read.iter().fold(BTreeMap::new(), |mut states, line| {
        *states.entry(line[0].as_str()).or_default() += 1;
        states
    });
    assert_eq!(states.len(), 10, "every state but CLOSE: {states:?}");
}

#[test]
fn ports_and_states_are_filtered() {
    let mut states = Vec::new();
    let wanted = States::of(&[TcpState::CloseWait, TcpState::Listen]);
    let ports = Ports::new([9092]);
    tcp_sockets(
        &recorded().join("proc"),
        4711,
        wanted,
        Some(&ports),
        &mut Vec::new(),
        soon(),
        |socket| {
            assert_eq!(socket.local.port(), 9092);
            states.push(socket.state);
        },
    )
    .unwrap();
    let expected = ss_lines().into_iter().filter(|line| {
        line[3].ends_with(":9092") && ["CLOSE-WAIT", "LISTEN"].contains(&line[0].as_str())
    });
    assert_eq!(states.len(), expected.count());
}

#[test]
fn sockets_that_are_not_tcp_are_found() {
    let mut inodes = Vec::new();
    other_socket_inodes(
        &recorded().join("proc"),
        4711,
        &mut Vec::new(),
        soon(),
        |inode| inodes.push(inode),
    )
    .unwrap();
    let fstat = std::fs::read_to_string(recorded().join("inodes.txt")).unwrap();
    for line in fstat.lines() {
        let inode: u64 = line.split(' ').next().unwrap().parse().unwrap();
        assert!(inodes.contains(&inode), "{line} is not in {inodes:?}");
    }
}

fn with_tcp(text: &[u8]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("7/net")).unwrap();
    std::fs::write(root.path().join("7/net/tcp"), text).unwrap();
    root
}

#[test]
fn garbage_is_counted_and_the_other_lines_are_read() {
    let good = "   0: 0100007F:2384 00000000:0000 0A 00000000:00000002 00:00000000 00000000     0        0 393758 2 0\n";
    // `tests/bad_inputs/sockets.rs` has a wrong value of each field.
    let bad = [
        good.trim_end().replace("0100007F:", "0100007:"),
        "\u{0}\u{ff}".to_owned(),
    ];
    let text = format!(
        "  sl  local_address\n{good}{}\n{}\n{good}",
        bad.join("\n"),
        "9".repeat(200_000)
    );
    let root = with_tcp(text.as_bytes());
    let mut read = 0;
    let result = tcp_sockets(
        root.path(),
        7,
        States::ALL,
        None,
        &mut Vec::new(),
        soon(),
        |_| read += 1,
    );
    let message = result.unwrap_err().to_string();
    assert_eq!(read, 2);
    let count = format!(
        "tcp: {} lines are not sockets, the first of them is:    0: 0100007:2384",
        bad.len() + 1
    );
    assert!(message.contains(&count), "{message}");
}

#[test]
fn a_table_that_is_cut_or_missing_is_an_error() {
    let full = std::fs::read(recorded().join("proc/4711/net/tcp")).unwrap();
    let root = with_tcp(&full[..full.len() - 100]);
    let read = |pid, deadline| {
        let buffer = &mut Vec::new();
        tcp_sockets(
            root.path(),
            pid,
            States::ALL,
            None,
            buffer,
            deadline,
            |_| (),
        )
    };
    let result = read(7, soon());
    assert!(
        matches!(result, Err(ProcNetError::Garbage { count: 1, .. })),
        "{result:?}"
    );
    let gone = read(8, soon());
    assert!(matches!(gone, Err(ProcNetError::Gone(_))), "{gone:?}");
    let late = read(7, Instant::now());
    assert!(matches!(late, Err(ProcNetError::TimedOut(_))), "{late:?}");
}

/// Returns this many bytes at a time.
struct InPieces<'a>(&'a [u8], usize);

impl Read for InPieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.1.min(self.0.len()).min(buffer.len());
        let (now, later) = self.0.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.0 = later;
        Ok(count)
    }
}

proptest! {
    #[test]
    fn lines_are_those_of_the_whole_text(
        lengths in prop::collection::vec(prop_oneof![9 => 0usize..200, 1 => 60_000usize..70_000], 0..30),
        ended in any::<bool>(),
        piece in 4000usize..100_000,
    ) {
        let lines: Vec<String> = lengths.iter().map(|length| "x".repeat(*length)).collect();
        let text = lines.join("\n") + if ended { "\n" } else { "" };
        let mut read = Vec::new();
        each_line(InPieces(text.as_bytes(), piece), &mut Vec::new(), soon(), |line| read.push(line.map(<[u8]>::len)))
            .unwrap();
        let expected: Vec<Option<usize>> =
            text.lines().map(|line| Some(line.len()).filter(|length| *length < BUFFER_BYTES)).collect();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn short_lines_arrive_in_any_pieces(text in "[a-c\n]{0,100}", piece in 1usize..9) {
        let mut read = Vec::new();
        each_line(InPieces(text.as_bytes(), piece), &mut Vec::new(), soon(), |line| {
            read.push(String::from_utf8(line.unwrap().to_vec()).unwrap());
        })
        .unwrap();
        prop_assert_eq!(read, text.lines().collect::<Vec<_>>());
    }

    #[test]
    fn no_line_panics(line in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..120, byte in any::<u8>()) {
        let _ = socket_of(&line);
        let mut damaged = *b"   8: 0100007F:AF86 0100007F:2385 02 00000001:00000000 01:0000003E 00000000     0        0 393794 2 0 0 0 0";
        damaged[at % damaged.len()] = byte;
        let _ = socket_of(&damaged);
    }
}

#[test]
fn the_own_namespace_is_shared_and_a_recorded_one_is_not() {
    assert!(same_network_namespace(Path::new("/proc"), std::process::id()).unwrap());
    assert!(!same_network_namespace(&recorded().join("proc"), 4711).unwrap());
    let gone = same_network_namespace(Path::new("/proc"), 0);
    assert!(matches!(gone, Err(ProcNetError::Gone(_))), "{gone:?}");
}

#[test]
fn another_namespace_has_another_link_and_another_inode() {
    use std::process::{Command, Stdio};
    let mut other = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--net",
            "sh",
            "-c",
            "echo there; cat",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut there = [0; 6];
    other
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut there)
        .expect("a namespace for the user (unshare --user --net)");
    let inode = |pid: u32| {
        std::fs::metadata(net_file(Path::new("/proc"), pid, "tcp"))
            .unwrap()
            .ino()
    };
    let own = std::process::id();
    assert!(!same_network_namespace(Path::new("/proc"), other.id()).unwrap());
    assert_ne!(inode(other.id()), inode(own));
    let mut same = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    assert!(same_network_namespace(Path::new("/proc"), same.id()).unwrap());
    assert_eq!(inode(same.id()), inode(own));
    for child in [&mut other, &mut same] {
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
