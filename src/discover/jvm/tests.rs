#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

fn line(words: &str) -> CommandLine {
    // Two blanks in a row are an empty argument.
    CommandLine {
        arguments: words.split(' ').map(str::to_owned).collect(),
        cut: None,
    }
}

fn kind(comm: &str, words: &str) -> JvmKind {
    classify(comm, &line(words), |name| {
        Err(FileError::Missing { path: name.into() })
    })
}

fn launch(comm: &str, words: &str) -> Launch {
    match kind(comm, words) {
        JvmKind::Kafka(launch) => launch,
        _ => panic!("no broker: {words}"),
    }
}

#[test]
fn brokers_of_all_distributions_are_found() {
    let table = [
        (
            "java",
            "java -Xmx1G -cp /opt/kafka/libs/* kafka.Kafka config/server.properties",
            "config/server.properties",
        ),
        (
            "java",
            "/opt/java/bin/java -server -Dkafka.logs.dir=/l -classpath a.jar:b.jar kafka.Kafka /etc/s.properties",
            "/etc/s.properties",
        ),
        (
            "java",
            "java -cp :/usr/bin/../share/java/kafka/* io.confluent.support.metrics.SupportedKafka /etc/kafka/server.properties",
            "/etc/kafka/server.properties",
        ),
        (
            "java",
            "java -cp /opt/cloudera/libs/* com.cloudera.kafka.wrap.Kafka /run/kafka.properties",
            "/run/kafka.properties",
        ),
        (
            "java",
            "java --class-path=/opt/kafka/libs/* -javaagent:/opt/jmx.jar=7071:/opt/x.yml kafka.Kafka s.properties",
            "s.properties",
        ),
        (
            "java",
            "java --add-opens java.base/java.lang=ALL-UNNAMED --add-opens=java.base/java.util=ALL-UNNAMED -cp x kafka.Kafka s.properties",
            "s.properties",
        ),
        (
            "java",
            "java --module-path /m --add-modules all -m kafka.core/kafka.Kafka s.properties",
            "s.properties",
        ),
        (
            "java17",
            "java17 -cp x kafka.Kafka s.properties",
            "s.properties",
        ),
        (
            "java",
            "kafka-broker-1 -cp x kafka.Kafka s.properties",
            "s.properties",
        ),
        (
            "kafka",
            "/usr/bin/java -cp x kafka.Kafka s.properties",
            "s.properties",
        ),
        (
            "java",
            "java  -cp x  kafka.Kafka s.properties",
            "s.properties",
        ),
    ];
    for (comm, words, properties) in table {
        assert_eq!(
            launch(comm, words).properties.unwrap().to_str(),
            Some(properties),
            "{words}"
        );
    }
}

#[test]
fn programs_that_only_mention_a_broker_are_other() {
    let table = [
        ("grep", "grep kafka.Kafka"),
        ("bash", "bash -c exec java -cp x kafka.Kafka s.properties"),
        (
            "kafka-run-class",
            "/bin/bash /opt/kafka/bin/kafka-run-class.sh kafka.Kafka s.properties",
        ),
        (
            "java",
            "/bin/sh /usr/local/bin/java -cp x kafka.Kafka s.properties",
        ),
        ("tini", "tini -- java -cp x kafka.Kafka s.properties"),
        ("sudo", "sudo -u kafka java -cp x kafka.Kafka s.properties"),
        (
            "java",
            "java -cp x kafka.tools.StorageTool format -c kafka.Kafka",
        ),
        (
            "java",
            "java -cp x kafka.admin.TopicCommand --zookeeper kafka.Kafka",
        ),
        (
            "java",
            "java -cp x org.apache.kafka.connect.cli.ConnectDistributed kafka.Kafka",
        ),
        (
            "java",
            "java -cp x org.apache.kafka.connect.mirror.MirrorMaker mm2.properties",
        ),
        (
            "java",
            "java -cp x kafka.tools.MirrorMaker --consumer.config c",
        ),
        (
            "java",
            "java -cp x org.apache.zookeeper.server.quorum.QuorumPeerMain zoo.cfg",
        ),
        ("java", "java -jar kafka.Kafka"),
        ("java", "java -cp kafka.Kafka x.Y kafka.Kafka"),
        ("java", "java -version"),
        ("java", "java"),
        (
            "kafka.Kafka",
            "/opt/kafka/kafka.Kafka start --config server.properties",
        ),
        ("javac", "javac kafka.Kafka"),
    ];
    for (comm, words) in table {
        assert!(matches!(kind(comm, words), JvmKind::Other), "{words}");
    }
    assert!(matches!(
        classify("java", &CommandLine::default(), |_| Ok(String::new())),
        JvmKind::Other
    ));
}

#[test]
fn overrides_are_read() {
    let found = launch(
        "java",
        "java -cp a -cp b kafka.Kafka s.properties --override broker.id=7 --override=listeners=PLAINTEXT://:1 --override a=b=c --override broken --override",
    );
    let pairs: Vec<_> = found
        .overrides
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        pairs,
        [
            ("broker.id", "7"),
            ("listeners", "PLAINTEXT://:1"),
            ("a", "b=c")
        ]
    );
    assert_eq!(found.class_path.as_deref(), Some("b"));
    let none = launch("java", "java kafka.Kafka --override a=b");
    assert_eq!((none.properties, none.overrides.len()), (None, 1));
}

#[test]
fn a_cut_command_line_is_unclear_and_not_another_program() {
    let cut = |words: &str| CommandLine {
        cut: Some(Cut::Kernel),
        ..line(words)
    };
    let classified = |words| classify("java", &cut(words), |_| Ok(String::new()));
    assert!(matches!(
        classified("java -Xmx1G -cp /opt/kafka/libs/a.jar:/opt/kafka/li"),
        JvmKind::Unclear(_)
    ));
    // Half of `kafka.KafkaSomething` would be the right name.
    assert!(matches!(
        classified("java -cp a kafka.Kafka"),
        JvmKind::Unclear(_)
    ));
    assert!(matches!(
        classified("java -cp a org.example.Main x"),
        JvmKind::Other
    ));
    let JvmKind::Kafka(found) = classified("java -cp a kafka.Kafka /etc/kaf") else {
        panic!()
    };
    assert_eq!(found.properties, None);
    assert!(found.problem.unwrap().contains("4096"));
    let long = CommandLine {
        cut: Some(Cut::Length),
        ..line("java -cp a kafka.Kafka /etc/kaf")
    };
    let JvmKind::Kafka(found) = classify("java", &long, |_| Ok(String::new())) else {
        panic!()
    };
    let problem = found.problem.unwrap();
    assert!(problem.contains("up to 1048576 bytes"), "{problem}");
    assert!(!problem.contains("kernels"), "{problem}");
    assert!(matches!(
        classify("bash", &cut("bash x"), |_| Ok(String::new())),
        JvmKind::Other
    ));
}

#[test]
fn argument_files_are_expanded_once() {
    let classified = |words: &str, text: &'static str| {
        classify("java", &line(words), |name| {
            assert_eq!(name, "/etc/kafka.args");
            Ok(text.to_owned())
        })
    };
    let text = "# options\n-Xmx1G\r\n-cp \"/opt/my kafka/*\"\n'kafka.Kafka' # not a word\n\"C:\\\\x.properties\"";
    let JvmKind::Kafka(found) = classified("java @/etc/kafka.args --override a=b", text) else {
        panic!()
    };
    assert_eq!(found.class_path.as_deref(), Some("/opt/my kafka/*"));
    assert_eq!(found.properties, Some(PathBuf::from("C:\\x.properties")));
    assert_eq!(found.overrides.len(), 1);
    // Not expanded twice, and not after the main class.
    assert!(matches!(
        classified("java @/etc/kafka.args", "@/etc/kafka.args"),
        JvmKind::Other
    ));
    assert!(matches!(
        classified("java Main @/etc/other", ""),
        JvmKind::Other
    ));
    assert!(matches!(
        classified("java --disable-@files @/etc/other kafka.Kafka", ""),
        JvmKind::Other
    ));
    let JvmKind::Unclear(reason) = kind("java", "java @/etc/kafka.args") else {
        panic!()
    };
    assert_eq!(
        reason.to_string(),
        "its argument file: /etc/kafka.args does not exist"
    );
}

#[test]
fn brokers_are_known_by_thread_names() {
    let names = |list: &[&str]| {
        list.iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    // As `ps -L -o comm` shows them for 0.10.1.0 and for 3.9.1.
    assert!(has_broker_threads(&names(&[
        "java",
        "GC Thread#0",
        "kafka-request-h"
    ])));
    assert!(has_broker_threads(&names(&["java", "data-plane-kafk"])));
    assert!(!has_broker_threads(&names(&[
        "java",
        "kafka-producer-",
        "kafka-coordinat",
        "kafka-admin-cli"
    ])));
}
