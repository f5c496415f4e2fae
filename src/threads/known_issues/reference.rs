//! `docs/known-issues.md`, which is generated from the data.

use std::fmt::Write as _;

use super::conditions::Condition;
use super::data::{KnownIssue, Releases, Where, known_issues, releases};

const HEAD: &str = "# Known faults of Kafka

Generated from `src/threads/known_issues.toml` by `make docs`; do not edit.

A deadlock, a stall or the end of a thread is compared with these, and gets the key of the fault that it is
(`kafka_vitals_known_issue_detected`). `kafka_vitals_known_issue_exposed` has those to which a broker is exposed before anything
happens, and the finding `known_issue_exposed` on the page adds the next release that has none of them. What only resembles a
fault gets its key unless the broker's version or configuration is without the fault.

## What \"exposed\" rests on
- **The version**, by the names of its jars. A fault is in a release if it was seen in the source of that release, or in releases
  before and after it. It is not in a release with the fix or a later one of that line, or where somebody looked and it was not
  there. Everything else is unknown, and not exported: most rows begin with the oldest release that was searched (2.2.0 in
  general, 3.3.0 for KRaft, 3.6.0 for tiered storage, 4.0.0 for the new group coordinator), and the fault may be older.
- **The configuration**: the mode of the cluster, the roles of the process and `server.properties`, as they were when the broker
  was discovered. None of the settings below can be changed at run time, so dynamic configurations, which are not read, do not
  matter. Whether clients use transactions, and the cluster's features `share.version` and `metadata.version`, are not read: such
  a fault is listed as \"perhaps\" and not exported.
- Builds of Confluent (`7.6.0-ccs`) and of other vendors (`3.9.1.redhat-00003`) have fixes of their own, and snapshots are no
  releases: which faults they have is unknown, and the page says so. So are releases after the newest one in the data.
";

/// The whole page.
fn reference() -> String {
    let mut out = HEAD.to_owned();
    // Writing to a String cannot fail.
    if let Some(newest) = releases().last() {
        let _ = writeln!(out, "\nThe newest release in the data is {newest}.");
    }
    out += "\n| issue | what happens | how it shows | concerns | seen in | fixed in |\n|---|---|---|---|---|---|\n";
    for issue in known_issues() {
        let key = &issue.key;
        let _ = write!(
            out,
            "| [{key}](https://issues.apache.org/jira/browse/{key})"
        );
        for pull in &issue.pulls {
            let _ = write!(
                out,
                ", [{pull}](https://github.com/apache/kafka/pull/{pull})"
            );
        }
        let _ = writeln!(
            out,
            " | {} | {} | {} | {} | {} |",
            issue.title,
            issue.shows,
            concerns(issue),
            seen(issue),
            list(issue.fixed_in.iter()),
        );
    }
    out
}

fn concerns(issue: &KnownIssue) -> String {
    let role = match issue.role {
        Where::Broker => "brokers",
        Where::Controller => "controllers",
        Where::Any => "brokers and controllers",
    };
    let needs = list(issue.needs.iter().map(|needed| needs(*needed)));
    match needs.as_str() {
        "" => role.to_owned(),
        needs => format!("{role} with {needs}"),
    }
}

/// What must be switched on.
fn needs(condition: Condition) -> &'static str {
    match condition {
        Condition::KRaft => "KRaft",
        Condition::ZooKeeper => "ZooKeeper",
        Condition::RequestMemoryBounded => "`queued.max.request.bytes` above 0",
        Condition::Reauthentication => "`connections.max.reauth.ms` above 0 at any listener",
        Condition::SeveralLogDirs => "two or more `log.dirs`",
        Condition::TieredStorage => "`remote.log.storage.system.enable=true`",
        Condition::RemoteMetadataInTopic => "Kafka's own `remote.log.metadata.manager.class.name`",
        Condition::ControllerOrNewGroupCoordinator => {
            "the controller's role, or the preview of the new group coordinator"
        }
        Condition::ShareGroups => "share groups",
        Condition::Transactions => "transactions",
        Condition::DirectoryAssignments => "`metadata.version` 3.7-IV2 or later",
    }
}

fn seen(issue: &KnownIssue) -> String {
    let range = |range: &Releases| match range.first == range.last {
        true => range.first.to_string(),
        false => format!("{} - {}", range.first, range.last),
    };
    let mut text = list(issue.affected.iter().map(range));
    if text.is_empty() {
        text += "unknown";
    }
    if issue.searched_from.is_some() {
        text += ", perhaps older";
    }
    if !issue.absent.is_empty() {
        let _ = write!(text, "; not in {}", list(issue.absent.iter().map(range)));
    }
    text
}

fn list<T: ToString>(items: impl Iterator<Item = T>) -> String {
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    items.join(", ")
}

/// `make docs` rewrites the file.
#[test]
fn golden_reference_is_the_data() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/known-issues.md");
    if std::env::var_os("KAFKA_VITALS_REFRESH").is_some() {
        std::fs::write(path, reference()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap();
    assert!(
        written == reference(),
        "docs/known-issues.md is not what the data says: make docs"
    );
}
