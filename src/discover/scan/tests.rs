#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::collect::{fds, memory_maps, process};
use crate::discover::matches;
use crate::model::FdKinds;
use crate::model::{Mode, Role};

/// Copies the recorded host to a folder, because a repository keeps no old times of files.
fn recorded() -> (tempfile::TempDir, ProcRoot) {
    let folder = tempfile::tempdir().unwrap();
    let copied = Command::new("cp")
        .args(["-a", "tests/fixtures/proc/host/."])
        .arg(folder.path())
        .status()
        .unwrap();
    assert!(copied.success());
    let mut touch = Command::new("find");
    touch
        .arg(folder.path())
        .args(["-type", "f", "-exec", "touch", "-d", "@0", "{}", "+"]);
    assert!(touch.status().unwrap().success());
    let proc = ProcRoot::with_kernel(folder.path(), (5, 4));
    (folder, proc)
}

fn scan(discovery: &mut Discovery) -> Vec<Arc<Broker>> {
    discovery.scan().unwrap()
}

fn labels(discovery: &Discovery, brokers: &[Arc<Broker>]) -> Vec<String> {
    let labels = discovery.labels(brokers).into_iter();
    labels.map(|label| label.text).collect()
}

/// The recorded host has a 0.10.1.0 broker without an id in its properties and a combined 3.9.1 node, each in its own pid
/// and mount namespaces with relative paths; and a ZooKeeper, a kernel thread, the command that made the namespaces.
#[test]
fn finds_the_brokers_of_a_recorded_host() {
    let (_folder, proc) = recorded();
    let mut discovery = Discovery::new(proc.clone(), Vec::new());
    let brokers = scan(&mut discovery);
    assert_eq!(labels(&discovery, &brokers), ["1001", "7"]);
    assert_eq!(discovery.warnings(), [""; 0]);

    let old = &brokers[0];
    assert_eq!(
        (old.process.pid, old.id, old.uid, old.gid),
        (6131, Some(1001), Some(1001), Some(1001))
    );
    assert_eq!(
        (old.kafka_version.as_deref(), old.java_version.as_deref()),
        (Some("0.10.1.0"), Some("17.0.15"))
    );
    assert_eq!(
        (old.mode, &old.roles),
        (Some(Mode::ZooKeeper), &BTreeSet::from([Role::Broker]))
    );
    assert_eq!(old.listeners[0].port, 39192);
    assert_eq!(
        old.log_dirs,
        [Path::new("/opt/kafka/../data/a"), Path::new("/opt/data/b")]
    );
    assert_eq!(old.zookeeper, ["127.0.0.1:32181"]);
    assert_eq!(old.problems, [""; 0]);

    let new = &brokers[1];
    assert_eq!(
        (new.process.pid, new.id, new.kafka_version.as_deref()),
        (10586, Some(7), Some("3.9.1"))
    );
    assert_eq!((new.mode, new.roles.len()), (Some(Mode::KRaft), 2));
    let listeners: Vec<_> = new
        .listeners
        .iter()
        .map(|l| (l.name.as_str(), l.port, l.controller))
        .collect();
    assert_eq!(
        listeners,
        [("CLIENTS", 39692, false), ("CONTROLLER", 39694, true)]
    );
    assert_eq!(new.problems, [""; 0]);

    // Counted with `ls | wc -l`, `readlink | grep -c` and `wc -l` when they were recorded.
    let pulse = process::read(&proc, old);
    assert_eq!(pulse.open_fds, Ok(43));
    let vitals = pulse.vitals.unwrap();
    assert_eq!(
        (vitals.state, vitals.fd_limit_soft, vitals.fd_limit_hard),
        ('S', Some(20000), Some(20000))
    );
    let budget = Duration::from_secs(5);
    let fds::Walked {
        kinds: old_kinds,
        inodes,
        ..
    } = fds::read(&proc, old, budget).unwrap();
    let kinds = FdKinds {
        socket: 4,
        pipe: 1,
        anon: 12,
        jar: 17,
        other: 9,
        ..FdKinds::default()
    };
    assert_eq!(
        (
            old_kinds,
            inodes.len(),
            memory_maps::read(&proc, old, budget)
        ),
        (kinds, 4, Ok(301))
    );
    assert_eq!(fds::read(&proc, new, budget).unwrap().kinds.log_segment, 1);
    assert_eq!(memory_maps::limit(&proc), Ok(65530));
}

#[test]
fn unchanged_brokers_keep_their_arc_and_ended_ones_go() {
    let (folder, proc) = recorded();
    let mut discovery = Discovery::new(proc, Vec::new());
    let first = scan(&mut discovery);
    let second = scan(&mut discovery);
    assert!(
        first
            .iter()
            .zip(&second)
            .all(|(one, other)| Arc::ptr_eq(one, other))
    );

    // Restarted under the same process id, then ended.
    let stat = folder.path().join("10586/stat");
    let line = fs::read_to_string(&stat).unwrap();
    let start = first[1].process.start_ticks;
    fs::write(
        &stat,
        line.replace(&format!(" {start} "), &format!(" {} ", start + 100)),
    )
    .unwrap();
    let third = scan(&mut discovery);
    assert_eq!(
        (third.len(), third[1].process.start_ticks),
        (2, start + 100)
    );
    fs::write(&stat, line.replace(") S ", ") Z ")).unwrap();
    assert_eq!(scan(&mut discovery).len(), 1);
}

/// As by a staged rolling restart, a changed ConfigMap, a stepped clock or an upgraded JDK.
#[test]
fn a_broker_stays_what_it_was_when_its_files_are_edited() {
    let (folder, proc) = recorded();
    let mut discovery = Discovery::new(proc, Vec::new());
    let before: Vec<Broker> = scan(&mut discovery)
        .iter()
        .map(|broker| Broker::clone(broker))
        .collect();
    let renewed = |discovery: &mut Discovery| {
        discovery
            .known
            .values_mut()
            .for_each(|known| known.checked_at -= RENEW_BROKER);
        let mut found: Vec<Broker> = scan(discovery)
            .iter()
            .map(|broker| Broker::clone(broker))
            .collect();
        let problems: Vec<String> = found
            .iter_mut()
            .flat_map(|broker| broker.problems.drain(..))
            .collect();
        (found, problems)
    };
    assert_eq!(renewed(&mut discovery), (before.clone(), Vec::new()));

    let file = folder
        .path()
        .join("10586/tree/opt/kafka/config/server.properties");
    let text = fs::read_to_string(&file).unwrap();
    let edited = "node.id=8\nprocess.roles=broker\nlisteners=SSL://:1\nlog.dirs=/other\nzookeeper.connect=z\n";
    fs::write(&file, edited).unwrap();
    let stat = fs::read_to_string(folder.path().join("stat")).unwrap();
    let btime = stat
        .lines()
        .find_map(|line| line.strip_prefix("btime "))
        .unwrap()
        .to_owned();
    fs::write(folder.path().join("stat"), stat.replace(&btime, "1000")).unwrap();
    let delete = |name: &str| {
        let mut find = Command::new("find");
        assert!(
            find.arg(folder.path())
                .args(["-name", name, "-delete"])
                .status()
                .unwrap()
                .success()
        );
    };
    delete("release");
    let path = "/opt/kafka/config/server.properties was changed after the broker started";
    let changed = format!("{path}: the values read earlier are kept until a restart");
    assert_eq!(
        renewed(&mut discovery),
        (before.clone(), vec![changed.clone()])
    );
    assert_eq!(renewed(&mut discovery), (before.clone(), vec![changed]));

    fs::remove_file(&file).unwrap();
    let (found, problems) = renewed(&mut discovery);
    assert_eq!((found, problems.len()), (before.clone(), 1));
    assert!(
        problems[0].starts_with("server.properties unknown, values read earlier are kept: "),
        "{problems:?}"
    );

    // A pid file appears, then the id can no longer be read, then nothing can.
    fs::write(&file, text).unwrap();
    delete("meta.properties");
    discovery.pid_files = vec![folder.path().join("kafka.pid")];
    fs::write(&discovery.pid_files[0], "6131\n").unwrap();
    assert_eq!(renewed(&mut discovery).0, before);
    delete("root");
    assert_eq!(renewed(&mut discovery).0, before);
}

#[test]
fn a_command_line_is_read_again_only_while_it_may_change() {
    let (folder, proc) = recorded();
    let mut discovery = Discovery::new(proc, Vec::new());
    assert_eq!(scan(&mut discovery).len(), 2);
    let (broker, other) = (
        folder.path().join("10586/cmdline"),
        folder.path().join("9314/cmdline"),
    );
    fs::copy(&broker, &other).unwrap();
    // Nothing indicates that another program runs there...
    assert_eq!(scan(&mut discovery).len(), 2);
    // ... but another name does, ...
    let stat = folder.path().join("9314/stat");
    let line = fs::read_to_string(&stat).unwrap();
    fs::write(&stat, line.replace("(java)", "(java17)")).unwrap();
    assert_eq!(scan(&mut discovery).len(), 3);
    fs::write(&other, "java\0-version\0").unwrap();
    fs::write(&stat, &line).unwrap();
    assert_eq!(scan(&mut discovery).len(), 2);
    // ... and a young process is read at each scan.
    let start = line.split(' ').nth(21).unwrap();
    fs::write(
        folder.path().join("uptime"),
        format!("{}.50 0.0\n", start.parse::<u64>().unwrap() / 100),
    )
    .unwrap();
    fs::copy(&broker, &other).unwrap();
    assert_eq!(scan(&mut discovery).len(), 3);
}

#[test]
fn a_child_of_a_broker_is_no_broker_while_it_shows_its_command_line() {
    let (folder, proc) = recorded();
    let mut discovery = Discovery::new(proc, Vec::new());
    assert_eq!(scan(&mut discovery).len(), 2);
    let child = folder.path().join("20001");
    assert!(
        Command::new("cp")
            .arg("-a")
            .args([folder.path().join("10586"), child.clone()])
            .status()
            .unwrap()
            .success()
    );
    let line = fs::read_to_string(child.join("stat")).unwrap();
    let mut words: Vec<&str> = line.split(' ').collect();
    words[3] = "10586";
    fs::write(child.join("stat"), words.join(" ")).unwrap();
    assert_eq!(scan(&mut discovery).len(), 2);
}

#[test]
fn a_process_named_by_a_pid_file_is_a_broker() {
    let (folder, proc) = recorded();
    let pid_file = folder.path().join("kafka.pid");
    let mut discovery = Discovery::new(proc, vec![pid_file.clone()]);
    assert_eq!(scan(&mut discovery).len(), 2);
    assert_eq!(
        discovery.warnings(),
        [format!(
            "pid file {}: does not exist; is the broker down?",
            pid_file.display()
        )]
    );
    fs::write(&pid_file, "9314\n").unwrap();
    let brokers = scan(&mut discovery);
    assert_eq!(labels(&discovery, &brokers), ["1001", "pid-9314@root", "7"]);
    assert!(matches(&brokers[1], None, None, Some(9314)));
    fs::write(&pid_file, "no number").unwrap();
    assert_eq!(scan(&mut discovery).len(), 2);
    assert_eq!(
        discovery.warnings(),
        [format!(
            "pid file {}: holds no process id",
            pid_file.display()
        )]
    );
}

#[test]
fn a_cut_command_line_is_a_warning_unless_thread_names_decide() {
    let (folder, _) = recorded();
    let proc = ProcRoot::with_kernel(folder.path(), (3, 10));
    fs::write(
        folder.path().join("6131/cmdline"),
        format!("java\0-cp\0{}", "/opt/kafka/libs/a.jar:".repeat(200))
            .get(..4096)
            .unwrap(),
    )
    .unwrap();
    let mut discovery = Discovery::new(proc.clone(), Vec::new());
    let brokers = scan(&mut discovery);
    assert_eq!(labels(&discovery, &brokers), ["7"]);
    let warning = "process 6131 (java) may be a broker: its command line is cut (at 4096 bytes by kernels before 4.2); \
                 name its pid file in the config file";
    assert_eq!(discovery.warnings(), [warning]);

    fs::create_dir_all(folder.path().join("6131/task/6140")).unwrap();
    fs::write(
        folder.path().join("6131/task/6140/comm"),
        "kafka-request-h\n",
    )
    .unwrap();
    let mut discovery = Discovery::new(proc, Vec::new());
    let brokers = scan(&mut discovery);
    // The id is found by the locks in the log folders.
    assert_eq!(labels(&discovery, &brokers), ["1001", "7"]);
    assert!(brokers[0].listeners.is_empty() && brokers[0].problems[0].contains("cut"));
}

/// A FIFO as command line blocks its reader, as a process that waits for a dead disk does.
#[test]
fn a_read_that_hangs_costs_one_scan_and_not_the_others() {
    let (folder, proc) = recorded();
    let sick = folder.path().join("9314/cmdline");
    fs::remove_file(&sick).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(&sick)
            .status()
            .unwrap()
            .success()
    );
    let mut discovery = Discovery::new(proc, Vec::new());
    let start = Instant::now();
    // It started before the others, which are found by the next scan.
    assert_eq!(scan(&mut discovery).len(), 0);
    assert!(start.elapsed() < READ_BUDGET * 2);
    assert_eq!(discovery.warnings().len(), 1);
    assert!(discovery.warnings()[0].starts_with(
        "process 9314 (java): reading its command line or files took longer than 2 s"
    ));
    let start = Instant::now();
    assert_eq!(scan(&mut discovery).len(), 2);
    assert!(start.elapsed() < READ_BUDGET);
    // It never holds more than one thread.
    let hanging = |discovery: &mut Discovery| {
        let known = discovery
            .known
            .iter_mut()
            .find(|(key, _)| key.pid == 9314)
            .unwrap()
            .1;
        known.checked_at -= RENEW_OTHER * 2;
        assert_eq!(scan(discovery).len(), 2);
        (discovery.stuck_readers.len(), discovery.warnings().len())
    };
    assert_eq!(
        [hanging(&mut discovery), hanging(&mut discovery)],
        [(1, 1), (1, 1)]
    );
    // Ends the reader, so that the test leaves no thread behind.
    fs::OpenOptions::new().write(true).open(&sick).unwrap();
}

#[test]
fn a_folder_without_procfs_is_an_error_with_a_remedy() {
    let failure = Discovery::new(ProcRoot::new("/nowhere"), Vec::new())
        .scan()
        .unwrap_err();
    assert!(
        failure.message.contains("/nowhere") && failure.message.contains("--path.procfs"),
        "{failure}"
    );
}

/// A reload with other settings must not forget who came first: the process of a stranger that looks like an older broker
/// took the label of the real one.
#[test]
fn other_settings_leave_the_labels_as_they_are() {
    let (folder, proc) = recorded();
    let mut discovery = Discovery::new(proc, Vec::new());
    let real = scan(&mut discovery);
    assert_eq!(labels(&discovery, &real), ["1001", "7"]);
    let fake = folder.path().join("6000");
    let copied = Command::new("cp")
        .arg("-a")
        .args([&folder.path().join("6131"), &fake])
        .status();
    assert!(copied.unwrap().success());
    let edit = |file: &str, from: &str, to: &str| {
        let text = fs::read_to_string(fake.join(file)).unwrap();
        assert!(text.contains(from), "{file}: {text}");
        fs::write(fake.join(file), text.replace(from, to)).unwrap();
    };
    edit(
        "status",
        "Uid:\t1001\t1001\t1001\t1001",
        "Uid:\t2001\t2001\t2001\t2001",
    );
    edit("stat", "6131 (", "6000 (");
    let wanted = ["1001@uid-2001", "1001", "7"];
    let brokers = scan(&mut discovery);
    assert_eq!(labels(&discovery, &brokers), wanted);
    discovery.set(&[], 32, vec!["/nowhere".into()]);
    let brokers = scan(&mut discovery);
    assert_eq!(labels(&discovery, &brokers), wanted);
    assert!(Arc::ptr_eq(&real[0], &brokers[1]));
    discovery.set(&[1001], 32, Vec::new());
    let brokers = scan(&mut discovery);
    assert_eq!(labels(&discovery, &brokers), ["1001", "7"]);
}
