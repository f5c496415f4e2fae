//! Shells that discovery takes for brokers, some of which live only for milliseconds.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use kafka_vitals::sys::users;
use lab::{Cell, Process};

use super::Metrics;

/// Their broker ids count up from here; no other broker of this machine has such an id.
const FIRST_ID: u64 = 900_000;

pub fn is_fake(id: Option<i32>) -> bool {
    id.is_some_and(|id| id as u64 >= FIRST_ID)
}

/// The script of a shell named `java`: it opens some fds and waits until its input is closed.
const SCRIPT: &str = "exec 3</dev/null 4</dev/null 5</dev/null 6</dev/null\nread line\n";
const PROPERTIES: &str = "listeners=PLAINTEXT://127.0.0.1:1\nzookeeper.connect=127.0.0.1:1\n";

/// Starts a fake broker. It is no JVM and cannot be attached to, so a bundle of it takes no time.
pub fn fake_broker(cell: &Cell, folder: &Path, id: impl std::fmt::Display) -> Process {
    cell.spawn(fake(folder, id)).unwrap()
}

/// As [`fake_broker`], of the user `nobody`, with this listener if one is given. None where the cell has no other user.
pub fn stranger(cell: &Cell, folder: &Path, id: i32, listener: Option<&str>) -> Option<Process> {
    if users::unmapped().is_some() || !rustix::process::geteuid().is_root() {
        return None;
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    // Another user may not enter each folder above, so root does.
    let mut fake = fake(folder, id);
    if let Some(address) = listener {
        fake.args(["--override", &format!("listeners=PLAINTEXT://{address}")]);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=nobody", "--regid=65534", "--clear-groups"])
        .args(["bash", "-c", "exec -a java sh \"$@\"", "bash"])
        .args(fake.get_args())
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    Some(cell.spawn(command).unwrap())
}

fn fake(folder: &Path, id: impl std::fmt::Display) -> Command {
    for (name, text) in [("kafka.Kafka", SCRIPT), ("server.properties", PROPERTIES)] {
        // It is not rewritten while another fake reads it.
        if !folder.join(name).exists() {
            fs::write(folder.join(name), text).unwrap();
        }
    }
    let mut fake = Command::new("sh");
    fake.arg0("java").args([
        "kafka.Kafka",
        "server.properties",
        "--override",
        &format!("broker.id={id}"),
    ]);
    fake.current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    fake
}

/// Starts and kills fake brokers until it is dropped.
pub struct Fakes {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fakes {
    pub fn start(cell: &Cell) -> Fakes {
        let over = Arc::new(AtomicBool::new(false));
        let (cell, stop) = (cell.clone(), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let mut alive = VecDeque::new();
            for id in FIRST_ID.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                alive.push_back(fake_broker(&cell, folder.path(), id));
                // They live for different times, so that they end at every point of a reading.
                std::thread::sleep(Duration::from_micros(id * 7919 % 20_000));
                if alive.len() > 3 {
                    drop(alive.pop_front());
                }
            }
        });
        Fakes {
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Fakes {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
            && !std::thread::panicking()
        {
            panic!("the fake brokers could not be started");
        }
    }
}

/// Readings of a process that has ended must be absent, never zero.
pub fn never_zero(scrape: &str) {
    let metrics = Metrics::parse(scrape);
    let never_none = [
        "open_file_handles{",
        "resident_memory_bytes{",
        "memory_maps{",
        "file_handle_limit{",
    ];
    for (series, value) in &metrics.0 {
        assert!(
            !never_none.iter().any(|name| series.starts_with(name)) || *value > 0.0,
            "{series} {value}"
        );
    }
}
