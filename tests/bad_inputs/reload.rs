//! The config file, taken again while the exporter runs.

use std::fs;

use rustix::process::Signal;

use crate::host::Host;
use crate::running::{Exporter, wait_for};

const OK: &str = "\nkafka_vitals_config_last_reload_successful 1\n";
const FAILED: &str = "\nkafka_vitals_config_last_reload_successful 0\n";

fn interval(seconds: &str) -> String {
    format!("_round_interval_seconds{{broker=\"7\",collector=\"process\"}} {seconds}\n")
}

#[test]
fn sighup_takes_the_config_file_and_a_wrong_one_keeps_what_was_before() {
    let host = Host::new();
    let file = host.folder.path().join("config.yml");
    let exporter = Exporter::start(host.exporter_with("intervals: {discovery: 100ms}\n"));
    let metrics = || exporter.get("/metrics");
    let taken = || -> f64 {
        let metrics = metrics();
        let name = "kafka_vitals_config_last_reload_success_timestamp_seconds ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().parse().unwrap()
    };
    let shows = |text: &str| metrics().contains(text);
    let fds = "_collector_success{broker=\"7\",collector=\"fds\"}";
    wait_for("the first rounds", || shows(&interval("1")) && shows(fds));
    assert!(shows(OK));
    let started = taken();

    let take = |config: &str| {
        fs::write(&file, config).unwrap();
        exporter.signal(Signal::HUP);
    };
    take("intervals: {process: 2s}\ncollectors: {fds: false}\n");
    wait_for("the interval", || shows(&interval("2")));
    wait_for("fds to be off", || {
        !shows(fds) && !shows("_open_fds_by_kind{")
    });
    assert!(shows(OK) && taken() > started);

    // Wrong in itself, and a key that is not changed while it runs.
    let wrong = [
        ("intervals: {process: 5}\n", "config.yml: "),
        (
            "evidence: {max_bundles: 3}\n",
            "`evidence` is changed by a restart only",
        ),
    ];
    for (config, logged) in wrong {
        let before = taken();
        take(config);
        wait_for(logged, || {
            let errors = exporter.logged("the settings of before remain in use");
            errors
                .iter()
                .any(|line| line.contains("ERROR") && line.contains(logged))
        });
        wait_for("the metric", || shows(FAILED));
        assert!(shows(&interval("2")) && taken() == before);
        take("intervals: {process: 2s}\ncollectors: {fds: false}\n");
        wait_for("the metric", || shows(OK));
    }

    // What concerns a broker: the address to ask.
    take("brokers: [{match: {id: 7}, bootstrap: '127.0.0.1:1'}]\nintervals: {cluster: 100ms}\n");
    let asked = "nothing listens on 127.0.0.1:1";
    wait_for(asked, || exporter.get("/").contains(asked));
    wait_for("fds to be on", || shows(fds) && shows(&interval("1")));
}

#[test]
fn a_client_has_it_taken_only_where_that_is_allowed() {
    let host = Host::new();
    let file = host.folder.path().join("config.yml");
    let post = |exporter: &Exporter, headers: &str| {
        let head = format!(
            "POST /-/reload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n"
        );
        exporter.send(head.as_bytes())
    };
    let closed = Exporter::start(host.exporter_with(""));
    let answer = post(&closed, "");
    assert!(
        answer.starts_with("HTTP/1.1 403") && answer.contains("--web.enable-lifecycle"),
        "{answer}"
    );
    drop(closed);

    let mut command = host.exporter_with("");
    command.arg("--web.enable-lifecycle");
    let exporter = Exporter::start(command);
    assert!(exporter.get("/-/reload").starts_with("HTTP/1.1 405"));
    let answer = post(&exporter, "Origin: http://evil.example\r\n");
    assert!(
        answer.starts_with("HTTP/1.1 403"),
        "a form of another site: {answer}"
    );
    fs::write(&file, "intervals: {process: 2s}\n").unwrap();
    assert!(post(&exporter, "").starts_with("HTTP/1.1 200"));
    wait_for("the interval", || {
        exporter.get("/metrics").contains(&interval("2"))
    });
    fs::write(&file, "interval: {}\n").unwrap();
    let answer = post(&exporter, "");
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    assert!(
        answer.contains("failed to reload config: config file")
            && answer.contains("did you mean `intervals`?"),
        "{answer}"
    );
}
