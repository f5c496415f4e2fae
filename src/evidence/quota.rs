//! Which bundles are removed where there are too many: each label has its share of the limits, and each user whose name
//! labels carry has one for all of them, because anybody may start processes under any number of ids.

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

/// Whose share of the limits a bundle takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Owner<'a> {
    Label(&'a str),
    User(&'a str),
}

/// A user's name does not start with a digit, as a port does (`sys/users.rs`).
fn owner(label: &str) -> Owner<'_> {
    match label.split('@').nth(1) {
        Some(user) if !user.starts_with(|c: char| c.is_ascii_digit()) => Owner::User(user),
        _ => Owner::Label(label),
    }
}

/// Which of the bundles, the oldest first, are removed so that so many bytes and bundles may be added: those that are too
/// old, then the oldest of the owner that has most. The newest of a label without a user stays whatever its age and their
/// number is; that of a user does not. Only where the newest alone leave no room, the largest of them goes, down to an
/// equal share for each owner and the new one: many owners, or one that is saved again and again, take nothing from the
/// others.
pub(super) fn superfluous(
    bundles: &[(Bundle, u64)],
    settings: &EvidenceSettings,
    now: u64,
    more_bytes: u64,
    more: usize,
) -> Vec<usize> {
    let newest: BTreeMap<Owner, usize> = bundles
        .iter()
        .enumerate()
        .map(|(index, (bundle, _))| (owner(&bundle.label), index))
        .collect();
    let fair = settings.max_bytes / (newest.len() as u64 + 1);
    let mut left: Vec<(usize, Owner, u64)> = Vec::new();
    let mut removed = Vec::new();
    for (index, (bundle, bytes)) in bundles.iter().enumerate() {
        let old = settings
            .max_age
            .is_some_and(|age| now.saturating_sub(bundle.at) > age.as_secs());
        let owner = owner(&bundle.label);
        if old && (newest.get(&owner) != Some(&index) || matches!(owner, Owner::User(_))) {
            removed.push(index);
        } else {
            left.push((index, owner, *bytes));
        }
    }
    loop {
        let bytes: u64 = left.iter().map(|(.., bytes)| bytes).sum();
        let too_big = bytes.saturating_add(more_bytes) > settings.max_bytes;
        if !too_big && left.len() + more <= settings.max_bundles {
            return removed;
        }
        // How much each owner has of what is too much.
        let mut weights = BTreeMap::<Owner, u64>::new();
        for (_, owner, bytes) in &left {
            *weights.entry(*owner).or_default() += if too_big { *bytes } else { 1 };
        }
        let older = left
            .iter()
            .enumerate()
            .filter(|(_, (index, owner, _))| newest.get(owner) != Some(index));
        // Of equal ones the first, which is the oldest.
        let heaviest = older
            .rev()
            .max_by_key(|(_, (_, owner, _))| weights.get(owner));
        let of_user = || {
            let mut left = left.iter().enumerate();
            left.find(|(_, (_, owner, _))| !too_big && matches!(owner, Owner::User(_)))
        };
        let largest = || {
            let room = bytes.saturating_add(more_bytes.min(fair)) > settings.max_bytes;
            let largest = left
                .iter()
                .enumerate()
                .rev()
                .max_by_key(|(_, (.., bytes))| *bytes);
            largest.filter(|(_, (.., bytes))| room && *bytes > fair)
        };
        let Some((place, _)) = heaviest.or_else(of_user).or_else(largest) else {
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
        // The bundles, the oldest first, each by its label and megabytes; which are removed so that one of 25 MB may be
        // added. At most 100 MB and 8 bundles.
        let table: [(&str, &str, &[usize]); 11] = [
            ("all fit", "1:10 1:10 2:10", &[]),
            ("the oldest of the only one", "1:40 1:40 1:10", &[0]),
            (
                "a fake that is saved again and again does not displace the older ones of the real one",
                "1:5 1:5 f:20 f:20 f:20 f:20",
                &[2],
            ),
            (
                "nor by their number",
                "1:1 1:1 f:1 f:1 f:1 f:1 f:1 f:1",
                &[2],
            ),
            ("of equal ones the oldest", "1:30 2:30 1:15 2:15", &[0]),
            (
                "six fakes that fill the folder leave an equal share for the seventh",
                "a:15 b:15 c:15 d:15 e:15 f:25",
                &[5],
            ),
            (
                "what is no larger than its share stays, however many come",
                "1:5 b:19 c:19 d:19 e:19 f:19",
                &[1],
            ),
            (
                "too many labels for the number",
                "a:1 b:1 c:1 d:1 e:1 f:1 g:1 h:1",
                &[],
            ),
            (
                "the labels of one user have one share together",
                "1:18 2@m:18 3@m:18 pid-4@m:18 5@m@9001:18",
                &[1],
            ),
            (
                "nor do they keep each its newest",
                "1:1 2@m:1 3@m:1 4@m:1 5@m:1 6@m:1 7@m:1 8@m:1 9@m:1",
                &[1, 2],
            ),
            (
                "the newest of a user goes, where labels alone are as many as there may be",
                "x@m:1 1@9092:1 b:1 c:1 d:1 e:1 f:1 g:1",
                &[0],
            ),
        ];
        let limits = EvidenceSettings {
            max_bytes: 100 * M,
            max_bundles: 8,
            ..EvidenceSettings::default()
        };
        let removed = |bundles: &str, more_bytes, more| {
            let bundles = bundles.split_whitespace().zip(0..).map(|(bundle, at)| {
                let (label, megabytes) = bundle.split_once(':').unwrap();
                let (name, label) = (String::new(), label.to_owned());
                (
                    Bundle { name, label, at },
                    megabytes.parse::<u64>().unwrap() * M,
                )
            });
            let bundles: Vec<_> = bundles.collect();
            superfluous(&bundles, &limits, 1000, more_bytes, more)
        };
        for (name, bundles, wanted) in table {
            assert_eq!(removed(bundles, 25 * M, 1), wanted, "{name}");
        }
        assert_eq!(removed("1:50 2:40", 0, 0), [0; 0], "nothing is added");
    }

    #[test]
    fn the_newest_of_a_label_has_no_age_unless_it_carries_a_user() {
        let limits = EvidenceSettings {
            max_age: Some(std::time::Duration::from_secs(10)),
            ..EvidenceSettings::default()
        };
        let bundle = |label: &str, at| {
            let (name, label) = (String::new(), label.to_owned());
            (Bundle { name, label, at }, 1)
        };
        let bundles = [
            bundle("1", 1),
            bundle("1", 2),
            bundle("1@m", 3),
            bundle("2", 990),
        ];
        assert_eq!(superfluous(&bundles, &limits, 1000, 0, 0), [0, 2]);
    }
}
