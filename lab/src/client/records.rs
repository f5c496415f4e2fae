//! Requests of producers and consumers, whose answers are checked.

use std::io;
use std::time::Duration;

use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{FetchRequest, OffsetCommitRequest, ProduceRequest};
use kafka_protocol::protocol::Request as _;
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, Record,
    RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};

use super::{Connection, Member, OFFSET_COMMIT, check, encoded, fetch_request, invalid, name};

const PRODUCE: i16 = 3;
/// In the answer to a Fetch: the time of throttling and the number of topics come before the topic's name.
const TOPIC_AT: usize = 8;

impl Connection {
    /// Appends a record of that many bytes for all in-sync replicas, and returns its offset. `old` is for brokers before
    /// 0.11.
    pub fn produce(
        &mut self,
        old: bool,
        topic: &str,
        partition: i32,
        size: usize,
    ) -> io::Result<i64> {
        let records = if old {
            message_set(size)
        } else {
            record_batch(size)?
        };
        let partition = PartitionProduceData::default()
            .with_index(partition)
            .with_records(Some(records.into()));
        let topic_data = TopicProduceData::default()
            .with_name(name(topic))
            .with_partition_data(vec![partition]);
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(5_000)
            .with_topic_data(vec![topic_data]);
        let bytes = encoded(&request, PRODUCE)?;
        // Version 2 has no transactional id, which is null here: two bytes.
        let (version, bytes) = if old {
            (2, &bytes[2..])
        } else {
            (3, &bytes[..])
        };
        self.send_encoded(ProduceRequest::KEY, version, bytes)?;
        let answer = self.answer::<ProduceRequest>(PRODUCE)?;
        let mut partitions = answer
            .responses
            .iter()
            .flat_map(|of| &of.partition_responses);
        let appended = partitions
            .next()
            .ok_or_else(|| invalid("a Produce answer without a partition"))?;
        check("Produce", topic, appended.error_code)?;
        Ok(appended.base_offset)
    }

    /// Fetches from an offset, and returns the high watermark. The broker answers when there are bytes, or at the end of
    /// `wait`.
    pub fn fetch_from(
        &mut self,
        version: i16,
        topic: &str,
        partition: i32,
        offset: i64,
        wait: Duration,
    ) -> io::Result<i64> {
        let request = fetch_request(version, topic, &[partition], offset, wait, 1)?;
        self.send_encoded(FetchRequest::KEY, version, &request)?;
        let body = self.body()?;
        let (error, high_watermark) =
            fetched(&body).ok_or_else(|| invalid("a Fetch answer without a partition"))?;
        check("Fetch", topic, error)?;
        Ok(high_watermark)
    }

    /// Commits one offset; an error where the broker does not take it.
    pub fn commit_checked(&mut self, group: &str, topic: &str) -> io::Result<()> {
        self.send_commit(&Member::simple(group), topic, 1)?;
        let answer = self.answer::<OffsetCommitRequest>(OFFSET_COMMIT)?;
        let mut errors = answer.topics.iter().flat_map(|of| &of.partitions);
        errors.try_for_each(|of| check("OffsetCommit", group, of.error_code))
    }
}

/// Returns the error and the high watermark of the first partition in the body of a Fetch answer, version 3 or 4.
fn fetched(body: &[u8]) -> Option<(i16, i64)> {
    let length = body.get(TOPIC_AT..TOPIC_AT + 2)?;
    let length = usize::from(u16::from_be_bytes(length.try_into().ok()?));
    // The number of partitions and the index come before the error.
    let error = TOPIC_AT + 2 + length + 8;
    let code = i16::from_be_bytes(body.get(error..error + 2)?.try_into().ok()?);
    let watermark = i64::from_be_bytes(body.get(error + 2..error + 10)?.try_into().ok()?);
    Some((code, watermark))
}

fn record_batch(size: usize) -> io::Result<Vec<u8>> {
    let record = Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        timestamp_type: TimestampType::Creation,
        offset: 0,
        sequence: NO_SEQUENCE,
        timestamp: now(),
        key: Some(b"k".as_slice().into()),
        value: Some(vec![b'v'; size].into()),
        headers: Default::default(),
    };
    let options = RecordEncodeOptions {
        version: 2,
        compression: Compression::None,
    };
    let mut bytes = Vec::new();
    RecordBatchEncoder::encode(&mut bytes, [&record], &options).map_err(invalid)?;
    Ok(bytes)
}

/// Encodes one message of the format before 0.11, which kafka-protocol does not write.
fn message_set(size: usize) -> Vec<u8> {
    let mut message = vec![1, 0];
    message.extend(now().to_be_bytes());
    message.extend(1_i32.to_be_bytes());
    message.push(b'k');
    message.extend((size as i32).to_be_bytes());
    message.extend(vec![b'v'; size]);
    let mut set = 0_i64.to_be_bytes().to_vec();
    set.extend((message.len() as i32 + 4).to_be_bytes());
    set.extend(crc32(&message).to_be_bytes());
    set.extend(message);
    set
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

/// CRC-32 of IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_ieee() {
        // The check value of the CRC catalogue.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn error_and_high_watermark_are_found_in_a_fetch_answer() {
        let body = [
            &[0, 0, 0, 0][..],
            &[0, 0, 0, 1],
            &[0, 1, b't'],
            &[0, 0, 0, 1],
            &[0, 0, 0, 7],
            &[0, 6],
            &[0, 0, 0, 0, 0, 0, 1, 2],
            &[0xff; 4],
        ];
        assert_eq!(fetched(&body.concat()), Some((6, 258)));
        assert_eq!(fetched(&body[..5].concat()), None);
    }
}
