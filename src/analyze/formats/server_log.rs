//! Logs of Kafka's brokers and clients, in log4j's usual forms: what they say about a broker that no longer answers.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::{Pattern, sockets};
use crate::threads::log_signatures::pattern_of;

/// Limit of each collection; no broker has as many partitions.
const KEPT: usize = 100_000;

/// Length of a time to the second.
pub const SECONDS: usize = "2020-04-22 10:43:36".len();

/// Times are as printed, to the second: `2020-04-22 10:43:36`.
#[derive(Debug, Default, PartialEq)]
pub struct Log<'a> {
    /// Lines that begin with a level, or with a time and a level.
    pub lines: u64,
    pub first: &'a str,
    pub last: &'a str,
    /// A broker's classes wrote lines, as `kafka.server.KafkaServer`.
    pub broker: bool,
    /// A producer or consumer wrote lines.
    pub client: bool,
    /// Classes wrote lines that brokers and clients have.
    pub either: bool,
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
    text.lines().for_each(|line| log.read(line));
    log.broker |= log.either && !log.client;
    (log.broker || log.client).then_some(log)
}

impl Log<'_> {
    /// Lines that are alike, of which a long log has at most [`KEPT_ALIKE`] here.
    pub fn alike(&self) -> u64 {
        let disconnects = self.disconnects.values().map(|times| times.count);
        disconnects.sum::<u64>() + self.produce_errors.values().sum::<u64>() + self.unanswered
    }
}

/// Lines about lost connections and failed requests that are kept of a long log; then only those that name another broker
/// or partition, and the last one about each broker.
pub const KEPT_ALIKE: u64 = 10_000;

/// What the lines before have shown, by which [`says`] decides.
#[derive(Debug, Default)]
pub struct Known {
    kinds: [bool; 3],
    ids: BTreeSet<i32>,
    addresses: BTreeMap<std::net::SocketAddr, i32>,
    alike: u64,
    disconnects: BTreeSet<i32>,
    /// Errors with their partitions.
    produce_errors: HashSet<(String, String)>,
}

impl Known {
    /// Whether there are so many lines that are alike that this one is left out.
    fn has_enough(&mut self, log: &Log<'_>) -> bool {
        let alike = log.alike();
        self.alike += alike;
        let mut is_new = false;
        for id in log.disconnects.keys() {
            is_new |= self.disconnects.len() < KEPT && self.disconnects.insert(*id);
        }
        for (error, partition) in log.produce_errors.keys() {
            is_new |= self.produce_errors.len() < KEPT
                && self
                    .produce_errors
                    .insert(((*error).to_owned(), (*partition).to_owned()));
        }
        alike > 0 && !is_new && self.alike > KEPT_ALIKE
    }
}

/// What a single line of a long log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saying<'a> {
    /// [`parse`] makes something of it.
    Something,
    /// Only a change of the ISR of this partition, of which [`parse`] keeps the last one.
    IsrChange(&'a str),
    /// It is like enough others.
    Alike(Alike),
    /// A line with a time and a level that says nothing.
    Nothing,
    /// No line with a time and a level.
    OtherLine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alike {
    /// To which broker a connection was lost, if it says so.
    pub disconnect: Option<i32>,
    /// It has no time of its own.
    pub is_below: bool,
}

/// What [`parse`] would make of a line.
pub fn says<'a>(line: &'a str, known: &mut Known) -> Saying<'a> {
    let [broker, client, either] = known.kinds;
    let mut log = Log {
        broker,
        client,
        either,
        ..Log::default()
    };
    log.read(line);
    let is_line = log.lines > 0;
    let kinds = [log.broker, log.client, log.either];
    log.ids.retain(|id| !known.ids.contains(id));
    log.addresses
        .retain(|address, id| known.addresses.get(address) != Some(id));
    let is_new = kinds != known.kinds;
    let isr_change = std::mem::take(&mut log.isr_changes).pop_first();
    let mut alike = None;
    if known.has_enough(&log) {
        alike = Some(Alike {
            disconnect: log.disconnects.pop_first().map(|(id, _)| id),
            is_below: !is_line,
        });
        (log.disconnects, log.produce_errors, log.unanswered) = Default::default();
    }
    let rest = Log {
        lines: 0,
        first: "",
        last: "",
        broker: false,
        client: false,
        either: false,
        ..log
    };
    let says_something = is_new || rest != Log::default();
    known.kinds = kinds;
    if known.ids.len() + known.addresses.len() < KEPT {
        known.ids.extend(&rest.ids);
        known.addresses.extend(&rest.addresses);
    }
    match (says_something, isr_change, alike) {
        (true, _, _) => Saying::Something,
        (false, Some((partition, _)), _) => Saying::IsrChange(partition),
        (false, None, Some(alike)) => Saying::Alike(alike),
        (false, None, None) if is_line => Saying::Nothing,
        (false, None, None) => Saying::OtherLine,
    }
}

/// `[2020-04-22 10:43:36,369] WARN `, `2020-04-22T10:43:36.369Z [main] INFO `, `10:43:36.369 [main] INFO `, `WARN `.
static LINE_START: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"^ (?: \[? (?: \d{4}[-/]\d\d[-/]\d\d [T\ ] )? \d\d:\d\d:\d\d [^\s\]]* \]? \s+ )?
          (?: \[ [^\]]* \] \s+ )? \[? (?: TRACE|DEBUG|INFO|WARN|WARNING|ERROR|FATAL ) \]? :? \s+",
    )
});

/// The class before the message: `kafka.server.KafkaServer - `, Spring's `1 --- [main] o.a.k.clients.NetworkClient  : `,
/// Strimzi's `[main] KafkaServer:66 - `.
static LOGGER: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"^ (?: \d+ \s+ (?: --- \s+ )? )? (?: \[ [^\]]* \] \s* ){0,2}
          (?: [A-Za-z_][\w$-]* (?: \. [\w$]+ )+ (?: :\d+ )? (?: \s* \[\] )? \s* [:-] \s | \w+:\d+ \s - \s
            | \[? (?: kafka | org\.apache\.kafka ) \. [\w$.]+ \]? :? \s ) \s*",
    )
});

static SETTING: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"^\s+ (?<key> broker\.id | node\.id | listeners | log\.dirs? ) \ =\  (?<value>.*)",
    )
});

/// Classes of brokers and KRaft controllers.
const BROKER_CLASSES: &str = r"(?: (?: kafka | org\.apache\.kafka ) \.
    (?: server | log | cluster | coordinator | network | controller | raft | zk | zookeeper | metadata | image | storage ) \.
    | state\.change\.logger )";

/// A class in parentheses, or before the message.
static BROKER_CLASS: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::new(&format!(r"\( {BROKER_CLASSES}")));
static BROKER_LOGGER: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::new(&format!(r"(?: ^ | [\s\[] ) {BROKER_CLASSES}")));
/// Of the clients in Java, and of the old ones in Scala.
static CLIENT_CLASS: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"\( (?: org\.apache\.kafka\.clients | kafka\.(?: consumer | producer | client ) ) \.",
    )
});
static CLIENT_LOGGER: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"(?: ^ | [\s\[] ) (?: (?: org\.apache\.kafka | o\.a\.k(?:afka)? ) \. (?: clients | c ) | kafka\.(?: consumer | producer | client ) ) \.",
    )
});
static EITHER_CLASS: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(r"[\s(\[] (?: kafka\.utils | org\.apache\.kafka\.common\.network ) \.")
});

/// The broker that wrote a line, from its first words in brackets, which may contain other ids as well. It ends with the id.
static WRITER: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"^ (?: Registered\ broker\  | \[ (?:
            [^\]]*? (?: Kafka\ Server\  | n\ [Bb]roker\  | \ broker= )
          | (?: Kafka|Broker|Controller|Quorum|Replica|SocketServer|Group(?:Coord|Meta)|Transaction(?:Coord|State|Marker)
              | ShareCoord|Raft|Metadata|Snapshot(?:Gen|Emit)|NodeTo|PartitionState|RequestSend|TopicDel|DynamicConf ) \w*
            (?: \ [^\]]*? [\ ,] | \  ) (?: id | brokerId | nodeId | replicaId | controllerId ) =
          | KafkaApi- | (?: Group | Transaction | Share ) Coordinator\  ) ) \d+",
    )
});

static VERSION: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::new(r"^ Kafka\ version .*? :\  (?<version>\S+)"));

/// `h/127.0.0.1:9092 (id: 2 rack: null)`
static ADDRESS: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::new(r"(?<address>[^\s/]+) \ \(id:\  (?<id>\d+)"));

/// `2020-04-22 10:43:36`, or what there is of it, in the words before a message.
fn time_in(start: &str) -> &str {
    let start = start.strip_prefix('[').unwrap_or(start);
    let has_date = matches!(start.as_bytes().get(4), Some(b'-' | b'/'));
    match start.as_bytes().first() {
        Some(b'0'..=b'9') if has_date => start.get(..SECONDS).unwrap_or(start),
        Some(b'0'..=b'9') => start.get(.."10:43:36".len()).unwrap_or(start),
        _ => "",
    }
}

static RESIZED: LazyLock<Pattern> = LazyLock::new(|| {
    let (shrunk, expanded) = (pattern_of("isr_shrunk"), pattern_of("isr_expanded"));
    Pattern::new(&format!("(?-x:{shrunk}|{expanded})"))
});

/// Partition, id where the line has it, the ISR before and after:
/// `Partition [t,3] on broker 2: Shrinking ISR for partition [t,3] from 2,1,3 to 2 (kafka.cluster.Partition)`,
/// later `[Partition t-3 broker=2] Shrinking ISR from 2,1,3 to 2. Leader: ...`.
fn isr_change(message: &str) -> Option<[&str; 4]> {
    let (_, rest) = message.split_once("Partition ")?;
    let (partition, rest) = rest.split_once(' ')?;
    let id = rest.strip_prefix("on broker ").unwrap_or_default();
    let (_, change) = RESIZED.prefix(rest)?;
    let (_, change) = change.split_once("from ")?;
    let (from, to) = beginning(change, is_of_ids);
    let (to, _) = beginning(to.strip_prefix(" to ")?, is_of_ids);
    let (id, _) = beginning(id, |c| c.is_ascii_digit());
    let is_whole = [partition, from, to].iter().all(|part| !part.is_empty());
    is_whole.then_some([partition, id, from, to])
}

fn is_of_ids(c: char) -> bool {
    c.is_ascii_digit() || c == ','
}

/// The characters with which the text begins, and what follows them.
fn beginning(text: &str, of: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !of(c)).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

static PRODUCE_ERROR: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"on\ topic-partition\  (?<partition>\S+) ,\ retrying .*? Error:\  (?<error>[^\s.]+)",
    )
});

static WITH_ID: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(" (id: "));
static ISR: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(" ISR "));
static ON_PARTITION: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new("on topic-partition "));
static DISCONNECTED: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new("disconnected"));

/// A refused connection is no such sign: a broker that starts or is down refuses connections.
static DISCONNECT: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::new(&format!("(?-x:{})", pattern_of("peer_disconnected"))));

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

    fn read(&mut self, line: &'a str) {
        let text = line.trim_start();
        let may_be_log_line = matches!(
            text.as_bytes().first(),
            Some(b'[' | b'0'..=b'9' | b'T' | b'D' | b'I' | b'W' | b'E' | b'F')
        );
        if may_be_log_line && self.line(text) {
            return;
        }
        match text.len() < line.len() {
            true => self.setting(line),
            false => self.exception(line),
        }
    }

    /// Returns whether it is a log line.
    fn line(&mut self, line: &'a str) -> bool {
        let Some((start, rest)) = LINE_START.prefix(line) else {
            return false;
        };
        let (logger, message) = LOGGER.prefix(rest).unwrap_or(("", rest));
        let time = time_in(start);
        self.lines += 1;
        if !time.is_empty() {
            self.last = time;
            if self.first.is_empty() {
                self.first = time;
            }
        }
        // Each is looked for until it is found, and what follows only where a rare word stands: most lines have none.
        let has = |words: &Finder<'_>| words.find(message.as_bytes()).is_some();
        self.broker =
            self.broker || BROKER_CLASS.is_match(message) || BROKER_LOGGER.is_match(logger);
        self.client =
            self.client || CLIENT_CLASS.is_match(message) || CLIENT_LOGGER.is_match(logger);
        self.either = self.either || EITHER_CLASS.is_match(line);
        if let Some((words, _)) = WRITER.prefix(message) {
            self.broker = true;
            let id = words.rfind(|c: char| !c.is_ascii_digit());
            self.add_id(words.get(id.map_or(0, |at| at + 1)..).unwrap_or_default());
        }
        if message.starts_with("Kafka version")
            && let Some([version]) = VERSION.groups(message)
        {
            self.version = Some(version);
        }
        if has(&WITH_ID)
            && let Some([address, id]) = ADDRESS.groups(message)
            && let (Some(address), Ok(id)) = (sockets::address(address), id.parse())
            && self.addresses.len() < KEPT
        {
            self.addresses.insert(address, id);
        }
        if has(&ISR)
            && let Some([partition, id, from, to]) = isr_change(message)
            && self.isr_changes.len() < KEPT
        {
            self.add_id(id);
            let change = IsrChange { time, from, to };
            self.isr_changes.insert(partition, change);
        }
        if has(&ON_PARTITION)
            && let Some([partition, error]) = PRODUCE_ERROR.groups(message)
            && self.produce_errors.len() < KEPT
        {
            *self.produce_errors.entry((error, partition)).or_default() += 1;
        }
        self.exception(message);
        true
    }

    /// An exception, mostly on a line of its own below the one with the time.
    fn exception(&mut self, text: &'a str) {
        if DISCONNECTED.find(text.as_bytes()).is_none() {
            return;
        }
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
    /// The same lines as different loggers print them.
    #[test]
    fn forms_of_lines() {
        let time = "2024-01-02 03:04:05";
        let broker = [
            "[2024-01-02 03:04:05,678] INFO [KafkaServer id=1] started (kafka.server.KafkaServer)",
            " [2024-01-02 03:04:05,678] INFO [KafkaServer id=1] started (kafka.server.KafkaServer)",
            "2024-01-02 03:04:05,678 INFO [KafkaServer id=1] started (kafka.server.KafkaServer) [main]",
            "2024-01-02 03:04:05,678 [main] INFO kafka.server.KafkaServer - [KafkaServer id=1] started",
            "2024-01-02 03:04:05,678 [main] INFO  kafka.server.KafkaServer [] - [KafkaServer id=1] started",
            "[2024-01-02 03:04:05,678] INFO [kafka.server.KafkaServer] [KafkaServer id=1] started",
            "2024-01-02 03:04:05 INFO  [main] KafkaRaftServer:85 - [KafkaRaftServer nodeId=1] Kafka Server started",
            "[2024-01-02 03:04:05,678] INFO [Controller id=1] Starting (kafka.controller.KafkaController)",
            "[2024-01-02 03:04:05,678] TRACE [Controller id=1 epoch=3] Changed partition t-0 (state.change.logger)",
            "[2024-01-02 03:04:05,678] INFO [QuorumController id=1] Fenced broker: 2 (org.apache.kafka.controller.QuorumController)",
            "[2024-01-02 03:04:05,678] WARN [ReplicaFetcher replicaId=1, leaderId=2, fetcherId=0] Error (kafka.server.ReplicaFetcherThread)",
            "[2024-01-02 03:04:05,678] ERROR [KafkaApi-1] x (kafka.server.KafkaApis)",
            "[2024-01-02 03:04:05,678] WARN [SocketServer listenerType=ZK_BROKER, nodeId=1] Failed (org.apache.kafka.common.network.Selector)",
            "[2024-01-02 03:04:05,678] WARN [Controller id=1, targetBrokerId=2] Connection to node 2 could not be established. (x.NetworkClient)",
            "2024-01-02 03:04:05,678 INFO Registered broker 1 at path /brokers/ids/1 with addresses: x (kafka.zk.KafkaZkClient) [main]",
            "[2024-01-02 03:04:05,678] INFO [GroupCoordinator 1]: Stabilized group g (kafka.coordinator.group.GroupCoordinator)",
        ];
        for line in broker {
            let log = parse(line).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(
                (log.broker, log.client, log.last, log.ids),
                (true, false, time, BTreeSet::from([1])),
                "{line}"
            );
        }
        for line in [
            "[2024-01-02T03:04:05,678] INFO x (kafka.utils.KafkaScheduler)",
            "[2024-01-02T03:04:05.678Z] INFO x (org.apache.kafka.common.network.Selector)",
            "INFO [BrokerServer id=1] x (kafka.server.BrokerServer)",
        ] {
            assert!(parse(line).is_some_and(|log| log.broker), "{line}");
        }
        let client = [
            "03:04:05.678 [kafka-producer-network-thread | p] WARN org.apache.kafka.clients.NetworkClient - [Producer clientId=p] x",
            "2024-01-02 03:04:05.678  WARN 1 --- [ntainer#0-0-C-1] org.apache.kafka.clients.NetworkClient   : [Consumer clientId=c, groupId=g] x",
            "2024-01-02T03:04:05.678Z  WARN 1 --- [app] [main] o.a.k.c.NetworkClient : [Consumer clientId=c, groupId=g] x",
            "2024-01-02 03:04:05.678 WARN 1 [| app-admin] o.a.k.c.NetworkClient : [AdminClient clientId=a] x",
            "2014-01-02 03:04:05,678 [main] WARN  kafka.producer.async.DefaultEventHandler - x",
        ];
        for line in client {
            let log = parse(line).unwrap_or_else(|| panic!("{line}"));
            assert_eq!((log.broker, log.client), (false, true), "{line}");
        }
        for line in [
            "[2024-01-02 03:04:05,678] INFO [Session id=4] x (org.example.Server)",
            "2024-01-02 03:04:05,678 INFO org.apache.zookeeper.ZooKeeper - [a] Initiating",
        ] {
            assert!(parse(line).is_none(), "{line}");
        }
    }

    #[test]
    fn what_a_line_says() {
        let known = &mut Known::default();
        let plain =
            "[2024-01-02 03:04:05,678] INFO [KafkaServer id=1] a (kafka.server.KafkaServer)";
        assert_eq!(says(plain, known), Saying::Something);
        assert_eq!(says(plain, known), Saying::Nothing);
        let shrunk = "[2024-01-02 03:04:05,678] INFO [Partition t-0 broker=1] Shrinking ISR from 1,2 to 1 (kafka.cluster.Partition)";
        let change = Saying::IsrChange("t-0");
        assert_eq!((says(shrunk, known), says(shrunk, known)), (change, change));
        let lost =
            "java.io.IOException: Connection to 3 was disconnected before the response was read";
        assert_eq!(says(lost, known), Saying::Something);
        assert_eq!(says("\tat a.B.c(D.java:7)", known), Saying::OtherLine);
    }
}
