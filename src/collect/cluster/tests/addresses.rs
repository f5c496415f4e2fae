use super::*;

/// The exporter's user.
const OWN: u32 = 0;

fn own_address(
    broker: &Broker,
    bootstrap: Option<&str>,
    listener: Option<&str>,
    same_network: &Result<bool, Failure>,
    own: u32,
) -> Result<String, Failure> {
    let allowed = Allowed {
        bootstrap,
        listener,
        same_network,
        own,
        demanding: &BTreeSet::new(),
        preferred: None,
    };
    targets(broker, &allowed).map(|targets| targets.first.address)
}

#[test]
fn the_listener_that_demands_least_comes_first_and_the_others_follow() {
    use SecurityProtocol::{Plaintext, SaslPlaintext, SaslSsl, Ssl};
    let all = broker(
        Some(1),
        &[
            ("SASL_TLS", Some(SaslSsl), None, 9091),
            ("SASL", Some(SaslPlaintext), None, 9092),
            ("MTLS", Some(Ssl), None, 9093),
            ("SSL", Some(Ssl), None, 9094),
            ("PLAIN", Some(Plaintext), None, 9095),
            ("CONTROLLER", Some(Plaintext), None, 9096),
            ("ODD", None, None, 9097),
        ],
    );
    let order = |broker: &Broker, bootstrap, listener, demanding: &[&str]| {
        let demanding = demanding.iter().map(|name| (*name).to_owned()).collect();
        let allowed = Allowed {
            bootstrap,
            listener,
            same_network: &Ok(true),
            own: OWN,
            demanding: &demanding,
            preferred: None,
        };
        let targets = targets(broker, &allowed).unwrap();
        let all = [targets.first].into_iter().chain(targets.others);
        all.map(|target| target.listener)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(order(&all, None, None, &[]), "PLAIN SASL_TLS SASL MTLS SSL");
    assert_eq!(
        order(&all, None, Some("sasl"), &[]),
        "SASL SASL_TLS MTLS SSL PLAIN"
    );
    let mut secured = all.clone();
    secured
        .listeners
        .retain(|listener| listener.name != "PLAIN");
    assert_eq!(order(&secured, None, None, &[]), "MTLS SASL_TLS SASL SSL");
    // The first attempt showed that this one demands a certificate.
    assert_eq!(
        order(&secured, None, None, &["MTLS"]),
        "SSL SASL_TLS SASL MTLS"
    );
    let demanding = ["MTLS", "SSL", "SASL", "SASL_TLS"];
    assert_eq!(
        order(&secured, None, None, &demanding),
        "MTLS SASL_TLS SASL SSL"
    );
    // The address of the config is that of a listener, or of something unknown.
    assert_eq!(
        order(&all, Some("h:9094"), None, &[]),
        "SSL SASL_TLS SASL MTLS PLAIN"
    );
    assert_eq!(order(&all, Some("h:1"), None, &[]), "h:1");
    let many = ["A", "B", "C", "D", "E", "F", "G", "H", "I", "J"].map(|name| {
        (
            name,
            Some(Plaintext),
            None,
            9000 + u16::from(name.as_bytes()[0]),
        )
    });
    assert_eq!(
        order(&broker(Some(1), &many), None, None, &[]),
        "A B C D E F G H"
    );
}

#[test]
fn the_listener_is_the_named_one_else_a_plain_one() {
    use SecurityProtocol::{Plaintext, Ssl};
    let all = broker(
        Some(1),
        &[
            ("CONTROLLER", Some(Plaintext), None, 9093),
            ("SSL", Some(Ssl), Some("10.0.0.1"), 9094),
            ("INTERNAL", Some(Plaintext), None, 9092),
            ("OUTSIDE", Some(Plaintext), Some("2001:db8::1"), 9095),
            ("ODD", None, Some("host"), 9096),
        ],
    );
    let at = |listener| own_address(&all, None, listener, &Ok(true), OWN).unwrap();
    assert_eq!(at(None), "127.0.0.1:9092");
    assert_eq!(at(Some("OUTSIDE")), "[2001:db8::1]:9095");
    assert_eq!(
        at(Some("Outside")),
        "[2001:db8::1]:9095",
        "discovery has every name in capitals"
    );
    assert_eq!(at(Some("ODD")), "host:9096");
    assert_eq!(
        own_address(&all, Some("elsewhere:1"), Some("SSL"), &Ok(true), OWN).unwrap(),
        "elsewhere:1"
    );

    let failure = |broker: &Broker, listener| {
        own_address(broker, None, listener, &Ok(true), OWN).unwrap_err()
    };
    let unknown = failure(&all, Some("PLAIN"));
    let expected = "broker 1 (pid 77): the config's `probe_listener` PLAIN is not one of its listeners (SSL, INTERNAL, OUTSIDE, ODD)";
    assert_eq!(
        (unknown.reason, unknown.message.as_str()),
        (Reason::Config, expected)
    );
    let unclear = broker(Some(1), &[("ODD", None, None, 9096)]);
    let raft_alone = broker(None, &[("CONTROLLER", Some(Plaintext), None, 1)]);
    let controller = Broker {
        roles: BTreeSet::from([Role::Controller]),
        ..all
    };
    for (broker, reason) in [
        (unclear, Reason::Unsupported),
        (raft_alone, Reason::NoListener),
        (controller, Reason::Controller),
    ] {
        assert_eq!(failure(&broker, None).reason, reason);
    }
}

#[test]
fn loopback_of_another_network_is_not_asked() {
    use SecurityProtocol::Plaintext;
    let of = |hosts: &[Option<&str>]| {
        let listeners: Vec<_> = hosts
            .iter()
            .map(|host| ("INSIDE", Some(Plaintext), *host, 9092))
            .collect();
        broker(Some(1), &listeners)
    };
    let at = |hosts: &[Option<&str>], bootstrap| {
        own_address(&of(hosts), bootstrap, None, &Ok(false), OWN)
    };
    let local = [
        None,
        Some("0.0.0.0"),
        Some("::"),
        Some("127.0.0.1"),
        Some("127.3.2.1"),
        Some("[::1]"),
        Some("LocalHost"),
    ];
    for host in local.into_iter().chain([Some("::ffff:127.0.0.1")]) {
        let failure = at(&[host], None).unwrap_err();
        assert_eq!(failure.reason, Reason::OtherNetwork, "{host:?}");
        assert!(
            failure.message.starts_with("broker 1 (pid 77): "),
            "{}",
            failure.message
        );
        assert!(
            failure.message.contains("`brokers[].bootstrap`"),
            "{}",
            failure.message
        );
    }
    assert_eq!(
        at(&[None], Some("172.17.0.2:9092")).unwrap(),
        "172.17.0.2:9092"
    );
    assert_eq!(at(&[Some("10.1.2.3")], None).unwrap(), "10.1.2.3:9092");
    assert_eq!(at(&[Some("kafka-1")], None).unwrap(), "kafka-1:9092");
    assert_eq!(
        at(&[None, Some("10.1.2.3")], None).unwrap(),
        "10.1.2.3:9092",
        "the one that reaches it"
    );
    let unknown = Failure::new(Reason::Io, "its network namespace is unknown");
    assert_eq!(
        own_address(&of(&[None]), None, None, &Err(unknown.clone()), OWN),
        Err(unknown)
    );
}

/// A process that looks like a broker had the exporter, as root, connect to the host's SSH.
#[test]
fn a_port_of_the_system_is_asked_only_of_root_s_own_user_s_or_where_the_config_says_so() {
    let plain = Some(SecurityProtocol::Plaintext);
    let of = |owner, port| Broker {
        owner,
        ..broker(Some(1), &[("INSIDE", plain, Some("127.0.0.1"), port)])
    };
    for owner in [Some(2001), None] {
        let at = |port, bootstrap, listener, own| {
            own_address(&of(owner, port), bootstrap, listener, &Ok(true), own)
        };
        let failure = at(22, None, None, OWN).unwrap_err();
        assert_eq!(
            (failure.reason, failure.message.as_str()),
            (
                Reason::Config,
                "broker 1 (pid 77): 127.0.0.1:22 is not asked, because any user may name a port below 1024, which is one of \
                 the system: if it is the broker's, name the listener INSIDE as `brokers[].probe_listener` in the config file"
            )
        );
        assert!(at(1023, None, None, 1001).is_err());
        assert_eq!(at(1024, None, None, OWN).unwrap(), "127.0.0.1:1024");
        let named = at(22, None, Some("INSIDE"), OWN);
        assert_eq!(named.unwrap(), "127.0.0.1:22");
        let given = at(22, Some("127.0.0.1:23"), None, OWN);
        assert_eq!(given.unwrap(), "127.0.0.1:23");
    }
    let of_root = own_address(&of(Some(0), 22), None, None, &Ok(true), 1001);
    assert_eq!(of_root.unwrap(), "127.0.0.1:22");
    let of_own = own_address(&of(Some(1001), 22), None, None, &Ok(true), 1001);
    assert_eq!(of_own.unwrap(), "127.0.0.1:22");
}
