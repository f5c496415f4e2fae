use super::*;

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
