use super::*;

#[test]
fn empty_file_is_all_defaults() {
    for text in ["", "# nothing\n\n", "intervals: {}\n"] {
        let file = parse(text).unwrap();
        assert_eq!(file.intervals, Intervals::default());
        assert_eq!(file.collectors, Switches::default());
    }
}

#[test]
fn the_design_s_example_reads() {
    let file = parse(
        "intervals: {process: 250ms, fds: 10m}\nbrokers:\n  - {match: {port: 9092}, probe_listener: PLAINTEXT, bootstrap: 127.0.0.1:9092}\ncollectors: {sockets: false}\n",
    )
    .unwrap();
    use CollectorName as C;
    assert_eq!(file.intervals.of(C::Process), Duration::from_millis(250));
    assert_eq!(file.intervals.of(C::Fds), Duration::from_secs(600));
    assert_eq!(file.intervals.of(C::Connections), Duration::from_secs(600));
    assert_eq!(file.intervals.of(C::Cluster), Duration::from_secs(5));
    assert_eq!(file.brokers[0].matches.port, Some(9092));
    assert_eq!(file.brokers[0].bootstrap.as_deref(), Some("127.0.0.1:9092"));
    assert!(!file.collectors.is_on(C::Sockets) && file.collectors.is_on(C::Threads));
}

#[test]
fn a_collector_is_off_with_the_one_that_it_needs() {
    let off = |text: &str| -> Vec<&str> {
        let switches = parse(text).unwrap().collectors;
        let off = CollectorName::ALL
            .into_iter()
            .filter(|name| !switches.is_on(*name));
        off.map(CollectorName::name).collect()
    };
    assert_eq!(off("collectors: {fds: false}"), ["fds", "connections"]);
    assert_eq!(off("collectors: {connections: false}"), ["connections"]);
    assert!(off("collectors: {threads: false}").starts_with(&["threads", "progress"]));
}

#[test]
fn evidence_settings_and_where_it_goes_by_default() {
    let file =
        parse("evidence: {dir: /e, max_bytes: 2GiB, max_age: 30d, min_free: 0, heap_dump: /h}\n")
            .unwrap();
    let thirty_days = Some(Duration::from_secs(30 * 86_400));
    let wanted = EvidenceSettings {
        dir: Some("/e".into()),
        max_bytes: 2_147_483_648,
        max_age: thirty_days,
        min_free: 0,
        heap_dump: Some("/h".into()),
        ..Default::default()
    };
    assert_eq!(file.evidence, wanted);
    let table: [(&[(&str, &str)], _); 6] = [
        (
            &[
                ("STATE_DIRECTORY", "/var/lib/kv:/var/lib/b"),
                ("HOME", "/h"),
            ],
            Some("/var/lib/kv/evidence"),
        ),
        (
            &[("XDG_STATE_HOME", "/x"), ("HOME", "/h")],
            Some("/x/kafka-vitals/evidence"),
        ),
        (
            &[("HOME", "/h")],
            Some("/h/.local/state/kafka-vitals/evidence"),
        ),
        (
            &[
                ("XDG_STATE_HOME", "x"),
                ("STATE_DIRECTORY", ""),
                ("HOME", "/h"),
            ],
            Some("/h/.local/state/kafka-vitals/evidence"),
        ),
        (&[("HOME", "")], None),
        (&[], None),
    ];
    for (variables, wanted) in table {
        let variable = |name: &str| {
            variables
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, value)| value.into())
        };
        assert_eq!(
            EvidenceSettings::default_dir(variable),
            wanted.map(PathBuf::from),
            "{variables:?}"
        );
    }
}
