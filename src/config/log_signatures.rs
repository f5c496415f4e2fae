//! `log_signatures:` of the config file.

use serde::Deserialize;

use crate::model::{Severity, text};
use crate::threads::log_signatures::{LogMatcher, OwnSignature, check_pattern, log_signatures};

const MOST: usize = 32;
const MOST_OF_NAME: usize = 40;
const MOST_OF_PATTERN: usize = 500;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    name: String,
    pattern: String,
    #[serde(default = "warning")]
    severity: Severity,
}

fn warning() -> Severity {
    Severity::Warning
}

/// The entries as signatures, or which of them is wrong.
pub(super) fn checked(entries: &[Entry]) -> Result<Vec<OwnSignature>, String> {
    if entries.len() > MOST {
        return Err(format!(
            "log_signatures: {} entries, at most {MOST} are taken",
            entries.len()
        ));
    }
    let mut checked: Vec<OwnSignature> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let fail = |key: &str, why: &str| Err(format!("log_signatures[{index}].{key}: {why}"));
        let name = entry.name.as_str();
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
        if !starts || !name.chars().all(plain) || name.len() > MOST_OF_NAME {
            let shown = text::beginning(name, 60);
            return fail(
                "name",
                &format!(
                    "{shown:?} is no label: write up to {MOST_OF_NAME} of a-z, 0-9 and _, a letter first"
                ),
            );
        }
        if log_signatures().iter().any(|known| known.name == name) {
            return fail(
                "name",
                &format!("{name} is one that kafka-vitals has; choose another"),
            );
        }
        if checked.iter().any(|other| other.name == name) {
            return fail(
                "name",
                &format!("{name} is there twice; keep one of the two"),
            );
        }
        if entry.pattern.len() > MOST_OF_PATTERN {
            return fail(
                "pattern",
                &format!("is longer than {MOST_OF_PATTERN} bytes"),
            );
        }
        if let Err(why) = check_pattern(&entry.pattern) {
            return fail("pattern", &format!("{:?} {why}", entry.pattern));
        }
        checked.push(OwnSignature {
            name: name.to_owned(),
            pattern: entry.pattern.clone(),
            severity: entry.severity,
        });
    }
    // Without own patterns nothing is compiled before a log has news.
    if checked.is_empty() {
        return Ok(checked);
    }
    // Small patterns may be too large together.
    match LogMatcher::new(&checked) {
        Ok(_) => Ok(checked),
        Err(_) => Err(
            "log_signatures: the patterns are too large together, write fewer or smaller ones"
                .to_owned(),
        ),
    }
}
