//! The oracle is the crate kafka-protocol; it knows no Fetch before version 4.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition as AssignedTopic;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};
use kafka_protocol::messages::{
    ConsumerProtocolAssignment, DescribeGroupsRequest, DescribeGroupsResponse, FetchRequest,
    FetchResponse, GroupId, ListGroupsRequest, ListGroupsResponse, ListOffsetsRequest,
    ListOffsetsResponse, OffsetFetchRequest, OffsetFetchResponse, RequestHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

use super::*;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic(name: &str) -> TopicName {
    TopicName(text(name))
}

fn encoded(message: &impl Encodable, version: i16) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes, version).unwrap();
    bytes
}

/// Lets the oracle decode a request with its header, to the last byte.
fn decoded<T: Decodable>(request: &Request, api: i16, version: i16, header: i16) -> T {
    let frame = request.frame(7);
    let (length, mut body) = frame.split_at(4);
    assert_eq!(length, (body.len() as i32).to_be_bytes());
    let header = RequestHeader::decode(&mut body, header).unwrap();
    assert_eq!(
        (header.request_api_key, header.request_api_version),
        (api, version)
    );
    assert_eq!(header.correlation_id, 7);
    let message = T::decode(&mut body, version).unwrap();
    assert!(body.is_empty(), "{body:?}");
    message
}

/// Every beginning of an answer is an error, and so is one byte more.
fn is_whole<T: std::fmt::Debug>(body: &[u8], read: impl Fn(&[u8]) -> Result<T, WireError>) {
    read(body).unwrap();
    for length in 0..body.len() {
        assert!(read(&body[..length]).is_err(), "{length}");
    }
    assert!(read(&[body, &[0]].concat()).is_err());
}

#[test]
fn the_oracle_reads_requests_as_meant() {
    let old: ListGroupsRequest = decoded(&Request::list_groups(0), 16, 0, 1);
    let new: ListGroupsRequest = decoded(&Request::list_groups(4), 16, 4, 2);
    assert!(old.states_filter.is_empty() && new.states_filter.is_empty());

    let groups = ["a".into(), "ö".into()];
    let request: DescribeGroupsRequest = decoded(&Request::describe_groups(&groups), 15, 0, 1);
    assert_eq!(request.groups, ["a", "ö"].map(|id| GroupId(text(id))));

    let request: OffsetFetchRequest = decoded(&Request::offset_fetch("g", None), 9, 2, 1);
    assert_eq!((&*request.group_id.0, request.topics), ("g", None));
    let partitions: [TopicPartition; 3] = [("t".into(), 0), ("t".into(), 5), ("u".into(), 1)];
    let named = Request::offset_fetch("g", Some(&partitions));
    let request: OffsetFetchRequest = decoded(&named, 9, 1, 1);
    let topics = request.topics.unwrap().into_iter();
    let topics: Vec<_> = topics.map(|of| (of.name, of.partition_indexes)).collect();
    assert_eq!(topics, [(topic("t"), vec![0, 5]), (topic("u"), vec![1])]);

    for who in [CLIENT, DEBUGGING] {
        let request = Request::list_offsets(who, &partitions);
        let request: ListOffsetsRequest = decoded(&request, 2, 1, 1);
        assert_eq!(request.replica_id.0, who);
        let of = |one: &kafka_protocol::messages::list_offsets_request::ListOffsetsTopic| {
            let partitions = one.partitions.iter();
            let partitions = partitions.map(|one| (one.partition_index, one.timestamp));
            (one.name.clone(), partitions.collect::<Vec<_>>())
        };
        let topics: Vec<_> = request.topics.iter().map(of).collect();
        assert_eq!(
            topics,
            [
                (topic("t"), vec![(0, -1), (5, -1)]),
                (topic("u"), vec![(1, -1)])
            ]
        );
    }

    let request: FetchRequest = decoded(&Request::fetch(4, ("t".into(), 3)), 1, 4, 1);
    assert_eq!(
        (request.replica_id.0, request.max_wait_ms, request.min_bytes),
        (-1, 0, 0)
    );
    assert_eq!((request.max_bytes, request.isolation_level), (1, 0));
    let asked = &request.topics[0];
    assert_eq!((&asked.topic, asked.partitions.len()), (&topic("t"), 1));
    let asked = &asked.partitions[0];
    assert_eq!(
        (
            asked.partition,
            asked.fetch_offset,
            asked.partition_max_bytes
        ),
        (3, i64::MAX, 1)
    );
    // By the protocol's definition, version 2 has the same fields but the bytes in all and the isolation.
    let (old, new) = (
        Request::fetch(2, ("t".into(), 3)),
        Request::fetch(4, ("t".into(), 3)),
    );
    assert_eq!(old.body[..12], new.body[..12]);
    assert_eq!(old.body[12..], new.body[17..]);
}

#[test]
fn groups_read_as_the_oracle_lists_them() {
    let group = |id: &str, protocol: &str, state: &str| {
        ListedGroup::default()
            .with_group_id(GroupId(text(id)))
            .with_protocol_type(text(protocol))
            .with_group_state(text(state))
    };
    let message = ListGroupsResponse::default()
        .with_error_code(3)
        .with_groups(vec![
            group("orders", "consumer", "Stable"),
            group("", "", "Empty"),
        ]);
    for version in [0, 4] {
        let message = match version {
            0 => {
                let mut message = message.clone();
                message
                    .groups
                    .iter_mut()
                    .for_each(|one| one.group_state = text(""));
                message
            }
            _ => message.clone().with_throttle_time_ms(9),
        };
        let mut body = encoded(&message, version);
        if version == 4 {
            // The header of a flexible response ends with its tagged fields.
            body.insert(0, 0);
        }
        let mut listed = Vec::new();
        assert_eq!(list_groups(&body, version, |one| listed.push(one)), Ok(3));
        let state = |word| (version == 4).then_some(word);
        let expected = [
            ("orders", "consumer", state("Stable")),
            ("", "", state("Empty")),
        ];
        let expected = expected.map(|(group, protocol, state)| Listed {
            group,
            protocol,
            state,
        });
        assert_eq!(listed, expected);
        is_whole(&body, |body| list_groups(body, version, |_| {}));
    }
}

fn assignment(of: &[(&str, &[i32])]) -> Vec<u8> {
    let of = of.iter().map(|(name, partitions)| {
        AssignedTopic::default()
            .with_topic(topic(name))
            .with_partitions(partitions.to_vec())
    });
    let assignment = ConsumerProtocolAssignment::default().with_assigned_partitions(of.collect());
    [vec![0, 0], encoded(&assignment, 0)].concat()
}

#[test]
fn members_have_what_the_oracle_assigned_to_them() {
    let member = |assignment: Vec<u8>| {
        DescribedGroupMember::default()
            .with_member_id(text("m"))
            .with_client_id(text("c"))
            .with_client_host(text("/127.0.0.1"))
            .with_member_metadata(vec![1, 2, 3].into())
            .with_member_assignment(assignment.into())
    };
    let group = |id: &str, error, state: &str| {
        DescribedGroup::default()
            .with_group_id(GroupId(text(id)))
            .with_error_code(error)
            .with_group_state(text(state))
    };
    let message = DescribeGroupsResponse::default().with_groups(vec![
        group("a", 0, "Stable").with_members(vec![
            member(assignment(&[("t", &[0, 7]), ("u", &[2])])),
            member(Vec::new()),
            member(vec![0, 0, 0, 0, 0, 9]),
        ]),
        group("b", 30, ""),
    ]);
    let body = encoded(&message, 0);
    let mut described = Vec::new();
    describe_groups(&body, |one| described.push(one)).unwrap();
    let of = |group, error, state| Described::Group {
        error,
        group,
        state,
    };
    let assigned = |topic, partition| Described::Assigned { topic, partition };
    assert_eq!(
        described,
        [
            of("a", 0, "Stable"),
            assigned("t", 0),
            assigned("t", 7),
            assigned("u", 2),
            Described::Unreadable,
            of("b", 30, ""),
        ]
    );
    is_whole(&body, |body| describe_groups(body, |_| {}));
}

#[test]
fn offsets_read_as_the_oracle_wrote_them() {
    let committed = |index, offset, error| {
        OffsetFetchResponsePartition::default()
            .with_partition_index(index)
            .with_committed_offset(offset)
            .with_metadata(Some(text("by hand")))
            .with_error_code(error)
    };
    let topics = vec![
        OffsetFetchResponseTopic::default()
            .with_name(topic("t"))
            .with_partitions(vec![committed(0, 5, 0), committed(1, -1, 3)]),
        OffsetFetchResponseTopic::default().with_name(topic("u")),
    ];
    let offset = |partition, error, offset| Offset {
        topic: "t",
        partition,
        error,
        offset,
    };
    for (version, error) in [(1, 0), (2, 30)] {
        let message = OffsetFetchResponse::default()
            .with_topics(topics.clone())
            .with_error_code(error);
        let body = encoded(&message, version);
        let mut read = Vec::new();
        assert_eq!(
            offset_fetch(&body, version, |one| read.push(one)),
            Ok(error)
        );
        assert_eq!(read, [offset(0, 0, 5), offset(1, 3, -1)]);
        is_whole(&body, |body| offset_fetch(body, version, |_| {}));
    }

    let end = |index, offset, error| {
        ListOffsetsPartitionResponse::default()
            .with_partition_index(index)
            .with_offset(offset)
            .with_error_code(error)
    };
    let of_topic = ListOffsetsTopicResponse::default()
        .with_name(topic("t"))
        .with_partitions(vec![end(0, i64::MAX, 0), end(1, -1, 6)]);
    let message = ListOffsetsResponse::default().with_topics(vec![of_topic]);
    let body = encoded(&message, 1);
    let mut read = Vec::new();
    list_offsets(&body, |one| read.push(one)).unwrap();
    assert_eq!(read, [offset(0, 0, i64::MAX), offset(1, 6, -1)]);
    is_whole(&body, |body| list_offsets(body, |_| {}));
}

#[test]
fn a_fetch_is_answered_with_the_error_of_its_partition() {
    let partition = PartitionData::default()
        .with_partition_index(3)
        .with_error_code(OFFSET_OUT_OF_RANGE)
        .with_records(Some(Default::default()));
    let of_topic = FetchableTopicResponse::default()
        .with_topic(topic("t"))
        .with_partitions(vec![partition]);
    let message = FetchResponse::default().with_responses(vec![of_topic]);
    assert_eq!(fetch(&encoded(&message, 4)), Ok(Some(OFFSET_OUT_OF_RANGE)));
    assert_eq!(fetch(&encoded(&FetchResponse::default(), 4)), Ok(None));
    // Version 2, by the protocol's definition: throttled for 0 ms, one topic, one partition, no record.
    let old = [
        &[0, 0, 0, 0, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1][..],
        &[0, 0, 0, 3, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    assert_eq!(fetch(&old), Ok(Some(OFFSET_OUT_OF_RANGE)));
    for length in 0..17 {
        assert!(fetch(&old[..length]).is_err(), "{length}");
    }
}

#[test]
fn no_number_decides_how_much_is_read() {
    for body in [[0x7f; 40], [0xff; 40], [0; 40]] {
        let _ = list_groups(&body, 0, |_| {});
        let _ = list_groups(&body, 4, |_| {});
        let _ = describe_groups(&body, |_| {});
        let _ = offset_fetch(&body, 2, |_| {});
        let _ = list_offsets(&body, |_| {});
        let _ = fetch(&body);
    }
    let many = [&[0, 0][..], &i32::MAX.to_be_bytes()].concat();
    let error = list_groups(&many, 0, |_| {}).unwrap_err();
    assert!(error.to_string().starts_with("groups at byte 2"), "{error}");
}
