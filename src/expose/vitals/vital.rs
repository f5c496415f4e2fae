//! One vital sign, and texts of all.

use crate::verdict::finding::{BrokerDiagnosis, FindingId, Severity};

/// One reading, or `unknown`; [`super::unknown`] gives the reason.
#[derive(Debug)]
pub struct Vital {
    pub name: String,
    pub value: String,
    pub notes: Vec<String>,
    /// The used share of the limit.
    pub used: Option<f64>,
    /// The worst severity of a finding about it.
    pub concern: Option<Severity>,
}

impl Vital {
    pub(super) fn new(name: impl Into<String>, value: Option<String>) -> Vital {
        let value = value.unwrap_or_else(|| "unknown".into());
        Vital {
            name: name.into(),
            value,
            notes: Vec::new(),
            used: None,
            concern: None,
        }
    }

    pub(super) fn note(mut self, note: impl Into<Option<String>>) -> Vital {
        self.notes.extend(note.into());
        self
    }

    /// Marks it if one of these findings is active.
    pub(super) fn about(mut self, diagnosis: &BrokerDiagnosis, ids: &[FindingId]) -> Vital {
        let found = diagnosis
            .findings
            .iter()
            .filter(|finding| ids.contains(&finding.id));
        self.concern = found.map(|finding| finding.id.kind().severity).max();
        self
    }
}

/// `1,234,567`
pub(super) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Cuts the text to `most` characters: a broker can make names and messages long.
pub fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text
            .chars()
            .take(most.saturating_sub(1))
            .chain(['…'])
            .collect(),
    }
}
