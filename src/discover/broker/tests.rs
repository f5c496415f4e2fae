#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// A /proc with one broker, process 77, whose root is `77/tree`.
fn host() -> (tempfile::TempDir, ProcRoot) {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path();
    fs::create_dir_all(base.join("77/fd")).unwrap();
    fs::create_dir_all(base.join("77/tree/opt/kafka/config")).unwrap();
    fs::write(base.join("stat"), "btime 1000000\n").unwrap();
    fs::write(
        base.join("77/stat"),
        "77 (java) S 1 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 4 0 5000 99999 5\n",
    )
    .unwrap();
    fs::write(
        base.join("77/status"),
        "Uid:\t1001\t1001\t1001\t1001\nGid:\t1002\t1002\t1002\t1002\n",
    )
    .unwrap();
    symlink("tree", base.join("77/root")).unwrap();
    symlink("/opt/kafka", base.join("77/cwd")).unwrap();
    symlink("/opt/jdk/jre/bin/java", base.join("77/exe")).unwrap();
    let proc = ProcRoot::with_kernel(base, (4, 18));
    (folder, proc)
}

const KEY: ProcessKey = ProcessKey {
    pid: 77,
    start_ticks: 5000,
};

fn server(proc: &ProcRoot, text: &str) -> PathBuf {
    let path = proc.file(77, "tree/opt/kafka/config/server.properties");
    fs::write(&path, text).unwrap();
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH)
        .unwrap();
    path
}

fn launch() -> Launch {
    Launch {
        properties: Some("config/server.properties".into()),
        ..Launch::default()
    }
}

#[test]
fn the_id_of_meta_properties_counts() {
    let (_folder, proc) = host();
    server(&proc, "zookeeper.connect=z\nlog.dirs=../data,/more\n");
    let described = |launch: &Launch| describe(&proc, KEY, &mut launch.clone(), None).unwrap();
    let broker = described(&launch());
    assert_eq!(broker.id, None);
    let problem = broker
        .problems
        .iter()
        .find(|problem| problem.starts_with("id unknown"))
        .unwrap();
    assert!(
        problem.contains("77/root/opt/kafka/../data/meta.properties does not exist"),
        "{problem}"
    );

    fs::create_dir_all(proc.file(77, "tree/opt/data")).unwrap();
    fs::write(
        proc.file(77, "tree/opt/data/meta.properties"),
        "version=0\nbroker.id=1004\n",
    )
    .unwrap();
    assert_eq!(described(&launch()).id, Some(1004));
    let overridden = Launch {
        overrides: vec![("broker.id".to_owned(), "3".to_owned())],
        ..launch()
    };
    let broker = described(&overridden);
    assert_eq!(broker.id, Some(1004));
    let problem = "server.properties says id 3 and meta.properties says 1004: the broker runs with the latter";
    assert!(
        broker.problems.iter().any(|found| found == problem),
        "{:?}",
        broker.problems
    );
}

/// Problems of properties that cannot be read: `tests/bad_inputs/discovery.rs`.
#[test]
fn without_properties_open_locks_show_the_log_folders() {
    let (_folder, proc) = host();
    symlink("/var/kafka/.lock", proc.file(77, "fd/12")).unwrap();
    fs::create_dir_all(proc.file(77, "tree/var/kafka")).unwrap();
    fs::write(
        proc.file(77, "tree/var/kafka/meta.properties"),
        "node.id=8\n",
    )
    .unwrap();
    let broker = describe(&proc, KEY, &mut Launch::default(), None).unwrap();
    assert_eq!(
        (broker.id, broker.log_dirs),
        (Some(8), vec![PathBuf::from("/var/kafka")])
    );
}

#[test]
fn a_file_changed_after_the_start_is_a_problem() {
    let (_folder, proc) = host();
    let path = server(&proc, "broker.id=1\nzookeeper.connect=z\n");
    let changed = |launch: &mut Launch, earlier: Option<&Broker>| {
        let broker = describe(&proc, KEY, launch, earlier).unwrap();
        let is_said = broker
            .problems
            .iter()
            .any(|problem| problem.contains("was changed after the broker started"));
        (is_said, broker)
    };
    let mut known = launch();
    let (is_said, first) = changed(&mut known, None);
    assert!(!is_said && !first.log_dirs_uncertain);
    fs::write(&path, "broker.id=1\nzookeeper.connect=z\nport=1\n").unwrap();
    let (is_said, at_first) = changed(&mut launch(), None);
    assert!(is_said && at_first.log_dirs_uncertain);
    // What was read before the change is what it started with.
    let (is_said, later) = changed(&mut known, Some(&first));
    assert!(is_said && !later.log_dirs_uncertain);
    let without_file = describe(&proc, KEY, &mut Launch::default(), None).unwrap();
    assert!(without_file.log_dirs_uncertain);
}

#[test]
fn versions_come_from_open_jars_then_from_the_class_path() {
    let (_folder, proc) = host();
    server(&proc, "broker.id=1\nzookeeper.connect=z\n");
    fs::create_dir_all(proc.file(77, "tree/opt/kafka/libs")).unwrap();
    fs::create_dir_all(proc.file(77, "tree/opt/jdk")).unwrap();
    fs::write(
        proc.file(77, "tree/opt/jdk/release"),
        "JAVA_VERSION=\"1.8.0_504\"\n",
    )
    .unwrap();
    fs::write(
        proc.file(77, "tree/opt/kafka/libs/kafka_2.13-2.8.2.jar"),
        "",
    )
    .unwrap();
    let version = |class_path: Option<&str>| {
        let mut launch = Launch {
            class_path: class_path.map(str::to_owned),
            ..launch()
        };
        let broker = describe(&proc, KEY, &mut launch, None).unwrap();
        assert_eq!(broker.java_version.as_deref(), Some("1.8.0_504"));
        broker.kafka_version
    };
    assert_eq!(version(None), None);
    assert_eq!(version(Some("/none/*:libs/*")).as_deref(), Some("2.8.2"));
    fs::write(
        proc.file(77, "environ"),
        "A=b\0CLASSPATH=/x/kafka_2.12-2.1.0.jar\0",
    )
    .unwrap();
    assert_eq!(version(None).as_deref(), Some("2.1.0"));
    symlink(
        "/opt/kafka/libs/kafka_2.13-2.8.1.jar (deleted)",
        proc.file(77, "fd/9"),
    )
    .unwrap();
    assert_eq!(version(Some("libs/*")).as_deref(), Some("2.8.1"));
}

#[test]
fn another_process_of_the_same_id_is_not_described() {
    let (_folder, proc) = host();
    let other = ProcessKey {
        start_ticks: 4999,
        ..KEY
    };
    assert!(matches!(
        describe(&proc, other, &mut launch(), None),
        Err(ProcError::Gone { pid: 77 })
    ));
}
