//! Kafka's versions: releases in Kafka's order, and builds that are not Kafka's own releases.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// A release of Apache Kafka. Those before 1.0 have four numbers (0.10.1.0), later ones three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Release([u32; 4]);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no version of Kafka such as 0.10.1.0 or 3.9.1")]
pub struct NoVersion(String);

impl Release {
    /// The numbers that the patch releases of one line share: 0.10.1 of 0.10.1.0, 3.9 of 3.9.1.
    pub fn line(self) -> [u32; 3] {
        let [first, second, third, _] = self.0;
        let third = if first == 0 { third } else { 0 };
        [first, second, third]
    }

    pub fn major_minor(self) -> (u32, u32) {
        (self.0[0], self.0[1])
    }

    /// Reads the numbers at the start of a version, and returns what follows them.
    fn at_start_of(text: &str) -> Option<(Release, &str)> {
        let mut numbers = [0; 4];
        let mut rest = text;
        let mut count = 0;
        for number in &mut numbers {
            let end = rest.bytes().position(|byte| !byte.is_ascii_digit());
            let (digits, after) = rest.split_at(end.unwrap_or(rest.len()));
            *number = digits.parse().ok()?;
            (rest, count) = (after, count + 1);
            // 0.8.1 is a release, and 0.8.1.1 the next one.
            let wanted = if text.starts_with("0.") { 4 } else { 3 };
            match after.strip_prefix('.') {
                Some(more) if count < wanted && more.starts_with(|c: char| c.is_ascii_digit()) => {
                    rest = more;
                }
                _ => break,
            }
        }
        (count >= 3).then_some((Release(numbers), rest))
    }
}

impl FromStr for Release {
    type Err = NoVersion;

    fn from_str(text: &str) -> Result<Release, NoVersion> {
        match Release::at_start_of(text) {
            Some((release, "")) => Ok(release),
            _ => Err(NoVersion(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Release {
    type Error = NoVersion;

    fn try_from(text: String) -> Result<Release, NoVersion> {
        text.parse()
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second, third, fourth] = self.0;
        write!(f, "{first}.{second}.{third}")?;
        // Releases before 0.8.2 have a fourth number only if it is not 0.
        if first == 0 && (fourth > 0 || (second, third) >= (8, 2)) {
            write!(f, ".{fourth}")?;
        }
        Ok(())
    }
}

/// Who built what a broker runs. Only a release of Kafka is known by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    Release,
    /// `4.4.0-SNAPSHOT`: some state of the source before that release.
    Snapshot,
    /// `7.6.0-ccs`, `7.6.0-ce`: Confluent's own numbers, with patches of its own.
    Confluent,
    /// Any other suffix, as of `1.0.0-cp1` or `3.9.1.redhat-00003`: with patches of the vendor.
    Vendor,
}

/// A version as the names of Kafka's jars have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KafkaVersion {
    /// The numbers as they stand there: of Confluent's builds they are Confluent's.
    numbers: Release,
    pub build: Build,
}

impl KafkaVersion {
    /// None if it does not begin with the numbers of a release.
    pub fn parse(text: &str) -> Option<KafkaVersion> {
        let (numbers, suffix) = Release::at_start_of(text)?;
        let build = match suffix {
            "" => Build::Release,
            "-SNAPSHOT" => Build::Snapshot,
            _ if suffix.ends_with("-ccs") || suffix.ends_with("-ce") => Build::Confluent,
            _ => Build::Vendor,
        };
        Some(KafkaVersion { numbers, build })
    }

    /// None unless it is a release of Apache Kafka.
    pub fn release(self) -> Option<Release> {
        (self.build == Build::Release).then_some(self.numbers)
    }

    /// Kafka's major and minor version, also where Confluent numbers its own releases: 5.0 to 5.5 are Kafka's 2.0 to 2.5,
    /// 6.0 to 6.2 its 2.6 to 2.8, 7 is 3, and 8 is 4.
    pub fn major_minor(self) -> (u32, u32) {
        let (major, minor) = self.numbers.major_minor();
        match (self.build, major) {
            (Build::Confluent, 5) => (2, minor),
            (Build::Confluent, 6) => (2, minor.saturating_add(6)),
            (Build::Confluent, 7..) => (major - 4, minor),
            _ => (major, minor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(text: &str) -> Release {
        text.parse().unwrap()
    }

    #[test]
    fn releases_are_in_kafkas_order() {
        let ordered = [
            "0.7.2", "0.8.0", "0.8.1", "0.8.1.1", "0.8.2.0", "0.9.0.1", "0.10.0.0", "0.10.1.1",
            "0.10.2.0", "0.11.0.3", "1.0.0", "2.8.2", "3.0.0", "3.9.2", "3.10.0", "4.0.0",
            "10.0.0",
        ];
        for (before, after) in ordered.iter().zip(&ordered[1..]) {
            assert!(release(before) < release(after), "{before}, {after}");
        }
        for text in ordered {
            assert_eq!(release(text).to_string(), text);
        }
        let of_one_line = [("0.10.1.0", "0.10.1.1"), ("3.9.0", "3.9.10")];
        let of_two = [
            ("0.10.1.0", "0.10.2.0"),
            ("3.9.1", "4.9.1"),
            ("3.9.1", "3.8.1"),
        ];
        assert!(
            of_one_line
                .iter()
                .all(|(a, b)| release(a).line() == release(b).line())
        );
        assert!(
            of_two
                .iter()
                .all(|(a, b)| release(a).line() != release(b).line())
        );
    }

    #[test]
    fn only_kafkas_own_releases_are_known_by_their_number() {
        let table = [
            ("0.10.1.0", Build::Release, (0, 10)),
            ("4.3.0", Build::Release, (4, 3)),
            ("4.4.0-SNAPSHOT", Build::Snapshot, (4, 4)),
            ("7.6.0-ccs", Build::Confluent, (3, 6)),
            ("7.7.1-0-ccs", Build::Confluent, (3, 7)),
            ("5.5.1-ce", Build::Confluent, (2, 5)),
            ("6.2.0-ce", Build::Confluent, (2, 8)),
            ("8.1.0-ccs", Build::Confluent, (4, 1)),
            ("0.10.2.1-cp2", Build::Vendor, (0, 10)),
            ("3.9.1.redhat-00003", Build::Vendor, (3, 9)),
            ("2.0.0.3.1.0.0-78", Build::Vendor, (2, 0)),
            ("2.4.1.7.1.7.0-551", Build::Vendor, (2, 4)),
            ("3.9.1-rc0", Build::Vendor, (3, 9)),
        ];
        for (text, build, line) in table {
            let version = KafkaVersion::parse(text).unwrap();
            assert_eq!(
                (version.build, version.major_minor()),
                (build, line),
                "{text}"
            );
            assert_eq!(
                version.release().is_some(),
                build == Build::Release,
                "{text}"
            );
        }
        for no_version in [
            "",
            "x",
            "3",
            "3.9",
            "3.",
            "-1.2.3",
            "3.9.99999999999",
            "unknown",
        ] {
            assert_eq!(KafkaVersion::parse(no_version), None, "{no_version:?}");
        }
        assert!("3.9.1-ccs".parse::<Release>().is_err());
    }
}
