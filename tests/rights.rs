//! What each collector can read with which rights, beside a broker of another user: the table of `docs/rights.md`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use kafka_vitals::model::CollectorName;
use lab::{Cell, Cluster, ClusterOptions, cli_tools};
use support::agree::agree;
use support::tools::Readings;
use support::versions::{FAST_INTERVALS, collectors};
use support::{Exporter, skip, wait_for, wait_until_none};

const NOBODY: u32 = 65534;
const TABLE: &str = "docs/rights.md";

/// An exporter with certain rights.
struct Case {
    /// The first cell of its row in the table.
    runs_as: &'static str,
    setpriv: &'static [&'static str],
    /// Whether it runs in a network namespace of its own, as a pod with hostPID and without hostNetwork does.
    own_network: bool,
    /// The page must name these.
    reasons: &'static [&'static str],
}

/// It is neither the broker's user nor root.
const OTHER_USER: &[&str] = &["--reuid=65533", "--regid=65533", "--clear-groups"];
const SAME_USER: &[&str] = &["--reuid=65534", "--regid=65534", "--clear-groups"];

fn cases() -> Vec<Case> {
    let case = |runs_as, setpriv, reasons| Case {
        runs_as,
        setpriv,
        own_network: false,
        reasons,
    };
    vec![
        case("the broker's user", SAME_USER, &[]),
        case("root", &["--clear-groups"], &[]),
        case(
            "root without `CAP_SYS_PTRACE`",
            &["--bounding-set=-sys_ptrace", "--clear-groups"],
            &["lacks CAP_SYS_PTRACE for"],
        ),
        case(
            "root without `CAP_DAC_READ_SEARCH` and `CAP_DAC_OVERRIDE`",
            &[
                "--bounding-set=-dac_read_search,-dac_override",
                "--clear-groups",
            ],
            &["lacks CAP_DAC_READ_SEARCH for"],
        ),
        case(
            "root without `CAP_SETUID` and `CAP_SETGID`",
            &["--bounding-set=-setuid,-setgid", "--clear-groups"],
            &["lacks CAP_SETUID, CAP_SETGID for"],
        ),
        case(
            "root without `CAP_KILL`",
            &["--bounding-set=-kill", "--clear-groups"],
            &[],
        ),
        Case {
            own_network: true,
            ..case(
                "root in another network namespace",
                &["--clear-groups"],
                &[],
            )
        },
        case(
            "another user with `CAP_SYS_PTRACE`, `CAP_DAC_READ_SEARCH`, `CAP_SETUID`, `CAP_SETGID`, `CAP_KILL`",
            &[
                "--reuid=65533",
                "--regid=65533",
                "--clear-groups",
                "--inh-caps=+sys_ptrace,+dac_read_search,+setuid,+setgid,+kill",
                "--ambient-caps=+sys_ptrace,+dac_read_search,+setuid,+setgid,+kill",
            ],
            &[],
        ),
        case(
            "another user with `CAP_SYS_PTRACE` and `CAP_DAC_READ_SEARCH`",
            &[
                "--reuid=65533",
                "--regid=65533",
                "--clear-groups",
                "--inh-caps=+sys_ptrace,+dac_read_search",
                "--ambient-caps=+sys_ptrace,+dac_read_search",
            ],
            &["lacks CAP_SETUID, CAP_SETGID for"],
        ),
        case(
            "another user with `CAP_SYS_PTRACE`",
            &[
                "--reuid=65533",
                "--regid=65533",
                "--clear-groups",
                "--inh-caps=+sys_ptrace",
                "--ambient-caps=+sys_ptrace",
            ],
            &["lacks CAP_DAC_READ_SEARCH, CAP_SETUID, CAP_SETGID for"],
        ),
        case(
            "another user with `CAP_DAC_READ_SEARCH`",
            &[
                "--reuid=65533",
                "--regid=65533",
                "--clear-groups",
                "--inh-caps=+dac_read_search",
                "--ambient-caps=+dac_read_search",
            ],
            &["lacks CAP_SYS_PTRACE, CAP_SETUID, CAP_SETGID for"],
        ),
        case(
            "another user",
            OTHER_USER,
            &[
                "lacks CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH, CAP_SETUID, CAP_SETGID for",
                "<strong>what its files say, file handles by kind, ",
            ],
        ),
    ]
}

/// Copies the exporter to a path that another user can read; the build's folder may be closed to it.
fn exporter_for_others(cell: &Cell) -> PathBuf {
    let inside = PathBuf::from("/tmp/kafka-vitals");
    // `cp` writes it: an fd open for writing here could be inherited, and then the copy cannot be executed.
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_kafka-vitals"))
        .arg(cell.host_path(&inside))
        .status();
    assert!(copied.unwrap().success());
    let config = cell.host_path(Path::new("/tmp/intervals.yml"));
    fs::write(config, FAST_INTERVALS).unwrap();
    inside
}

impl Case {
    fn start(&self, cell: &Cell, program: &Path) -> Exporter {
        let network = self.own_network.then(|| Cell::within(cell).unwrap());
        let within = network.as_ref().map(|inner| inner.network().unwrap());
        Exporter::start_in(cell, network.as_ref().unwrap_or(cell), "", |command| {
            let mut other = Command::new("setpriv");
            other
                .args(self.setpriv)
                .arg(program)
                .args(command.get_args())
                .arg("--config.file=/tmp/intervals.yml")
                .current_dir("/")
                .stdin(Stdio::null());
            if let Some(network) = within {
                // SAFETY: between fork and exec this makes one system call, setns, and allocates nothing.
                unsafe { other.pre_exec(move || network.enter()) };
            }
            *command = other;
        })
    }

    fn row(&self, read: &BTreeSet<String>) -> String {
        let cells = columns().map(|name| match read.contains(name) {
            true => "yes",
            false => "no",
        });
        let cells: Vec<&str> = std::iter::once(self.runs_as).chain(cells).collect();
        format!("| {} |", cells.join(" | "))
    }
}

/// The collectors that read from a broker. The metadata log is a KRaft node's, whose files are opened as the log dirs are;
/// ZooKeeper is asked as the broker itself is, and reports nothing where it cannot be.
fn columns() -> impl Iterator<Item = &'static str> {
    use CollectorName as C;
    CollectorName::ALL
        .iter()
        .filter(|name| {
            !matches!(
                name,
                C::Discovery | C::Groups | C::MetadataLog | C::ZooKeeper
            )
        })
        .map(|name| name.name())
}

/// Returns the label of the only broker.
fn label(metrics: &BTreeMap<String, f64>) -> String {
    let mut infos = metrics
        .keys()
        .filter_map(|series| series.strip_prefix("broker_info{broker=\""));
    let label = infos.next().and_then(|series| series.split('"').next());
    label.unwrap_or_default().to_owned()
}

/// Returns the collectors that read everything, once each has reported.
fn read(exporter: &Exporter) -> Option<(String, BTreeSet<String>)> {
    let metrics = exporter.metrics().0;
    let label = label(&metrics);
    let reported = collectors(&metrics, &label);
    columns().all(|name| reported.contains_key(name)).then(|| {
        let all = reported.into_iter().filter(|(_, success)| *success == 1.0);
        (label, all.map(|(name, _)| name).collect())
    })
}

#[test]
fn each_right_lets_the_collectors_read_what_the_docs_say() {
    let test = "each_right_lets_the_collectors_read_what_the_docs_say";
    if !rustix::process::geteuid().is_root() {
        return skip(test, "needs root");
    }
    let cell = Cell::new().unwrap();
    if !cell.isolated() {
        return skip(test, "may not make namespaces");
    }
    let options = ClusterOptions {
        brokers: vec![1],
        user: Some(NOBODY),
        cell: Some(cell.clone()),
        ..ClusterOptions::new("0.10.1.0")
    };
    let cluster = Cluster::start(options).unwrap();
    cluster.create_topic("orders", 6, 1).unwrap();
    let broker = cluster.broker(1).unwrap();
    let (jvm, pid) = (broker.pid().unwrap(), broker.cell_pid().unwrap());
    let program = exporter_for_others(&cell);
    let running: Vec<(Case, Exporter)> = cases()
        .into_iter()
        .map(|case| {
            let exporter = case.start(&cell, &program);
            (case, exporter)
        })
        .collect();

    let doc = Path::new(env!("CARGO_MANIFEST_DIR")).join(TABLE);
    let text = fs::read_to_string(&doc).unwrap();
    if std::env::var_os("KAFKA_VITALS_REFRESH").is_some() {
        return refresh(&doc, &text, &running);
    }
    for (case, exporter) in &running {
        // A collector that was late fails until its next run.
        let what = format!("the row of {} in {TABLE}", case.runs_as);
        let mut known = (String::new(), BTreeSet::new());
        wait_until_none(&what, Duration::from_secs(60), || {
            let Some(now) = read(exporter) else {
                return vec!["every collector's report".to_owned()];
            };
            known = now;
            let row = case.row(&known.1);
            match text.lines().any(|line| line == row) {
                true => Vec::new(),
                false => vec![row],
            }
        });
        let (label, known) = known;
        let has_id = known.contains("cluster") || case.own_network;
        assert_eq!(
            label,
            if has_id {
                "1".to_owned()
            } else {
                format!("pid-{pid}")
            },
            "{}",
            case.runs_as
        );
        reasons_are_on_the_page(case, exporter);
        what_is_unknown_is_absent(case, exporter, &label, &known, jvm);
    }
}

/// Writes the rows again, for a reader of the difference. Nothing is waited for but time: what the rows become is unknown.
fn refresh(doc: &Path, text: &str, running: &[(Case, Exporter)]) {
    std::thread::sleep(Duration::from_secs(30));
    let begin = "<!-- rows written by tests/rights.rs -->\n";
    let (before, _) = text.split_once(begin).expect("the mark of the table");
    let head: Vec<&str> = std::iter::once("it runs as").chain(columns()).collect();
    let mut table = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for (case, exporter) in running {
        let (_, read) = read(exporter).expect("a report of every collector");
        table += &(case.row(&read) + "\n");
    }
    fs::write(doc, format!("{before}{begin}{table}")).unwrap();
}

fn reasons_are_on_the_page(case: &Case, exporter: &Exporter) {
    wait_until_none("the reasons on the page", Duration::from_secs(30), || {
        let page = exporter.page();
        let missing = case
            .reasons
            .iter()
            .filter(|reason| !page.contains(**reason));
        missing.collect::<Vec<_>>()
    });
    // A row without a reason lacks nothing.
    let lacks = exporter.page().contains(" lacks CAP_");
    assert_eq!(lacks, !case.reasons.is_empty(), "{}", case.runs_as);
}

/// The series of an unknown reading are absent; version, process and the number of fds are known with any rights.
fn what_is_unknown_is_absent(
    case: &Case,
    exporter: &Exporter,
    label: &str,
    known: &BTreeSet<String>,
    jvm: u32,
) {
    let runs_as = case.runs_as;
    assert!(
        exporter.scrape().contains("kafka_version=\"0.10.1.0\""),
        "{runs_as}"
    );
    let series = format!("open_file_handles{{broker=\"{label}\"}}");
    if known.contains("fds") {
        let folder =
            || Readings::from([(series.clone(), cli_tools::open_handles(jvm).unwrap() as u64)]);
        agree(exporter, "process", &[label], folder);
    } else {
        // The exporter reads the size of the folder, which includes an fd that no entry shows: the one that the JVM's
        // attach listener uses.
        wait_for("the handles to be counted", Duration::from_secs(30), || {
            let (entries, reported) = (
                cli_tools::open_handles(jvm).unwrap() as f64,
                exporter.metrics().get(&series),
            );
            [Some(entries), Some(entries + 1.0)].contains(&reported)
        });
    }
    let of = |name: &str, labels: &str| format!("{name}{{broker=\"{label}\"{labels}}}");
    let server = ",direction=\"in\",state=\"close_wait\"";
    let client = ",direction=\"out\",state=\"established\"";
    let series = [
        ("threads", of("deadlock_detected", "")),
        ("cluster", of("leader_partitions", "")),
        ("fds", of("file_handles", ",kind=\"socket\"")),
        ("sockets", of("connections", server)),
        ("connections", of("connections", client)),
    ];
    let (present, absent): (Vec<_>, Vec<_>) = series
        .iter()
        .partition(|(collector, _)| known.contains(*collector));
    let mut metrics = exporter.metrics();
    wait_until_none("the known readings", Duration::from_secs(30), || {
        metrics = exporter.metrics();
        let missing = present.iter().filter(|(_, one)| metrics.get(one).is_none());
        missing.collect::<Vec<_>>()
    });
    for (_, series) in absent {
        assert_eq!(metrics.get(series), None, "{runs_as}: {series}");
    }
}
