//! One saved file, and the forms of text that it contains.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::bundle::Found;
use crate::discover::properties::Properties;

/// A file with what was found in it.
#[derive(Default)]
pub struct File<'a> {
    pub source: &'a str,
    pub text: Cow<'a, str>,
    pub forms: Vec<&'static str>,
    /// Dumps of it in [`Analysis::dumps`].
    pub dumps: std::ops::Range<usize>,
    pub dump_ids: BTreeSet<i32>,
    pub properties: Option<Properties>,
    pub found: Option<Found>,
}

impl File<'_> {
    pub fn is(&self, form: &str) -> bool {
        self.forms.contains(&form)
    }
}

/// Kind of the fact that ZooKeeper knows a broker: its session lives.
pub const REGISTERED: &str = "registered";

pub const DUMP: &str = "thread dump";
pub const SOCKETS: &str = "sockets";
pub const TOPICS: &str = "topics";
pub const GROUPS: &str = "consumer groups";
pub const HANDLES: &str = "open handles";
pub const ZOOKEEPER: &str = "registered brokers";
pub const BROKER_LOG: &str = "broker log";
pub const CLIENT_LOG: &str = "client log";
pub const SETTINGS: &str = "broker settings";
pub const FINDINGS: &str = "findings of kafka-vitals";
pub const EVIDENCE: &str = "part of an evidence bundle";
