//! Evidence bundles: the manifest with the files beside it, and what the exporter found.

use std::collections::HashMap;

use serde::Deserialize;

use super::explanation::{Fact, FactKind};
use crate::evidence::manifest::{MANIFEST, Manifest};
use crate::evidence::store::{MANIFEST_CAP, sha256};
use crate::model::NamedIssue;
use crate::model::rfc3339;
use crate::verdict::finding::BrokerState;
use crate::verdict::memory::DECIDING;

/// A larger file is not read as `findings.json`.
const FINDINGS_CAP: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Bundle<'a> {
    /// The folder of its files, with the last slash.
    folder: &'a str,
    pub(super) source: &'a str,
    pub(super) manifest: Manifest,
    changed: Vec<&'a str>,
    absent: Vec<String>,
}

impl<'a> Bundle<'a> {
    /// Each manifest among the files, compared with the files beside it.
    pub(super) fn find(artifacts: &'a [(String, Vec<u8>)]) -> Vec<Bundle<'a>> {
        let files: HashMap<&str, &[u8]> = artifacts
            .iter()
            .map(|(source, bytes)| (&**source, &**bytes))
            .collect();
        let bundle = |(source, bytes): &'a (String, Vec<u8>)| {
            let folder = source
                .strip_suffix(MANIFEST)
                .filter(|folder| folder.is_empty() || folder.ends_with('/'))?;
            let small = Some(bytes).filter(|bytes| bytes.len() <= MANIFEST_CAP)?;
            let manifest: Manifest = serde_json::from_slice(small).ok()?;
            let (mut changed, mut absent) = (Vec::new(), Vec::new());
            for listed in &manifest.files {
                match files.get_key_value(&*format!("{folder}{}", listed.name)) {
                    Some((_, bytes)) if sha256(bytes) == listed.sha256 => {}
                    Some((source, _)) => changed.push(&source[folder.len()..]),
                    None => absent.push(listed.name.clone()),
                }
            }
            Some(Bundle {
                folder,
                source,
                manifest,
                changed,
                absent,
            })
        };
        artifacts.iter().filter_map(bundle).collect()
    }

    /// The bundle that a file is in.
    pub(super) fn with<'b>(all: &'b [Bundle<'a>], source: &str) -> Option<&'b Bundle<'a>> {
        all.iter().find(|bundle| {
            let name = source.strip_prefix(bundle.folder);
            name.is_some_and(|name| {
                name == MANIFEST
                    || bundle
                        .manifest
                        .files
                        .iter()
                        .any(|listed| listed.name == name)
            })
        })
    }

    /// The id in the label, which is ID@PORT where several brokers of a host have one id.
    pub(super) fn id(&self) -> Option<i32> {
        id_in(&self.manifest.broker)
    }

    /// Whether the broker was gray (alive, not working) when the bundle was made.
    pub(super) fn says_gray(&self) -> bool {
        self.manifest
            .findings
            .iter()
            .any(|id| DECIDING.contains(id))
    }

    pub(super) fn fact(&self) -> Fact {
        let Manifest {
            made_by,
            broker,
            at,
            verdict,
            files,
            missing,
            heap_dump,
            ..
        } = &self.manifest;
        let at = rfc3339(*at);
        let unchanged = files.len() - self.changed.len() - self.absent.len();
        let mut text =
            format!("{made_by} saved the evidence of broker {broker} at {at}: {verdict}");
        text += &format!(
            " {unchanged} of its {} files are here as they were saved",
            files.len()
        );
        let missing: Vec<String> = missing
            .iter()
            .map(|file| format!("{} ({})", file.name, file.why))
            .collect();
        let absent: Vec<&str> = self.absent.iter().map(String::as_str).collect();
        let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
        for (what, names) in [
            ("changed since", &self.changed),
            ("not among the files given", &absent),
            ("could not be saved", &missing),
        ] {
            if !names.is_empty() {
                text += &format!("; {what}: {}", names.join(", "));
            }
        }
        if let Some(heap) = heap_dump {
            text += &format!("; its heap was written to {}", heap.path.display());
        }
        let count = |names: &[&str]| names.len() as u64;
        let figures = [
            ("files", files.len() as u64),
            ("changed", count(&self.changed)),
            ("absent", count(&absent)),
            ("missing", count(&missing)),
        ];
        Fact {
            kind: FactKind::Bundle,
            against: None,
            source: self.source.to_owned(),
            text,
            figures: figures.into(),
            partitions: Vec::new(),
        }
    }
}

/// The parts of `findings.json` that are used.
#[derive(Debug, Deserialize)]
pub(super) struct Found {
    label: String,
    pub(super) state: BrokerState,
    sentence: String,
    pub(super) findings: Vec<FoundOne>,
    #[serde(default)]
    pub(super) known_issues: Vec<NamedIssue>,
}

#[derive(Debug, Deserialize)]
pub(super) struct FoundOne {
    /// May be one that this version does not know.
    id: String,
    facts: Vec<String>,
}

impl Found {
    pub(super) fn parse(text: &str) -> Option<Found> {
        let may_be = text.len() <= FINDINGS_CAP && text.trim_start().starts_with('{');
        may_be.then(|| serde_json::from_str(text).ok()).flatten()
    }

    pub(super) fn id(&self) -> Option<i32> {
        id_in(&self.label)
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("kafka-vitals found then: {}", self.sentence);
        for FoundOne { id, facts } in &self.findings {
            text += &format!(
                " {id}{}",
                if facts.is_empty() {
                    ".".into()
                } else {
                    format!(": {}.", facts.join("; "))
                }
            );
        }
        text
    }
}

fn id_in(label: &str) -> Option<i32> {
    label.split('@').next()?.parse().ok().filter(|id| *id >= 0)
}
