//! What hostile brokers, JVMs and clients together cost a running exporter in memory: one ceiling for all of them.

use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use lab::fake_broker::{Answer, FakeBroker, framed, metadata};

use crate::MEASURED;
use crate::connections::connect_from;
use crate::host::Host;
use crate::running::{Exporter, wait_for};

const MIB: u64 = 1 << 20;
/// The most resident memory of an exporter, whatever it is sent. `MemoryMax` of the systemd unit follows from it.
const CEILING: u64 = 128 * MIB;
/// How long each attack lasts once it has taken effect: several rounds of every collector.
const LASTS: Duration = Duration::from_secs(15);
/// The threads in one cycle: a dump of 29 MB, and one of 4 MB, which an unoptimised build reads within the deadline.
const DEADLOCKED: [usize; 2] = [120_000, 15_000];

/// Stack frames that fill what is kept of a deadlock.
pub fn long_frames() -> String {
    format!("\tat {}(A.java:1)\n", "f".repeat(460)).repeat(62)
}

/// A dump in which so many threads wait for each other in one cycle, each with these frames besides.
pub fn deadlocked(threads: usize, frames: &str) -> Vec<u8> {
    let mut text =
        String::from("Full thread dump OpenJDK 64-Bit Server VM (17.0.15+6 mixed mode):\n\n");
    for index in 0..threads {
        text += &format!(
            "\"data-plane-kafka-request-handler-{index}\" #{index} daemon prio=5 os_prio=0 tid=0x1 nid={index} waiting for monitor entry\n   \
             java.lang.Thread.State: BLOCKED (on object monitor)\n\tat kafka.A.b(A.scala:7)\n\t- waiting to lock <{:#x}> (a X)\n\t- locked <{:#x}> (a X)\n{frames}\n",
            (index + 1) % threads + 1,
            index + 1,
        );
    }
    text += "JNI global refs: 1, weak refs: 0\n";
    text.into_bytes()
}

const THREADS_OF: &str = "KAFKA_VITALS_FAKE_JVM_THREADS";
const FRAMES_OF: &str = "KAFKA_VITALS_FAKE_JVM_FRAMES";
const SOCKET_OF: &str = "KAFKA_VITALS_FAKE_JVM_SOCKET";

/// Not a test: [`FakeJvm`] runs it as a process of its own, because the kernel names the process that serves a socket.
#[test]
fn fake_jvm() {
    let Some(socket) = std::env::var_os(SOCKET_OF) else {
        return;
    };
    let threads = std::env::var(THREADS_OF).unwrap();
    let dump = deadlocked(threads.parse().unwrap(), &std::env::var(FRAMES_OF).unwrap());
    let listener = UnixListener::bind(socket).unwrap();
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 256];
        let length = stream.read(&mut request).unwrap_or_default();
        let version = String::from_utf8_lossy(&request[..length]).contains("getversion");
        let _ = match version {
            true => stream.write_all(b"101\nNo such operation\n"),
            false => stream
                .write_all(b"0\n")
                .and_then(|()| stream.write_all(&dump)),
        };
    }
}

/// A process that answers each request for a thread dump with a deadlock of many threads.
struct FakeJvm(Child);

impl FakeJvm {
    /// Starts it as a broker of this host with this id, and waits until it serves.
    fn start(host: &Host, id: u32, threads: usize, frames: &str) -> FakeJvm {
        // Its pid is known only when it runs, so its socket is made in a folder that is moved there.
        let folder = tempfile::tempdir_in(host.folder.path()).unwrap();
        let socket = folder.path().join("socket");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "memory::fake_jvm", "--nocapture"])
            .env(SOCKET_OF, &socket)
            .env(THREADS_OF, threads.to_string())
            .env(FRAMES_OF, frames)
            .arg0("fake-jvm");
        let jvm = FakeJvm(command.spawn().unwrap());
        wait_for("the fake JVM to listen", || socket.exists());
        let pid = jvm.0.id();
        let tmp: PathBuf = host.jvm(pid, id);
        std::fs::rename(&socket, tmp.join(format!(".java_pid{pid}"))).unwrap();
        jvm
    }
}

impl Drop for FakeJvm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is done to one exporter at the same time.
#[derive(Default, Clone, Copy)]
struct Attack {
    /// Listeners that announce as much as is read, send 30 MB of it and stop.
    stopping: u32,
    /// Listeners that list as many brokers with names as long as is accepted.
    long_names: u32,
    /// Listeners whose frame is as long as is read, with names that are too long.
    too_long_names: u32,
    /// JVMs with deadlocks of so many threads in turn, see [`DEADLOCKED`].
    jvms: u32,
    /// JVMs with a deadlock of few threads with long stacks.
    long_stacks: u32,
    /// Whether new clients ask for each page every second, and read nothing of the answer.
    staggered: bool,
    /// Clients of each page that read nothing of the answer.
    clients: usize,
}

/// Runs an exporter under the attack and returns the most memory that it used.
async fn peak(attack: Attack) -> u64 {
    let host = Host::new();
    let length = 48 << 20;
    let mut stops = framed(2, &vec![0; 30_000_000]);
    stops[..4].copy_from_slice(&i32::to_be_bytes(length));
    let mut config =
        "intervals: {process: 100ms, discovery: 1s, cluster: 1s, threads: 1s}\nevidence: {dir: EVIDENCE}\nbrokers:\n".replace(
            "EVIDENCE", host.folder.path().join("evidence").to_str().unwrap());
    let mut listeners = Vec::new();
    // The first id of the brokers, how many there are, and what their listeners answer.
    let answers = [
        (100, attack.stopping, Answer::RawThenSilence(stops.into())),
        (
            200,
            attack.long_names,
            Answer::Body(metadata(10_000, 255, 2_640_000)),
        ),
        (
            300,
            attack.too_long_names,
            Answer::Body(metadata(1530, 32_767, 0)),
        ),
    ];
    let mut ids = Vec::new();
    for (first, count, answer) in answers {
        for id in first..first + count {
            let answer = answer.clone();
            let listener = FakeBroker::with_metadata(move |_| answer.clone()).await;
            config += &format!(
                "  - match: {{id: {id}}}\n    bootstrap: {}\n",
                listener.address
            );
            listeners.push(listener);
            host.jvm(100_000 + id, id);
            ids.push(id);
        }
    }
    let measure = move || {
        let _alone = MEASURED.lock();
        let mut jvms: Vec<FakeJvm> = std::iter::zip(0..attack.jvms, DEADLOCKED.into_iter().cycle())
            .map(|(id, threads)| FakeJvm::start(&host, 400 + id, threads, ""))
            .collect();
        let long_stacks = (0..attack.long_stacks).map(|id| 400 + attack.jvms + id);
        jvms.extend(long_stacks.map(|id| FakeJvm::start(&host, id, 16, &long_frames())));
        let exporter = Exporter::start(host.exporter_that_attaches(&config));
        for id in ids {
            let asked = format!("collector_success{{broker=\"{id}\",collector=\"cluster\"}} ");
            wait_for(&asked, || exporter.get("/metrics").contains(&asked));
        }
        for id in 0..attack.jvms + attack.long_stacks {
            // An unoptimised build may take longer to read a dump of 29 MB than the deadline; its memory counts all the same.
            let taken = format!(
                "collector_success{{broker=\"{}\",collector=\"threads\"}} ",
                400 + id
            );
            wait_for(&taken, || exporter.get("/metrics").contains(&taken));
        }
        let mut deaf = Vec::new();
        let mut ask = |from: u8| {
            for path in ["/api/v1/brokers", "/metrics", "/", "/check"] {
                let client = connect_from(Ipv4Addr::new(127, 0, 0, from), exporter.address);
                let mut client = client.unwrap();
                write!(client, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
                deaf.push(client);
            }
        };
        for _ in 0..attack.clients {
            ask(1);
        }
        let start = Instant::now();
        let mut seconds = 0;
        while start.elapsed() < if attack.staggered { LASTS * 2 } else { LASTS } {
            if attack.staggered && start.elapsed().as_secs() >= seconds {
                seconds += 1;
                ask(2 + (seconds % 8) as u8);
                assert!(exporter.get("/metrics").starts_with("HTTP/1.1 200"));
            }
            assert!(exporter.get("/-/healthy").starts_with("HTTP/1.1 200"));
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(exporter.logged("panicked"), [""; 0]);
        drop((jvms, deaf));
        exporter.peak_memory()
    };
    tokio::task::spawn_blocking(measure).await.unwrap()
}

async fn stays_below_the_ceiling(what: &str, attack: Attack) {
    let peak = peak(attack).await;
    println!("{what}: {} MiB", peak / MIB);
    assert!(peak < CEILING, "{what}: {} MiB", peak / MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_that_stop_within_what_they_announced() {
    let attack = Attack {
        stopping: 16,
        ..Attack::default()
    };
    stays_below_the_ceiling("16 listeners that stop", attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_with_many_long_names() {
    let attack = Attack {
        long_names: 4,
        too_long_names: 4,
        ..Attack::default()
    };
    stays_below_the_ceiling("8 listeners with long names", attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_of_120_000_threads_and_clients_that_do_not_read() {
    let attack = Attack {
        jvms: 2,
        clients: 30,
        ..Attack::default()
    };
    stays_below_the_ceiling("a dump of 29 MB, one of 4 MB, 120 deaf clients", attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlocks_with_long_stacks_and_new_clients_that_do_not_read() {
    let attack = Attack {
        long_stacks: 30,
        staggered: true,
        ..Attack::default()
    };
    stays_below_the_ceiling(
        "30 deadlocks with long stacks, 4 deaf clients a second",
        attack,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_attacks_at_once() {
    let attack = Attack {
        stopping: 16,
        long_names: 4,
        too_long_names: 4,
        jvms: 4,
        clients: 30,
        long_stacks: 26,
        staggered: true,
    };
    stays_below_the_ceiling("all at once", attack).await;
}
