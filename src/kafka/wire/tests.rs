//! `tests/bad_inputs/protocol.rs` has the messages for wrong fields. The oracle is the crate kafka-protocol.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, BrokerId, MetadataRequest, MetadataResponse,
    RequestHeader, SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest,
    SaslHandshakeResponse, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use proptest::prelude::*;

use super::*;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn encoded(message: &impl Encodable, version: i16) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes, version).unwrap();
    bytes
}

/// Decodes a body and builds the oracle's message from it, without the fields that are not read.
fn reassembled(body: &[u8], version: i16) -> Result<MetadataResponse, WireError> {
    let mut message = MetadataResponse::default();
    for item in Metadata::new(body, version) {
        match item? {
            Item::Broker { id, host, port } => message.brokers.push(
                MetadataResponseBroker::default()
                    .with_node_id(BrokerId(id))
                    .with_host(text(host))
                    .with_port(port.into()),
            ),
            Item::Controller(id) => message.controller_id = BrokerId(id),
            Item::Topic { error, name } => message.topics.push(
                MetadataResponseTopic::default()
                    .with_error_code(error)
                    .with_name(Some(TopicName(text(name)))),
            ),
            Item::Partition(partition) => {
                let topic = message.topics.last_mut().unwrap();
                assert_eq!(topic.name.as_ref().unwrap().as_str(), partition.topic);
                topic.partitions.push(
                    MetadataResponsePartition::default()
                        .with_error_code(partition.error)
                        .with_partition_index(partition.index)
                        .with_leader_id(BrokerId(partition.leader))
                        .with_replica_nodes(partition.replicas.iter().map(BrokerId).collect())
                        .with_isr_nodes(partition.isr.iter().map(BrokerId).collect()),
                );
            }
        }
    }
    Ok(message)
}

prop_compose! {
    fn any_broker()(id: i32, host in "\\PC{0,20}", port: u16, rack in prop::option::of("\\PC{0,8}")) -> MetadataResponseBroker {
        MetadataResponseBroker::default().with_node_id(BrokerId(id)).with_host(text(&host)).with_port(port.into())
            .with_rack(rack.as_deref().map(text))
    }
}

prop_compose! {
    fn any_partition()(
        error: i16, index: i32, leader: i32,
        replicas in prop::collection::vec(any::<i32>(), 0..6), isr in prop::collection::vec(any::<i32>(), 0..6),
    ) -> MetadataResponsePartition {
        MetadataResponsePartition::default().with_error_code(error).with_partition_index(index)
            .with_leader_id(BrokerId(leader))
            .with_replica_nodes(replicas.into_iter().map(BrokerId).collect())
            .with_isr_nodes(isr.into_iter().map(BrokerId).collect())
    }
}

prop_compose! {
    fn any_topic()(
        error: i16, name in "\\PC{0,30}", internal: bool, partitions in prop::collection::vec(any_partition(), 0..5),
    ) -> MetadataResponseTopic {
        MetadataResponseTopic::default().with_error_code(error).with_name(Some(TopicName(text(&name))))
            .with_is_internal(internal).with_partitions(partitions)
    }
}

prop_compose! {
    fn any_metadata()(
        brokers in prop::collection::vec(any_broker(), 0..5), controller: i32,
        topics in prop::collection::vec(any_topic(), 0..5),
    ) -> MetadataResponse {
        MetadataResponse::default().with_brokers(brokers).with_controller_id(BrokerId(controller)).with_topics(topics)
    }
}

/// Adds the fields of version 6 that are not in version 1.
fn with_listeners(
    message: &MetadataResponse,
    throttled: i32,
    cluster: Option<&str>,
    offline: &[i32],
) -> MetadataResponse {
    let mut message = message
        .clone()
        .with_throttle_time_ms(throttled)
        .with_cluster_id(cluster.map(text));
    for partition in message
        .topics
        .iter_mut()
        .flat_map(|topic| &mut topic.partitions)
    {
        partition.offline_replicas = offline.iter().copied().map(BrokerId).collect();
    }
    message
}

proptest! {
    #[test]
    fn metadata_reads_as_the_oracle_wrote_it(
        message in any_metadata(), throttled: i32, cluster in prop::option::of("\\PC{0,8}"),
        offline in prop::collection::vec(any::<i32>(), 0..6),
    ) {
        let mut expected = message.clone();
        expected.brokers.iter_mut().for_each(|broker| broker.rack = None);
        expected.topics.iter_mut().for_each(|topic| topic.is_internal = false);
        prop_assert_eq!(&reassembled(&encoded(&message, 1), 1).unwrap(), &expected);
        let body = encoded(&with_listeners(&message, throttled, cluster.as_deref(), &offline), 6);
        prop_assert_eq!(&reassembled(&body, 6).unwrap(), &expected);
    }

    #[test]
    fn metadata_cut_off_anywhere_is_an_error(message in any_metadata(), version in prop_oneof![Just(1), Just(6)]) {
        let body = encoded(&message, version);
        for length in 0..body.len() {
            prop_assert!(reassembled(&body[..length], version).is_err(), "cut to {} of {} bytes", length, body.len());
        }
    }

    #[test]
    fn metadata_with_bytes_after_it_is_an_error(
        message in any_metadata(), version in prop_oneof![Just(1), Just(6)], extra in 1_usize..9,
    ) {
        let mut body = encoded(&message, version);
        let end = body.len();
        body.resize(end + extra, 0);
        let error = reassembled(&body, version).unwrap_err();
        prop_assert_eq!(error, WireError { field: "metadata", offset: end, problem: Problem::Trailing(extra) });
    }

    #[test]
    fn metadata_with_bytes_changed_ends(message in any_metadata(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut body = encoded(&message, 1);
        for (index, byte) in changes {
            let index = index.index(body.len());
            body[index] = byte;
        }
        // Each item except the controller takes bytes, so there are no more items than bytes.
        prop_assert!(Metadata::new(&body, 1).count() <= body.len());
    }

    #[test]
    fn random_bytes_end(body in prop::collection::vec(any::<u8>(), 0..300)) {
        for version in [1, 6] {
            prop_assert!(Metadata::new(&body, version).count() <= body.len() + 1);
        }
        let _ = api_versions(&body);
    }

    #[test]
    fn api_versions_read_as_the_oracle_wrote_them(
        error: i16, keys in prop::collection::btree_map(any::<i16>(), (any::<i16>(), any::<i16>()), 0..40), with_metadata: bool,
    ) {
        let mut keys = keys;
        keys.remove(&3);
        if with_metadata {
            keys.insert(3, (0, 13));
        }
        let message = ApiVersionsResponse::default().with_error_code(error).with_api_keys(
            keys.iter().map(|(key, (min, max))| {
                ApiVersion::default().with_api_key(*key).with_min_version(*min).with_max_version(*max)
            }).collect(),
        );
        let body = encoded(&message, 0);
        let expected = ApiVersions {
            error,
            metadata: with_metadata.then_some((0, 13)),
            sasl_authenticate: keys.contains_key(&36),
            groups: GroupVersions {
                fetch: keys.get(&1).copied(),
                list_offsets: keys.get(&2).copied(),
                offset_fetch: keys.get(&9).copied(),
                describe_groups: keys.get(&15).copied(),
                list_groups: keys.get(&16).copied(),
            },
        };
        prop_assert_eq!(api_versions(&body).unwrap(), expected);
        for length in 0..body.len() {
            prop_assert!(api_versions(&body[..length]).is_err());
        }
    }

    #[test]
    fn the_oracle_and_the_reader_agree_about_logins(
        correlation: i32, error: i16, mechanism in "[A-Z0-9-]{0,20}", token: Vec<u8>, message in proptest::option::of(".{0,40}"),
    ) {
        let frame = sasl_handshake_request(correlation, 1, &mechanism);
        let mut body = after_header(&frame, (17, 1), correlation);
        prop_assert_eq!(&*SaslHandshakeRequest::decode(&mut body, 1).unwrap().mechanism, &*mechanism);
        prop_assert!(body.is_empty());

        let frame = sasl_authenticate_request(correlation, &token);
        let mut body = after_header(&frame, (36, 0), correlation);
        prop_assert_eq!(&*SaslAuthenticateRequest::decode(&mut body, 0).unwrap().auth_bytes, &*token);
        prop_assert!(body.is_empty());

        let name = StrBytes::from_string(mechanism.clone());
        let answer = SaslHandshakeResponse::default().with_error_code(error).with_mechanisms(vec![name.clone(), name]);
        for version in [0, 1] {
            let body = encoded(&answer, version);
            prop_assert_eq!(sasl_handshake(&body).unwrap(), (error, vec![&*mechanism, &*mechanism]));
            for length in 0..body.len() {
                prop_assert!(sasl_handshake(&body[..length]).is_err());
            }
        }

        let said = message.clone().map(StrBytes::from_string);
        let answer = SaslAuthenticateResponse::default().with_error_code(error).with_error_message(said).with_auth_bytes(token.clone().into());
        let body = encoded(&answer, 0);
        let expected = SaslAuthenticate { error, message: message.as_deref(), token: &token };
        prop_assert_eq!(sasl_authenticate(&body).unwrap(), expected);
        for length in 0..body.len() {
            prop_assert!(sasl_authenticate(&body[..length]).is_err());
        }
    }

    #[test]
    fn the_oracle_reads_requests_as_meant(correlation: i32) {
        let frame = metadata_request(correlation);
        let mut body = after_header(&frame, (3, 1), correlation);
        prop_assert_eq!(MetadataRequest::decode(&mut body, 1).unwrap().topics, None);
        prop_assert!(body.is_empty());

        let frame = metadata_with_listeners_request(correlation);
        let mut body = after_header(&frame, (3, 6), correlation);
        let request = MetadataRequest::decode(&mut body, 6).unwrap();
        prop_assert_eq!((request.topics, request.allow_auto_topic_creation), (None, false));
        prop_assert!(body.is_empty());

        let frame = api_versions_request(correlation);
        let mut body = after_header(&frame, (18, 0), correlation);
        ApiVersionsRequest::decode(&mut body, 0).unwrap();
        prop_assert!(body.is_empty());
    }
}

/// Checks the header of a request with the oracle and returns its body.
fn after_header(frame: &[u8], api: (i16, i16), correlation: i32) -> &[u8] {
    let (length, mut body) = frame.split_at(4);
    assert_eq!(
        i32::from_be_bytes(length.try_into().unwrap()) as usize,
        body.len()
    );
    let header = RequestHeader::decode(&mut body, 1).unwrap();
    assert_eq!((header.request_api_key, header.request_api_version), api);
    assert_eq!(header.correlation_id, correlation);
    assert_eq!(header.client_id, Some(text("kafka-vitals")));
    body
}

#[test]
fn iteration_ends_after_the_first_error() {
    let mut walk = Metadata::new(&[0, 0, 0, 0, 0, 0], 1);
    assert_eq!(walk.next().unwrap().unwrap_err().field, "controller id");
    assert_eq!(walk.next(), None);
}

#[test]
fn the_number_of_brokers_has_a_bound() {
    let message =
        MetadataResponse::default().with_brokers(vec![MetadataResponseBroker::default(); 10_001]);
    let error = reassembled(&encoded(&message, 1), 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "brokers at byte 0: at most 10000 expected, 10001 announced"
    );
}
