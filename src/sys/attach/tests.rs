#![allow(clippy::unwrap_used)]
//! Tests with a `/proc` made of plain files. What is refused here is refused before anything is sent, and a signal cannot
//! arrive, because a plain folder is not a pidfd.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use super::ask::Limits;
use super::error::AttachError;
use super::jvm::{AttachListener, attach_listener, disables_attach};
use super::thread_dump::thread_dump;
use crate::model::Reason;
use crate::sys::process::PinnedProcess;

const STATUS_OF_A_JVM: &str = "Name:\tjava\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t12856\nNgid:\t0\nPid:\t12856\n\
    Uid:\t1000\t1001\t1000\t1000\nGid:\t2000\t2001\t2000\t2000\nNSpid:\t12856\t7\nNSpgid:\t12841\t1\n\
    SigIgn:\t0000000000000000\nSigCgt:\t0000000101005ccd\n";
const MAPS_OF_A_JVM: &str =
    "7f79a8a00000-7f79a9c8e000 r-xp 00000000 fe:00 4711 /opt/jdk/lib/server/libjvm.so\n";

struct FakeProc {
    folder: tempfile::TempDir,
}

const PID: u32 = 77;

impl FakeProc {
    /// Makes a JVM of this process's user that has no attach socket yet.
    fn new() -> FakeProc {
        let fake = FakeProc {
            folder: tempfile::tempdir().unwrap(),
        };
        for folder in ["root/tmp", "cwd", "task/78", "task/79"] {
            fs::create_dir_all(fake.path(folder)).unwrap();
        }
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let status = STATUS_OF_A_JVM
            .replace("Uid:\t1000\t1001", &format!("Uid:\t{uid}\t{uid}"))
            .replace("Gid:\t2000\t2001", &format!("Gid:\t{gid}\t{gid}"));
        fake.write("status", &status);
        // Any process may choose a name with a blank and a parenthesis.
        fake.write(
            "stat",
            &format!("{PID} (a) b) S 1 {} 5150 21 22\n", "0 ".repeat(17).trim()),
        );
        fake.write("maps", MAPS_OF_A_JVM);
        fake.write("cmdline", "java\0-Xmx1g\0kafka.Kafka\0server.properties\0");
        fake.write("task/78/comm", "VM Thread\n");
        fake.write("task/79/comm", "kafka-request-h\n");
        fake
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(PID.to_string()).join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn replace(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from));
        self.write(name, &text.replace(from, to));
    }

    fn open(&self) -> Result<PinnedProcess, AttachError> {
        PinnedProcess::open(self.folder.path(), PID, Some(5150))
    }

    fn dump(&self, may_signal: bool) -> (AttachError, bool) {
        let mut signalled = false;
        let limits = Limits {
            deadline: Duration::from_secs(2),
            max_bytes: 1 << 20,
            may_signal,
        };
        let error = self
            .open()
            .and_then(|target| thread_dump(&target, false, limits, &mut signalled))
            .unwrap_err();
        (error, signalled)
    }

    fn reason(&self) -> Reason {
        self.dump(true).0.reason()
    }
}

#[test]
fn a_process_that_started_at_another_time_is_gone() {
    let fake = FakeProc::new();
    fake.open().unwrap();
    assert_eq!(
        PinnedProcess::open(fake.folder.path(), PID, Some(5151))
            .unwrap_err()
            .reason(),
        Reason::Gone
    );
    assert_eq!(
        PinnedProcess::open(fake.folder.path(), 78, None)
            .unwrap_err()
            .reason(),
        Reason::Gone
    );
}

#[test]
fn nothing_is_sent_where_a_signal_would_harm() {
    let deadly = "the JVM has no attach socket and does not catch SIGQUIT, which would kill it; nothing was sent to it. \
                  If it is not just starting, start it without -Xrs / -XX:+ReduceSignalUsage";
    let not_jvm =
        "the process is not a HotSpot JVM, because it maps no libjvm.so; nothing was sent to it";
    let openj9 =
        "the JVM is OpenJ9, which does not speak HotSpot's attach protocol; nothing was sent to it";
    let disabled = "the JVM was started with -XX:+DisableAttachMechanism: start it without, or take dumps by hand with \
                    `kill -QUIT`";
    let stopped = "the process is stopped (state T) and cannot answer until it gets SIGCONT; nothing was sent to it";
    let ended = "the process ended, or its pid now belongs to another process";
    let cases = [
        ("stat", ") S 1 ", ") T 1 ", "stopped", stopped),
        ("stat", ") S 1 ", ") Z 1 ", "gone", ended),
        ("status", "5ccd", "5cc9", "no_signal_handler", deadly),
        ("status", "SigCgt", "Other", "no_signal_handler", deadly),
        ("maps", "libjvm.so", "libc.so.6", "not_hotspot", not_jvm),
        (
            "maps",
            "/opt/jdk",
            "/opt/j9/libj9vm29.so\n/opt/j9",
            "not_hotspot",
            openj9,
        ),
        (
            "cmdline",
            "-Xmx1g",
            "-XX:+DisableAttachMechanism",
            "disabled",
            disabled,
        ),
    ];
    for (file, from, to, reason, message) in cases {
        let fake = FakeProc::new();
        fake.replace(file, from, to);
        let (error, signalled) = fake.dump(true);
        assert_eq!(
            (error.reason().name(), error.to_string().as_str(), signalled),
            (reason, message, false),
            "{to}"
        );
        assert!(!fake.path("cwd/.attach_pid7").exists());
    }
}

#[test]
fn the_last_option_on_attaching_counts() {
    let disables = |line: &str| disables_attach(line.as_bytes().split(u8::is_ascii_whitespace));
    assert!(disables("java -XX:+DisableAttachMechanism -version"));
    assert!(!disables(
        "java -XX:+DisableAttachMechanism -XX:-DisableAttachMechanism"
    ));
    assert!(!disables("java -Dx=-XX:+DisableAttachMechanism"));
}

#[test]
fn a_process_that_cannot_be_signalled_leaves_no_trigger_file_behind() {
    let fake = FakeProc::new();
    let (error, signalled) = fake.dump(true);
    assert_eq!(
        (error.reason(), signalled),
        (Reason::Protocol, false),
        "{error}"
    );
    assert!(error.to_string().contains("SIGQUIT"), "{error}");
    assert_eq!(fs::read_dir(fake.path("cwd")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(fake.path("root/tmp")).unwrap().count(), 0);
}

#[test]
fn a_trigger_file_is_never_made_through_a_link() {
    let fake = FakeProc::new();
    let prey = fake.folder.path().join("prey");
    symlink(&prey, fake.path("cwd/.attach_pid7")).unwrap();
    symlink(&prey, fake.path("root/tmp/.attach_pid7")).unwrap();
    assert_eq!(fake.reason(), Reason::Denied);
    assert!(!prey.exists());
    assert!(
        fs::symlink_metadata(fake.path("cwd/.attach_pid7")).is_ok(),
        "a file of another process is not removed"
    );
}

#[test]
fn a_signal_held_back_is_an_error_of_its_own() {
    let (error, signalled) = FakeProc::new().dump(false);
    assert!(matches!(error, AttachError::SignalHeldBack), "{error}");
    assert!(!signalled);
}

#[test]
fn a_listener_is_dead_when_its_thread_is_missing_among_named_ones() {
    let fake = FakeProc::new();
    let _socket = UnixListener::bind(fake.path("root/tmp/.java_pid7")).unwrap();
    assert!(matches!(fake.dump(false).0, AttachError::ListenerDead));
    // Without names of threads the socket is tried. It is served by the wrong process, which is this test.
    fake.write("task/78/comm", "java\n");
    let (error, _) = fake.dump(false);
    assert!(
        error
            .to_string()
            .contains(&format!("served by pid {}", std::process::id())),
        "{error}"
    );
    fake.write("task/78/comm", "VM Thread\n");
    fake.write("task/79/comm", "Attach Listener\n");
    assert_eq!(fake.reason(), Reason::Refused);
    // Only the name decides, whichever thread served the last dump.
    let target = fake.open().unwrap();
    for served_last in [Some(78), Some(77), Some(79), None] {
        target.listener_id.set(served_last);
        assert_eq!(
            (attach_listener(&target), target.listener_id.get()),
            (AttachListener::Alive, Some(79)),
            "{served_last:?}"
        );
    }
    fake.write("task/79/comm", "C2 CompilerThre\n");
    assert_eq!(
        (attach_listener(&target), target.listener_id.get()),
        (AttachListener::Dead, None)
    );
}

#[test]
fn only_a_socket_of_the_jvms_user_is_used() {
    let fake = FakeProc::new();
    let path = fake.path("root/tmp/.java_pid7");
    fs::write(&path, "no socket").unwrap();
    let (error, _) = fake.dump(true);
    assert_eq!(error.reason(), Reason::Refused);
    assert!(
        error
            .to_string()
            .ends_with("): another user made it, so remove it"),
        "{error}"
    );
    fs::remove_file(&path).unwrap();
    let elsewhere = fake.folder.path().join("socket");
    let _socket = UnixListener::bind(&elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert_eq!(fake.reason(), Reason::Refused);
    fs::remove_file(&path).unwrap();
    // An earlier process with the same pid left it behind.
    drop(UnixListener::bind(&path).unwrap());
    fake.write("task/79/comm", "Attach Listener\n");
    let (error, _) = fake.dump(true);
    assert!(error.to_string().contains("no process listens"), "{error}");
}

#[test]
fn a_link_in_place_of_tmp_leads_nowhere_outside_the_root() {
    let fake = FakeProc::new();
    fs::remove_dir(fake.path("root/tmp")).unwrap();
    let outside = fake.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let _socket = UnixListener::bind(outside.join(".java_pid7")).unwrap();
    symlink(&outside, fake.path("root/tmp")).unwrap();
    fake.write("task/79/comm", "Attach Listener\n");
    assert_eq!(
        fake.reason(),
        Reason::Protocol,
        "the folder does not exist below the root"
    );
}

/// Replies without a code: `tests/bad_inputs/dumps.rs`.
#[test]
fn codes_and_versions_of_replies_are_read() {
    use super::protocol::{offers_unstreamed, split_code};
    assert_eq!(split_code(b"0\n2 streaming"), Some((0, 2)));
    assert_eq!(
        split_code(b"-1\nOperation getversion not recognized!"),
        Some((-1, 3))
    );
    assert!(
        [&b"2 streaming"[..], b"3 other,streaming\n"]
            .into_iter()
            .all(offers_unstreamed)
    );
    assert!(
        ![&b"2"[..], b"1 streaming", b""]
            .into_iter()
            .any(offers_unstreamed)
    );
}
