//! Files that a process of an unprivileged user names to an exporter that runs as root.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kafka_vitals::collect::log_dirs;
use kafka_vitals::discover::Discovery;
use kafka_vitals::model::Broker;
use kafka_vitals::sys::proc::ProcRoot;
use rustix::fs::{CWD, Mode, OFlags};

use crate::EXE;
use crate::host::skip;
use crate::running::wait_for;

const NOBODY: u32 = 65534;
/// Stands in files that only root may read, and in the exporter's environment.
const SECRET: &str = "s3cret-of-root";

/// A process that looks like a broker, and a `/proc` that shows it alone.
struct Fake {
    /// `own` is its working folder; `closed` only root may enter; `proc` is the `/proc`.
    folder: tempfile::TempDir,
    process: Child,
}

impl Fake {
    /// Starts it as `nobody`. `prepare` may open fds for it.
    fn start<R>(properties: &str, prepare: impl FnOnce(&Path) -> R) -> Fake {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, mode) in [
            ("", 0o755),
            ("own", 0o755),
            ("closed", 0o700),
            ("proc", 0o755),
        ] {
            let _ = fs::create_dir(path(name));
            fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let secret = path("own/secret");
        fs::write(
            &secret,
            format!("broker.id=4\nnode.id={SECRET}\n{SECRET}=1\n"),
        )
        .unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        fs::copy(&secret, path("closed/there")).unwrap();
        fs::write(path("own/kafka.Kafka"), "read -r line\n").unwrap();
        fs::write(path("own/server.properties"), properties).unwrap();
        let held = prepare(folder.path());
        let mut process = Command::new("setpriv");
        let ids = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
        process.args(ids).args(["--clear-groups", "bash", "-c"]);
        process
            .arg("exec -a java sh kafka.Kafka server.properties")
            .current_dir(path("own"))
            .stdin(Stdio::piped());
        let process = process.spawn().unwrap();
        drop(held);
        let pid = process.id();
        for name in ["stat", "uptime", "sys", "self", "net", &pid.to_string()] {
            symlink(Path::new("/proc").join(name), path("proc").join(name)).unwrap();
        }
        wait_for("the fake's own command line", || {
            fs::read(format!("/proc/{pid}/cmdline")).unwrap()
                == b"java\0kafka.Kafka\0server.properties\0"
        });
        Fake { folder, process }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn proc(&self) -> ProcRoot {
        ProcRoot::new(self.path("proc"))
    }

    fn found(&self) -> Broker {
        let mut found = Discovery::new(self.proc(), Vec::new()).scan().unwrap();
        assert_eq!(found.len(), 1);
        (*found.remove(0)).clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn no_file_of_root_is_read_for_another_user() {
    if !rustix::process::geteuid().is_root() {
        return skip("no_file_of_root_is_read_for_another_user", "needs root");
    }
    let table = [
        ("own/secret", "may not be read by uid 65534"),
        ("closed/there", "may not be read by uid 65534"),
        ("closed/not-there", "may not be read by uid 65534"),
        (
            "/proc/self/environ",
            "is on procfs, where no files are stored: it is not read",
        ),
        (
            "/proc/kmsg",
            "is on procfs, where no files are stored: it is not read",
        ),
    ];
    for (target, why) in table {
        let fake = Fake::start("", |folder| {
            let properties = folder.join("own/server.properties");
            fs::remove_file(&properties).unwrap();
            symlink(folder.join(target), properties).unwrap();
            // An O_PATH handle needs no right to the file, and leads to it under any name.
            let log = folder.join("closed/server.log");
            fs::copy(folder.join("own/secret"), &log).unwrap();
            rustix::fs::openat(CWD, log, OFlags::PATH, Mode::empty()).unwrap()
        });
        let problems = fake.found().problems.join("\n");
        assert!(problems.contains(why), "{target}: {problems}");
        if target != "own/secret" {
            // The parts of a bundle are read in the same way, which takes ten seconds each time.
            continue;
        }
        let (pid, bundles) = (fake.process.id(), fake.path("bundles"));
        let output = Command::new(EXE)
            .args(["bundle", &format!("--broker=pid-{pid}"), "--output"])
            .arg(&bundles)
            .arg("--path.procfs")
            .arg(fake.path("proc"))
            .env("broker.id", SECRET)
            .output()
            .unwrap();
        let bundle = String::from_utf8(output.stdout.clone()).unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let bundle = Path::new(bundle.trim());
        let read = |name: &str| fs::read_to_string(bundle.join(name)).unwrap();
        for file in fs::read_dir(bundle).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            assert!(!read(&name).contains(SECRET), "{target}: {name}");
        }
        let manifest: serde_json::Value = serde_json::from_str(&read("manifest.json")).unwrap();
        let missing = |name: &str| {
            let missing = manifest["missing"].as_array().unwrap();
            let entry = missing.iter().find(|entry| entry["name"] == name).unwrap();
            entry["why"].as_str().unwrap().to_owned()
        };
        assert!(missing("server.properties").contains(why), "{manifest:#}");
        let log = missing("server.log");
        assert!(log.ends_with("may not be read by uid 65534"), "{log}");
    }
}

/// The answers for a folder that exists and for one that does not are the same.
#[test]
fn log_dirs_do_not_show_what_lies_where_their_process_may_not_enter() {
    if !rustix::process::geteuid().is_root() {
        return skip(
            "log_dirs_do_not_show_what_lies_where_their_process_may_not_enter",
            "needs root",
        );
    }
    let answer = |dir: &str| {
        let fake = Fake::start("broker.id=4\n", |folder| {
            fs::create_dir(folder.join("closed/folder")).unwrap();
            let mut properties = fs::File::options()
                .append(true)
                .open(folder.join("own/server.properties"))
                .unwrap();
            writeln!(properties, "log.dirs={}", folder.join(dir).display()).unwrap();
        });
        let broker = fake.found();
        let spaces = log_dirs::read(&fake.proc(), &broker).unwrap();
        let shown = format!("{spaces:?} {:?}", broker.problems);
        let own = fake.folder.path().to_str().unwrap();
        shown
            .replace(own, "FOLDER")
            .replace(dir, "DIR")
            .replace(&fake.process.id().to_string(), "PID")
    };
    let there = answer("closed/folder");
    assert!(there.contains("may not be read by uid 65534"), "{there}");
    assert_eq!(answer("closed/nothing"), there);
    assert_eq!(answer("closed/there"), there);
    let own = answer("own");
    assert!(own.contains("LogDirSpace"), "{own}");
}
