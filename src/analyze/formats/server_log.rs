//! Logs of Kafka's brokers and clients, in log4j's usual forms: what they say about a broker that no longer answers.

use std::collections::{BTreeMap, BTreeSet};

use super::sockets;
use crate::parse::leading_number;

/// Limit of each collection; no broker has as many partitions.
const KEPT: usize = 100_000;

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
            Some(b'\t' | b' ') => log.setting(line.trim_start()),
            Some(b'[' | b'0'..=b'9') => log.line(line),
            _ => log.exception(line),
        }
    }
    (log.broker || log.client).then_some(log)
}

impl<'a> Log<'a> {
    fn setting(&mut self, line: &'a str) {
        let Some((key, value)) = line.split_once(" = ") else {
            return;
        };
        // From 4.0 on lists are in brackets.
        let value = value
            .strip_prefix('[')
            .and_then(|list| list.strip_suffix(']'))
            .unwrap_or(value);
        match key {
            "broker.id" | "node.id" => self
                .ids
                .extend(value.parse::<i32>().ok().filter(|id| *id >= 0)),
            "listeners" => self.listeners = Some(value),
            "log.dirs" if value != "null" => self.log_dirs = Some(value),
            "log.dir" => self.log_dirs = self.log_dirs.or(Some(value)),
            _ => {}
        }
    }

    fn line(&mut self, line: &'a str) {
        let Some((time, message)) = time_and_message(line) else {
            return;
        };
        self.lines += 1;
        self.last = time;
        self.broker |= [
            "(kafka.server.",
            "(kafka.log.",
            "(kafka.cluster.",
            "(kafka.coordinator.",
            "(kafka.network.",
        ]
        .iter()
        .any(|class| message.contains(class));
        self.client |= message.contains("(org.apache.kafka.clients.");
        if let Some(own) = message
            .strip_prefix('[')
            .and_then(|rest| rest.split(']').next())
            && self.ids.len() < KEPT
        {
            self.ids.extend(own_id(own));
        }
        if let Some(version) = message
            .strip_prefix("Kafka version")
            .and_then(|rest| rest.split_once(": "))
        {
            self.version = version.1.split(' ').next();
        }
        if let Some((before, after)) = message.split_once(" (id: ")
            && let Some(address) = before.rsplit([' ', '/']).next().and_then(sockets::address)
            && let (Some(id), true) = (leading_number(after), self.addresses.len() < KEPT)
        {
            self.addresses.insert(address, id);
        }
        self.isr(time, message);
        if let Some((_, rest)) = message.split_once("on topic-partition ")
            && let Some((partition, rest)) = rest.split_once(", retrying")
            && let Some((_, error)) = rest.split_once("Error: ")
            && self.produce_errors.len() < KEPT
        {
            let error = error.split([' ', '.']).next().unwrap_or_default();
            *self.produce_errors.entry((error, partition)).or_default() += 1;
        }
        self.exception(message);
    }

    /// `Partition [t,3] on broker 2: Shrinking ISR for partition [t,3] from 2,1,3 to 2 (kafka.cluster.Partition)`,
    /// later `[Partition t-3 broker=2] Shrinking ISR from 2,1,3 to 2. Leader: ...`.
    fn isr(&mut self, time: &'a str, message: &'a str) {
        let Some((before, after)) = message
            .split_once("Shrinking ISR ")
            .or_else(|| message.split_once("Expanding ISR "))
        else {
            return;
        };
        let Some((partition, on)) = before
            .split_once("Partition ")
            .and_then(|(_, rest)| rest.split_once(' '))
        else {
            return;
        };
        let Some((from, to)) = after
            .split_once("from ")
            .and_then(|(_, rest)| rest.split_once(" to "))
        else {
            return;
        };
        let end = to
            .find(|c: char| !c.is_ascii_digit() && c != ',')
            .unwrap_or(to.len());
        if self.isr_changes.len() < KEPT {
            self.ids.extend(
                on.strip_prefix("on broker ")
                    .and_then(leading_number::<i32>),
            );
            self.isr_changes.insert(
                partition,
                IsrChange {
                    time,
                    from,
                    to: to.get(..end).unwrap_or(to),
                },
            );
        }
    }

    /// An exception, mostly on a line of its own below the one with the time.
    fn exception(&mut self, text: &'a str) {
        // A refused connection is no such sign: a broker that starts or is down refuses connections.
        if let Some((_, rest)) = text.split_once("Connection to ")
            && let Some(id) = leading_number(rest)
            && rest.contains("was disconnected before the response")
            && self.disconnects.len() < KEPT
        {
            let times = self.disconnects.entry(id).or_insert(Times {
                first: self.last,
                ..Times::default()
            });
            *times = Times {
                count: times.count + 1,
                last: self.last,
                ..*times
            };
        }
        if text.contains("server disconnected before a response was received") {
            self.unanswered += 1;
        }
    }
}

/// `[2020-04-22 10:43:36,369] WARN message` or `2020-04-22 10:43:36,369 WARN message`.
fn time_and_message(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_prefix('[').unwrap_or(line);
    let time = line.get(..19)?;
    let shape = b"0000-00-00 00:00:00";
    let fits = |(byte, shape): (u8, u8)| {
        if shape == b'0' {
            byte.is_ascii_digit()
        } else {
            byte == shape
        }
    };
    std::iter::zip(time.bytes(), *shape)
        .all(fits)
        .then_some(())?;
    let (level, message) = line
        .get(19..)?
        .split_once(' ')?
        .1
        .trim_start()
        .split_once(' ')?;
    matches!(
        level,
        "TRACE" | "DEBUG" | "INFO" | "WARN" | "ERROR" | "FATAL"
    )
    .then(|| (time, message.trim_start()))
}

/// The id of the broker that wrote a line, from its first word in brackets, which may contain other ids as well.
fn own_id(bracket: &str) -> Option<i32> {
    let marks = [
        "Kafka Server ",
        "KafkaServer id=",
        "BrokerServer id=",
        "n broker ",
        "n Broker ",
        " broker=",
    ];
    marks
        .iter()
        .find_map(|mark| leading_number(bracket.split_once(mark)?.1))
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
