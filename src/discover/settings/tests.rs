#![allow(clippy::unwrap_used, clippy::expect_used, clippy::type_complexity)]

use std::path::Path;

use super::*;

/// Interprets a properties text for a broker of this version.
fn interpreted(version: Option<&str>, text: &str) -> Broker {
    let mut broker = Broker {
        kafka_version: version.map(str::to_owned),
        ..Broker::default()
    };
    interpret(&Properties::parse(text.as_bytes()).unwrap(), &mut broker);
    broker
}

/// Shows each as `NAME/PROTOCOL@HOST:PORT`, with `*` for every address and with `+controller`.
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
fn the_broker_of_the_incident() {
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
    assert_eq!(none.zookeeper_root, "/kafka/x");
    assert_eq!(
        interpreted(None, "").log_dirs,
        [Path::new("/tmp/kafka-logs")]
    );
}

#[test]
fn the_folder_of_the_metadata_log_and_min_isr() {
    let kraft = "process.roles=broker\nlog.dirs=/a,/b\n";
    let of = |text: &str| interpreted(Some("4.3.0"), text);
    let folder = |text: &str| of(text).metadata_log_dir;
    assert_eq!(folder(kraft), Some("/a".into()));
    assert_eq!(
        folder("process.roles=broker"),
        Some("/tmp/kafka-logs".into())
    );
    assert_eq!(
        folder(&format!("{kraft}metadata.log.dir=/c\n")),
        Some("/c".into())
    );
    let provided = of(&format!(
        "{kraft}metadata.log.dir=${{file:/x:dir}}\nmin.insync.replicas=${{file:/x:n}}"
    ));
    assert_eq!(
        (provided.metadata_log_dir, provided.min_insync_replicas),
        (None, None)
    );
    assert_eq!(provided.problems.len(), 2);
    assert_eq!(folder("zookeeper.connect=z\nlog.dirs=/a"), None);
    assert_eq!(of(kraft).min_insync_replicas, Some(1));
    assert_eq!(
        of("zookeeper.connect=z\nmin.insync.replicas=2").min_insync_replicas,
        Some(2)
    );
    let wrong = of(&format!("{kraft}min.insync.replicas=two"));
    assert_eq!(wrong.min_insync_replicas, None);
    assert_eq!(
        wrong.problems,
        ["min.insync.replicas in server.properties is no number"]
    );
}

#[test]
fn the_way_to_zookeeper() {
    let read = |text: &str| {
        let broker = interpreted(None, text);
        (broker.zookeeper_root, broker.zookeeper_tls)
    };
    let netty = "zookeeper.clientCnxnSocket=org.apache.zookeeper.ClientCnxnSocketNetty\n";
    for (text, root, tls) in [
        ("", "", false),
        ("zookeeper.ssl.client.enable=false\n", "", false),
        ("zookeeper.ssl.client.enable=true\n", "", true),
        (netty, "", true),
        ("zookeeper.connect=z:1,y:1/\n", "", false),
        ("zookeeper.connect=z:1,y:1/a/b/\n", "/a/b", false),
    ] {
        assert_eq!(
            read(&format!("zookeeper.connect=z\n{text}")),
            (root.to_owned(), tls),
            "{text}"
        );
    }
}

#[test]
fn what_is_switched_on() {
    let features = |text: &str| {
        let properties = only_read(Properties::parse(text.as_bytes()).unwrap());
        let mut broker = Broker::default();
        interpret(&properties, &mut broker);
        broker.features
    };
    // Kafka's defaults.
    let off = Features {
        request_memory_bounded: Some(false),
        reauthentication: Some(false),
        several_log_dirs: Some(false),
        tiered_storage: Some(false),
        remote_metadata_in_topic: Some(true),
        new_group_coordinator: Some(false),
        share_groups: Some(false),
    };
    assert_eq!(features("zookeeper.connect=z"), off);
    let off_by_hand = "queued.max.request.bytes=-1\nconnections.max.reauth.ms=0\nlog.dirs=/a\n\
        remote.log.storage.system.enable=False\ngroup.coordinator.rebalance.protocols=classic";
    assert_eq!(features(off_by_hand), off);
    let on = "queued.max.request.bytes = 1000000\nconnections.max.reauth.ms=3600000\nlog.dirs=/a, /b\n\
        remote.log.storage.system.enable=TRUE\n\
        remote.log.metadata.manager.class.name=org.example.Own\n\
        group.coordinator.rebalance.protocols=classic, consumer, SHARE";
    let all_on = Features {
        request_memory_bounded: Some(true),
        reauthentication: Some(true),
        several_log_dirs: Some(true),
        tiered_storage: Some(true),
        remote_metadata_in_topic: Some(false),
        new_group_coordinator: Some(true),
        share_groups: Some(true),
    };
    assert_eq!(features(on), all_on);
    let by_other_keys = features("group.coordinator.new.enable=true\ngroup.share.enable=true");
    assert_eq!(by_other_keys.new_group_coordinator, Some(true));
    assert_eq!(by_other_keys.share_groups, Some(true));
    // A listener's own time; one of them is enough.
    let of_listeners = "connections.max.reauth.ms=0\n\
        listener.name.a.connections.max.reauth.ms=0\n\
        listener.name.b.scram-sha-512.connections.max.reauth.ms=5000";
    assert_eq!(features(of_listeners).reauthentication, Some(true));
    assert_eq!(
        features("listener.name.a.ssl.x=1").reauthentication,
        Some(false)
    );
    // A config provider has the value, and nobody asks it.
    let provided = features(
        "connections.max.reauth.ms=${file:/f:a}\nqueued.max.request.bytes=${file:/f:b}\n\
         log.dirs=${env:DIRS}\ngroup.share.enable=${file:/f:c}\nremote.log.storage.system.enable=${file:/f:d}",
    );
    assert_eq!(
        (
            provided.reauthentication,
            provided.request_memory_bounded,
            provided.several_log_dirs,
            provided.share_groups,
            provided.tiered_storage,
        ),
        (None, None, None, None, None)
    );
}
