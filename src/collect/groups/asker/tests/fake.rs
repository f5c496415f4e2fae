//! A broker with groups for the tests of the asker.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition as AssignedTopic;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};
use kafka_protocol::messages::{
    BrokerId, ConsumerProtocolAssignment, DescribeGroupsRequest, DescribeGroupsResponse,
    FetchResponse, GroupId, ListGroupsResponse, ListOffsetsRequest, ListOffsetsResponse,
    MetadataResponse, OffsetFetchRequest, OffsetFetchResponse, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use lab::fake_broker::{Answer, FakeBroker, ReceivedRequest};
use tokio::sync::Notify;

use crate::kafka::wire::groups as kafka;

pub(super) const NEW: &[(i16, i16, i16)] =
    &[(1, 4, 17), (2, 1, 10), (3, 0, 13), (9, 1, 9), (16, 0, 5)];
/// As 0.10.1.0.
pub(super) const OLD: &[(i16, i16, i16)] = &[
    (1, 0, 3),
    (2, 0, 1),
    (3, 0, 2),
    (9, 0, 1),
    (15, 0, 0),
    (16, 0, 0),
];

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic(name: &str) -> TopicName {
    TopicName(text(name))
}

fn encoded(message: &impl Encodable, version: i16) -> Answer {
    let mut bytes = Vec::new();
    message.encode(&mut bytes, version).unwrap();
    Answer::Body(bytes)
}

/// A broker with groups, whose answers a test may change.
pub(super) struct Fake {
    pub(super) versions: &'static [(i16, i16, i16)],
    /// Name, protocol, state.
    pub(super) groups: Vec<(&'static str, &'static str, &'static str)>,
    pub(super) list_error: i16,
    /// Whether a Fetch is answered.
    pub(super) fetches: AtomicBool,
    /// The end of a connection with a Fetch that is not.
    pub(super) ends: Arc<Notify>,
    /// Whether the connection is closed at the next request after a Fetch that is not.
    pub(super) closes: AtomicBool,
    pub(super) fetch_error: i16,
    /// Whether OffsetFetch is answered.
    pub(super) says_offsets: bool,
    /// How many partitions each member has.
    pub(super) assigned: i32,
    /// Who asked ListOffsets for what.
    pub(super) ends_asked: Mutex<Vec<(i32, i32)>>,
}

impl Default for Fake {
    fn default() -> Fake {
        Fake {
            versions: NEW,
            groups: vec![
                ("orders", "consumer", "Stable"),
                ("billing", "", "Empty"),
                ("connect", "connect", "Stable"),
            ],
            list_error: 0,
            fetches: AtomicBool::new(true),
            ends: Arc::default(),
            closes: AtomicBool::new(false),
            fetch_error: 1,
            says_offsets: true,
            assigned: 2,
            ends_asked: Mutex::default(),
        }
    }
}

impl Fake {
    fn answer(&self, asked: ReceivedRequest, rest: &[u8]) -> Answer {
        match asked.api {
            18 => {
                let count = (self.versions.len() as i32).to_be_bytes();
                let mut body = [&[0, 0][..], &count].concat();
                for (key, oldest, newest) in self.versions {
                    for number in [key, oldest, newest] {
                        body.extend(number.to_be_bytes());
                    }
                }
                Answer::Body(body)
            }
            3 => encoded(&metadata(), asked.version),
            1 if self.closes.load(Ordering::SeqCst) => Answer::RawThenClose(Vec::new()),
            1 if !self.fetches.load(Ordering::SeqCst) => Answer::CloseLater(Arc::clone(&self.ends)),
            1 => {
                let partition = PartitionData::default().with_error_code(self.fetch_error);
                let of_topic = FetchableTopicResponse::default()
                    .with_topic(topic("t"))
                    .with_partitions(vec![partition]);
                // Of what is read, version 2 has the same.
                encoded(&FetchResponse::default().with_responses(vec![of_topic]), 4)
            }
            16 => {
                let group = |(name, protocol, state): &(&str, &str, &str)| {
                    let group = ListedGroup::default()
                        .with_group_id(GroupId(text(name)))
                        .with_protocol_type(text(protocol));
                    match asked.version {
                        4 => group.with_group_state(text(state)),
                        _ => group,
                    }
                };
                let message = ListGroupsResponse::default()
                    .with_error_code(self.list_error)
                    .with_groups(self.groups.iter().map(group).collect());
                // The header of a flexible response ends with its tagged fields.
                let mut bytes = vec![0; usize::from(asked.version == 4)];
                message.encode(&mut bytes, asked.version).unwrap();
                Answer::Body(bytes)
            }
            15 => {
                let mut body = rest;
                let request = DescribeGroupsRequest::decode(&mut body, 0).unwrap();
                match request.groups.iter().any(|group| &*group.0 == HUGE) {
                    true => too_long(),
                    false => encoded(&self.described(&request), 0),
                }
            }
            9 if !self.says_offsets => Answer::Silence,
            9 => {
                let mut body = rest;
                let request = OffsetFetchRequest::decode(&mut body, asked.version).unwrap();
                assert_eq!(request.topics.is_none(), asked.version == 2);
                if &*request.group_id.0 == HUGE {
                    return too_long();
                }
                offsets(&request.group_id, asked.version)
            }
            2 => {
                let mut body = rest;
                let request = ListOffsetsRequest::decode(&mut body, 1).unwrap();
                self.ends(&request)
            }
            other => panic!("nobody asks for {other}"),
        }
    }

    fn described(&self, request: &DescribeGroupsRequest) -> DescribeGroupsResponse {
        let of = AssignedTopic::default()
            .with_topic(topic("t"))
            .with_partitions((0..self.assigned).rev().collect());
        let assignment = ConsumerProtocolAssignment::default().with_assigned_partitions(vec![of]);
        let mut bytes = vec![0, 0];
        assignment.encode(&mut bytes, 0).unwrap();
        let group = |(name, protocol, state): &(&str, &str, &str)| {
            let member =
                DescribedGroupMember::default().with_member_assignment(bytes.clone().into());
            let members = if *state == "Stable" {
                vec![member]
            } else {
                Vec::new()
            };
            DescribedGroup::default()
                .with_group_id(GroupId(text(name)))
                .with_protocol_type(text(protocol))
                .with_group_state(text(state))
                .with_members(members)
        };
        let is_asked_for = |(name, ..): &&(&str, &str, &str)| {
            let mut names = request.groups.iter();
            names.any(|asked| &*asked.0 == *name)
        };
        let groups = self.groups.iter().filter(is_asked_for).map(group);
        DescribeGroupsResponse::default().with_groups(groups.collect())
    }

    /// It leads partition 0, which ends at 100, and follows partition 1, of which it has 50 records.
    fn ends(&self, request: &ListOffsetsRequest) -> Answer {
        let who = request.replica_id.0;
        let of_topic = |of: &kafka_protocol::messages::list_offsets_request::ListOffsetsTopic| {
            let end = |index: i32| {
                self.ends_asked.lock().unwrap().push((who, index));
                let (error, offset) = match (index, who) {
                    (0, _) => (0, 100),
                    (1, DEBUGGING) => (0, 50),
                    (1, _) => (6, -1),
                    _ => (3, -1),
                };
                ListOffsetsPartitionResponse::default()
                    .with_partition_index(index)
                    .with_error_code(error)
                    .with_offset(offset)
            };
            let partitions = of.partitions.iter().map(|one| end(one.partition_index));
            ListOffsetsTopicResponse::default()
                .with_name(of.name.clone())
                .with_partitions(partitions.collect())
        };
        let topics = request.topics.iter().map(of_topic).collect();
        encoded(&ListOffsetsResponse::default().with_topics(topics), 1)
    }

    pub(super) async fn start(self) -> (Arc<Fake>, FakeBroker) {
        let fake = Arc::new(self);
        let answers = Arc::clone(&fake);
        let broker =
            FakeBroker::start_reading(move |asked, rest| answers.answer(asked, rest)).await;
        (fake, broker)
    }
}

/// A group about which more is said than is read.
pub(super) const HUGE: &str = "huge";

fn too_long() -> Answer {
    Answer::Body(vec![0; 9 << 20])
}

const DEBUGGING: i32 = kafka::DEBUGGING;

/// What a group has committed for partitions 0 and 1, and nothing for partition 2.
fn offsets(group: &GroupId, version: i16) -> Answer {
    let committed = |index, offset| {
        OffsetFetchResponsePartition::default()
            .with_partition_index(index)
            .with_committed_offset(offset)
            .with_metadata(Some(text("")))
    };
    let partitions = match &*group.0 {
        "orders" => vec![committed(0, 90), committed(1, 45), committed(2, -1)],
        "billing" => vec![committed(0, 100)],
        many if many.starts_with("many") => Vec::new(),
        other => panic!("{other} is no group of consumers"),
    };
    let of_topic = OffsetFetchResponseTopic::default()
        .with_name(topic("t"))
        .with_partitions(partitions);
    encoded(
        &OffsetFetchResponse::default().with_topics(vec![of_topic]),
        version,
    )
}

/// One broker, which leads partition 0 of t.
fn metadata() -> MetadataResponse {
    let broker = MetadataResponseBroker::default()
        .with_node_id(BrokerId(2))
        .with_host(text("127.0.0.1"))
        .with_port(1);
    let partition = MetadataResponsePartition::default()
        .with_leader_id(BrokerId(2))
        .with_replica_nodes(vec![BrokerId(2)])
        .with_isr_nodes(vec![BrokerId(2)]);
    let of_topic = MetadataResponseTopic::default()
        .with_name(Some(topic("t")))
        .with_partitions(vec![partition]);
    MetadataResponse::default()
        .with_brokers(vec![broker])
        .with_topics(vec![of_topic])
}
