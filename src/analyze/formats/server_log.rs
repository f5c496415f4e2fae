//! Logs of Kafka's brokers and clients, in log4j's usual forms: what they say about a broker that no longer answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use super::{Pattern, sockets};

/// Limit of each collection; no broker has as many partitions.
const KEPT: usize = 100_000;

/// Length of a time to the second.
const SECONDS: usize = "2020-04-22 10:43:36".len();

/// Times are as printed, to the second: `2020-04-22 10:43:36`.
#[derive(Debug, Default)]
pub struct Log<'a> {
    /// Lines that begin with a time and a level.
    pub lines: u64,
    pub last: &'a str,
    /// A broker's classes wrote lines, as `kafka.server.KafkaServer`.
    pub broker: bool,
    /// A producer or consumer wrote lines.
    pub client: bool,
    /// Ids that the log's own broker gives itself. More than one: several brokers wrote it, or it was misunderstood.
    pub ids: BTreeSet<i32>,
    pub version: Option<&'a str>,
    /// Values of the settings as the broker logs them at its start.
    pub listeners: Option<&'a str>,
    pub log_dirs: Option<&'a str>,
    /// Addresses of brokers: `127.0.0.1:9092 (id: 2 rack: null)`.
    pub addresses: BTreeMap<std::net::SocketAddr, i32>,
    /// Connections that a broker, by id, closed without an answer.
    pub disconnects: BTreeMap<i32, Times<'a>>,
    /// The last change of each ISR, by partition: `t-3` or `[t,3]`.
    pub isr_changes: BTreeMap<&'a str, IsrChange<'a>>,
    /// Produce errors, by name and partition `t-3`.
    pub produce_errors: BTreeMap<(&'a str, &'a str), u64>,
    /// Requests of a client whose connection ended before the answer.
    pub unanswered: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Times<'a> {
    pub count: u64,
    pub first: &'a str,
    pub last: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IsrChange<'a> {
    pub time: &'a str,
    /// `2,1,3`
    pub from: &'a str,
    pub to: &'a str,
}

/// None where no line of the text is one of Kafka's log lines.
pub fn parse(text: &str) -> Option<Log<'_>> {
    let mut log = Log::default();
    for line in text.lines() {
        match line.as_bytes().first() {
            Some(b'\t' | b' ') => log.setting(line),
            Some(b'[' | b'0'..=b'9') => log.line(line),
            _ => log.exception(line),
        }
    }
    (log.broker || log.client).then_some(log)
}

/// `[2020-04-22 10:43:36,369] WARN message` or `2020-04-22 10:43:36,369 WARN message`.
static LINE_START: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"^ \[? \d{4}-\d\d-\d\d\ \d\d:\d\d:\d\d \S* \s+ (?: TRACE|DEBUG|INFO|WARN|ERROR|FATAL ) \s+",
    )
});

static SETTING: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"^\s+ (?<key> broker\.id | node\.id | listeners | log\.dirs? ) \ =\  (?<value>.*)",
    )
});

static BROKER_CLASS: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(r"\(kafka\.(?: server | log | cluster | coordinator | network )\.")
});

/// The broker that wrote a line, from its first words in brackets, which may contain other ids as well.
static WRITER: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"^ \[ [^\]]*? (?: Kafka\ Server\  | KafkaServer\ id= | BrokerServer\ id= | n\ [Bb]roker\  | \ broker= )
          (?<id>\d+)",
    )
});

static VERSION: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::new(r"^ Kafka\ version .*? :\  (?<version>\S+)"));

/// `h/127.0.0.1:9092 (id: 2 rack: null)`
static ADDRESS: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::new(r"(?<address>[^\s/]+) \ \(id:\  (?<id>\d+)"));

/// `Partition [t,3] on broker 2: Shrinking ISR for partition [t,3] from 2,1,3 to 2 (kafka.cluster.Partition)`,
/// later `[Partition t-3 broker=2] Shrinking ISR from 2,1,3 to 2. Leader: ...`.
static ISR_CHANGE: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"Partition\  (?<partition>\S+) \  (?: on\ broker\  (?<id>\d+) )? .*?
          (?: Shrinking | Expanding )\ ISR\  .*? from\  (?<from>[\d,]+) \ to\  (?<to>[\d,]+)",
    )
});

static PRODUCE_ERROR: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"on\ topic-partition\  (?<partition>\S+) ,\ retrying .*? Error:\  (?<error>[^\s.]+)",
    )
});

/// A refused connection is no such sign: a broker that starts or is down refuses connections.
static DISCONNECT: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(r"Connection\ to\  (?<id>\d+) .* was\ disconnected\ before\ the\ response")
});

impl<'a> Log<'a> {
    fn setting(&mut self, line: &'a str) {
        let Some([key, value]) = SETTING.groups(line) else {
            return;
        };
        // From 4.0 on lists are in brackets.
        let list = value
            .strip_prefix('[')
            .and_then(|list| list.strip_suffix(']'));
        let value = list.unwrap_or(value);
        match key {
            "listeners" => self.listeners = Some(value),
            "log.dirs" if value != "null" => self.log_dirs = Some(value),
            "log.dir" => self.log_dirs = self.log_dirs.or(Some(value)),
            "broker.id" | "node.id" => self.add_id(value),
            _ => {}
        }
    }

    /// A negative id stands for one that is not set.
    fn add_id(&mut self, id: &str) {
        if self.ids.len() < KEPT {
            self.ids
                .extend(id.parse::<i32>().ok().filter(|id| *id >= 0));
        }
    }

    fn line(&mut self, line: &'a str) {
        let Some((start, message)) = LINE_START.prefix(line) else {
            return;
        };
        let time = start.strip_prefix('[').unwrap_or(start);
        let time = time.get(..SECONDS).unwrap_or(time);
        self.lines += 1;
        self.last = time;
        self.broker = self.broker || BROKER_CLASS.is_match(message);
        self.client = self.client || message.contains("(org.apache.kafka.clients.");
        if let Some([id]) = WRITER.groups(message) {
            self.add_id(id);
        }
        if let Some([version]) = VERSION.groups(message) {
            self.version = Some(version);
        }
        if let Some([address, id]) = ADDRESS.groups(message)
            && let (Some(address), Ok(id)) = (sockets::address(address), id.parse())
            && self.addresses.len() < KEPT
        {
            self.addresses.insert(address, id);
        }
        if let Some([partition, id, from, to]) = ISR_CHANGE.groups(message)
            && self.isr_changes.len() < KEPT
        {
            self.add_id(id);
            let change = IsrChange { time, from, to };
            self.isr_changes.insert(partition, change);
        }
        if let Some([partition, error]) = PRODUCE_ERROR.groups(message)
            && self.produce_errors.len() < KEPT
        {
            *self.produce_errors.entry((error, partition)).or_default() += 1;
        }
        self.exception(message);
    }

    /// An exception, mostly on a line of its own below the one with the time.
    fn exception(&mut self, text: &'a str) {
        if let Some([id]) = DISCONNECT.groups(text)
            && let Ok(id) = id.parse()
            && self.disconnects.len() < KEPT
        {
            let times = self.disconnects.entry(id).or_insert(Times {
                first: self.last,
                ..Times::default()
            });
            times.count += 1;
            times.last = self.last;
        }
        if text.contains("server disconnected before a response was received") {
            self.unanswered += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Lines that brokers 0.10.1.0 and 2.8 and a console producer wrote.
    #[test]
    fn what_the_lines_say() {
        let text = "[2026-11-22 14:33:06,485] INFO KafkaConfig values: \n\
                    \tbroker.id = 2\n\tlisteners = PLAINTEXT://127.0.0.1:59093\n\tlog.dirs = [/srv/data2]\n (kafka.server.KafkaConfig)\n\
                    2026-11-22 14:33:07,000 INFO Kafka version : 0.10.1.0 (org.apache.kafka.common.utils.AppInfoParser)\n\
                    [2026-11-22 14:33:07,261] INFO [Controller-1-to-broker-2-send-thread], Controller 1 connected to 127.0.0.1:59092 (id: 1 rack: null) for sending state change requests (kafka.controller.RequestSendThread)\n\
                    [2026-11-22 14:33:37,080] INFO Partition [t,21] on broker 2: Shrinking ISR for partition [t,21] from 2,1,3 to 2 (kafka.cluster.Partition)\n\
                    [2026-11-22 14:33:38,000] INFO [Partition u-0 broker=2] Shrinking ISR from 2,1 to 2. Leader: (highWatermark: 1) (kafka.cluster.Partition)\n\
                    [2026-11-22 14:33:39,000] INFO [Partition u-0 broker=2] Expanding ISR from 2 to 2,1 (kafka.cluster.Partition)\n\
                    [2026-11-22 14:33:54,555] WARN [ReplicaFetcherThread-0-3], Error in fetch (kafka.server.ReplicaFetcherThread)\n\
                    java.io.IOException: Connection to 3 was disconnected before the response was read\n\
                    \tat kafka.utils.ShutdownableThread.run(ShutdownableThread.scala:63)\n\
                    [2026-11-22 14:33:55,000] WARN [RequestSendThread controllerId=2] Connection to node 3 (h/127.0.0.1:59094) could not be established. Broker may not be available. (org.apache.kafka.clients.NetworkClient)\n\
                    [2026-11-22 14:33:56,589] WARN Got error produce response with correlation id 2 on topic-partition t.x-19, retrying (2 attempts left). Error: NETWORK_EXCEPTION (org.apache.kafka.clients.producer.internals.Sender)\n\
                    org.apache.kafka.common.errors.NetworkException: The server disconnected before a response was received.\n";
        let log = parse(text).unwrap();
        assert_eq!(
            (log.lines, log.last, log.broker, log.client),
            (9, "2026-11-22 14:33:56", true, true)
        );
        assert_eq!(
            (log.ids, log.version),
            (BTreeSet::from([2]), Some("0.10.1.0"))
        );
        assert_eq!(
            (log.listeners, log.log_dirs),
            (Some("PLAINTEXT://127.0.0.1:59093"), Some("/srv/data2"))
        );
        assert_eq!(
            log.addresses,
            BTreeMap::from([("127.0.0.1:59092".parse().unwrap(), 1)])
        );
        let times = Times {
            count: 1,
            first: "2026-11-22 14:33:54",
            last: "2026-11-22 14:33:54",
        };
        assert_eq!(log.disconnects, BTreeMap::from([(3, times)]));
        let shrunk = IsrChange {
            time: "2026-11-22 14:33:37",
            from: "2,1,3",
            to: "2",
        };
        let grown = IsrChange {
            time: "2026-11-22 14:33:39",
            from: "2",
            to: "2,1",
        };
        assert_eq!(
            log.isr_changes,
            BTreeMap::from([("[t,21]", shrunk), ("u-0", grown)])
        );
        assert_eq!(
            log.produce_errors,
            BTreeMap::from([(("NETWORK_EXCEPTION", "t.x-19"), 1)])
        );
        assert_eq!(log.unanswered, 1);
        assert!(parse("[2026-11-22 14:33:39,000] INFO another program\nbroker.id = 3\n").is_none());
    }
}
