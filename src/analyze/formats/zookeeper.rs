//! What ZooKeeper's shell (`zookeeper-shell`, `zkCli`) prints of brokers: `ls /brokers/ids`, `get /brokers/ids/N`,
//! `get /controller`, and the ephemeral nodes that `dump` lists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde::Deserialize;

use super::Pattern;

/// Ids of one text that are kept.
const MOST: usize = 10_000;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Registrations {
    /// The last listing. None: there is none.
    pub listed: Option<BTreeSet<i32>>,
    /// Those that were registered before and are not in the last listing.
    pub gone: BTreeSet<i32>,
    /// The endpoints in the nodes of brokers: `PLAINTEXT://h:9092`.
    pub nodes: BTreeMap<i32, Vec<String>>,
    /// Those whose node did not exist when it was last asked for.
    pub absent: BTreeSet<i32>,
    pub controller: Option<i32>,
}

impl Registrations {
    /// All that are registered, by the last word on each.
    pub fn ids(&self) -> impl Iterator<Item = i32> {
        let listed = self.listed.iter().flatten().chain(self.nodes.keys());
        let is_registered = |id: &i32| !self.absent.contains(id) && !self.gone.contains(id);
        listed.copied().filter(is_registered)
    }
}

/// A command of the shell whose answer is still to come.
#[derive(Clone, Copy)]
enum Asked {
    Ids,
    Node(i32),
    Controller,
    /// What is of no use here, such as the partitions of a topic, which look like ids.
    Other,
}

static COMMAND: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"\b (?: (?<ls> ls2? \  (?: -\w+ \  )* /\S*?brokers/ids/? ) | get \  (?: -\w+ \  )* /\S*? (?: brokers/ids/(?<id>\d+) | (?<controller> controller ) ) )
          [\x22']? (?: \s+ (?<inline> .+ ) )? \s* $",
    )
});

/// A command for another node.
static OTHER_COMMAND: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::new(r"\b (?: ls2? | get | stat ) \s+ (?: -\w+ \s+ )* /"));

static LIST: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::new(r"(?: ^ | \s ) \[ (?<ids> [\d,\ ]* ) \] \s* (?: $ | \[zk: )"));

static ABSENT: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(r"(?: not\ exist: | NoNode\ for ) \s* /\S*?brokers/ids/(?<id>\d+)")
});

/// A node in the answer of `dump` or of `ls -R`.
static NODE: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::new(r"^ \s* /\S*?brokers/ids/(?<id>\d+) \s* $"));

/// The parts of a node that are used.
#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    endpoints: Vec<String>,
    host: Option<String>,
    port: Option<i32>,
    /// Of the controller's node.
    brokerid: Option<i32>,
}

/// None where the text shows no registration.
pub fn read(text: &str) -> Option<Registrations> {
    let mut found = Registrations::default();
    let mut asked = None;
    let mut dumped = BTreeSet::new();
    for line in text.lines() {
        // The shell prints it before it answers the command on its command line, whose text may not be in the file.
        if asked.is_none() && line.contains("WatchedEvent state:SyncConnected") {
            asked = Some(Asked::Ids);
        }
        let is_about_ids = line.contains("brokers/ids");
        if let Some([ls, id, controller, inline]) = COMMAND
            .groups(line)
            .filter(|_| is_about_ids || line.contains("/controller"))
        {
            asked = match (ls, controller) {
                ("", "") => id.parse().ok().map(Asked::Node),
                ("", _) => Some(Asked::Controller),
                _ => Some(Asked::Ids),
            };
            if !inline.is_empty() {
                asked = found.answer(asked, inline);
            }
            continue;
        }
        if is_about_ids {
            if let Some([id]) = ABSENT.groups(line) {
                if found.absent.len() < MOST {
                    found.absent.extend(id.parse::<i32>());
                }
                asked = None;
            } else if let Some([id]) = NODE.groups(line) {
                dumped.extend(id.parse::<i32>());
            }
        } else if OTHER_COMMAND.is_match(line) {
            asked = Some(Asked::Other);
        } else if asked.is_some() {
            asked = found.answer(asked, line);
        }
    }
    if !dumped.is_empty() {
        found.list(dumped);
    }
    (found != Registrations::default()).then_some(found)
}

impl Registrations {
    /// Reads a line that may be the answer. Returns what is still asked.
    fn answer(&mut self, asked: Option<Asked>, line: &str) -> Option<Asked> {
        match asked? {
            Asked::Ids => {
                let Some([ids]) = LIST.groups(line) else {
                    return asked;
                };
                let ids = ids.split(',').map(str::trim).filter(|id| !id.is_empty());
                let ids: Option<BTreeSet<i32>> = ids.map(|id| id.parse().ok()).collect();
                if let Some(ids) = ids {
                    self.list(ids);
                }
            }
            Asked::Node(id) => {
                let Some(Node {
                    endpoints,
                    host,
                    port,
                    ..
                }) = node(line)
                else {
                    return asked;
                };
                if self.nodes.len() < MOST {
                    let address = host.zip(port.filter(|port| *port > 0));
                    let address = address.map(|(host, port)| format!("PLAINTEXT://{host}:{port}"));
                    let endpoints = endpoints.into_iter().chain(address).collect();
                    self.nodes.insert(id, endpoints);
                    self.absent.remove(&id);
                    self.gone.remove(&id);
                }
            }
            Asked::Controller => {
                let Some(node) = node(line) else { return asked };
                self.controller = node.brokerid;
            }
            Asked::Other => return asked,
        }
        None
    }

    fn list(&mut self, ids: BTreeSet<i32>) {
        if ids.len() > MOST {
            return;
        }
        if let Some(before) = self.listed.take() {
            self.gone.extend(before);
        }
        self.gone.extend(self.nodes.keys());
        self.gone.retain(|id| !ids.contains(id));
        self.absent.retain(|id| !ids.contains(id));
        self.listed = Some(ids);
    }
}

fn node(line: &str) -> Option<Node> {
    let start = line.find('{')?;
    let mut values = serde_json::Deserializer::from_str(line.get(start..)?).into_iter();
    values.next()?.ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn listed(text: &str) -> Option<Vec<i32>> {
        Some(read(text)?.listed?.into_iter().collect())
    }

    #[test]
    fn only_lists_of_ids() {
        let table = [
            "[zk: h:5181(CONNECTED) 4] ls /brokers/ids\n[217, 218, 219]\n",
            "[zk: h:5181(CONNECTED) 4] ls /kafka/brokers/ids\n[217, 218, 219][zk: h:5181(CONNECTED) 5] \n",
            "$ zookeeper-shell h:2181 ls /brokers/ids\nConnecting to h:2181\n\nWATCHER::\n\nWatchedEvent state:SyncConnected type:None path:null\n[217, 218, 219]\n",
            "Connecting to h\n[2024-01-02 03:04:05,678] INFO Client environment:x (org.apache.zookeeper.ZooKeeper)\nWatchedEvent state:SyncConnected type:None path:null\n[217, 218, 219]\n",
            "ls -s /brokers/ids\n[217, 218, 219]\ncZxid = 0x5\n",
            "ls2 /brokers/ids [217, 218, 219]\n",
            "WatchedEvent state:SyncConnected type:None path:null [217, 218, 219]\n",
            "SessionTracker dump:\n0x1000:\n\t/brokers/ids/217\n\t/controller\n0x1001:\n\t/brokers/ids/218\n\t/brokers/ids/219\n",
        ];
        for text in table {
            assert_eq!(listed(text), Some(vec![217, 218, 219]), "{text}");
        }
        assert_eq!(
            listed("Connecting to h\n\nWatchedEvent state:SyncConnected type:None path:null\n[]\n"),
            Some(vec![])
        );
        for other in [
            "",
            "ls /brokers/ids",
            "ls /brokers/ids\n[a, b]",
            "ls /brokers/ids\nNode does not exist",
            "[1, 2]",
            "ls /brokers/topics\n[1, 2]",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    /// The partitions of a topic are no brokers.
    #[test]
    fn answers_about_other_nodes() {
        let other = "ls /brokers/topics/t/partitions";
        for text in [
            format!(
                "[zk: h(CONNECTED) 0] ls /brokers/ids\n[zk: h(CONNECTED) 1] {other}\n[0, 1, 2]\n"
            ),
            format!(
                "$ zookeeper-shell h:2181 {other}\nWatchedEvent state:SyncConnected type:None path:null\n[0, 1, 2]\n"
            ),
        ] {
            assert_eq!(read(&text), None, "{text}");
        }
        let both = format!("{other}\n[0, 1, 2]\nls /brokers/ids\n[7]\n{other}\n[0]\n");
        assert_eq!(listed(&both), Some(vec![7]));
    }

    /// A broker is not both registered and not registered: its last answer counts.
    #[test]
    fn the_last_answer_counts() {
        let list = "ls /brokers/ids\n[1, 2, 3]\n";
        let absent = "get /brokers/ids/3\nNode does not exist: /brokers/ids/3\n";
        let node =
            "get /brokers/ids/3\n{\"endpoints\":[\"PLAINTEXT://10.0.0.3:9092\"],\"version\":4}\n";
        let shorter = "ls /brokers/ids\n[1, 2]\n";
        for (text, is_registered) in [
            (format!("{list}{absent}"), false),
            (format!("{node}{absent}"), false),
            (format!("{node}{shorter}"), false),
            (format!("{list}{shorter}"), false),
            (format!("{absent}{list}"), true),
            (format!("{absent}{node}"), true),
            (format!("{shorter}{list}"), true),
            (format!("{list}{shorter}{node}"), true),
        ] {
            let found = read(&text).unwrap();
            let is_denied = found.absent.contains(&3) || found.gone.contains(&3);
            let said = (found.ids().any(|id| id == 3), is_denied);
            assert_eq!(said, (is_registered, !is_registered), "{text}");
        }
    }

    #[test]
    fn a_transcript() {
        let text = "[zk: h(CONNECTED) 0] ls /brokers/ids\n[1, 2, 3]\n\
            [zk: h(CONNECTED) 1] get /brokers/ids/1\n\
            {\"listener_security_protocol_map\":{\"PLAINTEXT\":\"PLAINTEXT\"},\"endpoints\":[\"PLAINTEXT://10.0.0.1:9092\"],\"jmx_port\":-1,\"host\":\"10.0.0.1\",\"timestamp\":\"1\",\"port\":9092,\"version\":4}\n\
            cZxid = 0x19\nephemeralOwner = 0x1000\n\
            [zk: h(CONNECTED) 2] get /brokers/ids/3\n\
            Node does not exist: /brokers/ids/3\n\
            [zk: h(CONNECTED) 3] get /controller\n\
            {\"version\":1,\"brokerid\":1,\"timestamp\":\"1\"}\n\
            [zk: h(CONNECTED) 4] ls /brokers/ids\n[1, 2]\n";
        let found = read(text).unwrap();
        let endpoint = "PLAINTEXT://10.0.0.1:9092".to_owned();
        assert_eq!(
            found,
            Registrations {
                listed: Some(BTreeSet::from([1, 2])),
                gone: BTreeSet::from([3]),
                nodes: BTreeMap::from([(1, vec![endpoint.clone(), endpoint])]),
                absent: BTreeSet::from([3]),
                controller: Some(1),
            }
        );
        let error = "Exception in thread \"main\" org.apache.zookeeper.KeeperException$NoNodeException: KeeperErrorCode = NoNode for /brokers/ids/7";
        assert_eq!(read(error).unwrap().absent, BTreeSet::from([7]));
    }
}
