//! A `/proc` of plain files with one broker, which a test can spoil.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_vitals::discover::Discovery;
use kafka_vitals::model::{Broker, Mode};
use kafka_vitals::sys::proc::ProcRoot;

use crate::EXE;

pub struct Host {
    pub folder: tempfile::TempDir,
}

pub const PROPERTIES: &str = "tree/opt/kafka/config/server.properties";
/// What a scan reports of the broker while nothing is spoilt.
pub const RIGHT: &str = "id 7, ZooKeeper, listeners PLAINTEXT@*:9092, folders /data";

impl Host {
    /// Makes a host where process 77 is a broker with id 7; its files are older than its start.
    pub fn new() -> Host {
        let host = Host::without_brokers();
        host.broker(77);
        host
    }

    pub fn without_brokers() -> Host {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("stat"), "btime 1000000\n").unwrap();
        fs::write(folder.path().join("uptime"), "100000.00 1.0\n").unwrap();
        Host { folder }
    }

    /// An exporter of this host with the usual settings.
    pub fn exporter(&self) -> Command {
        let mut command = Command::new(EXE);
        command.arg("--path.procfs").arg(self.folder.path());
        command
    }

    /// An exporter of this host with these settings, which attaches to no process.
    pub fn exporter_with(&self, config: &str) -> Command {
        let mut command = self.exporter_that_attaches(config);
        command.arg("--no-collector.threads");
        command
    }

    /// An exporter of this host with these settings.
    pub fn exporter_that_attaches(&self, config: &str) -> Command {
        let file = self.folder.path().join("config.yml");
        fs::write(&file, config).unwrap();
        let mut command = self.exporter();
        command.arg("--config.file").arg(file);
        command
    }

    /// Adds a broker with the same files.
    pub fn broker(&self, pid: u32) {
        let base = self.folder.path().join(pid.to_string());
        for folder in [
            "fd",
            "cwd",
            "net",
            "task/78",
            "tree/opt/kafka/config",
            "tree/opt/jdk",
            "tree/tmp",
        ] {
            fs::create_dir_all(base.join(folder)).unwrap();
        }
        fs::remove_dir(base.join("cwd")).unwrap();
        for (link, target) in [
            ("root", "tree"),
            ("cwd", "/opt/kafka"),
            ("exe", "/opt/jdk/bin/java"),
            ("fd/5", "/l/kafka_2.13-2.8.2.jar"),
        ] {
            symlink(target, base.join(link)).unwrap();
        }
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let status = format!(
            "Name:\tjava\nState:\tS (sleeping)\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{gid}\t{gid}\t{gid}\t{gid}\n\
             NSpid:\t{pid}\nVmRSS:\t1024 kB\nSigCgt:\t0000000101005ccd\n"
        );
        let files = [
            ("stat", format!("{pid} (java) S 1 {pid} {pid} 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 4 0 5000 99999 5\n")),
            ("status", status),
            ("cmdline", "java\0-Xmx1g\0kafka.Kafka\0config/server.properties\0".to_owned()),
            ("limits", "Max open files            1000                 2000                 files\n".to_owned()),
            ("maps", "7f79a8a00000-7f79a9c8e000 r-xp 00000000 fe:00 4711 /opt/jdk/lib/server/libjvm.so\n".to_owned()),
            ("task/78/comm", "VM Thread\n".to_owned()),
            ("tree/opt/jdk/release", "JAVA_VERSION=\"17.0.15\"\n".to_owned()),
            (PROPERTIES, "broker.id=7\nzookeeper.connect=z\nlog.dirs=/data\n".to_owned()),
        ];
        for (name, text) in files {
            fs::write(base.join(name), text).unwrap();
        }
        self.age(&base.join(PROPERTIES));
    }

    /// Adds a broker with this id, whose JVM has an attach listener. Returns the folder of the attach socket.
    pub fn jvm(&self, pid: u32, id: u32) -> PathBuf {
        self.broker(pid);
        let base = self.folder.path().join(pid.to_string());
        let text = format!("broker.id={id}\nzookeeper.connect=z\nlog.dirs=/data\n");
        fs::write(base.join(PROPERTIES), text).unwrap();
        self.age(&base.join(PROPERTIES));
        fs::create_dir(base.join("task/79")).unwrap();
        fs::write(base.join("task/79/comm"), "Attach Listener\n").unwrap();
        base.join("tree/tmp")
    }

    fn age(&self, path: &Path) {
        fs::File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH)
            .unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("77").join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
        self.age(&self.path(name));
    }

    pub fn replace(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{text}");
        self.write(name, text.replace(from, to));
    }

    pub fn properties(&self, bytes: impl AsRef<[u8]>) {
        self.write(PROPERTIES, bytes);
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    pub fn proc(&self) -> ProcRoot {
        ProcRoot::with_kernel(self.folder.path(), (5, 4))
    }

    pub fn discovery(&self) -> Discovery {
        Discovery::new(self.proc(), Vec::new())
    }

    /// Returns the result of one scan: brokers, below each its problems, then warnings after `?`, or the failure after `!`.
    pub fn scanned(&self) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let scanned = self.scanned_once();
            // Only a busy machine exceeds the time limits of reading, which are not tested here.
            if !scanned.contains("took longer than") || Instant::now() > deadline {
                return scanned;
            }
        }
    }

    fn scanned_once(&self) -> String {
        let mut discovery = self.discovery();
        let mut lines: Vec<String> = match discovery.scan() {
            Ok(brokers) => brokers.iter().flat_map(shown).collect(),
            Err(failure) => vec![format!("! {}: {failure}", failure.reason)],
        };
        lines.extend(
            discovery
                .warnings()
                .iter()
                .map(|warning| format!("? {warning}")),
        );
        lines
            .join("\n")
            .replace(self.folder.path().to_str().unwrap(), "PROC")
    }
}

fn shown(broker: &Arc<Broker>) -> Vec<String> {
    let id = broker.id.map_or("unknown".to_owned(), |id| id.to_string());
    let mode = match broker.mode {
        Some(Mode::ZooKeeper) => "ZooKeeper",
        Some(Mode::KRaft) => "KRaft",
        None => "mode unknown",
    };
    let or_unknown = |texts: Vec<String>| {
        if texts.is_empty() {
            "unknown".to_owned()
        } else {
            texts.join(" ")
        }
    };
    let listeners = broker.listeners.iter();
    let listeners = listeners
        .map(|l| format!("{}@{}:{}", l.name, l.host.as_deref().unwrap_or("*"), l.port))
        .collect();
    let folders = broker
        .log_dirs
        .iter()
        .map(|folder| folder.display().to_string())
        .collect();
    let first = format!(
        "id {id}, {mode}, listeners {}, folders {}",
        or_unknown(listeners),
        or_unknown(folders)
    );
    std::iter::once(first)
        .chain(broker.problems.iter().cloned())
        .collect()
}

pub use lab::skip;
