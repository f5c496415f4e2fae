#![allow(clippy::unwrap_used, clippy::expect_used, clippy::type_complexity)]

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// What `interpret` makes of a properties text, for a broker of this version.
fn interpreted(version: Option<&str>, text: &str) -> Broker {
    let mut broker = Broker {
        kafka_version: version.map(str::to_owned),
        ..Broker::unknown(KEY)
    };
    interpret(&Properties::parse(text.as_bytes()).unwrap(), &mut broker);
    broker
}

/// `NAME/PROTOCOL@HOST:PORT`, with `*` for every address and `+controller`.
fn shown(listeners: &[Listener]) -> Vec<String> {
    let one = |l: &Listener| {
        let protocol = l.protocol.map_or("?".to_owned(), |p| format!("{p:?}"));
        let host = l.host.as_deref().unwrap_or("*");
        format!(
            "{}/{protocol}@{host}:{}{}",
            l.name,
            l.port,
            if l.controller { "+controller" } else { "" }
        )
    };
    listeners.iter().map(one).collect()
}

#[test]
fn the_incidents_broker() {
    let text = include_str!("../../../tests/fixtures/properties/server-218.properties");
    let broker = interpreted(Some("0.10.1.0"), text);
    assert_eq!(broker.id, Some(218));
    assert_eq!(broker.mode, Some(Mode::ZooKeeper));
    assert_eq!(broker.roles, BTreeSet::from([Role::Broker]));
    assert_eq!(
        shown(&broker.listeners),
        ["PLAINTEXT/Plaintext@192.168.1.218:9092"]
    );
    assert_eq!(broker.log_dirs, [Path::new("/opt/data/kafka")]);
    assert_eq!(
        broker.zookeeper,
        [
            "192.168.1.217:5181",
            "192.168.1.218:5181",
            "192.168.1.219:5181"
        ]
    );
    assert_eq!(broker.problems, [""; 0]);
}

#[test]
fn listeners() {
    let zk = "zookeeper.connect=z\n";
    let table: [(Option<&str>, &str, &[&str]); 12] = [
        (None, "", &["PLAINTEXT/Plaintext@*:9092"]),
        (
            Some("0.10.1.0"),
            "port=9093\n",
            &["PLAINTEXT/Plaintext@*:9093"],
        ),
        (
            Some("0.10.1.0"),
            "host.name=h\n",
            &["PLAINTEXT/Plaintext@h:9092"],
        ),
        // Since 3.0 these keys mean nothing.
        (
            Some("3.9.1"),
            "host.name=h\nport=9093\n",
            &["PLAINTEXT/Plaintext@*:9092"],
        ),
        (
            Some("7.6.0-ccs"),
            "port=9093\n",
            &["PLAINTEXT/Plaintext@*:9092"],
        ),
        (
            Some("5.4.0-ccs"),
            "port=9093\n",
            &["PLAINTEXT/Plaintext@*:9093"],
        ),
        (
            None,
            "listeners=ssl://0.0.0.0:1 , SASL_SSL://[::1]:2,sasl_plaintext://[::]:3\n",
            &[
                "SSL/Ssl@*:1",
                "SASL_SSL/SaslSsl@::1:2",
                "SASL_PLAINTEXT/SaslPlaintext@*:3",
            ],
        ),
        (
            None,
            "listeners=IN://a:1,OUT://b:2\nlistener.security.protocol.map=in:PLAINTEXT, OUT:SASL_SSL\n",
            &["IN/Plaintext@a:1", "OUT/SaslSsl@b:2"],
        ),
        (None, "listeners=ODD://a:1\n", &["ODD/?@a:1"]),
        (
            None,
            "process.roles=broker,controller\nlisteners=PLAINTEXT://:1,CONTROLLER://:2\ncontroller.listener.names=CONTROLLER\n",
            &[
                "PLAINTEXT/Plaintext@*:1",
                "CONTROLLER/Plaintext@*:2+controller",
            ],
        ),
        (
            None,
            "listeners=PLAINTEXT://a:0,SSL://b:x,junk,://c:1\n",
            &["/?@c:1"],
        ),
        (None, "listeners=${env:LISTENERS}\n", &[]),
    ];
    for (version, text, expected) in table {
        let broker = interpreted(version, &format!("{zk}{text}"));
        assert_eq!(shown(&broker.listeners), expected, "{text}");
    }
}

#[test]
fn ids_roles_and_folders() {
    let controller = interpreted(
        None,
        "process.roles=controller\nnode.id=9\nbroker.id=9\nlog.dir=/one\n",
    );
    assert_eq!(
        (controller.id, controller.mode),
        (Some(9), Some(Mode::KRaft))
    );
    assert_eq!(controller.roles, BTreeSet::from([Role::Controller]));
    assert_eq!(controller.log_dirs, [Path::new("/one")]);
    let none = interpreted(
        None,
        "broker.id=-1\nlog.dir=/a\nlog.dirs=/b, c\nzookeeper.connect=z1, z2:1 ,[::1]/kafka/x\n",
    );
    assert_eq!(none.id, None);
    assert_eq!(none.log_dirs, [Path::new("/b"), Path::new("c")]);
    assert_eq!(none.zookeeper, ["z1:2181", "z2:1", "[::1]:2181"]);
    assert_eq!(
        interpreted(None, "").log_dirs,
        [Path::new("/tmp/kafka-logs")]
    );
}

#[test]
fn versions_in_jar_names() {
    let table = [
        ("kafka_2.11-0.10.1.0.jar", Some((0, "0.10.1.0"))),
        ("kafka_2.13-3.9.1-ccs.jar", Some((0, "3.9.1-ccs"))),
        ("kafka_2.11-2.1.0-cp1.jar", Some((0, "2.1.0-cp1"))),
        (
            "kafka_2.13-3.7.0.redhat-00007.jar",
            Some((0, "3.7.0.redhat-00007")),
        ),
        ("kafka-server-common-4.3.0.jar", Some((1, "4.3.0"))),
        ("kafka-server-4.3.0.jar", Some((1, "4.3.0"))),
        ("kafka-clients-3.9.1.jar", Some((2, "3.9.1"))),
        ("kafka_2.11-0.10.1.0-sources.jar", None),
        ("kafka_2.11-0.10.1.0-javadoc.jar", None),
        ("kafka_2.11-0.10.1.0-scaladoc.jar", None),
        ("kafka_2.11-0.10.1.0-test.jar", None),
        ("kafka_2.11-0.10.1.0-test-sources.jar", None),
        ("kafka_2.11-0.10.1.0.jar.asc", None),
        ("kafka-streams-3.9.1.jar", None),
        ("kafka-clients-.jar", None),
        ("kafka_2.13-1\"} 1\n.jar", None),
        ("kafka_2.13.jar", None),
    ];
    for (name, expected) in table {
        assert_eq!(
            jar_version(name),
            expected.map(|(rank, version)| (rank, version.to_owned())),
            "{name}"
        );
    }
    let long = format!("kafka_2.13-{}.jar", "1".repeat(65));
    assert_eq!(jar_version(&long), None);
    assert_eq!(
        class_path_version(
            "/l/kafka-clients-1.0.0.jar:/l/kafka_2.11-2.0.0.jar:/l/kafka_2.11-3.0.0.jar"
        ),
        Some("2.0.0".to_owned())
    );
    assert_eq!(class_path_version("/opt/kafka/libs/*"), None);
}

#[test]
fn java_versions() {
    assert_eq!(
        release_version("IMPLEMENTOR=\"x\"\nJAVA_VERSION=\"17.0.15\"\n"),
        Some("17.0.15".to_owned())
    );
    assert_eq!(
        release_version("JAVA_VERSION=\"1.8.0_504\"\r\n"),
        Some("1.8.0_504".to_owned())
    );
    assert_eq!(release_version("JAVA_VERSION=\"<script>\""), None);
    assert_eq!(release_version("JAVA_VERSION_DATE=\"2025-04-15\"\n"), None);
}

/// A /proc with one broker of process 77, whose root is `root`.
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
fn the_id_comes_with_meta_properties_and_that_counts() {
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
    let problem = "server.properties says id 3 and meta.properties 1004: the latter is what runs";
    assert!(
        broker.problems.iter().any(|found| found == problem),
        "{:?}",
        broker.problems
    );
}

/// What is told of properties that cannot be read: `tests/bad_inputs/discovery.rs`.
#[test]
fn without_properties_the_lock_of_a_log_folder_is_told_by_the_handles() {
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
fn a_file_changed_after_the_start_is_told() {
    let (_folder, proc) = host();
    let path = server(&proc, "broker.id=1\nzookeeper.connect=z\n");
    let changed = || {
        let problems = describe(&proc, KEY, &mut launch(), None).unwrap().problems;
        problems
            .iter()
            .any(|problem| problem.contains("was changed after the broker started"))
    };
    assert!(!changed());
    fs::write(&path, "broker.id=1\nzookeeper.connect=z\nport=1\n").unwrap();
    assert!(changed());
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
