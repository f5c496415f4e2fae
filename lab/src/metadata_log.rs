//! Writes KRaft metadata logs as Kafka does: values of records by hand, batches with the crate kafka-protocol.

use anyhow::Result;
use kafka_protocol::records::{
    Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};

/// The id of a topic.
pub type Uuid = [u8; 16];

/// The value of a record: frame version, kind, version, fields.
struct Value(Vec<u8>);

impl Value {
    fn new(kind: u32, version: u32) -> Value {
        Value(Vec::new()).number(1).number(kind).number(version)
    }

    /// An unsigned number of variable length.
    fn number(mut self, mut number: u32) -> Value {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Value {
        self.0.extend_from_slice(bytes);
        self
    }

    fn int32(self, number: i32) -> Value {
        self.bytes(&number.to_be_bytes())
    }

    fn int64(self, number: i64) -> Value {
        self.bytes(&number.to_be_bytes())
    }

    fn length(self, length: usize) -> Value {
        self.number(length as u32 + 1)
    }

    fn text(self, text: &str) -> Value {
        self.length(text.len()).bytes(text.as_bytes())
    }

    fn ids(self, ids: &[i32]) -> Value {
        let value = self.length(ids.len());
        ids.iter().fold(value, |value, id| value.int32(*id))
    }

    /// Ends the value with these tagged fields, sorted by tag.
    fn tagged(self, fields: &[(u32, Vec<u8>)]) -> Vec<u8> {
        let value = self.number(fields.len() as u32);
        let field = |value: Value, (tag, bytes): &(u32, Vec<u8>)| {
            value.number(*tag).number(bytes.len() as u32).bytes(bytes)
        };
        fields.iter().fold(value, field).0
    }

    fn end(self) -> Vec<u8> {
        self.tagged(&[])
    }
}

/// In the given version, 0 to 4, with one PLAINTEXT listener behind one of another protocol.
pub fn register_broker(version: u32, id: i32, port: u16, fenced: bool, shutdown: bool) -> Vec<u8> {
    let mut value = Value::new(0, version).int32(id);
    if version >= 2 {
        value = value.bytes(&[0]);
    }
    value = value.bytes(&[7; 16]).int64(42).length(2);
    for (name, host, port, protocol) in [
        ("SECURE", "secure.example", 1, 3_i16),
        ("PLAIN", "host.example", port, 0),
    ] {
        value = value.text(name).text(host).bytes(&port.to_be_bytes());
        value = value.bytes(&protocol.to_be_bytes()).number(0);
    }
    value = value
        .length(1)
        .text("metadata.version")
        .bytes(&[0, 1, 0, 25, 0]);
    // No rack.
    value = value.number(0).bytes(&[fenced.into()]);
    if version >= 1 {
        value = value.bytes(&[shutdown.into()]);
    }
    let directories = |count: u8| [&[count + 1][..], &vec![9; 16 * usize::from(count)]].concat();
    match version {
        0..=2 => value.end(),
        3 => value.tagged(&[(0, directories(1))]),
        _ => value.tagged(&[(0, directories(2)), (1, directories(1))]),
    }
}

pub fn unregister_broker(id: i32) -> Vec<u8> {
    Value::new(1, 0).int32(id).int64(42).end()
}

/// 1 fences, -1 ends that, 0 leaves it.
pub fn broker_change(id: i32, fenced: i8, shutdown: bool) -> Vec<u8> {
    let mut fields = Vec::new();
    if fenced != 0 {
        fields.push((0, fenced.to_be_bytes().to_vec()));
    }
    if shutdown {
        fields.push((1, vec![1]));
    }
    Value::new(17, 1).int32(id).int64(42).tagged(&fields)
}

/// As metadata versions before 3.3 fence.
pub fn fence_broker(id: i32, fenced: bool) -> Vec<u8> {
    let kind = if fenced { 7 } else { 8 };
    Value::new(kind, 0).int32(id).int64(42).end()
}

pub fn topic(name: &str, id: Uuid) -> Vec<u8> {
    Value::new(2, 0).text(name).bytes(&id).end()
}

pub fn remove_topic(id: Uuid) -> Vec<u8> {
    Value::new(9, 0).bytes(&id).end()
}

/// A partition; in a change, None leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Partition {
    pub topic: Uuid,
    pub index: i32,
    pub replicas: Option<Vec<i32>>,
    pub isr: Option<Vec<i32>>,
    pub removing: Option<Vec<i32>>,
    pub adding: Option<Vec<i32>>,
    pub leader: Option<i32>,
}

/// In the given version, 0 to 2.
pub fn partition(version: u32, of: &Partition) -> Vec<u8> {
    let list = |ids: &Option<Vec<i32>>| ids.clone().unwrap_or_default();
    let replicas = list(&of.replicas);
    let mut value = Value::new(3, version).int32(of.index).bytes(&of.topic);
    value = value.ids(&replicas).ids(&list(&of.isr));
    value = value.ids(&list(&of.removing)).ids(&list(&of.adding));
    value = value.int32(of.leader.unwrap_or(-1)).int32(3).int32(5);
    if version >= 1 {
        value = value.length(replicas.len());
        value = value.bytes(&vec![9; 16 * replicas.len()]);
    }
    match version {
        0 | 1 => value.end(),
        // The eligible leader replicas.
        _ => value.tagged(&[(1, Value(Vec::new()).ids(&replicas).0)]),
    }
}

pub fn partition_change(of: &Partition) -> Vec<u8> {
    let list = |tag, ids: &Option<Vec<i32>>| {
        let ids = ids.as_ref()?;
        Some((tag, Value(Vec::new()).ids(ids).0))
    };
    let leader = of.leader.map(|id| (1, id.to_be_bytes().to_vec()));
    let fields = [
        list(0, &of.isr),
        leader,
        list(2, &of.replicas),
        list(3, &of.removing),
        list(4, &of.adding),
    ];
    let fields: Vec<_> = fields.into_iter().flatten().collect();
    let value = Value::new(5, 1).int32(of.index).bytes(&of.topic);
    value.tagged(&fields)
}

/// `kind` is 2 for a topic and 4 for a broker.
pub fn config(kind: u8, of: &str, key: &str, setting: Option<&str>) -> Vec<u8> {
    let value = Value::new(4, 0).bytes(&[kind]).text(of).text(key);
    match setting {
        Some(setting) => value.text(setting).end(),
        None => value.number(0).end(),
    }
}

pub fn migration(state: u8) -> Vec<u8> {
    Value::new(21, 0).bytes(&[state]).end()
}

pub fn no_op() -> Vec<u8> {
    Value::new(20, 0).end()
}

pub fn begin_transaction() -> Vec<u8> {
    let name = Value(Vec::new()).text("a name").0;
    Value::new(23, 0).tagged(&[(0, name)])
}

pub fn end_transaction() -> Vec<u8> {
    Value::new(24, 0).end()
}

pub fn abort_transaction() -> Vec<u8> {
    Value::new(25, 0).end()
}

/// Of any kind and version, without fields.
pub fn other(kind: u32, version: u32) -> Vec<u8> {
    Value::new(kind, version).end()
}

/// Encodes records as one batch.
pub fn batch(base: i64, epoch: i32, written: i64, values: &[Vec<u8>]) -> Result<Vec<u8>> {
    let values = values.iter().map(|value| (None, value.clone()));
    encode(base, epoch, written, false, values)
}

/// A batch of a control record: the type is 2 for a change of the leader, 3 and 4 for a snapshot's header and footer.
pub fn control_batch(base: i64, epoch: i32, written: i64, kind: u8) -> Result<Vec<u8>> {
    let record = (Some(vec![0, 0, 0, kind]), vec![0; 4]);
    encode(base, epoch, written, true, [record].into_iter())
}

/// A snapshot: its records in batches of at most `each` between header and footer.
pub fn snapshot(epoch: i32, written: i64, values: &[Vec<u8>], each: usize) -> Result<Vec<u8>> {
    let mut bytes = control_batch(0, epoch, written, 3)?;
    let mut base = 1;
    for values in values.chunks(each) {
        bytes.extend(batch(base, epoch, written, values)?);
        base += values.len() as i64;
    }
    bytes.extend(control_batch(base, epoch, written, 4)?);
    Ok(bytes)
}

fn encode(
    base: i64,
    epoch: i32,
    written: i64,
    control: bool,
    records: impl Iterator<Item = (Option<Vec<u8>>, Vec<u8>)>,
) -> Result<Vec<u8>> {
    let record = |(index, (key, value)): (i32, (Option<Vec<u8>>, Vec<u8>))| Record {
        transactional: false,
        control,
        delete_horizon: false,
        partition_leader_epoch: epoch,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset: base + i64::from(index),
        sequence: index,
        timestamp: written,
        key: key.map(Into::into),
        value: Some(value.into()),
        headers: Default::default(),
    };
    let records: Vec<Record> = (0..).zip(records).map(record).collect();
    let options = RecordEncodeOptions {
        version: 2,
        compression: Compression::None,
    };
    let mut bytes = Vec::new();
    RecordBatchEncoder::encode(&mut bytes, &records, &options)?;
    Ok(bytes)
}
