//! Real JVMs for the tests of attach.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use kafka_vitals::collect::jvm_dumper::JvmDumper;

use super::{DEADLINE, EXE, collector};

pub struct Jdk {
    pub home: PathBuf,
    pub major: u32,
}

impl Jdk {
    fn of(java: PathBuf) -> Option<Jdk> {
        let home = java.canonicalize().ok()?.parent()?.parent()?.to_path_buf();
        let release = fs::read_to_string(home.join("release")).ok()?;
        let version = release
            .lines()
            .find_map(|line| line.strip_prefix("JAVA_VERSION=\""))?;
        let major = version.split(['.', '"', '-']).next()?.parse().ok()?;
        home.join("bin/javac")
            .is_file()
            .then_some(Jdk { home, major })
    }

    pub fn tool(&self, name: &str) -> PathBuf {
        self.home.join("bin").join(name)
    }

    /// Returns what `jcmd` reads from the performance data, without attaching.
    pub fn safepoint_time(&self, pid: u32) -> Duration {
        let text = self.counters(pid);
        let nanos = text
            .lines()
            .find_map(|line| line.strip_prefix("sun.rt.safepointTime="))
            .unwrap();
        Duration::from_nanos(nanos.parse().unwrap())
    }

    /// Returns how often each garbage collector has run.
    pub fn collections(&self, pid: u32) -> Vec<String> {
        let text = self.counters(pid);
        let is_one =
            |line: &&str| line.starts_with("sun.gc.collector.") && line.contains(".invocations=");
        let found: Vec<String> = text.lines().filter(is_one).map(str::to_owned).collect();
        assert!(!found.is_empty(), "{text}");
        found
    }

    fn counters(&self, pid: u32) -> String {
        let output = Command::new(self.tool("jcmd"))
            .args([&pid.to_string(), "PerfCounter.print"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

/// The JDK in use first, then one of 24 or later if there is one: those use another version of attach.
pub static JDKS: LazyLock<Vec<Jdk>> = LazyLock::new(|| {
    let javas = [lab::jars::java().ok(), lab::jars::java_of(24..)];
    let mut jdks: Vec<Jdk> = javas.into_iter().flatten().filter_map(Jdk::of).collect();
    assert!(
        !jdks.is_empty(),
        "these tests need a JDK (java, javac, jstack): set JAVA_HOME or PATH"
    );
    jdks.dedup_by_key(|jdk| jdk.major);
    jdks
});

pub use lab::skip;

pub fn newest_jdk(name: &str) -> Option<&'static Jdk> {
    let jdk = JDKS.iter().find(|jdk| jdk.major >= 24);
    if jdk.is_none() {
        skip(
            name,
            "no JDK 24 or later in JAVA_HOME* or beside the java of PATH",
        );
    }
    jdk
}

pub fn is_root(name: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip(name, "needs root");
    }
    root
}

/// Runs a JVM as in a container.
const UNSHARE: [&str; 7] = [
    "unshare",
    "--pid",
    "--fork",
    "--kill-child=KILL",
    "--mount",
    "--mount-proc",
    "--net",
];

pub fn can_unshare(name: &str) -> bool {
    let can = Command::new(UNSHARE[0])
        .args(&UNSHARE[1..])
        .arg("true")
        .output()
        .unwrap()
        .status
        .success();
    if !can {
        skip(name, "may not make namespaces");
    }
    can
}

/// The program's classes, compiled once.
pub static CLASSES: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("attach-classes");
    let source = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/attach/Threads.java"
    );
    let javac = Command::new(JDKS[0].tool("javac"))
        .args(["--release", "11", "-nowarn", "-d"])
        .args([folder.as_os_str(), source.as_ref()])
        .output()
        .unwrap();
    assert!(
        javac.status.success(),
        "{}",
        String::from_utf8_lossy(&javac.stderr)
    );
    folder
});

/// A JVM that ends with the test, also if the test is killed.
pub struct Jvm {
    pub starter: Child,
    pub pid: u32,
    pub folder: tempfile::TempDir,
}

/// How a JVM is started, apart from its own options.
#[derive(Default)]
pub struct How<'a> {
    pub options: &'a [&'a str],
    pub uid: Option<u32>,
    pub own_namespaces: bool,
    pub threads: u32,
}

impl Jvm {
    pub fn start(jdk: &Jdk, how: How<'_>) -> Jvm {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        for entry in fs::read_dir(&*CLASSES).unwrap().map(|entry| entry.unwrap()) {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        // The parent-death signal without unsafe code in a test.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(uid) = how.uid.map(|uid| uid.to_string()) {
            command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups"]);
        }
        let class_path = if how.own_namespaces {
            command.args(UNSHARE);
            let script = "mount -t tmpfs none /mnt && cp *.class /mnt && mount -t tmpfs none /tmp && exec \"$@\"";
            command.args(["sh", "-c", script, "sh"]);
            Path::new("/mnt")
        } else {
            folder.path()
        };
        // A fixed set of threads, so that two dumps can be compared.
        command.arg(jdk.tool("java")).args([
            "-Xmx64m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
        ]);
        command
            .arg("-XX:-UseDynamicNumberOfCompilerThreads")
            .args(how.options)
            .arg("-cp")
            .arg(class_path);
        command
            .args(["Threads", &how.threads.max(3).to_string(), "20"])
            .current_dir(folder.path());
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let starter = command
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut jvm = Jvm {
            pid: starter.id(),
            starter,
            folder,
        };
        wait_until("the JVM is ready", || {
            assert!(
                jvm.starter.try_wait().unwrap().is_none(),
                "the JVM ended: {}",
                jvm.output()
            );
            jvm.output().contains("READY")
        });
        if how.own_namespaces {
            let children =
                fs::read_to_string(format!("/proc/{0}/task/{0}/children", jvm.pid)).unwrap();
            jvm.pid = children.trim().parse().unwrap();
            // This file is not its own, which is in its own /tmp: an earlier JVM with this pid may have been killed.
            let _ = fs::remove_file(jvm.socket());
        }
        jvm
    }

    pub fn output(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(self.pid as i32).unwrap(),
            signal,
        )
        .unwrap();
    }

    pub fn collector(&self) -> JvmDumper {
        collector(EXE, self.pid, DEADLINE)
    }

    pub fn socket(&self) -> PathBuf {
        format!("/tmp/.java_pid{}", self.pid).into()
    }

    pub fn trigger_files(&self) -> usize {
        let of_trigger = |folder: &Path| {
            fs::read_dir(folder)
                .unwrap()
                .filter(|entry| {
                    entry.as_ref().unwrap().file_name().to_string_lossy()
                        == format!(".attach_pid{}", self.pid)
                })
                .count()
        };
        of_trigger(self.folder.path()) + of_trigger(Path::new("/tmp"))
    }
}

impl Drop for Jvm {
    fn drop(&mut self) {
        let _ = self.starter.kill();
        let _ = self.starter.wait();
        let _ = fs::remove_file(self.socket());
    }
}

pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "not within 60 s: {what}"
        );
        sleep(Duration::from_millis(10));
    }
}

pub fn start_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')')
        .unwrap()
        .1
        .split_ascii_whitespace()
        .nth(19)
        .unwrap()
        .parse()
        .unwrap()
}
