//! `evidence:` of the config file.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::model::{deserialize_duration, text};

/// Where evidence is saved, and how much of it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvidenceSettings {
    /// None: evidence is off.
    pub dir: Option<PathBuf>,
    /// Whether others may own or write to the folder.
    pub shared: bool,
    /// Of all bundles together.
    #[serde(deserialize_with = "size")]
    pub max_bytes: u64,
    pub max_bundles: usize,
    /// None: for ever.
    #[serde(deserialize_with = "some_span")]
    pub max_age: Option<Duration>,
    /// Bytes that remain free on the folder's file system.
    #[serde(deserialize_with = "size")]
    pub min_free: u64,
    /// Where a deadlocked or stalled broker writes its heap, as it sees that folder; None: nowhere.
    #[serde(deserialize_with = "folder_of_a_broker")]
    pub heap_dump: Option<PathBuf>,
}

impl Default for EvidenceSettings {
    fn default() -> Self {
        EvidenceSettings {
            dir: None,
            shared: false,
            max_bytes: 500 << 20,
            max_bundles: 20,
            max_age: None,
            min_free: 1 << 30,
            heap_dump: None,
        }
    }
}

impl EvidenceSettings {
    /// Where evidence goes by default: the folder that systemd gives its services, else that of the XDG specification.
    pub(super) fn default_dir(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
        // systemd parts several folders by colons. A relative path is as good as none, XDG says.
        let folder = |name: &str| {
            let value = variable(name)?.into_string().ok()?;
            let first = PathBuf::from(value.split(':').next().unwrap_or_default());
            first.is_absolute().then_some(first)
        };
        let of_user =
            || folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")));
        let state = folder("STATE_DIRECTORY").or_else(|| Some(of_user()?.join("kafka-vitals")))?;
        Some(state.join("evidence"))
    }
}

/// `30d`.
fn some_span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    deserialize_duration(deserializer).map(Some)
}

/// `/var/lib/kafka-heap-dumps`
fn folder_of_a_broker<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PathBuf>, D::Error> {
    /// HotSpot takes 1,024 bytes, the file's name included.
    const MOST_BYTES: usize = 900;
    let text = String::deserialize(deserializer)?;
    if text.starts_with('/') && text.len() <= MOST_BYTES && !text.contains(char::is_control) {
        return Ok(Some(text.into()));
    }
    let shown = text::beginning(&text, 60);
    Err(D::Error::custom(format!(
        "{shown:?} is no absolute path of a folder, write e.g. heap_dump: /var/lib/kafka-heap-dumps, as the broker \
         sees it, or leave it out for none"
    )))
}

/// `500MiB`, `1GiB`; a bare number is bytes.
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    let (digits, unit) = text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    );
    let units = [("", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let unit = units
        .into_iter()
        .find(|(name, _)| *name == unit.trim())
        .map(|(_, shift)| 1_u64 << shift);
    let bytes = unit
        .zip(digits.parse::<u64>().ok())
        .and_then(|(unit, count)| unit.checked_mul(count));
    bytes.ok_or_else(|| D::Error::custom(format!("`{text}` is no size, write e.g. 500MiB or 1GiB")))
}
