//! Which bundles are removed where there are too many: each label has its share of the limits.

use std::collections::BTreeMap;

use crate::config::EvidenceSettings;

/// A complete bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bundle {
    pub(super) name: String,
    /// The label of its broker in the name.
    pub(super) label: String,
    /// The time in the name, in seconds since 1970.
    pub(super) at: u64,
}

/// Which of the bundles, the oldest first, are removed so that so many bytes and bundles may be added: those that are too
/// old, then the oldest of the label that has most, never the newest of a label. Only where the newest alone leave no
/// room, the largest of them goes, down to an equal share for each label and the new one: many labels, or one that is
/// saved again and again, take nothing from the others.
pub(super) fn superfluous(
    bundles: &[(Bundle, u64)],
    settings: &EvidenceSettings,
    now: u64,
    more_bytes: u64,
    more: usize,
) -> Vec<usize> {
    let newest: BTreeMap<&str, usize> = bundles
        .iter()
        .enumerate()
        .map(|(index, (bundle, _))| (bundle.label.as_str(), index))
        .collect();
    let fair = settings.max_bytes / (newest.len() as u64 + 1);
    let mut left: Vec<(usize, &Bundle, u64)> = Vec::new();
    let mut removed = Vec::new();
    for (index, (bundle, bytes)) in bundles.iter().enumerate() {
        let old = settings
            .max_age
            .is_some_and(|age| now.saturating_sub(bundle.at) > age.as_secs());
        if old && newest.get(bundle.label.as_str()) != Some(&index) {
            removed.push(index);
        } else {
            left.push((index, bundle, *bytes));
        }
    }
    loop {
        let bytes: u64 = left.iter().map(|(.., bytes)| bytes).sum();
        let too_big = bytes.saturating_add(more_bytes) > settings.max_bytes;
        if !too_big && left.len() + more <= settings.max_bundles {
            return removed;
        }
        let weight_of = |label: &str| -> u64 {
            let of_label = left.iter().filter(|(_, bundle, _)| bundle.label == label);
            of_label
                .map(|(.., bytes)| if too_big { *bytes } else { 1 })
                .sum()
        };
        let older = left
            .iter()
            .enumerate()
            .filter(|(_, (index, bundle, _))| newest.get(bundle.label.as_str()) != Some(index));
        // Of equal ones the first, which is the oldest.
        let heaviest = older
            .rev()
            .max_by_key(|(_, (_, bundle, _))| weight_of(&bundle.label));
        let largest = || {
            let room = bytes.saturating_add(more_bytes.min(fair)) > settings.max_bytes;
            let largest = left
                .iter()
                .enumerate()
                .rev()
                .max_by_key(|(_, (.., bytes))| *bytes);
            largest.filter(|(_, (.., bytes))| room && *bytes > fair)
        };
        let Some((place, _)) = heaviest.or_else(largest) else {
            return removed;
        };
        removed.push(left.remove(place).0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_label_keeps_its_share() {
        const M: u64 = 1 << 20;
        // The labels of the bundles, the oldest first, each with its megabytes; the bytes and bundles to be added; what is
        // removed. At most 100 MB and 8 bundles.
        type Case = (
            &'static str,
            &'static [(&'static str, u64)],
            u64,
            usize,
            &'static [usize],
        );
        let table: [Case; 9] = [
            ("all fit", &[("1", 10), ("1", 10), ("2", 10)], 25, 1, &[]),
            (
                "the oldest of the only one",
                &[("1", 40), ("1", 40), ("1", 10)],
                25,
                1,
                &[0],
            ),
            (
                "a fake that is saved again and again does not displace the older ones of the real one",
                &[
                    ("1", 5),
                    ("1", 5),
                    ("f", 20),
                    ("f", 20),
                    ("f", 20),
                    ("f", 20),
                ],
                25,
                1,
                &[2],
            ),
            (
                "nor by their number",
                &[
                    ("1", 1),
                    ("1", 1),
                    ("f", 1),
                    ("f", 1),
                    ("f", 1),
                    ("f", 1),
                    ("f", 1),
                    ("f", 1),
                ],
                25,
                1,
                &[2],
            ),
            (
                "of equal ones the oldest",
                &[("1", 30), ("2", 30), ("1", 15), ("2", 15)],
                25,
                1,
                &[0],
            ),
            (
                "six fakes that fill the folder leave an equal share for the seventh",
                &[
                    ("a", 15),
                    ("b", 15),
                    ("c", 15),
                    ("d", 15),
                    ("e", 15),
                    ("f", 25),
                ],
                25,
                1,
                &[5],
            ),
            (
                "what is no larger than its share stays, however many come",
                &[
                    ("1", 5),
                    ("b", 19),
                    ("c", 19),
                    ("d", 19),
                    ("e", 19),
                    ("f", 19),
                ],
                25,
                1,
                &[1],
            ),
            (
                "too many labels for the number",
                &[
                    ("a", 1),
                    ("b", 1),
                    ("c", 1),
                    ("d", 1),
                    ("e", 1),
                    ("f", 1),
                    ("g", 1),
                    ("h", 1),
                ],
                25,
                1,
                &[],
            ),
            ("nothing is added", &[("1", 50), ("2", 40)], 0, 0, &[]),
        ];
        let limits = EvidenceSettings {
            max_bytes: 100 * M,
            max_bundles: 8,
            ..EvidenceSettings::default()
        };
        for (name, labels, more_bytes, more, wanted) in table {
            let bundles: Vec<(Bundle, u64)> = (0..)
                .zip(labels)
                .map(|(at, (label, megabytes))| {
                    let bundle = Bundle {
                        name: at.to_string(),
                        label: (*label).into(),
                        at,
                    };
                    (bundle, megabytes * M)
                })
                .collect();
            let removed = superfluous(&bundles, &limits, 1000, more_bytes * M, more);
            assert_eq!(removed, wanted, "{name}");
        }
    }
}
